//! Counts what the scheduler does, for whoever wants to know without waiting for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::job::FinishReason;
use crate::engine::blocks::BlockPool;

/// Written by the thread that steps and by those that ask, read by anybody. Each number is right by
/// itself; two of them may be a step apart.
#[derive(Debug, Default)]
pub(in crate::engine) struct Counters {
    pub(in crate::engine) waiting: AtomicUsize,
    pub(in crate::engine) running: AtomicUsize,
    pub(in crate::engine) kv_blocks_used: AtomicUsize,
    pub(in crate::engine) kv_blocks_idle: AtomicUsize,
    pub(in crate::engine) prompt_tokens_computed: AtomicU64,
    pub(in crate::engine) prompt_tokens_cached: AtomicU64,
    pub(in crate::engine) tokens_generated: AtomicU64,
    pub(in crate::engine) finished: AtomicU64,
    pub(in crate::engine) cancelled: AtomicU64,
    pub(in crate::engine) failed: AtomicU64,
}

impl Counters {
    /// A number of jobs joined the queue.
    pub(in crate::engine) fn queued(&self, jobs: usize) {
        self.waiting.fetch_add(jobs, Relaxed);
    }

    /// A job starts and finds so many of its prompt's tokens computed.
    pub(super) fn started(&self, prompt_tokens_cached: usize) {
        self.running.fetch_add(1, Relaxed);
        self.waiting.fetch_sub(1, Relaxed);
        self.prompt_cached(prompt_tokens_cached);
    }

    /// Prompt tokens need not go through the decoder.
    pub(super) fn prompt_cached(&self, tokens: usize) {
        self.prompt_tokens_cached.fetch_add(tokens as u64, Relaxed);
    }

    /// A job leaves before it started.
    pub(super) fn left_queue(&self, reason: &FinishReason) {
        self.waiting.fetch_sub(1, Relaxed);
        self.count_end(reason);
    }

    /// A running sequence leaves.
    pub(super) fn left_batch(&self, reason: &FinishReason) {
        self.running.fetch_sub(1, Relaxed);
        self.count_end(reason);
    }

    fn count_end(&self, reason: &FinishReason) {
        let counter = match reason {
            FinishReason::EndToken | FinishReason::Length => &self.finished,
            FinishReason::Cancelled => &self.cancelled,
            FinishReason::Failed(_) => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// All running sequences and `waiting` jobs were given up.
    pub(super) fn abandoned(&self, waiting: usize) {
        self.waiting.fetch_sub(waiting, Relaxed);
        let running = self.running.swap(0, Relaxed);
        self.failed.fetch_add((waiting + running) as u64, Relaxed);
        self.kv_blocks_used.store(0, Relaxed);
        self.kv_blocks_idle.store(0, Relaxed);
    }

    /// Returns the number of sequences and jobs that ended.
    pub(in crate::engine) fn ended(&self) -> u64 {
        [&self.finished, &self.cancelled, &self.failed]
            .iter()
            .map(|count| count.load(Relaxed))
            .sum()
    }

    /// Prompt tokens went through the decoder.
    pub(super) fn prompt_computed(&self, tokens: usize) {
        self.prompt_tokens_computed.fetch_add(tokens as u64, Relaxed);
    }

    /// Sequences got a token each.
    pub(super) fn generated(&self, tokens: usize) {
        self.tokens_generated.fetch_add(tokens as u64, Relaxed);
    }

    /// Blocks may have changed hands.
    pub(super) fn blocks(&self, pool: &BlockPool) {
        self.kv_blocks_used.store(pool.used(), Relaxed);
        self.kv_blocks_idle.store(pool.idle(), Relaxed);
    }
}
