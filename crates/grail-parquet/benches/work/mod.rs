//! A rollout file as a busy miner uploads it, the same for every run and in every language.
//!
//! `benches/peers/reference/work.py` has the same rule.

use grail_protocol::v5::binding::commit_binding;
use grail_protocol::v5::file::{
    Commit, Footer, JsonText, ROLLOUTS_PER_GROUP, RolloutFields, Row, WINDOW_LENGTH, WindowFile,
};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};
use sha2::{Digest as _, Sha256};

/// First block of the window.
pub const WINDOW: i64 = 5_123_430;

const PROMPT: usize = 64;
const RANDOMNESS: &str = "f174f0835bc798522a0629c9a675d28bfd912724cf5167d6e3a76987566ed14d";
const BLOCK_HASH: &str = "0xf980a1d67b580de1f9b6a669a272ebb941e1d944a7506a696ae7fd252fb6e7f1";

/// Numbers that look random: the high bits of a multiplication, modulo 2^64.
pub fn mixed(row: usize, place: usize, salt: u64) -> u64 {
    let x = (row as u64) << 32 | place as u64;
    let x = (x ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 16
}

/// Returns a file of `n_rows` rollouts of `n_tokens` tokens, with real signatures if asked.
pub fn file(n_rows: usize, n_tokens: usize, signed: bool) -> WindowFile {
    let key = MiniSecretKey::from_bytes(&[7; 32])
        .expect("32 bytes are a seed")
        .expand_to_keypair(ExpansionMode::Ed25519);
    let hotkey = grail_protocol::ids::Hotkey(key.public.to_bytes()).to_string();
    let footer = Footer {
        wallet: hotkey.clone(),
        window_start: WINDOW,
        window_length: WINDOW_LENGTH,
        inference_count: n_rows as i64,
        timestamp: 1_700_000_123.456,
    };
    let rows = (0..n_rows).map(|at| row(at, n_tokens, &hotkey, signed.then_some(&key))).collect();
    WindowFile { footer, rows }
}

fn row(at: usize, n_tokens: usize, hotkey: &str, key: Option<&Keypair>) -> Row {
    let tokens: Vec<i32> = (0..n_tokens).map(|i| (mixed(at, i, 1) % 151_643) as i32).collect();
    // Half of all sketches are negative before they are reduced.
    let sketch = |i| (mixed(at, i, 2) % 4_001) as i64 - 2_000;
    let sketches: Vec<i64> = (0..n_tokens).map(|i| sketch(i).rem_euclid(2_147_483_647)).collect();
    let logprob = |i: usize| match i {
        0..PROMPT => 0.0,
        _ => f64::from(-((mixed(at, i, 3) % 1_000_000) as f32) / 400_000.0),
    };
    let (group, index) = (at / ROLLOUTS_PER_GROUP, at % ROLLOUTS_PER_GROUP);
    // Eight solved, eight not: mean one half, deviation one half.
    let success = index % 2 == 0;
    let nonce = at as i64;
    let challenge = format!("|{BLOCK_HASH}|{nonce}");
    let binding_tokens: Vec<u32> = tokens.iter().map(|token| token.cast_unsigned()).collect();
    let hash = grail_protocol::v5::binding::sketches_hash(&sketches);
    let binding = commit_binding(&binding_tokens, RANDOMNESS, "async_trainer_snapshot", -1, &hash)
        .expect("the randomness is hexadecimal");
    Row {
        window_start: WINDOW.into(),
        block: (WINDOW + 3).into(),
        nonce: nonce.into(),
        block_hash: BLOCK_HASH.into(),
        randomness: RANDOMNESS.into(),
        use_drand: true.into(),
        rollout_group: (group as i64).into(),
        rollout_index: (index as i32).into(),
        total_in_group: 16.into(),
        checkpoint_window: (WINDOW - 30).into(),
        commit: Commit {
            tokens,
            commitments: JsonText::of_sketches(&sketches),
            proof_version: "v5".into(),
            model_name: "async_trainer_snapshot".into(),
            layer_index: (-1).into(),
            signature: signature(key, &binding, at).into(),
            beacon: JsonText::new(format!("{{\"randomness\": \"{RANDOMNESS}\"}}"))
                .expect("it is JSON"),
            rollout: RolloutFields {
                total_reward: f64::from(u8::from(success)).into(),
                advantage: (if success { 1.0 } else { -1.0 }).into(),
                success: success.into(),
                token_logprobs: (0..n_tokens).map(logprob).collect(),
                prompt_length: (PROMPT as i32).into(),
                completion_length: ((n_tokens - PROMPT) as i32).into(),
            },
        },
        timestamp: (1_700_000_000.0 + at as f64 / 8.0).into(),
        signature: signature(key, challenge.as_bytes(), at).into(),
        challenge: challenge.into(),
        hotkey: hotkey.into(),
    }
}

/// A signature, or 64 bytes that look like one.
fn signature(key: Option<&Keypair>, message: &[u8], at: usize) -> String {
    let bytes = match key {
        Some(key) => {
            key.sign_simple(grail_protocol::signature::SIGNING_CONTEXT, message).to_bytes()
        }
        None => {
            let half = Sha256::digest(at.to_le_bytes());
            [half, half].concat().try_into().expect("two digests have 64 bytes")
        }
    };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
