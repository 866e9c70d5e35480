//! Keys, signatures, key files and signed requests of the Python packages, read and checked by ours.

use std::path::Path;

use grail_infrastructure::wallet::btauth::{self, BtauthError, SignedRequest};
use grail_infrastructure::wallet::encryption::{DecryptError, Encryption};
use grail_infrastructure::wallet::{
    Key, KeyfileError, NO_PASSWORDS, Password, Phrase, Scheme, SecretError, Wallet, WalletFolder,
    read_secret, variable_for,
};
use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use grail_testkit::vectors::{every_entry, is_own, list, path, text};
use serde_json::{Value, json};
use zeroize::Zeroizing;

fn scheme(case: &Value) -> Scheme {
    if case["crypto_type"] == 0 { Scheme::Ed25519 } else { Scheme::Sr25519 }
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value).trim_start_matches("0x")).unwrap()
}

fn password(case: &Value) -> Password {
    Password::new(Zeroizing::new(text(&case["password"]).to_owned()))
}

/// Returns the fields of the key file that is written for `key`.
fn written(key: &Key) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let folder = WalletFolder::new(dir.path(), "w").unwrap();
    folder.write_coldkey(key, None).unwrap();
    serde_json::from_slice(&std::fs::read(folder.coldkey_path()).unwrap()).unwrap()
}

#[test]
fn keys_follow_from_phrases_uris_and_seeds_as_in_python() {
    every_entry("bittensor/keys", "keypairs.json", "keys", 31, |case| {
        let secret = ["mnemonic", "uri", "seed"].iter().find_map(|kind| case[*kind].as_str());
        let secret = secret.unwrap();
        let key = read_secret(secret.as_bytes(), scheme(case), |_| None);
        if !case["error"].is_null() {
            assert!(key.is_err(), "{secret}");
            return;
        }
        let key = key.unwrap();
        assert_eq!(key.address().to_ss58(), text(&case["ss58"]), "{secret}");
        assert_eq!(key.address().0.to_vec(), bytes(&case["public_key"]));
        let file = written(&key);
        // A soft derivation draws the nonce, the second half, anew each time.
        let drawn = if case["kind"] == "uri" { 64 } else { 0 };
        let known = |key: &Value| text(key)[..text(key).len() - drawn].to_owned();
        assert_eq!(known(&file["privateKey"]), known(&case["private_key"]), "{secret}");
        assert_eq!(file["cryptoType"], case["crypto_type"]);
        assert_eq!(file["publicKey"], case["public_key"]);
        assert_eq!(file["accountId"], case["public_key"]);
        // Python keeps no seed of a key from a URI.
        if case["kind"] != "uri" {
            assert_eq!(file["secretSeed"], case["secret_seed"]);
        }
        if let Some(entropy) = case["entropy"].as_str() {
            let entropy = hex::decode(entropy.trim_start_matches("0x")).unwrap();
            assert_eq!(*Phrase::from_entropy(&entropy).unwrap().words(), *secret);
            assert_eq!(file["secretPhrase"], *secret);
        }
    });
}

#[test]
fn phrases_are_refused_as_in_python() {
    every_entry("bittensor/keys", "keypairs.json", "mnemonics_validity", 4, |case| {
        let phrase = Phrase::parse(text(&case["mnemonic"]));
        assert_eq!(phrase.is_ok(), case["accepted"] == true, "{case}");
    });
}

#[test]
fn signatures_verify_as_in_python() {
    every_entry("bittensor/keys", "signatures.json", "signatures", 35, |case| {
        let address: Hotkey = text(&case["ss58"]).parse().unwrap();
        assert_eq!(address.0.to_vec(), bytes(&case["public_key"]));
        let signature = Signature(bytes(&case["signature"]).try_into().unwrap());
        let verified = scheme(case).verify_wrapped(address, &bytes(&case["message"]), &signature);
        assert_eq!(verified, case["valid"] == true, "{case}");
    });
}

