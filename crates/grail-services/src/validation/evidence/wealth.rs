//! The wealth of gamblers who bet against a miner's honesty: what they own is the evidence.
//!
//! **Null hypothesis.** Given everything before it, a group of an honest miner has on average at
//! most a share `level` of its rollouts beyond the threshold of `level`, for each of
//! [`TAIL_LEVELS`]; and a window of an honest miner breaks a rule with probability
//! [`VIOLATION_RATE`] at most. Rollouts of one group may depend on each other in any way (they share
//! a prompt), groups may be hard or easy, violations of one window count once.
//!
//! **One gambler.** She puts the share `bet` of what she owns on "more hits than that". A group with
//! mean hits `m` multiplies it by `1 + bet × (m / level − 1)`, never negative as `bet < 1`, and at
//! most 1 on average under the null, whatever `bet` is. So what she owns is a non-negative
//! supermartingale: honest miners make her poorer on average. The bet on violations is the same,
//! once a window, with `m` 0 or 1.
//!
//! **When to start.** Nobody knows when a miner turns bad, and a gambler who played against 5,000
//! honest windows is ruined by then. So the money is not staked at once: [`reserve`] says what is
//! still in the bank after a number of windows, each window takes a share of it to the tables, and
//! money staked in a window never saw an earlier one. Good behaviour banks no credit, and an old
//! fault fades, as honest windows after it take the stakes that grew on it. Bank and stakes together
//! are a mixture over gamblers and starting points; a mixture of supermartingales is one.
//!
//! **What follows.** The wealth starts at 1. By Ville's inequality the probability that it *ever*
//! reaches `x` is at most `1 / x` for an honest miner, over a whole life and whenever one looks.
//!
//! Wealth is kept as logarithms, in whole billionths of a nat and rounded down: no overflow however
//! many groups a window has, the same bits after a restart, and rounding never blames anybody.

use serde::{Deserialize, Serialize};

use super::{GroupEvidence, TAIL_LEVELS, WindowEvidence};

/// Windows out of which one is voided for an honest miner at most, on average.
///
/// Software that follows the rules never breaks one; what is left are machines. One wrong window in
/// 10,000 (42 days of mining) is far more than sound memory shows, so an honest miner with a flipped
/// bit now and then stays; ten times less would eject at the second flipped bit of a fresh miner.
pub const VIOLATION_RATE: f64 = 1e-4;

/// Shares that gamblers on the tails put on a group: small ones grow on rare cheats, large ones
/// quickly on frequent ones. Chosen with `cargo run --release --example sequential`.
pub(super) const TAIL_BETS: [f64; 3] = [0.02, 0.1, 0.4];
/// Shares that gamblers on violations put on a window. Fewer than 3.7 windows in a thousand with a
/// violation make none of them richer in the long run.
pub(super) const VIOLATION_BETS: [f64; 2] = [0.02, 0.5];

pub(super) const TAIL_GAMBLERS: usize = TAIL_LEVELS.len() * TAIL_BETS.len();
/// All gamblers: those on tails (level by level), then those on violations.
pub(super) const GAMBLERS: usize = TAIL_GAMBLERS + VIOLATION_BETS.len();

/// Share of the money that goes to the gamblers on violations; the rest is for those on tails.
const VIOLATION_SHARE: f64 = 0.5;

/// Windows in which the bank gives out its first part; see [`reserve`].
const RESERVE_WINDOWS: f64 = 100.0;

/// Billionths in a nat.
const NANO: f64 = 1e9;

/// The evidence against one miner in one life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wealth {
    /// Windows that said something.
    windows: u64,
    /// What each gambler has at the tables, billionths of a nat; nothing before the first window.
    stakes: Vec<i64>,
}

