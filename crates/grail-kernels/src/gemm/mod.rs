//! Matrix products: rule 2, one fma chain per output element.
//!
//! The vectors run over output columns and the tiles over rows, never over the reduction, so no
//! blocking or threading below can change a bit. Where the reduction is cut into blocks, the
//! accumulators wait in memory between them, exactly, since they are f32 both ways.
//!
//! Weights are the traffic: a step of decoding reads all of them once. A task therefore works
//! through one panel after the other, the next one's weights are asked for while the present ones
//! are multiplied, and what can be done to a result while it is in a register is done there.

mod finish;
mod fused;
mod grid;
mod region;
mod tile;

pub use fused::{GatedOutput, LinearOutput, Projection};

use crate::kernels::{Kernels, SharedMut};
use crate::packed::PackedMatrix;
use grid::Grid;
use region::{Finish, Part, Product, Region, Weights};
use std::ops::Range;

/// Multiply-adds below which a product stays on the calling thread: 3 to 4 us of work with AVX-512,
/// a few times what it costs to wake a spinning worker and wait for it.
const MIN_PARALLEL_MULTIPLIES: usize = 400_000;
/// A product of few rows waits for its weights, so it takes as long as one of this many.
const MIN_ROWS_OF_WORK: usize = 4;

/// A view of `[rows, cols]` f32 with any strides (in values), so that a transpose costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    /// Holds element `(i, j)` at `i * row_stride + j * col_stride`.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance from one row to the next.
    pub row_stride: usize,
    /// Distance from one column to the next.
    pub col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// Views `data` as `[rows, cols]` row-major.
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Views the transpose, `[cols, rows]`.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    fn assert_in_bounds(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1)
                .checked_mul(self.row_stride)
                .zip((self.cols - 1).checked_mul(self.col_stride))
                .and_then(|(row, col)| row.checked_add(col));
            assert!(
                last.is_some_and(|last| last < self.data.len()),
                "gemm: a view of {} values does not hold [{}, {}] with strides {} and {}",
                self.data.len(),
                self.rows,
                self.cols,
                self.row_stride,
                self.col_stride
            );
        }
    }
}

/// Where the chain of each output element starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// At zero.
    Zero,
    /// At the value that the output buffer holds, for gradients that accumulate.
    Carry,
}

