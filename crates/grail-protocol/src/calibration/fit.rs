//! From honest work to thresholds that it passes with room.

use super::sums::{SumTest, standard_score};
use super::{TAIL_LEVELS, Thresholds, count, to_f64};
use crate::sketch::{SKETCH_BITS, sketches_of};

/// Fewest rollouts that say anything about a runtime.
pub const SAMPLES_MIN: usize = 64;

/// Most rollouts of one calibration; bounds its memory.
pub const SAMPLES_MAX: usize = 1 << 20;

/// What decides at once lies this far beyond the worst that honest work showed: sums over a
/// rollout and rates, which no single token makes.
pub const SAFETY_FACTOR: f64 = 1.5;

/// One token alone decides this far beyond the largest honest margin.
///
/// Honest margins of some models have a tail heavier than an exponential one: where a rounding moves
/// the keys of a layer, one token in some 20,000 loses by twice what all others do, and a factor of
/// 1.5 rejected honest rollouts (`docs/proof.md`).
pub const VETO_FACTOR: f64 = 3.0;

/// Smallest hard margin, nats: less would be the noise of the verifier's own rounding.
pub const MARGIN_HARD_MIN: f64 = 0.05;

/// Soft margin as a share of the hard one: 1.5 times the largest honest margin.
pub const SOFT_SHARE: f64 = 0.5;

/// What a margin counts at most in a sum, as a share of the hard one: the largest honest margin.
pub const CLIP_SHARE: f64 = 1.0 / VETO_FACTOR;

/// Soft hits that every rollout may have, however short.
pub const SOFT_HITS_FREE: u32 = 1;

/// Fewest soft hits allowed for 1,000 tokens.
const SOFT_HITS_PER_1000_MIN: f64 = 1.0;

/// Smallest deviations, nats and signs: a runtime that hardly differs from ours must not be judged
/// by the last bits.
pub const MARGIN_DEVIATION_MIN: f64 = 1e-3;
/// See [`MARGIN_DEVIATION_MIN`].
pub const DISTANCE_DEVIATION_MIN: f64 = 0.25;

/// Smallest honest `z` that [`SAFETY_FACTOR`] is applied to: 4 is seen of one normal rollout in
/// 30,000, more than a small sample shows.
pub const Z_MAX_MIN: f64 = 4.0;

/// Chance that a tail threshold is too low, each: the sample is luck too.
pub const TAIL_DOUBT: f64 = 1e-3;

/// What the verifier measured of one honest rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSample {
    /// How much worse than the winner each token is, nats, finite, at least 0.
    pub margins: Vec<f32>,
    /// Signs of 64 in which each sketch differs from the verifier's.
    pub distances: Vec<u8>,
}

/// Samples that nothing can be learned from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSamples {
    /// Too few or too many.
    #[error("{0} rollouts; a calibration needs {SAMPLES_MIN} to {SAMPLES_MAX}")]
    Count(usize),
    /// A rollout without tokens, or whose sketches are not as many as its tokens ask for.
    #[error("sample {0} has no tokens, or not one sketch for every four; measure it again")]
    Lengths(usize),
    /// A margin that is no finite number from 0 on, or a distance above 64.
    #[error("sample {0} has a margin or a distance out of range; it is no honest measurement")]
    Value(usize),
}

impl Thresholds {
    /// Returns thresholds that every one of `samples` passes, and that other honest rollouts of the
    /// same pair of runtimes pass with great confidence. Depends on the set of samples alone.
    ///
    /// # Errors
    /// When the samples are too few, too many or no measurements.
    pub fn fit(samples: &[RolloutSample]) -> Result<Self, UnusableSamples> {
        check(samples)?;
        let margins = samples.iter().flat_map(|sample| &sample.margins).copied();
        let largest = f64::from(margins.fold(0.0, f32::max));
        let margin_hard = rounded_up((largest * VETO_FACTOR).max(MARGIN_HARD_MIN));
        let margin_clip = rounded_up(margin_hard * CLIP_SHARE);
        let clipped = |sample: &RolloutSample| -> Vec<f64> {
            sample.margins.iter().map(|&margin| f64::from(margin).min(margin_clip)).collect()
        };
        let distances = |sample: &RolloutSample| -> Vec<f64> {
            sample.distances.iter().map(|&distance| f64::from(distance)).collect()
        };
        let mut margin = fit_sums(samples.iter().map(clipped), MARGIN_DEVIATION_MIN);
        // However short the rollout, a token that the veto lets pass must not reject it alone.
        let alone = margin.z(std::iter::once(margin_clip));
        margin.z_max = margin.z_max.max(rounded_up(alone));
        let sketch = fit_sums(samples.iter().map(distances), DISTANCE_DEVIATION_MIN);
        let margin_soft = rounded_up(margin_hard * SOFT_SHARE);
        let mut thresholds =
            Self { margin_hard, margin_soft, soft_hits_per_1000: 0.0, margin_clip, margin, sketch };
        let rate = samples.iter().map(|sample| {
            let hits = count(thresholds.soft_hits(&sample.margins)).saturating_sub(SOFT_HITS_FREE);
            f64::from(hits) * 1000.0 / to_f64(sample.margins.len())
        });
        let rate = rate.fold(0.0, f64::max) * SAFETY_FACTOR;
        thresholds.soft_hits_per_1000 = rounded_up(rate.clamp(SOFT_HITS_PER_1000_MIN, 1000.0));
        Ok(thresholds)
    }
}

