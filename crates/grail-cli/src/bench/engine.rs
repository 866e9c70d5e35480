//! Rows of generation and verification, and the ratios between them.

use std::cell::Cell;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use grail_model::formats::config::ModelConfig;
use grail_model::{
    Engine, EngineConfig, EngineService, FinishReason, SequenceEvent, SequenceRequest,
    ServiceConfig,
};
use grail_ports::model::{GenerateRequest, RaceCheck, Sampling, ScoreRequest, StopFlag};
use grail_protocol::sketch::Whitening;

use super::measure::median_ratio;
use super::record::{Ratio, Work};
use super::work::{
    GROUP, LONG, NEW_TOKENS, PROMPT_TOKENS, RACE, attention_flop, forward_flop, group, keys,
    matrix_parameters, scored, tokens,
};
use super::{Bench, Row};

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
    let engine = Arc::new(engine);
    for rollouts in BATCHES {
        decode(bench, &engine, rollouts)?;
    }
    let fits = LONG.1 < engine.positions_max();
    if fits {
        prefill(bench, &engine)?;
        score(bench, &engine)?;
    }
    verify(bench, &engine)?;
    if bench.selection.wants("ratio.race_share") || bench.selection.wants("ratio.capture_cost") {
        let service = EngineService::start(engine, ServiceConfig::default())?;
        shares(bench, &service)?;
        service.drain(Duration::ZERO);
    }
    Ok(())
}

/// Generates `requests` and drops what comes out.
fn generate(engine: &Engine, requests: &[GenerateRequest]) -> Result<()> {
    engine.generate(requests, &StopFlag::default(), &mut |_, _| {})?;
    Ok(())
}

/// A group from prompt to end, and one decoding step of it. Every repetition has a prompt of its
/// own: the engine keeps those that it has seen.
fn decode(bench: &mut Bench<'_>, engine: &Engine, rollouts: usize) -> Result<()> {
    let (decode, step) = (format!("decode.{rollouts}"), format!("step.{rollouts}"));
    let model = bench.model;
    let sequence = Cell::new(0);
    let run = |max_new_tokens| {
        sequence.set(sequence.get() + 1);
        generate(engine, &[group(model, sequence.get(), rollouts, max_new_tokens)])
    };
    if bench.selection.wants(&step) {
        let [all, few] =
            bench.effort.of_tasks([&mut || run(NEW_TOKENS), &mut || run(FEW_TOKENS)])?;
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
        let [seconds] = bench.effort.of_tasks([&mut || run(NEW_TOKENS)])?;
        let work = Work { tokens: rollouts as u64 * u64::from(NEW_TOKENS), ..Work::default() };
        let what = format!(
            "{rollouts} rollouts of one prompt of {PROMPT_TOKENS} tokens, {NEW_TOKENS} new tokens \
             each, digests included"
        );
        bench.push(Row::new(&decode, what, work, &seconds, &bench.machine))?;
    }
    Ok(())
}

