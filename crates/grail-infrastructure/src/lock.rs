//! Keeps two processes out of one folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A folder that no other process can hold at the same time.
///
/// The operating system lets go of the lock when the process ends, however it ends; the empty lock
/// file stays and means nothing by itself.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another part of this one, holds the folder.
    #[error("{0} is in use by another process; stop that one first, or choose another folder")]
    InUse(PathBuf),
    /// The lock file could not be opened.
    #[error("cannot lock {path}: {source}; check that the folder exists and is writable")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
}

impl FolderLock {
    /// Locks `dir`, which must exist, through the file `name` in it.
    ///
    /// # Errors
    /// [`LockError::InUse`] at once, without waiting, when somebody else holds it.
    pub fn acquire(dir: &Path, name: &str) -> Result<Self, LockError> {
        let path = dir.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| LockError::Io { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::InUse(dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let held = FolderLock::acquire(dir.path(), "lock").unwrap();
        let error = FolderLock::acquire(dir.path(), "lock").unwrap_err();
        assert!(matches!(&error, LockError::InUse(path) if path == dir.path()), "{error}");
        drop(held);
        FolderLock::acquire(dir.path(), "lock").unwrap();
    }

    #[test]
    fn an_absent_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = FolderLock::acquire(&dir.path().join("absent"), "lock").unwrap_err();
        assert!(error.to_string().contains("check that the folder exists"), "{error}");
    }
}
