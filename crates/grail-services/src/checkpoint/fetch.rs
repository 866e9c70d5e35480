//! Gets one checkpoint into the cache the cheapest way that works: a delta on what is there, a chain
//! of deltas from the nearest full checkpoint, or a full download.
//!
//! Every source is judged alone: one that is missing or damaged is left out and another way is
//! looked for. What was downloaded and verified stays in a folder beside the cache, so that an
//! interrupted download goes on where it was; nobody reads that folder as a checkpoint.

use std::collections::BTreeSet;

use grail_ports::object_store::ObjectStore;
use grail_protocol::checkpoint::retention::CHAIN_LINKS_MAX;
use grail_protocol::checkpoint::{
    CheckpointMetadata, CheckpointType, DELTA_FILE, Protocol, Published, Unsigned, WEIGHTS_FILE,
};
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys::METADATA_FILE;
use tracing::info;

use super::CheckpointError;
use super::cache::{CheckpointCache, file_bytes_max, file_digest};
use super::sources::{self, Metadata, Source, Sources, missing};
use super::weights::apply_native;
use crate::blocking::blocking;
use crate::context::Heartbeat;
use crate::state;

/// Checkpoints of a chain that stay on the disk while it is followed.
const CHAIN_KEPT: usize = 2;

type Signed = sources::Signed<CheckpointMetadata>;

/// A way to a checkpoint: where it starts, and the deltas from there, oldest first.
struct Way {
    start: Start,
    deltas: Vec<Signed>,
}

enum Start {
    Cached(Box<CheckpointMetadata>),
    Full(Box<Signed>),
}

/// Gets checkpoints of one trainer.
pub struct Fetcher<'a> {
    /// Where checkpoints go.
    pub cache: &'a CheckpointCache,
    /// Who must have signed them.
    pub trainer: Hotkey,
    /// The trainer's bucket.
    pub bucket: &'a dyn ObjectStore,
    /// Keys in it.
    pub keys: &'a BTreeSet<String>,
    /// Told of progress.
    pub heartbeat: &'a Heartbeat,
}