#[test]
fn every_key_file_of_the_python_wallets_opens() {
    let mut refused = None;
    every_entry("bittensor/wallets", "manifest.json", "files", 19, |case| {
        let name = text(&case["path"]);
        let Ok(file) = std::fs::read(path("bittensor/wallets", name)) else {
            assert!(!is_own(), "{name} is not there");
            return;
        };
        if case["secret"] != true {
            let address = Wallet::address_in_keyfile(&file).unwrap();
            assert_eq!(address.to_ss58(), text(&case["ss58"]), "{name}");
            return;
        }
        let encryption = Encryption::of(&file);
        let expected = match case["encryption"].as_str() {
            None => None,
            Some("NaCl") => Some(Encryption::Nacl),
            Some("Ansible Vault") => Some(Encryption::AnsibleVault),
            Some(_) => Some(Encryption::Fernet),
        };
        assert_eq!(encryption, expected, "{name}");
        if let Some(encryption) = encryption {
            let closed = read_secret(&file, Scheme::Sr25519, |_| None).unwrap_err();
            assert_eq!(closed, SecretError::Keyfile(KeyfileError::Encrypted(encryption)));
            // A wrong password takes as long as a right one, so the dear kinds are tried once.
            if encryption == Encryption::AnsibleVault || refused.is_none() {
                refused = Some(encryption);
                let wrong = Password::new(Zeroizing::new("not it".to_owned()));
                let error = read_secret(&file, Scheme::Sr25519, |_| Some(wrong)).unwrap_err();
                let locked = KeyfileError::Locked(DecryptError::WrongPassword(encryption));
                assert_eq!(error, SecretError::Keyfile(locked), "{name}");
            }
        }
        let key = read_secret(&file, Scheme::Sr25519, |_| Some(password(case))).unwrap();
        assert_eq!(
            (key.address().to_ss58().as_str(), key.scheme()),
            (text(&case["ss58"]), scheme(case))
        );
        if let Some(phrase) = case["mnemonic"].as_str() {
            assert_eq!(*key.phrase().unwrap().words(), *phrase, "{name}");
        }
        let signature = key.sign(b"message");
        assert!(scheme(case).verify(key.address(), b"message", &signature), "{name}");
        let as_hotkey = Wallet::from_keyfile(&file);
        let can_act = encryption.is_none() && scheme(case) == Scheme::Sr25519;
        assert_eq!(as_hotkey.is_ok(), can_act, "{name}");
    });
}

#[test]
fn odd_key_files_are_read_as_the_reference_reads_them() {
    every_entry("bittensor/wallets", "manifest.json", "json_variants", 18, |case| {
        let name = text(&case["name"]);
        let reference = &case["bittensor_core_0_1_5"];
        let outcome = Wallet::from_keyfile(text(&case["keyfile"]).as_bytes());
        if reference["ok"] == true && reference["can_sign"] == true {
            let wallet = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(wallet.hotkey().to_ss58(), text(&reference["ss58"]), "{name}");
        } else {
            // The reference also loads public keys, which cannot act.
            assert!(outcome.is_err(), "{name}");
        }
    });
}

#[test]
fn passwords_are_found_in_the_variables_of_other_wallets() {
    every_entry("bittensor/wallets", "manifest.json", "password_environment", 2, |case| {
        let name = variable_for(Path::new(text(&case["keyfile_path"])));
        assert_eq!(name, text(&case["env_var"]));
        let value = text(&case["env_value"]);
        assert_eq!(Password::from_variable(&name, value), Ok(password(case)));
        assert_eq!(password(case).to_variable(&name), value);
    });
}

#[test]
fn wallet_folders_of_python_are_listed_with_their_addresses() {
    let wallets = path("bittensor/wallets", "");
    let names = if wallets.exists() { WalletFolder::list(&wallets).unwrap() } else { Vec::new() };
    every_entry("bittensor/wallets", "manifest.json", "files", 19, |case| {
        if !is_own() && !path("bittensor/wallets", text(&case["path"])).exists() {
            return;
        }
        let mut parts = text(&case["path"]).split('/');
        let name = parts.next().unwrap();
        assert!(names.iter().any(|listed| listed == name), "{name}");
        let folder = WalletFolder::new(&wallets, name).unwrap();
        let expected = text(&case["ss58"]).parse::<Hotkey>().unwrap();
        match (parts.next().unwrap(), parts.next()) {
            ("hotkeys", Some(hotkey)) if !hotkey.ends_with("pub.txt") => {
                assert!(folder.hotkeys().unwrap().iter().any(|listed| listed == hotkey));
                let address = folder.hotkey_address(hotkey).unwrap();
                let is_encrypted = !case["encryption"].is_null();
                assert!(address == Some(expected) || (is_encrypted && address.is_none()));
            }
            ("coldkeypub.txt", None) => {
                assert_eq!(folder.coldkey_address().unwrap(), Some(expected));
            }
            _ => {}
        }
    });
}

