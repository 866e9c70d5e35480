//! Turns what a validator saw over the last windows into weights.
//!
//! Source: `spec/scoring.md`; equal to the reference on its vectors, within 1e-12 of each weight.
//! Pure: no clock, no chain.

use std::collections::BTreeMap;

use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::{BlockNumber, Hotkey, Uid, Window};
use grail_protocol::v5::python::sum::fsum;
use serde::{Deserialize, Serialize};

/// How histories become weights. All validators of a subnet should agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoringRules {
    /// Windows that count, up to and including the last one.
    pub windows: u32,
    /// Power of the score: more than 1 makes splitting work over many hotkeys a loss.
    pub exponent: f64,
    /// Most rollouts per miner and window that count.
    pub rollouts_cap: u32,
    /// Whether the cap counts. Without it the miners' share is shared out whole, however little was
    /// done for it.
    pub cap_enabled: bool,
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
            exponent: 4.0,
            rollouts_cap: 5000,
            cap_enabled: true,
            burn_uid: Uid(0),
            burn_percent: 90.0,
            failure_zeroes: false,
        }
    }
}

impl ScoringRules {
    /// Returns why these rules cannot be used, or nothing.
    pub fn complaint(&self) -> Option<String> {
        // Written so that NaN is refused too.
        let is_power = self.exponent.is_finite() && self.exponent >= 1.0;
        if self.windows == 0 || self.rollouts_cap == 0 || !is_power {
            return Some("windows, rollouts_cap and exponent must be at least 1".to_owned());
        }
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

/// Returns a miner's score at `target`, 0 to 1: 1 is the cap in every window. Without the cap it is
/// a power of the miner's rollouts, which only means something beside the others'.
pub fn score(rules: &ScoringRules, record: Record<'_>, target: Window) -> f64 {
    let span = u64::from(rules.windows.saturating_sub(1)) * WINDOW_BLOCKS;
    let oldest = Window::containing(BlockNumber(target.start().0.saturating_sub(span)));
    let recent = || record.tallies.range(oldest..=target).map(|(_, tally)| tally);
    let checked = recent().count();
    let is_zeroed = rules.failure_zeroes && recent().any(|tally| tally.had_failure);
    if record.availability == 0 || checked == 0 || is_zeroed {
        return 0.0;
    }
    let rollouts = to_f64(recent().map(|tally| tally.rollouts).fold(0, u64::saturating_add));
    let seen_share = f64::from(record.availability) / to_f64(checked as u64);
    let estimated = rollouts * seen_share;
    if !rules.cap_enabled {
        return power(estimated, rules.exponent);
    }
    let cap = to_f64(u64::from(rules.rollouts_cap) * u64::from(rules.windows));
    power(estimated.min(cap), rules.exponent) / power(cap, rules.exponent)
}

/// Returns `base` to the power `exponent`. Whole exponents, as the subnet has one, take products
/// alone, so that every machine gets the same bits.
fn power(base: f64, exponent: f64) -> f64 {
    if exponent.fract() != 0.0 || exponent > 64.0 {
        return base.powf(exponent);
    }
    let (mut left, mut product) = (exponent, 1.0);
    while left > 0.0 {
        product *= base;
        left -= 1.0;
    }
    product
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
    let sum = exact_sum(scores.iter().copied());
    // A sum above 1 is shared out; below, the rest stays for the burn. Without a cap any sum is.
    let is_shared_out = if rules.cap_enabled { sum > 1.0 } else { sum > 0.0 };
    let total = if is_shared_out { 1.0 } else { sum };
    let shares: Vec<f64> =
        scores.iter().map(|score| if is_shared_out { score / sum } else { *score }).collect();
    let share_of_all = exact_sum(shares.iter().copied());

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
    let earned = exact_sum(weights.iter().map(|&(_, weight)| weight));
    for (uid, weight) in &mut weights {
        if *uid == rules.burn_uid {
            *weight = 1.0 - earned;
        }
    }
    weights
}

/// Scores and weights are finite, and so is any sum of them.
fn exact_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    fsum(values).unwrap_or(f64::INFINITY)
}

#[expect(clippy::cast_precision_loss, reason = "counts of rollouts are far below 2^53")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, every_entry, float, floats, list, size, text};
    use serde_json::{Value, json};

    use super::*;

