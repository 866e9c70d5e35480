//! Keeps a role's memory on disk so that a crash at any moment loses nothing and halves nothing.
//!
//! A file or folder is written under a temporary name, flushed, and renamed into place: readers see
//! the old content or the new one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Ending of what is not complete yet; left-overs of a crash carry it.
pub const PARTIAL: &str = ".partial";

/// Largest state file, bytes. The histories of a full subnet take far less.
const STATE_BYTES_MAX: u64 = 64 << 20;

/// Why a role's memory could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The disk refused.
    #[error("cannot {action} {path}: {reason}; check the disk and its permissions")]
    Disk {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's word.
        reason: String,
    },
    /// A file is not what this program writes.
    #[error("{path} is damaged ({reason}); move it away to start without its memory")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Adds path and action to an error of the operating system.
pub fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |error| StateError::Disk { action, path, reason: error.to_string() }
}

/// Moves a file to `to`, whose old content goes; what it holds reaches the disk first.
pub fn move_file(from: &Path, to: &Path) -> Result<(), StateError> {
    let file = File::open(from).map_err(disk("read", from))?;
    file.sync_all().map_err(disk("flush", from))?;
    fs::rename(from, to).map_err(disk("rename", from))?;
    sync_parent(to)
}

/// Replaces the file at `path`, making its folder if needed.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let partial = partial_name(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(disk("make", folder))?;
    }
    let mut file = File::create(&partial).map_err(disk("write", &partial))?;
    file.write_all(bytes).map_err(disk("write", &partial))?;
    // Without this the rename may reach the disk before the bytes do.
    file.sync_all().map_err(disk("flush", &partial))?;
    fs::rename(&partial, path).map_err(disk("rename", &partial))?;
    sync_parent(path)
}

/// Returns the file's bytes, or `None` if there is no such file.
pub fn read_file(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk("read", path)(error)),
    };
    let mut bytes = Vec::new();
    let read = file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(disk("read", path))?;
    check_size(path, u64::try_from(bytes.len()).unwrap_or(u64::MAX), bytes_max)?;
    Ok(Some(bytes))
}

/// Returns the file's size in bytes, or `None` if there is no such file.
pub fn file_size(path: &Path, bytes_max: u64) -> Result<Option<u64>, StateError> {
    let size = match fs::metadata(path) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk("read", path)(error)),
    };
    check_size(path, size, bytes_max)?;
    Ok(Some(size))
}

fn check_size(path: &Path, size: u64, bytes_max: u64) -> Result<(), StateError> {
    if size > bytes_max {
        let reason = format!("more than {bytes_max} bytes");
        return Err(StateError::Damaged { path: path.to_owned(), reason });
    }
    Ok(())
}

/// Replaces the JSON file at `path`.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(value).map_err(|error| StateError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    write_file(path, &bytes)
}

/// Returns what the JSON file holds, or `None` if there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let Some(bytes) = read_file(path, STATE_BYTES_MAX)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StateError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

/// Makes the folder `path` by filling a temporary one and renaming it; replaces an older folder.
pub fn write_folder<E: From<StateError>, T>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let partial = partial_name(path);
    remove_folder(&partial)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(disk("make", parent))?;
    }
    let filled = fill(&partial)?;
    move_folder(&partial, path)?;
    Ok(filled)
}

/// Puts the complete folder `from` in the place of `to`; an older folder goes.
pub fn move_folder(from: &Path, to: &Path) -> Result<(), StateError> {
    sync_files(from)?;
    remove_folder(to)?;
    fs::rename(from, to).map_err(disk("rename", from))?;
    sync_parent(to)
}

/// Removes a folder and what it holds; one that is absent is no error.
pub fn remove_folder(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes what a crash left incomplete in the folder `path` and the folders in it. Only for the
/// one process that writes there, before it writes.
pub fn remove_leftovers(path: &Path) -> Result<(), StateError> {
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in names_in(&folder)? {
            let entry = folder.join(&name);
            // A link is not followed: what it points to is not ours.
            let kind = fs::symlink_metadata(&entry).map_err(disk("inspect", &entry))?.file_type();
            match (name.ends_with(PARTIAL), kind.is_dir()) {
                (true, true) => remove_folder(&entry)?,
                (true, false) => remove_file(&entry)?,
                (false, true) => folders.push(entry),
                (false, false) => {}
            }
        }
    }
    Ok(())
}

/// Removes a file; one that is absent is no error.
pub fn remove_file(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Returns the names in the folder `path`, sorted; none if there is no such folder.
pub fn names_in(path: &Path) -> Result<Vec<String>, StateError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(disk("list", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(disk("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    name.push(PARTIAL);
    path.with_file_name(name)
}

fn sync_files(folder: &Path) -> Result<(), StateError> {
    for name in names_in(folder)? {
        let path = folder.join(name);
        let file = File::open(&path).map_err(disk("read", &path))?;
        file.sync_all().map_err(disk("flush", &path))?;
    }
    Ok(())
}

/// Makes a rename in the folder of `path` durable.
fn sync_parent(path: &Path) -> Result<(), StateError> {
    let Some(folder) = path.parent().filter(|folder| cfg!(unix) && folder.is_dir()) else {
        return Ok(());
    };
    let handle = File::open(folder).map_err(disk("open", folder))?;
    handle.sync_all().map_err(disk("flush", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["checkpoints/checkpoint-30", "checkpoints/checkpoint-60.partial"] {
            fs::create_dir_all(at(folder)).unwrap();
            fs::write(at(folder).join("model"), b"weights").unwrap();
        }
        fs::write(at("mined.json.partial"), b"[3").unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert_eq!(names_in(dir.path()).unwrap(), ["checkpoints"]);
        assert_eq!(names_in(&at("checkpoints")).unwrap(), ["checkpoint-30"]);
        assert!(at("checkpoints/checkpoint-30/model").exists());
        remove_leftovers(&at("absent")).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("role/state.json");
        assert_eq!(read_json::<Vec<u32>>(&path), Ok(None));
        write_json(&path, &[1, 2]).unwrap();
        // What a crash left behind is overwritten, and never read.
        fs::write(partial_name(&path), b"[9").unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path), Ok(Some(vec![1, 2])));
        write_json(&path, &[3]).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path), Ok(Some(vec![3])));
        assert_eq!(names_in(path.parent().unwrap()).unwrap(), ["state.json"]);
    }

    #[test]
    fn a_damaged_or_huge_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, b"[1,").unwrap();
        let error = read_json::<Vec<u32>>(&path).unwrap_err();
        assert!(error.to_string().contains("move it away"), "{error}");
        assert!(matches!(read_file(&path, 2), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn a_folder_that_could_not_be_filled_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let fill = |text: &'static str| {
            move |dir: &Path| -> Result<(), StateError> {
                fs::create_dir_all(dir).map_err(disk("make", dir))?;
                write_file(&dir.join("weights"), text.as_bytes())
            }
        };
        write_folder(&path, fill("old")).unwrap();
        let failed = write_folder(&path, |dir: &Path| -> Result<(), StateError> {
            fill("half")(dir)?;
            Err(StateError::Damaged { path: dir.to_owned(), reason: "a test".to_owned() })
        });
        assert!(failed.is_err());
        assert_eq!(read_file(&path.join("weights"), 9), Ok(Some(b"old".to_vec())));
        write_folder(&path, fill("new")).unwrap();
        assert_eq!(read_file(&path.join("weights"), 9), Ok(Some(b"new".to_vec())));
        assert_eq!(names_in(folder.path()).unwrap(), ["checkpoint"]);
    }
}
