//! Finds the files of a window and reads them as they were at the deadline.
//!
//! Source: `spec/rollout-file.md`, size, deadline, discovery. Late, missing or oversized files are
//! absent, which is no fault; a store that does not answer is our problem, not the miner's.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use grail_ports::object_store::{ObjectInfo, ObjectStore, StoreError};
use grail_protocol::constants::ROLLOUT_FILE_BYTES_MAX;
use grail_protocol::ids::{Hotkey, Uid};

/// Tries to read a file that keeps changing under the reader.
const READ_ATTEMPTS: u32 = 3;

/// Where a miner's file would be.
#[derive(Clone)]
pub struct Candidate {
    /// The miner's uid.
    pub uid: Uid,
    /// The miner.
    pub hotkey: Hotkey,
    /// Its bucket.
    pub bucket: Arc<dyn ObjectStore>,
    /// Key of the file.
    pub key: String,
}

/// Whether a miner has a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Sighting {
    /// It has, written in time and of an allowed size.
    InTime,
    /// It has none that counts.
    Absent,
    /// We could not see; the reason is for a person.
    Unknown(String),
}

/// A file, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Download {
    /// The bytes as of the deadline.
    File(Bytes),
    /// None that counts.
    Absent,
    /// We could not read it; the reason is for a person.
    Unknown(String),
}

/// Looks for the files of `candidates`, at most `at_once` at a time; results in the same order.
pub async fn discover(
    candidates: Vec<Candidate>,
    deadline_ms: u64,
    at_once: usize,
) -> Vec<(Hotkey, Sighting)> {
    let look = move |candidate: Candidate| async move {
        let sighting = match candidate.bucket.head(&candidate.key).await {
            Ok(info) => sighting(info.as_ref(), deadline_ms),
            Err(error) => failure(&error).map_or(Sighting::Absent, Sighting::Unknown),
        };
        (candidate.hotkey, sighting)
    };
    futures::stream::iter(candidates).map(look).buffered(at_once.max(1)).collect().await
}

/// Reads a file that was seen in time.
pub async fn download(candidate: &Candidate, deadline_ms: u64) -> Download {
    for _ in 0..READ_ATTEMPTS {
        match read_once(candidate, deadline_ms).await {
            Ok(Some(download)) => return download,
            Ok(None) => {}
            Err(error) => return failure(&error).map_or(Download::Absent, Download::Unknown),
        }
    }
    Download::Unknown("the object changed while it was read".to_owned())
}

/// Reads the file, or returns `None` if it changed meanwhile or came cut.
///
/// The properties are read after the bytes too: a file replaced after the deadline must not pass
/// under the properties of the one that was in time.
async fn read_once(
    candidate: &Candidate,
    deadline_ms: u64,
) -> Result<Option<Download>, StoreError> {
    let Candidate { bucket, key, .. } = candidate;
    let before = bucket.head(key).await?;
    if sighting(before.as_ref(), deadline_ms) != Sighting::InTime {
        return Ok(Some(Download::Absent));
    }
    let bytes = bucket.get(key, ROLLOUT_FILE_BYTES_MAX).await?;
    let after = bucket.head(key).await?;
    let whole = |bytes: &Bytes| {
        before.as_ref().is_some_and(|info| u64::try_from(bytes.len()).is_ok_and(|n| n == info.size))
    };
    Ok(bytes.filter(|bytes| before == after && whole(bytes)).map(Download::File))
}

fn sighting(info: Option<&ObjectInfo>, deadline_ms: u64) -> Sighting {
    match info {
        Some(info)
            if info.size <= ROLLOUT_FILE_BYTES_MAX && info.last_modified_ms <= deadline_ms =>
        {
            Sighting::InTime
        }
        _ => Sighting::Absent,
    }
}

/// Returns why the failure is ours, or `None` if it is the owner's.
pub(crate) fn failure(error: &StoreError) -> Option<String> {
    match error {
        // The owner decides what it commits and how large its object is.
        StoreError::Denied(_) | StoreError::TooLarge { .. } => None,
        StoreError::Unavailable(_)
        | StoreError::Changed(_)
        | StoreError::ClockSkewed(_)
        | StoreError::File(_)
        | StoreError::Malformed(_) => Some(error.to_string()),
    }
}
