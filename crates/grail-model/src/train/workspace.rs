//! The forward and backward pass of one micro-batch.
//!
//! The forward pass keeps the input of every layer and nothing else; the backward pass computes a
//! layer's inner values again, by the same functions, before it differentiates them. All sums that
//! cross rows are chains in row order (rule 7 of the contract), so gradients are the same bits for
//! any number of threads.

use grail_kernels::{AttentionSaved, Direction, Init, Kernels, MatRef, PackedMatrix};
use grail_ports::model::{ModelError, StopFlag};

use super::micro_batch::MicroBatch;
use super::parameters::{LayerSlots, LinearSlots, Slots};
use crate::arch::{Activations, Decoder, Layer, Linear, Shape};
use crate::parallel::parallel_map;

/// The matrices of `dx = dy W`, packed for the kernels.
#[derive(Debug)]
pub(super) struct Transposed {
    layers: Vec<TransposedLayer>,
    pub(super) head: PackedMatrix,
}

#[derive(Debug)]
struct TransposedLayer {
    q_proj: PackedMatrix,
    k_proj: PackedMatrix,
    v_proj: PackedMatrix,
    o_proj: PackedMatrix,
    gate_proj: PackedMatrix,
    up_proj: PackedMatrix,
    down_proj: PackedMatrix,
}

impl Transposed {
    /// Transposes every matrix of `decoder`, several layers at a time.
    pub(super) fn new(decoder: &Decoder, kernels: &Kernels) -> Self {
        let of = |linear: &Linear| linear.weight.transposed();
        let layer = |layer: &Layer| TransposedLayer {
            q_proj: of(&layer.q_proj),
            k_proj: of(&layer.k_proj),
            v_proj: of(&layer.v_proj),
            o_proj: of(&layer.o_proj),
            gate_proj: of(&layer.gate_proj),
            up_proj: of(&layer.up_proj),
            down_proj: of(&layer.down_proj),
        };
        let layers = parallel_map(kernels, &decoder.layers, &layer);
        Self { layers, head: decoder.head.transposed() }
    }
}

/// What every step of one micro-batch reads.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) decoder: &'a Decoder,
    pub(super) transposed: &'a Transposed,
    pub(super) slots: &'a Slots,
    pub(super) batch: &'a MicroBatch,
    pub(super) stop: &'a StopFlag,
}

impl Pass<'_> {
    /// Ends the pass if that was asked for.
    pub(super) fn check_stop(&self) -> Result<(), ModelError> {
        if self.stop.is_stopped() { Err(ModelError::Stopped) } else { Ok(()) }
    }
}

/// Buffers of a pass, `[rows, width]` each, kept between micro-batches.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// Residual stream; after the forward pass, the input of the final norm.
    pub(super) x: Vec<f32>,
    /// Gradient of the residual stream. The head's backward pass fills it.
    pub(super) dx: Vec<f32>,
    /// Input of each layer.
    checkpoints: Vec<Vec<f32>>,
    a: Activations,
    saved: AttentionSaved,
    d: Gradients,
}

