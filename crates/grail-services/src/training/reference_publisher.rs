//! Publishes checkpoints as the reference's upload worker does: whole first, then deltas on the last
//! one uploaded, whole again at anchors, READY last.
//!
//! Source: `spec/checkpoints.md`, publishing and retention. Better where no peer can mind: every
//! object is read back, and READY is written, and checked, only after that; changes are found by
//! their bits, with no threshold, so that every delta leads to its hash; clean-up deletes by a prefix
//! that ends with a slash, and keeps the newest full checkpoints also where deltas lie beside them;
//! of a full upload the metadata and its signature go up last, so that whoever sees the signature
//! finds the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grail_ports::object_store::ObjectStore;
use grail_ports::signer::Signer;
use grail_protocol::checkpoint::CheckpointType;
use grail_protocol::checkpoint::delta::frame::compress;
use grail_protocol::checkpoint::delta::payload::encode;
use grail_protocol::checkpoint::delta::{Format, SparseTensor, ValueType};
use grail_protocol::checkpoint::reference::ReferenceMetadata;
use grail_protocol::checkpoint::reference::delta_metadata::DeltaMetadata;
use grail_protocol::checkpoint::retention::{
    ANCHOR_INTERVAL, FULL_KEPT, Inventory, Links, is_anchor, publisher_keeps,
};
use grail_protocol::constants::{CHECKPOINT_METADATA_BYTES_MAX, WINDOW_BLOCKS};
use grail_protocol::ids::{Digest, Window};
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, METADATA_FILE, ReadyMarker};
use grail_protocol::v5::python::json;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::TrainingError;
use super::publisher::upload;
use crate::blocking::blocking;
use crate::checkpoint::reference::{DELTA_FILE, DELTA_METADATA_FILE};
use crate::checkpoint::weights::{TensorFile, WeightsError, by_name, weights_hash};
use crate::state::{self, disk};

/// File of a snapshot that is uploaded and not listed.
const SNAPSHOT_FILE: &str = "snapshot_metadata.json";

/// Uploads between two clean-ups.
const CLEANUP_EVERY: u32 = 10;

/// Waits between the attempts at an upload.
pub const RETRY_WAITS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(120)];

/// Largest file of a snapshot, bytes.
const FILE_BYTES_MAX: u64 = 64 << 30;

/// What was uploaded last, with a copy of its weights.
struct Previous {
    window: Window,
    weights: Vec<PathBuf>,
}

/// Publishes the snapshots of one training.
pub struct ReferencePublisher {
    bucket: Arc<dyn ObjectStore>,
    signer: Arc<dyn Signer>,
    /// For the copy of the last weights.
    folder: PathBuf,
    waits: Vec<Duration>,
    milestone: Option<u32>,
    previous: Option<Previous>,
    anchor: Option<Window>,
    uploads: u32,
    background: JoinSet<Result<Window, TrainingError>>,
}

impl ReferencePublisher {
    /// Makes a publisher that starts with a full checkpoint; no I/O. `waits` lie between attempts
    /// ([`RETRY_WAITS`]); with `milestone` every such many windows are kept for ever.
    pub fn new(
        bucket: Arc<dyn ObjectStore>,
        signer: Arc<dyn Signer>,
        folder: PathBuf,
        waits: &[Duration],
        milestone: Option<u32>,
    ) -> Self {
        Self {
            bucket,
            signer,
            folder,
            waits: waits.to_vec(),
            milestone,
            previous: None,
            anchor: None,
            uploads: 0,
            background: JoinSet::new(),
        }
    }

    /// Publishes the model folder `dir` as the checkpoint of `described.window`, and returns how;
    /// nothing for the window that was published last. Manifest, type, links and hash in `described`
    /// are replaced. `ready` gives the window of the chain's head once everything is uploaded.
    ///
    /// # Errors
    /// When even the last attempt failed: the checkpoint is not READY.
    pub async fn publish(
        &mut self,
        dir: &Path,
        described: &ReferenceMetadata,
        ready: impl AsyncFnOnce() -> Result<Window, TrainingError>,
    ) -> Result<Option<CheckpointType>, TrainingError> {
        let window = described.window;
        if self.previous.as_ref().is_some_and(|previous| previous.window == window) {
            return Ok(None);
        }
        self.collect_background();
        let staged = self.stage(dir).await?;
        let hash = {
            let staged = staged.clone();
            blocking(move || weights_hash(&staged)).await?
        };
        let described = ReferenceMetadata { weights_hash: Some(hash), ..described.clone() };
        let kind = self.upload(dir, &described, &staged).await?;
        self.keep(window, staged).await?;
        let marker = ReadyMarker { ready: ready().await?, checkpoint: window };
        self.attempt(async || {
            self.bucket.put(&marker.key(), Bytes::new()).await?;
            match self.bucket.head(&marker.key()).await? {
                Some(_) => Ok(()),
                None => Err(TrainingError::UploadDamaged { key: marker.key() }),
            }
        })
        .await?;
        if self.uploads.is_multiple_of(CLEANUP_EVERY)
            && let Err(error) = self.clean_up().await
        {
            warn!(%error, "old checkpoints stay in the bucket for now");
        }
        self.uploads = self.uploads.wrapping_add(1);
        Ok(Some(kind))
    }