/// Long prompts, new ones each time, of which each gives one token: the head sees one row of each.
fn prefill(bench: &mut Bench<'_>, engine: &Engine) -> Result<()> {
    let (model, (sequences, len)) = (bench.model, LONG);
    if !bench.selection.wants("prefill") {
        return Ok(());
    }
    let first = Cell::new(0);
    let request = |sequence| GenerateRequest {
        prompt: tokens(model, sequence, len),
        race_keys: keys(1).collect(),
        sampling: RACE,
        max_new_tokens: 1,
        whitening: None,
    };
    let [seconds] = bench.effort.of_tasks([&mut || {
        let from = first.replace(first.get() + sequences);
        let requests: Vec<GenerateRequest> = (from..from + sequences).map(request).collect();
        generate(engine, &requests)
    }])?;
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
    let model = bench.model;
    let request = group(model, 0, GROUP, NEW_TOKENS);
    let mut rollouts: Vec<ScoreRequest> = Vec::with_capacity(GROUP);
    engine.generate(
        std::slice::from_ref(&request),
        &StopFlag::default(),
        &mut |_, completions| {
            for (completion, &key) in completions.into_iter().zip(&request.race_keys) {
                rollouts.push(ScoreRequest {
                    tokens: [request.prompt.as_slice(), &completion.tokens].concat(),
                    prompt_len: request.prompt.len(),
                    race: Some(RaceCheck { key, temperature: 1.0 }),
                    entropy: false,
                    whitening: None,
                    rows: false,
                });
            }
        },
    )?;
    let mut sequence = 0;
    let mut fresh = || {
        sequence += 1;
        generate(engine, &[group(model, sequence, GROUP, NEW_TOKENS)])
    };
    let [generation, verification] = bench.effort.of_tasks([&mut fresh, &mut || {
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
        value: median_ratio(&generation, &verification),
    });
    Ok(())
}

/// A rollout that is streamed.
#[derive(Clone)]
struct Streamed {
    sampling: Sampling,
    capture_digest: bool,
    whitening: Option<Arc<Whitening>>,
}

/// What the race costs in decoding, and what the capture of hidden states, digests and sketches does:
/// each with it, in turn with decoding without.
fn shares(bench: &mut Bench<'_>, service: &EngineService) -> Result<()> {
    let model = bench.model;
    // What the statistics say costs nothing.
    let (mean, scale) = (vec![0.0; model.hidden_size], vec![1.0; model.hidden_size]);
    let whitening = Some(Arc::new(Whitening::new(mean, scale)?));
    let usual = Streamed { sampling: RACE, capture_digest: true, whitening: None };
    let greedy = Streamed { sampling: Sampling::Greedy, ..usual.clone() };
    let captured = Streamed { whitening, ..usual.clone() };
    let unseen = Streamed { capture_digest: false, ..usual.clone() };
    let run = |streamed: &Streamed| stream_group(service, model, streamed);
    if bench.selection.wants("ratio.race_share") {
        let [race, greedy] = bench.effort.of_tasks([&mut || run(&usual), &mut || run(&greedy)])?;
        bench.ratios.push(Ratio {
            id: "ratio.race_share",
            what: format!("share of the race in decoding {GROUP} rollouts, against greedy choice"),
            value: 1.0 - median_ratio(&greedy, &race),
        });
    }
    if bench.selection.wants("ratio.capture_cost") {
        let [captured, unseen] =
            bench.effort.of_tasks([&mut || run(&captured), &mut || run(&unseen)])?;
        bench.ratios.push(Ratio {
            id: "ratio.capture_cost",
            what: format!(
                "time that hidden states, their digests and sketches add to decoding {GROUP} rollouts"
            ),
            value: median_ratio(&captured, &unseen) - 1.0,
        });
    }
    Ok(())
}

/// Streams a group's rollouts of one prompt, and waits for all.
fn stream_group(service: &EngineService, model: &ModelConfig, streamed: &Streamed) -> Result<()> {
    let (ended, ends) = mpsc::channel();
    let mut tickets = Vec::with_capacity(GROUP);
    for race_key in keys(GROUP) {
        let request = SequenceRequest {
            prompt: tokens(model, 0, PROMPT_TOKENS),
            sampling: streamed.sampling,
            race_key,
            max_new_tokens: NEW_TOKENS,
            top_logprobs: 0,
            capture_digest: streamed.capture_digest,
            whitening: streamed.whitening.clone(),
            ignore_eos: true,
        };
        let ended = ended.clone();
        let events = move |event| {
            if let SequenceEvent::Finished { reason, .. } = event {
                // The receiver is gone only after another rollout failed.
                let _ = ended.send(reason);
            }
        };
        tickets.push(service.submit(request, Box::new(events))?);
    }
    for _ in &tickets {
        let reason = ends.recv().context("the engine stopped")?;
        ensure!(reason == FinishReason::Length, "a rollout ended early: {reason:?}");
    }
    Ok(())
}
