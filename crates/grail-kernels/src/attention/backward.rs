//! The backward kernel: one sequence and one key-value head.
//!
//! Positions are taken block by block of some hundreds, so that their keys, values and gradients
//! stay in cache; for each block, the query rows that see it, head by head, in tiles. That changes
//! no order: the chains of keys and values still run over heads, then rows, and the chains of
//! queries over positions, all ascending.

use super::softmax::{Derivative, Stats};
use super::tile::{self, Terms};
use super::{AttentionOptions, AttentionShape, BLOCK};
use crate::kernels::SharedMut;
use crate::reduce::dot;
use crate::simd::{LANES, Operation, Simd};
use std::cell::RefCell;
use std::ops::Range;

/// Query rows whose probabilities are held at once: each visit to a key gradient serves so many
/// links of its chain.
const TILE_ROWS: usize = 48;
/// Values of one head in a block of positions: five such buffers are 320 KiB, a part of L2.
const BLOCK_VALUES: usize = 16 * 1_024;
/// Positions whose products are computed, or added up, by all tiles of lines before the next.
const CHUNK: usize = 4 * BLOCK;

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

thread_local! {
    /// Buffers of a thread, kept between tasks.
    static ROOM: RefCell<Room> = RefCell::default();
}

/// What a task computes with. Rows of a head are padded to whole vectors.
#[derive(Default)]
struct Room {
    /// Length of a padded row.
    width: usize,
    /// The positions of the block in hand.
    positions: Range<usize>,
    /// Keys and values of the block, sixteen positions to a vector.
    columns: [Vec<f32>; 2],
    /// Keys of the block, row by row.
    keys: Vec<f32>,
    /// Gradients of the keys and of the values of the block.
    sums: [Vec<f32>; 2],
    /// Queries, and gradients of the output, of a tile of rows.
    rows: [Vec<f32>; 2],
    /// Gradients of the queries of the tile.
    dq: Vec<f32>,
    /// Score gradients and probabilities of the tile, as many to a row as `stride` says.
    scores: [Vec<f32>; 2],
    stride: usize,
}

impl Operation for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Taken, not borrowed: a panic or a nested call then only costs an allocation.
        let mut room = ROOM.take();
        let (group, len) = (self.shape.group(), self.span.len());
        let each = (BLOCK_VALUES / self.shape.head_dim).max(1).next_multiple_of(CHUNK);
        for head in self.kv_head * group..(self.kv_head + 1) * group {
            for row in 0..len {
                self.dq(head, row).fill(0.0);
            }
        }
        for start in (0..len).step_by(each) {
            self.pack(start..len.min(start + each), &mut room);
            let last = self.seen_until(room.positions.end - 1);
            for head in self.kv_head * group..(self.kv_head + 1) * group {
                for row in (start..last).step_by(TILE_ROWS) {
                    self.tile(simd, head, row..last.min(row + TILE_ROWS), &mut room);
                }
            }
            self.unpack(&room);
        }
        ROOM.set(room);
    }
}

impl<'a> Backward<'a> {
    /// Start of a query row's head in q, out, dout and dq.
    #[inline(always)]
    fn q_offset(&self, head: usize, row: usize) -> usize {
        ((self.span.start + row) * self.shape.heads + head) * self.shape.head_dim
    }

    /// Start of a position's head in k, v, dk and dv.
    #[inline(always)]
    fn kv_offset(&self, position: usize) -> usize {
        ((self.span.start + position) * self.shape.kv_heads + self.kv_head) * self.shape.head_dim
    }

