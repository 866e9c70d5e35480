//! Consumes checkpoints of the reference: newest that was ready, by a delta on what is cached, or by
//! a full download and the chain of deltas from there.
//!
//! Source: `spec/checkpoints.md`, consuming. The result is always a folder in the cache; what is in
//! memory is never changed, so a delta that does not lead to its hash harms nothing. Stricter than
//! the reference: signatures are verified, every link's hash is (not only the last one's), nothing
//! without a manifest is used, and tensors keep their own types instead of the first one's, which is
//! what the published hashes are of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grail_ports::object_store::ObjectStore;
use grail_protocol::checkpoint::reference::ReferenceMetadata;
use grail_protocol::checkpoint::reference::delta_metadata::DeltaMetadata;
use grail_protocol::checkpoint::retention::{CHAIN_LINKS_MAX, Ready, keep_windows};
use grail_protocol::checkpoint::{
    self as protocol, CheckpointType, Protocol, Published, Unsigned, WEIGHTS_FILE,
};
use grail_protocol::constants::CHECKPOINT_METADATA_BYTES_MAX;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_protocol::keys::{self, METADATA_FILE};
use grail_protocol::v5::python::json::{self, Value};
use grail_protocol::v5::python::print::to_json_indented;
use tracing::warn;

use super::CheckpointError;
use super::cache::{CheckpointCache, file_bytes_max, file_digest};
use super::sources::{Metadata, Source, Sources, missing};
use super::sparse::{Link, reconstruct};
use crate::blocking::blocking;
use crate::context::Heartbeat;
use crate::state;

/// File of a reference delta.
pub const DELTA_FILE: &str = "delta_sparse.bin.zst";

/// File that says how it is coded.
pub const DELTA_METADATA_FILE: &str = "delta_metadata.json";

/// Largest file of a checkpoint, bytes.
const FILE_BYTES_MAX: u64 = 64 << 30;

/// How a checkpoint came into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It was there.
    None,
    /// By one delta on a checkpoint that was there.
    Fast,
    /// By a full download, and deltas from there.
    Full,
}

/// A checkpoint in the cache.
#[derive(Clone, Debug)]
pub struct Obtained {
    /// Window that names it; rows of rollouts carry that number.
    pub window: Window,
    /// What the trainer says of it; see [`ReferenceMetadata::missing`] before using it.
    pub metadata: ReferenceMetadata,
    /// Folder with its files; not to be changed.
    pub dir: PathBuf,
    /// How it came.
    pub method: Method,
}

/// Gets the checkpoints of one trainer.
#[derive(Clone)]
pub struct ReferenceConsumer {
    /// Folder of the cache; need not exist.
    pub cache: PathBuf,
    /// Who must have signed.
    pub trainer: Hotkey,
    /// The trainer's bucket.
    pub bucket: Arc<dyn ObjectStore>,
    /// What to do without a signature.
    pub unsigned: Unsigned,
    /// Told of progress.
    pub heartbeat: Heartbeat,
}

struct Way {
    /// Where it starts; a full checkpoint with its metadata, or one in the cache.
    start: (Window, Option<ReferenceMetadata>),
    /// From there on, oldest first.
    deltas: Vec<ReferenceMetadata>,
}

impl ReferenceConsumer {
    /// Returns the checkpoint for `window`: the newest that was ready before it. Nothing if none was.
    ///
    /// # Errors
    /// When that one cannot be had now. Another one is never returned in its place.
    pub async fn for_window(&self, window: Window) -> Result<Option<Obtained>, CheckpointError> {
        let keys = self.keys().await?;
        let start = i64::try_from(window.start().0).unwrap_or(i64::MAX);
        let Some(latest) = Ready::latest(keys.iter().map(String::as_str), start) else {
            return Ok(None);
        };
        let latest = u64::try_from(latest.checkpoint).ok();
        let latest = latest.and_then(|start| Window::from_start(start).ok()).ok_or_else(|| {
            protocol::CheckpointError::Malformed("a READY marker names no window".to_owned())
        })?;
        let obtained = self.obtain(latest, &keys).await?;
        let (cache, kept) = (self.cache.clone(), keep_windows(start, None));
        if let Err(error) = blocking(move || retain(&cache, latest, &kept)).await {
            warn!(%error, "old checkpoints stay in the cache");
        }
        Ok(Some(obtained))
    }

