//! `config.json`: what is supported is read right, everything else is refused by name.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use grail_model::formats::Dtype;
use grail_model::formats::config::{Architecture, ConfigError, ModelConfig, RopeScaling};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Mutation, vectors};

/// Every model in the folder of golden vectors.
const GOLDEN: [&str; 10] = [
    "llama",
    "llama-linear",
    "llama-llama3",
    "qwen2",
    "qwen2-yarn",
    "qwen2-window",
    "qwen3",
    "qwen3-yarn-window",
    "gemma3",
    "gemma3-capped",
];

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
        json!({"num_experts": 0, "logits_scaling": 1, "auto_map": {}, "attention_chunk_size": null}),
        json!({"some_key_of_a_fork": {"a": 1}}),
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
        (json!({"rope_scaling": {"factor": 8.0}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "dynamic"),
        (json!({"rope_scaling": {"type": "longrope"}}), "longrope"),
        (json!({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}), "mrope"),
        (json!({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 1}}), "beta_fast"),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor"),
        (json!({"rope_parameters": {"full_attention": {}}}), "full_attention"),
        (json!({"rope_local_base_freq": 10000}), "rope_local_base_freq"),
        (json!({"quantization": {"bits": 4}}), "quantization"),
        (json!({"auto_map": {"AutoModelForCausalLM": "x.Y"}}), "auto_map"),
        (json!({"num_local_experts": 8}), "num_local_experts"),
        (json!({"embedding_multiplier": 12.0}), "embedding_multiplier"),
        (json!({"per_layer_config": {"0": {"head_dim": 8}}}), "per_layer_config"),
        (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        (json!({"query_pre_attn_scalar": 4}), "query_pre_attn_scalar"),
        (json!({"hidden_activation": "gelu_pytorch_tanh"}), "hidden_activation"),
        (json!({"rope_parameters": {"rope_theta": 5.0}}), "rope_theta"),
        (json!({"rope_scaling": 4}), "rope_scaling"),
        (json!({"sliding_window": 4096}), "sliding_window"),
        (json!({"use_sliding_window": true}), "use_sliding_window"),
        (json!({"layer_types": ["sliding_attention"]}), "layer_types"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        (json!({"layer_types": ["full_attention", "chunked_attention"]}), "chunked_attention"),
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

/// A Gemma 3 as published, in the layout before `transformers` 5.
fn gemma(changes: &Value) -> Value {
    let mut config = json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 100,
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768,
        "attn_logit_softcapping": null, "final_logit_softcapping": null,
        "cache_implementation": "hybrid", "query_pre_attn_scalar": 168, "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
        "sliding_window": 512, "sliding_window_pattern": 3, "eos_token_id": [1, 2],
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn gemma_has_its_own_keys_and_defaults() {
    let config = read(&gemma(&json!({}))).unwrap();
    assert_eq!(config.architecture, Architecture::Gemma3);
    assert!(config.tie_word_embeddings && config.has_qk_norm() && config.has_branch_norms());
    assert_eq!((config.rope_theta, config.rope_local_base_freq), (1e6, Some(1e4)));
    let windows: Vec<_> = (0..8).map(|layer| config.window(layer)).collect();
    let w = Some(512);
    assert_eq!(windows, [w, w, None, w, w, None, w, w]);
    assert_eq!(config.attention_scale(), (1.0 / 168f64.sqrt()) as f32);
    assert_eq!((config.embedding_scale(), config.norm_offset()), (Some(4.0), 1.0));

    let mut sparse = gemma(&json!({}));
    for key in [
        "head_dim",
        "query_pre_attn_scalar",
        "rope_local_base_freq",
        "rope_theta",
        "sliding_window",
        "sliding_window_pattern",
    ] {
        sparse.as_object_mut().unwrap().remove(key);
    }
    let sparse = read(&sparse).unwrap();
    assert_eq!((sparse.head_dim, sparse.query_pre_attn_scalar), (256, Some(256.0)));
    assert_eq!((sparse.rope_theta, sparse.rope_local_base_freq), (1e6, Some(1e4)));
    assert_eq!(
        (sparse.window(4), sparse.window(5), sparse.window(6)),
        (Some(4096), None, Some(4096))
    );

    let new = json!({
        "rope_theta": null, "rope_local_base_freq": null, "sliding_window_pattern": null,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    });
    let new = read(&gemma(&new)).unwrap();
    assert_eq!((new.rope_theta, new.rope_local_base_freq), (5e5, Some(2e4)));
    assert_eq!(new.rope_scaling, RopeScaling::Linear(8.0));
    let old = json!({
        "rope_theta": 5e5, "rope_local_base_freq": 2e4, "sliding_window_pattern": null,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    });
    assert_eq!(read(&gemma(&old)), Ok(new));
}

#[test]
fn gemma_refuses_by_name() {
    for (changes, want) in [
        (json!({"hidden_activation": "silu"}), "hidden_activation"),
        (json!({"hidden_act": "silu"}), "hidden_act"),
        (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        (json!({"sliding_window": null}), "sliding_attention"),
        (json!({"sliding_window": 0}), "sliding_window"),
        (json!({"sliding_window_pattern": 0}), "sliding_window_pattern"),
        (json!({"_sliding_window_pattern": 5}), "_sliding_window_pattern"),
        (json!({"use_sliding_window": false}), "use_sliding_window"),
        (json!({"layer_types": ["full_attention"]}), "layer_types"),
        (json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar"),
        (json!({"attn_logit_softcapping": -1}), "attn_logit_softcapping"),
        (json!({"final_logit_softcapping": "30"}), "final_logit_softcapping"),
        (json!({"rope_local_base_freq": 0.5}), "rope_local_base_freq"),
        (json!({"rope_parameters": {"rope_theta": 1e6}}), "rope_parameters.rope_theta"),
        (
            json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}}),
            "rope_parameters.sliding_attention",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": false}}),
            "truncate",
        ),
        (json!({"vision_config": {"layers": 3}}), "vision_config"),
        (json!({"mlp_bias": true}), "mlp_bias"),
    ] {
        let error = read(&gemma(&changes)).expect_err("refused").to_string();
        assert!(error.contains(want), "{changes}: {error}");
    }
}

#[test]
fn scaled_rope_is_read_from_either_layout() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    let old = read(&with(&json!({"rope_scaling": llama3, "rope_theta": 5e5}))).unwrap();
    let mut parameters = llama3.clone();
    parameters["rope_theta"] = json!(5e5);
    let new = json!({"rope_parameters": parameters, "rope_theta": null});
    assert_eq!(read(&with(&new)).unwrap(), old);
    let both = json!({"rope_parameters": parameters, "rope_scaling": llama3, "rope_theta": 5e5});
    assert_eq!(read(&with(&both)).unwrap(), old);
    let RopeScaling::Llama3(scaling) = old.rope_scaling else { panic!("{:?}", old.rope_scaling) };
    assert_eq!((scaling.factor, scaling.original_max_position_embeddings), (8.0, 32));

    // Defaults, and the original length where the file has it elsewhere or nowhere.
    for (changes, positions) in [
        (json!({"rope_scaling": {"type": "yarn", "factor": 4}}), 64),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4}, "original_max_position_embeddings": 16}),
            16,
        ),
    ] {
        let config = read(&with(&changes)).unwrap();
        let RopeScaling::Yarn(yarn) = config.rope_scaling else { panic!("{changes}") };
        assert_eq!((yarn.beta_fast, yarn.beta_slow, yarn.truncate), (32.0, 1.0, true));
        assert_eq!(yarn.original_max_position_embeddings, positions);
        assert_eq!(read(&serde_json::from_str(&config.to_json()).unwrap()).unwrap(), config);
    }
}

