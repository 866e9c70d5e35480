//! What a layer's forward pass may leave for its backward pass, so that no product is done twice.
//!
//! The kept values are the ones the backward pass would compute, bit for bit, by the same
//! functions; so how many layers keep theirs is a matter of memory and time alone. Norms and the
//! activation are cheap and computed again in any case.

use grail_kernels::AttentionSaved;

use crate::arch::{Activations, Branch, Shape};

/// Inner values of one layer for the rows of one micro-batch, `[rows, width]` each.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Residual stream between attention and MLP.
    pub(super) x_mid: Vec<f32>,
    q_raw: Vec<f32>,
    k_raw: Vec<f32>,
    q_inv_rms: Vec<f32>,
    k_inv_rms: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    attention_branch: Branch,
    mlp_branch: Branch,
    saved: AttentionSaved,
}

impl Kept {
    /// Exchanges the kept values with those of `a` and `saved`; no value is copied.
    ///
    /// After a layer's forward pass this keeps them; before its backward pass it gives them back.
    pub(super) fn exchange(
        &mut self,
        shape: &Shape,
        rows: usize,
        a: &mut Activations,
        saved: &mut AttentionSaved,
    ) {
        std::mem::swap(&mut self.saved, saved);
        let widths = widths(shape);
        let theirs = [
            &mut a.q_raw,
            &mut a.k_raw,
            &mut a.q_inv_rms,
            &mut a.k_inv_rms,
            &mut a.q,
            &mut a.k,
            &mut a.v,
            &mut a.attended,
            &mut a.gate,
            &mut a.up,
            &mut a.attention_branch.out,
            &mut a.attention_branch.inv_rms,
            &mut a.mlp_branch.out,
            &mut a.mlp_branch.inv_rms,
        ];
        let ours = [
            &mut self.q_raw,
            &mut self.k_raw,
            &mut self.q_inv_rms,
            &mut self.k_inv_rms,
            &mut self.q,
            &mut self.k,
            &mut self.v,
            &mut self.attended,
            &mut self.gate,
            &mut self.up,
            &mut self.attention_branch.out,
            &mut self.attention_branch.inv_rms,
            &mut self.mlp_branch.out,
            &mut self.mlp_branch.inv_rms,
        ];
        for ((ours, theirs), width) in ours.into_iter().zip(theirs).zip(widths) {
            // What `a` gets must have the size it works with, whatever this held before.
            ours.resize(rows * width, 0.0);
            std::mem::swap(ours, theirs);
        }
    }
}

/// Values of a row in each exchanged buffer, in the order of [`Kept::exchange`].
fn widths(shape: &Shape) -> [usize; 14] {
    let Shape { hidden, heads, kv_heads, head_dim, ffn, head_norms, branch_norms, .. } = *shape;
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let if_normed = |width: usize| if head_norms { width } else { 0 };
    let (out, inv_rms) = if branch_norms { (hidden, 1) } else { (0, 0) };
    let raw = [if_normed(q), if_normed(kv), if_normed(heads), if_normed(kv_heads)];
    let inner = [q, kv, kv, q, ffn, ffn];
    let branches = [out, inv_rms, out, inv_rms];
    let mut all = raw.into_iter().chain(inner).chain(branches);
    std::array::from_fn(|_| all.next().expect("there are 4 + 6 + 4 widths"))
}

/// Returns how many layers of `rows` rows keep their values within `bytes_max`.
pub(super) fn layers_kept(shape: &Shape, rows: usize, bytes_max: usize) -> usize {
    // Two f32 of statistics for each head of a row.
    let values = shape.hidden + widths(shape).iter().sum::<usize>() + 2 * shape.heads;
    let bytes = rows.saturating_mul(values).saturating_mul(size_of::<f32>());
    bytes_max / bytes.max(1)
}
