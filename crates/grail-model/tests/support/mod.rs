//! What several test files share: vectors, hexadecimal, damage, hand-made GGUF files.

// Every test binary compiles this file and uses its own part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;

/// Returns the path of a committed vector.
pub fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Runs `n` cases. A failure prints its smallest input, which then becomes a test of its own.
pub fn cases(n: u32) -> ProptestConfig {
    ProptestConfig { cases: n, failure_persistence: None, ..ProptestConfig::default() }
}

/// One kind of damage a file can suffer. Positions are fractions, so they fit any length.
#[derive(Clone, Debug)]
pub enum Mutation {
    Flip { at: f64, bit: u8 },
    Overwrite { at: f64, bytes: Vec<u8> },
    Truncate { at: f64 },
    Extend { bytes: Vec<u8> },
    Remove { at: f64, n: usize },
    Insert { at: f64, bytes: Vec<u8> },
}

impl Arbitrary for Mutation {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> BoxedStrategy<Self> {
        let at = || 0.0..1.0f64;
        // Bytes that lengths and counts react to, beside random ones.
        let bytes = prop_oneof![
            Just(vec![0xff; 8]),
            Just(vec![0; 8]),
            Just(vec![0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]),
            prop::collection::vec(any::<u8>(), 1..16),
        ];
        prop_oneof![
            4 => (at(), 0..8u8).prop_map(|(at, bit)| Self::Flip { at, bit }),
            4 => (at(), bytes.clone()).prop_map(|(at, bytes)| Self::Overwrite { at, bytes }),
            1 => at().prop_map(|at| Self::Truncate { at }),
            1 => bytes.clone().prop_map(|bytes| Self::Extend { bytes }),
            1 => (at(), 1..20usize).prop_map(|(at, n)| Self::Remove { at, n }),
            1 => (at(), bytes).prop_map(|(at, bytes)| Self::Insert { at, bytes }),
        ]
        .boxed()
    }
}

impl Mutation {
    /// Damages `bytes`, three times out of four within the first `header` bytes.
    pub fn apply(&self, bytes: &mut Vec<u8>, header: usize) {
        let place = |at: f64, len: usize| -> usize {
            let header = header.min(len);
            let position =
                if at < 0.75 { at / 0.75 * header as f64 } else { (at - 0.75) * 4.0 * len as f64 };
            (position as usize).min(len)
        };
        let len = bytes.len();
        match self {
            Self::Flip { at, bit } => {
                if let Some(byte) = bytes.get_mut(place(*at, len)) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Overwrite { at, bytes: new } => {
                let at = place(*at, len);
                let n = new.len().min(len - at);
                bytes[at..at + n].copy_from_slice(&new[..n]);
            }
            Self::Truncate { at } => bytes.truncate(place(*at, len)),
            Self::Extend { bytes: new } => bytes.extend(new),
            Self::Remove { at, n } => {
                let at = place(*at, len);
                bytes.drain(at..(at + n).min(len));
            }
            Self::Insert { at, bytes: new } => {
                let at = place(*at, len);
                bytes.splice(at..at, new.iter().copied());
            }
        }
    }
}

/// Writes GGUF files by hand. Setting a key or tensor again replaces it.
pub struct GgufBuilder {
    pairs: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl GgufBuilder {
    /// A Llama with one layer, one head of four values and six tokens.
    pub fn llama() -> Self {
        let mut file = Self { pairs: Vec::new(), tensors: Vec::new() };
        file.text("general.architecture", "llama");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 16),
            ("embedding_length", 4),
            ("feed_forward_length", 2),
            ("attention.head_count", 1),
        ] {
            file.u32(&format!("llama.{key}"), value);
        }
        file.raw("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f32.to_le_bytes().to_vec());
        file.text("tokenizer.ggml.model", "gpt2");
        file.text("tokenizer.ggml.pre", "smollm");
        file.texts("tokenizer.ggml.tokens", &["<e>", "a", "b", "ab", "c"]);
        let types = [3u32, 1, 1, 1, 1];
        let mut list = 5u32.to_le_bytes().to_vec();
        list.extend((types.len() as u64).to_le_bytes());
        list.extend(types.iter().flat_map(|kind| kind.to_le_bytes()));
        file.raw("tokenizer.ggml.token_type", 9, list);
        file.texts("tokenizer.ggml.merges", &["a b"]);
        file.u32("tokenizer.ggml.eos_token_id", 0);

        let ramp = |n: usize| (0..n).map(|i| i as f32 / 8.0 - 0.5).collect::<Vec<_>>();
        file.tensor("token_embd.weight", &[6, 4], &ramp(24));
        file.tensor("output_norm.weight", &[4], &ramp(4));
        for (name, shape) in [
            ("attn_norm", &[4][..]),
            ("ffn_norm", &[4]),
            ("attn_q", &[4, 4]),
            ("attn_k", &[4, 4]),
            ("attn_v", &[4, 4]),
            ("attn_output", &[4, 4]),
            ("ffn_gate", &[2, 4]),
            ("ffn_up", &[2, 4]),
            ("ffn_down", &[4, 2]),
        ] {
            file.tensor(&format!("blk.0.{name}.weight"), shape, &ramp(shape.iter().product()));
        }
        file
    }

