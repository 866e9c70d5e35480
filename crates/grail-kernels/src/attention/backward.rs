//! The backward kernel: one sequence and one key-value head.
//!
//! Query rows are taken in tiles of sixteen, so that each visit to a key or value serves sixteen
//! links of its gradient's chain. Tiles, rows and vectors taken together change no order: every
//! chain still runs over heads, then rows (or positions), ascending.

use super::row::Stats;
use super::{AttentionOptions, AttentionShape, BLOCK};
use crate::kernels::SharedMut;
use crate::math::{exp_lanes, tanh_lanes};
use crate::reduce::dot;
use crate::simd::{LANES, Operation, Simd};
use std::ops::Range;

/// Query rows whose probabilities are held at once.
const TILE_ROWS: usize = 16;

/// Where the results go.
#[derive(Clone, Copy)]
pub(super) struct Gradients<'a> {
    pub(super) dq: SharedMut<'a, f32>,
    pub(super) dk: SharedMut<'a, f32>,
    pub(super) dv: SharedMut<'a, f32>,
}

/// The backward pass of one sequence and key-value head.
pub(super) struct Backward<'a> {
    pub(super) dout: &'a [f32],
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: &'a [f32],
    /// The rows of the sequence.
    pub(super) span: Range<usize>,
    pub(super) kv_head: usize,
    pub(super) shape: AttentionShape,
    pub(super) options: AttentionOptions,
    /// `[rows, heads]`.
    pub(super) stats: &'a [Stats],
    pub(super) gradients: Gradients<'a>,
}

/// The probabilities and score gradients of a tile: entry (row in tile, position) at
/// `row * stride + position`. Entries beyond a row's own position mean nothing.
struct Tile {
    p: Vec<f32>,
    ds: Vec<f32>,
    stride: usize,
}

impl Operation for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.shape.head_dim;
        let len = self.span.len();
        let stride = len.next_multiple_of(BLOCK);
        let keys = Columns::of(len, head_dim, |row| &self.k[self.kv_offset(row)..][..head_dim]);
        let values = Columns::of(len, head_dim, |row| &self.v[self.kv_offset(row)..][..head_dim]);
        for row in 0..len {
            // SAFETY: this task owns this head's columns of dk and dv in its sequence.
            unsafe {
                self.gradients.dk.slice(self.kv_offset(row), head_dim).fill(0.0);
                self.gradients.dv.slice(self.kv_offset(row), head_dim).fill(0.0);
            }
        }
        let zeros = vec![0.0; TILE_ROWS * stride];
        let mut tile = Tile { p: zeros.clone(), ds: zeros, stride };
        let group = self.shape.group();
        for head in self.kv_head * group..(self.kv_head + 1) * group {
            for start in (0..len).step_by(TILE_ROWS) {
                let rows = start..len.min(start + TILE_ROWS);
                self.fill_tile(simd, head, rows.clone(), &keys, &values, &mut tile);
                self.query_gradients(simd, head, rows.clone(), &tile);
                self.key_value_gradients(simd, head, rows, &tile);
            }
        }
    }
}

