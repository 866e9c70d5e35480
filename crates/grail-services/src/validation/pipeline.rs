//! The straight line from a miner's bytes to a judgement: structure, choice, recomputation, rules.
//!
//! Whatever a miner can do ends as a [`Rejection`]; whatever fails on our side leaves rollouts
//! unverified, which is never held against anybody.

use std::sync::Arc;

use grail_ports::model::{ModelError, RaceCheck, Score, ScoreRequest, StopFlag};
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::ids::{Hotkey, Netuid, TokenId, Window};
use grail_protocol::randomness::{ValidationChallenge, WindowRandomness, task_seed};
use grail_protocol::rollout::{FileHeader, Group, Rollout, RolloutFile};
use grail_protocol::sampling::choose_groups;
use grail_protocol::validated::{ValidatedGroup, ValidatedRollout};
use grail_protocol::verifier::{
    EvaluationFacts, ExpectedContext, GroupFacts, Rejection, RolloutFacts, ScoreFacts,
    UnusableFacts, Verdict, check_group, check_hidden_states, check_prompt, check_race,
    check_structure,
};
use tracing::warn;

use crate::checkpoint::LoadedCheckpoint;
use crate::context::Heartbeat;
use crate::math::mean;

/// What the files of a window are judged against; equal benches give equal judgements.
#[derive(Clone)]
pub struct Bench {
    /// Name of the chain's network.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// The window.
    pub window: Window,
    /// Randomness of the window.
    pub randomness: WindowRandomness,
    /// Randomness that chooses the groups.
    pub challenge: ValidationChallenge,
    /// The checkpoint for the window.
    pub checkpoint: Arc<LoadedCheckpoint>,
    /// Most groups of a file that are recomputed.
    pub groups_checked_max: u32,
}

/// What came of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Groups in the file; 0 if it could not be read.
    pub groups: u32,
    /// Rollouts in the file; 0 if it could not be read.
    pub rollouts: u32,
    /// Rollouts decided on.
    pub checked: u32,
    /// Rollouts that passed.
    pub accepted: u32,
    /// Rollouts that our own failure left undecided.
    pub unverified: u32,
    /// The violation that voids the file.
    pub rejection: Option<Rejection>,
    /// Whether the rejection rests on bytes that no signature vouches for, so that a transfer error
    /// could have caused it.
    pub rests_on_transfer: bool,
    /// Accepted groups, with our own rewards and log-probabilities.
    pub validated: Vec<ValidatedGroup>,
}

impl Judgement {
    /// Returns the mean recomputed reward of the accepted rollouts, 0 without any.
    pub fn reward_mean(&self) -> f64 {
        let rollouts = self.validated.iter().flat_map(|group| &group.rollouts);
        mean(rollouts.map(|rollout| f64::from(rollout.reward)))
    }
}

/// What one group came to.
enum GroupOutcome {
    Accepted(ValidatedGroup),
    Rejected(Rejection),
    /// Our own failure.
    Unverified,
}

/// Returns what the verifier expects of the file of `hotkey`.
pub fn expected(bench: &Bench, hotkey: Hotkey) -> ExpectedContext {
    let info = bench.checkpoint.model.info();
    ExpectedContext {
        header: bench.checkpoint.header(&bench.network, bench.netuid, bench.window, hotkey),
        vocab_size: info.vocab_size,
        eos_token_ids: info.eos_token_ids.clone(),
        sequence_tokens_max: info.max_position_embeddings,
    }
}

