//! The embedded object store: one bucket per hotkey, one plain file per object.
//!
//! `<store>/<bucket>/<key>` is the object; `<store>/.index.redb` knows when it was written and what
//! its bytes hash to. A put writes a temporary file, notes the change in the index's journal, renames
//! the file, and completes the index. Whoever opens the store after a crash finishes what the
//! journal holds, so a put is there whole, with its time, or not at all.

mod bucket;
pub mod credentials;
mod incoming;
mod index;
pub mod key;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use grail_ports::object_store::{FilePut, ObjectInfo, PutCondition, PutOutcome, StoreError};
use grail_protocol::ids::{Digest, Hotkey};
use sha2::{Digest as _, Sha256};

pub use self::bucket::FolderBuckets;
pub(crate) use self::bucket::foreign_credentials;
use self::credentials::{AccessKey, BucketGrant};
pub(crate) use self::incoming::Incoming;
pub(crate) use self::index::WriteError;
use self::index::{Change, Index, ObjectRow, unavailable};
use self::key::{ValidKey, check_prefix};
use crate::clock::Clock;
use crate::files;
use crate::local::database::DatabaseFault;
use crate::source::{FileSource, PIECE_BYTES};

const INDEX_FILE: &str = ".index.redb";
const TEMPORARY_FOLDER: &str = ".tmp";

/// How much the store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Largest object, bytes.
    pub object_bytes_max: u64,
    /// Most bytes in one bucket.
    pub bucket_bytes_max: u64,
    /// Most objects in one bucket.
    pub bucket_objects_max: u64,
    /// Most buckets.
    pub buckets_max: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            object_bytes_max: 2 << 30,
            bucket_bytes_max: 256 << 30,
            bucket_objects_max: 1 << 20,
            buckets_max: 512,
        }
    }
}

/// A store in a folder that this process alone has open.
pub struct FolderStore {
    dir: PathBuf,
    index: Index,
    limits: StoreLimits,
    clock: Clock,
    /// Held shared to look at a row and its file, exclusively to change both.
    gate: RwLock<()>,
    serial: AtomicU64,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The index failed.
    #[error("the local store: {0}")]
    Index(#[from] DatabaseFault),
    /// The operating system refused.
    #[error("the local store cannot access {path}: {source}; check permissions and free space")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
}

/// An object that is open for reading.
pub(crate) struct OpenObject {
    pub(crate) info: ObjectInfo,
    pub(crate) file: File,
}

impl OpenObject {
    /// Moves to the start of `range`, which is returned as far as the object has bytes for it.
    pub(crate) fn narrow(
        &mut self,
        range: &Range<u64>,
        etag: Option<&str>,
    ) -> Result<Range<u64>, StoreError> {
        if etag.is_some_and(|etag| etag != self.info.etag) {
            return Err(StoreError::Changed(self.info.key.clone()));
        }
        let end = range.end.min(self.info.size);
        let start = range.start.min(end);
        self.file
            .seek(SeekFrom::Start(start))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(start..end)
    }
}

impl FolderStore {
    /// Creates an empty store in the folder `dir`, which may exist if no store is in it.
    ///
    /// # Errors
    /// When there is a store already, or the folder cannot be written.
    pub fn create(dir: &Path, limits: StoreLimits, clock: Clock) -> Result<Self, OpenStoreError> {
        files::create_private_dir(&dir.join(TEMPORARY_FOLDER)).map_err(io_error(dir))?;
        let index = Index::create(&dir.join(INDEX_FILE))?;
        Ok(Self::with_index(dir, index, limits, clock))
    }

