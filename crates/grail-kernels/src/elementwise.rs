//! Passes that treat every value alone: activation, residual sums, scaling.

use crate::kernels::{Kernels, SharedMut};
use crate::math::{exp_lanes, gelu_tanh_lanes, gelu_tanh_slope, tanh_lanes};
use crate::simd::{LANES, Operation, Simd};

/// What a gated MLP makes of its gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateFunction {
    /// As [`Kernels::silu_mul`].
    #[default]
    Silu,
    /// As [`Kernels::gelu_tanh_mul`].
    GeluTanh,
}

impl GateFunction {
    /// The function of `gate`, times `up`.
    #[inline(always)]
    pub(crate) fn mul<S: Simd>(self, simd: S, gate: S::F, up: S::F) -> S::F {
        match self {
            Self::Silu => {
                let bottom = simd.add(simd.splat(1.0), exp_lanes(simd, simd.neg(gate)));
                simd.mul(simd.div(gate, bottom), up)
            }
            Self::GeluTanh => simd.mul(gelu_tanh_lanes(simd, gate), up),
        }
    }
}

impl Kernels {
    /// Computes `out = silu(gate) * up`, where `silu(x) = x / (1 + exp(-x))`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == out.len() && up.len() == out.len(), "silu_mul: lengths differ");
        let out = SharedMut::new(out);
        self.for_ranges(gate.len(), 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let out = unsafe { out.range(range.clone()) };
            self.run(SiluMul { gate: &gate[range.clone()], up: &up[range], out });
        });
    }

    /// Computes the gradients of [`Kernels::silu_mul`] from that of its output, `dout`.
    ///
    /// With `s = 1 / (1 + exp(-gate))`, each operation rounded in this order:
    /// `dup = dout * (gate / (1 + exp(-gate)))` and
    /// `dgate = (dout * up) * (s * fma(gate, 1 - s, 1))`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul_backward(
        &self,
        gate: &[f32],
        up: &[f32],
        dout: &[f32],
        dgate: &mut [f32],
        dup: &mut [f32],
    ) {
        let len = dout.len();
        let inputs = gate.len() == len && up.len() == len;
        assert!(
            inputs && dgate.len() == len && dup.len() == len,
            "silu_mul_backward: lengths differ"
        );
        let (dgate, dup) = (SharedMut::new(dgate), SharedMut::new(dup));
        self.for_ranges(len, 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let (dgate, dup) = unsafe { (dgate.range(range.clone()), dup.range(range.clone())) };
            let (gate, up) = (&gate[range.clone()], &up[range.clone()]);
            self.run(SiluMulBackward { gate, up, dout: &dout[range], dgate, dup });
        });
    }

    /// Computes `out = gelu_tanh(gate) * up`, with [`gelu_tanh`](crate::math::gelu_tanh).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_tanh_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == out.len() && up.len() == out.len(), "gelu_tanh_mul: lengths differ");
        let out = SharedMut::new(out);
        self.for_ranges(gate.len(), 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let out = unsafe { out.range(range.clone()) };
            self.run(GeluTanhMul { gate: &gate[range.clone()], up: &up[range], out });
        });
    }

    /// Computes the gradients of [`Kernels::gelu_tanh_mul`] from that of its output, `dout`.
    ///
    /// With `s`, `i` and `e` as in [`gelu_tanh`](crate::math::gelu_tanh) of `gate`, each operation
    /// rounded in this order: `dup = dout * (gate / e)` and, with `p = 1 / e` and
    /// `j = fma(s, 3 * 0x3d922279, 0x3fcc422a)`,
    /// `dgate = (dout * up) * fma((p * (1 - p)) * gate, j, p)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_tanh_mul_backward(
        &self,
        gate: &[f32],
        up: &[f32],
        dout: &[f32],
        dgate: &mut [f32],
        dup: &mut [f32],
    ) {
        let len = dout.len();
        let inputs = gate.len() == len && up.len() == len;
        assert!(
            inputs && dgate.len() == len && dup.len() == len,
            "gelu_tanh_mul_backward: lengths differ"
        );
        let (dgate, dup) = (SharedMut::new(dgate), SharedMut::new(dup));
        self.for_ranges(len, 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let (dgate, dup) = unsafe { (dgate.range(range.clone()), dup.range(range.clone())) };
            let (gate, up) = (&gate[range.clone()], &up[range.clone()]);
            self.run(GeluTanhMulBackward { gate, up, dout: &dout[range], dgate, dup });
        });
    }

    /// Computes `out = function(gate) * up`: [`Kernels::silu_mul`] or [`Kernels::gelu_tanh_mul`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gate_mul(&self, function: GateFunction, gate: &[f32], up: &[f32], out: &mut [f32]) {
        match function {
            GateFunction::Silu => self.silu_mul(gate, up, out),
            GateFunction::GeluTanh => self.gelu_tanh_mul(gate, up, out),
        }
    }

    /// Computes the gradients of [`Kernels::gate_mul`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gate_mul_backward(
        &self,
        function: GateFunction,
        gate: &[f32],
        up: &[f32],
        dout: &[f32],
        dgate: &mut [f32],
        dup: &mut [f32],
    ) {
        match function {
            GateFunction::Silu => self.silu_mul_backward(gate, up, dout, dgate, dup),
            GateFunction::GeluTanh => self.gelu_tanh_mul_backward(gate, up, dout, dgate, dup),
        }
    }

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

