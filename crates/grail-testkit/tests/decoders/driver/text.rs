//! JSON and short texts that peers publish.

use grail_ports::signer::Signer;
use grail_protocol::calibration::Calibration;
use grail_protocol::canonical_json::canonical_json;
use grail_protocol::checkpoint::reference::delta_metadata::DeltaMetadata;
use grail_protocol::checkpoint::reference::generation::SamplingParams;
use grail_protocol::checkpoint::{Published, SignedFiles, Unsigned, open_metadata, sign_metadata};
use grail_protocol::credentials::CredentialCommitment;
use grail_protocol::ids::{Digest, Hotkey, Signature, Window};
use grail_protocol::keys::ReadyMarker;
use grail_protocol::v5::python::json;
use grail_protocol::v5::python::print::{Keys, to_json};
use grail_protocol::verdict::VerdictRecord;
use serde_json::Value;

use super::{SIGNER, hotkey};

/// Hexadecimal digits of a signature.
const SIGNATURE_DIGITS: usize = 128;

/// The input is `metadata.json`, then the 128 digits of `manifest.sig`.
pub fn manifest(data: &[u8]) -> bool {
    let (json, signature) = data.split_at(data.len().saturating_sub(SIGNATURE_DIGITS));
    let parsed: Option<Value> = serde_json::from_slice(json).ok();
    let window = parsed.as_ref().and_then(|value| value.get("window")?.as_u64());
    let window = window.and_then(|start| Window::from_start(start).ok());
    let window = window.unwrap_or(Window::from_start(0).expect("a multiple of 30"));
    let untouched = open_metadata(json, signature, hotkey(), window);
    let Some(value) = parsed else {
        assert!(untouched.is_err(), "metadata that is no JSON was opened");
        return false;
    };

    let canonical = canonical_json(&value);
    let again: Value = serde_json::from_str(&canonical).expect("canonical JSON is JSON");
    assert_eq!(canonical_json(&again), canonical, "canonical JSON has a second form");

    // Signed anew: what a mutation says is looked at, not only that somebody changed something.
    let signature = String::from(SIGNER.sign(canonical.as_bytes()));
    let opened = open_metadata(json, signature.as_bytes(), hotkey(), window);
    let Ok(metadata) = opened else { return false };
    let files = sign_metadata(&metadata, &|message| SIGNER.sign(message))
        .expect("it was opened, so it can be published");
    let (json, signature) = (files.metadata_json.as_bytes(), files.manifest_sig.as_bytes());
    assert_eq!(open_metadata(json, signature, hotkey(), window), Ok(metadata));
    true
}

/// The input is a reference's `metadata.json`, then the 128 digits of `manifest.sig`.
pub fn reference_manifest(data: &[u8]) -> bool {
    let _ = DeltaMetadata::read_format(data);
    let (text, signature) = data.split_at(data.len().saturating_sub(SIGNATURE_DIGITS));
    let parsed = std::str::from_utf8(text).ok().and_then(|text| json::parse(text).ok());
    let named = parsed.as_ref().and_then(|value| match value.get("window") {
        Some(json::Value::Integer(start)) => Window::from_start(u64::try_from(*start).ok()?).ok(),
        _ => None,
    });
    let window = named.unwrap_or_default();
    let open = |metadata: &[u8], signature: &[u8]| {
        let files = SignedFiles { metadata, signature: Some(signature) };
        Published::open(&files, hotkey(), window, Unsigned::Refuse)
    };
    let untouched = open(text, signature);
    let Some(value) = parsed else {
        assert!(untouched.is_err(), "metadata that is no JSON was opened");
        return false;
    };
    // Signed anew: what a mutation says is looked at, not only that somebody changed something.
    let signature = String::from(SIGNER.sign(to_json(&value, Keys::Sorted).as_bytes()));
    let Ok(Published::V5(metadata)) = open(text, signature.as_bytes()) else { return false };
    let _ = SamplingParams::read(&metadata.generation_params);
    let missing = metadata.missing();
    let Ok(files) = metadata.sign(&|message| SIGNER.sign(message)) else {
        // A float of 20 bytes may be printed longer than it was written, and so may the whole.
        assert!(!missing.is_empty() || text.len() > 100_000, "{missing:?}");
        return true;
    };
    let again = open(files.metadata_json.as_bytes(), files.manifest_sig.as_bytes());
    let Ok(Published::V5(again)) = again else { panic!("our own metadata is refused: {again:?}") };
    assert_eq!(again.to_json(), files.metadata_json);
    true
}

pub fn verdict(data: &[u8]) -> bool {
    let Ok(verdict) = VerdictRecord::from_json(data) else { return false };
    assert_eq!(VerdictRecord::from_json(verdict.to_json().as_bytes()), Ok(verdict));
    true
}

/// The input is a calibration's file; it is judged by too.
pub fn calibration(data: &[u8]) -> bool {
    let untouched = Calibration::open(data, &[hotkey()]);
    let parsed = serde_json::from_slice(data).ok().and_then(|mut value: Value| {
        let fields = value.as_object_mut()?;
        fields.retain(|key, _| !["signer", "signature"].contains(&key.as_str()));
        serde_json::from_value::<Calibration>(value).ok()
    });
    let Some(calibration) = parsed else {
        assert!(untouched.is_err(), "a calibration was opened that cannot be read");
        return false;
    };
    let Ok(file) = calibration.sign(hotkey(), &|message| SIGNER.sign(message)) else {
        return false;
    };
    let measures = calibration.thresholds.measure(&[0.0, 0.01, 2.5, f32::MAX], &[0, 64]);
    let _ = calibration.thresholds.tail_hits(&measures);
    assert_eq!(Calibration::open(file.as_bytes(), &[hotkey()]), Ok((calibration, hotkey())));
    true
}

pub fn names(data: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(credentials) = CredentialCommitment::decode(data) {
        accepted = true;
        // The reference writes any UTF-8, we write ASCII only.
        if let Ok(bytes) = credentials.encode() {
            assert_eq!(CredentialCommitment::decode(&bytes), Ok(credentials));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return accepted };
    if let Ok(hotkey) = text.parse::<Hotkey>() {
        accepted = true;
        assert_eq!(hotkey.to_ss58(), text, "an address has a second spelling");
    }
    if let Some(marker) = ReadyMarker::parse(text) {
        accepted = true;
        assert_eq!(ReadyMarker::parse(&marker.key()), Some(marker));
    }
    if let Ok(signature) = Signature::try_from(text.to_owned()) {
        accepted = true;
        assert!(String::from(signature).eq_ignore_ascii_case(text));
    }
    if let Ok(digest) = Digest::try_from(text.to_owned()) {
        accepted = true;
        // Explorers write a prefix that we do not.
        let digits = text.strip_prefix("0x").unwrap_or(text);
        assert!(digest.to_hex().eq_ignore_ascii_case(digits));
    }
    accepted
}
