//! Settings of a validator.

use grail_protocol::constants::GROUPS_PER_FILE_MAX;

use super::evidence::EvidenceRules;
use super::scoring::ScoringRules;
use super::weights::WeightSchedule;

/// How miners are judged over time. One rule broken voids the file either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgementMode {
    /// By evidence over a whole life, with a bound on false ejections.
    Sequential,
    /// As the reference does: a miner that broke a rule earns nothing while that window is scored,
    /// and is not judged again for [`ValidationConfig::failure_lookback_windows`].
    Reference,
}

/// Settings of a validator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidationConfig {
    /// Most groups of a file that are recomputed, at least 1.
    pub groups_checked_max: u32,
    /// Most miners that are judged in a window, at least 1; those judged least often come first.
    pub miners_checked_max: u32,
    /// How miners are judged over time.
    pub judgement: JudgementMode,
    /// How evidence becomes an ejection; [`JudgementMode::Sequential`] alone.
    pub evidence: EvidenceRules,
    /// A miner that broke a rule is not judged again for this many windows; 0 judges it at once.
    /// [`JudgementMode::Reference`] alone.
    pub failure_lookback_windows: u32,
    /// Files that are looked for at the same time, at least 1.
    pub lookups_at_once: usize,
    /// Tries to settle what fails on our side before a window is closed without it, at least 1.
    pub attempts_max: u32,
    /// Windows that are made up for after a pause, at least 1 (the newest alone).
    pub catch_up_windows: u32,
    /// When weights are set.
    pub schedule: WeightSchedule,
    /// How histories become weights; [`ValidationConfig::judgement`] decides about failures.
    pub scoring: ScoringRules,
    /// Most windows between a checkpoint and the one that a calibration was measured on.
    pub calibration_age_windows: u32,
    /// Version key of the weights; the chain refuses one below the subnet's.
    pub version_key: u64,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            groups_checked_max: 4,
            miners_checked_max: 35,
            judgement: JudgementMode::Sequential,
            evidence: EvidenceRules::default(),
            failure_lookback_windows: 14,
            lookups_at_once: 8,
            attempts_max: 3,
            catch_up_windows: 3,
            schedule: WeightSchedule::default(),
            scoring: ScoringRules::default(),
            calibration_age_windows: 2400,
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
        self.scoring.complaint().or_else(|| self.evidence.complaint())
    }

    /// Returns how histories become weights in this mode.
    pub fn scoring_rules(&self) -> ScoringRules {
        let failure_zeroes = self.judgement == JudgementMode::Reference;
        ScoringRules { failure_zeroes, ..self.scoring }
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