    /// Returns one checkpoint, which must be marked ready.
    ///
    /// # Errors
    /// When it cannot be had now: what was wrong with the first way to it.
    pub async fn checkpoint(&self, checkpoint: Window) -> Result<Obtained, CheckpointError> {
        let keys = self.keys().await?;
        self.obtain(checkpoint, &keys).await
    }

    async fn keys(&self) -> Result<BTreeSet<String>, CheckpointError> {
        let objects = self.bucket.list(keys::CHECKPOINTS_PREFIX).await?;
        Ok(objects.into_iter().map(|object| object.key).collect())
    }

    async fn obtain(
        &self,
        checkpoint: Window,
        keys: &BTreeSet<String>,
    ) -> Result<Obtained, CheckpointError> {
        let start = i64::try_from(checkpoint.start().0).ok();
        let mut markers = keys.iter().filter_map(|key| Ready::parse(key));
        if !markers.any(|marker| Some(marker.checkpoint) == start) {
            return Err(missing(checkpoint, "READY marker"));
        }
        let Self { trainer, bucket, unsigned, heartbeat, .. } = self;
        let mut sources = Sources::new(*trainer, &**bucket, keys, *unsigned, heartbeat);
        loop {
            let Some((way, metadata)) = self.way(checkpoint, &mut sources).await? else {
                return Err(sources.no_way(checkpoint));
            };
            let method = match (&way.start.1, way.deltas.len()) {
                (None, 0) => Method::None,
                (None, 1) => Method::Fast,
                _ => Method::Full,
            };
            match self.follow(checkpoint, way, &sources).await {
                Ok(()) => {
                    let dir = self.dir(checkpoint);
                    return Ok(Obtained { window: checkpoint, metadata, dir, method });
                }
                Err((source, error)) => sources.leave_out(source, error)?,
            }
        }
    }

    /// Looks for a way to a checkpoint, and returns it with the checkpoint's metadata.
    async fn way(
        &self,
        checkpoint: Window,
        sources: &mut Sources<'_>,
    ) -> Result<Option<(Way, ReferenceMetadata)>, CheckpointError> {
        let mut deltas: Vec<ReferenceMetadata> = Vec::new();
        let mut at = checkpoint;
        while deltas.len() <= CHAIN_LINKS_MAX {
            let delta = sources.signed((at, CheckpointType::Delta)).await?.map(|it| it.metadata);
            let leads_back = |it: &ReferenceMetadata| it.prev_window.is_some_and(|prev| prev < at);
            let delta = delta.filter(leads_back);
            let full = sources.signed((at, CheckpointType::Full)).await?.map(|it| it.metadata);
            if at == checkpoint
                && let Some(metadata) = full.as_ref().or(delta.as_ref())
                && self.is_cached(at).await
            {
                let way = Way { start: (at, None), deltas };
                return Ok(Some((way, metadata.clone())));
            }
            let prev = delta.as_ref().and_then(|delta| delta.prev_window);
            let is_near = match prev {
                Some(prev) => self.is_cached(prev).await,
                None => false,
            };
            let start = match (prev.filter(|_| is_near), full) {
                (Some(prev), _) => {
                    deltas.extend(delta);
                    Some((prev, None))
                }
                (None, Some(full)) => Some((at, Some(full))),
                (None, None) => {
                    let Some(prev) = prev else { break };
                    deltas.extend(delta);
                    at = prev;
                    None
                }
            };
            if let Some(start) = start {
                // The newest link is the checkpoint itself, unless that is whole.
                let metadata = deltas.first().or(start.1.as_ref()).cloned();
                deltas.reverse();
                return Ok(metadata.map(|metadata| (Way { start, deltas }, metadata)));
            }
        }
        if !deltas.is_empty() {
            sources.leave_out((checkpoint, CheckpointType::Delta), missing(at, METADATA_FILE))?;
            return Box::pin(self.way(checkpoint, sources)).await;
        }
        Ok(None)
    }

