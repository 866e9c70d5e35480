//! The gate of a gated MLP: a function of one projection times another, and its gradients.

use crate::kernels::{Kernels, SharedMut};
use crate::math::{exp_lanes, gelu_tanh_lanes, gelu_tanh_slope};
use crate::simd::{LANES, Operation, Simd};

/// What a gated MLP makes of its gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateFunction {
    /// `silu(x) = x / (1 + exp(-x))`.
    #[default]
    Silu,
    /// [`gelu_tanh`](crate::math::gelu_tanh).
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

    /// The function of `gate`, and its derivative.
    #[inline(always)]
    fn slope<S: Simd>(self, simd: S, gate: S::F) -> (S::F, S::F) {
        match self {
            Self::Silu => {
                let one = simd.splat(1.0);
                let bottom = simd.add(one, exp_lanes(simd, simd.neg(gate)));
                let sigmoid = simd.div(one, bottom);
                let slope = simd.mul(sigmoid, simd.fma(gate, simd.sub(one, sigmoid), one));
                (simd.div(gate, bottom), slope)
            }
            Self::GeluTanh => gelu_tanh_slope(simd, gate),
        }
    }
}

impl Kernels {
    /// Computes `out = function(gate) * up`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gate_mul(&self, function: GateFunction, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == out.len() && up.len() == out.len(), "gate_mul: lengths differ");
        let out = SharedMut::new(out);
        self.for_ranges(gate.len(), 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let out = unsafe { out.range(range.clone()) };
            self.run(Forward { function, gate: &gate[range.clone()], up: &up[range], out });
        });
    }

    /// Computes the gradients of [`Kernels::gate_mul`] from that of its output, `dout`.
    ///
    /// `dup = dout * function(gate)` and `dgate = (dout * up) * slope`, each operation rounded in
    /// this order. For SiLU, `s = 1 / (1 + exp(-gate))` and the slope is
    /// `s * fma(gate, 1 - s, 1)`. For GELU, with `s`, `i` and `e` as in
    /// [`gelu_tanh`](crate::math::gelu_tanh), `p = 1 / e` and
    /// `j = fma(s, 3 * 0x3d922279, 0x3fcc422a)`, it is `fma((p * (1 - p)) * gate, j, p)`.
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
        let len = dout.len();
        let inputs = gate.len() == len && up.len() == len;
        assert!(
            inputs && dgate.len() == len && dup.len() == len,
            "gate_mul_backward: lengths differ"
        );
        let (dgate, dup) = (SharedMut::new(dgate), SharedMut::new(dup));
        self.for_ranges(len, 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let (dgate, dup) = unsafe { (dgate.range(range.clone()), dup.range(range.clone())) };
            let (gate, up) = (&gate[range.clone()], &up[range.clone()]);
            self.run(Backward { function, gate, up, dout: &dout[range], dgate, dup });
        });
    }
}

struct Forward<'a> {
    function: GateFunction,
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Operation for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let inputs = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for ((gate, up), out) in inputs.zip(self.out.chunks_mut(LANES)) {
            let (gate, up) = (simd.load_part(gate, 0.0), simd.load_part(up, 0.0));
            simd.store_part(self.function.mul(simd, gate, up), out);
        }
    }
}

struct Backward<'a> {
    function: GateFunction,
    gate: &'a [f32],
    up: &'a [f32],
    dout: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Operation for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for start in (0..self.dout.len()).step_by(LANES) {
            let range = start..self.dout.len().min(start + LANES);
            let gate = simd.load_part(&self.gate[range.clone()], 0.0);
            let up = simd.load_part(&self.up[range.clone()], 0.0);
            let dout = simd.load_part(&self.dout[range.clone()], 0.0);
            let (value, slope) = self.function.slope(simd, gate);
            simd.store_part(simd.mul(dout, value), &mut self.dup[range.clone()]);
            simd.store_part(simd.mul(simd.mul(dout, up), slope), &mut self.dgate[range]);
        }
    }
}
