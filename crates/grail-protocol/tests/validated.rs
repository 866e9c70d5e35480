//! Files of validated rollouts: golden bytes, canonical, bounded, signed to the last bit.

mod fixtures;

use fixtures::{EOS, Wallet, window};
use grail_protocol::codec::{DecodeError, EncodeError};
use grail_protocol::ids::{Digest, Hotkey, Netuid};
use grail_protocol::validated::{ValidatedError, ValidatedFile, ValidatedGroup, ValidatedRollout};
use proptest::prelude::*;

fn group(hotkey: u8, index: u32) -> ValidatedGroup {
    let rollout = |position: u8| ValidatedRollout {
        tokens: vec![position.into(), EOS],
        logprobs: vec![-0.5, -f32::from(position)],
        reward: f32::from(position % 2),
        success: position % 2 == 1,
    };
    ValidatedGroup {
        hotkey: Hotkey([hotkey; 32]),
        index,
        prompt: vec![1, 2],
        rollouts: (0..16).map(rollout).collect(),
    }
}

fn file(validator: Hotkey) -> ValidatedFile {
    ValidatedFile {
        network: "local".to_owned(),
        netuid: Netuid(81),
        window: window(),
        validator,
        checkpoint: Digest([0xc0; 32]),
        groups: vec![group(1, 0), group(1, 3), group(2, 0)],
    }
}

fn sealed(wallet: &Wallet, file: &ValidatedFile) -> Vec<u8> {
    file.seal(&|message| wallet.sign(message)).expect("the file fits")
}

#[test]
fn the_golden_file_has_these_bytes() {
    let validator = Wallet::new(5);
    let text: String = include_str!("vectors/validated_file.hex").split_whitespace().collect();
    let bytes = hex::decode(text).unwrap();
    let opened = ValidatedFile::open(&bytes, validator.hotkey()).unwrap();
    assert_eq!(opened, file(validator.hotkey()));
    // Signatures differ each time; everything else is fixed.
    let again = sealed(&validator, &opened);
    assert_eq!((&again[..10], &again[74..]), (&bytes[..10], &bytes[74..]));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let validator = Wallet::new(5);
    let mut small = file(validator.hotkey());
    small.groups.truncate(1);
    let honest = sealed(&validator, &small);
    // Every bit of the head, then every 5th: a signature is checked for each.
    let positions = (0..8 * 74).chain((8 * 74..8 * honest.len()).step_by(5));
    for position in positions {
        let mut bytes = honest.clone();
        bytes[position / 8] ^= 1 << (position % 8);
        let opened = ValidatedFile::open(&bytes, validator.hotkey());
        assert!(opened.is_err(), "bit {} of byte {}", position % 8, position / 8);
    }
}

#[test]
fn files_of_other_validators_are_refused() {
    let (validator, other) = (Wallet::new(5), Wallet::new(6));
    let bytes = sealed(&validator, &file(validator.hotkey()));
    let stolen = ValidatedFile::open(&bytes, other.hotkey());
    assert!(matches!(stolen, Err(ValidatedError::BadSignature(_))), "{stolen:?}");
    let renamed = sealed(&other, &file(validator.hotkey()));
    let opened = ValidatedFile::open(&renamed, other.hotkey());
    assert!(matches!(opened, Err(ValidatedError::WrongValidator { .. })), "{opened:?}");
}

#[test]
fn what_no_reader_takes_is_not_sealed() {
    let validator = Wallet::new(5);
    let sealing = |change: &dyn Fn(&mut ValidatedFile)| {
        let mut file = file(validator.hotkey());
        change(&mut file);
        file.seal(&|message| validator.sign(message)).unwrap_err()
    };
    let what = "validated group";
    assert_eq!(
        sealing(&|file| file.groups.swap(0, 1)),
        EncodeError::NotAscending { what, position: 1 }
    );
    assert_eq!(
        sealing(&|file| file.groups[2] = file.groups[1].clone()),
        EncodeError::NotAscending { what, position: 2 }
    );
    let short = sealing(&|file| file.groups[0].rollouts.truncate(3));
    assert!(matches!(short, EncodeError::BadCount { what: "rollouts", count: 3, .. }));
    let uneven = sealing(&|file| file.groups[0].rollouts[0].logprobs.truncate(1));
    assert!(matches!(uneven, EncodeError::NotOnePerToken { found: 1, expected: 2, .. }));
    let infinite = sealing(&|file| file.groups[0].rollouts[0].logprobs[0] = f32::NEG_INFINITY);
    assert_eq!(infinite, EncodeError::NotFinite("log-probability"));
}

#[test]
fn a_validator_that_signs_nonsense_gets_an_error_and_no_panic() {
    let validator = Wallet::new(5);
    let honest = sealed(&validator, &file(validator.hotkey()));
    let signed = |body: &[u8]| {
        let digest = Digest::of(body);
        let message = [b"grail/v6/signed-validated\0".as_slice(), &digest.0].concat();
        let signature = validator.sign(&message);
        let bytes = [&honest[..10], &signature.0, body].concat();
        ValidatedFile::open(&bytes, validator.hotkey())
    };
    let body = &honest[74..];
    assert!(signed(body).is_ok());
    assert!(signed(&body[..body.len() - 1]).is_err());
    let longer = signed(&[body, &[0]].concat());
    assert_eq!(longer, Err(ValidatedError::Malformed(DecodeError::TrailingBytes(1))));
    // Change one byte in turn, and sign that.
    for position in 0..body.len() {
        let mut body = body.to_vec();
        body[position] ^= 0x81;
        if let Ok(file) = signed(&body) {
            assert_eq!(sealed(&validator, &file)[74..], body, "byte {position}");
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let opened = ValidatedFile::open(&bytes, Hotkey([1; 32]));
        prop_assert!(opened.is_err());
        let with_magic = [b"GRAILVAL\x06\0".as_slice(), &bytes].concat();
        prop_assert!(ValidatedFile::open(&with_magic, Hotkey([1; 32])).is_err());
    }

    #[test]
    fn files_round_trip(
        places in prop::collection::btree_set((any::<u8>(), any::<u32>()), 0..4),
        logprob in prop::num::f32::NEGATIVE | prop::num::f32::ZERO,
    ) {
        let validator = Wallet::new(5);
        let mut file = file(validator.hotkey());
        file.groups = places.into_iter().map(|(hotkey, index)| group(hotkey, index)).collect();
        for group in &mut file.groups {
            group.rollouts[7].logprobs[0] = logprob;
        }
        prop_assume!(logprob.is_finite());
        let bytes = sealed(&validator, &file);
        let opened = ValidatedFile::open(&bytes, validator.hotkey()).unwrap();
        prop_assert_eq!(opened, file);
    }
}
