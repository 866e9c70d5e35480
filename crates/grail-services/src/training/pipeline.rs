//! The straight line from validated rollouts to optimiser steps. Blocks; no ports but the trainer.

use grail_ports::model::{ModelError, OptimizerConfig, StopFlag, Trainer, TrainingSequence};
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
        advantages: advantages(estimator, &rewards(group)),
    }
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
    let per_step = usize::try_from(config.groups_per_step.max(1)).unwrap_or(usize::MAX);
    for epoch in 0..config.epochs.max(1) {
        for batch in groups.chunks(per_step) {
            let before = accumulate(trainer, batch, config, stop, heartbeat)?;
            let step = trainer.step(&config.optimizer, stop)?;
            if losses.is_empty() {
                stats.first_log_ratio_max = before.log_ratio_max;
            }
            losses.push(before.loss);
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
    Ok(stats)
}

/// What one step's batch says of the weights before the step.
#[derive(Default)]
struct BatchStats {
    loss: f64,
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
    let scales = row_scales(&config.loss, &lengths, lengths.iter().sum());
    let mut advantages: Vec<f64> =
        batch.iter().flat_map(|group| group.advantages.iter().copied()).collect();
    clip_advantages(&mut advantages, config.loss.advantage_percentile);
    let mut stats = BatchStats::default();
    let mut row = 0;
    // Group by group: memory is bounded by one group, and the order of sums is fixed.
    for group in batch {
        let mut loss = |idx: usize, logprobs: &[f32]| {
            let (behaviour, advantage) = (group.behaviour[idx].as_slice(), advantages[row + idx]);
            let row_of = Row { logprobs, behaviour, reference: None, advantage };
            let loss = row_loss(&config.loss, row_of, scales[row + idx]);
            stats.loss += loss.loss();
            stats.log_ratio_max = stats.log_ratio_max.max(loss.log_ratio_max);
            stats.rollouts += 1;
            stats.tokens += u64::try_from(logprobs.len()).unwrap_or(u64::MAX);
            loss.gradient
        };
        trainer.accumulate(&group.sequences, &mut loss, stop)?;
        heartbeat.beat();
        row += group.sequences.len();
    }
    Ok(stats)
}
