//! The attention kernel: the heads of one key-value group, for one query row.

use super::{AttentionOptions, AttentionRow, AttentionShape, BLOCK};
use crate::math::{exp_lanes, tanh_lanes};
use crate::simd::{LANES, Operation, Simd};
use std::cell::RefCell;
use std::ops::Range;

/// What the backward pass needs to rebuild a row's softmax.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    /// The largest score.
    pub(super) max: f32,
    /// The sum of the exponentials.
    pub(super) sum: f32,
}

/// One query row's heads that share a key-value head.
pub(super) struct HeadGroup<'a> {
    /// `[group, head_dim]`.
    pub(super) q: &'a [f32],
    pub(super) out: &'a mut [f32],
    pub(super) row: AttentionRow<'a>,
    pub(super) k_pool: &'a [f32],
    pub(super) v_pool: &'a [f32],
    pub(super) shape: AttentionShape,
    pub(super) options: AttentionOptions,
    pub(super) kv_head: usize,
    /// `[group]`.
    pub(super) stats: Option<&'a mut [Stats]>,
}

thread_local! {
    /// Scores of up to four heads. Kept, so that a decoded token allocates nothing.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Operation for HeadGroup<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        // Taken, not borrowed: a panic or a nested call then only costs an allocation.
        let mut scores = SCORES.take();
        let group = self.shape.group();
        let mut head = 0;
        while head < group {
            // Heads that share the loads of keys and values.
            let heads = (group - head).min(4);
            match heads {
                1 => self.heads::<S, 1>(simd, head, &mut scores),
                2 => self.heads::<S, 2>(simd, head, &mut scores),
                3 => self.heads::<S, 3>(simd, head, &mut scores),
                _ => self.heads::<S, 4>(simd, head, &mut scores),
            }
            head += heads;
        }
        SCORES.set(scores);
    }
}

