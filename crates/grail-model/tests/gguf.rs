//! GGUF: unpacking equals gguf-py's, imports equal transformers', broken files are errors.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use grail_model::chat::{ChatMessage, ChatTemplate};
use grail_model::formats::config::ModelConfig;
use grail_model::formats::gguf::{GgmlType, Gguf};
use grail_model::formats::safetensors::TensorSource;
use grail_model::formats::{FormatError, import_gguf};
use grail_model::tokenizer::Tokenizer;
use proptest::prelude::*;
use support::{GgufBuilder, Mutation, from_hex, hex, vectors};

fn import(bytes: &[u8]) -> Result<(tempfile::TempDir, String), FormatError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, bytes).unwrap();
    let report = import_gguf(&file, &folder.path().join("out"), &mut |_| {})?;
    Ok((folder, hex(&report.files["model.safetensors"].sha256)))
}

fn refusal(bytes: &[u8]) -> String {
    import(bytes).expect_err("the file is refused").to_string()
}

#[test]
fn every_packed_type_unpacks_as_gguf_py_does() {
    let text = std::fs::read_to_string(vectors("gguf/quants.json")).unwrap();
    let cases: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(&text).unwrap();
    let mut n_types = 0;
    for ggml_type in GgmlType::ALL {
        let Some(case) = cases.get(ggml_type.name()) else { continue };
        let want = from_hex(&case["values"]);
        let mut values = vec![0.0; want.len() / 4];
        ggml_type.dequantise(&from_hex(&case["blocks"]), &mut values);
        let found: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(hex(&found), hex(&want), "{}", ggml_type.name());
        n_types += 1;
    }
    assert_eq!(n_types, 10, "all but F32 have a vector");
}

#[test]
fn imports_equal_what_transformers_makes_of_the_file() {
    let text = std::fs::read_to_string(vectors("gguf/expected.json")).unwrap();
    let expected: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    assert_eq!(expected.len(), 3);
    for (name, want) in expected {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("deep/er/model");
        let source = vectors(&format!("gguf/{name}.gguf"));
        let mut steps = Vec::new();
        let report = import_gguf(&source, &out, &mut |step| {
            steps.push((step.n_done, step.n_total));
        });
        let report = report.unwrap();
        assert_eq!(hex(&report.files["model.safetensors"].sha256), want, "{name}");

        // The shape is that of the model the file was made from; a file names no dtype.
        let golden = ModelConfig::load(&vectors(&format!("golden/{name}"))).unwrap();
        let made = ModelConfig::load(&out).unwrap();
        assert_eq!(made, ModelConfig { torch_dtype: made.torch_dtype, ..golden });
        assert_eq!(report.config, made);
        let n = made.tensors().len();
        assert_eq!(steps, (1..=n).map(|done| (done, n)).collect::<Vec<_>>());
        assert_eq!(report.source_types.values().sum::<usize>(), n);
        TensorSource::open(&out).unwrap().check(&made).unwrap();

        let tokenizer = Tokenizer::load(&out).unwrap();
        assert_eq!(tokenizer.encode("a aab<|im_end|>", true).unwrap(), [67, 94, 67, 68, 2]);
        assert_eq!(tokenizer.eos_token_ids(), [2]);
        assert_eq!(tokenizer.token_to_id("unused"), None, "a padding entry is no token");
        let chat = ChatTemplate::load(&out).unwrap();
        assert_eq!(chat.render(&[ChatMessage::new("user", "hi")], true).unwrap(), "hi");
        let names: Vec<_> = report.files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "config.json",
                "generation_config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json"
            ]
        );
    }
}

