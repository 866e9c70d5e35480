//! Training in the native profile: rollouts that a validator vouches for, entropy-coded deltas.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use grail_ports::model::ModelError;
use grail_ports::reference::PromptForm;
use grail_ports::signer::Signer;
use grail_protocol::checkpoint::{
    CheckpointMetadata, CheckpointType, DELTA_FILE, DeltaRecord, GenerationParams, WEIGHTS_FILE,
    checkpoint_digest, sign_metadata,
};
use grail_protocol::constants::PROTOCOL_NAME;
use grail_protocol::ids::{BlockNumber, Digest, Window};
use tracing::warn;

use super::config::TrainingConfig;
use super::profile::{
    DeltaBase, Lesson, TrainingProfile, TrainingSetup, Unsigned, or_whole, write_signed,
};
use super::{TrainingError, pipeline, publisher, rollouts};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::cache::manifest_of;
use crate::checkpoint::consumer::{CheckpointConsumer, Runtimes};
use crate::checkpoint::weights::{WeightsError, native_delta, weights_hash};
use crate::checkpoint::whitening;
use crate::peers::PeerDirectory;
use crate::state;

/// The native profile.
#[derive(Default)]
pub struct NativeTraining;

#[async_trait]
impl TrainingProfile for NativeTraining {
    const FOLDER: &'static str = "training";
    const DELTA_FILES: &'static [&'static str] = &[DELTA_FILE];
    const HAS_MARKS: bool = false;

    fn prompt_form(_: &TrainingConfig) -> Option<PromptForm> {
        None
    }

    async fn recover(
        &mut self,
        setup: &TrainingSetup,
        window: Window,
    ) -> Result<Option<PathBuf>, CheckpointError> {
        let mut consumer = CheckpointConsumer::new(setup.ctx.clone(), Runtimes::Published);
        Ok(consumer.for_window(window).await?.map(|loaded| loaded.dir.clone()))
    }

    async fn lesson(
        &mut self,
        setup: &TrainingSetup,
        peers: &PeerDirectory,
        window: Window,
        _newest: (Window, PathBuf),
    ) -> Result<Option<Lesson>, TrainingError> {
        let TrainingSetup { ctx, config, .. } = setup;
        let metagraph = ctx.chain.metagraph().await?;
        let at_most = config.validators_trusted;
        let validators = rollouts::trusted_validators(&metagraph, ctx.hotkey(), at_most);
        let Some(file) = rollouts::fetch(ctx, peers, &validators, window).await? else {
            return Ok(None);
        };
        let (reward_mean, steps) = (pipeline::reward_mean(&file), config.steps);
        let groups = blocking(move || pipeline::prepare(&file, &steps)).await;
        Ok(Some(Lesson { window, groups, reward_mean }))
    }

    async fn sign(&self, setup: &TrainingSetup, build: Unsigned) -> Result<(), TrainingError> {
        let TrainingSetup { ctx, .. } = setup;
        let (models, dir) = (ctx.models.clone(), build.dir.clone());
        let model = blocking(move || models.load(&dir)).await?;
        let mut described = describe(setup, &build, &model.info().numerics)?;
        let stop = ctx.stop.clone();
        described.whitening = match blocking(move || whitening::measure(&*model, &stop)).await {
            Ok(record) => Some(record),
            Err(ModelError::Stopped) => return Err(ModelError::Stopped.into()),
            // Exact miners do not need it, and the network must not wait for those who do.
            Err(error) => {
                let checkpoint = build.checkpoint;
                warn!(%checkpoint, %error, "published without whitening: exact engines alone can mine");
                None
            }
        };
        ctx.heartbeat.beat();
        let signer = ctx.signer.clone();
        blocking(move || sign(&build, described, &*signer)).await
    }

    async fn retire(
        &self,
        setup: &TrainingSetup,
        horizon: Window,
        _before: Option<Window>,
        _checkpoint: Window,
    ) -> Result<(), TrainingError> {
        publisher::retire(&*setup.ctx.buckets.own(), |keys| publisher::expendable(keys, horizon))
            .await
    }
}

