//! The keys to our own bucket, from the environment or from files; never shown.

use std::fmt;
use std::path::{Path, PathBuf};

use grail_ports::object_store::ReadCredentials;
use zeroize::Zeroizing;

use super::settings::shown;
use crate::files::{self, ReadError};

/// Largest file with one secret, bytes.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// Longest account id that can be committed on chain.
const ACCOUNT_ID_CHARS: usize = 32;

/// Account id of a bucket whose server knows no accounts and whose name is too long to be one.
const NO_ACCOUNT: &str = "s3";

/// One key pair. The secret is zeroed when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// Id of the key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Zeroizing<String>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({}, …)", self.access_key_id)
    }
}

/// Our own bucket and the keys to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSecrets {
    /// Account id.
    pub account_id: String,
    /// Name of the bucket.
    pub bucket_name: String,
    /// For us.
    pub write: KeyPair,
    /// For everybody: it is published on chain.
    pub read: KeyPair,
}

/// Why the keys are not known. Never shows a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Values that are needed, each with its variable.
    #[error("not set: {}; for each set NAME, or NAME_FILE to a file that holds it", listed(.0))]
    Missing(Vec<(&'static str, &'static str)>),
    /// A file that cannot be used.
    #[error("cannot read {name} from {path}: {reason}")]
    File {
        /// The variable.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key that is published would let everybody write.
    #[error(
        "the read key is the write key, and the read key is published on chain: everybody could \
         replace our files; make a key that can only read and set R2_READ_ACCESS_KEY_ID and \
         R2_READ_SECRET_ACCESS_KEY"
    )]
    ReadKeyWrites,
}

fn listed(missing: &[(&str, &str)]) -> String {
    let each: Vec<String> = missing.iter().map(|(what, name)| format!("{what} ({name})")).collect();
    each.join(", ")
}

/// A secret and the variables that may hold it, the first that is set counting.
struct Source {
    what: &'static str,
    names: &'static [&'static str],
}

const ACCOUNT: Source = Source { what: "the account id", names: &["R2_ACCOUNT_ID"] };
const BUCKET: Source = Source { what: "the bucket's name", names: &["R2_BUCKET_ID"] };
const WRITE_ID: Source = Source {
    what: "the id of the write key",
    names: &["R2_WRITE_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"],
};
const WRITE_SECRET: Source = Source {
    what: "the secret of the write key",
    names: &["R2_WRITE_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"],
};
const READ_ID: Source =
    Source { what: "the id of the read key", names: &["R2_READ_ACCESS_KEY_ID"] };
const READ_SECRET: Source =
    Source { what: "the secret of the read key", names: &["R2_READ_SECRET_ACCESS_KEY"] };

