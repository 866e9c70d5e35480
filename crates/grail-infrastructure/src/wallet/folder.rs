//! The folder of a wallet: which file holds which key, and with which permissions.
//!
//! `<wallets>/<name>/coldkey`, `coldkeypub.txt`, `hotkeys/<hotkey>`, `hotkeys/<hotkey>pub.txt`; files
//! are mode 0600, folders 0700. Source: spec/bittensor.md section 9.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use grail_protocol::ids::Hotkey;

use super::encryption::{Encryption, NONCE_BYTES};
use super::key::Key;
use super::keyfile::{self, KeyfileError};
use super::password::Password;
use super::{NAME_BYTES_MAX, WalletError, is_plain_name};
use crate::files::{self, PRIVATE, ReadError};

/// Largest key file that is read; real ones have about 600 bytes.
const KEYFILE_BYTES_MAX: u64 = 16 * 1024;

/// Most wallets, or hotkeys of one, that are listed.
const LISTED_MAX: usize = 10_000;

/// End of the names of public files.
const PUBLIC_SUFFIX: &str = "pub.txt";

/// Finds the password of an encrypted key file, or `None` if there is none.
pub type Passwords<'a> = &'a dyn Fn(&Path, Encryption) -> Option<Password>;

/// Knows no password.
pub const NO_PASSWORDS: Passwords<'static> = &|_, _| None;

/// Where a wallet's keys lie. Making one touches no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletFolder {
    name: String,
    dir: PathBuf,
}

impl WalletFolder {
    /// Returns the wallet `name` below the folder `wallets`.
    ///
    /// # Errors
    /// [`WalletError::BadName`].
    pub fn new(wallets: &Path, name: &str) -> Result<Self, WalletError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), dir: wallets.join(name) })
    }

    /// Returns the names of the wallets below `wallets`, sorted; none if there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(wallets: &Path) -> Result<Vec<String>, WalletError> {
        names(wallets, Path::is_dir)
    }

    /// Returns the name of the wallet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the wallet's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the names of the wallet's hotkeys, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn hotkeys(&self) -> Result<Vec<String>, WalletError> {
        names(&self.dir.join("hotkeys"), Path::is_file)
    }

    /// Returns the file of the coldkey.
    pub fn coldkey_path(&self) -> PathBuf {
        self.dir.join("coldkey")
    }

    /// Returns the file of the coldkey's address.
    pub fn coldkey_public_path(&self) -> PathBuf {
        self.dir.join(format!("coldkey{PUBLIC_SUFFIX}"))
    }

    /// Returns the file of a hotkey.
    ///
    /// # Errors
    /// [`WalletError::BadName`].
    pub fn hotkey_path(&self, hotkey: &str) -> Result<PathBuf, WalletError> {
        check_name(hotkey)?;
        // It would be the public file of another hotkey.
        if hotkey.ends_with(PUBLIC_SUFFIX) {
            return Err(WalletError::BadName(hotkey.to_owned()));
        }
        Ok(self.dir.join("hotkeys").join(hotkey))
    }

    /// Returns the file of a hotkey's address.
    ///
    /// # Errors
    /// [`WalletError::BadName`].
    pub fn hotkey_public_path(&self, hotkey: &str) -> Result<PathBuf, WalletError> {
        let mut path = self.hotkey_path(hotkey)?.into_os_string();
        path.push(PUBLIC_SUFFIX);
        Ok(path.into())
    }

    /// Returns the coldkey.
    ///
    /// # Errors
    /// When the file is absent, damaged, or its password is not known.
    pub fn coldkey(&self, passwords: Passwords<'_>) -> Result<Key, WalletError> {
        read_key(&self.coldkey_path(), passwords)
    }

    /// Returns a hotkey.
    ///
    /// # Errors
    /// As [`WalletFolder::coldkey`], or when the name is none.
    pub fn hotkey(&self, hotkey: &str, passwords: Passwords<'_>) -> Result<Key, WalletError> {
        read_key(&self.hotkey_path(hotkey)?, passwords)
    }

    /// Returns the coldkey's address, `None` if the wallet has no coldkey that tells it.
    ///
    /// # Errors
    /// When its file is damaged.
    pub fn coldkey_address(&self) -> Result<Option<Hotkey>, WalletError> {
        address(&self.coldkey_public_path(), &self.coldkey_path())
    }

    /// Returns a hotkey's address, `None` if no file tells it without a password.
    ///
    /// # Errors
    /// When the file is damaged, or the name is none.
    pub fn hotkey_address(&self, hotkey: &str) -> Result<Option<Hotkey>, WalletError> {
        address(&self.hotkey_public_path(hotkey)?, &self.hotkey_path(hotkey)?)
    }

    /// Writes the coldkey and its address; with `password`, the coldkey is encrypted.
    ///
    /// # Errors
    /// [`WalletError::Exists`] when there is a coldkey, or only its address: nothing is overwritten.
    pub fn write_coldkey(&self, key: &Key, password: Option<&Password>) -> Result<(), WalletError> {
        files::create_private_dir(&self.dir).map_err(io_error(&self.dir))?;
        write_key(&self.coldkey_path(), &self.coldkey_public_path(), key, password)
    }

    /// Writes a hotkey and its address; with `password`, the hotkey is encrypted.
    ///
    /// # Errors
    /// As [`WalletFolder::write_coldkey`], or when the name is none.
    pub fn write_hotkey(
        &self,
        hotkey: &str,
        key: &Key,
        password: Option<&Password>,
    ) -> Result<(), WalletError> {
        let (path, public) = (self.hotkey_path(hotkey)?, self.hotkey_public_path(hotkey)?);
        let dir = self.dir.join("hotkeys");
        files::create_private_dir(&dir).map_err(io_error(&dir))?;
        write_key(&path, &public, key, password)
    }

    /// Writes the coldkey's address again, as after a crash between the two files.
    pub(super) fn restore_coldkey_address(&self, key: &Key) -> Result<(), WalletError> {
        write_public(&self.coldkey_public_path(), key)
    }
}

