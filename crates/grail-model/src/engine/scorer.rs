//! Recomputes whole sequences, many in one pass, and asks the LM head about completions only.
//!
//! Consecutive requests with the same prompt share its rows: the prompt is computed once, and each
//! completion attends to it through the block table. A pass holds the keys and values of one layer
//! at a time, so memory depends on the tokens of a pass and not on the model's depth.

use grail_kernels::RaceKey;
use grail_ports::model::{ModelError, RaceCheck, Sampling, Score, ScoreRequest, StopFlag};
use grail_protocol::digest::HiddenStateDigest;
use grail_protocol::ids::TokenId;
use grail_protocol::sketch::Sketcher;

use super::Engine;
use super::batch::Batch;
use super::cache::{BLOCK_POSITIONS, KvCache, blocks_for};
use super::head::{Draw, Drawn, Head};
use super::requests::sketcher;
use crate::arch::Scratch;

/// One completion token to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) request_idx: usize,
    /// 0-based completion step.
    pub(super) step: usize,
    /// Row of the batch that predicts it.
    pub(super) row: usize,
}

/// What has been found out about one request.
struct Partial {
    logprobs: Vec<f32>,
    winners: Vec<TokenId>,
    margins: Vec<f32>,
    entropies: Vec<f32>,
    digest: HiddenStateDigest,
    sketcher: Option<Sketcher>,
    /// `[tokens so far, hidden]`, if they were asked for.
    rows: Option<Vec<f32>>,
}

/// As [`Engine::score`]; the requests have been checked.
pub(super) fn score(
    engine: &Engine,
    requests: &[ScoreRequest],
    stop: &StopFlag,
) -> Result<Vec<Score>, ModelError> {
    let mut scratch = Scratch::default();
    let mut head = Head::new(&engine.decoder);
    let mut scores = Vec::with_capacity(requests.len());
    let mut rest = requests;
    while !rest.is_empty() {
        let (pass, later) = rest.split_at(pass_len(rest, engine.config.score_rows_max));
        score_pass(engine, pass, stop, &mut scratch, &mut head, &mut scores)?;
        rest = later;
    }
    Ok(scores)
}

/// Returns how many of `requests`, at least one, have together at most `rows_max` rows.
pub(super) fn pass_len(requests: &[ScoreRequest], rows_max: usize) -> usize {
    let mut rows = 0;
    let mut previous: Option<&ScoreRequest> = None;
    let fitting = requests.iter().take_while(|request| {
        let shared = previous.is_some_and(|previous| same_prompt(previous, request));
        // The last token is predicted, never an input.
        let all = request.tokens.len() - 1;
        rows += if shared { all - request.prompt_len } else { all };
        previous = Some(request);
        rows <= rows_max
    });
    fitting.count().max(1)
}

fn same_prompt(left: &ScoreRequest, right: &ScoreRequest) -> bool {
    prompt(left) == prompt(right)
}

fn prompt(request: &ScoreRequest) -> &[TokenId] {
    &request.tokens[..request.prompt_len]
}

/// Block tables of the requests of a pass. Whole prompt blocks are those of the first request of a
/// run with the same prompt. Returns also the number of blocks.
pub(super) fn block_tables(requests: &[ScoreRequest]) -> (Vec<Vec<u32>>, usize) {
    let mut tables: Vec<Vec<u32>> = Vec::with_capacity(requests.len());
    let mut n_blocks = 0;
    for (idx, request) in requests.iter().enumerate() {
        let shared = match idx.checked_sub(1) {
            Some(before) if same_prompt(&requests[before], request) => {
                &tables[before][..request.prompt_len / BLOCK_POSITIONS]
            }
            _ => &[],
        };
        let mut table = shared.to_vec();
        let own = blocks_for(request.tokens.len() - 1).saturating_sub(table.len());
        table.extend((n_blocks..).take(own));
        n_blocks += u32::try_from(own).expect("positions are below 2^14");
        tables.push(table);
    }
    (tables, n_blocks as usize)
}

