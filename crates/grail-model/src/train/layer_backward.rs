//! The backward pass of one layer, operator by operator, from its output to its input.

use grail_kernels::{AttentionSaved, Direction, Init, MatRef, PackedMatrix};

use super::parameters::{LayerSlots, LinearSlots, WeightSlot};
use super::workspace::{Pass, TransposedLayer};
use crate::arch::{Activations, Branch, Layer, Shape};

/// Gradients of a layer's inner values.
#[derive(Debug, Default)]
pub(super) struct Gradients {
    /// Of the output of either norm.
    normed: Vec<f32>,
    /// Of the input of a norm, through the norm alone.
    branch: Vec<f32>,
    attended: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Before the head norms, where there are any.
    q_raw: Vec<f32>,
    k_raw: Vec<f32>,
    gated: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Inputs of the projections, packed as right operands of weight gradients.
    packed: PackedInputs,
}

/// One buffer for each width, since a change of width would clear it.
#[derive(Debug, Default)]
struct PackedInputs {
    normed: PackedMatrix,
    attended: PackedMatrix,
    gated: PackedMatrix,
}

impl Gradients {
    /// Makes room for `rows` rows.
    pub(super) fn resize(&mut self, shape: &Shape, rows: usize) {
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_size());
        let if_normed = |width: usize| if shape.head_norms { width } else { 0 };
        for (buffer, width) in [
            (&mut self.normed, shape.hidden),
            (&mut self.branch, shape.hidden),
            (&mut self.attended, q),
            (&mut self.q, q),
            (&mut self.k, kv),
            (&mut self.v, kv),
            (&mut self.q_raw, if_normed(q)),
            (&mut self.k_raw, if_normed(kv)),
            (&mut self.gated, shape.ffn),
            (&mut self.gate, shape.ffn),
            (&mut self.up, shape.ffn),
        ] {
            buffer.resize(rows * width, 0.0);
        }
    }
}

/// The backward pass of one layer.
pub(super) struct LayerBackward<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) layer: &'a Layer,
    pub(super) transposed: &'a TransposedLayer,
    pub(super) slots: &'a LayerSlots,
    /// Input of the layer.
    pub(super) x_in: &'a [f32],
    /// Residual stream between attention and MLP.
    pub(super) x_mid: &'a [f32],
    /// Every inner value of the layer.
    pub(super) a: &'a Activations,
    pub(super) saved: &'a AttentionSaved,
    pub(super) d: &'a mut Gradients,
    pub(super) grads: &'a mut [f32],
}

