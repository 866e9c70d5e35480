//! Key pairs of the chain's two signature schemes: they sign, and their addresses verify.
//!
//! Source: spec/bittensor.md section 9. Signatures of sr25519 are randomised: verify, never compare.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use grail_protocol::signature::{self, SIGNING_CONTEXT};
use schnorrkel::{ExpansionMode, MiniSecretKey, SecretKey};
use zeroize::Zeroizing;

/// How a key signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Schnorr signatures over Ristretto: what wallets make, and the only kind that a hotkey of
    /// this subnet can be.
    #[default]
    Sr25519,
    /// EdDSA over Curve25519.
    Ed25519,
}

/// Text that is no scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no signature scheme: sr25519 or ed25519")]
pub struct UnknownScheme(pub String);

impl Scheme {
    /// Returns the number of the scheme in key files.
    pub fn crypto_type(self) -> u8 {
        match self {
            Self::Ed25519 => 0,
            Self::Sr25519 => 1,
        }
    }

    /// Returns the name of the scheme.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sr25519 => "sr25519",
            Self::Ed25519 => "ed25519",
        }
    }

    /// Returns the other scheme.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Sr25519 => Self::Ed25519,
            Self::Ed25519 => Self::Sr25519,
        }
    }

    /// Whether the key of `address` signed exactly `message`.
    pub fn verify(self, address: Hotkey, message: &[u8], signed: &Signature) -> bool {
        match self {
            Self::Sr25519 => signature::verify(address, message, signed).is_ok(),
            Self::Ed25519 => {
                let signed = ed25519_dalek::Signature::from_bytes(&signed.0);
                // Strict: refuses keys of small order, which sign anything.
                VerifyingKey::from_bytes(&address.0)
                    .is_ok_and(|key| key.verify_strict(message, &signed).is_ok())
            }
        }
    }

    /// Whether the key of `address` signed `message`, as it is or between `<Bytes>` and `</Bytes>`,
    /// as browser wallets sign so that nobody can be made to sign a transaction.
    pub fn verify_wrapped(self, address: Hotkey, message: &[u8], signed: &Signature) -> bool {
        self.verify(address, message, signed) || self.verify(address, &wrapped(message), signed)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(name: &str) -> Result<Self, UnknownScheme> {
        [Self::Sr25519, Self::Ed25519]
            .into_iter()
            .find(|scheme| scheme.name() == name)
            .ok_or_else(|| UnknownScheme(name.chars().take(32).collect()))
    }
}

/// Returns `message` between `<Bytes>` and `</Bytes>`.
pub fn wrapped(message: &[u8]) -> Vec<u8> {
    [b"<Bytes>", message, b"</Bytes>"].concat()
}

/// A key that can sign. The secret is zeroed when dropped and never shown.
pub struct Keypair {
    secret: Secret,
    address: Hotkey,
}

enum Secret {
    Sr25519(Box<schnorrkel::Keypair>),
    Ed25519(Box<SigningKey>),
}

impl Keypair {
    /// Returns the key pair of a 32-byte seed, the mini-secret of sr25519.
    pub fn from_seed(scheme: Scheme, seed: &[u8; 32]) -> Self {
        match scheme {
            Scheme::Sr25519 => {
                let mini = MiniSecretKey::from_bytes(seed).expect("any 32 bytes are a mini-secret");
                Self::sr25519(mini.expand_to_keypair(ExpansionMode::Ed25519))
            }
            Scheme::Ed25519 => {
                let key = SigningKey::from_bytes(seed);
                let address = Hotkey(key.verifying_key().to_bytes());
                Self { secret: Secret::Ed25519(Box::new(key)), address }
            }
        }
    }

    /// Returns the sr25519 key pair of a private key: a canonical scalar and a nonce, 32 bytes each.
    /// `None` if the scalar is not canonical.
    pub fn from_private_key(private_key: &[u8; 64]) -> Option<Self> {
        SecretKey::from_bytes(private_key).ok().map(|secret| Self::sr25519(secret.to_keypair()))
    }

