//! The softmax of a row of logits, block by block of the vocabulary.
//!
//! Blocks are [`SOFTMAX_BLOCK`] consecutive tokens, the last may be shorter. Block `b` gives
//! ```text
//! m[b] = its largest logit
//! s[b] = sum of exp(x - m[b])                         lanes and tree of rule 3
//! t[b] = sum of exp(x - m[b]) * (x - m[b])            the same; a product, then a sum; a term
//!                                                     whose exponential is 0 is 0
//! ```
//! and the row, over its blocks in order, leaving out those whose `m[b]` is minus infinity (in `U`,
//! those whose `w[b]` is 0):
//! ```text
//! M = max of m[b]
//! w[b] = exp(m[b] - M)
//! S = 0; S = fma(s[b], w[b], S)
//! U = 0; U = fma(w[b], fma(s[b], m[b] - M, t[b]), U)
//! logprob(x) = (x - M) - ln(S)        p(x) = exp(x - M) / S        entropy = ln(S) - U / S
//! ```
//! A block fits a core's cache, so a head that is fused with its matrix product never holds the
//! logits of a whole row.

use crate::math::{exp_lanes, ln_lanes};
use crate::reduce::{advance, max};
use crate::simd::{LANES, Operation, Simd};

/// Tokens of a block. Part of the numeric contract: another number gives other bits.
pub const SOFTMAX_BLOCK: usize = 1_024;

/// What the log-softmax of a row is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SoftmaxStats {
    /// `M`, the largest logit.
    pub max: f32,
    /// `S`, the sum of the exponentials.
    pub sum: f32,
    /// `ln(S)`.
    pub ln_sum: f32,
}

impl SoftmaxStats {
    /// The log-probability of a token with this logit, nats.
    pub fn logprob(self, logit: f32) -> f32 {
        (logit - self.max) - self.ln_sum
    }

    /// Whether there is a softmax: every logit below +infinity, one above -infinity, none NaN.
    pub(crate) fn is_valid(self) -> bool {
        self.max.is_finite() && self.sum.is_finite()
    }
}

/// `m`, `s` and `t` of some blocks of some rows, `[blocks, rows]` each.
pub(crate) struct Blocks<T> {
    pub(crate) max: T,
    pub(crate) sum: T,
    pub(crate) moment: T,
}

impl Blocks<Vec<f32>> {
    pub(crate) fn new(len: usize) -> Self {
        Self { max: vec![0.0; len], sum: vec![0.0; len], moment: vec![0.0; len] }
    }
}

/// Reads a block of one row.
pub(crate) struct BlockStats<'a> {
    /// At most [`SOFTMAX_BLOCK`] logits.
    pub(crate) logits: &'a [f32],
    /// Whether `t` is wanted; else it is 0.
    pub(crate) entropy: bool,
}

impl Operation for BlockStats<'_> {
    /// `m`, `s`, `t`.
    type Output = (f32, f32, f32);
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, f32, f32) {
        let block_max = max(simd, self.logits);
        let max_lanes = simd.splat(block_max);
        let (mut sum, mut moment) = (simd.splat(0.0), simd.splat(0.0));
        for x in self.logits.chunks(LANES) {
            let shifted = simd.sub(simd.load_part(x, 0.0), max_lanes);
            let e = exp_lanes(simd, shifted);
            sum = advance(simd, x.len(), simd.add(sum, e), sum);
            if self.entropy {
                let zero = simd.splat(0.0);
                let term = simd.select(simd.gt(e, zero), simd.mul(e, shifted), zero);
                moment = advance(simd, x.len(), simd.add(moment, term), moment);
            }
        }
        (block_max, simd.tree_sum(sum), simd.tree_sum(moment))
    }
}

/// Joins the blocks of up to sixteen neighbouring rows; a row is a lane.
pub(crate) struct JoinBlocks<'a> {
    /// `[blocks, stride]`.
    pub(crate) blocks: Blocks<&'a [f32]>,
    pub(crate) stride: usize,
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
}

