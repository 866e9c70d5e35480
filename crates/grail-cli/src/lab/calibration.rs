//! Measures what honest rollouts of the bf16 engine look like to the exact verifier.
//!
//! The problems are held out: no window, of the lab or of a network, ever poses them, and they share
//! no statement with those that do. So thresholds are fitted to other prompts than they are tested
//! on.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use grail_environments::split;
use grail_ports::model::{GenerateRequest, RaceCheck, Sampling, ScoreRequest};
use grail_protocol::calibration::{Calibration, Pairing, RolloutSample};
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::TokenId;
use indicatif::ProgressBar;

use super::rows::Profile;
use super::world::World;

/// Chunk whose window names the races: no row reaches it.
const CHUNK: u32 = 3_000_000;
/// Groups that are generated and scored at the same time.
const GROUPS_AT_ONCE: u32 = 4;

/// Returns the prompts that a calibration of `rollouts` rollouts answers, in order.
pub fn prompts(world: &World, rollouts: u32) -> Result<Vec<Vec<TokenId>>> {
    let published = world.published();
    (0..rollouts.div_ceil(ROLLOUTS_PER_GROUP))
        .map(|group| {
            let seed = split::held_out_seed(world.parts().seed, group);
            Ok(published.model.render(&published.environment.prompt(seed))?)
        })
        .collect()
}

/// Fits thresholds to `rollouts` honest rollouts, in whole groups.
pub fn fit(world: &World, rollouts: u32, bar: &ProgressBar) -> Result<Calibration> {
    let miner = world.engine(Profile::Tolerant)?;
    let job = world.own_job(CHUNK, miner.clone());
    let published = world.published();
    let temperature = published.sampler.temperature;
    let prompts = prompts(world, rollouts)?;
    let mut samples = Vec::new();
    for (first, prompts) in (0u32..).step_by(GROUPS_AT_ONCE as usize).zip(prompts.chunks(4)) {
        let requests: Vec<GenerateRequest> = (first..)
            .zip(prompts)
            .map(|(group, prompt)| GenerateRequest {
                prompt: prompt.clone(),
                race_keys: (0..ROLLOUTS_PER_GROUP)
                    .map(|rollout| job.header.race_key(job.randomness, group, rollout).0)
                    .collect(),
                sampling: Sampling::Race { temperature },
                max_new_tokens: published.sampler.max_new_tokens,
                whitening: published.whitening.clone(),
            })
            .collect();
        let groups = world.generate(&*miner, &requests)?;
        for (request, completions) in requests.iter().zip(groups) {
            let scored: Vec<ScoreRequest> = completions
                .iter()
                .zip(&request.race_keys)
                .map(|(completion, key)| ScoreRequest {
                    tokens: [request.prompt.as_slice(), &completion.tokens].concat(),
                    prompt_len: request.prompt.len(),
                    race: Some(RaceCheck { key: *key, temperature }),
                    entropy: false,
                    whitening: published.whitening.clone(),
                    rows: false,
                })
                .collect();
            let scores = published.model.score(&scored, world.stop())?;
            for (completion, score) in completions.iter().zip(scores) {
                let pairs = completion.sketches.iter().zip(&score.sketches);
                let bits = pairs.map(|(miner, verifier)| miner.distance(*verifier));
                samples.push(RolloutSample {
                    margins: score.margins,
                    distances: bits.map(|bits| u8::try_from(bits).unwrap_or(u8::MAX)).collect(),
                });
            }
            bar.inc(1);
        }
    }
    let info = miner.info();
    let pairing = Pairing {
        model: published.identity,
        checkpoint: published.digest(),
        window: published.window,
        miner_runtime: info.numerics.clone(),
        verifier_runtime: published.model.info().numerics.clone(),
        temperature: f64::from(temperature),
    };
    let digest = prompts
        .iter()
        .fold(DomainHash::new("lab-prompts"), |hash, prompt| hash.tokens(prompt))
        .finish();
    Calibration::fit(pairing, digest, &samples).context("while fitting the thresholds")
}

/// Checks that no prompt of the first `chunks` windows of rows was calibrated on.
pub fn refuse_overlap(world: &World, rollouts: u32, chunks: u32, groups: u32) -> Result<()> {
    let calibrated: HashSet<Vec<TokenId>> = prompts(world, rollouts)?.into_iter().collect();
    for chunk in 0..chunks {
        let job = world.own_job(chunk, world.published().model.clone());
        for task in world.plans(&job, groups)? {
            ensure!(
                !calibrated.contains(&task.prompt),
                "group {} of chunk {chunk} asks what calibration asked; report this",
                task.group
            );
        }
    }
    Ok(())
}