impl Backward<'_> {
    /// Start of a query row's head in q, out, dout and dq.
    #[inline(always)]
    fn q_offset(&self, head: usize, row: usize) -> usize {
        ((self.span.start + row) * self.shape.heads + head) * self.shape.head_dim
    }

    /// Start of a position's head in k, v, dk and dv.
    #[inline(always)]
    fn kv_offset(&self, row: usize) -> usize {
        ((self.span.start + row) * self.shape.kv_heads + self.kv_head) * self.shape.head_dim
    }

    /// Computes the probabilities and score gradients of the query rows `rows`.
    #[inline(always)]
    fn fill_tile<S: Simd>(
        &self,
        simd: S,
        head: usize,
        rows: Range<usize>,
        keys: &Columns,
        values: &Columns,
        tile: &mut Tile,
    ) {
        let mut row = rows.start;
        while row < rows.end {
            let index = row - rows.start;
            row += if rows.end - row >= 2 {
                self.fill_rows::<S, 2>(simd, head, row, keys, values, tile, index)
            } else {
                self.fill_rows::<S, 1>(simd, head, row, keys, values, tile, index)
            };
        }
    }

    /// As `fill_tile` for `ROWS` rows, from `row`, which is `index` in the tile; returns `ROWS`.
    #[expect(clippy::too_many_arguments, reason = "the tile and a place in it")]
    #[inline(always)]
    fn fill_rows<S: Simd, const ROWS: usize>(
        &self,
        simd: S,
        head: usize,
        row: usize,
        keys: &Columns,
        values: &Columns,
        tile: &mut Tile,
        index: usize,
    ) -> usize {
        let head_dim = self.shape.head_dim;
        let start = |offset: usize| self.q_offset(head, row + offset);
        let q: [&[f32]; ROWS] = std::array::from_fn(|row| &self.q[start(row)..][..head_dim]);
        let dout: [&[f32]; ROWS] = std::array::from_fn(|row| &self.dout[start(row)..][..head_dim]);
        let mut softmax = [Softmax::default(); ROWS];
        for (offset, softmax) in softmax.iter_mut().enumerate() {
            *softmax = Softmax {
                stats: self.stats[(self.span.start + row + offset) * self.shape.heads + head],
                delta: dot(simd, dout[offset], &self.out[start(offset)..][..head_dim]),
                scale: self.options.scale.unwrap_or(self.shape.scale()),
                soft_cap: self.options.soft_cap,
            };
        }
        let mut block = self.options.first_seen(row + 1) / BLOCK;
        while block < (row + ROWS).div_ceil(BLOCK) {
            let at = index * tile.stride + block * BLOCK;
            let out = (&mut tile.p[at..], &mut tile.ds[at..], tile.stride);
            block += if S::WIDE && (row + ROWS).div_ceil(BLOCK) - block >= 4 {
                let scores = keys.products::<S, ROWS, 4>(simd, q, block);
                let dps = values.products::<S, ROWS, 4>(simd, dout, block);
                finish(simd, &softmax, &scores, &dps, out)
            } else {
                let scores = keys.products::<S, ROWS, 1>(simd, q, block);
                let dps = values.products::<S, ROWS, 1>(simd, dout, block);
                finish(simd, &softmax, &scores, &dps, out)
            };
        }
        ROWS
    }

    /// `dq` of a tile: chains over positions.
    #[inline(always)]
    fn query_gradients<S: Simd>(&self, simd: S, head: usize, rows: Range<usize>, tile: &Tile) {
        let mut row = rows.start;
        while row < rows.end {
            let ds = &tile.ds[(row - rows.start) * tile.stride..];
            row += if S::WIDE && rows.end - row >= 4 {
                self.query_rows::<S, 4>(simd, head, row, ds, tile.stride)
            } else if rows.end - row >= 2 {
                self.query_rows::<S, 2>(simd, head, row, ds, tile.stride)
            } else {
                self.query_rows::<S, 1>(simd, head, row, ds, tile.stride)
            };
        }
    }

    #[inline(always)]
    fn query_rows<S: Simd, const ROWS: usize>(
        &self,
        simd: S,
        head: usize,
        row: usize,
        ds: &[f32],
        stride: usize,
    ) -> usize {
        let mut start = 0;
        while start < self.shape.head_dim {
            start += match vectors::<S>(self.shape.head_dim - start) {
                4 => self.query_part::<S, ROWS, 4>(simd, head, row, ds, stride, start),
                2 => self.query_part::<S, ROWS, 2>(simd, head, row, ds, stride, start),
                _ => self.query_part::<S, ROWS, 1>(simd, head, row, ds, stride, start),
            };
        }
        ROWS
    }

    /// The elements of `dq` from `start` of a head, for `ROWS` rows; returns how many.
    #[inline(always)]
    fn query_part<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        simd: S,
        head: usize,
        row: usize,
        ds: &[f32],
        stride: usize,
        start: usize,
    ) -> usize {
        let width = (self.shape.head_dim - start).min(VECTORS * LANES);
        let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
        for position in self.options.first_seen(row + 1)..row + ROWS {
            let k = load::<S, VECTORS>(simd, &self.k[self.kv_offset(position) + start..][..width]);
            for (offset, sums) in sums.iter_mut().enumerate() {
                // The last positions belong to the later rows only, the first to the earlier.
                let seen = self.options.first_seen(row + offset + 1)..=row + offset;
                if seen.contains(&position) {
                    let ds = simd.splat(ds[offset * stride + position]);
                    for (sum, &k) in sums.iter_mut().zip(&k) {
                        *sum = simd.fma(ds, k, *sum);
                    }
                }
            }
        }
        for (offset, sums) in sums.iter().enumerate() {
            let at = self.q_offset(head, row + offset) + start;
            // SAFETY: this task owns this head's row of dq.
            store(simd, sums, unsafe { self.gradients.dq.slice(at, width) });
        }
        width
    }

    /// Continues `dk` and `dv` of every position by the rows of a tile.
    #[inline(always)]
    fn key_value_gradients<S: Simd>(&self, simd: S, head: usize, rows: Range<usize>, tile: &Tile) {
        for position in self.options.first_seen(rows.start + 1)..rows.end {
            let mut start = 0;
            while start < self.shape.head_dim {
                let rows = rows.clone();
                start += match vectors::<S>(self.shape.head_dim - start) {
                    4 => self.key_value_part::<S, 4>(simd, head, rows, tile, position, start),
                    2 => self.key_value_part::<S, 2>(simd, head, rows, tile, position, start),
                    _ => self.key_value_part::<S, 1>(simd, head, rows, tile, position, start),
                };
            }
        }
    }

    /// The elements of `dk` and `dv` from `start` of a position; returns how many.
    #[inline(always)]
    fn key_value_part<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        head: usize,
        rows: Range<usize>,
        tile: &Tile,
        position: usize,
        start: usize,
    ) -> usize {
        let width = (self.shape.head_dim - start).min(VECTORS * LANES);
        let at = self.kv_offset(position) + start;
        // SAFETY: this task owns this head's columns of dk and dv in its sequence.
        let (dk, dv) =
            unsafe { (self.gradients.dk.slice(at, width), self.gradients.dv.slice(at, width)) };
        let mut k_sums = load::<S, VECTORS>(simd, dk);
        let mut v_sums = load::<S, VECTORS>(simd, dv);
        for row in position.max(rows.start)..self.options.seen_until(position, rows.end) {
            let entry = (row - rows.start) * tile.stride + position;
            let (ds, p) = (simd.splat(tile.ds[entry]), simd.splat(tile.p[entry]));
            let from = self.q_offset(head, row) + start;
            let q = load::<S, VECTORS>(simd, &self.q[from..][..width]);
            let dout = load::<S, VECTORS>(simd, &self.dout[from..][..width]);
            for vector in 0..VECTORS {
                k_sums[vector] = simd.fma(ds, q[vector], k_sums[vector]);
                v_sums[vector] = simd.fma(p, dout[vector], v_sums[vector]);
            }
        }
        store(simd, &k_sums, dk);
        store(simd, &v_sums, dv);
        width
    }
}