#[test]
fn scaled_rope_that_makes_no_sense_is_refused() {
    let llama3 = |key: &str, value: Value| {
        let mut keys = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        });
        keys[key] = value;
        json!({"rope_scaling": keys})
    };
    let yarn = |key: &str, value: Value| {
        let mut keys = json!({"rope_type": "yarn", "factor": 4.0});
        keys[key] = value;
        json!({"rope_scaling": keys})
    };
    for (changes, want) in [
        (llama3("factor", json!(0.5)), "rope_scaling.factor"),
        (llama3("factor", json!(null)), "rope_scaling.factor is missing"),
        (llama3("high_freq_factor", json!(1.0)), "high_freq_factor"),
        (llama3("low_freq_factor", json!("1")), "low_freq_factor"),
        (llama3("original_max_position_embeddings", json!(0)), "original_max_position_embeddings"),
        (llama3("attention_factor", json!(1.0)), "attention_factor"),
        (llama3("type", json!("yarn")), "rope_scaling.type"),
        (yarn("beta_fast", json!(0.5)), "beta_fast"),
        (yarn("truncate", json!(1)), "truncate"),
        (yarn("attention_factor", json!(0)), "attention_factor"),
        (yarn("finetuned", json!(true)), "finetuned"),
        (yarn("rope_theta", json!(2.0)), "rope_theta"),
        (json!({"rope_scaling": {"type": "yarn", "factor": 2}, "rope_theta": 1.0}), "rope_theta"),
        (
            json!({
                "rope_scaling": {"type": "linear", "factor": 2},
                "rope_parameters": {"rope_type": "linear", "factor": 4},
            }),
            "contradicts",
        ),
        (json!({"rope_scaling": {"rope_type": 4}}), "rope_scaling.rope_type"),
    ] {
        let error = read(&with(&changes)).expect_err("refused").to_string();
        assert!(error.contains(want), "{changes}: {error}");
    }
}

