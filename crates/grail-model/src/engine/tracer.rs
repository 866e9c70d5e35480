//! Looks at every position of whole sequences, for the reference's profile: hidden states of prompt
//! and completion, and the chosen tokens' probabilities after penalty and temperature.
//!
//! The scorer lays sequences out up to the last token's prediction. Here the last token's own hidden
//! state is wanted too, so each sequence is laid out with one more token, which is never an input.

use std::collections::BTreeSet;

use grail_ports::model::{ModelError, ScoreRequest, StopFlag};
use grail_ports::reference::{Trace, TraceRequest, Warp};
use grail_protocol::ids::TokenId;
use grail_protocol::v5::distribution::chosen_probability;

use super::Engine;
use super::cache::KvCache;
use super::head::{Draw, Drawn, Head};
use super::scorer::{Target, block_tables, lay_out, pass_len};
use crate::arch::Scratch;

/// Bytes of logits held at once.
const LOGITS_BYTES_MAX: usize = 4 << 20;

/// As [`Engine::trace`]; the requests have been checked.
pub(super) fn trace(
    engine: &Engine,
    requests: &[TraceRequest],
    end_token: Option<TokenId>,
    stop: &StopFlag,
) -> Result<Vec<Trace>, ModelError> {
    let extended: Vec<ScoreRequest> = requests.iter().map(extended).collect();
    let mut tracer = Tracer {
        engine,
        end_token,
        stop,
        scratch: Scratch::default(),
        head: Head::new(&engine.decoder),
    };
    let mut traces = Vec::with_capacity(requests.len());
    while traces.len() < requests.len() {
        let done = traces.len();
        let n = pass_len(&extended[done..], engine.config.score_rows_max);
        let pass = done..done + n;
        traces.extend(tracer.pass(&requests[pass.clone()], &extended[pass])?);
    }
    Ok(traces)
}

/// Adds a token whose prediction is never looked at.
fn extended(request: &TraceRequest) -> ScoreRequest {
    let mut tokens = request.tokens.clone();
    tokens.push(0);
    ScoreRequest {
        tokens,
        prompt_len: request.prompt_len,
        race: None,
        entropy: false,
        whitening: None,
        rows: false,
    }
}

struct Tracer<'a> {
    engine: &'a Engine,
    end_token: Option<TokenId>,
    stop: &'a StopFlag,
    scratch: Scratch,
    head: Head,
}

/// What has been found out about one request.
struct Partial {
    trace: Trace,
    /// Tokens before the next one to be looked at, for the repetition penalty.
    seen: BTreeSet<TokenId>,
}

