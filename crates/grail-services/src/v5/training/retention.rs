//! Which checkpoints leave the trainer's bucket: those that neither the reference's rules nor our own
//! keep.
//!
//! Source: spec `checkpoints.md`, anchors and retention. Ours keep what a window from a horizon on
//! uses, back to a checkpoint that is there whole; see [`expendable`]. Deletion is by a prefix that
//! ends with a slash.

use std::collections::BTreeSet;

use grail_ports::object_store::ObjectStore;
use grail_protocol::checkpoint::ReferenceMetadata;
use grail_protocol::checkpoint::retention::{FULL_KEPT, Inventory, Links, anchor, publisher_keeps};
use grail_protocol::constants::CHECKPOINT_METADATA_BYTES_MAX;
use grail_protocol::ids::Window;
use grail_protocol::keys::{self, METADATA_FILE};
use grail_protocol::v5::python::json;

use crate::training::TrainingError;
use crate::training::publisher::{self, expendable};

/// Returns whether it is time to clean up: when the first checkpoint of a life or of the windows from
/// an anchor on was published.
pub fn is_due(before: Option<Window>, checkpoint: Window) -> bool {
    before.map(start).map(anchor) != Some(anchor(start(checkpoint)))
}

/// Removes what no window from `horizon` on and no rule of the reference needs.
///
/// # Errors
/// When the bucket fails.
pub async fn retire(bucket: &dyn ObjectStore, horizon: Window) -> Result<(), TrainingError> {
    let objects = bucket.list(keys::CHECKPOINTS_PREFIX).await?;
    let inventory = Inventory::of(objects.iter().map(|object| object.key.as_str()));
    let mut links = Links::default();
    for delta in &inventory.delta {
        let Some(metadata) = delta_metadata(bucket, *delta).await? else { continue };
        links.prev.extend(metadata.prev_window.map(|prev| (*delta, start(prev))));
        links.anchor.extend(metadata.anchor_window.map(|anchor| (*delta, start(anchor))));
    }
    let mut kept: BTreeSet<i64> = publisher_keeps(&inventory, &links, None);
    // The reference forgets full checkpoints that stand beside a delta.
    kept.extend(inventory.full.iter().take(FULL_KEPT));
    publisher::retire(bucket, |keys| {
        let windows = expendable(keys, horizon).into_iter();
        windows.filter(|window| !kept.contains(&start(*window))).collect()
    })
    .await
}

/// Returns the metadata of a delta, or nothing if it cannot be understood.
async fn delta_metadata(
    bucket: &dyn ObjectStore,
    delta: i64,
) -> Result<Option<ReferenceMetadata>, TrainingError> {
    let window = u64::try_from(delta).ok().and_then(|start| Window::from_start(start).ok());
    let Some(window) = window else { return Ok(None) };
    let key = keys::delta_file(window, METADATA_FILE);
    let bytes = bucket.get(&key, CHECKPOINT_METADATA_BYTES_MAX).await?;
    let text = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let value = text.and_then(|text| json::parse(text).ok());
    Ok(value.and_then(|value| ReferenceMetadata::from_value(&value, window).ok()))
}

fn start(window: Window) -> i64 {
    i64::try_from(window.start().0).unwrap_or(i64::MAX)
}
