//! The attention kernel: the lines of one task, over the paged cache.
//!
//! Three passes over a strip of scores, `[lines, positions]`: products with the keys, softmax, and
//! the mixing of the values, whose chains live in the output between two chunks of positions.

use super::plan::{CHUNK_BLOCKS, Line, Plan, Step};
use super::softmax::{Stats, softmax};
use super::tile::{self, Terms};
use super::{AttentionOptions, AttentionRow, AttentionShape, BLOCK};
use crate::kernels::SharedMut;
use crate::simd::{LANES, Operation, Simd};
use std::cell::RefCell;
use std::ops::Range;

/// The arguments of a call.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) q: &'a [f32],
    pub(super) out: SharedMut<'a, f32>,
    pub(super) rows: &'a [AttentionRow<'a>],
    pub(super) k_pool: &'a [f32],
    pub(super) v_pool: &'a [f32],
    pub(super) shape: AttentionShape,
    pub(super) options: AttentionOptions,
    /// The factor of the scores.
    pub(super) scale: f32,
    /// `[rows, heads]`.
    pub(super) stats: Option<SharedMut<'a, Stats>>,
}

/// Some lines of one key-value head.
pub(super) struct Task<'a> {
    pub(super) call: Call<'a>,
    pub(super) plan: &'a Plan,
    pub(super) kv_head: usize,
    pub(super) lines: Range<usize>,
}

/// Buffers of a thread, kept so that a decoded token allocates nothing here.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    lines: Vec<Line>,
    steps: Vec<Step>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Operation for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Taken, not borrowed: a panic or a nested call then only costs an allocation.
        let mut scratch = SCRATCH.take();
        let Scratch { scores, lines, steps } = &mut scratch;
        let scores = self.prepare(scores, lines, steps);
        for step in &*steps {
            match step.lines.len() {
                1 => self.score::<S, 1>(simd, lines, step, scores),
                2 => self.score::<S, 2>(simd, lines, step, scores),
                3 => self.score::<S, 3>(simd, lines, step, scores),
                4 => self.score::<S, 4>(simd, lines, step, scores),
                5 => self.score::<S, 5>(simd, lines, step, scores),
                _ => self.score::<S, 6>(simd, lines, step, scores),
            }
        }
        for line in &mut *lines {
            line.sum = self.softmax(simd, line, scores);
        }
        for step in &*steps {
            let whole = step.blocks.start * BLOCK..step.blocks.end * BLOCK;
            let seen = |line: usize| lines[line].seen.clone();
            for (tile, span) in tile::pieces(whole, step.lines.clone(), seen) {
                let mix = Mix { lines: &lines[tile], table: step.table, span, weights: scores };
                match mix.lines.len() {
                    1 => self.mix::<S, 1>(simd, &mix),
                    2 => self.mix::<S, 2>(simd, &mix),
                    3 => self.mix::<S, 3>(simd, &mix),
                    4 => self.mix::<S, 4>(simd, &mix),
                    5 => self.mix::<S, 5>(simd, &mix),
                    _ => self.mix::<S, 6>(simd, &mix),
                }
            }
        }
        self.divide(simd, lines);
        SCRATCH.set(scratch);
    }
}

/// Lines that mix the same values.
struct Mix<'a> {
    lines: &'a [Line],
    /// Number of a row whose table has the blocks.
    table: usize,
    /// The positions, which all of the lines see.
    span: Range<usize>,
    weights: &'a [f32],
}

