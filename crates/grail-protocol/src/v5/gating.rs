//! Adds up the results of a file's rollouts, and stops at the first hard or one soft too many.

use std::collections::BTreeMap;

use super::constants::{DISTRIBUTION_SOFT_THRESHOLD, REWARD_SOFT_THRESHOLD};
use super::verify::soft_cutoff;

/// Hard checks, in the order of their blame.
pub const HARD_CHECKS: [&str; 7] = [
    "schema_valid",
    "tokens_valid",
    "env_prompt_valid",
    "proof_valid",
    "termination_valid",
    "env_eval_valid",
    "logprobs_valid",
];

/// Soft checks with the share of rollouts that may fail them.
pub const SOFT_CHECKS: [(&str, f64); 2] = [
    ("reward_valid", REWARD_SOFT_THRESHOLD),
    ("token_distribution_valid", DISTRIBUTION_SOFT_THRESHOLD),
];

/// Why a file counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A rollout failed this check.
    Hard(&'static str),
    /// Too many rollouts failed this one.
    Soft(&'static str),
}

impl Stop {
    /// Returns the reference's text of the reason.
    pub fn reason(self) -> String {
        match self {
            Self::Hard(check) => format!("hard:{check}"),
            Self::Soft(check) => format!("soft:{check}"),
        }
    }
}

/// The state of one miner's file while its rollouts are checked.
#[derive(Clone, Debug)]
pub struct FileGate {
    planned: usize,
    soft_failures: BTreeMap<&'static str, usize>,
}

impl FileGate {
    /// Starts a file of which `planned` rollouts will be checked.
    pub fn new(planned: usize) -> Self {
        Self { planned, soft_failures: BTreeMap::new() }
    }

    /// Takes the results of the next rollout; checks that did not run have none.
    ///
    /// A hard check without a result failed; the pipeline ended before it.
    pub fn take(&mut self, results: &BTreeMap<String, bool>) -> Option<Stop> {
        let failed = HARD_CHECKS.iter().find(|check| results.get(**check) != Some(&true));
        if let Some(check) = failed {
            return Some(Stop::Hard(check));
        }
        for (check, threshold) in SOFT_CHECKS {
            if results.get(check) == Some(&false) {
                let failures = self.soft_failures.entry(check).or_default();
                *failures += 1;
                if *failures >= soft_cutoff(threshold, self.planned) {
                    return Some(Stop::Soft(check));
                }
            }
        }
        None
    }

    /// Returns how many rollouts failed each soft check so far.
    pub fn soft_failures(&self) -> &BTreeMap<&'static str, usize> {
        &self.soft_failures
    }
}
