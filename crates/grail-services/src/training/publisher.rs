//! Publishes a built checkpoint, whole or as a delta: files, metadata, signature, and the READY
//! marker last.
//!
//! Files are streamed from the disk, and everything is read back piece by piece before the marker is
//! written: weights may be larger than the memory. Publishing again after a crash at any
//! point repeats only what is missing. A checkpoint that is READY is not touched any more, except
//! that one published as a delta may go up whole beside it: the same files, named by the same
//! digest, so that nobody needs to wait for them.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use grail_ports::events::Event;
use grail_ports::object_store::{ObjectInfo, ObjectStore, StoreError};
use grail_protocol::checkpoint::CheckpointType;
use grail_protocol::ids::{Digest, Window};
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, ReadyMarker};
use sha2::{Digest as _, Sha256};

use super::TrainingError;
use super::profile::Published;
use crate::blocking::blocking;
use crate::checkpoint::cache::{file_bytes_max, file_digest};
use crate::checkpoint::download::PIECE_BYTES;
use crate::context::{Heartbeat, RunContext};
use crate::state;

/// No marker is written in this many last blocks of a window: written under the name of one window
/// and seen only in the next, it would make honest miners of that window use the wrong checkpoint.
const MARKER_MARGIN_BLOCKS: u64 = 2;

/// Publishes the checkpoint in `dir`, the folder of that kind with these `objects`, and returns its
/// READY marker, or nothing if the window is too close to its end for the marker.
///
/// # Errors
/// When the chain or the bucket fails, or a file is gone.
pub async fn publish(
    ctx: &RunContext,
    checkpoint: Window,
    kind: CheckpointType,
    objects: &[Published],
    dir: &Path,
) -> Result<Option<ReadyMarker>, TrainingError> {
    let bucket = ctx.buckets.own();
    let there = bucket.list(&keys::checkpoint_prefix(checkpoint)).await?;
    // Peers look at the greatest pair; a second marker can only come from another program.
    let ready = there.iter().filter_map(|object| ReadyMarker::parse(&object.key)).max();
    let (marker, bytes) = match ready {
        // The last attempt got this far, but its end was not noted.
        Some(marker) => (marker, there.iter().map(|object| object.size).sum()),
        None => {
            let bytes = upload_all(ctx, checkpoint, kind, objects, dir).await?;
            let head = ctx.chain.head().await?.number;
            let ready = Window::containing(head);
            if ready.end().0 - head.0 <= MARKER_MARGIN_BLOCKS {
                return Ok(None);
            }
            let marker = ReadyMarker { ready, checkpoint };
            bucket.put(&marker.key(), Bytes::new()).await?;
            (marker, bytes)
        }
    };
    ctx.emit(Event::CheckpointPublished { checkpoint, ready: marker.ready, bytes });
    Ok(Some(marker))
}

/// Uploads what a marker promises, in the order given, and returns its size in bytes.
///
/// # Errors
/// When the bucket fails or a file is gone.
pub async fn upload_all(
    ctx: &RunContext,
    checkpoint: Window,
    kind: CheckpointType,
    objects: &[Published],
    dir: &Path,
) -> Result<u64, TrainingError> {
    let bucket = ctx.buckets.own();
    let mut bytes = 0u64;
    for object in objects {
        let (Published::Mark(name) | Published::File(name)) = *object;
        let key = match kind {
            CheckpointType::Full => keys::checkpoint_file(checkpoint, name),
            CheckpointType::Delta => keys::delta_file(checkpoint, name),
        };
        match object {
            Published::Mark(_) => mark(&*bucket, &key).await?,
            Published::File(_) => {
                let path = dir.join(name);
                let size = state::file_size(&path, file_bytes_max(name))?;
                let size = size.ok_or_else(|| TrainingError::BuildGone {
                    checkpoint,
                    file: name.to_owned(),
                })?;
                upload(&*bucket, &key, &path, size, &ctx.heartbeat).await?;
                bytes = bytes.saturating_add(size);
            }
        }
        ctx.heartbeat.beat();
    }
    Ok(bytes)
}