impl Operation for JoinBlocks<'_> {
    /// `M`, `S`, `ln(S)` and the entropy of each row.
    type Output = [[f32; LANES]; 4];
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [[f32; LANES]; 4] {
        let range = self.first_row..self.first_row + self.rows;
        let lowest = simd.splat(f32::NEG_INFINITY);
        let mut row_max = lowest;
        let mut nan = simd.is_nan(lowest);
        for max in self.blocks.max.chunks_exact(self.stride) {
            let max = simd.load_part(&max[range.clone()], 0.0);
            nan = simd.or(nan, simd.is_nan(max));
            row_max = simd.max(max, row_max);
        }
        row_max = simd.select(nan, simd.splat(f32::NAN), row_max);
        let (mut sum, mut moment) = (simd.splat(0.0), simd.splat(0.0));
        let sums = self.blocks.sum.chunks_exact(self.stride);
        let moments = self.blocks.moment.chunks_exact(self.stride);
        for ((max, s), t) in self.blocks.max.chunks_exact(self.stride).zip(sums).zip(moments) {
            let max = simd.load_part(&max[range.clone()], 0.0);
            let s = simd.load_part(&s[range.clone()], 0.0);
            let t = simd.load_part(&t[range.clone()], 0.0);
            let shift = simd.sub(max, row_max);
            let weight = exp_lanes(simd, shift);
            // False for NaN, which must reach the sum.
            let empty = simd.gt(simd.splat(f32::MIN), max);
            sum = simd.select(empty, sum, simd.fma(s, weight, sum));
            let next = simd.fma(weight, simd.fma(s, shift, t), moment);
            moment = simd.select(simd.gt(weight, simd.splat(0.0)), next, moment);
        }
        let ln_sum = ln_lanes(simd, sum);
        let entropy = simd.sub(ln_sum, simd.div(moment, sum));
        let mut out = [[0.0; LANES]; 4];
        for (out, value) in out.iter_mut().zip([row_max, sum, ln_sum, entropy]) {
            simd.store(value, out);
        }
        out
    }
}

/// Turns logits of one row into the gradient of `coef * logprob(token)`, in place.
pub(crate) struct Gradient<'a> {
    pub(crate) logits: &'a mut [f32],
    pub(crate) stats: SoftmaxStats,
    /// Index in `logits`, if the token is there.
    pub(crate) token: Option<usize>,
    pub(crate) coef: f32,
}

impl Operation for Gradient<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let coef = simd.splat(self.coef);
        let chosen = self.token.map(|token| simd.splat(self.logits[token]));
        for chunk in self.logits.chunks_mut(LANES) {
            let p = probability(simd, simd.load_part(chunk, 0.0), self.stats);
            simd.store_part(simd.mul(coef, simd.sub(simd.splat(0.0), p)), chunk);
        }
        if let (Some(chosen), Some(token)) = (chosen, self.token) {
            let p = probability(simd, chosen, self.stats);
            let gradient = simd.mul(coef, simd.sub(simd.splat(1.0), p));
            simd.store_part(gradient, &mut self.logits[token..=token]);
        }
    }
}

/// What the entropy of a row adds to its loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EntropyTerm {
    /// Derivative of the loss by the entropy.
    pub coef: f32,
    /// The entropy of the row's softmax, nats.
    pub entropy: f32,
}

/// Turns logits of one row into the gradient of `coef * logprob(token)` and of an entropy term, in
/// place.
pub(crate) struct GradientWithEntropy<'a> {
    pub(crate) logits: &'a mut [f32],
    pub(crate) stats: SoftmaxStats,
    /// Index in `logits`, if the token is there.
    pub(crate) token: Option<usize>,
    pub(crate) coef: f32,
    pub(crate) term: EntropyTerm,
}

impl Operation for GradientWithEntropy<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { stats, coef, term, .. } = self;
        let chosen = self.token.map(|token| simd.splat(self.logits[token]));
        for chunk in self.logits.chunks_mut(LANES) {
            let logits = simd.load_part(chunk, 0.0);
            simd.store_part(policy_gradient(simd, logits, 0.0, stats, coef, term), chunk);
        }
        if let (Some(chosen), Some(token)) = (chosen, self.token) {
            let gradient = policy_gradient(simd, chosen, 1.0, stats, coef, term);
            simd.store_part(gradient, &mut self.logits[token..=token]);
        }
    }
}

#[inline(always)]
fn policy_gradient<S: Simd>(
    simd: S,
    logit: S::F,
    onehot: f32,
    stats: SoftmaxStats,
    coef: f32,
    term: EntropyTerm,
) -> S::F {
    let zero = simd.splat(0.0);
    let p = probability(simd, logit, stats);
    let shifted = simd.sub(logit, simd.splat(stats.max));
    let logprob = simd.sub(shifted, simd.splat(stats.ln_sum));
    let slope = simd.mul(p, simd.add(logprob, simd.splat(term.entropy)));
    // A token of probability 0 may have an infinite log-probability.
    let slope = simd.select(simd.gt(p, zero), slope, zero);
    let choice = simd.mul(simd.splat(coef), simd.sub(simd.splat(onehot), p));
    simd.sub(choice, simd.mul(simd.splat(term.coef), slope))
}

#[inline(always)]
fn probability<S: Simd>(simd: S, logit: S::F, stats: SoftmaxStats) -> S::F {
    let shifted = simd.sub(logit, simd.splat(stats.max));
    simd.div(exp_lanes(simd, shifted), simd.splat(stats.sum))
}
