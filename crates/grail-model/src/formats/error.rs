//! The ways in which a model file can disappoint its reader.

use std::path::{Path, PathBuf};

/// A model file or folder that cannot be used. Every message names the file and the next step.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused to read or write.
    #[error("cannot {action} {}: {source}; check that it exists, the permissions and the free space", path.display())]
    Io {
        /// What was tried, as a verb: `open`, `read`, `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The bytes are not what the format demands: truncated, corrupted or another format.
    #[error("{} is not a usable {format} file: {reason}; fetch or export it again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The format's name: `safetensors`, `GGUF`, `config.json`, ...
        format: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
    /// The file is sound, but asks for something this program does not compute.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it asks for and what is supported instead.
        what: String,
    },
    /// The target of an import is there already.
    #[error("{} exists already; remove it or name another folder", path.display())]
    Exists {
        /// The target folder.
        path: PathBuf,
    },
}

impl FormatError {
    /// Names the file where the user knows it: below `to` instead of the temporary `from`.
    pub(crate) fn relocate(mut self, from: &Path, to: &Path) -> Self {
        let (Self::Io { path, .. }
        | Self::Broken { path, .. }
        | Self::Unsupported { path, .. }
        | Self::Exists { path }) = &mut self;
        if let Ok(within) = path.strip_prefix(from) {
            *path = to.join(within);
        }
        self
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn broken(path: &Path, format: &'static str, reason: impl Into<String>) -> Self {
        Self::Broken { path: path.to_owned(), format, reason: reason.into() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into() }
    }
}
