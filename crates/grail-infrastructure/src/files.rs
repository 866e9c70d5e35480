//! Reads and writes small files whole: bounded, atomic and durable.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

/// Mode of files that hold secrets.
pub(crate) const PRIVATE: u32 = 0o600;
/// Mode of files that anyone may read.
pub(crate) const PUBLIC: u32 = 0o644;

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Missing,
    NotAFile,
    TooLarge { size: u64 },
    Io(io::Error),
}

/// Returns the bytes of the regular file at `path`, at most `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let missing_or = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Io(error),
    };
    // Asked before opening: opening a named pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(missing_or)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile);
    }
    if metadata.len() > bytes_max {
        return Err(ReadError::TooLarge { size: metadata.len() });
    }
    let file = File::open(path).map_err(missing_or)?;
    // The whole capacity at once: a growing buffer would leave copies of a secret behind.
    let capacity = usize::try_from(metadata.len()).unwrap_or(0).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size > bytes_max {
        return Err(ReadError::TooLarge { size });
    }
    Ok(bytes)
}

/// Replaces the file at `path`; a reader, or a restart after a crash, sees all of it or none.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_temporary(path, bytes, mode)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    sync_parent(path)
}

/// As [`write_atomic`], but fails with `AlreadyExists` instead of replacing.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_temporary(path, bytes, mode)?;
    // Unlike a rename, a hard link never replaces what is there.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked?;
    sync_parent(path)
}

/// Makes `path` and what is missing above it, readable by the owner alone.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the entries of the folder at `path` survive a power failure.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Returns 32 bytes of the operating system's randomness.
pub(crate) fn random_seed() -> io::Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(seed)
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{serial}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        // The process id may be that of a dead process that left this very name.
        drop(fs::remove_file(&temporary));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    })();
    match written {
        Ok(()) => Ok(temporary),
        Err(error) => {
            drop(fs::remove_file(&temporary));
            Err(error)
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_write_replaces_and_a_new_write_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_new(&path, b"one", PRIVATE).unwrap();
        assert_eq!(
            write_new(&path, b"two", PRIVATE).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write_atomic(&path, b"three", PRIVATE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn reading_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(matches!(read_bounded(&path, 3), Err(ReadError::Missing)));
        assert!(matches!(read_bounded(dir.path(), 3), Err(ReadError::NotAFile)));
        fs::write(&path, b"four").unwrap();
        assert!(matches!(read_bounded(&path, 3), Err(ReadError::TooLarge { size: 4 })));
        assert_eq!(read_bounded(&path, 4).unwrap().as_slice(), b"four");
    }
}
