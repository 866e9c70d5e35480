//! The loss against the reference's, logit by logit, and what must hold of any loss.

use std::cell::RefCell;

use grail_testkit::vectors::{every_case, every_entry, float, floats, list, size, sizes, text};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The vectors were computed in f32; these are the tolerances their file suggests.
const REL_TOL: f64 = 1e-5;
const ABS_TOL: f64 = 1e-6;

fn close(got: f64, expected: &Value, what: &str) {
    let expected = float(expected);
    let gap = (got - expected).abs();
    assert!(gap <= ABS_TOL + REL_TOL * expected.abs(), "{what}: got {got}, expected {expected}");
}

/// `log_softmax` of a row of logits, f64.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - top).exp()).sum();
    logits.iter().map(|x| x - top - sum.ln()).collect()
}

fn narrowed(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| narrow(x)).collect()
}

fn loss_config(case: &Value) -> LossConfig {
    let setting = |name: &str| float(&case["config"][name]);
    let ratio_max = setting("is_ratio_max");
    LossConfig {
        aggregation: text(&case["variant"]).parse().unwrap(),
        importance: text(&case["importance_sampling_level"]).parse().unwrap(),
        importance_sampling: case["config"]["use_is"] == true,
        clip_low: setting("ppo_clip_eps"),
        clip_high: setting("ppo_clip_eps_upper"),
        log_ratio_max: setting("logratio_clamp"),
        ratio_max: if ratio_max > 0.0 { ratio_max } else { f64::INFINITY },
        kl_coef: setting("kl_coef"),
        entropy_coef: setting("entropy_coef"),
        advantage_percentile: setting("adv_clip_percentile"),
    }
}

/// One row of a case: log-softmax at the positions that predict its completion, and the tokens.
struct Completion {
    log_softmax: Vec<Vec<f64>>,
    chosen: Vec<usize>,
    /// Position that predicts the first token.
    first: usize,
}

impl Completion {
    fn new(case: &Value, row: usize, length: usize) -> Self {
        let prompt = size(&case["prompt_lengths"][row]);
        let ids = sizes(&case["input_ids"][row]);
        let positions = prompt - 1..prompt - 1 + length;
        let log_softmax =
            positions.map(|at| log_softmax(&floats(&case["logits"][row][at]))).collect();
        Self { log_softmax, chosen: ids[prompt..prompt + length].to_vec(), first: prompt - 1 }
    }

    fn logprobs(&self) -> Vec<f64> {
        self.log_softmax.iter().zip(&self.chosen).map(|(row, &id)| row[id]).collect()
    }

    fn entropies(&self) -> Vec<f64> {
        self.log_softmax.iter().map(|row| row.iter().map(|lp| -lp.exp() * lp).sum()).collect()
    }

    /// Checks the gradient of every logit of the row, those the loss does not see included.
    fn check_gradient(&self, loss: &RowLoss, scale: RowScale, expected: &Value) {
        let entropies = self.entropies();
        for (position, expected) in list(expected).iter().enumerate() {
            let at = position.checked_sub(self.first).filter(|at| *at < self.chosen.len());
            for (id, expected) in list(expected).iter().enumerate() {
                let gradient = at.map_or(0.0, |at| {
                    let lp = self.log_softmax[at][id];
                    let p = lp.exp();
                    let through_choice = f64::from(u8::from(id == self.chosen[at])) - p;
                    f64::from(loss.gradient[at]) * through_choice
                        - scale.entropy * p * (lp + entropies[at])
                });
                close(gradient, expected, &format!("position {position}, logit {id}"));
            }
        }
    }
}

