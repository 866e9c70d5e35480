//! Causal attention: rule 4, over a paged cache and over whole sequences.
//!
//! Decoding, prefill, scoring and training all run the one kernel in [`row`], so they give the same
//! bits. For a query at position `context_len - 1` of its sequence and one head:
//! ```text
//! s[j] = (chain over head_dim of fma(q[d], k[j][d], acc)) * scale       scale = 1 / sqrt(head_dim)
//! m    = max of s
//! p[j] = exp(s[j] - m)
//! z    = sum of p by rule 3, position j in lane j mod 16
//! o[d] = (chain over positions j of fma(p[j], v[j][d], acc)) / z
//! ```
//! Positions beyond the context are skipped. `scale` is computed in f64 and rounded once. NaN in an
//! input gives an unspecified result that is not reported here; it reaches the logits, whose users
//! check.

mod backward;
mod cache;
mod row;
mod train;

pub use cache::{BLOCK, KvLayout};
pub use train::AttentionSaved;

use crate::kernels::{Kernels, SharedMut};
use crate::simd::LANES;
use row::{HeadGroup, Stats};

/// One query row and the context it sees.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// The blocks of its sequence in position order: block `i` holds positions `16 i .. 16 i + 16`.
    /// There may be more than the context needs.
    pub blocks: &'a [u32],
    /// Number of positions it attends to (its own position plus one); at least 1.
    pub context_len: u32,
}

/// Head counts and size. Query head `h` uses key-value head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// The factor of the scores: `1 / sqrt(head_dim)`, rounded once.
    pub fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// Query heads per key-value head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    pub(crate) fn layout(&self) -> KvLayout {
        KvLayout { kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    fn assert_valid(&self) {
        let divides =
            self.kv_heads > 0 && self.heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        assert!(divides && self.head_dim > 0, "attention: invalid shape {self:?}");
    }
}

impl Kernels {
    /// Computes attention of `q`, `[rows, heads * head_dim]`, over the cache, into `out` of the same
    /// shape.
    ///
    /// `k_pool` and `v_pool` are one layer's pools, laid out as [`KvLayout`] says; the keys and
    /// values of every position of a row's context, its own included, must have been stored.
    ///
    /// # Panics
    /// If a shape does not fit, a context is empty or longer than its blocks, or a block is outside
    /// the pools.
    pub fn attention(
        &self,
        q: &[f32],
        out: &mut [f32],
        rows: &[AttentionRow<'_>],
        k_pool: &[f32],
        v_pool: &[f32],
        shape: AttentionShape,
    ) {
        self.attention_rows(q, out, rows, k_pool, v_pool, shape, None);
    }

    /// [`Kernels::attention`], which may also keep what the backward pass needs: `stats` is
    /// `[rows, heads]`.
    #[expect(clippy::too_many_arguments, reason = "the public function plus one")]
    fn attention_rows(
        &self,
        q: &[f32],
        out: &mut [f32],
        rows: &[AttentionRow<'_>],
        k_pool: &[f32],
        v_pool: &[f32],
        shape: AttentionShape,
        stats: Option<&mut [Stats]>,
    ) {
        check(q, out, rows, k_pool, v_pool, shape);
        let width = shape.heads * shape.head_dim;
        let (group, kv_heads) = (shape.group(), shape.kv_heads);
        let out = SharedMut::new(out);
        let stats = stats.map(SharedMut::new);
        let longest = rows.iter().map(|row| row.context_len as usize).max().unwrap_or(0);
        // A position costs two multiply-adds a value, about as much as one value of a plain pass.
        let cost = (longest * group * shape.head_dim / 8).max(1);
        // Row by row within a head, so that neighbouring tasks find the same keys in cache.
        self.for_ranges(rows.len() * kv_heads, cost, 1, &|range| {
            for task in range {
                let (kv_head, row) = (task / rows.len(), task % rows.len());
                let first = row * width + kv_head * group * shape.head_dim;
                let len = group * shape.head_dim;
                // SAFETY: each (row, kv head) belongs to one task.
                let out = unsafe { out.slice(first, len) };
                // SAFETY: as above.
                let stats = stats.map(|stats| unsafe {
                    stats.slice(row * shape.heads + kv_head * group, group)
                });
                let q = &q[first..][..len];
                self.run(HeadGroup {
                    q,
                    out,
                    row: rows[row],
                    k_pool,
                    v_pool,
                    shape,
                    kv_head,
                    stats,
                });
            }
        });
    }
}

fn check(
    q: &[f32],
    out: &[f32],
    rows: &[AttentionRow<'_>],
    k_pool: &[f32],
    v_pool: &[f32],
    shape: AttentionShape,
) {
    shape.assert_valid();
    let len = rows.len() * shape.heads * shape.head_dim;
    assert!(
        q.len() == len && out.len() == len,
        "attention: q or out is not [rows, heads * head_dim]"
    );
    assert_eq!(k_pool.len(), v_pool.len(), "attention: the pools differ in length");
    let pool_blocks = k_pool.len() / shape.layout().block_len();
    for row in rows {
        let used = (row.context_len as usize).div_ceil(LANES);
        assert!(
            used > 0 && used <= row.blocks.len(),
            "attention: a context of {} positions in {} blocks",
            row.context_len,
            row.blocks.len()
        );
        assert!(
            row.blocks[..used].iter().all(|&block| (block as usize) < pool_blocks),
            "attention: a block is outside the pool of {pool_blocks}"
        );
    }
}
