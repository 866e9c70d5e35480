//! What a model chooses about its attention: head counts, and how scores are made.

use super::KvLayout;
use std::ops::Range;

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
    /// The usual factor of the scores: `1 / sqrt(head_dim)`, computed in f64 and rounded once.
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

    pub(super) fn assert_valid(&self) {
        let divides =
            self.kv_heads > 0 && self.heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        assert!(divides && self.head_dim > 0, "attention: invalid shape {self:?}");
    }
}

/// How scores are made and which positions are seen. The default is plain causal attention.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionOptions {
    /// The factor of the scores, finite; [`AttentionShape::scale`] by default.
    pub scale: Option<f32>,
    /// A query at position `p` sees the positions `p - window + 1 ..= p`, at least 1; all up to
    /// its own by default.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)` after the factor; positive and finite.
    pub soft_cap: Option<f32>,
}

impl AttentionOptions {
    /// The positions that the last of `context_len` sees.
    pub(super) fn seen(&self, context_len: usize) -> Range<usize> {
        self.window.map_or(0, |window| context_len.saturating_sub(window as usize))..context_len
    }

    /// One past the last query position below `len` that sees `position`.
    pub(super) fn seen_until(&self, position: usize, len: usize) -> usize {
        self.window.map_or(len, |window| len.min(position.saturating_add(window as usize)))
    }

    pub(super) fn assert_valid(&self) {
        assert!(
            self.scale.is_none_or(f32::is_finite)
                && self.window != Some(0)
                && self.soft_cap.is_none_or(|cap| cap > 0.0 && cap.is_finite()),
            "attention: invalid options {self:?}"
        );
    }
}
