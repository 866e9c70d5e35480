//! Tokenizer and chat files of a folder, and the import of whole folders.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::path::{Path, PathBuf};

use grail_model::chat::{ChatMessage, ChatTemplate};
use grail_model::formats::config::ModelConfig;
use grail_model::formats::{FormatError, import_folder, import_gguf, import_model};
use grail_model::tokenizer::{StreamDecoder, Tokenizer};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::{Mutation, hex, vectors};

/// A model folder made from the committed Llama, to be changed at will.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("model");
    import_gguf(&vectors("gguf/llama.gguf"), &path, &mut |_| {}).unwrap();
    (parent, path)
}

fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(&path, value.to_string()).unwrap();
}

#[test]
fn text_goes_to_ids_and_back() {
    let (_parent, path) = folder();
    let tokenizer = Tokenizer::load(&path).unwrap();
    let text = "a a+b=<|im_end|>";
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a a+b=");
    assert_eq!((tokenizer.token_to_id("<|im_end|>"), ids.last()), (Some(2), Some(&2)));
    assert_eq!(tokenizer.id_to_token(94).as_deref(), Some("Ġa"));
    assert_eq!(tokenizer.id_to_token(4000), None);
    assert_eq!(tokenizer.vocab_size(), 95);
    assert!(tokenizer.encode("", false).unwrap().is_empty());
    assert_eq!(tokenizer.decode(&[4000], false).unwrap(), "");
    let bytes = std::fs::read(path.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.digest()[..], Sha256::digest(&bytes)[..]);
}

/// A byte-level tokenizer of all 256 bytes and nothing else.
fn byte_tokenizer() -> Tokenizer {
    let mut next = 256u32;
    let vocab: serde_json::Map<String, serde_json::Value> = (0..=255u8)
        .map(|byte| {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable { u32::from(byte) } else { next };
            next += u32::from(!printable);
            (char::from_u32(code).unwrap().to_string(), byte.into())
        })
        .collect();
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let json = serde_json::json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4,
            "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    });
    Tokenizer::from_bytes(Path::new("bytes.json"), json.to_string().as_bytes()).unwrap()
}

#[test]
fn a_truncating_tokenizer_does_not_truncate() {
    assert_eq!(byte_tokenizer().encode("0123456789", false).unwrap().len(), 10);
}

#[test]
fn a_stream_gives_whole_characters_and_never_waits_for_ever() {
    let tokenizer = byte_tokenizer();
    let mut stream = tokenizer.stream(false);
    let pieces: Vec<_> = "é🙂!".bytes().map(|byte| stream.push(byte.into()).unwrap()).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "🙂", "!"]);
    // A true U+FFFD looks like the beginning of a character for one token.
    let mut stream = tokenizer.stream(false);
    let text = "\u{fffd}\u{fffd}\u{800}";
    let shown: String = text.bytes().map(|byte| stream.push(byte.into()).unwrap()).collect();
    assert_eq!(shown, text);
    let mut stream = tokenizer.stream(false);
    let n_shown = (0..40).map(|_| stream.push(0x80).unwrap().chars().count()).sum::<usize>();
    assert!(n_shown >= 32, "bytes that are no UTF-8 are shown as U+FFFD, {n_shown} of 40 so far");
    assert_eq!(n_shown + stream.finish().unwrap().chars().count(), 40);
}

/// A SentencePiece-like tokenizer: byte `b` is token `b`, then come `▁`, `a` and `▁hi`.
fn fallback_tokenizer() -> Tokenizer {
    let pieces = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = pieces.chain(["▁", "a", "▁hi", "i", "h", "hi"].map(str::to_owned));
    let vocab: serde_json::Map<String, serde_json::Value> =
        pieces.zip(0u32..).map(|(piece, id)| (piece, id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null,
        "pre_tokenizer": null,
        "added_tokens": [{"id": 262, "content": "<0x▁>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocab,
            "merges": [["h", "i"], ["▁", "hi"]]},
    });
    Tokenizer::from_bytes(Path::new("pieces.json"), json.to_string().as_bytes()).unwrap()
}

const PIECE_A: u32 = 257;
const PIECE_HI: u32 = 258;

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream(false);
    let mut shown: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    shown += &stream.finish().unwrap();
    shown
}

#[test]
fn a_stream_of_byte_tokens_gives_whole_characters_too() {
    let tokenizer = fallback_tokenizer();
    let mut stream = tokenizer.stream(false);
    let pieces: Vec<_> = "é€🙂".bytes().map(|byte| stream.push(byte.into()).unwrap()).collect();
    assert_eq!(pieces, ["", "é", "", "", "€", "", "", "", "🙂"]);
    // Far more byte tokens in a row than are decoded anew at a step.
    let run = "🙂€é".repeat(40);
    let ids: Vec<u32> = run.bytes().map(u32::from).collect();
    assert_eq!(streamed(&tokenizer, &ids), run);
}

