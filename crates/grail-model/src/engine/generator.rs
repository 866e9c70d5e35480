//! Generates groups of completions in one running batch.
//!
//! Each step is one forward pass over the newest token of every running sequence and, while groups
//! wait to start, over a part of their prompts. A prompt is processed once for its group: whole
//! blocks of its cache are read by all completions, the last partial block is copied. A sequence
//! that ends leaves at once, and the next one takes its place.

use std::collections::BTreeMap;

use grail_kernels::RaceKey;
use grail_ports::model::{Completion, GenerateRequest, ModelError, Sampling, StopFlag};
use grail_protocol::digest::HiddenStateDigest;
use grail_protocol::ids::TokenId;

use super::batch::Batch;
use super::cache::{BLOCK_POSITIONS, BlockPool, KvCache, blocks_for};
use super::{Engine, Head, sampling};
use crate::arch::Scratch;

/// A request whose prompt is, or is about to be, in the cache.
struct Group {
    /// Blocks of the prompt. They outlive the group's sequences, which read the whole ones.
    blocks: Vec<u32>,
    /// Prompt tokens already in the cache.
    prefilled: usize,
    /// Residual stream at the last prompt token, once it is known: it predicts the first token.
    last_x: Option<Vec<f32>>,
    /// Finished completions, by rollout.
    completions: Vec<Option<Completion>>,
    n_finished: usize,
}

/// A completion that is being generated.
struct Sequence {
    group_idx: usize,
    rollout_idx: usize,
    /// Block table; the first `shared` blocks belong to the group. Empty before the first token.
    blocks: Vec<u32>,
    shared: usize,
    /// Positions in the cache.
    cached: usize,
    tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
    digest: HiddenStateDigest,
    finished: bool,
}

/// A sequence that can choose its next token, and where its residual stream row is.
struct Ready {
    sequence_idx: usize,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    /// A row of this step's forward pass.
    Row(usize),
    /// The last prompt token of the group.
    Prompt,
}

/// One call of [`Engine::generate`].
pub(super) struct Generator<'a> {
    engine: &'a Engine,
    requests: &'a [GenerateRequest],
    cache: KvCache,
    pool: BlockPool,
    scratch: Scratch,
    head: Head,
    /// Started groups by request index.
    groups: BTreeMap<usize, Group>,
    /// The group whose completions are joining, with the next of them.
    joining: Option<(usize, usize)>,
    next_request_idx: usize,
    running: Vec<Sequence>,
    logprobs: Vec<f32>,
}

impl<'a> Generator<'a> {
    /// Sizes the cache for `requests`.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] if one completion alone is larger than the cache may be.
    pub(super) fn new(
        engine: &'a Engine,
        requests: &'a [GenerateRequest],
    ) -> Result<Self, ModelError> {
        let Engine { decoder, config, .. } = engine;
        let layers = decoder.layers.len();
        let allowed = config.kv_bytes_max / KvCache::block_bytes(&decoder.shape, layers);
        let largest = requests.iter().map(|request| prompt_blocks(request) + own_blocks(request));
        let largest = largest.max().unwrap_or(0);
        if largest > allowed {
            return Err(ModelError::BadRequest(format!(
                "one completion needs {largest} cache blocks but kv_bytes_max {} holds {allowed}; \
                 raise it or ask for fewer tokens",
                config.kv_bytes_max
            )));
        }
        let together = requests
            .iter()
            .map(|request| prompt_blocks(request) + own_blocks(request) * request.race_keys.len());
        let capacity = together.sum::<usize>().min(allowed);
        Ok(Self {
            engine,
            requests,
            cache: KvCache::new(&decoder.shape, layers, capacity),
            pool: BlockPool::new(capacity),
            scratch: Scratch::default(),
            head: Head::new(decoder),
            groups: BTreeMap::new(),
            joining: None,
            next_request_idx: 0,
            running: Vec::with_capacity(config.max_running_sequences),
            logprobs: Vec::new(),
        })
    }

    /// Steps until every group is handed over.
    pub(super) fn run(
        mut self,
        stop: &StopFlag,
        on_group: &mut dyn FnMut(usize, Vec<Completion>),
    ) -> Result<(), ModelError> {
        loop {
            if stop.is_stopped() {
                return Err(ModelError::Stopped);
            }
            self.admit();
            if self.running.is_empty() {
                return Ok(());
            }
            let ready = self.forward(stop)?;
            self.choose(&ready)?;
            self.retire(on_group);
        }
    }

