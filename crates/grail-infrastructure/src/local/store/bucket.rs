//! The object-store port for roles in the store's own process.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use grail_ports::object_store::{
    Buckets, FilePut, ObjectInfo, ObjectKey, ObjectStore, PutCondition, PutOutcome,
    ReadCredentials, StoreError,
};

use super::FolderStore;
use super::credentials::{AccessKey, BucketKeys, is_well_formed};
use super::index::WriteError;

/// The buckets of a folder, as the owner of one of them sees them.
pub struct FolderBuckets {
    store: Arc<FolderStore>,
    keys: BucketKeys,
}

/// One bucket, with the rights of one key; the key is checked at each call.
struct FolderBucket {
    store: Arc<FolderStore>,
    access: AccessKey,
}

impl FolderBuckets {
    /// Returns the buckets as the holder of `keys` sees them.
    pub fn new(store: Arc<FolderStore>, keys: BucketKeys) -> Self {
        Self { store, keys }
    }
}

impl Buckets for FolderBuckets {
    fn own(&self) -> Arc<dyn ObjectStore> {
        let access = AccessKey::from(&self.keys.write);
        Arc::new(FolderBucket { store: Arc::clone(&self.store), access })
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.keys.read.clone()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let access = AccessKey::from(credentials);
        if !is_well_formed(&access) {
            return Err(foreign_credentials());
        }
        Ok(Arc::new(FolderBucket { store: Arc::clone(&self.store), access }))
    }
}

/// Returns the error for credentials of some other kind of store.
pub(crate) fn foreign_credentials() -> StoreError {
    StoreError::Malformed(
        "these credentials are not of this network's store; does the peer use another one?".into(),
    )
}

impl FolderBucket {
    /// Runs `work` where it may wait for the disk.
    async fn blocking<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&FolderStore, &AccessKey) -> Result<T, E> + Send + 'static,
    ) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        let (store, access) = (Arc::clone(&self.store), self.access.clone());
        let outcome = tokio::task::spawn_blocking(move || work(&store, &access)).await;
        Ok(outcome.map_err(|error| StoreError::Unavailable(error.to_string()))??)
    }
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => error,
            // Only requests over the network carry a nonce; their client takes the next one.
            WriteError::BadNonce { expected } => {
                Self::Unavailable(format!("another request came first; nonce {expected} is due"))
            }
        }
    }
}

#[async_trait]
impl ObjectStore for FolderBucket {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store, access| store.get(access, &key, bytes_max)).await
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let (key, etag) = (key.to_owned(), etag.map(str::to_owned));
        self.blocking(move |store, access| store.get_range(access, &key, &range, etag.as_deref()))
            .await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        let (key, condition) = (key.to_owned(), condition.clone());
        self.blocking(move |store, access| {
            store.put_if(access, &key, &bytes, None, Some(&condition))
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store, access| store.head(access, &key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.blocking(move |store, access| store.put(access, &key, &bytes, None)).await
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        let (key, file) = (key.to_owned(), file.to_owned());
        self.blocking(move |store, access| store.put_file(access, &key, &file)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |store, access| store.list(access, &prefix)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.blocking(move |store, access| store.delete(access, &key, None)).await
    }
}
