//! Turns the rewards of one group into advantages.
//!
//! Source: `spec/trainer.md`. Equal to the reference bit for bit, but for the last place of
//! [`Estimator::Grpo`]: Python's `x ** 0.5` is the C library's `pow`, which errs there for about one
//! argument in a thousand. A square root is the same on every machine.

use crate::math::compensated_sum;

/// How rewards of a group are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// (r − mean) / standard deviation, from the paper on GRPO.
    #[default]
    Grpo,
    /// r − mean, from "Dr. GRPO": the division by the deviation favours easy and hard prompts.
    DrGrpo,
    /// Ranks mapped to −1..1, equal rewards sharing the mean of their ranks: one outlier cannot
    /// drown the others.
    Dapo,
}

/// A name that no estimator has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no advantage estimator; use grpo, dr_grpo or dapo")]
pub struct UnknownEstimator(pub String);

impl std::str::FromStr for Estimator {
    type Err = UnknownEstimator;

    fn from_str(name: &str) -> Result<Self, UnknownEstimator> {
        match name {
            "grpo" => Ok(Self::Grpo),
            "dr_grpo" => Ok(Self::DrGrpo),
            "dapo" => Ok(Self::Dapo),
            other => Err(UnknownEstimator(other.to_owned())),
        }
    }
}

impl std::fmt::Display for Estimator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Grpo => "grpo",
            Self::DrGrpo => "dr_grpo",
            Self::Dapo => "dapo",
        })
    }
}

/// Least standard deviation that is divided by.
const DEVIATION_MIN: f64 = 1e-8;

/// Returns an advantage for each reward of a group.
///
/// Where a reward is not a number, every advantage is none, so that the group can be left out; the
/// reference's ranking never ends on such a group.
pub fn advantages(estimator: Estimator, rewards: &[f64]) -> Vec<f64> {
    match estimator {
        _ if rewards.is_empty() => Vec::new(),
        Estimator::Grpo => {
            let centred = centred(rewards);
            let squares = centred.iter().map(|gap| gap * gap);
            let variance = compensated_sum(squares) / count(rewards.len());
            // Not `f64::max`, which would hide a reward that is not a number.
            let deviation = match variance.sqrt() {
                small if small < DEVIATION_MIN => DEVIATION_MIN,
                deviation => deviation,
            };
            centred.iter().map(|gap| gap / deviation).collect()
        }
        Estimator::DrGrpo => centred(rewards),
        Estimator::Dapo => ranked(rewards),
    }
}

fn centred(rewards: &[f64]) -> Vec<f64> {
    let mean = compensated_sum(rewards.iter().copied()) / count(rewards.len());
    rewards.iter().map(|reward| reward - mean).collect()
}

fn ranked(rewards: &[f64]) -> Vec<f64> {
    if rewards.iter().any(|reward| reward.is_nan()) {
        return vec![f64::NAN; rewards.len()];
    }
    let rank_max = count(rewards.len() - 1).max(1.0);
    rewards
        .iter()
        .map(|reward| {
            let below = rewards.iter().filter(|other| *other < reward).count();
            let equal = rewards.iter().filter(|other| *other == reward).count();
            // The ranks below, ..., below + equal - 1 have this mean.
            let rank = count(2 * below + equal - 1) / 2.0;
            2.0 * rank / rank_max - 1.0
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a group has far fewer than 2^53 rewards")]
fn count(n: usize) -> f64 {
    n as f64
}

/// Returns whether a group teaches nothing because all its rewards are equal.
pub fn has_zero_variance(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, floats, load, same, text};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn advantages_match_the_reference() {
        every_case("advantages", "advantages.json", |case| {
            let rewards = floats(&case["rewards"]);
            check(Estimator::DrGrpo, &rewards, &floats(&case["dr_grpo"]), 0);
            // What miners put into their files and what the trainer recomputes.
            for expected in ["grpo", "env_grpo"] {
                check(Estimator::Grpo, &rewards, &floats(&case[expected]), 3);
            }
            if let Some(bits) = case["grpo_bits"].as_array() {
                let bits =
                    bits.iter().map(|bits| f64::from_bits(grail_testkit::vectors::bits(bits)));
                check(Estimator::Grpo, &rewards, &bits.collect::<Vec<_>>(), 3);
            }
            if case["dapo"].is_array() {
                check(Estimator::Dapo, &rewards, &floats(&case["dapo"]), 0);
            } else {
                // Where the reference never returns.
                let none = advantages(Estimator::Dapo, &rewards);
                assert!(none.len() == rewards.len() && none.iter().all(|it| it.is_nan()), "{case}");
            }
        });
    }

    /// Equal bits; a deviation that is off by its last place moves a quotient by three of its own.
    fn check(estimator: Estimator, rewards: &[f64], expected: &[f64], ulps_max: u64) {
        let got = advantages(estimator, rewards);
        assert_eq!(got.len(), expected.len());
        for (&got, &expected) in got.iter().zip(expected) {
            let is_near = got.is_finite()
                && got.is_sign_negative() == expected.is_sign_negative()
                && got.to_bits().abs_diff(expected.to_bits()) <= ulps_max;
            let what = format!("{estimator} {rewards:?}: got {got}, expected {expected}");
            assert!(is_near || same(got, expected), "{what}");
        }
    }

    #[test]
    fn a_name_is_an_estimator_or_refused() {
        let file = load("advantages", "advantages.json");
        let refused = text(&file["unknown_estimator"]["error"]);
        for estimator in [Estimator::Grpo, Estimator::DrGrpo, Estimator::Dapo] {
            assert!(refused.contains(&format!("'{estimator}'")), "{refused}");
            assert_eq!(estimator.to_string().parse(), Ok(estimator));
        }
        assert_eq!("x".parse::<Estimator>(), Err(UnknownEstimator("x".to_owned())));
    }

    proptest! {
        #[test]
        fn ranks_are_balanced_and_in_range(
            rewards in prop::collection::vec((-2i8..3).prop_map(f64::from), 2..20),
        ) {
            let ranks = advantages(Estimator::Dapo, &rewards);
            prop_assert!(ranks.iter().sum::<f64>().abs() < 1e-12);
            prop_assert!(ranks.iter().all(|rank| (-1.0..=1.0).contains(rank)));
            for (a, b) in [(0, 1), (1, 0)] {
                prop_assert_eq!(rewards[a] < rewards[b], ranks[a] < ranks[b]);
            }
        }
    }

    #[test]
    fn only_equal_rewards_teach_nothing() {
        assert!(has_zero_variance(&[]));
        assert!(has_zero_variance(&[0.5; 16]));
        assert!(!has_zero_variance(&[0.5, 0.5, 0.6]));
        assert!(!has_zero_variance(&[f64::NAN, f64::NAN]));
    }
}
