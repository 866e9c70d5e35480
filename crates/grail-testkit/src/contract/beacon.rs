//! The contract of [`Beacon`].

use std::collections::BTreeSet;

use grail_ports::beacon::Beacon;
use grail_protocol::timelock::{NoOpener, RoundOpener, SealTo, seal};

/// Checks a beacon of which rounds 1 to `latest` are out and `future` is not.
///
/// # Panics
/// When the beacon breaks the contract.
pub async fn beacon(beacon: &dyn Beacon, latest: u64, future: u64) {
    assert!(beacon.schedule().period_ms > 0, "a period is at least 1 ms");
    assert!(latest >= 1 && future > latest, "the contract needs a round that is out and one not");

    let first = latest.saturating_sub(8).max(1);
    let mut seen = BTreeSet::new();
    for round in first..=latest {
        let answer = beacon.round(round).await.expect("a round that is out can be had");
        let answer = answer.expect("a round that is out is not None");
        assert_eq!(answer.round, round, "the answer names the round asked for");
        assert!(seen.insert(answer.randomness), "round {round} repeats another's randomness");
        let again = beacon.round(round).await.expect("a round can be asked for twice");
        assert_eq!(again, Some(answer), "round {round} changed");
    }

    let early = beacon.round(future).await.expect("a round that is not out is no error");
    assert_eq!(early, None, "round {future} is not out yet");
    assert!(!matches!(beacon.round(0).await, Ok(Some(_))), "rounds are 1-based");
    opens_what_was_sealed(beacon, latest).await;
}

/// The key that one seals to and the signatures of the rounds belong together.
async fn opens_what_was_sealed(beacon: &dyn Beacon, round: u64) {
    let key = beacon.public_key();
    let letter = b"to be read later".to_vec();
    let sealed = seal(SealTo { key, round }, letter.clone(), &[7; 32]);
    let sealed = sealed.expect("one can seal to a beacon's key");
    let answer = beacon.round(round).await.expect("a round that is out can be had");
    let signature = answer.expect("a round that is out is not None").signature;
    let opener = RoundOpener::new(key, round, signature).expect("the signature is the round's");
    assert_eq!(opener.open(&sealed), Ok(letter), "round {round} opens what was sealed to it");
    let later = RoundOpener::new(key, round + 1, signature);
    assert_eq!(later, Err(NoOpener::WrongSignature { round: round + 1 }), "and nothing else");
}
