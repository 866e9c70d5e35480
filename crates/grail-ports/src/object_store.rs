//! Object storage: buckets that one hotkey writes and everybody with its read credentials reads.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use grail_protocol::ids::Digest;

/// Key of an object: `/`-separated, relative to its bucket.
pub type ObjectKey = str;

/// What a store knows of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key of the object.
    pub key: String,
    /// Size, bytes.
    pub size: u64,
    /// When the object was last written, by the store's clock: milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
    /// Changes whenever the object's bytes change.
    pub etag: String,
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No answer; trying again may help.
    #[error("the object store did not answer ({0}); check its address, or wait: it is asked again")]
    Unavailable(String),
    /// The credentials do not allow this.
    #[error("the object store denies access to {0}; check the bucket's credentials")]
    Denied(String),
    /// The object is larger than the reader allows.
    #[error("object {key} has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Key of the object.
        key: String,
        /// Its size, bytes.
        size: u64,
        /// The reader's limit, bytes.
        limit: u64,
    },
    /// The object was replaced while it was read.
    #[error("object {0} was replaced while it was read; read it again")]
    Changed(String),
    /// The file to upload is not there, is no regular file, or changed on the way.
    #[error("cannot upload {0}")]
    File(String),
    /// Our clock and the store's differ by more than signatures allow.
    #[error("the object store refuses our clock ({0}); synchronise this machine's clock")]
    ClockSkewed(String),
    /// The key or an answer makes no sense.
    #[error("object store: {0}")]
    Malformed(String),
}

/// What must hold of the object that is there for a conditional put to replace it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutCondition {
    /// No object has the key.
    Absent,
    /// There is one, and this is its [`ObjectInfo::etag`].
    Etag(String),
}

/// What a conditional put did.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is the one that was put.
    Written,
    /// The condition did not hold; nothing was changed.
    ConditionFailed,
}

/// The bytes that were put from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePut {
    /// How many there are.
    pub size: u64,
    /// SHA-256 of all of them.
    pub sha256: Digest,
}

impl PutCondition {
    /// Returns whether the condition holds of an object with this etag; `None` is no object.
    pub fn holds(&self, etag: Option<&str>) -> bool {
        match self {
            Self::Absent => etag.is_none(),
            Self::Etag(wanted) => etag == Some(wanted),
        }
    }
}

/// One bucket, with the rights of the credentials that it was opened with.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Returns the object, or `None` if no object has this key. At most `bytes_max` bytes are read.
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError>;

    /// Returns the object's bytes from `range.start` up to `range.end` or its end, or `None` if no
    /// object has this key. A range behind the end is empty. With `etag`, only bytes of that version
    /// are returned.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when the object has another etag.
    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError>;

    /// Returns what is known of the object, or `None` if no object has this key.
    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError>;

    /// Replaces the object at `key`; readers see the old bytes or the new ones, never a part.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError>;

    /// As [`ObjectStore::put`], with the bytes of the file `file`, of which only a few parts at a time
    /// are in memory. Returns what was put: the file as it was from the first byte read to the last.
    ///
    /// # Errors
    /// [`StoreError::File`] when the file is missing, is no regular file, or changes meanwhile; the
    /// object is then as it was.
    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError>;

    /// Puts the object at `key` if `condition` holds, in one step: of several that put at once under
    /// the same condition, one does.
    ///
    /// After [`StoreError::Unavailable`] it may have been put or not; look before trying again.
    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError>;

    /// Returns the objects whose keys start with `prefix`, sorted by key; at most 10,000.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError>;

    /// Removes the object; removing one that is absent is no error.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;
}

/// What a hotkey publishes on chain so that others can read its bucket.
///
/// Source: `spec/chain.md`, credential commitment of 128 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadCredentials {
    /// Account id; 1 to 32 characters.
    pub account_id: String,
    /// The bucket's name if it is not the account id; 1 to 63 characters.
    pub bucket_name: Option<String>,
    /// Id of the read key; 1 to 32 characters.
    pub access_key_id: String,
    /// Secret of the read key; 1 to 64 characters. Published on purpose, yet never logged.
    pub secret_access_key: String,
}

impl ReadCredentials {
    /// Returns the bucket's name: the account id unless another was given.
    pub fn bucket(&self) -> &str {
        self.bucket_name.as_deref().unwrap_or(&self.account_id)
    }
}

impl fmt::Debug for ReadCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadCredentials({}, …)", self.bucket())
    }
}

/// Opens the buckets of peers and our own.
pub trait Buckets: Send + Sync {
    /// Returns our own bucket, with write rights.
    fn own(&self) -> Arc<dyn ObjectStore>;

    /// Returns what peers need to read our bucket.
    fn read_credentials(&self) -> ReadCredentials;

    /// Returns a peer's bucket, with read rights.
    ///
    /// # Errors
    /// When the credentials cannot belong to any bucket of this store.
    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError>;
}