fn check(samples: &[RolloutSample]) -> Result<(), UnusableSamples> {
    if !(SAMPLES_MIN..=SAMPLES_MAX).contains(&samples.len()) {
        return Err(UnusableSamples::Count(samples.len()));
    }
    for (index, RolloutSample { margins, distances }) in samples.iter().enumerate() {
        if margins.is_empty() || distances.len() != sketches_of(margins.len()) {
            return Err(UnusableSamples::Lengths(index));
        }
        let is_margin = |margin: &f32| margin.is_finite() && *margin >= 0.0;
        let is_distance = |distance: &u8| usize::from(*distance) <= SKETCH_BITS;
        if !(margins.iter().all(is_margin) && distances.iter().all(is_distance)) {
            return Err(UnusableSamples::Value(index));
        }
    }
    Ok(())
}

fn fit_sums(rollouts: impl Iterator<Item = Vec<f64>> + Clone, deviation_min: f64) -> SumTest {
    // Summed in order of size: the order of the samples must not show in the last bits.
    let mut values: Vec<f64> = rollouts.clone().flatten().collect();
    values.sort_unstable_by(f64::total_cmp);
    let n = to_f64(values.len());
    let mean = rounded_up(values.iter().sum::<f64>() / n);
    let square = |value: &f64| (value - mean) * (value - mean);
    let variance = values.iter().map(square).sum::<f64>() / n;
    let deviation = rounded_up(variance.sqrt().max(deviation_min));
    let score = |values: Vec<f64>| standard_score(values.into_iter(), mean, deviation);
    let mut scores: Vec<f64> = rollouts.map(score).collect();
    scores.sort_unstable_by(f64::total_cmp);
    let largest = scores.last().copied().unwrap_or(0.0);
    SumTest {
        mean,
        deviation,
        z_max: rounded_up(largest.max(Z_MAX_MIN) * SAFETY_FACTOR),
        // Two statistics can hit a level; half of it each keeps both together below it.
        z_tails: TAIL_LEVELS.map(|level| tail_threshold(&scores, level / 2.0)),
    }
}

/// Returns the smallest of the ascending `scores` that at most a share `level` of all honest scores
/// exceeds, except with chance [`TAIL_DOUBT`]; nothing where the scores are too few to tell.
///
/// With `k` scores above it, a threshold is too low only if a binomial of share `level` came out at
/// `k` or less (Clopper and Pearson's argument), so `k` is the largest for which that is unlikely.
fn tail_threshold(scores: &[f64], level: f64) -> Option<f64> {
    let above = allowed_above(scores.len(), level)?;
    let place = scores.len().checked_sub(above + 1)?;
    scores.get(place).copied().map(rounded_up)
}

/// Returns the largest `k` with `P(Binomial(n, share) <= k) <= TAIL_DOUBT`.
fn allowed_above(n: usize, share: f64) -> Option<usize> {
    // In logarithms: the first terms of a large sample are below the smallest float.
    let (odds, mut term) = ((share / (1.0 - share)).ln(), to_f64(n) * (-share).ln_1p());
    let (mut sum, mut allowed) = (0.0, None);
    for k in 0..n {
        sum += term.exp();
        if sum > TAIL_DOUBT {
            break;
        }
        allowed = Some(k);
        term += (to_f64(n - k) / to_f64(k + 1)).ln() + odds;
    }
    allowed
}

/// Rounds up to a millionth: a calibration is read by people, and measures no finer.
fn rounded_up(value: f64) -> f64 {
    (value * 1e6).ceil() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binomial_bound_is_clopper_and_pearsons() {
        // By summation with exact fractions: the largest k with P(Bin(n, p) <= k) <= 1/1000.
        for (n, share, want) in [
            (64, 0.05, None),
            (134, 0.05, None),
            (135, 0.05, Some(0)),
            (1000, 0.05, Some(29)),
            (2000, 0.005, Some(1)),
            (1378, 0.005, None),
            (1379, 0.005, Some(0)),
        ] {
            assert_eq!(allowed_above(n, share), want, "{n} {share}");
        }
        let large = allowed_above(1_000_000, 0.05).unwrap();
        assert!((49_000..49_500).contains(&large), "{large}");
    }

    #[test]
    fn rounding_never_lowers() {
        for value in [0.0, 1e-9, 0.123_456_7, 1.0, 63.999_999_9] {
            assert!(rounded_up(value) >= value && rounded_up(value) < value + 1.1e-6);
        }
    }
}
