//! Checks on the 16 rollouts of a group, and what a checked sample says about the whole file.

use super::python::sum::sum;

/// Rollouts of a group.
pub const ROLLOUTS_PER_PROBLEM: usize = 16;

/// Largest absolute sum of a group's advantages.
const ADVANTAGE_SUM_MAX: f64 = 0.01;

/// Largest error of an advantage.
const ADVANTAGE_ERROR_MAX: f64 = 1e-3;

/// What is wrong with a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GroupFault {
    /// Not 16 rollouts.
    Size(usize),
    /// Advantages do not sum to 0.
    Sum(f64),
    /// An advantage is not that of the claimed rewards.
    Advantage {
        /// Which rollout.
        rollout: usize,
        /// Claimed.
        claimed: f64,
        /// From the claimed rewards.
        expected: f64,
    },
}

/// Checks a group's advantages against its **claimed** rewards, one of each per rollout.
///
/// NaN passes every comparison, as in the reference. The reference also compares environment seeds
/// that no miner sends; see [`have_one_seed`].
pub fn check(rewards: &[f64], advantages: &[f64]) -> Option<GroupFault> {
    if rewards.len() != ROLLOUTS_PER_PROBLEM || advantages.len() != ROLLOUTS_PER_PROBLEM {
        return Some(GroupFault::Size(rewards.len()));
    }
    let total = sum(advantages.iter().copied());
    if total.abs() > ADVANTAGE_SUM_MAX {
        return Some(GroupFault::Sum(total));
    }
    let n = ROLLOUTS_PER_PROBLEM as f64;
    let mean = sum(rewards.iter().copied()) / n;
    let variance = sum(rewards.iter().map(|reward| (reward - mean) * (reward - mean))) / n;
    let deviation = variance.sqrt().max(1e-8);
    advantages.iter().zip(rewards).enumerate().find_map(|(rollout, (&claimed, reward))| {
        let expected = (reward - mean) / deviation;
        ((claimed - expected).abs() > ADVANTAGE_ERROR_MAX).then_some(GroupFault::Advantage {
            rollout,
            claimed,
            expected,
        })
    })
}

/// Whether the environment seeds that rows of a group carry agree. Rows without one have no say.
pub fn have_one_seed(seeds: &[Option<i64>]) -> bool {
    let mut given = seeds.iter().flatten();
    given.next().is_none_or(|first| given.all(|seed| seed == first))
}

/// Scales a count among `checked` rollouts to the `total` of the file: `int(total * (count / checked))`
/// in f64, and 0 when none was checked.
pub fn extrapolate(total: u64, count: u64, checked: u64) -> u64 {
    if checked == 0 {
        return 0;
    }
    (total as f64 * (count as f64 / checked as f64)) as u64
}
