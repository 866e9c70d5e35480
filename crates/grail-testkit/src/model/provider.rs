//! Checkpoints of the fake model on disk, in real safetensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use grail_ports::model::{Model, ModelError, ModelInfo, ModelProvider, Trainer};
use grail_protocol::checkpoint::checkpoint_digest;
use grail_protocol::checkpoint::tensors::TensorIndex;
use grail_protocol::constants::NUMERICS_EXACT;
use grail_protocol::ids::Digest;

use super::memo::Memo;
use super::weights::{
    EMBEDDING_SIZE, HIDDEN_SIZE, N_EMBEDDING, N_HEAD, N_ROWS, VOCAB, VOCAB_SIZE, Weights,
};
use super::{END, FakeModel, FakeTrainer, POSITIONS_MAX};
use crate::lock;

const CONFIG: &str = "{\"architectures\":[\"FakeForCausalLM\"],\"hidden_size\":16,\
                      \"max_position_embeddings\":4096,\"vocab_size\":128}";
const TOKENIZER: &str = "{\"fake\":\"one token for each ASCII character\"}";
const TOKENIZER_CONFIG: &str = "{\"fake\":\"a line break, the role's first letter, the content\"}";
const WEIGHTS_FILE: &str = "model.safetensors";

/// Loads fake models; equal checkpoints are shared while somebody holds them.
#[derive(Default)]
pub struct FakeProvider {
    loaded: Mutex<BTreeMap<Digest, Weak<FakeModel>>>,
    failures: Mutex<u32>,
    is_bf16: bool,
    /// What models were asked, by the digest of their checkpoint; `None` remembers nothing.
    memos: Option<Mutex<BTreeMap<Digest, Arc<Memo>>>>,
}

impl FakeProvider {
    /// Makes a provider whose models compute in bf16, see [`FakeModel::in_bf16`].
    pub fn in_bf16() -> Self {
        Self { is_bf16: true, ..Self::default() }
    }

    /// Makes a provider whose models remember the texts that they scored, so that the hundredth
    /// equal checkpoint costs nothing more.
    pub fn remembering() -> Self {
        Self { memos: Some(Mutex::default()), ..Self::default() }
    }

    /// Makes the next `n` calls fail, as a disk that is full or broken would.
    pub fn fail_next(&self, n: u32) {
        *lock(&self.failures) = n;
    }

    fn check_failures(&self) -> Result<(), ModelError> {
        let mut failures = lock(&self.failures);
        if let Some(left) = failures.checked_sub(1) {
            *failures = left;
            return Err(ModelError::Unloadable("a test asked for this failure".to_owned()));
        }
        Ok(())
    }
}

impl ModelProvider for FakeProvider {
    fn load(&self, dir: &Path) -> Result<Arc<dyn Model>, ModelError> {
        self.check_failures()?;
        let model = FakeModel::from_weights(read_checkpoint(dir)?);
        let mut model = if self.is_bf16 { model.in_bf16() } else { model };
        if let Some(memos) = &self.memos {
            model.memo = Some(lock(memos).entry(model.info.checkpoint_digest).or_default().clone());
        }
        let mut loaded = lock(&self.loaded);
        let digest = model.info.checkpoint_digest;
        if let Some(shared) = loaded.get(&digest).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let model = Arc::new(model);
        loaded.insert(digest, Arc::downgrade(&model));
        Ok(model)
    }

    fn trainer(&self, dir: &Path) -> Result<Box<dyn Trainer>, ModelError> {
        self.check_failures()?;
        Ok(Box::new(FakeTrainer::new(read_checkpoint(dir)?)))
    }
}

