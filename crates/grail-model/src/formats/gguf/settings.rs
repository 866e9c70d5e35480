//! Reads the shape of a model from the settings of a GGUF file.

use super::{FORMAT, Gguf, MetaValue};
use crate::formats::config::{Architecture, ConfigError, ModelConfig};
use crate::formats::{Dtype, FormatError};

/// Settings below the architecture's name that are understood. Another one may change what the
/// model computes, so it is refused.
const KNOWN_SETTINGS: [&str; 13] = [
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
    "rope.scaling.type",
    "vocab_size",
];

/// Reads the model's shape. Token ids are filled in later, from the vocabulary.
pub(super) fn read_config(gguf: &Gguf<'_>) -> Result<ModelConfig, FormatError> {
    let broken = |reason: String| FormatError::broken(gguf.path(), FORMAT, reason);
    let unsupported = |what: String| FormatError::unsupported(gguf.path(), what);
    let name = gguf.value("general.architecture").and_then(MetaValue::as_text);
    let name = name.ok_or_else(|| broken("it has no general.architecture".into()))?;
    let architecture = Architecture::ALL.into_iter().find(|known| known.model_type() == name);
    let architecture = architecture.ok_or_else(|| {
        let supported = Architecture::ALL.map(Architecture::model_type).join(", ");
        unsupported(format!("architecture {name:?} is not supported; use a model of {supported}"))
    })?;
    let settings = Settings { gguf, prefix: name };
    settings.refuse_unknown()?;

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
    let config = ModelConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size: settings.size("feed_forward_length")?,
        num_hidden_layers: settings.size("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: settings.optional_size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: settings.number("attention.layer_norm_rms_epsilon")?,
        rope_theta: settings.optional_number("rope.freq_base")?.unwrap_or(10_000.0),
        max_position_embeddings: settings.size("context_length")?,
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        attention_bias: gguf.tensor("blk.0.attn_q.bias").is_some(),
        mlp_bias: gguf.tensor("blk.0.ffn_gate.bias").is_some(),
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

/// The settings under one architecture's name.
struct Settings<'a> {
    gguf: &'a Gguf<'a>,
    prefix: &'a str,
}

impl Settings<'_> {
    fn refuse_unknown(&self) -> Result<(), FormatError> {
        let unsupported = |what: String| Err(FormatError::unsupported(self.gguf.path(), what));
        for key in self.gguf.keys() {
            let own = key.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('.'));
            if own.is_some_and(|setting| !KNOWN_SETTINGS.contains(&setting)) {
                return unsupported(format!(
                    "setting {key} is not supported; use this model's Hugging Face folder"
                ));
            }
        }
        match self.value("rope.scaling.type") {
            None | Some(MetaValue::Text("none")) => {}
            Some(other) => {
                return unsupported(format!(
                    "RoPE scaling {other:?} is not supported; use a model without it"
                ));
            }
        }
        if self.gguf.tensor("rope_freqs.weight").is_some() {
            return unsupported("scaled RoPE (rope_freqs.weight) is not supported".into());
        }
        Ok(())
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
