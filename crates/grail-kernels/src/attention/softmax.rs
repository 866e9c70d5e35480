//! The softmax of one row of scores, and its derivative.

use super::BLOCK;
use crate::math::{exp_not_positive_lanes, tanh_lanes};
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// What the backward pass needs to rebuild a row's softmax.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    /// The largest score.
    pub(super) max: f32,
    /// The sum of the exponentials; NaN if the row has no softmax.
    pub(super) sum: f32,
}

/// Turns the scores `seen` into exponentials, in place. The others mean nothing afterwards.
///
/// `scores` begins and ends with a block that holds a seen position.
#[inline(always)]
pub(super) fn softmax<S: Simd>(
    simd: S,
    scores: &mut [f32],
    seen: Range<usize>,
    soft_cap: Option<f32>,
) -> Stats {
    if let Some(cap) = soft_cap {
        let cap = simd.splat(cap);
        for scores in scores.chunks_exact_mut(BLOCK) {
            let t = tanh_lanes(simd, simd.div(simd.load_part(scores, 0.0), cap));
            simd.store_part(simd.mul(cap, t), scores);
        }
    }
    // Their exponential is +0, and adding +0 to a sum that began with +0 skips it: no bit changes.
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let max = max(simd, scores);
    let max_lanes = simd.splat(max);
    let mut sum = simd.splat(0.0);
    for scores in scores.chunks_exact_mut(BLOCK) {
        let shifted = simd.sub(simd.load_part(scores, 0.0), max_lanes);
        let p = exp_not_positive_lanes(simd, shifted);
        simd.store_part(p, scores);
        sum = simd.add(sum, p);
    }
    // Without a finite maximum every difference is NaN, which the exponential above does not carry.
    let sum = if max.is_finite() { simd.tree_sum(sum) } else { f32::NAN };
    Stats { max, sum }
}

/// The largest of whole blocks, or NaN if there is one. Four chains hide the latency.
#[inline(always)]
fn max<S: Simd>(simd: S, scores: &[f32]) -> f32 {
    let lowest = simd.splat(f32::NEG_INFINITY);
    let mut best = [lowest; 4];
    let mut nan = simd.is_nan(lowest);
    for four in scores.chunks(4 * LANES) {
        for (best, x) in best.iter_mut().zip(four.chunks_exact(LANES)) {
            let x = simd.load_part(x, f32::NEG_INFINITY);
            nan = simd.or(nan, simd.is_nan(x));
            *best = simd.max(x, *best);
        }
    }
    let [a, b, c, d] = best;
    let best = simd.max(simd.max(a, b), simd.max(c, d));
    if simd.any(nan) { f32::NAN } else { simd.max_lane(best) }
}

/// What turns the products of one query row into its gradients.
#[derive(Clone, Copy)]
pub(super) struct Derivative {
    pub(super) stats: Stats,
    /// The product of the output and its gradient.
    pub(super) delta: f32,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
}

impl Derivative {
    /// Turns products of queries and keys into probabilities, and products of output gradients and
    /// values into score gradients, in place. Both are whole blocks of one row.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, simd: S, products: &mut [f32], gradients: &mut [f32]) {
        let (scale, one) = (simd.splat(self.scale), simd.splat(1.0));
        let (max, sum) = (simd.splat(self.stats.max), simd.splat(self.stats.sum));
        let delta = simd.splat(self.delta);
        let blocks = products.chunks_exact_mut(BLOCK).zip(gradients.chunks_exact_mut(BLOCK));
        for (product, gradient) in blocks {
            let mut score = simd.mul(simd.load_part(product, 0.0), scale);
            let mut slope = one;
            if let Some(cap) = self.soft_cap {
                let cap = simd.splat(cap);
                let t = tanh_lanes(simd, simd.div(score, cap));
                score = simd.mul(cap, t);
                slope = simd.fma(simd.neg(t), t, one);
            }
            let p = simd.div(exp_not_positive_lanes(simd, simd.sub(score, max)), sum);
            simd.store_part(p, product);
            let mut ds = simd.mul(p, simd.sub(simd.load_part(gradient, 0.0), delta));
            if self.soft_cap.is_some() {
                ds = simd.mul(ds, slope);
            }
            simd.store_part(simd.mul(ds, scale), gradient);
        }
    }
}
