//! Numbered folders of local networks: a new run never touches an old one.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::files::{read_bounded, write_atomically};

/// Folder that holds the runs, in the current directory.
pub const RUNS_DIR: &str = "grail-localnet";
/// File in [`RUNS_DIR`] that names the running or newest run.
const CURRENT: &str = "current";
const PREFIX: &str = "run-";
/// Longest name in [`CURRENT`], bytes.
const NAME_BYTES_MAX: u64 = 64;
/// Attempts to make a new folder while other processes make theirs.
const ATTEMPTS: u32 = 100;

/// Makes the next `run-NNN` under `runs` and returns it.
pub fn make_next(runs: &Path) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| format!("while making {}", runs.display()))?;
    let mut number = newest_number(runs)?.map_or(1, |newest| newest + 1);
    for _ in 0..ATTEMPTS {
        let dir = runs.join(format!("{PREFIX}{number:03}"));
        // Making the folder is what claims the number: two processes cannot both succeed.
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error).context(format!("while making {}", dir.display())),
        }
    }
    bail!("cannot find a free number in {}; name a folder with --dir", runs.display())
}

/// Names `dir` as the current run.
pub fn set_current(runs: &Path, dir: &Path) -> Result<()> {
    let name = dir.file_name().and_then(|name| name.to_str());
    let Some(name) = name.filter(|name| number_of(name).is_some()) else {
        bail!("{} is not a numbered run", dir.display());
    };
    write_atomically(&runs.join(CURRENT), format!("{name}\n").as_bytes())
        .with_context(|| format!("while writing {}", runs.join(CURRENT).display()))
}

/// Returns the current run, or `None` if there is no run yet.
pub fn current(runs: &Path) -> Result<Option<PathBuf>> {
    let path = runs.join(CURRENT);
    let bytes = match read_bounded(&path, NAME_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("while reading {}", path.display())),
    };
    let name = String::from_utf8_lossy(&bytes);
    let name = name.trim();
    let dir = runs.join(name);
    if number_of(name).is_none() || !dir.is_dir() {
        bail!("{} names `{name}`, which is no run; name the folder with --dir", path.display());
    }
    Ok(Some(dir))
}

/// Returns the folder that is meant: `dir`, else the current run.
pub fn chosen(dir: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = dir {
        return Ok(dir.to_owned());
    }
    current(Path::new(RUNS_DIR))?.with_context(|| {
        format!(
            "there is no local network in ./{RUNS_DIR}; start one with `grail localnet`, or name its \
             folder with --dir"
        )
    })
}

fn newest_number(runs: &Path) -> Result<Option<u32>> {
    let names = fs::read_dir(runs)
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        })
        .with_context(|| format!("while listing {}", runs.display()))?;
    Ok(names.iter().filter_map(|name| number_of(name.to_str()?)).max())
}

fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_numbered_and_never_reused() {
        let runs = tempfile::tempdir().unwrap();
        let runs = runs.path();
        assert_eq!(current(runs).unwrap(), None);
        let first = make_next(runs).unwrap();
        assert_eq!(first, runs.join("run-001"));
        fs::create_dir(runs.join("run-041")).unwrap();
        fs::create_dir(runs.join("run-x")).unwrap();
        let next = make_next(runs).unwrap();
        assert_eq!(next, runs.join("run-042"));
        set_current(runs, &next).unwrap();
        assert_eq!(current(runs).unwrap(), Some(next));
    }

    #[test]
    fn a_damaged_pointer_is_an_error_and_cannot_lead_elsewhere() {
        let runs = tempfile::tempdir().unwrap();
        for name in ["", "../run-001", "run-007", &"x".repeat(100)] {
            fs::write(runs.path().join(CURRENT), name).unwrap();
            assert!(current(runs.path()).is_err(), "{name:?}");
        }
        assert!(set_current(runs.path(), Path::new("/somewhere/else")).is_err());
    }
}
