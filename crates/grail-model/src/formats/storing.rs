//! Writes files and folders that appear whole or not at all.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::FormatError;

/// Writes `path` through a temporary file beside it: filled, flushed to the disk, renamed.
///
/// A reader, also one that has the old file mapped, sees the old bytes or the new ones.
pub(crate) fn write_file<T>(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<T, FormatError>,
) -> Result<T, FormatError> {
    let write_error = || FormatError::io("write", path);
    let parent = parent_of(path);
    let temporary = tempfile::Builder::new()
        .prefix(".incomplete-")
        .permissions(permissions(0o666))
        .tempfile_in(parent)
        .map_err(write_error())?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
    let filled = fill(&mut writer)?;
    writer.flush().map_err(write_error())?;
    drop(writer);
    temporary.as_file().sync_all().map_err(write_error())?;
    temporary.persist(path).map_err(|error| write_error()(error.error))?;
    sync_folder(parent)?;
    Ok(filled)
}

/// Writes a small file by [`write_file`].
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    write_file(path, |writer| writer.write_all(bytes).map_err(FormatError::io("write", path)))
}

/// Makes the folder `path` by `fill`ing a temporary one beside it and renaming that.
///
/// # Errors
///
/// [`FormatError::Exists`] if `path` is there already; else whatever `fill` returns, after which
/// nothing is left on the disk.
pub(crate) fn write_folder<T>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, FormatError>,
) -> Result<T, FormatError> {
    if path.symlink_metadata().is_ok() {
        return Err(FormatError::Exists { path: path.to_owned() });
    }
    let parent = parent_of(path);
    std::fs::create_dir_all(parent).map_err(FormatError::io("create", parent))?;
    let temporary = tempfile::Builder::new()
        .prefix(".incomplete-")
        .permissions(permissions(0o777))
        .tempdir_in(parent)
        .map_err(FormatError::io("create a folder in", parent))?;
    let filled = fill(temporary.path()).map_err(|error| error.relocate(temporary.path(), path))?;
    sync_folder(temporary.path())?;
    std::fs::rename(temporary.path(), path).map_err(FormatError::io("rename to", path))?;
    // The folder has its final name; there is nothing left for the guard to remove.
    drop(temporary.keep());
    sync_folder(parent)?;
    Ok(filled)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The `umask` of the process applies, as it does for files made by any other program.
#[cfg(unix)]
fn permissions(mode: u32) -> Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// Makes a rename durable: the entry lives in the folder, not in the file.
fn sync_folder(folder: &Path) -> Result<(), FormatError> {
    let handle = File::open(folder).map_err(FormatError::io("open", folder))?;
    handle.sync_all().map_err(FormatError::io("write", folder))
}
