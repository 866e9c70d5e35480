//! Public randomness in rounds, as drand publishes it.

use async_trait::async_trait;
use grail_protocol::ids::Digest;
pub use grail_protocol::randomness::BeaconSchedule;
use grail_protocol::timelock::{BeaconPublicKey, RoundSignature};

/// One round whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeaconRound {
    /// Number of the round, 1-based.
    pub round: u64,
    /// SHA-256 of the round's signature.
    pub randomness: Digest,
    /// The signature, which opens what was sealed to this round.
    pub signature: RoundSignature,
}

/// Why a round could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// The beacon did not answer; trying again may help.
    #[error("the beacon did not answer ({0}); check its address, or wait: it is asked again")]
    Unavailable(String),
    /// The answer does not carry a valid signature of this beacon.
    #[error("beacon round {round} is not signed by this beacon: {reason}; use another relay")]
    Invalid {
        /// The round asked for.
        round: u64,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// What the services need from the beacon.
#[async_trait]
pub trait Beacon: Send + Sync {
    /// Returns when rounds come out.
    fn schedule(&self) -> BeaconSchedule;

    /// Returns the key that rounds are signed with, and that one seals to.
    fn public_key(&self) -> BeaconPublicKey;

    /// Returns `round`, its signature verified, or `None` if it is not out yet.
    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError>;
}
