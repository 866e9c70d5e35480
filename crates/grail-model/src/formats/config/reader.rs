//! Reads `config.json` key by key and says which one it cannot accept.

use serde_json::{Map, Value, json};

use super::rope::Rope;
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
pub(super) const POSITIONS_MAX: usize = 1 << 24;

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
        let num_hidden_layers = self.dimension("num_hidden_layers", LAYERS_MAX)?;
        let max_position_embeddings = self.dimension("max_position_embeddings", POSITIONS_MAX)?;
        let Rope { theta, scaling, local_theta } =
            self.rope(architecture, max_position_embeddings)?;
        let (layer_types, sliding_window) = self.windows(architecture, num_hidden_layers)?;
        let gemma = architecture == Architecture::Gemma3;
        let config = ModelConfig {
            architecture,
            vocab_size: self.dimension("vocab_size", VOCAB_SIZE_MAX)?,
            hidden_size,
            intermediate_size: self.dimension("intermediate_size", INTERMEDIATE_SIZE_MAX)?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: self.kv_heads(architecture, heads)?,
            head_dim: self.head_dim(architecture, hidden_size, heads)?,
            rms_norm_eps: self.number("rms_norm_eps", self.keys, 1e-12, 1e-1)?.unwrap_or(1e-6),
            rope_theta: theta,
            rope_scaling: scaling,
            rope_local_base_freq: local_theta,
            max_position_embeddings,
            // The defaults of the classes; the base class of `transformers` says true.
            tie_word_embeddings: self.flag("tie_word_embeddings")?.unwrap_or(gemma),
            attention_bias: match architecture {
                // The class has no such key and always has the biases; the weights must have them.
                Architecture::Qwen2 => true,
                _ => self.flag("attention_bias")?.unwrap_or(false),
            },
            mlp_bias: self.flag("mlp_bias")?.unwrap_or(false),
            layer_types,
            sliding_window,
            query_pre_attn_scalar: match self.positive("query_pre_attn_scalar")? {
                // The default of `Gemma3TextConfig`.
                None if gemma => Some(256.0),
                scalar => scalar,
            },
            attn_logit_softcapping: self.positive("attn_logit_softcapping")?,
            final_logit_softcapping: self.positive("final_logit_softcapping")?,
            eos_token_id: self.token_ids("eos_token_id")?,
            bos_token_id: self.token_ids("bos_token_id")?.first().copied(),
            pad_token_id: self.token_ids("pad_token_id")?.first().copied(),
            torch_dtype: self.dtype()?,
        };
        config.validate()?;
        Ok(config)
    }

    /// A key that is absent and one that is `null` mean the same everywhere in this file.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
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

    fn dimension(&self, key: &str, max: usize) -> Result<usize, ConfigError> {
        self.optional_dimension(key, max)?.ok_or_else(|| {
            ConfigError::Invalid(format!("{key} is missing, expected an integer from 1 to {max}"))
        })
    }

    pub(super) fn optional_dimension(
        &self,
        key: &str,
        max: usize,
    ) -> Result<Option<usize>, ConfigError> {
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
            // The other classes default to a number whatever the model, which no file means.
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
            // The defaults of `Qwen3Config` and `Gemma3TextConfig`.
            (None, Architecture::Qwen3) => Ok(128),
            (None, Architecture::Gemma3) => Ok(256),
            (None, _) if hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
            (None, _) => Err(ConfigError::Invalid(format!(
                "head_dim is missing and hidden_size {hidden_size} is not a multiple of \
                 num_attention_heads {heads}"
            ))),
        }
    }

    /// Reads a number of layers, which may be zero or beyond the last.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(count) => Ok(Some(count)),
                None => Err(ConfigError::Invalid(format!(
                    "{key} is {value}, expected an integer from 0"
                ))),
            },
        }
    }

    /// Reads a scale that something is divided by.
    fn positive(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.number(key, self.keys, 1e-3, 1e6)
    }

    pub(super) fn number(
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

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
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
