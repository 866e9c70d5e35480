//! Reads and writes the content of key files.
//!
//! Source: spec/bittensor.md section 9. A key file is a JSON object, or a bare seed, private key or
//! mnemonic phrase; either may be encrypted. Text of a file never enters an error: it may be a secret.

use std::str;

use grail_protocol::ids::Hotkey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::encryption::{self, DecryptError, Encryption, NONCE_BYTES};
use super::key::Key;
use super::keypair::{Keypair, Scheme};
use super::password::Password;
use super::phrase::{Phrase, PhraseError};

/// Why the content of a key file is not a key of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyfileError {
    /// Nothing in the file.
    #[error("it is empty; restore it from a backup, or create a new wallet")]
    Empty,
    /// A password protects the file.
    #[error(
        "it is encrypted ({0}) and there is no password for it; give one with --password-env or \
         --password-file, in the settings (wallet.password_file), or at the prompt"
    )]
    Encrypted(Encryption),
    /// The password does not open it.
    #[error(transparent)]
    Locked(#[from] DecryptError),
    /// Not a key file, or one that is cut off or altered.
    #[error("it is damaged or no key file: {0}; restore it from a backup")]
    Damaged(String),
    /// Words that are no phrase.
    #[error("{0}, or restore the file from a backup")]
    Phrase(#[from] PhraseError),
    /// A key that cannot act on this subnet.
    #[error("its key cannot be used: {0}")]
    Unsupported(&'static str),
    /// The secret belongs to another address than the file says.
    #[error(
        "it names the address {named}, but its secret belongs to {derived}; the file was altered: \
         restore it from a backup"
    )]
    Mismatch {
        /// The address in the file.
        named: String,
        /// The address of the secret.
        derived: Hotkey,
    },
}

const NO_SECRET: &str =
    "it holds a public key only; the file without `pub` in its name holds the secret";
/// Why an ed25519 key is no hotkey.
pub(super) const ED25519: &str =
    "it is an ed25519 key; create an sr25519 hotkey, the default of all wallets";
const FOREIGN: &str =
    "it is a polkadot.js export; import its phrase into a Bittensor wallet and use that one";

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "publicKey")]
    public_key: Option<String>,
    #[serde(rename = "secretPhrase")]
    phrase: Option<Zeroizing<String>>,
    #[serde(rename = "secretSeed")]
    seed: Option<Zeroizing<String>>,
    #[serde(rename = "privateKey")]
    private_key: Option<Zeroizing<String>>,
    // Some writer put a space before the name; real files have it.
    #[serde(rename = "ss58Address", alias = " ss58Address")]
    ss58_address: Option<String>,
    #[serde(rename = "cryptoType")]
    crypto_type: Option<CryptoType>,
    encoded: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, PartialEq)]
#[serde(untagged)]
enum CryptoType {
    Number(u64),
    Text(String),
}

impl CryptoType {
    fn scheme(&self) -> Scheme {
        let is_ed25519 = match self {
            Self::Number(number) => *number == 0,
            Self::Text(text) => text.trim() == "0",
        };
        if is_ed25519 { Scheme::Ed25519 } else { Scheme::Sr25519 }
    }
}

/// Returns the key in the key file `bytes`; `password` is asked for only if it is encrypted.
pub(super) fn parse(
    bytes: &[u8],
    password: impl FnOnce(Encryption) -> Option<Password>,
) -> Result<Key, KeyfileError> {
    match Encryption::of(bytes) {
        None => parse_plain(bytes),
        Some(encryption) => {
            let password = password(encryption).ok_or(KeyfileError::Encrypted(encryption))?;
            parse_plain(&encryption::decrypt(bytes, &password)?)
        }
    }
}

