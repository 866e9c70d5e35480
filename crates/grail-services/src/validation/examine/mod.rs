//! Runs every check on a group and keeps every number.
//!
//! The one place that compares a miner's work with our own: judgements fold over the report, and
//! the attack lab and `explain` show it whole. Nothing is cut short here, so that a report says the
//! same of a rollout whatever the others did.

mod file;
mod findings;
mod profile;
mod report;
mod tolerant;

use grail_ports::model::{ModelError, RaceCheck, Score, ScoreRequest, StopFlag};
use grail_protocol::ids::TokenId;
use grail_protocol::randomness::task_seed;
use grail_protocol::rollout::{FileHeader, Group, Proof};
use grail_protocol::verifier::{
    EvaluationFacts, ScoreFacts, check_hidden_states, check_prompt, check_race,
};

use self::findings::{Findings, Numbers, Subject};
use self::tolerant::Numeric;
use super::pipeline::Bench;
use crate::checkpoint::LoadedCheckpoint;

pub use file::{ExaminedGroup, FileReport, check_of, examine_file, file_checks, unchecked_group};
pub use profile::{Profile, profile_of};
pub use report::{
    CheckOutcome, CheckReport, Fault, GroupReport, LostRace, ProfileName, RolloutReport, checks,
};

/// Returns the prompt that a miner must have answered in a group.
///
/// # Errors
/// When the model cannot render it.
pub fn prompt_of(
    bench: &Bench,
    header: &FileHeader,
    group: u32,
) -> Result<Vec<TokenId>, ModelError> {
    let seed = task_seed(bench.randomness, header.hotkey, group);
    bench.checkpoint.model.render(&bench.checkpoint.environment.prompt(seed))
}

/// Runs every check of every rollout of a group. Blocks.
///
/// # Errors
/// When the model failed: nothing can be said about the group, and it is not the miner's fault.
pub fn examine_group(
    bench: &Bench,
    header: &FileHeader,
    group: &Group,
    stop: &StopFlag,
) -> Result<GroupReport, ModelError> {
    let prompt = check_prompt(group, &prompt_of(bench, header, group.index)?).rejection();
    let scores = bench.checkpoint.model.score(&score_requests(bench, header, group), stop)?;
    let (expected, found) = (group.rollouts.len(), scores.len());
    if expected != found {
        let reason = format!("it returned {found} scores for {expected} sequences");
        return Err(ModelError::BadRequest(reason));
    }
    let evaluations = evaluate(bench, header, group);
    let profile = profile_of(bench, header);
    let rollouts = (0u32..).zip(&group.rollouts).zip(scores).enumerate();
    let rollouts = rollouts.map(|(place, ((index, rollout), score))| {
        let worth = evaluations.as_ref().map(|worths| worths[place]).map_err(String::as_str);
        let subject = Subject { group: group.index, index, rollout };
        examine_rollout(&subject, &profile, score, worth)
    });
    Ok(GroupReport {
        group: group.index,
        profile: profile.name(),
        calibration: match &profile {
            Profile::Tolerant(calibration) => Some(calibration.digest()),
            Profile::Exact | Profile::Shadow(_) => None,
        },
        prompt,
        rollouts: rollouts.collect(),
    })
}

fn score_requests(bench: &Bench, header: &FileHeader, group: &Group) -> Vec<ScoreRequest> {
    let race = |rollout| RaceCheck {
        key: header.race_key(bench.randomness, group.index, rollout).0,
        temperature: header.sampler.temperature,
    };
    // An exact engine sends no sketches to compare with.
    let is_exact = Proof::is_exact(&header.numerics);
    let whitening = bench.checkpoint.whitening.as_ref().filter(|_| !is_exact);
    (0u32..)
        .zip(&group.rollouts)
        .map(|(index, rollout)| ScoreRequest {
            tokens: [group.prompt.as_slice(), &rollout.tokens].concat(),
            prompt_len: group.prompt.len(),
            race: Some(race(index)),
            entropy: false,
            whitening: whitening.cloned(),
            rows: false,
        })
        .collect()
}

/// Returns what every answer is worth, or why our environment cannot say: one answer that it fails
/// on casts doubt on what it says of the others.
fn evaluate(
    bench: &Bench,
    header: &FileHeader,
    group: &Group,
) -> Result<Vec<EvaluationFacts>, String> {
    let LoadedCheckpoint { model, environment, .. } = &*bench.checkpoint;
    let seed = task_seed(bench.randomness, header.hotkey, group.index);
    let one = |tokens: &[TokenId]| {
        let text = model.decode(tokens).map_err(|error| error.to_string())?;
        let worth = environment.evaluate(seed, &text).map_err(|error| error.to_string())?;
        Ok(EvaluationFacts { reward: worth.reward, success: worth.success })
    };
    group.rollouts.iter().map(|rollout| one(&rollout.tokens)).collect()
}

fn examine_rollout(
    subject: &Subject<'_>,
    profile: &Profile<'_>,
    score: Score,
    worth: Result<EvaluationFacts, &str>,
) -> RolloutReport {
    let Score { logprobs, winners, margins, hidden_digest, sketches, .. } = score;
    let facts = ScoreFacts { winners, margins, hidden_digest, sketches };
    let mut findings = Findings::default();
    let numeric = match profile {
        Profile::Exact => examine_exactly(subject, &facts, &mut findings),
        Profile::Tolerant(_) | Profile::Shadow(_) => {
            tolerant::examine(subject, &facts, profile, &mut findings)
        }
    };
    findings.judge_worth(subject, worth, &logprobs);
    RolloutReport {
        group: subject.group,
        rollout: subject.index,
        profile: profile.name(),
        tokens: u32::try_from(subject.rollout.tokens.len()).unwrap_or(u32::MAX),
        checks: findings.checks,
        rejection: findings.rejection,
        margins: facts.margins,
        distances: numeric.distances,
        lost: numeric.lost,
        logprobs,
        reward: worth.ok().map(|worth| worth.reward),
        success: worth.ok().map(|worth| worth.success),
        tail_hits: numeric.tail_hits,
    }
}

/// Adds the checks of the exact profile: equal hidden states, no lost race.
fn examine_exactly(subject: &Subject<'_>, facts: &ScoreFacts, findings: &mut Findings) -> Numeric {
    let Subject { group, index, rollout } = *subject;
    findings.decide(
        checks::HIDDEN_STATES,
        Numbers::default(),
        Ok(check_hidden_states(group, index, rollout, facts)),
        format!("hidden states hash to {}", facts.hidden_digest),
    );
    let largest = facts.margins.iter().copied().fold(0.0, f32::max);
    findings.decide(
        checks::RACE,
        Numbers::limited(largest.into(), 0.0),
        check_race(group, index, rollout, facts),
        format!("{} tokens won their races", rollout.tokens.len()),
    );
    let claims = rollout.tokens.iter().zip(&facts.winners);
    let lost = claims.zip(&facts.margins).enumerate().find_map(|(position, (pair, &margin))| {
        let (&claimed, &winner) = pair;
        (claimed != winner).then_some(LostRace { position, claimed, winner, margin })
    });
    Numeric { lost, ..Numeric::default() }
}
