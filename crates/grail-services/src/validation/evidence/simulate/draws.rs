//! Draws the hits of a group, or the violation of a window, with one random number each.

use super::{Conduct, LANES, Plan, Stakes, TAIL_GAMBLERS, lane_shares, lane_violation};
use crate::validation::evidence::wealth::tail_factors;
use crate::validation::evidence::{GroupEvidence, TAIL_LEVELS};

/// Rollouts of a group whose outcomes are still few enough for a table.
const ROLLOUTS_MAX: u32 = 64;

/// A generator of 64-bit numbers: a counter, well mixed. Good for a simulation, for nothing else.
pub(super) struct Random(u64);

impl Random {
    /// Returns the generator of one miner.
    pub fn of(seed: u64, scenario: &str, miner: u32) -> Self {
        let start = mix(seed ^ 0x6772_6169_6c00_0000);
        let named = scenario.bytes().fold(start, |state, byte| mix(state ^ u64::from(byte)));
        Self(mix(named ^ u64::from(miner)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// Returns true with probability `p`.
    fn happens(&mut self, p: f64) -> bool {
        // 53 bits, each as likely as the next.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let uniform = (self.next() >> 11) as f64 * 2f64.powi(-53);
        uniform < p
    }
}

/// An odd number near 2^64 divided by the golden ratio: the counter visits every state.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits into all bits; one to one.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    bits ^ (bits >> 32)
}

/// The factors of everything that can happen in a window, and how likely each is.
pub(super) struct Tables {
    /// Groups drawn in a window.
    pub groups: u32,
    /// Each lane's part of what is staked.
    pub shares: Stakes,
    violation: f64,
    /// Without and with a violation.
    window: [Stakes; 2],
    /// One for each outcome of a group.
    outcomes: Vec<Outcome>,
}

/// An outcome of a group in an alias table: column `n` holds outcome `n` up to `threshold`, the
/// outcome `other` above.
struct Outcome {
    factors: Stakes,
    threshold: u32,
    other: u32,
}

impl Tables {
    pub fn new(plan: &Plan, conduct: &Conduct) -> Self {
        let rollouts = plan.rollouts.clamp(1, ROLLOUTS_MAX);
        let outcomes = conduct.tails.map_or_else(Vec::new, |tails| {
            let groups =
                if conduct.together { alike(rollouts, &tails) } else { free(rollouts, &tails) };
            alias(&groups)
        });
        Self {
            groups: if outcomes.is_empty() { 0 } else { plan.groups },
            shares: lane_shares(),
            violation: conduct.violation,
            window: [false, true].map(lane_violation),
            outcomes,
        }
    }

    /// Draws whether a window breaks a rule.
    pub fn violation(&self, random: &mut Random) -> &Stakes {
        &self.window[usize::from(random.happens(self.violation))]
    }

    /// Draws a group. There must be one.
    pub fn group(&self, random: &mut Random) -> &Stakes {
        let bits = random.next();
        let columns = self.outcomes.len() as u64;
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
        let (column, height) = ((((bits >> 32) * columns) >> 32) as usize, bits as u32);
        let outcome = &self.outcomes[column];
        if height < outcome.threshold {
            &outcome.factors
        } else {
            &self.outcomes[outcome.other as usize].factors
        }
    }
}

/// Returns the outcomes of a group whose rollouts hit the same tails.
fn alike(rollouts: u32, tails: &[f64; TAIL_LEVELS.len()]) -> Vec<(GroupEvidence, f64)> {
    let [most, some, few] = *tails;
    let outcome = |levels: usize, p: f64| {
        let tail_hits = std::array::from_fn(|level| if level < levels { rollouts } else { 0 });
        (GroupEvidence { rollouts, tail_hits }, p)
    };
    vec![outcome(0, 1.0 - most), outcome(1, most - some), outcome(2, some - few), outcome(3, few)]
}

/// Returns the outcomes of a group of independent rollouts: a multinomial distribution, as hits of
/// a level hit those before too.
fn free(rollouts: u32, tails: &[f64; TAIL_LEVELS.len()]) -> Vec<(GroupEvidence, f64)> {
    let [most, some, few] = *tails;
    let rates = [few, some - few, most - some, 1.0 - most];
    let mut outcomes = Vec::new();
    for third in 0..=rollouts {
        for second in 0..=rollouts - third {
            for first in 0..=rollouts - third - second {
                let counts = [third, second, first, rollouts - third - second - first];
                let tail_hits = [third + second + first, third + second, third];
                let evidence = GroupEvidence { rollouts, tail_hits };
                outcomes.push((evidence, multinomial(counts, rates)));
            }
        }
    }
    outcomes
}

fn multinomial(counts: [u32; 4], rates: [f64; 4]) -> f64 {
    let mut p = 1.0;
    let mut placed = 0u32;
    for (count, rate) in counts.into_iter().zip(rates) {
        for k in 1..=count {
            placed += 1;
            p *= rate.max(0.0) * f64::from(placed) / f64::from(k);
        }
    }
    p
}

/// Returns the table from which an outcome is drawn in two steps (Walker, 1977): every column is
/// filled up to the mean with a part of one outcome that is too likely.
fn alias(groups: &[(GroupEvidence, f64)]) -> Vec<Outcome> {
    let total: f64 = groups.iter().map(|(_, p)| p).sum();
    #[expect(clippy::cast_precision_loss, reason = "thousands of outcomes")]
    let mut heights: Vec<f64> =
        groups.iter().map(|(_, p)| p / total * groups.len() as f64).collect();
    let mut others: Vec<usize> = (0..groups.len()).collect();
    let (mut short, mut tall): (Vec<usize>, Vec<usize>) =
        (0..groups.len()).partition(|&idx| heights[idx] < 1.0);
    while let (Some(low), Some(&high)) = (short.pop(), tall.last()) {
        others[low] = high;
        heights[high] -= 1.0 - heights[low];
        if heights[high] < 1.0 {
            tall.pop();
            short.push(high);
        }
    }
    let column = |idx: usize| Outcome {
        factors: lanes(&groups[idx].0),
        // Columns left over are full but for rounding, and their own alias.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        threshold: (heights[idx] * 2f64.powi(32)) as u32,
        other: u32::try_from(others[idx]).expect("a group has fewer than 2^32 outcomes"),
    };
    (0..groups.len()).map(column).collect()
}

fn lanes(group: &GroupEvidence) -> Stakes {
    let factors = tail_factors(group);
    let mut lanes = [1.0; LANES];
    lanes[..TAIL_GAMBLERS].copy_from_slice(&factors);
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(groups: &[(GroupEvidence, f64)], rates: [f64; 3]) {
        let total: f64 = groups.iter().map(|(_, p)| p).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        for (level, rate) in rates.into_iter().enumerate() {
            let mean = groups.iter().map(|(group, p)| {
                p * f64::from(group.tail_hits[level]) / f64::from(group.rollouts)
            });
            assert!((mean.sum::<f64>() - rate).abs() < 1e-12, "level {level}");
        }
        let table = alias(groups);
        let filled: Vec<f64> =
            table.iter().map(|it| f64::from(it.threshold) * 2f64.powi(-32)).collect();
        let mut drawn = filled.clone();
        for (outcome, filled) in table.iter().zip(&filled) {
            drawn[outcome.other as usize] += 1.0 - filled;
        }
        for (drawn, (_, p)) in drawn.iter().zip(groups) {
            let drawn = drawn / groups.len() as f64;
            assert!((drawn - p).abs() < 1e-9, "{drawn}, not {p}");
        }
    }

    #[test]
    fn groups_are_drawn_as_often_as_they_should_be() {
        for rates in [TAIL_LEVELS, [0.5, 0.3, 0.15], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]] {
            check(&free(16, &rates), rates);
            check(&alike(16, &rates), rates);
            check(&free(1, &rates), rates);
        }
        assert_eq!(free(16, &TAIL_LEVELS).len(), 969);
    }

    #[test]
    fn events_happen_as_often_as_they_should() {
        let mut random = Random::of(1, "any", 3);
        let happened = (0..100_000).filter(|_| random.happens(0.25)).count();
        assert!((24_500..25_500).contains(&happened), "{happened}");
        assert!(!random.happens(0.0) && random.happens(1.0));
        let of = |seed, id, miner| Random::of(seed, id, miner).next();
        assert!(of(1, "a", 0) != of(2, "a", 0) && of(1, "a", 0) != of(1, "b", 0));
        assert!(of(1, "a", 0) != of(1, "a", 1) && of(1, "a", 0) == of(1, "a", 0));
    }
}