    /// Opens the store in the folder `dir` and finishes what a crash interrupted.
    ///
    /// # Errors
    /// When there is no store, another process has it open, or it is damaged.
    pub fn open(dir: &Path, limits: StoreLimits, clock: Clock) -> Result<Self, OpenStoreError> {
        let index = Index::open(&dir.join(INDEX_FILE))?;
        let store = Self::with_index(dir, index, limits, clock);
        let temporary = dir.join(TEMPORARY_FOLDER);
        files::create_private_dir(&temporary).map_err(io_error(&temporary))?;
        for (bucket, key, change) in store.index.journal()? {
            tracing::info!(bucket, key, "finishing a change that a crash interrupted");
            if let Err(error) = store.finish(&bucket, &key, &change) {
                tracing::error!(bucket, key, %error, "the interrupted change is lost");
            }
        }
        // What no journal entry named was never promised to anybody.
        for entry in fs::read_dir(&temporary).map_err(io_error(&temporary))? {
            let path = entry.map_err(io_error(&temporary))?.path();
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
        Ok(store)
    }

    fn with_index(dir: &Path, index: Index, limits: StoreLimits, clock: Clock) -> Self {
        let (gate, serial) = (RwLock::new(()), AtomicU64::new(0));
        Self { dir: dir.to_owned(), index, limits, clock, gate, serial }
    }

    /// Returns how much the store takes.
    pub fn limits(&self) -> &StoreLimits {
        &self.limits
    }

    /// Makes the bucket of `grant`'s owner; doing so again with the same grant is no error.
    ///
    /// # Errors
    /// [`StoreError::Denied`] when the bucket has other keys.
    pub fn create_bucket(&self, grant: &BucketGrant) -> Result<(), StoreError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.index.create_bucket(grant, &self.limits)
    }

    /// Returns the owner of a bucket.
    ///
    /// # Errors
    /// When the index fails.
    pub fn owner(&self, account_id: &str) -> Result<Option<Hotkey>, StoreError> {
        Ok(self.index.bucket(account_id).map_err(unavailable)?.map(|row| row.grant.owner))
    }

    /// Returns the object at `key` whole, or `None`.
    ///
    /// # Errors
    /// When the key may not read, or the object has more than `bytes_max` bytes.
    pub fn get(
        &self,
        access: &AccessKey,
        key: &str,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(object) = self.open_object(access, key)? else { return Ok(None) };
        let size = object.info.size;
        if size > bytes_max {
            return Err(StoreError::TooLarge { key: key.to_owned(), size, limit: bytes_max });
        }
        let capacity = usize::try_from(size).map_err(|_| StoreError::TooLarge {
            key: key.to_owned(),
            size,
            limit: bytes_max,
        })?;
        let mut bytes = Vec::with_capacity(capacity);
        object
            .file
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        if bytes.len() != capacity {
            return Err(changed_outside(key));
        }
        Ok(Some(bytes.into()))
    }

    /// Returns the bytes in `range` of the object at `key`, of the version `etag` if there is one.
    ///
    /// # Errors
    /// When the key may not read, or the object has another etag.
    pub fn get_range(
        &self,
        access: &AccessKey,
        key: &str,
        range: &Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(mut object) = self.open_object(access, key)? else { return Ok(None) };
        let range = object.narrow(range, etag)?;
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| StoreError::Malformed("a range larger than memory".into()))?;
        let mut bytes = Vec::with_capacity(length);
        let away = |error: io::Error| StoreError::Unavailable(error.to_string());
        object.file.take(range.end - range.start).read_to_end(&mut bytes).map_err(away)?;
        if bytes.len() != length {
            return Err(changed_outside(key));
        }
        Ok(Some(bytes.into()))
    }

    /// Opens the object at `key`; its bytes stay readable when the object is replaced meanwhile.
    pub(crate) fn open_object(
        &self,
        access: &AccessKey,
        key: &str,
    ) -> Result<Option<OpenObject>, StoreError> {
        let key = ValidKey::parse(key)?;
        self.authorise(access, BucketGrant::lets_read)?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let row = self.index.object(&access.account_id, key.as_str()).map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let file = File::open(self.path_of(&access.account_id, key))
            .map_err(|_| changed_outside(key.as_str()))?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        if size != row.size {
            return Err(changed_outside(key.as_str()));
        }
        Ok(Some(OpenObject { info: row.info(key.as_str()), file }))
    }

