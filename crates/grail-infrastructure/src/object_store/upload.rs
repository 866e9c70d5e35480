//! Writes objects: small ones in one request, large ones by parts that become visible at once.
//!
//! The client signs the SHA-256 of every body, so that a server refuses one that was damaged on the
//! way. A part whose connection breaks is sent again, the others are not. An upload that fails is
//! aborted; nothing of it was ever visible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use grail_ports::object_store::{PutCondition, PutOutcome, StoreError};
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{MultipartId, ObjectStore as _, PutMode, PutOptions, PutPayload, UpdateVersion};
use tokio::time::timeout;

use super::attempts::{Deadline, answered};
use super::bucket::{Location, S3Store};
use super::download::quoted;
use super::fault::{Fault, FaultKind};

/// Longest time spent on telling the server that an upload is given up.
const ABORT_TIME: Duration = Duration::from_secs(10);

/// Most parts of an upload. Source: S3.
const PARTS_MAX: usize = 10_000;

impl S3Store {
    /// Replaces the object at `location`.
    pub(super) async fn upload(&self, location: &Location<'_>, bytes: Bytes) -> Result<(), Fault> {
        let size = count(&bytes);
        let deadline = self.deadline(size);
        if size <= self.server.settings.single_put_bytes_max {
            return self.put_whole(location, &bytes, PutMode::Overwrite, deadline).await;
        }
        let create = || self.client.create_multipart(&location.path);
        let id = self.ask(deadline, create).await?;
        let pending = Pending { store: self.clone(), path: location.path.clone(), id: Some(id) };
        match self.upload_parts(location, &bytes, &pending, deadline).await {
            Ok(()) => {
                pending.forget();
                Ok(())
            }
            Err(fault) => {
                pending.abort().await;
                Err(fault)
            }
        }
    }

    /// Puts the object at `location` if `condition` holds: always in one request, because the parts
    /// of a larger one are put together without conditions.
    pub(super) async fn upload_if(
        &self,
        location: &Location<'_>,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, Fault> {
        let mode = match condition {
            PutCondition::Absent => PutMode::Create,
            PutCondition::Etag(etag) => {
                PutMode::Update(UpdateVersion { e_tag: Some(quoted(etag)), version: None })
            }
        };
        let deadline = self.deadline(count(&bytes));
        let in_doubt = AtomicBool::new(false);
        let once = || async {
            let outcome = self.put_once(location, &bytes, mode.clone()).await;
            in_doubt.fetch_or(outcome.as_ref().is_err_and(Fault::leaves_doubt), Ordering::Relaxed);
            outcome
        };
        let is_update = matches!(condition, PutCondition::Etag(_));
        match self.server.attempts.run(deadline, once).await {
            Ok(()) => Ok(PutOutcome::Written),
            Err(fault)
                if fault.kind == FaultKind::Condition
                    || (is_update && fault.kind == FaultKind::Absent) =>
            {
                // The attempt that was not answered may be the one that changed the object.
                let is_ours =
                    in_doubt.load(Ordering::Relaxed) && self.is_there(location, &bytes).await?;
                Ok(if is_ours { PutOutcome::Written } else { PutOutcome::ConditionFailed })
            }
            Err(fault) => Err(fault),
        }
    }

    async fn put_whole(
        &self,
        location: &Location<'_>,
        bytes: &Bytes,
        mode: PutMode,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let once = || self.put_once(location, bytes, mode.clone());
        self.server.attempts.run(deadline, once).await
    }

    async fn put_once(
        &self,
        location: &Location<'_>,
        bytes: &Bytes,
        mode: PutMode,
    ) -> Result<(), Fault> {
        let payload = PutPayload::from(bytes.clone());
        let put = self.client.put_opts(&location.path, payload, PutOptions::from(mode));
        answered(self.sending_time(count(bytes)), async {
            put.await.map(drop).map_err(|error| Fault::of(&error))
        })
        .await
    }

