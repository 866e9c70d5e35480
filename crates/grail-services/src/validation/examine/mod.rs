//! Runs every check on a group and keeps every number.
//!
//! The one place that compares a miner's work with our own: judgements fold over the report, and
//! the attack lab and `explain` show it whole. Nothing is cut short here, so that a report says the
//! same of a rollout whatever the others did.

mod report;

use grail_ports::model::{ModelError, RaceCheck, Score, ScoreRequest, StopFlag};
use grail_protocol::calibration::TAIL_LEVELS;
use grail_protocol::ids::TokenId;
use grail_protocol::randomness::task_seed;
use grail_protocol::rollout::{FileHeader, Group, Rollout};
use grail_protocol::verifier::{
    EvaluationFacts, Rejection, ScoreFacts, UnusableFacts, Verdict, check_hidden_states,
    check_prompt, check_race, check_reward,
};

use super::pipeline::Bench;
use crate::checkpoint::LoadedCheckpoint;

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
    let rollouts = (0u32..).zip(&group.rollouts).zip(scores).enumerate();
    let rollouts = rollouts.map(|(place, ((index, rollout), score))| {
        let worth = evaluations.as_ref().map(|worths| worths[place]);
        let subject = Subject { group: group.index, index, rollout };
        examine_exact(&subject, score, worth.map_err(String::as_str))
    });
    Ok(GroupReport { group: group.index, prompt, rollouts: rollouts.collect() })
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

/// The rollout that is looked at.
struct Subject<'a> {
    group: u32,
    index: u32,
    rollout: &'a Rollout,
}

/// Checks that ran, in order, with the first violation.
#[derive(Default)]
struct Findings {
    checks: Vec<CheckReport>,
    rejection: Option<Rejection>,
}

impl Findings {
    /// Adds a check whose verdict decides.
    fn add(
        &mut self,
        check: &'static str,
        (measured, threshold): (Option<f64>, Option<f64>),
        verdict: Result<Verdict, UnusableFacts>,
        passed: String,
    ) {
        let is_decided = self.checks.iter().all(|it| it.outcome != CheckOutcome::Unverified);
        let (outcome, detail) = match verdict {
            Ok(Verdict::Accepted) => (CheckOutcome::Passed, passed),
            Ok(Verdict::Rejected(rejection)) => {
                let detail = rejection.to_string();
                // After a check that we could not decide, nothing is the first violation.
                if is_decided && self.rejection.is_none() {
                    self.rejection = Some(rejection);
                }
                (CheckOutcome::Failed, detail)
            }
            Err(error) => (CheckOutcome::Unverified, error.to_string()),
        };
        self.checks.push(CheckReport { check, outcome, measured, threshold, detail });
    }

    /// Adds the checks that end every profile: the reward, and whether a trainer can use the group.
    fn add_worth(
        &mut self,
        subject: &Subject<'_>,
        worth: Result<EvaluationFacts, &str>,
        logprobs: &[f32],
    ) {
        let Subject { group, index, rollout } = *subject;
        match worth {
            Ok(worth) => self.add(
                checks::REWARD,
                (Some(worth.reward.into()), None),
                check_reward(group, index, rollout, worth),
                format!("reward {} (success {}), as claimed", worth.reward, worth.success),
            ),
            Err(reason) => self.unverified(checks::REWARD, reason.to_owned()),
        }
        let is_usable =
            logprobs.len() == rollout.tokens.len() && logprobs.iter().all(|lp| lp.is_finite());
        if is_usable {
            let count = logprobs.len();
            let passed = format!("{count} log-probabilities of our own");
            self.add(checks::LOGPROBS, (None, None), Ok(Verdict::Accepted), passed);
        } else {
            // A trainer could not use these; the tokens were sampled honestly all the same.
            let reason = "our log-probabilities are not usable".to_owned();
            self.unverified(checks::LOGPROBS, reason);
        }
    }

    fn unverified(&mut self, check: &'static str, detail: String) {
        let outcome = CheckOutcome::Unverified;
        self.checks.push(CheckReport { check, outcome, measured: None, threshold: None, detail });
    }
}

fn examine_exact(
    subject: &Subject<'_>,
    score: Score,
    worth: Result<EvaluationFacts, &str>,
) -> RolloutReport {
    let Subject { group, index, rollout } = *subject;
    let Score { logprobs, winners, margins, hidden_digest, .. } = score;
    let facts = ScoreFacts { winners, margins, hidden_digest };
    let mut findings = Findings::default();
    findings.add(
        checks::HIDDEN_STATES,
        (None, None),
        Ok(check_hidden_states(group, index, rollout, &facts)),
        format!("hidden states hash to {}", facts.hidden_digest),
    );
    findings.add(
        checks::RACE,
        (largest(&facts.margins), Some(0.0)),
        check_race(group, index, rollout, &facts),
        format!("{} tokens won their races", rollout.tokens.len()),
    );
    findings.add_worth(subject, worth, &logprobs);
    let claims = rollout.tokens.iter().zip(&facts.winners);
    let lost = claims.zip(&facts.margins).enumerate().find_map(|(position, (pair, &margin))| {
        let (&claimed, &winner) = pair;
        (claimed != winner).then_some(LostRace { position, claimed, winner, margin })
    });
    RolloutReport {
        group,
        rollout: index,
        profile: ProfileName::Exact,
        tokens: u32::try_from(rollout.tokens.len()).unwrap_or(u32::MAX),
        checks: findings.checks,
        rejection: findings.rejection,
        margins: facts.margins,
        distances: Vec::new(),
        lost,
        logprobs,
        reward: worth.ok().map(|worth| worth.reward),
        success: worth.ok().map(|worth| worth.success),
        tail_hits: [false; TAIL_LEVELS.len()],
    }
}

/// Returns the largest of `margins`.
fn largest(margins: &[f32]) -> Option<f64> {
    margins.iter().copied().reduce(f32::max).map(f64::from)
}