/// Puts an object without content unless it is there.
async fn mark(bucket: &dyn ObjectStore, key: &str) -> Result<(), TrainingError> {
    let is_there =
        async || Ok::<_, StoreError>(bucket.head(key).await?.is_some_and(|it| it.size == 0));
    if !is_there().await? {
        bucket.put(key, Bytes::new()).await?;
        if !is_there().await? {
            return Err(TrainingError::UploadDamaged { key: key.to_owned() });
        }
    }
    Ok(())
}

/// Uploads the file at `path`, which has `size` bytes, unless it is there, and reads it back.
async fn upload(
    bucket: &dyn ObjectStore,
    key: &str,
    path: &Path,
    size: u64,
    heartbeat: &Heartbeat,
) -> Result<(), TrainingError> {
    // The file is hashed only where there is something to compare it with.
    if let Some(there) = bucket.head(key).await?.filter(|there| there.size == size) {
        let file = path.to_owned();
        let sha256 = blocking(move || file_digest(&file)).await?;
        if holds(bucket, &there, sha256, heartbeat).await? {
            return Ok(());
        }
    }
    let put = bucket.put_file(key, path).await?;
    heartbeat.beat();
    if let Some(there) = bucket.head(key).await?.filter(|there| there.size == put.size)
        && holds(bucket, &there, put.sha256, heartbeat).await?
    {
        return Ok(());
    }
    Err(TrainingError::UploadDamaged { key: key.to_owned() })
}

/// Reads an object back, a piece at a time, and returns whether its bytes have this SHA-256.
async fn holds(
    bucket: &dyn ObjectStore,
    object: &ObjectInfo,
    sha256: Digest,
    heartbeat: &Heartbeat,
) -> Result<bool, TrainingError> {
    let (mut hasher, mut at) = (Sha256::new(), 0);
    while at < object.size {
        let range = at..object.size.min(at + PIECE_BYTES);
        let piece = bucket.get_range(&object.key, range, Some(&object.etag)).await?;
        let Some(piece) = piece.filter(|piece| !piece.is_empty()) else { return Ok(false) };
        at += piece.len() as u64;
        hasher = blocking(move || hasher.chain_update(&piece)).await;
        heartbeat.beat();
    }
    Ok(Digest(hasher.finalize().into()) == sha256)
}

/// Returns the checkpoints in `keys` that are to be removed, oldest first.
///
/// The checkpoint of every window from `horizon` on stays: a validator that found another one in its
/// place would blame honest miners. So does the first one, from which everything can be made again,
/// whatever is newer than the newest READY one, which is being published, and what the deltas that
/// stay are made of, back to the nearest checkpoint that is there whole.
pub fn expendable(keys: &[&str], horizon: Window) -> Vec<Window> {
    let keys = keys.iter().copied();
    let markers: Vec<ReadyMarker> = keys.clone().filter_map(ReadyMarker::parse).collect();
    let needed = markers.iter().filter(|marker| marker.ready >= horizon);
    let at_horizon = keys::latest_checkpoint(keys.clone(), horizon);
    let kept: BTreeSet<Window> =
        needed.chain(&at_horizon).map(|marker| marker.checkpoint).collect();
    let ready = || markers.iter().map(|marker| marker.checkpoint);
    let (first, newest) = (ready().min(), ready().max());
    let whole = |key: &str| key.ends_with(&format!("/FULL/{MANIFEST_SIGNATURE_FILE}"));
    let whole: BTreeSet<Window> =
        keys.clone().filter(|key| whole(key)).filter_map(checkpoint_of).collect();
    let all: BTreeSet<Window> = keys.filter_map(checkpoint_of).collect();
    // A delta's base is an earlier checkpoint: all back to a whole one are more than enough.
    let anchor = |window: &Window| whole.range(..=window).next_back().copied();
    let chains: Vec<(Option<Window>, Window)> =
        kept.iter().chain(&newest).map(|window| (anchor(window), *window)).collect();
    let is_link = |window: &Window| {
        chains.iter().any(|(anchor, tip)| *anchor <= Some(*window) && window <= tip)
    };
    all.into_iter().filter(|it| Some(*it) < newest && Some(*it) != first && !is_link(it)).collect()
}

fn checkpoint_of(key: &str) -> Option<Window> {
    let (start, _) =
        key.strip_prefix(keys::CHECKPOINTS_PREFIX)?.strip_prefix("checkpoint-")?.split_once('/')?;
    Window::from_start(start.parse().ok()?).ok()
}

