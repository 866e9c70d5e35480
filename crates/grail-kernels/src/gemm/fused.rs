//! Products whose results are finished while they are in registers: several projections of one
//! input, a residual sum, a gated pair. Each has the bits of the separate steps.

use super::region::{Finish, Part, Weights};
use super::{MatRef, rows_of};
use crate::gate::GateFunction;
use crate::kernels::{Kernels, SharedMut};
use crate::packed::PackedMatrix;

/// A packed weight `[n, k]` with its bias, `[n]`.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// `[n, k]`.
    pub weight: &'a PackedMatrix,
    /// `[n]`, added last.
    pub bias: Option<&'a [f32]>,
    /// Weights that the caller multiplies with next. Each thread asks for its first ones when it
    /// comes to the end of this product. Changes nothing but the time.
    pub then: Option<&'a PackedMatrix>,
}

/// A projection and where its result goes.
#[derive(Debug)]
pub struct LinearOutput<'a> {
    /// `[n, k]`, with a bias or without.
    pub projection: Projection<'a>,
    /// `[rows, n]`.
    pub y: &'a mut [f32],
}

/// Where the results of [`Kernels::linear_gated`] go, `[rows, n]` each.
#[derive(Debug)]
pub struct GatedOutput<'a> {
    /// The product of both halves.
    pub gated: &'a mut [f32],
    /// The projections themselves, (gate, up), for a backward pass.
    pub kept: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl Kernels {
    /// Computes [`Kernels::linear`] of `x`, `[rows, k]`, for several weights of the same `k` in one
    /// parallel pass.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn linear_each<const N: usize>(&self, x: &[f32], outputs: [LinearOutput<'_>; N]) {
        let Some(first) = outputs.first() else { return };
        let k = first.projection.weight.k();
        let rows = rows_of("linear_each", x, first.projection.weight, first.y);
        let then = outputs.iter().find_map(|output| output.projection.then);
        let parts = outputs.map(|LinearOutput { projection, y }| {
            let Projection { weight, bias, .. } = projection;
            let fits = y.len() == rows * weight.n();
            assert!(fits, "linear_each: y has {} values for {rows} rows of {weight:?}", y.len());
            let weights = Weights::new("linear_each", weight, bias);
            Part { weights, finish: Finish::Write { c: SharedMut::new(y) } }
        });
        self.product("linear_each", MatRef::row_major(x, rows, k), &parts, then);
    }

    /// Computes `stream = stream + (x w^T + bias)`: `x` is `[rows, k]`, `stream` is `[rows, n]`.
    /// The same bits as [`Kernels::linear`] and then [`Kernels::add_assign`].
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn linear_add(&self, x: &[f32], projection: Projection<'_>, stream: &mut [f32]) {
        let Projection { weight, bias, then } = projection;
        let rows = rows_of("linear_add", x, weight, stream);
        let weights = Weights::new("linear_add", weight, bias);
        let part = Part { weights, finish: Finish::Add { c: SharedMut::new(stream) } };
        self.product("linear_add", MatRef::row_major(x, rows, weight.k()), &[part], then);
    }

    /// Computes `gated = function(x gate^T + bias) * (x up^T + bias)`: `x` is `[rows, k]`. The same
    /// bits as [`Kernels::linear`] twice and then the product of the [`GateFunction`].
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn linear_gated(
        &self,
        x: &[f32],
        gate: Projection<'_>,
        up: Projection<'_>,
        function: GateFunction,
        output: GatedOutput<'_>,
    ) {
        let GatedOutput { gated, kept } = output;
        let rows = rows_of("linear_gated", x, gate.weight, gated);
        let same = up.weight.n() == gate.weight.n() && up.weight.k() == gate.weight.k();
        assert!(same, "linear_gated: gate is {:?}, up is {:?}", gate.weight, up.weight);
        let kept = kept.map(|(gate_out, up_out)| {
            let fits = gate_out.len() == gated.len() && up_out.len() == gated.len();
            assert!(fits, "linear_gated: the kept projections have another length");
            (SharedMut::new(gate_out), SharedMut::new(up_out))
        });
        let finish = Finish::Gate {
            function,
            up: Weights::new("linear_gated", up.weight, up.bias),
            gated: SharedMut::new(gated),
            kept,
        };
        let weights = Weights::new("linear_gated", gate.weight, gate.bias);
        let part = Part { weights, finish };
        let x = MatRef::row_major(x, rows, gate.weight.k());
        self.product("linear_gated", x, &[part], up.then);
    }
}
