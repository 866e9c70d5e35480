//! Seals bytes to a round of the beacon: nobody can read them before its signature is out.

use std::fmt;

/// Compressed BLS12-381 public key of a drand-compatible beacon, a point of G2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BeaconPublicKey(pub [u8; 96]);

/// Compressed BLS12-381 signature of a round, a point of G1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RoundSignature(pub [u8; 48]);

impl fmt::Debug for BeaconPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BeaconPublicKey({})", hex::encode(self.0))
    }
}

impl fmt::Debug for RoundSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoundSignature({})", hex::encode(self.0))
    }
}
