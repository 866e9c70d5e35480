//! The published weights with another way to choose tokens; proofs are honest.

use std::time::Instant;

use anyhow::Result;
use grail_ports::model::{Completion, GenerateRequest, Sampling};
use grail_protocol::domain::DomainHash;
use grail_protocol::rollout::Proof;
use grail_protocol::sampler::RaceKey;
use grail_services::mining::pipeline::{self, GroupTask, MiningJob};

use super::{Maker, Submission, proved};
use crate::lab::rows::Sampler;

pub fn make(maker: &mut Maker<'_>, sampler: Sampler) -> Result<Submission> {
    let job = maker.job()?;
    let tasks = maker.world.plans(&job, maker.groups)?;
    if let Sampler::BestOf(n) = sampler {
        return best_of(maker, &job, &tasks, n);
    }
    let temperature = job.checkpoint.sampler.temperature;
    let requests: Vec<GenerateRequest> = tasks
        .iter()
        .map(|task| {
            let mut request = pipeline::request(&job, task);
            match sampler {
                Sampler::Free => request.race_keys = own_keys(task, 1),
                Sampler::Greedy => request.sampling = Sampling::Greedy,
                Sampler::Temperature(factor) => {
                    request.sampling = Sampling::Race { temperature: temperature * factor };
                }
                Sampler::TopP(top_p) => request.sampling = Sampling::TopP { temperature, top_p },
                Sampler::BestOf(_) => {}
            }
            request
        })
        .collect();
    let started = Instant::now();
    let completions = maker.world.generate(&*job.checkpoint.model, &requests)?;
    let seconds = started.elapsed().as_secs_f64();
    let completions = match sampler {
        Sampler::Free => under_legal_keys(maker, &job, &tasks, completions)?,
        _ => completions,
    };
    maker.submit(&job, &tasks, completions, seconds)
}

/// Sketches are keyed by the race: whoever raced with other keys must sketch again with the legal
/// ones, or be caught at once. Digests know no key.
fn under_legal_keys(
    maker: &Maker<'_>,
    job: &MiningJob,
    tasks: &[GroupTask],
    groups: Vec<Vec<Completion>>,
) -> Result<Vec<Vec<Completion>>> {
    if Proof::is_exact(&job.header.numerics) {
        return Ok(groups);
    }
    let pairs = tasks.iter().zip(groups);
    pairs
        .map(|(task, group)| {
            let answers = group.into_iter().map(|answer| answer.tokens).enumerate().collect();
            proved(maker, job, task, answers)
        })
        .collect()
}

/// Samples each rollout with the legal key and `n - 1` others, and keeps the best rewarded.
fn best_of(maker: &Maker<'_>, job: &MiningJob, tasks: &[GroupTask], n: u32) -> Result<Submission> {
    let started = Instant::now();
    let mut best = maker.world.mined(maker.profile, maker.chunk, maker.groups)?.completions.clone();
    best.truncate(tasks.len());
    for attempt in 1..n {
        let requests: Vec<GenerateRequest> = tasks
            .iter()
            .map(|task| GenerateRequest {
                race_keys: own_keys(task, attempt),
                ..pipeline::request(job, task)
            })
            .collect();
        let tried = maker.world.generate(&*job.checkpoint.model, &requests)?;
        for ((task, best), tried) in tasks.iter().zip(&mut best).zip(tried) {
            keep_better(job, task, best, tried)?;
        }
    }
    let best = under_legal_keys(maker, job, tasks, best)?;
    maker.submit(job, tasks, best, started.elapsed().as_secs_f64())
}

/// Replaces what earns less than a new try.
pub fn keep_better(
    job: &MiningJob,
    task: &GroupTask,
    best: &mut [Completion],
    tried: Vec<Completion>,
) -> Result<()> {
    for (best, tried) in best.iter_mut().zip(tried) {
        if reward(job, task, &tried)? > reward(job, task, best)? {
            *best = tried;
        }
    }
    Ok(())
}

fn reward(job: &MiningJob, task: &GroupTask, completion: &Completion) -> Result<f32> {
    let text = job.checkpoint.model.decode(&completion.tokens)?;
    Ok(job.checkpoint.environment.evaluate(task.seed, &text)?.reward)
}

/// Keys that the cheater drew itself.
fn own_keys(task: &GroupTask, attempt: u32) -> Vec<[u32; 4]> {
    let own = |key: &RaceKey| {
        let hash = DomainHash::new("lab-own-key").u32(attempt);
        let hash = key.0.iter().fold(hash, |hash, word| hash.u32(*word)).finish();
        let mut words = key.0;
        for (word, bytes) in words.iter_mut().zip(hash.0.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    };
    task.race_keys.iter().map(own).collect()
}
