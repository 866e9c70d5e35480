//! `grail sft`: supervised training on an environment's own solutions, reproducible to the last bit.
//!
//! It makes the model that comes with the command, and starting models for other environments.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_environments::rng::SplitMix64;
use grail_environments::split;
use grail_ports::environment::Environment;
use grail_ports::model::{Model, ModelProvider, OptimizerConfig, StopFlag, Trainer};
use grail_services::context::Heartbeat;
use grail_services::training::evaluation::evaluate;
use grail_services::training::sft::{
    SftConfig, SftError, SftObserver, SftStep, answer_seed, example, fine_tune,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::localnet::crew::held_out;
use crate::cli::SftArgs;
use crate::config::Config;
use crate::engine;
use crate::exit::Outcome;
use crate::output;

/// One step in so many warms the learning rate up.
const WARMUP_SHARE: u32 = 20;
/// Lines that tell about the loss on the way.
const REPORTS: u32 = 20;

/// Does what the options ask for.
pub fn run(args: &SftArgs, config: &Config) -> Result<Outcome> {
    if args.steps == 0 || args.batch == 0 {
        bail!("--steps and --batch must be at least 1");
    }
    if !(args.lr.is_finite() && args.lr > 0.0) {
        bail!("--lr is {}; it must be above 0", args.lr);
    }
    if !(0.0..=1.0).contains(&args.wrong_answers) {
        bail!("--wrong-answers is {}; it is a share, 0 to 1", args.wrong_answers);
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
    let model = provider.load(&start)?;
    let mut trainer = provider.trainer(&start)?;
    train(&mut *trainer, &*model, &*environment, args)?;
    drop(model);

    let digest = trainer
        .export(&args.out)
        .with_context(|| format!("while writing {}", args.out.display()))?;
    output::line(&format!("wrote {} with checkpoint digest {digest}", args.out.display()))?;
    if args.evaluate > 0 {
        measure(&*provider, &args.out, &environment, args, config)?;
    }
    Ok(Outcome::Done)
}

fn train(
    trainer: &mut dyn Trainer,
    model: &dyn Model,
    environment: &dyn Environment,
    args: &SftArgs,
) -> Result<()> {
    let defaults = SftConfig::default();
    let config = SftConfig {
        seed: args.seed,
        steps: args.steps,
        batch: args.batch,
        warmup_steps: args.steps / WARMUP_SHARE,
        optimizer: OptimizerConfig { lr: args.lr, ..defaults.optimizer },
        look_every: 0,
        ..defaults
    };
    let mut progress = Progress::new(args.steps);
    let example_of =
        |seed| example(model, environment, seed, answer_seed(seed, args.wrong_answers), None);
    fine_tune(trainer, &config, &example_of, &training_seed, &mut progress, &StopFlag::default())?;
    progress.end()
}

/// Returns the seed of a training problem: never a held-out one.
fn training_seed(number: u64) -> u64 {
    let mut rng = SplitMix64::new(number);
    loop {
        let seed = rng.next_u64();
        if !split::is_held_out(seed) {
            return seed;
        }
    }
}

/// A bar on a terminal, and a line now and then everywhere.
struct Progress {
    bar: ProgressBar,
    report_every: u32,
    /// The first failure to write a line.
    trouble: Option<std::io::Error>,
}

impl Progress {
    fn new(steps: u32) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}");
        let bar = ProgressBar::new(u64::from(steps))
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, report_every: (steps / REPORTS).max(1), trouble: None }
    }

    fn end(self) -> Result<()> {
        self.bar.finish_and_clear();
        self.trouble.map_or(Ok(()), |error| Err(error).context("while writing the progress"))
    }
}

impl SftObserver for Progress {
    fn stepped(&mut self, step: &SftStep) {
        self.bar.inc(1);
        self.bar.set_message(format!("loss {:.4}", step.loss));
        if step.step.is_multiple_of(self.report_every) {
            let line = format!(
                "step {:>6}  loss {:.4}  gradient norm {:.3}  learning rate {:.2e}",
                step.step, step.loss, step.grad_norm, step.lr
            );
            if let Err(error) = self.bar.suspend(|| output::line(&line)) {
                self.trouble.get_or_insert(error);
            }
        }
    }

    fn look(&mut self, _: u32, _: &dyn Trainer) -> Result<(), SftError> {
        Ok(())
    }
}

/// Measures the finished model the way a trainer measures its checkpoints.
fn measure(
    provider: &dyn ModelProvider,
    dir: &Path,
    environment: &Arc<dyn Environment>,
    args: &SftArgs,
    config: &Config,
) -> Result<()> {
    let model = provider.load(dir)?;
    let held_out = held_out(config.localnet.seed, args.evaluate);
    let result = evaluate(
        &*model,
        &**environment,
        config.sampler(),
        &held_out,
        &StopFlag::default(),
        &Heartbeat::default(),
    )?;
    output::line(&format!(
        "pass@1 {:.1} % on {} held-out problems, mean reward {:.3}",
        result.pass_at_1() * 100.0,
        result.problems,
        result.reward_mean()
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_seeds_follow_from_the_number_and_are_never_held_out() {
        let seeds: Vec<u64> = (0..100).map(training_seed).collect();
        assert_eq!(seeds, (0..100).map(training_seed).collect::<Vec<_>>());
        assert!(seeds.iter().all(|seed| !split::is_held_out(*seed)));
        assert_ne!(seeds[0], seeds[1]);
    }
}
