//! Reads the shape of a model from the settings of a GGUF file.

use super::{FORMAT, Gguf, MetaValue};
use crate::formats::config::{Architecture, ConfigError, LayerType, ModelConfig, RopeScaling};
use crate::formats::{Dtype, FormatError};

/// Settings below the architecture's name that are understood. Another one may change what the
/// model computes, so it is refused.
const KNOWN_SETTINGS: [&str; 14] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.type",
    "vocab_size",
];

/// What is understood for Gemma 3 alone.
const KNOWN_GEMMA_SETTINGS: [&str; 1] = ["attention.sliding_window"];

/// llama.cpp's name of each architecture, in `general.architecture` and before its settings.
fn gguf_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Gemma3 => "gemma3",
        other => other.model_type(),
    }
}

/// Reads the model's shape. Token ids are filled in later, from the vocabulary.
pub(super) fn read_config(gguf: &Gguf<'_>) -> Result<ModelConfig, FormatError> {
    let broken = |reason: String| FormatError::broken(gguf.path(), FORMAT, reason);
    let unsupported = |what: String| FormatError::unsupported(gguf.path(), what);
    let name = gguf.value("general.architecture").and_then(MetaValue::as_text);
    let name = name.ok_or_else(|| broken("it has no general.architecture".into()))?;
    let architecture = Architecture::ALL.into_iter().find(|known| gguf_name(*known) == name);
    let architecture = architecture.ok_or_else(|| {
        let supported = Architecture::ALL.map(gguf_name).join(", ");
        unsupported(format!("architecture {name:?} is not supported; use a model of {supported}"))
    })?;
    let settings = Settings { gguf, prefix: name };
    settings.refuse_unknown(architecture)?;

    let embedding = gguf.tensor("token_embd.weight");
    let Some(&[vocab_size, _]) = embedding.map(|tensor| tensor.shape.as_slice()) else {
        return Err(broken("it has no matrix token_embd.weight".into()));
    };
    let hidden_size = settings.size("embedding_length")?;
    let heads = settings.size("attention.head_count")?;
    let head_dim = match settings.optional_size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden_size / heads.max(1),
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if settings.optional_size(key)?.is_some_and(|size| size != head_dim) {
            return Err(unsupported(format!("{name}.{key} differs from the head size {head_dim}")));
        }
    }
    let gemma = architecture == Architecture::Gemma3;
    let num_hidden_layers = settings.size("block_count")?;
    if num_hidden_layers > LAYERS_MAX {
        return Err(broken(format!("{name}.block_count is {num_hidden_layers}")));
    }
    let sliding_window = settings.optional_size("attention.sliding_window")?;
    let config = ModelConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size: settings.size("feed_forward_length")?,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: settings.optional_size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: settings.number("attention.layer_norm_rms_epsilon")?,
        rope_theta: settings.optional_number("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: settings.rope_scaling()?,
        // Not in the file: what llama.cpp computes Gemma 3 with.
        rope_local_base_freq: gemma.then_some(10_000.0),
        max_position_embeddings: settings.size("context_length")?,
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        attention_bias: gguf.tensor("blk.0.attn_q.bias").is_some(),
        mlp_bias: gguf.tensor("blk.0.ffn_gate.bias").is_some(),
        layer_types: layer_types(num_hidden_layers, sliding_window),
        sliding_window,
        query_pre_attn_scalar: gemma.then(|| {
            if num_hidden_layers == GEMMA_27B_LAYERS {
                hidden_size as f64 / heads as f64
            } else {
                head_dim as f64
            }
        }),
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        eos_token_id: Vec::new(),
        bos_token_id: None,
        pad_token_id: None,
        torch_dtype: Dtype::BF16,
    };
    // Through the JSON reader, so that one place knows the bounds.
    ModelConfig::from_json(config.to_json().as_bytes()).map_err(|error| match error {
        ConfigError::Invalid(reason) => broken(reason),
        ConfigError::Unsupported(what) => unsupported(what),
    })
}

