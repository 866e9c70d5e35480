//! The weights that cheaters run: made once, kept in the lab's folder, each a real model folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use grail_environments::rng::SplitMix64;
use grail_environments::split;
use grail_model::formats::config::ModelConfig;
use grail_model::perturb::{self, Grid};
use grail_ports::environment::Environment;
use grail_ports::model::{Model, ModelError, OptimizerConfig, Trainer};
use grail_services::state;
use grail_services::training::default_optimizer;
use grail_services::training::sft::{
    SftConfig, SftError, SftObserver, SftStep, example, fine_tune,
};

use super::rows::Variant;
use super::world::{World, WorldParts};

/// Relative noise on the weights.
const NOISE: f32 = 0.001;
/// Learning rate of the steps between checkpoints, usual in reinforcement learning.
const STALE_LR: f32 = 2e-6;
/// Steps after which a stale checkpoint is kept.
const STALE_STEPS: [u32; 4] = [1, 3, 10, 30];
/// Learning rate and steps of the fine-tune.
const FINE_TUNE: (f32, u32) = (5e-5, 24);
/// Examples in a step.
const BATCH: u32 = 8;

/// Returns the folder of a variant, which is made if it is not there.
pub fn folder(world: &World, variant: Variant) -> Result<PathBuf> {
    let parts = world.parts();
    if let (Variant::Smaller, Some(dir)) = (variant, &parts.smaller) {
        return Ok(dir.clone());
    }
    let dir = parts.models.join(name(variant));
    if dir.is_dir() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&parts.models)
        .with_context(|| format!("while making {}", parts.models.display()))?;
    let made = match variant {
        Variant::Noise | Variant::Smaller | Variant::Bits(_) => {
            perturbed(world, variant, &dir).map_err(Into::into)
        }
        Variant::FineTuned => train(world, FINE_TUNE.0, FINE_TUNE.1, &mut |step, trainer| {
            if step == FINE_TUNE.1 { export(trainer, &dir) } else { Ok(()) }
        }),
        Variant::Stale(_) => train(world, STALE_LR, STALE_STEPS[3], &mut |step, trainer| {
            let dir = parts.models.join(name(Variant::Stale(step)));
            if STALE_STEPS.contains(&step) && !dir.is_dir() {
                export(trainer, &dir)
            } else {
                Ok(())
            }
        }),
    };
    made.with_context(|| format!("while making {}", dir.display()))?;
    Ok(dir)
}

fn name(variant: Variant) -> String {
    match variant {
        Variant::Smaller => "smaller".to_owned(),
        Variant::FineTuned => "fine-tuned".to_owned(),
        Variant::Bits(bits) => format!("int{bits}"),
        Variant::Noise => "noise".to_owned(),
        Variant::Stale(steps) => format!("stale-{steps}"),
    }
}

/// Takes optimiser steps on right answers to the environment's problems.
fn train(
    world: &World,
    lr: f32,
    steps: u32,
    look: &mut dyn FnMut(u32, &dyn Trainer) -> Result<(), SftError>,
) -> Result<()> {
    let (parts, published) = (world.parts(), world.published());
    let mut trainer = world.verifier().model_trainer(&parts.base)?;
    let config = SftConfig {
        seed: parts.seed,
        steps,
        batch: BATCH,
        micro_batch: BATCH,
        warmup_steps: 0,
        lr_end: 1.0,
        optimizer: OptimizerConfig { lr, ..default_optimizer() },
        look_every: 1,
        steps_done: 0,
    };
    let (model, environment): (Arc<dyn Model>, Arc<dyn Environment>) =
        (published.model.clone(), published.environment.clone());
    let example_of = |seed| example(&*model, &*environment, seed, seed, None);
    let mut looker = Looker(look);
    fine_tune(&mut trainer, &config, &example_of, &training_seed, &mut looker, world.stop())?;
    Ok(())
}

struct Looker<'a>(&'a mut dyn FnMut(u32, &dyn Trainer) -> Result<(), SftError>);

impl SftObserver for Looker<'_> {
    fn stepped(&mut self, _: &SftStep) {}

    fn look(&mut self, step: u32, trainer: &dyn Trainer) -> Result<(), SftError> {
        (self.0)(step, trainer)
    }
}

/// Writes a folder that is there whole or not at all.
fn export(trainer: &dyn Trainer, dir: &Path) -> Result<(), SftError> {
    state::write_folder(dir, |dir: &Path| trainer.export(dir).map(drop).map_err(SftError::from))
}

/// Returns the seed of a training problem: never one that calibration may use.
fn training_seed(number: u64) -> u64 {
    let mut rng = SplitMix64::new(number);
    loop {
        let seed = rng.next_u64();
        if !split::is_held_out(seed) {
            return seed;
        }
    }
}

/// Makes weights that no training made. Quantisation is by groups of 32 weights, as good engines do
/// it: the finest grid, and the hardest to see.
fn perturbed(world: &World, variant: Variant, dir: &Path) -> Result<(), ModelError> {
    let WorldParts { base, seed, .. } = world.parts();
    match variant {
        Variant::Bits(bits) => perturb::quantize(base, dir, bits, Grid::Group32),
        Variant::Noise => perturb::noise(base, dir, NOISE, *seed),
        Variant::Smaller => {
            let config = ModelConfig::load(base)
                .map_err(|error| ModelError::Unloadable(error.to_string()))?;
            perturb::shorten(base, dir, (config.num_hidden_layers / 2).max(1))
        }
        Variant::FineTuned | Variant::Stale(_) => {
            let text = format!("{variant:?} is made by training");
            Err(ModelError::BadRequest(text))
        }
    }
}