impl Kernels {
    /// Computes `c[i][j] = (init; fma(a[i][k], b[j][k], .) for k in order) + bias[j]`.
    ///
    /// `a` is `[m, k]`, `b` is packed from `[n, k]`, `c` is `[m, n]` row-major, `bias` is `[n]` and
    /// is added last with one rounding.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn gemm(
        &self,
        a: MatRef<'_>,
        b: &PackedMatrix,
        c: &mut [f32],
        init: Init,
        bias: Option<&[f32]>,
    ) {
        let (m, n) = (a.rows, b.n());
        assert_eq!(c.len(), m * n, "gemm: c has {} values for [{m}, {n}]", c.len());
        let c = SharedMut::new(c);
        let finish = match init {
            Init::Zero => Finish::Write { c },
            Init::Carry => Finish::Continue { c },
        };
        self.product("gemm", a, &[Part { weights: Weights::new("gemm", b, bias), finish }], None);
    }

    /// [`Kernels::gemm`] with a rectangle of `b` without bias: the given columns (`0..n`, from a
    /// multiple of 64) and steps of the reduction (`0..k`). `a` is `[m, steps]`, `c` is
    /// `[m, columns]`.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn gemm_part(
        &self,
        a: MatRef<'_>,
        b: &PackedMatrix,
        columns: Range<usize>,
        steps: Range<usize>,
        c: &mut [f32],
        init: Init,
    ) {
        let (m, n) = (a.rows, columns.len());
        assert_eq!(c.len(), m * n, "gemm_part: c has {} values for [{m}, {n}]", c.len());
        let c = SharedMut::new(c);
        let finish = match init {
            Init::Zero => Finish::Write { c },
            Init::Carry => Finish::Continue { c },
        };
        let weights = Weights::part("gemm_part", b, columns, steps);
        self.product("gemm_part", a, &[Part { weights, finish }], None);
    }

    /// Computes `y = x w^T + bias`: `x` is `[m, k]`, `y` is `[m, n]`, both row-major.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn linear(&self, x: &[f32], w: &PackedMatrix, bias: Option<&[f32]>, y: &mut [f32]) {
        let rows = rows_of("linear", x, w, y);
        self.gemm(MatRef::row_major(x, rows, w.k()), w, y, Init::Zero, bias);
    }

    /// Multiplies `a` with every part, in parallel; `then` is what follows.
    fn product(&self, what: &str, a: MatRef<'_>, parts: &[Part<'_>], then: Option<&PackedMatrix>) {
        a.assert_in_bounds();
        let (m, k) = (a.rows, a.cols);
        let n: usize = parts.iter().map(Part::columns).sum();
        assert!(
            parts.iter().all(|part| part.k() == k),
            "{what}: the left operand has {k} columns, the weights have another k"
        );
        let alone = m.max(MIN_ROWS_OF_WORK) * n * k < MIN_PARALLEL_MULTIPLIES;
        let panels = parts.iter().map(Part::panels).sum();
        let threads = if alone { 1 } else { self.threads() };
        let grid = Grid::new(m, panels, k, threads, a.col_stride == 1);
        let product = Product { a, parts };
        let run = |task| {
            let (rows, panels) = grid.task(task);
            let turn = grid.turn(task);
            // The last task of a thread's run fetches where that thread's next run begins.
            let then = then
                .filter(|then| then.n() > 0)
                .zip(self.run_ending_with(task, grid.tasks()))
                .map(|(then, thread)| {
                    let weights = Weights::new(what, then, None);
                    (weights, weights.panels() * thread / self.threads())
                });
            Region { kernels: self, product: &product, rows, panels, turn, then }.run();
        };
        if alone {
            (0..grid.tasks()).for_each(run);
        } else {
            self.parallel(grid.tasks(), &run);
        }
    }
}

/// Some columns of `x b^T`, computed by one thread as a part of a larger task.
pub(crate) struct ColumnsProduct<'a> {
    /// `[rows, k]` row-major.
    pub(crate) x: &'a [f32],
    pub(crate) b: &'a PackedMatrix,
    /// From a multiple of 64.
    pub(crate) columns: Range<usize>,
}

impl ColumnsProduct<'_> {
    /// Writes `[rows, columns]`.
    pub(crate) fn run(self, kernels: &Kernels, out: &mut [f32]) {
        let Self { x, b, columns } = self;
        let (rows, k) = (out.len() / columns.len().max(1), b.k());
        assert!(x.len() == rows * k && out.len() == rows * columns.len(), "columns of {b:?}");
        // Another task may be about to take them, but most likely it is this thread's next.
        let then = (columns.end < b.n())
            .then(|| (Weights::part("columns", b, columns.end..b.n(), 0..k), 0));
        let finish = Finish::Write { c: SharedMut::new(out) };
        let weights = Weights::part("columns", b, columns, 0..k);
        let parts = [Part { weights, finish }];
        let product = Product { a: MatRef::row_major(x, rows, k), parts: &parts };
        let panels = 0..parts[0].panels();
        Region { kernels, product: &product, rows: 0..rows, panels, turn: (0, 1), then }.run();
    }
}

/// The rows of `y`, `[rows, n]`, after a check that `x` is `[rows, k]`.
fn rows_of(what: &str, x: &[f32], w: &PackedMatrix, y: &[f32]) -> usize {
    let rows = y.len().checked_div(w.n()).unwrap_or(0);
    assert!(
        x.len() == rows * w.k() && y.len() == rows * w.n(),
        "{what}: x has {} values and y {} for {w:?}",
        x.len(),
        y.len()
    );
    rows
}
