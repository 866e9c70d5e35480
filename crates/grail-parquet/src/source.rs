//! Reads ranges of a file, in memory or on disk.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

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

/// A file on disk, of which only the pages at hand are in memory.
#[derive(Clone, Debug)]
pub struct FileSource(Arc<File>);

impl FileSource {
    /// Opens a file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Arc::new(File::open(path)?)))
    }
}

impl Length for FileSource {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for FileSource {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.0.get_bytes(start, length)
    }
}
