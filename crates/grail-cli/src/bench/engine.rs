//! Rows of generation and verification, and the ratios between them.

use anyhow::{Context, Result};
use grail_model::{Engine, EngineConfig};
use grail_ports::model::{GenerateRequest, RaceCheck, Sampling, ScoreRequest, StopFlag};

use super::measure::median;
use super::record::{Ratio, Work};
use super::work::{
    GROUP, LONG, NEW_TOKENS, PROMPT_TOKENS, attention_flop, forward_flop, group, keys,
    matrix_parameters, scored, tokens,
};
use super::{Bench, Row};

const RACE: Sampling = Sampling::Race { temperature: 1.0 };
/// Rollouts decoded together.
const BATCHES: [usize; 4] = [1, 4, 16, 64];
/// New tokens of the shorter of two generations, whose difference is decoding alone.
const FEW_TOKENS: u32 = 16;

/// Measures the rows that are selected.
pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let families = ["decode", "step", "prefill", "score", "verify", "ratio"];
    if !families.iter().any(|family| bench.selection.touches(family)) {
        return Ok(());
    }
    let engine =
        Engine::load(bench.dir, Vec::new(), bench.kernels.clone(), EngineConfig::default())
            .with_context(|| format!("while loading {}", bench.dir.display()))?;
    for rollouts in BATCHES {
        decode(bench, &engine, rollouts)?;
    }
    let fits = LONG.1 < engine.positions_max();
    if fits {
        prefill(bench, &engine)?;
        score(bench, &engine)?;
    }
    verify(bench, &engine)?;
    race_share(bench, &engine)
}

/// Generates `requests` and drops what comes out.
fn generate(engine: &Engine, requests: &[GenerateRequest]) -> Result<()> {
    engine.generate(requests, &StopFlag::default(), &mut |_, _| {})?;
    Ok(())
}

/// A group from prompt to end, and one decoding step of it.
fn decode(bench: &mut Bench<'_>, engine: &Engine, rollouts: usize) -> Result<()> {
    let (decode, step) = (format!("decode.{rollouts}"), format!("step.{rollouts}"));
    let model = bench.model;
    let all = [group(model, rollouts, NEW_TOKENS, RACE)];
    let few = [group(model, rollouts, FEW_TOKENS, RACE)];
    if bench.selection.wants(&step) {
        let [all, few] = bench
            .effort
            .of_tasks([&mut || generate(engine, &all), &mut || generate(engine, &few)])?;
        let steps = f64::from(NEW_TOKENS - FEW_TOKENS);
        let seconds: Vec<f64> =
            all.iter().zip(&few).map(|(all, few)| (all - few) / steps).collect();
        let (layers, head) = matrix_parameters(model);
        let from = PROMPT_TOKENS + FEW_TOKENS as usize;
        let to = PROMPT_TOKENS + NEW_TOKENS as usize;
        let attention = attention_flop(model, from..to) / steps;
        let work = Work {
            tokens: rollouts as u64,
            flop: rollouts as f64 * (2.0 * (layers + head) as f64 + attention),
            bytes: 2.0 * (layers + head) as f64,
        };
        let what = format!(
            "one decoding step of {rollouts} rollouts, by the difference of {NEW_TOKENS} and \
             {FEW_TOKENS} new tokens; bytes are the weights'"
        );
        bench.push(Row::new(&step, what, work, &seconds, &bench.machine))?;
    }
    if bench.selection.wants(&decode) {
        let [seconds] = bench.effort.of_tasks([&mut || generate(engine, &all)])?;
        let work = Work { tokens: rollouts as u64 * u64::from(NEW_TOKENS), ..Work::default() };
        let what = format!(
            "{rollouts} rollouts of one prompt of {PROMPT_TOKENS} tokens, {NEW_TOKENS} new tokens \
             each, digests included"
        );
        bench.push(Row::new(&decode, what, work, &seconds, &bench.machine))?;
    }
    Ok(())
}

/// Long prompts of which each gives one token: the head sees one row of each.
fn prefill(bench: &mut Bench<'_>, engine: &Engine) -> Result<()> {
    let (model, (sequences, len)) = (bench.model, LONG);
    if !bench.selection.wants("prefill") {
        return Ok(());
    }
    let request = |sequence| GenerateRequest {
        prompt: tokens(model, sequence, len),
        race_keys: keys(1).collect(),
        sampling: RACE,
        max_new_tokens: 1,
    };
    let requests: Vec<GenerateRequest> = (0..sequences).map(request).collect();
    let [seconds] = bench.effort.of_tasks([&mut || generate(engine, &requests)])?;
    let flop = forward_flop(model, LONG, sequences);
    let work = Work { tokens: (sequences * len) as u64, flop, ..Work::default() };
    let what = format!("{sequences} prompts of {len} tokens, one new token each");
    bench.push(Row::new("prefill", what, work, &seconds, &bench.machine))
}

