//! Rebuilds `tokenizer.json` and its settings from the vocabulary inside a GGUF file.
//!
//! The file names its way of splitting text by a word (`tokenizer.ggml.pre`), not by a rule, so
//! only words whose rule is known are accepted: a wrong split gives wrong tokens without an error.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::sentencepiece;
use super::{FORMAT, Gguf, MetaValue};
use crate::chat::ChatTemplate;
use crate::formats::FormatError;
use crate::formats::config::{Architecture, ModelConfig};

/// Token types of the file.
pub(super) const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// How text is split into words before the merges apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    /// SmolLM: single digits, then GPT-2's rule.
    SmolLm,
    /// Qwen2 and later: NFC, then one pattern.
    Qwen2,
    /// Gemma 3: not at all; characters without a token become bytes.
    Gemma,
}

/// A BPE vocabulary: byte-level, or for Gemma with byte fallback.
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    split: Split,
    tokens: Vec<Cow<'a, str>>,
    types: Vec<u64>,
    merges: Vec<Value>,
    chat_template: Option<&'a str>,
    unk_token_id: Option<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

impl<'a> Vocabulary<'a> {
    /// Reads and checks the vocabulary of the model of `config`.
    pub(super) fn read(gguf: &Gguf<'a>, config: &ModelConfig) -> Result<Self, FormatError> {
        let vocab_size = config.vocab_size;
        let broken = |reason: String| FormatError::broken(gguf.path(), FORMAT, reason);
        let key = |name: &str| gguf.value(&format!("tokenizer.ggml.{name}"));
        let unsupported = |name: &str, supported: &str| {
            let found = key(name).map_or("missing".into(), |value| format!("{value:?}"));
            let what = format!(
                "tokenizer.ggml.{name} is {found}, only {supported} is supported; \
                 use this model's Hugging Face folder"
            );
            FormatError::unsupported(gguf.path(), what)
        };
        let gemma = config.architecture == Architecture::Gemma3;
        let (model, description) = match gemma {
            true => ("llama", "\"llama\" (SentencePiece)"),
            false => ("gpt2", "\"gpt2\" (byte-level BPE)"),
        };
        if key("model") != Some(MetaValue::Text(model)) {
            return Err(unsupported("model", description));
        }
        let split = match key("pre") {
            Some(MetaValue::Text("smollm")) if !gemma => Split::SmolLm,
            Some(MetaValue::Text("qwen2")) if !gemma => Split::Qwen2,
            None | Some(MetaValue::Text("default")) if gemma => Split::Gemma,
            _ if gemma => return Err(unsupported("pre", "\"default\"")),
            _ => return Err(unsupported("pre", "\"smollm\" or \"qwen2\"")),
        };
        // What is absent is false here, but in a SentencePiece file true.
        for (name, wanted) in
            [("add_bos_token", gemma), ("add_eos_token", false), ("add_space_prefix", false)]
        {
            let absent = gemma && name != "add_eos_token";
            let found = match key(name) {
                None => Some(absent),
                Some(MetaValue::Bool(found)) => Some(found),
                Some(_) => None,
            };
            if found != Some(wanted) {
                return Err(unsupported(name, if wanted { "true" } else { "false" }));
            }
        }
        let list = |name: &str| broken(format!("its tokenizer.ggml.{name} is missing or no list"));
        let tokens = key("tokens").and_then(MetaValue::as_texts).ok_or_else(|| list("tokens"))?;
        let types = key("token_type").and_then(MetaValue::as_integers);
        let types = types.ok_or_else(|| list("token_type"))?;
        if tokens.is_empty() || tokens.len() > vocab_size || types.len() != tokens.len() {
            return Err(broken(format!(
                "it has {} tokens and {} token types for {vocab_size} embedding rows",
                tokens.len(),
                types.len()
            )));
        }
        if tokens.iter().collect::<BTreeSet<_>>().len() != tokens.len() {
            return Err(broken("a token occurs twice in its vocabulary".into()));
        }
        let (tokens, merges) = if gemma {
            let scores = key("scores").and_then(MetaValue::as_numbers);
            let scores = scores.filter(|scores| scores.len() == tokens.len());
            let scores = scores.ok_or_else(|| list("scores"))?;
            let pieces = sentencepiece::pieces(&tokens, &types);
            let merges = sentencepiece::merges(&pieces, &types, &scores).map_err(broken)?;
            (pieces, merges)
        } else {
            let merges = key("merges").and_then(MetaValue::as_texts);
            let merges = merges.ok_or_else(|| list("merges"))?.into_iter().map(Value::from);
            (tokens.into_iter().map(Cow::Borrowed).collect(), merges.collect())
        };
        let id = |name: &str| match key(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
                Some(id) if usize::try_from(id).is_ok_and(|id| id < tokens.len()) => Ok(Some(id)),
                _ => Err(broken(format!("its tokenizer.ggml.{name} is {value:?}"))),
            },
        };
        let chat_template = gguf.value("tokenizer.chat_template").and_then(MetaValue::as_text);
        if let Some(source) = chat_template {
            ChatTemplate::new(source.to_owned(), BTreeMap::new())
                .map_err(|error| broken(error.to_string()))?;
        }
        if gemma && (key("bos_token_id").is_none() || key("unknown_token_id").is_none()) {
            return Err(broken("it has no bos_token_id or no unknown_token_id".into()));
        }
        // End of text and, where a file has one, end of turn.
        let eos: BTreeSet<u32> =
            id("eos_token_id")?.into_iter().chain(id("eot_token_id")?).collect();
        Ok(Self {
            split,
            chat_template,
            unk_token_id: id("unknown_token_id")?,
            bos_token_id: id("bos_token_id")?,
            pad_token_id: id("padding_token_id")?,
            eos_token_ids: eos.into_iter().collect(),
            tokens,
            types,
            merges,
        })
    }

    /// Writes `tokenizer.json`; the same vocabulary gives the same bytes.
    pub(super) fn tokenizer_json(&self) -> String {
        let gemma = self.split == Split::Gemma;
        let entries = || (0u32..).zip(self.tokens.iter().zip(&self.types));
        let added: Vec<Value> = entries()
            .filter(|(_, (_, kind))| {
                [CONTROL, USER_DEFINED].contains(kind) || gemma && **kind == UNKNOWN
            })
            .map(|(id, (token, kind))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *kind != USER_DEFINED,
                })
            })
            .collect();
        // Unused entries fill the table up to the embedding's rows; they stand for no text.
        let vocab: Map<String, Value> = entries()
            .filter(|(_, (_, kind))| **kind != UNUSED)
            .map(|(id, (token, _))| (token.clone().into_owned(), json!(id)))
            .collect();
        let (normalizer, pre_tokenizer, post_processor) = self.rules();
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": match self.split {
                Split::Gemma => sentencepiece::gemma_decoder(),
                split => byte_level(split == Split::SmolLm, true),
            },
            "model": {
                "type": "BPE", "dropout": null,
                "unk_token": if gemma { self.text(self.unk_token_id) } else { None },
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": gemma, "byte_fallback": gemma, "ignore_merges": false,
                "vocab": vocab, "merges": self.merges,
            },
        });
        format!("{tokenizer}\n")
    }

    /// Writes `tokenizer_config.json` with the special tokens and the chat template.
    pub(super) fn tokenizer_config_json(&self, config: &ModelConfig) -> String {
        let text = |id| self.text(id);
        let settings = json!({
            // The class that takes tokenizer.json as it is; others replace its splitting rules.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": text(self.bos_token_id),
            "eos_token": text(self.eos_token_ids.first().copied()),
            "pad_token": text(self.pad_token_id),
            "unk_token": text(self.unk_token_id),
            "clean_up_tokenization_spaces": false,
            "model_max_length": config.max_position_embeddings,
            "chat_template": self.chat_template,
        });
        format!("{settings:#}\n")
    }
}