    /// A Gemma 3 with one layer, one head of four values and a token for each byte, three words and
    /// runs of two and three spaces.
    pub fn gemma() -> Self {
        let mut file = Self::llama();
        for (key, ..) in &mut file.pairs {
            *key = key.replace("llama.", "gemma3.");
        }
        file.text("general.architecture", "gemma3");
        file.u32("gemma3.attention.sliding_window", 8);
        file.text("tokenizer.ggml.model", "llama");
        file.text("tokenizer.ggml.pre", "default");
        file.pairs.retain(|(key, ..)| key != "tokenizer.ggml.merges");
        let mut tokens: Vec<(String, u32, f32)> =
            ["<pad>", "<eos>", "<bos>", "<unk>"].map(|name| (name.to_owned(), 3, -1000.0)).to_vec();
        tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
        tokens.extend(["  ", "   "].map(|run| (run.to_owned(), 4, -1000.0)));
        for (rank, word) in ["ab", "abb", "\u{2581}a", "a", "b", "\u{2581}"].into_iter().enumerate()
        {
            tokens.push((word.to_owned(), 1, -(rank as f32)));
        }
        let n_tokens = tokens.len();
        let list = |kind: u32, values: Vec<u8>| {
            let mut list = kind.to_le_bytes().to_vec();
            list.extend((n_tokens as u64).to_le_bytes());
            list.extend(values);
            list
        };
        let names: Vec<&str> = tokens.iter().map(|token| token.0.as_str()).collect();
        file.texts("tokenizer.ggml.tokens", &names);
        let types = tokens.iter().flat_map(|token| token.1.to_le_bytes()).collect();
        file.raw("tokenizer.ggml.token_type", 9, list(5, types));
        let scores = tokens.iter().flat_map(|token| token.2.to_le_bytes()).collect();
        file.raw("tokenizer.ggml.scores", 9, list(6, scores));
        for (name, id) in [("eos", 1), ("bos", 2), ("unknown", 3), ("padding", 0)] {
            file.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
        file.bool("tokenizer.ggml.add_bos_token", true);
        file.bool("tokenizer.ggml.add_space_prefix", false);

        file.tensor("token_embd.weight", &[n_tokens, 4], &vec![0.25; 4 * n_tokens]);
        for name in ["post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"] {
            file.tensor(&format!("blk.0.{name}.weight"), &[4], &[1.5, 1.0, 0.25, 1.0078125]);
        }
        file
    }

    pub fn raw(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.pairs.retain(|(known, ..)| known != key);
        self.pairs.push((key.to_owned(), kind, value));
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.raw(key, 4, value.to_le_bytes().to_vec());
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.raw(key, 7, vec![value.into()]);
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.raw(key, 8, text(value));
    }

    pub fn texts(&mut self, key: &str, values: &[&str]) {
        let mut list = 8u32.to_le_bytes().to_vec();
        list.extend((values.len() as u64).to_le_bytes());
        list.extend(values.iter().flat_map(|value| text(value)));
        self.raw(key, 9, list);
    }

    /// Adds an F32 tensor; `shape` is outermost first.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.retain(|(known, ..)| known != name);
        self.tensors.push((name.to_owned(), shape.to_vec(), bytes));
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            file.extend(text(key));
            file.extend(kind.to_le_bytes());
            file.extend(value);
        }
        let mut data = Vec::new();
        for (name, shape, bytes) in &self.tensors {
            file.extend(text(name));
            file.extend((shape.len() as u32).to_le_bytes());
            file.extend(shape.iter().rev().flat_map(|size| (*size as u64).to_le_bytes()));
            file.extend(0u32.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
    bytes.extend(value.as_bytes());
    bytes
}
