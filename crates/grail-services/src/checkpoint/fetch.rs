//! Gets one checkpoint into the cache the cheapest way that works: a delta on what is there, a chain
//! of deltas from the nearest full checkpoint, or a full download.
//!
//! Every source is judged alone: one that is missing or damaged is left out and another way is
//! looked for. What was downloaded and verified stays in a folder beside the cache, so that an
//! interrupted download goes on where it was; nobody reads that folder as a checkpoint.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use grail_ports::object_store::{ObjectStore, StoreError};
use grail_protocol::checkpoint::retention::CHAIN_LINKS_MAX;
use grail_protocol::checkpoint::{
    self as protocol, CheckpointMetadata, CheckpointType, DELTA_FILE, Protocol, Published,
    Unsigned, WEIGHTS_FILE,
};
use grail_protocol::constants::CHECKPOINT_METADATA_BYTES_MAX;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, METADATA_FILE};
use tracing::{debug, info};

use super::CheckpointError;
use super::cache::{
    CheckpointCache, MANIFEST_SIGNATURE_BYTES_MAX, SignedFiles, file_bytes_max, file_digest,
};
use super::download::{self, Wanted};
use super::weights::{WeightsError, apply_native};
use crate::blocking::blocking;
use crate::context::Heartbeat;
use crate::state;

/// Checkpoints of a chain that stay on the disk while it is followed.
const CHAIN_KEPT: usize = 2;

/// One way to a checkpoint.
type Source = (Window, CheckpointType);

