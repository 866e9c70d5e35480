//! A key with what it was made from: what a key file holds, and what a backup needs.

use std::fmt;

use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use zeroize::Zeroizing;

use super::keypair::{Keypair, Scheme};
use super::phrase::{Phrase, RandomPhraseError};
use super::secret_uri::{self, SecretUriError};

/// A key pair, and its seed and phrase as far as they are known. All of it is zeroed when dropped.
pub struct Key {
    pair: Keypair,
    seed: Option<Zeroizing<[u8; 32]>>,
    phrase: Option<Phrase>,
}

impl Key {
    /// Returns a new key with a phrase of `n_words`, from the operating system's randomness.
    ///
    /// # Errors
    /// When no phrase has that number of words, or there is no randomness.
    pub fn random(scheme: Scheme, n_words: usize) -> Result<Self, RandomPhraseError> {
        Ok(Self::from_phrase(scheme, &Phrase::random(n_words)?))
    }

    /// Returns the key of a phrase.
    pub fn from_phrase(scheme: Scheme, phrase: &Phrase) -> Self {
        Self { phrase: Some(phrase.clone()), ..Self::from_seed(scheme, &phrase.seed("")) }
    }

    /// Returns the key of a seed.
    pub fn from_seed(scheme: Scheme, seed: &[u8; 32]) -> Self {
        Self {
            pair: Keypair::from_seed(scheme, seed),
            seed: Some(Zeroizing::new(*seed)),
            phrase: None,
        }
    }

    /// Returns the key of a secret URI: a phrase or seed with derivations. Neither is kept with it:
    /// alone they are another key.
    ///
    /// # Errors
    /// When `text` is no secret URI.
    pub fn from_secret_uri(scheme: Scheme, text: &str) -> Result<Self, SecretUriError> {
        secret_uri::derive(scheme, text).map(Self::from)
    }

    /// Returns the key pair.
    pub fn pair(&self) -> &Keypair {
        &self.pair
    }

    /// Returns the key pair alone.
    pub fn into_pair(self) -> Keypair {
        self.pair
    }

    /// Returns the public key.
    pub fn address(&self) -> Hotkey {
        self.pair.address()
    }

    /// Returns how the key signs.
    pub fn scheme(&self) -> Scheme {
        self.pair.scheme()
    }

    /// Returns the phrase, if the key has one.
    pub fn phrase(&self) -> Option<&Phrase> {
        self.phrase.as_ref()
    }

    /// Returns the seed, if it is known.
    pub(super) fn seed(&self) -> Option<&Zeroizing<[u8; 32]>> {
        self.seed.as_ref()
    }

    /// Returns the same secret as a key of the other scheme; `None` for a private key, which means
    /// something in one scheme only.
    pub(super) fn in_scheme(&self, scheme: Scheme) -> Option<Self> {
        match (&self.phrase, &self.seed) {
            (Some(phrase), _) => Some(Self::from_phrase(scheme, phrase)),
            (None, Some(seed)) => Some(Self::from_seed(scheme, seed)),
            (None, None) => None,
        }
    }
}

impl From<Keypair> for Key {
    fn from(pair: Keypair) -> Self {
        Self { pair, seed: None, phrase: None }
    }
}

impl Signer for Key {
    fn hotkey(&self) -> Hotkey {
        self.address()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.pair.sign(message)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.scheme(), self.address())
    }
}
