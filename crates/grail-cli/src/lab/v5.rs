//! The published proof v5 on the same tokens: what its validators would say of each rollout.
//!
//! Its miner takes sketches and log-probabilities from a second pass of its own engine over the
//! finished text; its validator compares 32 positions. Nothing ties the tokens to a sampler, so every
//! row is judged on whatever tokens its miner made.

use std::time::Instant;

use anyhow::Result;
use grail_ports::model::{Model, Score, ScoreRequest};
use grail_protocol::constants::NUMERICS_EXACT;
use grail_protocol::rollout::{Group, Rollout};
use grail_protocol::v5::constants::CHALLENGE_K;
use grail_protocol::v5::r_vec::{Coefficients, from_randomness};
use grail_protocol::v5::sketch::commit;
use grail_protocol::v5::verify::{Claimed, Failure, Flag, Recomputed, Rules, Verdict, judge};

use super::adversary::{Submission, v5_forgery};
use super::results::{Chunk, Record};
use super::rows::Act;
use super::world::World;

/// Bytes of a sketch and of a log-probability.
const BYTES_PER_TOKEN: u64 = 4 + 4;
/// Of five claimed log-probabilities, those that a forger makes up: fewer than half.
const FORGED_OF_FIVE: usize = 2;

/// Judges every rollout of a submission.
pub fn submission(world: &World, chunk: u32, act: Act, work: &Submission) -> Result<Chunk> {
    let randomness = world.randomness(World::window(chunk)).0.to_hex();
    let coefficients = from_randomness(&randomness)?;
    let verifier = &*world.published().model;
    debug_assert_eq!(verifier.info().numerics, NUMERICS_EXACT);
    let (mut records, mut generate_s, mut verify_s) = (Vec::new(), work.seconds, 0.0);
    for (group, cheated) in work.groups.iter().zip(&work.cheated) {
        let started = Instant::now();
        let mut claims = passes(world, &*work.model, group, &coefficients)?;
        forge(act, &mut claims);
        generate_s += started.elapsed().as_secs_f64();
        let started = Instant::now();
        let own = passes(world, verifier, group, &coefficients)?;
        for (idx, rollout) in group.rollouts.iter().enumerate() {
            let rules = Rules {
                randomness: &randomness,
                limit: world.parts().sampler.max_new_tokens,
                eos_token: verifier.info().eos_token_ids.first().copied(),
            };
            let verdict = verdict(group, rollout, &claims[idx], &own[idx], &rules);
            let about_tokens = matches!(act, Act::Sampling(_) | Act::Edit(_));
            let changed = cheated.get(idx).copied().unwrap_or(true);
            records.push(record(rollout, &verdict, changed || !about_tokens));
        }
        verify_s += started.elapsed().as_secs_f64();
    }
    let is_short = |record: &Record| (record.tokens as usize) < CHALLENGE_K;
    let short = records.iter().filter(|record| is_short(record)).count();
    let tokens: u64 = records.iter().map(|record| u64::from(record.tokens)).sum();
    let note = (short > 0).then(|| {
        "rollouts of fewer than 32 tokens, which v5 always rejects, are not counted".to_owned()
    });
    Ok(Chunk { records, proof_bytes: BYTES_PER_TOKEN * tokens, generate_s, verify_s, note })
}

/// What one engine computes of a rollout; one entry per position of the sequence.
struct Pass {
    sketches: Vec<i64>,
    logprobs: Vec<f64>,
}

