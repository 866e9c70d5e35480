//! Judges a miner by all that was ever checked of it, with a bound on how often that errs.
//!
//! [`wealth`] turns windows into evidence and says why it may be trusted, [`ledger`] turns evidence
//! into ejections and new lives, [`simulate`] measures both.

pub mod ledger;
pub mod simulate;
pub mod wealth;

use grail_protocol::ids::Window;
use serde::{Deserialize, Serialize};

pub use self::ledger::Ledger;

/// Shares of honest rollouts that lie beyond the tail thresholds of a calibration, largest first.
///
/// A rollout beyond the threshold of a level also lies beyond those of the levels before.
pub const TAIL_LEVELS: [f64; 3] = grail_protocol::calibration::TAIL_LEVELS;

/// What a checked group of the tolerant profile says; an exact group has no tails and no entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEvidence {
    /// Rollouts that were decided on; a group without any says nothing.
    pub rollouts: u32,
    /// How many of them lie beyond the threshold of each of [`TAIL_LEVELS`].
    pub tail_hits: [u32; TAIL_LEVELS.len()],
}

/// What one window says about one miner. What could not be verified is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowEvidence {
    /// The window.
    pub window: Window,
    /// The checked groups of the tolerant profile, in any order.
    pub groups: Vec<GroupEvidence>,
    /// Broken rules that leave no room for chance, in what the miner's signature vouches for: a
    /// wrong prompt, reward, structure, and in the exact profile a lost race or another hidden
    /// state. A statistic of the tolerant profile that is too large is no violation; its rollout
    /// hits the tails.
    pub violations: u32,
    /// Rollouts that were decided on, of either profile.
    pub rollouts: u32,
}

/// How the evidence against a miner stands, for verdicts and screens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceSummary {
    /// Evidence against the miner, log10: 0 at the start of a life, 6 when its like is seen of at
    /// most one honest miner in a million.
    pub wealth_log10: f64,
    /// Evidence at which the miner is ejected, log10.
    pub bound_log10: f64,
    /// First window in which an ejected miner is judged again.
    pub ejected_until: Option<Window>,
    /// Ejections that the miner has come back from.
    pub life: u32,
}

/// How evidence becomes an ejection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvidenceRules {
    /// Largest probability that an honest miner is ever ejected, above 0, below 1.
    pub bound: f64,
    /// Windows that an ejection lasts, at least 1.
    pub ejection_windows: u32,
    /// Whether files of ejected miners are checked and explained all the same. They earn nothing
    /// and are no evidence.
    pub judge_ejected: bool,
}

impl Default for EvidenceRules {
    /// One honest miner in a million; a day.
    fn default() -> Self {
        Self { bound: 1e-6, ejection_windows: 240, judge_ejected: false }
    }
}

impl EvidenceRules {
    /// Returns why these rules cannot be used, or nothing.
    pub fn complaint(&self) -> Option<String> {
        // Written so that NaN is refused too.
        if !(self.bound > 0.0 && self.bound < 1.0) {
            return Some(format!(
                "the ejection bound is {}; it must lie between 0 and 1",
                self.bound
            ));
        }
        (self.ejection_windows == 0).then(|| "ejection_windows must be at least 1".to_owned())
    }

    /// Returns the wealth at which life `life` (from 0) ends, nats.
    pub fn log_bound(&self, life: u32) -> f64 {
        (f64::from(life) + 1.0) * std::f64::consts::LN_2 - self.bound.ln()
    }
}
