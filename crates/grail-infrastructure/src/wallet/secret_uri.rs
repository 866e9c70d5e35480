//! Secret URIs: a phrase or a seed, then a path of derivations and a password, as Substrate writes
//! them.
//!
//! `PHRASE//hard/soft///password`. Without a phrase the development phrase that everybody knows is
//! meant, so `//Alice` is a key for tests. Source: spec/bittensor.md section 9.

use blake2::Digest as _;
use blake2::digest::consts::U32;
use parity_scale_codec::Encode as _;
use schnorrkel::ExpansionMode;
use schnorrkel::derive::{ChainCode, Derivation as _};
use zeroize::Zeroizing;

use super::keypair::{Keypair, Scheme};
use super::phrase::{Phrase, PhraseError};

/// The phrase of keys that are no secret.
const DEVELOPMENT_PHRASE: &str =
    "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

/// What an ed25519 key's hard derivation hashes first.
const ED25519_DOMAIN: &str = "Ed25519HDKD";

type Blake2b256 = blake2::Blake2b<U32>;

/// Why text is no secret URI. No error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretUriError {
    /// What stands before the path is no phrase.
    #[error(transparent)]
    Phrase(#[from] PhraseError),
    /// Nor a seed.
    #[error("a seed has 64 hexadecimal digits after 0x")]
    Seed,
    /// An empty step.
    #[error("the derivation path has an empty step; write it as //hard or /soft")]
    EmptyStep,
    /// A step that the scheme has not.
    #[error("ed25519 keys have hard derivations (//) only")]
    SoftStep,
}

/// A step of a path, with its chain code.
enum Step {
    Hard([u8; 32]),
    Soft([u8; 32]),
}

/// Returns the key pair that `text` describes.
///
/// # Errors
/// When a part of it makes no sense.
pub fn derive(scheme: Scheme, text: &str) -> Result<Keypair, SecretUriError> {
    let (rest, password) = text.split_once("///").unwrap_or((text, ""));
    let (origin, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let steps = steps(path)?;
    let seed = match origin.trim() {
        "" => Phrase::parse(DEVELOPMENT_PHRASE)?.seed(password),
        seed if seed.starts_with("0x") => {
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(&seed[2..], bytes.as_mut_slice())
                .map_err(|_| SecretUriError::Seed)?;
            bytes
        }
        phrase => Phrase::parse(phrase)?.seed(password),
    };
    match scheme {
        Scheme::Sr25519 => Ok(sr25519(&seed, &steps)),
        Scheme::Ed25519 => ed25519(&seed, &steps),
    }
}

fn steps(mut path: &str) -> Result<Vec<Step>, SecretUriError> {
    let mut steps = Vec::new();
    while let Some(rest) = path.strip_prefix('/') {
        let (make, rest): (fn([u8; 32]) -> Step, &str) = match rest.strip_prefix('/') {
            Some(rest) => (Step::Hard, rest),
            None => (Step::Soft, rest),
        };
        let (name, next) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if name.is_empty() {
            return Err(SecretUriError::EmptyStep);
        }
        steps.push(make(chain_code(name)));
        path = next;
    }
    Ok(steps)
}

/// A number stands for itself, other text for its SCALE encoding, hashed when it is too long.
fn chain_code(name: &str) -> [u8; 32] {
    let encoded = match name.parse::<u64>() {
        Ok(number) => number.to_le_bytes().to_vec(),
        Err(_) => name.encode(),
    };
    let mut code = [0; 32];
    match code.get_mut(..encoded.len()) {
        Some(start) => start.copy_from_slice(&encoded),
        None => code = Blake2b256::digest(&encoded).into(),
    }
    code
}

fn sr25519(seed: &[u8; 32], steps: &[Step]) -> Keypair {
    let mut pair = Keypair::from_seed(Scheme::Sr25519, seed);
    for step in steps {
        let current = pair.as_sr25519().expect("derivations stay within the scheme");
        pair = Keypair::sr25519(match step {
            Step::Hard(code) => {
                let (mini, _) =
                    current.secret.hard_derive_mini_secret_key(Some(ChainCode(*code)), b"");
                mini.expand_to_keypair(ExpansionMode::Ed25519)
            }
            Step::Soft(code) => current.derived_key_simple(ChainCode(*code), []).0,
        });
    }
    pair
}

fn ed25519(seed: &[u8; 32], steps: &[Step]) -> Result<Keypair, SecretUriError> {
    let mut seed = Zeroizing::new(*seed);
    for step in steps {
        let Step::Hard(code) = step else { return Err(SecretUriError::SoftStep) };
        let hash = Blake2b256::new()
            .chain_update(ED25519_DOMAIN.encode())
            .chain_update(seed.as_slice())
            .chain_update(code)
            .finalize();
        seed.copy_from_slice(&hash);
    }
    Ok(Keypair::from_seed(Scheme::Ed25519, &seed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_well_known_development_keys() {
        for (scheme, uri, address) in [
            (Scheme::Sr25519, "//Alice", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"),
            (Scheme::Ed25519, "//Alice", "5FA9nQDVg267DEd8m1ZypXLBnvN7SFxYwV7ndqSYGiN9TTpu"),
            (Scheme::Ed25519, "//Bob", "5GoNkf6WdbxCFnPdAnYYQyCjAKPJgLNxXwPjwTh6DGg6gN3E"),
        ] {
            assert_eq!(derive(scheme, uri).unwrap().address().to_ss58(), address, "{uri}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_without_the_secret() {
        for (scheme, uri, error) in [
            (Scheme::Sr25519, "/", SecretUriError::EmptyStep),
            (Scheme::Sr25519, "//a//", SecretUriError::EmptyStep),
            (Scheme::Sr25519, "0xzz//a", SecretUriError::Seed),
            (Scheme::Sr25519, "one two//a", PhraseError::WordCount(2).into()),
            (Scheme::Ed25519, "/soft", SecretUriError::SoftStep),
        ] {
            let found = derive(scheme, uri).err().unwrap();
            assert_eq!(found, error, "{uri}");
            assert!(!found.to_string().contains("zz"));
        }
    }

    #[test]
    fn long_names_and_numbers_have_chain_codes_of_their_own() {
        let numbers = ["7", "+7", "007"].map(chain_code);
        assert!(numbers.iter().all(|code| *code == numbers[0]));
        let long = "x".repeat(31);
        assert_ne!(chain_code(&long), chain_code(&"x".repeat(32)));
        assert_eq!(chain_code(&long)[0], 31 << 2);
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_an_error(text in "[a-z/0x ]{0,80}") {
            let _ = derive(Scheme::Sr25519, &text);
            let _ = derive(Scheme::Ed25519, &text);
        }
    }
}
