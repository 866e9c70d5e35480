//! A log file that stays small: full ones are renamed, the oldest goes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes of a full file. Source: reference 0.0.60, 100 MB × 5.
const FILE_BYTES_MAX: u64 = 100_000_000;
/// Full files that are kept: `name.1` is the newest.
const KEPT: u32 = 5;

/// The file that is being written and what is known of it.
pub(super) struct RotatingFile {
    path: PathBuf,
    bytes_max: u64,
    open: Mutex<Open>,
}

struct Open {
    file: File,
    size: u64,
}

impl RotatingFile {
    /// Opens or creates the file, and goes on at its end. Missing folders are made.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::with_bytes_max(path, FILE_BYTES_MAX)
    }

    fn with_bytes_max(path: &Path, bytes_max: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let open = Mutex::new(open(path)?);
        Ok(Self { path: path.to_owned(), bytes_max, open })
    }

    /// Appends a record. A disk that is full must not stop a neuron, so failures are silent: the
    /// console has the same records.
    pub(super) fn append(&self, record: &[u8]) {
        let mut current = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let length = record.len() as u64;
        if current.size > 0 && current.size + length > self.bytes_max {
            // If renaming fails the old file just grows.
            if let Ok(fresh) = self.rotate() {
                *current = fresh;
            }
        }
        if current.file.write_all(record).is_ok() {
            current.size += length;
        }
    }

    fn rotate(&self) -> io::Result<Open> {
        for number in (1..KEPT).rev() {
            let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        fs::rename(&self.path, self.numbered(1))?;
        open(&self.path)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let size = file.metadata()?.len();
    Ok(Open { file, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_renamed_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/grail.log");
        let log = RotatingFile::with_bytes_max(&path, 10).unwrap();
        for number in 0..20 {
            log.append(format!("line{number:02}\n").as_bytes());
        }
        let read = |name: &str| fs::read_to_string(dir.path().join("logs").join(name)).unwrap();
        assert_eq!(read("grail.log"), "line19\n");
        assert_eq!(read("grail.log.1"), "line18\n");
        assert_eq!(read("grail.log.5"), "line14\n");
        assert_eq!(fs::read_dir(dir.path().join("logs")).unwrap().count(), 6);
    }

    #[test]
    fn a_restart_goes_on_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grail.log");
        RotatingFile::with_bytes_max(&path, 100).unwrap().append(b"one\n");
        RotatingFile::with_bytes_max(&path, 100).unwrap().append(b"two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let log = RotatingFile::with_bytes_max(&path, 10).unwrap();
        log.append(b"three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n", "the size was known");
    }

    #[test]
    fn a_record_larger_than_a_file_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grail.log");
        let log = RotatingFile::with_bytes_max(&path, 4).unwrap();
        log.append(b"longer than four\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "longer than four\n");
    }
}
