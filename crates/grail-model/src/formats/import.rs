//! Brings a model into the one layout that is served, checking all of it on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::FormatError;
use super::config::{CONFIG_FILE, ModelConfig};
use super::gguf::import_gguf;
use super::safetensors::{INDEX_FILE, TensorSource, WEIGHTS_FILE};
use super::storing::{write_file, write_folder};
use crate::chat::{CHAT_TEMPLATE_FILE, ChatTemplate};
use crate::tokenizer::{GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer};

/// The files of a model folder beside its weights; only the first two must be there.
const SMALL_FILES: [&str; 5] = [
    CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
];

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportProgress<'a> {
    /// Steps done, the one named by `item` included.
    pub n_done: usize,
    /// Steps in all.
    pub n_total: usize,
    /// The tensor or file just written or checked.
    pub item: &'a str,
}

/// What an import made.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportReport {
    /// The new model folder.
    pub folder: PathBuf,
    /// The shape of the model.
    pub config: ModelConfig,
    /// Number of tensors by the type they were stored as in the source.
    pub source_types: BTreeMap<&'static str, usize>,
    /// Every file of the folder with its size and SHA-256, by name.
    pub files: BTreeMap<String, FileDigest>,
}

/// The identity of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Size in bytes.
    pub n_bytes: u64,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

/// Imports `source`, a GGUF file or a Hugging Face folder, as the new folder `out`.
///
/// # Errors
///
/// As [`import_gguf`] and [`import_folder`].
pub fn import_model(
    source: &Path,
    out: &Path,
    progress: &mut dyn FnMut(ImportProgress<'_>),
) -> Result<ImportReport, FormatError> {
    if source.is_dir() {
        import_folder(source, out, progress)
    } else {
        import_gguf(source, out, progress)
    }
}

/// Copies the Hugging Face folder `source` to the new folder `out` and checks the copy: the
/// configuration, the shape and every value of every tensor, the tokenizer, the chat template.
///
/// # Errors
///
/// [`FormatError`] naming the file at fault, or [`FormatError::Exists`]; `out` is made whole or
/// not at all.
pub fn import_folder(
    source: &Path,
    out: &Path,
    progress: &mut dyn FnMut(ImportProgress<'_>),
) -> Result<ImportReport, FormatError> {
    let config = ModelConfig::load(source)?;
    // Opening lists the shards and refuses a broken header before gigabytes are copied.
    let shards = TensorSource::open(source)?.file_names();
    let small = SMALL_FILES.iter().copied().filter(|name| source.join(name).exists());
    let index = (!source.join(WEIGHTS_FILE).exists()).then_some(INDEX_FILE);
    let names: Vec<String> = small.chain(index).map(str::to_owned).chain(shards).collect();
    let n_total = names.len() + config.tensors().len();
    let source_types = write_folder(out, |folder| {
        for (idx, name) in names.iter().enumerate() {
            copy(&source.join(name), &folder.join(name))?;
            progress(ImportProgress { n_done: idx + 1, n_total, item: name });
        }
        let mut n_done = names.len();
        check_folder(folder, &mut |item| {
            n_done += 1;
            progress(ImportProgress { n_done, n_total, item });
        })
        .map_err(|error| error.relocate(folder, source))
    })?;
    report(out, config, source_types)
}

/// Reads a whole model folder, calls `checked` after each tensor and returns the number of tensors
/// by stored type.
pub(super) fn check_folder(
    folder: &Path,
    checked: &mut dyn FnMut(&str),
) -> Result<BTreeMap<&'static str, usize>, FormatError> {
    let config = ModelConfig::load(folder)?;
    Tokenizer::load(folder)?.check(&config, folder)?;
    ChatTemplate::load(folder)?;
    let weights = TensorSource::open(folder)?;
    weights.check(&config)?;
    let mut types = BTreeMap::new();
    for name in weights.names() {
        // Reading finds values that are not finite.
        weights.to_f32(name)?;
        *types.entry(weights.tensor(name)?.dtype.name()).or_default() += 1;
        checked(name);
    }
    Ok(types)
}

/// Describes the finished folder `out`.
pub(super) fn report(
    out: &Path,
    config: ModelConfig,
    source_types: BTreeMap<&'static str, usize>,
) -> Result<ImportReport, FormatError> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(out).map_err(FormatError::io("read", out))? {
        let entry = entry.map_err(FormatError::io("read", out))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, digest(&entry.path())?);
    }
    Ok(ImportReport { folder: out.to_owned(), config, source_types, files })
}

fn digest(path: &Path) -> Result<FileDigest, FormatError> {
    let mut file = File::open(path).map_err(FormatError::io("open", path))?;
    let mut hasher = Sha256::new();
    let n_bytes = std::io::copy(&mut file, &mut hasher).map_err(FormatError::io("read", path))?;
    Ok(FileDigest { n_bytes, sha256: hasher.finalize().into() })
}

/// Copies the content alone: a link of a download cache becomes a file, and no permission or
/// attribute of the source follows.
fn copy(from: &Path, to: &Path) -> Result<(), FormatError> {
    let file = File::open(from).map_err(FormatError::io("open", from))?;
    // The length at the start bounds a file that grows while it is read.
    let len = file.metadata().map_err(FormatError::io("read", from))?.len();
    let mut reader = BufReader::new(file).take(len);
    write_file(to, |writer| {
        std::io::copy(&mut reader, writer).map_err(FormatError::io("copy to", to)).map(drop)
    })
}
