//! `config.json`: what is supported is read right, everything else is refused by name.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use grail_model::formats::Dtype;
use grail_model::formats::config::{Architecture, ConfigError, ModelConfig};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Mutation, vectors};

/// A small Llama in the layout before `transformers` 5.
fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100,
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "eos_token_id": 2, "torch_dtype": "bfloat16",
    })
}

fn with(changes: &Value) -> Value {
    let mut config = llama();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn read(config: &Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_json(config.to_string().as_bytes())
}

#[test]
fn the_golden_models_are_read() {
    for (name, architecture, head_dim, kv_heads, theta, tied) in [
        ("llama", Architecture::Llama, 8, 2, 1e4, true),
        ("qwen2", Architecture::Qwen2, 8, 1, 1e6, false),
        ("qwen3", Architecture::Qwen3, 8, 2, 1e6, false),
    ] {
        let config = ModelConfig::load(&vectors(&format!("golden/{name}"))).unwrap();
        assert_eq!(config.architecture, architecture);
        assert_eq!((config.head_dim, config.num_key_value_heads), (head_dim, kv_heads));
        assert_eq!((config.rope_theta, config.tie_word_embeddings), (theta, tied));
        assert_eq!(config.torch_dtype, Dtype::F32);
        assert_eq!(config.attention_bias, name == "qwen2");
        assert_eq!((config.has_qk_norm(), config.has_o_bias()), (name == "qwen3", false));
        assert_eq!(read(&serde_json::from_str(&config.to_json()).unwrap()).unwrap(), config);
    }
}

#[test]
fn absent_keys_take_the_defaults_of_the_class() {
    let config = read(&llama()).unwrap();
    assert_eq!((config.head_dim, config.tie_word_embeddings), (4, false));
    assert_eq!((config.bos_token_id, config.pad_token_id), (None, None));
    let mut sparse = llama();
    for key in ["num_key_value_heads", "rope_theta", "rms_norm_eps", "eos_token_id", "torch_dtype"]
    {
        sparse.as_object_mut().unwrap().remove(key);
    }
    let config = read(&sparse).unwrap();
    assert_eq!((config.num_key_value_heads, config.rope_theta), (4, 10_000.0));
    assert_eq!((config.rms_norm_eps, config.torch_dtype), (1e-6, Dtype::F32));
    assert!(config.eos_token_id.is_empty());
    let qwen3 = with(&json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}));
    assert_eq!(read(&qwen3).unwrap().head_dim, 128);
}

#[test]
fn harmless_keys_are_accepted() {
    for changes in [
        json!({"rope_scaling": null, "attention_dropout": 0.1, "use_cache": false}),
        json!({"rope_scaling": {"type": "default"}}),
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        json!({"rope_interleaved": false, "pretraining_tp": 1, "initializer_range": 0.02}),
        json!({"layer_types": ["full_attention", "full_attention"]}),
        json!({"eos_token_id": [1, 2, 3], "dtype": "float16"}),
        json!({"_name_or_path": "x", "transformers_version": "5.0", "mlp_bias": true}),
    ] {
        assert!(read(&with(&changes)).is_ok(), "{changes}");
    }
    let qwen = json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "use_sliding_window": false, "sliding_window": 131072, "max_window_layers": 28,
    });
    assert!(read(&with(&qwen)).is_ok(), "an unused window of Qwen2.5");
}

#[test]
fn what_would_change_the_result_is_refused_by_name() {
    for (changes, want) in [
        (json!({"architectures": ["GemmaForCausalLM"]}), "Qwen3ForCausalLM"),
        (json!({"architectures": ["Qwen2ForCausalLM"]}), "model_type"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}), "llama3"),
        (json!({"rope_scaling": {"factor": 8.0}}), "rope_scaling.factor"),
        (json!({"rope_parameters": {"rope_type": "yarn"}}), "yarn"),
        (json!({"rope_parameters": {"rope_theta": 5.0}}), "rope_theta"),
        (json!({"rope_scaling": 4}), "rope_scaling"),
        (json!({"sliding_window": 4096}), "sliding_window"),
        (json!({"use_sliding_window": true}), "use_sliding_window"),
        (json!({"layer_types": ["sliding_attention"]}), "layer_types"),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"rope_interleaved": true}), "rope_interleaved"),
        (json!({"torch_dtype": "int8"}), "int8"),
        (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
    ] {
        let error = read(&with(&changes)).expect_err("refused").to_string();
        assert!(error.contains(want), "{changes}: {error}");
    }
}

#[test]
fn dimensions_are_bounded() {
    for (changes, want) in [
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"vocab_size": 1u64 << 40}), "vocab_size"),
        (json!({"vocab_size": -1}), "vocab_size"),
        (json!({"vocab_size": null}), "vocab_size is missing"),
        (json!({"hidden_size": 16.5}), "hidden_size"),
        (json!({"hidden_size": "16"}), "hidden_size"),
        (json!({"hidden_size": 18}), "head_dim is missing"),
        (json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
        (json!({"num_key_value_heads": 3}), "not a multiple"),
        (json!({"num_key_value_heads": 8}), "num_key_value_heads"),
        (json!({"head_dim": 5}), "odd"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": 2.0}), "rms_norm_eps"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"eos_token_id": 100}), "vocab_size"),
        (json!({"eos_token_id": [1, -1]}), "eos_token_id"),
        (json!({"architectures": []}), "architectures"),
        (json!({"architectures": "LlamaForCausalLM"}), "architectures"),
    ] {
        let error = read(&with(&changes)).expect_err("refused").to_string();
        assert!(error.contains(want), "{changes}: {error}");
    }
}

#[test]
fn foreign_files_are_errors_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let oversized = vec![b' '; (1 << 20) + 1];
    for bytes in [&b""[..], b"{", b"[]", b"\xff\xfe", b"GGUF\x03\0\0\0", &oversized] {
        std::fs::write(&file, bytes).unwrap();
        let error = ModelConfig::load(folder.path()).expect_err("refused").to_string();
        assert!(error.contains("config.json") && error.contains("fetch or export"), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    let error = ModelConfig::load(folder.path()).expect_err("refused").to_string();
    assert!(error.contains("cannot open"), "{error}");
}

#[test]
fn parameters_are_counted_once() {
    // SmolLM2-135M: 49152 * 576 + 30 layers * 3540096 + 576.
    let config = with(&json!({
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": true,
    }));
    assert_eq!(read(&config).unwrap().n_parameters(), 134_515_008);
}

proptest! {
    #![proptest_config(support::cases(1000))]

    #[test]
    fn damage_never_panics_and_what_is_read_is_within_bounds(
        mutations in prop::collection::vec(any::<Mutation>(), 1..4),
    ) {
        let mut bytes = llama().to_string().into_bytes();
        for mutation in &mutations {
            mutation.apply(&mut bytes, usize::MAX);
        }
        if let Ok(config) = ModelConfig::from_json(&bytes) {
            prop_assert_eq!(config.validate(), Ok(()));
            prop_assert!(config.n_parameters() > 0);
            prop_assert_eq!(ModelConfig::from_json(config.to_json().as_bytes()), Ok(config));
        }
    }
}