struct SiluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Operation for SiluMul<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let inputs = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for ((gate, up), out) in inputs.zip(self.out.chunks_mut(LANES)) {
            let (gate, up) = (simd.load_part(gate, 0.0), simd.load_part(up, 0.0));
            simd.store_part(GateFunction::Silu.mul(simd, gate, up), out);
        }
    }
}

struct SiluMulBackward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    dout: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Operation for SiluMulBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let one = simd.splat(1.0);
        for start in (0..self.dout.len()).step_by(LANES) {
            let range = start..self.dout.len().min(start + LANES);
            let gate = simd.load_part(&self.gate[range.clone()], 0.0);
            let up = simd.load_part(&self.up[range.clone()], 0.0);
            let dout = simd.load_part(&self.dout[range.clone()], 0.0);
            let bottom = simd.add(one, exp_lanes(simd, simd.neg(gate)));
            let sigmoid = simd.div(one, bottom);
            let slope = simd.mul(sigmoid, simd.fma(gate, simd.sub(one, sigmoid), one));
            let dup = simd.mul(dout, simd.div(gate, bottom));
            simd.store_part(dup, &mut self.dup[range.clone()]);
            simd.store_part(simd.mul(simd.mul(dout, up), slope), &mut self.dgate[range]);
        }
    }
}

struct GeluTanhMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Operation for GeluTanhMul<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let inputs = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for ((gate, up), out) in inputs.zip(self.out.chunks_mut(LANES)) {
            let (gate, up) = (simd.load_part(gate, 0.0), simd.load_part(up, 0.0));
            simd.store_part(GateFunction::GeluTanh.mul(simd, gate, up), out);
        }
    }
}

struct GeluTanhMulBackward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    dout: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Operation for GeluTanhMulBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for start in (0..self.dout.len()).step_by(LANES) {
            let range = start..self.dout.len().min(start + LANES);
            let up = simd.load_part(&self.up[range.clone()], 0.0);
            let dout = simd.load_part(&self.dout[range.clone()], 0.0);
            let (gelu, slope) =
                gelu_tanh_slope(simd, simd.load_part(&self.gate[range.clone()], 0.0));
            simd.store_part(simd.mul(dout, gelu), &mut self.dup[range.clone()]);
            simd.store_part(simd.mul(simd.mul(dout, up), slope), &mut self.dgate[range]);
        }
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
