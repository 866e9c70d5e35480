//! Why a file is not read or not written.

use grail_protocol::v5::file::BadFooter;
use parquet::errors::ParquetError;

/// A file that gives no rows. The two kinds differ in what they cost the miner.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The reference bans the miner: reason `corrupt_parquet`.
    #[error("the rollout file is corrupt: {0}; ban its miner")]
    Corrupt(String),
    /// The reference finds no file: no ban and no score.
    #[error("the rollout file cannot be read: {0}; it counts as absent")]
    Unreadable(String),
    /// *We* could not read it, and the miner has no part in that.
    #[error("cannot read the rollout file: {0}; try again")]
    Io(#[from] std::io::Error),
}

impl ReadError {
    pub(crate) fn unreadable(what: impl Into<String>) -> Self {
        Self::Unreadable(what.into())
    }
}

impl From<BadFooter> for ReadError {
    fn from(error: BadFooter) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<ParquetError> for ReadError {
    fn from(error: ParquetError) -> Self {
        match error {
            // Errors of our page reader, which travel through the crate's decoders.
            ParquetError::External(cause) => match cause.downcast::<Self>() {
                Ok(error) => *error,
                Err(cause) => Self::Unreadable(cause.to_string()),
            },
            error => Self::Unreadable(error.to_string()),
        }
    }
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A cell of another type than its column.
    #[error("row {row} has no {expected} in {column}; a column holds one type and nulls")]
    Cell {
        /// 0-based.
        row: usize,
        /// Name of the column, with a dot for each structure.
        column: &'static str,
        /// What the column holds.
        expected: &'static str,
    },
    /// The sink failed.
    #[error("cannot write the rollout file: {0}")]
    Parquet(#[from] ParquetError),
}