    /// Waits for full checkpoints that are going up beside their deltas.
    pub async fn finish(&mut self) {
        while let Some(ended) = self.background.join_next().await {
            self.note(ended);
        }
    }

    async fn upload(
        &mut self,
        dir: &Path,
        described: &ReferenceMetadata,
        staged: &[PathBuf],
    ) -> Result<CheckpointType, TrainingError> {
        let window = described.window;
        if let (Some(previous), Some(anchor)) = (&self.previous, self.anchor) {
            let (base, current) = (previous.weights.clone(), staged.to_vec());
            let (described, prev) = (described.clone(), previous.window);
            let made =
                blocking(move || delta_files(&base, &current, &described, prev, anchor)).await;
            match made {
                Ok(Some(files)) => {
                    let sent = self
                        .attempt(async || self.send(&files, CheckpointType::Delta, window).await);
                    match sent.await {
                        Ok(()) => {
                            self.full_beside(dir, &described_full(&files.metadata), anchor);
                            return Ok(CheckpointType::Delta);
                        }
                        Err(error) => {
                            warn!(%error, "a delta cannot be published; it goes up whole");
                        }
                    }
                }
                Ok(None) => info!("no delta can hold this step; it goes up whole"),
                Err(error) => warn!(%error, "no delta can be made; it goes up whole"),
            }
        }
        let (bucket, signer, dir) = (self.bucket.clone(), self.signer.clone(), dir.to_owned());
        let described = described_full(described);
        self.attempt(async || send_full(&*bucket, &*signer, &dir, &described).await).await?;
        self.anchor = self.anchor.max(Some(window));
        Ok(CheckpointType::Full)
    }

    /// Starts a full upload beside a delta where one is due.
    fn full_beside(&mut self, dir: &Path, described: &ReferenceMetadata, anchor: Window) {
        let window = described.window;
        let far = ANCHOR_INTERVAL.unsigned_abs() * WINDOW_BLOCKS;
        let is_far = window.start().0.saturating_sub(anchor.start().0) >= far;
        let is_due = i64::try_from(window.start().0).is_ok_and(is_anchor) || is_far;
        if !is_due || !self.background.is_empty() {
            return;
        }
        let (bucket, signer) = (self.bucket.clone(), self.signer.clone());
        let (dir, described) = (dir.to_owned(), described.clone());
        self.background.spawn(async move {
            send_full(&*bucket, &*signer, &dir, &described).await.map(|()| described.window)
        });
    }

    fn collect_background(&mut self) {
        while let Some(ended) = self.background.try_join_next() {
            self.note(ended);
        }
    }

    fn note(&mut self, ended: Result<Result<Window, TrainingError>, tokio::task::JoinError>) {
        match ended {
            // It never moves backwards.
            Ok(Ok(window)) => self.anchor = self.anchor.max(Some(window)),
            Ok(Err(error)) => warn!(%error, "a full checkpoint beside its delta did not go up"),
            Err(error) => warn!(%error, "a full upload broke off"),
        }
    }

    async fn attempt(
        &self,
        mut work: impl AsyncFnMut() -> Result<(), TrainingError>,
    ) -> Result<(), TrainingError> {
        for wait in &self.waits {
            match work().await {
                Ok(()) => return Ok(()),
                Err(error) => warn!(%error, "an upload is tried again"),
            }
            tokio::time::sleep(*wait).await;
        }
        work().await
    }

