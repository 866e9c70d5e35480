//! The shape of a model, read from `config.json` and refused by name when it asks for more.
//!
//! Field names are those of Hugging Face `config.json`. A key that selects something not computed
//! here (another activation, dynamic RoPE, quantised weights) is an error, because ignoring it would
//! give plausible wrong numbers. A key that nothing here knows is ignored, as `transformers` ignores
//! it, but reported: see [`ModelConfig::unknown_keys`].

mod keys;
mod layers;
mod reader;
mod rope;
mod tensors;
mod writer;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

pub use layers::LayerType;
pub use rope::{Llama3Scaling, RopeScaling, YarnScaling};

use super::{Dtype, FormatError};

/// The name of the file inside a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// Real configurations are a few kB; the bound keeps a wrong file from filling the memory.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The architectures this program computes, as `architectures[0]` spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `LlamaForCausalLM`: Llama 2 and 3, SmolLM2.
    Llama,
    /// `Qwen2ForCausalLM`: Qwen2 and Qwen2.5; a Llama with biases on q, k and v.
    Qwen2,
    /// `Qwen3ForCausalLM`: Qwen3 (dense); a Llama with RMSNorm on each q and k head.
    Qwen3,
    /// `Gemma3ForCausalLM`: the text models of Gemma 3; windows, GeGLU, norms around each branch.
    Gemma3,
}

impl Architecture {
    /// Every supported architecture.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// Returns the class name in `architectures`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
        }
    }

    /// Returns the `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
        }
    }
}