impl Wealth {
    /// Returns the number of windows that said something.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Takes a window into account; one without anything decided changes nothing.
    pub fn add(&mut self, evidence: &WindowEvidence) {
        if evidence.rollouts == 0 && evidence.violations == 0 {
            return;
        }
        if self.stakes.len() != GAMBLERS {
            // The first window, or the memory of a program with other gamblers: a new game.
            *self = Self { windows: 0, stakes: vec![i64::MIN; GAMBLERS] };
        }
        let fresh = reserve(self.windows) - reserve(self.windows + 1);
        let factors = log_factors(evidence);
        let shares = shares();
        for (stake, (log_factor, share)) in self.stakes.iter_mut().zip(factors.iter().zip(shares)) {
            let staked = log_add(from_nano(*stake), (fresh * share).ln());
            *stake = to_nano(staked + log_factor);
        }
        self.windows += 1;
    }

    /// Returns the wealth, nats: 0 before the first window.
    pub fn log(&self) -> f64 {
        let bank = reserve(self.windows).ln();
        self.stakes.iter().fold(bank, |sum, &stake| log_add(sum, from_nano(stake)))
    }
}

/// Returns the share of the money that is not staked after `windows` windows: 1, falling to 0 so
/// slowly that a miner who turns bad after years is still caught.
///
/// What window `n` stakes is about `1 / (n ln² n)`. The scale trades speed against fresh miners for
/// speed against sleepers.
pub(super) fn reserve(windows: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "windows of a life are far below 2^53")]
    let windows = windows as f64;
    1.0 / (1.0 + (1.0 + windows / RESERVE_WINDOWS).ln())
}

/// Returns each gambler's part of what is staked; together 1.
pub(super) fn shares() -> [f64; GAMBLERS] {
    std::array::from_fn(|idx| {
        if idx < TAIL_GAMBLERS {
            (1.0 - VIOLATION_SHARE) / as_f64(TAIL_GAMBLERS)
        } else {
            VIOLATION_SHARE / as_f64(VIOLATION_BETS.len())
        }
    })
}

/// Returns by what a group multiplies the stake of each gambler on tails, above 0.
pub(super) fn tail_factors(group: &GroupEvidence) -> [f64; TAIL_GAMBLERS] {
    std::array::from_fn(|idx| {
        let (level, bet) = (idx / TAIL_BETS.len(), TAIL_BETS[idx % TAIL_BETS.len()]);
        if group.rollouts == 0 {
            return 1.0;
        }
        let hits = group.tail_hits[level].min(group.rollouts);
        let mean = f64::from(hits) / f64::from(group.rollouts);
        1.0 + bet * (mean / TAIL_LEVELS[level] - 1.0)
    })
}

/// Returns by what a window multiplies the stake of each gambler on violations, above 0.
pub(super) fn violation_factors(is_violated: bool) -> [f64; VIOLATION_BETS.len()] {
    let happened = if is_violated { 1.0 } else { 0.0 };
    VIOLATION_BETS.map(|bet| 1.0 + bet * (happened / VIOLATION_RATE - 1.0))
}

/// Returns the logarithms of the factors of a window.
fn log_factors(evidence: &WindowEvidence) -> [f64; GAMBLERS] {
    // Integers first: a sum of floats would depend on the order of the groups.
    let mut nano = [0i64; TAIL_GAMBLERS];
    for group in &evidence.groups {
        for (sum, factor) in nano.iter_mut().zip(tail_factors(group)) {
            *sum = sum.saturating_add(to_nano(factor.ln()));
        }
    }
    let violations = violation_factors(evidence.violations > 0);
    std::array::from_fn(|idx| match idx.checked_sub(TAIL_GAMBLERS) {
        None => from_nano(nano[idx]),
        Some(idx) => violations[idx].ln(),
    })
}

/// Returns ln(eᵃ + eᵇ); minus infinity is nothing.
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// Rounds down, so that no stake is ever worth more than it is.
fn to_nano(nats: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates; wealth is cut off far below")]
    let nano = (nats * NANO).floor() as i64;
    nano
}

/// Returns nats; the lowest number stands for nothing at all.
fn from_nano(nano: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a stake is far below 2^53 billionths of a nat")]
    let nats = nano as f64 / NANO;
    if nano == i64::MIN { f64::NEG_INFINITY } else { nats }
}

