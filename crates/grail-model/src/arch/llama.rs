//! `LlamaForCausalLM`: every projection may have a bias, and published models have none.

use grail_ports::model::ModelError;

use super::layer::Layer;
use super::weights::{Biases, LayerWeights, Norms};

/// Loads a Llama layer (Touvron et al. 2023, arXiv:2302.13971; grouped queries since Llama 2).
pub(super) fn layer(weights: &LayerWeights<'_>) -> Result<Layer, ModelError> {
    let config = weights.config;
    let biases =
        Biases { qkv: config.attention_bias, o: config.attention_bias, mlp: config.mlp_bias };
    weights.layer(biases, Norms { heads: false, branches: false })
}
