//! Accepts object keys that are the same everywhere: in a folder, in an address, on a real store.

use std::path::{Path, PathBuf};

use grail_ports::object_store::StoreError;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// Longest part of a key between two slashes, bytes; file systems end at 255.
const PART_BYTES_MAX: usize = 200;

/// Largest number of parts in a key.
const PARTS_MAX: usize = 16;

/// A key that can be neither absolute nor point outside its bucket.
///
/// Parts consist of letters, digits, `-`, `.`, `_` and `~`, the characters that no address has to
/// escape, and do not start with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidKey<'a>(&'a str);

impl<'a> ValidKey<'a> {
    /// Accepts `key`.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] that says what is wrong.
    pub fn parse(key: &'a str) -> Result<Self, StoreError> {
        let refuse = |reason: &str| Err(malformed("key", key, reason));
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return refuse("a key has 1 to 512 bytes");
        }
        if !key.bytes().all(is_plain) {
            return refuse("use letters, digits, `-`, `.`, `_`, `~` and `/`");
        }
        if key.split('/').count() > PARTS_MAX {
            return refuse("a key has at most 16 parts");
        }
        for part in key.split('/') {
            if part.is_empty() || part.starts_with('.') || part.len() > PART_BYTES_MAX {
                return refuse(
                    "each part between slashes has 1 to 200 characters, the first of them not a dot",
                );
            }
        }
        Ok(Self(key))
    }

    /// Returns the key's text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Returns the path of the object in the bucket's folder.
    pub(super) fn path_in(self, bucket: &Path) -> PathBuf {
        let mut path = bucket.to_owned();
        path.extend(self.0.split('/'));
        path
    }

    /// Returns the keys whose objects would stand where this key needs a folder.
    pub(super) fn ancestors(self) -> impl Iterator<Item = &'a str> {
        self.0.match_indices('/').map(|(end, _)| &self.0[..end])
    }
}

/// Checks the start of keys to list; the empty one lists everything.
///
/// # Errors
/// [`StoreError::Malformed`] when no key can start so.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > KEY_BYTES_MAX || !prefix.bytes().all(is_plain) {
        return Err(malformed("prefix", prefix, "no key can start so"));
    }
    Ok(())
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte)
}

fn malformed(what: &str, text: &str, reason: &str) -> StoreError {
    let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
    StoreError::Malformed(format!("{what} `{shown}` is not allowed; {reason}"))
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_of_the_protocol_are_accepted() {
        for key in [
            "a",
            "grail/windows/5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY-window-30.grail",
            "grail/checkpoints/checkpoint-30/FULL/model.safetensors",
            "grail/checkpoints/checkpoint-30/READY-60",
            "a..b/c~d_E",
        ] {
            assert!(ValidKey::parse(key).is_ok(), "{key}");
        }
    }

    #[test]
    fn hostile_keys_are_refused() {
        let long_part = "a".repeat(201);
        let many_parts = ["a"; 17].join("/");
        let long_key = ["a".repeat(200), "b".repeat(200), "c".repeat(200)].join("/");
        for key in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "a/./b",
            ".hidden",
            "a/.tmp",
            "a\\b",
            "a\0b",
            "a b",
            "a\nb",
            "%2e%2e/a",
            "é",
            "C:/a",
            "a?b",
            "a#b",
            &long_part,
            &many_parts,
            &long_key,
        ] {
            let error = ValidKey::parse(key).unwrap_err();
            assert!(matches!(error, StoreError::Malformed(_)), "{key}");
            assert!(error.to_string().len() < 1200, "messages are bounded");
        }
    }

    #[test]
    fn ancestors_are_the_folders_above() {
        let key = ValidKey::parse("a/b/c").unwrap();
        assert_eq!(key.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(ValidKey::parse("a").unwrap().ancestors().count(), 0);
    }

    proptest! {
        #[test]
        fn an_accepted_key_stays_in_its_bucket(key in "\\PC{0,40}|[a./~\\\\-]{0,12}") {
            if let Ok(valid) = ValidKey::parse(&key) {
                let path = valid.path_in(Path::new("/bucket"));
                let rest = path.strip_prefix("/bucket").unwrap();
                prop_assert!(rest.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(rest.to_str(), Some(key.as_str()));
            }
        }
    }
}