#[test]
fn a_broken_run_of_byte_tokens_keeps_what_was_given_out() {
    let tokenizer = fallback_tokenizer();
    let broken: Vec<u32> = [0xc3, 0xa9, 0xe2, 0x82].to_vec();
    assert_eq!(tokenizer.decode(&broken, false).unwrap(), "\u{fffd}".repeat(4));
    assert_eq!(streamed(&tokenizer, &broken), "é\u{fffd}\u{fffd}");
    let ids = [broken, vec![PIECE_A, PIECE_HI]].concat();
    assert_eq!(streamed(&tokenizer, &ids), "é\u{fffd}\u{fffd}a hi");
    // A model that writes nothing but rubbish is shown, not collected.
    let mut stream = tokenizer.stream(false);
    assert_eq!([0xc3, 0xa9].map(|byte| stream.push(byte).unwrap()).concat(), "é");
    let shown: usize = (0..300).map(|_| stream.push(0x80).unwrap().chars().count()).sum();
    assert!((280..=300).contains(&shown), "{shown} of 300");
}

#[test]
fn text_after_a_context_keeps_its_leading_space() {
    let tokenizer = fallback_tokenizer();
    assert_eq!(streamed(&tokenizer, &[PIECE_HI, PIECE_HI]), "hi hi");
    for context in [vec![PIECE_A], vec![PIECE_A; 20], vec![0x82, PIECE_A], vec![0xe2, 0x82, 0xac]] {
        let mut stream = StreamDecoder::after(&tokenizer, false, &context).unwrap();
        assert_eq!(stream.push(PIECE_HI).unwrap(), " hi", "after {context:?}");
        assert_eq!(stream.push(PIECE_A).unwrap(), "a", "after {context:?}");
    }
    // A prompt may end within a character.
    let mut stream = StreamDecoder::after(&tokenizer, false, &[PIECE_A, 0xe2, 0x82]).unwrap();
    assert_eq!(stream.push(0xac).unwrap(), "€");
}

#[test]
fn tokens_tell_their_bytes() {
    let (_parent, path) = folder();
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!(tokenizer.token_bytes(94), b" a");
    assert_eq!(tokenizer.token_bytes(2), b"<|im_end|>");
    assert!(tokenizer.token_bytes(4000).is_empty());
    for byte in 0..=255 {
        assert_eq!(byte_tokenizer().token_bytes(byte.into()), [byte]);
        assert_eq!(fallback_tokenizer().token_bytes(byte.into()), [byte]);
    }
    assert_eq!(fallback_tokenizer().token_bytes(PIECE_HI), b" hi");
    assert_eq!(fallback_tokenizer().token_bytes(262), "<0x▁>".as_bytes());
}

proptest! {
    #![proptest_config(support::cases(256))]

    #[test]
    fn any_text_survives_byte_fallback(text in "[aé€🙂 hi]{0,60}") {
        let tokenizer = fallback_tokenizer();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
        prop_assert_eq!(streamed(&tokenizer, &ids), text);
    }

    #[test]
    fn any_tokens_give_the_text_of_all(ids in prop::collection::vec(0u32..256, 0..80)) {
        let tokenizer = byte_tokenizer();
        prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids, false).unwrap());
    }

    #[test]
    fn any_text_survives_the_bytes(text in ".{0,40}") {
        let tokenizer = byte_tokenizer();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(ids.len(), text.len());
        prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
        let mut stream = tokenizer.stream(false);
        let mut shown: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        shown += &stream.finish().unwrap();
        prop_assert_eq!(shown, text);
    }
}

