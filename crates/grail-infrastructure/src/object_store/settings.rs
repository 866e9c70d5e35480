//! Where the buckets are and how long to wait for them.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;

/// Where Cloudflare serves the buckets of an account.
const R2_ENDPOINT: &str = "https://{account}.r2.cloudflarestorage.com";

/// Stands for the account id in an endpoint.
const ACCOUNT_PLACE: &str = "{account}";

/// Smallest part of a multipart upload that S3 takes, bytes.
const PART_BYTES_MIN: u64 = 5 << 20;

/// Largest part that is held in memory at once, bytes.
const PART_BYTES_MAX: u64 = 1 << 30;

/// Longest bucket name, bytes. Source: S3's rules.
const BUCKET_NAME_BYTES_MAX: usize = 63;

/// Where the bucket's name stands in an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// `https://host/bucket/key`, which every server takes.
    #[default]
    Path,
    /// `https://bucket.host/key`.
    VirtualHost,
}

/// How an S3 server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// Address of the server, `{account}` standing for the account id; Cloudflare R2's if absent.
    pub endpoint: Option<String>,
    /// Region that requests are signed for: R2 takes `auto` and `us-east-1`.
    pub region: String,
    /// Where the bucket's name stands.
    pub addressing: Addressing,
    /// Whether an `http://` endpoint is allowed. Keys are never sent, only signatures, but everybody
    /// on the way can read and replace what is transferred.
    pub allow_http: bool,
    /// Most bytes a second in each direction, of all buckets together.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Size of the parts that larger objects are transferred in; equal for all parts but the last.
    pub part_bytes: u64,
    /// Objects up to this size are put in one request.
    pub single_put_bytes_max: u64,
    /// Most parts of one object on their way at once.
    pub parts_at_once: usize,
    /// How long to wait.
    pub patience: Patience,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "auto".to_owned(),
            addressing: Addressing::default(),
            allow_http: false,
            bandwidth_bytes_per_s: None,
            part_bytes: 16 << 20,
            single_put_bytes_max: 32 << 20,
            parts_at_once: 4,
            patience: Patience::default(),
        }
    }
}

/// How long an operation, its attempts and their pauses may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Longest time for a whole operation on an object without bytes, all attempts included.
    pub operation: Duration,
    /// Speed at which the time for an operation grows with the bytes to transfer.
    pub bytes_per_s_min: u64,
    /// Longest wait for one attempt's answer to begin.
    pub answer: Duration,
    /// Longest wait for the next bytes of an answer.
    pub silence: Duration,
    /// A read that has not begun to answer by then is asked for a second time.
    pub hedge_after: Duration,
    /// Most attempts without progress, at least 1.
    pub attempts: u32,
    /// Pause after the first failed attempt; doubled after each further one.
    pub delay: Duration,
    /// Longest pause.
    pub delay_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            operation: Duration::from_secs(60),
            bytes_per_s_min: 512 << 10,
            answer: Duration::from_secs(20),
            silence: Duration::from_secs(10),
            hedge_after: Duration::from_secs(2),
            attempts: 8,
            delay: Duration::from_millis(250),
            delay_max: Duration::from_secs(8),
        }
    }
}

/// Why a store cannot be used as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// No address.
    #[error("the store's endpoint `{endpoint}` {reason}; write one like `https://s3.example.com`")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An unencrypted connection that was not asked for.
    #[error(
        "the store's endpoint `{0}` is not encrypted; use https, or set store.allow_http to \
         true for a server on this machine"
    )]
    Unencrypted(String),
    /// A name that no bucket has.
    #[error(
        "bucket `{0}` cannot exist: names have 1 to 63 letters, digits, `-`, `.` and `_` and begin \
         with a letter or digit"
    )]
    BucketName(String),
    /// An account id that cannot stand in an address.
    #[error("account id `{0}` is not made of letters, digits and `-`; check the account id")]
    AccountId(String),
    /// A key id that cannot stand in a signature.
    #[error("the access key id is empty or has spaces, commas or slashes; check the credentials")]
    KeyId,
    /// A number out of range.
    #[error("{what} is {value}, expected {expected}")]
    Number {
        /// Which one.
        what: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        expected: &'static str,
    },
    /// The client cannot be made.
    #[error("cannot make a client for the store: {0}")]
    Client(String),
}

/// The address of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// What the client calls the endpoint: without the bucket for [`Addressing::Path`], with it for
    /// [`Addressing::VirtualHost`].
    pub(super) endpoint: String,
    /// Whether it is on this machine.
    pub(super) is_loopback: bool,
}

impl S3Settings {
    /// Checks what does not depend on a bucket.
    ///
    /// # Errors
    /// [`BadSettings`], which says what to write instead.
    pub fn check(&self) -> Result<(), BadSettings> {
        self.address("account", "bucket")?;
        let parts = |value, what| {
            if (PART_BYTES_MIN..=PART_BYTES_MAX).contains(&value) {
                return Ok(());
            }
            Err(BadSettings::Number { what, value, expected: "5 MiB to 1 GiB" })
        };
        parts(self.part_bytes, "the size of parts")?;
        if self.bandwidth_bytes_per_s == Some(0) || self.patience.bytes_per_s_min == 0 {
            let what = "the bandwidth";
            return Err(BadSettings::Number {
                what,
                value: 0,
                expected: "1 byte a second or more",
            });
        }
        if !(1..=64).contains(&self.parts_at_once) {
            let value = u64::try_from(self.parts_at_once).unwrap_or(u64::MAX);
            let what = "the number of parts at once";
            return Err(BadSettings::Number { what, value, expected: "1 to 64" });
        }
        Ok(())
    }

