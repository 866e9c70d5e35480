//! What of the built checkpoints still has to go up: the newest one at once, and one that went up as
//! a delta perhaps whole as well, beside everything else.
//!
//! What it must not forget is in the trainer's [`Memory`]; a restart begins with an empty outbox and
//! sends again what is not known to be there.

use grail_protocol::checkpoint::CheckpointType;
use grail_protocol::checkpoint::retention::ANCHOR_INTERVAL;
use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::Window;
use tokio::task::JoinSet;
use tracing::warn;

use super::profile::Published;
use super::workshop::{Memory, Workshop};
use super::{TrainingError, publisher};
use crate::context::RunContext;

/// Attempts at publishing a delta before the checkpoint is published whole.
const DELTA_ATTEMPTS: u32 = 3;

/// What is on its way.
pub struct Outbox {
    objects: fn(CheckpointType) -> Vec<Published>,
    /// How often the newest delta could not be published.
    delta_failures: u32,
    /// At most one full checkpoint on its way up; the way ends with the outbox.
    uploads: JoinSet<Result<Window, TrainingError>>,
}

impl Outbox {
    /// Makes an empty outbox for checkpoints of these objects.
    pub fn new(objects: fn(CheckpointType) -> Vec<Published>) -> Self {
        Self { objects, delta_failures: 0, uploads: JoinSet::new() }
    }

    /// Publishes a built checkpoint as a delta if it has one, else whole, and notes that in `memory`;
    /// returns whether it is READY. It is not when the window is too close to its end. A delta that
    /// cannot be published is given up.
    pub async fn publish(
        &mut self,
        ctx: &RunContext,
        workshop: &Workshop,
        built: Window,
        memory: &mut Memory,
    ) -> Result<bool, TrainingError> {
        let delta = workshop.delta_dir(built);
        let (kind, dir) = match delta.exists() && self.delta_failures < DELTA_ATTEMPTS {
            true => (CheckpointType::Delta, delta),
            false => (CheckpointType::Full, workshop.export_dir(built)),
        };
        match publisher::publish(ctx, built, kind, &(self.objects)(kind), &dir).await {
            Ok(None) => return Ok(false),
            Ok(Some(_)) => self.delta_failures = 0,
            Err(error) => {
                self.delta_failures += u32::from(kind == CheckpointType::Delta);
                return Err(error);
            }
        }
        memory.published = Some(built);
        match kind {
            CheckpointType::Full => (memory.anchor, memory.full_due) = (Some(built), None),
            // One that is on its way stays: replaced again and again by newer ones, a slow upload would
            // never arrive, and the way back to a whole checkpoint would grow without end.
            CheckpointType::Delta
                if memory.full_due.is_none() && is_full_due(built, memory.anchor) =>
            {
                memory.full_due = Some(built);
            }
            CheckpointType::Delta => {}
        }
        Ok(true)
    }

    /// Notes in `memory` which full checkpoint arrived, and sends the one that is due; returns whether
    /// there is something new to remember.
    pub fn send_due(&mut self, ctx: &RunContext, workshop: &Workshop, memory: &mut Memory) -> bool {
        let before = memory.clone();
        while let Some(ended) = self.uploads.try_join_next() {
            let uploaded =
                ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            match uploaded {
                Ok(checkpoint) => {
                    // It never moves backwards.
                    memory.anchor = memory.anchor.max(Some(checkpoint));
                    memory.full_due = memory.full_due.filter(|due| *due != checkpoint);
                }
                Err(error) => warn!(%error, "a full checkpoint beside its delta goes up again"),
            }
        }
        if let Some(due) = memory.full_due.filter(|_| self.uploads.is_empty()) {
            let (ctx, dir) = (ctx.clone(), workshop.export_dir(due));
            let (kind, objects) = (CheckpointType::Full, (self.objects)(CheckpointType::Full));
            self.uploads.spawn(async move {
                publisher::upload_all(&ctx, due, kind, &objects, &dir).await.map(|_| due)
            });
        }
        *memory != before
    }
}

/// Returns whether a checkpoint that is READY as a delta should be there whole too: at anchors, and
/// when the way back to one has become long.
fn is_full_due(checkpoint: Window, anchor: Option<Window>) -> bool {
    let start = checkpoint.start().0;
    let stride = ANCHOR_INTERVAL.unsigned_abs() * WINDOW_BLOCKS;
    let is_far = anchor.is_none_or(|anchor| start - anchor.start().0.min(start) >= stride);
    start.is_multiple_of(stride) || is_far
}
