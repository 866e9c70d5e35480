//! Loads the checkpoint that a window must use: the newest that was ready before it.
//!
//! Source: `spec/checkpoints.md`, consuming; unlike the reference the signature is verified. A
//! damaged object never replaces a good model, on disk or in memory.

use std::sync::Arc;

use grail_ports::events::Event;
use grail_protocol::checkpoint::{self as protocol, CheckpointMetadata, model_identity};
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::sketch::Whitening;
use tokio::time::Instant;
use tracing::warn;

use super::cache::CheckpointCache;
use super::fetch::Fetcher;
use super::{CheckpointError, LoadedCheckpoint};
use crate::blocking::blocking;
use crate::context::RunContext;
use crate::peers::{NewestCheckpoint, PeerDirectory};

/// Cached checkpoints that are kept: a validator may go back to the one of the window before.
pub const CACHED_MAX: usize = 3;

/// Which of our runtimes a checkpoint may be used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtimes {
    /// The one that it was published for: what validators and trainers compute must be equal.
    Published,
    /// Also any other, where the checkpoint says how sketches are whitened: a miner's engine is
    /// judged by what it is.
    Any,
}

/// Chooses, downloads and loads checkpoints for one role.
pub struct CheckpointConsumer {
    ctx: RunContext,
    cache: CheckpointCache,
    peers: PeerDirectory,
    accepts: Runtimes,
    /// The trainer that signed it, too: another one may reuse a window's name.
    loaded: Option<(Hotkey, Arc<LoadedCheckpoint>)>,
}

impl CheckpointConsumer {
    /// Makes a consumer with its cache in the role's folder; no I/O.
    pub fn new(ctx: RunContext, accepts: Runtimes) -> Self {
        let cache = CheckpointCache::new(ctx.state_dir.join("checkpoints"));
        Self { ctx, cache, peers: PeerDirectory::default(), accepts, loaded: None }
    }

    /// Returns the checkpoint for `window`, or `None` if none was ready before it.
    ///
    /// # Errors
    /// When the right one cannot be had now. Another one is never returned in its place.
    pub async fn for_window(
        &mut self,
        window: Window,
    ) -> Result<Option<Arc<LoadedCheckpoint>>, CheckpointError> {
        let newest = self.peers.newest_checkpoint(&self.ctx, window).await?;
        let Some(NewestCheckpoint { trainer, bucket, keys, checkpoint }) = newest else {
            return Ok(None);
        };
        if let Some((signer, loaded)) = &self.loaded
            && (*signer, loaded.window) == (trainer, checkpoint)
        {
            return Ok(Some(loaded.clone()));
        }
        let before = Instant::now();
        let fetcher = Fetcher {
            cache: &self.cache,
            trainer,
            bucket: &*bucket,
            keys: &keys,
            heartbeat: &self.ctx.heartbeat,
        };
        let metadata = fetcher.fetch(checkpoint).await?;
        self.ctx.heartbeat.beat();
        let loaded = Arc::new(self.load(metadata).await?);
        self.loaded = Some((trainer, loaded.clone()));
        self.ctx
            .emit(Event::CheckpointLoaded { checkpoint, seconds: before.elapsed().as_secs_f64() });
        let cache = self.cache.clone();
        if let Err(error) = blocking(move || cache.retain(CACHED_MAX)).await {
            warn!(%error, "old checkpoints stay in the cache");
        }
        Ok(Some(loaded))
    }

    async fn load(
        &self,
        metadata: CheckpointMetadata,
    ) -> Result<LoadedCheckpoint, CheckpointError> {
        let checkpoint = metadata.window;
        let dir = self.cache.dir(checkpoint);
        let (models, folder) = (self.ctx.models.clone(), dir.clone());
        let model = blocking(move || models.load(&folder)).await?;
        let info = model.info();
        let whitening = usable_whitening(&metadata, info.hidden_size)?;
        let is_free = self.accepts == Runtimes::Any && whitening.is_some();
        let numerics = if is_free { &info.numerics } else { &metadata.numerics };
        for (what, expected, found) in [
            ("content", metadata.checkpoint_digest.to_hex(), info.checkpoint_digest.to_hex()),
            ("numeric contract", numerics.clone(), info.numerics.clone()),
        ] {
            if expected != found {
                return Err(CheckpointError::Disagrees { checkpoint, what, expected, found });
            }
        }
        let environment = (self.ctx.environments)(&metadata.env_id, &metadata.env_params_json())
            .map_err(|reason| CheckpointError::Environment { checkpoint, reason })?;
        Ok(LoadedCheckpoint {
            window: checkpoint,
            model,
            environment,
            fingerprint: metadata.environment(),
            sampler: metadata.generation_params.sampler(),
            whitening,
            identity: model_identity(&metadata.file_manifest),
            dir,
        })
    }
}

/// Returns the statistics that a checkpoint of a model of `hidden_size` publishes, if it does.
///
/// # Errors
/// When they are those of another model.
pub fn usable_whitening(
    metadata: &CheckpointMetadata,
    hidden_size: u32,
) -> Result<Option<Arc<Whitening>>, CheckpointError> {
    let Some(record) = &metadata.whitening else {
        return Ok(None);
    };
    let invalid = |reason: String| protocol::CheckpointError::Invalid(vec![reason]);
    let whitening = record.read().map_err(|error| invalid(error.to_string()))?;
    let found = whitening.hidden_size();
    if u32::try_from(found) != Ok(hidden_size) {
        let reason = format!("it whitens {found} dimensions, the model has {hidden_size}");
        return Err(invalid(reason).into());
    }
    Ok(Some(Arc::new(whitening)))
}
