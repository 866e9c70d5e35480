//! Rounds of quicknet that the chain's own `Drand` pallet keeps, as another source than relays.
//!
//! Source: spec/bittensor.md section 3, `Drand.Pulses`.

use async_trait::async_trait;
use grail_ports::beacon::BeaconError;
use parity_scale_codec::Decode;

use super::{DrandChain, VerifiedRound};

/// Largest value that is decoded; a real one has 90 bytes.
const PULSE_BYTES_MAX: usize = 512;

/// Reads the pallet's storage; a client of the chain does it.
#[async_trait]
pub trait Pulses: Send + Sync {
    /// Returns the SCALE bytes of `Drand.Pulses(round)`, or `None` if the chain has no such round.
    async fn pulse(&self, round: u64) -> Result<Option<Vec<u8>>, BeaconError>;
}

#[derive(Decode)]
struct Pulse {
    round: u64,
    randomness: Vec<u8>,
    signature: Vec<u8>,
}

/// Returns `round` as the chain keeps it, checked like a relay's answer: the chain is believed no
/// more than they are.
///
/// # Errors
/// When the chain does not answer, or what it keeps is not genuine.
pub async fn fetch(pulses: &dyn Pulses, round: u64) -> Result<Option<VerifiedRound>, BeaconError> {
    let Some(bytes) = pulses.pulse(round).await? else { return Ok(None) };
    read(round, &bytes).map(Some)
}

/// Returns the round in the SCALE bytes of a pulse, if it is genuine.
///
/// # Errors
/// [`BeaconError::Invalid`] otherwise.
pub fn read(round: u64, bytes: &[u8]) -> Result<VerifiedRound, BeaconError> {
    let refuse = |reason: &str| BeaconError::Invalid { round, reason: reason.to_owned() };
    if bytes.len() > PULSE_BYTES_MAX {
        return Err(refuse("the chain's pulse is too long"));
    }
    let mut rest = bytes;
    let pulse = Pulse::decode(&mut rest).map_err(|_| refuse("the chain's pulse is cut off"))?;
    if pulse.round != round {
        return Err(refuse("the chain's pulse is for another round"));
    }
    let verified = DrandChain::Quicknet.verify(round, &[], &pulse.signature)?;
    if verified.randomness.0.as_slice() != pulse.randomness {
        return Err(refuse("the pulse's randomness is not the hash of its signature"));
    }
    Ok(verified)
}
