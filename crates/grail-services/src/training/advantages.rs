//! Turns the rewards of one group into advantages.
//!
//! Source: `spec/trainer.md`; equal to the reference bit for bit.

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
}

/// Least standard deviation that is divided by.
const DEVIATION_MIN: f64 = 1e-8;

/// Returns an advantage for each reward of a group; not finite if a reward is not.
pub fn advantages(estimator: Estimator, rewards: &[f64]) -> Vec<f64> {
    if rewards.is_empty() {
        return Vec::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "a group has far fewer than 2^53 rewards")]
    let count = rewards.len() as f64;
    let mean = compensated_sum(rewards.iter().copied()) / count;
    let centred = || rewards.iter().map(|reward| reward - mean);
    match estimator {
        Estimator::DrGrpo => centred().collect(),
        Estimator::Grpo => {
            let variance = compensated_sum(centred().map(|gap| gap * gap)) / count;
            // Not `f64::max`, which would hide a reward that is not a number.
            let deviation = match variance.sqrt() {
                small if small < DEVIATION_MIN => DEVIATION_MIN,
                deviation => deviation,
            };
            centred().map(|gap| gap / deviation).collect()
        }
    }
}

/// Returns whether a group teaches nothing because all its rewards are equal.
pub fn has_zero_variance(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(number).collect()
    }

    fn number(value: &Value) -> f64 {
        match value {
            Value::String(text) => text.parse().unwrap(),
            other => other.as_f64().unwrap(),
        }
    }

    fn check(estimator: Estimator, rewards: &[f64], expected: &[f64]) {
        let got = advantages(estimator, rewards);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(same, "{estimator:?} {rewards:?}: got {got}, expected {expected}");
        }
    }

    #[test]
    fn advantages_match_the_reference() {
        let file = grail_testkit::vectors::load("advantages", "advantages.json");
        for case in file["cases"].as_array().unwrap() {
            let rewards = numbers(&case["rewards"]);
            check(Estimator::Grpo, &rewards, &numbers(&case["grpo"]));
            check(Estimator::DrGrpo, &rewards, &numbers(&case["dr_grpo"]));
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