    /// Lets sequences join, in the order of the requests, while there is room for all that they
    /// may come to need.
    fn admit(&mut self) {
        while self.running.len() < self.engine.config.max_running_sequences {
            let Some((group_idx, rollout_idx)) = self.joining.or_else(|| self.open_group()) else {
                return;
            };
            let request = &self.requests[group_idx];
            self.joining = Some((group_idx, rollout_idx));
            if !self.pool.promise(own_blocks(request)) {
                return;
            }
            self.running.push(Sequence {
                group_idx,
                rollout_idx,
                blocks: Vec::new(),
                shared: request.prompt.len() / BLOCK_POSITIONS,
                cached: request.prompt.len(),
                tokens: Vec::new(),
                logprobs: Vec::new(),
                digest: HiddenStateDigest::new(),
                finished: false,
            });
            let next = rollout_idx + 1;
            self.joining = (next < request.race_keys.len()).then_some((group_idx, next));
        }
    }

    /// Starts the next group if there is room for its prompt, and returns its first completion.
    fn open_group(&mut self) -> Option<(usize, usize)> {
        let group_idx = self.next_request_idx;
        let request = self.requests.get(group_idx)?;
        let n_blocks = prompt_blocks(request);
        if !self.pool.promise(n_blocks) {
            return None;
        }
        let group = Group {
            blocks: (0..n_blocks).map(|_| self.pool.take()).collect(),
            prefilled: 0,
            last_x: None,
            completions: vec![None; request.race_keys.len()],
            n_finished: 0,
        };
        self.groups.insert(group_idx, group);
        self.next_request_idx += 1;
        Some((group_idx, 0))
    }

    /// Runs the newest tokens and some of the waiting prompts through the decoder. Returns the
    /// sequences that can choose a token.
    fn forward(&mut self, stop: &StopFlag) -> Result<Vec<Ready>, ModelError> {
        for sequence in self.running.iter_mut().filter(|sequence| !sequence.tokens.is_empty()) {
            extend_table(sequence, &self.groups, &mut self.pool, &mut self.cache);
        }
        let Self { engine, requests, groups, running, cache, scratch, .. } = self;
        let config = &engine.config;
        let mut batch = Batch::with_capacity(running.len() + config.prefill_rows_max);
        let mut ready = Vec::with_capacity(running.len());
        for (sequence_idx, sequence) in running.iter().enumerate() {
            if let Some(&token) = sequence.tokens.last() {
                let row = batch.push(token, sequence.cached, &sequence.blocks);
                ready.push(Ready { sequence_idx, source: Source::Row(row) });
            }
        }
        let n_decoded = batch.len();
        // (group, its last row, whether the prompt is then complete), for groups with new rows.
        let mut prefilled = Vec::new();
        for (&group_idx, group) in groups.iter() {
            let prompt = &requests[group_idx].prompt;
            let room = config.prefill_rows_max - (batch.len() - n_decoded);
            let end = prompt.len().min(group.prefilled + room);
            for (position, &token) in (group.prefilled..end).zip(&prompt[group.prefilled..end]) {
                batch.push(token, position, &group.blocks);
            }
            if end > group.prefilled {
                prefilled.push((group_idx, batch.len() - 1, end));
            }
        }
        if batch.len() > 0 {
            let Engine { decoder, kernels, .. } = engine;
            decoder.forward(kernels, &batch, cache, scratch, config.layer_rows_max, stop)?;
        }
        drop(batch);

        for ready in &ready {
            running[ready.sequence_idx].cached += 1;
        }
        let hidden = engine.decoder.shape.hidden;
        for (group_idx, last_row, end) in prefilled {
            let group = groups.get_mut(&group_idx).expect("the group was in the map above");
            group.prefilled = end;
            if end == requests[group_idx].prompt.len() {
                group.last_x = Some(scratch.x[last_row * hidden..][..hidden].to_vec());
            }
        }
        for (sequence_idx, sequence) in running.iter().enumerate() {
            if sequence.tokens.is_empty() && groups[&sequence.group_idx].last_x.is_some() {
                ready.push(Ready { sequence_idx, source: Source::Prompt });
            }
        }
        Ok(ready)
    }

