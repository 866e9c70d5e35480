//! What a profile does its own way while a checkpoint is made: where rollouts come from, how a
//! checkpoint is described and signed, and what of it goes into the bucket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use grail_ports::environment::Environment;
use grail_ports::reference::PromptForm;
use grail_protocol::checkpoint::{CHECKPOINT_FILES, CheckpointType, SignedMetadata, WEIGHTS_FILE};
use grail_protocol::ids::{Digest, Window};
use grail_protocol::keys::{MANIFEST_SIGNATURE_FILE, METADATA_FILE};
use tracing::warn;

use super::TrainingError;
use super::config::TrainingConfig;
use super::pipeline::TrainingGroup;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::cache::manifest_of;
use crate::checkpoint::weights::WeightsError;
use crate::context::RunContext;
use crate::peers::PeerDirectory;
use crate::state::{self, StateError};

/// What a trainer was made with.
pub struct TrainingSetup {
    /// The ports.
    pub ctx: RunContext,
    /// The settings.
    pub config: TrainingConfig,
    /// The environment, which is published with every checkpoint.
    pub environment: Arc<dyn Environment>,
}

/// A window's rollouts, ready to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// The window.
    pub window: Window,
    /// Its groups; none when they teach nothing.
    pub groups: Vec<TrainingGroup>,
    /// Mean reward of all rollouts.
    pub reward_mean: f64,
}

/// A checkpoint that peers have and that a delta may start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaBase {
    /// The checkpoint.
    pub window: Window,
    /// Folder with its files; need not exist any more.
    pub dir: PathBuf,
    /// Checkpoint before it that is in the bucket whole.
    pub anchor: Window,
}

impl DeltaBase {
    /// Returns the files of the base, if a delta of the weights leads from there to the files
    /// `manifest`: everything else must be the same, and the base still be there. Blocks.
    pub(crate) fn leads_to(
        &self,
        manifest: &BTreeMap<String, Digest>,
    ) -> Result<Option<BTreeMap<String, Digest>>, StateError> {
        if !self.dir.join(WEIGHTS_FILE).exists() {
            return Ok(None);
        }
        let files = manifest_of(&self.dir)?;
        let is_same = |(name, digest): (&String, &Digest)| {
            name == WEIGHTS_FILE || files.get(name) == Some(digest)
        };
        let leads_there = manifest.iter().all(is_same);
        Ok(leads_there.then_some(files))
    }
}

/// A checkpoint whose files are written and that nothing describes yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsigned {
    /// The checkpoint.
    pub checkpoint: Window,
    /// Folder with its files.
    pub dir: PathBuf,
    /// Folder for what a delta publishes in their place; see [`TrainingProfile::sign`].
    pub delta_dir: PathBuf,
    /// Checkpoint that training went on from.
    pub parent: Option<Window>,
    /// What a delta starts from, if it can.
    pub base: Option<DeltaBase>,
    /// Time of the head when it was made, Unix seconds.
    pub created_at: f64,
}

/// An object of a published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// A file of the checkpoint's folder.
    File(&'static str),
    /// An object without content.
    Mark(&'static str),
}

/// A profile's steps of training.
#[async_trait]
pub trait TrainingProfile: Default + Send + Sync + 'static {
    /// Folder of the trainer below the role's.
    const FOLDER: &'static str;

    /// Files of a delta beside those that describe and sign it.
    const DELTA_FILES: &'static [&'static str];

    /// Whether an object without content names the kind of each checkpoint.
    const HAS_MARKS: bool;

    /// Returns how the prompts of miners are written; `None` is the model's own template.
    fn prompt_form(config: &TrainingConfig) -> Option<PromptForm>;

    /// Returns what a checkpoint of this kind consists of, in the order of the uploads: whoever sees
    /// the signature finds the rest.
    fn objects(kind: CheckpointType) -> Vec<Published> {
        let (files, mark) = match kind {
            CheckpointType::Full => (&CHECKPOINT_FILES[..], "FULL"),
            CheckpointType::Delta => (Self::DELTA_FILES, "DELTA"),
        };
        let files = files.iter().copied().map(Published::File);
        let mark = Self::HAS_MARKS.then_some(Published::Mark(mark));
        let last = [METADATA_FILE, MANIFEST_SIGNATURE_FILE].map(Published::File);
        files.chain(mark).chain(last).collect()
    }

    /// Loads the checkpoint of our own bucket that was ready before `window`, and returns its folder.
    ///
    /// # Errors
    /// When it cannot be had now.
    async fn recover(
        &mut self,
        setup: &TrainingSetup,
        window: Window,
    ) -> Result<Option<PathBuf>, CheckpointError>;

    /// Returns the rollouts of `window`, or nothing when nobody who is trusted has some. They must
    /// fit the model in the folder `newest`, that of the newest checkpoint.
    ///
    /// # Errors
    /// When the chain or a bucket fails.
    async fn lesson(
        &mut self,
        setup: &TrainingSetup,
        peers: &PeerDirectory,
        window: Window,
        newest: (Window, PathBuf),
    ) -> Result<Option<Lesson>, TrainingError>;

    /// Describes and signs a checkpoint, and a delta beside it where that leads to the same files and
    /// is smaller. A delta folder that is there was written whole.
    ///
    /// # Errors
    /// When the disk fails, or peers would refuse the description.
    async fn sign(&self, setup: &TrainingSetup, build: Unsigned) -> Result<(), TrainingError>;

    /// Removes checkpoints from our bucket that nobody needs in or after the window `horizon`, after
    /// `checkpoint` was published and `before` it another.
    ///
    /// # Errors
    /// When the bucket fails. What is left is removed another time.
    async fn retire(
        &self,
        setup: &TrainingSetup,
        horizon: Window,
        before: Option<Window>,
        checkpoint: Window,
    ) -> Result<(), TrainingError>;
}

/// Writes signed metadata into a folder. Blocks.
pub(crate) fn write_signed(dir: &Path, signed: &SignedMetadata) -> Result<(), StateError> {
    state::write_file(&dir.join(METADATA_FILE), signed.metadata_json.as_bytes())?;
    state::write_file(&dir.join(MANIFEST_SIGNATURE_FILE), signed.manifest_sig.as_bytes())
}

/// Returns the delta that was made. Where that failed, the checkpoint goes up whole, which needs none.
pub(crate) fn or_whole<T>(checkpoint: Window, made: Result<Option<T>, WeightsError>) -> Option<T> {
    made.unwrap_or_else(|error| {
        warn!(%checkpoint, %error, "no delta can be made; the checkpoint goes up whole");
        None
    })
}