impl BucketSecrets {
    /// Reads the keys from the variables of the reference (`R2_*`), the write key also from those of
    /// other S3 tools (`AWS_*`). A variable `X_FILE` names a file with the value of `X`.
    ///
    /// `bucket_name` comes from the configuration and counts more than `R2_BUCKET_ID`. Without an
    /// account id, as servers other than R2 have none, the bucket's name stands for it.
    ///
    /// # Errors
    /// [`SecretsError`], which names all variables to set.
    pub fn from_environment(
        bucket_name: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SecretsError> {
        let mut missing = Vec::new();
        let mut required = |source: &Source| {
            let value = read(source, &variable)?;
            if value.is_none() {
                missing.push((source.what, source.names[0]));
            }
            Ok(value.unwrap_or_default())
        };
        let plain = |value: Zeroizing<String>| value.as_str().to_owned();
        let account = read(&ACCOUNT, &variable)?.map(plain);
        let bucket_name = match (bucket_name, &account) {
            (Some(name), _) => name.to_owned(),
            (None, None) => plain(required(&BUCKET)?),
            (None, Some(account)) => read(&BUCKET, &variable)?.map_or(account.clone(), plain),
        };
        let account_id = account.unwrap_or_else(|| account_of(&bucket_name));
        let write = KeyPair {
            access_key_id: plain(required(&WRITE_ID)?),
            secret_access_key: required(&WRITE_SECRET)?,
        };
        let read = KeyPair {
            access_key_id: plain(required(&READ_ID)?),
            secret_access_key: required(&READ_SECRET)?,
        };
        if !missing.is_empty() {
            return Err(SecretsError::Missing(missing));
        }
        if read.secret_access_key == write.secret_access_key {
            return Err(SecretsError::ReadKeyWrites);
        }
        Ok(Self { account_id, bucket_name, write, read })
    }

    /// Returns these keys for a bucket of another name of the same account.
    #[must_use]
    pub fn for_bucket(&self, name: &str) -> Self {
        let has_account = self.account_id != account_of(&self.bucket_name);
        let account_id = if has_account { self.account_id.clone() } else { account_of(name) };
        Self { account_id, bucket_name: name.to_owned(), ..self.clone() }
    }

    /// Returns what is published on chain.
    pub fn read_credentials(&self) -> ReadCredentials {
        ReadCredentials {
            account_id: self.account_id.clone(),
            bucket_name: (self.bucket_name != self.account_id).then(|| self.bucket_name.clone()),
            access_key_id: self.read.access_key_id.clone(),
            secret_access_key: self.read.secret_access_key.as_str().to_owned(),
        }
    }
}

fn account_of(bucket_name: &str) -> String {
    let fits = bucket_name.chars().count() <= ACCOUNT_ID_CHARS;
    if fits { bucket_name } else { NO_ACCOUNT }.to_owned()
}

fn read(
    source: &Source,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Zeroizing<String>>, SecretsError> {
    let trimmed = |text: &str| Zeroizing::new(text.trim().to_owned());
    for name in source.names {
        let value = variable(name).map(Zeroizing::new);
        if let Some(value) = value.filter(|value| !value.trim().is_empty()) {
            return Ok(Some(trimmed(&value)));
        }
        let name = format!("{name}_FILE");
        if let Some(path) = variable(&name).filter(|path| !path.is_empty()) {
            return read_file(&name, Path::new(&path)).map(Some);
        }
    }
    Ok(None)
}

fn read_file(name: &str, path: &Path) -> Result<Zeroizing<String>, SecretsError> {
    let failed = |reason: String| SecretsError::File {
        name: name.to_owned(),
        path: PathBuf::from(shown(&path.to_string_lossy())),
        reason,
    };
    let bytes = match files::read_bounded(path, SECRET_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(ReadError::Missing) => return Err(failed("no such file".to_owned())),
        Err(ReadError::NotAFile) => return Err(failed("not a regular file".to_owned())),
        Err(ReadError::TooLarge { .. }) => {
            return Err(failed(format!("larger than {SECRET_FILE_BYTES_MAX} bytes")));
        }
        Err(ReadError::Io(error)) => return Err(failed(error.to_string())),
    };
    match std::str::from_utf8(&bytes).map(str::trim) {
        Ok("") => Err(failed("empty".to_owned())),
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(failed("not text".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ALL: [(&str, &str); 6] = [
        ("R2_ACCOUNT_ID", "acc"),
        ("R2_BUCKET_ID", "box"),
        ("R2_WRITE_ACCESS_KEY_ID", "wid"),
        ("R2_WRITE_SECRET_ACCESS_KEY", "hush-write"),
        ("R2_READ_ACCESS_KEY_ID", "rid"),
        ("R2_READ_SECRET_ACCESS_KEY", "hush-read"),
    ];

    fn from(
        bucket: Option<&str>,
        changes: &[(&str, Option<&str>)],
    ) -> Result<BucketSecrets, SecretsError> {
        let mut map: BTreeMap<&str, &str> = ALL.into_iter().collect();
        for (name, value) in changes {
            match value {
                Some(value) => map.insert(name, value),
                None => map.remove(name),
            };
        }
        BucketSecrets::from_environment(bucket, |name| map.get(name).map(|v| (*v).to_owned()))
    }

    #[test]
    fn the_variables_of_the_reference_are_read() {
        let secrets = from(None, &[]).unwrap();
        assert_eq!((secrets.account_id.as_str(), secrets.bucket_name.as_str()), ("acc", "box"));
        assert_eq!(secrets.write.access_key_id, "wid");
        assert_eq!(secrets.write.secret_access_key.as_str(), "hush-write");
        let published = secrets.read_credentials();
        assert_eq!(published.bucket_name.as_deref(), Some("box"));
        assert_eq!((published.bucket(), published.access_key_id.as_str()), ("box", "rid"));
        assert_eq!(published.secret_access_key, "hush-read");
    }

    #[test]
    fn the_account_is_the_bucket_and_the_other_way_round() {
        let same = from(None, &[("R2_BUCKET_ID", None)]).unwrap();
        assert_eq!((same.bucket_name.as_str(), same.read_credentials().bucket_name), ("acc", None));
        let same = from(None, &[("R2_ACCOUNT_ID", None)]).unwrap();
        assert_eq!((same.account_id.as_str(), same.read_credentials().bucket_name), ("box", None));
        let long = "b".repeat(40);
        let named = from(Some(&long), &[("R2_ACCOUNT_ID", None)]).unwrap();
        assert_eq!(named.read_credentials().bucket_name, Some(long));
        assert_eq!(named.account_id, "s3");
        assert_eq!(named.for_bucket("other").read_credentials().bucket(), "other");
    }

    #[test]
    fn what_other_tools_use_is_second_choice() {
        let aws = [("AWS_ACCESS_KEY_ID", Some("aid")), ("AWS_SECRET_ACCESS_KEY", Some("hush-aws"))];
        assert_eq!(from(None, &aws).unwrap().write.access_key_id, "wid");
        let mut only = aws.to_vec();
        only.extend([("R2_WRITE_ACCESS_KEY_ID", None), ("R2_WRITE_SECRET_ACCESS_KEY", Some(" "))]);
        let write = from(None, &only).unwrap().write;
        assert_eq!(write.access_key_id, "aid");
        assert_eq!(write.secret_access_key.as_str(), "hush-aws");
    }

    #[test]
    fn what_is_missing_is_named() {
        for name in ["R2_WRITE_ACCESS_KEY_ID", "R2_READ_SECRET_ACCESS_KEY"] {
            let error = from(None, &[(name, None)]).unwrap_err();
            let SecretsError::Missing(missing) = &error else { panic!("{error}") };
            assert_eq!(missing.len(), 1);
            assert!(error.to_string().contains(name), "{error}");
        }
        let all: Vec<_> = ALL.iter().map(|(name, _)| (*name, None)).collect();
        let error = from(None, &all).unwrap_err().to_string();
        for (name, _) in &ALL[1..] {
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn a_key_that_writes_is_never_published() {
        let error = from(None, &[("R2_READ_SECRET_ACCESS_KEY", Some("hush-write"))]).unwrap_err();
        assert!(matches!(error, SecretsError::ReadKeyWrites));
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn files_hold_secrets_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let name = path.to_str().unwrap();
        let changes =
            [("R2_READ_SECRET_ACCESS_KEY", None), ("R2_READ_SECRET_ACCESS_KEY_FILE", Some(name))];
        std::fs::write(&path, "hush-file\n").unwrap();
        let secrets = from(None, &changes).unwrap();
        assert_eq!(secrets.read.secret_access_key.as_str(), "hush-file");
        for bad in [&b""[..], b" \n", b"\xff", &[b'x'; 5000]] {
            std::fs::write(&path, bad).unwrap();
            let error = from(None, &changes).unwrap_err();
            assert!(matches!(error, SecretsError::File { .. }), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(from(None, &changes).unwrap_err().to_string().contains("no such file"));
    }

    #[test]
    fn nothing_shows_a_secret() {
        let secrets = from(None, &[]).unwrap();
        let shown = format!("{secrets:?} {:?} {:?}", secrets.write, secrets.read_credentials());
        assert!(!shown.contains("hush"), "{shown}");
    }
}
