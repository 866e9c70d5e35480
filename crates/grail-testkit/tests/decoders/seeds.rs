//! Valid inputs of every target, from which mutations and fuzzers start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use grail_ports::signer::Signer;
use grail_protocol::calibration::{Calibration, Pairing, RolloutSample};
use grail_protocol::checkpoint::delta::frame::decompress;
use grail_protocol::checkpoint::delta::native::{Block, DeltaWriter, blocks, encode_block};
use grail_protocol::checkpoint::tensors::TensorIndex;
use grail_protocol::checkpoint::{
    CHECKPOINT_FILES, CheckpointMetadata, CheckpointType, GenerationParams, WhiteningRecord,
    checkpoint_digest, sign_metadata,
};
use grail_protocol::constants::{NUMERICS_EXACT, PROTOCOL_NAME, ROLLOUTS_PER_GROUP};
use grail_protocol::credentials::CredentialCommitment;
use grail_protocol::ids::{Digest, Netuid, Window};
use grail_protocol::keys::ReadyMarker;
use grail_protocol::prover::{seal, sign_open};
use grail_protocol::rollout::encoding::encode_groups;
use grail_protocol::rollout::{Group, Proof, Rollout};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::sketch::Whitening;
use grail_protocol::sketch::{Sketch, sketches_of};
use grail_protocol::timelock;
use grail_protocol::timelock::drand::{envelope, seal_commit};
use grail_protocol::v5::file::{Commit, Footer, JsonText, RolloutFields, Row, WindowFile};
use grail_protocol::v5::python::json::parse;
use grail_protocol::v5::python::print::{Keys, to_json};
use grail_protocol::validated::{ValidatedFile, ValidatedGroup, ValidatedRollout};
use grail_protocol::verdict::{CheckTally, RaceEvidence, Standing, VERDICT_VERSION, VerdictRecord};
use grail_protocol::verifier::ExpectedSeal;
use grail_testkit::FakeSigner;
use grail_testkit::vectors::own;
use serde_json::{Value, json};

use crate::driver::{hotkey, rollouts, sealed};

fn signer() -> FakeSigner {
    FakeSigner::new(1)
}

fn window() -> Window {
    Window::from_start(9_000).expect("a multiple of 30")
}

/// Groups that [`rollouts::expected`] accepts, with proofs of one kind or the other.
fn groups(n: u32, exact: bool) -> Vec<Group> {
    let rollout = |index: u32| {
        let tokens = if index.is_multiple_of(2) { vec![index, 99] } else { vec![index, 5, 7] };
        let proof = if exact {
            Proof::Exact(Digest([index as u8; 32]))
        } else {
            Proof::Tolerant(vec![Sketch(index.into()); sketches_of(tokens.len())])
        };
        Rollout { tokens, reward: 0.5, success: index.is_multiple_of(2), proof }
    };
    let rollouts: Vec<Rollout> = (0..ROLLOUTS_PER_GROUP).map(rollout).collect();
    (0..n).map(|index| Group { index, prompt: vec![1, 2], rollouts: rollouts.clone() }).collect()
}

/// Open files with both kinds of proof, one without groups, and a sealed one.
pub fn rollouts() -> Vec<Vec<u8>> {
    let header = |numerics| rollouts::expected(numerics, ExpectedSeal::Open).header;
    let sign = |message: &[u8]| signer().sign(message);
    let open = |numerics, n| {
        let groups = groups(n, numerics == NUMERICS_EXACT);
        sign_open(header(numerics), groups, &sign).expect("it fits")
    };
    let sealed = seal(header(NUMERICS_EXACT), groups(1, true), sealed::to(), &sign);
    vec![
        open(NUMERICS_EXACT, 2),
        open("bf16-1", 1),
        open(NUMERICS_EXACT, 0),
        sealed.expect("it fits"),
    ]
}

/// A ciphertext, a content, a commit, an envelope and groups; the kind's byte in front.
pub fn sealed() -> Vec<Vec<u8>> {
    let content = b"a rollout".to_vec();
    let key = [3; 32];
    let ours = timelock::seal(sealed::to(), content.clone(), &key).expect("the key is a point");
    let commit = seal_commit(sealed::to(), &content, &key).expect("the key is a point");
    let envelope = envelope(&commit, sealed::to().round).expect("a short commit");
    let groups = encode_groups(NUMERICS_EXACT, &groups(1, true)).expect("it fits");
    let seeds = [ours, content, commit, envelope, groups];
    (0u8..).zip(seeds).map(|(kind, seed)| [vec![kind], seed].concat()).collect()
}

