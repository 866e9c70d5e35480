//! Checkpoint metadata: signed by the trainer, verified by everybody, refused with reasons.

mod fixtures;

use std::collections::BTreeMap;

use fixtures::{Wallet, window};
use grail_protocol::canonical_json::canonical_json;
use grail_protocol::checkpoint::{
    CHECKPOINT_FILES, CheckpointError, CheckpointMetadata, CheckpointType, DeltaRecord,
    GenerationParams, SignedMetadata, checkpoint_digest, open_metadata, sign_metadata,
};
use grail_protocol::constants::{NUMERICS_EXACT, PROTOCOL_NAME};
use grail_protocol::ids::{Digest, Hotkey, Signature};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::signature::verify;
use serde_json::{Value, json};

/// Something done to valid metadata.
type Change<'a> = &'a dyn Fn(&mut CheckpointMetadata);

fn metadata() -> CheckpointMetadata {
    let file_manifest: BTreeMap<String, Digest> = CHECKPOINT_FILES
        .iter()
        .map(|name| ((*name).to_owned(), Digest::of(name.as_bytes())))
        .collect();
    let training_config = json!({"lr": 1e-6, "seed": 7});
    CheckpointMetadata {
        window: window(),
        checkpoint_digest: checkpoint_digest(&file_manifest),
        whitening: None,
        file_manifest,
        config_hash: CheckpointMetadata::hash_config(&training_config),
        training_config,
        git_commit: "unknown".to_owned(),
        created_at: 1_700_000_000.123_456_7,
        model_name: "tiny".to_owned(),
        parent_window: window(),
        checkpoint_type: CheckpointType::Full,
        prev_window: None,
        anchor_window: None,
        weights_hash: None,
        delta: None,
        env_id: "arithmetic".to_owned(),
        env_params: json!({"terms": 3, "difficulty": 2}),
        generation_params: GenerationParams::new(SamplerParams {
            temperature: 0.7,
            max_new_tokens: 32,
        }),
        thinking_mode: "native".to_owned(),
        protocol: PROTOCOL_NAME.to_owned(),
        numerics: NUMERICS_EXACT.to_owned(),
    }
}

fn signed(wallet: &Wallet) -> SignedMetadata {
    sign_metadata(&metadata(), &|message| wallet.sign(message)).expect("the metadata is valid")
}

fn open(files: &SignedMetadata, trainer: Hotkey) -> Result<CheckpointMetadata, CheckpointError> {
    let SignedMetadata { metadata_json, manifest_sig } = files;
    open_metadata(metadata_json.as_bytes(), manifest_sig.as_bytes(), trainer, window())
}

