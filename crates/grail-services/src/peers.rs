//! Finds the buckets of peers through what they committed on chain, and announces ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use grail_ports::chain::{Chain, ChainError};
use grail_ports::object_store::{Buckets, ObjectStore, ReadCredentials};
use grail_protocol::constants::TRAINER_UID;
use grail_protocol::credentials::{BadCommitment, CredentialCommitment};
use grail_protocol::ids::{Hotkey, Netuid, Window};
use grail_protocol::keys;
use tracing::{debug, info, warn};

use crate::checkpoint::CheckpointError;
use crate::context::RunContext;

/// The read credentials of all hotkeys, as last read from the chain.
#[derive(Default)]
pub struct PeerDirectory {
    known: BTreeMap<Hotkey, ReadCredentials>,
    /// Newest window for which the trainer's commitment was read.
    trainer_read: Option<Window>,
}

/// The newest checkpoint that was ready before a window, and where it is.
pub struct NewestCheckpoint {
    /// Who published it, and signed it.
    pub trainer: Hotkey,
    /// The trainer's bucket.
    pub bucket: Arc<dyn ObjectStore>,
    /// Keys of all objects of checkpoints there.
    pub keys: BTreeSet<String>,
    /// The checkpoint.
    pub checkpoint: Window,
}

impl PeerDirectory {
    /// Reads the commitments again.
    ///
    /// # Errors
    /// When the chain fails; what was read before stays.
    pub async fn refresh(&mut self, chain: &dyn Chain) -> Result<(), ChainError> {
        let commitments = chain.commitments().await?;
        self.known = commitments
            .iter()
            .filter_map(|(hotkey, bytes)| match CredentialCommitment::decode(bytes) {
                Ok(found) => Some((*hotkey, read_credentials(found))),
                Err(error) => {
                    debug!(%hotkey, %error, "this hotkey has no readable bucket");
                    None
                }
            })
            .collect();
        Ok(())
    }

    /// Returns whether anything was read yet.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Returns the bucket of `hotkey`, or `None` without usable credentials: that is its owner's
    /// doing, and the same as no file.
    pub fn bucket(&self, buckets: &dyn Buckets, hotkey: Hotkey) -> Option<Arc<dyn ObjectStore>> {
        buckets.open(self.known.get(&hotkey)?).ok()
    }

    /// Returns the trainer and its bucket. What it committed is read once a window: it may move to
    /// another bucket, or publish a new key, at any time.
    ///
    /// # Errors
    /// [`CheckpointError::NoTrainer`] when nobody has its uid or it committed no bucket.
    async fn trainer_bucket(
        &mut self,
        ctx: &RunContext,
        window: Window,
    ) -> Result<(Hotkey, Arc<dyn ObjectStore>), CheckpointError> {
        let metagraph = ctx.chain.metagraph().await?;
        let no_trainer = || CheckpointError::NoTrainer(TRAINER_UID);
        let trainer = metagraph.uid(TRAINER_UID).ok_or_else(no_trainer)?.hotkey;
        if trainer == ctx.hotkey() {
            return Ok((trainer, ctx.buckets.own()));
        }
        let is_known = self.known.contains_key(&trainer);
        if !is_known || self.trainer_read < Some(window) {
            match self.refresh(&*ctx.chain).await {
                Ok(()) => self.trainer_read = self.trainer_read.max(Some(window)),
                Err(error) if is_known => {
                    warn!(%error, "the trainer's bucket may have moved; using what is known");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((trainer, self.bucket(&*ctx.buckets, trainer).ok_or_else(no_trainer)?))
    }

    /// Returns the newest checkpoint that was ready before `window`, or `None` if none was.
    ///
    /// # Errors
    /// As [`CheckpointError`] says of the trainer and its bucket.
    pub async fn newest_checkpoint(
        &mut self,
        ctx: &RunContext,
        window: Window,
    ) -> Result<Option<NewestCheckpoint>, CheckpointError> {
        let (trainer, bucket) = self.trainer_bucket(ctx, window).await?;
        let objects = bucket.list(keys::CHECKPOINTS_PREFIX).await?;
        let keys: BTreeSet<String> = objects.into_iter().map(|object| object.key).collect();
        let newest = keys::latest_checkpoint(keys.iter().map(String::as_str), window);
        Ok(newest.map(|marker| {
            let checkpoint = marker.checkpoint;
            NewestCheckpoint { trainer, bucket, keys, checkpoint }
        }))
    }
}

fn read_credentials(found: CredentialCommitment) -> ReadCredentials {
    let CredentialCommitment { account_id, bucket_name, access_key_id, secret_access_key } = found;
    ReadCredentials { account_id, bucket_name, access_key_id, secret_access_key }
}

/// Why a role cannot take part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The hotkey has no uid.
    #[error("hotkey {hotkey} is not registered on netuid {netuid}; register it, or check NETUID")]
    NotRegistered {
        /// The hotkey.
        hotkey: Hotkey,
        /// The subnet.
        netuid: Netuid,
    },
    /// Our credentials do not fit into a commitment.
    #[error(transparent)]
    Credentials(#[from] BadCommitment),
}

/// Checks that our hotkey is registered and commits our read credentials unless they are there.
pub async fn announce(ctx: &RunContext) -> Result<(), AnnounceError> {
    let hotkey = ctx.hotkey();
    let netuid = ctx.chain.netuid();
    if ctx.chain.metagraph().await?.neuron(hotkey).is_none() {
        return Err(AnnounceError::NotRegistered { hotkey, netuid });
    }
    let ReadCredentials { account_id, bucket_name, access_key_id, secret_access_key } =
        ctx.buckets.read_credentials();
    let ours = CredentialCommitment { account_id, bucket_name, access_key_id, secret_access_key };
    let ours = ours.encode()?;
    if ctx.chain.commitments().await?.get(&hotkey).map(Vec::as_slice) != Some(ours.as_slice()) {
        ctx.chain.set_commitment(&ours).await?;
        info!(%hotkey, "committed the read credentials of our bucket");
    }
    Ok(())
}