/// Two groups and none.
pub fn validated() -> Vec<Vec<u8>> {
    let rollout = |index: u32| ValidatedRollout {
        tokens: vec![index; index as usize % 4],
        logprobs: vec![-0.25; index as usize % 4],
        reward: 1.5,
        success: index.is_multiple_of(2),
    };
    let group = |index: u32| ValidatedGroup {
        hotkey: hotkey(),
        index,
        prompt: vec![1, 2, 3],
        rollouts: (0..ROLLOUTS_PER_GROUP).map(rollout).collect(),
    };
    let file = |groups: u32| ValidatedFile {
        network: "local".to_owned(),
        netuid: Netuid(81),
        window: window(),
        validator: hotkey(),
        checkpoint: Digest([7; 32]),
        groups: (0..groups).map(group).collect(),
    };
    let seal = |groups| file(groups).seal(&|message| signer().sign(message)).expect("it fits");
    vec![seal(0), seal(2)]
}

/// One checkpoint's metadata with its signature behind.
pub fn manifest() -> Vec<Vec<u8>> {
    let file_manifest: BTreeMap<String, Digest> = CHECKPOINT_FILES
        .iter()
        .map(|name| ((*name).to_owned(), Digest::of(name.as_bytes())))
        .collect();
    let training_config = json!({"lr": 1e-6, "betas": [0.9, 0.999], "note": "ä\u{1f642}"});
    let metadata = CheckpointMetadata {
        window: window(),
        checkpoint_digest: checkpoint_digest(&file_manifest),
        file_manifest,
        config_hash: CheckpointMetadata::hash_config(&training_config),
        training_config,
        git_commit: "unknown".to_owned(),
        created_at: 1_700_000_000.25,
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
        whitening: Whitening::new(vec![0.5, -1e-9], vec![1.0, 3.5])
            .ok()
            .map(|whitening| WhiteningRecord::new(Digest([9; 32]), &whitening)),
    };
    let files = sign_metadata(&metadata, &|message| signer().sign(message)).expect("it is valid");
    vec![[files.metadata_json, files.manifest_sig].concat().into_bytes()]
}

/// A verdict with and without evidence.
pub fn verdict() -> Vec<Vec<u8>> {
    let verdict = VerdictRecord {
        version: VERDICT_VERSION,
        window: window(),
        hotkey: hotkey(),
        validator: hotkey(),
        groups: 4,
        rollouts: 64,
        checked: 32,
        accepted: 0,
        rejected: [("race_lost".to_owned(), 32)].into(),
        unverified: 0,
        evidence: Some("group 0, rollout 3: lost".to_owned()),
        race: Some(RaceEvidence { position: 3, claimed: 5, winner: 6, margin: 0.25 }),
        profile: "tolerant".to_owned(),
        calibration: Some(Digest([8; 32])),
        checks: [("margin_sum".to_owned(), CheckTally::default())].into(),
        standing: Some(Standing {
            wealth_log10: -0.5,
            bound_log10: 6.0,
            ejected_until: Some(window()),
            life: 1,
        }),
    };
    let honest = VerdictRecord {
        accepted: 32,
        rejected: BTreeMap::new(),
        evidence: None,
        race: None,
        standing: None,
        ..verdict.clone()
    };
    [verdict, honest].map(|verdict| verdict.to_json().into_bytes()).to_vec()
}

/// A calibration of a few invented measurements.
pub fn calibration() -> Vec<Vec<u8>> {
    let pairing = Pairing {
        model: Digest([1; 32]),
        checkpoint: Digest([2; 32]),
        window: window(),
        miner_runtime: "bf16-1".to_owned(),
        verifier_runtime: NUMERICS_EXACT.to_owned(),
        temperature: 0.7,
    };
    let sample = |index: u8| RolloutSample {
        margins: vec![f32::from(index) / 4_096.0; 8],
        distances: vec![index % 9; sketches_of(8)],
    };
    let samples: Vec<RolloutSample> = (0..128).map(sample).collect();
    let calibration = Calibration::fit(pairing, Digest([3; 32]), &samples);
    let file = calibration.expect("enough").sign(hotkey(), &|message| signer().sign(message));
    vec![file.expect("it is usable").into_bytes()]
}

/// One text of each kind.
pub fn names() -> Vec<Vec<u8>> {
    let credentials = CredentialCommitment {
        account_id: "0123456789abcdef".to_owned(),
        bucket_name: None,
        access_key_id: "key".to_owned(),
        secret_access_key: "s".repeat(64),
    };
    let marker = ReadyMarker { ready: window(), checkpoint: window() };
    vec![
        credentials.encode().expect("it fits"),
        CredentialCommitment { bucket_name: Some("a-bucket".to_owned()), ..credentials }
            .encode()
            .expect("it fits"),
        hotkey().to_ss58().into_bytes(),
        marker.key().into_bytes(),
        String::from(signer().sign(b"message")).into_bytes(),
        Digest([0xab; 32]).to_hex().into_bytes(),
        format!("0x{}", Digest([0xcd; 32]).to_hex()).into_bytes(),
    ]
}

