//! Buckets in memory, with the rights that the credentials give.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use grail_ports::object_store::{
    Buckets, FilePut, ObjectInfo, ObjectKey, ObjectStore, PutCondition, PutOutcome,
    ReadCredentials, StoreError,
};
use grail_protocol::ids::{Digest, Hotkey};

use crate::{Clock, draw, lock};

const KEY_BYTES_MAX: usize = 512;
const LIST_MAX: usize = 10_000;

/// All buckets of a test; clones share them.
#[derive(Clone)]
pub struct MemoryStorage {
    clock: Clock,
    buckets: Arc<Mutex<BTreeMap<String, Objects>>>,
    /// How often the read key of a bucket was changed.
    rotations: Arc<Mutex<BTreeMap<String, u64>>>,
}

type Objects = BTreeMap<String, Object>;

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    last_modified_ms: u64,
}

impl Object {
    fn etag(&self) -> String {
        Digest::of(&self.bytes).to_hex()
    }
}

impl MemoryStorage {
    /// Makes a storage without buckets that takes the time of writes from `clock`.
    pub fn new(clock: Clock) -> Self {
        Self { clock, buckets: Arc::default(), rotations: Arc::default() }
    }

    /// Returns the storage as `hotkey` sees it: its own bucket to write, those of others to read.
    pub fn buckets(&self, hotkey: Hotkey) -> Arc<MemoryBuckets> {
        let account_id = account_of(hotkey);
        lock(&self.buckets).entry(account_id.clone()).or_default();
        Arc::new(MemoryBuckets { storage: self.clone(), account_id })
    }

    /// Gives the bucket of `hotkey` another read key; the one before opens nothing any more.
    pub fn rotate_key(&self, hotkey: Hotkey) {
        *lock(&self.rotations).entry(account_of(hotkey)).or_default() += 1;
    }

    /// Returns the credentials that read a bucket; a fake may make its secrets from the name.
    fn credentials_of(&self, account_id: &str) -> ReadCredentials {
        let rotation = lock(&self.rotations).get(account_id).copied().unwrap_or(0);
        let part = |name: &str| draw::digest(name, rotation, &[account_id.as_bytes()]).to_hex();
        ReadCredentials {
            account_id: account_id.to_owned(),
            bucket_name: None,
            access_key_id: part("grail/testkit/access-key")[..32].to_owned(),
            secret_access_key: part("grail/testkit/secret"),
        }
    }

    /// Replaces an object of `hotkey` behind its back, as a broken disk or a thief would.
    pub fn tamper(&self, hotkey: Hotkey, key: &str, bytes: impl Into<Bytes>) {
        let object = Object { bytes: bytes.into(), last_modified_ms: (self.clock)() };
        let mut buckets = lock(&self.buckets);
        buckets.entry(account_of(hotkey)).or_default().insert(key.to_owned(), object);
    }

    /// Returns an object of `hotkey` without any credentials.
    pub fn peek(&self, hotkey: Hotkey, key: &str) -> Option<Bytes> {
        let buckets = lock(&self.buckets);
        buckets.get(&account_of(hotkey))?.get(key).map(|object| object.bytes.clone())
    }

    /// Returns the keys in the bucket of `hotkey`, sorted.
    pub fn keys(&self, hotkey: Hotkey) -> Vec<String> {
        let buckets = lock(&self.buckets);
        let objects = buckets.get(&account_of(hotkey));
        objects.map(|objects| objects.keys().cloned().collect()).unwrap_or_default()
    }
}

/// Returns the bucket's name of a hotkey: 32 hexadecimal digits.
fn account_of(hotkey: Hotkey) -> String {
    draw::digest("grail/testkit/account", 0, &[&hotkey.0]).to_hex()[..32].to_owned()
}

/// A [`MemoryStorage`] as one hotkey sees it.
pub struct MemoryBuckets {
    storage: MemoryStorage,
    account_id: String,
}

impl MemoryBuckets {
    fn store(&self, account_id: &str, rights: Rights) -> Arc<dyn ObjectStore> {
        let account_id = account_id.to_owned();
        Arc::new(MemoryStore { storage: self.storage.clone(), account_id, rights })
    }
}

