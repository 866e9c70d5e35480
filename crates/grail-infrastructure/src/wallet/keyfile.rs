//! Reads and writes the key files of Bittensor wallets, unencrypted ones only.
//!
//! Source: spec/bittensor.md section 9. A key file is a JSON object, or a bare seed, private key or
//! mnemonic phrase. Text of a file never enters an error: it may be a secret.

use std::str;

use grail_protocol::ids::Hotkey;
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, SecretKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Why the content of a key file is not a key of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyfileError {
    /// Nothing in the file.
    #[error("it is empty; restore it from a backup, or create a new wallet")]
    Empty,
    /// A password protects the file.
    #[error(
        "it is encrypted ({0}), which is not supported yet; write the hotkey without a password \
         (`btcli wallet regen-hotkey --no-use-password`), or use an unencrypted wallet"
    )]
    Encrypted(&'static str),
    /// Not a key file, or one that is cut off or altered.
    #[error("it is damaged or no key file: {0}; restore it from a backup")]
    Damaged(String),
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
const ED25519: &str = "it is an ed25519 key; create an sr25519 hotkey, the default of all wallets";
const FOREIGN: &str =
    "it is a polkadot.js export; import its phrase into a Bittensor wallet and use that one";

/// The secret that a key was made from; zeroed when dropped.
pub(crate) enum Origin {
    /// A mini-secret.
    Seed(Zeroizing<[u8; 32]>),
    /// Entropy of a 12-word phrase, from which the mini-secret follows.
    Entropy(Zeroizing<[u8; 16]>),
}

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
    fn is_ed25519(&self) -> bool {
        match self {
            Self::Number(number) => *number == 0,
            Self::Text(text) => text.trim() == "0",
        }
    }
}

/// Returns the key pair in the key file `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Keypair, KeyfileError> {
    let text = plain_text(bytes)?;
    if text.starts_with(['{', '[', '"']) {
        return from_fields(&fields(text)?);
    }
    let words = text.split_whitespace().count();
    if words > 1 {
        return from_phrase(text);
    }
    from_secret_hex(text, "the text")
}

/// Returns the address in the public key file `bytes`, which may also hold the secrets.
pub(crate) fn parse_public(bytes: &[u8]) -> Result<Hotkey, KeyfileError> {
    let fields = fields(plain_text(bytes)?)?;
    let Some(address) = fields.ss58_address else {
        return Err(KeyfileError::Damaged("it has no `ss58Address`".into()));
    };
    address.trim().parse().map_err(|_| KeyfileError::Damaged("`ss58Address` is no address".into()))
}

/// Returns the key pair of `origin`.
pub(crate) fn expand(origin: &Origin) -> Keypair {
    let mini = match origin {
        Origin::Seed(seed) => MiniSecretKey::from_bytes(seed.as_slice())
            .expect("32 bytes, the length of a mini-secret"),
        Origin::Entropy(entropy) => {
            substrate_bip39::mini_secret_from_entropy(entropy.as_slice(), "")
                .expect("16 bytes, the entropy of 12 words")
        }
    };
    mini.expand_to_keypair(ExpansionMode::Ed25519)
}

/// Returns the key file with all secrets of `origin`.
pub(crate) fn render_secret(origin: &Origin) -> Zeroizing<Vec<u8>> {
    let keypair = expand(origin);
    let seed = match origin {
        Origin::Seed(seed) => seed.clone(),
        Origin::Entropy(entropy) => Zeroizing::new(
            substrate_bip39::mini_secret_from_entropy(entropy.as_slice(), "")
                .expect("16 bytes, the entropy of 12 words")
                .to_bytes(),
        ),
    };
    let phrase = match origin {
        Origin::Seed(_) => None,
        Origin::Entropy(entropy) => Some(Zeroizing::new(
            bip39::Mnemonic::from_entropy(entropy.as_slice())
                .expect("16 bytes, the entropy of 12 words")
                .to_string(),
        )),
    };
    let private_key = Zeroizing::new(keypair.secret.to_bytes());
    render(&KeyfileJson {
        account_id: hex_of(&keypair.public.to_bytes()),
        crypto_type: 1,
        public_key: hex_of(&keypair.public.to_bytes()),
        private_key: Some(Zeroizing::new(hex_of(private_key.as_slice()))),
        secret_phrase: phrase,
        secret_seed: Some(Zeroizing::new(hex_of(seed.as_slice()))),
        ss58_address: Hotkey(keypair.public.to_bytes()),
    })
}

