//! Attention over whole sequences for training: the same bits forward, and the gradients.

use super::backward::{Backward, Gradients};
use super::softmax::Stats;
use super::{AttentionOptions, AttentionRow, AttentionShape, BLOCK};
use crate::kernels::{Kernels, SharedMut};
use std::cell::RefCell;
use std::ops::Range;

/// What [`Kernels::attention_train`] keeps for [`Kernels::attention_backward`].
#[derive(Clone, Debug, Default)]
pub struct AttentionSaved {
    shape: AttentionShape,
    options: AttentionOptions,
    /// The rows of each sequence.
    spans: Vec<Range<usize>>,
    /// `[rows, heads]`.
    stats: Vec<Stats>,
}

thread_local! {
    /// The keys and values of a call by blocks, kept between calls: fresh memory costs page faults.
    static POOLS: RefCell<(Vec<f32>, Vec<f32>)> = RefCell::default();
}

impl Kernels {
    /// Computes causal attention within each sequence; the bits are those of [`Kernels::attention`].
    ///
    /// `q` and `out` are `[rows, heads * head_dim]`, `k` and `v` are `[rows, kv_heads * head_dim]`.
    /// Sequence `s` is rows `sequences[s] .. sequences[s + 1]`; the first offset is 0, the last is
    /// `rows`.
    ///
    /// # Panics
    /// If a shape does not fit, an option is outside its range, or the offsets do not ascend.
    #[expect(clippy::too_many_arguments, reason = "one argument per tensor")]
    pub fn attention_train(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        sequences: &[usize],
        out: &mut [f32],
        shape: AttentionShape,
        options: AttentionOptions,
        saved: &mut AttentionSaved,
    ) {
        let spans = check(q, k, v, sequences, shape);
        assert_eq!(out.len(), q.len(), "attention_train: out has another shape than q");
        let blocks = spans.iter().map(|span| span.len().div_ceil(BLOCK)).sum::<usize>();
        let tables: Vec<u32> = (0..blocks as u32).collect();
        let mut rows = Vec::with_capacity(q.len() / (shape.heads * shape.head_dim));
        // The rows of each block.
        let mut stored = Vec::with_capacity(blocks);
        for span in spans.iter().cloned() {
            let table = &tables[stored.len()..][..span.len().div_ceil(BLOCK)];
            let starts = span.clone().step_by(BLOCK);
            stored.extend(starts.map(|start| start..span.end.min(start + BLOCK)));
            let contexts = 1..=span.len() as u32;
            rows.extend(contexts.map(|context_len| AttentionRow { blocks: table, context_len }));
        }
        // Taken, not borrowed: a panic or a nested call then only costs an allocation.
        let (mut k_pool, mut v_pool) = POOLS.take();
        self.store_blocks(k, v, &stored, shape, &mut k_pool, &mut v_pool);
        saved.stats.clear();
        saved.stats.resize(rows.len() * shape.heads, Stats::default());
        (saved.shape, saved.options, saved.spans) = (shape, options, spans);
        let stats = Some(saved.stats.as_mut_slice());
        self.attention_rows(q, out, &rows, &k_pool, &v_pool, shape, options, stats);
        POOLS.set((k_pool, v_pool));
    }

    /// Stores keys and values by blocks, whose rows are `stored`, in pools of that size.
    fn store_blocks(
        &self,
        k: &[f32],
        v: &[f32],
        stored: &[Range<usize>],
        shape: AttentionShape,
        k_pool: &mut Vec<f32>,
        v_pool: &mut Vec<f32>,
    ) {
        let (layout, width) = (shape.layout(), shape.kv_heads * shape.head_dim);
        let len = layout.block_len();
        // Slots without a position are never read, so old values may stay.
        k_pool.resize(stored.len() * len, 0.0);
        v_pool.resize(stored.len() * len, 0.0);
        let (k_pool, v_pool) = (SharedMut::new(k_pool), SharedMut::new(v_pool));
        self.for_ranges(stored.len(), 2 * len, 1, &|range| {
            for block in range {
                // SAFETY: each block belongs to one task.
                let (keys, values) =
                    unsafe { (k_pool.slice(block * len, len), v_pool.slice(block * len, len)) };
                for (slot, row) in stored[block].clone().enumerate() {
                    let (k, v) = (&k[row * width..][..width], &v[row * width..][..width]);
                    layout.store(keys, values, 0, slot, k, v);
                }
            }
        });
    }

