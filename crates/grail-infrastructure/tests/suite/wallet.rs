//! Wallet folders of the Python packages, and those that we write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use grail_infrastructure::wallet::{KeyfileError, NewKey, Wallet, WalletError};
use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use grail_protocol::signature::verify;
use serde_json::Value;
use zeroize::Zeroizing;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn manifest() -> Value {
    let bytes = fs::read(vectors().join("wallets/manifest.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn seed(byte: u8) -> NewKey {
    NewKey::Seed(Zeroizing::new([byte; 32]))
}

/// Puts `file` where the hotkey `default` of wallet `w` would be.
fn place(wallets: &Path, file: &[u8]) -> PathBuf {
    let hotkeys = wallets.join("w/hotkeys");
    fs::create_dir_all(&hotkeys).unwrap();
    let path = hotkeys.join("default");
    fs::write(&path, file).unwrap();
    path
}

#[test]
fn every_plain_key_file_of_the_python_wallets_loads() {
    let mut loaded = 0;
    for file in manifest()["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        if !file["secret"].as_bool().unwrap() {
            continue;
        }
        let bytes = fs::read(vectors().join("wallets").join(path)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        place(dir.path(), &bytes);
        let outcome = Wallet::load(dir.path(), "w", "default");
        if file.get("encryption").is_some() {
            let error = outcome.unwrap_err();
            let is_encrypted =
                matches!(&error, WalletError::Keyfile { source: KeyfileError::Encrypted(_), .. });
            assert!(is_encrypted, "{path}: {error}");
            assert!(error.to_string().contains("not supported yet"), "{path}");
        } else if file["crypto_type"] == 0 {
            let message = outcome.unwrap_err().to_string();
            assert!(message.contains("ed25519"), "{path}: {message}");
        } else {
            let wallet = outcome.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(wallet.hotkey().to_ss58(), file["ss58"].as_str().unwrap(), "{path}");
            let signature = wallet.sign(b"message");
            verify(wallet.hotkey(), b"message", &signature).unwrap();
            loaded += 1;
        }
    }
    assert!(loaded >= 7, "{loaded} loaded");
}

#[test]
fn odd_key_files_are_read_as_the_reference_reads_them() {
    for case in manifest()["json_variants"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let reference = &case["bittensor_core_0_1_5"];
        let dir = tempfile::tempdir().unwrap();
        place(dir.path(), case["keyfile"].as_str().unwrap().as_bytes());
        let outcome = Wallet::load(dir.path(), "w", "default");
        if reference["ok"] == true && reference["can_sign"] == true {
            let wallet = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(wallet.hotkey().to_ss58(), reference["ss58"].as_str().unwrap(), "{name}");
        } else {
            // The reference also loads public keys, which cannot act.
            assert!(outcome.is_err(), "{name}");
        }
    }
}

#[test]
fn a_wallet_folder_of_python_loads_with_its_coldkey() {
    let wallet = Wallet::load(&vectors().join("wallets"), "plain411a", "default").unwrap();
    assert_eq!(wallet.hotkey().to_ss58(), "5F4PRgHwkCUuKtfRNWpztVo6Jw1p6ABNYc9XWS2rHrtz5kB9");
    let coldkey = "5FjfQmXA3iEM7ejo9SEZPuAo8xm3NWWGuCoT7Cb8h9cGycGg".parse().unwrap();
    assert_eq!(wallet.coldkey(), Some(coldkey));
    assert_eq!((wallet.name(), wallet.hotkey_name()), ("plain411a", "default"));
}

#[test]
fn signatures_verify_as_in_the_python_wallet() {
    let bytes = fs::read(vectors().join("sr25519_signatures.json")).unwrap();
    let file: Value = serde_json::from_slice(&bytes).unwrap();
    let seeds = file["keys"].as_array().unwrap().iter().filter(|key| key["kind"] == "seed");
    for key in seeds {
        let digits = key["secret"].as_str().unwrap().trim_start_matches("0x").to_owned();
        let seed: [u8; 32] = hex::decode(digits).unwrap().try_into().unwrap();
        assert_eq!(Wallet::from_seed(&seed).hotkey().to_ss58(), key["ss58"].as_str().unwrap());
    }
}

#[test]
fn a_created_wallet_loads_and_signs() {
    let dir = tempfile::tempdir().unwrap();
    let made = Wallet::create(dir.path(), "alice", "default", NewKey::Random).unwrap();
    let loaded = Wallet::load(dir.path(), "alice", "default").unwrap();
    assert_eq!(loaded.hotkey(), made.hotkey());
    assert_eq!(loaded.coldkey(), made.coldkey());
    assert!(made.coldkey().is_some_and(|coldkey| coldkey != made.hotkey()));
    let signature = loaded.sign(b"message");
    verify(made.hotkey(), b"message", &signature).unwrap();
    let mut wrong = signature.0;
    wrong[5] ^= 1;
    assert!(verify(made.hotkey(), b"message", &Signature(wrong)).is_err());
    assert!(verify(Hotkey([1; 32]), b"message", &signature).is_err());
    for (path, mode) in [
        ("alice", 0o700),
        ("alice/hotkeys", 0o700),
        ("alice/hotkeys/default", 0o600),
        ("alice/coldkey", 0o600),
    ] {
        let permissions = fs::metadata(dir.path().join(path)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{path}");
    }
    let file = fs::read_to_string(dir.path().join("alice/hotkeys/default")).unwrap();
    let fields: Value = serde_json::from_str(&file).unwrap();
    let phrase = fields["secretPhrase"].as_str().unwrap();
    assert_eq!(phrase.split(' ').count(), 12, "a random wallet can be written down");
}

#[test]
fn a_seed_gives_the_same_wallet_and_nothing_is_overwritten() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Wallet::create(one.path(), "w", "default", seed(4)).unwrap();
    let second = Wallet::create(two.path(), "w", "default", seed(4)).unwrap();
    assert_eq!(first.hotkey(), second.hotkey());
    assert_eq!(first.coldkey(), second.coldkey());
    let before = fs::read(one.path().join("w/hotkeys/default")).unwrap();
    let again = Wallet::create(one.path(), "w", "default", seed(5));
    assert!(matches!(again, Err(WalletError::Exists(_))));
    assert_eq!(fs::read(one.path().join("w/hotkeys/default")).unwrap(), before);
    let sibling = Wallet::create(one.path(), "w", "other", seed(5)).unwrap();
    assert_eq!(sibling.coldkey(), first.coldkey(), "one coldkey a wallet");
}

#[test]
fn bad_names_never_reach_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(65);
    for name in ["", ".", "..", "../up", "a/b", ".hidden", "a b", "a\0", "é", &long] {
        for (wallet, hotkey) in [(name, "default"), ("w", name)] {
            let created = Wallet::create(dir.path(), wallet, hotkey, seed(1));
            assert!(matches!(created, Err(WalletError::BadName(_))), "{name:?}");
            let loaded = Wallet::load(dir.path(), wallet, hotkey);
            assert!(matches!(loaded, Err(WalletError::BadName(_))), "{name:?}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn damaged_key_files_are_told_from_absent_ones() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Wallet::load(dir.path(), "w", "default").unwrap_err();
    assert!(matches!(absent, WalletError::Missing(_)));
    let wallet = Wallet::create(dir.path(), "w", "default", seed(1)).unwrap();
    let path = dir.path().join("w/hotkeys/default");
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let error = Wallet::load(dir.path(), "w", "default").unwrap_err();
        assert!(matches!(error, WalletError::Keyfile { .. }), "{length} bytes: {error}");
    }
    fs::write(&path, vec![b' '; 20_000]).unwrap();
    let huge = Wallet::load(dir.path(), "w", "default").unwrap_err();
    assert!(matches!(huge, WalletError::TooLarge { size: 20_000, .. }));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let folder = Wallet::load(dir.path(), "w", "default").unwrap_err();
    assert!(folder.to_string().contains("not a regular file"), "{folder}");
    assert!(!format!("{wallet:?}").contains(&hex::encode([1; 32])));
}
