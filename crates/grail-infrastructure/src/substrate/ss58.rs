//! Addresses as people write them (SS58), with the prefix of any network.

use std::fmt;
use std::str::FromStr;

use blake2::{Blake2b512, Digest as _};

/// Prefix of Bittensor, and of Substrate chains in general.
pub const PREFIX: u16 = 42;

/// Longest prefix: 14 bits.
const PREFIX_MAX: u16 = 0x3fff;
const CHECKSUM_BYTES: usize = 2;
/// An address has at most 50 characters; bounding the text bounds its decoder.
const TEXT_BYTES_MAX: usize = 64;

/// An account with the prefix of a network. Written, it is an SS58 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The network, 0 to 16,383.
    pub prefix: u16,
    /// Public key or other id of the account.
    pub account: [u8; 32],
}

/// Text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an SS58 address of 32 bytes; is a character missing or changed?")]
pub struct AddressError(pub String);

impl Address {
    /// Returns the address of an account on Bittensor.
    pub fn of(account: [u8; 32]) -> Self {
        Self { prefix: PREFIX, account }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [high, low] = (self.prefix & PREFIX_MAX).to_be_bytes();
        let mut bytes = if self.prefix < 64 {
            vec![low]
        } else {
            // The low byte's upper six bits first, marked; then its other two above the high byte.
            vec![low >> 2 | 0x40, high | low << 6]
        };
        bytes.extend(self.account);
        bytes.extend(checksum(&bytes));
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).ok_or_else(|| AddressError(text.chars().take(TEXT_BYTES_MAX).collect()))
    }
}

fn parse(text: &str) -> Option<Address> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let bytes = bs58::decode(text).into_vec().ok()?;
    let (body, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    let (prefix, account) = match *body {
        [prefix @ 0..64, ref account @ ..] => (u16::from(prefix), account),
        [first @ 64..128, second, ref account @ ..] => {
            let low = first << 2 | second >> 6;
            (u16::from_be_bytes([second & 0x3f, low]), account)
        }
        _ => return None,
    };
    let account = account.try_into().ok()?;
    (checksum(body) == *found).then_some(Address { prefix, account })
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Blake2b512::new().chain_update(b"SS58PRE").chain_update(body).finalize();
    [hash[0], hash[1]]
}