    pub(super) fn sr25519(keypair: schnorrkel::Keypair) -> Self {
        let address = Hotkey(keypair.public.to_bytes());
        Self { secret: Secret::Sr25519(Box::new(keypair)), address }
    }

    /// Returns the sr25519 key pair, if it is one.
    pub(super) fn as_sr25519(&self) -> Option<&schnorrkel::Keypair> {
        match &self.secret {
            Secret::Sr25519(keypair) => Some(keypair),
            Secret::Ed25519(_) => None,
        }
    }

    /// Returns how the key signs.
    pub fn scheme(&self) -> Scheme {
        match self.secret {
            Secret::Sr25519(_) => Scheme::Sr25519,
            Secret::Ed25519(_) => Scheme::Ed25519,
        }
    }

    /// Returns the public key.
    pub fn address(&self) -> Hotkey {
        self.address
    }

    /// Returns the secret as key files hold it: 64 bytes for sr25519, the 32 of the seed for ed25519.
    pub(super) fn private_key(&self) -> Zeroizing<Vec<u8>> {
        match &self.secret {
            Secret::Sr25519(keypair) => {
                Zeroizing::new(Zeroizing::new(keypair.secret.to_bytes()).to_vec())
            }
            Secret::Ed25519(key) => Zeroizing::new(key.as_bytes().to_vec()),
        }
    }
}

impl Signer for Keypair {
    fn hotkey(&self) -> Hotkey {
        self.address
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(match &self.secret {
            Secret::Sr25519(keypair) => keypair.sign_simple(SIGNING_CONTEXT, message).to_bytes(),
            Secret::Ed25519(key) => key.sign(message).to_bytes(),
        })
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({}, {})", self.scheme(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEMES: [Scheme; 2] = [Scheme::Sr25519, Scheme::Ed25519];

    #[test]
    fn the_name_of_a_scheme_is_read_again() {
        for scheme in SCHEMES {
            assert_eq!(scheme.name().parse(), Ok(scheme));
            assert_eq!(scheme.other().other(), scheme);
        }
        assert!("ecdsa".parse::<Scheme>().is_err());
    }

    #[test]
    fn the_secret_is_not_shown() {
        for scheme in SCHEMES {
            let pair = Keypair::from_seed(scheme, &[0x5a; 32]);
            assert!(!format!("{pair:?}").contains("5a5a"));
        }
    }

    #[test]
    fn a_private_key_is_the_key_again() {
        let pair = Keypair::from_seed(Scheme::Sr25519, &[3; 32]);
        let bytes: [u8; 64] = pair.private_key().as_slice().try_into().unwrap();
        assert_eq!(Keypair::from_private_key(&bytes).unwrap().address(), pair.address());
        assert!(Keypair::from_private_key(&[0xff; 64]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_one_key_signs_only_its_address_verifies(
            seed: [u8; 32],
            message in proptest::collection::vec(any::<u8>(), 0..300),
            bit in 0usize..512,
        ) {
            for scheme in SCHEMES {
                let pair = Keypair::from_seed(scheme, &seed);
                let signed = pair.sign(&message);
                prop_assert!(scheme.verify(pair.address(), &message, &signed));
                prop_assert!(!scheme.other().verify(pair.address(), &message, &signed));
                prop_assert!(!scheme.verify(Hotkey([9; 32]), &message, &signed));
                let mut damaged = signed;
                damaged.0[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(!scheme.verify_wrapped(pair.address(), &message, &damaged));
                let longer = [message.as_slice(), b"!"].concat();
                prop_assert!(!scheme.verify_wrapped(pair.address(), &longer, &signed));
                let wrapped = pair.sign(&wrapped(&message));
                prop_assert!(!scheme.verify(pair.address(), &message, &wrapped));
                prop_assert!(scheme.verify_wrapped(pair.address(), &message, &wrapped));
            }
        }
    }
}
