//! Why bytes are not an encoding, or a value has none.

use crate::constants::NAME_BYTES_MAX;

/// Why bytes are not an encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than any valid file has.
    #[error("the file has {bytes} bytes, more than the {max} allowed; upload fewer groups")]
    TooLarge {
        /// Size of the file, bytes.
        bytes: u64,
        /// Largest size, bytes.
        max: u64,
    },
    /// The bytes end inside a value.
    #[error(
        "the file ends inside {what} at byte {at} ({needed} more bytes expected, {left} found); \
         it was cut short, fetch or upload it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Offset of the value, bytes.
        at: usize,
        /// Bytes that the value needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes follow the last value.
    #[error("{0} bytes follow the end of the content; remove them")]
    TrailingBytes(usize),
    /// The first bytes are not those of this kind of file.
    #[error("this is no {0}: its first bytes are wrong; check which file was given")]
    WrongMagic(&'static str),
    /// Written by another version of the protocol.
    #[error("the file speaks protocol version {found}, this program {expected}; update the older")]
    WrongVersion {
        /// Version in the file.
        found: u16,
        /// Version of this program.
        expected: u16,
    },
    /// A count that is not allowed.
    #[error("{count} {what}, expected {min} to {max}")]
    BadCount {
        /// What is counted.
        what: &'static str,
        /// The count in the file.
        count: u64,
        /// Smallest count allowed.
        min: u64,
        /// Largest count allowed.
        max: u64,
    },
    /// A float that is infinite or not a number.
    #[error("{what} at byte {at} is not a finite number")]
    NotFinite {
        /// What was being read.
        what: &'static str,
        /// Offset of the value, bytes.
        at: usize,
    },
    /// A byte that stands for nothing.
    #[error("byte {found:#04x} at offset {at} is no {what}")]
    BadTag {
        /// What was being read.
        what: &'static str,
        /// Offset of the byte.
        at: usize,
        /// The byte.
        found: u8,
    },
    /// A name that is empty, too long, or has other characters than printable ASCII.
    #[error(
        "{what} at byte {at} is not 1 to {NAME_BYTES_MAX} printable ASCII characters, no spaces"
    )]
    BadName {
        /// What was being read.
        what: &'static str,
        /// Offset of the text, bytes.
        at: usize,
    },
    /// A number that is not the first block of a window.
    #[error("window {0} is not the first block of a window")]
    BadWindow(u64),
    /// Items that must ascend do not.
    #[error("{what} number {position} is not above the one before; sort them and drop doubles")]
    NotAscending {
        /// What must ascend.
        what: &'static str,
        /// Position in the list, 0-based.
        position: usize,
    },
}

/// Why a value cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The bytes would be more than a reader takes.
    #[error("the file would have {bytes} bytes, more than the {max} allowed; put fewer groups in")]
    TooLarge {
        /// Size of the file, bytes.
        bytes: u64,
        /// Largest size, bytes.
        max: u64,
    },
    /// A count that no reader takes.
    #[error("{count} {what}, but a file holds {min} to {max}")]
    BadCount {
        /// What is counted.
        what: &'static str,
        /// The count.
        count: usize,
        /// Smallest count allowed.
        min: u64,
        /// Largest count allowed.
        max: u64,
    },
    /// A proof of another kind than the header's numerics, or sketches that are not one for every
    /// four tokens.
    #[error("a rollout's proof does not fit the header's numerics and its number of tokens")]
    WrongProof,
    /// A float that is infinite or not a number.
    #[error("{0} is not a finite number")]
    NotFinite(&'static str),
    /// A name that no reader takes.
    #[error("{what} `{name}` must be 1 to {NAME_BYTES_MAX} printable ASCII characters, no spaces")]
    BadName {
        /// What is named.
        what: &'static str,
        /// The name, cut to 64 characters.
        name: String,
    },
    /// Two values that must be equally many are not.
    #[error("{found} {what}, expected {expected}: one for each token")]
    NotOnePerToken {
        /// What is counted.
        what: &'static str,
        /// The count.
        found: usize,
        /// Number of tokens.
        expected: usize,
    },
    /// Items that must ascend do not.
    #[error("{what} number {position} is not above the one before; sort them and drop doubles")]
    NotAscending {
        /// What must ascend.
        what: &'static str,
        /// Position in the list, 0-based.
        position: usize,
    },
}
