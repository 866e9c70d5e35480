//! What a validator says in public about a miner's window.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::constants::VERDICT_BYTES_MAX;
use crate::ids::{Hotkey, Window};

/// Version of the schema; readers refuse others.
pub const VERDICT_VERSION: u32 = 1;

/// The verdict on one miner in one window: `grail/verdicts/{window}/{hotkey}.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Rollouts that the validator could not decide on, by its own fault; never held against the
    /// miner.
    pub unverified: u32,
    /// The violation in words, with its evidence.
    pub evidence: Option<String>,
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
        }
    }

    #[test]
    fn a_verdict_round_trips() {
        let json = verdict().to_json();
        assert_eq!(VerdictRecord::from_json(json.as_bytes()), Ok(verdict()));
        assert!(json.starts_with("{\n  \"version\": 1,\n  \"window\": 90,\n  \"hotkey\": \"5"));
    }

    #[test]
    fn a_strange_verdict_is_refused() {
        let json = verdict().to_json();
        let reads =
            |from: &str, to: &str| VerdictRecord::from_json(json.replace(from, to).as_bytes());
        assert_eq!(reads("\"version\": 1", "\"version\": 2"), Err(VerdictError::WrongVersion(2)));
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
