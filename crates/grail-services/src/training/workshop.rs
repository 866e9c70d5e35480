//! The trainer's folder: what was built, what was published, and the state to go on from.
//!
//! A checkpoint is built in two folders (`exports/checkpoint-N` for peers, `states/state-N` to go on
//! from) and then named by one atomic write of `trainer.json`. Before that write the window's work
//! is repeated; after it, the same bytes are published however often the trainer is killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grail_ports::model::{ModelProvider, Trainer};
use grail_protocol::ids::Window;
use serde::{Deserialize, Serialize};

use super::TrainingError;
use crate::state;

/// Exports that stay on the disk: readers may still have the one before the newest open.
const EXPORTS_KEPT: usize = 2;

/// What the trainer remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Newest checkpoint that was built.
    pub built: Option<Window>,
    /// Newest checkpoint that is known to be READY.
    pub published: Option<Window>,
    /// Newest checkpoint that was evaluated.
    pub evaluated: Option<Window>,
    /// Newest window whose rollouts were used.
    pub trained_on: Option<Window>,
    /// Newest checkpoint that is known to be in the bucket whole: deltas go back to it.
    #[serde(default)]
    pub anchor: Option<Window>,
    /// Checkpoint that is READY as a delta and still has to go up whole.
    #[serde(default)]
    pub full_due: Option<Window>,
}

/// The folder of one trainer. All methods block.
#[derive(Clone, Debug)]
pub struct Workshop {
    folder: PathBuf,
}

impl Workshop {
    /// Uses `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Reads what the trainer remembers; nothing on the first start.
    pub fn recall(&self) -> Result<Memory, TrainingError> {
        Ok(state::read_json(&self.memory_path())?.unwrap_or_default())
    }

    /// Keeps what the trainer remembers.
    pub fn remember(&self, memory: &Memory) -> Result<(), TrainingError> {
        Ok(state::write_json(&self.memory_path(), memory)?)
    }

    /// Returns the folder of a built checkpoint.
    pub fn export_dir(&self, checkpoint: Window) -> PathBuf {
        self.folder.join("exports").join(format!("checkpoint-{checkpoint}"))
    }

    /// Writes both folders of a checkpoint; nothing names them before [`Workshop::remember`].
    pub fn build(&self, checkpoint: Window, trainer: &dyn Trainer) -> Result<(), TrainingError> {
        state::write_folder(&self.export_dir(checkpoint), |dir: &Path| {
            trainer.export(dir).map(drop).map_err(TrainingError::from)
        })?;
        state::write_folder(&self.state_dir(checkpoint), |dir: &Path| {
            trainer.save_state(dir).map_err(TrainingError::from)
        })
    }

    /// Returns the folder with the delta of a built checkpoint, if it has one.
    pub fn delta_dir(&self, checkpoint: Window) -> PathBuf {
        self.export_dir(checkpoint).join("delta")
    }

    /// Returns a trainer that goes on from a built checkpoint as if it had never stopped.
    pub fn resume(
        &self,
        checkpoint: Window,
        models: &Arc<dyn ModelProvider>,
    ) -> Result<Box<dyn Trainer>, TrainingError> {
        let mut trainer = models.trainer(&self.export_dir(checkpoint))?;
        trainer.load_state(&self.state_dir(checkpoint))?;
        Ok(trainer)
    }

    /// Removes what is not needed once `newest` is built and remembered; the export `due`, which
    /// still has to go up, stays.
    pub fn tidy(&self, newest: Window, due: Option<Window>) -> Result<(), TrainingError> {
        keep_newest(&self.folder.join("exports"), "checkpoint-", newest, EXPORTS_KEPT, due)?;
        keep_newest(&self.folder.join("states"), "state-", newest, 1, None)
    }

    fn state_dir(&self, checkpoint: Window) -> PathBuf {
        self.folder.join("states").join(format!("state-{checkpoint}"))
    }

    fn memory_path(&self) -> PathBuf {
        self.folder.join("trainer.json")
    }
}

/// Keeps the `keep` newest folders up to `newest`; later ones were never remembered.
fn keep_newest(
    folder: &Path,
    prefix: &str,
    newest: Window,
    keep: usize,
    due: Option<Window>,
) -> Result<(), TrainingError> {
    let mut kept = Vec::new();
    for name in state::names_in(folder)? {
        let start = name.strip_prefix(prefix).and_then(|digits| digits.parse().ok());
        match start.and_then(|start| Window::from_start(start).ok()) {
            Some(window) if window <= newest => kept.push((window, name)),
            _ => state::remove_folder(&folder.join(name))?,
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(keep);
    for (_, name) in kept[..surplus].iter().filter(|(window, _)| Some(*window) != due) {
        state::remove_folder(&folder.join(name))?;
    }
    Ok(())
}
