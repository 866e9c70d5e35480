//! Signed extrinsics, byte for byte.

use grail_infrastructure::substrate::{
    Era, Extrinsic, MultiSignature, SignedWith, SigningContext, blake2_256,
};
use grail_testkit::vectors::{bytes, every_entry, integer};
use serde_json::Value as Json;

use super::SPEC_461;

fn bytes32(json: &Json) -> [u8; 32] {
    bytes(json).try_into().unwrap()
}

pub fn context(case: &Json) -> SigningContext {
    let number = |key: &str| u32::try_from(integer(&case[key])).unwrap();
    SigningContext {
        genesis: bytes32(&case["genesis_hash"]),
        spec_version: number("spec_version"),
        transaction_version: number("transaction_version"),
    }
}

/// Returns the era, and the block that it was made at.
fn era(case: &Json) -> (Era, u64) {
    let json = &case["era"];
    let number = |key: &str| json[key].as_u64().unwrap();
    match json {
        Json::Object(_) => (Era::mortal(number("period"), number("current")), number("current")),
        _ => (Era::Immortal, 0),
    }
}

#[test]
fn extrinsics_have_the_bytes_of_the_packages() {
    every_entry("bittensor/extrinsics", "signed_spec461.json", "extrinsics", 50, |case| {
        let (era, current) = era(case);
        assert_eq!(era.encode(), bytes(&case["era_hex"]), "{case}");
        if let Some(birth) = case["era_birth_block"].as_u64() {
            assert_eq!(era.birth(current), birth);
            assert!(birth <= current && era.death(current).unwrap() > current);
        }
        let with = SignedWith {
            era,
            nonce: u64::try_from(integer(&case["nonce"])).unwrap(),
            tip: u128::try_from(integer(&case["tip"])).unwrap(),
        };
        let (context, birth) = (context(case), bytes32(&case["era_block_hash"]));
        let call = bytes(&case["call"]);
        let payload = SPEC_461.signing_payload(&call, with, &context, birth).unwrap();
        assert_eq!(payload.extra(), bytes(&case["extra"]));
        assert_eq!(payload.additional(), bytes(&case["additional_signed"]));
        assert_eq!(payload.bytes_to_sign(), bytes(&case["bytes_to_sign"]));
        let is_hashed = payload.bytes_to_sign().len() == 32;
        assert_eq!(case["payload_is_hashed"].as_bool(), Some(is_hashed));

        let signature: [u8; 64] = bytes(&case["signature"]).try_into().unwrap();
        let signature = match case["crypto_type"].as_u64().unwrap() {
            0 => MultiSignature::Ed25519(signature),
            _ => MultiSignature::Sr25519(signature),
        };
        let account = bytes32(&case["signer_public_key"]);
        let extrinsic = payload.into_extrinsic(account, &signature);
        assert_eq!(extrinsic, bytes(&case["extrinsic"]));
        assert_eq!(blake2_256(&extrinsic).as_slice(), bytes(&case["extrinsic_hash"]));

        let Extrinsic::Signed(read) = SPEC_461.decode_extrinsic(&extrinsic).unwrap() else {
            panic!("it is signed")
        };
        assert_eq!((read.account, read.signature, read.with), (account, signature, with));
        assert_eq!(read.call, call);
        assert_eq!(read.verify(&SPEC_461, &context, birth), Ok(Ok(())));
        let others = [
            SigningContext { spec_version: context.spec_version + 1, ..context },
            SigningContext { transaction_version: 2, ..context },
            SigningContext { genesis: [9; 32], ..context },
        ];
        for other in others {
            assert!(read.verify(&SPEC_461, &other, birth).unwrap().is_err());
        }
        assert!(read.verify(&SPEC_461, &context, [9; 32]).unwrap().is_err());
    });
}

#[test]
fn an_extrinsic_is_refused_when_any_byte_of_it_changes() {
    let mut n = 0;
    every_entry("bittensor/extrinsics", "signed_spec461.json", "extrinsics", 50, |case| {
        // A few are enough: every byte costs a verification.
        n += 1;
        if n > 4 {
            return;
        }
        let extrinsic = bytes(&case["extrinsic"]);
        let (context, birth) = (context(case), bytes32(&case["era_block_hash"]));
        for at in 0..extrinsic.len().min(180) {
            let mut damaged = extrinsic.clone();
            damaged[at] ^= 1;
            match SPEC_461.decode_extrinsic(&damaged) {
                Ok(Extrinsic::Signed(read)) => {
                    let verdict = read.verify(&SPEC_461, &context, birth).unwrap();
                    assert!(verdict.is_err(), "byte {at} of {case}");
                }
                // The version byte of an extrinsic without signature is two bits away.
                Ok(Extrinsic::Bare(_)) => panic!("byte {at} made it bare"),
                Err(_) => {}
            }
            assert!(SPEC_461.decode_extrinsic(&extrinsic[..at]).is_err(), "cut at {at}");
        }
    });
}
