//! Names the things that roles speak of, as types that cannot be swapped by accident.

use std::fmt;
use std::str::FromStr;

use blake2::Digest as _;
use serde::{Deserialize, Serialize};

use crate::constants::WINDOW_BLOCKS;

/// Height of a block, 0-based.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BlockNumber(pub u64);

impl fmt::Display for BlockNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A window, named by its first block: always a multiple of [`WINDOW_BLOCKS`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Window(u64);

/// A number that is not the first block of any window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the first block of a window; windows start at multiples of {WINDOW_BLOCKS}")]
pub struct NotAWindow(pub u64);

impl Window {
    /// Returns the window that contains `block`.
    pub fn containing(block: BlockNumber) -> Self {
        Self(block.0 - block.0 % WINDOW_BLOCKS)
    }

    /// Accepts a window start read from the wire.
    ///
    /// # Errors
    /// When `start` is not a multiple of [`WINDOW_BLOCKS`], or beyond any chain (2^63): arithmetic
    /// on windows that strangers name cannot overflow.
    pub fn from_start(start: u64) -> Result<Self, NotAWindow> {
        if start.is_multiple_of(WINDOW_BLOCKS) && start <= u64::MAX / 2 {
            Ok(Self(start))
        } else {
            Err(NotAWindow(start))
        }
    }

    /// Returns the first block of the window.
    pub fn start(self) -> BlockNumber {
        BlockNumber(self.0)
    }

    /// Returns the first block after the window; its timestamp is the upload deadline.
    pub fn end(self) -> BlockNumber {
        BlockNumber(self.0 + WINDOW_BLOCKS)
    }

    /// Returns the next window.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + WINDOW_BLOCKS)
    }

    /// Returns the window before, or `None` for the first one.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(WINDOW_BLOCKS).map(Self)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for Window {
    type Error = NotAWindow;

    fn try_from(start: u64) -> Result<Self, NotAWindow> {
        Self::from_start(start)
    }
}

impl From<Window> for u64 {
    fn from(window: Window) -> Self {
        window.0
    }
}

/// Index of a neuron in a subnet's metagraph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u16);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Netuid(pub u16);

impl fmt::Display for Netuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A token id of the model's vocabulary.
pub type TokenId = u32;

/// 32 bytes written as lower-case hex, the base of hashes and digests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

/// Text that is not 32 bytes of hex.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest; expected 64 hexadecimal digits")]
pub struct NotADigest(pub String);

impl Digest {
    /// Returns the SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Returns 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    /// Reads 64 hexadecimal digits, with or without `0x`.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| NotADigest(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_hex()
    }
}

/// Hash of a block, as the chain gives it.
pub type BlockHash = Digest;

/// Public sr25519 key of a neuron; its text form is SS58 with prefix 42.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hotkey(pub [u8; 32]);

/// Text that is not an SS58 address with prefix 42.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an SS58 address (prefix 42); it should start with 5 and have 48 characters")]
pub struct NotAnAddress(pub String);

const SS58_PREFIX: u8 = 42;
const SS58_CHECKSUM_BYTES: usize = 2;

impl Hotkey {
    /// Returns the SS58 address, prefix 42.
    pub fn to_ss58(self) -> String {
        let mut bytes = Vec::with_capacity(1 + self.0.len() + SS58_CHECKSUM_BYTES);
        bytes.push(SS58_PREFIX);
        bytes.extend_from_slice(&self.0);
        let checksum = ss58_checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bs58::encode(bytes).into_string()
    }

    /// Returns the first characters of the address, for logs and tables.
    pub fn short(self) -> String {
        self.to_ss58().chars().take(8).collect()
    }
}

fn ss58_checksum(prefixed_key: &[u8]) -> [u8; SS58_CHECKSUM_BYTES] {
    let mut hasher = blake2::Blake2b512::new();
    hasher.update(b"SS58PRE");
    hasher.update(prefixed_key);
    let hash = hasher.finalize();
    [hash[0], hash[1]]
}

impl FromStr for Hotkey {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let refuse = || NotAnAddress(text.chars().take(64).collect());
        // An address has 48 characters; bounding the text first bounds the decoder.
        if text.len() > 64 {
            return Err(refuse());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| refuse())?;
        let Some((prefixed_key, checksum)) =
            bytes.split_last_chunk::<SS58_CHECKSUM_BYTES>().filter(|(key, _)| key.len() == 33)
        else {
            return Err(refuse());
        };
        if prefixed_key[0] != SS58_PREFIX || ss58_checksum(prefixed_key) != *checksum {
            return Err(refuse());
        }
        let mut key = [0; 32];
        key.copy_from_slice(&prefixed_key[1..]);
        Ok(Self(key))
    }
}

impl fmt::Display for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_ss58())
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hotkey({self})")
    }
}

impl TryFrom<String> for Hotkey {
    type Error = NotAnAddress;

    fn try_from(text: String) -> Result<Self, NotAnAddress> {
        text.parse()
    }
}

impl From<Hotkey> for String {
    fn from(hotkey: Hotkey) -> Self {
        hotkey.to_ss58()
    }
}

/// An sr25519 signature, written as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(pub [u8; 64]);

/// Text that is not 64 bytes of hex.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a signature; expected 128 hexadecimal digits")]
pub struct NotASignature;

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

impl TryFrom<String> for Signature {
    type Error = NotASignature;

    fn try_from(text: String) -> Result<Self, NotASignature> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| NotASignature)?;
        Ok(Self(bytes))
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        hex::encode(signature.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_start_at_multiples_of_thirty() {
        for (block, start) in [(0, 0), (29, 0), (30, 30), (59, 30), (3_600_017, 3_600_000)] {
            assert_eq!(Window::containing(BlockNumber(block)).start(), BlockNumber(start));
        }
        assert_eq!(Window::from_start(31), Err(NotAWindow(31)));
        let last = u64::MAX - u64::MAX % WINDOW_BLOCKS;
        assert_eq!(Window::from_start(last), Err(NotAWindow(last)));
        assert_eq!(Window::from_start(0).unwrap().previous(), None);
    }

    #[test]
    fn an_address_round_trips() {
        // The well-known development account Alice.
        let text = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
        let hotkey: Hotkey = text.parse().unwrap();
        assert_eq!(hotkey.to_ss58(), text);
        assert_eq!(
            hex::encode(hotkey.0),
            "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
        );
    }

    #[test]
    fn a_damaged_address_is_refused() {
        for text in [
            "",
            "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ",
            "0OIl",
            &"5".repeat(65),
            // Polkadot's prefix 0.
            "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5",
        ] {
            assert!(text.parse::<Hotkey>().is_err(), "{text}");
        }
    }
}