impl Task<'_> {
    /// Lists the lines and the steps, makes room for the scores, and starts the output at zero.
    fn prepare<'s>(
        &self,
        scores: &'s mut Vec<f32>,
        lines: &mut Vec<Line>,
        steps: &mut Vec<Step>,
    ) -> &'s mut [f32] {
        let Call { rows, out, shape, options, .. } = self.call;
        let group = shape.group();
        let mut end = 0;
        lines.clear();
        lines.extend(self.lines.clone().map(|line| {
            let (rank, head) = (line / group, self.kv_head * group + line % group);
            let row = self.plan.row(rank);
            let seen = options.seen(rows[row].context_len as usize);
            let at = (row * shape.heads + head) * shape.head_dim;
            let line = Line { rank, row, head, at, seen, scores: end, sum: 0.0 };
            // One block more: rows a power of two apart would share a few sets of the cache.
            end += (line.blocks().len() + 1) * BLOCK;
            line
        }));
        self.plan.steps(lines, steps);
        for line in lines {
            // SAFETY: each line belongs to one task.
            unsafe { out.slice(line.at, shape.head_dim) }.fill(0.0);
        }
        // Nothing is read before it is written, so old scores may stay.
        if scores.len() < end + LANES {
            scores.resize(end + LANES, 0.0);
        }
        // On the start of a cache line, so that no vector crosses two.
        let skip = scores.as_ptr().align_offset(64).min(LANES);
        &mut scores[skip..][..end]
    }

    /// Writes the scaled products of the lines of a step with its keys.
    #[inline(always)]
    fn score<S: Simd, const LINES: usize>(
        &self,
        simd: S,
        lines: &[Line],
        step: &Step,
        scores: &mut [f32],
    ) {
        let mut block = step.blocks.start;
        while block < step.blocks.end {
            block += match tile::blocks::<S>(step.blocks.end - block) {
                4 => self.score_blocks::<S, LINES, 4>(simd, lines, step, block, scores),
                3 => self.score_blocks::<S, LINES, 3>(simd, lines, step, block, scores),
                2 => self.score_blocks::<S, LINES, 2>(simd, lines, step, block, scores),
                _ => self.score_blocks::<S, LINES, 1>(simd, lines, step, block, scores),
            };
        }
    }

    /// As `score` for `BLOCKS` blocks from `first`; returns `BLOCKS`.
    #[inline(always)]
    fn score_blocks<S: Simd, const LINES: usize, const BLOCKS: usize>(
        &self,
        simd: S,
        lines: &[Line],
        step: &Step,
        first: usize,
        scores: &mut [f32],
    ) -> usize {
        let lines = &lines[step.lines.clone()];
        let Call { q, k_pool, shape, scale, .. } = self.call;
        let x: [*const f32; LINES] =
            std::array::from_fn(|line| q[lines[line].at..][..shape.head_dim].as_ptr());
        let keys: [*const f32; BLOCKS] = std::array::from_fn(|block| {
            self.head_block(k_pool, step.table, first + block).as_ptr()
        });
        let ahead = std::array::from_fn(|block| {
            self.head_block_ahead(k_pool, step.table, first + block).as_ptr()
        });
        // SAFETY: the slices just taken hold head_dim and head_dim * 16 values.
        let products = unsafe { tile::products(simd, x, keys, ahead, shape.head_dim) };
        let scale = simd.splat(scale);
        for (line, products) in lines.iter().zip(products) {
            if step.whole {
                let scores = &mut scores[line.score(first * BLOCK)..][..BLOCKS * BLOCK];
                for (product, scores) in products.into_iter().zip(scores.chunks_exact_mut(BLOCK)) {
                    simd.store_part(simd.mul(product, scale), scores);
                }
                continue;
            }
            for (offset, product) in products.into_iter().enumerate() {
                if line.blocks().contains(&(first + offset)) {
                    let at = line.score((first + offset) * BLOCK);
                    simd.store_part(simd.mul(product, scale), &mut scores[at..][..BLOCK]);
                }
            }
        }
        BLOCKS
    }

    /// Turns the scores of a line into exponentials and returns their sum.
    #[inline(always)]
    fn softmax<S: Simd>(&self, simd: S, line: &Line, scores: &mut [f32]) -> f32 {
        let blocks = line.blocks();
        let scores = &mut scores[line.scores..][..blocks.len() * BLOCK];
        let first = blocks.start * BLOCK;
        let seen = line.seen.start - first..line.seen.end - first;
        let found = softmax(simd, scores, seen, self.call.options.soft_cap);
        if let Some(stats) = self.call.stats {
            // SAFETY: each line belongs to one task.
            unsafe { stats.put(line.row * self.call.shape.heads + line.head, found) };
        }
        found.sum
    }

    /// Continues the outputs of some lines by some positions.
    #[inline(always)]
    fn mix<S: Simd, const LINES: usize>(&self, simd: S, mix: &Mix<'_>) {
        let head_dim = self.call.shape.head_dim;
        let mut start = 0;
        while start < head_dim {
            start += match tile::vectors::<S>(head_dim - start) {
                4 => self.mix_part::<S, LINES, 4>(simd, mix, start),
                2 => self.mix_part::<S, LINES, 2>(simd, mix, start),
                _ => self.mix_part::<S, LINES, 1>(simd, mix, start),
            };
        }
    }

    /// As `mix` for the values from `start` of a head; returns how many.
    #[inline(always)]
    fn mix_part<S: Simd, const LINES: usize, const VECTORS: usize>(
        &self,
        simd: S,
        mix: &Mix<'_>,
        start: usize,
    ) -> usize {
        let Mix { lines, table, weights, .. } = *mix;
        let Call { out, v_pool, shape: AttentionShape { head_dim, .. }, .. } = self.call;
        let width = (head_dim - start).min(VECTORS * LANES);
        // SAFETY: each line belongs to one task, which holds one part of it at a time.
        let output = |line: usize| unsafe { out.slice(lines[line].at + start, width) };
        let mut sums = [[simd.splat(0.0); VECTORS]; LINES];
        for (line, sums) in sums.iter_mut().enumerate() {
            *sums = tile::load(simd, output(line));
        }
        let weights: [&[f32]; LINES] = std::array::from_fn(|line| {
            &weights[lines[line].score(mix.span.start)..][..mix.span.len()]
        });
        let mut position = mix.span.start;
        while position < mix.span.end {
            let slot = position % BLOCK;
            let count = (BLOCK - slot).min(mix.span.end - position);
            let rows = &self.head_block(v_pool, table, position / BLOCK)[slot * head_dim + start..];
            let ahead = self.head_block_ahead(v_pool, table, position / BLOCK);
            let terms = Terms::<LINES> {
                // Inside the slices: `position + count` does not pass the end of the span.
                weights: weights
                    .map(|weights| weights.as_ptr().wrapping_add(position - mix.span.start)),
                weight_stride: 1,
                values: rows[..(count - 1) * head_dim + width].as_ptr(),
                ahead: ahead[slot * head_dim + start..].as_ptr(),
                stride: head_dim,
                count,
            };
            // SAFETY: the slices just taken hold the weights and the rows, and only a single vector
            // is ever partial.
            unsafe { tile::accumulate(simd, terms, width, &mut sums) };
            position += count;
        }
        for (line, sums) in sums.iter().enumerate() {
            tile::store(simd, sums, output(line));
        }
        width
    }

    /// Divides the output of each line by its sum.
    #[inline(always)]
    fn divide<S: Simd>(&self, simd: S, lines: &[Line]) {
        for line in lines {
            let sum = simd.splat(line.sum);
            // SAFETY: each line belongs to one task.
            let out = unsafe { self.call.out.slice(line.at, self.call.shape.head_dim) };
            for out in out.chunks_mut(LANES) {
                simd.store_part(simd.div(simd.load_part(out, 0.0), sum), out);
            }
        }
    }

    /// This key-value head's part of block `block` of a row's table: `head_dim * 16` values.
    #[inline(always)]
    fn head_block<'p>(&self, pool: &'p [f32], row: usize, block: usize) -> &'p [f32] {
        let Call { shape, rows, .. } = self.call;
        let len = shape.head_dim * BLOCK;
        let block = rows[row].blocks[block] as usize;
        &pool[(block * shape.kv_heads + self.kv_head) * len..][..len]
    }

    /// The block that comes a chunk after block `block`, or some other one if there is none.
    #[inline(always)]
    fn head_block_ahead<'p>(&self, pool: &'p [f32], row: usize, block: usize) -> &'p [f32] {
        let used = (self.call.rows[row].context_len as usize).div_ceil(BLOCK);
        self.head_block(pool, row, (block + CHUNK_BLOCKS).min(used - 1))
    }
}