impl Vocabulary<'_> {
    fn text(&self, id: Option<u32>) -> Option<&str> {
        let id = usize::try_from(id?).ok()?;
        self.tokens.get(id).map(Cow::as_ref)
    }

    /// Returns normaliser, pre-tokenizer and post-processor of `tokenizer.json`, as the published
    /// files of these models have them.
    fn rules(&self) -> (Value, Value, Value) {
        match self.split {
            Split::Gemma => {
                let bos_id = self.bos_token_id.unwrap_or_default();
                sentencepiece::gemma_rules(self.text(Some(bos_id)).unwrap_or_default(), bos_id)
            }
            Split::SmolLm => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                let split = json!({
                    "type": "Sequence",
                    "pretokenizers": [digits, byte_level(false, true)],
                });
                (Value::Null, split, Value::Null)
            }
            Split::Qwen2 => {
                // Contractions, words, single digits, punctuation, line ends, spaces.
                let pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| \
                     ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
                let words = json!({
                    "type": "Split", "pattern": {"Regex": pattern},
                    "behavior": "Isolated", "invert": false,
                });
                let split = json!({
                    "type": "Sequence",
                    "pretokenizers": [words, byte_level(false, false)],
                });
                (json!({"type": "NFC"}), split, byte_level(false, false))
            }
        }
    }
}

/// The mapping of bytes to printable characters, with GPT-2's splitting rule where `use_regex`.
fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": add_prefix_space,
        "trim_offsets": use_regex, "use_regex": use_regex,
    })
}
