//! Publishes a built checkpoint in the reference's layout: files, metadata, signature, then READY.

use std::path::Path;

use bytes::Bytes;
use grail_ports::events::Event;
use grail_ports::object_store::ObjectStore;
use grail_protocol::checkpoint::CHECKPOINT_FILES;
use grail_protocol::ids::Window;
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, METADATA_FILE, ReadyMarker};

use crate::blocking::blocking;
use crate::checkpoint::cache::file_bytes_max;
use crate::context::RunContext;
use crate::state;
use crate::training::TrainingError;
use crate::training::publisher::upload;

/// No marker is written in this many last blocks of a window: written under the name of one window
/// and seen only in the next, it would make honest miners of that window use the wrong checkpoint.
const MARKER_MARGIN_BLOCKS: u64 = 2;

/// The empty object that tells a full checkpoint from a delta.
const FULL_MARKER: &str = "FULL";

/// Publishes the checkpoint in `dir`; returns whether it is READY. It is not when the window is too
/// close to its end. What an earlier attempt uploaded is not uploaded again.
pub async fn publish(
    ctx: &RunContext,
    checkpoint: Window,
    dir: &Path,
) -> Result<bool, TrainingError> {
    let bucket = ctx.buckets.own();
    let objects = bucket.list(&keys::checkpoint_prefix(checkpoint)).await?;
    let ready = objects.iter().filter_map(|object| ReadyMarker::parse(&object.key)).max();
    let (marker, bytes) = match ready {
        Some(marker) => (marker, objects.iter().map(|object| object.size).sum()),
        None => {
            let bytes = upload_all(ctx, &*bucket, checkpoint, dir).await?;
            let head = ctx.chain.head().await?.number;
            let ready = Window::containing(head);
            if ready.end().0 - head.0 <= MARKER_MARGIN_BLOCKS {
                return Ok(false);
            }
            let marker = ReadyMarker { ready, checkpoint };
            bucket.put(&marker.key(), Bytes::new()).await?;
            (marker, bytes)
        }
    };
    ctx.emit(Event::CheckpointPublished { checkpoint, ready: marker.ready, bytes });
    Ok(true)
}

/// Uploads what stands behind the marker, and returns its size in bytes.
async fn upload_all(
    ctx: &RunContext,
    bucket: &dyn ObjectStore,
    checkpoint: Window,
    dir: &Path,
) -> Result<u64, TrainingError> {
    let mut bytes = 0u64;
    // The signature stands over the metadata and the metadata over the files: that order.
    for name in CHECKPOINT_FILES.into_iter().chain([METADATA_FILE, MANIFEST_SIGNATURE_FILE]) {
        let path = dir.join(name);
        let read = blocking(move || state::read_file(&path, file_bytes_max(name))).await?;
        let Some(content) = read.map(Bytes::from) else {
            return Err(TrainingError::BuildGone { checkpoint, file: name.to_owned() });
        };
        bytes = bytes.saturating_add(u64::try_from(content.len()).unwrap_or(u64::MAX));
        upload(bucket, &keys::checkpoint_file(checkpoint, name), content).await?;
        ctx.heartbeat.beat();
    }
    upload(bucket, &keys::checkpoint_file(checkpoint, FULL_MARKER), Bytes::new()).await?;
    Ok(bytes)
}