#[test]
fn a_key_file_under_a_password_survives_and_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = WalletFolder::new(dir.path(), "w").unwrap();
    let key = Key::random(Scheme::Sr25519, 12).unwrap();
    let phrase = key.phrase().unwrap().words();
    let secret = Password::new(Zeroizing::new("pässword".to_owned()));
    folder.write_coldkey(&key, Some(&secret)).unwrap();
    let file = std::fs::read(folder.coldkey_path()).unwrap();
    assert_eq!(Encryption::of(&file), Some(Encryption::Nacl));
    let first_words = phrase.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert!(!String::from_utf8_lossy(&file).contains(&first_words));
    assert_eq!(folder.coldkey_address().unwrap(), Some(key.address()));
    assert!(folder.coldkey(NO_PASSWORDS).is_err());
    let opened = folder.coldkey(&|_, _| Some(secret.clone())).unwrap();
    assert_eq!(opened.address(), key.address());
    assert_eq!(*opened.phrase().unwrap().words(), *phrase);
    let shown = format!("{opened:?} {:?} {folder:?}", opened.pair());
    assert!(!shown.contains(&first_words) && !shown.contains("ssword"), "{shown}");
}

#[test]
fn signed_requests_are_judged_as_in_python() {
    let file = grail_testkit::vectors::load("bittensor/btauth", "signed_requests.json");
    let receiver: Hotkey = text(&file["self_hotkey"]).parse().unwrap();
    every_entry("bittensor/btauth", "signed_requests.json", "cases", 6, |case| {
        let headers = &case["headers"];
        let body = bytes(&case["body"]);
        let request = SignedRequest {
            method: text(&case["method"]),
            target: text(&case["path"]),
            body: &body,
            version: text(&headers["X-Bittensor-Version"]),
            hotkey: text(&headers["X-Bittensor-Hotkey"]),
            receiver: headers["X-Bittensor-Receiver"].as_str(),
            nonce: text(&headers["X-Bittensor-Nonce"]),
            signature: text(&headers["X-Bittensor-Signature"]),
            crypto: headers["X-Bittensor-Crypto"].as_str(),
        };
        let signed = btauth::signed_text(
            request.crypto.map_or(Scheme::Sr25519, |name| name.parse().unwrap()),
            request.method,
            request.target,
            &body,
            case["nonce_ns"].as_u64().unwrap(),
            request.hotkey.parse().unwrap(),
            case["receiver"].as_str().map(|address| address.parse().unwrap()),
        );
        assert_eq!(signed, text(&case["signed_payload"]));
        let judged = |request: &SignedRequest<'_>, now_ns: u64| match btauth::verify(
            request, receiver, now_ns,
        ) {
            Ok(sender) => json!(sender),
            Err(BtauthError::StaleRequest) => json!("StaleRequest"),
            Err(BtauthError::WrongReceiver) => json!("WrongReceiver"),
            Err(BtauthError::BadSignature) => json!("BadSignature"),
            Err(BtauthError::BadHeader(name)) => json!(name),
        };
        for attempt in list(&case["verify"]) {
            let now_ns = attempt["now_ns"].as_u64().unwrap();
            assert_eq!(judged(&request, now_ns), attempt["result"], "{attempt}");
        }
        let other = SignedRequest { body: b"another body", ..request };
        let now_ns = case["nonce_ns"].as_u64().unwrap();
        assert_eq!(judged(&other, now_ns), case["verify_other_body"]);
    });
}