/// Lays out the rows of a pass: of each run of requests with the same prompt, the prompt's rows,
/// then each completion's.
pub(super) fn lay_out<'a>(
    requests: &[ScoreRequest],
    tables: &'a [Vec<u32>],
) -> (Batch<'a>, Vec<Target>) {
    let n_tokens = requests.iter().map(|request| request.tokens.len()).sum();
    let mut batch = Batch::with_capacity(n_tokens);
    let mut targets = Vec::with_capacity(n_tokens);
    let mut first_idx = 0;
    for run in requests.chunk_by(same_prompt) {
        let run_tables = &tables[first_idx..first_idx + run.len()];
        let mut prompt_row = 0;
        for (position, &token) in prompt(&run[0]).iter().enumerate() {
            prompt_row = batch.push(token, position, &run_tables[0]);
            // Every other sequence has its own copy of the prompt's partial block.
            if position >= run[0].prompt_len / BLOCK_POSITIONS * BLOCK_POSITIONS {
                for table in &run_tables[1..] {
                    batch.store_also(position, table);
                }
            }
        }
        for (offset, (request, table)) in run.iter().zip(run_tables).enumerate() {
            let mut row = prompt_row;
            for (step, position) in (request.prompt_len..request.tokens.len()).enumerate() {
                targets.push(Target { request_idx: first_idx + offset, step, row });
                if position + 1 < request.tokens.len() {
                    row = batch.push(request.tokens[position], position, table);
                }
            }
        }
        first_idx += run.len();
    }
    (batch, targets)
}

fn score_pass(
    engine: &Engine,
    requests: &[ScoreRequest],
    stop: &StopFlag,
    scratch: &mut Scratch,
    head: &mut Head,
    scores: &mut Vec<Score>,
) -> Result<(), ModelError> {
    let Engine { decoder, kernels, config, .. } = engine;
    let (tables, n_blocks) = block_tables(requests);
    let (batch, targets) = lay_out(requests, &tables);
    let mut cache = KvCache::transient(&decoder.shape, n_blocks);
    decoder.forward(kernels, &batch, &mut cache, scratch, config.layer_rows_max, stop)?;

    let hidden = decoder.shape.hidden;
    let partial = |request| Partial::new(request, hidden);
    let mut partials: Vec<Partial> = requests.iter().map(partial).collect();
    for targets in targets.chunks(head.rows_max()) {
        if stop.is_stopped() {
            return Err(ModelError::Stopped);
        }
        let rows = targets.iter().map(|target| &scratch.x[target.row * hidden..][..hidden]);
        let draws: Vec<Draw> = targets.iter().map(|target| target.draw(requests)).collect();
        let drawn = head.draw(kernels, decoder, rows, &draws)?;
        for (row, (target, drawn)) in targets.iter().zip(&drawn).enumerate() {
            partials[target.request_idx].push(drawn, head.input_row(row));
        }
    }
    scores.extend(partials.into_iter().map(Partial::finish));
    Ok(())
}

impl Target {
    /// What the LM head is asked about it.
    fn draw(&self, requests: &[ScoreRequest]) -> Draw {
        let request = &requests[self.request_idx];
        let race = request.race.unwrap_or(RaceCheck { key: [0; 4], temperature: 1.0 });
        let step = u32::try_from(self.step).expect("positions are below 2^14");
        Draw {
            sampling: request.race.map(|race| Sampling::Race { temperature: race.temperature }),
            race: (RaceKey(race.key), step),
            claimed: Some(request.tokens[request.prompt_len + self.step]),
            entropy: request.entropy,
            top: 0,
        }
    }
}

