//! Continuous batching: every step is one forward pass over the newest token of each running
//! sequence and over parts of the prompts of those that are about to start.
//!
//! A sequence starts as soon as there is a place and memory for all that it may come to need, and
//! leaves with its last token. No result depends on what else is in a step, so the scheduler may
//! do as it likes: what it does decides who waits how long, and nothing else.

mod choose;
mod counters;
mod job;
mod prefill;
mod prompt;
mod sequence;

use std::collections::VecDeque;
use std::sync::Arc;

use grail_ports::model::{ModelError, StopFlag};

use self::choose::{Chooser, Ready, Source};
use self::job::{own_blocks, prompt_blocks};
use self::prefill::Chunk;
use self::prompt::Prompts;
use self::sequence::Sequence;
use super::batch::Batch;
use super::blocks::BlockPool;
use super::cache::KvCache;
use super::{Engine, Head};
use crate::arch::Scratch;

pub(super) use self::counters::Counters;
pub use self::job::FinishReason;
pub(super) use self::job::{Ended, Job, Listener, Spec};

/// The one batch of an engine.
pub(super) struct Scheduler {
    cache: KvCache,
    pool: BlockPool,
    prompts: Prompts,
    /// Jobs by who asked for them. The askers take turns, so that none waits for all of another's.
    waiting: VecDeque<VecDeque<Job>>,
    running: Vec<Sequence>,
    scratch: Scratch,
    chooser: Chooser,
    counters: Arc<Counters>,
}

impl Scheduler {
    /// Sets the cache up. Its memory is taken from the system when it is used.
    pub(super) fn new(engine: &Engine, counters: Arc<Counters>) -> Self {
        let Engine { decoder, config, .. } = engine;
        let block_bytes = engine.kv_block_bytes();
        let capacity = engine.kv_blocks_max();
        Self {
            cache: KvCache::new(&decoder.shape, decoder.layers.len(), capacity),
            pool: BlockPool::new(capacity, config.prompt_cache_bytes_max / block_bytes),
            prompts: Prompts::default(),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(config.max_running_sequences.min(1024)),
            scratch: Scratch::default(),
            chooser: Chooser::new(Head::new(decoder)),
            counters,
        }
    }

    /// Lets jobs of one asker wait for their turn. Each fits the cache by itself.
    pub(super) fn enqueue(&mut self, jobs: VecDeque<Job>) {
        if !jobs.is_empty() {
            self.waiting.push_back(jobs);
        }
    }

    /// Returns whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Ends what was cancelled, running or waiting.
    pub(super) fn sweep(&mut self) {
        for jobs in &mut self.waiting {
            if !jobs.iter().any(|job| job.listener.is_cancelled()) {
                continue;
            }
            let (cancelled, kept) =
                std::mem::take(jobs).into_iter().partition(|job| job.listener.is_cancelled());
            *jobs = kept;
            let cancelled: VecDeque<Job> = cancelled;
            for mut job in cancelled {
                self.counters.left_queue(&FinishReason::Cancelled);
                job.listener.finished(Ended::before_start(FinishReason::Cancelled));
            }
        }
        self.waiting.retain(|jobs| !jobs.is_empty());
        for sequence in &mut self.running {
            if sequence.end.is_none() && sequence.listener.is_cancelled() {
                sequence.end = Some(FinishReason::Cancelled);
            }
        }
        self.retire();
    }

    /// Takes one step: whatever runs gets a token or comes nearer to its first.
    ///
    /// # Errors
    /// [`ModelError::Stopped`], after which the step can be taken again.
    pub(super) fn step(&mut self, engine: &Engine, stop: &StopFlag) -> Result<(), ModelError> {
        self.admit(engine);
        let ready = self.forward(engine, stop)?;
        let Self { running, prompts, scratch, chooser, .. } = self;
        chooser.choose(engine, &ready, running, prompts, scratch);
        self.counters.generated(ready.len());
        self.retire();
        Ok(())
    }

    /// Gives up after a panic. The listeners hear of it when they are dropped: nothing here can be
    /// trusted any more.
    pub(super) fn abandon(self) {
        self.counters.abandoned(self.waiting.iter().map(VecDeque::len).sum());
    }

    /// Lets jobs start while there is room for all that they may come to need: one of each asker
    /// in turn, and each asker's in their order. A job that does not fit yet is not overtaken, or
    /// it might wait for ever.
    fn admit(&mut self, engine: &Engine) {
        while self.running.len() < engine.config.max_running_sequences {
            let Some(job) = self.waiting.front().and_then(VecDeque::front) else { break };
            let (prompt, own) =
                (&job.prompt, own_blocks(job.prompt.len(), job.spec.max_new_tokens));
            let Self { prompts, pool, .. } = self;
            let mut joined = prompts.join(prompt, own, pool);
            if joined.is_none() && prompts.close_unused(pool) {
                joined = prompts.join(prompt, own, pool);
            }
            let Some(id) = joined else { break };
            self.start_first(id);
        }
        // Not before the next sequences of the same prompt could join.
        self.prompts.close_unused(&mut self.pool);
    }

