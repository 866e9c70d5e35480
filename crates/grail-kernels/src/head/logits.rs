//! Log-probabilities of chosen tokens from logits that are there, and the gradient of their
//! cross-entropy. [`Kernels::head`] gives the same without holding logits.

use super::softmax::{
    BlockStats, Blocks, EntropyTerm, Gradient, GradientWithEntropy, JoinBlocks, SOFTMAX_BLOCK,
    SoftmaxStats,
};
use crate::KernelError;
use crate::kernels::{Kernels, SharedMut};
use crate::simd::LANES;

/// An exponential costs about this many times a plain value.
const EXP_COST: usize = 4;

impl Kernels {
    /// Writes the log-probability of `tokens[row]` under each row of `logits`, `[rows, vocab]`, by
    /// the definition of [`SOFTMAX_BLOCK`]'s blocks.
    ///
    /// # Errors
    /// If a row holds NaN or +infinity, or nothing above -infinity. `out` is then unspecified.
    ///
    /// # Panics
    /// If a shape does not fit, or a token is not below `vocab`.
    pub fn log_softmax_of(
        &self,
        logits: &[f32],
        vocab: usize,
        tokens: &[u32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        assert_eq!(out.len(), tokens.len(), "log_softmax_of: out must have one value a row");
        check_rows("log_softmax_of", logits, vocab, tokens);
        let stats = self.softmax_stats(logits, vocab)?;
        for (row, (out, stats)) in out.iter_mut().zip(stats).enumerate() {
            *out = stats.logprob(logits[row * vocab + tokens[row] as usize]);
        }
        Ok(())
    }

    /// Returns what the log-softmax of each row of `logits`, `[rows, vocab]`, is made of.
    ///
    /// # Errors
    /// If a row holds NaN or +infinity, or nothing above -infinity.
    ///
    /// # Panics
    /// If `logits` are no whole rows.
    pub fn softmax_stats(
        &self,
        logits: &[f32],
        vocab: usize,
    ) -> Result<Vec<SoftmaxStats>, KernelError> {
        let whole = vocab > 0 && logits.len().is_multiple_of(vocab);
        assert!(whole, "softmax_stats: {} logits in rows of {vocab}", logits.len());
        let rows = logits.len() / vocab;
        let n_blocks = vocab.div_ceil(SOFTMAX_BLOCK);
        let mut blocks = Blocks::new(rows * n_blocks);
        let (max, sum) = (SharedMut::new(&mut blocks.max), SharedMut::new(&mut blocks.sum));
        self.for_ranges(rows * n_blocks, vocab.min(SOFTMAX_BLOCK) * EXP_COST, 1, &|range| {
            for task in range {
                let (row, block) = (task / n_blocks, task % n_blocks);
                let logits = &logits[row * vocab..][..vocab];
                let logits = &logits[block * SOFTMAX_BLOCK..vocab.min((block + 1) * SOFTMAX_BLOCK)];
                let (m, s, _) = self.run(BlockStats { logits, entropy: false });
                // SAFETY: each (row, block) belongs to one task.
                unsafe {
                    max.put(block * rows + row, m);
                    sum.put(block * rows + row, s);
                }
            }
        });
        self.join_blocks(&blocks, rows)
            .into_iter()
            .map(|joined| joined.map(|(stats, _)| stats))
            .collect()
    }

    /// Joins the blocks, `[blocks, rows]`, to the statistics and the entropy of each row.
    pub(super) fn join_blocks(
        &self,
        blocks: &Blocks<Vec<f32>>,
        rows: usize,
    ) -> Vec<Result<(SoftmaxStats, f32), KernelError>> {
        let mut all = Vec::with_capacity(rows);
        for first_row in (0..rows).step_by(LANES) {
            let count = LANES.min(rows - first_row);
            let Blocks { max, sum, moment } = blocks;
            let blocks = Blocks { max: max.as_slice(), sum, moment };
            let [max, sum, ln_sum, entropy] =
                self.run(JoinBlocks { blocks, stride: rows, first_row, rows: count });
            for lane in 0..count {
                let stats = SoftmaxStats { max: max[lane], sum: sum[lane], ln_sum: ln_sum[lane] };
                all.push(if stats.is_valid() {
                    Ok((stats, entropy[lane]))
                } else {
                    Err(KernelError::NoSoftmax { row: first_row + lane })
                });
            }
        }
        all
    }

    /// Turns each row of `logits`, `[rows, vocab]`, into `coef * (onehot(token) - softmax)`: the
    /// gradient of `coef[row] * logprob(tokens[row])`.
    ///
    /// Per value, with `p = exp(logit - M) / S`: `coef * ((v == token ? 1 : 0) - p)`.
    ///
    /// # Errors
    /// If a row holds NaN or +infinity, or nothing above -infinity. `logits` is then unspecified.
    ///
    /// # Panics
    /// If a shape does not fit, or a token is not below `vocab`.
    pub fn cross_entropy_backward(
        &self,
        logits: &mut [f32],
        vocab: usize,
        tokens: &[u32],
        coef: &[f32],
    ) -> Result<(), KernelError> {
        check_rows("cross_entropy_backward", logits, vocab, tokens);
        let stats = self.softmax_stats(logits, vocab)?;
        self.cross_entropy_block_backward(logits, 0, tokens, coef, &stats);
        Ok(())
    }

    /// [`Kernels::cross_entropy_backward`] of some neighbouring tokens only: `logits` are those of
    /// tokens `first_token ..`, `[rows, width]`, and `stats` those of the whole rows, as
    /// [`Kernels::head`] gives them. A row's token may lie outside.
    ///
    /// # Panics
    /// If there is not one token, coefficient and statistics for each row.
    pub fn cross_entropy_block_backward(
        &self,
        logits: &mut [f32],
        first_token: usize,
        tokens: &[u32],
        coef: &[f32],
        stats: &[SoftmaxStats],
    ) {
        let gradient = |row, logits: &mut [f32], token| {
            self.run(Gradient { logits, stats: stats[row], token, coef: coef[row] });
        };
        let shape = (coef.len(), stats.len());
        self.each_row(
            "cross_entropy_block_backward",
            logits,
            (first_token, tokens),
            shape,
            gradient,
        );
    }

    /// As [`Kernels::cross_entropy_block_backward`], with an entropy term of each row: the gradient of
    /// `coef[row] * logprob(tokens[row]) + terms[row].coef * entropy`.
    ///
    /// Per value, with `p` as there, `l = (logit - M) - ln(S)` and `H = terms[row].entropy`:
    /// `coef * ((v == token ? 1 : 0) - p) - terms.coef * (p * (l + H))`, the last factor 0 where `p`
    /// is.
    ///
    /// # Panics
    /// If there is not one token, coefficient, term and statistics for each row.
    pub fn policy_block_backward(
        &self,
        logits: &mut [f32],
        first_token: usize,
        tokens: &[u32],
        coef: &[f32],
        terms: &[EntropyTerm],
        stats: &[SoftmaxStats],
    ) {
        assert_eq!(
            terms.len(),
            tokens.len(),
            "policy_block_backward: one entropy term for each row"
        );
        let gradient = |row, logits: &mut [f32], token| {
            let (stats, coef, term) = (stats[row], coef[row], terms[row]);
            self.run(GradientWithEntropy { logits, stats, token, coef, term });
        };
        let shape = (coef.len(), stats.len());
        self.each_row("policy_block_backward", logits, (first_token, tokens), shape, gradient);
    }

    /// Hands each row of a block of logits to one task, with the place of its token if that lies in
    /// the block. `shape` is the numbers of coefficients and of statistics.
    fn each_row(
        &self,
        what: &str,
        logits: &mut [f32],
        (first_token, tokens): (usize, &[u32]),
        shape: (usize, usize),
        gradient: impl Fn(usize, &mut [f32], Option<usize>) + Sync,
    ) {
        let rows = tokens.len();
        assert!(
            shape == (rows, rows),
            "{what}: one coefficient and statistics for each of {rows} rows"
        );
        let width = logits.len().checked_div(rows).unwrap_or(0);
        assert_eq!(logits.len(), rows * width, "{what}: logits are no {rows} rows");
        let shared = SharedMut::new(logits);
        self.for_ranges(rows, width * EXP_COST, 1, &|range| {
            for row in range {
                // SAFETY: each row belongs to one task.
                let logits = unsafe { shared.slice(row * width, width) };
                let token = (tokens[row] as usize).checked_sub(first_token);
                gradient(row, logits, token.filter(|&token| token < width));
            }
        });
    }
}

fn check_rows(what: &str, logits: &[f32], vocab: usize, tokens: &[u32]) {
    assert!(
        vocab > 0 && logits.len() == tokens.len() * vocab,
        "{what}: {} logits for {} rows of {vocab}",
        logits.len(),
        tokens.len()
    );
    let below = tokens.iter().all(|&token| (token as usize) < vocab);
    assert!(below, "{what}: a token is not below {vocab}");
}