    /// Chooses the next token of every ready sequence, a bounded number of rows at a time.
    fn choose(&mut self, ready: &[Ready]) -> Result<(), ModelError> {
        let Self { engine, requests, groups, running, scratch, head, logprobs, .. } = self;
        let Engine { decoder, kernels, eos_token_ids, .. } = engine;
        let (hidden, vocab) = (decoder.shape.hidden, decoder.config.vocab_size);
        for ready in ready.chunks(head.rows_max()) {
            let x_rows = ready.iter().map(|ready| match ready.source {
                Source::Row(row) => &scratch.x[row * hidden..][..hidden],
                Source::Prompt => {
                    let group_idx = running[ready.sequence_idx].group_idx;
                    groups[&group_idx].last_x.as_deref().expect("ready only after its prompt")
                }
            });
            head.run(kernels, decoder, x_rows);

            let sampling_of = |ready: &Ready| -> Sampling {
                requests[running[ready.sequence_idx].group_idx].sampling
            };
            let mut tokens = vec![0; ready.len()];
            let mut start = 0;
            for same in ready.chunk_by(|left, right| sampling_of(left) == sampling_of(right)) {
                let sequences = || same.iter().map(|ready| &running[ready.sequence_idx]);
                let keys: Vec<RaceKey> = sequences()
                    .map(|s| RaceKey(requests[s.group_idx].race_keys[s.rollout_idx]))
                    .collect();
                let steps: Vec<u32> = sequences().map(next_step).collect();
                let rows = start..start + same.len();
                sampling::choose(
                    kernels,
                    head.logits_of(rows.clone()),
                    vocab,
                    sampling_of(&same[0]),
                    &keys,
                    &steps,
                    &mut tokens[rows],
                )?;
                start += same.len();
            }
            head.logprobs(kernels, &tokens, logprobs)?;

            for (row, ready) in ready.iter().enumerate() {
                let sequence = &mut running[ready.sequence_idx];
                let max_new_tokens = requests[sequence.group_idx].max_new_tokens as usize;
                sequence.tokens.push(tokens[row]);
                sequence.logprobs.push(logprobs[row]);
                sequence.digest.push(head.input_row(row), logprobs[row]);
                sequence.finished =
                    eos_token_ids.contains(&tokens[row]) || sequence.tokens.len() == max_new_tokens;
            }
        }
        Ok(())
    }

    /// Frees what finished sequences held, and hands over the groups they complete.
    fn retire(&mut self, on_group: &mut dyn FnMut(usize, Vec<Completion>)) {
        let Self { requests, groups, running, pool, .. } = self;
        let finished: Vec<Sequence> =
            running.extract_if(.., |sequence| sequence.finished).collect();
        for sequence in finished {
            let group_idx = sequence.group_idx;
            if let Some(own) = sequence.blocks.get(sequence.shared..) {
                pool.release(own);
            }
            pool.forget(own_blocks(&requests[group_idx]));
            let group = groups.get_mut(&group_idx).expect("a group outlives its sequences");
            group.completions[sequence.rollout_idx] = Some(Completion {
                tokens: sequence.tokens,
                logprobs: sequence.logprobs,
                hidden_digest: sequence.digest.finish(),
            });
            group.n_finished += 1;
            if group.n_finished == group.completions.len() {
                let group = groups.remove(&group_idx).expect("it was there a line ago");
                pool.release(&group.blocks);
                pool.forget(group.blocks.len());
                on_group(group_idx, group.completions.into_iter().flatten().collect());
            }
        }
    }
}

/// Blocks of a group's prompt.
fn prompt_blocks(request: &GenerateRequest) -> usize {
    blocks_for(request.prompt.len())
}

/// Most blocks that a completion owns: all but the prompt's whole ones. The last token is never
/// an input, so it takes no position.
fn own_blocks(request: &GenerateRequest) -> usize {
    let positions = request.prompt.len() + request.max_new_tokens as usize - 1;
    blocks_for(positions) - request.prompt.len() / BLOCK_POSITIONS
}

/// Returns the 0-based step of the token to choose next.
fn next_step(sequence: &Sequence) -> u32 {
    u32::try_from(sequence.tokens.len()).expect("a completion has at most max_new_tokens, a u32")
}

/// Makes room in the table for the next position. On first use the table starts with the group's
/// whole blocks and a copy of its partial one.
fn extend_table(
    sequence: &mut Sequence,
    groups: &BTreeMap<usize, Group>,
    pool: &mut BlockPool,
    cache: &mut KvCache,
) {
    if sequence.blocks.is_empty() {
        let prompt = &groups[&sequence.group_idx].blocks;
        sequence.blocks.extend_from_slice(&prompt[..sequence.shared]);
        if let Some(&partial) = prompt.get(sequence.shared) {
            let copy = pool.take();
            cache.copy_block(partial, copy);
            sequence.blocks.push(copy);
        }
    }
    if sequence.cached == sequence.blocks.len() * BLOCK_POSITIONS {
        sequence.blocks.push(pool.take());
    }
}
