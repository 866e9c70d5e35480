//! What a hotkey commits on chain so that peers can read its bucket: at most 128 bytes.
//!
//! The form of the reference is 128 characters: account id (32), read key id (32) and read secret
//! (64), each padded with spaces on the right; the bucket's name is the account id. Source: reference
//! 0.0.60; unlike there, a value that is too long is an error and not cut, and only ASCII is
//! written, since the chain counts bytes.
//!
//! A bucket with a name of its own does not fit there, and the reference cannot read such a bucket
//! anyhow. It is committed in one of two forms that begin with a byte that no UTF-8 text has, so that
//! the reference passes over it like over any other text that is no credentials:
//!
//! ```text
//! ff  account id (16)  read key id (16)  read secret (32)  bucket name (1 to 63)    R2's, from hex
//! fe  account id  00  read key id  00  read secret  00  bucket name                 any others
//! ```

use std::fmt;

const ACCOUNT_ID_CHARS: usize = 32;
const ACCESS_KEY_ID_CHARS: usize = 32;
const SECRET_CHARS: usize = 64;

const BUCKET_NAME_CHARS: usize = 63;

/// First byte of the form for keys of hexadecimal digits, as Cloudflare gives them.
const PACKED: u8 = 0xff;

/// First byte of the form for any other keys.
const SEPARATED: u8 = 0xfe;

/// Most bytes of a commitment, and the characters of one in the reference's form.
pub const COMMITMENT_CHARS: usize = ACCOUNT_ID_CHARS + ACCESS_KEY_ID_CHARS + SECRET_CHARS;

/// What peers need to read a bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct CredentialCommitment {
    /// Account id; 1 to 32 characters.
    pub account_id: String,
    /// The bucket's name if it is not the account id; 1 to 63 letters, digits, `-`, `.` or `_`.
    pub bucket_name: Option<String>,
    /// Id of the read key; 1 to 32 characters.
    pub access_key_id: String,
    /// Secret of the read key; 1 to 64 characters. Published on purpose, yet never logged.
    pub secret_access_key: String,
}

