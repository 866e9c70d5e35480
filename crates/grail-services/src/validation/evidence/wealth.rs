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
