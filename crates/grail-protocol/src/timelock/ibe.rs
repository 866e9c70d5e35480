//! Carries a key of 32 bytes to a round: points of BLS12-381 as bytes, and the crate that computes.
//!
//! `U = rP`, `V = sigma xor H2(e(Q, key)^r)`, `W = key xor H4(sigma)` with `r = H3(sigma, key)` and
//! `Q` the hash of the round. Opening recomputes `U`, so that nothing but what was sealed opens.

use ark_serialize::{CanonicalDeserialize as _, CanonicalSerialize as _};
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};
use timelock::engines::EngineBLS;
use timelock::engines::drand::TinyBLS381;
use timelock::ibe::fullident::{Ciphertext, IBESecret, Identity, Input};

use super::{BeaconPublicKey, OpenError, RoundSignature, SealError, SealTo};

/// Bytes of `U`, a compressed point of G2.
pub(super) const POINT_BYTES: usize = 96;
/// Bytes of `V` and of `W`.
pub(super) const WORD_BYTES: usize = 32;
/// Bytes of a key on its way to a round.
pub(super) const SEALED_KEY_BYTES: usize = POINT_BYTES + 2 * WORD_BYTES;

/// A signature that is a point of G1's subgroup.
pub(super) type SignaturePoint = <TinyBLS381 as EngineBLS>::SignatureGroup;

type KeyPoint = <TinyBLS381 as EngineBLS>::PublicKeyGroup;

/// Returns the point of a signature, if it is one of the subgroup.
pub(super) fn signature(bytes: &RoundSignature) -> Option<SignaturePoint> {
    SignaturePoint::deserialize_compressed(bytes.0.as_slice()).ok()
}

fn key_point(bytes: &BeaconPublicKey) -> Result<KeyPoint, SealError> {
    KeyPoint::deserialize_compressed(bytes.0.as_slice()).map_err(|_| SealError::BadPublicKey)
}

/// Returns `key` sealed: `U`, `V`, `W`.
pub(super) fn seal_key(
    to: SealTo,
    key: [u8; 32],
    draws: &mut ChaCha20Rng,
) -> Result<[u8; SEALED_KEY_BYTES], SealError> {
    let public = key_point(&to.key)?;
    let input = Input::<TinyBLS381>::new(key).expect("a key has 32 bytes");
    let Ciphertext { u, v, w } = identity(to.round).encrypt(&input, public, draws);
    let mut bytes = [0; SEALED_KEY_BYTES];
    let (point, words) = bytes.split_at_mut(POINT_BYTES);
    u.serialize_compressed(point).expect("a compressed point of G2 has 96 bytes");
    words[..WORD_BYTES].copy_from_slice(&v);
    words[WORD_BYTES..].copy_from_slice(&w);
    Ok(bytes)
}

/// Returns the key that was sealed.
pub(super) fn open_key(
    sealed: &[u8; SEALED_KEY_BYTES],
    signature: &SignaturePoint,
) -> Result<[u8; 32], OpenError> {
    let (point, words) = sealed.split_at(POINT_BYTES);
    // Exactly 96 bytes, so the deserialiser reads no length; it checks curve and subgroup.
    let u = KeyPoint::deserialize_compressed(point).map_err(|_| OpenError::BadPoint)?;
    let (mut v, mut w) = ([0; WORD_BYTES], [0; WORD_BYTES]);
    v.copy_from_slice(&words[..WORD_BYTES]);
    w.copy_from_slice(&words[WORD_BYTES..]);
    IBESecret::<TinyBLS381>(*signature)
        .decrypt(&Ciphertext { u, v, w })
        .map_err(|_| OpenError::WrongRound)
}

/// Returns the name that a round has among identities: what the beacon signs.
fn identity(round: u64) -> Identity {
    Identity::new(b"", &Sha256::digest(round.to_be_bytes()))
}
