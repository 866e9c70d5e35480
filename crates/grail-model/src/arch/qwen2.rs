//! `Qwen2ForCausalLM`: a Llama whose q, k and v projections always have a bias.

use grail_ports::model::ModelError;

use super::layer::Layer;
use super::weights::{Biases, LayerWeights, Norms};

/// Loads a Qwen2 or Qwen2.5 layer (Yang et al. 2024, arXiv:2407.10671).
pub(super) fn layer(weights: &LayerWeights<'_>) -> Result<Layer, ModelError> {
    let biases = Biases { qkv: true, o: false, mlp: false };
    weights.layer(biases, Norms { heads: false, branches: false })
}
