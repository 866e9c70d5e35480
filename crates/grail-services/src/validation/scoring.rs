//! Turns what a validator saw over the last windows into weights.
//!
//! Source: `spec/scoring.md`; equal to the reference on its vectors. Pure: no clock, no chain.

use std::collections::BTreeMap;

use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::{Hotkey, Uid, Window};
use serde::{Deserialize, Serialize};

use crate::math::compensated_sum;

/// How histories become weights. All validators of a subnet should agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoringRules {
    /// Windows that count, up to and including the last one.
    pub windows: u32,
    /// Power of the score: more than 1 makes splitting work over many hotkeys a loss.
    pub exponent: i32,
    /// Most rollouts per miner and window that count.
    pub rollouts_cap: u32,
    /// Who gets the share that nobody earned.
    pub burn_uid: Uid,
    /// Share of the weight that the burn uid gets at least, percent, above 0; 100 at most counts.
    pub burn_percent: f64,
    /// Whether a rejected file among those that count makes the score 0, as the reference has it;
    /// otherwise that file counts as one without rollouts.
    pub failure_zeroes: bool,
}

impl Default for ScoringRules {
    fn default() -> Self {
        Self {
            windows: 12,
            exponent: 4,
            rollouts_cap: 5000,
            burn_uid: Uid(0),
            burn_percent: 90.0,
            failure_zeroes: false,
        }
    }
}

impl ScoringRules {
    /// Returns why these rules cannot be used, or nothing.
    pub fn complaint(&self) -> Option<String> {
        if self.windows == 0 || self.rollouts_cap == 0 || self.exponent < 1 {
            return Some("windows, rollouts_cap and exponent must be at least 1".to_owned());
        }
        // Written so that NaN is refused too.
        if self.burn_percent > 0.0 && self.burn_percent.is_finite() {
            return None;
        }
        Some(format!("burn_percent is {}; it must be above 0, at most 100", self.burn_percent))
    }
}

/// What counts of one miner in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Accepted rollouts, extrapolated from those checked to the whole file.
    pub rollouts: u64,
    /// Whether the file was rejected.
    pub had_failure: bool,
}

/// What a validator remembers of one miner.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Tallies of the windows in which the miner was judged.
    pub tallies: &'a BTreeMap<Window, Tally>,
    /// Windows with a file among the last processed ones.
    pub availability: u32,
}

/// Returns a miner's score at `target`, 0 to 1: 1 is the cap in every window.
pub fn score(rules: &ScoringRules, record: Record<'_>, target: Window) -> f64 {
    let span = u64::from(rules.windows.saturating_sub(1)) * WINDOW_BLOCKS;
    let oldest =
        Window::containing(grail_protocol::ids::BlockNumber(target.start().0.saturating_sub(span)));
    let recent = || record.tallies.range(oldest..=target).map(|(_, tally)| tally);
    let checked = recent().count();
    let is_zeroed = rules.failure_zeroes && recent().any(|tally| tally.had_failure);
    if record.availability == 0 || checked == 0 || is_zeroed {
        return 0.0;
    }
    let rollouts = to_f64(recent().map(|tally| tally.rollouts).sum());
    let seen_share = f64::from(record.availability) / to_f64(checked as u64);
    let cap = to_f64(u64::from(rules.rollouts_cap) * u64::from(rules.windows));
    let capped = (rollouts * seen_share).min(cap).max(0.0);
    (capped / cap).powi(rules.exponent)
}

/// Returns a weight for each neuron of the metagraph, in its order.
///
/// With the burn uid in the metagraph the weights add up to 1; a miner at half the cap gets
/// 1/16 of what one at the cap gets, not half.
pub fn weights<'a>(
    rules: &ScoringRules,
    metagraph: &[(Uid, Hotkey)],
    record_of: impl Fn(Hotkey) -> Option<Record<'a>>,
    target: Window,
) -> Vec<(Uid, f64)> {
    let scores: Vec<f64> = metagraph
        .iter()
        .map(|&(_, hotkey)| record_of(hotkey).map_or(0.0, |record| score(rules, record, target)))
        .collect();
    let total = compensated_sum(scores.iter().copied());
    // A sum above 1 is shared out; below, the rest stays for the burn.
    let shares: Vec<f64> =
        scores.iter().map(|score| if total > 1.0 { score / total } else { *score }).collect();
    let share_of_all = compensated_sum(shares.iter().copied());

    let uids = metagraph.iter().map(|&(uid, _)| uid);
    if !metagraph.iter().any(|&(uid, _)| uid == rules.burn_uid) {
        return uids.zip(shares).collect();
    }
    let miners_share = 1.0 - (rules.burn_percent / 100.0).clamp(0.0, 1.0);
    let scale =
        if total > 0.0 { miners_share.min(miners_share * total) / share_of_all } else { 0.0 };
    let mut weights: Vec<(Uid, f64)> = uids
        .zip(shares)
        .map(|(uid, share)| (uid, if uid == rules.burn_uid { 0.0 } else { share * scale }))
        .collect();
    let earned = compensated_sum(weights.iter().map(|&(_, weight)| weight));
    for (uid, weight) in &mut weights {
        if *uid == rules.burn_uid {
            *weight = 1.0 - earned;
        }
    }
    weights
}