/// Removes the checkpoints that `choose` returns for the keys of a bucket.
///
/// # Errors
/// When the bucket fails.
pub async fn retire(
    bucket: &dyn ObjectStore,
    choose: impl FnOnce(&[&str]) -> Vec<Window>,
) -> Result<(), TrainingError> {
    let objects = bucket.list(keys::CHECKPOINTS_PREFIX).await?;
    let names: Vec<&str> = objects.iter().map(|object| object.key.as_str()).collect();
    for checkpoint in choose(&names) {
        let prefix = keys::checkpoint_prefix(checkpoint);
        let (markers, files): (Vec<&str>, Vec<&str>) = names
            .iter()
            .filter(|key| key.starts_with(&prefix))
            .partition(|key| ReadyMarker::parse(key).is_some());
        // Files first would leave a marker that promises them.
        for key in markers.into_iter().chain(files) {
            bucket.delete(key).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use grail_protocol::keys::METADATA_FILE;

    use super::*;

    #[test]
    fn what_a_window_may_still_need_stays() {
        let at = |start| Window::from_start(start).unwrap();
        let file = |start| keys::checkpoint_file(at(start), MANIFEST_SIGNATURE_FILE);
        let marker = |start, ready| ReadyMarker { ready: at(ready), checkpoint: at(start) }.key();
        // 60 was late; 90 lost its marker to a clean-up that was killed; 330 is being published.
        let mut keys = vec![marker(0, 0), marker(30, 30), marker(60, 120), marker(120, 120)];
        keys.extend([marker(150, 180), marker(300, 300)]);
        keys.extend([0, 30, 60, 90, 120, 150, 300, 330].map(file));
        let gone = |horizon| {
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            let windows = expendable(&names, at(horizon));
            windows.iter().map(|window| window.start().0).collect::<Vec<_>>()
        };
        // Window 0 has no checkpoint, window 30 needs 0, window 60 needs 30 and so on.
        assert_eq!(gone(0), [90]);
        assert_eq!(gone(60), [90]);
        assert_eq!(gone(120), [90]);
        assert_eq!(gone(150), [30, 60, 90]);
        assert_eq!(gone(210), [30, 60, 90, 120]);
        assert_eq!(gone(900), [30, 60, 90, 120, 150]);
        assert_eq!(expendable(&[file(30).as_str()], at(900)), []);
        for horizon in (0..=360).step_by(30) {
            let left: Vec<&str> = keys
                .iter()
                .map(String::as_str)
                .filter(|key| !gone(horizon).contains(&checkpoint_of(key).unwrap().start().0))
                .collect();
            for window in (horizon..=360).step_by(30) {
                let before = keys::latest_checkpoint(keys.iter().map(String::as_str), at(window));
                let after = keys::latest_checkpoint(left.iter().copied(), at(window));
                assert_eq!(before, after, "horizon {horizon}, window {window}");
            }
        }
    }

    #[test]
    fn what_deltas_are_made_of_stays() {
        let at = |start| Window::from_start(start).unwrap();
        let marker = |start: u64| ReadyMarker { ready: at(start), checkpoint: at(start) }.key();
        let whole = |start| keys::checkpoint_file(at(start), MANIFEST_SIGNATURE_FILE);
        let delta = |start| keys::delta_file(at(start), MANIFEST_SIGNATURE_FILE);
        let mut keys: Vec<String> = (0..=420).step_by(30).map(marker).collect();
        keys.extend((30..=420).step_by(30).map(delta));
        keys.extend([0, 300].map(whole));
        // One that is still going up: its signature is not there.
        keys.push(keys::checkpoint_file(at(390), METADATA_FILE));
        let gone = |horizon| {
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            let windows = expendable(&names, at(horizon));
            windows.iter().map(|window| window.start().0).collect::<Vec<_>>()
        };
        assert_eq!(gone(240), Vec::<u64>::new());
        assert_eq!(gone(330), (30..300).step_by(30).collect::<Vec<_>>());
        assert_eq!(gone(420), (30..300).step_by(30).collect::<Vec<_>>());
    }
}
