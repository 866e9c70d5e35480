//! What is sealed opens with its round alone, in our form and in that of other implementations, and
//! no foreign bytes make opening panic or ask for memory.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as it does")]

mod fixtures;

use fixtures::{opener, quicknet, signature_1000};
use grail_protocol::timelock::drand::{
    self, COMMIT_BYTES_MAX, COMMIT_BYTES_MIN, DrandError, envelope, open_commit, open_envelope,
    seal_commit,
};
use grail_protocol::timelock::{
    BeaconPublicKey, NoOpener, OVERHEAD_BYTES, OpenError, RoundOpener, RoundSignature, SealError,
    SealTo, seal,
};
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/timelock/ciphertexts.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap().strip_prefix("0x").unwrap()).unwrap()
}

/// Returns the opener of a case's round, which is checked against quicknet's key.
fn opener_of(file: &Value, case: &Value) -> RoundOpener {
    let key = BeaconPublicKey(bytes(&file["public_key"]).try_into().unwrap());
    let signature = RoundSignature(bytes(&case["round_signature"]).try_into().unwrap());
    RoundOpener::new(key, case["round"].as_u64().unwrap_or(1_000), signature).unwrap()
}

#[test]
fn ciphertexts_of_other_implementations_open() {
    let file = vectors();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let content = case.get("payload_scale").or(case.get("plaintext")).unwrap();
        let (content, opener) = (bytes(content), opener_of(&file, case));
        let (commit, envelope) = (bytes(&case["commit"]), bytes(&case["envelope"]));
        assert_eq!(open_commit(&commit, &opener), Ok(content.clone()));
        assert_eq!(open_envelope(&envelope, &opener), Ok(content.clone()));
        assert_eq!(drand::envelope(&commit, opener.round()), Ok(envelope));

        let ours = seal_commit(quicknet(), &content, &[3; 32]).unwrap();
        assert_eq!(ours.len(), commit.len());
        assert_eq!(open_commit(&ours, &opener), Ok(content));
    }
}

