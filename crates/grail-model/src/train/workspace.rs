//! The forward and backward pass of one micro-batch.
//!
//! The forward pass keeps the input of every layer, and the inner values of as many layers as the
//! memory budget allows; the backward pass computes the others' again, by the same functions,
//! before it differentiates them. All sums that cross rows are chains in row order (rule 7 of the
//! contract), so gradients are the same bits for any number of threads and any budget.

use grail_kernels::{AttentionSaved, Kernels, PackedMatrix};
use grail_ports::model::{ModelError, StopFlag};

use super::kept::{Kept, layers_kept};
use super::layer_backward::{Gradients, LayerBackward};
use super::lora::{Lora, PairSlots};
use super::micro_batch::MicroBatch;
use super::parameters::Slots;
use crate::arch::{Activations, Decoder, Layer, Linear};
use crate::parallel::parallel_map;

/// The matrices of `dx = dy W`, packed for the kernels.
#[derive(Debug)]
pub(super) struct Transposed {
    layers: Vec<TransposedLayer>,
    pub(super) head: PackedMatrix,
}

#[derive(Debug)]
pub(super) struct TransposedLayer {
    pub(super) q_proj: PackedMatrix,
    pub(super) k_proj: PackedMatrix,
    pub(super) v_proj: PackedMatrix,
    pub(super) o_proj: PackedMatrix,
    pub(super) gate_proj: PackedMatrix,
    pub(super) up_proj: PackedMatrix,
    pub(super) down_proj: PackedMatrix,
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

    /// Returns every matrix in the order of [`Decoder::matrices_mut`].
    pub(super) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut PackedMatrix> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.q_proj,
                &mut layer.k_proj,
                &mut layer.v_proj,
                &mut layer.o_proj,
                &mut layer.gate_proj,
                &mut layer.up_proj,
                &mut layer.down_proj,
            ]
        });
        layers.chain([&mut self.head])
    }
}

/// What every step of one micro-batch reads.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) decoder: &'a Decoder,
    pub(super) transposed: &'a Transposed,
    pub(super) slots: &'a Slots,
    /// The pairs of a LoRA training.
    pub(super) pairs: &'a [PairSlots],
    pub(super) lora: Option<&'a Lora>,
    pub(super) batch: &'a MicroBatch,
    pub(super) stop: &'a StopFlag,
    /// As [`TrainerConfig::activations_bytes_max`](super::TrainerConfig::activations_bytes_max).
    pub(super) activations_bytes_max: usize,
}

impl Pass<'_> {
    /// Ends the pass if that was asked for.
    pub(super) fn check_stop(&self) -> Result<(), ModelError> {
        if self.stop.is_stopped() { Err(ModelError::Stopped) } else { Ok(()) }
    }
}