#[test]
fn completions_end_where_the_files_say() {
    let (_parent, path) = folder();
    let eos = || Tokenizer::load(&path).unwrap().eos_token_ids().to_vec();
    assert_eq!(eos(), [2]);
    std::fs::write(path.join("generation_config.json"), r#"{"eos_token_id": [1, 0]}"#).unwrap();
    assert_eq!(eos(), [0, 1, 2], "the list and the end of a turn");
    std::fs::remove_file(path.join("generation_config.json")).unwrap();
    edit(&path, "config.json", |config| config["eos_token_id"] = 7.into());
    assert_eq!(eos(), [2, 7]);
    edit(&path, "tokenizer_config.json", |config| {
        config["eos_token"] = serde_json::json!({"content": "<|im_start|>", "special": true});
    });
    assert_eq!(eos(), [1, 7]);
    edit(&path, "tokenizer_config.json", |config| config["eos_token"] = "<none>".into());
    let error = Tokenizer::load(&path).unwrap_err().to_string();
    assert!(error.contains("eos_token \"<none>\""), "{error}");
}

#[test]
fn the_template_is_found_where_a_model_keeps_it() {
    let (_parent, path) = folder();
    let render = || {
        let messages = [ChatMessage::new("user", "hi")];
        ChatTemplate::load(&path).unwrap().render(&messages, true).unwrap()
    };
    assert_eq!(render(), "hi");
    edit(&path, "tokenizer_config.json", |config| {
        config["chat_template"] = serde_json::json!([
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "default {{ bos_token }}"},
        ]);
    });
    assert_eq!(render(), "default <|im_start|>");
    std::fs::write(path.join("chat_template.jinja"), "own file\n").unwrap();
    assert_eq!(render(), "own file");
    std::fs::remove_file(path.join("chat_template.jinja")).unwrap();
    std::fs::remove_file(path.join("tokenizer_config.json")).unwrap();
    assert_eq!(render(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");

    for (file, text) in [
        ("tokenizer_config.json", r#"{"chat_template": "{% for %}"}"#),
        ("tokenizer_config.json", r#"{"chat_template": 5}"#),
        ("tokenizer_config.json", r#"{"chat_template": [{"name": "rag", "template": ""}]}"#),
        ("tokenizer_config.json", "[]"),
        ("chat_template.jinja", "{{ open"),
    ] {
        std::fs::write(path.join(file), text).unwrap();
        let error = ChatTemplate::load(&path).unwrap_err().to_string();
        assert!(error.contains(file), "{text}: {error}");
        std::fs::remove_file(path.join(file)).unwrap();
    }
}

#[test]
fn foreign_tokenizers_are_errors() {
    for bytes in [&b""[..], b"{}", b"[1]", b"GGUF", b"\xff", br#"{"version": "1.0", "model": {}}"#]
    {
        let error = Tokenizer::from_bytes(Path::new("t/tokenizer.json"), bytes).unwrap_err();
        assert!(matches!(&error, FormatError::Broken { .. }), "{error}");
    }
    let (_parent, path) = folder();
    // A value the `tokenizers` crate panics on.
    edit(&path, "tokenizer.json", |json| json["model"]["continuing_subword_prefix"] = "a b".into());
    let error = Tokenizer::load(&path).unwrap_err().to_string();
    assert!(error.contains("do not fit each other"), "{error}");
    let (_parent, path) = folder();
    edit(&path, "tokenizer.json", |json| json["model"]["vocab"]["zz"] = 4_000_000_000u32.into());
    let error = Tokenizer::load(&path).unwrap_err().to_string();
    assert!(error.contains("4000000000"), "{error}");
    let oversized = std::fs::File::create(path.join("tokenizer.json")).unwrap();
    oversized.set_len((64 << 20) + 1).unwrap();
    let error = Tokenizer::load(&path).unwrap_err().to_string();
    assert!(error.contains("larger than"), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let (_parent, path) = folder();
    let config = ModelConfig::load(&path).unwrap();
    let tokenizer = Tokenizer::load(&path).unwrap();
    tokenizer.check(&config, &path).unwrap();
    let small = ModelConfig { vocab_size: 94, ..config };
    let error = tokenizer.check(&small, &path).unwrap_err().to_string();
    assert!(error.contains("ids up to 94") && error.contains("vocab_size is 94"), "{error}");
}

#[test]
fn a_folder_is_copied_after_a_check() {
    let (parent, path) = folder();
    std::fs::write(path.join("README.md"), "not copied").unwrap();
    let out = parent.path().join("copy");
    let mut last = (0, 0);
    let report = import_model(&path, &out, &mut |step| last = (step.n_done, step.n_total)).unwrap();
    assert_eq!(last.0, last.1);
    assert_eq!(report.source_types, [("BF16", 20)].into());
    assert_eq!(report.files.len(), 5);
    for name in report.files.keys() {
        let (ours, theirs) = (std::fs::read(out.join(name)), std::fs::read(path.join(name)));
        assert_eq!(ours.unwrap(), theirs.unwrap(), "{name}");
    }
    let error = import_folder(&path, &out, &mut |_| {}).unwrap_err();
    assert!(matches!(error, FormatError::Exists { .. }));
    // A second import of the same file is the same model, bit for bit.
    let again = parent.path().join("again");
    let second = import_gguf(&vectors("gguf/llama.gguf"), &again, &mut |_| {}).unwrap();
    for (name, digest) in &report.files {
        assert_eq!(hex(&second.files[name].sha256), hex(&digest.sha256), "{name}");
    }
}

#[test]
fn a_damaged_folder_is_not_copied() {
    let damages: [(&str, &[u8]); 6] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", b"{"),
        ("generation_config.json", br#"{"eos_token_id": "x"}"#),
        ("model.safetensors", b"too short"),
        ("chat_template.jinja", b"{% if %}"),
    ];
    for (file, bytes) in damages {
        let (parent, path) = folder();
        std::fs::write(path.join(file), bytes).unwrap();
        let out = parent.path().join("copy");
        let error = import_folder(&path, &out, &mut |_| {}).unwrap_err().to_string();
        let named = path.join(file).display().to_string();
        assert!(error.contains(&named), "expected {named} in: {error}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1, "{file}");
    }
    // A NaN among the weights is found, too.
    let (parent, path) = folder();
    let mut weights = std::fs::read(path.join("model.safetensors")).unwrap();
    let len = weights.len();
    weights[len - 2..].copy_from_slice(&[0xc0, 0x7f]);
    std::fs::write(path.join("model.safetensors"), weights).unwrap();
    let error = import_folder(&path, &parent.path().join("copy"), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
}

fn tokenizer_json() -> &'static [u8] {
    static JSON: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    JSON.get_or_init(|| {
        let (_parent, path) = folder();
        std::fs::read(path.join("tokenizer.json")).unwrap()
    })
}

/// Replaces the value that is visited `n_left`-th, counting lists and objects too.
fn replace_nth(json: &mut serde_json::Value, n_left: &mut usize, new: &serde_json::Value) -> bool {
    if *n_left == 0 {
        *json = new.clone();
        return true;
    }
    *n_left -= 1;
    match json {
        serde_json::Value::Array(items) => {
            items.iter_mut().any(|item| replace_nth(item, n_left, new))
        }
        serde_json::Value::Object(map) => {
            map.iter_mut().any(|(_, item)| replace_nth(item, n_left, new))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(support::cases(1500))]

    #[test]
    fn damaged_tokenizers_never_panic(mutations in prop::collection::vec(any::<Mutation>(), 1..4)) {
        let mut bytes = tokenizer_json().to_vec();
        for mutation in &mutations {
            mutation.apply(&mut bytes, usize::MAX);
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(Path::new("tokenizer.json"), &bytes) {
            let ids = tokenizer.encode("a b<|im_end|> 12 é", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }

    #[test]
    fn tokenizers_with_wrong_values_never_panic(
        at in prop::collection::vec(0usize..200, 1..3),
        value in prop_oneof![
            Just(serde_json::json!(null)), Just(serde_json::json!(-1)), Just(serde_json::json!("")),
            Just(serde_json::json!([])), Just(serde_json::json!({})), Just(serde_json::json!(1e30)),
            Just(serde_json::json!(u32::MAX)), Just(serde_json::json!(true)),
            Just(serde_json::json!("a b")), Just(serde_json::json!(["a", "b"])),
            Just(serde_json::json!({"type": "ByteLevel"})), Just(serde_json::json!({"type": "?"})),
            Just(serde_json::json!({"type": "Sequence", "pretokenizers": []})),
            Just(serde_json::json!({"Regex": "(("})), Just(serde_json::json!(0)),
        ],
    ) {
        let mut json: serde_json::Value = serde_json::from_slice(tokenizer_json()).unwrap();
        for at in at {
            let mut n_left = at;
            replace_nth(&mut json, &mut n_left, &value);
        }
        let bytes = json.to_string();
        if let Ok(tokenizer) = Tokenizer::from_bytes(Path::new("tokenizer.json"), bytes.as_bytes()) {
            let ids = tokenizer.encode("a b<|im_end|> 12 é", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }

    #[test]
    fn damaged_templates_never_panic(mutations in prop::collection::vec(any::<Mutation>(), 1..5)) {
        let source = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}\
            {{ '<|im_start|>' + m.role | upper + '\n' }}{%- endif -%}{{ m.content.strip() | tojson }}\
            {% endfor %}{% if add_generation_prompt %}{{ 'assistant\n' * 2 }}{% endif %}";
        let mut bytes = source.as_bytes().to_vec();
        for mutation in &mutations {
            mutation.apply(&mut bytes, usize::MAX);
        }
        let source = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(template) = ChatTemplate::new(source, Default::default()) {
            let _ = template.render(&[ChatMessage::new("user", "hi")], true);
        }
    }
}