impl LayerBackward<'_> {
    /// Turns `dx`, the gradient of the layer's output, into that of its input.
    pub(super) fn run(mut self, dx: &mut [f32]) {
        self.mlp(dx);
        self.attention(dx);
    }

    /// The gradient goes through the MLP branch and is added to `dx`, that of the residual stream.
    fn mlp(&mut self, dx: &mut [f32]) {
        let Self { pass, layer, transposed, slots, x_mid, a, d, grads, .. } = self;
        let (kernels, rows) = (pass.kernels, pass.batch.rows());
        let Shape { hidden, ffn, .. } = pass.decoder.shape;
        let PackedInputs { normed, gated, .. } = &mut d.packed;
        let mut dy: &[f32] = dx;
        if let (Some(norms), Some(slots)) = (&layer.branch_norms, &slots.branch_norms) {
            let (Branch { out, inv_rms }, dweight) = (&a.mlp_branch, &mut grads[slots.mlp.clone()]);
            kernels.rms_norm_backward(out, &norms.mlp, inv_rms, dy, &mut d.branch, dweight);
            dy = &d.branch;
        }
        kernels.pack_columns(rows, ffn, &a.gated, gated);
        let (weight, slot) = (&transposed.down_proj, &slots.down_proj);
        let down = LinearBackward { input: &a.gated, x: gated, dy, weight, slots: slot };
        down.run(pass, &mut d.gated, Init::Zero, grads);
        let function = pass.decoder.shape.gate;
        let (dgate, dup) = (&mut d.gate, &mut d.up);
        kernels.gate_mul_backward(function, &a.gate, &a.up, &d.gated, dgate, dup);
        kernels.pack_columns(rows, hidden, &a.mlp_normed, normed);
        for (dy, weight, slots, init) in [
            (&d.gate, &transposed.gate_proj, &slots.gate_proj, Init::Zero),
            (&d.up, &transposed.up_proj, &slots.up_proj, Init::Carry),
        ] {
            let linear = LinearBackward { input: &a.mlp_normed, x: normed, dy, weight, slots };
            linear.run(pass, &mut d.normed, init, grads);
        }
        kernels.rms_norm_backward(
            x_mid,
            &layer.mlp_layernorm,
            &a.mlp_inv_rms,
            &d.normed,
            &mut d.branch,
            &mut grads[slots.mlp_layernorm.clone()],
        );
        kernels.add_assign(dx, &d.branch);
    }

    /// The gradient goes through the attention branch and is added to `dx`.
    fn attention(&mut self, dx: &mut [f32]) {
        let Self { pass, layer, transposed, slots, x_in, a, saved, d, grads, .. } = self;
        let Pass { kernels, decoder, batch, .. } = **pass;
        let rows = batch.rows();
        let PackedInputs { normed, attended, .. } = &mut d.packed;
        let Shape { hidden, heads, kv_heads, head_dim, .. } = decoder.shape;
        let mut dy: &[f32] = dx;
        if let (Some(norms), Some(slots)) = (&layer.branch_norms, &slots.branch_norms) {
            let Branch { out, inv_rms } = &a.attention_branch;
            let dweight = &mut grads[slots.attention.clone()];
            kernels.rms_norm_backward(out, &norms.attention, inv_rms, dy, &mut d.branch, dweight);
            dy = &d.branch;
        }
        kernels.pack_columns(rows, heads * head_dim, &a.attended, attended);
        let (weight, slot) = (&transposed.o_proj, &slots.o_proj);
        let o = LinearBackward { input: &a.attended, x: attended, dy, weight, slots: slot };
        o.run(pass, &mut d.attended, Init::Zero, grads);
        let (dout, out) = (&d.attended, &a.attended);
        let (dq, dk, dv) = (&mut d.q, &mut d.k, &mut d.v);
        kernels.attention_backward(dout, &a.q, &a.k, &a.v, out, saved, dq, dk, dv);
        let (positions, rope) = (&batch.positions, decoder.rope_of(layer));
        kernels.rope(&mut d.q, heads, head_dim, positions, rope, Direction::Backward);
        kernels.rope(&mut d.k, kv_heads, head_dim, positions, rope, Direction::Backward);
        let (mut dq, mut dk) = (&d.q, &d.k);
        if let (Some(norms), Some((q_slot, k_slot))) = (&layer.head_norms, &slots.head_norms) {
            let (inv, dweight) = (&a.q_inv_rms, &mut grads[q_slot.clone()]);
            kernels.rms_norm_backward(&a.q_raw, &norms.q, inv, dq, &mut d.q_raw, dweight);
            let (inv, dweight) = (&a.k_inv_rms, &mut grads[k_slot.clone()]);
            kernels.rms_norm_backward(&a.k_raw, &norms.k, inv, dk, &mut d.k_raw, dweight);
            (dq, dk) = (&d.q_raw, &d.k_raw);
        }
        kernels.pack_columns(rows, hidden, &a.normed, normed);
        for (dy, weight, slots, init) in [
            (dq, &transposed.q_proj, &slots.q_proj, Init::Zero),
            (dk, &transposed.k_proj, &slots.k_proj, Init::Carry),
            (&d.v, &transposed.v_proj, &slots.v_proj, Init::Carry),
        ] {
            let linear = LinearBackward { input: &a.normed, x: normed, dy, weight, slots };
            linear.run(pass, &mut d.normed, init, grads);
        }
        let (norm, dweight) = (&layer.input_layernorm, &mut grads[slots.input_layernorm.clone()]);
        kernels.rms_norm_backward(x_in, norm, &a.inv_rms, &d.normed, &mut d.branch, dweight);
        kernels.add_assign(dx, &d.branch);
    }
}

/// The backward pass of one projection `y = x W^T + b`.
pub(super) struct LinearBackward<'a> {
    /// Input, `[rows, in]`.
    pub(super) input: &'a [f32],
    /// Input, packed by [`Kernels::pack_columns`](grail_kernels::Kernels::pack_columns).
    pub(super) x: &'a PackedMatrix,
    /// Gradient of the output, `[rows, out]`.
    pub(super) dy: &'a [f32],
    /// `W`, transposed.
    pub(super) weight: &'a PackedMatrix,
    pub(super) slots: &'a LinearSlots,
}

impl LinearBackward<'_> {
    /// Adds `dy^T x` and the column sums of `dy` to the gradients of weight and bias, and computes
    /// `dx = dy W` (or continues its chains).
    pub(super) fn run(self, pass: &Pass<'_>, dx: &mut [f32], init: Init, grads: &mut [f32]) {
        let Pass { kernels, pairs, lora, .. } = *pass;
        let dy = MatRef::row_major(self.dy, self.x.k(), self.weight.k());
        kernels.gemm(dy, self.weight, dx, init, None);
        match &self.slots.weight {
            WeightSlot::Full(range) => {
                let dweight = &mut grads[range.clone()];
                kernels.gemm(dy.transposed(), self.x, dweight, Init::Carry, None);
            }
            WeightSlot::Pair(idx) => {
                let lora = lora.expect("a layout has pairs only where LoRA trains them");
                let pair = (*idx, &pairs[*idx]);
                lora.backward(kernels, pair, (self.input, self.x), dy, grads);
            }
            WeightSlot::Frozen => {}
        }
        if let Some(bias) = &self.slots.bias {
            let dbias = &mut grads[bias.clone()];
            for dy in self.dy.chunks_exact(dbias.len()) {
                for (gradient, dy) in dbias.iter_mut().zip(dy) {
                    *gradient += dy;
                }
            }
        }
    }
}
