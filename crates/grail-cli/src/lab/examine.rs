//! Judges what a row's miner handed in with the validator's own code, and keeps the numbers.

use std::time::Instant;

use anyhow::Result;
use grail_protocol::calibration::TAIL_LEVELS;
use grail_protocol::rollout::{Group, Proof};
use grail_services::context::Heartbeat;
use grail_services::validation::examine::{RolloutReport, examine_group};
use grail_services::validation::pipeline::{Judgement, judge};

use super::adversary::{ForgedFile, Submission};
use super::results::{Chunk, Record};
use super::rows::Act;
use super::world::World;

/// Examines every rollout of a submission in the window of a chunk.
pub fn submission(world: &World, chunk: u32, act: Act, work: &Submission) -> Result<Chunk> {
    let bench = world.bench(World::window(chunk))?;
    let started = Instant::now();
    let mut records = Vec::new();
    for (group, cheated) in work.groups.iter().zip(&work.cheated) {
        let report = examine_group(&bench, &work.header, group, world.stop())?;
        let prompt = report.prompt.as_ref().map(|rejection| rejection.code().to_owned());
        for (rollout, &cheated) in report.rollouts.iter().zip(cheated) {
            let code = prompt.clone().or(rollout.rejection.as_ref().map(|it| it.code().to_owned()));
            records.push(Record {
                tokens: rollout.tokens,
                code,
                counted: cheated && !(is_about_tokens(act) && is_legal(rollout)),
                lost: lost(&rollout.margins),
                distances: rollout.distances.clone(),
                reward: rollout.reward,
                tails: tails(rollout.tail_hits),
                ..Record::default()
            });
        }
    }
    Ok(Chunk {
        records,
        proof_bytes: work.groups.iter().map(proof_bytes).sum::<u64>(),
        generate_s: work.seconds,
        verify_s: started.elapsed().as_secs_f64(),
        note: None,
    })
}

/// Whether a row cheats with tokens alone, so that legal tokens are no cheat.
fn is_about_tokens(act: Act) -> bool {
    matches!(act, Act::CheapTokens(_) | Act::Sampling(_) | Act::Edit(_) | Act::Grind(_))
}

/// Whether every token won its race under the verifier's own logits.
fn is_legal(rollout: &RolloutReport) -> bool {
    rollout.margins.iter().all(|margin| *margin == 0.0)
}

fn lost(margins: &[f32]) -> Vec<(u32, f32)> {
    let lost = (0u32..).zip(margins).filter(|(_, margin)| **margin != 0.0);
    lost.map(|(position, margin)| (position, *margin)).collect()
}

fn tails(hits: [bool; TAIL_LEVELS.len()]) -> u8 {
    (0u8..).zip(hits).fold(0, |bits, (level, hit)| bits | u8::from(hit) << level)
}

fn proof_bytes(group: &Group) -> u64 {
    let of = |proof: &Proof| match proof {
        Proof::Exact(digest) => digest.0.len(),
        Proof::Tolerant(sketches) => sketches.len() * size_of::<u64>(),
    };
    group.rollouts.iter().map(|rollout| of(&rollout.proof) as u64).sum()
}

/// Judges the bytes of a forged file, as found in the bucket of the lab's miner.
pub fn file(world: &World, file: &ForgedFile) -> Result<Chunk> {
    let bench = world.bench(file.window)?;
    let started = Instant::now();
    let heartbeat = Heartbeat::default();
    let judgement = judge(&bench, file.owner, &file.bytes, world.stop(), &heartbeat)?;
    let verify_s = started.elapsed().as_secs_f64();
    let Judgement { rejection, unverified, .. } = judgement;
    let code = rejection.map(|rejection| rejection.code().to_owned());
    let record = |tokens: &u32| Record {
        tokens: *tokens,
        code: code.clone(),
        counted: true,
        ..Record::default()
    };
    let note = (unverified > 0).then(|| format!("{unverified} rollouts could not be verified"));
    Ok(Chunk {
        records: file.tokens.iter().map(record).collect(),
        proof_bytes: 0,
        generate_s: 0.0,
        verify_s,
        note,
    })
}
