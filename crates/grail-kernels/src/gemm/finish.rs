//! What becomes of finished chains: bias, residual sum, gate, and the way into the output.

use crate::gate::GateFunction;
use crate::kernels::SharedMut;
use crate::packed::PANEL;
use crate::simd::{LANES, Operation, Simd};
use std::ops::Range;

/// Where the chains of a panel go. Buffers are `[m, n]`.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    Write(SharedMut<'a, f32>),
    Add(SharedMut<'a, f32>),
    /// The function of the gates times them; also gates and chains themselves, if asked for.
    Gated(GateFunction, SharedMut<'a, f32>, Option<(SharedMut<'a, f32>, SharedMut<'a, f32>)>),
}

/// Which output a panel's chains are: some rows, and the columns from `column` on.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) first_row: usize,
    pub(super) column: usize,
    pub(super) n: usize,
}

impl Place {
    /// The output columns of vector `vector`; the last panel may have fewer or none.
    #[inline(always)]
    fn columns(&self, vector: usize) -> Range<usize> {
        let start = self.n.min(self.column + vector * LANES);
        start..self.n.min(start + LANES)
    }

    /// The values of a vector in row `row` of the panel.
    ///
    /// # Safety
    /// As [`SharedMut::slice`].
    #[inline(always)]
    unsafe fn part<'c>(&self, c: SharedMut<'c, f32>, row: usize, vector: usize) -> &'c mut [f32] {
        let columns = self.columns(vector);
        // SAFETY: as the caller promises.
        unsafe { c.slice((self.first_row + row) * self.n + columns.start, columns.len()) }
    }
}

/// Moves a panel's chains to the output.
pub(super) struct FinishPanel<'a> {
    /// `[rows, 64]`.
    pub(super) sums: &'a [f32],
    /// `[rows, 64]`, for [`To::Gated`].
    pub(super) gates: &'a [f32],
    /// `[n]`.
    pub(super) bias: Option<&'a [f32]>,
    /// `[n]`.
    pub(super) gate_bias: Option<&'a [f32]>,
    pub(super) place: Place,
    pub(super) to: To<'a>,
}

impl Operation for FinishPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { place, .. } = self;
        for (row, sums) in self.sums.chunks_exact(PANEL).enumerate() {
            for (vector, sum) in sums.chunks_exact(LANES).enumerate() {
                let columns = place.columns(vector);
                if columns.is_empty() {
                    break;
                }
                let sum = biased(simd, sum, self.bias, columns.clone());
                // SAFETY (each block): tasks own disjoint rows and columns of every buffer.
                match self.to {
                    To::Write(c) => {
                        // SAFETY: as above.
                        simd.store_part(sum, unsafe { place.part(c, row, vector) });
                    }
                    To::Add(c) => {
                        // SAFETY: as above.
                        let part = unsafe { place.part(c, row, vector) };
                        simd.store_part(simd.add(simd.load_part(part, 0.0), sum), part);
                    }
                    To::Gated(function, gated, kept) => {
                        let gate = &self.gates[row * PANEL + vector * LANES..][..LANES];
                        let gate = biased(simd, gate, self.gate_bias, columns);
                        // SAFETY: as above.
                        let part = unsafe { place.part(gated, row, vector) };
                        simd.store_part(function.mul(simd, gate, sum), part);
                        if let Some((gate_out, up_out)) = kept {
                            // SAFETY: as above.
                            simd.store_part(gate, unsafe { place.part(gate_out, row, vector) });
                            // SAFETY: as above.
                            simd.store_part(sum, unsafe { place.part(up_out, row, vector) });
                        }
                    }
                }
            }
        }
    }
}

/// A vector of chains with the bias of its columns added.
#[inline(always)]
fn biased<S: Simd>(simd: S, sum: &[f32], bias: Option<&[f32]>, columns: Range<usize>) -> S::F {
    let sum = simd.load_part(sum, 0.0);
    match bias {
        Some(bias) => simd.add(sum, simd.load_part(&bias[columns], 0.0)),
        None => sum,
    }
}

/// Takes a panel's chains from an output that they continue.
pub(super) struct BeginPanel<'a> {
    /// `[rows, 64]`.
    pub(super) sums: &'a mut [f32],
    pub(super) place: Place,
    pub(super) from: SharedMut<'a, f32>,
}

impl Operation for BeginPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (row, sums) in self.sums.chunks_exact_mut(PANEL).enumerate() {
            for (vector, sum) in sums.chunks_exact_mut(LANES).enumerate() {
                // SAFETY: tasks own disjoint rows and columns of the buffer.
                let part = unsafe { self.place.part(self.from, row, vector) };
                simd.store_part(simd.load_part(part, 0.0), sum);
            }
        }
    }
}
