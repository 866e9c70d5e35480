//! The LM head of a training step: log-probabilities and entropies forward, the loss's gradient
//! backward.
//!
//! Logits exist for some tokens of the vocabulary at a time. The forward pass keeps of each row what
//! its softmax is made of; the backward pass computes a block of logits again, turns it into its
//! gradient, and gives it to the gradients of input and weights before the next block: the chains
//! of the input's gradient are carried over the blocks, in the order of the vocabulary.

use std::ops::Range;

use grail_kernels::{EntropyTerm, Init, MatRef, PackedMatrix, SoftmaxStats};
use grail_ports::model::ModelError;
use grail_protocol::ids::TokenId;

use super::micro_batch::Target;
use super::workspace::{Pass, Workspace};
use crate::engine::{Draw, Head};

/// Tokens of a block, a multiple of 64: with 512 rows, 2 MiB of logits, which a cache holds.
const VOCAB_BLOCK: usize = 1024;
/// Most rows at a time.
const ROWS_MAX: usize = 512;

/// What the forward pass says of a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Predicted {
    /// Log-probability of the token, nats.
    pub(super) logprob: f32,
    /// Entropy of the distribution of the token, nats; 0 if not asked for.
    pub(super) entropy: f32,
    stats: SoftmaxStats,
}

/// Computes the log-probability of every target of `batch`, in order, and if `entropy` is wanted the
/// entropies too.
pub(super) fn predict(
    pass: &Pass<'_>,
    x: &[f32],
    head: &mut Head,
    entropy: bool,
) -> Result<Vec<Predicted>, ModelError> {
    let Pass { kernels, decoder, batch, .. } = *pass;
    let hidden = decoder.shape.hidden;
    let mut all = Vec::with_capacity(batch.targets.len());
    for targets in batch.targets.chunks(head.rows_max()) {
        pass.check_stop()?;
        let rows = targets.iter().map(|target| &x[target.row * hidden..][..hidden]);
        let draw =
            |target: &Target| Draw { claimed: Some(target.token), entropy, ..Draw::default() };
        let draws: Vec<Draw> = targets.iter().map(draw).collect();
        let drawn = head.draw(kernels, decoder, rows, &draws)?;
        all.extend(drawn.iter().filter_map(|drawn| {
            let entropy = drawn.entropy.unwrap_or(0.0);
            Some(Predicted { logprob: drawn.claimed?.logprob, entropy, stats: drawn.stats })
        }));
    }
    Ok(all)
}

/// Buffers of the backward pass, kept between micro-batches.
#[derive(Debug, Default)]
pub(super) struct LossHead {
    /// Rows of the residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    inv_rms: Vec<f32>,
    /// After the final norm, `[rows, hidden]`.
    input: Vec<f32>,
    /// `input`, packed as the right operand of the weight gradient.
    packed_input: PackedMatrix,
    /// A block of logits, then of their gradient; `[rows, block]`.
    logits: Vec<f32>,
    /// The block while its gradient is made, where logits are capped; else empty.
    capped: Vec<f32>,
    dinput: Vec<f32>,
    dx: Vec<f32>,
}

/// Rows that the loss depends on.
#[derive(Default)]
struct Used {
    rows: Vec<usize>,
    tokens: Vec<TokenId>,
    /// Derivatives of the loss by the tokens' log-probabilities.
    derivatives: Vec<f32>,
    /// Empty where the loss has no entropy term.
    entropies: Vec<EntropyTerm>,
    stats: Vec<SoftmaxStats>,
}

/// Derivatives of the loss, one for each target.
pub(super) struct Slopes<'a> {
    /// By the log-probabilities.
    pub(super) logprobs: &'a [f32],
    /// By the entropies; empty where the loss has no entropy term.
    pub(super) entropies: &'a [f32],
}

impl Slopes<'_> {
    /// Whether the loss does not depend on the target.
    fn is_flat(&self, target: usize) -> bool {
        let by_entropy = self.entropies.get(target).copied().unwrap_or(0.0);
        self.logprobs[target] == 0.0 && by_entropy == 0.0
    }

    /// Whether the loss depends on no target.
    pub(super) fn are_all_flat(&self) -> bool {
        (0..self.logprobs.len()).all(|target| self.is_flat(target))
    }
}

