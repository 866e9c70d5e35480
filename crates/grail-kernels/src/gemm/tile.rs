//! The inner kernel of a matrix product: up to six rows by 64 columns, accumulated in registers.

use super::{Init, MatRef};
use crate::kernels::SharedMut;
use crate::packed::{PANEL, Panels};
use crate::simd::{LANES, Operation, Simd};
use std::ops::Range;

/// Reduction steps per block: 64 columns of f32 are then 64 KiB, a part of L2.
const K_BLOCK: usize = 256;
/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;

pub(super) struct Product<'a> {
    pub(super) a: MatRef<'a>,
    pub(super) panels: Panels<'a>,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) c: SharedMut<'a, f32>,
    pub(super) init: Init,
    pub(super) bias: Option<&'a [f32]>,
}

/// One task: a block of output rows and a run of panels.
pub(super) struct Region<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

impl Operation for Region<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.product.panels {
            Panels::F32(panels) => self.run_with(simd, panels),
            Panels::Bf16(panels) => self.run_with(simd, panels),
        }
    }
}

/// A stored weight that widens to f32.
trait Weight: Copy {
    /// # Safety
    /// Sixteen values must be readable at `at`.
    unsafe fn load<S: Simd>(simd: S, at: *const Self) -> S::F;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, at: *const Self) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { simd.load_ptr(at) }
    }
}

impl Weight for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, at: *const Self) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { simd.load_bf16_ptr(at) }
    }
}

/// One block of the reduction.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    steps: usize,
    first: bool,
    last: bool,
}

/// The left operand of a tile: row `i`, step `k` at `data + i * row_stride + k * step`.
#[derive(Clone, Copy)]
struct TileInput {
    data: *const f32,
    row_stride: usize,
    step: usize,
}

