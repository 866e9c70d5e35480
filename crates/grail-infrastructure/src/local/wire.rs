//! What the embedded network's server and its clients say to each other: JSON over HTTP.

use grail_ports::object_store::{ObjectInfo, PutCondition};
use grail_protocol::ids::{BlockHash, Digest};
use serde::{Deserialize, Serialize};

/// Header with the genesis hash, on every answer: a client knows at once that it speaks to another
/// network, or to no network at all.
pub(crate) const NETWORK_HEADER: &str = "x-grail-network";
/// Header with the number that makes a change unrepeatable.
pub(crate) const NONCE_HEADER: &str = "x-grail-nonce";
/// Header with the owner's signature over a change.
pub(crate) const SIGNATURE_HEADER: &str = "x-grail-signature";
/// Header with the SHA-256 of the body, which the signature covers.
pub(crate) const SHA256_HEADER: &str = "x-grail-sha256";
/// Header with the size of an object, bytes.
pub(crate) const SIZE_HEADER: &str = "x-grail-size";
/// Header with the time of an object, milliseconds since the Unix epoch.
pub(crate) const MODIFIED_HEADER: &str = "x-grail-modified-ms";
/// Header with the bytes of an object that are wanted: `<start>-<end>`, half-open.
pub(crate) const RANGE_HEADER: &str = "x-grail-range";
/// Header with the etag that the object must have.
pub(crate) const IF_ETAG_HEADER: &str = "x-grail-if-etag";
/// Header that says that no object may be there; its value does not matter.
pub(crate) const IF_ABSENT_HEADER: &str = "x-grail-if-absent";
/// Scheme of the `authorization` header: `Grail <key id>:<secret>`.
pub(crate) const AUTH_SCHEME: &str = "Grail ";

/// Largest JSON answer that a client reads, bytes; a full listing has less than half.
pub(crate) const JSON_BYTES_MAX: u64 = 16 << 20;

/// What a refused request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub(crate) enum ErrorBody {
    BadNonce { expected: u64 },
    ConditionFailed,
    Changed { key: String },
    Denied { message: String },
    TooLarge { size: u64, limit: u64 },
    Malformed { message: String },
    NotFound { message: String },
    Unavailable { message: String },
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectJson {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) last_modified_ms: u64,
    pub(crate) etag: String,
}

impl From<ObjectInfo> for ObjectJson {
    fn from(info: ObjectInfo) -> Self {
        let ObjectInfo { key, size, last_modified_ms, etag } = info;
        Self { key, size, last_modified_ms, etag }
    }
}

impl From<ObjectJson> for ObjectInfo {
    fn from(json: ObjectJson) -> Self {
        let ObjectJson { key, size, last_modified_ms, etag } = json;
        Self { key, size, last_modified_ms, etag }
    }
}

/// A change of a bucket, as its owner signs it.
pub(crate) struct StoreChange<'a> {
    pub(crate) genesis: BlockHash,
    /// `PUT`, `DELETE`, or `CREATE` for a new bucket; with the condition of a conditional put.
    pub(crate) method: &'a str,
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    pub(crate) nonce: u64,
    pub(crate) body_sha256: Digest,
}

impl StoreChange<'_> {
    /// Returns the bytes to sign: domain, genesis hash, length-prefixed texts, nonce, body's hash.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut bytes = b"grail/v6/local-store-change\0".to_vec();
        bytes.extend_from_slice(&self.genesis.0);
        for text in [self.method, self.bucket, self.key] {
            bytes.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&self.nonce.to_le_bytes());
        bytes.extend_from_slice(&self.body_sha256.0);
        bytes
    }
}

/// Returns the method of a put as its owner signs it.
pub(crate) fn put_method(condition: Option<&PutCondition>) -> String {
    match condition {
        None => "PUT".to_owned(),
        Some(PutCondition::Absent) => "PUT if absent".to_owned(),
        Some(PutCondition::Etag(etag)) => format!("PUT if {etag:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_change_is_signed() {
        let change = |method, bucket, key, nonce, body| {
            let genesis = Digest([1; 32]);
            let body_sha256 = Digest::of(body);
            StoreChange { genesis, method, bucket, key, nonce, body_sha256 }.payload()
        };
        let good = change("PUT", "ab", "c", 1, b"x");
        for other in [
            change("DELETE", "ab", "c", 1, b"x"),
            change("PUT", "a", "bc", 1, b"x"),
            change("PUT", "ab", "d", 1, b"x"),
            change("PUT", "ab", "c", 2, b"x"),
            change("PUT", "ab", "c", 1, b"y"),
        ] {
            assert_ne!(other, good);
        }
    }
}
