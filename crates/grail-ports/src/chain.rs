//! The chain: blocks, the metagraph, commitments and weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use grail_protocol::ids::{BlockHash, BlockNumber, Hotkey, Netuid, Uid};
use serde::{Deserialize, Serialize};

/// A block that the chain has produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Height, 0-based.
    pub number: BlockNumber,
    /// Hash of the block.
    pub hash: BlockHash,
    /// Time of the block, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
}

/// A registered neuron.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neuron {
    /// Index in the metagraph.
    pub uid: Uid,
    /// Public key.
    pub hotkey: Hotkey,
    /// Stake in the chain's smallest unit.
    pub stake: u64,
    /// Whether this neuron may set weights.
    pub validator_permit: bool,
    /// Share of the miners' emission, 0 to 1.
    pub incentive: f64,
    /// Block of the last accepted `set_weights`.
    pub last_update: BlockNumber,
}

/// A subnet at one block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metagraph {
    /// The subnet.
    pub netuid: Netuid,
    /// The block that the metagraph was read at.
    pub block: BlockNumber,
    /// Neurons in the order of their uids.
    pub neurons: Vec<Neuron>,
}

impl Metagraph {
    /// Returns the neuron of `hotkey`, if it is registered.
    pub fn neuron(&self, hotkey: Hotkey) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| neuron.hotkey == hotkey)
    }

    /// Returns the neuron of `uid`, if there is one.
    pub fn uid(&self, uid: Uid) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| neuron.uid == uid)
    }
}

/// Rules of the subnet that bind validators.
///
/// The default values bind nobody: a chain that has no such rule leaves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hyperparameters {
    /// Least number of blocks between two `set_weights` of one validator.
    pub weights_rate_limit: u64,
    /// Least version key that `set_weights` must carry.
    pub weights_version: u64,
    /// Blocks in an epoch.
    pub tempo: u64,
    /// Epochs after which sealed weights are opened; `None` where weights are set in the open.
    pub reveal_epochs: Option<u64>,
    /// Least number of uids with a weight above 0, unless a validator only names itself.
    pub weights_min: u16,
    /// Largest share of one uid, in 65,535ths of the whole.
    pub weight_share_max: u16,
    /// Least stake with which weights can be set, in the chain's smallest unit.
    pub stake_min: u64,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            weights_rate_limit: 0,
            weights_version: 0,
            tempo: 360,
            reveal_epochs: None,
            weights_min: 0,
            weight_share_max: u16::MAX,
            stake_min: 0,
        }
    }
}

/// What became of the weights that an instance set last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightsStatus {
    /// This instance has set none since it was made.
    Unknown,
    /// They are sealed; the chain opens them within the epoch that begins with this block.
    Sealed {
        /// First block that may open them.
        opens: BlockNumber,
    },
    /// The chain has them and counts them.
    Landed,
    /// The chain does not have them and will not: they were dropped, overwritten or re-organised
    /// away.
    Lost {
        /// What is known of it, for a person.
        reason: String,
    },
}

/// Weights on their way to the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightSubmission {
    /// A weight for each uid, finite, 0 or more; quantised by the adapter as the chain demands.
    pub weights: Vec<(Uid, f64)>,
    /// Version of the scoring rules.
    pub version_key: u64,
}

/// Weights that a block includes, to be looked for later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentWeights {
    /// What was handed in.
    pub submission: WeightSubmission,
    /// The block.
    pub block: BlockNumber,
}

/// Why the chain did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No answer; trying again may help.
    #[error("the chain did not answer ({0}); check its endpoint, or wait: it is asked again")]
    Unavailable(String),
    /// The chain has not kept the state that was asked for.
    #[error("the chain no longer has block {0}; ask an archive node")]
    Pruned(BlockNumber),
    /// The chain refused a call by its rules.
    #[error("the chain refused {call}: {name} ({advice})")]
    Refused {
        /// The call, such as `set_weights`.
        call: String,
        /// The chain's name of the error, such as `SettingWeightsTooFast`.
        name: String,
        /// What to do about it.
        advice: String,
    },
    /// An answer that cannot be understood.
    #[error("the chain's answer to {call} cannot be read: {reason}; is this the right endpoint?")]
    Malformed {
        /// The call.
        call: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// What the services need from the chain. An instance acts for one hotkey on one subnet.
#[async_trait]
pub trait Chain: Send + Sync {
    /// Returns the subnet that this instance acts on.
    fn netuid(&self) -> Netuid;

    /// Returns the name of the network, such as `local`.
    fn network(&self) -> &str;

    /// Returns the time from block to block that the chain aims at, milliseconds, at least 1.
    fn block_time_ms(&self) -> u64;

    /// Returns the newest block.
    async fn head(&self) -> Result<Block, ChainError>;

    /// Returns the block at `number`, or `None` if the chain is not there yet.
    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError>;

    /// Returns the metagraph at the head; cached by block number.
    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError>;

    /// Returns the rules of the subnet.
    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError>;

    /// Returns what each registered hotkey has committed, at most 128 bytes each.
    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError>;

    /// Commits `data` (1 to 128 bytes) for this hotkey, replacing what it committed before.
    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError>;

    /// Sets this validator's weights and returns the block that includes them, open or sealed.
    ///
    /// # Errors
    /// After [`ChainError::Refused`] they are in no block. After any other error they may be in one
    /// that is there; none that comes later will include them.
    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError>;

    /// Returns the newest block that no re-organisation can take away. A chain without any is final
    /// at its head.
    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        Ok(self.head().await?.number)
    }

    /// Returns what became of the weights set last, as the chain has it now. On a chain that counts
    /// weights as soon as it includes them, they have landed.
    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        Ok(WeightsStatus::Landed)
    }

    /// Makes [`Self::weights_status`] speak of weights that another instance set for this hotkey,
    /// such as the same program before a restart.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when the chain cannot have taken them.
    async fn watch_weights(&self, _sent: &SentWeights) -> Result<(), ChainError> {
        Ok(())
    }
}
