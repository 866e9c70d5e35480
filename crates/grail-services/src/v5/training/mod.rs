//! Training in the reference's profile: files of trusted miners, which nobody has validated, and
//! checkpoints that Python peers read.
//!
//! A checkpoint goes up as a delta on the one before it and at anchors whole as well, first whole.
//! Source: spec `checkpoints.md`, publishing. Better where no peer can mind: a delta is made and
//! signed on disk before the checkpoint counts as built, so that a trainer that is killed publishes
//! the same bytes again; every object is read back before the READY marker is written; changes are
//! found by their bits, so that every delta leads to its hash.

mod delta;
pub mod lesson;
mod retention;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use grail_ports::model::ModelInfo;
use grail_ports::reference::PromptForm;
use grail_ports::signer::Signer;
use grail_protocol::checkpoint::{CheckpointType, ReferenceMetadata, WEIGHTS_FILE};
use grail_protocol::ids::{Digest, Window};
use grail_protocol::v5::python::json::{self, Value};

use self::lesson::lesson;
use super::assignment::form_of_mode;
use super::checkpoints::{AssignmentSource, ReferenceEnvironments};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::cache::manifest_of;
use crate::checkpoint::reference::{DELTA_FILE, DELTA_METADATA_FILE};
use crate::checkpoint::weights::weights_hash;
use crate::peers::PeerDirectory;
use crate::state;
use crate::training::TrainingError;
use crate::training::config::TrainingConfig;
use crate::training::profile::{
    Lesson, TrainingProfile, TrainingSetup, Unsigned, or_whole, write_signed,
};
use crate::training::service::Training;

/// Trains and publishes for peers of the reference.
pub type ReferenceTraining = Training<ReferenceProfile>;

/// The reference's profile.
#[derive(Default)]
pub struct ReferenceProfile {
    /// What rows must fit, of the checkpoint that it was read from.
    info: Option<(Window, ModelInfo)>,
}

#[async_trait]
impl TrainingProfile for ReferenceProfile {
    const FOLDER: &'static str = "training-v5";
    const DELTA_FILES: &'static [&'static str] = &[DELTA_FILE, DELTA_METADATA_FILE];
    const HAS_MARKS: bool = true;

    fn prompt_form(config: &TrainingConfig) -> Option<PromptForm> {
        Some(form_of_mode(&config.thinking_mode))
    }

    async fn recover(
        &mut self,
        setup: &TrainingSetup,
        window: Window,
    ) -> Result<Option<PathBuf>, CheckpointError> {
        let environment = setup.environment.clone();
        let environments: ReferenceEnvironments = Arc::new(move |_, _, _| Ok(environment.clone()));
        let mut consumer = AssignmentSource::new(setup.ctx.clone(), environments);
        Ok(consumer.for_window(window).await?.map(|assignment| assignment.dir.clone()))
    }

    async fn lesson(
        &mut self,
        setup: &TrainingSetup,
        peers: &PeerDirectory,
        window: Window,
        (newest, dir): (Window, PathBuf),
    ) -> Result<Option<Lesson>, TrainingError> {
        let info = match &self.info {
            Some((of, info)) if *of == newest => info.clone(),
            _ => {
                let models = setup.ctx.models.clone();
                let info = blocking(move || models.load(&dir)).await?.info().clone();
                self.info.insert((newest, info)).1.clone()
            }
        };
        lesson(&setup.ctx, peers, window, &info, &setup.config.steps).await
    }

    async fn sign(&self, setup: &TrainingSetup, build: Unsigned) -> Result<(), TrainingError> {
        let (described, signer) = (describe(setup, &build)?, setup.ctx.signer.clone());
        blocking(move || sign(&build, described, &*signer)).await
    }

    async fn retire(
        &self,
        setup: &TrainingSetup,
        horizon: Window,
        before: Option<Window>,
        checkpoint: Window,
    ) -> Result<(), TrainingError> {
        if !retention::is_due(before, checkpoint) {
            return Ok(());
        }
        retention::retire(&*setup.ctx.buckets.own(), horizon).await
    }
}

/// Returns the metadata of a checkpoint but for its files and their hash.
fn describe(setup: &TrainingSetup, build: &Unsigned) -> Result<ReferenceMetadata, TrainingError> {
    let TrainingSetup { config, environment, .. } = setup;
    let parse = |text: String| {
        json::parse(&text).map_err(|error| TrainingError::Environment(error.to_string()))
    };
    let training_config = parse(config.published().to_string())?;
    let sampler = config.sampler;
    Ok(ReferenceMetadata {
        window: build.checkpoint,
        file_manifest: Vec::<(String, Digest)>::new(),
        config_hash: Some(ReferenceMetadata::hash_config(&training_config)),
        training_config,
        git_commit: config.git_commit.clone(),
        created_at: build.created_at,
        model_name: config.model_name.clone(),
        parent_window: Some(build.parent.map_or(0, |parent| parent.start().0)),
        checkpoint_type: Some(CheckpointType::Full),
        prev_window: None,
        anchor_window: None,
        weights_hash: None,
        env_id: environment.id().to_owned(),
        env_params: parse(environment.params_json())?,
        generation_params: Value::object([
            ("max_tokens", Value::Integer(i64::from(sampler.max_new_tokens))),
            ("temperature", Value::Float(f64::from(sampler.temperature))),
            ("top_p", Value::Float(1.0)),
            ("top_k", Value::Integer(0)),
            ("repetition_penalty", Value::Float(1.0)),
        ]),
        thinking_mode: config.thinking_mode.clone(),
    })
}

/// Signs a checkpoint, and its delta if there is one. Blocks.
fn sign(
    build: &Unsigned,
    described: ReferenceMetadata,
    signer: &dyn Signer,
) -> Result<(), TrainingError> {
    let Unsigned { checkpoint, dir, .. } = build;
    let weights_hash = Some(weights_hash(&[dir.join(WEIGHTS_FILE)])?);
    let manifest = manifest_of(dir)?;
    let file_manifest: Vec<(String, Digest)> =
        manifest.iter().map(|(name, digest)| (name.clone(), *digest)).collect();
    let metadata = ReferenceMetadata { file_manifest, weights_hash, ..described };
    let sign = |metadata: &ReferenceMetadata| metadata.sign(&|message| signer.sign(message));
    write_signed(dir, &sign(&metadata)?)?;
    let Some(base) = &build.base else { return Ok(()) };
    let made = or_whole(*checkpoint, delta::files(base, dir, &manifest));
    let Some(made) = made else { return Ok(()) };
    let signed = sign(&ReferenceMetadata {
        file_manifest: made.iter().map(|(name, it)| ((*name).into(), Digest::of(it))).collect(),
        checkpoint_type: Some(CheckpointType::Delta),
        prev_window: Some(base.window),
        anchor_window: Some(base.anchor),
        ..metadata
    })?;
    state::write_folder(&build.delta_dir, |dir| {
        for (name, content) in &made {
            state::write_file(&dir.join(name), content)?;
        }
        Ok(write_signed(dir, &signed)?)
    })
}
