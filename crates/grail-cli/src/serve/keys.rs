//! Who may ask: bearer keys from a file, compared in constant time and never shown.

use std::path::Path;

use anyhow::{Context, Result, bail};
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::error::ApiError;
use crate::files::read_bounded;

/// Largest key file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Shortest key: fewer characters could be guessed.
const KEY_CHARS_MIN: usize = 16;

/// The keys that open the server; none of them lets everybody in.
#[derive(Default)]
pub struct Keys {
    /// SHA-256 of each key: equal lengths, and no key in memory.
    hashes: Vec<[u8; 32]>,
}

impl Keys {
    /// Reads a file with one key a line; empty lines and lines that begin with `#` do not count.
    ///
    /// # Errors
    /// When it cannot be read, has no key, or one that is too short.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bytes = read_bounded(path, FILE_BYTES_MAX)
            .with_context(|| format!("while reading the API keys in {shown}"))?;
        let text = String::from_utf8(bytes).ok().with_context(|| format!("{shown} is no text"))?;
        let lines = text.lines().map(str::trim);
        let keys: Vec<&str> =
            lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if keys.is_empty() {
            bail!("{shown} has no API key; write one a line, `openssl rand -hex 32` makes one");
        }
        if keys.iter().any(|key| key.chars().count() < KEY_CHARS_MIN) {
            bail!(
                "{shown} has an API key of fewer than {KEY_CHARS_MIN} characters; use longer ones"
            );
        }
        Ok(Self { hashes: keys.iter().map(|key| Sha256::digest(key).into()).collect() })
    }

    /// Returns whether everybody may ask.
    pub fn is_open(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Checks a request's `Authorization: Bearer …`.
    ///
    /// # Errors
    /// 401 when it is not there or not one of the keys.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.is_open() {
            return Ok(());
        }
        let denied = |message: &str| {
            Err(ApiError::with(StatusCode::UNAUTHORIZED, "invalid_api_key", message))
        };
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return denied("an API key is needed; send `Authorization: Bearer KEY`");
        };
        let Some(key) = bearer(value.as_bytes()) else {
            return denied("the Authorization header has no bearer key; send `Bearer KEY`");
        };
        let hash: [u8; 32] = Sha256::digest(key).into();
        // Every key is compared, so that the time tells neither which one nor how many are right.
        let equal = self.hashes.iter().map(|known| known.ct_eq(&hash));
        if equal.fold(Choice::from(0), |any, this| any | this).into() {
            return Ok(());
        }
        denied("the API key is not one of this server's; check it, or ask who runs the server")
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0";

    fn keys(text: &str) -> Result<Keys> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, text).unwrap();
        Keys::read(&path)
    }

    fn asks(keys: &Keys, header: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::AUTHORIZATION, header.parse().unwrap());
        }
        keys.check(&headers).map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    #[test]
    fn one_of_the_keys_opens() {
        let keys = keys(&format!("# ours\n\n  {KEY}  \nanother-key-of-somebody\n")).unwrap();
        for (header, status) in [
            (Some(format!("Bearer {KEY}")), 200),
            (Some(format!("bearer  {KEY} ")), 200),
            (Some("Bearer another-key-of-somebody".to_owned()), 200),
            (Some(format!("Bearer {KEY}0")), 401),
            (Some("Bearer # ours".to_owned()), 401),
            (Some("Bearer ".to_owned()), 401),
            (Some(format!("Basic {KEY}")), 401),
            (Some("B".to_owned()), 401),
            (None, 401),
        ] {
            assert_eq!(asks(&keys, header.as_deref()), status, "{header:?}");
        }
        assert_eq!(asks(&Keys::default(), None), 200);
    }

    #[test]
    fn files_without_a_usable_key_are_refused_without_showing_it() {
        for text in ["", "# none\n", "short\n", &format!("{KEY}\nshort")] {
            let error = keys(text).err().unwrap().to_string();
            assert!(error.contains("API key") && !error.contains("short\n"), "{text:?}: {error}");
            assert!(!error.contains(KEY));
        }
    }
}
