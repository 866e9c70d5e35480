//! Loads the reference's checkpoint for a window: metadata, files, environment.
//!
//! Full checkpoints alone, by the slow path; the signature and every digest are verified. A
//! checkpoint of another protocol is an error that says which, and the role waits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use grail_ports::environment::Environment;
use grail_ports::events::Event;
use grail_ports::object_store::ObjectStore;
use grail_ports::reference::PromptForm;
use grail_protocol::checkpoint::{
    CheckpointError as MetadataError, Protocol, Published, ReferenceMetadata, SignedFiles, Unsigned,
};
use grail_protocol::constants::CHECKPOINT_METADATA_BYTES_MAX;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, METADATA_FILE};
use grail_protocol::v5::python::json;
use grail_protocol::v5::python::print::{Keys, to_json};
use tokio::time::Instant;
use tracing::warn;

use super::assignment::Assignment;
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::cache::{MANIFEST_SIGNATURE_BYTES_MAX, file_bytes_max, file_digest};
use crate::context::RunContext;
use crate::peers::PeerDirectory;
use crate::state::{self, disk};

/// Makes the environment that a checkpoint names by id, parameters (JSON) and thinking mode, or says
/// why not.
pub type ReferenceEnvironments =
    Arc<dyn Fn(&str, &str, &str) -> Result<Arc<dyn Environment>, String> + Send + Sync>;

/// Cached checkpoints that are kept.
const CACHED_MAX: usize = 3;

/// Chooses, downloads and loads checkpoints of the reference for one role.
pub struct ReferenceConsumer {
    ctx: RunContext,
    environments: ReferenceEnvironments,
    folder: PathBuf,
    peers: PeerDirectory,
    /// With the trainer that signed it: another one may reuse a window's name.
    loaded: Option<(Hotkey, Arc<Assignment>)>,
}

impl ReferenceConsumer {
    /// Makes a consumer with its cache in the role's folder; no I/O.
    pub fn new(ctx: RunContext, environments: ReferenceEnvironments) -> Self {
        let folder = ctx.state_dir.join("checkpoints-v5");
        Self { ctx, environments, folder, peers: PeerDirectory::default(), loaded: None }
    }

    /// Returns the checkpoint for `window`, or `None` if none was ready before it.
    ///
    /// # Errors
    /// When the right one cannot be had now, [`MetadataError::OtherProtocol`] when it is not the
    /// reference's. Another one is never returned in its place.
    pub async fn for_window(
        &mut self,
        window: Window,
    ) -> Result<Option<Arc<Assignment>>, CheckpointError> {
        let (trainer, bucket) = self.peers.trainer_bucket(&self.ctx).await?;
        let objects = bucket.list(keys::CHECKPOINTS_PREFIX).await?;
        let names = objects.iter().map(|object| object.key.as_str());
        let Some(marker) = keys::latest_checkpoint(names, window) else {
            return Ok(None);
        };
        if let Some((signer, loaded)) = &self.loaded
            && (*signer, loaded.checkpoint) == (trainer, marker.checkpoint)
        {
            return Ok(Some(loaded.clone()));
        }
        let before = Instant::now();
        let metadata = self.metadata(trainer, &*bucket, marker.checkpoint).await?;
        self.fetch(&*bucket, &metadata).await?;
        let loaded = Arc::new(self.load(&metadata).await?);
        self.loaded = Some((trainer, loaded.clone()));
        self.ctx.emit(Event::CheckpointLoaded {
            checkpoint: marker.checkpoint,
            seconds: before.elapsed().as_secs_f64(),
        });
        self.tidy().await;
        Ok(Some(loaded))
    }

    async fn metadata(
        &self,
        trainer: Hotkey,
        bucket: &dyn ObjectStore,
        checkpoint: Window,
    ) -> Result<ReferenceMetadata, CheckpointError> {
        let key = keys::checkpoint_file(checkpoint, METADATA_FILE);
        let metadata = bucket.get(&key, CHECKPOINT_METADATA_BYTES_MAX).await?;
        let metadata = metadata.ok_or_else(|| CheckpointError::Missing {
            checkpoint,
            file: METADATA_FILE.to_owned(),
        })?;
        let key = keys::checkpoint_file(checkpoint, MANIFEST_SIGNATURE_FILE);
        let signature = bucket.get(&key, MANIFEST_SIGNATURE_BYTES_MAX).await?;
        let files = SignedFiles { metadata: &metadata, signature: signature.as_deref() };
        match Published::open(&files, trainer, checkpoint, Unsigned::Refuse)? {
            Published::V5(metadata) => {
                let missing = metadata.missing();
                if missing.is_empty() {
                    return Ok(*metadata);
                }
                Err(MetadataError::Invalid(missing).into())
            }
            Published::V6(_) => {
                let (expected, found) = (Protocol::V5.name(), Protocol::V6.name());
                Err(MetadataError::OtherProtocol { expected, found }.into())
            }
        }
    }

