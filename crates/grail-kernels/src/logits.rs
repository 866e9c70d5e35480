//! Log-probabilities of chosen tokens, and the gradient of their cross-entropy.

use crate::KernelError;
use crate::kernels::{Kernels, SharedMut};
use crate::math::{exp_lanes, ln};
use crate::reduce::{advance, max};
use crate::simd::{LANES, Operation, Simd};

/// An exponential costs about this many times a plain value.
const EXP_COST: usize = 4;

impl Kernels {
    /// Writes the log-probability of `tokens[row]` under each row of `logits`, `[rows, vocab]`:
    /// `(logit - max) - ln(sum of exp(logit - max))`, the sum by rule 3.
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
        let shared = SharedMut::new(out);
        self.for_ranges(tokens.len(), vocab * EXP_COST, 1, &|range| {
            for row in range {
                let logits = &logits[row * vocab..][..vocab];
                let total = self.run(Total { logits });
                // NaN marks a row without a softmax: a finite row cannot give one.
                let logprob = if total.sum.is_nan() {
                    f32::NAN
                } else {
                    (logits[tokens[row] as usize] - total.max) - ln(total.sum)
                };
                // SAFETY: each row belongs to one task.
                unsafe { shared.put(row, logprob) };
            }
        });
        match out.iter().position(|logprob| logprob.is_nan()) {
            Some(row) => Err(KernelError::NoSoftmax { row }),
            None => Ok(()),
        }
    }

    /// Turns each row of `logits`, `[rows, vocab]`, into `coef * (onehot(token) - softmax)`: the
    /// gradient of `coef[row] * logprob(tokens[row])`.
    ///
    /// Per value, with `p = exp(logit - max) / sum`: `coef * ((v == token ? 1 : 0) - p)`.
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
        assert_eq!(coef.len(), tokens.len(), "cross_entropy_backward: one coefficient a row");
        check_rows("cross_entropy_backward", logits, vocab, tokens);
        let mut nan = vec![false; tokens.len()];
        let (shared, shared_nan) = (SharedMut::new(logits), SharedMut::new(&mut nan));
        self.for_ranges(tokens.len(), vocab * EXP_COST, 1, &|range| {
            for row in range {
                // SAFETY: each row belongs to one task.
                let (logits, nan) =
                    unsafe { (shared.slice(row * vocab, vocab), shared_nan.slice(row, 1)) };
                let total = self.run(Total { logits });
                let (token, coef) = (tokens[row] as usize, coef[row]);
                nan[0] = self.run(Gradient { logits, total, token, coef });
            }
        });
        match nan.iter().position(|&nan| nan) {
            Some(row) => Err(KernelError::NoSoftmax { row }),
            None => Ok(()),
        }
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

/// What a softmax divides by.
#[derive(Clone, Copy)]
struct RowTotal {
    max: f32,
    sum: f32,
}

struct Total<'a> {
    logits: &'a [f32],
}

impl Operation for Total<'_> {
    type Output = RowTotal;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> RowTotal {
        let max = max(simd, self.logits);
        let mut sum = simd.splat(0.0);
        for x in self.logits.chunks(LANES) {
            let shifted = simd.sub(simd.load_part(x, 0.0), simd.splat(max));
            let next = simd.add(sum, exp_lanes(simd, shifted));
            sum = advance(simd, x.len(), next, sum);
        }
        RowTotal { max, sum: simd.tree_sum(sum) }
    }
}

struct Gradient<'a> {
    logits: &'a mut [f32],
    total: RowTotal,
    token: usize,
    coef: f32,
}

impl Operation for Gradient<'_> {
    /// Whether the row has no softmax.
    type Output = bool;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        let coef = simd.splat(self.coef);
        let chosen = simd.splat(self.logits[self.token]);
        for chunk in self.logits.chunks_mut(LANES) {
            let p = probability(simd, simd.load_part(chunk, 0.0), self.total);
            simd.store_part(simd.mul(coef, simd.sub(simd.splat(0.0), p)), chunk);
        }
        let p = probability(simd, chosen, self.total);
        let gradient = simd.mul(coef, simd.sub(simd.splat(1.0), p));
        simd.store_part(gradient, &mut self.logits[self.token..=self.token]);
        self.total.sum.is_nan()
    }
}

#[inline(always)]
fn probability<S: Simd>(simd: S, logit: S::F, total: RowTotal) -> S::F {
    let shifted = simd.sub(logit, simd.splat(total.max));
    simd.div(exp_lanes(simd, shifted), simd.splat(total.sum))
}
