//! The sources of a trainer's checkpoints: a folder of its bucket for each kind of each checkpoint,
//! read and verified alone, and left out once it was found at fault.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use grail_ports::object_store::{ObjectStore, StoreError};
use grail_protocol::checkpoint::{self as protocol, CheckpointType, Protocol, Published, Unsigned};
use grail_protocol::constants::CHECKPOINT_METADATA_BYTES_MAX;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, METADATA_FILE};
use tracing::debug;

use super::CheckpointError;
use super::cache::{MANIFEST_SIGNATURE_BYTES_MAX, SignedFiles};
use super::download::{self, Wanted};
use super::weights::WeightsError;
use crate::context::Heartbeat;

/// A checkpoint, whole or as a delta.
pub type Source = (Window, CheckpointType);

/// Metadata of one profile.
pub trait Metadata: Sized {
    /// The profile.
    const PROTOCOL: Protocol;

    /// Returns the metadata with the kind that it names, if it is of this profile.
    ///
    /// # Errors
    /// The profile that it is of.
    fn of(published: Published) -> Result<(Self, Option<CheckpointType>), Protocol>;
}

/// Verified metadata.
pub struct Signed<M> {
    /// What the trainer says.
    pub metadata: M,
    /// What it was read from.
    pub files: SignedFiles,
}

/// What one trainer has in its bucket, and what of it is of no use.
pub struct Sources<'a> {
    trainer: Hotkey,
    bucket: &'a dyn ObjectStore,
    keys: &'a BTreeSet<String>,
    unsigned: Unsigned,
    heartbeat: &'a Heartbeat,
    left_out: BTreeSet<Source>,
    /// What was wrong with the first that was left out.
    first: Option<CheckpointError>,
}

impl<'a> Sources<'a> {
    /// Begins with nothing left out; `keys` are those in the `bucket` of the `trainer`.
    pub fn new(
        trainer: Hotkey,
        bucket: &'a dyn ObjectStore,
        keys: &'a BTreeSet<String>,
        unsigned: Unsigned,
        heartbeat: &'a Heartbeat,
    ) -> Self {
        let left_out = BTreeSet::new();
        Self { trainer, bucket, keys, unsigned, heartbeat, left_out, first: None }
    }

    /// Returns the metadata of a source; nothing where it is not there or was left out, as one that is
    /// found at fault is now.
    ///
    /// # Errors
    /// What every other source would meet, too.
    pub async fn signed<M: Metadata>(
        &mut self,
        source: Source,
    ) -> Result<Option<Signed<M>>, CheckpointError> {
        let is_there = |name| self.keys.contains(&key(source, name));
        if !is_there(METADATA_FILE) || self.left_out.contains(&source) {
            return Ok(None);
        }
        // The signature is uploaded last: without it the rest may not be there yet.
        if self.unsigned == Unsigned::Refuse && !is_there(MANIFEST_SIGNATURE_FILE) {
            let error = missing(source.0, MANIFEST_SIGNATURE_FILE);
            return self.leave_out(source, error).map(|()| None);
        }
        match self.read_signed(source).await {
            Ok(signed) => Ok(Some(signed)),
            Err(error) => self.leave_out(source, error).map(|()| None),
        }
    }

    async fn read_signed<M: Metadata>(&self, source: Source) -> Result<Signed<M>, CheckpointError> {
        let metadata = self.get(source, METADATA_FILE, CHECKPOINT_METADATA_BYTES_MAX).await?;
        let key = key(source, MANIFEST_SIGNATURE_FILE);
        let signature = self.bucket.get(&key, MANIFEST_SIGNATURE_BYTES_MAX).await?;
        let files = SignedFiles { metadata, signature };
        let read = protocol::SignedFiles {
            metadata: &files.metadata,
            signature: files.signature.as_deref(),
        };
        let published = Published::open(&read, self.trainer, source.0, self.unsigned)?;
        let (metadata, kind) = M::of(published).map_err(|found| {
            let (expected, found) = (M::PROTOCOL.name(), found.name());
            protocol::CheckpointError::OtherProtocol { expected, found }
        })?;
        // Where the field is missing, the folder says it.
        if kind.is_some_and(|kind| kind != source.1) {
            let reason = "its metadata is that of the other kind of checkpoint".to_owned();
            return Err(protocol::CheckpointError::Invalid(vec![reason]).into());
        }
        Ok(Signed { metadata, files })
    }

    /// Returns a small object of a source.
    ///
    /// # Errors
    /// When it is missing or the bucket fails.
    pub async fn get(
        &self,
        source: Source,
        name: &str,
        bytes_max: u64,
    ) -> Result<Bytes, CheckpointError> {
        let object = self.bucket.get(&key(source, name), bytes_max).await?;
        object.ok_or_else(|| missing(source.0, name))
    }

    /// Makes sure that the file `path` is the object of a source with this digest.
    ///
    /// # Errors
    /// When it is missing, damaged or larger than `bytes_max`, or bucket or disk fail.
    pub async fn file(
        &self,
        source: Source,
        name: &str,
        digest: Digest,
        bytes_max: u64,
        path: PathBuf,
    ) -> Result<(), CheckpointError> {
        let (checkpoint, key) = (source.0, key(source, name));
        let wanted = Wanted { checkpoint, name, key, digest, bytes_max, path };
        download::obtain(self.bucket, &wanted, self.heartbeat).await
    }

    /// Leaves a source out from now on.
    ///
    /// # Errors
    /// The error itself, if it is not the fault of that source: another one would meet the same store,
    /// disk or stop.
    pub fn leave_out(
        &mut self,
        source: Source,
        error: CheckpointError,
    ) -> Result<(), CheckpointError> {
        if !is_sources_fault(&error) {
            return Err(error);
        }
        debug!(checkpoint = %source.0, %error, "a source of a checkpoint is left out");
        self.first.get_or_insert(error);
        self.left_out.insert(source);
        Ok(())
    }

    /// Returns why there is no way to a checkpoint: what was wrong with the first source.
    pub fn no_way(&mut self, checkpoint: Window) -> CheckpointError {
        self.first.take().unwrap_or_else(|| missing(checkpoint, METADATA_FILE))
    }
}

fn key((checkpoint, kind): Source, name: &str) -> String {
    match kind {
        CheckpointType::Full => keys::checkpoint_file(checkpoint, name),
        CheckpointType::Delta => keys::delta_file(checkpoint, name),
    }
}

/// Returns the error of a file that should be there.
pub fn missing(checkpoint: Window, file: &str) -> CheckpointError {
    CheckpointError::Missing { checkpoint, file: file.to_owned() }
}

fn is_sources_fault(error: &CheckpointError) -> bool {
    match error {
        CheckpointError::Delta { error, .. } => !matches!(error, WeightsError::State(_)),
        // Waiting helps, another source of the same trainer does not.
        CheckpointError::Metadata(
            protocol::CheckpointError::UnknownProtocol(_)
            | protocol::CheckpointError::OtherProtocol { .. },
        ) => false,
        CheckpointError::Missing { .. }
        | CheckpointError::Damaged { .. }
        | CheckpointError::Metadata(_) => true,
        CheckpointError::Store(error) => {
            matches!(error, StoreError::TooLarge { .. } | StoreError::Malformed(_))
        }
        _ => false,
    }
}