/// Buffers of a pass, `[rows, width]` each, kept between micro-batches.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Residual stream; after the forward pass, the input of the final norm.
    pub(super) x: Vec<f32>,
    /// Gradient of the residual stream. The head's backward pass fills it.
    pub(super) dx: Vec<f32>,
    /// Input of each layer.
    checkpoints: Vec<Vec<f32>>,
    /// Inner values of the last layers, which the backward pass needs first.
    kept: Vec<Kept>,
    a: Activations,
    saved: AttentionSaved,
    d: Gradients,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            x: Vec::new(),
            dx: Vec::new(),
            checkpoints: Vec::new(),
            kept: Vec::new(),
            a: Activations::for_training(),
            saved: AttentionSaved::default(),
            d: Gradients::default(),
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
        let (shape, rows) = (&decoder.shape, batch.rows());
        let n_layers = decoder.layers.len();
        let n_kept = layers_kept(shape, rows, pass.activations_bytes_max).min(n_layers);
        self.kept.resize_with(n_kept, Kept::default);
        self.x.resize(rows * shape.hidden, 0.0);
        self.a.resize(shape, rows);
        self.checkpoints.resize_with(n_layers, Vec::new);
        decoder.embed(&batch.tokens, &mut self.x);
        for (layer_idx, layer) in decoder.layers.iter().enumerate() {
            pass.check_stop()?;
            let checkpoint = &mut self.checkpoints[layer_idx];
            checkpoint.clear();
            checkpoint.extend_from_slice(&self.x);
            let a = &mut self.a;
            attend(pass, layer, &self.x, a, &mut self.saved);
            layer.add_attention(kernels, shape, &mut self.x, a);
            let kept = (layer_idx + n_kept).checked_sub(n_layers).map(|idx| &mut self.kept[idx]);
            if let Some(kept) = kept {
                kept.x_mid.clear();
                kept.x_mid.extend_from_slice(&self.x);
                layer.add_mlp(kernels, shape, &mut self.x, a);
                kept.exchange(shape, rows, a, &mut self.saved);
            } else {
                layer.add_mlp(kernels, shape, &mut self.x, a);
            }
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
            self.restore(pass, layer_idx);
            LayerBackward {
                pass,
                layer: &decoder.layers[layer_idx],
                transposed: &transposed.layers[layer_idx],
                slots: &slots.layers[layer_idx],
                x_in: &self.checkpoints[layer_idx],
                x_mid: &self.x,
                a: &self.a,
                saved: &self.saved,
                d: &mut self.d,
                grads,
            }
            .run(&mut self.dx);
        }
        let hidden = decoder.shape.hidden;
        let Some(embedding) = &slots.embedding else { return Ok(()) };
        let embedding = &mut grads[embedding.clone()];
        if let Some(scale) = decoder.config.embedding_scale() {
            pass.kernels.scale(&mut self.dx, scale);
        }
        for (&token, dx) in batch.tokens.iter().zip(self.dx.chunks_exact(hidden)) {
            let row = &mut embedding[token as usize * hidden..][..hidden];
            for (gradient, dx) in row.iter_mut().zip(dx) {
                *gradient += dx;
            }
        }
        Ok(())
    }

    /// Brings back all inner values of a layer: `a`, `saved`, and `x` as it was between attention
    /// and MLP.
    fn restore(&mut self, pass: &Pass<'_>, layer_idx: usize) {
        let Pass { kernels, decoder, batch, .. } = *pass;
        let (shape, layer) = (&decoder.shape, &decoder.layers[layer_idx]);
        let (x_in, a) = (&self.checkpoints[layer_idx], &mut self.a);
        let kept = (layer_idx + self.kept.len()).checked_sub(decoder.layers.len());
        if let Some(kept) = kept.map(|idx| &mut self.kept[idx]) {
            kept.exchange(shape, batch.rows(), a, &mut self.saved);
            std::mem::swap(&mut self.x, &mut kept.x_mid);
            let norm = &layer.input_layernorm;
            kernels.rms_norm(x_in, norm, shape.eps, &mut a.normed, Some(&mut a.inv_rms));
            let norm = &layer.mlp_layernorm;
            let inv_rms = Some(a.mlp_inv_rms.as_mut_slice());
            kernels.rms_norm(&self.x, norm, shape.eps, &mut a.mlp_normed, inv_rms);
            kernels.gate_mul(shape.gate, &a.gate, &a.up, &mut a.gated);
        } else {
            attend(pass, layer, x_in, a, &mut self.saved);
            self.x.clear();
            self.x.extend_from_slice(x_in);
            layer.add_attention(kernels, shape, &mut self.x, a);
            layer.mlp_inner(kernels, shape, &self.x, a);
            layer.mlp_branch(kernels, shape, a);
        }
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
    let rope = decoder.rope_of(layer);
    layer.attention_inputs(kernels, &decoder.shape, x, &batch.positions, rope, a);
    let (out, shape) = (&mut a.attended, decoder.attention_shape());
    let (sequences, options) = (&batch.offsets, layer.attention);
    kernels.attention_train(&a.q, &a.k, &a.v, sequences, out, shape, options, saved);
}
