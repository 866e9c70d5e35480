//! Keys of the chain: made, kept in the folders and files of Bittensor's wallets, and used to sign.
//!
//! [`Wallet`] is what a neuron acts with; [`WalletFolder`] is the folder that btcli and the Python
//! packages share with us. Secrets are zeroed when dropped, and no error or log quotes one. Source:
//! spec/bittensor.md section 9.

pub mod btauth;
pub mod encryption;
mod folder;
mod key;
mod keyfile;
mod keypair;
mod password;
mod phrase;
mod secret_uri;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::files;
pub use folder::{NO_PASSWORDS, Passwords, WalletFolder, is_open_to_others, read_keyfile};
pub use key::Key;
pub use keyfile::KeyfileError;
pub use keypair::{Keypair, Scheme, UnknownScheme, wrapped};
pub use password::{Password, UnreadableVariable, variable_for};
pub use phrase::{Phrase, PhraseError, RandomPhraseError, WORD_COUNTS};
pub use secret_uri::SecretUriError;

/// Longest name of a wallet or a hotkey, bytes.
const NAME_BYTES_MAX: usize = 64;

/// Where the secret of a new wallet comes from.
pub enum NewKey {
    /// The operating system's randomness; the key file gets a mnemonic phrase for the backup.
    Random,
    /// A given mini-secret, for networks that can be made again.
    Seed(Zeroizing<[u8; 32]>),
}

/// A wallet whose hotkey can sign. The secret is zeroed when dropped and never shown.
pub struct Wallet {
    name: String,
    hotkey_name: String,
    coldkey: Option<Hotkey>,
    pair: Keypair,
}

/// Why a wallet could not be created or loaded.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// A name that cannot be a file name.
    #[error(
        "`{0}` cannot name a wallet or hotkey; use 1 to 64 letters, digits, `-`, `_` or `.`, not \
         starting with a dot, and no hotkey ends in pub.txt"
    )]
    BadName(String),
    /// No such file.
    #[error("no key file at {0}; check the wallet's folder and name, or create it first")]
    Missing(PathBuf),
    /// A file that must not be overwritten.
    #[error("{0} already exists; choose another name, or move the file away")]
    Exists(PathBuf),
    /// Too large for a key file.
    #[error("{path} has {size} bytes, more than a key file can have; is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        size: u64,
    },
    /// The content is not usable.
    #[error("cannot use key file {path}: {source}")]
    Keyfile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyfileError,
    },
    /// The operating system refused.
    #[error("cannot access {path}: {source}; check permissions and free space")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
}

impl Wallet {
    /// Returns a wallet that lives in memory only.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::with_pair("memory", "default", None, Keypair::from_seed(Scheme::Sr25519, seed))
    }

    /// Creates the hotkey `hotkey_name` of wallet `name` under the folder `wallets`, and the
    /// wallet's coldkey if it has none.
    ///
    /// The coldkey is written unencrypted too: nothing on a local network needs it, and a key whose
    /// secret was thrown away could never be used elsewhere.
    ///
    /// # Errors
    /// [`WalletError::Exists`] when there is such a hotkey; nothing is overwritten.
    pub fn create(
        wallets: &Path,
        name: &str,
        hotkey_name: &str,
        key: NewKey,
    ) -> Result<Self, WalletError> {
        let folder = WalletFolder::new(wallets, name)?;
        let hotkey_path = folder.hotkey_path(hotkey_name)?;
        if hotkey_path.exists() {
            return Err(WalletError::Exists(hotkey_path));
        }
        let (hotkey, coldkey) = match key {
            NewKey::Random => (random_key(&hotkey_path)?, random_key(&folder.coldkey_path())?),
            NewKey::Seed(seed) => {
                let coldkey: Zeroizing<[u8; 32]> = Zeroizing::new(
                    Sha256::new()
                        .chain_update(b"grail/v6/local-coldkey\0")
                        .chain_update(seed.as_slice())
                        .finalize()
                        .into(),
                );
                (Key::from_seed(Scheme::Sr25519, &seed), Key::from_seed(Scheme::Sr25519, &coldkey))
            }
        };
        let coldkey = ensure_coldkey(&folder, &coldkey)?;
        folder.write_hotkey(hotkey_name, &hotkey, None)?;
        Self::of(&folder, hotkey_name, coldkey, hotkey)
    }

    /// Loads the hotkey `hotkey_name` of wallet `name` under the folder `wallets`.
    ///
    /// # Errors
    /// When the file is absent, damaged, encrypted with a password that `passwords` does not find,
    /// or holds no sr25519 secret.
    pub fn load(
        wallets: &Path,
        name: &str,
        hotkey_name: &str,
        passwords: Passwords<'_>,
    ) -> Result<Self, WalletError> {
        let folder = WalletFolder::new(wallets, name)?;
        let key = folder.hotkey(hotkey_name, passwords)?;
        warn_if_open_to_others(&folder.hotkey_path(hotkey_name)?);
        // Neurons act with the hotkey alone, so a wallet may come without its coldkey.
        let coldkey = folder.coldkey_address()?;
        Self::of(&folder, hotkey_name, coldkey, key)
    }

    /// Reads a wallet that lives in memory only from the content of an unencrypted key file.
    ///
    /// # Errors
    /// When `content` is damaged, encrypted, or holds no sr25519 secret. No error quotes a secret.
    pub fn from_keyfile(content: &[u8]) -> Result<Self, KeyfileError> {
        let pair = hotkey_pair(keyfile::parse_plain(content)?)?;
        Ok(Self::with_pair("memory", "default", None, pair))
    }

    /// Reads the address in the content of a key file, public (`coldkeypub.txt`) or not.
    ///
    /// # Errors
    /// When `content` is damaged, encrypted, or names no address.
    pub fn address_in_keyfile(content: &[u8]) -> Result<Hotkey, KeyfileError> {
        keyfile::parse_public(content)
    }

    /// Returns the name of the wallet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name of the hotkey within the wallet.
    pub fn hotkey_name(&self) -> &str {
        &self.hotkey_name
    }

    /// Returns the public coldkey, if the wallet has one.
    pub fn coldkey(&self) -> Option<Hotkey> {
        self.coldkey
    }

    fn of(
        folder: &WalletFolder,
        hotkey_name: &str,
        coldkey: Option<Hotkey>,
        key: Key,
    ) -> Result<Self, WalletError> {
        let path = folder.hotkey_path(hotkey_name)?;
        let pair = hotkey_pair(key).map_err(|source| WalletError::Keyfile { path, source })?;
        Ok(Self::with_pair(folder.name(), hotkey_name, coldkey, pair))
    }

    fn with_pair(name: &str, hotkey_name: &str, coldkey: Option<Hotkey>, pair: Keypair) -> Self {
        Self { name: name.to_owned(), hotkey_name: hotkey_name.to_owned(), coldkey, pair }
    }
}