/// Returns the files of a checkpoint by name.
fn files_of(weights: &Weights) -> BTreeMap<String, Vec<u8>> {
    [
        ("config.json", CONFIG.as_bytes().to_vec()),
        (WEIGHTS_FILE, to_safetensors(weights)),
        ("tokenizer.json", TOKENIZER.as_bytes().to_vec()),
        ("tokenizer_config.json", TOKENIZER_CONFIG.as_bytes().to_vec()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

fn digest_of(files: &BTreeMap<String, Vec<u8>>) -> Digest {
    let hash = |(name, bytes): (&String, &Vec<u8>)| (name.clone(), Digest::of(bytes));
    checkpoint_digest(&files.iter().map(hash).collect())
}

pub(super) fn info_of(weights: &Weights) -> ModelInfo {
    let small = |n: usize| u32::try_from(n).expect("the fake model is small");
    ModelInfo {
        architecture: "FakeForCausalLM".to_owned(),
        parameters: u64::from(small(N_EMBEDDING + N_HEAD)),
        hidden_size: small(HIDDEN_SIZE),
        vocab_size: VOCAB_SIZE,
        max_position_embeddings: small(POSITIONS_MAX),
        eos_token_ids: vec![END],
        checkpoint_digest: digest_of(&files_of(weights)),
        tokenizer_digest: Digest::of(TOKENIZER.as_bytes()),
        numerics: NUMERICS_EXACT.to_owned(),
    }
}

pub(super) fn write_checkpoint(weights: &Weights, dir: &Path) -> Result<Digest, ModelError> {
    let files = files_of(weights);
    fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
    for (name, bytes) in &files {
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))?;
    }
    Ok(digest_of(&files))
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> ModelError {
    ModelError::Unwritable { path: path.display().to_string(), reason: error.to_string() }
}

fn read_checkpoint(dir: &Path) -> Result<Weights, ModelError> {
    let unloadable = |name: &str, reason: String| {
        ModelError::Unloadable(format!("{}: {reason}", dir.join(name).display()))
    };
    for (name, want) in [
        ("config.json", CONFIG),
        ("tokenizer.json", TOKENIZER),
        ("tokenizer_config.json", TOKENIZER_CONFIG),
    ] {
        let bytes =
            fs::read(dir.join(name)).map_err(|error| unloadable(name, error.to_string()))?;
        if bytes != want.as_bytes() {
            return Err(unloadable(name, "not of a fake model".to_owned()));
        }
    }
    let bytes = fs::read(dir.join(WEIGHTS_FILE))
        .map_err(|error| unloadable(WEIGHTS_FILE, error.to_string()))?;
    from_safetensors(&bytes)
        .ok_or_else(|| unloadable(WEIGHTS_FILE, "not the weights of a fake model".to_owned()))
}

/// The header is the same for all fake models: only values differ.
fn safetensors_header() -> Vec<u8> {
    let embedding = 4 * N_EMBEDDING;
    let head = embedding + 4 * N_ROWS;
    let bias = embedding + 4 * N_HEAD;
    let mut json = format!(
        "{{\"embed_tokens.weight\":{{\"dtype\":\"F32\",\"shape\":[{VOCAB},{EMBEDDING_SIZE}],\
         \"data_offsets\":[0,{embedding}]}},\
         \"lm_head.weight\":{{\"dtype\":\"F32\",\"shape\":[{VOCAB},{HIDDEN_SIZE}],\
         \"data_offsets\":[{embedding},{head}]}},\
         \"lm_head.bias\":{{\"dtype\":\"F32\",\"shape\":[{VOCAB}],\
         \"data_offsets\":[{head},{bias}]}}}}"
    );
    // Data are aligned to 8 bytes.
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header
}

fn to_safetensors(weights: &Weights) -> Vec<u8> {
    let mut bytes = safetensors_header();
    let values = weights.embedding.iter().chain(&weights.head);
    bytes.extend(values.flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Finds the tensors by their names: whoever applies a delta may order them anew.
fn from_safetensors(bytes: &[u8]) -> Option<Weights> {
    let (length, rest) = bytes.split_first_chunk()?;
    let size = u64::try_from(bytes.len()).ok()?;
    let (header, data) = rest.split_at_checked(TensorIndex::header_length(*length, size).ok()?)?;
    let index = TensorIndex::parse(header, u64::try_from(data.len()).ok()?).ok()?;
    let tensor = |name: &str, len: usize| {
        let entry =
            index.tensors.iter().find(|entry| entry.name == name && entry.dtype == "F32")?;
        let place =
            usize::try_from(entry.range.start).ok()?..usize::try_from(entry.range.end).ok()?;
        Some(floats(data.get(place)?)).filter(|values| values.len() == len)
    };
    let rows = tensor("lm_head.weight", N_ROWS)?;
    let bias = tensor("lm_head.bias", N_HEAD - N_ROWS)?;
    let head = [rows, bias].concat();
    Some(Weights { embedding: tensor("embed_tokens.weight", N_EMBEDDING)?, head })
}

/// Reads little-endian f32; a tail of less than 4 bytes is left out.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}