/// Returns the key in the unencrypted key file `bytes`.
pub(super) fn parse_plain(bytes: &[u8]) -> Result<Key, KeyfileError> {
    let text = plain_text(bytes)?;
    if text.starts_with(['{', '[', '"']) {
        return from_fields(&fields(text)?);
    }
    if text.split_whitespace().count() > 1 {
        return Ok(Key::from_phrase(Scheme::Sr25519, &Phrase::parse(text)?));
    }
    from_secret_hex(Scheme::Sr25519, text, "the text")
}

/// Returns the address in the public key file `bytes`, which may also hold the secrets.
pub(super) fn parse_public(bytes: &[u8]) -> Result<Hotkey, KeyfileError> {
    let fields = fields(plain_text(bytes)?)?;
    let Some(address) = fields.ss58_address else {
        return Err(KeyfileError::Damaged("it has no `ss58Address`".into()));
    };
    address.trim().parse().map_err(|_| KeyfileError::Damaged("`ss58Address` is no address".into()))
}

/// Returns the key file with all secrets of `key`, as Bittensor's wallets write it.
pub(super) fn render_secret(key: &Key) -> Zeroizing<Vec<u8>> {
    let private_key = key.pair().private_key();
    render(&KeyfileJson {
        private_key: Some(Zeroizing::new(hex_of(&private_key))),
        secret_phrase: key.phrase().map(Phrase::words),
        secret_seed: key.seed().map(|seed| Zeroizing::new(hex_of(seed.as_slice()))),
        ..KeyfileJson::public(key.scheme(), key.address())
    })
}

/// As [`render_secret`], under a password.
pub(super) fn render_encrypted(
    key: &Key,
    password: &Password,
    nonce: &[u8; NONCE_BYTES],
) -> Result<Vec<u8>, KeyfileError> {
    Ok(encryption::encrypt(&render_secret(key), password, nonce)?)
}

