//! `Gemma3ForCausalLM`: norms before and after each branch, GELU gates, windows in most layers.
//!
//! ```text
//! x = sqrt(hidden_size) * embed_tokens[ids]
//! for each layer:
//!     x += norm(o_proj(attention(rope(norm(q_proj(n))), rope(norm(k_proj(n))), v_proj(n))))
//!     x += norm(down_proj(gelu(gate_proj(m)) * up_proj(m)))
//! logits = head(norm(x))
//! ```
//!
//! `n` and `m` are norms of `x`. Every norm multiplies by 1 plus its stored weight. Layers with a
//! window have rotary angles of their own; scores are divided by the root of `query_pre_attn_scalar`.

use grail_ports::model::ModelError;

use super::layer::Layer;
use super::weights::{Biases, LayerWeights, Norms};

/// Loads a layer of a Gemma 3 text model (Gemma team 2025, arXiv:2503.19786).
pub(super) fn layer(weights: &LayerWeights<'_>) -> Result<Layer, ModelError> {
    let config = weights.config;
    let biases = Biases { qkv: config.attention_bias, o: config.attention_bias, mlp: false };
    weights.layer(biases, Norms { heads: true, branches: true })
}
