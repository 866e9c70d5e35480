//! Timelock ciphertexts in the bytes of Bittensor's chain and wallets (drand's quicknet).
//!
//! ```text
//! commit   = U:96 len(32) V:32 len(32) W:32 len(body) body len(8) "AES_GCM_"
//! body     = len(n + 16) content:n tag:16 len(12) nonce:12          len(n) = n:u64
//! envelope = SCALE compact length, commit, round:u64
//! ```
//!
//! Every length is checked before it is used; the usual deserialiser of this form asks for as much
//! memory as a length says. Source: `bittensor-drand`, whose ciphertexts are the test vectors.

use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::{AeadInPlace as _, Aes256Gcm, KeyInit as _};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::ibe::{self, POINT_BYTES, SEALED_KEY_BYTES, WORD_BYTES};
use super::{OpenError, RoundOpener, SealError, SealTo, TAG_BYTES};
use crate::codec::{DecodeError, Reader};

/// Most bytes of a commit. Source: the chain's bound on timelocked weights.
pub const COMMIT_BYTES_MAX: usize = 5_000;

/// Bytes of a commit to an empty content.
pub const COMMIT_BYTES_MIN: usize = 244;

const NONCE_BYTES: usize = 12;
const SUITE: &[u8; 8] = b"AES_GCM_";

/// Why a foreign ciphertext does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrandError {
    /// The bytes are not of this form.
    #[error("not a timelock ciphertext: {0}")]
    Malformed(#[from] DecodeError),
    /// A length that has only one legal value has another.
    #[error("not a timelock ciphertext: {what} of {found} bytes, expected {expected}")]
    WrongLength {
        /// What has the length.
        what: &'static str,
        /// Length expected, bytes.
        expected: u64,
        /// Length found, bytes.
        found: u64,
    },
    /// Another cipher.
    #[error("the content is not sealed with AES-GCM, the only cipher that is known here")]
    UnknownCipher,
    /// A length that is written in more bytes than it needs, or in more than 4.
    #[error("not an envelope: its length is not in the shortest form")]
    BadCompact,
    /// The envelope names another round than the signature's.
    #[error("sealed to round {found}, but the signature is that of round {expected}")]
    OtherRound {
        /// Round of the signature.
        expected: u64,
        /// Round of the envelope.
        found: u64,
    },
    /// The seal does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// More bytes than the chain takes.
    #[error("a commit of {0} bytes, the chain takes {COMMIT_BYTES_MAX}")]
    TooLarge(usize),
}

/// Returns the commit to `content`, 244 bytes longer; see [`super::seal`] for `entropy`.
///
/// # Errors
/// When the public key is no point.
pub fn seal_commit(to: SealTo, content: &[u8], entropy: &[u8; 32]) -> Result<Vec<u8>, SealError> {
    let mut draws = ChaCha20Rng::from_seed(*entropy);
    let (mut key, mut nonce) = ([0; 32], [0; NONCE_BYTES]);
    draws.fill_bytes(&mut key);
    draws.fill_bytes(&mut nonce);
    let sealed_key = ibe::seal_key(to, key, &mut draws)?;
    let (point, words) = sealed_key.split_at(POINT_BYTES);
    let mut bytes = point.to_vec();
    for word in words.chunks_exact(WORD_BYTES) {
        sized(&mut bytes, word);
    }
    let mut text = content.to_vec();
    let tag = Aes256Gcm::new(&GenericArray::from(key))
        .encrypt_in_place_detached(&GenericArray::from(nonce), b"", &mut text)
        .expect("AES-GCM takes 64 GiB");
    text.extend_from_slice(&tag);
    let mut body = Vec::new();
    sized(&mut body, &text);
    sized(&mut body, &nonce);
    sized(&mut bytes, &body);
    sized(&mut bytes, SUITE);
    Ok(bytes)
}

/// Returns the envelope of a commit: with its round, as wallets pass it around.
pub fn envelope(commit: &[u8], round: u64) -> Result<Vec<u8>, DrandError> {
    if commit.len() > COMMIT_BYTES_MAX {
        return Err(DrandError::TooLarge(commit.len()));
    }
    let length = u32::try_from(commit.len()).expect("at most 5,000");
    let compact = match length {
        0..64 => vec![u8::try_from(length << 2).expect("below 256")],
        64..0x4000 => u16::try_from(length << 2 | 1).expect("below 65,536").to_le_bytes().to_vec(),
        _ => (length << 2 | 2).to_le_bytes().to_vec(),
    };
    Ok([compact.as_slice(), commit, &round.to_le_bytes()].concat())
}

