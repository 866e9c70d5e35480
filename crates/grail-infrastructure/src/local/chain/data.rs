//! A field of a commitment, as the pallet `Commitments` knows it. Source: spec/bittensor.md
//! section 5.

use serde::{Deserialize, Serialize};

/// Most bytes of [`Data::Raw`].
pub use crate::subtensor::RAW_BYTES_MAX;

/// Most bytes of [`Data::BigRaw`].
pub const BIG_RAW_BYTES_MAX: usize = 512;

/// Most bytes of a timelocked ciphertext.
pub const TIMELOCKED_BYTES_MAX: usize = 1024;

/// Most fields of one commitment.
pub const FIELDS_MAX: usize = 3;

/// Which hash a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKind {
    /// BLAKE2b-256.
    BlakeTwo256,
    /// SHA-256.
    Sha256,
    /// Keccak-256.
    Keccak256,
    /// SHA3-256.
    ShaThree256,
}

impl HashKind {
    /// Every kind with the name that the metadata gives it.
    pub const NAMES: [(Self, &'static str); 4] = [
        (Self::BlakeTwo256, "BlakeTwo256"),
        (Self::Sha256, "Sha256"),
        (Self::Keccak256, "Keccak256"),
        (Self::ShaThree256, "ShaThree256"),
    ];
}

/// A field of a commitment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Data {
    /// Nothing.
    None,
    /// At most [`RAW_BYTES_MAX`] bytes.
    Raw {
        /// The bytes.
        #[serde(with = "hex::serde")]
        bytes: Vec<u8>,
    },
    /// A hash of something that is elsewhere.
    Hash {
        /// Which hash.
        of: HashKind,
        /// The hash.
        #[serde(with = "hex::serde")]
        digest: [u8; 32],
    },
    /// What a round of the beacon opens.
    Timelocked {
        /// The ciphertext, at most [`TIMELOCKED_BYTES_MAX`] bytes.
        #[serde(with = "hex::serde")]
        encrypted: Vec<u8>,
        /// The round.
        round: u64,
    },
    /// Asks the chain to forget the bonds towards the hotkey.
    ResetBonds,
    /// At most [`BIG_RAW_BYTES_MAX`] bytes.
    BigRaw {
        /// The bytes.
        #[serde(with = "hex::serde")]
        bytes: Vec<u8>,
    },
    /// What its round did not open; only the chain writes it.
    RevealFailed {
        /// The ciphertext.
        #[serde(with = "hex::serde")]
        encrypted: Vec<u8>,
        /// The round.
        round: u64,
    },
}

impl Data {
    /// Returns the bytes that count towards the space of an epoch.
    pub fn payload_bytes(&self) -> u64 {
        let bytes = match self {
            Self::None | Self::ResetBonds => 0,
            Self::Raw { bytes } | Self::BigRaw { bytes } => bytes.len(),
            Self::Hash { .. } => 32,
            Self::Timelocked { encrypted, .. } | Self::RevealFailed { encrypted, .. } => {
                encrypted.len()
            }
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Returns whether the field is within the bounds that its encoding has.
    pub fn is_bounded(&self) -> bool {
        match self {
            Self::None | Self::ResetBonds | Self::Hash { .. } => true,
            Self::Raw { bytes } => bytes.len() <= RAW_BYTES_MAX,
            Self::BigRaw { bytes } => bytes.len() <= BIG_RAW_BYTES_MAX,
            Self::Timelocked { encrypted, .. } | Self::RevealFailed { encrypted, .. } => {
                encrypted.len() <= TIMELOCKED_BYTES_MAX
            }
        }
    }
}
