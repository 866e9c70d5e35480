//! Loads the reference's checkpoint for a window: files, by deltas where they are nearer, and the
//! environment that its metadata names.
//!
//! [`crate::checkpoint::reference`] gets and verifies the files. A checkpoint of another protocol is
//! an error that says which, and the role waits.

use std::path::PathBuf;
use std::sync::Arc;

use grail_ports::environment::Environment;
use grail_ports::events::Event;
use grail_protocol::checkpoint::{CheckpointError as MetadataError, ReferenceMetadata, Unsigned};
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::v5::python::json;
use grail_protocol::v5::python::print::{Keys, to_json};
use tokio::time::Instant;
use tracing::warn;

use super::assignment::{Assignment, form_of_mode};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::cache::{CheckpointCache, file_bytes_max};
use crate::checkpoint::consumer::CACHED_MAX;
use crate::checkpoint::reference::{Obtained, ReferenceConsumer};
use crate::context::RunContext;
use crate::peers::{NewestCheckpoint, PeerDirectory};
use crate::state;

/// Makes the environment that a checkpoint names by id, parameters (JSON) and thinking mode, or says
/// why not.
pub type ReferenceEnvironments =
    Arc<dyn Fn(&str, &str, &str) -> Result<Arc<dyn Environment>, String> + Send + Sync>;

/// Chooses, downloads and loads checkpoints of the reference for one role.
pub struct AssignmentSource {
    ctx: RunContext,
    environments: ReferenceEnvironments,
    folder: PathBuf,
    peers: PeerDirectory,
    /// With the trainer that signed it: another one may reuse a window's name.
    loaded: Option<(Hotkey, Arc<Assignment>)>,
}

impl AssignmentSource {
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
        let newest = self.peers.newest_checkpoint(&self.ctx, window).await?;
        let Some(NewestCheckpoint { trainer, bucket, checkpoint, .. }) = newest else {
            return Ok(None);
        };
        if let Some((signer, loaded)) = &self.loaded
            && (*signer, loaded.checkpoint) == (trainer, checkpoint)
        {
            return Ok(Some(loaded.clone()));
        }
        let before = Instant::now();
        let source = ReferenceConsumer {
            cache: self.folder.clone(),
            trainer,
            bucket,
            unsigned: Unsigned::Refuse,
            heartbeat: self.ctx.heartbeat.clone(),
        };
        let obtained = source.checkpoint(checkpoint).await?;
        let missing = obtained.metadata.missing();
        if !missing.is_empty() {
            return Err(MetadataError::Invalid(missing).into());
        }
        let loaded = Arc::new(self.load(&obtained).await?);
        self.loaded = Some((trainer, loaded.clone()));
        self.ctx
            .emit(Event::CheckpointLoaded { checkpoint, seconds: before.elapsed().as_secs_f64() });
        let cache = CheckpointCache::new(self.folder.clone());
        if let Err(error) = blocking(move || cache.retain(CACHED_MAX)).await {
            warn!(%error, "old checkpoints stay in the cache");
        }
        Ok(Some(loaded))
    }

    async fn load(&self, obtained: &Obtained) -> Result<Assignment, CheckpointError> {
        let Obtained { window: checkpoint, ref metadata, ref dir, .. } = *obtained;
        let dir = dir.clone();
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
            form: form_of_mode(&metadata.thinking_mode),
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
}