    /// A row of the gradient of the queries.
    fn dq(&self, head: usize, row: usize) -> &'a mut [f32] {
        // SAFETY: this task owns the rows of its heads, and holds one at a time.
        unsafe { self.gradients.dq.slice(self.q_offset(head, row), self.shape.head_dim) }
    }

    /// The positions that a row sees.
    fn seen(&self, row: usize) -> Range<usize> {
        self.options.seen(row + 1)
    }

    /// One past the last row that sees a position.
    fn seen_until(&self, position: usize) -> usize {
        self.options.seen_until(position, self.span.len())
    }

    /// Brings the keys and values of a block of positions into `room`, with gradients of zero.
    fn pack(&self, positions: Range<usize>, room: &mut Room) {
        let head_dim = self.shape.head_dim;
        let (len, width) = (positions.len(), head_dim.next_multiple_of(LANES));
        for (columns, x) in room.columns.iter_mut().zip([self.k, self.v]) {
            columns.resize(len.next_multiple_of(BLOCK) * head_dim, 0.0);
            for (index, position) in positions.clone().enumerate() {
                let block = &mut columns[index / BLOCK * BLOCK * head_dim..][..BLOCK * head_dim];
                let row = &x[self.kv_offset(position)..][..head_dim];
                for (place, &value) in block.iter_mut().skip(index % BLOCK).step_by(BLOCK).zip(row)
                {
                    *place = value;
                }
            }
        }
        pad(
            &mut room.keys,
            width,
            positions.clone().map(|position| &self.k[self.kv_offset(position)..][..head_dim]),
        );
        for sums in &mut room.sums {
            sums.clear();
            sums.resize(len * width, 0.0);
        }
        (room.width, room.positions) = (width, positions);
    }

    /// Writes the gradients of the block's keys and values.
    fn unpack(&self, room: &Room) {
        let head_dim = self.shape.head_dim;
        let Gradients { dk, dv, .. } = self.gradients;
        for (out, sums) in [dk, dv].into_iter().zip(&room.sums) {
            for (position, sums) in room.positions.clone().zip(sums.chunks_exact(room.width)) {
                // SAFETY: this task owns this head's columns of dk and dv in its sequence.
                let out = unsafe { out.slice(self.kv_offset(position), head_dim) };
                out.copy_from_slice(&sums[..head_dim]);
            }
        }
    }

    /// Adds what the query rows `rows` of a head and the block in hand have to do with each other.
    #[inline(always)]
    fn tile<S: Simd>(&self, simd: S, head: usize, rows: Range<usize>, room: &mut Room) {
        let head_dim = self.shape.head_dim;
        for (tile, x) in room.rows.iter_mut().zip([self.q, self.dout]) {
            pad(
                tile,
                room.width,
                rows.clone().map(|row| &x[self.q_offset(head, row)..][..head_dim]),
            );
        }
        pad(&mut room.dq, room.width, rows.clone().map(|row| &*self.dq(head, row)));
        // One block more: rows a power of two apart would share a few sets of the cache.
        room.stride = room.positions.len().next_multiple_of(BLOCK) + BLOCK;
        for scores in &mut room.scores {
            if scores.len() < rows.len() * room.stride {
                scores.resize(rows.len() * room.stride, 0.0);
            }
        }
        self.products(simd, &rows, room);
        self.derive(simd, head, &rows, room);
        self.query_gradients(simd, &rows, room);
        self.key_value_gradients(simd, &rows, room);
        for (row, dq) in rows.zip(room.dq.chunks_exact(room.width)) {
            self.dq(head, row).copy_from_slice(&dq[..head_dim]);
        }
    }

    /// The positions of the block in hand that some of `rows` see, counted from its first.
    fn seen_of_block(&self, rows: Range<usize>, block: &Range<usize>) -> Range<usize> {
        let (first, last) = (self.seen(rows.start), self.seen(rows.end - 1));
        let start = first.start.max(block.start);
        start - block.start..last.end.min(block.end).max(start) - block.start
    }

    /// Writes the products of queries and keys, and of output gradients and values.
    #[inline(always)]
    fn products<S: Simd>(&self, simd: S, rows: &Range<usize>, room: &mut Room) {
        let Room { scores, rows: x, columns, positions, .. } = room;
        let [ds, p] = scores;
        let [keys, values] = &*columns;
        let [q, dout] = &*x;
        let all = self.seen_of_block(rows.clone(), positions);
        for (x, columns, out) in [(q, keys, p), (dout, values, ds)] {
            for chunk in (all.start / CHUNK..all.end.div_ceil(CHUNK)).map(|chunk| chunk * CHUNK) {
                for tile in tile::tiles(0..rows.len()) {
                    let lines = rows.start + tile.start..rows.start + tile.end;
                    let seen = self.seen_of_block(lines, positions);
                    let blocks =
                        seen.start.max(chunk) / BLOCK..seen.end.min(chunk + CHUNK).div_ceil(BLOCK);
                    let out = &mut out[tile.start * room.stride..];
                    let job = Products {
                        x: &x[tile.start * room.width..],
                        width: room.width,
                        columns,
                        head_dim: self.shape.head_dim,
                        blocks,
                    };
                    match tile.len() {
                        1 => job.run::<S, 1>(simd, out, room.stride),
                        2 => job.run::<S, 2>(simd, out, room.stride),
                        3 => job.run::<S, 3>(simd, out, room.stride),
                        4 => job.run::<S, 4>(simd, out, room.stride),
                        5 => job.run::<S, 5>(simd, out, room.stride),
                        _ => job.run::<S, 6>(simd, out, room.stride),
                    }
                }
            }
        }
    }

    /// Turns the products into probabilities and score gradients.
    #[inline(always)]
    fn derive<S: Simd>(&self, simd: S, head: usize, rows: &Range<usize>, room: &mut Room) {
        let head_dim = self.shape.head_dim;
        let [ds, p] = &mut room.scores;
        let strips = p.chunks_exact_mut(room.stride).zip(ds.chunks_exact_mut(room.stride));
        for (row, (p, ds)) in rows.clone().zip(strips) {
            let at = self.q_offset(head, row);
            let derivative = Derivative {
                stats: self.stats[(self.span.start + row) * self.shape.heads + head],
                delta: dot(simd, &self.dout[at..][..head_dim], &self.out[at..][..head_dim]),
                scale: self.options.scale.unwrap_or(self.shape.scale()),
                soft_cap: self.options.soft_cap,
            };
            let seen = self.seen_of_block(row..row + 1, &room.positions);
            let blocks = seen.start / BLOCK * BLOCK..seen.end.next_multiple_of(BLOCK);
            derivative.apply(simd, &mut p[blocks.clone()], &mut ds[blocks]);
        }
    }

    /// Continues `dq` of the tile: chains over positions.
    #[inline(always)]
    fn query_gradients<S: Simd>(&self, simd: S, rows: &Range<usize>, room: &mut Room) {
        let seen = |line: usize| {
            let row = rows.start + line;
            self.seen_of_block(row..row + 1, &room.positions)
        };
        let [ds, _] = &room.scores;
        for chunk in (0..room.positions.len()).step_by(CHUNK) {
            let chunk = chunk..room.positions.len().min(chunk + CHUNK);
            for tile in tile::tiles(0..rows.len()) {
                for (lines, span) in tile::pieces(chunk.clone(), tile, seen) {
                    let job = Sums {
                        weights: &ds[lines.start * room.stride + span.start..],
                        line_stride: room.stride,
                        weight_stride: 1,
                        values: &room.keys[span.start * room.width..],
                        count: span.len(),
                        width: room.width,
                    };
                    job.run(simd, lines.len(), &mut room.dq[lines.start * room.width..]);
                }
            }
        }
    }

    /// Continues `dk` and `dv` of the block in hand: chains over the rows of the tile.
    #[inline(always)]
    fn key_value_gradients<S: Simd>(&self, simd: S, rows: &Range<usize>, room: &mut Room) {
        let block = &room.positions;
        let seen = |index: usize| {
            let position = block.start + index;
            let end = self.seen_until(position).clamp(rows.start, rows.end);
            position.clamp(rows.start, end) - rows.start..end - rows.start
        };
        for tile in tile::tiles(self.seen_of_block(rows.clone(), block)) {
            for (lines, span) in tile::pieces(0..rows.len(), tile, seen) {
                for ((sums, scores), values) in
                    room.sums.iter_mut().zip(&room.scores).zip(&room.rows)
                {
                    let job = Sums {
                        weights: &scores[span.start * room.stride + lines.start..],
                        line_stride: 1,
                        weight_stride: room.stride,
                        values: &values[span.start * room.width..],
                        count: span.len(),
                        width: room.width,
                    };
                    job.run(simd, lines.len(), &mut sums[lines.start * room.width..]);
                }
            }
        }
    }
}