impl Tracer<'_> {
    /// Looks at the sequences of one pass.
    fn pass(
        &mut self,
        requests: &[TraceRequest],
        extended: &[ScoreRequest],
    ) -> Result<Vec<Trace>, ModelError> {
        let Engine { decoder, kernels, config, .. } = self.engine;
        let (tables, n_blocks) = block_tables(extended);
        let (batch, targets) = lay_out(extended, &tables);
        let mut cache = KvCache::transient(&decoder.shape, n_blocks);
        let scratch = &mut self.scratch;
        decoder.forward(kernels, &batch, &mut cache, scratch, config.layer_rows_max, self.stop)?;

        let mut partials: Vec<Partial> = requests.iter().map(Partial::new).collect();
        for target in targets.iter().filter(|target| target.step == 0) {
            let request = &requests[target.request_idx];
            // Those before the row that predicts the completion's first token.
            let first = target.row + 1 - request.prompt_len;
            self.prompt_rows(first..target.row, &mut partials[target.request_idx].trace.rows);
        }
        for targets in targets.chunks(self.head.rows_max()) {
            if self.stop.is_stopped() {
                return Err(ModelError::Stopped);
            }
            self.look(targets, requests, &mut partials)?;
        }
        self.end_probabilities(&targets, requests, &mut partials)?;
        Ok(partials.into_iter().map(|partial| partial.trace).collect())
    }

    /// Appends the LM-head inputs of rows of the pass.
    fn prompt_rows(&mut self, rows: std::ops::Range<usize>, out: &mut Vec<f32>) {
        let Engine { decoder, kernels, .. } = self.engine;
        let hidden = decoder.shape.hidden;
        let start = out.len();
        out.resize(start + rows.len() * hidden, 0.0);
        let x = &self.scratch.x[rows.start * hidden..rows.end * hidden];
        decoder.head_input(kernels, x, &mut out[start..]);
    }

    /// Takes rows and log-probabilities of consecutive targets, and their probabilities if wanted.
    fn look(
        &mut self,
        targets: &[Target],
        requests: &[TraceRequest],
        partials: &mut [Partial],
    ) -> Result<(), ModelError> {
        let chosen = |target: &Target| {
            let request = &requests[target.request_idx];
            request.tokens.get(request.prompt_len + target.step).copied()
        };
        let draws: Vec<Draw> = targets
            .iter()
            .map(|target| Draw { claimed: chosen(target), ..Draw::default() })
            .collect();
        let drawn = self.draw(targets, &draws)?;
        for (row, (target, drawn)) in targets.iter().zip(&drawn).enumerate() {
            let trace = &mut partials[target.request_idx].trace;
            trace.rows.extend_from_slice(self.head.input_row(row));
            trace.logprobs.extend(drawn.claimed.map(|claimed| claimed.logprob));
        }
        let Engine { decoder, kernels, .. } = self.engine;
        let (hidden, vocab) = (decoder.shape.hidden, decoder.config.vocab_size);
        let logit_rows = (LOGITS_BYTES_MAX / size_of::<f32>() / vocab).max(1);
        let wanted: Vec<(usize, TokenId, Warp)> = targets
            .iter()
            .enumerate()
            .filter_map(|(row, target)| {
                Some((row, chosen(target)?, requests[target.request_idx].warp?))
            })
            .collect();
        let (mut input, mut logits) = (Vec::new(), Vec::new());
        for wanted in wanted.chunks(logit_rows) {
            input.clear();
            for (row, ..) in wanted {
                input.extend_from_slice(self.head.input_row(*row));
            }
            debug_assert_eq!(input.len(), wanted.len() * hidden);
            logits.resize(wanted.len() * vocab, 0.0);
            decoder.logits(kernels, &input, &mut logits);
            for (&(row, token, warp), logits) in wanted.iter().zip(logits.chunks_exact_mut(vocab)) {
                partials[targets[row].request_idx].warped(logits, token, warp);
            }
        }
        Ok(())
    }

    /// Asks where each last token was chosen how likely the end was.
    fn end_probabilities(
        &mut self,
        targets: &[Target],
        requests: &[TraceRequest],
        partials: &mut [Partial],
    ) -> Result<(), ModelError> {
        let Some(end_token) = self.end_token else { return Ok(()) };
        let is_last = |target: &&Target| {
            let request = &requests[target.request_idx];
            request.prompt_len + target.step + 1 == request.tokens.len()
        };
        let last: Vec<Target> = targets.iter().filter(is_last).copied().collect();
        for targets in last.chunks(self.head.rows_max()) {
            let draw = Draw { claimed: Some(end_token), ..Draw::default() };
            let drawn = self.draw(targets, &vec![draw; targets.len()])?;
            for (target, drawn) in targets.iter().zip(drawn) {
                let logprob = drawn.claimed.map_or(f32::NEG_INFINITY, |end| end.logprob);
                partials[target.request_idx].trace.end_probability = logprob.exp();
            }
        }
        Ok(())
    }

    fn draw(&mut self, targets: &[Target], draws: &[Draw]) -> Result<Vec<Drawn>, ModelError> {
        let Engine { decoder, kernels, .. } = self.engine;
        let hidden = decoder.shape.hidden;
        let rows = targets.iter().map(|target| &self.scratch.x[target.row * hidden..][..hidden]);
        self.head.draw(kernels, decoder, rows, draws)
    }
}

impl Partial {
    fn new(request: &TraceRequest) -> Self {
        let trace = Trace {
            rows: Vec::new(),
            logprobs: Vec::new(),
            probabilities: Vec::new(),
            end_probability: 0.0,
        };
        let seen = match request.warp {
            Some(_) => request.tokens[..request.prompt_len].iter().copied().collect(),
            None => BTreeSet::new(),
        };
        Self { trace, seen }
    }

    /// Takes the probability of the next token, whose `[vocab]` logits are used up.
    fn warped(&mut self, logits: &mut [f32], token: TokenId, warp: Warp) {
        let Warp { temperature, repetition_penalty } = warp;
        let probability =
            chosen_probability(logits, &self.seen, token, temperature, repetition_penalty);
        self.trace.probabilities.push(probability.expect("the tokens were checked"));
        self.seen.insert(token);
    }
}