#[test]
fn published_metadata_is_read_back_whole() {
    let trainer = Wallet::new(3);
    let files = signed(&trainer);
    let opened = open(&files, trainer.hotkey()).unwrap();
    assert_eq!(opened, metadata());
    let sampler = opened.generation_params.sampler();
    assert_eq!(sampler, SamplerParams { temperature: 0.7, max_new_tokens: 32 });
    assert_eq!(opened.env_params_json(), r#"{"difficulty":2,"terms":3}"#);
    assert!(files.metadata_json.starts_with("{\n  \"window\": 9000,\n  \"file_manifest\": {"));
}

#[test]
fn layout_is_free_but_content_is_not() {
    let trainer = Wallet::new(3);
    let files = signed(&trainer);
    let value: Value = serde_json::from_str(&files.metadata_json).unwrap();
    let compact = SignedMetadata { metadata_json: value.to_string(), ..files.clone() };
    assert!(open(&compact, trainer.hotkey()).is_ok());

    for (from, to) in [
        ("\"max_tokens\": 32", "\"max_tokens\": 33"),
        ("1700000000.1234567", "1700000000.1234565"),
        ("\"git_commit\"", "\"extra\": 1, \"git_commit\""),
        ("\"weights_hash\": null,", ""),
    ] {
        let metadata_json = files.metadata_json.replace(from, to);
        assert_ne!(metadata_json, files.metadata_json, "{from}");
        let changed = SignedMetadata { metadata_json, ..files.clone() };
        let error = open(&changed, trainer.hotkey()).unwrap_err();
        assert!(matches!(error, CheckpointError::BadSignature(_)), "{from}: {error}");
    }
}

#[test]
fn metadata_of_anybody_else_or_of_another_window_is_refused() {
    let trainer = Wallet::new(3);
    let files = signed(&trainer);
    let stranger = Wallet::new(4).hotkey();
    assert!(matches!(open(&files, stranger), Err(CheckpointError::BadSignature(_))));
    let moved = open_metadata(
        files.metadata_json.as_bytes(),
        files.manifest_sig.as_bytes(),
        trainer.hotkey(),
        window().next(),
    );
    assert!(matches!(moved, Err(CheckpointError::WrongWindow { .. })), "{moved:?}");
}

#[test]
fn damaged_files_get_a_clear_error() {
    let trainer = Wallet::new(3);
    let files = signed(&trainer);
    let with_metadata = |text: &str| {
        let metadata_json = text.to_owned();
        let files = SignedMetadata { metadata_json, ..files.clone() };
        open(&files, trainer.hotkey()).unwrap_err()
    };
    for text in ["", "{", "\u{0}", &"[".repeat(5_000), "{\"window\": 1e999}"] {
        assert!(matches!(with_metadata(text), CheckpointError::Malformed(_)), "{text:.20}");
    }
    assert!(matches!(with_metadata(&" ".repeat(2 << 20)), CheckpointError::TooLarge(_)));
    for text in ["", "xyz", &"0".repeat(127), &"0".repeat(129)] {
        let files = SignedMetadata { manifest_sig: text.to_owned(), ..files.clone() };
        let error = open(&files, trainer.hotkey()).unwrap_err();
        assert!(matches!(error, CheckpointError::NotASignature), "{text:.20}");
    }
}

#[test]
fn unusable_metadata_is_neither_signed_nor_opened() {
    let changes: [(&str, Change<'_>); 14] = [
        ("protocol is `v5`", &|metadata| metadata.protocol = "v5".to_owned()),
        ("env_id", &|metadata| metadata.env_id.clear()),
        ("numerics", &|metadata| metadata.numerics = "two words".to_owned()),
        ("thinking_mode `Native`", &|metadata| metadata.thinking_mode = "Native".to_owned()),
        ("do not fit", &|metadata| metadata.checkpoint_type = CheckpointType::Delta),
        ("do not fit", &|metadata| metadata.prev_window = Some(window())),
        ("do not fit", &|metadata| {
            // A delta on itself.
            metadata.checkpoint_type = CheckpointType::Delta;
            (metadata.prev_window, metadata.anchor_window) = (Some(window()), Some(window()));
            metadata.delta = Some(DeltaRecord { file: Digest([1; 32]), base: Digest([2; 32]) });
        }),
        ("exactly config.json", &|metadata| {
            metadata.file_manifest.insert("../../etc/passwd".to_owned(), Digest([0; 32]));
        }),
        ("exactly config.json", &|metadata| {
            metadata.file_manifest.remove("config.json");
        }),
        ("checkpoint_digest", &|metadata| metadata.checkpoint_digest = Digest([0; 32])),
        ("temperature 0", &|metadata| metadata.generation_params.temperature = 0.0),
        ("max_new_tokens 8193", &|metadata| metadata.generation_params.max_tokens = 8_193),
        ("top_p 1", &|metadata| metadata.generation_params.top_p = 0.95),
        ("repetition_penalty 1", &|metadata| metadata.generation_params.repetition_penalty = 1.1),
    ];
    let trainer = Wallet::new(3);
    for (complaint, change) in changes {
        let mut metadata = metadata();
        change(&mut metadata);
        let error = sign_metadata(&metadata, &|message| trainer.sign(message)).unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");

        // A trainer of another program may sign it all the same.
        let value = serde_json::to_value(&metadata).unwrap();
        let files = SignedMetadata {
            metadata_json: value.to_string(),
            manifest_sig: trainer.sign(canonical_json(&value).as_bytes()).into(),
        };
        assert_eq!(open(&files, trainer.hotkey()), Err(error));
    }
    assert_eq!(metadata().validate(), Vec::<String>::new());
}

#[test]
fn manifests_of_the_reference_verify() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/manifests.json")).unwrap();
    for case in vectors["cases"].as_array().unwrap() {
        let text = case["canonical"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(canonical_json(&value), text);
        let signer: Hotkey = case["signer"].as_str().unwrap().parse().unwrap();
        let signature = Signature::try_from(case["signature"].as_str().unwrap().to_owned());
        verify(signer, text.as_bytes(), &signature.unwrap()).unwrap();
    }
}
