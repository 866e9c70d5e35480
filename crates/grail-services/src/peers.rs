//! Finds the buckets of peers through what they committed on chain, and announces ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use grail_ports::chain::{Chain, ChainError};
use grail_ports::object_store::{Buckets, ObjectStore, ReadCredentials};
use grail_protocol::constants::TRAINER_UID;
use grail_protocol::credentials::{BadCommitment, CredentialCommitment};
use grail_protocol::ids::{Hotkey, Netuid};
use tracing::{debug, info};

use crate::checkpoint::CheckpointError;
use crate::context::RunContext;

/// The read credentials of all hotkeys, as last read from the chain.
#[derive(Default)]
pub struct PeerDirectory {
    known: BTreeMap<Hotkey, ReadCredentials>,
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
}

impl PeerDirectory {
    /// Returns the trainer and its bucket, reading the commitments again when it is not known.
    ///
    /// # Errors
    /// [`CheckpointError::NoTrainer`] when nobody has its uid or it committed no bucket.
    pub async fn trainer_bucket(
        &mut self,
        ctx: &RunContext,
    ) -> Result<(Hotkey, Arc<dyn ObjectStore>), CheckpointError> {
        let metagraph = ctx.chain.metagraph().await?;
        let no_trainer = || CheckpointError::NoTrainer(TRAINER_UID);
        let trainer = metagraph.uid(TRAINER_UID).ok_or_else(no_trainer)?.hotkey;
        if trainer == ctx.hotkey() {
            return Ok((trainer, ctx.buckets.own()));
        }
        if let Some(bucket) = self.bucket(&*ctx.buckets, trainer) {
            return Ok((trainer, bucket));
        }
        self.refresh(&*ctx.chain).await?;
        Ok((trainer, self.bucket(&*ctx.buckets, trainer).ok_or_else(no_trainer)?))
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