    fn rules(config: &Value) -> ScoringRules {
        assert_eq!(config["window_length"].as_u64(), Some(WINDOW_BLOCKS));
        ScoringRules {
            windows: size(&config["rolling_windows"]) as u32,
            exponent: float(&config["superlinear_exponent"]),
            rollouts_cap: size(&config["unique_rollouts_cap"]) as u32,
            cap_enabled: config["cap_enabled"] == true,
            burn_uid: Uid(size(&config["burn_uid"]) as u16),
            burn_percent: float(&config["burn_percentage"]),
            failure_zeroes: true,
        }
    }

    fn tallies(case: &Value, hotkey: &str) -> BTreeMap<Window, Tally> {
        let windows = case["inference_counts"][hotkey].as_object().into_iter().flatten();
        let tally = |(window, counts): (&String, &Value)| {
            let tally = Tally {
                rollouts: counts["estimated_unique"].as_u64().unwrap_or(0),
                had_failure: counts["had_failure"].as_u64().unwrap_or(0) == 1,
            };
            (Window::from_start(window.parse().unwrap()).unwrap(), tally)
        };
        windows.map(tally).collect()
    }

    /// The vectors' addresses are synthetic; any distinct key does.
    fn stand_in(idx: usize) -> Hotkey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&idx.to_be_bytes());
        Hotkey(key)
    }

    fn check(case: &Value) {
        let names: Vec<&str> = list(&case["meta_hotkeys"]).iter().map(text).collect();
        let uids = list(&case["meta_uids"]).iter().map(|uid| Uid(size(uid) as u16));
        let metagraph: Vec<(Uid, Hotkey)> =
            uids.enumerate().map(|(idx, uid)| (uid, stand_in(idx))).collect();
        let history = |name: &&str| {
            let seen = case["availability_counts"][*name].as_u64().unwrap_or(0);
            (tallies(case, name), u32::try_from(seen).unwrap())
        };
        let histories: BTreeMap<Hotkey, _> =
            names.iter().enumerate().map(|(idx, name)| (stand_in(idx), history(name))).collect();
        let record_of = |hotkey: Hotkey| {
            let (tallies, availability) = &histories[&hotkey];
            Some(Record { tallies, availability: *availability })
        };
        let target = Window::from_start(case["target_window"].as_u64().unwrap()).unwrap();
        let got = weights(&rules(&case["config"]), &metagraph, record_of, target);
        let expected = floats(&case["weights"]);
        assert_eq!(got.len(), expected.len());
        for ((uid, got), expected) in got.iter().zip(expected) {
            let gap = (got - expected).abs();
            assert!(gap <= 1e-12 * expected.abs(), "uid {uid}: got {got}, expected {expected}");
        }
        let non_zero = case["non_zero"].as_object().unwrap();
        for (name, (_, weight)) in names.iter().zip(&got) {
            let listed = non_zero.get(*name).map_or(0.0, float);
            assert!((weight - listed).abs() <= 1e-12 * listed.abs(), "{name} {weight} {listed}");
        }
    }

    #[test]
    fn weights_match_the_reference() {
        every_case("weights", "weights.json", check);
    }

    #[test]
    fn a_burn_that_the_reference_refuses_is_refused() {
        every_entry("weights", "weights.json", "errors", 3, |error| {
            let rules = json!({
                "burn_uid": error["burn_uid"],
                "burn_percent": error["burn_percentage"],
            });
            let rules = serde_json::from_value::<ScoringRules>(rules);
            assert!(rules.is_err() || rules.unwrap().complaint().is_some(), "{error}");
        });
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
    fn without_a_cap_all_is_shared_out() {
        let open = ScoringRules { cap_enabled: false, ..ScoringRules::default() };
        for rollouts in [1, 5000, 1 << 40] {
            assert!((weight_by(open, rollouts, false, 1) - 0.1).abs() < 1e-12);
        }
        assert_eq!(weight_by(open, 0, false, 1), 0.0);
    }

    #[test]
    fn a_power_is_a_product() {
        assert_eq!(power(3.0, 4.0), 81.0);
        assert_eq!(power(0.0, 1.0), 0.0);
        assert!((power(2.0, 1.5) - 8f64.sqrt()).abs() < 1e-15);
        let exponent = f64::NAN;
        assert!(ScoringRules { exponent, ..ScoringRules::default() }.complaint().is_some());
    }

    #[test]
    fn half_the_work_earns_a_sixteenth() {
        let (full, half) = (weight_of(60_000, false, 1), weight_of(30_000, false, 1));
        assert!((full - 0.1).abs() < 1e-12, "the cap earns the miners' whole share, not {full}");
        assert!((full / half - 16.0).abs() < 1e-9);
        assert_eq!(weight_of(u64::from(u32::MAX), false, 12), full);
    }
}
