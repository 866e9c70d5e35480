//! The GRPO loss and its derivative with respect to each log-probability.
//!
//! Pure functions over explicit arguments. Source: `spec/trainer.md`, loss, without the entropy and
//! KL terms; the GRPO, DAPO and "Dr. GRPO" papers for the aggregations.

use serde::{Deserialize, Serialize};

use crate::math::exp;

/// What a token's loss is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean over rows of the mean over a row's tokens.
    Grpo,
    /// Mean over all tokens of the step, so that every token weighs the same.
    #[default]
    Dapo,
    /// Sum over tokens divided by rows times the longest row, so that length does not matter.
    DrGrpo,
}

/// What one importance ratio speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceLevel {
    /// Each token has its own ratio.
    #[default]
    Token,
    /// A row has one ratio: the geometric mean over its tokens (GSPO).
    Sequence,
}

/// Settings of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// What a token's loss is divided by.
    pub aggregation: Aggregation,
    /// What one importance ratio speaks of.
    pub importance: ImportanceLevel,
    /// The ratio is clipped below at 1 minus this, 0 to 1.
    pub clip_low: f64,
    /// The ratio is clipped above at 1 plus this, at least 0 (DAPO's "clip higher").
    pub clip_high: f64,
    /// Log ratios are clamped to plus or minus this, nats, above 0.
    pub log_ratio_max: f64,
    /// Ratios above this count as this, at least 1; bounds the loss of a bad row.
    pub ratio_max: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            aggregation: Aggregation::Dapo,
            importance: ImportanceLevel::Token,
            clip_low: 0.2,
            clip_high: 0.28,
            log_ratio_max: 5.0,
            ratio_max: 10.0,
        }
    }
}

/// Loss of one row and what it says of the policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowLoss {
    /// Derivative of the step's loss with respect to each log-probability; `[tokens]`.
    pub gradient: Vec<f32>,
    /// This row's part of the step's loss.
    pub loss: f64,
    /// Tokens whose ratio was clipped, so that they give no gradient.
    pub clipped: u32,
    /// Largest |log-probability − behaviour log-probability| before clamping, nats.
    pub log_ratio_max: f64,
}

/// Returns the factor of each row's token losses, given the numbers of completion tokens.
pub fn row_scales(aggregation: Aggregation, lengths: &[usize]) -> Vec<f64> {
    let rows = count(lengths.len());
    match aggregation {
        Aggregation::Grpo => {
            lengths.iter().map(|&length| 1.0 / (rows * count(length).max(1.0))).collect()
        }
        Aggregation::Dapo => {
            let tokens = count(lengths.iter().sum());
            vec![1.0 / tokens.max(1.0); lengths.len()]
        }
        Aggregation::DrGrpo => {
            let longest = count(lengths.iter().copied().max().unwrap_or(0));
            vec![1.0 / (rows * longest).max(1.0); lengths.len()]
        }
    }
}

/// Returns the loss of one row.
///
/// `logprobs` and `behaviour` are `[tokens]`: under the current weights and under those that drew
/// the tokens. `scale` comes from [`row_scales`].
///
/// # Panics
/// When the two slices differ in length.
pub fn row_loss(
    config: &LossConfig,
    logprobs: &[f32],
    behaviour: &[f32],
    advantage: f64,
    scale: f64,
) -> RowLoss {
    assert_eq!(logprobs.len(), behaviour.len(), "one behaviour log-probability a token");
    let log_ratios: Vec<f64> = logprobs
        .iter()
        .zip(behaviour)
        .map(|(&new, &old)| f64::from(new) - f64::from(old))
        .collect();
    let mut row = RowLoss {
        log_ratio_max: log_ratios.iter().fold(0.0, |most, ratio| ratio.abs().max(most)),
        ..RowLoss::default()
    };
    match config.importance {
        ImportanceLevel::Token => {
            for log_ratio in log_ratios {
                let term = surrogate(config, log_ratio, advantage);
                row.loss += term.loss * scale;
                row.clipped += u32::from(term.clipped);
                row.gradient.push(narrow(term.derivative * scale));
            }
        }
        ImportanceLevel::Sequence => {
            let tokens = count(log_ratios.len()).max(1.0);
            let term = surrogate(config, log_ratios.iter().sum::<f64>() / tokens, advantage);
            // Every token carries the row's loss, and moves the mean log ratio by 1 / tokens.
            row.loss = term.loss * scale * count(log_ratios.len());
            row.clipped = if term.clipped { narrow_count(log_ratios.len()) } else { 0 };
            row.gradient = vec![narrow(term.derivative * scale); log_ratios.len()];
        }
    }
    row
}

