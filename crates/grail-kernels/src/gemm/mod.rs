//! Matrix products: rule 2, one fma chain per output element.
//!
//! The vectors run over output columns and the tiles over rows, never over the reduction, so no
//! blocking or threading below can change a bit. The reduction is cut into blocks that fit the
//! cache; the accumulators go through `c` between blocks, exactly, since they are f32 both ways.

mod tile;

use crate::kernels::{Kernels, SharedMut};
use crate::packed::{PANEL, PackedMatrix};
use std::ops::Range;
use tile::{Product, Region};

/// Rows that share one pass over a panel's block; their inputs (96 KiB) stay in L2.
const ROW_BLOCK: usize = 96;
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
        let (m, n, k) = (a.rows, b.n(), b.k());
        assert_eq!(a.cols, k, "gemm: a has {} columns, b has k = {k}", a.cols);
        assert_eq!(c.len(), m * n, "gemm: c has {} values for [{m}, {n}]", c.len());
        assert!(bias.is_none_or(|bias| bias.len() == n), "gemm: the bias must have n = {n} values");
        a.assert_in_bounds();
        let product = Product { a, panels: b.panels(), n, k, c: SharedMut::new(c), init, bias };
        let alone = m.max(MIN_ROWS_OF_WORK) * n * k < MIN_PARALLEL_MULTIPLIES;
        let grid = Grid::new(m, n, if alone { 1 } else { self.threads() });
        let run = |task| {
            let (rows, panels) = grid.task(task);
            self.run(Region { product: &product, rows, panels });
        };
        if alone {
            (0..grid.tasks()).for_each(run);
        } else {
            self.parallel(grid.tasks(), &run);
        }
    }

    /// Computes `y = x w^T + bias`: `x` is `[m, k]`, `y` is `[m, n]`, both row-major.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn linear(&self, x: &[f32], w: &PackedMatrix, bias: Option<&[f32]>, y: &mut [f32]) {
        let rows = y.len().checked_div(w.n()).unwrap_or(0);
        assert_eq!(
            x.len(),
            rows * w.k(),
            "linear: x has {} values for [{rows}, {}]",
            x.len(),
            w.k()
        );
        self.gemm(MatRef::row_major(x, rows, w.k()), w, y, Init::Zero, bias);
    }
}

/// How the output is cut into tasks: blocks of rows times runs of panels.
struct Grid {
    m: usize,
    panels: usize,
    rows_each: usize,
    panels_each: usize,
    row_tasks: usize,
}

impl Grid {
    fn new(m: usize, n: usize, threads: usize) -> Self {
        let panels = n.div_ceil(PANEL);
        let row_blocks = m.div_ceil(ROW_BLOCK).max(1);
        let rows_each = m.div_ceil(row_blocks).max(1);
        // Four tasks a thread even out their speeds; without threads, one task does all.
        let wanted = if threads == 1 { 1 } else { 4 * threads };
        let panel_tasks = wanted.div_ceil(row_blocks).clamp(1, panels.max(1));
        Self {
            m,
            panels,
            rows_each,
            panels_each: panels.div_ceil(panel_tasks).max(1),
            row_tasks: m.div_ceil(rows_each),
        }
    }

    fn tasks(&self) -> usize {
        self.row_tasks * self.panels.div_ceil(self.panels_each)
    }

    /// The rows and panels of a task.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let row = task % self.row_tasks * self.rows_each;
        let panel = task / self.row_tasks * self.panels_each;
        (row..self.m.min(row + self.rows_each), panel..self.panels.min(panel + self.panels_each))
    }
}