    /// Uploads a delta: its files, then metadata and signature.
    async fn send(
        &self,
        files: &DeltaFiles,
        kind: CheckpointType,
        window: Window,
    ) -> Result<(), TrainingError> {
        let signed = files.metadata.sign(&|message| self.signer.sign(message))?;
        let objects = [
            (DELTA_FILE, files.delta.clone()),
            (DELTA_METADATA_FILE, files.described.clone()),
            ("DELTA", Bytes::new()),
            (METADATA_FILE, signed.metadata_json.into()),
            (MANIFEST_SIGNATURE_FILE, signed.manifest_sig.into()),
        ];
        for (name, content) in objects {
            upload(&*self.bucket, &key(kind, window, name), content).await?;
        }
        Ok(())
    }

    /// Copies the weights of a snapshot: the next one is compared with them.
    async fn stage(&self, dir: &Path) -> Result<Vec<PathBuf>, TrainingError> {
        let (dir, folder) = (dir.to_owned(), self.folder.join("next"));
        blocking(move || {
            state::remove_folder(&folder)?;
            std::fs::create_dir_all(&folder).map_err(disk("make", &folder))?;
            let names = state::names_in(&dir)?;
            let weights = names.iter().filter(|name| name.ends_with(".safetensors"));
            let copy = |name: &String| {
                let to = folder.join(name);
                std::fs::copy(dir.join(name), &to).map_err(disk("copy", &to))?;
                Ok(to)
            };
            weights.map(copy).collect()
        })
        .await
    }

    async fn keep(&mut self, window: Window, staged: Vec<PathBuf>) -> Result<(), TrainingError> {
        let (next, last) = (self.folder.join("next"), self.folder.join("last"));
        let kept = last.clone();
        blocking(move || state::move_folder(&next, &kept)).await?;
        let weights = staged.iter().filter_map(|path| path.file_name().map(|name| last.join(name)));
        self.previous = Some(Previous { window, weights: weights.collect() });
        Ok(())
    }