/// Copies rows into `out`, each filled up with zeros to `width`.
fn pad<'r>(out: &mut Vec<f32>, width: usize, rows: impl Iterator<Item = &'r [f32]>) {
    out.clear();
    for row in rows {
        out.extend_from_slice(row);
        out.resize(out.len() + width - row.len(), 0.0);
    }
}

/// Products of some lines with blocks of columns.
struct Products<'a> {
    /// Lines, `width` apart.
    x: &'a [f32],
    width: usize,
    columns: &'a [f32],
    head_dim: usize,
    blocks: Range<usize>,
}

impl Products<'_> {
    /// Writes the product of line `l` and position `j` to `out[l * stride + j]`.
    #[inline(always)]
    fn run<S: Simd, const LINES: usize>(&self, simd: S, out: &mut [f32], stride: usize) {
        let mut block = self.blocks.start;
        while block < self.blocks.end {
            block += match tile::blocks::<S>(self.blocks.end - block) {
                4 => self.blocks::<S, LINES, 4>(simd, block, out, stride),
                3 => self.blocks::<S, LINES, 3>(simd, block, out, stride),
                2 => self.blocks::<S, LINES, 2>(simd, block, out, stride),
                _ => self.blocks::<S, LINES, 1>(simd, block, out, stride),
            };
        }
    }

    /// As `run` for `BLOCKS` blocks from `first`; returns `BLOCKS`.
    #[inline(always)]
    fn blocks<S: Simd, const LINES: usize, const BLOCKS: usize>(
        &self,
        simd: S,
        first: usize,
        out: &mut [f32],
        stride: usize,
    ) -> usize {
        let len = self.head_dim * BLOCK;
        let x: [*const f32; LINES] =
            std::array::from_fn(|line| self.x[line * self.width..][..self.head_dim].as_ptr());
        let columns: [*const f32; BLOCKS] =
            std::array::from_fn(|block| self.columns[(first + block) * len..][..len].as_ptr());
        // SAFETY: the slices just taken hold head_dim and head_dim * 16 values.
        let products = unsafe { tile::products(simd, x, columns, columns, self.head_dim) };
        for (line, products) in products.into_iter().enumerate() {
            let out = &mut out[line * stride + first * BLOCK..][..BLOCKS * BLOCK];
            for (product, out) in products.into_iter().zip(out.chunks_exact_mut(BLOCK)) {
                simd.store_part(product, out);
            }
        }
        BLOCKS
    }
}

