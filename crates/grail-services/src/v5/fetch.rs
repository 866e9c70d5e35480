//! Finds miners' files as the reference does, and reads them with bounds that it lacks.
//!
//! The first of `KEY.gz` and `KEY` that exists decides alone. Late, missing, too small and too large
//! files are absent, which is no fault. Stricter: inflation is bounded, and the bytes are those that
//! the store described before and after.

use bytes::Bytes;
use futures::StreamExt as _;
use grail_parquet::gunzip;
use grail_ports::object_store::{ObjectInfo, StoreError};
use grail_protocol::ids::Hotkey;
use grail_protocol::v5::file::{
    BYTES_MAX, DISCOVERY_BYTES_MAX, gzip_key, is_in_time, is_size_allowed,
};

use tracing::debug;

use crate::blocking::blocking;
use crate::validation::discovery::{Candidate, Sighting, failure};

/// Tries to read a file that keeps changing under the reader.
const READ_ATTEMPTS: u32 = 3;

/// A file, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Download {
    /// Its bytes, inflated, and when it was uploaded: whole seconds since the Unix epoch.
    File(Bytes, f64),
    /// None that counts.
    Absent,
    /// We could not read it; the reason is for a person.
    Unknown(String),
}

/// Looks for the files of `candidates`, at most `at_once` at a time; results in the same order.
pub async fn discover(
    candidates: Vec<Candidate>,
    deadline: Option<f64>,
    at_once: usize,
) -> Vec<(Hotkey, Sighting)> {
    let look = move |candidate: Candidate| async move {
        let sighting = match described(&candidate).await {
            Ok(found) => {
                let counts =
                    |(_, info): (String, ObjectInfo)| counts(&info, deadline, DISCOVERY_BYTES_MAX);
                if found.is_some_and(counts) { Sighting::InTime } else { Sighting::Absent }
            }
            Err(error) => failure(&error).map_or(Sighting::Absent, Sighting::Unknown),
        };
        (candidate.hotkey, sighting)
    };
    futures::stream::iter(candidates).map(look).buffered(at_once.max(1)).collect().await
}

/// Reads a file that was seen in time.
pub async fn download(candidate: &Candidate, deadline: Option<f64>) -> Download {
    for _ in 0..READ_ATTEMPTS {
        match read_once(candidate, deadline).await {
            Ok(Some(download)) => return download,
            Ok(None) => {}
            Err(error) => return failure(&error).map_or(Download::Absent, Download::Unknown),
        }
    }
    Download::Unknown("the object changed while it was read".to_owned())
}

/// Returns the key that decides, with what the store says of it.
async fn described(candidate: &Candidate) -> Result<Option<(String, ObjectInfo)>, StoreError> {
    for key in [gzip_key(&candidate.key), candidate.key.clone()] {
        if let Some(info) = candidate.bucket.head(&key).await? {
            return Ok(Some((key, info)));
        }
    }
    Ok(None)
}

fn counts(info: &ObjectInfo, deadline: Option<f64>, bytes_max: u64) -> bool {
    is_size_allowed(info.size, bytes_max) && is_in_time(Some(seconds(info)), deadline)
}

/// Stores tell whole seconds.
fn seconds(info: &ObjectInfo) -> f64 {
    (info.last_modified_ms / 1000) as f64
}

/// Reads the file, or returns `None` if it changed meanwhile or came cut.
async fn read_once(
    candidate: &Candidate,
    deadline: Option<f64>,
) -> Result<Option<Download>, StoreError> {
    let Some((key, before)) = described(candidate).await? else {
        return Ok(Some(Download::Absent));
    };
    if !counts(&before, deadline, BYTES_MAX) {
        return Ok(Some(Download::Absent));
    }
    let bytes = candidate.bucket.get(&key, BYTES_MAX).await?;
    let after = described(candidate).await?;
    let is_whole = |bytes: &Bytes| u64::try_from(bytes.len()) == Ok(before.size);
    let is_same = after.as_ref() == Some(&(key.clone(), before.clone()));
    let Some(bytes) = bytes.filter(|bytes| is_same && is_whole(bytes)) else { return Ok(None) };
    if key == candidate.key {
        return Ok(Some(Download::File(bytes, seconds(&before))));
    }
    Ok(Some(match blocking(move || gunzip(&bytes, BYTES_MAX)).await {
        Ok(inflated) => Download::File(Bytes::from(inflated), seconds(&before)),
        // No gzip, or more than a plain file may have.
        Err(error) => {
            debug!(%error, key, "a file that cannot be inflated");
            Download::Absent
        }
    }))
}
