//! One decoder layer, in the steps that inference and training both take.

use grail_kernels::{
    AttentionOptions, Direction, GateFunction, Kernels, LinearOutput, PackedMatrix, Projection,
    RopeTable,
};

use super::activations::{Activations, Branch};
use super::runtime::Runtime;
use crate::formats::config::{Architecture, ModelConfig};

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
    /// Whether q and k heads are normed (Qwen3, Gemma 3).
    pub(crate) head_norms: bool,
    /// Whether each branch is normed before it is added to the stream (Gemma 3).
    pub(crate) branch_norms: bool,
    /// What the MLP does to its gate.
    pub(crate) gate: GateFunction,
    /// What happens to values between operations.
    pub(crate) runtime: Runtime,
}

impl Shape {
    /// Takes the sizes from a configuration; the runtime is the exact one.
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
            branch_norms: config.has_branch_norms(),
            gate: match config.architecture {
                Architecture::Gemma3 => GateFunction::GeluTanh,
                Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => {
                    GateFunction::Silu
                }
            },
            runtime: Runtime::Exact,
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
    /// The projection as the kernels take it.
    pub(crate) fn projection(&self) -> Projection<'_> {
        self.before(None)
    }

    /// The projection, when that with `next` follows.
    fn before<'a>(&'a self, next: Option<&'a Self>) -> Projection<'a> {
        let then = next.map(|next| &next.weight);
        Projection { weight: &self.weight, bias: self.bias.as_deref(), then }
    }

    /// The projection into `y`, `[rows, out]`, when that with `next` follows.
    fn output<'a>(&'a self, next: &'a Self, y: &'a mut [f32]) -> LinearOutput<'a> {
        LinearOutput { projection: self.before(Some(next)), y }
    }
}

/// RMSNorm weights of the heads, `[head_dim]` each.
#[derive(Debug)]
pub(crate) struct HeadNorms {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
}

/// RMSNorm weights of what a branch adds to the stream, `[hidden]` each.
#[derive(Debug)]
pub(crate) struct BranchNorms {
    /// `post_attention_layernorm`.
    pub(crate) attention: Vec<f32>,
    /// `post_feedforward_layernorm`.
    pub(crate) mlp: Vec<f32>,
}

/// The weights of one layer, projections named as in a checkpoint. Norm weights are what the norm
/// multiplies by, whatever a checkpoint stores.
#[derive(Debug)]
pub(crate) struct Layer {
    /// How this layer's scores are made and what its rows see.
    pub(crate) attention: AttentionOptions,
    /// Whether its angles are those of layers with a window (Gemma 3).
    pub(crate) local_rope: bool,
    pub(crate) input_layernorm: Vec<f32>,
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) head_norms: Option<HeadNorms>,
    pub(crate) o_proj: Linear,
    /// Before the MLP: `post_attention_layernorm`, or where branches are normed
    /// `pre_feedforward_layernorm`.
    pub(crate) mlp_layernorm: Vec<f32>,
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
    pub(crate) branch_norms: Option<BranchNorms>,
}

