//! Root-mean-square normalisation of rows, forward and backward.

use crate::kernels::{Kernels, SharedMut};
use crate::reduce::{advance, dot};
use crate::simd::{LANES, Operation, Simd};

impl Kernels {
    /// Computes `y = (x * inv) * weight` for each row, with
    /// `inv = 1 / sqrt(sum_squares(x) / width + eps)`.
    ///
    /// `x` and `y` are `[rows, width]`, `weight` is `[width]`. The sum is that of
    /// [`Kernels::sum_squares`]; every other operation is one rounding, in the order written.
    /// `inv_rms`, if given, receives `inv` of each row for the backward pass.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn rms_norm(
        &self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        y: &mut [f32],
        inv_rms: Option<&mut [f32]>,
    ) {
        let (width, rows) = row_shape("rms_norm", x, weight);
        assert_eq!(y.len(), x.len(), "rms_norm: y has another shape than x");
        assert!(
            inv_rms.as_ref().is_none_or(|inv| inv.len() == rows),
            "rms_norm: inv_rms must have {rows} values"
        );
        let y = SharedMut::new(y);
        let inv_rms = inv_rms.map(SharedMut::new);
        self.for_ranges(rows, width, 1, &|range| {
            for row in range {
                let x = &x[row * width..][..width];
                // SAFETY: each row belongs to one task.
                let y = unsafe { y.slice(row * width, width) };
                let inv = self.run(Forward { x, weight, eps, y });
                if let Some(inv_rms) = inv_rms {
                    // SAFETY: as above.
                    unsafe { inv_rms.put(row, inv) };
                }
            }
        });
    }

    /// Computes the gradients of [`Kernels::rms_norm`] from `dy`, that of its output.
    ///
    /// Per row, with `g = dy * weight` and `c = sum of g * x` (rule 3, `fma(g, x, acc)`):
    /// `t = ((inv * inv) * inv) * (c / width)`, then `dx = fma(-t, x, g * inv)`. `dx` is written.
    /// `dweight` is carried on: one chain over rows in order of `fma(dy, x * inv, acc)`.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn rms_norm_backward(
        &self,
        x: &[f32],
        weight: &[f32],
        inv_rms: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        dweight: &mut [f32],
    ) {
        let (width, rows) = row_shape("rms_norm_backward", x, weight);
        assert!(
            dy.len() == x.len() && dx.len() == x.len(),
            "rms_norm_backward: x, dy and dx have different shapes"
        );
        assert_eq!(inv_rms.len(), rows, "rms_norm_backward: inv_rms must have one value a row");
        assert_eq!(dweight.len(), width, "rms_norm_backward: dweight must have the row's width");
        let dx = SharedMut::new(dx);
        self.for_ranges(rows, width, 1, &|range| {
            for row in range {
                let (x, dy) = (&x[row * width..][..width], &dy[row * width..][..width]);
                // SAFETY: each row belongs to one task.
                let dx = unsafe { dx.slice(row * width, width) };
                self.run(BackwardInput { x, weight, inv: inv_rms[row], dy, dx });
            }
        });
        let dweight = SharedMut::new(dweight);
        self.for_ranges(width, rows, LANES, &|columns| {
            // SAFETY: each column belongs to one task.
            let dweight = unsafe { dweight.range(columns.clone()) };
            self.run(BackwardWeight { x, inv_rms, dy, width, first: columns.start, dweight });
        });
    }
}

/// The width and number of rows of `x`.
fn row_shape(what: &str, x: &[f32], weight: &[f32]) -> (usize, usize) {
    let width = weight.len();
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "{what}: {} values in rows of {width}",
        x.len()
    );
    (width, x.len() / width)
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Operation for Forward<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mean = dot(simd, self.x, self.x) / self.x.len() as f32;
        let inv = 1.0 / (mean + self.eps).sqrt();
        let inv_lanes = simd.splat(inv);
        let inputs = self.x.chunks(LANES).zip(self.weight.chunks(LANES));
        for ((x, weight), y) in inputs.zip(self.y.chunks_mut(LANES)) {
            let normed = simd.mul(simd.load_part(x, 0.0), inv_lanes);
            simd.store_part(simd.mul(normed, simd.load_part(weight, 0.0)), y);
        }
        inv
    }
}

struct BackwardInput<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    inv: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Operation for BackwardInput<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.x.len();
        let mut sum = simd.splat(0.0);
        let inputs = self.dy.chunks(LANES).zip(self.weight.chunks(LANES));
        for ((dy, weight), x) in inputs.zip(self.x.chunks(LANES)) {
            let scaled = simd.mul(simd.load_part(dy, 0.0), simd.load_part(weight, 0.0));
            let next = simd.fma(scaled, simd.load_part(x, 0.0), sum);
            sum = advance(simd, x.len(), next, sum);
        }
        let inv = self.inv;
        let t = ((inv * inv) * inv) * (simd.tree_sum(sum) / width as f32);
        let (inv, minus_t) = (simd.splat(inv), simd.splat(-t));
        let inputs = self.dy.chunks(LANES).zip(self.weight.chunks(LANES));
        let rows = self.x.chunks(LANES).zip(self.dx.chunks_mut(LANES));
        for ((dy, weight), (x, dx)) in inputs.zip(rows) {
            let scaled = simd.mul(simd.load_part(dy, 0.0), simd.load_part(weight, 0.0));
            let direct = simd.mul(scaled, inv);
            simd.store_part(simd.fma(minus_t, simd.load_part(x, 0.0), direct), dx);
        }
    }
}

struct BackwardWeight<'a> {
    x: &'a [f32],
    inv_rms: &'a [f32],
    dy: &'a [f32],
    width: usize,
    /// Column of `dweight[0]`.
    first: usize,
    dweight: &'a mut [f32],
}

impl Operation for BackwardWeight<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (row, &inv) in self.inv_rms.iter().enumerate() {
            let start = row * self.width + self.first;
            let x = &self.x[start..][..self.dweight.len()];
            let dy = &self.dy[start..][..self.dweight.len()];
            let inputs = x.chunks(LANES).zip(dy.chunks(LANES));
            for ((x, dy), dweight) in inputs.zip(self.dweight.chunks_mut(LANES)) {
                let normed = simd.mul(simd.load_part(x, 0.0), simd.splat(inv));
                let sum = simd.fma(simd.load_part(dy, 0.0), normed, simd.load_part(dweight, 0.0));
                simd.store_part(sum, dweight);
            }
        }
    }
}