impl Region<'_> {
    #[inline(always)]
    fn run_with<S: Simd, W: Weight>(&self, simd: S, panels: &[W]) {
        let Product { a, k, .. } = *self.product;
        let tiles = Tiles { rows: self.rows.len() };
        let strided = a.col_stride != 1;
        let mut packed = Vec::new();
        // Without a reduction the output is the start value and the bias: one block of no steps.
        let blocks = k.div_ceil(K_BLOCK).max(1);
        for index in 0..blocks {
            let start = index * K_BLOCK;
            let steps = K_BLOCK.min(k - start);
            let block = Block { start, steps, first: index == 0, last: index + 1 == blocks };
            if strided {
                tiles.pack(a, self.rows.start, block, &mut packed);
            }
            for panel in self.panels.clone() {
                let weights = &panels[(panel * k + start) * PANEL..][..steps * PANEL];
                for (offset, height) in tiles.iter() {
                    let input = if strided {
                        let data = packed[offset * steps..].as_ptr();
                        TileInput { data, row_stride: 1, step: height }
                    } else {
                        // Checked by `gemm`; with no steps the offset may lie past the end, unread.
                        let data = (self.rows.start + offset) * a.row_stride + start;
                        let data = a.data.as_ptr().wrapping_add(data);
                        TileInput { data, row_stride: a.row_stride, step: 1 }
                    };
                    let row = self.rows.start + offset;
                    self.tile_of(simd, height, input, weights, block, row, panel);
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they name one tile")]
    #[inline(always)]
    fn tile_of<S: Simd, W: Weight>(
        &self,
        simd: S,
        height: usize,
        input: TileInput,
        weights: &[W],
        block: Block,
        row: usize,
        panel: usize,
    ) {
        match height {
            1 => self.tile::<S, W, 1>(simd, input, weights, block, row, panel),
            2 => self.tile::<S, W, 2>(simd, input, weights, block, row, panel),
            3 => self.tile::<S, W, 3>(simd, input, weights, block, row, panel),
            4 => self.tile::<S, W, 4>(simd, input, weights, block, row, panel),
            5 => self.tile::<S, W, 5>(simd, input, weights, block, row, panel),
            _ => self.tile::<S, W, 6>(simd, input, weights, block, row, panel),
        }
    }

    /// One tile of `ROWS` rows from `row`, over one block of the reduction.
    #[inline(always)]
    fn tile<S: Simd, W: Weight, const ROWS: usize>(
        &self,
        simd: S,
        input: TileInput,
        weights: &[W],
        block: Block,
        row: usize,
        panel: usize,
    ) {
        let n = self.product.n;
        let columns = panel * PANEL..n.min((panel + 1) * PANEL);
        let part = |offset: usize| {
            // SAFETY: tasks own disjoint regions of `c`, and a tile is visited by one task at a time.
            unsafe { self.product.c.slice((row + offset) * n + columns.start, columns.len()) }
        };
        let mut tile = [[0.0; PANEL]; ROWS];
        if !block.first || self.product.init == Init::Carry {
            for (offset, tile) in tile.iter_mut().enumerate() {
                tile[..columns.len()].copy_from_slice(part(offset));
            }
        }
        // SAFETY: `weights` holds `steps * PANEL` values; `input` was made for these rows and steps
        // from a view that `gemm` checked, or from the packed copy.
        unsafe { accumulate_panel(simd, input, weights.as_ptr(), block.steps, &mut tile) };
        for (offset, tile) in tile.iter_mut().enumerate() {
            if let (true, Some(bias)) = (block.last, self.product.bias) {
                for (value, bias) in tile.iter_mut().zip(&bias[columns.clone()]) {
                    *value += bias;
                }
            }
            part(offset).copy_from_slice(&tile[..columns.len()]);
        }
    }
}

/// Continues the chains of a tile by `steps`, with as many at once as registers hold.
///
/// # Safety
/// As [`accumulate`].
#[inline(always)]
unsafe fn accumulate_panel<S: Simd, W: Weight, const ROWS: usize>(
    simd: S,
    input: TileInput,
    weights: *const W,
    steps: usize,
    tile: &mut [[f32; PANEL]; ROWS],
) {
    // SAFETY: as the caller promises.
    unsafe {
        if S::WIDE || ROWS == 1 {
            accumulate::<S, W, ROWS, VECTORS>(simd, input, weights, steps, tile, 0);
        } else if ROWS <= 3 {
            accumulate::<S, W, ROWS, 2>(simd, input, weights, steps, tile, 0);
            accumulate::<S, W, ROWS, 2>(simd, input, weights, steps, tile, 2);
        } else {
            for first in 0..VECTORS {
                accumulate::<S, W, ROWS, 1>(simd, input, weights, steps, tile, first);
            }
        }
    }
}

/// Continues the chains of `ROWS x COUNT` vectors, columns `first * 16 ..`, by `steps`.
///
/// # Safety
/// `first + COUNT` must not exceed [`VECTORS`], `weights` must point to `steps` rows of [`PANEL`]
/// values, and `input` must be readable for `ROWS` rows and `steps` steps.
#[inline(always)]
unsafe fn accumulate<S: Simd, W: Weight, const ROWS: usize, const COUNT: usize>(
    simd: S,
    input: TileInput,
    weights: *const W,
    steps: usize,
    tile: &mut [[f32; PANEL]; ROWS],
    first: usize,
) {
    let mut sums = [[simd.splat(0.0); COUNT]; ROWS];
    for (sums, tile) in sums.iter_mut().zip(tile.iter()) {
        for (sum, tile) in sums.iter_mut().zip(tile[first * LANES..].chunks_exact(LANES)) {
            *sum = simd.load_part(tile, 0.0);
        }
    }
    for k in 0..steps {
        let mut weight = [simd.splat(0.0); COUNT];
        for (vector, weight) in weight.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            *weight = unsafe { W::load(simd, weights.add(k * PANEL + (first + vector) * LANES)) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            let x = unsafe { *input.data.add(row * input.row_stride + k * input.step) };
            let x = simd.splat(x);
            for (sum, &weight) in sums.iter_mut().zip(&weight) {
                *sum = simd.fma(x, weight, *sum);
            }
        }
    }
    for (sums, tile) in sums.iter().zip(tile.iter_mut()) {
        for (&sum, tile) in sums.iter().zip(tile[first * LANES..].chunks_exact_mut(LANES)) {
            simd.store_part(sum, tile);
        }
    }
}

/// A block of rows cut into tiles of nearly equal height, at most six.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
}

impl Tiles {
    /// Six rows of four vectors are 24 accumulators, of 32 AVX-512 registers.
    const HEIGHT: usize = 6;

    /// The (first row, height) of each tile.
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = (usize, usize)> {
        let count = self.rows.div_ceil(Self::HEIGHT);
        (0..count).map(move |tile| {
            let start = tile * self.rows / count;
            (start, (tile + 1) * self.rows / count - start)
        })
    }

    /// Copies a strided block of `a` so that the rows of a tile are neighbours for each step.
    #[inline(always)]
    fn pack(self, a: MatRef<'_>, row_start: usize, block: Block, out: &mut Vec<f32>) {
        out.resize(self.rows * block.steps, 0.0);
        for (offset, height) in self.iter() {
            let out = &mut out[offset * block.steps..][..height * block.steps];
            let row = row_start + offset;
            match height {
                6 => pack_tile::<6>(a, row, block.start, out),
                5 => pack_tile::<5>(a, row, block.start, out),
                4 => pack_tile::<4>(a, row, block.start, out),
                3 => pack_tile::<3>(a, row, block.start, out),
                2 => pack_tile::<2>(a, row, block.start, out),
                _ => pack_tile::<1>(a, row, block.start, out),
            }
        }
    }
}

/// Copies `ROWS` rows of `a` from (`row`, `k_start`), step by step, until `out` is full.
#[inline(always)]
fn pack_tile<const ROWS: usize>(a: MatRef<'_>, row: usize, k_start: usize, out: &mut [f32]) {
    for (k, out) in out.chunks_exact_mut(ROWS).enumerate() {
        let source = &a.data[row * a.row_stride + (k_start + k) * a.col_stride..];
        match source.first_chunk::<ROWS>() {
            // A transposed view: the rows are neighbours already.
            Some(neighbours) if a.row_stride == 1 => out.copy_from_slice(neighbours),
            _ => {
                for (row, out) in out.iter_mut().enumerate() {
                    *out = source[row * a.row_stride];
                }
            }
        }
    }
}