/// Returns the key file that anyone may read.
pub(super) fn render_public(scheme: Scheme, address: Hotkey) -> Zeroizing<Vec<u8>> {
    render(&KeyfileJson::public(scheme, address))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyfileJson {
    account_id: String,
    crypto_type: u8,
    public_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_phrase: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_seed: Option<Zeroizing<String>>,
    ss58_address: Hotkey,
}

impl KeyfileJson {
    fn public(scheme: Scheme, address: Hotkey) -> Self {
        Self {
            account_id: hex_of(&address.0),
            crypto_type: scheme.crypto_type(),
            public_key: hex_of(&address.0),
            private_key: None,
            secret_phrase: None,
            secret_seed: None,
            ss58_address: address,
        }
    }
}

fn render(keyfile: &KeyfileJson) -> Zeroizing<Vec<u8>> {
    // Larger than any key file, so that the buffer never moves and leaves a copy behind.
    let mut json = Zeroizing::new(Vec::with_capacity(4096));
    serde_json::to_writer(&mut *json, keyfile).expect("strings and numbers are valid JSON");
    json
}

fn plain_text(bytes: &[u8]) -> Result<&str, KeyfileError> {
    if let Some(encryption) = Encryption::of(bytes) {
        return Err(KeyfileError::Encrypted(encryption));
    }
    let text = str::from_utf8(bytes)
        .map_err(|_| KeyfileError::Damaged("it is binary data, not text".into()))?
        .trim();
    if text.is_empty() { Err(KeyfileError::Empty) } else { Ok(text) }
}

fn fields(text: &str) -> Result<Fields, KeyfileError> {
    serde_json::from_str(text).map_err(|error| {
        // serde_json quotes the offending text, which may be a secret, so only the place is told.
        let what = match error.classify() {
            serde_json::error::Category::Eof => "the JSON ends too early, the file may be cut off",
            serde_json::error::Category::Syntax => "it is not valid JSON",
            _ => "its JSON does not describe a key",
        };
        KeyfileError::Damaged(format!("{what} (line {})", error.line()))
    })
}

fn from_fields(fields: &Fields) -> Result<Key, KeyfileError> {
    if fields.encoded.is_some() {
        return Err(KeyfileError::Unsupported(FOREIGN));
    }
    let scheme = fields.crypto_type.as_ref().map_or(Scheme::Sr25519, CryptoType::scheme);
    let key = if let Some(phrase) = &fields.phrase {
        Key::from_phrase(scheme, &Phrase::parse(phrase)?)
    } else if let Some(seed) = &fields.seed {
        from_secret_hex(scheme, seed, "`secretSeed`")?
    } else if let Some(private_key) = &fields.private_key {
        from_secret_hex(scheme, private_key, "`privateKey`")?
    } else if fields.ss58_address.is_some() || fields.public_key.is_some() {
        return Err(KeyfileError::Unsupported(NO_SECRET));
    } else {
        return Err(KeyfileError::Damaged(
            "it has no `secretPhrase`, `secretSeed` or `privateKey`".into(),
        ));
    };
    let Some(wrong) = wrong_name(fields, key.address()) else { return Ok(key) };
    // The address decides over a wrong `cryptoType`.
    if fields.ss58_address.is_some()
        && let Some(other) = key.in_scheme(scheme.other())
        && wrong_name(fields, other.address()).is_none()
    {
        return Ok(other);
    }
    let named = wrong.chars().take(66).collect();
    Err(KeyfileError::Mismatch { named, derived: key.address() })
}

/// Returns what the file calls the key and is not `derived`, if anything.
fn wrong_name(fields: &Fields, derived: Hotkey) -> Option<&str> {
    let address = fields.ss58_address.as_deref().map(str::trim);
    let public_key = fields.public_key.as_deref().map(str::trim);
    let is_other_address = |address: &&str| *address != derived.to_ss58();
    let is_other_key = |key: &&str| {
        !key.strip_prefix("0x").unwrap_or(key).eq_ignore_ascii_case(&hex::encode(derived.0))
    };
    address.filter(is_other_address).or(public_key.filter(is_other_key))
}

/// Reads a seed (64 digits) or a private key of sr25519 (128 digits), with or without `0x`.
pub(super) fn from_secret_hex(scheme: Scheme, text: &str, what: &str) -> Result<Key, KeyfileError> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let refuse = || {
        KeyfileError::Damaged(format!(
            "{what} should be 64 or 128 hexadecimal digits, found {} characters",
            digits.chars().count()
        ))
    };
    match (digits.len(), scheme) {
        (64, _) => {
            let mut seed = Zeroizing::new([0; 32]);
            hex::decode_to_slice(digits, seed.as_mut_slice()).map_err(|_| refuse())?;
            Ok(Key::from_seed(scheme, &seed))
        }
        (128, Scheme::Sr25519) => {
            let mut secret = Zeroizing::new([0; 64]);
            hex::decode_to_slice(digits, secret.as_mut_slice()).map_err(|_| refuse())?;
            Keypair::from_private_key(&secret)
                .map(Key::from)
                .ok_or_else(|| KeyfileError::Damaged(format!("{what} is no sr25519 secret")))
        }
        _ => Err(refuse()),
    }
}