impl Signer for Wallet {
    fn hotkey(&self) -> Hotkey {
        self.pair.address()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.pair.sign(message)
    }
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({}/{}, {})", self.name, self.hotkey_name, self.hotkey())
    }
}

/// Returns the key in the content of a key file, or in a secret as a person keeps it: a phrase, a
/// seed, a private key, or a secret URI. `password` is asked for only if it is encrypted.
///
/// `scheme` is that of a bare secret; a key file says its own.
///
/// # Errors
/// When it is none of these. No error quotes it.
pub fn read_secret(
    content: &[u8],
    scheme: Scheme,
    password: impl FnOnce(encryption::Encryption) -> Option<Password>,
) -> Result<Key, SecretError> {
    if encryption::Encryption::of(content).is_some() {
        return Ok(keyfile::parse(content, password)?);
    }
    let text = std::str::from_utf8(content).unwrap_or_default().trim();
    if text.is_empty() || text.starts_with(['{', '[', '"']) {
        return Ok(keyfile::parse_plain(content)?);
    }
    if text.contains('/') {
        return Ok(Key::from_secret_uri(scheme, text)?);
    }
    match text.split_whitespace().nth(1) {
        Some(_) => Ok(Key::from_phrase(scheme, &Phrase::parse(text)?)),
        None => Ok(keyfile::from_secret_hex(scheme, text, "the secret")?),
    }
}

/// Why a secret is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A key file, or digits.
    #[error("{0}")]
    Keyfile(#[from] KeyfileError),
    /// A phrase.
    #[error("{0}")]
    Phrase(#[from] PhraseError),
    /// A secret URI.
    #[error("{0}")]
    SecretUri(#[from] SecretUriError),
}

/// Returns whether `name` can be a file name of ours: no separators, no hidden names, bounded.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Returns the key pair if it can be a hotkey: all messages of the protocol are signed with sr25519.
fn hotkey_pair(key: Key) -> Result<Keypair, KeyfileError> {
    match key.scheme() {
        Scheme::Sr25519 => Ok(key.into_pair()),
        Scheme::Ed25519 => Err(KeyfileError::Unsupported(keyfile::ED25519)),
    }
}

/// Returns the wallet's public coldkey, making `coldkey` its own if the wallet has none. `None` if
/// only a password would tell it.
fn ensure_coldkey(folder: &WalletFolder, coldkey: &Key) -> Result<Option<Hotkey>, WalletError> {
    if folder.coldkey_public_path().exists() {
        return folder.coldkey_address();
    }
    // An earlier call may have ended between the two files.
    match folder.coldkey(NO_PASSWORDS) {
        Ok(known) => {
            folder.restore_coldkey_address(&known)?;
            Ok(Some(known.address()))
        }
        Err(WalletError::Keyfile { source: KeyfileError::Encrypted(_), .. }) => Ok(None),
        Err(WalletError::Missing(_)) => {
            folder.write_coldkey(coldkey, None)?;
            Ok(Some(coldkey.address()))
        }
        Err(error) => Err(error),
    }
}

fn random_key(path: &Path) -> Result<Key, WalletError> {
    let seed = files::random_seed().map_err(io_error(path))?;
    let phrase = Phrase::from_entropy(&seed[..16]).expect("16 bytes are the entropy of 12 words");
    Ok(Key::from_phrase(Scheme::Sr25519, &phrase))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WalletError {
    let path = path.to_owned();
    move |source| WalletError::Io { path, source }
}

fn warn_if_open_to_others(path: &Path) {
    if is_open_to_others(path) {
        tracing::warn!(
            path = %path.display(),
            "the key file can be read by other users; restrict it with `chmod 600`"
        );
    }
}
