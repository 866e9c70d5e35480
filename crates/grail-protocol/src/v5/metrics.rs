//! What a validator stores about a miner's file of one window; weights are made of it.

use std::collections::{BTreeMap, BTreeSet};

/// Counts of one miner and window. The estimates extend the checked sample to the whole file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowMetrics {
    /// Checked rollouts that passed.
    pub valid: u64,
    /// Rollouts looked at.
    pub checked: u64,
    /// Rollouts of the file.
    pub total: u64,
    /// `valid`, extended to the file.
    pub estimated_valid: u64,
    /// Passed rollouts that claim success.
    pub successful: u64,
    /// `successful`, extended to the file.
    pub estimated_successful: u64,
    /// Different completions among those that passed.
    pub unique: u64,
    /// `unique`, extended to the file.
    pub estimated_unique: u64,
    /// Checked rollouts whose prompt is the environment's.
    pub prompt_valid: u64,
    /// Checked rollouts with another prompt.
    pub prompt_mismatch: u64,
    /// Whether the miner failed, which excludes it for 14 windows.
    pub had_failure: bool,
}

/// Takes everything that counts from copiers, and marks them as failed. What was checked stays; a
/// copier without metrics in this window gets some, so that its exclusion is renewed.
pub fn gate_copiers(metrics: &mut BTreeMap<String, WindowMetrics>, copiers: &BTreeSet<String>) {
    for copier in copiers {
        let entry = metrics.entry(copier.clone()).or_default();
        *entry = WindowMetrics {
            checked: entry.checked,
            total: entry.total,
            prompt_valid: entry.prompt_valid,
            prompt_mismatch: entry.prompt_mismatch,
            had_failure: true,
            ..WindowMetrics::default()
        };
    }
}
