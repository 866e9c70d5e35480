//! The files of a model folder: which of them make a checkpoint, and their digest.
//!
//! A checkpoint has four files. A base model may say more in others (a chat template of its own
//! file, end tokens in `generation_config.json`); that is folded into the four when training
//! starts, so that a checkpoint behaves like its base model and its digest covers all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use grail_ports::model::ModelError;
use grail_protocol::checkpoint::{CHECKPOINT_FILES, checkpoint_digest};
use grail_protocol::ids::Digest;
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::chat::{CHAT_TEMPLATE_FILE, ChatTemplate};
use crate::formats::config::{CONFIG_FILE, read_bounded};
use crate::formats::safetensors::{INDEX_FILE, WEIGHTS_FILE};
use crate::formats::{Dtype, FormatError, write_bytes};
use crate::tokenizer::{GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer};

/// The files beside the weights that a model folder may have.
pub(crate) const SMALL_FILES: [&str; 5] = [
    CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
];

/// The largest published file of these is a `tokenizer.json` of 33 MB.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 20;

/// Returns the checkpoint digest of the model folder `dir`.
///
/// # Errors
/// [`ModelError::Unloadable`] if a file cannot be read or the weights are in several files, which
/// the digest does not cover.
pub fn folder_digest(dir: &Path) -> Result<Digest, ModelError> {
    let mut digests = BTreeMap::new();
    for name in CHECKPOINT_FILES {
        let path = dir.join(name);
        if path.exists() {
            let digest = file_digest(&path).map_err(|error| unloadable(&error))?;
            digests.insert(name.to_owned(), digest);
        }
    }
    if !digests.contains_key(WEIGHTS_FILE) {
        let why = if dir.join(INDEX_FILE).exists() {
            "has its weights in several files; merge them into one model.safetensors"
        } else {
            "has no model.safetensors; import the model first"
        };
        return Err(ModelError::Unloadable(format!("{} {why}", dir.display())));
    }
    Ok(checkpoint_digest(&digests))
}

fn file_digest(path: &Path) -> Result<Digest, FormatError> {
    let mut file = File::open(path).map_err(FormatError::io("open", path))?;
    let mut hasher = sha2::Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(FormatError::io("read", path))?;
    Ok(Digest(hasher.finalize().into()))
}

/// Says which file is at fault when a model is read.
pub(crate) fn unloadable(error: &FormatError) -> ModelError {
    ModelError::Unloadable(error.to_string())
}

/// Says which folder is at fault when a model is written.
pub(crate) fn unwritable(path: &Path, error: &FormatError) -> ModelError {
    ModelError::Unwritable { path: path.display().to_string(), reason: error.to_string() }
}

/// Everything of a checkpoint but its weights.
#[derive(Clone, Debug)]
pub(crate) struct CompanionFiles {
    config: Map<String, Value>,
    /// The other files, by name; a folder without a tokenizer has none.
    others: BTreeMap<&'static str, Vec<u8>>,
}

impl CompanionFiles {
    /// Reads the companions of the model folder `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self, FormatError> {
        let mut config = read_object(&dir.join(CONFIG_FILE), CONFIG_FILE)?;
        let mut others = BTreeMap::new();
        for name in [TOKENIZER_FILE, TOKENIZER_CONFIG_FILE] {
            let path = dir.join(name);
            if path.exists() {
                others.insert(name, read_bounded(&path, SMALL_FILE_BYTES_MAX, name)?);
            }
        }
        if dir.join(GENERATION_CONFIG_FILE).exists() && others.contains_key(TOKENIZER_FILE) {
            config.insert("eos_token_id".into(), json!(Tokenizer::load(dir)?.eos_token_ids()));
        }
        if dir.join(CHAT_TEMPLATE_FILE).exists() {
            let path = dir.join(TOKENIZER_CONFIG_FILE);
            let mut keys = match others.contains_key(TOKENIZER_CONFIG_FILE) {
                true => read_object(&path, TOKENIZER_CONFIG_FILE)?,
                false => Map::new(),
            };
            let template = ChatTemplate::load(dir)?.source().to_owned();
            keys.insert("chat_template".into(), Value::String(template));
            others.insert(TOKENIZER_CONFIG_FILE, to_text(&Value::Object(keys)).into_bytes());
        }
        Ok(Self { config, others })
    }

    /// Writes the companions of weights stored as `dtype` into the folder `dir`, and adds their
    /// digests to `digests`.
    pub(crate) fn write(
        &self,
        dir: &Path,
        dtype: Dtype,
        digests: &mut BTreeMap<String, Digest>,
    ) -> Result<(), FormatError> {
        let mut config = self.config.clone();
        // Newer releases of `transformers` call it dtype, older ones torch_dtype.
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), json!(dtype.torch_name()));
        let config = to_text(&Value::Object(config)).into_bytes();
        let files = self.others.iter().map(|(name, bytes)| (*name, bytes));
        for (name, bytes) in files.chain([(CONFIG_FILE, &config)]) {
            write_bytes(&dir.join(name), bytes)?;
            digests.insert(name.to_owned(), Digest::of(bytes));
        }
        Ok(())
    }
}

fn to_text(value: &Value) -> String {
    format!("{value:#}\n")
}

fn read_object(path: &Path, name: &'static str) -> Result<Map<String, Value>, FormatError> {
    let bytes = read_bounded(path, SMALL_FILE_BYTES_MAX, name)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err(FormatError::broken(path, name, "expected a JSON object")),
        Err(error) => Err(FormatError::broken(path, name, format!("it is not JSON: {error}"))),
    }
}
