//! The decoder of Llama, Qwen2, Qwen3 and Gemma 3: one forward pass, small differences in weights.
//!
//! ```text
//! x = embed_tokens[ids]
//! for each layer:
//!     x += o_proj(attention(rope(q_proj(n)), rope(k_proj(n)), v_proj(n)))   n = rms_norm(x)
//!     x += down_proj(silu(gate_proj(m)) * up_proj(m))                       m = rms_norm(x)
//! logits = head(rms_norm(x))
//! ```
//!
//! An architecture's file says which biases and norms its layers have (that of Gemma 3 also what
//! its formulae add); everything else is shared
//! by inference ([`crate::engine`]) and training ([`crate::train`]), so that both compute the same
//! bits.

mod activations;
mod decoder;
mod gemma3;
mod layer;
mod llama;
mod qwen2;
mod qwen3;
mod rope;
mod runtime;
mod weights;

pub use runtime::{Runtime, UnknownRuntime};

pub(crate) use activations::{Activations, Branch};
pub(crate) use decoder::{Decoder, Scratch};
pub(crate) use layer::{Layer, Linear, Shape};
pub(crate) use weights::{Values, WeightSource};

use grail_ports::model::ModelError;

use self::weights::LayerWeights;
use crate::formats::config::Architecture;

/// Loads one layer as its architecture prescribes.
fn load_layer(weights: &LayerWeights<'_>) -> Result<Layer, ModelError> {
    match weights.config.architecture {
        Architecture::Llama => llama::layer(weights),
        Architecture::Qwen2 => qwen2::layer(weights),
        Architecture::Qwen3 => qwen3::layer(weights),
        Architecture::Gemma3 => gemma3::layer(weights),
    }
}