fn check(case: &Value) {
    let config = loss_config(case);
    let lengths = sizes(&case["completion_lengths"]);
    let mut advantages = floats(&case["advantages"]);
    clip_advantages(&mut advantages, config.advantage_percentile);
    assert_eq!(lengths.iter().sum::<usize>(), size(&case["total_completion_tokens"]));
    let scales = row_scales(&config, &lengths, size(&case["total_completion_tokens"]));
    let (mut policy, mut kl, mut kl_sum, mut entropy) = (0.0, 0.0, 0.0, 0.0);
    let (mut ratios, mut outside, mut bounded) = (0, 0, 0);
    for (row, &length) in lengths.iter().enumerate() {
        let completion = Completion::new(case, row, length);
        let logprobs = completion.logprobs();
        let of_row = |key: &str| narrowed(&floats(&case[key][row])[..length]);
        let (behaviour, reference) = (of_row("old_logprobs"), of_row("ref_logprobs"));
        let loss = row_loss(
            &config,
            Row {
                logprobs: &narrowed(&logprobs),
                behaviour: &behaviour,
                reference: Some(&reference),
                advantage: advantages[row],
            },
            scales[row],
        );
        close(advantages[row], &case["advantages_clipped"][row], "clipped advantage");
        close(logprobs.iter().sum(), &case["logprob_sums"][row], "sum of log-probabilities");
        for (t, logprob) in logprobs.iter().enumerate() {
            close(*logprob, &case["logprobs_per_token"][row][t], "log-probability");
        }
        let entropies = completion.entropies();
        let mean_entropy = entropies.iter().sum::<f64>() / count(length).max(1.0);
        close(mean_entropy, &case["entropies"][row], "entropy");
        close(loss.ratio, &case["ratios_pre_ceiling"][row], "ratio");
        completion.check_gradient(&loss, scales[row], &case["grad_logits"][row]);
        policy += loss.policy;
        kl += loss.kl;
        kl_sum += loss.kl_sum;
        entropy += scales[row].entropy * entropies.iter().sum::<f64>();
        ratios += loss.ratios;
        outside += loss.outside;
        bounded += loss.bounded;
    }
    close(policy, &case["loss_pg"], "surrogate");
    close(kl, &case["loss_kl"], "KL term");
    close(kl_sum / count(lengths.iter().sum()).max(1.0), &case["kl_value"], "KL");
    close(entropy, &case["loss_entropy"], "entropy term");
    close(policy + kl + entropy, &case["loss_total"], "loss");
    let share = |n: u32| f64::from(n) / f64::from(ratios.max(1));
    close(share(outside), &case["ratio_clip_frac"], "ratios outside");
    close(share(bounded), &case["ratio_ceiling_frac"], "ratios bounded");
}

#[test]
fn losses_and_gradients_match_the_reference() {
    every_case("grpo_loss", "loss_and_grad.json", check);
}

#[test]
fn advantages_are_clipped_as_in_the_reference() {
    every_case("grpo_loss", "advantage_clip_and_kl.json", |case| {
        let mut advantages = floats(&case["advantages"]);
        clip_advantages(&mut advantages, float(&case["percentile"]));
        for (got, expected) in advantages.iter().zip(list(&case["clipped"])) {
            close(*got, expected, "clipped advantage");
        }
    });
}

#[test]
fn the_kl_weight_adapts_as_in_the_reference() {
    let controller = RefCell::new(AdaptiveKl::default());
    every_entry("grpo_loss", "advantage_clip_and_kl.json", "adaptive_kl", 60, |step| {
        let coef = controller.borrow_mut().update(float(&step["observed"]));
        assert_eq!(coef, float(&step["coef"]), "{step}");
    });
}

/// A row alone, with a factor of 1.
fn alone(config: &LossConfig, new: &[f32], old: &[f32], advantage: f64, scale: f64) -> RowLoss {
    let row = Row { logprobs: new, behaviour: old, reference: None, advantage };
    row_loss(config, row, RowScale { policy: scale, ..RowScale::default() })
}

#[test]
fn unchanged_weights_give_the_policy_gradient() {
    let logprobs = [-0.5, -1.25, -3.0];
    let row = alone(&LossConfig::default(), &logprobs, &logprobs, 2.0, 0.25);
    assert_eq!(row.log_ratio_max, 0.0);
    assert_eq!(row.gradient, vec![-0.5; 3]);
    assert_eq!((row.clipped, row.ratio), (0, 1.0));
}