    /// Makes sure that the cache holds the files of a checkpoint.
    async fn fetch(
        &self,
        bucket: &dyn ObjectStore,
        metadata: &ReferenceMetadata,
    ) -> Result<(), CheckpointError> {
        let checkpoint = metadata.window;
        let (dir, manifest) = (self.dir(checkpoint), metadata.file_manifest.clone());
        if blocking(move || is_intact(&dir, &manifest)).await {
            return Ok(());
        }
        let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
        for (name, expected) in &metadata.file_manifest {
            let key = keys::checkpoint_file(checkpoint, name);
            let missing = || CheckpointError::Missing { checkpoint, file: name.clone() };
            let bytes = bucket.get(&key, file_bytes_max(name)).await?.ok_or_else(missing)?;
            self.ctx.heartbeat.beat();
            let checked = bytes.clone();
            let found = blocking(move || Digest::of(&checked)).await;
            if found != *expected {
                let (file, expected) = (name.clone(), *expected);
                return Err(CheckpointError::Damaged { checkpoint, file, expected, found });
            }
            files.insert(name.clone(), bytes);
        }
        let dir = self.dir(checkpoint);
        blocking(move || {
            state::write_folder(&dir, |dir| {
                for (name, bytes) in &files {
                    let path = dir.join(name);
                    let parent = path.parent().unwrap_or(dir);
                    std::fs::create_dir_all(parent).map_err(disk("make", parent))?;
                    std::fs::write(&path, bytes).map_err(disk("write", &path))?;
                }
                Ok::<_, CheckpointError>(())
            })
        })
        .await
    }

    async fn load(&self, metadata: &ReferenceMetadata) -> Result<Assignment, CheckpointError> {
        let checkpoint = metadata.window;
        let dir = self.dir(checkpoint);
        let (models, folder) = (self.ctx.models.clone(), dir.clone());
        let model = blocking(move || models.load(&folder)).await?;
        self.ctx.heartbeat.beat();
        let environment = self.environment(metadata)?;
        let path = dir.join("config.json");
        let config =
            blocking(move || state::read_file(&path, file_bytes_max("config.json"))).await?;
        let config = config.unwrap_or_default();
        let config = std::str::from_utf8(&config).ok().and_then(|text| json::parse(text).ok());
        let unreadable = || CheckpointError::Missing { checkpoint, file: "config.json".to_owned() };
        Ok(Assignment {
            checkpoint,
            model,
            environment,
            form: match metadata.thinking_mode.as_str() {
                "native" => PromptForm::Thinking,
                _ => PromptForm::ChatMl,
            },
            generation: metadata.generation_params.clone(),
            config: config.ok_or_else(unreadable)?,
            model_name: metadata.model_name.clone(),
            dir,
        })
    }

    /// Where we cannot make the environment, nobody's rows are judged; the reference would fail
    /// every miner.
    fn environment(
        &self,
        metadata: &ReferenceMetadata,
    ) -> Result<Arc<dyn Environment>, CheckpointError> {
        let params = to_json(&metadata.env_params, Keys::Sorted);
        let made = (self.environments)(&metadata.env_id, &params, &metadata.thinking_mode);
        made.map_err(|reason| CheckpointError::Environment { checkpoint: metadata.window, reason })
    }

    fn dir(&self, checkpoint: Window) -> PathBuf {
        self.folder.join(format!("checkpoint-{checkpoint}"))
    }

    async fn tidy(&self) {
        let folder = self.folder.clone();
        let tidied = blocking(move || {
            let mut windows = Vec::new();
            for name in state::names_in(&folder)? {
                let start = name.strip_prefix("checkpoint-").and_then(|it| it.parse::<u64>().ok());
                match start {
                    Some(start) => windows.push((start, name)),
                    None => state::remove_folder(&folder.join(name))?,
                }
            }
            windows.sort_unstable();
            let surplus = windows.len().saturating_sub(CACHED_MAX);
            for (_, name) in &windows[..surplus] {
                state::remove_folder(&folder.join(name))?;
            }
            Ok::<_, state::StateError>(())
        });
        if let Err(error) = tidied.await {
            warn!(%error, "old checkpoints stay in the cache");
        }
    }
}

fn is_intact(dir: &std::path::Path, manifest: &[(String, Digest)]) -> bool {
    let intact = |(name, digest): &(String, Digest)| {
        file_digest(&dir.join(name)).is_ok_and(|found| found == *digest)
    };
    !manifest.is_empty() && manifest.iter().all(intact)
}