/// Gradients of a layer's inner values.
#[derive(Debug, Default)]
struct Gradients {
    /// Of the output of either norm.
    normed: Vec<f32>,
    /// Of the input of either norm, through the norm alone.
    branch: Vec<f32>,
    attended: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Before the head norms (Qwen3).
    q_raw: Vec<f32>,
    k_raw: Vec<f32>,
    gated: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Gradients {
    fn resize(&mut self, shape: &Shape, rows: usize) {
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

impl Workspace {
    /// Runs the rows of `batch` through all layers; leaves the residual stream in `self.x`.
    ///
    /// # Errors
    /// [`ModelError::Stopped`], looked at before each layer.
    pub(super) fn forward(&mut self, pass: &Pass<'_>) -> Result<(), ModelError> {
        let Pass { kernels, decoder, batch, .. } = *pass;
        let shape = &decoder.shape;
        self.x.resize(batch.rows() * shape.hidden, 0.0);
        self.a.resize(shape, batch.rows());
        self.checkpoints.resize_with(decoder.layers.len(), Vec::new);
        decoder.embed(&batch.tokens, &mut self.x);
        for (layer, checkpoint) in decoder.layers.iter().zip(&mut self.checkpoints) {
            pass.check_stop()?;
            checkpoint.clear();
            checkpoint.extend_from_slice(&self.x);
            let a = &mut self.a;
            attend(pass, layer, &self.x, a, &mut self.saved);
            layer.add_attention(kernels, &mut self.x, a);
            layer.add_mlp(kernels, shape, &mut self.x, a);
        }
        Ok(())
    }

    /// Adds the gradients of all layers and of the embedding to `grads`, given the gradient of the
    /// residual stream after the last layer in `self.dx`.
    ///
    /// # Errors
    /// [`ModelError::Stopped`], looked at before each layer.
    pub(super) fn backward(
        &mut self,
        pass: &Pass<'_>,
        grads: &mut [f32],
    ) -> Result<(), ModelError> {
        let Pass { decoder, transposed, slots, batch, .. } = *pass;
        self.d.resize(&decoder.shape, batch.rows());
        for layer_idx in (0..decoder.layers.len()).rev() {
            pass.check_stop()?;
            LayerBackward {
                pass,
                layer: &decoder.layers[layer_idx],
                transposed: &transposed.layers[layer_idx],
                slots: &slots.layers[layer_idx],
                x_in: &self.checkpoints[layer_idx],
                a: &mut self.a,
                d: &mut self.d,
                grads,
            }
            .run(&mut self.x, &mut self.saved, &mut self.dx);
        }
        let hidden = decoder.shape.hidden;
        let embedding = &mut grads[slots.embedding.clone()];
        for (&token, dx) in batch.tokens.iter().zip(self.dx.chunks_exact(hidden)) {
            let row = &mut embedding[token as usize * hidden..][..hidden];
            for (gradient, dx) in row.iter_mut().zip(dx) {
                *gradient += dx;
            }
        }
        Ok(())
    }
}

/// Computes `a.attended` of a layer from its input `x`, with all that leads to it.
fn attend(
    pass: &Pass<'_>,
    layer: &Layer,
    x: &[f32],
    a: &mut Activations,
    saved: &mut AttentionSaved,
) {
    let Pass { kernels, decoder, batch, .. } = *pass;
    layer.attention_inputs(kernels, &decoder.shape, x, &batch.positions, &decoder.rope, a);
    let (out, shape) = (&mut a.attended, decoder.attention_shape());
    kernels.attention_train(&a.q, &a.k, &a.v, &batch.offsets, out, shape, saved);
}

/// The backward pass of one layer.
struct LayerBackward<'a> {
    pass: &'a Pass<'a>,
    layer: &'a Layer,
    transposed: &'a TransposedLayer,
    slots: &'a LayerSlots,
    /// Input of the layer.
    x_in: &'a [f32],
    a: &'a mut Activations,
    d: &'a mut Gradients,
    grads: &'a mut [f32],
}

impl LayerBackward<'_> {
    /// Turns `dx`, the gradient of the layer's output, into that of its input. `x` is room for the
    /// residual stream between attention and MLP.
    fn run(mut self, x: &mut Vec<f32>, saved: &mut AttentionSaved, dx: &mut [f32]) {
        let Self { pass, layer, x_in, .. } = self;
        let Pass { kernels, decoder, .. } = *pass;
        attend(pass, layer, x_in, self.a, saved);
        x.clear();
        x.extend_from_slice(x_in);
        layer.add_attention(kernels, x, self.a);
        layer.mlp_inner(kernels, &decoder.shape, x, self.a);
        self.mlp(x, dx);
        self.attention(saved, dx);
    }

    /// The gradient goes through the MLP branch and is added to `dx`, that of the residual stream.
    fn mlp(&mut self, x: &[f32], dx: &mut [f32]) {
        let Self { pass, layer, transposed, slots, a, d, grads, .. } = self;
        let (kernels, rows) = (pass.kernels, pass.batch.rows());
        let gated = pack(rows, &a.gated);
        let (weight, slot) = (&transposed.down_proj, &slots.down_proj);
        let down = LinearBackward { x: &gated, dy: dx, weight, slots: slot };
        down.run(kernels, &mut d.gated, Init::Zero, grads);
        kernels.silu_mul_backward(&a.gate, &a.up, &d.gated, &mut d.gate, &mut d.up);
        let normed = pack(rows, &a.mlp_normed);
        for (dy, weight, slots, init) in [
            (&d.gate, &transposed.gate_proj, &slots.gate_proj, Init::Zero),
            (&d.up, &transposed.up_proj, &slots.up_proj, Init::Carry),
        ] {
            let linear = LinearBackward { x: &normed, dy, weight, slots };
            linear.run(kernels, &mut d.normed, init, grads);
        }
        kernels.rms_norm_backward(
            x,
            &layer.post_attention_layernorm,
            &a.mlp_inv_rms,
            &d.normed,
            &mut d.branch,
            &mut grads[slots.post_attention_layernorm.clone()],
        );
        kernels.add_assign(dx, &d.branch);
    }

    /// The gradient goes through the attention branch and is added to `dx`.
    fn attention(&mut self, saved: &AttentionSaved, dx: &mut [f32]) {
        let Self { pass, layer, transposed, slots, x_in, a, d, grads } = self;
        let Pass { kernels, decoder, batch, .. } = **pass;
        let rows = batch.rows();
        let attended = pack(rows, &a.attended);
        let (weight, slot) = (&transposed.o_proj, &slots.o_proj);
        let o = LinearBackward { x: &attended, dy: dx, weight, slots: slot };
        o.run(kernels, &mut d.attended, Init::Zero, grads);
        let (dout, out) = (&d.attended, &a.attended);
        let (dq, dk, dv) = (&mut d.q, &mut d.k, &mut d.v);
        kernels.attention_backward(dout, &a.q, &a.k, &a.v, out, saved, dq, dk, dv);
        let Shape { heads, kv_heads, head_dim, .. } = decoder.shape;
        let (positions, rope) = (&batch.positions, &decoder.rope);
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
        let normed = pack(rows, &a.normed);
        for (dy, weight, slots, init) in [
            (dq, &transposed.q_proj, &slots.q_proj, Init::Zero),
            (dk, &transposed.k_proj, &slots.k_proj, Init::Carry),
            (&d.v, &transposed.v_proj, &slots.v_proj, Init::Carry),
        ] {
            let linear = LinearBackward { x: &normed, dy, weight, slots };
            linear.run(kernels, &mut d.normed, init, grads);
        }
        let (norm, dweight) = (&layer.input_layernorm, &mut grads[slots.input_layernorm.clone()]);
        kernels.rms_norm_backward(x_in, norm, &a.inv_rms, &d.normed, &mut d.branch, dweight);
        kernels.add_assign(dx, &d.branch);
    }
}

/// Packs `x`, `[rows, width]`, as the right operand of weight gradients.
pub(super) fn pack(rows: usize, x: &[f32]) -> PackedMatrix {
    PackedMatrix::pack_columns_f32(rows, x.len() / rows, x)
}

/// The backward pass of one projection `y = x W^T + b`.
pub(super) struct LinearBackward<'a> {
    /// Input, packed by [`pack`].
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
    pub(super) fn run(self, kernels: &Kernels, dx: &mut [f32], init: Init, grads: &mut [f32]) {
        let dy = MatRef::row_major(self.dy, self.x.k(), self.weight.k());
        kernels.gemm(dy, self.weight, dx, init, None);
        let dweight = &mut grads[self.slots.weight.clone()];
        kernels.gemm(dy.transposed(), self.x, dweight, Init::Carry, None);
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
