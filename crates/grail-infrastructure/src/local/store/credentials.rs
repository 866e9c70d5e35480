//! Keys to buckets: one to write, one to read, both secret and compared in constant time.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use grail_ports::object_store::ReadCredentials;
use grail_protocol::ids::{Digest, Hotkey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::files::{self, PRIVATE, ReadError};

/// Largest credentials file that is read.
const FILE_BYTES_MAX: u64 = 4096;

/// Version of the credentials file.
const FILE_VERSION: u32 = 1;

/// What the owner of a bucket writes with. The secret is zeroed when dropped and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteCredentials {
    /// Account id, which is also the bucket's name.
    pub account_id: String,
    /// Id of the write key.
    pub access_key_id: String,
    /// Secret of the write key.
    pub secret_access_key: Zeroizing<String>,
}

impl fmt::Debug for WriteCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteCredentials({}, …)", self.account_id)
    }
}

/// Both keys of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketKeys {
    /// Whose bucket it is.
    pub owner: Hotkey,
    /// For everybody, published on chain.
    pub read: ReadCredentials,
    /// For the owner.
    pub write: WriteCredentials,
}

/// What the store keeps of a bucket's keys: enough to recognise them, not to use them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketGrant {
    /// Whose bucket it is.
    pub owner: Hotkey,
    /// Id of the read key.
    pub read_key_id: String,
    /// SHA-256 of the read key's secret.
    pub read_secret_sha256: Digest,
    /// Id of the write key.
    pub write_key_id: String,
    /// SHA-256 of the write key's secret.
    pub write_secret_sha256: Digest,
}

/// A key presented to the store.
#[derive(Clone)]
pub struct AccessKey {
    /// Bucket that it is for.
    pub account_id: String,
    /// Id of the key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Zeroizing<String>,
}

/// Why a credentials file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No such file.
    #[error("no bucket credentials at {0}; is this neuron part of the network?")]
    Missing(PathBuf),
    /// Not credentials of ours.
    #[error("the bucket credentials {path} are damaged ({reason}); restore them from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong; never a secret.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot access {path}: {source}; check permissions and free space")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsFile {
    version: u32,
    owner: Hotkey,
    account_id: String,
    read: KeyFields,
    write: KeyFields,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
}

impl BucketKeys {
    /// Returns the keys of `owner`'s bucket that follow from `seed`.
    pub fn from_seed(owner: Hotkey, seed: &[u8; 32]) -> Self {
        let derive = |what: &[u8]| {
            let hash = Sha256::new()
                .chain_update(b"grail/v6/local-bucket-key\0")
                .chain_update(seed)
                .chain_update(owner.0)
                .chain_update(what)
                .finalize();
            Zeroizing::new(hex::encode(hash))
        };
        let account_id = account_id(owner);
        Self {
            owner,
            read: ReadCredentials {
                account_id: account_id.clone(),
                bucket_name: None,
                access_key_id: derive(b"read id")[..32].to_owned(),
                secret_access_key: derive(b"read secret").to_string(),
            },
            write: WriteCredentials {
                account_id,
                access_key_id: derive(b"write id")[..32].to_owned(),
                secret_access_key: derive(b"write secret"),
            },
        }
    }

    /// Returns random keys of `owner`'s bucket.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn random(owner: Hotkey) -> io::Result<Self> {
        Ok(Self::from_seed(owner, &*files::random_seed()?))
    }

    /// Returns what the store keeps.
    pub fn grant(&self) -> BucketGrant {
        BucketGrant {
            owner: self.owner,
            read_key_id: self.read.access_key_id.clone(),
            read_secret_sha256: Digest::of(self.read.secret_access_key.as_bytes()),
            write_key_id: self.write.access_key_id.clone(),
            write_secret_sha256: Digest::of(self.write.secret_access_key.as_bytes()),
        }
    }

    /// Writes the keys to the file at `path`, mode 0600, replacing it.
    ///
    /// # Errors
    /// [`CredentialsError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), CredentialsError> {
        let file = CredentialsFile {
            version: FILE_VERSION,
            owner: self.owner,
            account_id: self.write.account_id.clone(),
            read: KeyFields {
                access_key_id: self.read.access_key_id.clone(),
                secret_access_key: Zeroizing::new(self.read.secret_access_key.clone()),
            },
            write: KeyFields {
                access_key_id: self.write.access_key_id.clone(),
                secret_access_key: self.write.secret_access_key.clone(),
            },
        };
        let mut json = Zeroizing::new(Vec::with_capacity(2048));
        serde_json::to_writer_pretty(&mut *json, &file).expect("strings are valid JSON");
        files::write_atomic(path, &json, PRIVATE)
            .map_err(|source| CredentialsError::Io { path: path.to_owned(), source })
    }

    /// Reads the file that [`BucketKeys::save`] wrote.
    ///
    /// # Errors
    /// When the file is absent, too large or not what was written.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let damaged = |reason: &str| CredentialsError::Damaged {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let bytes = match files::read_bounded(path, FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(ReadError::Missing) => return Err(CredentialsError::Missing(path.to_owned())),
            Err(ReadError::NotAFile) => return Err(damaged("not a regular file")),
            Err(ReadError::TooLarge { .. }) => return Err(damaged("too large")),
            Err(ReadError::Io(source)) => {
                return Err(CredentialsError::Io { path: path.to_owned(), source });
            }
        };
        // serde_json quotes what it does not understand, which may be a secret.
        let file: CredentialsFile = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(&format!("not the expected JSON, line {}", error.line())))?;
        if file.version != FILE_VERSION {
            return Err(damaged(&format!("version {}, expected {FILE_VERSION}", file.version)));
        }
        if file.account_id != account_id(file.owner) {
            return Err(damaged("the account id is not that of the owner"));
        }
        Ok(Self {
            owner: file.owner,
            read: ReadCredentials {
                account_id: file.account_id.clone(),
                bucket_name: None,
                access_key_id: file.read.access_key_id,
                secret_access_key: file.read.secret_access_key.to_string(),
            },
            write: WriteCredentials {
                account_id: file.account_id,
                access_key_id: file.write.access_key_id,
                secret_access_key: file.write.secret_access_key,
            },
        })
    }
}

