//! A file on its way into a store: read once and in order, hashed on the way, and watched for changes.
//!
//! A file that was removed or replaced under its name stays readable, and is whole; one that is
//! written to is not, which its size and its time of change tell.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use grail_ports::object_store::{FilePut, StoreError};
use grail_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes that are read at a time where the reader does not mind.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Why a file cannot be uploaded: its path and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}", path = .path.display())]
pub(crate) struct BadFile {
    path: PathBuf,
    what: String,
}

impl From<BadFile> for StoreError {
    fn from(bad: BadFile) -> Self {
        Self::File(bad.to_string())
    }
}

/// What changes when a file is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self { size: file.len(), modified: (file.mtime(), file.mtime_nsec()) }
    }
}

/// A file that is being read. All methods but [`FileSource::size`] block.
#[derive(Debug)]
pub(crate) struct FileSource {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    hasher: Sha256,
    read: u64,
}

impl FileSource {
    /// Opens the regular file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, BadFile> {
        let bad = |error: io::Error| {
            let what = match error.kind() {
                io::ErrorKind::NotFound => "there is no such file".to_owned(),
                _ => format!("it cannot be read ({error})"),
            };
            BadFile { path: path.to_owned(), what }
        };
        // Asked before opening: opening a named pipe would wait for its writer.
        if !fs::metadata(path).map_err(bad)?.is_file() {
            return Err(BadFile {
                path: path.to_owned(),
                what: "it is no regular file".to_owned(),
            });
        }
        let file = File::open(path).map_err(bad)?;
        let stamp = Stamp::of(&file.metadata().map_err(bad)?);
        Ok(Self { path: path.to_owned(), file, stamp, hasher: Sha256::new(), read: 0 })
    }

    /// Returns how many bytes the file has.
    pub(crate) fn size(&self) -> u64 {
        self.stamp.size
    }

    /// Returns how many bytes are still to be read.
    pub(crate) fn left(&self) -> u64 {
        self.stamp.size - self.read
    }

    /// Returns the next `length` bytes, or all that are left; none at the end.
    pub(crate) fn next(&mut self, length: usize) -> Result<Bytes, BadFile> {
        let length = usize::try_from(self.left()).map_or(length, |left| left.min(length));
        let mut bytes = Vec::with_capacity(length);
        let wanted = u64::try_from(length).unwrap_or(u64::MAX);
        let read = (&mut self.file).take(wanted).read_to_end(&mut bytes);
        read.map_err(|error| self.bad(format!("it cannot be read ({error})")))?;
        if bytes.len() < length {
            let (size, found) = (self.stamp.size, self.read.saturating_add(bytes.len() as u64));
            return Err(self.changed(&format!("it had {size} bytes and now ends after {found}")));
        }
        self.hasher.update(&bytes);
        self.read += wanted;
        Ok(bytes.into())
    }

    /// Checks that all was read and that the file is still the one that was opened.
    pub(crate) fn finish(&self) -> Result<FilePut, BadFile> {
        assert_eq!(self.left(), 0, "a file is read to its end before it is put");
        let now = self.file.metadata();
        let now = Stamp::of(&now.map_err(|error| self.bad(error.to_string()))?);
        if now != self.stamp {
            let (size, found) = (self.stamp.size, now.size);
            return Err(self.changed(&match size == found {
                true => "it was written to".to_owned(),
                false => format!("it had {size} bytes and now has {found}"),
            }));
        }
        Ok(FilePut { size: self.stamp.size, sha256: self.digest() })
    }

    /// Returns the SHA-256 of what was read so far.
    pub(crate) fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }

    /// Reads what is left without keeping it, and checks it as [`FileSource::finish`] does.
    pub(crate) fn skim(mut self) -> Result<FilePut, BadFile> {
        while self.left() > 0 {
            self.next(PIECE_BYTES)?;
        }
        self.finish()
    }

    /// Returns that the file is another one than when the upload began.
    pub(crate) fn changed(&self, how: &str) -> BadFile {
        self.bad(format!("it changed while it was uploaded ({how}); upload it again"))
    }

    fn bad(&self, what: String) -> BadFile {
        BadFile { path: self.path.clone(), what }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_file_comes_in_pieces_with_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [0, 1, 6, 7, 8, 20] {
            let bytes: Vec<u8> = (0..size).collect();
            fs::write(&path, &bytes).unwrap();
            let mut source = FileSource::open(&path).unwrap();
            let mut read = Vec::new();
            while source.left() > 0 {
                let piece = source.next(7).unwrap();
                assert!(!piece.is_empty() && piece.len() <= 7);
                read.extend_from_slice(&piece);
            }
            assert_eq!(read, bytes);
            assert!(source.next(7).unwrap().is_empty());
            let put = FilePut { size: u64::from(size), sha256: Digest::of(&bytes) };
            assert_eq!(source.finish().unwrap(), put);
            assert_eq!(FileSource::open(&path).unwrap().skim().unwrap(), put);
        }
    }

    #[test]
    fn what_is_no_file_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let text = |path: &Path| FileSource::open(path).unwrap_err().to_string();
        assert!(text(&folder.path().join("gone")).ends_with("gone: there is no such file"));
        assert!(text(folder.path()).ends_with("it is no regular file"));
    }

    #[test]
    fn a_change_is_noticed_and_a_removal_does_no_harm() {
        type Change = fn(&Path);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            // Earlier than any write of this test can be, however coarse the file system's clock is.
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
            FileSource::open(&path).unwrap()
        };
        let changes: [(&str, Change); 3] = [
            ("ends after 5", |path| {
                File::options().write(true).open(path).unwrap().set_len(5).unwrap();
            }),
            ("now has 12", |path| {
                File::options().append(true).open(path).unwrap().write_all(b"ab").unwrap();
            }),
            ("was written to", |path| {
                File::options().write(true).open(path).unwrap().write_all(b"x").unwrap();
            }),
        ];
        for (how, change) in changes {
            let mut source = write(b"0123456789");
            source.next(4).unwrap();
            change(&path);
            let text = source.skim().unwrap_err().to_string();
            assert!(text.contains("changed while it was uploaded") && text.contains(how), "{text}");
        }
        let mut source = write(b"0123456789");
        source.next(4).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(source.skim().unwrap().sha256, Digest::of(b"0123456789"));
    }
}