/// Returns the metadata of a checkpoint but for its files and its whitening.
fn describe(
    setup: &TrainingSetup,
    build: &Unsigned,
    numerics: &str,
) -> Result<CheckpointMetadata, TrainingError> {
    let TrainingSetup { config, environment, .. } = setup;
    let training_config = config.published();
    let env_params = serde_json::from_str(&environment.params_json())
        .map_err(|error| TrainingError::Environment(error.to_string()))?;
    Ok(CheckpointMetadata {
        window: build.checkpoint,
        file_manifest: BTreeMap::new(),
        config_hash: CheckpointMetadata::hash_config(&training_config),
        training_config,
        git_commit: config.git_commit.clone(),
        created_at: build.created_at,
        model_name: config.model_name.clone(),
        parent_window: build.parent.unwrap_or(Window::containing(BlockNumber(0))),
        checkpoint_type: CheckpointType::Full,
        prev_window: None,
        anchor_window: None,
        weights_hash: None,
        delta: None,
        env_id: environment.id().to_owned(),
        env_params,
        generation_params: GenerationParams::new(config.sampler),
        thinking_mode: config.thinking_mode.clone(),
        protocol: PROTOCOL_NAME.to_owned(),
        numerics: numerics.to_owned(),
        checkpoint_digest: Digest([0; 32]),
        whitening: None,
    })
}

/// Signs a checkpoint, and its delta if there is one. Blocks.
fn sign(
    build: &Unsigned,
    described: CheckpointMetadata,
    signer: &dyn Signer,
) -> Result<(), TrainingError> {
    let file_manifest = manifest_of(&build.dir)?;
    let hash = weights_hash(&[build.dir.join(WEIGHTS_FILE)])?;
    let metadata = CheckpointMetadata {
        checkpoint_digest: checkpoint_digest(&file_manifest),
        file_manifest,
        weights_hash: Some(hash.to_string()),
        ..described
    };
    let sign =
        |metadata: &CheckpointMetadata| sign_metadata(metadata, &|message| signer.sign(message));
    write_signed(&build.dir, &sign(&metadata)?)?;
    let Some(base) = &build.base else { return Ok(()) };
    let made = delta(&build.dir, base, &metadata);
    let Some((delta, base_digest)) = or_whole(build.checkpoint, made) else { return Ok(()) };
    let record = DeltaRecord { file: Digest::of(&delta), base: base_digest };
    let signed = sign(&CheckpointMetadata {
        checkpoint_type: CheckpointType::Delta,
        prev_window: Some(base.window),
        anchor_window: Some(base.anchor),
        delta: Some(record),
        ..metadata
    })?;
    state::write_folder(&build.delta_dir, |dir| {
        state::write_file(&dir.join(DELTA_FILE), &delta)?;
        Ok(write_signed(dir, &signed)?)
    })
}

/// Returns the delta to a checkpoint with the digest of its base; nothing where a delta cannot lead to
/// the same files, or would not be smaller than they are.
fn delta(
    dir: &Path,
    base: &DeltaBase,
    metadata: &CheckpointMetadata,
) -> Result<Option<(Vec<u8>, Digest)>, WeightsError> {
    let Some(base_files) = base.leads_to(&metadata.file_manifest)? else { return Ok(None) };
    let weights = dir.join(WEIGHTS_FILE);
    let full = std::fs::metadata(&weights).map_err(state::disk("inspect", &weights))?.len();
    let delta = native_delta(&base.dir.join(WEIGHTS_FILE), &weights)?;
    let delta = delta.filter(|delta| (delta.len() as u64) < full);
    Ok(delta.map(|delta| (delta, checkpoint_digest(&base_files))))
}
