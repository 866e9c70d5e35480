//! A folder of verified checkpoints: a file enters only with the digest that the trainer signed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use grail_protocol::checkpoint::{
    CHECKPOINT_FILES, CheckpointMetadata, DELTA_FILE, WEIGHTS_FILE, model_identity, open_metadata,
};
use grail_protocol::constants::CHECKPOINT_METADATA_BYTES_MAX;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_protocol::keys::{MANIFEST_SIGNATURE_FILE, METADATA_FILE};
use sha2::Digest as _;

use super::CheckpointError;
use super::reference::DELTA_FILE as REFERENCE_DELTA_FILE;
use crate::state::{self, disk};

/// Largest `manifest.sig`, bytes: 128 digits and some white space.
pub const MANIFEST_SIGNATURE_BYTES_MAX: u64 = 1024;

/// Returns the most bytes that a file of a checkpoint may have.
pub fn file_bytes_max(name: &str) -> u64 {
    match name {
        WEIGHTS_FILE | DELTA_FILE | REFERENCE_DELTA_FILE => 64 << 30,
        "tokenizer.json" => 256 << 20,
        _ => 16 << 20,
    }
}

/// Ending of a folder in which a checkpoint is put together.
const STAGE: &str = ".download";

/// The two small files that say what a checkpoint is, as they were published.
#[derive(Clone)]
pub struct SignedFiles {
    /// `metadata.json`.
    pub metadata: Bytes,
    /// `manifest.sig`, if there is one.
    pub signature: Option<Bytes>,
}

/// Cached checkpoints of one role. All methods block.
#[derive(Clone, Debug)]
pub struct CheckpointCache {
    folder: PathBuf,
}

impl CheckpointCache {
    /// Uses `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Returns where the files of a checkpoint lie, if they do.
    pub fn dir(&self, checkpoint: Window) -> PathBuf {
        self.folder.join(format!("checkpoint-{checkpoint}"))
    }

    /// Returns the metadata of a cached checkpoint if every byte of it is what `trainer` signed.
    pub fn verified(&self, checkpoint: Window, trainer: Hotkey) -> Option<CheckpointMetadata> {
        let dir = self.dir(checkpoint);
        let read = |name: &str, max| state::read_file(&dir.join(name), max).ok().flatten();
        let metadata = read(METADATA_FILE, CHECKPOINT_METADATA_BYTES_MAX)?;
        let signature = read(MANIFEST_SIGNATURE_FILE, MANIFEST_SIGNATURE_BYTES_MAX)?;
        let metadata = open_metadata(&metadata, &signature, trainer, checkpoint).ok()?;
        let intact = |(name, digest): (&String, &Digest)| {
            file_digest(&dir.join(name)).is_ok_and(|found| found == *digest)
        };
        metadata.file_manifest.iter().all(intact).then_some(metadata)
    }

    /// Returns the folder in which the files of a checkpoint are put together. It stays when that is
    /// interrupted, also by a crash, and is never read as a checkpoint.
    pub fn stage(&self, checkpoint: Window) -> PathBuf {
        self.folder.join(format!("checkpoint-{checkpoint}{STAGE}"))
    }

    /// Replaces the cached checkpoint with the files in its stage, whose digests were checked.
    pub fn install(&self, checkpoint: Window, signed: &SignedFiles) -> Result<(), CheckpointError> {
        let (stage, dir) = (self.stage(checkpoint), self.dir(checkpoint));
        state::write_file(&stage.join(METADATA_FILE), &signed.metadata)?;
        if let Some(signature) = &signed.signature {
            state::write_file(&stage.join(MANIFEST_SIGNATURE_FILE), signature)?;
        }
        Ok(state::move_folder(&stage, &dir)?)
    }

    /// Removes all but the newest `keep` checkpoints, and what crashes left behind.
    pub fn retain(&self, keep: usize) -> Result<(), CheckpointError> {
        let mut windows = Vec::new();
        for name in state::names_in(&self.folder)? {
            match parse(&name) {
                Some(window) => windows.push(window),
                None => state::remove_folder(&self.folder.join(name))?,
            }
        }
        windows.sort_unstable();
        let surplus = windows.len().saturating_sub(keep);
        for window in &windows[..surplus] {
            state::remove_folder(&self.dir(*window))?;
        }
        Ok(())
    }
}

fn parse(name: &str) -> Option<Window> {
    Window::from_start(name.strip_prefix("checkpoint-")?.parse().ok()?).ok()
}

/// Returns the SHA-256 of a file.
pub fn file_digest(path: &Path) -> Result<Digest, state::StateError> {
    let mut file = File::open(path).map_err(disk("read", path))?;
    let mut hasher = sha2::Sha256::new();
    io::copy(&mut file, &mut hasher).map_err(disk("read", path))?;
    Ok(Digest(hasher.finalize().into()))
}

/// Returns the [`model_identity`] of the checkpoint in `dir`; the weights are not read.
pub fn identity_of(dir: &Path) -> Result<Digest, state::StateError> {
    let names = CHECKPOINT_FILES.into_iter().filter(|name| *name != WEIGHTS_FILE);
    let digests = names.map(|name| Ok((name.to_owned(), file_digest(&dir.join(name))?)));
    Ok(model_identity(&digests.collect::<Result<_, _>>()?))
}

/// Returns the SHA-256 of each file of the checkpoint in `dir`, by name.
pub fn manifest_of(dir: &Path) -> Result<BTreeMap<String, Digest>, state::StateError> {
    CHECKPOINT_FILES
        .into_iter()
        .map(|name| Ok((name.to_owned(), file_digest(&dir.join(name))?)))
        .collect()
}