/// Returns the content of a key file, bounded.
///
/// # Errors
/// When it is absent, too large, or not a file.
pub fn read_keyfile(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, WalletError> {
    let path = path.to_owned();
    files::read_bounded(&path, KEYFILE_BYTES_MAX).map_err(|error| match error {
        ReadError::Missing => WalletError::Missing(path),
        ReadError::TooLarge { size } => WalletError::TooLarge { path, size },
        ReadError::NotAFile => {
            let source = KeyfileError::Damaged("it is not a regular file".into());
            WalletError::Keyfile { path, source }
        }
        ReadError::Io(source) => WalletError::Io { path, source },
    })
}

/// Whether others than the owner may read or write the file; `false` if there is none.
pub fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn read_key(path: &Path, passwords: Passwords<'_>) -> Result<Key, WalletError> {
    let bytes = read_keyfile(path)?;
    keyfile::parse(&bytes, |encryption| passwords(path, encryption)).map_err(bad(path))
}

fn address(public: &Path, secret: &Path) -> Result<Option<Hotkey>, WalletError> {
    match read_keyfile(public) {
        Ok(bytes) => return keyfile::parse_public(&bytes).map(Some).map_err(bad(public)),
        Err(WalletError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    // Older wallets wrote no public file beside a hotkey.
    match read_key(secret, NO_PASSWORDS) {
        Ok(key) => Ok(Some(key.address())),
        Err(
            WalletError::Missing(_)
            | WalletError::Keyfile { source: KeyfileError::Encrypted(_), .. },
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_key(
    path: &Path,
    public: &Path,
    key: &Key,
    password: Option<&Password>,
) -> Result<(), WalletError> {
    // An address without its secret is a wallet whose coldkey is kept elsewhere.
    if let Some(taken) = [path, public].into_iter().find(|path| path.exists()) {
        return Err(WalletError::Exists(taken.to_owned()));
    }
    match password {
        None => write_new(path, &keyfile::render_secret(key))?,
        Some(password) => {
            let mut nonce = [0; NONCE_BYTES];
            getrandom::fill(&mut nonce)
                .map_err(|error| io_error(path)(io::Error::other(error.to_string())))?;
            let sealed = keyfile::render_encrypted(key, password, &nonce).map_err(bad(path))?;
            write_new(path, &sealed)?;
        }
    }
    write_public(public, key)
}

fn write_public(path: &Path, key: &Key) -> Result<(), WalletError> {
    let bytes = keyfile::render_public(key.scheme(), key.address());
    files::write_atomic(path, &bytes, PRIVATE).map_err(io_error(path))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), WalletError> {
    files::write_new(path, bytes, PRIVATE).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WalletError::Exists(path.to_owned()),
        _ => io_error(path)(source),
    })
}

/// Returns the names in `dir` that can be ours and whose path `is_wanted`, sorted.
fn names(dir: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>, WalletError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries.take(LISTED_MAX) {
        let entry = entry.map_err(io_error(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_plain_name(&name) && !name.ends_with(PUBLIC_SUFFIX) && is_wanted(&entry.path()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn check_name(name: &str) -> Result<(), WalletError> {
    if is_plain_name(name) {
        return Ok(());
    }
    Err(WalletError::BadName(name.chars().take(NAME_BYTES_MAX).collect()))
}

fn bad(path: &Path) -> impl FnOnce(KeyfileError) -> WalletError {
    let path = path.to_owned();
    move |source| WalletError::Keyfile { path, source }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WalletError {
    let path = path.to_owned();
    move |source| WalletError::Io { path, source }
}
