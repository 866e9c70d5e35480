//! Causal attention: rule 4, over a paged cache and over whole sequences.
//!
//! Decoding, prefill, scoring and training all run the one kernel in [`forward`], so they give the
//! same bits. For a query at position `context_len - 1` of its sequence and one head, over the positions
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
mod forward;
mod options;
mod plan;
mod softmax;
mod tile;
mod train;

pub use cache::{BLOCK, KvLayout};
pub use options::{AttentionOptions, AttentionShape};
pub use train::AttentionSaved;

use crate::kernels::{Kernels, MIN_PARALLEL_VALUES, SharedMut};
use forward::{Call, Task};
use plan::Plan;
use softmax::Stats;

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
        let (out, stats) = (SharedMut::new(out), stats.map(SharedMut::new));
        let scale = options.scale.unwrap_or(shape.scale());
        let call = Call { q, out, rows, k_pool, v_pool, shape, options, scale, stats };
        let seen: usize = rows.iter().map(|row| options.seen(row.context_len as usize).len()).sum();
        // Eight multiply-adds cost about as much as one value of a plain pass.
        let alone = seen * shape.heads * shape.head_dim / 8 < MIN_PARALLEL_VALUES;
        let plan = Plan::new(rows, shape, options, if alone { 1 } else { self.threads() });
        let run = |task: usize| {
            let (kv_head, lines) = plan.task(task);
            self.run(Task { call, plan: &plan, kv_head, lines });
        };
        if alone {
            (0..plan.tasks()).for_each(run);
        } else {
            self.parallel(plan.tasks(), &run);
        }
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
        let used = (row.context_len as usize).div_ceil(BLOCK);
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