/// Runs a group through an engine. Positions of the prompt are never challenged and stay 0.
fn passes(
    world: &World,
    model: &dyn Model,
    group: &Group,
    coefficients: &Coefficients,
) -> Result<Vec<Pass>> {
    let prompt_len = group.prompt.len();
    let requests: Vec<ScoreRequest> = group
        .rollouts
        .iter()
        .map(|rollout| ScoreRequest {
            // One token more, so that there is a state behind the last one.
            tokens: [group.prompt.as_slice(), &rollout.tokens, &rollout.tokens[..1]].concat(),
            prompt_len,
            race: None,
            entropy: false,
            whitening: None,
            rows: true,
        })
        .collect();
    let hidden = model.info().hidden_size as usize;
    let scores = model.score(&requests, world.stop())?;
    Ok(scores
        .into_iter()
        .map(|Score { rows, mut logprobs, .. }| {
            logprobs.pop();
            // The first row belongs to the last token of the prompt.
            let rows = rows.get(hidden..).unwrap_or_default();
            let mut sketches = vec![0; prompt_len];
            sketches.extend(commit(rows, hidden, coefficients));
            let zeros = std::iter::repeat_n(0.0, prompt_len);
            Pass { sketches, logprobs: zeros.chain(logprobs.iter().map(|&lp| lp.into())).collect() }
        })
        .collect())
}

/// Replaces what a forger makes up.
fn forge(act: Act, claims: &mut [Pass]) {
    match act {
        Act::Proof(forgery) => {
            // Another rollout of the group stands for an earlier one.
            let earlier = claims.last().map(|pass| pass.sketches.clone()).unwrap_or_default();
            for pass in claims {
                pass.sketches = v5_forgery(forgery, &pass.sketches, &earlier);
            }
        }
        Act::Logprobs => {
            for pass in claims {
                let forged = pass.logprobs.iter_mut().enumerate();
                forged.filter(|(idx, _)| idx % 5 < FORGED_OF_FIVE).for_each(|(_, lp)| *lp = 0.0);
            }
        }
        _ => {}
    }
}

fn verdict(
    group: &Group,
    rollout: &Rollout,
    claims: &Pass,
    own: &Pass,
    rules: &Rules<'_>,
) -> Verdict {
    let prompt_length = group.prompt.len();
    let tokens = [group.prompt.as_slice(), &rollout.tokens].concat();
    let of_completion = own.logprobs.get(prompt_length..).unwrap_or_default();
    let probabilities: Vec<f64> = of_completion.iter().map(|lp| lp.exp()).collect();
    let reward = f64::from(rollout.reward);
    let claimed = Claimed {
        tokens: &tokens,
        prompt_length,
        sketches: &claims.sketches,
        logprobs: &claims.logprobs,
        reward,
    };
    #[expect(clippy::cast_possible_truncation, reason = "the reference computes it in f32")]
    let eos_probability = probabilities.last().copied().unwrap_or(0.0) as f32;
    let own = Recomputed {
        sketches: &own.sketches,
        logprobs: &own.logprobs,
        probabilities: &probabilities,
        eos_probability,
        reward: Some(reward),
    };
    judge(&claimed, &own, rules)
}

fn record(rollout: &Rollout, verdict: &Verdict, changed: bool) -> Record {
    let code = verdict.hard.first().map(code);
    let too_short = rollout.tokens.len() < CHALLENGE_K;
    Record {
        tokens: u32::try_from(rollout.tokens.len()).unwrap_or(u32::MAX),
        code: code.map(str::to_owned),
        counted: changed && !too_short,
        soft: verdict.soft.iter().map(|flag| flagged(flag).to_owned()).collect(),
        reward: Some(rollout.reward),
        ..Record::default()
    }
}

fn code(failure: &Failure) -> &'static str {
    match failure {
        Failure::Schema | Failure::Challenge(_) => "v5_schema",
        Failure::TooShort { .. } => "v5_too_short",
        Failure::Sketches(_) => "v5_sketch",
        Failure::Termination(_) => "v5_termination",
        Failure::Evaluation => "v5_evaluation",
        Failure::Logprobs(_) => "v5_logprobs",
    }
}

fn flagged(flag: &Flag) -> &'static str {
    match flag {
        Flag::Reward { .. } => "v5_reward",
        // Counted a file and tuned to large models: honest small ones are flagged as often as any
        // cheat, so the flags are told and decide nothing here.
        Flag::Distribution(_) => "v5_distribution",
    }
}