impl Layer {
    /// Returns every matrix with its name in a checkpoint, relative to `model.layers.N.`.
    pub(crate) fn matrices_mut(&mut self) -> [(&'static str, &mut PackedMatrix); 7] {
        [
            ("self_attn.q_proj.weight", &mut self.q_proj.weight),
            ("self_attn.k_proj.weight", &mut self.k_proj.weight),
            ("self_attn.v_proj.weight", &mut self.v_proj.weight),
            ("self_attn.o_proj.weight", &mut self.o_proj.weight),
            ("mlp.gate_proj.weight", &mut self.gate_proj.weight),
            ("mlp.up_proj.weight", &mut self.up_proj.weight),
            ("mlp.down_proj.weight", &mut self.down_proj.weight),
        ]
    }

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
        let Shape { heads, kv_heads, head_dim, eps, runtime, .. } = *shape;
        let norm = &self.input_layernorm;
        kernels.rms_norm(x, norm, eps, &mut a.normed, Some(&mut a.inv_rms));
        runtime.pass(&mut a.normed);
        // One pass over the three: a step of few rows waits for weights, not for arithmetic.
        let normed = self.head_norms.is_some();
        let (q, k) = if normed { (&mut a.q_raw, &mut a.k_raw) } else { (&mut a.q, &mut a.k) };
        let next = &self.o_proj;
        let outputs = [
            self.q_proj.output(next, q),
            self.k_proj.output(next, k),
            self.v_proj.output(next, &mut a.v),
        ];
        kernels.linear_each(&a.normed, outputs);
        for values in [&mut a.q_raw, &mut a.k_raw, &mut a.q, &mut a.k, &mut a.v] {
            runtime.pass(values);
        }
        if let Some(norms) = &self.head_norms {
            // The rows of these norms are heads: `[rows * heads, head_dim]`.
            kernels.rms_norm(&a.q_raw, &norms.q, eps, &mut a.q, Some(&mut a.q_inv_rms));
            kernels.rms_norm(&a.k_raw, &norms.k, eps, &mut a.k, Some(&mut a.k_inv_rms));
            runtime.pass(&mut a.q);
            runtime.pass(&mut a.k);
        }
        kernels.rope(&mut a.q, heads, head_dim, positions, rope, Direction::Forward);
        kernels.rope(&mut a.k, kv_heads, head_dim, positions, rope, Direction::Forward);
        runtime.pass(&mut a.q);
    }

    /// Adds `o_proj` of `a.attended` to the residual stream `x`.
    pub(crate) fn add_attention(
        &self,
        kernels: &Kernels,
        shape: &Shape,
        x: &mut [f32],
        a: &mut Activations,
    ) {
        let Shape { eps, runtime, .. } = *shape;
        runtime.pass(&mut a.attended);
        if let Some(norms) = &self.branch_norms {
            let Branch { out, inv_rms } = &mut a.attention_branch;
            let Linear { weight, bias } = &self.o_proj;
            kernels.linear(&a.attended, weight, bias.as_deref(), out);
            runtime.pass(out);
            kernels.rms_norm(out, &norms.attention, eps, &mut a.branch_normed, Some(inv_rms));
            runtime.pass(&mut a.branch_normed);
            kernels.add_assign(x, &a.branch_normed);
        } else {
            kernels.linear_add(&a.attended, self.o_proj.before(Some(&self.gate_proj)), x);
        }
        runtime.pass(x);
    }

    /// Computes the gated inner values of the MLP from the residual stream `x` into `a.gated`.
    pub(crate) fn mlp_inner(
        &self,
        kernels: &Kernels,
        shape: &Shape,
        x: &[f32],
        a: &mut Activations,
    ) {
        let norm = &self.mlp_layernorm;
        kernels.rms_norm(x, norm, shape.eps, &mut a.mlp_normed, Some(&mut a.mlp_inv_rms));
        shape.runtime.pass(&mut a.mlp_normed);
        let (gate, up) = (self.gate_proj.projection(), self.up_proj.before(Some(&self.down_proj)));
        let (normed, output) = a.gated_output();
        kernels.linear_gated(normed, gate, up, shape.gate, output);
        shape.runtime.pass(&mut a.gated);
    }

    /// Where branches are normed, computes what the MLP adds to the stream from `a.gated`.
    pub(crate) fn mlp_branch(&self, kernels: &Kernels, shape: &Shape, a: &mut Activations) {
        let Some(norms) = &self.branch_norms else { return };
        let Branch { out, inv_rms } = &mut a.mlp_branch;
        let Linear { weight, bias } = &self.down_proj;
        kernels.linear(&a.gated, weight, bias.as_deref(), out);
        shape.runtime.pass(out);
        kernels.rms_norm(out, &norms.mlp, shape.eps, &mut a.branch_normed, Some(inv_rms));
        shape.runtime.pass(&mut a.branch_normed);
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
        if self.branch_norms.is_some() {
            self.mlp_branch(kernels, shape, a);
            kernels.add_assign(x, &a.branch_normed);
        } else {
            kernels.linear_add(&a.gated, self.down_proj.projection(), x);
        }
        shape.runtime.pass(x);
    }
}