/// The clipped surrogate of one ratio and its derivative with respect to the log ratio.
struct Surrogate {
    loss: f64,
    derivative: f64,
    clipped: bool,
}

fn surrogate(config: &LossConfig, log_ratio: f64, advantage: f64) -> Surrogate {
    let clamped = log_ratio.clamp(-config.log_ratio_max, config.log_ratio_max);
    let raw = exp(clamped);
    let ratio = raw.min(config.ratio_max);
    let near = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high);
    let (free, bounded) = (ratio * advantage, near * advantage);
    let clipped = bounded < free;
    // Each clamp that is active makes the loss flat.
    let flat = clipped || clamped != log_ratio || raw > config.ratio_max;
    Surrogate {
        loss: -free.min(bounded),
        derivative: if flat { 0.0 } else { -ratio * advantage },
        clipped,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows and tokens are far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}

fn narrow_count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "the engine takes gradients in f32")]
fn narrow(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn floats(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn narrowed(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&x| narrow(x)).collect()
    }

    fn close(got: f64, expected: f64, what: &str) {
        let gap = (got - expected).abs();
        assert!(gap <= 2e-6 + 2e-5 * expected.abs(), "{what}: got {got}, expected {expected}");
    }

    /// `log_softmax` of a row of logits, f64.
    fn log_softmax(logits: &[f64]) -> Vec<f64> {
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|x| (x - top).exp()).sum();
        logits.iter().map(|x| x - top - sum.ln()).collect()
    }

    fn aggregation(case: &Value) -> Aggregation {
        match case["variant"].as_str().unwrap() {
            "grpo" => Aggregation::Grpo,
            "dr_grpo" => Aggregation::DrGrpo,
            // The reference's bnpo is dapo on one process.
            _ => Aggregation::Dapo,
        }
    }

    fn loss_config(case: &Value) -> LossConfig {
        let setting = |name: &str| case["config"][name].as_f64().unwrap();
        let ceiling = setting("is_ratio_max");
        LossConfig {
            aggregation: aggregation(case),
            importance: match case["importance_sampling_level"].as_str().unwrap() {
                "token" => ImportanceLevel::Token,
                _ => ImportanceLevel::Sequence,
            },
            clip_low: setting("ppo_clip_eps"),
            clip_high: setting("ppo_clip_eps_upper"),
            log_ratio_max: setting("logratio_clamp"),
            ratio_max: if ceiling > 0.0 { ceiling } else { f64::INFINITY },
        }
    }

    /// Checks the loss and, with the reference's KL and entropy terms added, every logit's gradient.
    fn check(case: &Value) {
        let config = loss_config(case);
        let lengths: Vec<usize> =
            floats(&case["completion_lengths"]).iter().map(|&n| n as usize).collect();
        let scales = row_scales(config.aggregation, &lengths);
        let advantages = floats(&case["advantages_clipped"]);
        let (kl_coef, entropy_coef) = (
            case["config"]["kl_coef"].as_f64().unwrap(),
            case["config"]["entropy_coef"].as_f64().unwrap(),
        );
        let tokens: usize = lengths.iter().sum();
        let mut loss = 0.0;
        for (row, &length) in lengths.iter().enumerate() {
            let prompt = case["prompt_lengths"][row].as_u64().unwrap() as usize;
            let ids = floats(&case["input_ids"][row]);
            let rows: Vec<Vec<f64>> = (0..length)
                .map(|t| log_softmax(&floats(&case["logits"][row][prompt + t - 1])))
                .collect();
            let chosen: Vec<usize> = (0..length).map(|t| ids[prompt + t] as usize).collect();
            let logprobs: Vec<f64> = rows.iter().zip(&chosen).map(|(r, &id)| r[id]).collect();
            let behaviour = &floats(&case["old_logprobs"][row])[..length];
            let reference = &floats(&case["ref_logprobs"][row])[..length];
            let got = row_loss(
                &config,
                &narrowed(&logprobs),
                &narrowed(behaviour),
                advantages[row],
                scales[row],
            );
            loss += got.loss;
            for t in 0..length {
                let kl = kl_coef * (logprobs[t] - reference[t]) / tokens as f64;
                let chosen_gradient = f64::from(got.gradient[t]) + kl;
                let entropy: f64 = rows[t].iter().map(|lp| -lp.exp() * lp).sum();
                let entropy_scale = entropy_coef / (lengths.len() * length) as f64;
                for (id, lp) in rows[t].iter().enumerate() {
                    let p = lp.exp();
                    let through_choice = f64::from(u8::from(id == chosen[t])) - p;
                    let gradient =
                        chosen_gradient * through_choice + entropy_scale * p * (lp + entropy);
                    let expected = case["grad_logits"][row][prompt + t - 1][id].as_f64().unwrap();
                    close(gradient, expected, &format!("row {row}, token {t}, logit {id}"));
                }
            }
        }
        close(loss, case["loss_pg"].as_f64().unwrap(), "loss");
    }

    #[test]
    fn losses_and_gradients_match_the_reference() {
        let file = grail_testkit::vectors::load("grpo_loss", "loss_and_grad.json");
        let mut checked = 0;
        for case in file["cases"].as_array().unwrap() {
            if case["config"]["use_is"].as_bool().unwrap() {
                check(case);
                checked += 1;
            }
        }
        assert!(checked > 30, "only {checked} cases were compared");
    }

    #[test]
    fn unchanged_weights_give_the_policy_gradient() {
        let logprobs = [-0.5, -1.25, -3.0];
        let row = row_loss(&LossConfig::default(), &logprobs, &logprobs, 2.0, 0.25);
        assert_eq!(row.log_ratio_max, 0.0);
        assert_eq!(row.gradient, vec![-0.5; 3]);
        assert_eq!(row.clipped, 0);
    }

    #[test]
    fn a_step_that_went_far_enough_is_not_pushed_further() {
        let config = LossConfig::default();
        // Ratio e: above 1.28, so a good token gives nothing and a bad one is still pushed down.
        let good = row_loss(&config, &[-1.0], &[-2.0], 1.0, 1.0);
        assert_eq!((good.gradient[0], good.clipped), (0.0, 1));
        let bad = row_loss(&config, &[-1.0], &[-2.0], -1.0, 1.0);
        assert!(bad.gradient[0] > 2.7 && bad.clipped == 0);
        // Ratio 1/e: below 0.8, the other way round.
        let bad = row_loss(&config, &[-2.0], &[-1.0], -1.0, 1.0);
        assert_eq!((bad.gradient[0], bad.clipped), (0.0, 1));
    }

    proptest! {
        #[test]
        fn the_gradient_is_the_slope_of_the_loss(
            pairs in prop::collection::vec((-4.0f32..0.0, -4.0f32..0.0), 1..6),
            advantage in -3.0f64..3.0,
            sequence: bool,
        ) {
            let config = LossConfig {
                importance: if sequence { ImportanceLevel::Sequence } else { ImportanceLevel::Token },
                ..LossConfig::default()
            };
            let (new, old): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let row = row_loss(&config, &new, &old, advantage, 1.0);
            for t in 0..new.len() {
                const STEP: f32 = 1.0 / 1024.0;
                let at = |offset: f32| {
                    let mut moved = new.clone();
                    moved[t] += offset;
                    row_loss(&config, &moved, &old, advantage, 1.0)
                };
                let (low, high) = (at(-STEP), at(STEP));
                // At a kink the two sides disagree, and no slope is defined.
                if low.clipped == row.clipped && high.clipped == row.clipped {
                    let slope = (high.loss - low.loss) / f64::from(2.0 * STEP);
                    prop_assert!((slope - f64::from(row.gradient[t])).abs() < 2e-2);
                }
            }
        }

        #[test]
        fn a_hostile_log_probability_gives_no_infinite_gradient(
            new in prop::num::f32::NORMAL | prop::num::f32::ZERO,
            old in prop::num::f32::NORMAL | prop::num::f32::ZERO,
            advantage in -10.0f64..10.0,
        ) {
            let row = row_loss(&LossConfig::default(), &[new], &[old], advantage, 1.0);
            prop_assert!(row.gradient[0].is_finite() && row.loss.is_finite());
        }
    }
}