impl LossHead {
    /// Adds the gradients of head and final norm to `grads` and fills `workspace.dx`, given the
    /// derivatives of the loss. Targets whose derivatives are zero contribute nothing and are left
    /// out.
    ///
    /// # Errors
    /// [`ModelError::Stopped`], looked at before each block of rows.
    pub(super) fn backward(
        &mut self,
        pass: &Pass<'_>,
        predicted: &[Predicted],
        slopes: &Slopes<'_>,
        workspace: &mut Workspace,
        grads: &mut [f32],
    ) -> Result<(), ModelError> {
        let Pass { kernels, decoder, slots, batch, .. } = *pass;
        let hidden = decoder.shape.hidden;
        workspace.dx.clear();
        workspace.dx.resize(batch.rows() * hidden, 0.0);
        let used: Vec<usize> =
            (0..predicted.len()).filter(|&target| !slopes.is_flat(target)).collect();
        for chunk in used.chunks(ROWS_MAX) {
            pass.check_stop()?;
            let mut used = Used::default();
            for &target in chunk {
                let Target { row, token } = batch.targets[target];
                used.rows.push(row);
                used.tokens.push(token);
                used.derivatives.push(slopes.logprobs[target]);
                used.entropies.extend(slopes.entropies.get(target).map(|&coef| {
                    let entropy = predicted[target].entropy;
                    EntropyTerm { coef, entropy }
                }));
                used.stats.push(predicted[target].stats);
            }
            self.load(pass, &used, &workspace.x);
            self.dinput.clear();
            self.dinput.resize(chunk.len() * hidden, 0.0);
            let vocab = decoder.config.vocab_size;
            for start in (0..vocab).step_by(VOCAB_BLOCK) {
                self.block(pass, &used, start..vocab.min(start + VOCAB_BLOCK), grads);
            }
            self.dx.resize(chunk.len() * hidden, 0.0);
            let (norm, dweight) = (&decoder.norm, &mut grads[slots.norm.clone()]);
            let (x, dinput, dx) = (&self.x, &self.dinput, &mut self.dx);
            kernels.rms_norm_backward(x, norm, &self.inv_rms, dinput, dx, dweight);
            // A row predicts one token, so each row of the stream is written once at most.
            for (&row, dx) in used.rows.iter().zip(self.dx.chunks_exact(hidden)) {
                workspace.dx[row * hidden..][..hidden].copy_from_slice(dx);
            }
        }
        Ok(())
    }

    /// Computes the input of the head for the rows of the residual stream `x` that are `used`.
    fn load(&mut self, pass: &Pass<'_>, used: &Used, x: &[f32]) {
        let Pass { kernels, decoder, .. } = *pass;
        let (rows, hidden) = (used.rows.len(), decoder.shape.hidden);
        self.x.clear();
        for &row in &used.rows {
            self.x.extend_from_slice(&x[row * hidden..][..hidden]);
        }
        self.inv_rms.resize(rows, 0.0);
        self.input.resize(rows * hidden, 0.0);
        let (eps, inv_rms) = (decoder.shape.eps, Some(self.inv_rms.as_mut_slice()));
        kernels.rms_norm(&self.x, &decoder.norm, eps, &mut self.input, inv_rms);
        kernels.pack_columns(rows, hidden, &self.input, &mut self.packed_input);
    }

    /// Carries on the gradients of input and weights by those of the logits of `block`.
    fn block(&mut self, pass: &Pass<'_>, used: &Used, block: Range<usize>, grads: &mut [f32]) {
        let Pass { kernels, decoder, transposed, slots, .. } = *pass;
        let (rows, hidden) = (used.rows.len(), decoder.shape.hidden);
        let Used { tokens, derivatives, entropies, stats, .. } = used;
        self.logits.resize(rows * block.len(), 0.0);
        let input = MatRef::row_major(&self.input, rows, hidden);
        let (columns, steps, logits) = (block.clone(), 0..hidden, &mut self.logits);
        kernels.gemm_part(input, &decoder.head, columns, steps, logits, Init::Zero);
        let cap = decoder.logit_cap();
        if let Some(cap) = cap {
            kernels.soft_cap(&mut self.logits, cap);
            self.capped.clear();
            self.capped.extend_from_slice(&self.logits);
        }
        let logits = &mut self.logits;
        let first = block.start;
        if entropies.is_empty() {
            kernels.cross_entropy_block_backward(logits, first, tokens, derivatives, stats);
        } else {
            kernels.policy_block_backward(logits, first, tokens, derivatives, entropies, stats);
        }
        if let Some(cap) = cap {
            kernels.soft_cap_backward(&self.capped, &mut self.logits, cap);
        }
        let dlogits = MatRef::row_major(&self.logits, rows, block.len());
        let (columns, dinput) = (0..hidden, &mut self.dinput);
        kernels.gemm_part(dlogits, &transposed.head, columns, block.clone(), dinput, Init::Carry);
        if let Some(head) = &slots.head {
            let dweight = &mut grads[head.clone()][block.start * hidden..block.end * hidden];
            kernels.gemm(dlogits.transposed(), &self.packed_input, dweight, Init::Carry, None);
        }
    }
}