/// Returns the key file that anyone may read.
pub(crate) fn render_public(key: Hotkey) -> Zeroizing<Vec<u8>> {
    render(&KeyfileJson {
        account_id: hex_of(&key.0),
        crypto_type: 1,
        public_key: hex_of(&key.0),
        private_key: None,
        secret_phrase: None,
        secret_seed: None,
        ss58_address: key,
    })
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

fn render(keyfile: &KeyfileJson) -> Zeroizing<Vec<u8>> {
    // Larger than any key file, so that the buffer never moves and leaves a copy behind.
    let mut json = Zeroizing::new(Vec::with_capacity(4096));
    serde_json::to_writer(&mut *json, keyfile).expect("strings and numbers are valid JSON");
    json
}

fn plain_text(bytes: &[u8]) -> Result<&str, KeyfileError> {
    for (prefix, scheme) in
        [(b"$NACL".as_slice(), "NaCl"), (b"$ANSIBLE_VAULT", "Ansible Vault"), (b"gAAAAA", "Fernet")]
    {
        if bytes.starts_with(prefix) {
            return Err(KeyfileError::Encrypted(scheme));
        }
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

fn from_fields(fields: &Fields) -> Result<Keypair, KeyfileError> {
    if fields.encoded.is_some() {
        return Err(KeyfileError::Unsupported(FOREIGN));
    }
    let is_ed25519 = fields.crypto_type.as_ref().is_some_and(CryptoType::is_ed25519);
    let keypair = if let Some(phrase) = &fields.phrase {
        from_phrase(phrase)?
    } else if let Some(seed) = &fields.seed {
        from_secret_hex(seed, "`secretSeed`")?
    } else if let Some(private_key) = &fields.private_key {
        from_secret_hex(private_key, "`privateKey`")?
    } else if fields.ss58_address.is_some() || fields.public_key.is_some() {
        return Err(KeyfileError::Unsupported(NO_SECRET));
    } else {
        return Err(KeyfileError::Damaged(
            "it has no `secretPhrase`, `secretSeed` or `privateKey`".into(),
        ));
    };
    let derived = Hotkey(keypair.public.to_bytes());
    let address = fields.ss58_address.as_deref().map(str::trim);
    let public_key = fields.public_key.as_deref().map(str::trim);
    let address_fits = address.is_none_or(|address| address == derived.to_ss58());
    let public_key_fits = public_key.is_none_or(|key| {
        key.strip_prefix("0x").unwrap_or(key).eq_ignore_ascii_case(&hex::encode(derived.0))
    });
    match (address_fits && public_key_fits, is_ed25519) {
        // The address decides over a wrong `cryptoType`; without an address the type decides.
        (true, false) => Ok(keypair),
        (true, true) if address.is_some() => Ok(keypair),
        (_, true) => Err(KeyfileError::Unsupported(ED25519)),
        (false, false) => {
            let wrong = if address_fits { public_key } else { address };
            let named = wrong.unwrap_or_default().chars().take(66).collect();
            Err(KeyfileError::Mismatch { named, derived })
        }
    }
}

fn from_phrase(text: &str) -> Result<Keypair, KeyfileError> {
    let refuse = |reason: &str| KeyfileError::Damaged(reason.to_owned());
    let normalized = Zeroizing::new(text.split_whitespace().collect::<Vec<_>>().join(" "));
    let mnemonic = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &normalized)
        .map_err(|_| refuse("its words are no valid mnemonic phrase of 12 to 24 English words"))?;
    let (entropy, length) = mnemonic.to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let mini = substrate_bip39::mini_secret_from_entropy(&entropy[..length], "")
        .map_err(|_| refuse("its mnemonic phrase has a wrong number of words"))?;
    Ok(mini.expand_to_keypair(ExpansionMode::Ed25519))
}

/// Reads a mini-secret (64 digits) or a private key (128 digits), with or without `0x`.
fn from_secret_hex(text: &str, what: &str) -> Result<Keypair, KeyfileError> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let refuse = || {
        KeyfileError::Damaged(format!(
            "{what} should be 64 or 128 hexadecimal digits, found {} characters",
            digits.chars().count()
        ))
    };
    match digits.len() {
        64 => {
            let mut seed = Zeroizing::new([0; 32]);
            hex::decode_to_slice(digits, seed.as_mut_slice()).map_err(|_| refuse())?;
            Ok(expand(&Origin::Seed(seed)))
        }
        128 => {
            let mut secret = Zeroizing::new([0; 64]);
            hex::decode_to_slice(digits, secret.as_mut_slice()).map_err(|_| refuse())?;
            let secret = SecretKey::from_bytes(secret.as_slice())
                .map_err(|_| KeyfileError::Damaged(format!("{what} is no sr25519 secret")))?;
            Ok(secret.to_keypair())
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
        parse(file.as_bytes()).map(|keypair| Hotkey(keypair.public.to_bytes()).to_ss58())
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
        for origin in
            [Origin::Seed(Zeroizing::new([7; 32])), Origin::Entropy(Zeroizing::new([9; 16]))]
        {
            let key = Hotkey(expand(&origin).public.to_bytes());
            let file = render_secret(&origin);
            assert_eq!(Hotkey(parse(&file).unwrap().public.to_bytes()), key);
            assert_eq!(parse_public(&file), Ok(key));
            let public = render_public(key);
            assert_eq!(parse_public(&public), Ok(key));
            assert_eq!(parse(&public).unwrap_err(), KeyfileError::Unsupported(NO_SECRET));
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
            ("hello world", "mnemonic"),
            ("{\"encoded\": \"x\", \"encoding\": {}}", "polkadot.js"),
            ("$NACLxxxx", "NaCl"),
            ("$ANSIBLE_VAULT;1.1;AES256", "Ansible"),
            ("gAAAAABrA9zy", "Fernet"),
        ] {
            let message = address(file).unwrap_err().to_string();
            assert!(message.contains(part), "{file}: {message}");
        }
        assert_eq!(
            parse(&[0xff, 0, 1]).unwrap_err().to_string(),
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
            let _ = parse(&bytes);
            let _ = parse_public(&bytes);
        }

        #[test]
        fn a_truncated_file_is_never_another_key(length in 0usize..600) {
            let file = render_secret(&Origin::Seed(Zeroizing::new([5; 32])));
            prop_assume!(length < file.len());
            prop_assert!(parse(&file[..length]).is_err());
        }
    }
}
