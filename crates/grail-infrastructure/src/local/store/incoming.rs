//! An object on its way into the store: in a temporary file, hashed as it comes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use grail_ports::object_store::StoreError;
use grail_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};

use crate::files;

/// Bytes that come; what did not become an object is removed when this is dropped.
pub(crate) struct Incoming {
    pub(super) access: super::AccessKey,
    pub(super) key: String,
    /// Name of the temporary file in its folder.
    pub(super) name: String,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    size: u64,
    limit: u64,
    is_kept: bool,
}

impl Incoming {
    /// Makes the temporary file `name` at `path` for an object of at most `limit` bytes.
    pub(super) fn start(
        access: super::AccessKey,
        key: String,
        (name, path): (String, PathBuf),
        limit: u64,
    ) -> Result<Self, StoreError> {
        let opened =
            OpenOptions::new().write(true).create_new(true).mode(files::PRIVATE).open(&path);
        let file = opened.map_err(failed)?;
        let (hasher, size, is_kept) = (Sha256::new(), 0, false);
        Ok(Self { access, key, name, path, file, hasher, size, limit, is_kept })
    }

    /// Fails if the store does not take objects of `size` bytes.
    pub(crate) fn check_size(&self, size: u64) -> Result<(), StoreError> {
        if size > self.limit {
            return Err(StoreError::TooLarge { key: self.key.clone(), size, limit: self.limit });
        }
        Ok(())
    }

    /// Adds `bytes` at the end.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.check_size(size)?;
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(failed)?;
        self.size = size;
        Ok(())
    }

    /// Makes what came survive a power failure; returns its size and SHA-256.
    pub(super) fn flush(&mut self) -> Result<(u64, Digest), StoreError> {
        self.file.sync_all().map_err(failed)?;
        self.path.parent().map_or(Ok(()), files::sync_dir).map_err(failed)?;
        Ok((self.size, self.sha256()))
    }

    /// Returns the SHA-256 of what came so far.
    pub(crate) fn sha256(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }

    /// Leaves the file to the store's journal.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn failed(error: io::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.is_kept {
            drop(fs::remove_file(&self.path));
        }
    }
}
