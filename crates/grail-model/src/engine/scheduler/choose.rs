//! Chooses the next token of every sequence that has one coming.

use grail_kernels::RaceKey;
use grail_ports::model::ModelError;
use grail_protocol::ids::TokenId;

use super::job::FinishReason;
use super::prompt::Prompts;
use super::sequence::Sequence;
use crate::arch::Scratch;
use crate::engine::{Engine, Head, sampling};

/// A running sequence that can choose its next token, and where its residual stream row is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) sequence_idx: usize,
    pub(super) source: Source,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// A row of this step's forward pass.
    Row(usize),
    /// The last token of the sequence's prompt.
    Prompt,
}

/// The LM head with the buffers of its last rows.
pub(super) struct Chooser {
    head: Head,
    tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
}

impl Chooser {
    pub(super) fn new(head: Head) -> Self {
        Self { head, tokens: Vec::new(), logprobs: Vec::new() }
    }

    /// Gives each of `ready` its token, or its end if its numbers are not finite.
    pub(super) fn choose(
        &mut self,
        engine: &Engine,
        ready: &[Ready],
        running: &mut [Sequence],
        prompts: &Prompts,
        scratch: &Scratch,
    ) {
        for ready in ready.chunks(self.head.rows_max()) {
            if self.draw(engine, ready, running, prompts, scratch).is_ok() {
                self.hand_out(engine, ready, running);
                continue;
            }
            // One row is to blame; find it, and go on with the others.
            for one in ready.chunks(1) {
                match self.draw(engine, one, running, prompts, scratch) {
                    Ok(()) => self.hand_out(engine, one, running),
                    Err(error) => {
                        running[one[0].sequence_idx].end = Some(FinishReason::Failed(error));
                    }
                }
            }
        }
    }

    /// Draws a token for each of `ready` with its log-probability.
    fn draw(
        &mut self,
        engine: &Engine,
        ready: &[Ready],
        running: &[Sequence],
        prompts: &Prompts,
        scratch: &Scratch,
    ) -> Result<(), ModelError> {
        let Self { head, tokens, logprobs } = self;
        let Engine { decoder, kernels, .. } = engine;
        let (hidden, vocab) = (decoder.shape.hidden, decoder.config.vocab_size);
        let sequence = |ready: &Ready| &running[ready.sequence_idx];
        let x_rows = ready.iter().map(|ready| match ready.source {
            Source::Row(row) => &scratch.x[row * hidden..][..hidden],
            Source::Prompt => {
                let prompt = prompts.get(sequence(ready).prompt);
                prompt.last_x.as_deref().expect("ready only after its prompt")
            }
        });
        head.run(kernels, decoder, x_rows);
        tokens.clear();
        tokens.resize(ready.len(), 0);
        let sampling_of = |ready: &Ready| sequence(ready).spec.sampling;
        let mut start = 0;
        for same in ready.chunk_by(|left, right| sampling_of(left) == sampling_of(right)) {
            let keys: Vec<RaceKey> = same.iter().map(|r| sequence(r).spec.race_key).collect();
            let steps: Vec<u32> = same.iter().map(|r| sequence(r).next_step()).collect();
            let rows = start..start + same.len();
            start = rows.end;
            sampling::choose(
                kernels,
                head.logits_of(rows.clone()),
                vocab,
                sampling_of(&same[0]),
                &keys,
                &steps,
                &mut tokens[rows],
            )?;
        }
        head.logprobs(kernels, tokens, logprobs)
    }

    /// Adds the drawn tokens to their sequences.
    fn hand_out(&self, engine: &Engine, ready: &[Ready], running: &mut [Sequence]) {
        for (row, ready) in ready.iter().enumerate() {
            let sequence = &mut running[ready.sequence_idx];
            let top = match sequence.spec.top_logprobs {
                0 => Vec::new(),
                n => self.top(engine, row, n),
            };
            let (token, logprob) = (self.tokens[row], self.logprobs[row]);
            sequence.push(token, logprob, top, self.head.input_row(row), &engine.eos_token_ids);
        }
    }

    /// Returns the `n` likeliest tokens of a row with their log-probabilities, likeliest first, of
    /// equal ones the lower id first.
    fn top(&self, engine: &Engine, row: usize, n: u8) -> Vec<(TokenId, f32)> {
        let logits = self.head.logits_of(row..row + 1);
        let ids = sampling::likeliest(logits, n.into());
        let mut out = [0.0];
        let logprob = |&id: &TokenId| {
            let known = engine.kernels.log_softmax_of(logits, logits.len(), &[id], &mut out);
            // The row was finite when its token was drawn.
            known.ok().map(|()| (id, out[0]))
        };
        ids.iter().filter_map(logprob).collect()
    }
}