#[test]
fn qwen2_splits_words_by_its_own_rule() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("qwen2");
    import_gguf(&vectors("gguf/qwen2.gguf"), &out, &mut |_| {}).unwrap();
    let json = std::fs::read_to_string(out.join("tokenizer.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["normalizer"]["type"], "NFC");
    // The pattern of the published Qwen2.5 tokenizer.json.
    let pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| \
                   ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    assert_eq!(json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"], pattern);
}

#[test]
fn a_hand_made_file_imports() {
    let (folder, _) = import(&GgufBuilder::llama().build()).unwrap();
    let config = ModelConfig::load(&folder.path().join("out")).unwrap();
    assert_eq!((config.num_attention_heads, config.num_key_value_heads), (1, 1));
    assert_eq!(config.rope_theta, 10_000.0, "the default of a file that names none");
    assert!(config.tie_word_embeddings);
}

#[test]
fn gemma_imports_with_its_norms_and_its_tokenizer() {
    let (folder, _) = import(&GgufBuilder::gemma().build()).unwrap();
    let out = folder.path().join("out");
    let config = ModelConfig::load(&out).unwrap();
    assert_eq!((config.window(0), config.rope_local_base_freq), (Some(8), Some(10_000.0)));
    assert_eq!((config.query_pre_attn_scalar, config.bos_token_id), (Some(4.0), Some(2)));
    let weights = TensorSource::open(&out).unwrap();
    let norm = weights.to_f32("model.layers.0.post_feedforward_layernorm.weight").unwrap();
    assert_eq!(norm, [0.5, 0.0, -0.75, 0.0078125], "one is taken off again");
    let matrix = weights.to_f32("model.embed_tokens.weight").unwrap();
    assert!(matrix.iter().all(|value| *value == 0.25), "but not off matrices");

    let tokenizer = Tokenizer::load(&out).unwrap();
    let id = |piece: &str| tokenizer.token_to_id(piece).unwrap();
    let (bos, space) = (2, id("\u{2581}"));
    for (text, want) in [
        ("abb", vec![bos, id("abb")]),
        ("abab", vec![bos, id("ab"), id("ab")]),
        ("a a", vec![bos, id("a"), id("\u{2581}a")]),
        // The best merges first: the run of three, then a space of its own before the word.
        ("b    a", vec![bos, id("b"), id("▁▁▁"), id("\u{2581}a")]),
        ("b ", vec![bos, id("b"), space]),
        ("é", vec![bos, id("<0xC3>"), id("<0xA9>")]),
    ] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(ids, want, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}

#[test]
fn what_gemma_files_may_not_say_is_refused_by_name() {
    type Change = fn(&mut GgufBuilder);
    let cases: [(Change, &str); 10] = [
        (|file| file.text("tokenizer.ggml.model", "gpt2"), "tokenizer.ggml.model"),
        (|file| file.text("tokenizer.ggml.pre", "qwen2"), "tokenizer.ggml.pre"),
        (|file| file.bool("tokenizer.ggml.add_space_prefix", true), "add_space_prefix"),
        (|file| file.bool("tokenizer.ggml.add_bos_token", false), "add_bos_token"),
        (|file| file.bool("tokenizer.ggml.add_eos_token", true), "add_eos_token"),
        (|file| file.texts("tokenizer.ggml.scores", &["a"]), "scores"),
        (|file| file.u32("tokenizer.ggml.bos_token_id", 1 << 20), "bos_token_id"),
        (|file| file.u32("gemma3.attention.sliding_window", 0), "sliding_window"),
        (|file| file.text("gemma3.rope.scaling.type", "linear"), "RoPE scaling"),
        (|file| file.u32("gemma3.final_logit_softcapping", 3), "final_logit_softcapping"),
    ];
    for (change, want) in cases {
        let mut file = GgufBuilder::gemma();
        change(&mut file);
        let error = refusal(&file.build());
        assert!(error.contains(want), "expected {want:?} in: {error}");
    }
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    type Change = fn(&mut GgufBuilder);
    let cases: [(Change, &str); 14] = [
        (|file| file.text("general.architecture", "gemma2"), "\"gemma2\" is not supported"),
        (|file| file.text("tokenizer.ggml.pre", "llama-bpe"), "tokenizer.ggml.pre"),
        (|file| file.text("tokenizer.ggml.model", "llama"), "tokenizer.ggml.model"),
        (|file| file.bool("tokenizer.ggml.add_bos_token", true), "add_bos_token"),
        (|file| file.u32("llama.expert_count", 8), "llama.expert_count"),
        (|file| file.u32("llama.attention.sliding_window", 8), "sliding_window"),
        (|file| file.text("llama.rope.scaling.type", "yarn"), "yarn"),
        (|file| file.u32("llama.rope.dimension_count", 2), "rope.dimension_count"),
        (|file| file.u32("llama.block_count", 0), "num_hidden_layers"),
        (|file| file.u32("llama.block_count", 2), "blk.1."),
        (|file| file.u32("llama.embedding_length", 1 << 30), "hidden_size"),
        (|file| file.tensor("rope_freqs.weight", &[2], &[1.0; 2]), "rope_freqs"),
        (|file| file.tensor("extra.weight", &[2], &[1.0; 2]), "extra.weight"),
        (|file| file.tensor("output_norm.weight", &[4], &[f32::NAN; 4]), "not finite"),
    ];
    for (change, want) in cases {
        let mut file = GgufBuilder::llama();
        change(&mut file);
        let error = refusal(&file.build());
        assert!(error.contains(want), "expected {want:?} in: {error}");
        assert!(error.contains("model.gguf"), "the file is named: {error}");
    }
}

#[test]
fn broken_files_say_what_is_wrong() {
    let whole = std::fs::read(vectors("gguf/qwen2.gguf")).unwrap();
    let edit = |offset: usize, bytes: &[u8]| {
        let mut edited = whole.clone();
        edited[offset..offset + bytes.len()].copy_from_slice(bytes);
        edited
    };
    for (bytes, want) in [
        (Vec::new(), "letters GGUF"),
        (b"GG".to_vec(), "letters GGUF"),
        (b"{\"model_type\": \"llama\"}".to_vec(), "letters GGUF"),
        (whole[..20].to_vec(), "truncated"),
        (whole[..1000].to_vec(), "more than the file holds"),
        (whole[..whole.len() / 4].to_vec(), "truncated"),
        (whole[..whole.len() - 1].to_vec(), "ends beyond the file"),
        (edit(4, &1u32.to_le_bytes()), "version 1"),
        (edit(4, &3u32.to_be_bytes()), "big-endian"),
        (edit(8, &u64::MAX.to_le_bytes()), "claims"),
        (edit(16, &u64::MAX.to_le_bytes()), "claims"),
        // The length of the first key.
        (edit(24, &u64::MAX.to_le_bytes()), "truncated"),
    ] {
        let error = refusal(&bytes);
        assert!(error.contains(want), "expected {want:?} in: {error}");
    }
}

#[test]
fn a_lying_list_length_is_found_before_it_costs_anything() {
    for (kind, len) in [(8u32, 1u64 << 60), (0, 1 << 40), (9, 1 << 30), (6, u64::MAX)] {
        let mut file = GgufBuilder::llama();
        let mut value = kind.to_le_bytes().to_vec();
        value.extend(len.to_le_bytes());
        file.raw("general.tags", 9, value);
        let error = refusal(&file.build());
        assert!(error.contains("elements, more than the file holds"), "{error}");
    }
}

#[test]
fn an_existing_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "x").unwrap();
    let error = import_gguf(&vectors("gguf/llama.gguf"), &out, &mut |_| {}).unwrap_err();
    assert!(matches!(error, FormatError::Exists { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_failed_import_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let mut builder = GgufBuilder::llama();
    builder.tensor("output_norm.weight", &[4], &[f32::INFINITY; 4]);
    std::fs::write(&file, builder.build()).unwrap();
    import_gguf(&file, &folder.path().join("out"), &mut |_| {}).unwrap_err();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the source: {left:?}");
}

proptest! {
    #![proptest_config(support::cases(2000))]

    #[test]
    fn any_damage_is_an_error_or_harmless(mutations in prop::collection::vec(any::<Mutation>(), 1..4)) {
        let mut bytes = std::fs::read(vectors("gguf/qwen2.gguf")).unwrap();
        // Damage concerns the header most of the time: there a byte means something.
        let header = 5200;
        for mutation in &mutations {
            mutation.apply(&mut bytes, header);
        }
        if let Ok(gguf) = Gguf::parse(Path::new("damaged.gguf"), &bytes) {
            for (name, tensor) in gguf.tensors() {
                let n: usize = tensor.shape.iter().product();
                prop_assert!(n <= 64 * bytes.len(), "{name} is within the file");
            }
        }
    }

    #[test]
    fn foreign_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool) {
        if magic {
            let head = [&b"GGUF"[..], &3u32.to_le_bytes(), &1u64.to_le_bytes(), &1u64.to_le_bytes()];
            bytes.splice(0..0, head.concat());
        }
        let _ = Gguf::parse(Path::new("foreign.gguf"), &bytes);
    }
}

proptest! {
    #![proptest_config(support::cases(60))]

    #[test]
    fn damaged_files_import_whole_or_not_at_all(mutation: Mutation) {
        let mut bytes = std::fs::read(vectors("gguf/llama.gguf")).unwrap();
        mutation.apply(&mut bytes, 5200);
        if let Ok((folder, _)) = import(&bytes) {
            let out = folder.path().join("out");
            let config = ModelConfig::load(&out).unwrap();
            TensorSource::open(&out).unwrap().check(&config).unwrap();
            Tokenizer::load(&out).unwrap();
        }
    }
}
