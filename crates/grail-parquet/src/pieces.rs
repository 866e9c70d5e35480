//! Bytes that grow without being moved: a column on its way into a file.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

/// Least and greatest capacity of a piece. A page is about as long as the latter.
const PIECE_BYTES: (usize, usize) = (4 << 10, 1 << 20);

/// A sink that holds what is written to it in pieces. One growing buffer would be copied as it grows,
/// and hold up to twice what is in it.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: Arc<Vec<Vec<u8>>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (least, most) = PIECE_BYTES;
        let capacity = usize::try_from(self.len()).unwrap_or(most).clamp(least, most);
        let pieces = Arc::make_mut(&mut self.pieces);
        if pieces.last().is_none_or(|last| last.len() == last.capacity()) {
            pieces.push(Vec::with_capacity(capacity));
        }
        let Some(last) = pieces.last_mut() else { return Ok(0) };
        let n_bytes = bytes.len().min(last.capacity() - last.len());
        last.extend_from_slice(&bytes[..n_bytes]);
        Ok(n_bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl ChunkReader for Pieces {
    type T = Reading;

    fn get_read(&self, start: u64) -> Result<Reading, ParquetError> {
        let mut at = usize::try_from(start).unwrap_or(usize::MAX);
        let mut piece = 0;
        while let Some(bytes) = self.pieces.get(piece).filter(|bytes| bytes.len() <= at) {
            at -= bytes.len();
            piece += 1;
        }
        Ok(Reading { pieces: Arc::clone(&self.pieces), piece, at })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = Vec::new();
        self.get_read(start)?.take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{} bytes of {length}", bytes.len())));
        }
        Ok(bytes.into())
    }
}

/// Reads pieces from somewhere on.
#[derive(Debug)]
pub struct Reading {
    pieces: Arc<Vec<Vec<u8>>>,
    piece: usize,
    at: usize,
}

impl Read for Reading {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let rest = self.pieces.get(self.piece).map_or(&[][..], |piece| &piece[self.at..]);
        let n_bytes = rest.len().min(into.len());
        into[..n_bytes].copy_from_slice(&rest[..n_bytes]);
        if n_bytes == rest.len() {
            (self.piece, self.at) = (self.piece + 1, 0);
        } else {
            self.at += n_bytes;
        }
        Ok(n_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_from_anywhere() {
        let (least, most) = PIECE_BYTES;
        let bytes: Vec<u8> = (0..3 * most + 77).map(|at| (at / 251) as u8).collect();
        let mut pieces = Pieces::default();
        for part in bytes.chunks(70_001) {
            pieces.write_all(part).unwrap();
        }
        assert_eq!(pieces.len(), bytes.len() as u64);
        for start in [0, 1, least - 1, least, 2 * least, most, bytes.len()] {
            let mut read = Vec::new();
            pieces.get_read(start as u64).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == bytes[start..], "from {start}");
        }
        let (start, length) = (least - 9, most + 20);
        assert!(pieces.get_bytes(start as u64, length).unwrap() == bytes[start..][..length]);
        assert!(pieces.get_bytes(0, bytes.len() + 1).is_err());
        assert!(pieces.get_bytes(u64::MAX, 1).is_err());
    }
}