#[test]
fn a_step_that_went_far_enough_is_not_pushed_further() {
    let config = LossConfig::default();
    // Ratio e: above 1.28, so a good token gives nothing and a bad one is still pushed down.
    let good = alone(&config, &[-1.0], &[-2.0], 1.0, 1.0);
    assert_eq!((good.gradient[0], good.clipped, good.outside), (0.0, 1, 1));
    let bad = alone(&config, &[-1.0], &[-2.0], -1.0, 1.0);
    assert!(bad.gradient[0] > 2.7 && bad.clipped == 0 && bad.outside == 1);
    // Ratio 1/e: below 0.8, the other way round.
    let bad = alone(&config, &[-2.0], &[-1.0], -1.0, 1.0);
    assert_eq!((bad.gradient[0], bad.clipped), (0.0, 1));
}

#[test]
fn dapo_weighs_tokens_of_all_processes_alike() {
    let dapo = LossConfig::default();
    let bnpo = LossConfig { aggregation: Aggregation::Bnpo, ..dapo };
    assert_eq!(row_scales(&dapo, &[2, 6], 8), row_scales(&bnpo, &[2, 6], 8));
    assert_eq!(row_scales(&dapo, &[2, 6], 32)[0].policy, 1.0 / 32.0);
    assert_eq!(row_scales(&bnpo, &[2, 6], 32)[0].policy, 1.0 / 8.0);
}

#[test]
fn names_and_settings_are_read_or_refused() {
    for name in ["grpo", "bnpo", "dapo", "dr_grpo"] {
        assert_eq!(name.parse::<Aggregation>().unwrap().to_string(), name);
    }
    for name in ["token", "sequence"] {
        assert_eq!(name.parse::<ImportanceLevel>().unwrap().to_string(), name);
    }
    let error = "GRPO".parse::<Aggregation>().unwrap_err().to_string();
    assert_eq!(error, "`GRPO` is none of grpo, bnpo, dapo and dr_grpo");
    assert_eq!(LossConfig::default().complaint(), None);
    let nan = LossConfig { kl_coef: f64::NAN, ..LossConfig::default() };
    assert_eq!(nan.complaint().as_deref(), Some("kl_coef must be at least 0"));
}

proptest! {
    #[test]
    fn the_gradient_is_the_slope_of_the_loss(
        pairs in prop::collection::vec((-4.0f32..0.0, -4.0f32..0.0, -4.0f32..0.0), 1..6),
        advantage in -3.0f64..3.0,
        sequence: bool,
        importance_sampling: bool,
    ) {
        let config = LossConfig {
            importance: if sequence { ImportanceLevel::Sequence } else { ImportanceLevel::Token },
            importance_sampling,
            ..LossConfig::default()
        };
        let new: Vec<f32> = pairs.iter().map(|it| it.0).collect();
        let old: Vec<f32> = pairs.iter().map(|it| it.1).collect();
        let reference: Vec<f32> = pairs.iter().map(|it| it.2).collect();
        let scale = RowScale { policy: 1.0, kl: 0.5, entropy: 0.0 };
        let loss = |new: &[f32]| {
            let reference = Some(reference.as_slice());
            row_loss(&config, Row { logprobs: new, behaviour: &old, reference, advantage }, scale)
        };
        let row = loss(&new);
        for t in 0..new.len() {
            const STEP: f32 = 1.0 / 1024.0;
            let at = |offset: f32| {
                let mut moved = new.clone();
                moved[t] += offset;
                loss(&moved)
            };
            let (low, high) = (at(-STEP), at(STEP));
            // At a kink the two sides disagree, and no slope is defined.
            if low.clipped == row.clipped && high.clipped == row.clipped {
                let slope = (high.loss() - low.loss()) / f64::from(2.0 * STEP);
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
        let row = alone(&LossConfig::default(), &[new], &[old], advantage, 1.0);
        prop_assert!(row.gradient[0].is_finite() && row.loss().is_finite());
    }

    #[test]
    fn clipping_keeps_signs_and_never_enlarges(
        advantages in prop::collection::vec(-5.0f64..5.0, 0..20),
        percentile in -10.0f64..110.0,
    ) {
        let mut clipped = advantages.clone();
        clip_advantages(&mut clipped, percentile);
        for (before, after) in advantages.iter().zip(&clipped) {
            prop_assert!(after.abs() <= before.abs() && after.signum() == before.signum());
        }
    }
}