/// How many vectors to take at once of the `rest` of a head. Only a single one may be partial.
#[inline(always)]
fn vectors<S: Simd>(rest: usize) -> usize {
    if S::WIDE && rest >= 4 * LANES {
        4
    } else if rest >= 2 * LANES {
        2
    } else {
        1
    }
}

#[inline(always)]
fn load<S: Simd, const VECTORS: usize>(simd: S, x: &[f32]) -> [S::F; VECTORS] {
    let mut out = [simd.splat(0.0); VECTORS];
    for (out, x) in out.iter_mut().zip(x.chunks(LANES)) {
        *out = simd.load_part(x, 0.0);
    }
    out
}

#[inline(always)]
fn store<S: Simd, const VECTORS: usize>(simd: S, a: &[S::F; VECTORS], x: &mut [f32]) {
    for (&a, x) in a.iter().zip(x.chunks_mut(LANES)) {
        simd.store_part(a, x);
    }
}

/// What turns the products of one query row into its gradients.
#[derive(Clone, Copy, Default)]
struct Softmax {
    stats: Stats,
    delta: f32,
    scale: f32,
    soft_cap: Option<f32>,
}

/// Writes the probabilities and score gradients of some rows and blocks to `(p, ds, stride)`;
/// returns the number of blocks.
#[inline(always)]
fn finish<S: Simd, const ROWS: usize, const BLOCKS: usize>(
    simd: S,
    softmax: &[Softmax; ROWS],
    scores: &[[S::F; BLOCKS]; ROWS],
    dps: &[[S::F; BLOCKS]; ROWS],
    (p, ds, stride): (&mut [f32], &mut [f32], usize),
) -> usize {
    for row in 0..ROWS {
        let Softmax { stats, delta, scale, soft_cap } = softmax[row];
        let scale = simd.splat(scale);
        for block in 0..BLOCKS {
            let mut score = simd.mul(scores[row][block], scale);
            let mut slope = None;
            if let Some(cap) = soft_cap {
                let t = tanh_lanes(simd, simd.div(score, simd.splat(cap)));
                score = simd.mul(simd.splat(cap), t);
                slope = Some(simd.fma(simd.neg(t), t, simd.splat(1.0)));
            }
            let shifted = simd.sub(score, simd.splat(stats.max));
            let weight = simd.div(exp_lanes(simd, shifted), simd.splat(stats.sum));
            let mut gradient = simd.mul(weight, simd.sub(dps[row][block], simd.splat(delta)));
            if let Some(slope) = slope {
                gradient = simd.mul(gradient, slope);
            }
            let at = row * stride + block * BLOCK;
            simd.store_part(weight, &mut p[at..at + BLOCK]);
            simd.store_part(simd.mul(gradient, scale), &mut ds[at..at + BLOCK]);
        }
    }
    BLOCKS
}

