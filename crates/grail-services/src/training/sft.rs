//! Supervised fine-tuning on an environment's own solutions, reproducible from a seed.
//!
//! It makes the model that a network starts from; training on rollouts goes on from there.

use grail_ports::environment::Environment;
use grail_ports::model::{Model, ModelError, OptimizerConfig, StopFlag, Trainer, TrainingSequence};
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::TokenId;

use super::default_optimizer;
use crate::math::cos_pi;
use crate::state::StateError;

/// Settings of a fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SftConfig {
    /// Decides the problems and their order.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: u32,
    /// Examples in a step, at least 1.
    pub batch: u32,
    /// Examples that go through the model at the same time, at least 1; bounds memory.
    pub micro_batch: u32,
    /// Steps in which the learning rate rises from 0.
    pub warmup_steps: u32,
    /// Learning rate at the end as a share of the highest, 0 to 1.
    pub lr_end: f32,
    /// Optimiser; its `lr` is the highest learning rate.
    pub optimizer: OptimizerConfig,
    /// Steps between two looks at the model; 0 never looks.
    pub look_every: u32,
    /// Steps that the trainer has taken already; the others follow.
    pub steps_done: u32,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 1000,
            batch: 64,
            micro_batch: 16,
            warmup_steps: 50,
            lr_end: 0.02,
            optimizer: OptimizerConfig { lr: 1e-3, ..default_optimizer() },
            look_every: 0,
            steps_done: 0,
        }
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SftStep {
    /// Step, 1-based.
    pub step: u32,
    /// Steps altogether.
    pub steps: u32,
    /// Mean negative log-probability of the answers' tokens before the step, nats.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f32,
    /// Global gradient norm before clipping.
    pub grad_norm: f32,
    /// Answer tokens of the step.
    pub tokens: u64,
}

/// Why fine-tuning ended early.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SftError {
    /// The model failed or was stopped.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The environment has no solutions to learn from.
    #[error("environment {0} knows no answer to its problems; choose another for fine-tuning")]
    NoSolution(String),
    /// The folder of an interrupted run failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// An interrupted run cannot go on as another one.
    #[error(
        "{0} holds a run with other settings or another starting model; give the same options, or \
         remove it"
    )]
    OtherSettings(String),
}

/// Who is told how fine-tuning goes.
pub trait SftObserver {
    /// Takes note of a step.
    fn stepped(&mut self, step: &SftStep);

    /// Looks at the model after `step` steps; see [`SftConfig::look_every`].
    ///
    /// # Errors
    /// An error ends the fine-tuning.
    fn look(&mut self, step: u32, trainer: &dyn Trainer) -> Result<(), SftError>;
}

/// Returns the sequence of the prompt of the problem of `seed`, the answer to the problem of
/// `answer_seed` (the same, but for [`answer_seed`]) and the end token.
///
/// `model` renders and encodes; its weights do not matter. Without `end`, the first of the model's
/// end tokens is taken.
pub fn example(
    model: &dyn Model,
    environment: &dyn Environment,
    seed: u64,
    answer_seed: u64,
    end: Option<TokenId>,
) -> Result<TrainingSequence, SftError> {
    let Some(answer) = environment.solve(answer_seed) else {
        return Err(SftError::NoSolution(environment.id().to_owned()));
    };
    let mut tokens = model.render(&environment.prompt(seed))?;
    let prompt_len = tokens.len();
    tokens.extend(model.encode(&answer)?);
    tokens.extend(end.or_else(|| model.info().eos_token_ids.first().copied()));
    Ok(TrainingSequence { tokens, prompt_len })
}

/// Returns whose problem's answer the problem of `seed` is taught with: its own, or, for a share
/// `wrong_answers` (0 to 1) of all seeds, another one's.
///
/// A teacher that errs leaves a model that knows the right answer and is not sure of it: a start
/// that rewards, and nothing else, can mend. Another problem's answer is right now and then.
pub fn answer_seed(seed: u64, wrong_answers: f32) -> u64 {
    let hash = DomainHash::new("sft-wrong-answer").u64(seed).finish();
    let word = |at: usize| {
        let bytes = hash.0[at..at + 8].try_into().expect("a digest holds four words of 8 bytes");
        u64::from_le_bytes(bytes)
    };
    // 24 bits are a float exactly, so every machine draws the same line.
    #[expect(clippy::cast_precision_loss, reason = "24 bits are exact")]
    let draw = (word(0) >> 40) as f32 / 16_777_216.0;
    if draw < wrong_answers { word(8) } else { seed }
}