/// The golden files of grail-model, the kind's byte in front of each. Large ones without their end,
/// which only holds weights.
pub fn checkpoint() -> Vec<Vec<u8>> {
    let files: [(u8, &str); 12] = [
        (0, "golden/llama/config.json"),
        (0, "golden/qwen2-yarn/config.json"),
        (0, "golden/gemma3-capped/config.json"),
        (0, "golden/llama-llama3/config.json"),
        (1, "golden/llama/model.safetensors"),
        (2, "gguf/llama.gguf"),
        (2, "gguf/qwen3.gguf"),
        (4, "gguf/llama.gguf"),
        (4, "gguf/qwen2.gguf"),
        (3, "BPE"),
        (3, "WordLevel"),
        (3, "Unigram"),
    ];
    files
        .map(|(kind, name)| {
            let content = if kind == 3 {
                tokenizer(name)
            } else {
                read(&format!("grail-model/tests/vectors/{name}"))
            };
            [vec![kind], content].concat()
        })
        .to_vec()
}

/// A commit, a payload, a row, and what JSON has only in Python.
pub fn commits() -> Vec<Vec<u8>> {
    let tokens: Vec<u32> = (0..40).collect();
    let commitments: Vec<Value> = tokens.iter().map(|token| json!({"sketch": token})).collect();
    let commit = json!({
        "tokens": tokens, "commitments": commitments, "proof_version": "v5", "signature": "ab",
        "model": {"name": "tiny", "layer_index": -1}, "beacon": {"randomness": "00ff"},
        "rollout": {"prompt_length": 8, "completion_length": 32, "success": true,
            "total_reward": 1.5, "advantage": -0.25},
    });
    let payload = json!({"block_hash": "0xab", "nonce": 7, "sat_seed": "s"});
    let row = json!({"challenge": "a|b|c", "hotkey": hotkey(),
        "signature": String::from(signer().sign(b"a|b|c"))});
    let odd =
        r#"{"a":NaN,"b":[-Infinity,1e400,-0.0,12345678901234567890123],"a":"\ud800x\ud83d\ude42"}"#;
    let values = [commit, payload, row].map(|value| value.to_string().into_bytes());
    values.into_iter().chain([odd.as_bytes().to_vec()]).collect()
}