#[test]
fn windows_of_qwen_are_read() {
    let qwen = |changes: Value| {
        let mut keys = json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 3,
            "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2,
        });
        for (key, value) in changes.as_object().unwrap() {
            keys[key] = value.clone();
        }
        let config = read(&with(&keys)).unwrap();
        assert_eq!(read(&serde_json::from_str(&config.to_json()).unwrap()).unwrap(), config);
        (0..3).map(|layer| config.window(layer)).collect::<Vec<_>>()
    };
    assert_eq!(qwen(json!({})), [None, None, Some(8)]);
    assert_eq!(qwen(json!({"max_window_layers": 0})), [Some(8); 3]);
    assert_eq!(qwen(json!({"max_window_layers": 28})), [None; 3]);
    assert_eq!(qwen(json!({"sliding_window": null})), [None; 3]);
    assert_eq!(qwen(json!({"use_sliding_window": false})), [None; 3]);
    let types = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]});
    assert_eq!(qwen(types), [Some(8), None, None]);
}

#[test]
fn unknown_keys_are_named_and_known_ones_are_not() {
    let mut config = with(&json!({"some_key_of_a_fork": 1, "another": null}));
    let unknown = |config: &Value| ModelConfig::unknown_keys(config.to_string().as_bytes());
    assert_eq!(unknown(&config).unwrap(), ["some_key_of_a_fork", "another"]);
    config.as_object_mut().unwrap().retain(|key, _| key != "another");
    assert_eq!(unknown(&config).unwrap(), ["some_key_of_a_fork"]);
    // Every key that the classes of `transformers` write is known.
    for name in GOLDEN {
        let text = std::fs::read(vectors(&format!("golden/{name}/config.json"))).unwrap();
        assert!(ModelConfig::unknown_keys(&text).unwrap().is_empty(), "{name}");
    }
    assert!(ModelConfig::unknown_keys(b"[]").is_err());
}

#[test]
fn what_is_written_is_read_again() {
    for name in GOLDEN {
        let config = ModelConfig::load(&vectors(&format!("golden/{name}"))).unwrap();
        let written: Value = serde_json::from_str(&config.to_json()).unwrap();
        assert_eq!(read(&written).unwrap(), config);
        // `transformers` checks the type of each key and takes no 256.0 for it.
        let scalar = written.get("query_pre_attn_scalar");
        assert!(scalar.is_none_or(Value::is_u64), "{name}: {scalar:?}");
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
        is_gemma: bool,
    ) {
        let config = match is_gemma {
            true => gemma(&json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}})),
            false => with(&json!({"rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            }})),
        };
        let mut bytes = config.to_string().into_bytes();
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
