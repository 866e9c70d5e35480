//! Public randomness in rounds, as drand publishes it.

use async_trait::async_trait;
use grail_protocol::ids::Digest;
use grail_protocol::timelock::{BeaconPublicKey, RoundSignature};

/// When rounds come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeaconSchedule {
    /// Time of round 1, milliseconds since the Unix epoch.
    pub genesis_ms: u64,
    /// Time between rounds, milliseconds; at least 1.
    pub period_ms: u64,
}

impl BeaconSchedule {
    /// Returns the first round that comes out strictly after `time_ms`.
    pub fn first_round_after(&self, time_ms: u64) -> u64 {
        match time_ms.checked_sub(self.genesis_ms) {
            // Round r comes out at genesis + (r - 1) * period.
            Some(elapsed_ms) => elapsed_ms / self.period_ms + 2,
            None => 1,
        }
    }

    /// Returns when `round` comes out, milliseconds since the Unix epoch.
    pub fn time_of_ms(&self, round: u64) -> u64 {
        self.genesis_ms.saturating_add(round.saturating_sub(1).saturating_mul(self.period_ms))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_after_a_time_is_strictly_later() {
        let schedule = BeaconSchedule { genesis_ms: 10_000, period_ms: 3_000 };
        for (time_ms, round) in [(0, 1), (9_999, 1), (10_000, 2), (12_999, 2), (13_000, 3)] {
            assert_eq!(schedule.first_round_after(time_ms), round, "at {time_ms}");
            assert!(schedule.time_of_ms(round) > time_ms);
        }
    }
}
