//! Judges the sum of many small numbers against what honest sums look like.
//!
//! One noisy token says nothing; a sum over a whole rollout does. Sums of rollouts of any length are
//! put on one scale: `z = (sum - n mean) / (deviation (sqrt(n) + slack))`. No shape is assumed: the
//! thresholds on `z` come from honest rollouts, not from the normal distribution.

use serde::{Deserialize, Serialize};

use super::{TAIL_LEVELS, to_f64};

/// Added to the root of the count, so that one odd value of a short rollout does not weigh as much
/// as many of a long one: the scale of a rollout of 16 values is doubled, of 1,600 hardly changed.
pub const SLACK: f64 = 4.0;

/// A test on the sum of a rollout's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SumTest {
    /// Mean of honest values.
    pub mean: f64,
    /// Their deviation, above 0.
    pub deviation: f64,
    /// A rollout with a greater `z` is rejected.
    pub z_max: f64,
    /// For each of [`TAIL_LEVELS`], the `z` beyond which at most half of that share of honest
    /// rollouts lie; nothing where too few were measured to say.
    pub z_tails: [Option<f64>; TAIL_LEVELS.len()],
}

impl SumTest {
    /// Returns the standard score of a rollout's values; 0 without any.
    pub fn z(&self, values: impl Iterator<Item = f64>) -> f64 {
        standard_score(values, self.mean, self.deviation)
    }

    /// Returns whether every number can be compared with.
    pub(super) fn is_usable(&self) -> bool {
        let numbers = [self.mean, self.deviation, self.z_max];
        let tails = self.z_tails.iter().flatten();
        // Tails of smaller levels lie further out; one without a threshold ends them.
        let is_ordered = self.z_tails.is_sorted_by(|wide, narrow| match (wide, narrow) {
            (Some(wide), Some(narrow)) => wide <= narrow,
            (_, None) => true,
            (None, Some(_)) => false,
        });
        numbers.into_iter().chain(tails.copied()).all(f64::is_finite)
            && self.deviation > 0.0
            && self.z_max > 0.0
            && is_ordered
    }
}

/// Returns `z` of the values under a mean and a deviation.
pub(super) fn standard_score(values: impl Iterator<Item = f64>, mean: f64, deviation: f64) -> f64 {
    let (count, sum) = values.fold((0usize, 0.0), |(count, sum), value| (count + 1, sum + value));
    let n = to_f64(count);
    (sum - n * mean) / (deviation * (n.sqrt() + SLACK))
}
