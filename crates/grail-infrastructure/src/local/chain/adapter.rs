//! The chain port for roles in the chain's own process.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use grail_ports::chain::{Block, Chain, ChainError, Hyperparameters, Metagraph, WeightSubmission};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid};

use super::data::{Data, RAW_BYTES_MAX};
use super::extrinsic::Call;
use super::refusal::Refusal;
use super::weights::quantise;
use super::{LocalChain, LocalChainError};

pub(super) struct InProcessChain {
    chain: Arc<LocalChain>,
    signer: Arc<dyn Signer>,
}

impl InProcessChain {
    pub(super) fn new(chain: Arc<LocalChain>, signer: Arc<dyn Signer>) -> Self {
        Self { chain, signer }
    }

    /// Signs and submits outside the async runtime: the transaction waits for the disk.
    async fn submit(&self, call: Call) -> Result<BlockNumber, ChainError> {
        let (chain, signer) = (Arc::clone(&self.chain), Arc::clone(&self.signer));
        let name = call.name();
        tokio::task::spawn_blocking(move || chain.submit_as(&*signer, call))
            .await
            .map_err(|error| ChainError::Unavailable(error.to_string()))?
            .map_err(|error| port_error(error, name))
    }
}

/// Words an error of the chain for the port.
pub(crate) fn port_error(error: LocalChainError, call: &str) -> ChainError {
    match error {
        LocalChainError::Refused(refusal) => refusal.into_error(call),
        other => ChainError::Unavailable(other.to_string()),
    }
}

#[async_trait]
impl Chain for InProcessChain {
    fn netuid(&self) -> Netuid {
        self.chain.rules().netuid
    }

    fn network(&self) -> &str {
        &self.chain.rules().network
    }

    fn block_time_ms(&self) -> u64 {
        self.chain.rules().block_time_ms
    }

    async fn head(&self) -> Result<Block, ChainError> {
        Ok(self.chain.head())
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        let row =
            self.chain.block(number).map_err(|error| ChainError::Unavailable(error.to_string()))?;
        Ok(row.map(|row| super::block(number, &row)))
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        Ok(self.chain.metagraph())
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        Ok(self.chain.hyperparameters())
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        Ok(self.chain.commitments())
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        self.submit(commitment(self.netuid(), data)?).await?;
        Ok(())
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        let (uids, values) =
            quantise(&weights.weights).map_err(|refusal| refusal.into_error("set_weights"))?;
        self.submit(Call::SetWeights {
            netuid: self.netuid().0,
            mechanism: 0,
            uids,
            weights: values,
            version_key: weights.version_key,
        })
        .await
    }
}

/// Returns the call that commits `data` on `netuid`.
///
/// # Errors
/// When `data` has another length than the port allows.
pub(crate) fn commitment(netuid: Netuid, data: &[u8]) -> Result<Call, ChainError> {
    if data.is_empty() || data.len() > RAW_BYTES_MAX {
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        return Err(Refusal::CommitmentLengthInvalid { bytes }.into_error("set_commitment"));
    }
    let fields = vec![Data::Raw { bytes: data.to_vec() }];
    Ok(Call::SetCommitment { netuid: netuid.0, fields })
}
