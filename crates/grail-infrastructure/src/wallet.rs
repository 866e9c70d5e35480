//! Holds the sr25519 hotkey that a neuron acts with, in the folders that Bittensor wallets use.
//!
//! `<wallets>/<name>/coldkeypub.txt`, `<wallets>/<name>/hotkeys/<hotkey>`; key files are mode 0600,
//! folders 0700. Source: spec/bittensor.md section 9.

mod keyfile;

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use grail_protocol::signature::SIGNING_CONTEXT;
use schnorrkel::Keypair;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::files::{self, PRIVATE, PUBLIC, ReadError};
pub use keyfile::KeyfileError;
use keyfile::Origin;

/// Largest key file that is read; real ones have about 600 bytes.
const KEYFILE_BYTES_MAX: u64 = 16 * 1024;

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
    hotkey: Hotkey,
    coldkey: Option<Hotkey>,
    keypair: Keypair,
}

/// Why a wallet could not be created or loaded.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// A name that cannot be a file name.
    #[error(
        "`{0}` cannot name a wallet or hotkey; use 1 to 64 letters, digits, `-`, `_` or `.`, not \
         starting with a dot"
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
        let keypair = keyfile::expand(&Origin::Seed(Zeroizing::new(*seed)));
        Self::with_keypair("memory", "default", None, keypair)
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
        let paths = Paths::new(wallets, name, hotkey_name)?;
        if paths.hotkey.exists() {
            return Err(WalletError::Exists(paths.hotkey));
        }
        files::create_private_dir(&paths.hotkeys).map_err(io_error(&paths.hotkeys))?;
        let (hotkey_origin, coldkey_origin) = match key {
            NewKey::Random => (random_origin(&paths.hotkey)?, random_origin(&paths.coldkey)?),
            NewKey::Seed(seed) => {
                let coldkey = Sha256::new()
                    .chain_update(b"grail/v6/local-coldkey\0")
                    .chain_update(seed.as_slice())
                    .finalize();
                (Origin::Seed(seed), Origin::Seed(Zeroizing::new(coldkey.into())))
            }
        };
        let coldkey = ensure_coldkey(&paths, &coldkey_origin)?;
        let keypair = keyfile::expand(&hotkey_origin);
        let wallet = Self::with_keypair(name, hotkey_name, coldkey, keypair);
        write_new(&paths.hotkey, &keyfile::render_secret(&hotkey_origin), PRIVATE)?;
        let public = keyfile::render_public(wallet.hotkey);
        files::write_atomic(&paths.hotkey_pub, &public, PUBLIC)
            .map_err(io_error(&paths.hotkey_pub))?;
        Ok(wallet)
    }

    /// Loads the hotkey `hotkey_name` of wallet `name` under the folder `wallets`.
    ///
    /// # Errors
    /// When the file is absent, damaged, encrypted, or holds no sr25519 secret.
    pub fn load(wallets: &Path, name: &str, hotkey_name: &str) -> Result<Self, WalletError> {
        let paths = Paths::new(wallets, name, hotkey_name)?;
        let keypair = read(&paths.hotkey, keyfile::parse)?;
        warn_if_readable_by_others(&paths.hotkey);
        let coldkey = match read(&paths.coldkey_pub, keyfile::parse_public) {
            Ok(coldkey) => Some(coldkey),
            // Neurons act with the hotkey alone, so a wallet may come without its coldkey.
            Err(WalletError::Missing(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(Self::with_keypair(name, hotkey_name, coldkey, keypair))
    }

    /// Reads a wallet that lives in memory only from the content of a key file.
    ///
    /// # Errors
    /// When `content` is damaged, encrypted, or holds no sr25519 secret. No error quotes a secret.
    pub fn from_keyfile(content: &[u8]) -> Result<Self, KeyfileError> {
        keyfile::parse(content)
            .map(|keypair| Self::with_keypair("memory", "default", None, keypair))
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

    fn with_keypair(
        name: &str,
        hotkey_name: &str,
        coldkey: Option<Hotkey>,
        keypair: Keypair,
    ) -> Self {
        Self {
            name: name.to_owned(),
            hotkey_name: hotkey_name.to_owned(),
            hotkey: Hotkey(keypair.public.to_bytes()),
            coldkey,
            keypair,
        }
    }
}

impl Signer for Wallet {
    fn hotkey(&self) -> Hotkey {
        self.hotkey
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.keypair.sign_simple(SIGNING_CONTEXT, message).to_bytes())
    }
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({}/{}, {})", self.name, self.hotkey_name, self.hotkey)
    }
}

/// Returns whether `name` can be a file name of ours: no separators, no hidden names, bounded.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

struct Paths {
    hotkeys: PathBuf,
    hotkey: PathBuf,
    hotkey_pub: PathBuf,
    coldkey: PathBuf,
    coldkey_pub: PathBuf,
}

impl Paths {
    fn new(wallets: &Path, name: &str, hotkey_name: &str) -> Result<Self, WalletError> {
        for name in [name, hotkey_name] {
            if !is_plain_name(name) {
                return Err(WalletError::BadName(name.chars().take(NAME_BYTES_MAX).collect()));
            }
        }
        let wallet = wallets.join(name);
        let hotkeys = wallet.join("hotkeys");
        Ok(Self {
            hotkey: hotkeys.join(hotkey_name),
            hotkey_pub: hotkeys.join(format!("{hotkey_name}pub.txt")),
            hotkeys,
            coldkey: wallet.join("coldkey"),
            coldkey_pub: wallet.join("coldkeypub.txt"),
        })
    }
}

/// Returns the wallet's public coldkey, making a coldkey of `origin` if the wallet has none.
fn ensure_coldkey(paths: &Paths, origin: &Origin) -> Result<Option<Hotkey>, WalletError> {
    match read(&paths.coldkey_pub, keyfile::parse_public) {
        Err(WalletError::Missing(_)) => {}
        known => return known.map(Some),
    }
    // An earlier call may have ended between the two files.
    let coldkey = match read(&paths.coldkey, keyfile::parse) {
        Ok(keypair) => Hotkey(keypair.public.to_bytes()),
        Err(WalletError::Keyfile { source: KeyfileError::Encrypted(_), .. }) => return Ok(None),
        Err(WalletError::Missing(_)) => {
            write_new(&paths.coldkey, &keyfile::render_secret(origin), PRIVATE)?;
            Hotkey(keyfile::expand(origin).public.to_bytes())
        }
        Err(error) => return Err(error),
    };
    files::write_atomic(&paths.coldkey_pub, &keyfile::render_public(coldkey), PUBLIC)
        .map_err(io_error(&paths.coldkey_pub))?;
    Ok(Some(coldkey))
}

fn random_origin(path: &Path) -> Result<Origin, WalletError> {
    let seed = files::random_seed().map_err(io_error(path))?;
    let mut entropy = Zeroizing::new([0; 16]);
    entropy.copy_from_slice(&seed[..16]);
    Ok(Origin::Entropy(entropy))
}

fn read<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, KeyfileError>,
) -> Result<T, WalletError> {
    let path = path.to_owned();
    match files::read_bounded(&path, KEYFILE_BYTES_MAX) {
        Ok(bytes) => parse(&bytes).map_err(|source| WalletError::Keyfile { path, source }),
        Err(ReadError::Missing) => Err(WalletError::Missing(path)),
        Err(ReadError::TooLarge { size }) => Err(WalletError::TooLarge { path, size }),
        Err(ReadError::NotAFile) => {
            let source = KeyfileError::Damaged("it is not a regular file".into());
            Err(WalletError::Keyfile { path, source })
        }
        Err(ReadError::Io(source)) => Err(WalletError::Io { path, source }),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WalletError> {
    files::write_new(path, bytes, mode).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WalletError::Exists(path.to_owned()),
        _ => WalletError::Io { path: path.to_owned(), source },
    })
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WalletError {
    let path = path.to_owned();
    move |source| WalletError::Io { path, source }
}

fn warn_if_readable_by_others(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            "the key file can be read by other users; restrict it with `chmod 600`"
        );
    }
}
