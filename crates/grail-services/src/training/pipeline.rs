//! The straight line from validated rollouts to optimiser steps. Blocks; no ports but the trainer.

use grail_ports::model::{
    Model, ModelError, OptimizerConfig, ScoreRequest, StopFlag, Trainer, TrainingSequence,
};
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{Digest, Window};
use grail_protocol::validated::{ValidatedFile, ValidatedGroup};

use super::advantages::{Estimator, advantages, has_zero_variance};
use super::grpo::{LossConfig, Row, clip_advantages, row_loss, row_scales};
use crate::context::Heartbeat;
use crate::math::mean;

/// How a window's rollouts become steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepsConfig {
    /// Optimiser of the steps.
    pub optimizer: OptimizerConfig,
    /// Loss.
    pub loss: LossConfig,
    /// Advantages.
    pub estimator: Estimator,
    /// Times that every group is used, at least 1.
    pub epochs: u32,
    /// Groups in an optimiser step, at least 1.
    pub groups_per_step: u32,
    /// Most groups of a window that are used, at least 1.
    pub groups_max: u32,
}

/// One group, ready to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingGroup {
    /// Prompt and completion of each rollout.
    pub sequences: Vec<TrainingSequence>,
    /// Log-probabilities under the weights that drew the tokens; one list per rollout.
    pub behaviour: Vec<Vec<f32>>,
    /// Log-probabilities under the reference model, one list per rollout; empty without one. See
    /// [`refer`].
    pub reference: Vec<Vec<f32>>,
    /// One per rollout.
    pub advantages: Vec<f64>,
}

/// What training on a window did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainingStats {
    /// Optimiser steps that changed the weights.
    pub steps: u32,
    /// Rollouts used.
    pub rollouts: u32,
    /// Completion tokens used.
    pub tokens: u64,
    /// Mean loss over the steps.
    pub loss: f64,
    /// Mean gradient norm before clipping.
    pub grad_norm: f64,
    /// Largest |log ratio| at the first step, nats.
    pub first_log_ratio_max: f64,
    /// Mean over the steps of half the mean square of log-probability minus reference
    /// log-probability, nats²; 0 without a reference model.
    pub kl: f64,
    /// Mean over the steps of the entropy of a token, nats; 0 without an entropy term.
    pub entropy: f64,
}

/// Returns the groups of a window that teach something, in an order that only the window decides.
pub fn prepare(file: &ValidatedFile, config: &StepsConfig) -> Vec<TrainingGroup> {
    let mut groups: Vec<&ValidatedGroup> = file.groups.iter().filter(|it| teaches(it)).collect();
    groups.sort_by_key(|group| order_key(file.window, group));
    let at_most = usize::try_from(config.groups_max).unwrap_or(usize::MAX);
    groups.truncate(at_most);
    groups.into_iter().map(|group| training_group(group, config.estimator)).collect()
}

/// Returns the mean reward of all rollouts in the file, 0 without any.
pub fn reward_mean(file: &ValidatedFile) -> f64 {
    let rollouts = file.groups.iter().flat_map(|group| &group.rollouts);
    mean(rollouts.map(|rollout| f64::from(rollout.reward)))
}

fn teaches(group: &ValidatedGroup) -> bool {
    let has_tokens = group.rollouts.iter().all(|rollout| !rollout.tokens.is_empty());
    has_tokens && !group.prompt.is_empty() && !has_zero_variance(&rewards(group))
}

fn rewards(group: &ValidatedGroup) -> Vec<f64> {
    group.rollouts.iter().map(|rollout| f64::from(rollout.reward)).collect()
}

fn training_group(group: &ValidatedGroup, estimator: Estimator) -> TrainingGroup {
    let sequence = |tokens: &[u32]| TrainingSequence {
        tokens: [group.prompt.as_slice(), tokens].concat(),
        prompt_len: group.prompt.len(),
    };
    TrainingGroup {
        sequences: group.rollouts.iter().map(|rollout| sequence(&rollout.tokens)).collect(),
        behaviour: group.rollouts.iter().map(|rollout| rollout.logprobs.clone()).collect(),
        reference: Vec::new(),
        advantages: advantages(estimator, &rewards(group)),
    }
}

