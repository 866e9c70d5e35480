//! Collects the checks of one rollout in the order in which they decide.

use grail_protocol::rollout::Rollout;
use grail_protocol::verifier::{EvaluationFacts, Rejection, UnusableFacts, Verdict, check_reward};

use super::report::{CheckOutcome, CheckReport, checks};

/// The rollout that is looked at.
pub struct Subject<'a> {
    /// Its group.
    pub group: u32,
    /// Its index there.
    pub index: u32,
    /// What its miner sent.
    pub rollout: &'a Rollout,
}

/// A number that decides, and the largest that passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// The number.
    pub measured: Option<f64>,
    /// The largest that passes.
    pub threshold: Option<f64>,
}

impl Numbers {
    /// Returns a number with the largest that passes.
    pub fn limited(measured: f64, threshold: f64) -> Self {
        Self { measured: Some(measured), threshold: Some(threshold) }
    }

    /// Returns a number without a limit.
    pub fn measured(measured: f64) -> Self {
        Self { measured: Some(measured), threshold: None }
    }
}

/// Checks that ran, in order, with the first violation.
#[derive(Default)]
pub struct Findings {
    /// The checks.
    pub checks: Vec<CheckReport>,
    /// The first violation, unless an earlier check is undecided.
    pub rejection: Option<Rejection>,
}

impl Findings {
    /// Adds a check whose verdict decides; `passed` says what was found where it holds.
    pub fn decide(
        &mut self,
        check: &'static str,
        numbers: Numbers,
        verdict: Result<Verdict, UnusableFacts>,
        passed: String,
    ) {
        let rejection = match verdict {
            Ok(Verdict::Accepted) => {
                return self.push(check, CheckOutcome::Passed, numbers, passed);
            }
            Ok(Verdict::Rejected(rejection)) => rejection,
            Err(error) => return self.unverified(check, error.to_string()),
        };
        let is_decided = self.checks.iter().all(|it| it.outcome != CheckOutcome::Unverified);
        self.push(check, CheckOutcome::Failed, numbers, rejection.to_string());
        // After a check that we could not decide, nothing is the first violation.
        if is_decided && self.rejection.is_none() {
            self.rejection = Some(rejection);
        }
    }

    /// Adds a check that has no rule to be measured by.
    pub fn shadow(&mut self, check: &'static str, measured: f64, detail: String) {
        self.push(check, CheckOutcome::Shadow, Numbers::measured(measured), detail);
    }

    /// Adds a check that we could not decide.
    pub fn unverified(&mut self, check: &'static str, detail: String) {
        self.push(check, CheckOutcome::Unverified, Numbers::default(), detail);
    }

    /// Adds the checks that end every profile: the reward, and whether a trainer can use the group.
    pub fn judge_worth(
        &mut self,
        subject: &Subject<'_>,
        worth: Result<EvaluationFacts, &str>,
        logprobs: &[f32],
    ) {
        let Subject { group, index, rollout } = *subject;
        match worth {
            Ok(worth) => self.decide(
                checks::REWARD,
                Numbers::measured(worth.reward.into()),
                check_reward(group, index, rollout, worth),
                format!("reward {} (success {}), as claimed", worth.reward, worth.success),
            ),
            Err(reason) => self.unverified(checks::REWARD, reason.to_owned()),
        }
        let is_usable =
            logprobs.len() == rollout.tokens.len() && logprobs.iter().all(|lp| lp.is_finite());
        if is_usable {
            let passed = format!("{} log-probabilities of our own", logprobs.len());
            self.push(checks::LOGPROBS, CheckOutcome::Passed, Numbers::default(), passed);
        } else {
            // A trainer could not use these; the tokens were sampled honestly all the same.
            let reason = "our log-probabilities are not usable".to_owned();
            self.unverified(checks::LOGPROBS, reason);
        }
    }

    fn push(
        &mut self,
        check: &'static str,
        outcome: CheckOutcome,
        Numbers { measured, threshold }: Numbers,
        detail: String,
    ) {
        self.checks.push(CheckReport { check, outcome, measured, threshold, detail });
    }
}