    /// Returns where the bucket of an account is.
    pub(super) fn address(&self, account_id: &str, bucket: &str) -> Result<Address, BadSettings> {
        check_bucket_name(bucket)?;
        let template = self.endpoint.as_deref().unwrap_or(R2_ENDPOINT);
        if template.contains(ACCOUNT_PLACE) && !is_label(account_id) {
            return Err(BadSettings::AccountId(shown(account_id)));
        }
        let written = template.replace(ACCOUNT_PLACE, account_id);
        let refuse = |reason: &dyn fmt::Display| BadSettings::Endpoint {
            endpoint: shown(&written),
            reason: reason.to_string(),
        };
        let url = Url::parse(&written).map_err(|error| refuse(&error))?;
        let host = url.host_str().ok_or_else(|| refuse(&"has no host"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return Err(BadSettings::Unencrypted(shown(&written))),
            _ => return Err(refuse(&"is neither https nor http")),
        }
        // Keys come from the environment or files; an address ends up in logs.
        if !url.username().is_empty() || url.password().is_some() {
            let endpoint = format!("{}://{host}", url.scheme());
            return Err(BadSettings::Endpoint { endpoint, reason: "has a user in it".to_owned() });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse(&"has a `?` or `#`"));
        }
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let is_loopback = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        let endpoint = match self.addressing {
            Addressing::Path => url.as_str().trim_end_matches('/').to_owned(),
            Addressing::VirtualHost if ip.is_some() || url.path() != "/" => {
                return Err(refuse(&"has no room for the bucket's name before the host"));
            }
            Addressing::VirtualHost => {
                let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
                format!("{}://{bucket}.{host}{port}", url.scheme())
            }
        };
        Ok(Address { endpoint, is_loopback })
    }
}

/// Checks the name of a bucket, which may come from a peer.
///
/// # Errors
/// [`BadSettings::BucketName`].
pub fn check_bucket_name(name: &str) -> Result<(), BadSettings> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_good = (1..=BUCKET_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.contains("..");
    if is_good { Ok(()) } else { Err(BadSettings::BucketName(shown(name))) }
}

/// Returns whether `text` can be one part of a host's name and nothing else.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns the beginning of `text`, made printable.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str) -> S3Settings {
        S3Settings { endpoint: Some(endpoint.to_owned()), ..S3Settings::default() }
    }

    fn address(settings: &S3Settings) -> Result<String, BadSettings> {
        settings.address("0a1b", "box").map(|address| address.endpoint)
    }

    #[test]
    fn addresses_follow_the_account_the_bucket_and_the_style() {
        let r2 = S3Settings::default();
        assert_eq!(address(&r2).unwrap(), "https://0a1b.r2.cloudflarestorage.com");
        let r2 = S3Settings { addressing: Addressing::VirtualHost, ..r2 };
        assert_eq!(address(&r2).unwrap(), "https://box.0a1b.r2.cloudflarestorage.com");
        assert_eq!(address(&at("https://s3.x.org/")).unwrap(), "https://s3.x.org");
        assert_eq!(address(&at("https://x.org/s3/")).unwrap(), "https://x.org/s3");
        assert_eq!(address(&at("https://{account}.x.org:8/")).unwrap(), "https://0a1b.x.org:8");
        let virtual_host =
            S3Settings { addressing: Addressing::VirtualHost, ..at("https://x.org:8") };
        assert_eq!(address(&virtual_host).unwrap(), "https://box.x.org:8");
    }

    #[test]
    fn https_is_the_default_and_http_has_to_be_asked_for() {
        let plain = at("http://127.0.0.1:9000");
        assert!(matches!(plain.check(), Err(BadSettings::Unencrypted(_))));
        let allowed = S3Settings { allow_http: true, ..plain };
        allowed.check().unwrap();
        assert!(allowed.address("a", "b").unwrap().is_loopback);
        assert!(!at("https://x.org").address("a", "b").unwrap().is_loopback);
    }

    #[test]
    fn addresses_that_could_mislead_are_refused() {
        for endpoint in [
            "",
            "x.org",
            "ftp://x.org",
            "https://",
            "https://user:secret@x.org",
            "https://x.org?a=b",
            "https://x.org/#a",
            "https://[::1",
            "https://x y",
        ] {
            let error = at(endpoint).check().unwrap_err();
            assert!(matches!(error, BadSettings::Endpoint { .. }), "{endpoint}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for endpoint in ["https://127.0.0.1", "https://[::1]:80", "https://x.org/path"] {
            let settings = S3Settings { addressing: Addressing::VirtualHost, ..at(endpoint) };
            assert!(settings.check().is_err(), "{endpoint}");
        }
        let r2 = S3Settings::default();
        for account in ["", "evil.org/", "a@b", "a.b", "ä"] {
            let refused = r2.address(account, "box");
            assert!(matches!(refused, Err(BadSettings::AccountId(_))), "{account}");
        }
        for bucket in ["", "a/b", "..", "a..b", ".a", "-a", "a b", "a?b", "ä", &"b".repeat(64)] {
            let refused = r2.address("0a1b", bucket);
            assert!(matches!(refused, Err(BadSettings::BucketName(_))), "{bucket}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_told() {
        let good = S3Settings::default();
        good.check().unwrap();
        for bad in [
            S3Settings { part_bytes: 1 << 20, ..good.clone() },
            S3Settings { parts_at_once: 0, ..good.clone() },
            S3Settings { bandwidth_bytes_per_s: Some(0), ..good.clone() },
        ] {
            assert!(matches!(bad.check(), Err(BadSettings::Number { .. })), "{bad:?}");
        }
    }
}