    /// Returns what is known of the object at `key`.
    ///
    /// # Errors
    /// When the key may not read.
    pub fn head(&self, access: &AccessKey, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let key = ValidKey::parse(key)?;
        self.authorise(access, BucketGrant::lets_read)?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let row = self.index.object(&access.account_id, key.as_str()).map_err(unavailable)?;
        Ok(row.map(|row| row.info(key.as_str())))
    }

    /// Returns the objects whose keys start with `prefix`, sorted; at most 10,000.
    ///
    /// # Errors
    /// When the key may not read.
    pub fn list(&self, access: &AccessKey, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        self.authorise(access, BucketGrant::lets_read)?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.index.list(&access.account_id, prefix).map_err(unavailable)
    }

    /// Replaces the object at `key`. A `nonce` is used up; it must be the one that is due.
    pub(crate) fn put(
        &self,
        access: &AccessKey,
        key: &str,
        bytes: &[u8],
        nonce: Option<u64>,
    ) -> Result<(), WriteError> {
        self.put_if(access, key, bytes, nonce, None).map(|_| ())
    }

    /// Replaces the object at `key` if `condition` holds; otherwise the nonce stays due.
    pub(crate) fn put_if(
        &self,
        access: &AccessKey,
        key: &str,
        bytes: &[u8],
        nonce: Option<u64>,
        condition: Option<&PutCondition>,
    ) -> Result<PutOutcome, WriteError> {
        let mut incoming = self.begin(access, key)?;
        incoming.write(bytes)?;
        self.commit(incoming, nonce, condition)
    }

    /// Replaces the object at `key` by a copy of `file`: whoever has the file may write to it later,
    /// which a link would let through.
    pub(crate) fn put_file(
        &self,
        access: &AccessKey,
        key: &str,
        file: &Path,
    ) -> Result<FilePut, WriteError> {
        let mut incoming = self.begin(access, key)?;
        let mut source = FileSource::open(file).map_err(StoreError::from)?;
        incoming.check_size(source.size())?;
        while source.left() > 0 {
            incoming.write(&source.next(PIECE_BYTES).map_err(StoreError::from)?)?;
        }
        let put = source.finish().map_err(StoreError::from)?;
        // There is no condition that could fail.
        self.commit(incoming, None, None).map(|_| put)
    }

    /// Starts a put whose bytes come bit by bit.
    pub(crate) fn begin(&self, access: &AccessKey, key: &str) -> Result<Incoming, StoreError> {
        let key = ValidKey::parse(key)?;
        self.authorise(access, BucketGrant::lets_write)?;
        let name = self.serial.fetch_add(1, Ordering::Relaxed).to_string();
        let file = (name.clone(), self.temporary(&name));
        Incoming::start(access.clone(), key.as_str().to_owned(), file, self.limits.object_bytes_max)
    }

    /// Makes an object of what came if `condition` holds; otherwise the nonce stays due.
    pub(crate) fn commit(
        &self,
        mut incoming: Incoming,
        nonce: Option<u64>,
        condition: Option<&PutCondition>,
    ) -> Result<PutOutcome, WriteError> {
        let (size, sha256) = incoming.flush()?;
        let key = incoming.key.clone();
        let (bucket, key) = (incoming.access.account_id.clone(), ValidKey::parse(&key)?);
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(condition) = condition {
            let there = self.index.object(&bucket, key.as_str()).map_err(unavailable)?;
            if !condition.holds(there.map(|row| row.sha256.to_hex()).as_deref()) {
                return Ok(PutOutcome::ConditionFailed);
            }
        }
        let row = ObjectRow { size, sha256, modified_ms: (self.clock)() };
        let change = Change::Put { temporary: incoming.name.clone(), row };
        self.index.stage(&bucket, key, &change, nonce, &self.limits)?;
        incoming.keep();
        self.finish(&bucket, key.as_str(), &change)?;
        Ok(PutOutcome::Written)
    }

