//! What a validator says in public about a miner's window.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::constants::VERDICT_BYTES_MAX;
use crate::ids::{Digest, Hotkey, TokenId, Window};

/// Version of the schema; readers refuse others.
///
/// Version 1 had neither profiles nor checks, and said nothing of the miner's standing.
pub const VERDICT_VERSION: u32 = 2;

/// The verdict on one miner in one window: `grail/verdicts/{window}/{hotkey}.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictRecord {
    /// [`VERDICT_VERSION`].
    pub version: u32,
    /// The window.
    pub window: Window,
    /// The miner.
    pub hotkey: Hotkey,
    /// The validator.
    pub validator: Hotkey,
    /// Groups in the file; 0 if it could not be read.
    pub groups: u32,
    /// Rollouts in the file; 0 if it could not be read.
    pub rollouts: u32,
    /// Rollouts that were decided on.
    pub checked: u32,
    /// Rollouts that passed.
    pub accepted: u32,
    /// Rollouts that failed, by [`Rejection::code`](crate::verifier::Rejection::code). One violation
    /// voids every rollout that was checked.
    pub rejected: BTreeMap<String, u32>,
    /// Rollouts that the validator did not decide on: by its own fault, or for want of a calibration
    /// of the miner's engine; never held against the miner.
    pub unverified: u32,
    /// The violation in words, with its evidence.
    pub evidence: Option<String>,
    /// The token behind the violation, where it is about races.
    pub race: Option<RaceEvidence>,
    /// The rules that the file was judged by: `exact`, `tolerant` or `shadow`.
    pub profile: String,
    /// Digest of the calibration that the tolerant profile judged by.
    pub calibration: Option<Digest>,
    /// Every check by name, over the rollouts that were examined, decided on or not.
    pub checks: BTreeMap<String, CheckTally>,
    /// What all of the miner's windows add up to; absent where the validator keeps no such record.
    pub standing: Option<Standing>,
}

/// A token that lost its race.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaceEvidence {
    /// Position in the completion, 0-based.
    pub position: usize,
    /// Token in the file.
    pub claimed: TokenId,
    /// Token that wins under the validator's logits.
    pub winner: TokenId,
    /// How much worse the claimed token is, nats.
    pub margin: f32,
}

/// What a check came to over many rollouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckTally {
    /// Rollouts that passed.
    pub passed: u32,
    /// Rollouts that failed.
    pub failed: u32,
    /// Rollouts that were measured without a rule to judge them by.
    pub shadow: u32,
    /// Rollouts that the validator could not decide on.
    pub unverified: u32,
    /// Mean of the number that decides, where there is one.
    pub mean: Option<f64>,
    /// Largest of those numbers.
    pub largest: Option<f64>,
    /// Largest number that passes, the greatest where it depends on the rollout.
    pub threshold: Option<f64>,
}

/// What came of a check of one rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tallied {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It was measured alone.
    Shadow,
    /// Nobody knows.
    Unverified,
}

impl CheckTally {
    /// Adds what a check came to on one rollout.
    pub fn add(&mut self, outcome: Tallied, measured: Option<f64>, threshold: Option<f64>) {
        let before = f64::from(self.passed) + f64::from(self.failed) + f64::from(self.shadow);
        let counter = match outcome {
            Tallied::Passed => &mut self.passed,
            Tallied::Failed => &mut self.failed,
            Tallied::Shadow => &mut self.shadow,
            Tallied::Unverified => &mut self.unverified,
        };
        *counter = counter.saturating_add(1);
        if let Some(measured) = measured {
            let mean = self.mean.unwrap_or(0.0);
            self.mean = Some(mean + (measured - mean) / (before + 1.0));
        }
        let greater = |old: Option<f64>, new: Option<f64>| match (old, new) {
            (Some(old), Some(new)) => Some(old.max(new)),
            (old, new) => new.or(old),
        };
        self.largest = greater(self.largest, measured);
        self.threshold = greater(self.threshold, threshold);
    }
}

/// What a validator makes of a miner over all windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Evidence against the miner, log10: honest miners reach `x` with a chance of `10^-x` at most,
    /// in all their life.
    pub wealth_log10: f64,
    /// Evidence at which the miner is ejected, log10.
    pub bound_log10: f64,
    /// First window in which an ejected miner is judged again.
    pub ejected_until: Option<Window>,
    /// Ejections that the miner has come back from.
    pub life: u32,
}

