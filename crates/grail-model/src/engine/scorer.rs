//! Recomputes whole sequences, many in one pass, and asks the LM head about completions only.
//!
//! Consecutive requests with the same prompt share its rows: the prompt is computed once, and each
//! completion attends to it through the block table. A pass holds the keys and values of one layer
//! at a time, so memory depends on the tokens of a pass and not on the model's depth.

use grail_kernels::{RaceKey, RaceOutcome};
use grail_ports::model::{ModelError, Score, ScoreRequest, StopFlag};
use grail_protocol::digest::HiddenStateDigest;
use grail_protocol::ids::TokenId;

use super::Engine;
use super::batch::Batch;
use super::cache::{BLOCK_POSITIONS, KvCache, blocks_for};
use super::head::{Head, not_finite};
use crate::arch::Scratch;

/// One completion token to be looked at.
struct Target {
    request_idx: usize,
    /// 0-based completion step.
    step: usize,
    /// Row of the batch that predicts it.
    row: usize,
}

/// What has been found out about one request.
struct Partial {
    logprobs: Vec<f32>,
    winners: Vec<TokenId>,
    margins: Vec<f32>,
    digest: HiddenStateDigest,
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
fn pass_len(requests: &[ScoreRequest], rows_max: usize) -> usize {
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
fn block_tables(requests: &[ScoreRequest]) -> (Vec<Vec<u32>>, usize) {
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
fn lay_out<'a>(requests: &[ScoreRequest], tables: &'a [Vec<u32>]) -> (Batch<'a>, Vec<Target>) {
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

    let mut partials: Vec<Partial> = requests
        .iter()
        .map(|request| {
            let n = request.tokens.len() - request.prompt_len;
            let raced = if request.race.is_some() { n } else { 0 };
            Partial {
                logprobs: Vec::with_capacity(n),
                winners: Vec::with_capacity(raced),
                margins: Vec::with_capacity(raced),
                digest: HiddenStateDigest::new(),
            }
        })
        .collect();
    let hidden = decoder.shape.hidden;
    let mut logprobs = Vec::new();
    for targets in targets.chunks(head.rows_max()) {
        if stop.is_stopped() {
            return Err(ModelError::Stopped);
        }
        head.run(kernels, decoder, targets.iter().map(|t| &scratch.x[t.row * hidden..][..hidden]));
        let claimed: Vec<TokenId> = targets
            .iter()
            .map(|target| {
                let request = &requests[target.request_idx];
                request.tokens[request.prompt_len + target.step]
            })
            .collect();
        head.logprobs(kernels, &claimed, &mut logprobs)?;
        for (row, target) in targets.iter().enumerate() {
            let partial = &mut partials[target.request_idx];
            partial.logprobs.push(logprobs[row]);
            partial.digest.push(head.input_row(row), logprobs[row]);
        }
        run_races(engine, requests, targets, &claimed, head, &mut partials)?;
    }
    scores.extend(partials.into_iter().map(|partial| Score {
        logprobs: partial.logprobs,
        winners: partial.winners,
        margins: partial.margins,
        hidden_digest: partial.digest.finish(),
    }));
    Ok(())
}

/// Runs the race of each target whose request claims one.
fn run_races(
    engine: &Engine,
    requests: &[ScoreRequest],
    targets: &[Target],
    claimed: &[TokenId],
    head: &Head,
    partials: &mut [Partial],
) -> Result<(), ModelError> {
    let vocab = engine.decoder.config.vocab_size;
    let temperature_of =
        |target: &Target| requests[target.request_idx].race.map(|race| race.temperature);
    let mut start = 0;
    for same in targets.chunk_by(|left, right| temperature_of(left) == temperature_of(right)) {
        let rows = start..start + same.len();
        start = rows.end;
        let Some(temperature) = temperature_of(&same[0]) else { continue };
        let keys: Vec<RaceKey> = same
            .iter()
            .filter_map(|target| requests[target.request_idx].race)
            .map(|race| RaceKey(race.key))
            .collect();
        let steps: Vec<u32> = same
            .iter()
            .map(|target| u32::try_from(target.step).expect("positions are below 2^14"))
            .collect();
        let mut outcomes = vec![RaceOutcome::default(); same.len()];
        engine
            .kernels
            .race(
                head.logits_of(rows.clone()),
                vocab,
                &keys,
                &steps,
                temperature,
                Some(&claimed[rows]),
                &mut outcomes,
            )
            .map_err(not_finite)?;
        for (target, outcome) in same.iter().zip(&outcomes) {
            let partial = &mut partials[target.request_idx];
            partial.winners.push(outcome.winner);
            partial.margins.push(outcome.winner_score - outcome.claimed_score);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(prompt_len: usize, tokens: &[TokenId]) -> ScoreRequest {
        ScoreRequest { tokens: tokens.to_vec(), prompt_len, race: None }
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
