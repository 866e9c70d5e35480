//! What an interrupted fine-tuning leaves on the disk, to go on as if it had never stopped.
//!
//! The order of the examples follows from the settings and the number of the step, so the number is
//! all that must be kept of it. A state is written beside the old one and then named by one atomic
//! write; a process that is killed at any moment finds the old state or the new one.

use std::path::{Path, PathBuf};

use grail_ports::model::Trainer;
use grail_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use super::sft::SftError;
use crate::state::{self, StateError};

const PROGRESS_FILE: &str = "progress.json";
const STATE_PREFIX: &str = "step-";

/// The folder of one fine-tuning. All methods block.
#[derive(Clone, Debug)]
pub struct SftState {
    folder: PathBuf,
    settings: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    /// Digest of everything that the result depends on.
    settings: Digest,
    /// Steps taken.
    step: u32,
}

impl SftState {
    /// Uses `folder`, which need not exist, for the run whose result depends on `settings` alone.
    pub fn new(folder: PathBuf, settings: Digest) -> Self {
        Self { folder, settings }
    }

    /// Returns whether an interrupted run left something.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn exists(&self) -> Result<bool, StateError> {
        Ok(self.progress()?.is_some())
    }

    /// Keeps the state of `trainer` after `step` steps, and drops older ones.
    ///
    /// # Errors
    /// The trainer holds gradients, or the disk failed; the older state is then still in place.
    pub fn save(&self, step: u32, trainer: &dyn Trainer) -> Result<(), SftError> {
        let progress = self.progress()?;
        if progress.is_some_and(|progress| progress.step == step) {
            return Ok(());
        }
        let name = format!("{STATE_PREFIX}{step}");
        state::write_folder(&self.folder.join(&name), |dir: &Path| {
            trainer.save_state(dir).map_err(SftError::from)
        })?;
        let progress = Progress { settings: self.settings, step };
        state::write_json(&self.folder.join(PROGRESS_FILE), &progress)?;
        for other in state::names_in(&self.folder)? {
            if other.starts_with(STATE_PREFIX) && other != name {
                state::remove_folder(&self.folder.join(other))?;
            }
        }
        Ok(())
    }

    /// Brings `trainer` to where the interrupted run was; returns the steps it had taken, 0 if it
    /// left nothing.
    ///
    /// # Errors
    /// [`SftError::OtherSettings`] if the run had other settings; else what was left is damaged.
    pub fn load(&self, trainer: &mut dyn Trainer) -> Result<u32, SftError> {
        let Some(progress) = self.progress()? else { return Ok(0) };
        if progress.settings != self.settings {
            return Err(SftError::OtherSettings(self.folder.display().to_string()));
        }
        trainer.load_state(&self.folder.join(format!("{STATE_PREFIX}{}", progress.step)))?;
        Ok(progress.step)
    }

    /// Removes all of it: the run has ended.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove(&self) -> Result<(), StateError> {
        state::remove_folder(&self.folder)
    }

    fn progress(&self) -> Result<Option<Progress>, StateError> {
        state::read_json(&self.folder.join(PROGRESS_FILE))
    }
}
