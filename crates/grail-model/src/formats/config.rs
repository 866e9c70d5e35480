//! The shape of a model, read from `config.json` and refused by name when it asks for more.
//!
//! Field names are those of Hugging Face `config.json`. Only the keys that the three architectures
//! read can change a result, so other keys are ignored, as `transformers` ignores them; a key that
//! selects something not computed here (scaled RoPE, a sliding window, another activation,
//! quantised weights) is an error, because ignoring it would give plausible wrong numbers.

mod reader;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use super::{Dtype, FormatError};

/// The name of the file inside a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// Real configurations are a few kB; the bound keeps a wrong file from filling the memory.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The architectures this program computes, as `architectures[0]` spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `LlamaForCausalLM`: Llama 2 and 3 without scaled RoPE, SmolLM2.
    Llama,
    /// `Qwen2ForCausalLM`: Qwen2 and Qwen2.5; a Llama with biases on q, k and v.
    Qwen2,
    /// `Qwen3ForCausalLM`: Qwen3 (dense); a Llama with RMSNorm on each q and k head.
    Qwen3,
}

impl Architecture {
    /// Every supported architecture.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// Returns the class name in `architectures`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// Returns the `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
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
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Number of positions the model was trained for.
    pub max_position_embeddings: usize,
    /// Whether `lm_head.weight` is `model.embed_tokens.weight`.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v (and o, but for Qwen2) have a bias. Always true for Qwen2, which has no
    /// such key.
    pub attention_bias: bool,
    /// Whether gate, up and down have a bias. Llama only.
    pub mlp_bias: bool,
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
        Self::from_json(&bytes).map_err(|error| match error {
            ConfigError::Invalid(reason) => FormatError::broken(&path, CONFIG_FILE, reason),
            ConfigError::Unsupported(what) => FormatError::unsupported(&path, what),
        })
    }

    /// Parses and checks the bytes of a `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the key, the value found and what is supported.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let keys = match serde_json::from_slice(bytes) {
            Ok(Value::Object(keys)) => keys,
            Ok(_) => return Err(ConfigError::Invalid("expected a JSON object".into())),
            Err(error) => return Err(ConfigError::Invalid(format!("it is not JSON: {error}"))),
        };
        reader::Reader { keys: &keys }.read()
    }

    /// Writes a `config.json` that `transformers` loads, in the layout older releases know too.
    pub fn to_json(&self) -> String {
        let mut keys = json!({
            "architectures": [self.architecture.class_name()],
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": one_or_many(&self.eos_token_id),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": self.mlp_bias,
            "model_type": self.architecture.model_type(),
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": null,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": self.torch_dtype.torch_name(),
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let Value::Object(keys) = &mut keys {
            // A key is written only where the architecture's class has it.
            let foreign: &[&str] = match self.architecture {
                Architecture::Llama => &[],
                Architecture::Qwen2 => &["attention_bias", "mlp_bias"],
                Architecture::Qwen3 => &["mlp_bias"],
            };
            keys.retain(|key, _| !foreign.contains(&key.as_str()));
            if self.architecture != Architecture::Llama {
                keys.insert("use_sliding_window".into(), json!(false));
            }
        }
        format!("{keys:#}\n")
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
        self.architecture == Architecture::Qwen3
    }

    /// Returns every tensor a weight file of this model holds, with its shape, row-major
    /// `[out, in]` for projections, in the order of the computation.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all =
            vec![("model.embed_tokens.weight".into(), vec![self.vocab_size, self.hidden_size])];
        for layer in 0..self.num_hidden_layers {
            self.layer_tensors(&format!("model.layers.{layer}"), &mut all);
        }
        all.push(("model.norm.weight".into(), vec![self.hidden_size]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".into(), vec![self.vocab_size, self.hidden_size]));
        }
        all
    }

    /// Returns the number of parameters, a tied head counted once.
    pub fn n_parameters(&self) -> u64 {
        // The bounds of the dimensions keep the sum below 2^48.
        let n: usize =
            self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        u64::try_from(n).expect("usize has at most 64 bits")
    }

    fn layer_tensors(&self, layer: &str, all: &mut Vec<(String, Vec<usize>)>) {
        let (hidden, q, kv, ffn) =
            (self.hidden_size, self.q_size(), self.kv_size(), self.intermediate_size);
        let mut linear = |name: &str, rows: usize, columns: usize, bias: bool| {
            all.push((format!("{layer}.{name}.weight"), vec![rows, columns]));
            if bias {
                all.push((format!("{layer}.{name}.bias"), vec![rows]));
            }
        };
        linear("self_attn.q_proj", q, hidden, self.attention_bias);
        linear("self_attn.k_proj", kv, hidden, self.attention_bias);
        linear("self_attn.v_proj", kv, hidden, self.attention_bias);
        linear("self_attn.o_proj", hidden, q, self.has_o_bias());
        linear("mlp.gate_proj", ffn, hidden, self.mlp_bias);
        linear("mlp.up_proj", ffn, hidden, self.mlp_bias);
        linear("mlp.down_proj", hidden, ffn, self.mlp_bias);
        all.push((format!("{layer}.input_layernorm.weight"), vec![hidden]));
        all.push((format!("{layer}.post_attention_layernorm.weight"), vec![hidden]));
        if self.has_qk_norm() {
            all.push((format!("{layer}.self_attn.q_norm.weight"), vec![self.head_dim]));
            all.push((format!("{layer}.self_attn.k_norm.weight"), vec![self.head_dim]));
        }
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
