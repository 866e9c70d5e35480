//! `Qwen3ForCausalLM`: a Llama with an RMSNorm on each query and key head before the rotation.

use grail_ports::model::ModelError;

use super::layer::Layer;
use super::weights::{Biases, LayerWeights, Norms};

/// Loads a dense Qwen3 layer (Qwen team 2025, arXiv:2505.09388).
///
/// One weight vector of `head_dim` values serves all query heads, another all key heads.
pub(super) fn layer(weights: &LayerWeights<'_>) -> Result<Layer, ModelError> {
    let config = weights.config;
    let biases = Biases { qkv: config.attention_bias, o: config.attention_bias, mlp: false };
    weights.layer(biases, Norms { heads: true, branches: false })
}
