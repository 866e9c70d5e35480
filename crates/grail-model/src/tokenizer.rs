//! Text to token ids and back, as `tokenizer.json` defines it.

mod bytes;
mod stream;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::formats::FormatError;
use crate::formats::config::{CONFIG_FILE, ModelConfig, read_bounded, token_ids};

pub use self::stream::StreamDecoder;

use self::bytes::Spelling;

/// The vocabulary, merges and splitting rules.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Special tokens by role, and often the chat template.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Settings of generation; here only which tokens end a completion.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// The largest published `tokenizer.json` (a vocabulary of 262 144) has 33 MB.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
const SETTINGS_BYTES_MAX: u64 = 4 << 20;

/// Ids above this are an error of the file; a table indexed by id stays small.
const TOKEN_ID_MAX: u32 = 1 << 20;

/// Text that could not be tokenised, or ids that name no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The tokenizer refused a text.
    #[error(
        "cannot tokenise a text of {n_bytes} bytes: {reason}; check the model's {TOKENIZER_FILE}"
    )]
    Encode {
        /// Length of the text.
        n_bytes: usize,
        /// The tokenizer's words.
        reason: String,
    },
    /// The tokenizer refused ids.
    #[error("cannot decode {n_tokens} tokens: {reason}; check the model's {TOKENIZER_FILE}")]
    Decode {
        /// Number of ids.
        n_tokens: usize,
        /// The tokenizer's words.
        reason: String,
    },
}

/// A model's tokenizer. Cheap to share behind an `Arc`, safe to use from several threads.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    spelling: Spelling,
    vocab_size: usize,
    eos_token_ids: Vec<u32>,
    eos_token_id: Option<u32>,
    digest: [u8; 32],
}

impl Tokenizer {
    /// Loads the tokenizer of the model folder `dir`.
    ///
    /// The tokens that end a completion are those of `generation_config.json`, else those of
    /// `config.json`, and always the `eos_token` of `tokenizer_config.json`, which ends a turn.
    ///
    /// # Errors
    ///
    /// [`FormatError`] naming the file.
    pub fn load(dir: &Path) -> Result<Self, FormatError> {
        let path = dir.join(TOKENIZER_FILE);
        let bytes = read_bounded(&path, TOKENIZER_BYTES_MAX, TOKENIZER_FILE)?;
        let mut tokenizer = Self::from_bytes(&path, &bytes)?;
        let mut eos = read_eos_ids(dir, GENERATION_CONFIG_FILE)?;
        if eos.is_empty() {
            eos = read_eos_ids(dir, CONFIG_FILE)?;
        }
        let config = read_tokenizer_config(dir)?;
        if let Some(token) = config.special_tokens.get("eos_token") {
            let id = tokenizer.token_to_id(token).ok_or_else(|| {
                let reason = format!("its eos_token {token:?} is not in {TOKENIZER_FILE}");
                let path = dir.join(TOKENIZER_CONFIG_FILE);
                FormatError::broken(&path, TOKENIZER_CONFIG_FILE, reason)
            })?;
            eos.push(id);
            tokenizer.eos_token_id = Some(id);
        }
        eos.sort_unstable();
        eos.dedup();
        tokenizer.eos_token_ids = eos;
        Ok(tokenizer)
    }

