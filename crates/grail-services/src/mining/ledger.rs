//! Remembers which windows were mined, so that no restart mines one twice or loses a sealed file.

use std::path::{Path, PathBuf};

use grail_protocol::constants::ROLLOUT_FILE_BYTES_MAX;
use grail_protocol::ids::Window;
use serde::{Deserialize, Serialize};

use crate::state::{self, StateError};

/// A file that is sealed but perhaps not uploaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// Window of the file.
    pub window: Window,
    /// Number of groups.
    pub groups: u32,
    /// Number of rollouts.
    pub rollouts: u32,
    /// Completion tokens generated.
    pub tokens: u64,
    /// Seconds of generation.
    pub seconds: f64,
    /// Text that changes when a re-organisation changes what the file was drawn from; `None` for
    /// files that are uploaded whatever happens.
    #[serde(default)]
    pub drawn_from: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    /// Newest window that is over for us: uploaded or skipped.
    last: Option<Window>,
    /// Sealed, upload not confirmed.
    pending: Option<Sealed>,
}

/// The ledger of one miner.
pub struct Ledger {
    folder: PathBuf,
    memory: Memory,
}

impl Ledger {
    /// Reads the ledger in `folder`; an empty one if there is none.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let folder = folder.to_owned();
        let memory = state::read_json(&folder.join("ledger.json"))?.unwrap_or_default();
        Ok(Self { folder, memory })
    }

    /// Returns whether `window` is still to be mined.
    pub fn is_open(&self, window: Window) -> bool {
        self.memory.last.is_none_or(|last| last < window)
    }

    /// Returns what is sealed but not known to be uploaded.
    pub fn pending(&self) -> Option<&Sealed> {
        self.memory.pending.as_ref()
    }

    /// Returns the bytes of the pending file.
    pub fn pending_bytes(&self) -> Result<Option<Vec<u8>>, StateError> {
        match &self.memory.pending {
            Some(sealed) => state::read_file(&self.path(sealed.window), ROLLOUT_FILE_BYTES_MAX),
            None => Ok(None),
        }
    }

    /// Keeps a sealed file until [`Ledger::close`].
    pub fn keep(&mut self, sealed: Sealed, bytes: &[u8]) -> Result<(), StateError> {
        // The file first: a ledger that names it must find it.
        state::write_file(&self.path(sealed.window), bytes)?;
        self.replace(Memory { pending: Some(sealed), ..self.memory.clone() })
    }

    /// Takes note that `window` is over: it was uploaded or skipped.
    pub fn close(&mut self, window: Window) -> Result<(), StateError> {
        let pending = self.memory.pending.as_ref().map(|sealed| self.path(sealed.window));
        self.replace(Memory { last: self.memory.last.max(Some(window)), pending: None })?;
        pending.map_or(Ok(()), |path| state::remove_file(&path))
    }

    /// Forgets the pending file, so that its window can be mined again.
    pub fn discard(&mut self) -> Result<(), StateError> {
        let pending = self.memory.pending.as_ref().map(|sealed| self.path(sealed.window));
        self.replace(Memory { pending: None, ..self.memory.clone() })?;
        pending.map_or(Ok(()), |path| state::remove_file(&path))
    }

    fn replace(&mut self, memory: Memory) -> Result<(), StateError> {
        state::write_json(&self.folder.join("ledger.json"), &memory)?;
        self.memory = memory;
        Ok(())
    }

    fn path(&self, window: Window) -> PathBuf {
        self.folder.join(format!("window-{window}.grail"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: u64) -> Window {
        Window::from_start(start).unwrap()
    }

    #[test]
    fn a_restart_finds_the_sealed_file_and_never_the_closed_window() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = Sealed {
            window: window(60),
            groups: 1,
            rollouts: 16,
            tokens: 9,
            seconds: 0.5,
            drawn_from: None,
        };
        let mut ledger = Ledger::open(folder.path()).unwrap();
        assert!(ledger.is_open(window(0)));
        ledger.keep(sealed.clone(), b"file").unwrap();

        let mut ledger = Ledger::open(folder.path()).unwrap();
        assert!(ledger.is_open(window(60)));
        assert_eq!(ledger.pending(), Some(&sealed));
        assert_eq!(ledger.pending_bytes(), Ok(Some(b"file".to_vec())));
        ledger.close(window(60)).unwrap();

        let mut ledger = Ledger::open(folder.path()).unwrap();
        assert_eq!(ledger.pending(), None);
        assert!(!ledger.is_open(window(60)) && !ledger.is_open(window(30)));
        assert!(ledger.is_open(window(90)));
        ledger.close(window(30)).unwrap();
        assert!(!ledger.is_open(window(60)), "the ledger never goes back");
        assert_eq!(state::names_in(folder.path()).unwrap(), ["ledger.json"]);
    }
}