/// Long sequences with the log-probability of every token.
fn score(bench: &mut Bench<'_>, engine: &Engine) -> Result<()> {
    let (model, (sequences, len)) = (bench.model, LONG);
    for (id, race) in [("score", None), ("score.race", Some(1.0))] {
        if !bench.selection.wants(id) {
            continue;
        }
        let mut requests = scored(model, LONG);
        for (request, key) in requests.iter_mut().zip(keys(sequences)) {
            request.race = race.map(|temperature| RaceCheck { key, temperature });
        }
        let mut mean = 0.0;
        let [seconds] = bench.effort.of_tasks([&mut || {
            let scores = engine.score(&requests, &StopFlag::default())?;
            let logprobs = scores.iter().flat_map(|score| &score.logprobs);
            let sum: f64 = logprobs.map(|&logprob| f64::from(logprob)).sum();
            mean = sum / (sequences * (len - 1)) as f64;
            Ok(())
        }])?;
        let flop = forward_flop(model, LONG, sequences * (len - 1));
        let work = Work { tokens: (sequences * len) as u64, flop, ..Work::default() };
        let races = if race.is_some() { ", races run again" } else { "" };
        let what = format!(
            "{sequences} sequences of {len} tokens, each token scored{races}, digests included; \
             mean log-probability {mean:.6}"
        );
        bench.push(Row::new(id, what, work, &seconds, &bench.machine))?;
    }
    Ok(())
}

/// Verification of a group that was generated, in turn with its generation.
fn verify(bench: &mut Bench<'_>, engine: &Engine) -> Result<()> {
    if !bench.selection.wants("verify") && !bench.selection.wants("ratio.generate_over_verify") {
        return Ok(());
    }
    let request = group(bench.model, GROUP, NEW_TOKENS, RACE);
    let requests = std::slice::from_ref(&request);
    let mut rollouts: Vec<ScoreRequest> = Vec::with_capacity(GROUP);
    engine.generate(requests, &StopFlag::default(), &mut |_, completions| {
        for (completion, &key) in completions.into_iter().zip(&request.race_keys) {
            rollouts.push(ScoreRequest {
                tokens: [request.prompt.as_slice(), &completion.tokens].concat(),
                prompt_len: request.prompt.len(),
                race: Some(RaceCheck { key, temperature: 1.0 }),
            });
        }
    })?;
    let [generation, verification] =
        bench.effort.of_tasks([&mut || generate(engine, requests), &mut || {
            engine.score(&rollouts, &StopFlag::default()).map(drop).map_err(Into::into)
        }])?;
    let work = Work { tokens: GROUP as u64 * u64::from(NEW_TOKENS), ..Work::default() };
    let what = format!(
        "verification of {GROUP} rollouts of one prompt of {PROMPT_TOKENS} tokens, {NEW_TOKENS} \
         new tokens each: log-probabilities, races, digests"
    );
    bench.push(Row::new("verify", what, work, &verification, &bench.machine))?;
    bench.ratios.push(Ratio {
        id: "ratio.generate_over_verify",
        what: format!("seconds to generate {GROUP} rollouts over seconds to verify them"),
        value: median(&generation) / median(&verification),
    });
    Ok(())
}

/// What the race costs: decoding with it, in turn with decoding that takes the largest logit.
fn race_share(bench: &mut Bench<'_>, engine: &Engine) -> Result<()> {
    if !bench.selection.wants("ratio.race_share") {
        return Ok(());
    }
    let race = [group(bench.model, GROUP, NEW_TOKENS, RACE)];
    let greedy = [group(bench.model, GROUP, NEW_TOKENS, Sampling::Greedy)];
    let [race, greedy] = bench
        .effort
        .of_tasks([&mut || generate(engine, &race), &mut || generate(engine, &greedy)])?;
    bench.ratios.push(Ratio {
        id: "ratio.race_share",
        what: format!("share of the race in decoding {GROUP} rollouts, against the largest logit"),
        value: 1.0 - median(&greedy) / median(&race),
    });
    Ok(())
}
