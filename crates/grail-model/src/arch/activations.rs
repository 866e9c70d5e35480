//! The intermediate values of one layer, for some rows; allocated once, used for every layer.

use grail_kernels::GatedOutput;

use super::layer::Shape;

/// What a projection back to the stream gave, before its norm (Gemma 3); else empty.
#[derive(Debug, Default)]
pub(crate) struct Branch {
    /// `[rows, hidden]`.
    pub(crate) out: Vec<f32>,
    /// `1 / rms` of it; `[rows]`.
    pub(crate) inv_rms: Vec<f32>,
}

/// Buffers for up to a fixed number of rows, each `[rows, width]` row-major. A layer fills the
/// first rows; a backward pass over the same rows finds everything it needs here.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    /// Whether `gate` and `up` are wanted too.
    for_training: bool,
    /// Number of rows the buffers are filled for.
    rows: usize,
    /// `rms_norm(x)`, input of q, k, v; `[rows, hidden]`.
    pub(crate) normed: Vec<f32>,
    /// `1 / rms(x)`; `[rows]`.
    pub(crate) inv_rms: Vec<f32>,
    /// Queries before the head norm, where there is one; `[rows, heads * head_dim]`, else empty.
    pub(crate) q_raw: Vec<f32>,
    /// Keys before the head norm; `[rows, kv_heads * head_dim]`, else empty.
    pub(crate) k_raw: Vec<f32>,
    /// `1 / rms` of each query head; `[rows, heads]`.
    pub(crate) q_inv_rms: Vec<f32>,
    /// `1 / rms` of each key head; `[rows, kv_heads]`.
    pub(crate) k_inv_rms: Vec<f32>,
    /// Rotated queries; `[rows, heads * head_dim]`.
    pub(crate) q: Vec<f32>,
    /// Rotated keys; `[rows, kv_heads * head_dim]`.
    pub(crate) k: Vec<f32>,
    /// Values; `[rows, kv_heads * head_dim]`.
    pub(crate) v: Vec<f32>,
    /// Output of the attention, input of `o_proj`; `[rows, heads * head_dim]`.
    pub(crate) attended: Vec<f32>,
    /// `o_proj` of it, where branches are normed.
    pub(crate) attention_branch: Branch,
    /// `rms_norm` of the stream after the attention, input of gate and up; `[rows, hidden]`.
    pub(crate) mlp_normed: Vec<f32>,
    /// Its `1 / rms`; `[rows]`.
    pub(crate) mlp_inv_rms: Vec<f32>,
    /// `gate_proj`, for a backward pass; `[rows, intermediate]`, else empty.
    pub(crate) gate: Vec<f32>,
    /// `up_proj`, for a backward pass; `[rows, intermediate]`, else empty.
    pub(crate) up: Vec<f32>,
    /// `silu(gate) * up` (or with GELU), input of `down_proj`; `[rows, intermediate]`.
    pub(crate) gated: Vec<f32>,
    /// `down_proj` of it, where branches are normed.
    pub(crate) mlp_branch: Branch,
    /// `rms_norm` of either branch on its way to the stream; `[rows, hidden]`, else empty.
    pub(crate) branch_normed: Vec<f32>,
}

impl Activations {
    /// Makes buffers that keep all that a backward pass needs; the default keeps what the next
    /// step of a forward pass does.
    pub(crate) fn for_training() -> Self {
        Self { for_training: true, ..Self::default() }
    }

    /// Where the projections of the gated MLP go.
    pub(crate) fn gated_output(&mut self) -> (&[f32], GatedOutput<'_>) {
        let Self { for_training, mlp_normed, gate, up, gated, .. } = self;
        let kept = for_training.then_some((gate.as_mut_slice(), up.as_mut_slice()));
        (mlp_normed, GatedOutput { gated, kept })
    }

    /// Sets the number of rows. Memory grows to the largest number seen and is kept.
    pub(crate) fn resize(&mut self, shape: &Shape, rows: usize) {
        if rows == self.rows {
            return;
        }
        let Shape { hidden, heads, kv_heads, head_dim, ffn, head_norms, branch_norms, .. } = *shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let if_branch = |width: usize| if branch_norms { width } else { 0 };
        for (buffer, width) in [
            (&mut self.normed, hidden),
            (&mut self.inv_rms, 1),
            (&mut self.q_raw, if head_norms { q } else { 0 }),
            (&mut self.k_raw, if head_norms { kv } else { 0 }),
            (&mut self.q_inv_rms, if head_norms { heads } else { 0 }),
            (&mut self.k_inv_rms, if head_norms { kv_heads } else { 0 }),
            (&mut self.q, q),
            (&mut self.k, kv),
            (&mut self.v, kv),
            (&mut self.attended, q),
            (&mut self.mlp_normed, hidden),
            (&mut self.mlp_inv_rms, 1),
            (&mut self.gate, if self.for_training { ffn } else { 0 }),
            (&mut self.up, if self.for_training { ffn } else { 0 }),
            (&mut self.gated, ffn),
            (&mut self.attention_branch.out, if_branch(hidden)),
            (&mut self.attention_branch.inv_rms, if_branch(1)),
            (&mut self.mlp_branch.out, if_branch(hidden)),
            (&mut self.mlp_branch.inv_rms, if_branch(1)),
            (&mut self.branch_normed, if_branch(hidden)),
        ] {
            buffer.resize(rows * width, 0.0);
        }
        self.rows = rows;
    }
}
