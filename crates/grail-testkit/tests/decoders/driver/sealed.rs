//! Timelock ciphertexts: ours, those of the chain's wallets, and files sealed around damaged groups.

use std::sync::LazyLock;

use grail_ports::signer::Signer;
use grail_protocol::rollout::encoding::decode_groups;
use grail_protocol::rollout::{Body, RolloutFile, SealedBody, commitment};
use grail_protocol::timelock::drand::{envelope, open_commit, open_envelope, seal_commit};
use grail_protocol::timelock::{
    BeaconPublicKey, OVERHEAD_BYTES, OpenError, RoundOpener, RoundSignature, SealTo, seal,
};
use grail_protocol::verifier::{ExpectedSeal, Rejection, check_structure};

use super::SIGNER;
use super::rollouts::{expected, is_about_groups};

/// drand's quicknet and its round 1,000, as everybody can fetch them.
const ROUND: u64 = 1_000;
const PUBLIC_KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a\
    0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4b\
    c09e76eae8991ef5ece45a";
const SIGNATURE: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2\
    bacbe47e4b6b63ed5e39";

static OPENER: LazyLock<RoundOpener> = LazyLock::new(|| {
    RoundOpener::new(to().key, ROUND, RoundSignature(bytes(SIGNATURE)))
        .expect("it is the round's signature")
});

/// The round that everything here is sealed to.
pub fn to() -> SealTo {
    SealTo { key: BeaconPublicKey(bytes(PUBLIC_KEY)), round: ROUND }
}

/// The first byte chooses what the others are.
pub fn drive(data: &[u8]) -> bool {
    let Some((kind, bytes)) = data.split_first() else { return false };
    match kind % 5 {
        0 => ciphertext(bytes),
        1 => round_trip(bytes),
        2 => open_commit(bytes, &OPENER).is_ok(),
        3 => open_envelope(bytes, &OPENER).is_ok(),
        _ => file(bytes),
    }
}

fn ciphertext(bytes: &[u8]) -> bool {
    let opened = OPENER.open(bytes);
    match &opened {
        Ok(content) => assert_eq!(content.len() + OVERHEAD_BYTES, bytes.len()),
        Err(OpenError::TooShort { found, min }) => assert!(found < min),
        Err(_) => assert!(bytes.len() >= OVERHEAD_BYTES),
    }
    opened.is_ok()
}

fn round_trip(content: &[u8]) -> bool {
    let sealed = seal(to(), content.to_vec(), &[7; 32]).expect("the key is a point");
    assert_eq!(OPENER.open(&sealed).as_deref(), Ok(content));
    // A commit has a bound of its own.
    let commit = seal_commit(to(), content, &[7; 32]).expect("the key is a point");
    if let Ok(envelope) = envelope(&commit, ROUND) {
        assert_eq!(open_envelope(&envelope, &OPENER).as_deref(), Ok(content));
    }
    true
}

/// Seals `content` into a file whose frame is right and whose root, where there is one, too.
fn file(content: &[u8]) -> bool {
    let expected = expected("exact-1", ExpectedSeal::Round(OPENER.clone()));
    let header = expected.header.clone();
    let groups = decode_groups(&header.numerics, content).ok();
    let root = commitment::root(&header, groups.as_deref().unwrap_or_default());
    let signature = SIGNER.sign(&commitment::signed_message(&root));
    let ciphertext = seal(to(), content.to_vec(), &[7; 32]).expect("the key is a point");
    let body = Body::Sealed(SealedBody { round: ROUND, ciphertext });
    let Ok(bytes) = (RolloutFile { root, signature, header, body }).encode() else { return false };
    let outcome = check_structure(&bytes, &expected);
    let accepted = outcome.is_ok();
    match (outcome, groups) {
        (Ok(structured), Some(groups)) => assert!(structured.groups() == groups),
        (Err(Rejection::MalformedGroups(_)), None) => {}
        (Err(rejection), Some(_)) => assert!(is_about_groups(&rejection), "{rejection}"),
        (outcome, None) => panic!("content that is no groups: {outcome:?}"),
    }
    accepted
}

fn bytes<const N: usize>(hexadecimal: &str) -> [u8; N] {
    let digit = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("two digits");
    std::array::from_fn(|index| digit(2 * index))
}