    /// Deletes from the bucket what the rules do not keep.
    async fn clean_up(&self) -> Result<(), TrainingError> {
        let objects = self.bucket.list(keys::CHECKPOINTS_PREFIX).await?;
        let inventory = Inventory::of(objects.iter().map(|object| object.key.as_str()));
        let mut links = Links::default();
        for delta in &inventory.delta {
            let Some(window) = to_window(*delta) else { continue };
            let key = keys::delta_file(window, METADATA_FILE);
            let bytes = self.bucket.get(&key, CHECKPOINT_METADATA_BYTES_MAX).await?;
            let text = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
            let value = text.and_then(|text| json::parse(text).ok());
            let Some(metadata) =
                value.and_then(|value| ReferenceMetadata::from_value(&value, window).ok())
            else {
                continue;
            };
            let start = |window: Window| i64::try_from(window.start().0).ok();
            links.prev.extend(metadata.prev_window.and_then(start).map(|prev| (*delta, prev)));
            links.anchor.extend(metadata.anchor_window.and_then(start).map(|it| (*delta, it)));
        }
        let mut keep = publisher_keeps(&inventory, &links, self.milestone);
        keep.extend(inventory.full.iter().take(FULL_KEPT));
        if keep.is_empty() {
            return Ok(());
        }
        for window in inventory.all.iter().filter(|window| !keep.contains(window)) {
            let Some(window) = to_window(*window) else { continue };
            let objects = self.bucket.list(&keys::checkpoint_prefix(window)).await?;
            // Markers first: they promise the files.
            let (markers, files): (Vec<_>, Vec<_>) =
                objects.iter().partition(|object| ReadyMarker::parse(&object.key).is_some());
            for object in markers.into_iter().chain(files) {
                self.bucket.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

fn to_window(start: i64) -> Option<Window> {
    Window::from_start(u64::try_from(start).ok()?).ok()
}

fn key(kind: CheckpointType, window: Window, name: &str) -> String {
    match kind {
        CheckpointType::Full => keys::checkpoint_file(window, name),
        CheckpointType::Delta => keys::delta_file(window, name),
    }
}

fn described_full(described: &ReferenceMetadata) -> ReferenceMetadata {
    ReferenceMetadata {
        checkpoint_type: Some(CheckpointType::Full),
        prev_window: None,
        anchor_window: None,
        file_manifest: Vec::new(),
        ..described.clone()
    }
}

/// Uploads a model folder whole: files, then metadata and signature.
async fn send_full(
    bucket: &dyn ObjectStore,
    signer: &dyn Signer,
    dir: &Path,
    described: &ReferenceMetadata,
) -> Result<(), TrainingError> {
    let window = described.window;
    let mut file_manifest = Vec::new();
    let folder = dir.to_owned();
    for name in blocking(move || state::names_in(&folder)).await? {
        let path = dir.join(&name);
        if !path.is_file() || [METADATA_FILE, MANIFEST_SIGNATURE_FILE].contains(&name.as_str()) {
            continue;
        }
        let read = blocking(move || state::read_file(&path, FILE_BYTES_MAX)).await?;
        let Some(content) = read.map(Bytes::from) else {
            return Err(TrainingError::BuildGone { checkpoint: window, file: name });
        };
        let hashed = content.clone();
        let digest = blocking(move || Digest::of(&hashed)).await;
        upload(bucket, &keys::checkpoint_file(window, &name), content).await?;
        if name != SNAPSHOT_FILE {
            file_manifest.push((name, digest));
        }
    }
    let metadata = ReferenceMetadata { file_manifest, ..described.clone() };
    let signed = metadata.sign(&|message| signer.sign(message))?;
    for (name, content) in [
        ("FULL", Bytes::new()),
        (METADATA_FILE, signed.metadata_json.into()),
        (MANIFEST_SIGNATURE_FILE, signed.manifest_sig.into()),
    ] {
        upload(bucket, &keys::checkpoint_file(window, name), content).await?;
    }
    Ok(())
}

/// What a delta publishes.
struct DeltaFiles {
    delta: Bytes,
    described: Bytes,
    metadata: ReferenceMetadata,
}

/// Makes the delta from one set of weights files to another; nothing where the codec cannot hold it.
fn delta_files(
    base: &[PathBuf],
    current: &[PathBuf],
    described: &ReferenceMetadata,
    prev_window: Window,
    anchor_window: Window,
) -> Result<Option<DeltaFiles>, WeightsError> {
    let open = |paths: &[PathBuf]| -> Result<Vec<_>, _> {
        paths.iter().map(|path| TensorFile::open(path)).collect()
    };
    let mut base = open(base)?;
    let mut current = open(current)?;
    let (old, new) = (by_name(&base), by_name(&current));
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let (mut changes, mut total_params) = (Vec::new(), 0u64);
    if old.len() != new.len() {
        return Ok(None);
    }
    for ((name, old_file, old_range), (new_name, new_file, new_range)) in old.into_iter().zip(new) {
        let find = |files: &[TensorFile], file: usize| {
            let tensors = &files[file].index().tensors;
            tensors.iter().find(|it| it.name == name).map(|it| (it.dtype.clone(), it.shape.clone()))
        };
        let (was, is) = (find(&base, old_file), find(&current, new_file));
        let Some((dtype, shape)) = is.filter(|is| name == new_name && was.as_ref() == Some(is))
        else {
            return Ok(None);
        };
        let value_type = match dtype.as_str() {
            "BF16" => Some(ValueType::Bf16),
            "F16" => Some(ValueType::F16),
            "F32" => Some(ValueType::F32),
            _ => None,
        };
        base[old_file].read(old_range, &mut before)?;
        current[new_file].read(new_range, &mut after)?;
        total_params += shape.iter().product::<u64>();
        match value_type.filter(|_| !shape.is_empty()) {
            Some(value_type) => {
                let change = SparseTensor::between(&name, &shape, value_type, &before, &after);
                changes.extend(Some(change).filter(|change| !change.positions.is_empty()));
            }
            // Types that the codec would change, and single values, must not have moved.
            None if before != after => return Ok(None),
            None => {}
        }
    }
    let delta = compress(&encode(&changes, Format::V31)?)?;
    let described_delta = DeltaMetadata {
        format: Format::V31,
        threshold: 0.0,
        prev_window,
        anchor_window,
        shapes: changes.iter().map(|it| (it.name.clone(), it.shape.clone())).collect(),
        total_params,
        nonzero_params: changes.iter().map(|it| it.positions.len() as u64).sum(),
    };
    let text = described_delta.to_json();
    let file_manifest = vec![
        (DELTA_FILE.to_owned(), Digest::of(&delta)),
        (DELTA_METADATA_FILE.to_owned(), Digest::of(text.as_bytes())),
    ];
    let metadata = ReferenceMetadata {
        file_manifest,
        checkpoint_type: Some(CheckpointType::Delta),
        prev_window: Some(prev_window),
        anchor_window: Some(anchor_window),
        ..described.clone()
    };
    Ok(Some(DeltaFiles { delta: delta.into(), described: text.into(), metadata }))
}
