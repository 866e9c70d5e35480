//! `grail sft`: supervised training on an environment's own solutions, reproducible to the last bit.
//!
//! It makes the model that comes with the command, and starting models for other environments.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_environments::rng::SplitMix64;
use grail_environments::split;
use grail_ports::environment::Environment;
use grail_ports::model::{
    Model, ModelProvider, OptimizerConfig, StopFlag, Trainer, TrainingSequence,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::SftArgs;
use crate::config::Config;
use crate::engine;
use crate::exit::Outcome;
use crate::output;

/// Share of the steps over which the learning rate rises.
const WARMUP_SHARE: f32 = 0.05;
/// Share of the largest learning rate that is left at the end.
const FINAL_SHARE: f32 = 0.1;
/// Everything of the optimiser but the learning rate.
const OPTIMIZER: OptimizerConfig = OptimizerConfig {
    lr: 0.0,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.01,
    grad_clip: 1.0,
};

/// Does what the options ask for.
pub fn run(args: &SftArgs, config: &Config) -> Result<Outcome> {
    if args.steps == 0 || args.batch == 0 {
        bail!("--steps and --batch must be at least 1");
    }
    if !(args.lr.is_finite() && args.lr > 0.0) {
        bail!("--lr is {}; it must be above 0", args.lr);
    }
    if args.out.exists() {
        bail!("{} exists; remove it or name another folder", args.out.display());
    }
    let mut problems = config.environment.clone();
    problems.overlay(&args.environment);
    let environment = problems.create()?;

    // The folder lives until the end: trainer and tokenizer may read from it until then.
    let scratch = tempfile::tempdir().context("while making a temporary folder")?;
    let start = match &args.model {
        Some(dir) => dir.clone(),
        None => {
            let dir = scratch.path().join("new-model");
            grail_model::tiny::create(&dir, args.seed).context("while making the new model")?;
            dir
        }
    };
    let provider = engine::provider(config.engine)?;
    let data = Solutions { model: provider.load(&start)?, environment: environment.clone() };
    let mut trainer = provider.trainer(&start)?;
    train(&mut *trainer, &data, args)?;
    drop(data);

    let digest = trainer
        .export(&args.out)
        .with_context(|| format!("while writing {}", args.out.display()))?;
    output::line(&format!("wrote {}", args.out.display()))?;
    output::line(&format!("checkpoint digest {digest}"))?;
    if args.evaluate > 0 {
        evaluate(&*provider, &args.out, environment, args)?;
    }
    Ok(Outcome::Done)
}

/// Problems with their solutions, as token ids.
struct Solutions {
    model: Arc<dyn Model>,
    environment: Arc<dyn Environment>,
}

impl Solutions {
    /// Returns prompt, solution and end token of the problem of `seed`.
    fn sequence(&self, seed: u64) -> Result<TrainingSequence> {
        let Some(solution) = self.environment.solve(seed) else {
            bail!("environment {} knows no solutions to learn from", self.environment.id());
        };
        let mut tokens = self.model.render(&self.environment.prompt(seed))?;
        let prompt_len = tokens.len();
        tokens.extend(self.model.encode(&solution)?);
        let end = self.model.info().eos_token_ids.first();
        tokens.extend(end.context("the model has no token that ends a completion")?);
        Ok(TrainingSequence { tokens, prompt_len })
    }
}

fn train(trainer: &mut dyn Trainer, data: &Solutions, args: &SftArgs) -> Result<()> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}");
    let bar = ProgressBar::new(u64::from(args.steps))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let report_every = (args.steps / 20).max(1);
    let mut seeds = training_seeds(args.seed);
    for step in 0..args.steps {
        let batch: Vec<TrainingSequence> = seeds
            .by_ref()
            .take(usize::try_from(args.batch).context("--batch does not fit this machine")?)
            .map(|seed| data.sequence(seed))
            .collect::<Result<_>>()?;
        let loss = accumulate(trainer, &batch)?;
        let lr = learning_rate(args.lr, step, args.steps);
        let stats = trainer.step(&OptimizerConfig { lr, ..OPTIMIZER })?;
        if !stats.applied {
            bail!("step {step} has a gradient that is not finite; try a smaller --lr");
        }
        bar.inc(1);
        bar.set_message(format!("loss {loss:.4}"));
        if (step + 1).is_multiple_of(report_every) {
            bar.suspend(|| {
                output::line(&format!(
                    "step {:>6}  loss {loss:.4}  gradient norm {:.3}  learning rate {lr:.2e}",
                    step + 1,
                    stats.grad_norm
                ))
            })?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Adds the gradient of the mean cross-entropy of the solutions' tokens, and returns the mean.
fn accumulate(trainer: &mut dyn Trainer, batch: &[TrainingSequence]) -> Result<f64> {
    let n_tokens: usize =
        batch.iter().map(|sequence| sequence.tokens.len() - sequence.prompt_len).sum();
    // Exact: a batch has far fewer than 2^24 tokens, the bound of every sequence being smaller.
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^24")]
    let scale = 1.0 / n_tokens as f32;
    let mut total = 0.0;
    let mut gradient = |_: usize, logprobs: &[f32]| {
        total -= logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>();
        vec![-scale; logprobs.len()]
    };
    trainer.accumulate(batch, &mut gradient, &StopFlag::default())?;
    Ok(total * f64::from(scale))
}

/// Returns training seeds without end, none of them held out.
fn training_seeds(seed: u64) -> impl Iterator<Item = u64> {
    let mut rng = SplitMix64::new(seed);
    std::iter::repeat_with(move || rng.next_u64()).filter(|seed| !split::is_held_out(*seed))
}

/// Rises to `largest` over the first steps, then falls in a straight line to a tenth of it.
///
/// Straight lines, because a cosine from the platform's library may differ in the last bit.
#[expect(clippy::cast_precision_loss, reason = "a step count that rounds is no harm here")]
fn learning_rate(largest: f32, step: u32, steps: u32) -> f32 {
    let (step, steps) = (step as f32 + 1.0, steps as f32);
    let warmup = (steps * WARMUP_SHARE).max(1.0);
    if step < warmup {
        return largest * step / warmup;
    }
    let done = (step - warmup) / (steps - warmup).max(1.0);
    largest * (1.0 - (1.0 - FINAL_SHARE) * done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let rates: Vec<f32> = (0..1000).map(|step| learning_rate(1.0, step, 1000)).collect();
        assert_eq!(rates[0], 1.0 / 50.0);
        assert_eq!(rates[49], 1.0);
        assert!((rates[999] - 0.1).abs() < 1e-6);
        assert!(rates[..50].is_sorted() && rates[49..].is_sorted_by(|a, b| a >= b));
        assert!(learning_rate(1.0, 0, 1).is_finite());
    }

    #[test]
    fn training_seeds_follow_from_the_seed_and_are_never_held_out() {
        let seeds: Vec<u64> = training_seeds(1).take(100).collect();
        assert_eq!(seeds, training_seeds(1).take(100).collect::<Vec<_>>());
        assert_ne!(seeds[0], training_seeds(2).next().unwrap());
        assert!(seeds.iter().all(|seed| !split::is_held_out(*seed)));
    }
}
