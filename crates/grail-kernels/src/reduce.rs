//! Sums and maxima over one row: rule 3.
//!
//! Element `i` goes to lane `i mod 16`; each lane is one chain in index order, started at zero;
//! the lanes are added in the tree of [`crate::simd::tree_sum`]. Lanes beyond the end of the row
//! are skipped, not fed zeros.

use crate::kernels::Kernels;
use crate::simd::{LANES, Operation, Simd};

impl Kernels {
    /// Returns the sum of the squares of `x` (lane chains `fma(x, x, acc)`).
    pub fn sum_squares(&self, x: &[f32]) -> f32 {
        self.run(DotOperation { x, y: x })
    }

    /// Returns the sum of `x` (lane chains `acc + x`).
    pub fn reduce_sum(&self, x: &[f32]) -> f32 {
        self.run(SumOperation { x })
    }

    /// Returns the dot product of `x` and `y` (lane chains `fma(x, y, acc)`).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn reduce_dot(&self, x: &[f32], y: &[f32]) -> f32 {
        assert_eq!(x.len(), y.len(), "reduce_dot: lengths differ");
        self.run(DotOperation { x, y })
    }

    /// Returns the largest value of `x`, minus infinity if it is empty, NaN if it holds a NaN.
    pub fn row_max(&self, x: &[f32]) -> f32 {
        self.run(MaxOperation { x })
    }
}

struct DotOperation<'a> {
    x: &'a [f32],
    y: &'a [f32],
}

impl Operation for DotOperation<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        dot(simd, self.x, self.y)
    }
}

struct SumOperation<'a> {
    x: &'a [f32],
}

impl Operation for SumOperation<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut sum = simd.splat(0.0);
        for x in self.x.chunks(LANES) {
            let next = simd.add(sum, simd.load_part(x, 0.0));
            sum = advance(simd, x.len(), next, sum);
        }
        simd.tree_sum(sum)
    }
}

struct MaxOperation<'a> {
    x: &'a [f32],
}

impl Operation for MaxOperation<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        max(simd, self.x)
    }
}

/// The lane sums after a step that only `count` lanes take: `next` there, `sum` in the others.
#[inline(always)]
pub(crate) fn advance<S: Simd>(simd: S, count: usize, next: S::F, sum: S::F) -> S::F {
    if count >= LANES { next } else { simd.select(simd.first(count), next, sum) }
}

/// Rule-3 dot product of two rows of one length.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let mut sum = simd.splat(0.0);
    for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
        let next = simd.fma(simd.load_part(x, 0.0), simd.load_part(y, 0.0), sum);
        sum = advance(simd, x.len(), next, sum);
    }
    simd.tree_sum(sum)
}

/// The largest value, or NaN if there is one.
#[inline(always)]
pub(crate) fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut best = simd.splat(f32::NEG_INFINITY);
    let mut nan = simd.is_nan(best);
    for chunk in x.chunks(LANES) {
        let x = simd.load_part(chunk, f32::NEG_INFINITY);
        nan = simd.or(nan, simd.is_nan(x));
        best = simd.max(x, best);
    }
    if simd.any(nan) { f32::NAN } else { simd.max_lane(best) }
}
