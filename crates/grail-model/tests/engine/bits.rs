//! The contract exact-1: nothing but weights and tokens changes a bit.

use grail_kernels::Kernels;
use grail_model::EngineConfig;
use grail_ports::model::{Completion, GenerateRequest, ScoreRequest};
use grail_protocol::sketch::sketches_of;
use proptest::prelude::*;

use crate::models::{
    NAMES, bf16, bits, edge_requests, engine, generate, golden, isas, kernels, model_in,
    plain_engine, race_key, request, score, score_requests, sketched, tokens,
};

fn configs() -> Vec<EngineConfig> {
    let base = EngineConfig::default();
    vec![
        EngineConfig { max_running_sequences: 1, ..base },
        EngineConfig { max_running_sequences: 3, prefill_rows_max: 5, ..base },
        EngineConfig { prefill_rows_max: 1, layer_rows_max: 1, score_rows_max: 1, ..base },
        EngineConfig { layer_rows_max: 7, score_rows_max: 50, ..base },
        // Blocks of the llama are 4 kB: room for one or two groups at a time.
        EngineConfig { kv_bytes_max: 60_000, ..base },
    ]
}

/// Each completion generated alone, so that no prompt is shared.
fn one_by_one(dir: &std::path::Path, requests: &[GenerateRequest]) -> Vec<Vec<Completion>> {
    let engine = plain_engine(dir);
    let alone = |request: &GenerateRequest, key: &[u32; 4]| {
        let single = GenerateRequest { race_keys: vec![*key], ..request.clone() };
        generate(&engine, &[single]).remove(0).remove(0)
    };
    requests
        .iter()
        .map(|request| request.race_keys.iter().map(|key| alone(request, key)).collect())
        .collect()
}

#[test]
fn generation_does_not_depend_on_the_batch() {
    for name in NAMES {
        let model = bf16(name);
        let dir = model_in(&model);
        let plain = plain_engine(&dir);
        let requests = sketched(&plain, edge_requests());
        let base = generate(&plain, &requests);
        assert_eq!(one_by_one(&dir, &requests), base, "{name}: batch 1 and ragged batch");
        for config in configs() {
            let engine = engine(&dir, kernels(1), config);
            assert_eq!(generate(&engine, &requests), base, "{name} {config:?}");
        }
        let reversed: Vec<_> = requests.iter().rev().cloned().collect();
        let mut groups = generate(&plain_engine(&dir), &reversed);
        groups.reverse();
        assert_eq!(groups, base, "{name}: order of the requests");
    }
}

#[test]
fn scoring_gives_the_bits_of_generation() {
    for name in NAMES {
        let model = bf16(name);
        let dir = model_in(&model);
        let plain = plain_engine(&dir);
        let requests = sketched(&plain, edge_requests());
        let groups = generate(&plain, &requests);
        let sequences = score_requests(&requests, &groups);
        let completions: Vec<&Completion> = groups.iter().flatten().collect();
        for config in configs().into_iter().chain([EngineConfig::default()]) {
            let engine = engine(&dir, kernels(1), config);
            for (score, completion) in score(&engine, &sequences).iter().zip(&completions) {
                assert_eq!(bits(&score.logprobs), bits(&completion.logprobs), "{name}");
                assert_eq!(score.winners, completion.tokens, "{name}");
                assert!(score.margins.iter().all(|&margin| margin == 0.0), "{name}");
                assert_eq!(score.hidden_digest, completion.hidden_digest, "{name}");
                assert_eq!(score.sketches, completion.sketches, "{name}");
                assert_eq!(score.sketches.len(), sketches_of(completion.tokens.len()));
            }
        }
        // Without neighbours that share the prompt.
        let engine = plain_engine(&dir);
        let together = score(&engine, &sequences);
        for (sequence, expected) in sequences.iter().zip(&together) {
            assert_eq!(score(&engine, std::slice::from_ref(sequence))[0], *expected);
        }
    }
}