#[test]
fn what_other_implementations_refuse_is_refused() {
    let file = vectors();
    let failures = file["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 4);
    for case in failures {
        assert_eq!(case["result"]["ok"], false);
        let error = open_envelope(&bytes(&case["envelope"]), &opener_of(&file, case)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.'), "{text}");
    }
}

#[test]
fn hostile_lengths_are_refused_before_anything_is_allocated() {
    let honest = seal_commit(quicknet(), b"x", &[3; 32]).unwrap();
    assert_eq!(honest.len(), COMMIT_BYTES_MIN + 1);
    for at in [96, 136, 176, 184, 209, 229] {
        for length in [0u64, 31, 33, 1 << 20, 1 << 40, u64::MAX / 2, u64::MAX] {
            let mut commit = honest.clone();
            commit[at..at + 8].copy_from_slice(&length.to_le_bytes());
            assert!(open_commit(&commit, &opener()).is_err(), "{length} at {at}");
        }
    }
    let large = vec![0; COMMIT_BYTES_MAX + 1];
    assert_eq!(open_commit(&large, &opener()), Err(DrandError::TooLarge(COMMIT_BYTES_MAX + 1)));
    assert_eq!(envelope(&large, 1), Err(DrandError::TooLarge(COMMIT_BYTES_MAX + 1)));
    // 1 in two bytes, 64 in four, and the form for more than 2^30.
    for compact in [&[0x05, 0x00][..], &[0x02, 0x01, 0x00, 0x00], &[0x03, 0xff, 0xff, 0xff]] {
        assert_eq!(open_envelope(compact, &opener()), Err(DrandError::BadCompact));
    }
    let other = envelope(&honest, 1_001).unwrap();
    assert_eq!(
        open_envelope(&other, &opener()),
        Err(DrandError::OtherRound { expected: 1_000, found: 1_001 })
    );
}

#[test]
fn a_signature_must_be_that_of_the_round() {
    let (key, signature) = (quicknet().key, signature_1000());
    assert_eq!(RoundOpener::new(key, 1_000, signature).unwrap(), opener());
    let wrong = Err(NoOpener::WrongSignature { round: 999 });
    assert_eq!(RoundOpener::new(key, 999, signature), wrong);
    let infinity = |bytes: &mut [u8]| {
        bytes.fill(0);
        bytes[0] = 0xc0;
    };
    let mut nothing = signature;
    infinity(&mut nothing.0);
    for signature in [RoundSignature([0; 48]), RoundSignature([0xff; 48]), nothing] {
        let refused = Err(NoOpener::WrongSignature { round: 1_000 });
        assert_eq!(RoundOpener::new(key, 1_000, signature), refused);
    }
    let no_key = BeaconPublicKey([0xff; 96]);
    assert_eq!(RoundOpener::new(no_key, 1_000, signature), Err(NoOpener::BadPublicKey));
    let to = SealTo { key: no_key, round: 1 };
    assert_eq!(seal(to, vec![], &[0; 32]), Err(SealError::BadPublicKey));
}

#[test]
fn points_outside_the_subgroup_are_refused() {
    let honest = seal(quicknet(), b"content".to_vec(), &[5; 32]).unwrap();
    let mut refused = 0;
    for first in 0..=255u8 {
        let mut bytes = honest.clone();
        // About half of these are x-coordinates of the curve, and almost none of its subgroup.
        bytes[95] = first;
        match opener().open(&bytes) {
            Ok(content) => assert_eq!(content, b"content"),
            Err(error) => {
                assert_eq!(error, OpenError::BadPoint);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 255);
}

#[test]
fn texts_of_keys_and_signatures_are_hex() {
    let key = quicknet().key;
    assert_eq!(key.to_string().parse(), Ok(key));
    let json = serde_json::to_string(&signature_1000()).unwrap();
    assert_eq!(serde_json::from_str::<RoundSignature>(&json).unwrap(), signature_1000());
    let error = "b446".parse::<RoundSignature>().unwrap_err().to_string();
    assert_eq!(error, "`b446` is no signature of a beacon round; expected 96 hexadecimal digits");
    assert!(serde_json::from_str::<BeaconPublicKey>("\"zz\"").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_sealed_opens(content in prop::collection::vec(any::<u8>(), 0..4_000),
                            entropy: [u8; 32]) {
        let bytes = seal(quicknet(), content.clone(), &entropy).unwrap();
        prop_assert_eq!(bytes.len(), content.len() + OVERHEAD_BYTES);
        prop_assert_eq!(opener().open(&bytes), Ok(content.clone()));
        prop_assert_eq!(&seal(quicknet(), content.clone(), &entropy).unwrap(), &bytes);
        let other = seal(SealTo { round: 1_001, ..quicknet() }, content, &entropy).unwrap();
        prop_assert_eq!(opener().open(&other), Err(OpenError::WrongRound));
    }

    #[test]
    fn changed_ciphertexts_do_not_open(
        content in prop::collection::vec(any::<u8>(), 0..200),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let (honest, commit) = (
            seal(quicknet(), content.clone(), &[1; 32]).unwrap(),
            seal_commit(quicknet(), &content, &[1; 32]).unwrap(),
        );
        prop_assert!(opener().open(&honest[..cut.index(honest.len())]).is_err());
        prop_assert!(open_commit(&commit[..cut.index(commit.len())], &opener()).is_err());
        let (mut changed, mut changed_commit) = (honest.clone(), commit.clone());
        for (position, mask) in &mutations {
            changed[position.index(honest.len())] ^= mask;
            changed_commit[position.index(commit.len())] ^= mask;
        }
        // Two changes may undo each other.
        prop_assert!(changed == honest || opener().open(&changed).is_err());
        prop_assert!(changed_commit == commit || open_commit(&changed_commit, &opener()).is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(opener().open(&bytes).is_err());
        prop_assert!(open_commit(&bytes, &opener()).is_err());
        prop_assert!(open_envelope(&bytes, &opener()).is_err());
        // Behind a valid start, so that the reader gets somewhere.
        let commit = seal_commit(quicknet(), b"content", &[1; 32]).unwrap();
        for kept in [96, 104, 136, 176, 184, 192] {
            let bytes = [&commit[..kept], &bytes].concat();
            prop_assert!(open_commit(&bytes, &opener()).is_err());
        }
    }
}
