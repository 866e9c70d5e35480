//! One decoder layer, in the steps that inference and training both take.

use grail_kernels::{Direction, Kernels, PackedMatrix, RopeTable};

use super::activations::Activations;
use crate::formats::config::ModelConfig;

/// The sizes a layer computes with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key/value heads.
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// Width of the MLP.
    pub(crate) ffn: usize,
    /// Added to the mean square in every norm.
    pub(crate) eps: f32,
    /// Whether q and k heads are normed (Qwen3).
    pub(crate) head_norms: bool,
}

impl Shape {
    /// Takes the sizes from a configuration.
    pub(crate) fn new(config: &ModelConfig) -> Self {
        Self {
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            ffn: config.intermediate_size,
            // The contract computes in f32, so eps is rounded to it once, here.
            eps: config.rms_norm_eps as f32,
            head_norms: config.has_qk_norm(),
        }
    }

    /// Width of all key (or value) heads of a row.
    pub(crate) fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// A projection `y = x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    pub(crate) weight: PackedMatrix,
    /// `[out]`.
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// Computes `y`, `[rows, out]`, from `x`, `[rows, in]`.
    pub(crate) fn apply(&self, kernels: &Kernels, x: &[f32], y: &mut [f32]) {
        kernels.linear(x, &self.weight, self.bias.as_deref(), y);
    }
}

/// RMSNorm weights of the heads, `[head_dim]` each.
#[derive(Debug)]
pub(crate) struct HeadNorms {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
}

/// The weights of one layer, named as in a checkpoint.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_layernorm: Vec<f32>,
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) head_norms: Option<HeadNorms>,
    pub(crate) o_proj: Linear,
    pub(crate) post_attention_layernorm: Vec<f32>,
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
}

impl Layer {
    /// Computes rotated queries and keys, and values, of the rows `x` (`[rows, hidden]`) at
    /// `positions` into `a`.
    pub(crate) fn attention_inputs(
        &self,
        kernels: &Kernels,
        shape: &Shape,
        x: &[f32],
        positions: &[u32],
        rope: &RopeTable,
        a: &mut Activations,
    ) {
        let Shape { heads, kv_heads, head_dim, eps, .. } = *shape;
        let norm = &self.input_layernorm;
        kernels.rms_norm(x, norm, eps, &mut a.normed, Some(&mut a.inv_rms));
        if let Some(norms) = &self.head_norms {
            self.q_proj.apply(kernels, &a.normed, &mut a.q_raw);
            self.k_proj.apply(kernels, &a.normed, &mut a.k_raw);
            // The rows of these norms are heads: `[rows * heads, head_dim]`.
            kernels.rms_norm(&a.q_raw, &norms.q, eps, &mut a.q, Some(&mut a.q_inv_rms));
            kernels.rms_norm(&a.k_raw, &norms.k, eps, &mut a.k, Some(&mut a.k_inv_rms));
        } else {
            self.q_proj.apply(kernels, &a.normed, &mut a.q);
            self.k_proj.apply(kernels, &a.normed, &mut a.k);
        }
        self.v_proj.apply(kernels, &a.normed, &mut a.v);
        kernels.rope(&mut a.q, heads, head_dim, positions, rope, Direction::Forward);
        kernels.rope(&mut a.k, kv_heads, head_dim, positions, rope, Direction::Forward);
    }

    /// Adds `o_proj` of `a.attended` to the residual stream `x`.
    pub(crate) fn add_attention(&self, kernels: &Kernels, x: &mut [f32], a: &mut Activations) {
        self.o_proj.apply(kernels, &a.attended, &mut a.branch);
        kernels.add_assign(x, &a.branch);
    }

    /// Computes the gated inner values of the MLP from the residual stream `x` into `a.gated`.
    pub(crate) fn mlp_inner(
        &self,
        kernels: &Kernels,
        shape: &Shape,
        x: &[f32],
        a: &mut Activations,
    ) {
        let norm = &self.post_attention_layernorm;
        kernels.rms_norm(x, norm, shape.eps, &mut a.mlp_normed, Some(&mut a.mlp_inv_rms));
        self.gate_proj.apply(kernels, &a.mlp_normed, &mut a.gate);
        self.up_proj.apply(kernels, &a.mlp_normed, &mut a.up);
        kernels.silu_mul(&a.gate, &a.up, &mut a.gated);
    }

    /// Adds the MLP to the residual stream `x`.
    pub(crate) fn add_mlp(
        &self,
        kernels: &Kernels,
        shape: &Shape,
        x: &mut [f32],
        a: &mut Activations,
    ) {
        self.mlp_inner(kernels, shape, x, a);
        self.down_proj.apply(kernels, &a.gated, &mut a.branch);
        kernels.add_assign(x, &a.branch);
    }
}