    /// Sends the parts and puts them together.
    async fn upload_parts(
        &self,
        location: &Location<'_>,
        bytes: &Bytes,
        pending: &Pending,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let settings = &self.server.settings;
        let part_bytes = part_size(bytes.len(), settings.part_bytes);
        let id = pending.id();
        let parts = (0..bytes.len().div_ceil(part_bytes)).map(|index| {
            let start = index * part_bytes;
            let part = bytes.slice(start..bytes.len().min(start + part_bytes));
            deadline.bound(self.put_part(location, id, index, part, deadline))
        });
        let parts: Vec<PartId> =
            futures::stream::iter(parts).buffered(settings.parts_at_once).try_collect().await?;
        self.complete(location, bytes, id, parts, deadline).await?;
        match self.describe(location, deadline).await? {
            // Somebody may have replaced it already; a shorter object is a broken server.
            Some(info) if info.size == count(bytes) => Ok(()),
            found => {
                let size = found.map_or(0, |info| info.size);
                let text = format!("{size} bytes are there after {} were put", bytes.len());
                Err(Fault::new(FaultKind::Server, text))
            }
        }
    }

    async fn put_part(
        &self,
        location: &Location<'_>,
        id: &MultipartId,
        index: usize,
        part: Bytes,
        deadline: Deadline,
    ) -> Result<PartId, Fault> {
        let wait = self.sending_time(count(&part));
        let once = || {
            let payload = PutPayload::from(part.clone());
            let put = self.client.put_part(&location.path, id, index, payload);
            answered(wait, async { put.await.map_err(|error| Fault::of(&error)) })
        };
        self.server.attempts.run(deadline, once).await
    }

    async fn complete(
        &self,
        location: &Location<'_>,
        bytes: &Bytes,
        id: &MultipartId,
        parts: Vec<PartId>,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let in_doubt = AtomicBool::new(false);
        let wait = self.sending_time(count(bytes));
        let once = || async {
            let complete = self.client.complete_multipart(&location.path, id, parts.clone());
            let outcome =
                answered(wait, async { complete.await.map_err(|error| Fault::of(&error)) }).await;
            in_doubt.fetch_or(outcome.as_ref().is_err_and(Fault::leaves_doubt), Ordering::Relaxed);
            outcome.map(drop)
        };
        match self.server.attempts.run(deadline, once).await {
            // Done by an attempt whose answer was lost, or given up by the server. Servers differ in
            // what they say of an upload that is over.
            Err(fault) if !fault.is_transient() && in_doubt.load(Ordering::Relaxed) => {
                if self.is_there(location, bytes).await? { Ok(()) } else { Err(fault) }
            }
            outcome => outcome,
        }
    }

    /// Reads the object back to see whether it has these bytes: a rare case, so that reading is
    /// better than trusting sizes and times.
    async fn is_there(&self, location: &Location<'_>, bytes: &Bytes) -> Result<bool, Fault> {
        match self.download(location, count(bytes)).await {
            Ok(found) => Ok(found.is_some_and(|found| found == *bytes)),
            Err(StoreError::TooLarge { .. }) => Ok(false),
            Err(error) => Err(Fault::new(FaultKind::NoAnswer, error.to_string())),
        }
    }

    /// Returns the longest time for one attempt that sends `bytes` bytes.
    fn sending_time(&self, bytes: u64) -> Duration {
        let patience = &self.server.settings.patience;
        patience.answer + Duration::from_secs(bytes / patience.bytes_per_s_min.max(1))
    }
}

/// An upload that is not yet complete; given up when dropped.
struct Pending {
    store: S3Store,
    path: Path,
    id: Option<MultipartId>,
}

impl Pending {
    fn id(&self) -> &MultipartId {
        self.id.as_ref().expect("the id is taken only by those who consume the upload")
    }

    fn forget(mut self) {
        self.id = None;
    }

    async fn abort(mut self) {
        if let Some(id) = self.id.take() {
            give_up(self.store.clone(), self.path.clone(), id).await;
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(give_up(self.store.clone(), self.path.clone(), id));
        }
    }
}

/// Tells the server to forget an upload. If that fails too, the server's own rule for old uploads
/// clears it away; readers never see it.
async fn give_up(store: S3Store, path: Path, id: MultipartId) {
    let client = Arc::clone(&store.client);
    let aborted =
        timeout(ABORT_TIME, store.ask(store.deadline(0), || client.abort_multipart(&path, &id)));
    if !matches!(aborted.await, Ok(Ok(()))) {
        tracing::warn!(bucket = %store.bucket, key = %path, "an unfinished upload is left behind");
    }
}

/// Returns the size of parts: as configured, unless that would be too many.
fn part_size(bytes: usize, configured: u64) -> usize {
    usize::try_from(configured).unwrap_or(usize::MAX).max(bytes.div_ceil(PARTS_MAX)).max(1)
}

fn count(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
