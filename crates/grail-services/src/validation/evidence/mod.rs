//! Judges a miner by all that was ever checked of it, with a bound on how often that errs.

use grail_protocol::ids::Window;
use serde::{Deserialize, Serialize};

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
