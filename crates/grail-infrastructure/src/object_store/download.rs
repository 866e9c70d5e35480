//! Reads objects by parts, each pinned to the version that the first answer described.
//!
//! A part whose connection breaks or falls silent goes on where it was; a part is never of another
//! version than its neighbours. Memory is that of the object, and no more than the caller allows.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use grail_ports::object_store::StoreError;
use object_store::{GetOptions, GetRange, ObjectStore as _};

use super::attempts::{Deadline, answered};
use super::bucket::{Location, S3Store, etag_of};
use super::fault::{Fault, FaultKind};

/// Most times that a read begins anew because the object was replaced meanwhile.
const READS_MAX: u32 = 3;

type Chunks = BoxStream<'static, object_store::Result<Bytes>>;

/// An answer that has begun.
struct Opened {
    /// Bytes of the object that follow.
    range: Range<u64>,
    etag: String,
    size: u64,
    chunks: Chunks,
}

impl S3Store {
    /// Returns the object at `location` whole, or `None`.
    pub(super) async fn download(
        &self,
        location: &Location<'_>,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let start = self.deadline(0);
        let mut reads = 1;
        loop {
            let fault = match self.begin(location, None, None, start).await {
                Ok(None) => return Ok(None),
                Ok(Some(opened)) if opened.size > bytes_max => {
                    let (key, size) = (location.key.to_owned(), opened.size);
                    return Err(StoreError::TooLarge { key, size, limit: bytes_max });
                }
                Ok(Some(opened)) => match self.finish(location, opened, start).await {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            if fault.kind != FaultKind::Condition || reads == READS_MAX {
                return Err(self.worded(location.key)(fault));
            }
            reads += 1;
        }
    }

    /// Returns the bytes of `range` of the object at `location`, or `None`.
    pub(super) async fn download_range(
        &self,
        location: &Location<'_>,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, Fault> {
        let start = self.deadline(0);
        if range.start < range.end {
            match self.begin(location, Some(&range), etag, start).await {
                Ok(Some(opened)) => return self.finish(location, opened, start).await.map(Some),
                Ok(None) => return Ok(None),
                // Behind the end, or an empty object, perhaps of another version.
                Err(fault) if fault.kind == FaultKind::Range => {}
                Err(fault) => return Err(fault),
            }
        }
        let Some(info) = self.describe(location, start).await? else { return Ok(None) };
        if etag.is_some_and(|etag| etag != info.etag) || range.start < range.end.min(info.size) {
            return Err(replaced());
        }
        Ok(Some(Bytes::new()))
    }

    /// Asks for the object, or for a range of it; `None` if there is none.
    async fn begin(
        &self,
        location: &Location<'_>,
        range: Option<&Range<u64>>,
        etag: Option<&str>,
        deadline: Deadline,
    ) -> Result<Option<Opened>, Fault> {
        let options = || GetOptions {
            range: range.map(|range| match i64::try_from(range.end) {
                Ok(_) => GetRange::Bounded(range.clone()),
                // Servers read the ends of ranges as signed integers.
                Err(_) => GetRange::Offset(range.start),
            }),
            if_match: etag.map(quoted),
            ..GetOptions::default()
        };
        let answer =
            self.ask_twice(deadline, || self.client.get_opts(&location.path, options())).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) if fault.kind == FaultKind::Absent => return Ok(None),
            Err(fault) => return Err(fault),
        };
        // Not every server heeds the condition.
        let found = etag_of(&answer.meta)?.to_owned();
        if etag.is_some_and(|etag| etag != found) {
            return Err(replaced());
        }
        let (range, size) = (answer.range.clone(), answer.meta.size);
        Ok(Some(Opened { range, etag: found, size, chunks: answer.into_stream() }))
    }

    /// Reads what an answer announced, the first part from that answer.
    async fn finish(
        &self,
        location: &Location<'_>,
        opened: Opened,
        start: Deadline,
    ) -> Result<Bytes, Fault> {
        let Opened { range, etag, chunks, .. } = opened;
        let settings = &self.server.settings;
        let length = range.end - range.start;
        let deadline = start.with_bytes(&settings.patience, length);
        let whole = usize::try_from(length)
            .map_err(|_| Fault::new(FaultKind::Broken, "more bytes than memory"))?;
        let part = usize::try_from(settings.part_bytes).unwrap_or(usize::MAX).max(1);
        let mut rest = BytesMut::zeroed(whole);
        let mut chunks = Some(chunks);
        let mut reads = Vec::with_capacity(whole.div_ceil(part));
        let mut from = range.start;
        while !rest.is_empty() {
            let place = rest.split_to(part.min(rest.len()));
            let read = self.fill(location, &etag, from, place, chunks.take(), deadline);
            reads.push(deadline.bound(read));
            from += u64::try_from(part).unwrap_or(u64::MAX);
        }
        let reads = futures::stream::iter(reads).buffered(settings.parts_at_once);
        let parts: Vec<BytesMut> = reads.try_collect().await?;
        let mut bytes = BytesMut::new();
        for part in parts {
            // They were cut from one piece, so nothing is copied.
            bytes.unsplit(part);
        }
        Ok(bytes.freeze())
    }

    /// Fills `place` with the object's bytes from `from` on, asking again where it broke off.
    async fn fill(
        &self,
        location: &Location<'_>,
        etag: &str,
        from: u64,
        mut place: BytesMut,
        mut chunks: Option<Chunks>,
        deadline: Deadline,
    ) -> Result<BytesMut, Fault> {
        let mut filled = 0;
        let mut failures = 0;
        let offset = |filled: usize| from + u64::try_from(filled).unwrap_or(u64::MAX);
        while filled < place.len() {
            let source = match chunks.take() {
                Some(source) => source,
                None => {
                    let rest = offset(filled)..offset(place.len());
                    let opened = self.begin(location, Some(&rest), Some(etag), deadline).await?;
                    let opened = opened.ok_or_else(replaced)?;
                    if opened.range != rest {
                        return Err(Fault::new(FaultKind::Broken, "other bytes than asked for"));
                    }
                    opened.chunks
                }
            };
            let before = filled;
            if let Err(fault) = self.pour(source, &mut place, &mut filled).await {
                failures = if filled > before { 1 } else { failures + 1 };
                self.server.attempts.pause(deadline, fault, failures).await?;
            }
        }
        Ok(place)
    }

    /// Copies what `source` gives into `place` from `filled` on, until that is full.
    async fn pour(
        &self,
        mut source: Chunks,
        place: &mut BytesMut,
        filled: &mut usize,
    ) -> Result<(), Fault> {
        let silence = self.server.settings.patience.silence;
        while *filled < place.len() {
            let next = answered(silence, async {
                source.next().await.transpose().map_err(|error| Fault::of(&error))
            });
            let Some(chunk) = next.await? else {
                return Err(Fault::new(FaultKind::NoAnswer, "the answer broke off"));
            };
            // The first answer is of the whole object and goes on behind the part.
            let length = chunk.len().min(place.len() - *filled);
            place[*filled..*filled + length].copy_from_slice(&chunk[..length]);
            *filled += length;
            if let Some(throttle) = &self.server.throttle {
                throttle.pass(length).await;
            }
        }
        Ok(())
    }
}

fn replaced() -> Fault {
    Fault::new(FaultKind::Condition, "the object was replaced meanwhile")
}

pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}
