//! Maps a file read-only, so that weights are paged in on demand and shared between processes.
//!
//! The mapping lives here because it is the one other operation that needs `unsafe`: Rust cannot
//! rule out that someone truncates or rewrites the file while a `&[u8]` to it exists.

use std::fs::File;
use std::io;
use std::ops::Deref;

/// A read-only view of a whole file. Dereferences to its bytes.
///
/// # What the caller promises
///
/// The file is *immutable while mapped*: this project replaces weight files only by writing a new
/// file beside them and renaming it over, which leaves the mapped one untouched. A file that some
/// other program truncates in place can end this process with `SIGBUS`, and one that it rewrites
/// in place changes the weights under the reader; both are the price every mapped reader pays.
#[derive(Debug)]
pub struct MappedFile {
    /// `None` for an empty file: the system call refuses a length of zero.
    map: Option<memmap2::Mmap>,
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

/// Maps `file` whole and read-only. The handle may be dropped afterwards.
///
/// # Errors
///
/// Whatever the operating system says: not a regular file, no address space, no permission.
pub fn map_file(file: &File) -> io::Result<MappedFile> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.len() == 0 {
        return Ok(MappedFile { map: None });
    }
    // SAFETY: the mapping is private to this process and never written through. Its pages can
    // change only if another program writes the same inode, which the type's contract excludes:
    // files are replaced by rename, never modified in place.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(MappedFile { map: Some(map) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("grail-mapped-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_mapping_shows_the_file_and_survives_its_replacement() {
        let (old, new) = (path("old"), path("new"));
        std::fs::write(&old, b"first").unwrap();
        let mapped = map_file(&File::open(&old).unwrap()).unwrap();
        assert_eq!(&*mapped, b"first");

        std::fs::write(&new, b"second").unwrap();
        std::fs::rename(&new, &old).unwrap();
        assert_eq!(&*mapped, b"first", "a rename leaves the mapped file alone");
        let again = map_file(&File::open(&old).unwrap()).unwrap();
        assert_eq!(&*again, b"second");
        std::fs::remove_file(&old).unwrap();
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let empty = path("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(map_file(&File::open(&empty).unwrap()).unwrap().is_empty());
        std::fs::remove_file(&empty).unwrap();
    }

    #[test]
    fn a_folder_is_refused() {
        let error = map_file(&File::open(std::env::temp_dir()).unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
