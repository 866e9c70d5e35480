//! Signatures made and checked with the Python wallet library.

use grail_protocol::ids::{Hotkey, Signature};
use grail_protocol::signature;
use grail_protocol::v5::binding::{commit_binding, commitments_hash, verify_commit};
use grail_protocol::v5::python::json::Value as Python;
use grail_protocol::v5::python::print::to_int;
use grail_protocol::v5::wallet;
use grail_testkit::vectors::{bytes, every_case, every_entry, load, python, text, tokens};
use schnorrkel::{ExpansionMode, MiniSecretKey, SecretKey};
use serde_json::Value;

#[test]
fn addresses_are_those_of_their_keys() {
    every_entry("sr25519", "signatures.json", "keys", 6, |key| {
        let hotkey: Hotkey = text(&key["ss58"]).parse().unwrap();
        assert_eq!(hotkey.0.as_slice(), bytes(&key["public_key"]));
        assert_eq!(hotkey.to_string(), text(&key["ss58"]));
        // Addresses of every chain without one of its own; sr25519.
        assert_eq!((key["ss58_format"].as_u64(), key["crypto_type"].as_u64()), (Some(42), Some(1)));
        if key["kind"] == "seed" {
            let seed = hex::decode(text(&key["secret"]).trim_start_matches("0x")).unwrap();
            let secret = MiniSecretKey::from_bytes(&seed).unwrap();
            let public = secret.expand_to_public(ExpansionMode::Ed25519);
            assert_eq!(public.to_bytes(), hotkey.0);
        }
    });
}

#[test]
fn signatures_are_judged_as_by_the_wallet_library() {
    let context = load("sr25519", "signatures.json");
    let name = String::from_utf8(signature::SIGNING_CONTEXT.to_vec()).unwrap();
    assert!(text(&context["scheme"]).contains(&name));
    every_case("sr25519", "signatures.json", |case| {
        let what = text(&case["mutation"]);
        let signer = text(&case["signer"]).parse::<Hotkey>();
        let signed = Signature::try_from(text(&case["signature"]).to_owned());
        let (Ok(signer), Ok(signed)) = (signer, signed) else {
            // Keys and signatures of another form do not even become types.
            assert!(text(&case["verify"]).starts_with("raises:"), "{what}");
            return;
        };
        let message = bytes(&case["message"]);
        assert_eq!(wallet::verify(signer, &message, &signed), case["verify"] == true, "{what}");
        // The native profile knows one reading of a message: it accepts less, and never more.
        let native = signature::verify(signer, &message, &signed).is_ok();
        let wrapped = [b"<Bytes>", message.as_slice(), b"</Bytes>"].concat();
        let as_wrapped = signature::verify(signer, &wrapped, &signed).is_ok();
        assert_eq!(native || as_wrapped, case["verify"] == true, "{what}");
    });
}

/// Signs as every wallet of the chain does.
fn sign(message: &[u8]) -> (Hotkey, Signature) {
    let secret: SecretKey =
        MiniSecretKey::from_bytes(&[7; 32]).unwrap().expand(ExpansionMode::Ed25519);
    let public = secret.to_public();
    let signed = secret.sign_simple(signature::SIGNING_CONTEXT, message, &public);
    (Hotkey(public.to_bytes()), Signature(signed.to_bytes()))
}

#[test]
fn texts_become_bytes_as_in_the_wallet_library() {
    every_entry("sr25519", "signatures.json", "signing_str_inputs", 4, |input| {
        let message = text(&input["text"]);
        let (key, as_utf8) = sign(message.as_bytes());
        if input["ok"] != true {
            // Spells no bytes: the library cannot sign it, so nothing verifies.
            assert!(!wallet::verify_text(key, message, &as_utf8), "{input}");
            return;
        }
        let is_utf8 = wallet::verify_text(key, message, &as_utf8);
        assert_eq!(is_utf8, input["verifies_as_utf8"] == true, "{input}");
        if input["verifies_as_hex_decoded"] == true {
            let (key, as_bytes) = sign(&hex::decode(message.trim_start_matches("0x")).unwrap());
            assert!(wallet::verify_text(key, message, &as_bytes), "{input}");
        }
    });
}

#[test]
fn commit_signatures_are_judged_as_in_the_reference() {
    every_case("sr25519", "commit_signatures.json", |case| {
        let got = is_signed(text(&case["address"]), &case["commit"]);
        assert_eq!(got, case["valid"] == true, "{}", case["mutation"]);
    });
}

/// Reads of a commit what its signature covers, with the reference's defaults, and checks it.
fn is_signed(owner: &str, commit: &Value) -> bool {
    let texts = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let model = &commit["model"];
    let layer = match python(&model["layer_index"]) {
        Python::Null => 0,
        layer => to_int(&layer).unwrap(),
    };
    let binding = commit_binding(
        &tokens(&commit["tokens"]),
        &texts(&commit["beacon"]["randomness"]),
        &texts(&model["name"]),
        i32::try_from(layer).unwrap(),
        &commitments_hash(&python(&commit["commitments"])),
    );
    let version = texts(&commit["proof_version"]);
    let signed = texts(&commit["signature"]);
    binding.is_ok_and(|binding| verify_commit(owner.parse().unwrap(), &version, &binding, &signed))
}
