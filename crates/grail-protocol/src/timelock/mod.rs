//! Seals bytes to a round of the beacon: nobody can read them before its signature is out.
//!
//! A random key travels to the round by identity-based encryption (Boneh and Franklin's FullIdent
//! over BLS12-381, as on drand's quicknet: public key in G2, signatures in G1; see [`ibe`]), and the
//! content under that key by AES-256-GCM in one pass:
//!
//! ```text
//! ciphertext = U:96 V:32 W:32 content:n tag:16
//! ```
//!
//! Every part has a fixed size but the content, which is the rest, so no length in a foreign
//! ciphertext is ever believed. The same scheme in the bytes that Bittensor's chain and wallets use
//! is in [`drand`].

pub mod drand;
mod ibe;
mod text;

use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::{AeadInPlace as _, Aes256Gcm, KeyInit as _};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use ibe::{SEALED_KEY_BYTES, SignaturePoint};

/// Bytes of the tag behind the content.
const TAG_BYTES: usize = 16;

/// Bytes that sealing adds to a content.
pub const OVERHEAD_BYTES: usize = SEALED_KEY_BYTES + TAG_BYTES;

/// The key of a ciphertext is drawn for it alone, so the nonce need not differ from others.
const NONCE: [u8; 12] = [0; 12];

/// Authenticated with the content: a ciphertext of another use of the same beacon does not open.
const ASSOCIATED: &[u8] = b"grail/v6/timelock\0";

/// Compressed BLS12-381 public key of a drand-compatible beacon, a point of G2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BeaconPublicKey(pub [u8; 96]);

/// Compressed BLS12-381 signature of a round, a point of G1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RoundSignature(pub [u8; 48]);

/// Where to seal to: a round of a beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealTo {
    /// Key of the beacon.
    pub key: BeaconPublicKey,
    /// Number of the round, 1-based.
    pub round: u64,
}

/// Why nothing can be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The public key is no point of G2's subgroup.
    #[error("the beacon's public key is no valid point of its group; ask another relay")]
    BadPublicKey,
}

/// Why a round's signature cannot be used. It is the beacon's, so no miner is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOpener {
    /// The public key is no point of G2's subgroup.
    #[error("the beacon's public key is no valid point of its group; ask another relay")]
    BadPublicKey,
    /// Not this beacon's signature of this round.
    #[error("that is not the beacon's signature of round {round}; ask another relay")]
    WrongSignature {
        /// The round.
        round: u64,
    },
}

/// Why a ciphertext does not open. It is the sealer's doing, or an accident on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Less than the fixed parts.
    #[error("{found} sealed bytes, at least {min} are needed; it was cut short")]
    TooShort {
        /// Bytes found.
        found: usize,
        /// Bytes of an empty content.
        min: usize,
    },
    /// The first part is no point of G2's subgroup.
    #[error("its first 96 bytes are no valid point; it was not made by sealing, or changed later")]
    BadPoint,
    /// The key does not come out.
    #[error(
        "its key does not come out: it was sealed to another round or another beacon, or changed \
         later"
    )]
    WrongRound,
    /// The content is not what was sealed.
    #[error("its content fails its authentication tag: it was changed after sealing")]
    Changed,
}

/// The signature of a round, known to be the beacon's own: opens what was sealed to the round.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundOpener {
    round: u64,
    signature: SignaturePoint,
}

impl RoundOpener {
    /// Accepts the signature of `round`. Costs about as much as sealing and opening once.
    ///
    /// # Errors
    /// When the beacon of `key` did not sign that.
    pub fn new(
        key: BeaconPublicKey,
        round: u64,
        signature: RoundSignature,
    ) -> Result<Self, NoOpener> {
        let refused = NoOpener::WrongSignature { round };
        let opener = Self { round, signature: ibe::signature(&signature).ok_or(refused)? };
        // What one sealed to the round opens with the round's signature and with nothing else, so
        // an empty letter to oneself is a test of the signature.
        let letter = seal(SealTo { key, round }, Vec::new(), &[0; 32])
            .map_err(|SealError::BadPublicKey| NoOpener::BadPublicKey)?;
        opener.open(&letter).map_err(|_| refused)?;
        Ok(opener)
    }

    /// Returns the number of the round.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Returns the content of what [`seal`] made.
    ///
    /// # Errors
    /// When it was not sealed to this round of this beacon, or changed since.
    pub fn open(&self, ciphertext: &[u8]) -> Result<Vec<u8>, OpenError> {
        let short = OpenError::TooShort { found: ciphertext.len(), min: OVERHEAD_BYTES };
        let (sealed_key, rest) = ciphertext.split_first_chunk().ok_or(short)?;
        let (content, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(short)?;
        let key = ibe::open_key(sealed_key, &self.signature)?;
        let mut content = content.to_vec();
        cipher(&key)
            .decrypt_in_place_detached(
                &GenericArray::from(NONCE),
                ASSOCIATED,
                &mut content,
                &GenericArray::from(*tag),
            )
            .map_err(|aes_gcm::Error| OpenError::Changed)?;
        Ok(content)
    }
}

/// Returns `content` sealed, [`OVERHEAD_BYTES`] longer; equal arguments give equal bytes.
///
/// `entropy` must be unknown to others and never serve for another content: it is the seed of the
/// content's key.
///
/// # Errors
/// When the public key is no point.
pub fn seal(to: SealTo, content: Vec<u8>, entropy: &[u8; 32]) -> Result<Vec<u8>, SealError> {
    let mut draws = ChaCha20Rng::from_seed(*entropy);
    let mut key = [0; 32];
    draws.fill_bytes(&mut key);
    let mut bytes = Vec::with_capacity(content.len() + OVERHEAD_BYTES);
    bytes.extend_from_slice(&ibe::seal_key(to, key, &mut draws)?);
    bytes.extend_from_slice(&content);
    drop(content);
    let tag = cipher(&key)
        .encrypt_in_place_detached(
            &GenericArray::from(NONCE),
            ASSOCIATED,
            &mut bytes[SEALED_KEY_BYTES..],
        )
        .expect("AES-GCM takes 64 GiB, more than any memory that a file was made in");
    bytes.extend_from_slice(&tag);
    Ok(bytes)
}

fn cipher(key: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(GenericArray::from_slice(key))
}
