//! The tokens that rows are measured on, and how much work a model makes of them.

use std::ops::Range;

use grail_model::formats::config::ModelConfig;
use grail_ports::model::{GenerateRequest, Sampling, ScoreRequest, TrainingSequence};
use grail_protocol::ids::TokenId;

/// Tokens of a prompt.
pub const PROMPT_TOKENS: usize = 48;
/// New tokens of a completion.
pub const NEW_TOKENS: u32 = 64;
/// Rollouts of a group.
pub const GROUP: usize = 16;
/// Sequences and their length in the rows for long inputs.
pub const LONG: (usize, usize) = (16, 512);
/// Sequences and their length in a training step.
pub const TRAIN: (usize, usize) = (8, 256);
/// How tokens are chosen unless a row is about that.
pub const RACE: Sampling = Sampling::Race { temperature: 1.0 };
/// Bytes that cold weights and the bandwidth are measured on: far more than a last-level cache.
pub const COLD_BYTES: usize = 256 << 20;

/// Token `i` of sequence `sequence`: any but the first ids, which are special in most vocabularies.
///
/// `benches/peers/work.py` has the same rule, so that every engine is given the same tokens.
pub fn token(model: &ModelConfig, sequence: usize, i: usize) -> TokenId {
    let first = 300.min(model.vocab_size / 2);
    let span = 40_000.min(model.vocab_size - first);
    let id = first + (i * 7919 + sequence * 104_729) % span;
    TokenId::try_from(id).unwrap_or(TokenId::MAX)
}

/// The first `len` tokens of sequence `sequence`.
pub fn tokens(model: &ModelConfig, sequence: usize, len: usize) -> Vec<TokenId> {
    (0..len).map(|i| token(model, sequence, i)).collect()
}

/// A request for `rollouts` completions of the prompt that is sequence `sequence`.
pub fn group(
    model: &ModelConfig,
    sequence: usize,
    rollouts: usize,
    max_new_tokens: u32,
) -> GenerateRequest {
    GenerateRequest {
        prompt: tokens(model, sequence, PROMPT_TOKENS),
        race_keys: keys(rollouts).collect(),
        sampling: RACE,
        max_new_tokens,
        whitening: None,
    }
}

/// Race keys of `count` rollouts.
pub fn keys(count: usize) -> impl Iterator<Item = [u32; 4]> {
    (0..).take(count).map(|rollout| [1, 2, 3, rollout])
}

/// Sequences to be scored from their second token on.
pub fn scored(model: &ModelConfig, (sequences, len): (usize, usize)) -> Vec<ScoreRequest> {
    let request = |sequence| ScoreRequest {
        tokens: tokens(model, sequence, len),
        prompt_len: 1,
        race: None,
        entropy: false,
        whitening: None,
        rows: false,
    };
    (0..sequences).map(request).collect()
}

/// Sequences to train on from their second token on.
pub fn trained(model: &ModelConfig, (sequences, len): (usize, usize)) -> Vec<TrainingSequence> {
    let request =
        |sequence| TrainingSequence { tokens: tokens(model, sequence, len), prompt_len: 1 };
    (0..sequences).map(request).collect()
}

/// A matrix of the model: its name, outputs and inputs.
pub type Matrix = (&'static str, usize, usize);

/// The matrices of a layer, those that share an input joined, and the LM head.
pub fn matrices(model: &ModelConfig) -> [Matrix; 5] {
    let q = model.num_attention_heads * model.head_dim;
    let kv = model.num_key_value_heads * model.head_dim;
    let (hidden, ffn) = (model.hidden_size, model.intermediate_size);
    [
        ("qkv", q + 2 * kv, hidden),
        ("o", hidden, q),
        ("gate_up", 2 * ffn, hidden),
        ("down", hidden, ffn),
        ("head", model.vocab_size, hidden),
    ]
}

/// Parameters in the matrices of all layers, and in the head.
pub fn matrix_parameters(model: &ModelConfig) -> (usize, usize) {
    let [layer @ .., (_, vocab, hidden)] = matrices(model);
    let in_layer: usize = layer.iter().map(|(_, n, k)| n * k).sum();
    (model.num_hidden_layers * in_layer, vocab * hidden)
}

/// Operations of attention (scores and values) for the queries at `positions` of one sequence.
pub fn attention_flop(model: &ModelConfig, positions: Range<usize>) -> f64 {
    let seen: usize = positions.map(|position| position + 1).sum();
    let width = model.num_hidden_layers * model.num_attention_heads * model.head_dim;
    4.0 * (seen * width) as f64
}

/// Operations of a forward pass over `sequences` sequences of `len` tokens; the head for
/// `head_rows` rows.
pub fn forward_flop(
    model: &ModelConfig,
    (sequences, len): (usize, usize),
    head_rows: usize,
) -> f64 {
    let (layers, head) = matrix_parameters(model);
    2.0 * (sequences * len * layers + head_rows * head) as f64
        + sequences as f64 * attention_flop(model, 0..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of SmolLM2-135M.
    fn smollm2() -> ModelConfig {
        let json = br#"{
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152,
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
            "tie_word_embeddings": true
        }"#;
        ModelConfig::from_json(json).unwrap()
    }

    #[test]
    fn matrices_hold_all_parameters_but_the_norms() {
        let model = smollm2();
        let (layers, head) = matrix_parameters(&model);
        let norms = (2 * model.num_hidden_layers + 1) * model.hidden_size;
        assert_eq!((layers + head + norms) as u64, model.n_parameters());
    }

    #[test]
    fn tokens_are_in_the_vocabulary_and_those_of_the_peers() {
        let model = smollm2();
        assert_eq!(tokens(&model, 0, 3), [300, 8219, 16138]);
        assert_eq!(token(&model, 3, 6), 300 + (6 * 7919 + 3 * 104_729) % 40_000);
        let small = ModelConfig { vocab_size: 7, ..model };
        assert!((0..100).all(|i| token(&small, i, i) < 7));
    }

    #[test]
    fn attention_is_counted_over_what_each_query_sees() {
        let model = ModelConfig { num_hidden_layers: 1, ..smollm2() };
        assert_eq!(attention_flop(&model, 0..2), 4.0 * 3.0 * 576.0);
        assert_eq!(attention_flop(&model, 9..10), 4.0 * 10.0 * 576.0);
    }
}