#[expect(clippy::cast_precision_loss, reason = "a handful of gamblers")]
fn as_f64(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use grail_protocol::ids::Window;
    use proptest::prelude::*;

    use super::*;

    fn evidence(groups: &[(u32, [u32; 3])], violations: u32) -> WindowEvidence {
        let groups =
            groups.iter().map(|&(rollouts, tail_hits)| GroupEvidence { rollouts, tail_hits });
        let window = Window::from_start(30).unwrap();
        WindowEvidence { window, groups: groups.collect(), violations, rollouts: 64 }
    }

    fn after(windows: impl IntoIterator<Item = WindowEvidence>) -> Wealth {
        let mut wealth = Wealth::default();
        windows.into_iter().for_each(|window| wealth.add(&window));
        wealth
    }

    fn honest() -> WindowEvidence {
        evidence(&[(16, [2, 0, 0]), (16, [1, 1, 0]), (16, [1, 0, 0]), (16, [2, 0, 0])], 0)
    }

    #[test]
    fn a_small_game_by_hand() {
        // Of the money, the first window stakes 1 − 1 / (1 + ln 1.01).
        let fresh = 1.0 - 1.0 / (1.0 + 1.01f64.ln());
        let check = |window: &WindowEvidence, tails: f64, violations: f64| {
            let expected = 1.0 - fresh + fresh * (0.5 * tails + 0.5 * violations);
            let wealth = after([window.clone()]).log();
            assert!((wealth - expected.ln()).abs() < 1e-7, "{wealth}, not {}", expected.ln());
        };
        let quiet = f64::midpoint(1.0 - 0.02, 1.0 - 0.5);
        check(&evidence(&[], 0), 1.0, quiet);
        check(&evidence(&[], 1), 1.0, f64::midpoint(1.0 + 0.02 * 9999.0, 1.0 + 0.5 * 9999.0));
        check(&evidence(&[], 7), 1.0, f64::midpoint(1.0 + 0.02 * 9999.0, 1.0 + 0.5 * 9999.0));
        // A quarter beyond the first threshold, nothing beyond the others: m / level is 2.5, 0, 0.
        let bets = 0.02 + 0.1 + 0.4;
        check(&evidence(&[(16, [4, 0, 0])], 0), (9.0 + bets * 1.5 - 2.0 * bets) / 9.0, quiet);
        // Two groups multiply.
        let twice = |bet: f64| (1.0 + bet * 1.5).powi(2) + 2.0 * (1.0 - bet).powi(2);
        let tails = (twice(0.02) + twice(0.1) + twice(0.4)) / 9.0;
        check(&evidence(&[(16, [4, 0, 0]), (8, [2, 0, 0])], 0), tails, quiet);
    }

    #[test]
    fn every_bet_is_fair_at_the_edge_of_the_null() {
        // Rollouts of a group hit together: hits of a level with its probability.
        let group = |levels: usize| GroupEvidence {
            rollouts: 16,
            tail_hits: std::array::from_fn(|level| if level < levels { 16 } else { 0 }),
        };
        let chances = [0.9, 0.07, 0.02, 0.01];
        let outcomes = (0..4).map(|levels| tail_factors(&group(levels)));
        let mut means = [0.0; TAIL_GAMBLERS];
        for (factors, chance) in outcomes.zip(chances) {
            for (mean, factor) in means.iter_mut().zip(factors) {
                *mean += factor * chance;
            }
        }
        assert!(means.iter().all(|mean| (mean - 1.0).abs() < 1e-12), "{means:?}");
        let (never, once) = (violation_factors(false), violation_factors(true));
        for (never, once) in never.into_iter().zip(once) {
            let mean = (1.0 - VIOLATION_RATE) * never + VIOLATION_RATE * once;
            assert!((mean - 1.0).abs() < 1e-12, "{mean}");
        }
        assert!((shares().iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let staked: f64 = (0..100_000).map(|window| reserve(window) - reserve(window + 1)).sum();
        assert!(staked < 1.0 && staked > 0.8, "{staked}");
    }

    /// Returns how many windows like `cheating` eject after `honest` honest ones.
    fn windows_to_ejection(honest_windows: usize, cheating: &WindowEvidence) -> usize {
        let mut wealth = after(std::iter::repeat_n(honest(), honest_windows));
        let bound = 2e6f64.ln();
        (1..10_000)
            .find(|_| {
                wealth.add(cheating);
                wealth.log() >= bound
            })
            .unwrap()
    }

    #[test]
    fn few_violations_in_a_row_eject() {
        assert_eq!(windows_to_ejection(0, &evidence(&[], 1)), 3);
        assert_eq!(windows_to_ejection(10, &evidence(&[], 1)), 3);
        assert_eq!(windows_to_ejection(5_000, &evidence(&[], 1)), 4);
        // A good past is no credit beyond the later start.
        assert_eq!(windows_to_ejection(50_000, &evidence(&[], 1)), 4);
    }

    #[test]
    fn alternating_with_honest_windows_does_not_help() {
        let mut wealth = Wealth::default();
        let ejected = (0..100).find(|window| {
            wealth.add(&if window % 2 == 0 { evidence(&[], 1) } else { honest() });
            wealth.log() >= 2e6f64.ln()
        });
        assert_eq!(ejected, Some(4), "the third bad window of five");
        // Nine honest windows between two bad ones: slower, but certain.
        let mut wealth = Wealth::default();
        let ejected = (0..1_000).find(|window| {
            wealth.add(&if window % 10 == 0 { evidence(&[], 1) } else { honest() });
            wealth.log() >= 2e6f64.ln()
        });
        assert!(ejected.is_some_and(|windows| windows <= 80), "{ejected:?}");
    }

    #[test]
    fn one_fault_fades() {
        let mut wealth = after([honest(), evidence(&[], 1)]);
        let just_after = wealth.log();
        assert!(just_after > 2f64.ln() && just_after < 100f64.ln(), "{just_after}");
        for _ in 0..500 {
            wealth.add(&honest());
        }
        assert!(wealth.log() < 0.0, "{}", wealth.log());
        assert_eq!(wealth.windows(), 502);
    }

    #[test]
    fn a_window_without_anything_decided_changes_nothing() {
        let mut wealth = after([honest()]);
        let before = wealth.clone();
        wealth.add(&WindowEvidence { rollouts: 0, ..evidence(&[], 0) });
        assert_eq!(wealth, before);
        assert_eq!(Wealth::default().log(), 0.0);
    }

    #[test]
    fn memory_of_other_gamblers_starts_anew() {
        let mut old: Wealth = serde_json::from_str(r#"{"windows":7,"stakes":[1,2]}"#).unwrap();
        old.add(&honest());
        assert_eq!(old, after([honest()]));
    }

    fn any_group() -> impl Strategy<Value = (u32, [u32; 3])> {
        let number = prop_oneof![0u32..=16, Just(u32::MAX)];
        (number.clone(), [number.clone(), number.clone(), number])
    }

    fn any_window() -> impl Strategy<Value = (Vec<(u32, [u32; 3])>, u32)> {
        (prop::collection::vec(any_group(), 0..6), prop_oneof![3 => Just(0u32), 1 => 1u32..9])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn wealth_is_a_number_whatever_comes(
            windows in prop::collection::vec(any_window(), 0..200),
        ) {
            let mut wealth = Wealth::default();
            for (groups, violations) in windows {
                let before = wealth.log();
                wealth.add(&evidence(&groups, violations));
                let log = wealth.log();
                prop_assert!(log.is_finite(), "{log}");
                // The bank is never lost, and nobody loses more than what is at the tables.
                prop_assert!(log >= reserve(wealth.windows()).ln() - 1e-9);
                // The same bits after a restart.
                let text = serde_json::to_string(&wealth).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Wealth>(&text).unwrap(), &wealth);
                if violations == 0 && groups.is_empty() {
                    prop_assert!(log <= before + 1e-9);
                }
            }
        }

        #[test]
        fn the_order_of_groups_does_not_matter(
            groups in prop::collection::vec(any_group(), 1..8),
            turn in 0usize..8,
        ) {
            let mut turned = groups.clone();
            turned.rotate_left(turn % groups.len());
            turned.reverse();
            prop_assert_eq!(after([evidence(&groups, 0)]), after([evidence(&turned, 0)]));
        }
    }
}
