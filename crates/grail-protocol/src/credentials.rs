//! The 128 characters that a hotkey commits on chain so that peers can read its bucket.
//!
//! Account id (32), read key id (32) and read secret (64), each padded with spaces on the right. The
//! bucket's name is the account id. Source: reference 0.0.60; unlike there, a value that is too long
//! is an error and not cut, and only ASCII is written, since the chain counts bytes.

use std::fmt;

const ACCOUNT_ID_CHARS: usize = 32;
const ACCESS_KEY_ID_CHARS: usize = 32;
const SECRET_CHARS: usize = 64;

/// Characters of a commitment.
pub const COMMITMENT_CHARS: usize = ACCOUNT_ID_CHARS + ACCESS_KEY_ID_CHARS + SECRET_CHARS;

/// What peers need to read a bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct CredentialCommitment {
    /// Account id, which is also the bucket's name; 1 to 32 characters.
    pub account_id: String,
    /// Id of the read key; 1 to 32 characters.
    pub access_key_id: String,
    /// Secret of the read key; 1 to 64 characters. Published on purpose, yet never logged.
    pub secret_access_key: String,
}

impl fmt::Debug for CredentialCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialCommitment({}, …)", self.account_id)
    }
}

/// Why credentials cannot be written or read. Never shows a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCommitment {
    /// A value does not fit into its place.
    #[error("{field} has {found} characters, expected 1 to {max}; check the bucket's credentials")]
    WrongLength {
        /// Which value.
        field: &'static str,
        /// Characters found, without white space at the ends.
        found: usize,
        /// Most characters.
        max: usize,
    },
    /// A value that would not read back as it is.
    #[error("{0} must be ASCII without control characters; check the bucket's credentials")]
    NotAscii(&'static str),
    /// A commitment with another number of characters, or no text at all.
    #[error(
        "a credential commitment has {COMMITMENT_CHARS} characters, this one is {0}; its owner \
         committed something else"
    )]
    NotACommitment(String),
}

impl CredentialCommitment {
    /// Returns the commitment's bytes, white space at the ends of the values removed.
    ///
    /// # Errors
    /// When a value is empty, too long, or not plain ASCII.
    pub fn encode(&self) -> Result<[u8; COMMITMENT_CHARS], BadCommitment> {
        let mut bytes = [b' '; COMMITMENT_CHARS];
        let (account, keys) = bytes.split_at_mut(ACCOUNT_ID_CHARS);
        let (key_id, secret) = keys.split_at_mut(ACCESS_KEY_ID_CHARS);
        write("account id", &self.account_id, account)?;
        write("access key id", &self.access_key_id, key_id)?;
        write("secret access key", &self.secret_access_key, secret)?;
        Ok(bytes)
    }

    /// Reads a commitment from the chain; values may be any UTF-8, as the reference writes them.
    ///
    /// # Errors
    /// When it does not have exactly [`COMMITMENT_CHARS`] characters, or a value is blank.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadCommitment> {
        // A character has at most 4 bytes; longer data need not be looked at.
        if bytes.len() > 4 * COMMITMENT_CHARS {
            return Err(BadCommitment::NotACommitment(format!("{} bytes long", bytes.len())));
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(BadCommitment::NotACommitment("not UTF-8 text".to_owned()));
        };
        let chars: Vec<char> = text.chars().collect();
        if chars.len() != COMMITMENT_CHARS {
            return Err(BadCommitment::NotACommitment(format!("{} long", chars.len())));
        }
        let (account, keys) = chars.split_at(ACCOUNT_ID_CHARS);
        let (key_id, secret) = keys.split_at(ACCESS_KEY_ID_CHARS);
        Ok(Self {
            account_id: read("account id", account)?,
            access_key_id: read("access key id", key_id)?,
            secret_access_key: read("secret access key", secret)?,
        })
    }
}

fn write(field: &'static str, value: &str, place: &mut [u8]) -> Result<(), BadCommitment> {
    let value = value.trim();
    if !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(BadCommitment::NotAscii(field));
    }
    if value.is_empty() || value.len() > place.len() {
        return Err(BadCommitment::WrongLength { field, found: value.len(), max: place.len() });
    }
    place[..value.len()].copy_from_slice(value.as_bytes());
    Ok(())
}

fn read(field: &'static str, place: &[char]) -> Result<String, BadCommitment> {
    let value = place.iter().collect::<String>().trim().to_owned();
    if value.is_empty() {
        return Err(BadCommitment::WrongLength { field, found: 0, max: place.len() });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!(
            "../../grail-testkit/vectors/credentials/credentials.json"
        ))
        .unwrap()
    }

    fn text(value: &Value, key: &str) -> String {
        value[key].as_str().unwrap().to_owned()
    }

    #[test]
    fn commitments_read_as_in_the_reference() {
        let vectors = vectors();
        let cases = vectors["decode"].as_array().unwrap();
        for case in cases {
            let decoded = CredentialCommitment::decode(text(case, "commitment").as_bytes());
            if case["accepted"].as_bool().unwrap() {
                let bucket = &case["bucket"];
                let want = CredentialCommitment {
                    account_id: text(bucket, "account_id"),
                    access_key_id: text(bucket, "access_key_id"),
                    secret_access_key: text(bucket, "secret_access_key"),
                };
                assert_eq!(decoded, Ok(want), "{case}");
            } else {
                assert!(decoded.is_err(), "{case}");
            }
        }
        assert!(cases.len() >= 15, "{} cases", cases.len());
    }

    #[test]
    fn commitments_are_written_as_in_the_reference() {
        let vectors = vectors();
        let (mut written, mut refused) = (0, 0);
        for case in vectors["cases"].as_array().unwrap() {
            let credentials = CredentialCommitment {
                account_id: text(&case["credentials"], "account_id"),
                access_key_id: text(&case["credentials"], "read_access_key_id"),
                secret_access_key: text(&case["credentials"], "read_secret_access_key"),
            };
            match credentials.encode() {
                Ok(bytes) => {
                    assert_eq!(bytes.as_slice(), text(case, "commitment").as_bytes());
                    written += 1;
                }
                // The reference cuts what is too long; we ask the operator instead.
                Err(_) => {
                    let fits = credentials.account_id.trim().len() <= 32
                        && credentials.access_key_id.trim().len() <= 32
                        && credentials.secret_access_key.trim().len() <= 64;
                    assert!(!fits, "{credentials:?}");
                    refused += 1;
                }
            }
        }
        assert!(written >= 9 && refused >= 3, "{written} written, {refused} refused");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let mut credentials = CredentialCommitment {
            account_id: "bucket".to_owned(),
            access_key_id: "key".to_owned(),
            secret_access_key: "hush\u{7}".to_owned(),
        };
        assert!(!format!("{credentials:?}").contains("hush"));
        let error = credentials.encode().unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
        credentials.secret_access_key = " ".to_owned();
        assert_eq!(
            credentials.encode().unwrap_err().to_string(),
            "secret access key has 0 characters, expected 1 to 64; check the bucket's credentials"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            account_id in "[!-~]{1,32}", access_key_id in "[!-~]{1,32}",
            secret_access_key in "[!-~]{1,64}",
        ) {
            let credentials =
                CredentialCommitment { account_id, access_key_id, secret_access_key };
            let bytes = credentials.encode().unwrap();
            prop_assert_eq!(CredentialCommitment::decode(&bytes).unwrap(), credentials);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..1_000),
        ) {
            // A panic would fail the test; the outcome does not matter.
            let _ = CredentialCommitment::decode(&bytes);
        }
    }
}