impl HeadGroup<'_> {
    /// Heads `first .. first + HEADS` of the group.
    #[inline(always)]
    fn heads<S: Simd, const HEADS: usize>(&mut self, simd: S, first: usize, scores: &mut Vec<f32>) {
        let head_dim = self.shape.head_dim;
        let context = self.row.context_len as usize;
        let padded = context.next_multiple_of(BLOCK);
        scores.clear();
        scores.resize(HEADS * padded, 0.0);
        self.score::<S, HEADS>(simd, first, scores, padded);
        let mut sums = [0.0; HEADS];
        for (head, sum) in sums.iter_mut().enumerate() {
            let scores = &mut scores[head * padded..][..padded];
            let stats = softmax(simd, scores, self.first_seen()..context, self.options.soft_cap);
            *sum = stats.sum;
            if let Some(all) = &mut self.stats {
                all[first + head] = stats;
            }
        }
        let mut start = 0;
        while start < head_dim {
            start += if S::WIDE && head_dim - start >= 4 * LANES {
                self.mix::<S, HEADS, 4>(simd, first, scores, padded, start, sums)
            } else {
                self.mix::<S, HEADS, 1>(simd, first, scores, padded, start, sums)
            };
        }
    }

    /// Writes the scaled scores of all blocks, `[HEADS, padded]`.
    #[inline(always)]
    fn score<S: Simd, const HEADS: usize>(
        &self,
        simd: S,
        first: usize,
        scores: &mut [f32],
        padded: usize,
    ) {
        let mut block = self.first_seen() / BLOCK;
        while block < padded / BLOCK {
            // Several blocks at once hide the latency of the chains.
            block += if S::WIDE && padded / BLOCK - block >= 4 {
                self.score_blocks::<S, HEADS, 4>(simd, first, scores, padded, block)
            } else {
                self.score_blocks::<S, HEADS, 1>(simd, first, scores, padded, block)
            };
        }
    }

    #[inline(always)]
    fn score_blocks<S: Simd, const HEADS: usize, const BLOCKS: usize>(
        &self,
        simd: S,
        first: usize,
        scores: &mut [f32],
        padded: usize,
        block: usize,
    ) -> usize {
        let head_dim = self.shape.head_dim;
        let keys: [&[f32]; BLOCKS] = std::array::from_fn(|offset| {
            self.head_block(self.k_pool, self.row.blocks[block + offset])
        });
        let q: [&[f32]; HEADS] =
            std::array::from_fn(|head| &self.q[(first + head) * head_dim..][..head_dim]);
        let mut sums = [[simd.splat(0.0); BLOCKS]; HEADS];
        for d in 0..head_dim {
            let mut key = [simd.splat(0.0); BLOCKS];
            for (key, keys) in key.iter_mut().zip(&keys) {
                // SAFETY: `head_block` returns head_dim * 16 values.
                *key = unsafe { simd.load_ptr(keys.as_ptr().add(d * BLOCK)) };
            }
            for (sums, q) in sums.iter_mut().zip(&q) {
                let q = simd.splat(q[d]);
                for (sum, &key) in sums.iter_mut().zip(&key) {
                    *sum = simd.fma(q, key, *sum);
                }
            }
        }
        let scale = simd.splat(self.options.scale.unwrap_or(self.shape.scale()));
        for (head, sums) in sums.into_iter().enumerate() {
            for (offset, sum) in sums.into_iter().enumerate() {
                let scores = &mut scores[head * padded + (block + offset) * BLOCK..][..BLOCK];
                simd.store_part(simd.mul(sum, scale), scores);
            }
        }
        BLOCKS
    }

    /// Mixes the values of `VECTORS * 16` output elements from `start`; returns how many.
    #[inline(always)]
    fn mix<S: Simd, const HEADS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        first: usize,
        weights: &[f32],
        padded: usize,
        start: usize,
        sums: [f32; HEADS],
    ) -> usize {
        let head_dim = self.shape.head_dim;
        let context = self.row.context_len as usize;
        // Only a single vector can hang over the end of the head.
        let width = (head_dim - start).min(VECTORS * LANES);
        let mut mixed = [[simd.splat(0.0); VECTORS]; HEADS];
        let first_seen = self.first_seen();
        for block in first_seen / BLOCK..padded / BLOCK {
            let values = self.head_block(self.v_pool, self.row.blocks[block]);
            let start_slot = first_seen.saturating_sub(block * BLOCK);
            for slot in start_slot..BLOCK.min(context - block * BLOCK) {
                let row = &values[slot * head_dim + start..][..width];
                let mut value = [simd.splat(0.0); VECTORS];
                for (value, part) in value.iter_mut().zip(row.chunks(LANES)) {
                    *value = simd.load_part(part, 0.0);
                }
                for (head, mixed) in mixed.iter_mut().enumerate() {
                    let weight = simd.splat(weights[head * padded + block * BLOCK + slot]);
                    for (mixed, &value) in mixed.iter_mut().zip(&value) {
                        *mixed = simd.fma(weight, value, *mixed);
                    }
                }
            }
        }
        for (head, mixed) in mixed.into_iter().enumerate() {
            let out = &mut self.out[(first + head) * head_dim + start..][..width];
            for (mixed, out) in mixed.into_iter().zip(out.chunks_mut(LANES)) {
                simd.store_part(simd.div(mixed, simd.splat(sums[head])), out);
            }
        }
        width
    }

    /// The first position that the row sees.
    #[inline(always)]
    fn first_seen(&self) -> usize {
        self.options.first_seen(self.row.context_len as usize)
    }

    /// This key-value head's part of a block: `head_dim * 16` values.
    #[inline(always)]
    fn head_block<'p>(&self, pool: &'p [f32], block: u32) -> &'p [f32] {
        let len = self.shape.head_dim * BLOCK;
        &pool[(block as usize * self.shape.kv_heads + self.kv_head) * len..][..len]
    }
}

/// Turns the scores of the positions `seen` into exponentials, in place. The others are ignored.
#[inline(always)]
fn softmax<S: Simd>(
    simd: S,
    scores: &mut [f32],
    seen: Range<usize>,
    soft_cap: Option<f32>,
) -> Stats {
    if let Some(cap) = soft_cap {
        let cap = simd.splat(cap);
        for scores in scores[seen.clone()].chunks_mut(LANES) {
            let t = tanh_lanes(simd, simd.div(simd.load_part(scores, 0.0), cap));
            simd.store_part(simd.mul(cap, t), scores);
        }
    }
    let max = crate::reduce::max(simd, &scores[seen.clone()]);
    let max_lanes = simd.splat(max);
    let mut sum = simd.splat(0.0);
    let first = seen.start / BLOCK;
    for (block, scores) in scores.chunks_exact_mut(BLOCK).enumerate().skip(first) {
        let p = exp_lanes(simd, simd.sub(simd.load_part(scores, 0.0), max_lanes));
        simd.store_part(p, scores);
        let mut next = simd.select(simd.first(seen.end - block * BLOCK), simd.add(sum, p), sum);
        if block == first {
            next = simd.select(simd.first(seen.start % BLOCK), sum, next);
        }
        sum = next;
    }
    Stats { max, sum: simd.tree_sum(sum) }
}
