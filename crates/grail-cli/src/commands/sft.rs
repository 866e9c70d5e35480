//! `grail sft`: supervised training on an environment's own solutions, reproducible to the last bit.
//!
//! It makes the model that comes with the command, and starting models for other environments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_environments::rng::SplitMix64;
use grail_environments::split;
use grail_model::{LoraConfig, TrainerConfig};
use grail_neurons::signals::cancel_on_signal;
use grail_ports::environment::Environment;
use grail_ports::model::{Model, ModelError, ModelProvider, OptimizerConfig, StopFlag, Trainer};
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::Digest;
use grail_services::context::Heartbeat;
use grail_services::training::evaluation::evaluate;
use grail_services::training::sft::{
    SftConfig, SftError, SftObserver, SftStep, answer_seed, example, fine_tune,
};
use grail_services::training::sft_state::SftState;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

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
    for dir in std::iter::once(&args.out).chain(&args.adapter) {
        if dir.exists() {
            bail!("{} exists; remove it or name another folder", dir.display());
        }
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
    let bounds = TrainerConfig { lora: lora(args), ..config.training.trainer() };
    let provider = engine::exact_provider(config.engine, bounds)?;
    let model = provider.load(&start)?;
    let mut trainer = provider.model_trainer(&start)?;
    let state = SftState::new(state_folder(&args.out), settings(args, &*model, &*environment));
    let done =
        if args.resume { state.load(&mut trainer)? } else { refuse_left_over(&state, args)? };
    let run = Run { model: &*model, environment: &*environment, state: &state, args };
    run.train(&mut trainer, done)?;
    drop(model);

    let digest = trainer
        .export(&args.out)
        .with_context(|| format!("while writing {}", args.out.display()))?;
    output::line(&format!("wrote {} with checkpoint digest {digest}", args.out.display()))?;
    if let Some(adapter) = &args.adapter {
        trainer
            .export_adapter(adapter)
            .with_context(|| format!("while writing {}", adapter.display()))?;
        output::line(&format!("wrote the adapter {}", adapter.display()))?;
    }
    state.remove()?;
    if args.evaluate > 0 {
        measure(&*provider, &args.out, &environment, args, config)?;
    }
    Ok(Outcome::Done)
}

/// Returns how pairs are trained, if they are.
fn lora(args: &SftArgs) -> Option<LoraConfig> {
    let (alpha, targets, seed) = (args.lora_alpha, args.lora_targets, args.seed);
    args.lora_rank.map(|rank| LoraConfig { rank, alpha, targets, seed })
}

/// Returns where the state of the run that makes `out` is kept.
fn state_folder(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".state");
    PathBuf::from(name)
}

/// Returns the digest of everything that the result depends on.
fn settings(args: &SftArgs, model: &dyn Model, environment: &dyn Environment) -> Digest {
    DomainHash::new("sft-settings")
        .digest(&model.info().checkpoint_digest)
        .text(environment.id())
        .text(&environment.params_json())
        .u64(args.seed)
        .u32(args.steps)
        .u32(args.batch)
        .f32(args.lr)
        .f32(args.wrong_answers)
        .text(&args.lora_rank.map_or(String::new(), |rank| {
            format!("{rank} {} {}", args.lora_alpha, args.lora_targets)
        }))
        .finish()
}

/// Returns that no step was taken, if no earlier run left anything.
fn refuse_left_over(state: &SftState, args: &SftArgs) -> Result<u32> {
    if state.exists()? {
        bail!(
            "{} holds an interrupted run; go on with --resume, or remove it",
            state_folder(&args.out).display()
        );
    }
    Ok(0)
}

/// One fine-tuning.
struct Run<'a> {
    model: &'a dyn Model,
    environment: &'a dyn Environment,
    state: &'a SftState,
    args: &'a SftArgs,
}

impl Run<'_> {
    /// Takes the steps after the first `done`. Ctrl-C keeps the state and is an error.
    fn train(&self, trainer: &mut dyn Trainer, done: u32) -> Result<()> {
        let args = self.args;
        let defaults = SftConfig::default();
        let config = SftConfig {
            seed: args.seed,
            steps: args.steps,
            batch: args.batch,
            warmup_steps: args.steps / WARMUP_SHARE,
            optimizer: OptimizerConfig { lr: args.lr, ..defaults.optimizer },
            look_every: args.save_every,
            steps_done: done,
            ..defaults
        };
        if done > 0 {
            output::line(&format!("going on after step {done}"))?;
        }
        let (signals, stop) = stop_on_signal()?;
        let mut progress = Progress::new(self.state, &config);
        let example_of = |seed| {
            let answer_seed = answer_seed(seed, args.wrong_answers);
            example(self.model, self.environment, seed, answer_seed, None)
        };
        let ended = fine_tune(trainer, &config, &example_of, &training_seed, &mut progress, &stop);
        drop(signals);
        let done = progress.end()?;
        if ended == Err(SftError::Model(ModelError::Stopped)) {
            self.state.save(done, trainer)?;
            bail!("stopped after step {done}; the same command with --resume goes on");
        }
        Ok(ended?)
    }
}

/// Raises the flag on Ctrl-C or SIGTERM, as long as the runtime lives.
pub(super) fn stop_on_signal() -> Result<(Runtime, StopFlag)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("while starting the runtime")?;
    let (token, stop) = (CancellationToken::new(), StopFlag::default());
    let guard = runtime.enter();
    cancel_on_signal(token.clone()).context("while installing signal handlers")?;
    drop(guard);
    let flag = stop.clone();
    runtime.spawn(async move {
        token.cancelled().await;
        flag.stop();
    });
    Ok((runtime, stop))
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

/// A bar on a terminal, a line now and then everywhere, and the state on the disk.
struct Progress<'a> {
    state: &'a SftState,
    bar: ProgressBar,
    /// Steps taken.
    done: u32,
    report_every: u32,
    /// The first failure to write a line.
    trouble: Option<std::io::Error>,
}

impl<'a> Progress<'a> {
    fn new(state: &'a SftState, config: &SftConfig) -> Self {
        let (steps, done) = (config.steps, config.steps_done);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}");
        let bar = ProgressBar::new(u64::from(steps))
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(u64::from(done));
        Self { state, bar, done, report_every: (steps / REPORTS).max(1), trouble: None }
    }

    /// Returns the number of steps taken.
    fn end(self) -> Result<u32> {
        self.bar.finish_and_clear();
        match self.trouble {
            Some(error) => Err(error).context("while writing the progress"),
            None => Ok(self.done),
        }
    }
}

impl SftObserver for Progress<'_> {
    fn stepped(&mut self, step: &SftStep) {
        self.done = step.step;
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

    fn look(&mut self, step: u32, trainer: &dyn Trainer) -> Result<(), SftError> {
        self.state.save(step, trainer)
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
        None,
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