/// Returns the content of a commit.
///
/// # Errors
/// When the bytes are no commit, or not to the round of `opener`.
pub fn open_commit(commit: &[u8], opener: &RoundOpener) -> Result<Vec<u8>, DrandError> {
    if commit.len() > COMMIT_BYTES_MAX {
        return Err(DrandError::TooLarge(commit.len()));
    }
    let mut reader = Reader::new(commit);
    let mut sealed_key = [0; SEALED_KEY_BYTES];
    let (point, words) = sealed_key.split_at_mut(POINT_BYTES);
    point.copy_from_slice(reader.bytes("point", POINT_BYTES)?);
    for (what, word) in ["V", "W"].into_iter().zip(words.chunks_exact_mut(WORD_BYTES)) {
        word.copy_from_slice(exactly(&mut reader, what, WORD_BYTES)?);
    }
    let mut body = Reader::new(up_to_end(&mut reader, "sealed content")?);
    if exactly(&mut reader, "cipher's name", SUITE.len())? != SUITE {
        return Err(DrandError::UnknownCipher);
    }
    reader.finish()?;
    let text = up_to_end(&mut body, "content")?;
    let nonce = exactly(&mut body, "nonce", NONCE_BYTES)?;
    body.finish()?;
    let short = OpenError::TooShort { found: text.len(), min: TAG_BYTES };
    let (content, tag) = text.split_last_chunk::<TAG_BYTES>().ok_or(short)?;

    let key = ibe::open_key(&sealed_key, &opener.signature)?;
    let mut content = content.to_vec();
    Aes256Gcm::new(&GenericArray::from(key))
        .decrypt_in_place_detached(
            GenericArray::from_slice(nonce),
            b"",
            &mut content,
            &GenericArray::from(*tag),
        )
        .map_err(|aes_gcm::Error| OpenError::Changed)?;
    Ok(content)
}

/// Returns the content of an envelope.
///
/// # Errors
/// When the bytes are no envelope, or not to the round of `opener`.
pub fn open_envelope(bytes: &[u8], opener: &RoundOpener) -> Result<Vec<u8>, DrandError> {
    let mut reader = Reader::new(bytes);
    let length = compact(&mut reader)?;
    let commit = reader.bytes("commit", length)?;
    let found = reader.u64("round")?;
    reader.finish()?;
    if found != opener.round() {
        return Err(DrandError::OtherRound { expected: opener.round(), found });
    }
    open_commit(commit, opener)
}

/// Reads a SCALE compact length of at most 4 bytes in its shortest form.
fn compact(reader: &mut Reader<'_>) -> Result<usize, DrandError> {
    let first = reader.u8("length")?;
    let (more, least) = match first & 3 {
        0 => (0, 0),
        1 => (1, 64),
        2 => (3, 0x4000),
        _ => return Err(DrandError::BadCompact),
    };
    let mut word = [first, 0, 0, 0];
    word[1..=more].copy_from_slice(reader.bytes("length", more)?);
    match u32::from_le_bytes(word) >> 2 {
        length if length >= least => Ok(usize::try_from(length).unwrap_or(usize::MAX)),
        _ => Err(DrandError::BadCompact),
    }
}

/// Reads a length that must be `expected`, then that many bytes.
fn exactly<'a>(
    reader: &mut Reader<'a>,
    what: &'static str,
    expected: usize,
) -> Result<&'a [u8], DrandError> {
    let found = reader.u64(what)?;
    if usize::try_from(found) != Ok(expected) {
        return Err(DrandError::WrongLength { what, expected: expected as u64, found });
    }
    Ok(reader.bytes(what, expected)?)
}

/// Reads a length, then that many bytes: never more than there are.
fn up_to_end<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8], DrandError> {
    let length = reader.u64(what)?;
    // More than a usize can hold is also more than there are.
    Ok(reader.bytes(what, usize::try_from(length).unwrap_or(usize::MAX))?)
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}
