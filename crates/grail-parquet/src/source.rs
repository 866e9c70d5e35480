//! Reads ranges of a file, in memory or on disk.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;

use crate::error::ReadError;

/// Returns `length` bytes from `start`, or all errors told apart: ours from the miner's.
pub fn bytes_at<R: ChunkReader>(source: &R, start: u64, length: u64) -> Result<Bytes, ReadError> {
    let end = start.checked_add(length);
    if end.is_none_or(|end| end > source.len()) {
        return Err(ReadError::unreadable(format!("{length} bytes from {start} are not in it")));
    }
    let length =
        usize::try_from(length).map_err(|_| ReadError::unreadable("a range is too long"))?;
    source.get_bytes(start, length).map_err(|error| match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(error) => ReadError::Io(*error),
            Err(cause) => ReadError::Unreadable(cause.to_string()),
        },
        error => ReadError::from(error),
    })
}