/// Why a verdict cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerdictError {
    /// More bytes than a verdict ever has.
    #[error("the verdict has {0} bytes, more than the {VERDICT_BYTES_MAX} allowed")]
    TooLarge(u64),
    /// Not this kind of JSON.
    #[error("the verdict cannot be read: {0}; ask the validator's operator")]
    Malformed(String),
    /// Written by another version.
    #[error("the verdict has version {0}, this program reads {VERDICT_VERSION}; update it")]
    WrongVersion(u32),
    /// The numbers do not add up.
    #[error("{accepted} accepted and {rejected} rejected rollouts are not the {checked} checked")]
    Inconsistent {
        /// Rollouts that passed.
        accepted: u32,
        /// Rollouts that failed, all reasons together.
        rejected: u64,
        /// Rollouts that were decided on.
        checked: u32,
    },
}

impl VerdictRecord {
    /// Returns the JSON text, indented for people.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("text keys and numbers are always JSON")
    }

    /// Reads a verdict.
    ///
    /// # Errors
    /// When it is too large, no verdict of this version, or its numbers do not add up.
    pub fn from_json(bytes: &[u8]) -> Result<Self, VerdictError> {
        /// The one field that every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }

        match bytes.len() as u64 {
            size if size > VERDICT_BYTES_MAX => return Err(VerdictError::TooLarge(size)),
            _ => {}
        }
        let malformed = |error: serde_json::Error| VerdictError::Malformed(error.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERDICT_VERSION {
            return Err(VerdictError::WrongVersion(version));
        }
        let verdict: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        verdict.check_sums()?;
        Ok(verdict)
    }

    fn check_sums(&self) -> Result<(), VerdictError> {
        let rejected: u64 = self.rejected.values().map(|&count| u64::from(count)).sum();
        if u64::from(self.accepted) + rejected == u64::from(self.checked) {
            return Ok(());
        }
        let Self { accepted, checked, .. } = *self;
        Err(VerdictError::Inconsistent { accepted, rejected, checked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> CheckTally {
        let mut tally = CheckTally::default();
        tally.add(Tallied::Passed, Some(1.0), Some(6.0));
        tally.add(Tallied::Failed, Some(7.5), Some(6.5));
        tally.add(Tallied::Unverified, None, None);
        tally.add(Tallied::Shadow, Some(0.5), None);
        tally
    }

    #[test]
    fn a_tally_keeps_counts_mean_and_extremes() {
        assert_eq!(
            tally(),
            CheckTally {
                passed: 1,
                failed: 1,
                shadow: 1,
                unverified: 1,
                mean: Some(3.0),
                largest: Some(7.5),
                threshold: Some(6.5),
            }
        );
        let mut silent = CheckTally::default();
        silent.add(Tallied::Passed, None, None);
        assert_eq!((silent.mean, silent.largest, silent.threshold), (None, None, None));
    }

    fn verdict() -> VerdictRecord {
        VerdictRecord {
            version: VERDICT_VERSION,
            window: Window::from_start(90).unwrap(),
            hotkey: Hotkey([1; 32]),
            validator: Hotkey([2; 32]),
            groups: 4,
            rollouts: 64,
            checked: 32,
            accepted: 0,
            rejected: [("race_lost".to_owned(), 32)].into(),
            unverified: 0,
            evidence: Some("group 0, rollout 3: …".to_owned()),
            race: Some(RaceEvidence { position: 4, claimed: 7, winner: 9, margin: 0.1 }),
            profile: "tolerant".to_owned(),
            calibration: Some(Digest([3; 32])),
            checks: [("margin_sum".to_owned(), tally())].into(),
            standing: Some(Standing {
                wealth_log10: -0.25,
                bound_log10: 6.0,
                ejected_until: None,
                life: 0,
            }),
        }
    }

    #[test]
    fn a_verdict_round_trips() {
        let json = verdict().to_json();
        assert_eq!(VerdictRecord::from_json(json.as_bytes()), Ok(verdict()));
        assert!(json.starts_with("{\n  \"version\": 2,\n  \"window\": 90,\n  \"hotkey\": \"5"));
    }

    #[test]
    fn a_strange_verdict_is_refused() {
        let json = verdict().to_json();
        let reads =
            |from: &str, to: &str| VerdictRecord::from_json(json.replace(from, to).as_bytes());
        assert_eq!(reads("\"version\": 2", "\"version\": 1"), Err(VerdictError::WrongVersion(1)));
        assert_eq!(
            reads("\"accepted\": 0", "\"accepted\": 1"),
            Err(VerdictError::Inconsistent { accepted: 1, rejected: 32, checked: 32 })
        );
        for (from, to) in [
            ("\"window\": 90", "\"window\": 91"),
            ("\"hotkey\": \"5", "\"hotkey\": \"4"),
            ("\"groups\"", "\"gruppen\""),
            ("}", ""),
            ("\"checked\": 32", "\"checked\": -1"),
        ] {
            assert!(matches!(reads(from, to), Err(VerdictError::Malformed(_))), "{from} {to}");
        }
        let huge = vec![b' '; 1 << 21];
        assert_eq!(VerdictRecord::from_json(&huge), Err(VerdictError::TooLarge(1 << 21)));
    }
}
