//! Reads `config.json` key by key and says which one it cannot accept.

use serde_json::{Map, Value, json};

use super::{Architecture, ConfigError, ModelConfig, token_ids};
use crate::formats::Dtype;

/// Bounds of every dimension, an order of magnitude above the largest model this CPU engine could
/// hold. They make every product of two dimensions fit `usize` and keep allocation sizes honest.
const VOCAB_SIZE_MAX: usize = 1 << 20;
const HIDDEN_SIZE_MAX: usize = 1 << 16;
const INTERMEDIATE_SIZE_MAX: usize = 1 << 18;
const LAYERS_MAX: usize = 512;
const HEADS_MAX: usize = 1024;
const HEAD_DIM_MAX: usize = 1024;
const POSITIONS_MAX: usize = 1 << 24;

/// Reads the keys of one configuration; each method names the key it refuses.
pub(super) struct Reader<'a> {
    pub(super) keys: &'a Map<String, Value>,
}

impl Reader<'_> {
    pub(super) fn read(&self) -> Result<ModelConfig, ConfigError> {
        let architecture = self.architecture()?;
        self.refuse_what_is_not_computed(architecture)?;
        let heads = self.dimension("num_attention_heads", HEADS_MAX)?;
        let hidden_size = self.dimension("hidden_size", HIDDEN_SIZE_MAX)?;
        let config = ModelConfig {
            architecture,
            vocab_size: self.dimension("vocab_size", VOCAB_SIZE_MAX)?,
            hidden_size,
            intermediate_size: self.dimension("intermediate_size", INTERMEDIATE_SIZE_MAX)?,
            num_hidden_layers: self.dimension("num_hidden_layers", LAYERS_MAX)?,
            num_attention_heads: heads,
            num_key_value_heads: self.kv_heads(architecture, heads)?,
            head_dim: self.head_dim(architecture, hidden_size, heads)?,
            rms_norm_eps: self.number("rms_norm_eps", self.keys, 1e-12, 1e-1)?.unwrap_or(1e-6),
            rope_theta: self.rope_theta()?,
            max_position_embeddings: self.dimension("max_position_embeddings", POSITIONS_MAX)?,
            // The default of the three classes; the base class of `transformers` says true.
            tie_word_embeddings: self.flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: match architecture {
                Architecture::Qwen2 => true,
                Architecture::Llama | Architecture::Qwen3 => {
                    self.flag("attention_bias")?.unwrap_or(false)
                }
            },
            mlp_bias: match architecture {
                Architecture::Llama => self.flag("mlp_bias")?.unwrap_or(false),
                Architecture::Qwen2 | Architecture::Qwen3 => false,
            },
            eos_token_id: self.token_ids("eos_token_id")?,
            bos_token_id: self.token_ids("bos_token_id")?.first().copied(),
            pad_token_id: self.token_ids("pad_token_id")?.first().copied(),
            torch_dtype: self.dtype()?,
        };
        config.validate()?;
        Ok(config)
    }

    /// A key that is absent and one that is `null` mean the same everywhere in this file.
    fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn architecture(&self) -> Result<Architecture, ConfigError> {
        let supported = Architecture::ALL.map(Architecture::class_name).join(", ");
        let name = match self.value("architectures") {
            Some(Value::Array(names)) => match names.as_slice() {
                [Value::String(name)] => name,
                _ => {
                    return Err(ConfigError::Invalid(format!(
                        "architectures is {}, expected one class name",
                        Value::Array(names.clone())
                    )));
                }
            },
            _ => {
                return Err(ConfigError::Invalid(format!(
                    "architectures is missing, expected a list with one of {supported}"
                )));
            }
        };
        let found = Architecture::ALL.into_iter().find(|known| known.class_name() == name);
        let architecture = found.ok_or_else(|| {
            ConfigError::Unsupported(format!(
                "architecture {name:?} is not supported; use a model of {supported}"
            ))
        })?;
        match self.value("model_type") {
            Some(model_type) if *model_type != json!(architecture.model_type()) => {
                Err(ConfigError::Invalid(format!(
                    "model_type is {model_type}, but {name} has {:?}",
                    architecture.model_type()
                )))
            }
            _ => Ok(architecture),
        }
    }

    fn refuse_what_is_not_computed(&self, architecture: Architecture) -> Result<(), ConfigError> {
        self.only("hidden_act", &[json!("silu"), json!("swish")])?;
        self.only("use_sliding_window", &[json!(false)])?;
        // A Llama never slides; the Qwen classes do so only where the flag above is true.
        if architecture == Architecture::Llama {
            self.only("sliding_window", &[])?;
        }
        self.only("quantization_config", &[])?;
        self.only("partial_rotary_factor", &[json!(1.0), json!(1)])?;
        self.only("is_encoder_decoder", &[json!(false)])?;
        self.only("add_cross_attention", &[json!(false)])?;
        self.only("rope_interleaved", &[json!(false)])?;
        match self.value("layer_types") {
            None => Ok(()),
            Some(Value::Array(types)) if types.iter().all(|t| *t == json!("full_attention")) => {
                Ok(())
            }
            Some(other) => Err(ConfigError::Unsupported(format!(
                "layer_types is {other}; only \"full_attention\" is supported"
            ))),
        }
    }

    /// Accepts an absent key or one of `accepted`.
    fn only(&self, key: &str, accepted: &[Value]) -> Result<(), ConfigError> {
        match self.value(key) {
            Some(found) if !accepted.contains(found) => {
                let expected = match accepted.first() {
                    Some(value) => format!("only {value} is"),
                    None => "a model without it is".to_owned(),
                };
                let found = found.to_string();
                let shown: String = found.chars().take(120).collect();
                Err(ConfigError::Unsupported(format!("{key} {shown} is not supported, {expected}")))
            }
            _ => Ok(()),
        }
    }

    fn dimension(&self, key: &str, max: usize) -> Result<usize, ConfigError> {
        self.optional_dimension(key, max)?.ok_or_else(|| {
            ConfigError::Invalid(format!("{key} is missing, expected an integer from 1 to {max}"))
        })
    }

    fn optional_dimension(&self, key: &str, max: usize) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(ConfigError::Invalid(format!(
                "{key} is {value}, expected an integer from 1 to {max}"
            ))),
        }
    }

    fn kv_heads(&self, architecture: Architecture, heads: usize) -> Result<usize, ConfigError> {
        match (self.optional_dimension("num_key_value_heads", heads)?, architecture) {
            (Some(kv_heads), _) => Ok(kv_heads),
            (None, Architecture::Llama) => Ok(heads),
            // The Qwen classes default to 32 whatever the model, which no file means.
            (None, _) => Err(ConfigError::Invalid("num_key_value_heads is missing".into())),
        }
    }

    fn head_dim(
        &self,
        architecture: Architecture,
        hidden_size: usize,
        heads: usize,
    ) -> Result<usize, ConfigError> {
        match (self.optional_dimension("head_dim", HEAD_DIM_MAX)?, architecture) {
            (Some(head_dim), _) => Ok(head_dim),
            // The default of `Qwen3Config`.
            (None, Architecture::Qwen3) => Ok(128),
            (None, _) if hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
            (None, _) => Err(ConfigError::Invalid(format!(
                "head_dim is missing and hidden_size {hidden_size} is not a multiple of \
                 num_attention_heads {heads}"
            ))),
        }
    }

    /// Reads `rope_theta`, or `rope_parameters.rope_theta` in the layout of `transformers` 5.
    fn rope_theta(&self) -> Result<f64, ConfigError> {
        let mut theta = self.number("rope_theta", self.keys, 1.0, 1e12)?;
        for key in ["rope_scaling", "rope_parameters"] {
            let parameters = match self.value(key) {
                None => continue,
                Some(Value::Object(parameters)) => parameters,
                Some(other) => {
                    return Err(ConfigError::Invalid(format!(
                        "{key} is {other}, expected an object"
                    )));
                }
            };
            for name in ["rope_type", "type"] {
                match parameters.get(name) {
                    None | Some(Value::Null) => {}
                    Some(kind) if *kind == json!("default") => {}
                    Some(kind) => {
                        return Err(ConfigError::Unsupported(format!(
                            "{key} of type {kind} is not supported, only \"default\" is; \
                             use a model without scaled RoPE"
                        )));
                    }
                }
            }
            for (name, value) in parameters {
                match name.as_str() {
                    "rope_type" | "type" | "rope_theta" => {}
                    "partial_rotary_factor" if value.as_f64() == Some(1.0) => {}
                    _ => {
                        return Err(ConfigError::Unsupported(format!(
                            "{key}.{name} is not supported; use a model without scaled RoPE"
                        )));
                    }
                }
            }
            let inner = self.number("rope_theta", parameters, 1.0, 1e12)?;
            match (theta, inner) {
                (Some(outer), Some(inner)) if outer != inner => {
                    return Err(ConfigError::Invalid(format!(
                        "rope_theta is {outer} but {key}.rope_theta is {inner}"
                    )));
                }
                _ => theta = theta.or(inner),
            }
        }
        Ok(theta.unwrap_or(10_000.0))
    }

    fn number(
        &self,
        key: &str,
        keys: &Map<String, Value>,
        min: f64,
        max: f64,
    ) -> Result<Option<f64>, ConfigError> {
        let Some(value) = keys.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(ConfigError::Invalid(format!(
                "{key} is {value}, expected a number from {min} to {max}"
            ))),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => {
                Err(ConfigError::Invalid(format!("{key} is {other}, expected true or false")))
            }
        }
    }

    fn token_ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let ids = self.value(key).map_or(Some(Vec::new()), token_ids);
        ids.ok_or_else(|| {
            ConfigError::Invalid(format!("{key} is not a token id or a short list of token ids"))
        })
    }

    fn dtype(&self) -> Result<Dtype, ConfigError> {
        let Some(value) = self.value("dtype").or_else(|| self.value("torch_dtype")) else {
            return Ok(Dtype::F32);
        };
        let found = Dtype::ALL.into_iter().find(|dtype| *value == json!(dtype.torch_name()));
        found.ok_or_else(|| {
            let supported = Dtype::ALL.map(Dtype::torch_name).join(", ");
            ConfigError::Unsupported(format!("dtype {value} is not supported; use {supported}"))
        })
    }
}
