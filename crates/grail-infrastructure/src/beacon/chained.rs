//! Decides whether a round of drand's default chain is genuine.
//!
//! Scheme `pedersen-bls-chained`: public key in G1, signatures in G2, message
//! SHA-256(previous signature ++ round as u64, big-endian). Nothing can be sealed to such a round: its
//! message is not known before. Source: drand's specification.

use blst::BLST_ERROR;
use blst::min_pk::{PublicKey, Signature};
use grail_ports::beacon::BeaconError;
use grail_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};

use super::verify::BeaconInfoError;

/// drand's name of the scheme.
pub const SCHEME: &str = "pedersen-bls-chained";

/// Domain separation tag of the scheme.
const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_";

/// Bytes of a compressed signature.
pub const SIGNATURE_BYTES: usize = 96;

/// Bytes that stand for the signature before round 1: the hash of the group.
const FIRST_PREVIOUS_BYTES: usize = 32;

/// A public key that is a valid point of the right subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainedKey(PublicKey);

impl ChainedKey {
    /// Accepts a compressed public key, 48 bytes: on the curve, in the subgroup, not infinity.
    ///
    /// # Errors
    /// [`BeaconInfoError::PublicKey`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BeaconInfoError> {
        PublicKey::key_validate(bytes)
            .map(Self)
            .map_err(|error| BeaconInfoError::PublicKey(format!("{error:?}")))
    }

    /// Returns the randomness of the round that `signature` stands for: its SHA-256.
    ///
    /// # Errors
    /// [`BeaconError::Invalid`] unless the holder of this key signed exactly this round after
    /// exactly the `previous` signature.
    pub fn verify(
        self,
        round: u64,
        previous: &[u8],
        signature: &[u8],
    ) -> Result<Digest, BeaconError> {
        let refuse = |reason: String| BeaconError::Invalid { round, reason };
        let expected = if round == 1 { FIRST_PREVIOUS_BYTES } else { SIGNATURE_BYTES };
        if round == 0 || previous.len() != expected || signature.len() != SIGNATURE_BYTES {
            return Err(refuse(format!(
                "it has signatures of {} and {} bytes instead of {expected} and {SIGNATURE_BYTES}",
                previous.len(),
                signature.len()
            )));
        }
        // Checks the encoding, the curve, the subgroup, and refuses infinity.
        let point = Signature::sig_validate(signature, true)
            .map_err(|error| refuse(format!("the signature is no group element ({error:?})")))?;
        let message =
            Sha256::new().chain_update(previous).chain_update(round.to_be_bytes()).finalize();
        // The point is already checked, and so is the key since it was made.
        match point.verify(false, &message, DST, &[], &self.0, false) {
            BLST_ERROR::BLST_SUCCESS => Ok(Digest::of(signature)),
            _ => Err(refuse("the signature does not fit the public key".into())),
        }
    }
}
