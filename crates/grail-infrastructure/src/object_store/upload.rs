//! Writes objects: small ones in one request, large ones by parts that become visible at once.
//!
//! The client signs the SHA-256 of every body, so that a server refuses one that was damaged on the
//! way. A part whose connection breaks is sent again, the others are not. An upload that fails is
//! aborted; nothing of it was ever visible.
//!
//! Of a file only the parts under way are in memory. Each attempt at a part sends the bytes that the
//! first one read, and a file that was written to meanwhile is not put together.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::try_unfold;
use futures::{Stream, StreamExt as _};
use grail_ports::object_store::{FilePut, PutCondition, PutOutcome};
use grail_protocol::ids::Digest;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{MultipartId, ObjectStore as _, PutMode, PutOptions, PutPayload, UpdateVersion};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::attempts::{Deadline, answered};
use super::bucket::{Location, S3Store};
use super::download::quoted;
use super::fault::{Fault, FaultKind};
use crate::source::{BadFile, FileSource};

/// Longest time spent on telling the server that an upload is given up.
const ABORT_TIME: Duration = Duration::from_secs(10);

/// Most parts of an upload. Source: S3.
const PARTS_MAX: u64 = 10_000;

impl S3Store {
    /// Replaces the object at `location`.
    pub(super) async fn upload(&self, location: &Location<'_>, bytes: Bytes) -> Result<(), Fault> {
        let size = count(&bytes);
        let deadline = self.deadline(size);
        if size <= self.server.settings.single_put_bytes_max {
            return self.put_whole(location, &bytes, PutMode::Overwrite, deadline).await;
        }
        self.upload_by_parts(location, &Content::Memory(bytes), deadline).await
    }

    /// Replaces the object at `location` by the file at `path`.
    pub(super) async fn upload_file(
        &self,
        location: &Location<'_>,
        path: &FilePath,
    ) -> Result<FilePut, Fault> {
        let path = path.to_owned();
        let mut source = from_file(move || FileSource::open(&path)).await?;
        let size = source.size();
        let deadline = self.deadline(size);
        let settings = &self.server.settings;
        // No more at once than parts would take.
        let window = settings.part_bytes.saturating_mul(settings.parts_at_once as u64);
        if size <= settings.single_put_bytes_max.min(window) {
            let (bytes, put) = from_file(move || {
                let bytes = source.next(usize::MAX)?;
                Ok((bytes, source.finish()?))
            })
            .await?;
            self.put_whole(location, &bytes, PutMode::Overwrite, deadline).await?;
            return Ok(put);
        }
        let content = Content::File { size, source: Arc::new(Mutex::new(source)) };
        self.upload_by_parts(location, &content, deadline).await?;
        Ok(FilePut { size, sha256: content.digest().await? })
    }