/// Weighted sums of rows of `width` values, whole vectors: line `l` adds `values[i]` times
/// `weights[l * line_stride + i * weight_stride]` for each `i` below `count`.
struct Sums<'a> {
    weights: &'a [f32],
    line_stride: usize,
    weight_stride: usize,
    values: &'a [f32],
    count: usize,
    width: usize,
}

impl Sums<'_> {
    /// Continues the chains of `lines` lines, `out`.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, lines: usize, out: &mut [f32]) {
        match lines {
            1 => self.lines::<S, 1>(simd, out),
            2 => self.lines::<S, 2>(simd, out),
            3 => self.lines::<S, 3>(simd, out),
            4 => self.lines::<S, 4>(simd, out),
            5 => self.lines::<S, 5>(simd, out),
            _ => self.lines::<S, 6>(simd, out),
        }
    }

    #[inline(always)]
    fn lines<S: Simd, const LINES: usize>(&self, simd: S, out: &mut [f32]) {
        let mut start = 0;
        while start < self.width {
            start += match tile::vectors::<S>(self.width - start) {
                4 => self.part::<S, LINES, 4>(simd, out, start),
                2 => self.part::<S, LINES, 2>(simd, out, start),
                _ => self.part::<S, LINES, 1>(simd, out, start),
            };
        }
    }

    /// The values from `start` of each line; returns how many.
    #[inline(always)]
    fn part<S: Simd, const LINES: usize, const VECTORS: usize>(
        &self,
        simd: S,
        out: &mut [f32],
        start: usize,
    ) -> usize {
        let part = VECTORS * LANES;
        let last = self.count - 1;
        let mut sums = [[simd.splat(0.0); VECTORS]; LINES];
        for (line, sums) in sums.iter_mut().enumerate() {
            *sums = tile::load(simd, &out[line * self.width + start..][..part]);
        }
        let values = &self.values[start..][..last * self.width + part];
        let terms = Terms::<LINES> {
            weights: std::array::from_fn(|line| {
                self.weights[line * self.line_stride..][..=last * self.weight_stride].as_ptr()
            }),
            weight_stride: self.weight_stride,
            values: values.as_ptr(),
            ahead: values.as_ptr(),
            stride: self.width,
            count: self.count,
        };
        // SAFETY: the slices just taken hold the weights and the rows.
        unsafe { tile::accumulate(simd, terms, part, &mut sums) };
        for (line, sums) in sums.iter().enumerate() {
            tile::store(simd, sums, &mut out[line * self.width + start..][..part]);
        }
        part
    }
}