    /// Parses a `tokenizer.json`; `path` stands for it in errors. No token ends a completion.
    ///
    /// # Errors
    ///
    /// [`FormatError::Broken`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, FormatError> {
        let broken = |reason: String| FormatError::broken(path, TOKENIZER_FILE, reason);
        let mut inner = parse(bytes).map_err(broken)?;
        // A truncating tokenizer would silently drop the end of a prompt.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| broken(error.to_string()))?;
        let largest = inner.get_vocab(true).into_values().max();
        let largest = largest.ok_or_else(|| broken("it has no tokens".into()))?;
        if largest > TOKEN_ID_MAX {
            return Err(broken(format!(
                "it has a token id {largest}, at most {TOKEN_ID_MAX} fits"
            )));
        }
        Ok(Self {
            spelling: Spelling::of(&inner),
            inner,
            vocab_size: usize::try_from(largest).map_err(|error| broken(error.to_string()))? + 1,
            eos_token_ids: Vec::new(),
            eos_token_id: None,
            digest: Sha256::digest(bytes).into(),
        })
    }

    /// Checks that every token id has a row in the model's embedding.
    ///
    /// # Errors
    ///
    /// [`FormatError::Broken`] with both sizes: the folder mixes two models.
    pub fn check(&self, config: &ModelConfig, dir: &Path) -> Result<(), FormatError> {
        if self.vocab_size <= config.vocab_size {
            return Ok(());
        }
        let reason = format!(
            "it has token ids up to {}, but the model's vocab_size is {}",
            self.vocab_size - 1,
            config.vocab_size
        );
        Err(FormatError::broken(&dir.join(TOKENIZER_FILE), TOKENIZER_FILE, reason))
    }

    /// Returns the ids of `text`. With `add_special_tokens` the tokenizer's own frame (such as a
    /// BOS token) is added; a rendered chat template has it already.
    ///
    /// The text of a special token inside `text` becomes that token, as in `transformers`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Encode`], for a vocabulary that cannot express the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|error| {
            TokenizerError::Encode { n_bytes: text.len(), reason: error.to_string() }
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the text of `ids`. Bytes that are no UTF-8 become U+FFFD; ids without a token are
    /// skipped, as in `transformers`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`].
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| TokenizerError::Decode {
            n_tokens: ids.len(),
            reason: error.to_string(),
        })
    }

    /// Returns a decoder that gives out text as tokens arrive.
    pub fn stream(&self, skip_special_tokens: bool) -> StreamDecoder<&Self> {
        StreamDecoder::new(self, skip_special_tokens)
    }

    /// Returns the bytes that a token stands for in a text, which may be a part of a character;
    /// empty for an id without a token. Special tokens give the bytes of their own spelling.
    ///
    /// A decoder may treat the first token of a text differently (leading space); this does not.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.spelling.bytes(&self.inner, id)
    }

    /// Returns the largest token id plus one. A model's `vocab_size` may be larger (padding).
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Returns the tokens that end a completion, ascending; empty for a base model without any.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// Returns the `eos_token` of `tokenizer_config.json`, which is one of
    /// [`Tokenizer::eos_token_ids`].
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// Returns the id of a token given in the tokenizer's own spelling, e.g. `<|im_end|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the tokenizer's spelling of `id`.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns the SHA-256 of `tokenizer.json`: two parties with the same digest agree on every
    /// token.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// Parses with the `tokenizers` crate, which panics on some broken files (a section that is no
/// JSON, a subword prefix longer than a merge): to the caller such a file is broken like any other.
fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    if let Err(error) = serde_json::from_slice::<Value>(bytes) {
        return Err(format!("it is not JSON: {error}"));
    }
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(parsed) => parsed.map_err(|error| error.to_string()),
        Err(_) => Err("its sections do not fit each other".into()),
    }
}

/// The parts of `tokenizer_config.json` that matter here.
#[derive(Debug, Default)]
pub(crate) struct TokenizerConfig {
    /// `bos_token`, `eos_token`, ... with their texts.
    pub special_tokens: BTreeMap<String, String>,
    /// The (default) chat template.
    pub chat_template: Option<String>,
}

/// Reads `tokenizer_config.json` of `dir`; a folder without one has no special tokens by role.
pub(crate) fn read_tokenizer_config(dir: &Path) -> Result<TokenizerConfig, FormatError> {
    let path = dir.join(TOKENIZER_CONFIG_FILE);
    let Some(keys) = read_settings(&path, TOKENIZER_CONFIG_FILE)? else {
        return Ok(TokenizerConfig::default());
    };
    let mut config = TokenizerConfig::default();
    for (key, value) in &keys {
        // A token is its text, or an object with its text in `content`.
        let text = value.get("content").unwrap_or(value);
        if let (true, Value::String(text)) = (key.ends_with("_token"), text) {
            config.special_tokens.insert(key.clone(), text.clone());
        }
    }
    config.chat_template = match keys.get("chat_template") {
        None | Some(Value::Null) => None,
        Some(Value::String(source)) => Some(source.clone()),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let source = default.and_then(|entry| entry["template"].as_str()).ok_or_else(|| {
                let reason = "its list of chat templates has none named \"default\"";
                FormatError::broken(&path, TOKENIZER_CONFIG_FILE, reason)
            })?;
            Some(source.to_owned())
        }
        Some(_) => {
            let reason = "its chat_template is neither a text nor a list of named texts";
            return Err(FormatError::broken(&path, TOKENIZER_CONFIG_FILE, reason));
        }
    };
    Ok(config)
}

fn read_eos_ids(dir: &Path, file: &'static str) -> Result<Vec<u32>, FormatError> {
    let path = dir.join(file);
    let Some(keys) = read_settings(&path, file)? else { return Ok(Vec::new()) };
    match keys.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => token_ids(value).ok_or_else(|| {
            let reason = format!("its eos_token_id is {value}, expected a token id or a list");
            FormatError::broken(&path, file, reason)
        }),
    }
}

/// Reads a JSON object, or `None` if there is no such file.
fn read_settings(
    path: &Path,
    format: &'static str,
) -> Result<Option<Map<String, Value>>, FormatError> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(path, SETTINGS_BYTES_MAX, format)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(keys)) => Ok(Some(keys)),
        Ok(_) => Err(FormatError::broken(path, format, "expected a JSON object")),
        Err(error) => Err(FormatError::broken(path, format, format!("it is not JSON: {error}"))),
    }
}