    async fn upload_by_parts(
        &self,
        location: &Location<'_>,
        content: &Content,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let create = || self.client.create_multipart(&location.path);
        let id = self.ask(deadline, create).await?;
        let pending = Pending { store: self.clone(), path: location.path.clone(), id: Some(id) };
        match self.upload_parts(location, content, &pending, deadline).await {
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
                let is_ours = in_doubt.load(Ordering::Relaxed)
                    && self.is_there(location, &Content::Memory(bytes.clone())).await?;
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
        content: &Content,
        pending: &Pending,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let settings = &self.server.settings;
        let size = content.size();
        let part_bytes = part_size(size, settings.part_bytes);
        let id = pending.id();
        // After a failure no part is begun, but those under way end first: one that a server is still
        // taking in when it is told to forget the upload may stay behind.
        let failed = AtomicBool::new(false);
        let parts = content
            .parts(part_bytes)
            .take_while(|_| std::future::ready(!failed.load(Ordering::Relaxed)))
            .map(|part| async {
                let put = async {
                    let (index, part) = part?;
                    self.put_part(location, id, index, part, deadline).await
                };
                put.await.inspect_err(|_| failed.store(true, Ordering::Relaxed))
            })
            .buffered(settings.parts_at_once)
            .collect::<Vec<Result<PartId, Fault>>>();
        let parts = deadline.bound(async { Ok(parts.await) }).await?;
        let parts = parts.into_iter().collect::<Result<Vec<PartId>, Fault>>()?;
        content.check()?;
        self.complete(location, content, id, parts, deadline).await?;
        match self.describe(location, deadline).await? {
            // Somebody may have replaced it already; a shorter object is a broken server.
            Some(info) if info.size == size => Ok(()),
            found => {
                let there = found.map_or(0, |info| info.size);
                let text = format!("{there} bytes are there after {size} were put");
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
        content: &Content,
        id: &MultipartId,
        parts: Vec<PartId>,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let in_doubt = AtomicBool::new(false);
        let wait = self.sending_time(content.size());
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
                if self.is_there(location, content).await? { Ok(()) } else { Err(fault) }
            }
            outcome => outcome,
        }
    }

    /// Reads the object back to see whether it has these bytes: a rare case, so that reading is
    /// better than trusting sizes and times.
    async fn is_there(&self, location: &Location<'_>, content: &Content) -> Result<bool, Fault> {
        let size = content.size();
        let found = match self.describe(location, self.deadline(0)).await? {
            Some(info) if info.size == size => info,
            _ => return Ok(false),
        };
        let piece = part_size(size, self.server.settings.part_bytes);
        let (mut hasher, mut at) = (Sha256::new(), 0);
        while at < size {
            let range = at..size.min(at + piece);
            let end = range.end;
            match self.download_range(location, range, Some(&found.etag)).await {
                Ok(Some(bytes)) => hasher.update(&bytes),
                // Another one's by now.
                Ok(None) => return Ok(false),
                Err(fault) if fault.kind == FaultKind::Condition => return Ok(false),
                Err(fault) => return Err(Fault::new(FaultKind::NoAnswer, fault.to_string())),
            }
            at = end;
        }
        Ok(Digest(hasher.finalize().into()) == content.digest().await?)
    }

    /// Returns the longest time for one attempt that sends `bytes` bytes.
    fn sending_time(&self, bytes: u64) -> Duration {
        let patience = &self.server.settings.patience;
        patience.answer + Duration::from_secs(bytes / patience.bytes_per_s_min.max(1))
    }
}

/// What is uploaded by parts.
#[derive(Clone)]
enum Content {
    Memory(Bytes),
    File { size: u64, source: Arc<Mutex<FileSource>> },
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => count(bytes),
            Self::File { size, .. } => *size,
        }
    }

    /// Returns the parts of `part_bytes` bytes, the last one perhaps shorter, with their index.
    fn parts(&self, part_bytes: u64) -> impl Stream<Item = Result<(usize, Bytes), Fault>> + use<> {
        let size = self.size();
        try_unfold((0, 0, self.clone()), move |(index, start, content)| async move {
            if start >= size {
                return Ok(None);
            }
            let end = size.min(start.saturating_add(part_bytes));
            let part = content.part(start..end).await?;
            Ok(Some(((index, part), (index + 1, end, content))))
        })
    }

    /// Returns the bytes in `range`, which follow those returned before.
    async fn part(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(index(range.start)..index(range.end))),
            Self::File { source, .. } => {
                let (source, length) = (Arc::clone(source), index(range.end - range.start));
                from_file(move || lock(&source).next(length)).await
            }
        }
    }

    /// Checks that the parts were those of one version.
    fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File { source, .. } => lock(source).finish().map(drop).map_err(Fault::of_file),
        }
    }

    /// Returns the SHA-256 of all parts.
    async fn digest(&self) -> Result<Digest, Fault> {
        match self {
            Self::Memory(bytes) => {
                let bytes = bytes.clone();
                from_file(move || Ok(Digest::of(&bytes))).await
            }
            Self::File { source, .. } => Ok(lock(source).digest()),
        }
    }
}

fn lock(source: &Mutex<FileSource>) -> MutexGuard<'_, FileSource> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `read` where it may wait for the disk.
async fn from_file<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, BadFile> + Send + 'static,
) -> Result<T, Fault> {
    let read = spawn_blocking(read).await;
    let read = read.map_err(|error| Fault::new(FaultKind::NoAnswer, error.to_string()))?;
    read.map_err(Fault::of_file)
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
fn part_size(bytes: u64, configured: u64) -> u64 {
    configured.max(bytes.div_ceil(PARTS_MAX)).max(1)
}

fn count(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