/// Judges the bytes found in the bucket of `hotkey`. Blocks.
///
/// # Errors
/// [`ModelError::Stopped`] alone: every other failure of ours is in the judgement.
pub fn judge(
    bench: &Bench,
    hotkey: Hotkey,
    bytes: &[u8],
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<Judgement, ModelError> {
    let file = match check_structure(bytes, &expected(bench, hotkey)) {
        Ok(file) => file,
        Err(rejection) => return Ok(refused(bench, bytes, rejection)),
    };
    let groups = count(file.groups().len());
    let chosen = choose_groups(bench.challenge, hotkey, groups, bench.groups_checked_max);
    let chosen: Vec<&Group> = chosen
        .into_iter()
        .filter_map(|index| file.groups().get(usize::try_from(index).ok()?))
        .collect();
    let rollouts = count(file.n_rollouts());
    let checked = count(chosen.len()).saturating_mul(ROLLOUTS_PER_GROUP);
    let prompts = prompts(bench, hotkey, &chosen);
    // All prompts before any forward pass: cheaper, and a copied file shows as what it is.
    for (group, prompt) in chosen.iter().zip(&prompts) {
        if let Some(Verdict::Rejected(rejection)) =
            prompt.as_ref().map(|it| check_prompt(group, it))
        {
            return Ok(void(groups, rollouts, checked, rejection));
        }
    }
    let mut judgement = Judgement { groups, rollouts, ..Judgement::default() };
    for (group, prompt) in chosen.into_iter().zip(prompts) {
        let outcome = match prompt {
            Some(prompt) => judge_group(bench, file.header(), group, prompt, stop)?,
            None => GroupOutcome::Unverified,
        };
        heartbeat.beat();
        match outcome {
            GroupOutcome::Accepted(validated) => {
                judgement.accepted += ROLLOUTS_PER_GROUP;
                judgement.validated.push(validated);
            }
            GroupOutcome::Unverified => judgement.unverified += ROLLOUTS_PER_GROUP,
            GroupOutcome::Rejected(rejection) => {
                return Ok(void(groups, rollouts, checked, rejection));
            }
        }
    }
    judgement.checked = judgement.accepted;
    Ok(judgement)
}

/// The judgement on a file that did not get as far as its groups.
fn refused(bench: &Bench, bytes: &[u8], rejection: Rejection) -> Judgement {
    let file = RolloutFile::decode(bytes).ok();
    let groups = file.map(|file| file.groups).unwrap_or_default();
    let rollouts = groups.iter().map(|group| group.rollouts.len()).sum::<usize>();
    let checked =
        groups.iter().take(usize::try_from(bench.groups_checked_max).unwrap_or(usize::MAX));
    let checked = checked.map(|group| group.rollouts.len()).sum::<usize>();
    // Past the signature the content is the miner's beyond doubt.
    let rests_on_transfer = matches!(
        rejection,
        Rejection::Malformed(_) | Rejection::HeaderMismatch { .. } | Rejection::Unsigned(_)
    );
    let judgement = void(count(groups.len()), count(rollouts), count(checked), rejection);
    Judgement { rests_on_transfer, ..judgement }
}

/// One violation voids every rollout that was chosen: one signature covers them all.
fn void(groups: u32, rollouts: u32, checked: u32, rejection: Rejection) -> Judgement {
    Judgement { groups, rollouts, checked, rejection: Some(rejection), ..Judgement::default() }
}

/// Returns the right prompt of each group; nothing where we cannot render it.
fn prompts(bench: &Bench, hotkey: Hotkey, groups: &[&Group]) -> Vec<Option<Vec<TokenId>>> {
    let LoadedCheckpoint { model, environment, .. } = &*bench.checkpoint;
    let render = |group: &&Group| {
        let seed = task_seed(bench.randomness, hotkey, group.index);
        model
            .render(&environment.prompt(seed))
            .inspect_err(
                |error| warn!(%hotkey, group = group.index, %error, "no prompt to compare"),
            )
            .ok()
    };
    groups.iter().map(render).collect()
}

fn judge_group(
    bench: &Bench,
    header: &FileHeader,
    group: &Group,
    prompt: Vec<TokenId>,
    stop: &StopFlag,
) -> Result<GroupOutcome, ModelError> {
    let model = &bench.checkpoint.model;
    let seed = task_seed(bench.randomness, header.hotkey, group.index);
    let unverified = |error: &dyn std::fmt::Display| {
        warn!(hotkey = %header.hotkey, group = group.index, %error, "left a group unverified");
        GroupOutcome::Unverified
    };
    let scores = match model.score(&score_requests(bench, header, group), stop) {
        Ok(scores) => scores,
        Err(ModelError::Stopped) => return Err(ModelError::Stopped),
        Err(error) => return Ok(unverified(&error)),
    };
    let evaluations = match evaluate(bench, seed, group) {
        Ok(evaluations) => Some(evaluations),
        Err(reason) => {
            unverified(&reason);
            None
        }
    };
    Ok(match decide(header.hotkey, group, prompt, scores, evaluations) {
        Ok(outcome) => outcome,
        Err(error) => unverified(&error),
    })
}

fn score_requests(bench: &Bench, header: &FileHeader, group: &Group) -> Vec<ScoreRequest> {
    let race = |rollout| RaceCheck {
        key: header.race_key(bench.randomness, group.index, rollout).0,
        temperature: header.sampler.temperature,
    };
    (0u32..)
        .zip(&group.rollouts)
        .map(|(index, rollout)| ScoreRequest {
            tokens: [group.prompt.as_slice(), &rollout.tokens].concat(),
            prompt_len: group.prompt.len(),
            race: Some(race(index)),
            entropy: false,
            whitening: None,
            rows: false,
        })
        .collect()
}

/// Returns what every answer is worth, or why our environment cannot say.
fn evaluate(bench: &Bench, seed: u64, group: &Group) -> Result<Vec<EvaluationFacts>, String> {
    let LoadedCheckpoint { model, environment, .. } = &*bench.checkpoint;
    let one = |tokens: &[TokenId]| {
        let text = model.decode(tokens).map_err(|error| error.to_string())?;
        let worth = environment.evaluate(seed, &text).map_err(|error| error.to_string())?;
        Ok(EvaluationFacts { reward: worth.reward, success: worth.success })
    };
    group.rollouts.iter().map(|rollout| one(&rollout.tokens)).collect()
}

fn decide(
    hotkey: Hotkey,
    group: &Group,
    prompt: Vec<TokenId>,
    scores: Vec<Score>,
    evaluations: Option<Vec<EvaluationFacts>>,
) -> Result<GroupOutcome, UnusableFacts> {
    let (logprobs, facts): (Vec<Vec<f32>>, Vec<ScoreFacts>) =
        scores.into_iter().map(split_score).unzip();
    let Some(evaluations) = evaluations else {
        return decide_without_rewards(group, &facts);
    };
    let rollouts = facts.into_iter().zip(evaluations.iter().copied());
    let rollouts = rollouts.map(|(score, evaluation)| RolloutFacts { score, evaluation }).collect();
    let facts = GroupFacts { prompt, rollouts };
    if let Verdict::Rejected(rejection) = check_group(group, &facts)? {
        return Ok(GroupOutcome::Rejected(rejection));
    }
    // A trainer could not use these; the tokens were sampled honestly all the same.
    let usable = |(rollout, logprobs): (&Rollout, &Vec<f32>)| {
        rollout.tokens.len() == logprobs.len() && logprobs.iter().all(|lp| lp.is_finite())
    };
    if !group.rollouts.iter().zip(&logprobs).all(usable) {
        warn!(%hotkey, group = group.index, "our log-probabilities are not usable");
        return Ok(GroupOutcome::Unverified);
    }
    Ok(GroupOutcome::Accepted(ValidatedGroup {
        hotkey,
        index: group.index,
        prompt: facts.prompt,
        rollouts: group
            .rollouts
            .iter()
            .zip(logprobs)
            .zip(evaluations)
            .map(|((rollout, logprobs), worth)| ValidatedRollout {
                tokens: rollout.tokens.clone(),
                logprobs,
                reward: worth.reward,
                success: worth.success,
            })
            .collect(),
    }))
}

/// What the model alone can prove still counts when the environment is down.
fn decide_without_rewards(
    group: &Group,
    facts: &[ScoreFacts],
) -> Result<GroupOutcome, UnusableFacts> {
    let rollouts = || (0u32..).zip(group.rollouts.iter().zip(facts));
    for (index, (rollout, facts)) in rollouts() {
        if let Verdict::Rejected(found) = check_hidden_states(group.index, index, rollout, facts) {
            return Ok(GroupOutcome::Rejected(found));
        }
    }
    for (index, (rollout, facts)) in rollouts() {
        if let Verdict::Rejected(found) = check_race(group.index, index, rollout, facts)? {
            return Ok(GroupOutcome::Rejected(found));
        }
    }
    Ok(GroupOutcome::Unverified)
}

fn split_score(score: Score) -> (Vec<f32>, ScoreFacts) {
    let Score { logprobs, winners, margins, hidden_digest, .. } = score;
    (logprobs, ScoreFacts { winners, margins, hidden_digest })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
