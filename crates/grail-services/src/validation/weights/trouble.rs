//! Why weights are not on the chain, with what to do about it.

use grail_ports::chain::ChainError;
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid, Uid};

/// Why weights are not on the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The chain did not take them, or could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// We are not in the subnet.
    #[error(
        "hotkey {hotkey} is not registered on netuid {netuid}; register it (btcli subnet \
         register), or check NETUID and the wallet"
    )]
    NotRegistered {
        /// We.
        hotkey: Hotkey,
        /// The subnet.
        netuid: Netuid,
    },
    /// The chain would not count them.
    #[error(
        "hotkey {hotkey} (uid {uid}) has no validator permit on netuid {netuid}; it needs more \
         stake than other validators: stake to it, or ask the subnet's owner"
    )]
    NoPermit {
        /// We.
        hotkey: Hotkey,
        /// Our uid.
        uid: Uid,
        /// The subnet.
        netuid: Netuid,
    },
    /// The chain would refuse our version.
    #[error(
        "the subnet demands scoring rules of version {demanded}, and this program has version \
         {ours}; update this program"
    )]
    OldVersion {
        /// The subnet's version key.
        demanded: u64,
        /// Ours.
        ours: u64,
    },
    /// The chain took them, and does not have them.
    #[error("the chain took weights in block {block} and lost them: {reason}")]
    Lost {
        /// The block.
        block: BlockNumber,
        /// What the chain's port knows of it.
        reason: String,
    },
    /// The chain took them sealed, and did not open them in the epoch that should.
    #[error(
        "the weights that were sealed in block {block} should be open since block {opens}, and are \
         not; check that the subnet has epochs and that the chain stores the beacon's rounds"
    )]
    NotOpened {
        /// The block.
        block: BlockNumber,
        /// First block of the epoch that should have opened them.
        opens: BlockNumber,
    },
    /// Nobody could say in time whether the chain has them.
    #[error(
        "nobody can tell what became of the weights of block {block}{why}; check the chain's \
         endpoint"
    )]
    Untold {
        /// The block.
        block: BlockNumber,
        /// The last failure, after a colon, or nothing.
        why: String,
    },
}

impl Trouble {
    /// Returns whether it may pass without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Chain(ChainError::Unavailable(_) | ChainError::Pruned(_)))
    }
}