/// Rollout files of the reference: two groups, other column encodings by other lengths, no rows.
pub fn reference_files() -> Vec<Vec<u8>> {
    let row = |at: usize, n_tokens: usize| Row {
        window_start: 30.into(),
        nonce: (at as i64).into(),
        block_hash: "0xab".into(),
        rollout_group: (at as i64 / 16).into(),
        commit: Commit {
            tokens: (0..n_tokens as i32).collect(),
            commitments: JsonText::of_sketches(&vec![at as i64; n_tokens]),
            beacon: JsonText::new(r#"{"randomness": "ab"}"#).expect("it is JSON"),
            rollout: RolloutFields {
                token_logprobs: vec![-0.5; n_tokens],
                total_reward: 1.0.into(),
                ..RolloutFields::default()
            },
            ..Commit::default()
        },
        hotkey: "5Grw".into(),
        ..Row::default()
    };
    let file = |n_rows: usize, n_tokens: usize| {
        let footer = Footer { wallet: "5Grw".into(), window_start: 30, ..Footer::default() };
        let rows = (0..n_rows).map(|at| row(at, n_tokens)).collect();
        let mut bytes = Vec::new();
        grail_parquet::write(&WindowFile { footer, rows }, &mut bytes).expect("the rows fit");
        bytes
    };
    vec![file(32, 3), file(3, 40), file(0, 0)]
}

/// Lists as honest miners write them, and others that Python reads.
pub fn commitments() -> Vec<Vec<u8>> {
    let texts = [
        r#"[{"sketch": 5}, {"sketch": 2147483646}, {"sketch": -7}]"#,
        r#"[{"sketch":5},{"sketch":0}]"#,
        r#"[{"x": [1.5, null, "\u00e9"], "sketch": 1e400}, {"sketch": 123456789012345678901}]"#,
        "[]",
        "null",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Files of the reference in each version, as frames and as payloads; the kind's byte in front.
pub fn delta() -> Vec<Vec<u8>> {
    let names =
        ["single_2d_bf16", "name_order", "three_dim", "duplicate_positions", "one_dim_bias"];
    let mut seeds = Vec::new();
    for name in names {
        for (kind, version) in [(0, "v2"), (1, "v3"), (2, "v3.1")] {
            let path = format!("grail-testkit/vectors/sparse_codec/{name}.{version}.bin.zst");
            let frame = read(&path);
            let payload = decompress(&frame, 1 << 20).expect("the vectors are valid");
            seeds.push([vec![kind], payload].concat());
            seeds.push([vec![kind + 3], frame].concat());
        }
    }
    seeds
}

/// Metadata of the published bucket, signed by our key.
pub fn reference_manifest() -> Vec<Vec<u8>> {
    let listing = std::fs::read(own("checkpoints", "bucket_listing.json")).expect("it is there");
    let listing: Value = serde_json::from_slice(&listing).expect("it is JSON");
    let keys = grail_testkit::vectors::list(&listing["keys"]).iter();
    let keys = keys.map(grail_testkit::vectors::text).filter(|key| key.ends_with("/metadata.json"));
    let seed = |key: &str| {
        let path = own("checkpoints", "bucket").join(key);
        let mut file = std::fs::read(path).expect("the vectors are there");
        let text = std::str::from_utf8(&file).expect("it is text");
        let value = parse(text).expect("it is JSON");
        let signature = signer().sign(to_json(&value, Keys::Sorted).as_bytes());
        file.extend(String::from(signature).into_bytes());
        file
    };
    keys.map(seed).collect()
}

/// Deltas on the driver's base: of nothing, of some words and of most.
pub fn native_delta() -> Vec<Vec<u8>> {
    let tensors = [("a", "BF16", vec![40, 10]), ("b", "F32", vec![50]), ("c", "U8", vec![9])];
    let tensors = tensors.map(|(name, dtype, shape)| (name.to_owned(), dtype.to_owned(), shape));
    let index = TensorIndex::lay_out(tensors).expect("the types are known");
    let header = index.to_header()[8..].to_vec();
    let plan = blocks(&index);
    let bytes: usize = plan.iter().map(Block::bytes).sum();
    let base: Vec<u8> = (0..bytes).map(|place| (place * 37 % 251) as u8).collect();
    let seed = |every: usize| {
        let mut current = base.clone();
        current.iter_mut().step_by(every).for_each(|byte| *byte = byte.wrapping_add(1));
        let mut writer = DeltaWriter::new(&header);
        writer.push(&encode_block(&plan[0], &base, &current));
        let length = u16::try_from(header.len()).expect("a short header").to_le_bytes();
        [&length[..], &header, &writer.finish()[40..]].concat()
    };
    [usize::MAX, 50, 3, 1].map(seed).to_vec()
}

fn tokenizer(model: &str) -> Vec<u8> {
    let model = match model {
        "BPE" => json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"<e>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4}, "merges": [["a", "b"]],
        }),
        "WordLevel" => json!({
            "type": "WordLevel", "vocab": {"The": 0, "sum": 1, "?": 2}, "unk_token": "?",
        }),
        _ => json!({
            "type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": [["<unk>", 0.0], ["a", -1.0], ["▁the", -2.5]],
        }),
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{
            "id": 0, "content": "<e>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false,
            "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": model,
    });
    tokenizer.to_string().into_bytes()
}

fn read(name: &str) -> Vec<u8> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every form of a key file that wallets write, of one key.
pub fn wallet() -> Vec<Vec<u8>> {
    let phrase = "indoor border million hill empower orphan fantasy olympic quit sport oblige wild";
    let seed = "0xccf4a6da41699152b044146d456cc3e567dc13eb406841636b6cc65b8bd881b1";
    let address = "5GKiervmDbxi3HynNuKcf9qVVkYzAVsKgpm93SEGvmpHVtWP";
    let whole = json!({
        "accountId": null, "cryptoType": 1, "secretPhrase": phrase, "secretSeed": seed,
        "ss58Address": address,
    });
    let seed_only = json!({"secretSeed": seed, "cryptoType": "1", " ss58Address": address});
    let public = json!({"accountId": null, "publicKey": null, "ss58Address": address});
    let json = [whole, seed_only, public].map(|file| file.to_string().into_bytes());
    let text = [phrase, seed, &seed[2..]].map(|text| text.as_bytes().to_vec());
    [json, text].concat()
}

/// An encrypted key file of the kind that opens quickly.
pub fn encrypted() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/bittensor/wallets");
    vec![std::fs::read(format!("{folder}/ansiblea/coldkey")).expect("the vectors are there")]
}

/// Round 1000 of quicknet as a relay and as the chain give it; the kind's byte in front.
pub fn drand() -> Vec<Vec<u8>> {
    let randomness = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd";
    let signature = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacb\
                     e47e4b6b63ed5e39";
    let answer = json!({"round": 1000, "randomness": randomness, "signature": signature});
    let bytes = |digits: &str| hex::decode(digits).expect("digits");
    let pulse = [
        &[2][..],
        &1000u64.to_le_bytes(),
        &[32 << 2],
        &bytes(randomness),
        &[48 << 2],
        &bytes(signature),
    ];
    vec![[&[0], answer.to_string().as_bytes()].concat(), pulse.concat()]
}
