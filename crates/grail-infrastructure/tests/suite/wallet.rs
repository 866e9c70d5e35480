//! Wallet folders that we write: whole, private, never overwritten.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use grail_infrastructure::wallet::{NO_PASSWORDS, NewKey, Wallet, WalletError};
use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use grail_protocol::signature::verify;
use serde_json::Value;
use zeroize::Zeroizing;

fn seed(byte: u8) -> NewKey {
    NewKey::Seed(Zeroizing::new([byte; 32]))
}

#[test]
fn a_created_wallet_loads_and_signs() {
    let dir = tempfile::tempdir().unwrap();
    let made = Wallet::create(dir.path(), "alice", "default", NewKey::Random).unwrap();
    let loaded = Wallet::load(dir.path(), "alice", "default", NO_PASSWORDS).unwrap();
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
        ("alice/hotkeys/defaultpub.txt", 0o600),
        ("alice/coldkey", 0o600),
        ("alice/coldkeypub.txt", 0o600),
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
    for name in ["", ".", "..", "../up", "a/b", ".hidden", "a b", "a\0", "é", "xpub.txt/", &long] {
        for (wallet, hotkey) in [(name, "default"), ("w", name)] {
            let created = Wallet::create(dir.path(), wallet, hotkey, seed(1));
            assert!(matches!(created, Err(WalletError::BadName(_))), "{name:?}");
            let loaded = Wallet::load(dir.path(), wallet, hotkey, NO_PASSWORDS);
            assert!(matches!(loaded, Err(WalletError::BadName(_))), "{name:?}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn damaged_key_files_are_told_from_absent_ones() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Wallet::load(dir.path(), "w", "default", NO_PASSWORDS).unwrap_err();
    assert!(matches!(absent, WalletError::Missing(_)));
    let wallet = Wallet::create(dir.path(), "w", "default", seed(1)).unwrap();
    let path = dir.path().join("w/hotkeys/default");
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let error = Wallet::load(dir.path(), "w", "default", NO_PASSWORDS).unwrap_err();
        assert!(matches!(error, WalletError::Keyfile { .. }), "{length} bytes: {error}");
    }
    fs::write(&path, vec![b' '; 20_000]).unwrap();
    let huge = Wallet::load(dir.path(), "w", "default", NO_PASSWORDS).unwrap_err();
    assert!(matches!(huge, WalletError::TooLarge { size: 20_000, .. }));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let folder = Wallet::load(dir.path(), "w", "default", NO_PASSWORDS).unwrap_err();
    assert!(folder.to_string().contains("not a regular file"), "{folder}");
    assert!(!format!("{wallet:?}").contains(&hex::encode([1; 32])));
}