    /// Turns the first waiting job into a running sequence.
    fn start_first(&mut self, prompt_id: prompt::PromptId) {
        let Some(mut jobs) = self.waiting.pop_front() else { return };
        if let Some(Job { prompt, spec, listener }) = jobs.pop_front() {
            let known = self.prompts.get(prompt_id);
            let joined = known.users > 1 || known.computed > known.cached;
            self.counters.started(if joined { prompt.len() } else { known.cached });
            self.running.push(Sequence::new(prompt_id, prompt.len(), joined, spec, listener));
        }
        if !jobs.is_empty() {
            self.waiting.push_back(jobs);
        }
    }

    /// Runs the newest tokens and some of the waiting prompts through the decoder. Returns the
    /// sequences that can choose a token.
    fn forward(&mut self, engine: &Engine, stop: &StopFlag) -> Result<Vec<Ready>, ModelError> {
        let Self { cache, pool, prompts, running, scratch, counters, .. } = self;
        let config = &engine.config;
        let mut ready = Vec::with_capacity(running.len());
        let mut somebody_waits = false;
        for sequence in running.iter_mut().filter(|sequence| !sequence.tokens.is_empty()) {
            sequence.make_room(prompts, pool, cache);
            somebody_waits |= sequence.listener.is_streaming();
        }
        let budget = if somebody_waits {
            config.prefill_rows_max.min(config.prefill_rows_while_streaming_max)
        } else {
            config.prefill_rows_max
        };
        let chunks = prefill::plan(prompts, pool, budget, counters);

        let mut batch = Batch::with_capacity(running.len() + budget);
        for (sequence_idx, sequence) in running.iter().enumerate() {
            if let Some(&token) = sequence.tokens.last() {
                let row = batch.push(token, sequence.cached, &sequence.blocks);
                ready.push(Ready { sequence_idx, source: Source::Row(row) });
            }
        }
        let first_prompt_row = batch.len();
        for chunk in &chunks {
            let prompt = prompts.get(chunk.prompt);
            for position in prompt.computed..chunk.end {
                batch.push(prompt.tokens[position], position, &prompt.blocks);
            }
        }
        if batch.len() > 0 {
            let Engine { decoder, kernels, .. } = engine;
            decoder.forward(kernels, &batch, cache, scratch, config.layer_rows_max, stop)?;
        }
        for ready in &ready {
            running[ready.sequence_idx].cached += 1;
        }
        self.finish_chunks(engine, &chunks, first_prompt_row);
        for (sequence_idx, sequence) in self.running.iter().enumerate() {
            if sequence.tokens.is_empty() && self.prompts.get(sequence.prompt).last_x.is_some() {
                ready.push(Ready { sequence_idx, source: Source::Prompt });
            }
        }
        Ok(ready)
    }

    /// Notes the prompt tokens that were computed, whose rows start at `row`.
    fn finish_chunks(&mut self, engine: &Engine, chunks: &[Chunk], mut row: usize) {
        let Self { pool, prompts, scratch, counters, .. } = self;
        let hidden = engine.decoder.shape.hidden;
        for &Chunk { prompt: id, end } in chunks {
            let prompt = prompts.get_mut(id);
            let rows = end - prompt.computed;
            row += rows;
            counters.prompt_computed(rows);
            prompt.advance(end, pool);
            if prompt.is_computed() {
                prompt.last_x = Some(scratch.x[(row - 1) * hidden..][..hidden].to_vec());
                prompts.unfinished.retain(|&other| other != id);
            }
        }
    }

    /// Lets go of sequences that ended.
    fn retire(&mut self) {
        let Self { running, waiting, prompts, pool, counters, .. } = self;
        let gone: Vec<_> = running
            .extract_if(.., |sequence| sequence.end.is_some())
            .map(|sequence| sequence.finish(prompts, pool))
            .collect();
        if waiting.is_empty() {
            prompts.close_unused(pool);
        }
        counters.blocks(pool);
        // Told last, so that whoever hears of an end finds what the sequence held free.
        for (_, ended) in &gone {
            counters.left_batch(&ended.reason);
        }
        for (mut listener, ended) in gone {
            listener.finished(ended);
        }
    }
}

/// Returns the blocks that one completion may come to need.
pub(super) fn blocks_needed(prompt_len: usize, max_new_tokens: u32) -> usize {
    prompt_blocks(prompt_len) + own_blocks(prompt_len, max_new_tokens)
}

#[cfg(test)]
mod tests;
