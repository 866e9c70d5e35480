//! Encrypted key files with the password at hand, and answers of drand's relays and of the chain.

use grail_infrastructure::drand::{DrandChain, pulse, read_answer};
use grail_infrastructure::wallet::encryption::Encryption;
use grail_infrastructure::wallet::{KeyfileError, Password, Scheme, SecretError, read_secret};
use grail_ports::beacon::BeaconError;

use super::driver::Target;

/// Key files under a password; only the kind that opens quickly is opened.
pub const ENCRYPTED: Target =
    Target { name: "encrypted", drive: encrypted, heap_per_byte: 64, heap_beside: 32 << 10 };

/// Rounds as relays and the chain give them.
pub const DRAND: Target =
    Target { name: "drand", drive: drand, heap_per_byte: 64, heap_beside: 32 << 10 };

/// The password of the vectors.
const PASSWORD: &str = "Correct-Horse 9!";

/// The round of the valid inputs.
const ROUND: u64 = 1000;

fn encrypted(data: &[u8]) -> bool {
    let password = || Password::new(PASSWORD.to_owned().into());
    match Encryption::of(data) {
        Some(Encryption::AnsibleVault) => {
            match read_secret(data, Scheme::Sr25519, |_| Some(password())) {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.to_string().len() < 400, "an error tells, and repeats nothing");
                    // As far as the password's own check.
                    error.to_string().contains("password does not open")
                }
            }
        }
        Some(encryption) => {
            let closed =
                read_secret(data, Scheme::Sr25519, |_| None).expect_err("it has no password");
            assert_eq!(closed, SecretError::Keyfile(KeyfileError::Encrypted(encryption)));
            false
        }
        None => read_secret(data, Scheme::Sr25519, |_| None).is_ok(),
    }
}

/// Returns whether the answer had the form of a round; whether it is genuine is the key's word.
fn drand(data: &[u8]) -> bool {
    let Some((kind, bytes)) = data.split_first() else { return false };
    let outcome = match kind % 3 {
        0 => read_answer(DrandChain::Quicknet, ROUND, bytes),
        1 => read_answer(DrandChain::Default, ROUND, bytes),
        _ => pulse::read(ROUND, bytes),
    };
    match outcome {
        Ok(round) => {
            assert_eq!(round.round, ROUND);
            true
        }
        Err(BeaconError::Invalid { round, reason }) => {
            assert_eq!(round, ROUND);
            assert!(reason.len() < 200, "{reason}");
            reason.contains("signature")
        }
        Err(error) => panic!("nobody was asked: {error}"),
    }
}