impl Buckets for MemoryBuckets {
    fn own(&self) -> Arc<dyn ObjectStore> {
        self.store(&self.account_id, Rights::Write)
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.storage.credentials_of(&self.account_id)
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let account_id = credentials.bucket();
        let ReadCredentials { access_key_id, secret_access_key, .. } = credentials;
        for (part, length) in
            [(account_id, 32), (access_key_id.as_str(), 32), (secret_access_key.as_str(), 64)]
        {
            if part.len() != length || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let reason = "credentials have 32, 32 and 64 hexadecimal digits";
                return Err(StoreError::Malformed(reason.to_owned()));
            }
        }
        let exists = lock(&self.storage.buckets).contains_key(account_id);
        let is_right = exists && *credentials == self.storage.credentials_of(account_id);
        // As with S3, wrong credentials are noticed at the first use.
        Ok(self.store(account_id, if is_right { Rights::Read } else { Rights::Nothing }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rights {
    Nothing,
    Read,
    Write,
}

/// One bucket of a [`MemoryStorage`].
pub struct MemoryStore {
    storage: MemoryStorage,
    account_id: String,
    rights: Rights,
}

impl MemoryStore {
    /// Runs a call on the objects of the bucket if the rights allow it.
    fn with<T>(
        &self,
        needed: Rights,
        call: impl FnOnce(&mut Objects) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.rights < needed {
            return Err(StoreError::Denied(format!("bucket {}", self.account_id)));
        }
        call(lock(&self.storage.buckets).entry(self.account_id.clone()).or_default())
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        self.with(Rights::Read, |objects| {
            let Some(object) = objects.get(key) else { return Ok(None) };
            let size = object.bytes.len() as u64;
            if size > bytes_max {
                return Err(StoreError::TooLarge { key: key.to_owned(), size, limit: bytes_max });
            }
            Ok(Some(object.bytes.clone()))
        })
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        self.with(Rights::Read, |objects| {
            let Some(object) = objects.get(key) else { return Ok(None) };
            if etag.is_some_and(|etag| etag != object.etag()) {
                return Err(StoreError::Changed(key.to_owned()));
            }
            let size = object.bytes.len();
            let end = usize::try_from(range.end).map_or(size, |end| end.min(size));
            let start = usize::try_from(range.start).map_or(end, |start| start.min(end));
            Ok(Some(object.bytes.slice(start..end)))
        })
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        check_key(key)?;
        let object = Object { bytes, last_modified_ms: (self.storage.clock)() };
        self.with(Rights::Write, |objects| {
            if !condition.holds(objects.get(key).map(Object::etag).as_deref()) {
                return Ok(PutOutcome::ConditionFailed);
            }
            check_tree(objects, key)?;
            objects.insert(key.to_owned(), object);
            Ok(PutOutcome::Written)
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        check_key(key)?;
        self.with(Rights::Read, |objects| Ok(objects.get(key).map(|object| info(key, object))))
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        check_key(key)?;
        let object = Object { bytes, last_modified_ms: (self.storage.clock)() };
        self.with(Rights::Write, |objects| {
            check_tree(objects, key)?;
            objects.insert(key.to_owned(), object);
            Ok(())
        })
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        check_key(key)?;
        self.with(Rights::Write, |_| Ok(()))?;
        let bytes = read_whole(file)?;
        let put = FilePut { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
        self.put(key, bytes).await?;
        Ok(put)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.with(Rights::Read, |objects| {
            let found = objects.range(prefix.to_owned()..);
            let found = found.take_while(|(key, _)| key.starts_with(prefix)).take(LIST_MAX);
            Ok(found.map(|(key, object)| info(key, object)).collect())
        })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        check_key(key)?;
        self.with(Rights::Write, |objects| {
            objects.remove(key);
            Ok(())
        })
    }
}

/// Returns the bytes of a file that nobody writes to meanwhile.
fn read_whole(file: &Path) -> Result<Bytes, StoreError> {
    let bad = |what: String| StoreError::File(format!("{}: {what}", file.display()));
    let look = || {
        let found = std::fs::metadata(file).map_err(|error| bad(error.to_string()))?;
        let changed = found.modified().map_err(|error| bad(error.to_string()))?;
        Ok((found.is_file(), found.len(), changed))
    };
    let before = look()?;
    if !before.0 {
        return Err(bad("it is no regular file".to_owned()));
    }
    let bytes = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    if before != look()? || before.1 != bytes.len() as u64 {
        return Err(bad("it changed while it was uploaded".to_owned()));
    }
    Ok(bytes.into())
}

fn info(key: &str, object: &Object) -> ObjectInfo {
    ObjectInfo {
        key: key.to_owned(),
        size: object.bytes.len() as u64,
        last_modified_ms: object.last_modified_ms,
        etag: object.etag(),
    }
}

/// Accepts the keys that every store takes, be it a folder or behind an address: parts of letters,
/// digits, `-`, `.`, `_` and `~` that do not start with a dot.
fn check_key(key: &str) -> Result<(), StoreError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let is_good = key.len() <= KEY_BYTES_MAX
        && key.bytes().all(is_plain)
        && key.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    if is_good {
        return Ok(());
    }
    let shown: String = key.chars().take(64).collect();
    Err(StoreError::Malformed(format!("`{}` is not a key", shown.escape_debug())))
}

/// Refuses a key that would make a folder of an object or an object of a folder.
fn check_tree(objects: &Objects, key: &str) -> Result<(), StoreError> {
    let folder = format!("{key}/");
    let below = objects.range(folder.clone()..).next();
    let mut above = key.match_indices('/').map(|(end, _)| &key[..end]);
    if below.is_some_and(|(other, _)| other.starts_with(&folder))
        || above.any(|other| objects.contains_key(other))
    {
        let reason = format!("`{key}` and another object exclude each other in a folder");
        return Err(StoreError::Malformed(reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FakeChain, FakeChainConfig, contract};

    #[tokio::test]
    async fn the_storage_passes_the_contract() {
        let storage = MemoryStorage::new(FakeChain::new(FakeChainConfig::default()).clock());
        let (alice, bob) = (storage.buckets(Hotkey([1; 32])), storage.buckets(Hotkey([2; 32])));
        contract::object_store(&*alice.own()).await;
        contract::many_objects(&*alice.own(), 1_050).await;
        contract::large_object(&*alice.own(), 1 << 20).await;
        contract::buckets(&*alice, &*bob).await;
        let folder = tempfile::tempdir().unwrap();
        contract::files(&*alice, folder.path()).await;
        contract::large_file(&*alice.own(), folder.path(), (5 << 20) + 3).await;
    }

    #[tokio::test]
    async fn writes_carry_the_time_of_the_chain() {
        let chain = FakeChain::new(FakeChainConfig::default());
        let storage = MemoryStorage::new(chain.clock());
        let own = storage.buckets(Hotkey([1; 32])).own();
        let block = chain.advance(3);
        own.put("a", Bytes::from_static(b"1")).await.unwrap();
        chain.advance(1);
        let info = own.head("a").await.unwrap().unwrap();
        assert_eq!(info.last_modified_ms, block.timestamp_ms);
        own.put("a", Bytes::from_static(b"1")).await.unwrap();
        let again = own.head("a").await.unwrap().unwrap();
        assert!(again.last_modified_ms > info.last_modified_ms);
    }

    #[tokio::test]
    async fn an_object_is_no_folder() {
        let storage = MemoryStorage::new(FakeChain::new(FakeChainConfig::default()).clock());
        let own = storage.buckets(Hotkey([1; 32])).own();
        let put = async |key| own.put(key, Bytes::new()).await.is_ok();
        assert!(put("a/b").await && put("a-b").await && put("a/bc").await);
        assert!(!put("a").await);
        assert!(!put("a/b/c").await);
        own.delete("a/b").await.unwrap();
        assert!(put("a/b/c").await);
    }

    #[tokio::test]
    async fn a_test_can_tamper_and_peek() {
        let storage = MemoryStorage::new(FakeChain::new(FakeChainConfig::default()).clock());
        let alice = Hotkey([1; 32]);
        let own = storage.buckets(alice).own();
        own.put("a/b", Bytes::from_static(b"good")).await.unwrap();
        storage.tamper(alice, "a/b", "evil");
        assert_eq!(own.get("a/b", 9).await.unwrap().unwrap(), "evil");
        assert_eq!(storage.peek(alice, "a/b").unwrap(), "evil");
        assert_eq!(storage.keys(alice), ["a/b"]);
        assert_eq!(storage.peek(Hotkey([2; 32]), "a/b"), None);
    }
}