#[expect(clippy::cast_precision_loss, reason = "counts of rollouts are far below 2^53")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn rules(config: &Value) -> ScoringRules {
        ScoringRules {
            windows: config["rolling_windows"].as_u64().unwrap() as u32,
            exponent: config["superlinear_exponent"].as_f64().unwrap() as i32,
            rollouts_cap: config["unique_rollouts_cap"].as_u64().unwrap() as u32,
            burn_uid: Uid(config["burn_uid"].as_u64().unwrap() as u16),
            burn_percent: config["burn_percentage"].as_f64().unwrap(),
            failure_zeroes: true,
        }
    }

    fn tallies(case: &Value, hotkey: &str) -> BTreeMap<Window, Tally> {
        let Some(windows) = case["inference_counts"][hotkey].as_object() else {
            return BTreeMap::new();
        };
        windows
            .iter()
            .map(|(window, counts)| {
                let tally = Tally {
                    rollouts: counts["estimated_unique"].as_u64().unwrap_or(0),
                    had_failure: counts["had_failure"].as_u64().unwrap_or(0) == 1,
                };
                (Window::from_start(window.parse().unwrap()).unwrap(), tally)
            })
            .collect()
    }

    /// The vectors' addresses are synthetic; any distinct key does.
    fn stand_in(idx: usize) -> Hotkey {
        Hotkey([u8::try_from(idx).unwrap(); 32])
    }

    fn check(case: &Value) {
        let names: Vec<&str> =
            case["meta_hotkeys"].as_array().unwrap().iter().map(|x| x.as_str().unwrap()).collect();
        let metagraph: Vec<(Uid, Hotkey)> = case["meta_uids"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(idx, uid)| (Uid(uid.as_u64().unwrap() as u16), stand_in(idx)))
            .collect();
        let histories: Vec<(BTreeMap<Window, Tally>, u32)> = names
            .iter()
            .map(|name| {
                let seen = case["availability_counts"][*name].as_u64().unwrap_or(0);
                (tallies(case, name), u32::try_from(seen).unwrap())
            })
            .collect();
        let record_of = |hotkey: Hotkey| {
            let (tallies, availability) = &histories[usize::from(hotkey.0[0])];
            Some(Record { tallies, availability: *availability })
        };
        let target = Window::from_start(case["target_window"].as_u64().unwrap()).unwrap();
        let got = weights(&rules(&case["config"]), &metagraph, record_of, target);
        for ((uid, got), expected) in got.iter().zip(case["weights"].as_array().unwrap()) {
            let expected = expected.as_f64().unwrap();
            let gap = (got - expected).abs();
            assert!(gap <= 1e-12 * expected.abs(), "uid {uid}: got {got}, expected {expected}");
        }
    }

    #[test]
    fn weights_match_the_reference() {
        let file = grail_testkit::vectors::load("weights", "weights.json");
        let mut checked = 0;
        for case in file["cases"].as_array().unwrap() {
            if case["config"]["cap_enabled"].as_bool().unwrap() {
                check(case);
                checked += 1;
            }
        }
        assert!(checked > 30, "only {checked} cases were compared");
        for error in file["errors"].as_array().unwrap() {
            if let Some(burn_percent) = error["burn_percentage"].as_f64().filter(|p| *p <= 0.0) {
                let rules = ScoringRules { burn_percent, ..ScoringRules::default() };
                assert!(rules.complaint().is_some());
            }
        }
        assert_eq!(ScoringRules::default().complaint(), None);
    }

    fn weight_of(rollouts: u64, had_failure: bool, availability: u32) -> f64 {
        weight_by(ScoringRules::default(), rollouts, had_failure, availability)
    }

    fn weight_by(rules: ScoringRules, rollouts: u64, had_failure: bool, availability: u32) -> f64 {
        let target = Window::from_start(300).unwrap();
        let tallies = BTreeMap::from([(target, Tally { rollouts, had_failure })]);
        let metagraph = [(Uid(0), stand_in(0)), (Uid(7), stand_in(7))];
        let record_of =
            |hotkey| (hotkey == stand_in(7)).then_some(Record { tallies: &tallies, availability });
        let weights = weights(&rules, &metagraph, record_of, target);
        assert!((weights[0].1 + weights[1].1 - 1.0).abs() < 1e-15);
        weights[1].1
    }

    #[test]
    fn a_failure_or_absence_earns_nothing() {
        assert!(weight_of(5000, false, 1) > 0.0);
        assert_eq!(weight_of(0, true, 1), 0.0);
        let reference = ScoringRules { failure_zeroes: true, ..ScoringRules::default() };
        assert_eq!(weight_by(reference, 5000, true, 1), 0.0);
        assert_eq!(weight_of(5000, false, 0), 0.0);
        assert_eq!(weight_of(0, false, 1), 0.0);
    }

    #[test]
    fn half_the_work_earns_a_sixteenth() {
        let (full, half) = (weight_of(60_000, false, 1), weight_of(30_000, false, 1));
        assert!((full - 0.1).abs() < 1e-12, "the cap earns the miners' whole share, not {full}");
        assert!((full / half - 16.0).abs() < 1e-9);
        assert_eq!(weight_of(u64::from(u32::MAX), false, 12), full);
    }
}