impl BucketGrant {
    /// Returns whether `key` may read.
    pub(super) fn lets_read(&self, key: &AccessKey) -> bool {
        let may_read = is_key(key, &self.read_key_id, self.read_secret_sha256);
        self.lets_write(key) | may_read
    }

    /// Returns whether `key` may write.
    pub(super) fn lets_write(&self, key: &AccessKey) -> bool {
        is_key(key, &self.write_key_id, self.write_secret_sha256)
    }

    /// Returns a grant that no key fits, for buckets that do not exist.
    pub(super) fn nobody() -> Self {
        Self {
            owner: Hotkey([0; 32]),
            read_key_id: "-".repeat(32),
            read_secret_sha256: Digest([0; 32]),
            write_key_id: "-".repeat(32),
            write_secret_sha256: Digest([0; 32]),
        }
    }
}

impl From<&ReadCredentials> for AccessKey {
    fn from(credentials: &ReadCredentials) -> Self {
        Self {
            account_id: credentials.bucket().to_owned(),
            access_key_id: credentials.access_key_id.clone(),
            secret_access_key: Zeroizing::new(credentials.secret_access_key.clone()),
        }
    }
}

impl From<&WriteCredentials> for AccessKey {
    fn from(credentials: &WriteCredentials) -> Self {
        Self {
            account_id: credentials.account_id.clone(),
            access_key_id: credentials.access_key_id.clone(),
            secret_access_key: credentials.secret_access_key.clone(),
        }
    }
}

/// Returns the account id, also the bucket's name, of `owner`: 32 hexadecimal digits.
pub fn account_id(owner: Hotkey) -> String {
    let hash = Sha256::new().chain_update(b"grail/v6/local-bucket\0").chain_update(owner.0);
    hex::encode(&hash.finalize()[..16])
}

/// Returns whether these can be credentials of any bucket of this store.
pub(crate) fn is_well_formed(key: &AccessKey) -> bool {
    let is_hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    is_hex(&key.account_id, 32)
        && is_hex(&key.access_key_id, 32)
        && is_hex(&key.secret_access_key, 64)
}

/// Compares hashes, whose length is fixed, without a branch that depends on them.
fn is_key(key: &AccessKey, key_id: &str, secret_sha256: Digest) -> bool {
    let secret = Digest::of(key.secret_access_key.as_bytes());
    let same_id =
        Digest::of(key.access_key_id.as_bytes()).0.ct_eq(&Digest::of(key_id.as_bytes()).0);
    (same_id & secret.0.ct_eq(&secret_sha256.0)).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OWNER: Hotkey = Hotkey([5; 32]);

    #[test]
    fn keys_follow_from_the_seed_and_fit_on_chain() {
        let keys = BucketKeys::from_seed(OWNER, &[1; 32]);
        assert_eq!(keys, BucketKeys::from_seed(OWNER, &[1; 32]));
        assert_ne!(keys, BucketKeys::from_seed(OWNER, &[2; 32]));
        assert_ne!(keys.read.secret_access_key, *keys.write.secret_access_key);
        for key in [AccessKey::from(&keys.read), AccessKey::from(&keys.write)] {
            assert!(is_well_formed(&key));
        }
        assert_ne!(BucketKeys::random(OWNER).unwrap(), BucketKeys::random(OWNER).unwrap());
    }

    #[test]
    fn each_key_opens_what_it_is_for() {
        let keys = BucketKeys::from_seed(OWNER, &[1; 32]);
        let grant = keys.grant();
        let (read, write) = (AccessKey::from(&keys.read), AccessKey::from(&keys.write));
        assert!(grant.lets_read(&read) && !grant.lets_write(&read));
        assert!(grant.lets_read(&write) && grant.lets_write(&write));
        let crossed =
            AccessKey { secret_access_key: read.secret_access_key.clone(), ..write.clone() };
        assert!(!grant.lets_read(&crossed) && !grant.lets_write(&crossed));
        let mut wrong = write.clone();
        wrong.secret_access_key.replace_range(0..1, "x");
        assert!(!grant.lets_read(&wrong));
        assert!(!BucketGrant::nobody().lets_read(&read));
    }

    #[test]
    fn the_file_round_trips_and_damage_is_told_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bucket.json");
        assert!(matches!(BucketKeys::load(&path), Err(CredentialsError::Missing(_))));
        let keys = BucketKeys::from_seed(OWNER, &[1; 32]);
        keys.save(&path).unwrap();
        assert_eq!(BucketKeys::load(&path).unwrap(), keys);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let good = fs::read_to_string(&path).unwrap();
        let secret = keys.write.secret_access_key.as_str();
        for bad in [
            String::new(),
            good[..good.len() / 2].to_owned(),
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace(&keys.read.account_id, &"0".repeat(32)),
            good.replace("\"secret_access_key\": \"", "\"secret_access_key\": [\""),
            "x".repeat(5000),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = BucketKeys::load(&path).unwrap_err();
            assert!(matches!(error, CredentialsError::Damaged { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains(&secret[..16]));
        }
        assert!(!format!("{keys:?}").contains(&secret[..16]));
        assert!(!format!("{keys:?}").contains(&keys.read.secret_access_key[..16]));
    }
}
