//! Publishes a built checkpoint: files, metadata, signature, and the READY marker last.
//!
//! Everything is read back before the marker is written. Publishing again after a crash at any
//! point repeats only what is missing, and a checkpoint that is READY is never touched.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use grail_ports::events::Event;
use grail_ports::object_store::ObjectStore;
use grail_protocol::checkpoint::CHECKPOINT_FILES;
use grail_protocol::ids::{Digest, Window};
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, METADATA_FILE, ReadyMarker};
use tracing::warn;

use super::TrainingError;
use crate::blocking::blocking;
use crate::checkpoint::cache::file_bytes_max;
use crate::context::RunContext;
use crate::state;

/// Publishes the checkpoint in `dir` and returns its READY marker.
pub async fn publish(
    ctx: &RunContext,
    checkpoint: Window,
    dir: &Path,
) -> Result<ReadyMarker, TrainingError> {
    let bucket = ctx.buckets.own();
    if let Some(marker) = ready_marker(&*bucket, checkpoint).await? {
        return Ok(marker);
    }
    let mut bytes_total = 0u64;
    // The signature stands over the metadata and the metadata over the files: that order.
    for name in CHECKPOINT_FILES.into_iter().chain([METADATA_FILE, MANIFEST_SIGNATURE_FILE]) {
        let path = dir.join(name);
        let read = blocking(move || state::read_file(&path, file_bytes_max(name))).await?;
        let Some(content) = read.map(Bytes::from) else {
            return Err(TrainingError::BuildGone { checkpoint, file: name.to_owned() });
        };
        bytes_total = bytes_total.saturating_add(u64::try_from(content.len()).unwrap_or(u64::MAX));
        upload(&*bucket, &keys::checkpoint_file(checkpoint, name), content).await?;
        ctx.heartbeat.beat();
    }
    let head = ctx.chain.head().await?;
    let marker = ReadyMarker { ready: Window::containing(head.number), checkpoint };
    bucket.put(&marker.key(), Bytes::new()).await?;
    let ready = marker.ready;
    ctx.emit(Event::CheckpointPublished { checkpoint, ready, bytes: bytes_total });
    Ok(marker)
}

/// Returns the marker of a checkpoint that is READY already.
async fn ready_marker(
    bucket: &dyn ObjectStore,
    checkpoint: Window,
) -> Result<Option<ReadyMarker>, TrainingError> {
    let objects = bucket.list(&keys::checkpoint_prefix(checkpoint)).await?;
    let markers = objects.iter().filter_map(|object| ReadyMarker::parse(&object.key));
    // Peers look at the greatest pair; a second marker can only come from another program.
    Ok(markers.max())
}

/// Uploads an object unless it is there, and reads it back.
async fn upload(
    bucket: &dyn ObjectStore,
    key: &str,
    content: Bytes,
) -> Result<(), TrainingError> {
    if holds(bucket, key, &content).await? {
        return Ok(());
    }
    bucket.put(key, content.clone()).await?;
    if holds(bucket, key, &content).await? {
        return Ok(());
    }
    Err(TrainingError::UploadDamaged { key: key.to_owned() })
}

async fn holds(
    bucket: &dyn ObjectStore,
    key: &str,
    content: &Bytes,
) -> Result<bool, TrainingError> {
    let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if bucket.head(key).await?.is_none_or(|info| info.size != size) {
        return Ok(false);
    }
    let Some(found) = bucket.get(key, size).await? else {
        return Ok(false);
    };
    let content = content.clone();
    Ok(blocking(move || Digest::of(&found) == Digest::of(&content)).await)
}

/// Returns the checkpoints in `keys` that are to be removed, oldest first.
///
/// The `keep` newest that are READY stay, the first one (everything can be made again from it), and
/// whatever is newer than the newest READY one: that is being published.
pub fn expendable<'a>(keys: impl IntoIterator<Item = &'a str>, keep: u32) -> Vec<Window> {
    let (mut all, mut ready) = (BTreeSet::new(), BTreeSet::new());
    for key in keys {
        all.extend(checkpoint_of(key));
        ready.extend(ReadyMarker::parse(key).map(|marker| marker.checkpoint));
    }
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    let kept: BTreeSet<Window> = ready.iter().rev().take(keep).chain(ready.first()).copied().collect();
    let newest = ready.last().copied();
    all.into_iter().filter(|it| Some(*it) < newest && !kept.contains(it)).collect()
}

fn checkpoint_of(key: &str) -> Option<Window> {
    let (start, _) =
        key.strip_prefix(keys::CHECKPOINTS_PREFIX)?.strip_prefix("checkpoint-")?.split_once('/')?;
    Window::from_start(start.parse().ok()?).ok()
}

/// Removes old checkpoints from our bucket. Trouble is reported and tried again next time.
pub async fn retire(ctx: &RunContext, keep: u32) {
    if let Err(error) = try_retire(ctx, keep).await {
        warn!(%error, "old checkpoints stay in the bucket for now");
    }
}

async fn try_retire(ctx: &RunContext, keep: u32) -> Result<(), TrainingError> {
    let bucket = ctx.buckets.own();
    let objects = bucket.list(keys::CHECKPOINTS_PREFIX).await?;
    let names = objects.iter().map(|object| object.key.as_str());
    for checkpoint in expendable(names, keep) {
        let objects = bucket.list(&keys::checkpoint_prefix(checkpoint)).await?;
        let (markers, files): (Vec<_>, Vec<_>) =
            objects.iter().partition(|object| ReadyMarker::parse(&object.key).is_some());
        // Files first would leave a marker that promises them.
        for object in markers.into_iter().chain(files) {
            bucket.delete(&object.key).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_newest_checkpoints_stay() {
        let at = |start| Window::from_start(start).unwrap();
        let file = |start| keys::checkpoint_file(at(start), METADATA_FILE);
        let mut keys: Vec<String> = [0u64, 30, 60, 300, 330]
            .into_iter()
            .map(|start| ReadyMarker { ready: at(start).next(), checkpoint: at(start) }.key())
            .collect();
        // 90 lost its marker to an earlier clean-up that was killed; 360 is being published.
        keys.extend([0, 30, 60, 90, 300, 330, 360].map(file));
        let gone = |keep| {
            let windows = expendable(keys.iter().map(String::as_str), keep);
            windows.iter().map(|window| window.start().0).collect::<Vec<_>>()
        };
        assert_eq!(gone(2), [30, 60, 90]);
        assert_eq!(gone(0), [30, 60, 90, 300]);
        assert_eq!(gone(99), [90]);
        assert_eq!(expendable([file(30).as_str()], 1), []);
    }
}