impl Fetcher<'_> {
    /// Makes sure that the cache holds `checkpoint`, and returns its metadata.
    ///
    /// # Errors
    /// When there is no way to it now: what was wrong with the first way.
    pub async fn fetch(&self, checkpoint: Window) -> Result<CheckpointMetadata, CheckpointError> {
        if let Some(metadata) = self.cached(checkpoint).await {
            return Ok(metadata);
        }
        let Self { trainer, bucket, keys, heartbeat, .. } = *self;
        let mut sources = Sources::new(trainer, bucket, keys, Unsigned::Refuse, heartbeat);
        loop {
            let Some(way) = self.way(checkpoint, &mut sources).await? else {
                return Err(sources.no_way(checkpoint));
            };
            match self.follow(way, &sources).await {
                Ok(metadata) => return Ok(metadata),
                Err((source, error)) => sources.leave_out(source, error)?,
            }
        }
    }

    /// Looks for a way from something cached or full; nothing if there is none.
    async fn way(
        &self,
        checkpoint: Window,
        sources: &mut Sources<'_>,
    ) -> Result<Option<Way>, CheckpointError> {
        let mut deltas: Vec<Signed> = Vec::new();
        let mut at = checkpoint;
        while deltas.len() <= CHAIN_LINKS_MAX {
            let base = deltas.last().and_then(|link| link.metadata.delta).map(|delta| delta.base);
            let leads_on =
                |it: &Signed| base.is_none_or(|base| base == it.metadata.checkpoint_digest);
            let delta = sources.signed((at, CheckpointType::Delta)).await?.filter(leads_on);
            let link = delta.as_ref().and_then(|it| it.metadata.prev_window.zip(it.metadata.delta));
            let near = match link {
                Some((prev, record)) => {
                    self.cached(prev).await.filter(|base| base.checkpoint_digest == record.base)
                }
                None => None,
            };
            if let Some(base) = near {
                deltas.extend(delta);
                deltas.reverse();
                return Ok(Some(Way { start: Start::Cached(Box::new(base)), deltas }));
            }
            let full = sources.signed((at, CheckpointType::Full)).await?;
            if let Some(full) = full.filter(leads_on) {
                deltas.reverse();
                return Ok(Some(Way { start: Start::Full(Box::new(full)), deltas }));
            }
            let Some((prev, _)) = link else { break };
            deltas.extend(delta);
            at = prev;
        }
        // The newest delta leads nowhere; what is full further down the road may still do.
        if deltas.is_empty() {
            return Ok(None);
        }
        sources.leave_out((checkpoint, CheckpointType::Delta), missing(at, METADATA_FILE))?;
        Box::pin(self.way(checkpoint, sources)).await
    }

    /// Goes a way and returns the metadata at its end, or the source that failed.
    async fn follow(
        &self,
        way: Way,
        sources: &Sources<'_>,
    ) -> Result<CheckpointMetadata, (Source, CheckpointError)> {
        let n_deltas = way.deltas.len();
        let mut made = Vec::new();
        let mut metadata = match way.start {
            Start::Cached(metadata) => *metadata,
            Start::Full(full) => {
                let source = (full.metadata.window, CheckpointType::Full);
                self.download(&full, sources).await.map_err(|error| (source, error))?;
                made.push(full.metadata.window);
                full.metadata
            }
        };
        for link in way.deltas {
            let source = (link.metadata.window, CheckpointType::Delta);
            self.apply(metadata.window, &link, sources).await.map_err(|error| (source, error))?;
            made.push(link.metadata.window);
            metadata = link.metadata;
            if made.len() > CHAIN_KEPT {
                let old = self.cache.dir(made.remove(0));
                // It would be removed soon in any case.
                let _ = blocking(move || state::remove_folder(&old)).await;
            }
        }
        if n_deltas > 0 {
            info!(checkpoint = %metadata.window, deltas = n_deltas, "made a checkpoint of deltas");
        }
        Ok(metadata)
    }

    async fn cached(&self, checkpoint: Window) -> Option<CheckpointMetadata> {
        let (cache, trainer) = (self.cache.clone(), self.trainer);
        blocking(move || cache.verified(checkpoint, trainer)).await
    }

    /// Downloads the files of a full checkpoint that are not there from an earlier attempt.
    async fn download(&self, full: &Signed, sources: &Sources<'_>) -> Result<(), CheckpointError> {
        let checkpoint = full.metadata.window;
        let stage = self.cache.stage(checkpoint);
        for (name, expected) in &full.metadata.file_manifest {
            let source = (checkpoint, CheckpointType::Full);
            let bytes_max = file_bytes_max(name);
            sources.file(source, name, *expected, bytes_max, stage.join(name)).await?;
        }
        self.install(full).await
    }

    /// Makes a checkpoint of its base, which is in the cache.
    async fn apply(
        &self,
        base: Window,
        link: &Signed,
        sources: &Sources<'_>,
    ) -> Result<(), CheckpointError> {
        let checkpoint = link.metadata.window;
        let stage = self.cache.stage(checkpoint);
        let Some(record) = link.metadata.delta else {
            return Err(missing(checkpoint, DELTA_FILE));
        };
        let path = stage.join(DELTA_FILE);
        let source = (checkpoint, CheckpointType::Delta);
        let bytes_max = file_bytes_max(DELTA_FILE);
        sources.file(source, DELTA_FILE, record.file, bytes_max, path.clone()).await?;
        let (base, manifest) = (self.cache.dir(base), link.metadata.file_manifest.clone());
        let heartbeat = self.heartbeat.clone();
        blocking(move || {
            for (name, expected) in manifest {
                let (from, to) = (base.join(&name), stage.join(&name));
                let found = if name == WEIGHTS_FILE {
                    let delta = state::read_file(&path, file_bytes_max(DELTA_FILE))?;
                    let delta = delta.ok_or_else(|| missing(checkpoint, DELTA_FILE))?;
                    apply_native(&from, &delta, &to)
                        .map_err(|error| CheckpointError::Delta { checkpoint, error })?
                } else {
                    std::fs::copy(&from, &to).map_err(state::disk("copy", &from))?;
                    file_digest(&to)?
                };
                heartbeat.beat();
                if found != expected {
                    state::remove_file(&to)?;
                    return Err(CheckpointError::Damaged {
                        checkpoint,
                        file: name,
                        expected,
                        found,
                    });
                }
            }
            Ok(state::remove_file(&path)?)
        })
        .await?;
        self.install(link).await
    }

    async fn install(&self, signed: &Signed) -> Result<(), CheckpointError> {
        let (cache, files) = (self.cache.clone(), signed.files.clone());
        let checkpoint = signed.metadata.window;
        blocking(move || cache.install(checkpoint, &files)).await
    }
}

impl Metadata for CheckpointMetadata {
    const PROTOCOL: Protocol = Protocol::V6;

    fn of(published: Published) -> Result<(Self, Option<CheckpointType>), Protocol> {
        match published {
            Published::V6(metadata) => {
                let kind = metadata.checkpoint_type;
                Ok((*metadata, Some(kind)))
            }
            Published::V5(_) => Err(Protocol::V5),
        }
    }
}
