//! Opens redb files so that damage becomes an error with a next step.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError};

/// Memory for cached pages; the databases of a local network are small.
const CACHE_BYTES: usize = 16 << 20;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseFault {
    /// No such file.
    #[error("{0} is missing; restore the network's folder from a backup, or make a new network")]
    Missing(PathBuf),
    /// Another process has it open.
    #[error("{0} is in use by another process; stop that one first")]
    InUse(PathBuf),
    /// The file is not a database of ours, or is cut off or altered.
    #[error(
        "{path} is damaged ({reason}); restore the network's folder from a backup, or make a new \
         network"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A read or write failed; nothing of the transaction was kept.
    #[error("cannot read or write {path} ({reason}); check free space and permissions, then retry")]
    Failed {
        /// The file.
        path: PathBuf,
        /// The database's word.
        reason: String,
    },
}

/// Creates the database at `path`, which must not exist.
pub(crate) fn create(path: &Path) -> Result<Database, DatabaseFault> {
    if path.exists() {
        let reason = "it exists already".to_owned();
        return Err(DatabaseFault::Failed { path: path.to_owned(), reason });
    }
    builder().create(path).map_err(|error| opening(path, &error))
}

/// Opens the database at `path` and checks every page of it.
pub(crate) fn open(path: &Path) -> Result<Database, DatabaseFault> {
    if !path.is_file() {
        return Err(DatabaseFault::Missing(path.to_owned()));
    }
    builder().open(path).map_err(|error| opening(path, &error))
}

/// Returns a closure that words a failed transaction on the database at `path`.
pub(crate) fn failed<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> DatabaseFault {
    move |error| {
        let error = error.into();
        let (path, reason) = (path.to_owned(), error.to_string());
        match error {
            redb::Error::Corrupted(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. } => DatabaseFault::Damaged { path, reason },
            _ => DatabaseFault::Failed { path, reason },
        }
    }
}

/// Returns the fault of a row that does not read.
pub(crate) fn bad_row(path: &Path, what: &str, reason: &dyn Display) -> DatabaseFault {
    let reason = format!("{what}: {reason}");
    DatabaseFault::Damaged { path: path.to_owned(), reason }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // Without it a page that was altered outside of redb may panic later.
    builder.set_check_integrity_on_open(true);
    builder
}

fn opening(path: &Path, error: &DatabaseError) -> DatabaseFault {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error {
        DatabaseError::DatabaseAlreadyOpen => DatabaseFault::InUse(path),
        DatabaseError::Storage(redb::StorageError::Io(source))
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            DatabaseFault::Failed { path, reason }
        }
        _ => DatabaseFault::Damaged { path, reason },
    }
}
