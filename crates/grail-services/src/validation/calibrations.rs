//! The calibrations that an operator gives a validator: files, and whose signatures count.
//!
//! They are read anew for every window, so that a new one needs no restart. A file that cannot be
//! used is named and left out: its runtimes are then measured but not judged.

use std::path::{Path, PathBuf};

use grail_protocol::calibration::{CALIBRATION_BYTES_MAX, Calibration};
use grail_protocol::ids::Hotkey;
use tracing::warn;

use crate::state;

/// Most calibrations that are read, and most files of a folder.
pub const CALIBRATIONS_MAX: usize = 256;

/// Where calibrations come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalibrationSource {
    /// Files, or folders whose `.json` files are meant.
    pub paths: Vec<PathBuf>,
    /// Hotkeys whose calibrations are used.
    pub signers: Vec<Hotkey>,
}

impl CalibrationSource {
    /// Reads what can be used, at most [`CALIBRATIONS_MAX`]. Blocks.
    pub fn read(&self) -> Vec<Calibration> {
        let (usable, refused) = self.sort();
        for (path, reason) in refused {
            warn!(path = %path.display(), reason, "left a calibration out");
        }
        usable
    }

    /// Returns what can be used, and each file that cannot, with the reason.
    pub fn sort(&self) -> (Vec<Calibration>, Vec<(PathBuf, String)>) {
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        for path in &self.paths {
            match files_of(path) {
                Ok(files) => {
                    for file in files {
                        match self.open(&file) {
                            Ok(_) if usable.len() == CALIBRATIONS_MAX => {
                                refused.push((file, "there are too many".to_owned()));
                            }
                            Ok(calibration) => usable.push(calibration),
                            Err(reason) => refused.push((file, reason)),
                        }
                    }
                }
                Err(reason) => refused.push((path.clone(), reason)),
            }
        }
        (usable, refused)
    }

    fn open(&self, file: &Path) -> Result<Calibration, String> {
        let bytes = state::read_file(file, CALIBRATION_BYTES_MAX).map_err(|it| it.to_string())?;
        let bytes = bytes.ok_or_else(|| "there is no such file".to_owned())?;
        let opened = Calibration::open(&bytes, &self.signers).map_err(|it| it.to_string())?;
        Ok(opened.0)
    }
}

/// Returns the file itself, or the `.json` files of a folder by name.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let names = state::names_in(path).map_err(|error| error.to_string())?;
    let files = names.into_iter().map(|name| path.join(name));
    let files = files.filter(|file| file.extension().is_some_and(|it| it == "json"));
    Ok(files.take(CALIBRATIONS_MAX).collect())
}
