//! Causal attention: rule 4, over a paged cache and over whole sequences.
//!
//! Decoding, prefill, scoring and training all run the one kernel in [`row`], so they give the same
//! bits. For a query at position `context_len - 1` of its sequence and one head, over the positions
//! `j` that it sees (see [`AttentionOptions::window`]):
//! ```text
//! s[j] = (chain over head_dim of fma(q[d], k[j][d], acc)) * scale
//! s[j] = cap * tanh(s[j] / cap)                          only with a soft-cap
//! m    = max of s
//! p[j] = exp(s[j] - m)
//! z    = sum of p by rule 3, position j in lane j mod 16
//! o[d] = (chain over positions j, ascending, of fma(p[j], v[j][d], acc)) / z
//! ```
//! Positions that are not seen are skipped, never added as zeros. NaN in an input gives an
//! unspecified result that is not reported here; it reaches the logits, whose users check.

mod backward;
mod cache;
mod options;
mod row;
mod train;

pub use cache::{BLOCK, KvLayout};
pub use options::{AttentionOptions, AttentionShape};
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
    /// Number of positions up to and with its own; at least 1.
    pub context_len: u32,
}

impl Kernels {
    /// Computes attention of `q`, `[rows, heads * head_dim]`, over the cache, into `out` of the same
    /// shape.
    ///
    /// `k_pool` and `v_pool` are one layer's pools, laid out as [`KvLayout`] says; the keys and
    /// values of every position of a row's context, its own included, must have been stored.
    ///
    /// # Panics
    /// If a shape does not fit, an option is outside its range, a context is empty or longer than
    /// its blocks, or a block is outside the pools.
    #[expect(clippy::too_many_arguments, reason = "one argument per tensor")]
    pub fn attention(
        &self,
        q: &[f32],
        out: &mut [f32],
        rows: &[AttentionRow<'_>],
        k_pool: &[f32],
        v_pool: &[f32],
        shape: AttentionShape,
        options: AttentionOptions,
    ) {
        self.attention_rows(q, out, rows, k_pool, v_pool, shape, options, None);
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
        options: AttentionOptions,
        stats: Option<&mut [Stats]>,
    ) {
        options.assert_valid();
        check(q, out, rows, k_pool, v_pool, shape);
        let width = shape.heads * shape.head_dim;
        let (group, kv_heads) = (shape.group(), shape.kv_heads);
        let out = SharedMut::new(out);
        let stats = stats.map(SharedMut::new);
        let seen = |row: &AttentionRow<'_>| {
            let len = row.context_len as usize;
            len - options.first_seen(len)
        };
        let longest = rows.iter().map(seen).max().unwrap_or(0);
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
                    options,
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