/// Rows of one head, stored so that sixteen positions are one vector (as keys in a block).
struct Columns {
    head_dim: usize,
    data: Vec<f32>,
}

impl Columns {
    fn of<'r>(len: usize, head_dim: usize, row: impl Fn(usize) -> &'r [f32]) -> Self {
        let mut data = vec![0.0; len.next_multiple_of(BLOCK) * head_dim];
        for position in 0..len {
            let block = &mut data[position / BLOCK * BLOCK * head_dim..][..BLOCK * head_dim];
            for (d, &value) in row(position).iter().enumerate() {
                block[d * BLOCK + position % BLOCK] = value;
            }
        }
        Self { head_dim, data }
    }

    /// The chains over head_dim of each row of `x` with the positions of blocks from `first`.
    #[inline(always)]
    fn products<S: Simd, const ROWS: usize, const BLOCKS: usize>(
        &self,
        simd: S,
        x: [&[f32]; ROWS],
        first: usize,
    ) -> [[S::F; BLOCKS]; ROWS] {
        let len = self.head_dim * BLOCK;
        let blocks = &self.data[first * len..][..BLOCKS * len];
        let mut sums = [[simd.splat(0.0); BLOCKS]; ROWS];
        for d in 0..self.head_dim {
            let mut columns = [simd.splat(0.0); BLOCKS];
            for (block, column) in columns.iter_mut().enumerate() {
                // SAFETY: `d` is below head_dim, so this is inside block `block` of `blocks`.
                *column = unsafe { simd.load_ptr(blocks.as_ptr().add(block * len + d * BLOCK)) };
            }
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = simd.splat(x[d]);
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = simd.fma(x, column, *sum);
                }
            }
        }
        sums
    }
}
