//! Makes a reference checkpoint of a cached one and deltas: tensor by tensor, in one pass over the
//! weights however long the chain is, with the hash of every link.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use grail_protocol::checkpoint::delta::frame::decompress;
use grail_protocol::checkpoint::delta::payload::decode;
use grail_protocol::checkpoint::delta::{DeltaError, Format, SparseTensor};
use grail_protocol::checkpoint::tensors::TensorIndex;
use grail_protocol::checkpoint::{WEIGHTS_FILE, WeightsHash, WeightsHasher};
use grail_protocol::ids::{Digest, Window};
use grail_protocol::keys::METADATA_FILE;

use super::CheckpointError;
use super::cache::file_digest;
use super::reference::is_weights;
use super::weights::{HashedFile, TensorFile, WeightsError, by_name, value_type};
use crate::context::Heartbeat;
use crate::state::{self, disk};

/// Bytes of a payload for each byte of weights: two places of 4 bytes and a value of 4 for each
/// value of 2, and some room for repeated ones.
const PAYLOAD_FACTOR: u64 = 8;

/// Bytes of a payload beside those: its header.
const PAYLOAD_BYTES_BESIDE: u64 = 64 << 20;

/// One delta of a chain, its file verified.
pub struct Link {
    /// Checkpoint that it leads to.
    pub window: Window,
    /// How it is coded.
    pub format: Format,
    /// Where it lies.
    pub file: PathBuf,
    /// Hash of the weights that it leads to.
    pub weights_hash: Option<WeightsHash>,
}

type Failed = (Window, CheckpointError);

/// Applies `links`, oldest first, to the checkpoint in `base`, puts the result into `stage`, and
/// returns its files with their digests. Nothing in `base` is changed.
///
/// Holds the largest tensor and all decoded links in memory.
///
/// # Errors
/// The link that is at fault and why, if the disk is not. What `stage` holds then is no checkpoint.
pub fn reconstruct(
    base: &Path,
    links: &[Link],
    stage: &Path,
    heartbeat: &Heartbeat,
) -> Result<Vec<(String, Digest)>, Failed> {
    let tip = links.last().map(|link| link.window).unwrap_or_default();
    let local = |error: state::StateError| (tip, CheckpointError::from(error));
    std::fs::create_dir_all(stage).map_err(|error| local(disk("make", stage)(error)))?;
    let names = state::names_in(base).map_err(local)?;
    let weights_failed = |checkpoint| {
        move |error: WeightsError| (checkpoint, CheckpointError::Delta { checkpoint, error })
    };
    let files = names.iter().filter(|name| name.ends_with(".safetensors"));
    let mut files = files
        .map(|name| TensorFile::open(&base.join(name)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(weights_failed(tip))?;
    let changes = links
        .iter()
        .map(|link| read(link, &files).map_err(weights_failed(link.window)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut made =
        vec![(WEIGHTS_FILE.to_owned(), write(&mut files, links, &changes, stage, heartbeat)?)];
    for name in names.iter().filter(|name| !is_weights(name) && *name != METADATA_FILE) {
        let (from, to) = (base.join(name), stage.join(name));
        let copied = std::fs::copy(&from, &to).map_err(disk("copy", &from));
        let digest = copied.and_then(|_| file_digest(&to)).map_err(local)?;
        made.push((name.clone(), digest));
    }
    Ok(made)
}

/// Reads a link whose base is `files`.
fn read(link: &Link, files: &[TensorFile]) -> Result<BTreeMap<String, SparseTensor>, WeightsError> {
    let held = files.iter().flat_map(|file| &file.index().tensors);
    let bytes: u64 = held.map(|tensor| tensor.range.end - tensor.range.start).sum();
    let payload_max = bytes.saturating_mul(PAYLOAD_FACTOR).saturating_add(PAYLOAD_BYTES_BESIDE);
    let file = state::read_file(&link.file, payload_max)?.unwrap_or_default();
    let tensors = decode(&decompress(&file, payload_max)?, link.format)?;
    Ok(tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect())
}

/// Writes the weights at the end of the chain, and checks the hash of every link on the way.
fn write(
    files: &mut [TensorFile],
    links: &[Link],
    changes: &[BTreeMap<String, SparseTensor>],
    stage: &Path,
    heartbeat: &Heartbeat,
) -> Result<Digest, Failed> {
    let tip = links.last().map(|link| link.window).unwrap_or_default();
    let failed = |checkpoint: Window, error: WeightsError| {
        (checkpoint, CheckpointError::Delta { checkpoint, error })
    };
    let path = stage.join(WEIGHTS_FILE);
    let tensors = files.iter().flat_map(|file| &file.index().tensors);
    let described = tensors.map(|it| (it.name.clone(), it.dtype.clone(), it.shape.clone()));
    let index = TensorIndex::lay_out(described)
        .map_err(|reason| failed(tip, WeightsError::Tensors { path: path.clone(), reason }))?;
    let disk_failed = |error: state::StateError| failed(tip, error.into());
    let mut out = HashedFile::create(&path).map_err(disk_failed)?;
    out.push(&index.to_header()).map_err(disk_failed)?;
    let mut hashers: Vec<WeightsHasher> = links.iter().map(|_| WeightsHasher::new()).collect();
    let mut bytes = Vec::new();
    let mut used = vec![0usize; links.len()];
    for ((name, file, range), tensor) in by_name(files).into_iter().zip(&index.tensors) {
        files[file].read(range, &mut bytes).map_err(|error| failed(tip, error))?;
        for (nth, link) in links.iter().enumerate() {
            if let Some(change) = changes[nth].get(&name) {
                apply(change, &tensor.dtype, &tensor.shape, &mut bytes)
                    .map_err(|error| failed(link.window, error.into()))?;
                used[nth] += 1;
            }
            hashers[nth].update(&bytes);
        }
        out.push(&bytes).map_err(disk_failed)?;
        heartbeat.beat();
    }
    for (nth, link) in links.iter().enumerate() {
        let found = hashers[nth].finish();
        let is_right = match link.weights_hash {
            Some(expected) => expected == found,
            // Names that the base lacks are left out where a hash can tell; here nothing can.
            None => used[nth] == changes[nth].len(),
        };
        if !is_right {
            let expected = link.weights_hash.map(|hash| hash.to_string()).unwrap_or_default();
            let reason = format!("it leads to weights {found}, expected {expected}");
            return Err(failed(link.window, DeltaError::WrongResult(reason).into()));
        }
    }
    out.finish().map_err(disk_failed)
}

/// Applies the change of a tensor to its bytes, if it is one of this tensor.
fn apply(
    change: &SparseTensor,
    dtype: &str,
    shape: &[u64],
    bytes: &mut [u8],
) -> Result<(), DeltaError> {
    if value_type(dtype) != Some(change.value_type) || change.shape != shape {
        let name: String = change.name.chars().take(64).collect();
        let (found, sizes) = (change.value_type.name(), &change.shape);
        let reason = format!("{found} of {sizes:?} does not fit {dtype} of {shape:?}");
        return Err(DeltaError::BadTensor { name, reason });
    }
    change.apply(bytes)
}
