//! The LM head of a training step: log-probabilities forward, the loss's gradient backward.
//!
//! Logits exist for a bounded number of rows at a time and are computed twice, once to learn the
//! log-probabilities and once to differentiate them, so that no `[tokens, vocab]` buffer is needed.

use grail_kernels::{Init, Kernels, PackedMatrix};
use grail_ports::model::ModelError;
use grail_protocol::ids::TokenId;

use super::layer_backward::LinearBackward;
use super::micro_batch::Target;
use super::parameters::{LinearSlots, WeightSlot};
use super::workspace::{Pass, Workspace};
use crate::arch::Decoder;
use crate::engine::{Draw, Head, head_rows_max, not_finite};

/// Bytes of logits held at once. More rows amortise a pass over the head's gradient better.
const LOGITS_BYTES_MAX: usize = 64 << 20;

/// Computes the log-probability of every target of `batch`, in order.
pub(super) fn logprobs(
    pass: &Pass<'_>,
    x: &[f32],
    head: &mut Head,
) -> Result<Vec<f32>, ModelError> {
    let Pass { kernels, decoder, batch, .. } = *pass;
    let hidden = decoder.shape.hidden;
    let mut all = Vec::with_capacity(batch.targets.len());
    for targets in batch.targets.chunks(head.rows_max()) {
        pass.check_stop()?;
        let rows = targets.iter().map(|target| &x[target.row * hidden..][..hidden]);
        let draw = |target: &Target| Draw { claimed: Some(target.token), ..Draw::default() };
        let draws: Vec<Draw> = targets.iter().map(draw).collect();
        let drawn = head.draw(kernels, decoder, rows, &draws)?;
        all.extend(drawn.iter().filter_map(|drawn| drawn.claimed).map(|token| token.logprob));
    }
    Ok(all)
}

/// Buffers of the backward pass, kept between micro-batches.
#[derive(Debug, Default)]
pub(super) struct LossHead {
    x: Vec<f32>,
    inv_rms: Vec<f32>,
    input: Vec<f32>,
    /// `input`, packed as the right operand of the weight gradient.
    packed_input: PackedMatrix,
    /// Logits, then their gradient.
    logits: Vec<f32>,
    /// The logits while their gradient is made, where they are capped; else empty.
    capped: Vec<f32>,
    dinput: Vec<f32>,
    dx: Vec<f32>,
}

impl LossHead {
    /// Adds the gradients of head and final norm to `grads` and fills `workspace.dx`, given the
    /// derivative of the loss with respect to each target's log-probability. Targets whose
    /// derivative is zero contribute nothing and are left out.
    pub(super) fn backward(
        &mut self,
        pass: &Pass<'_>,
        derivatives: &[f32],
        workspace: &mut Workspace,
        grads: &mut [f32],
    ) -> Result<(), ModelError> {
        let Pass { kernels, decoder, transposed, slots, batch, .. } = *pass;
        let hidden = decoder.shape.hidden;
        workspace.dx.clear();
        workspace.dx.resize(batch.rows() * hidden, 0.0);
        let used: Vec<(Target, f32)> = batch
            .targets
            .iter()
            .copied()
            .zip(derivatives.iter().copied())
            .filter(|(_, derivative)| *derivative != 0.0)
            .collect();
        let weight = slots.head.clone().map_or(WeightSlot::Frozen, WeightSlot::Full);
        let head_slots = LinearSlots { weight, bias: None };
        for chunk in used.chunks(head_rows_max(decoder.config.vocab_size, LOGITS_BYTES_MAX)) {
            pass.check_stop()?;
            self.chunk_logits(kernels, decoder, chunk, &workspace.x)?;
            kernels.pack_columns(chunk.len(), hidden, &self.input, &mut self.packed_input);
            let head = LinearBackward {
                input: &self.input,
                x: &self.packed_input,
                dy: &self.logits,
                weight: &transposed.head,
                slots: &head_slots,
            };
            self.dinput.resize(chunk.len() * hidden, 0.0);
            head.run(pass, &mut self.dinput, Init::Zero, grads);
            self.dx.resize(chunk.len() * hidden, 0.0);
            kernels.rms_norm_backward(
                &self.x,
                &decoder.norm,
                &self.inv_rms,
                &self.dinput,
                &mut self.dx,
                &mut grads[slots.norm.clone()],
            );
            // A row predicts one token, so each row of the stream is written once at most.
            for ((target, _), dx) in chunk.iter().zip(self.dx.chunks_exact(hidden)) {
                workspace.dx[target.row * hidden..][..hidden].copy_from_slice(dx);
            }
        }
        Ok(())
    }

    /// Computes the gradient of the logits of `chunk` into `self.logits`.
    fn chunk_logits(
        &mut self,
        kernels: &Kernels,
        decoder: &Decoder,
        chunk: &[(Target, f32)],
        x: &[f32],
    ) -> Result<(), ModelError> {
        let (hidden, vocab) = (decoder.shape.hidden, decoder.config.vocab_size);
        self.x.clear();
        for (target, _) in chunk {
            self.x.extend_from_slice(&x[target.row * hidden..][..hidden]);
        }
        self.inv_rms.resize(chunk.len(), 0.0);
        self.input.resize(chunk.len() * hidden, 0.0);
        let eps = decoder.shape.eps;
        kernels.rms_norm(&self.x, &decoder.norm, eps, &mut self.input, Some(&mut self.inv_rms));
        self.logits.resize(chunk.len() * vocab, 0.0);
        decoder.logits(kernels, &self.input, &mut self.logits);
        let tokens: Vec<TokenId> = chunk.iter().map(|(target, _)| target.token).collect();
        let derivatives: Vec<f32> = chunk.iter().map(|(_, derivative)| *derivative).collect();
        let cap = decoder.logit_cap();
        self.capped.clear();
        if cap.is_some() {
            self.capped.extend_from_slice(&self.logits);
        }
        kernels
            .cross_entropy_backward(&mut self.logits, vocab, &tokens, &derivatives)
            .map_err(not_finite)?;
        if let Some(cap) = cap {
            kernels.soft_cap_backward(&self.capped, &mut self.logits, cap);
        }
        Ok(())
    }
}
