//! Makes the folder of a new, tiny Llama: about one million parameters and a byte-level tokenizer.
//!
//! The network that comes with the command starts from such a model, so that a whole subnet runs
//! on a laptop. Everything is a function of the seed: same seed, same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use grail_ports::model::ModelError;
use serde_json::{Map, Value, json};

use crate::formats::config::ModelConfig;

/// Tokens that frame a chat message; the second one also ends a completion.
const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Size of the embedding: bytes, specials and merges, rounded up so that panels are full.
const VOCAB_SIZE: usize = 384;

/// Words that get a token of their own, so that prompts of our environments stay short.
/// A leading space belongs to the word, as in every byte-level tokenizer.
const WORDS: [&str; 24] = [
    "system",
    "user",
    "assistant",
    "What",
    " is",
    " Answer",
    " with",
    " the",
    " number",
    " only",
    " and",
    " or",
    " not",
    "Find",
    " values",
    " that",
    " make",
    " every",
    " clause",
    " true",
    " x",
    " +",
    " -",
    " =",
];

const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\n' }}{% endif %}";

/// Creates `dir` with `config.json`, the tokenizer files and random weights drawn from `seed`.
///
/// # Errors
/// [`ModelError::Unwritable`] when a file cannot be written.
pub fn create(dir: &Path, seed: u64) -> Result<(), ModelError> {
    let write = |name: &str, value: &Value| {
        let path = dir.join(name);
        let text = format!("{value:#}\n");
        fs::write(&path, text).map_err(|error| unwritable(&path, &error))
    };
    fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
    write("tokenizer.json", &tokenizer_json())?;
    write("tokenizer_config.json", &tokenizer_config_json())?;
    let config = ModelConfig::from_json(config_json().to_string().as_bytes())
        .map_err(|error| ModelError::Unloadable(error.to_string()))?;
    crate::init::initialise(&config, seed, dir)
}

fn unwritable(path: &Path, error: &std::io::Error) -> ModelError {
    ModelError::Unwritable { path: path.display().to_string(), reason: error.to_string() }
}

fn config_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": null,
        "eos_token_id": special_id("<|im_end|>"),
        "torch_dtype": "bfloat16",
    })
}

fn tokenizer_config_json() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHATML,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": false,
    })
}

fn special_id(token: &str) -> usize {
    SPECIAL_TOKENS
        .iter()
        .position(|special| *special == token)
        .expect("only names of SPECIAL_TOKENS are looked up")
}

/// Byte-level BPE: specials, the 256 bytes, then one merge after another that build [`WORDS`].
fn tokenizer_json() -> Value {
    let mut vocab = Map::new();
    for token in SPECIAL_TOKENS {
        vocab.insert(token.to_owned(), json!(vocab.len()));
    }
    for byte in 0..=u8::MAX {
        vocab.insert(byte_symbol(byte).to_string(), json!(vocab.len()));
    }
    let merges = word_merges();
    for (left, right) in &merges {
        vocab.insert(format!("{left}{right}"), json!(vocab.len()));
    }
    assert!(vocab.len() <= VOCAB_SIZE, "{} tokens do not fit", vocab.len());
    let added: Vec<Value> = SPECIAL_TOKENS
        .iter()
        .map(|token| {
            json!({
                "id": special_id(token), "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level.clone()],
        },
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
        },
    })
}

/// Returns the merges that build each word letter by letter, each pair once.
///
/// A pair that an earlier word already made would change how a later word is cut, so each word is
/// replayed through the merges found so far.
fn word_merges() -> Vec<(String, String)> {
    let mut merges: Vec<(String, String)> = Vec::new();
    let mut known = BTreeSet::new();
    for word in WORDS {
        let mut parts: Vec<String> =
            word.bytes().map(|byte| byte_symbol(byte).to_string()).collect();
        for (left, right) in &merges {
            apply_merge(&mut parts, left, right);
        }
        while parts.len() > 1 {
            let pair = (parts[0].clone(), parts[1].clone());
            apply_merge(&mut parts, &pair.0, &pair.1);
            if known.insert(pair.clone()) {
                merges.push(pair);
            }
        }
    }
    merges
}

fn apply_merge(parts: &mut Vec<String>, left: &str, right: &str) {
    let mut at = 0;
    while at + 1 < parts.len() {
        if parts[at] == left && parts[at + 1] == right {
            let tail = parts.remove(at + 1);
            parts[at].push_str(&tail);
        }
        at += 1;
    }
}

/// Returns the printable stand-in of a byte in byte-level vocabularies: printable Latin-1 stands
/// for itself, the other 68 bytes take the code points from 256 on, in order.
fn byte_symbol(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|other| !printable(*other)).count();
    u32::try_from(rank)
        .ok()
        .and_then(|rank| char::from_u32(256 + rank))
        .expect("68 code points from 256 on are letters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    fn tokenizer() -> (tempfile::TempDir, Tokenizer) {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), 7).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        (dir, tokenizer)
    }

    #[test]
    fn any_text_round_trips() {
        let (_dir, tokenizer) = tokenizer();
        for text in ["What is 17 + 5 - 8?", "x1=1 x2=0", "Grüße, 世界\n\t", "", "  a  b "] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
    }

    #[test]
    fn words_of_the_prompts_are_one_token_each_and_digits_stand_alone() {
        let (_dir, tokenizer) = tokenizer();
        for (text, tokens) in [("assistant", 1), (" Answer with the number only", 5), ("1234", 4)] {
            assert_eq!(tokenizer.encode(text, false).unwrap().len(), tokens, "{text}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_bytes() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        create(first.path(), 3).unwrap();
        create(second.path(), 3).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            let read = |dir: &tempfile::TempDir| fs::read(dir.path().join(file)).unwrap();
            assert_eq!(read(&first), read(&second), "{file}");
        }
    }
}