/// A validated model shape. Every dimension is at least 1 and bounded; `head_dim` is even and
/// `num_key_value_heads` divides `num_attention_heads`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which formulae apply.
    pub architecture: Architecture,
    /// Rows of `embed_tokens`; token ids are below it.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key/value heads; query head `h` reads key head `h / (heads / kv_heads)`.
    pub num_key_value_heads: usize,
    /// Width of one head; `num_attention_heads * head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies; for Gemma 3, of the layers without a window.
    pub rope_theta: f64,
    /// How those frequencies are scaled to more positions.
    pub rope_scaling: RopeScaling,
    /// Base of the rotary frequencies of layers with a window, which are never scaled. Gemma 3 only,
    /// and always there.
    pub rope_local_base_freq: Option<f64>,
    /// Number of positions the model was trained for.
    pub max_position_embeddings: usize,
    /// Whether `lm_head.weight` is `model.embed_tokens.weight`.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v (and o, but for Qwen2) have a bias. Always true for Qwen2, which has no
    /// such key.
    pub attention_bias: bool,
    /// Whether gate, up and down have a bias. Llama only.
    pub mlp_bias: bool,
    /// What each layer attends to; `num_hidden_layers` entries.
    pub layer_types: Vec<LayerType>,
    /// Positions that a row of a sliding layer attends to, itself included; `None` where no layer
    /// slides.
    pub sliding_window: Option<usize>,
    /// Attention scores are divided by its square root, `head_dim` where there is none. Gemma 3 only.
    pub query_pre_attn_scalar: Option<f64>,
    /// Attention scores become `cap * tanh(score / cap)`. Gemma 3 only.
    pub attn_logit_softcapping: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`. Gemma 3 only.
    pub final_logit_softcapping: Option<f64>,
    /// Tokens that end a completion; may be empty (a base model).
    pub eos_token_id: Vec<u32>,
    /// Token that opens a text, if there is one.
    pub bos_token_id: Option<u32>,
    /// Padding token, if there is one.
    pub pad_token_id: Option<u32>,
    /// Dtype the weights are stored in, as declared; the tensors themselves are authoritative.
    pub torch_dtype: Dtype,
}

/// Why a `config.json` was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, a missing key, a value of the wrong type or out of bounds.
    #[error("{0}")]
    Invalid(String),
    /// A sound configuration of a model that this program does not compute.
    #[error("{0}")]
    Unsupported(String),
}

impl ModelConfig {
    /// Reads `config.json` of the model folder `dir`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`], [`FormatError::Broken`] or, for a sound model that this program does
    /// not compute, [`FormatError::Unsupported`].
    pub fn load(dir: &Path) -> Result<Self, FormatError> {
        let path = dir.join(CONFIG_FILE);
        let bytes = read_bounded(&path, CONFIG_BYTES_MAX, CONFIG_FILE)?;
        let read = || {
            let keys = object(&bytes)?;
            Ok((reader::Reader { keys: &keys }.read()?, keys::unknown(&keys)))
        };
        let (config, unknown) = read().map_err(|error| match error {
            ConfigError::Invalid(reason) => FormatError::broken(&path, CONFIG_FILE, reason),
            ConfigError::Unsupported(what) => FormatError::unsupported(&path, what),
        })?;
        if !unknown.is_empty() {
            let keys = unknown.join(", ");
            tracing::warn!(path = %path.display(), keys, "ignored keys that no supported model has");
        }
        Ok(config)
    }

    /// Parses and checks the bytes of a `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the key, the value found and what is supported.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let keys = object(bytes)?;
        reader::Reader { keys: &keys }.read()
    }

    /// Returns the keys of a `config.json` that no supported architecture reads and that are not
    /// known to be harmless, in the order of the file. They are ignored.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if the bytes are no JSON object.
    pub fn unknown_keys(bytes: &[u8]) -> Result<Vec<String>, ConfigError> {
        Ok(keys::unknown(&object(bytes)?))
    }

    /// Returns `num_attention_heads * head_dim`: rows of `q_proj`, columns of `o_proj`.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Returns `num_key_value_heads * head_dim`: rows of `k_proj` and `v_proj`.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Returns whether `o_proj` has a bias.
    pub fn has_o_bias(&self) -> bool {
        self.attention_bias && self.architecture != Architecture::Qwen2
    }

    /// Returns whether each q and k head goes through an RMSNorm (`q_norm`, `k_norm`).
    pub fn has_qk_norm(&self) -> bool {
        matches!(self.architecture, Architecture::Qwen3 | Architecture::Gemma3)
    }

    /// Returns the factor of attention scores: 1 over the square root of `query_pre_attn_scalar` or
    /// `head_dim`, rounded once.
    pub fn attention_scale(&self) -> f32 {
        let divisor = self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64);
        (1.0 / divisor.sqrt()) as f32
    }

    /// Returns the window of layer `layer_idx`, or `None` if it attends to all earlier positions.
    pub fn window(&self, layer_idx: usize) -> Option<usize> {
        match self.layer_types[layer_idx] {
            LayerType::Full => None,
            LayerType::Sliding => self.sliding_window,
        }
    }

    /// Returns whether attention and MLP each end in an RMSNorm before they are added to the stream.
    pub fn has_branch_norms(&self) -> bool {
        self.architecture == Architecture::Gemma3
    }

    /// Returns what is added to the stored weight of every RMSNorm: Gemma stores the distance to 1.
    pub fn norm_offset(&self) -> f32 {
        if self.architecture == Architecture::Gemma3 { 1.0 } else { 0.0 }
    }

    /// Returns the factor of embeddings on their way into the first layer, if there is one: the
    /// square root of `hidden_size`, rounded to f32. (`transformers` rounds it to the type it computes
    /// with, which here is always f32.)
    pub fn embedding_scale(&self) -> Option<f32> {
        (self.architecture == Architecture::Gemma3).then(|| (self.hidden_size as f64).sqrt() as f32)
    }

    /// Checks the relations between dimensions and the ids.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] with the two values that do not fit.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |reason: String| Err(ConfigError::Invalid(reason));
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return invalid(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return invalid(format!("head_dim {} is odd, RoPE rotates pairs", self.head_dim));
        }
        self.validate_layers()?;
        let ids = self.eos_token_id.iter().chain(&self.bos_token_id).chain(&self.pad_token_id);
        for &id in ids {
            if usize::try_from(id).map_or(true, |id| id >= self.vocab_size) {
                return invalid(format!(
                    "token id {id} is not below vocab_size {}",
                    self.vocab_size
                ));
            }
        }
        Ok(())
    }
}

/// Writes token ids as `transformers` does: one as a number, several as a list.
pub(crate) fn one_or_many(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    }
}

/// Reads one token id or a list of at most 64.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(ids) if ids.len() <= 64 => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    }
}

/// Parses a JSON object.
fn object(bytes: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err(ConfigError::Invalid("expected a JSON object".into())),
        Err(error) => Err(ConfigError::Invalid(format!("it is not JSON: {error}"))),
    }
}

/// Reads a whole small file and refuses one of more than `bytes_max` bytes.
pub(crate) fn read_bounded(
    path: &Path,
    bytes_max: u64,
    format: &'static str,
) -> Result<Vec<u8>, FormatError> {
    let file = File::open(path).map_err(FormatError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(FormatError::io("read", path))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > bytes_max) {
        let reason = format!("it is larger than {bytes_max} bytes");
        return Err(FormatError::broken(path, format, reason));
    }
    Ok(bytes)
}
