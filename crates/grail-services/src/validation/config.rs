//! Settings of a validator.

use grail_protocol::constants::GROUPS_PER_FILE_MAX;

use super::scoring::ScoringRules;
use super::weights::WeightSchedule;

/// Settings of a validator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidationConfig {
    /// Most groups of a file that are recomputed, at least 1.
    pub groups_checked_max: u32,
    /// Most miners that are judged in a window, at least 1; those judged least often come first.
    pub miners_checked_max: u32,
    /// A miner that broke a rule is not judged again for this many windows; 0 judges it at once.
    /// It earns nothing while the failure lies in the scored windows.
    pub failure_lookback_windows: u32,
    /// Files that are looked for at the same time, at least 1.
    pub lookups_at_once: usize,
    /// Tries to settle what fails on our side before a window is closed without it, at least 1.
    pub attempts_max: u32,
    /// Windows that are made up for after a pause, at least 1 (the newest alone).
    pub catch_up_windows: u32,
    /// When weights are set.
    pub schedule: WeightSchedule,
    /// How histories become weights.
    pub scoring: ScoringRules,
    /// Version key of the weights; the chain refuses one below the subnet's.
    pub version_key: u64,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            groups_checked_max: 4,
            miners_checked_max: 35,
            failure_lookback_windows: 14,
            lookups_at_once: 8,
            attempts_max: 3,
            catch_up_windows: 3,
            schedule: WeightSchedule::default(),
            scoring: ScoringRules::default(),
            version_key: 6,
        }
    }
}

impl ValidationConfig {
    /// Returns why these settings cannot be used, or nothing.
    pub fn complaint(&self) -> Option<String> {
        if !(1..=GROUPS_PER_FILE_MAX).contains(&self.groups_checked_max) {
            return Some(format!("groups_checked_max must be 1 to {GROUPS_PER_FILE_MAX}"));
        }
        let counts = [self.miners_checked_max, self.attempts_max, self.catch_up_windows];
        if counts.contains(&0) || self.lookups_at_once == 0 || self.schedule.interval_blocks == 0 {
            return Some(
                "miners_checked_max, lookups_at_once, attempts_max, catch_up_windows and \
                 interval_blocks must be at least 1"
                    .to_owned(),
            );
        }
        self.scoring.complaint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_are_usable() {
        assert_eq!(ValidationConfig::default().complaint(), None);
        let broken = ValidationConfig { attempts_max: 0, ..ValidationConfig::default() };
        assert!(broken.complaint().is_some());
    }
}