    /// Computes the gradients of [`Kernels::attention_train`] from `dout`, that of its output.
    ///
    /// `q`, `k`, `v`, `out` and `saved` are those of the forward call. `dq`, `dk` and `dv` have the
    /// shapes of `q`, `k` and `v`, and are written.
    ///
    /// For each sequence and key-value head, with `D = dot(dout, out)` by rule 3:
    /// ```text
    /// for each query head of the group, ascending:
    ///   for each query row i, ascending, and each position j that it sees:
    ///     p  = exp(s - max) / sum                       as in the forward pass
    ///     dp = chain over head_dim of fma(dout[i][d], v[j][d], acc)
    ///     ds = p * (dp - D)
    ///     ds = ds * fma(-t, t, 1)                       only with a soft-cap, t its tanh
    ///     ds = ds * scale
    ///   dq[i] = chain over j, ascending, of fma(ds, k[j], acc)
    ///   dk[j] = chain over (head, i), carried on, of fma(ds, q[i], acc)
    ///   dv[j] = chain over (head, i), carried on, of fma(p, dout[i], acc)
    /// ```
    /// Each chain starts at zero and belongs to one task.
    ///
    /// # Panics
    /// If a shape does not fit.
    #[expect(clippy::too_many_arguments, reason = "one argument per tensor")]
    pub fn attention_backward(
        &self,
        dout: &[f32],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &[f32],
        saved: &AttentionSaved,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let AttentionSaved { shape, options, spans, stats } = saved;
        let (shape, options) = (*shape, *options);
        let query_len = stats.len() * shape.head_dim;
        let query_sized = [q.len(), dout.len(), out.len(), dq.len()];
        let kv_sized = [k.len(), v.len(), dk.len(), dv.len()];
        assert!(
            query_sized == [query_len; 4]
                && kv_sized.iter().all(|len| len * shape.heads == query_len * shape.kv_heads),
            "attention_backward: a shape differs from the forward call"
        );
        let (dq, dk, dv) = (SharedMut::new(dq), SharedMut::new(dk), SharedMut::new(dv));
        let tasks = spans.len() * shape.kv_heads;
        let values = q.len().checked_div(tasks).unwrap_or(0);
        let cost = spans.iter().map(Range::len).max().unwrap_or(0) * values / 4;
        let backward = |task: usize| {
            let (span, kv_head) = (spans[task / shape.kv_heads].clone(), task % shape.kv_heads);
            let gradients = Gradients { dq, dk, dv };
            self.run(Backward {
                dout,
                q,
                k,
                v,
                out,
                span,
                kv_head,
                shape,
                options,
                stats,
                gradients,
            });
        };
        if cost * tasks < crate::kernels::MIN_PARALLEL_VALUES {
            (0..tasks).for_each(backward);
        } else {
            self.parallel(tasks, &backward);
        }
    }
}

/// The row ranges of the sequences.
fn check(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sequences: &[usize],
    shape: AttentionShape,
) -> Vec<Range<usize>> {
    shape.assert_valid();
    let rows = sequences.last().copied().unwrap_or(0);
    let ascending = sequences.windows(2).all(|pair| pair[0] <= pair[1]);
    assert!(
        sequences.first() == Some(&0) && ascending,
        "attention: sequence offsets must start at 0 and ascend"
    );
    assert_eq!(
        q.len(),
        rows * shape.heads * shape.head_dim,
        "attention: q is not [rows, heads * head_dim]"
    );
    let width = shape.kv_heads * shape.head_dim;
    assert!(
        k.len() == rows * width && v.len() == rows * width,
        "attention: k or v is not [rows, kv_heads * head_dim]"
    );
    sequences.windows(2).map(|pair| pair[0]..pair[1]).collect()
}