#[test]
fn threads_and_instruction_sets_give_the_same_bits() {
    for name in NAMES {
        let model = bf16(name);
        for dir in [model_in(&model), golden(name)] {
            let requests = sketched(&plain_engine(&dir), edge_requests());
            let mut base = None;
            for isa in isas() {
                for threads in [1, 2, 3] {
                    let kernels = Kernels::with_isa(isa, threads).unwrap();
                    let engine = engine(&dir, kernels, EngineConfig::default());
                    let groups = generate(&engine, &requests);
                    let scores = score(&engine, &score_requests(&requests, &groups));
                    let logits = bits(&engine.logits(&tokens(70, 5)).unwrap());
                    let found = (groups, scores, logits);
                    let base = base.get_or_insert_with(|| found.clone());
                    assert_eq!(found, *base, "{name} {isa} {threads} threads");
                }
            }
        }
    }
}

#[test]
fn a_wide_model_gives_the_same_bits_on_every_path() {
    // Widths that are no multiple of a vector or a panel, and enough work for several threads.
    let json = r#"{
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 1003,
        "hidden_size": 150, "intermediate_size": 331, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 34,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": true
    }"#;
    let config = grail_model::formats::config::ModelConfig::from_json(json.as_bytes()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    grail_model::initialise(&config, 11, dir.path()).unwrap();
    let requests: Vec<_> =
        (0..3).map(|group| request(tokens(40 + 13 * group as usize, group), group, 5, 9)).collect();
    let mut base = None;
    for isa in isas() {
        for threads in [1, 2] {
            let kernels = Kernels::with_isa(isa, threads).unwrap();
            let engine = engine(dir.path(), kernels, EngineConfig::default());
            let groups = generate(&engine, &requests);
            let scores = score(&engine, &score_requests(&requests, &groups));
            for (score, completion) in scores.iter().zip(groups.iter().flatten()) {
                assert_eq!(score.hidden_digest, completion.hidden_digest);
            }
            assert_eq!(*base.get_or_insert_with(|| groups.clone()), groups, "{isa} {threads}");
        }
    }
}

/// A miner and a validator of different releases must agree for as long as the contract is
/// `exact-1`, so these constants may never change with it.
#[test]
fn the_digest_of_fixed_weights_and_tokens_is_fixed() {
    let found = NAMES.map(|name| {
        let sequence = ScoreRequest {
            tokens: tokens(100, 1),
            prompt_len: 20,
            race: None,
            entropy: false,
            whitening: None,
            rows: false,
        };
        score(&plain_engine(&golden(name)), &[sequence])[0].hidden_digest.to_hex()
    });
    assert_eq!(
        found,
        [
            "5ff3267c3c98d5134706f16f157056527000b379b16c9ecc64c4a224fe45430c",
            "eff7e8b0095e9e12ff508db354e94ab12ee802205d37f2683420c6fab7ede2e2",
            "4c186f87af8b8cb2914d65a60dfa3335dd22c6ef82f637fa9769b6b722cf6dde",
            "57682a27aaa5ab841eb6228eca5b0e07c20251586d754138ac08244914c25c9b",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_mix_of_sequences_scores_as_each_alone(
        lens in prop::collection::vec((1usize..40, 1usize..30, 0u32..3), 1..7),
        score_rows_max in 1usize..120,
        layer_rows_max in 1usize..40,
    ) {
        let engine = engine(
            &golden("qwen3"),
            kernels(2),
            EngineConfig { score_rows_max, layer_rows_max, ..EngineConfig::default() },
        );
        // Prompts of one seed are prefixes of each other and sometimes equal.
        let sequences: Vec<ScoreRequest> = lens
            .iter()
            .zip(0..)
            .map(|(&(prompt_len, completion_len, seed), idx)| ScoreRequest {
                tokens: [tokens(prompt_len, seed), tokens(completion_len, idx + 9)].concat(),
                prompt_len,
                race: Some(grail_ports::model::RaceCheck {
                    key: race_key(seed, idx),
                    temperature: if idx % 2 == 0 { 1.0 } else { 0.7 },
                }),
                entropy: idx % 3 == 0,
                whitening: None,
                rows: false,
            })
            .collect();
        let plain = plain_engine(&golden("qwen3"));
        for (sequence, got) in sequences.iter().zip(score(&engine, &sequences)) {
            prop_assert_eq!(&score(&plain, std::slice::from_ref(sequence))[0], &got);
        }
    }
}
