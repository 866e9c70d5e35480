//! Chooses the next token of every sequence that has one coming.

use grail_ports::model::ModelError;

use super::job::FinishReason;
use super::prompt::Prompts;
use super::sequence::Sequence;
use crate::arch::Scratch;
use crate::engine::head::{Draw, Drawn, DrawnToken};
use crate::engine::{Engine, Head};

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
}

impl Chooser {
    pub(super) fn new(head: Head) -> Self {
        Self { head }
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
            if let Ok(drawn) = self.draw(engine, ready, running, prompts, scratch) {
                self.hand_out(engine, ready, drawn, running);
                continue;
            }
            // One row is to blame; find it, and go on with the others.
            for one in ready.chunks(1) {
                match self.draw(engine, one, running, prompts, scratch) {
                    Ok(drawn) => self.hand_out(engine, one, drawn, running),
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
    ) -> Result<Vec<Drawn>, ModelError> {
        let Engine { decoder, kernels, .. } = engine;
        let hidden = decoder.shape.hidden;
        let sequence = |ready: &Ready| &running[ready.sequence_idx];
        let x_rows = ready.iter().map(|ready| match ready.source {
            Source::Row(row) => &scratch.x[row * hidden..][..hidden],
            Source::Prompt => {
                let prompt = prompts.get(sequence(ready).prompt);
                prompt.last_x.as_deref().expect("ready only after its prompt")
            }
        });
        let draw = |ready: &Ready| {
            let sequence = sequence(ready);
            Draw {
                sampling: Some(sequence.spec.sampling),
                race: (sequence.spec.race_key, sequence.next_step()),
                top: sequence.spec.top_logprobs,
                ..Draw::default()
            }
        };
        let draws: Vec<Draw> = ready.iter().map(draw).collect();
        self.head.draw(kernels, decoder, x_rows, &draws)
    }

    /// Adds the drawn tokens to their sequences.
    fn hand_out(
        &self,
        engine: &Engine,
        ready: &[Ready],
        drawn: Vec<Drawn>,
        running: &mut [Sequence],
    ) {
        for (row, (ready, drawn)) in ready.iter().zip(drawn).enumerate() {
            let sequence = &mut running[ready.sequence_idx];
            let DrawnToken { token, logprob, .. } =
                drawn.token.expect("every sampling draws a token");
            let input_row = self.head.input_row(row);
            sequence.push(token, logprob, drawn.top, input_row, &engine.eos_token_ids);
        }
    }
}