/// Gives every group the log-probabilities of `model`, the reference that the KL term holds the policy
/// to. Blocks.
///
/// # Errors
/// [`ModelError::Stopped`], and what scoring fails with.
pub fn refer(
    groups: &mut [TrainingGroup],
    model: &dyn Model,
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<(), ModelError> {
    for group in groups {
        let request = |sequence: &TrainingSequence| ScoreRequest {
            tokens: sequence.tokens.clone(),
            prompt_len: sequence.prompt_len,
            race: None,
            entropy: false,
            whitening: None,
            rows: false,
        };
        let requests: Vec<ScoreRequest> = group.sequences.iter().map(request).collect();
        let scores = model.score(&requests, stop)?;
        group.reference = scores.into_iter().map(|score| score.logprobs).collect();
        heartbeat.beat();
    }
    Ok(())
}

fn order_key(window: Window, group: &ValidatedGroup) -> Digest {
    DomainHash::new("training-order")
        .u64(window.start().0)
        .hotkey(&group.hotkey)
        .u32(group.index)
        .finish()
}

/// Applies the optimiser steps of a window. Equal groups and weights give equal weights.
///
/// # Errors
/// After an error the trainer has taken some of the steps; restore it from its saved state.
pub fn train(
    trainer: &mut dyn Trainer,
    groups: &[TrainingGroup],
    config: &StepsConfig,
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<TrainingStats, ModelError> {
    let mut stats = TrainingStats::default();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    let (mut kls, mut entropies) = (Vec::new(), Vec::new());
    let per_step = usize::try_from(config.groups_per_step.max(1)).unwrap_or(usize::MAX);
    for epoch in 0..config.epochs.max(1) {
        for batch in groups.chunks(per_step) {
            let before = accumulate(trainer, batch, config, stop, heartbeat)?;
            let step = trainer.step(&config.optimizer, stop)?;
            if losses.is_empty() {
                stats.first_log_ratio_max = before.log_ratio_max;
            }
            losses.push(before.loss);
            kls.push(before.kl);
            entropies.push(before.entropy);
            norms.push(f64::from(step.grad_norm));
            stats.steps += u32::from(step.applied);
            if epoch == 0 {
                stats.rollouts = stats.rollouts.saturating_add(before.rollouts);
                stats.tokens = stats.tokens.saturating_add(before.tokens);
            }
        }
    }
    stats.loss = mean(losses);
    stats.grad_norm = mean(norms);
    stats.kl = mean(kls);
    stats.entropy = mean(entropies);
    Ok(stats)
}

/// What one step's batch says of the weights before the step.
#[derive(Default)]
struct BatchStats {
    loss: f64,
    kl: f64,
    entropy: f64,
    log_ratio_max: f64,
    rollouts: u32,
    tokens: u64,
}

fn accumulate(
    trainer: &mut dyn Trainer,
    batch: &[TrainingGroup],
    config: &StepsConfig,
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<BatchStats, ModelError> {
    let lengths: Vec<usize> =
        batch.iter().flat_map(|group| group.behaviour.iter().map(Vec::len)).collect();
    let completion_tokens: usize = lengths.iter().sum();
    let scales = row_scales(&config.loss, &lengths, completion_tokens);
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
    let tokens = completion_tokens.max(1) as f64;
    let mut advantages: Vec<f64> =
        batch.iter().flat_map(|group| group.advantages.iter().copied()).collect();
    clip_advantages(&mut advantages, config.loss.advantage_percentile);
    let mut stats = BatchStats::default();
    let mut row = 0;
    // Group by group: memory is bounded by one group, and the order of sums is fixed.
    for group in batch {
        let rows = row..row + group.sequences.len();
        let mut loss = |idx: usize, logprobs: &[f32]| {
            let of_row = Row {
                logprobs,
                behaviour: &group.behaviour[idx],
                reference: group.reference.get(idx).map(Vec::as_slice),
                advantage: advantages[row + idx],
            };
            let loss = row_loss(&config.loss, of_row, scales[row + idx]);
            stats.loss += loss.loss();
            stats.kl += loss.kl_sum / tokens;
            stats.log_ratio_max = stats.log_ratio_max.max(loss.log_ratio_max);
            stats.rollouts += 1;
            stats.tokens += u64::try_from(logprobs.len()).unwrap_or(u64::MAX);
            loss.gradient
        };
        let factors: Vec<f32> = scales[rows].iter().map(|scale| narrow(scale.entropy)).collect();
        let bonus = trainer.accumulate_with_entropy(&group.sequences, &factors, &mut loss, stop)?;
        stats.loss += bonus;
        if config.loss.entropy_coef > 0.0 {
            stats.entropy -= bonus / config.loss.entropy_coef;
        }
        heartbeat.beat();
        row += group.sequences.len();
    }
    Ok(stats)
}

#[expect(clippy::cast_possible_truncation, reason = "the engine takes factors in f32")]
fn narrow(x: f64) -> f32 {
    x as f32
}