/// Fine-tunes. Blocks.
///
/// `seed_of` gives the seed of the problem with a number, 0-based; the numbers come from
/// [`SftConfig::seed`], and the caller sees to it that held-out problems are not among the seeds.
/// `example_of` turns a seed into a sequence, usually through [`example`].
///
/// # Errors
/// After [`ModelError::Stopped`] the trainer is as it was after the last step that `observer` saw.
pub fn fine_tune(
    trainer: &mut dyn Trainer,
    config: &SftConfig,
    example_of: &dyn Fn(u64) -> Result<TrainingSequence, SftError>,
    seed_of: &dyn Fn(u64) -> u64,
    observer: &mut dyn SftObserver,
    stop: &StopFlag,
) -> Result<(), SftError> {
    for step in config.steps_done.saturating_add(1)..=config.steps {
        let examples = batch_of(config, step)
            .map(|number| example_of(seed_of(number)))
            .collect::<Result<Vec<_>, _>>()?;
        let lr = learning_rate(config, step);
        let (loss, tokens) = accumulate(trainer, config, &examples, stop)?;
        // Never stopped here: the gradients are there, and a step takes a moment.
        let settings = OptimizerConfig { lr, ..config.optimizer };
        let stats = trainer.step(&settings, &StopFlag::default())?;
        let grad_norm = stats.grad_norm;
        observer.stepped(&SftStep { step, steps: config.steps, loss, lr, grad_norm, tokens });
        if config.look_every > 0 && step.is_multiple_of(config.look_every) {
            observer.look(step, trainer)?;
        }
    }
    Ok(())
}

/// Returns the numbers of the problems of a step.
fn batch_of(config: &SftConfig, step: u32) -> impl Iterator<Item = u64> {
    let seed = config.seed;
    (0..config.batch.max(1)).map(move |row| {
        let hash = DomainHash::new("sft").u64(seed).u32(step).u32(row).finish();
        let (head, _) = hash.0.split_first_chunk().expect("a digest has 32 bytes");
        u64::from_le_bytes(*head)
    })
}

/// Adds the gradients of the mean negative log-probability; returns it and the number of tokens.
fn accumulate(
    trainer: &mut dyn Trainer,
    config: &SftConfig,
    examples: &[TrainingSequence],
    stop: &StopFlag,
) -> Result<(f64, u64), ModelError> {
    let count = |it: &TrainingSequence| it.tokens.len().saturating_sub(it.prompt_len);
    let tokens: usize = examples.iter().map(count).sum();
    #[expect(clippy::cast_precision_loss, reason = "a step has far fewer than 2^53 tokens")]
    let scale = 1.0 / tokens.max(1) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "the engine takes gradients in f32")]
    let gradient = -scale as f32;
    let mut sum = 0.0;
    let micro_batch = usize::try_from(config.micro_batch.max(1)).unwrap_or(usize::MAX);
    for sequences in examples.chunks(micro_batch) {
        let mut loss = |_: usize, logprobs: &[f32]| {
            sum -= logprobs.iter().map(|lp| f64::from(*lp)).sum::<f64>();
            vec![gradient; logprobs.len()]
        };
        trainer.accumulate(sequences, &mut loss, stop)?;
    }
    Ok((sum * scale, u64::try_from(tokens).unwrap_or(u64::MAX)))
}

/// Returns the learning rate of a step, 1-based: a straight rise, then half a cosine.
pub fn learning_rate(config: &SftConfig, step: u32) -> f32 {
    let highest = f64::from(config.optimizer.lr);
    let end = f64::from(config.lr_end.clamp(0.0, 1.0));
    let factor = if step <= config.warmup_steps {
        f64::from(step) / f64::from(config.warmup_steps.max(1))
    } else {
        let length = config.steps.saturating_sub(config.warmup_steps).max(1);
        let gone = f64::from(step - config.warmup_steps) / f64::from(length);
        end + (1.0 - end) * 0.5 * (1.0 + cos_pi(gone))
    };
    #[expect(clippy::cast_possible_truncation, reason = "the optimiser takes f32")]
    let lr = (highest * factor) as f32;
    lr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls() {
        let config = SftConfig {
            steps: 110,
            warmup_steps: 10,
            lr_end: 0.1,
            optimizer: OptimizerConfig { lr: 1.0, ..default_optimizer() },
            ..SftConfig::default()
        };
        for (step, expected) in [(1, 0.1), (5, 0.5), (10, 1.0), (60, 0.55), (110, 0.1)] {
            let lr = learning_rate(&config, step);
            assert!((lr - expected).abs() < 1e-6, "step {step}: {lr}, expected {expected}");
        }
        let rates: Vec<f32> = (10..=110).map(|step| learning_rate(&config, step)).collect();
        assert!(rates.windows(2).all(|pair| pair[0] > pair[1]));
        let no_warmup = SftConfig { warmup_steps: 0, steps: 1, ..config };
        assert!((learning_rate(&no_warmup, 1) - 0.1).abs() < 1e-6);
    }

    #[test]
    fn a_teacher_errs_as_often_as_asked() {
        for (share, low, high) in [(0.0, 0, 0), (0.25, 2_300, 2_700), (1.0, 10_000, 10_000)] {
            let wrong = (0..10_000).filter(|&seed| answer_seed(seed, share) != seed).count();
            assert!((low..=high).contains(&wrong), "{wrong} of 10,000 at {share}");
        }
    }

    #[test]
    fn batches_depend_on_seed_and_step_alone() {
        let config = SftConfig { batch: 8, ..SftConfig::default() };
        let batch = |config: &SftConfig, step| batch_of(config, step).collect::<Vec<_>>();
        assert_eq!(batch(&config, 3), batch(&config, 3));
        assert_ne!(batch(&config, 3), batch(&config, 4));
        assert_ne!(batch(&config, 3), batch(&SftConfig { seed: 1, ..config }, 3));
        assert_eq!(batch(&config, 3).len(), 8);
    }
}