    /// Removes the object at `key`, if there is one. A `nonce` is used up as by a put.
    pub(crate) fn delete(
        &self,
        access: &AccessKey,
        key: &str,
        nonce: Option<u64>,
    ) -> Result<(), WriteError> {
        let key = ValidKey::parse(key)?;
        self.authorise(access, BucketGrant::lets_write)?;
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.index.stage(&access.account_id, key, &Change::Delete, nonce, &self.limits)?;
        Ok(self.finish(&access.account_id, key.as_str(), &Change::Delete)?)
    }

    /// Checks that `access` may write.
    pub(crate) fn check_write(&self, access: &AccessKey) -> Result<(), StoreError> {
        self.authorise(access, BucketGrant::lets_write)
    }

    fn authorise(
        &self,
        access: &AccessKey,
        lets: impl FnOnce(&BucketGrant, &AccessKey) -> bool,
    ) -> Result<(), StoreError> {
        let row = self.index.bucket(&access.account_id).map_err(unavailable)?;
        // An absent bucket takes as long and answers the same as a wrong key.
        let grant = row.map_or_else(BucketGrant::nobody, |row| row.grant);
        if lets(&grant, access) {
            return Ok(());
        }
        let shown: String = access.account_id.chars().take(32).collect();
        Err(StoreError::Denied(format!("bucket {}", shown.escape_default())))
    }

    /// Does what the journal says and completes the index; the same after a crash in between.
    fn finish(&self, bucket: &str, key: &str, change: &Change) -> Result<(), StoreError> {
        let valid = ValidKey::parse(key)?;
        let path = self.path_of(bucket, valid);
        let moved = match change {
            Change::Put { temporary, row } => self.place(&path, &self.temporary(temporary), row),
            Change::Delete => self.unlink(&path, bucket),
        };
        if let Err(error) = moved {
            self.index.abandon(bucket, key).map_err(unavailable)?;
            return Err(StoreError::Unavailable(format!("{}: {error}", path.display())));
        }
        self.index.settle(bucket, key, change).map_err(unavailable)
    }

    fn place(&self, path: &Path, temporary: &Path, row: &ObjectRow) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.dir);
        if !parent.is_dir() {
            files::create_private_dir(parent)?;
            // New folders must last as long as what is in them.
            for folder in parent.ancestors().take_while(|folder| folder.starts_with(&self.dir)) {
                files::sync_dir(folder)?;
            }
        }
        match fs::rename(temporary, path) {
            Ok(()) => {}
            // Renamed before the crash; then the file is the one that the row describes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if hash_of(path)? != row.sha256 {
                    return Err(io::Error::other("the file is not the one that was written"));
                }
            }
            Err(error) => {
                drop(fs::remove_file(temporary));
                return Err(error);
            }
        }
        files::sync_dir(parent)
    }

    fn unlink(&self, path: &Path, bucket: &str) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let root = self.dir.join(bucket);
        let folders = path.ancestors().skip(1).take_while(|folder| *folder != root);
        for folder in folders {
            // Fails, and ends the walk, at the first folder with something in it.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.dir.join(TEMPORARY_FOLDER).join(name)
    }

    fn path_of(&self, bucket: &str, key: ValidKey<'_>) -> PathBuf {
        key.path_in(&self.dir.join(bucket))
    }
}

fn hash_of(path: &Path) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(Digest(hasher.finalize().into()))
}

fn changed_outside(key: &str) -> StoreError {
    StoreError::Malformed(format!(
        "the file of object `{key}` was changed or removed outside of the store; put it again"
    ))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenStoreError {
    let path = path.to_owned();
    move |source| OpenStoreError::Io { path, source }
}
