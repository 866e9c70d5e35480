//! What changed between two checkpoints: new values at the changed places, as the reference codes them.
//!
//! A file is one [zstd frame](frame) around a [payload](payload) with a JSON header, then for each
//! tensor the places and the values. Source: reference 0.0.60, sparse codec v2, v3 and v3.1.
//!
//! Stricter than the reference, because a delta comes from outside: a place beyond its tensor, a
//! tensor listed twice, index blocks that end beyond the payload and blocks that share bytes are
//! errors. A change is a change of bits, so a zero that turns negative is one.

mod changes;
pub mod frame;
mod header;
mod indices;
pub mod native;
pub mod payload;

pub use indices::IndexType;

/// Most tensors in a delta; a model of a thousand layers stays below it.
pub const TENSORS_MAX: usize = 65_536;

/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 8;

/// Version of the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Flat places.
    V2,
    /// Rows and columns of 4 bytes each.
    V3,
    /// Rows and columns in the smallest type that holds them.
    V31,
}

impl Format {
    /// Every version, oldest first.
    pub const ALL: [Self; 3] = [Self::V2, Self::V3, Self::V31];

    /// Returns the name in `delta_metadata.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "sparse_codec_v2",
            Self::V3 => "sparse_codec_v3",
            Self::V31 => "sparse_codec_v3.1",
        }
    }

    /// Returns the number in the payload's header.
    pub fn version(self) -> u64 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V31 => 31,
        }
    }
}

/// How a value is stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// The upper half of binary32.
    Bf16,
    /// IEEE-754 binary16.
    F16,
    /// IEEE-754 binary32.
    F32,
}

impl ValueType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// Returns the bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// Returns the name in the payload's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

/// The changes of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Sizes of the whole tensor, outermost first; 1 to [`RANK_MAX`] of them.
    pub shape: Vec<u64>,
    /// How values are stored.
    pub value_type: ValueType,
    /// Changed places, row-major and 0-based, ascending in a file. Places may repeat; the last one
    /// counts.
    pub positions: Vec<u64>,
    /// New values, one for each position, little-endian. A file that was cut has fewer.
    pub values: Vec<u8>,
}

/// Why a delta cannot be written, read or applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The frame is no zstd frame, or does not say its size, or lies about it.
    #[error("the delta's zstd frame cannot be read: {0}; fetch it again")]
    BadFrame(String),
    /// More than the receiver allows.
    #[error("the delta's {what} has {found} bytes, more than the {max} allowed")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Bytes that it claims.
        found: u64,
        /// Most bytes.
        max: u64,
    },
    /// The payload ends too early.
    #[error(
        "the delta's {what} is cut short: {needed} bytes expected, {left} found; fetch it again"
    )]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Bytes that the part needs.
        needed: u64,
        /// Bytes that are there.
        left: u64,
    },
    /// The header is no such JSON.
    #[error("the delta's header cannot be read: {0}; the trainer must publish it again")]
    BadHeader(String),
    /// Another version than `delta_metadata.json` says.
    #[error(
        "the delta has version {found}, expected {expected}; the trainer must publish it again"
    )]
    WrongVersion {
        /// Version in the header.
        found: u64,
        /// Version that was asked for.
        expected: u64,
    },
    /// A block of a native delta is not what is written.
    #[error("a block of the delta cannot be read: {0}; fetch it again")]
    BadBlock(String),
    /// What comes out is not what was published.
    #[error("the delta has another result than its trainer: {0}; another way is tried")]
    WrongResult(String),
    /// The changes of a tensor make no sense.
    #[error(
        "the delta of tensor {name:?} is unusable: {reason}; the trainer must publish it again"
    )]
    BadTensor {
        /// The tensor, cut to 64 characters.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl DeltaError {
    fn tensor(name: &str, reason: impl Into<String>) -> Self {
        Self::BadTensor { name: name.chars().take(64).collect(), reason: reason.into() }
    }
}

impl SparseTensor {
    /// Returns the places where `current` has other bits than `base`, and the values there.
    ///
    /// # Panics
    /// When one of them does not hold exactly the values of `shape`.
    pub fn between(
        name: &str,
        shape: &[u64],
        value_type: ValueType,
        base: &[u8],
        current: &[u8],
    ) -> Self {
        let size = value_type.size();
        let n = elements(shape).and_then(|n| usize::try_from(n).ok()?.checked_mul(size));
        assert!(
            n == Some(base.len()) && n == Some(current.len()),
            "{name} of shape {shape:?} has {} and {} bytes",
            base.len(),
            current.len()
        );
        let (positions, values) = match value_type {
            ValueType::Bf16 | ValueType::F16 => changes::find::<2>(base, current),
            ValueType::F32 => changes::find::<4>(base, current),
        };
        Self { name: name.to_owned(), shape: shape.to_vec(), value_type, positions, values }
    }

    /// Writes the new values into `bytes`, the tensor's own, little-endian. All or nothing: what is
    /// wrong is found before the first byte changes.
    ///
    /// # Errors
    /// [`DeltaError::BadTensor`] when the changes do not fit the tensor or each other.
    pub fn apply(&self, bytes: &mut [u8]) -> Result<(), DeltaError> {
        let size = self.value_type.size();
        let n = self.check()?;
        if u64::try_from(bytes.len()).ok() != n.checked_mul(size as u64) {
            let reason = format!("shape {:?} is not that of its {} bytes", self.shape, bytes.len());
            return Err(DeltaError::tensor(&self.name, reason));
        }
        for (position, value) in self.positions.iter().zip(self.values.chunks_exact(size)) {
            let at = usize::try_from(*position).expect("below the length of a slice") * size;
            bytes[at..at + size].copy_from_slice(value);
        }
        Ok(())
    }

    /// Returns the number of values in the whole tensor.
    fn check(&self) -> Result<u64, DeltaError> {
        let refuse = |reason: String| Err(DeltaError::tensor(&self.name, reason));
        let Some(n) = elements(&self.shape) else {
            return refuse(format!(
                "its shape has {} dimensions or is too large",
                self.shape.len()
            ));
        };
        let (places, values) = (self.positions.len(), self.values.len());
        if places.checked_mul(self.value_type.size()) != Some(values) {
            return refuse(format!("it has {places} places and {values} bytes of values"));
        }
        match self.positions.iter().find(|position| **position >= n) {
            Some(position) => refuse(format!("place {position} is beyond its {n} values")),
            None => Ok(n),
        }
    }
}

/// Returns the number of values of a shape; `None` for a shape that no tensor of a checkpoint has.
fn elements(shape: &[u64]) -> Option<u64> {
    if !(1..=RANK_MAX).contains(&shape.len()) {
        return None;
    }
    // A size of 0 hides the others from the product, but not from a row's length.
    let sizes = || shape.iter().map(|size| (*size).max(1));
    let most = sizes().try_fold(1u64, u64::checked_mul)?;
    // Sums of two places must not overflow.
    (most <= 1 << 60).then(|| shape.iter().product())
}

/// Returns the length of a row: the product of all sizes but the first.
fn columns(shape: &[u64]) -> u64 {
    shape.iter().skip(1).product()
}