/// The divisor of attention scores is not in the file either; llama.cpp knows this model by its
/// number of layers.
const GEMMA_27B_LAYERS: usize = 62;

/// Bound of the list of layer types; the JSON reader has the stricter one.
const LAYERS_MAX: usize = 1 << 16;

/// Gemma 3 has five layers with a window, then one without; other models here have none.
fn layer_types(n_layers: usize, window: Option<usize>) -> Vec<LayerType> {
    let kind = |idx: usize| match window {
        Some(_) if !(idx + 1).is_multiple_of(6) => LayerType::Sliding,
        _ => LayerType::Full,
    };
    (0..n_layers).map(kind).collect()
}

/// The settings under one architecture's name.
struct Settings<'a> {
    gguf: &'a Gguf<'a>,
    prefix: &'a str,
}

impl Settings<'_> {
    fn refuse_unknown(&self, architecture: Architecture) -> Result<(), FormatError> {
        let unsupported = |what: String| Err(FormatError::unsupported(self.gguf.path(), what));
        let known = |setting: &str| {
            KNOWN_SETTINGS.contains(&setting)
                || architecture == Architecture::Gemma3 && KNOWN_GEMMA_SETTINGS.contains(&setting)
        };
        for key in self.gguf.keys() {
            let own = key.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('.'));
            if own.is_some_and(|setting| !known(setting)) {
                return unsupported(format!(
                    "setting {key} is not supported; use this model's Hugging Face folder"
                ));
            }
        }
        if self.gguf.tensor("rope_freqs.weight").is_some() {
            return unsupported(
                "RoPE scaled by a tensor (rope_freqs.weight) is not supported; use this model's \
                 Hugging Face folder"
                    .into(),
            );
        }
        Ok(())
    }

    fn rope_scaling(&self) -> Result<RopeScaling, FormatError> {
        let factor = self.optional_number("rope.scaling.factor")?;
        match (self.value("rope.scaling.type"), factor) {
            (None | Some(MetaValue::Text("none")), None) => Ok(RopeScaling::None),
            (Some(MetaValue::Text("linear")), Some(factor)) => Ok(RopeScaling::Linear(factor)),
            (kind, factor) => {
                let what = format!(
                    "RoPE scaling {kind:?} with factor {factor:?} is not supported, only none or \
                     \"linear\" is; use this model's Hugging Face folder"
                );
                Err(FormatError::unsupported(self.gguf.path(), what))
            }
        }
    }

    fn value(&self, setting: &str) -> Option<MetaValue<'_>> {
        self.gguf.value(&format!("{}.{setting}", self.prefix))
    }

    fn missing(&self, setting: &str) -> FormatError {
        let reason = format!("it has no {}.{setting}", self.prefix);
        FormatError::broken(self.gguf.path(), FORMAT, reason)
    }

    fn wrong(&self, setting: &str, found: MetaValue<'_>) -> FormatError {
        let what = format!("{}.{setting} is {found:?}, expected one number", self.prefix);
        FormatError::unsupported(self.gguf.path(), what)
    }

    fn size(&self, setting: &str) -> Result<usize, FormatError> {
        self.optional_size(setting)?.ok_or_else(|| self.missing(setting))
    }

    fn optional_size(&self, setting: &str) -> Result<Option<usize>, FormatError> {
        let Some(found) = self.value(setting) else { return Ok(None) };
        let size = found.as_u64().and_then(|size| usize::try_from(size).ok());
        size.map(Some).ok_or_else(|| self.wrong(setting, found))
    }

    fn number(&self, setting: &str) -> Result<f64, FormatError> {
        self.optional_number(setting)?.ok_or_else(|| self.missing(setting))
    }

    fn optional_number(&self, setting: &str) -> Result<Option<f64>, FormatError> {
        let Some(found) = self.value(setting) else { return Ok(None) };
        let number = found.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(setting, found))
    }
}