/// Verified metadata with the files that it was read from.
struct Signed {
    metadata: CheckpointMetadata,
    files: SignedFiles,
}

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
        let (mut unusable, mut first) = (BTreeSet::new(), None);
        loop {
            let found = self.way(checkpoint, &mut unusable, &mut first).await?;
            let Some(way) = found else {
                return Err(first.unwrap_or_else(|| missing(checkpoint, METADATA_FILE)));
            };
            match self.follow(way).await {
                Ok(metadata) => return Ok(metadata),
                // Another way would meet the same store, disk or stop.
                Err((_, error)) if !is_sources_fault(&error) => return Err(error),
                Err((source, error)) => {
                    debug!(checkpoint = %source.0, %error, "a source of a checkpoint is left out");
                    first.get_or_insert(error);
                    unusable.insert(source);
                }
            }
        }
    }

    /// Looks for a way from something cached or full; nothing if there is none.
    async fn way(
        &self,
        checkpoint: Window,
        unusable: &mut BTreeSet<Source>,
        first: &mut Option<CheckpointError>,
    ) -> Result<Option<Way>, CheckpointError> {
        let mut deltas: Vec<Signed> = Vec::new();
        let mut at = checkpoint;
        while deltas.len() <= CHAIN_LINKS_MAX {
            let base = deltas.last().and_then(|link| link.metadata.delta).map(|delta| delta.base);
            let leads_on =
                |signed: &Signed| base.is_none_or(|base| base == signed.metadata.checkpoint_digest);
            let delta = self.signed((at, CheckpointType::Delta), unusable, first).await?;
            let delta = delta.filter(leads_on);
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
            let full = self.signed((at, CheckpointType::Full), unusable, first).await?;
            if let Some(full) = full.filter(leads_on) {
                deltas.reverse();
                return Ok(Some(Way { start: Start::Full(Box::new(full)), deltas }));
            }
            let Some((prev, _)) = link else { break };
            deltas.extend(delta);
            at = prev;
        }
        // The newest delta leads nowhere; what is full further down the road may still do.
        match deltas.first() {
            Some(link) => {
                let source = (link.metadata.window, CheckpointType::Delta);
                first.get_or_insert_with(|| missing(at, METADATA_FILE));
                unusable.insert(source);
                Box::pin(self.way(checkpoint, unusable, first)).await
            }
            None => Ok(None),
        }
    }

    /// Goes a way and returns the metadata at its end, or the source that failed.
    async fn follow(&self, way: Way) -> Result<CheckpointMetadata, (Source, CheckpointError)> {
        let n_deltas = way.deltas.len();
        let mut made = Vec::new();
        let mut metadata = match way.start {
            Start::Cached(metadata) => *metadata,
            Start::Full(full) => {
                let source = (full.metadata.window, CheckpointType::Full);
                self.download(&full).await.map_err(|error| (source, error))?;
                made.push(full.metadata.window);
                full.metadata
            }
        };
        for link in way.deltas {
            let source = (link.metadata.window, CheckpointType::Delta);
            self.apply(metadata.window, &link).await.map_err(|error| (source, error))?;
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

    /// Returns the verified metadata of a source that is in the bucket and was not found unusable.
    async fn signed(
        &self,
        source: Source,
        unusable: &mut BTreeSet<Source>,
        first: &mut Option<CheckpointError>,
    ) -> Result<Option<Signed>, CheckpointError> {
        // The signature is uploaded last: without it the rest may not be there yet.
        let is_there = self.keys.contains(&key(source, MANIFEST_SIGNATURE_FILE));
        if !is_there || unusable.contains(&source) {
            return Ok(None);
        }
        match self.read_signed(source).await {
            Ok(signed) => Ok(Some(signed)),
            Err(error) if !is_sources_fault(&error) => Err(error),
            Err(error) => {
                unusable.insert(source);
                first.get_or_insert(error);
                Ok(None)
            }
        }
    }

    async fn read_signed(&self, source: Source) -> Result<Signed, CheckpointError> {
        let metadata = self.get(source, METADATA_FILE, CHECKPOINT_METADATA_BYTES_MAX).await?;
        let signature =
            self.get(source, MANIFEST_SIGNATURE_FILE, MANIFEST_SIGNATURE_BYTES_MAX).await?;
        let files = SignedFiles { metadata, signature };
        let read =
            protocol::SignedFiles { metadata: &files.metadata, signature: Some(&files.signature) };
        let metadata = match Published::open(&read, self.trainer, source.0, Unsigned::Refuse)? {
            Published::V6(metadata) => *metadata,
            Published::V5(_) => {
                let (expected, found) = (Protocol::V6.name(), Protocol::V5.name());
                return Err(protocol::CheckpointError::OtherProtocol { expected, found }.into());
            }
        };
        if metadata.checkpoint_type != source.1 {
            let reason = "its metadata is that of the other kind of checkpoint".to_owned();
            return Err(protocol::CheckpointError::Invalid(vec![reason]).into());
        }
        Ok(Signed { metadata, files })
    }

    async fn get(
        &self,
        source: Source,
        name: &str,
        bytes_max: u64,
    ) -> Result<Bytes, CheckpointError> {
        let object = self.bucket.get(&key(source, name), bytes_max).await?;
        object.ok_or_else(|| missing(source.0, name))
    }

    /// Downloads the files of a full checkpoint that are not there from an earlier attempt.
    async fn download(&self, full: &Signed) -> Result<(), CheckpointError> {
        let checkpoint = full.metadata.window;
        let stage = self.cache.stage(checkpoint);
        for (name, expected) in &full.metadata.file_manifest {
            let source = (checkpoint, CheckpointType::Full);
            self.obtain(source, name, *expected, stage.join(name)).await?;
        }
        self.install(full).await
    }

    /// Makes a checkpoint of its base, which is in the cache.
    async fn apply(&self, base: Window, link: &Signed) -> Result<(), CheckpointError> {
        let checkpoint = link.metadata.window;
        let stage = self.cache.stage(checkpoint);
        let Some(record) = link.metadata.delta else {
            return Err(missing(checkpoint, DELTA_FILE));
        };
        let path = stage.join(DELTA_FILE);
        let source = (checkpoint, CheckpointType::Delta);
        self.obtain(source, DELTA_FILE, record.file, path.clone()).await?;
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

    /// Makes sure that the file `path` is the object with this digest.
    async fn obtain(
        &self,
        source: Source,
        name: &str,
        expected: Digest,
        path: PathBuf,
    ) -> Result<(), CheckpointError> {
        let (checkpoint, bytes_max) = (source.0, file_bytes_max(name));
        let wanted =
            Wanted { checkpoint, name, key: key(source, name), digest: expected, bytes_max, path };
        download::obtain(self.bucket, &wanted, self.heartbeat).await
    }

    async fn install(&self, signed: &Signed) -> Result<(), CheckpointError> {
        let (cache, files) = (self.cache.clone(), signed.files.clone());
        let checkpoint = signed.metadata.window;
        blocking(move || cache.install(checkpoint, &files)).await
    }
}

fn key((checkpoint, kind): Source, name: &str) -> String {
    match kind {
        CheckpointType::Full => keys::checkpoint_file(checkpoint, name),
        CheckpointType::Delta => keys::delta_file(checkpoint, name),
    }
}

fn missing(checkpoint: Window, file: &str) -> CheckpointError {
    CheckpointError::Missing { checkpoint, file: file.to_owned() }
}

/// Returns whether another source of the same checkpoint may do better.
fn is_sources_fault(error: &CheckpointError) -> bool {
    match error {
        CheckpointError::Delta { error, .. } => !matches!(error, WeightsError::State(_)),
        CheckpointError::Missing { .. }
        | CheckpointError::Damaged { .. }
        | CheckpointError::Metadata(_) => true,
        CheckpointError::Store(error) => {
            matches!(error, StoreError::TooLarge { .. } | StoreError::Malformed(_))
        }
        _ => false,
    }
}