impl Partial {
    fn new(request: &ScoreRequest, hidden: usize) -> Self {
        let n = request.tokens.len() - request.prompt_len;
        let if_asked = |asked: bool| Vec::with_capacity(if asked { n } else { 0 });
        Self {
            logprobs: Vec::with_capacity(n),
            winners: Vec::with_capacity(if request.race.is_some() { n } else { 0 }),
            margins: if_asked(request.race.is_some()),
            entropies: if_asked(request.entropy),
            digest: HiddenStateDigest::new(),
            sketcher: match (request.race, &request.whitening) {
                (Some(race), Some(whitening)) => Some(sketcher(race.key, whitening)),
                _ => None,
            },
            rows: request.rows.then(|| Vec::with_capacity(n * hidden)),
        }
    }

    /// Takes what the LM head says of the next token, whose input was `input_row`.
    fn push(&mut self, drawn: &Drawn, input_row: &[f32]) {
        let claimed = drawn.claimed.expect("each target claims a token");
        self.logprobs.push(claimed.logprob);
        self.digest.push(input_row, claimed.logprob);
        if let Some(sketcher) = &mut self.sketcher {
            sketcher.push(input_row);
        }
        if let Some(rows) = &mut self.rows {
            rows.extend_from_slice(input_row);
        }
        if let Some(winner) = drawn.token {
            self.winners.push(winner.token);
            self.margins.push(winner.score - claimed.score);
        }
        self.entropies.extend(drawn.entropy);
    }

    fn finish(self) -> Score {
        let Self { logprobs, winners, margins, entropies, digest, sketcher, rows } = self;
        Score {
            logprobs,
            winners,
            margins,
            entropies,
            hidden_digest: digest.finish(),
            sketches: sketcher.map(Sketcher::finish).unwrap_or_default(),
            rows: rows.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(prompt_len: usize, tokens: &[TokenId]) -> ScoreRequest {
        ScoreRequest {
            tokens: tokens.to_vec(),
            prompt_len,
            race: None,
            entropy: false,
            whitening: None,
            rows: false,
        }
    }

    fn rows(requests: &[ScoreRequest]) -> (Vec<TokenId>, Vec<(usize, usize)>) {
        let (tables, _) = block_tables(requests);
        let (batch, targets) = lay_out(requests, &tables);
        let tokens = batch.tokens.clone();
        (tokens, targets.iter().map(|target| (target.request_idx, target.row)).collect())
    }

    #[test]
    fn equal_prompts_are_laid_out_once() {
        let requests =
            [request(2, &[1, 2, 3, 4]), request(2, &[1, 2, 9]), request(1, &[1, 2, 7, 8])];
        let (tokens, targets) = rows(&requests);
        // Prompt 1 2, completion 3 (4 is predicted only), nothing for 9, then another prompt.
        assert_eq!(tokens, [1, 2, 3, 1, 2, 7]);
        assert_eq!(targets, [(0, 1), (0, 2), (1, 1), (2, 3), (2, 4), (2, 5)]);
    }

    #[test]
    fn the_partial_block_of_a_prompt_is_stored_for_each_sequence() {
        let tokens: Vec<TokenId> = (0..20).collect();
        let requests = [request(18, &tokens), request(18, &tokens)];
        let (tables, n_blocks) = block_tables(&requests);
        assert_eq!((tables, n_blocks), (vec![vec![0, 1], vec![0, 2]], 3));
        let (tables, _) = block_tables(&requests);
        let (batch, _) = lay_out(&requests, &tables);
        let stores = |row: usize| batch.stores_of(row..row + 1).len();
        assert_eq!((stores(15), stores(16), stores(17), stores(18)), (1, 2, 2, 1));
    }

    #[test]
    fn a_pass_takes_what_fits_and_at_least_one() {
        let requests =
            [request(2, &[1, 2, 3, 4]), request(2, &[1, 2, 9, 9]), request(1, &[5, 2, 7, 8])];
        // Rows: 3, then 1 (shared prompt), then 3.
        for (rows_max, n) in [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3)] {
            assert_eq!(pass_len(&requests, rows_max), n, "{rows_max} rows");
        }
    }
}