fn hex_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    text.push_str(&Zeroizing::new(hex::encode(bytes)));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PHRASE: &str =
        "indoor border million hill empower orphan fantasy olympic quit sport oblige wild";
    const SEED: &str = "0xccf4a6da41699152b044146d456cc3e567dc13eb406841636b6cc65b8bd881b1";
    const ADDRESS: &str = "5GKiervmDbxi3HynNuKcf9qVVkYzAVsKgpm93SEGvmpHVtWP";

    fn address(file: &str) -> Result<String, KeyfileError> {
        parse_plain(file.as_bytes()).map(|key| key.address().to_ss58())
    }

    #[test]
    fn every_plain_form_gives_the_same_key() {
        for file in [
            PHRASE.to_owned(),
            SEED.to_owned(),
            SEED[2..].to_owned(),
            format!("{{\"secretPhrase\": \"{PHRASE}\"}}"),
            format!("{{\"secretSeed\": \"{SEED}\", \"secretPhrase\": null}}"),
            format!("{{\"privateKey\": \"{SEED}\", \"unknown\": [1, 2]}}"),
            format!(
                "{{\"secretSeed\": \"{SEED}\", \"cryptoType\": 0, \"ss58Address\": \"{ADDRESS}\"}}"
            ),
            format!(
                "{{\"secretSeed\": \"{SEED}\", \"cryptoType\": \"1\", \" ss58Address\": \"{ADDRESS}\"}}"
            ),
        ] {
            assert_eq!(address(&file).as_deref(), Ok(ADDRESS), "{file}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for scheme in [Scheme::Sr25519, Scheme::Ed25519] {
            for key in [
                Key::from_seed(scheme, &[7; 32]),
                Key::random(scheme, 24).unwrap(),
                Key::from_secret_uri(scheme, "//Alice").unwrap(),
            ] {
                let file = render_secret(&key);
                let again = parse_plain(&file).unwrap();
                assert_eq!((again.address(), again.scheme()), (key.address(), scheme));
                assert_eq!(parse_public(&file), Ok(key.address()));
                let public = render_public(scheme, key.address());
                assert_eq!(parse_public(&public), Ok(key.address()));
                assert_eq!(parse_plain(&public).unwrap_err(), KeyfileError::Unsupported(NO_SECRET));
            }
        }
    }

    #[test]
    fn damaged_and_foreign_files_say_what_is_wrong() {
        for (file, part) in [
            ("", "empty"),
            (" \n", "empty"),
            ("{}", "no `secretPhrase`"),
            ("[]", "does not describe a key"),
            ("{\"secretSeed\": \"0xcc", "cut off"),
            ("{\"secretSeed\": \"0xzz\"}", "found 2 characters"),
            ("{\"secretSeed\": 7}", "does not describe a key"),
            ("hello", "found 5 characters"),
            ("hello world", "the phrase has 2 words"),
            ("{\"encoded\": \"x\", \"encoding\": {}}", "polkadot.js"),
            ("$NACLxxxx", "NaCl"),
            ("$ANSIBLE_VAULT;1.1;AES256", "Ansible"),
            ("gAAAAABrA9zy", "Fernet"),
        ] {
            let message = address(file).unwrap_err().to_string();
            assert!(message.contains(part), "{file}: {message}");
        }
        assert_eq!(
            parse_plain(&[0xff, 0, 1]).unwrap_err().to_string(),
            "it is damaged or no key file: it is binary data, not text; restore it from a backup"
        );
    }

    #[test]
    fn a_secret_of_another_address_is_refused_without_showing_it() {
        let other = "5DcGjao6VcCrVKyyGB6J2VWLzWT7vqrs1Hg9Apb7EsgZZYFn";
        let file = format!("{{\"secretSeed\": \"{SEED}\", \"ss58Address\": \"{other}\"}}");
        let error = address(&file).unwrap_err();
        assert!(matches!(&error, KeyfileError::Mismatch { named, .. } if named == other));
        assert!(!format!("{error} {error:?}").contains(&SEED[2..12]));
        let broken = format!("{{\"secretSeed\": {}}}", &SEED[2..]);
        assert!(!format!("{:?}", address(&broken).unwrap_err()).contains(&SEED[2..12]));
    }

    proptest! {
        #[test]
        fn a_reader_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_plain(&bytes);
            let _ = parse_public(&bytes);
        }

        #[test]
        fn a_truncated_file_is_never_another_key(length in 0usize..600) {
            let file = render_secret(&Key::from_seed(Scheme::Sr25519, &[5; 32]));
            prop_assume!(length < file.len());
            prop_assert!(parse_plain(&file[..length]).is_err());
        }
    }
}
