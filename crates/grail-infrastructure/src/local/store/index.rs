//! Remembers what the store's files are: sizes, hashes, times, and changes that are under way.
//!
//! A file and its row cannot change in one step, so a change is written to the journal first. After
//! a crash the journal says what to finish; see [`super::FolderStore`].

use std::path::{Path, PathBuf};

use grail_ports::object_store::{ObjectInfo, StoreError};
use grail_protocol::ids::Digest;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreLimits;
use super::credentials::{BucketGrant, account_id};
use super::key::ValidKey;
use crate::local::database::{self, DatabaseFault, bad_row, failed};

/// Version of the tables below.
const FORMAT: u64 = 1;

/// Most objects that one listing returns. Source: the port.
const LIST_MAX: usize = 10_000;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Buckets by account id, as JSON of [`BucketRow`].
const BUCKETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("buckets");
/// Objects by bucket and key, as JSON of [`ObjectRow`].
const OBJECTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("objects");
/// Changes under way by bucket and key, as JSON of [`Change`].
const JOURNAL: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("journal");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BucketRow {
    pub(super) grant: BucketGrant,
    objects: u64,
    bytes: u64,
    next_nonce: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectRow {
    pub(super) size: u64,
    pub(super) sha256: Digest,
    pub(super) modified_ms: u64,
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// The temporary file becomes the object.
    Put { temporary: String, row: ObjectRow },
    /// The object goes.
    Delete,
}

/// Why a change was not accepted.
#[derive(Debug)]
pub(crate) enum WriteError {
    Store(StoreError),
    /// The request was sent before, or not in its turn.
    BadNonce {
        expected: u64,
    },
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<DatabaseFault> for WriteError {
    fn from(fault: DatabaseFault) -> Self {
        Self::Store(unavailable(fault))
    }
}

pub(super) struct Index {
    database: Database,
    path: PathBuf,
}

impl Index {
    pub(super) fn create(path: &Path) -> Result<Self, DatabaseFault> {
        let index = Self { database: database::create(path)?, path: path.to_owned() };
        let transaction = index.begin_write()?;
        {
            let mut meta = transaction.open_table(META).map_err(index.failed())?;
            meta.insert("format", FORMAT).map_err(index.failed())?;
            transaction.open_table(BUCKETS).map_err(index.failed())?;
            transaction.open_table(OBJECTS).map_err(index.failed())?;
            transaction.open_table(JOURNAL).map_err(index.failed())?;
        }
        transaction.commit().map_err(index.failed())?;
        Ok(index)
    }

    pub(super) fn open(path: &Path) -> Result<Self, DatabaseFault> {
        let index = Self { database: database::open(path)?, path: path.to_owned() };
        let transaction = index.database.begin_read().map_err(index.failed())?;
        let meta = transaction.open_table(META).map_err(index.failed())?;
        let format = meta.get("format").map_err(index.failed())?.map(|row| row.value());
        if format != Some(FORMAT) {
            let reason = format!("version {format:?}, this program knows {FORMAT}");
            return Err(bad_row(path, "format", &reason));
        }
        drop((meta, transaction));
        Ok(index)
    }

    pub(super) fn bucket(&self, account_id: &str) -> Result<Option<BucketRow>, DatabaseFault> {
        let transaction = self.database.begin_read().map_err(self.failed())?;
        let buckets = transaction.open_table(BUCKETS).map_err(self.failed())?;
        let row = buckets.get(account_id).map_err(self.failed())?;
        row.map(|row| self.parse("bucket", row.value())).transpose()
    }

    /// Makes the owner's bucket, unless it is there with the same grant.
    pub(super) fn create_bucket(
        &self,
        grant: &BucketGrant,
        limits: &StoreLimits,
    ) -> Result<(), StoreError> {
        let account_id = account_id(grant.owner);
        if let Some(row) = self.bucket(&account_id).map_err(unavailable)? {
            if row.grant == *grant {
                return Ok(());
            }
            return Err(StoreError::Denied(format!(
                "bucket {account_id}, which exists with other credentials"
            )));
        }
        let row = BucketRow { grant: grant.clone(), objects: 0, bytes: 0, next_nonce: 0 };
        let insert = || {
            let transaction = self.begin_write()?;
            let full = {
                let mut buckets = transaction.open_table(BUCKETS).map_err(self.failed())?;
                buckets
                    .insert(account_id.as_str(), json(&row).as_slice())
                    .map_err(self.failed())?;
                buckets.len().map_err(self.failed())? > limits.buckets_max
            };
            if !full {
                transaction.commit().map_err(self.failed())?;
            }
            Ok(full)
        };
        if insert().map_err(unavailable)? {
            let limit = limits.buckets_max;
            return Err(StoreError::Malformed(format!(
                "no room for another bucket, {limit} exist"
            )));
        }
        Ok(())
    }

    pub(super) fn object(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<Option<ObjectRow>, DatabaseFault> {
        let transaction = self.database.begin_read().map_err(self.failed())?;
        let objects = transaction.open_table(OBJECTS).map_err(self.failed())?;
        let row = objects.get((bucket, key)).map_err(self.failed())?;
        row.map(|row| self.parse("object", row.value())).transpose()
    }

    pub(super) fn list(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<ObjectInfo>, DatabaseFault> {
        let transaction = self.database.begin_read().map_err(self.failed())?;
        let objects = transaction.open_table(OBJECTS).map_err(self.failed())?;
        let mut listed = Vec::new();
        for entry in objects.range((bucket, prefix)..).map_err(self.failed())? {
            let (id, row) = entry.map_err(self.failed())?;
            let (row_bucket, key) = id.value();
            if row_bucket != bucket || !key.starts_with(prefix) || listed.len() == LIST_MAX {
                break;
            }
            let row: ObjectRow = self.parse("object", row.value())?;
            listed.push(row.info(key));
        }
        Ok(listed)
    }

    /// Writes a change to the journal, after checking that it may be made.
    pub(super) fn stage(
        &self,
        bucket: &str,
        key: ValidKey<'_>,
        change: &Change,
        nonce: Option<u64>,
        limits: &StoreLimits,
    ) -> Result<(), WriteError> {
        let transaction = self.begin_write()?;
        {
            let mut buckets = transaction.open_table(BUCKETS).map_err(self.failed())?;
            let row = buckets.get(bucket).map_err(self.failed())?;
            let row = row.map(|row| self.parse::<BucketRow>("bucket", row.value())).transpose()?;
            let mut row = row.ok_or_else(|| StoreError::Denied(format!("bucket {bucket}")))?;
            if let Some(nonce) = nonce {
                if nonce != row.next_nonce {
                    return Err(WriteError::BadNonce { expected: row.next_nonce });
                }
                row.next_nonce = row.next_nonce.saturating_add(1);
                buckets.insert(bucket, json(&row).as_slice()).map_err(self.failed())?;
            }
            if let Change::Put { row: object, .. } = change {
                let objects = transaction.open_table(OBJECTS).map_err(self.failed())?;
                self.check_place(&objects, bucket, key)?;
                let before = self.size_of(&objects, bucket, key)?;
                check_room(bucket, &row, before, object.size, limits)?;
            }
            let mut journal = transaction.open_table(JOURNAL).map_err(self.failed())?;
            journal
                .insert((bucket, key.as_str()), json(change).as_slice())
                .map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())?;
        Ok(())
    }

    /// Makes a staged change visible and takes it out of the journal.
    pub(super) fn settle(
        &self,
        bucket: &str,
        key: &str,
        change: &Change,
    ) -> Result<(), DatabaseFault> {
        let transaction = self.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS).map_err(self.failed())?;
            let id = (bucket, key);
            let before = match objects.get(id).map_err(self.failed())? {
                Some(row) => Some(self.parse::<ObjectRow>("object", row.value())?.size),
                None => None,
            };
            let after = match change {
                Change::Put { row, .. } => {
                    objects.insert(id, json(row).as_slice()).map_err(self.failed())?;
                    Some(row.size)
                }
                Change::Delete => {
                    objects.remove(id).map_err(self.failed())?;
                    None
                }
            };
            self.count(&transaction, bucket, before, after)?;
            let mut journal = transaction.open_table(JOURNAL).map_err(self.failed())?;
            journal.remove(id).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())
    }

    /// Gives a staged change up.
    pub(super) fn abandon(&self, bucket: &str, key: &str) -> Result<(), DatabaseFault> {
        let transaction = self.begin_write()?;
        {
            let mut journal = transaction.open_table(JOURNAL).map_err(self.failed())?;
            journal.remove((bucket, key)).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())
    }

    /// Returns the changes that were under way when the store was last open.
    pub(super) fn journal(&self) -> Result<Vec<(String, String, Change)>, DatabaseFault> {
        let transaction = self.database.begin_read().map_err(self.failed())?;
        let journal = transaction.open_table(JOURNAL).map_err(self.failed())?;
        let mut changes = Vec::new();
        for entry in journal.iter().map_err(self.failed())? {
            let (id, change) = entry.map_err(self.failed())?;
            let (bucket, key) = id.value();
            let change = self.parse("journal", change.value())?;
            changes.push((bucket.to_owned(), key.to_owned(), change));
        }
        Ok(changes)
    }

    /// Refuses a key that needs a folder where an object is, or the other way round.
    fn check_place(
        &self,
        objects: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
        bucket: &str,
        key: ValidKey<'_>,
    ) -> Result<(), WriteError> {
        let refuse = |other: &str| {
            let key = key.as_str();
            StoreError::Malformed(format!("key `{key}` and object `{other}` exclude each other"))
        };
        for ancestor in key.ancestors() {
            if objects.get((bucket, ancestor)).map_err(self.failed())?.is_some() {
                return Err(refuse(ancestor).into());
            }
        }
        let folder = format!("{}/", key.as_str());
        let mut inside = objects.range((bucket, folder.as_str())..).map_err(self.failed())?;
        if let Some(entry) = inside.next() {
            let (id, _) = entry.map_err(self.failed())?;
            let (other_bucket, other) = id.value();
            if other_bucket == bucket && other.starts_with(&folder) {
                return Err(refuse(other).into());
            }
        }
        Ok(())
    }

    fn size_of(
        &self,
        objects: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
        bucket: &str,
        key: ValidKey<'_>,
    ) -> Result<Option<u64>, DatabaseFault> {
        let row = objects.get((bucket, key.as_str())).map_err(self.failed())?;
        row.map(|row| Ok(self.parse::<ObjectRow>("object", row.value())?.size)).transpose()
    }

    fn count(
        &self,
        transaction: &WriteTransaction,
        bucket: &str,
        before: Option<u64>,
        after: Option<u64>,
    ) -> Result<(), DatabaseFault> {
        let mut buckets = transaction.open_table(BUCKETS).map_err(self.failed())?;
        let mut row: BucketRow = match buckets.get(bucket).map_err(self.failed())? {
            Some(row) => self.parse("bucket", row.value())?,
            None => return Err(bad_row(&self.path, "bucket", &"absent")),
        };
        row.objects =
            row.objects.saturating_sub(u64::from(before.is_some())) + u64::from(after.is_some());
        row.bytes = row.bytes.saturating_sub(before.unwrap_or(0)) + after.unwrap_or(0);
        buckets.insert(bucket, json(&row).as_slice()).map_err(self.failed())?;
        Ok(())
    }

    fn begin_write(&self) -> Result<WriteTransaction, DatabaseFault> {
        self.database.begin_write().map_err(self.failed())
    }

    fn parse<T: DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, DatabaseFault> {
        serde_json::from_slice(bytes).map_err(|error| bad_row(&self.path, what, &error))
    }

    fn failed<E: Into<redb::Error>>(&self) -> impl Fn(E) -> DatabaseFault {
        failed(&self.path)
    }
}

impl ObjectRow {
    pub(super) fn info(&self, key: &str) -> ObjectInfo {
        ObjectInfo {
            key: key.to_owned(),
            size: self.size,
            last_modified_ms: self.modified_ms,
            etag: self.sha256.to_hex(),
        }
    }
}

/// Words a failure of the index for the port.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
pub(super) fn unavailable(fault: DatabaseFault) -> StoreError {
    StoreError::Unavailable(fault.to_string())
}

fn check_room(
    bucket: &str,
    row: &BucketRow,
    before: Option<u64>,
    size: u64,
    limits: &StoreLimits,
) -> Result<(), StoreError> {
    let bytes = row.bytes.saturating_sub(before.unwrap_or(0)).saturating_add(size);
    let objects = row.objects + u64::from(before.is_none());
    if bytes > limits.bucket_bytes_max || objects > limits.bucket_objects_max {
        return Err(StoreError::Malformed(format!(
            "bucket {bucket} is full ({} objects, {} bytes; at most {} and {}); delete old objects",
            row.objects, row.bytes, limits.bucket_objects_max, limits.bucket_bytes_max
        )));
    }
    Ok(())
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our rows have string keys and integers only")
}