impl fmt::Debug for CredentialCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket_name.as_ref().unwrap_or(&self.account_id);
        write!(f, "CredentialCommitment({bucket}, …)")
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
    /// A bucket's name that no store takes.
    #[error("a bucket's name has 1 to 63 letters, digits, `-`, `.` and `_`; choose another bucket")]
    BucketName,
    /// Values that do not fit on chain together with the bucket's name.
    #[error(
        "the credentials and the bucket's name have {0} bytes together, at most {COMMITMENT_CHARS} \
         fit on chain; choose a shorter bucket name"
    )]
    TooLong(usize),
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
    pub fn encode(&self) -> Result<Vec<u8>, BadCommitment> {
        let mut bytes = vec![b' '; COMMITMENT_CHARS];
        let (account, keys) = bytes.split_at_mut(ACCOUNT_ID_CHARS);
        let (key_id, secret) = keys.split_at_mut(ACCESS_KEY_ID_CHARS);
        write("account id", &self.account_id, account)?;
        write("access key id", &self.access_key_id, key_id)?;
        write("secret access key", &self.secret_access_key, secret)?;
        match self.bucket_name.as_deref() {
            Some(name) if name != self.account_id.trim() => {
                if !is_bucket_name(name) {
                    return Err(BadCommitment::BucketName);
                }
                self.pack(name).map_or_else(|| self.separate(name), Ok)
            }
            _ => Ok(bytes),
        }
    }

    /// Returns the form for keys of lower-case hexadecimal digits, if these are such keys.
    fn pack(&self, bucket_name: &str) -> Option<Vec<u8>> {
        let mut bytes = vec![0; COMMITMENT_CHARS / 2];
        let (account, keys) = bytes.split_at_mut(ACCOUNT_ID_CHARS / 2);
        let (key_id, secret) = keys.split_at_mut(ACCESS_KEY_ID_CHARS / 2);
        for (value, place) in [
            (&self.account_id, account),
            (&self.access_key_id, key_id),
            (&self.secret_access_key, secret),
        ] {
            let value = value.trim();
            if value.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return None;
            }
            hex::decode_to_slice(value, place).ok()?;
        }
        bytes.insert(0, PACKED);
        bytes.extend_from_slice(bucket_name.as_bytes());
        Some(bytes)
    }

    /// Returns the form for any keys that were checked to be plain ASCII.
    fn separate(&self, bucket_name: &str) -> Result<Vec<u8>, BadCommitment> {
        let values = [&self.account_id, &self.access_key_id, &self.secret_access_key];
        let mut bytes = vec![SEPARATED];
        for value in values {
            bytes.extend_from_slice(value.trim().as_bytes());
            bytes.push(0);
        }
        bytes.extend_from_slice(bucket_name.as_bytes());
        if bytes.len() > COMMITMENT_CHARS {
            return Err(BadCommitment::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a commitment from the chain; in the reference's form values may be any UTF-8, as it
    /// writes them.
    ///
    /// # Errors
    /// When it has none of the forms, or a value is blank or too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadCommitment> {
        match bytes.split_first() {
            Some((&PACKED, rest)) => Self::unpack(rest),
            Some((&SEPARATED, rest)) => Self::join(rest),
            _ => Self::decode_reference(bytes),
        }
    }

    fn unpack(bytes: &[u8]) -> Result<Self, BadCommitment> {
        let damaged = || BadCommitment::NotACommitment(format!("{} bytes long", bytes.len() + 1));
        let (keys, name) = bytes.split_at_checked(COMMITMENT_CHARS / 2).ok_or_else(damaged)?;
        let (account, keys) = keys.split_at(ACCOUNT_ID_CHARS / 2);
        let (key_id, secret) = keys.split_at(ACCESS_KEY_ID_CHARS / 2);
        let account_id = hex::encode(account);
        Ok(Self {
            bucket_name: own_name(bucket_name(name)?, &account_id),
            account_id,
            access_key_id: hex::encode(key_id),
            secret_access_key: hex::encode(secret),
        })
    }

    fn join(bytes: &[u8]) -> Result<Self, BadCommitment> {
        let parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
        let [account, key_id, secret, name] = parts[..] else {
            return Err(BadCommitment::NotACommitment(format!("of {} values", parts.len())));
        };
        let account_id = part("account id", account, ACCOUNT_ID_CHARS)?;
        Ok(Self {
            bucket_name: own_name(bucket_name(name)?, &account_id),
            account_id,
            access_key_id: part("access key id", key_id, ACCESS_KEY_ID_CHARS)?,
            secret_access_key: part("secret access key", secret, SECRET_CHARS)?,
        })
    }

    fn decode_reference(bytes: &[u8]) -> Result<Self, BadCommitment> {
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
            bucket_name: None,
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

/// Returns the bucket's name if it is not the account id, which needs no name.
fn own_name(name: String, account_id: &str) -> Option<String> {
    (name != account_id).then_some(name)
}

/// Reads one value of the form for any keys.
fn part(field: &'static str, bytes: &[u8], max: usize) -> Result<String, BadCommitment> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadCommitment::NotAscii(field))?;
    // As it is written: without white space at the ends.
    let text = text.trim_matches(' ');
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(BadCommitment::NotAscii(field));
    }
    if text.is_empty() || text.len() > max {
        return Err(BadCommitment::WrongLength { field, found: text.len(), max });
    }
    Ok(text.to_owned())
}

fn bucket_name(bytes: &[u8]) -> Result<String, BadCommitment> {
    let name = std::str::from_utf8(bytes).ok().filter(|name| is_bucket_name(name));
    name.map(str::to_owned).ok_or(BadCommitment::BucketName)
}

fn is_bucket_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=BUCKET_NAME_CHARS).contains(&name.len()) && name.bytes().all(is_plain)
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
    fn what_was_read_of_another_form_reads_the_same_again() {
        for bytes in [
            &b"\xfe account\0key \0secret\0a-bucket"[..],
            b"\xfeaccount\0key\0secret\0account",
            b"\xfe0011223344556677\0key\0secret\0a-bucket",
        ] {
            let read = CredentialCommitment::decode(bytes).unwrap();
            assert_eq!(CredentialCommitment::decode(&read.encode().unwrap()), Ok(read));
        }
        for bytes in [&b"\xfe \0key\0secret\0a-bucket"[..], b"\xfea\tb\0key\0secret\0a-bucket"] {
            assert!(CredentialCommitment::decode(bytes).is_err());
        }
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
                    bucket_name: None,
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
                bucket_name: None,
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
            bucket_name: None,
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

    fn of_r2(bucket_name: &str) -> CredentialCommitment {
        CredentialCommitment {
            account_id: "0a".repeat(16),
            bucket_name: Some(bucket_name.to_owned()),
            access_key_id: "1b".repeat(16),
            secret_access_key: "2c".repeat(32),
        }
    }

    #[test]
    fn a_bucket_with_a_name_of_its_own_fits_and_the_reference_passes_over_it() {
        let longest = of_r2(&"n".repeat(63));
        let bytes = longest.encode().unwrap();
        assert_eq!((bytes.len(), bytes[0]), (COMMITMENT_CHARS, 0xff));
        assert!(std::str::from_utf8(&bytes).is_err(), "no text, so no credentials there");
        assert_eq!(CredentialCommitment::decode(&bytes), Ok(longest));

        let of_aws = CredentialCommitment {
            account_id: "a".to_owned(),
            access_key_id: "AKIA0123456789ABCDEF".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCY0123456789".to_owned(),
            ..of_r2(&"n".repeat(63))
        };
        let bytes = of_aws.encode().unwrap();
        assert_eq!((bytes.len(), bytes[0]), (128, 0xfe));
        assert_eq!(CredentialCommitment::decode(&bytes), Ok(of_aws.clone()));
        let longer = CredentialCommitment { account_id: "ab".to_owned(), ..of_aws };
        assert_eq!(longer.encode(), Err(BadCommitment::TooLong(129)));
    }

    #[test]
    fn the_account_id_as_bucket_name_keeps_the_references_form() {
        let credentials = of_r2(&"0a".repeat(16));
        let bytes = credentials.encode().unwrap();
        assert!(bytes.iter().all(u8::is_ascii_hexdigit), "nothing but the three values");
        let read = CredentialCommitment::decode(&bytes).unwrap();
        assert_eq!(read, CredentialCommitment { bucket_name: None, ..credentials });
    }

    #[test]
    fn bucket_names_that_could_mean_something_else_are_refused() {
        for name in ["", "a/b", "a b", "a?b", "ä", "a\0b", &"n".repeat(64)] {
            assert_eq!(of_r2(name).encode(), Err(BadCommitment::BucketName), "{name:?}");
            let mut packed = of_r2("x").encode().unwrap();
            packed.truncate(65);
            packed.extend_from_slice(name.as_bytes());
            assert_eq!(CredentialCommitment::decode(&packed), Err(BadCommitment::BucketName));
        }
        for damaged in [&[0xff; 64][..], &[0xfe], b"\xfea\0b\0c", b"\xfe\0b\0c\0name"] {
            assert!(CredentialCommitment::decode(damaged).is_err(), "{damaged:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bucket_name_reads_back(
            account_id in "[!-~]{1,12}", access_key_id in "[!-~]{1,20}",
            secret_access_key in "[!-~]{1,30}", name in "[a-z0-9][a-z0-9.-]{2,62}",
        ) {
            prop_assume!(name != account_id);
            let credentials = CredentialCommitment {
                account_id, bucket_name: Some(name), access_key_id, secret_access_key,
            };
            let bytes = credentials.encode().unwrap();
            prop_assert_eq!(CredentialCommitment::decode(&bytes).unwrap(), credentials);
        }

        #[test]
        fn any_bytes_after_a_mark_are_read_or_refused(
            mark in prop::sample::select(vec![PACKED, SEPARATED]),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let marked: Vec<u8> = std::iter::once(mark).chain(bytes).collect();
            // A panic would fail the test; what reads must have a usable name.
            if let Ok(read) = CredentialCommitment::decode(&marked) {
                prop_assert!(is_bucket_name(&read.bucket_name.unwrap()));
            }
        }

        #[test]
        fn what_is_written_reads_back(
            account_id in "[!-~]{1,32}", access_key_id in "[!-~]{1,32}",
            secret_access_key in "[!-~]{1,64}",
        ) {
            let credentials = CredentialCommitment {
                account_id, bucket_name: None, access_key_id, secret_access_key,
            };
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
