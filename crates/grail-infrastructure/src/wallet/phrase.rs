//! Mnemonic phrases: English BIP-39 words that stand for a key's entropy.
//!
//! A phrase is a secret, so errors name the place of a wrong word and never the word itself.

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

/// How many words a phrase can have.
pub const WORD_COUNTS: [usize; 5] = [12, 15, 18, 21, 24];

/// Bytes of entropy in the longest phrase.
const ENTROPY_BYTES_MAX: usize = 32;

/// A phrase whose words and checksum are right; zeroed when dropped and never shown by accident.
#[derive(Clone)]
pub struct Phrase(Mnemonic);

/// Why text is no phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Too few or too many words.
    #[error("the phrase has {0} words; phrases have 12, 15, 18, 21 or 24")]
    WordCount(usize),
    /// A word that is not on the list, by its place, 1-based.
    #[error("word {0} of the phrase is not on the English BIP-39 list; check its spelling")]
    UnknownWord(usize),
    /// Words that do not belong together.
    #[error("the phrase's checksum does not fit; check the words and their order")]
    Checksum,
}

impl Phrase {
    /// Reads a phrase; any white space may lie between its words.
    ///
    /// # Errors
    /// When a word, their number, or the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, PhraseError> {
        let n_words = text.split_whitespace().count();
        if !WORD_COUNTS.contains(&n_words) {
            return Err(PhraseError::WordCount(n_words));
        }
        Mnemonic::parse_in_normalized(Language::English, text).map(Self).map_err(
            |error| match error {
                bip39::Error::UnknownWord(index) => PhraseError::UnknownWord(index + 1),
                bip39::Error::BadWordCount(count) => PhraseError::WordCount(count),
                _ => PhraseError::Checksum,
            },
        )
    }

    /// Returns the phrase that stands for `entropy`.
    ///
    /// # Errors
    /// [`PhraseError::WordCount`] unless there are 16, 20, 24, 28 or 32 bytes.
    pub fn from_entropy(entropy: &[u8]) -> Result<Self, PhraseError> {
        Mnemonic::from_entropy(entropy)
            .map(Self)
            .map_err(|_| PhraseError::WordCount(entropy.len() * 3 / 4))
    }

    /// Returns a new phrase of `n_words` from the operating system's randomness.
    ///
    /// # Errors
    /// When the number of words is none that a phrase can have, or there is no randomness.
    pub fn random(n_words: usize) -> Result<Self, RandomPhraseError> {
        if !WORD_COUNTS.contains(&n_words) {
            return Err(PhraseError::WordCount(n_words).into());
        }
        let mut entropy = Zeroizing::new([0; ENTROPY_BYTES_MAX]);
        // Three words carry four bytes and a bit of the checksum.
        let entropy = &mut entropy[..n_words / 3 * 4];
        getrandom::fill(entropy)
            .map_err(|error| RandomPhraseError::Randomness(error.to_string()))?;
        Ok(Self::from_entropy(entropy)?)
    }

    /// Returns the words, one space between them.
    pub fn words(&self) -> Zeroizing<String> {
        // Longer than any phrase, so that the text never moves and leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(256));
        for word in self.0.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    /// Returns the 32-byte seed that keys are made from: the *entropy*, not BIP-39's seed, stretched
    /// with the password. Source: spec/bittensor.md section 9.
    pub fn seed(&self, password: &str) -> Zeroizing<[u8; 32]> {
        let (entropy, length) = self.0.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let stretched = substrate_bip39::seed_from_entropy(&entropy[..length], password)
            .expect("a phrase has the entropy of one");
        let stretched = Zeroizing::new(stretched);
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(&stretched[..32]);
        seed
    }
}

/// Why there is no new phrase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RandomPhraseError {
    /// A number of words that no phrase has.
    #[error(transparent)]
    Phrase(#[from] PhraseError),
    /// The operating system has no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_can_be_made_and_read_again() {
        for n_words in WORD_COUNTS {
            let phrase = Phrase::random(n_words).unwrap();
            let words = phrase.words();
            assert_eq!(words.split(' ').count(), n_words);
            let again = Phrase::parse(&format!("  {}\n", words.replace(' ', "\t "))).unwrap();
            assert_eq!(again.seed(""), phrase.seed(""));
            assert_ne!(again.seed("password"), phrase.seed(""));
        }
        for n_words in [0, 11, 13, 25, 2048] {
            let wrong = PhraseError::WordCount(n_words);
            assert_eq!(Phrase::random(n_words).err(), Some(wrong.into()));
        }
    }

    #[test]
    fn a_wrong_word_is_named_by_its_place_alone() {
        let good =
            "indoor border million hill empower orphan fantasy olympic quit sport oblige wild";
        assert!(Phrase::parse(good).is_ok());
        let typo = good.replace("fantasy", "fantasie");
        let error = Phrase::parse(&typo).err().unwrap();
        assert_eq!(error, PhraseError::UnknownWord(7));
        assert!(!error.to_string().contains("fantasie"));
        let swapped = good.replace("indoor border", "border indoor");
        assert_eq!(Phrase::parse(&swapped).err(), Some(PhraseError::Checksum));
        let short = good.replace(" wild", "");
        assert_eq!(Phrase::parse(&short).err(), Some(PhraseError::WordCount(11)));
        assert_eq!(Phrase::parse("").err(), Some(PhraseError::WordCount(0)));
    }
}