    async fn follow(
        &self,
        target: Window,
        way: Way,
        sources: &Sources<'_>,
    ) -> Result<(), (Source, CheckpointError)> {
        let (start, full) = way.start;
        if let Some(full) = &full {
            let source = (start, CheckpointType::Full);
            self.download(full, sources).await.map_err(|error| (source, error))?;
        }
        if way.deltas.is_empty() {
            return Ok(());
        }
        let mut links = Vec::new();
        for delta in &way.deltas {
            let source = (delta.window, CheckpointType::Delta);
            links.push(self.link(delta, sources).await.map_err(|error| (source, error))?);
        }
        let (base, stage, dir) = (self.dir(start), self.stage(target), self.dir(target));
        let last = way.deltas.into_iter().next_back().expect("there is at least one");
        let heartbeat = self.heartbeat.clone();
        blocking(move || {
            let made = reconstruct(&base, &links, &stage, &heartbeat)
                .map_err(|(window, error)| ((window, CheckpointType::Delta), error))?;
            let seal = || {
                write_local(&stage, &last, &made, true)?;
                for link in &links {
                    state::remove_file(&link.file)?;
                }
                state::move_folder(&stage, &dir)
            };
            seal().map_err(|error| ((target, CheckpointType::Delta), error.into()))
        })
        .await
    }

    /// Downloads the delta of a checkpoint; it stays until what is made of it is whole.
    async fn link(
        &self,
        metadata: &ReferenceMetadata,
        sources: &Sources<'_>,
    ) -> Result<Link, CheckpointError> {
        let window = metadata.window;
        let source = (window, CheckpointType::Delta);
        let digest = |name: &str| {
            let entry = metadata.file_manifest.iter().find(|(listed, _)| listed == name);
            entry.map(|(_, digest)| *digest).ok_or_else(|| missing(window, name))
        };
        let described = sources.get(source, DELTA_METADATA_FILE, file_bytes_max("")).await?;
        let (expected, found) = (digest(DELTA_METADATA_FILE)?, Digest::of(&described));
        if expected != found {
            let (checkpoint, file) = (window, DELTA_METADATA_FILE.to_owned());
            return Err(CheckpointError::Damaged { checkpoint, file, expected, found });
        }
        let format = DeltaMetadata::read_format(&described)?;
        let folder = self.cache.join("deltas");
        let path = folder.join(format!("{window}.bin.zst"));
        sources.file(source, DELTA_FILE, digest(DELTA_FILE)?, FILE_BYTES_MAX, path.clone()).await?;
        Ok(Link { window, format, file: path, weights_hash: metadata.weights_hash })
    }

    async fn download(
        &self,
        metadata: &ReferenceMetadata,
        sources: &Sources<'_>,
    ) -> Result<(), CheckpointError> {
        let window = metadata.window;
        if metadata.file_manifest.is_empty() {
            let reason = "file_manifest is empty, so nothing could be verified".to_owned();
            return Err(protocol::CheckpointError::Invalid(vec![reason]).into());
        }
        let stage = self.stage(window);
        for (name, expected) in &metadata.file_manifest {
            let source = (window, CheckpointType::Full);
            sources.file(source, name, *expected, FILE_BYTES_MAX, stage.join(name)).await?;
        }
        let (metadata, dir) = (metadata.clone(), self.dir(window));
        blocking(move || {
            let manifest = metadata.file_manifest.clone();
            write_local(&stage, &metadata, &manifest, false)?;
            Ok(state::move_folder(&stage, &dir)?)
        })
        .await
    }

