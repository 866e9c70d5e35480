//! The model that a network starts from: the embedded one, a folder, or an imported GGUF file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use grail_model::formats::import_model;
use grail_protocol::checkpoint::Protocol;
use tempfile::TempDir;

use crate::commands::localnet::layout;
use crate::default_model;

/// Names the embedded model where a path is expected. A folder of that name is `./default`.
const EMBEDDED: &str = "default";

/// A model that is ready to be used, perhaps still in a temporary folder.
pub struct BaseModel {
    dir: PathBuf,
    /// Holds the model until [`BaseModel::settle`] moves it; removed when dropped before.
    staged: Option<TempDir>,
}

impl BaseModel {
    /// Prepares the model for a network that will live beside `parent`'s other folders.
    ///
    /// A folder is used where it lies. Anything else is unpacked next to the network first, so that
    /// a model that cannot be imported leaves no half-made network. Without a source it is the embedded
    /// model of `protocol`.
    pub fn prepare(source: Option<&Path>, parent: &Path, protocol: Protocol) -> Result<Self> {
        if let Some(dir) = source.filter(|path| path.is_dir()) {
            let dir =
                dir.canonicalize().with_context(|| format!("while opening {}", dir.display()))?;
            return Ok(Self { dir, staged: None });
        }
        std::fs::create_dir_all(parent)
            .with_context(|| format!("while making {}", parent.display()))?;
        let staged = tempfile::Builder::new()
            .prefix(".model-")
            .tempdir_in(parent)
            .with_context(|| format!("while making a temporary folder in {}", parent.display()))?;
        let dir = staged.path().join("model");
        match source {
            None => default_model::unpack(&dir, protocol)
                .context("while unpacking the embedded model")?,
            Some(source) if source.exists() => {
                import_model(source, &dir, &mut |_| {})
                    .with_context(|| format!("while importing {}", source.display()))?;
            }
            Some(source) => {
                bail!("no model at {}; give a model folder or a GGUF file", source.display())
            }
        }
        Ok(Self { dir, staged: Some(staged) })
    }

    /// Prepares the model that an argument names, in the system's folder for temporary files; it is
    /// gone when this is dropped, unless it is a folder of the user's.
    pub fn of_argument(model: &Path) -> Result<Self> {
        let source = (model != Path::new(EMBEDDED)).then_some(model);
        Self::prepare(source, &std::env::temp_dir(), Protocol::V6)
    }

    /// Returns the model's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves the model into the network's folder if it is not somewhere of its own.
    pub fn settle(self, network: &Path) -> Result<PathBuf> {
        if self.staged.is_none() {
            return Ok(self.dir);
        }
        let settled = layout::model(network);
        std::fs::rename(&self.dir, &settled)
            .with_context(|| format!("while moving the model to {}", settled.display()))?;
        Ok(settled)
    }
}

/// Returns where the model of the network in `network` lies, given what its settings name.
pub fn of_network(network: &Path, source: Option<&Path>) -> Result<PathBuf> {
    let settled = layout::model(network);
    match source {
        _ if settled.is_dir() => Ok(settled),
        Some(dir) if dir.is_dir() => Ok(dir.to_owned()),
        _ => bail!(
            "the model of the network in {} is gone; restore it, or start a new network",
            network.display()
        ),
    }
}

/// Returns the model that the trainer of a real network starts from; its roles keep their state in
/// `home`. What was imported once stays there.
pub fn of_subnet(home: &Path, source: Option<&Path>, protocol: Protocol) -> Result<PathBuf> {
    let settled = layout::model(home);
    if settled.is_dir() {
        return Ok(settled);
    }
    let source = source.context(
        "a trainer needs the model that its subnet starts from; name a folder or a GGUF file with \
         --model",
    )?;
    let source = (source != Path::new(EMBEDDED)).then_some(source);
    BaseModel::prepare(source, home, protocol)?.settle(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_moves_into_the_network() {
        let parent = tempfile::tempdir().unwrap();
        let base = BaseModel::prepare(None, parent.path(), Protocol::V6).unwrap();
        assert!(base.dir().join("config.json").is_file());
        let network = parent.path().join("run-001");
        std::fs::create_dir(&network).unwrap();
        let dir = base.settle(&network).unwrap();
        assert_eq!(of_network(&network, None).unwrap(), dir);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_folder_stays_where_it_is_and_nonsense_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let base = BaseModel::prepare(Some(folder.path()), parent.path(), Protocol::V6).unwrap();
        assert_eq!(base.settle(parent.path()).unwrap(), folder.path().canonicalize().unwrap());
        let absent = parent.path().join("absent.gguf");
        assert!(BaseModel::prepare(Some(&absent), parent.path(), Protocol::V6).is_err());
        std::fs::write(&absent, b"not a model").unwrap();
        assert!(BaseModel::prepare(Some(&absent), parent.path(), Protocol::V6).is_err());
        assert!(of_network(parent.path(), None).is_err());
        let error = of_subnet(parent.path(), None, Protocol::V6).unwrap_err().to_string();
        assert!(error.contains("--model"), "{error}");
    }
}
