//! Passes that treat every value alone: soft-caps, residual sums, scaling.

use crate::kernels::{Kernels, SharedMut};
use crate::math::tanh_lanes;
use crate::simd::{LANES, Operation, Simd};

impl Kernels {
    /// Turns `dx`, the gradient of the output of [`Kernels::soft_cap`], into that of its input:
    /// with `t = capped / cap`, `dx = dx * fma(-t, t, 1)`. `capped` is that output.
    ///
    /// # Panics
    /// If the lengths differ, or `cap` is not positive and finite.
    pub fn soft_cap_backward(&self, capped: &[f32], dx: &mut [f32], cap: f32) {
        assert!(cap > 0.0 && cap.is_finite(), "soft_cap: {cap} is not positive and finite");
        assert_eq!(capped.len(), dx.len(), "soft_cap_backward: lengths differ");
        let dx = SharedMut::new(dx);
        self.for_ranges(capped.len(), 2, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let dx = unsafe { dx.range(range.clone()) };
            self.run(SoftCapBackward { capped: &capped[range], dx, cap });
        });
    }

    /// Computes `x = cap * tanh(x / cap)`, each operation rounded: the soft-cap of logits.
    ///
    /// # Panics
    /// If `cap` is not positive and finite.
    pub fn soft_cap(&self, x: &mut [f32], cap: f32) {
        assert!(cap > 0.0 && cap.is_finite(), "soft_cap: {cap} is not positive and finite");
        let len = x.len();
        let x = SharedMut::new(x);
        self.for_ranges(len, 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            self.run(SoftCap { x: unsafe { x.range(range) }, cap });
        });
    }

    /// Computes `y = y + x`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_assign(&self, y: &mut [f32], x: &[f32]) {
        assert_eq!(y.len(), x.len(), "add_assign: lengths differ");
        let y = SharedMut::new(y);
        self.for_ranges(x.len(), 1, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let y = unsafe { y.range(range.clone()) };
            self.run(AddAssign { y, x: &x[range] });
        });
    }

    /// Computes `x = x * factor`.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        let len = x.len();
        let x = SharedMut::new(x);
        self.for_ranges(len, 1, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            self.run(Scale { x: unsafe { x.range(range) }, factor });
        });
    }
}

pub(crate) struct SoftCap<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) cap: f32,
}

impl Operation for SoftCap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let cap = simd.splat(self.cap);
        for x in self.x.chunks_mut(LANES) {
            let t = tanh_lanes(simd, simd.div(simd.load_part(x, 0.0), cap));
            simd.store_part(simd.mul(cap, t), x);
        }
    }
}

struct SoftCapBackward<'a> {
    capped: &'a [f32],
    dx: &'a mut [f32],
    cap: f32,
}

impl Operation for SoftCapBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (cap, one) = (simd.splat(self.cap), simd.splat(1.0));
        for (dx, capped) in self.dx.chunks_mut(LANES).zip(self.capped.chunks(LANES)) {
            let t = simd.div(simd.load_part(capped, 0.0), cap);
            let slope = simd.fma(simd.neg(t), t, one);
            simd.store_part(simd.mul(simd.load_part(dx, 0.0), slope), dx);
        }
    }
}

struct AddAssign<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
}

impl Operation for AddAssign<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (y, x) in self.y.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            let sum = simd.add(simd.load_part(y, 0.0), simd.load_part(x, 0.0));
            simd.store_part(sum, y);
        }
    }
}

struct Scale<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl Operation for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(self.factor);
        for x in self.x.chunks_mut(LANES) {
            simd.store_part(simd.mul(simd.load_part(x, 0.0), factor), x);
        }
    }
}