    async fn is_cached(&self, checkpoint: Window) -> bool {
        let dir = self.dir(checkpoint);
        blocking(move || is_intact(&dir, checkpoint)).await
    }

    fn dir(&self, checkpoint: Window) -> PathBuf {
        CheckpointCache::new(self.cache.clone()).dir(checkpoint)
    }

    fn stage(&self, checkpoint: Window) -> PathBuf {
        CheckpointCache::new(self.cache.clone()).stage(checkpoint)
    }
}

/// Writes the `metadata.json` that a cached folder has, in the reference's form: programs of the
/// reference can use the folder too.
fn write_local(
    stage: &Path,
    metadata: &ReferenceMetadata,
    manifest: &[(String, Digest)],
    is_reconstructed: bool,
) -> Result<(), state::StateError> {
    let digests: Vec<(&str, String)> =
        manifest.iter().map(|(name, digest)| (name.as_str(), digest.to_hex())).collect();
    let files = digests.iter().map(|(name, digest)| (*name, Value::from(digest.as_str())));
    let mut fields = vec![
        ("window", Value::from(metadata.window.start().0)),
        ("file_manifest", Value::object(files)),
        ("training_config", metadata.training_config.clone()),
        ("git_commit", metadata.git_commit.as_str().into()),
        ("created_at", metadata.created_at.into()),
        ("model_name", metadata.model_name.as_str().into()),
    ];
    if is_reconstructed {
        let anchor = metadata.anchor_window.map(|anchor| anchor.start().0);
        fields.extend([
            ("checkpoint_type", "FULL".into()),
            ("reconstructed_from_delta", Value::Bool(true)),
            ("original_anchor_window", anchor.map_or(Value::Null, Value::from)),
        ]);
    }
    let text = to_json_indented(&Value::object(fields));
    state::write_file(&stage.join(METADATA_FILE), text.as_bytes())
}

/// Returns whether a cached folder is whole: it has a manifest, and every file in it is as listed.
fn is_intact(dir: &Path, checkpoint: Window) -> bool {
    let read = state::read_file(&dir.join(METADATA_FILE), CHECKPOINT_METADATA_BYTES_MAX);
    let Ok(Some(bytes)) = read else { return false };
    let Some(value) = std::str::from_utf8(&bytes).ok().and_then(|text| json::parse(text).ok())
    else {
        return false;
    };
    let Ok(metadata) = ReferenceMetadata::from_value(&value, checkpoint) else { return false };
    let intact = |(name, digest): &(String, Digest)| {
        file_digest(&dir.join(name)).is_ok_and(|found| found == *digest)
    };
    !metadata.file_manifest.is_empty() && metadata.file_manifest.iter().all(intact)
}

/// Removes cached checkpoints that the rules do not keep, and what is left of downloads; `current`
/// stays whatever they say.
fn retain(cache: &Path, current: Window, kept: &BTreeSet<i64>) -> Result<(), state::StateError> {
    for name in state::names_in(cache)? {
        let window = name.strip_prefix("checkpoint-").and_then(|start| start.parse::<i64>().ok());
        let is_current = u64::try_from(window.unwrap_or(-1)) == Ok(current.start().0);
        if !is_current && window.is_none_or(|window| !kept.contains(&window)) {
            let path = cache.join(name);
            if path.is_dir() {
                state::remove_folder(&path)?;
            }
        }
    }
    Ok(())
}

impl Metadata for ReferenceMetadata {
    const PROTOCOL: Protocol = Protocol::V5;

    fn of(published: Published) -> Result<(Self, Option<CheckpointType>), Protocol> {
        match published {
            Published::V5(metadata) => {
                let kind = metadata.checkpoint_type;
                Ok((*metadata, kind))
            }
            Published::V6(_) => Err(Protocol::V6),
        }
    }
}

/// Returns whether a file of a checkpoint holds weights, or says in which file they are.
pub fn is_weights(name: &str) -> bool {
    name == WEIGHTS_FILE
        || name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
}
