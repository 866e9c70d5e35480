//! The object-store port over HTTP.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::try_unfold;
use grail_ports::object_store::{
    Buckets, FilePut, ObjectInfo, ObjectKey, ObjectStore, PutCondition, PutOutcome,
    ReadCredentials, StoreError,
};
use grail_ports::signer::Signer;
use grail_protocol::ids::Digest;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue};
use reqwest::{Body, Method, RequestBuilder};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::http::{CALL_TIME, ClientError, Http, TRANSFER_TIME, read_bounded};
use crate::local::store::credentials::{AccessKey, BucketKeys, is_well_formed};
use crate::local::store::foreign_credentials;
use crate::local::store::key::{ValidKey, check_prefix};
use crate::local::wire::{
    AUTH_SCHEME, IF_ABSENT_HEADER, IF_ETAG_HEADER, MODIFIED_HEADER, NONCE_HEADER, ObjectJson,
    RANGE_HEADER, SHA256_HEADER, SIGNATURE_HEADER, SIZE_HEADER, StoreChange, put_method,
};
use crate::source::{BadFile, FileSource, PIECE_BYTES};

/// Most times that a change is signed anew because another request took its nonce.
const SIGNINGS_MAX: u32 = 8;

/// The buckets of an embedded store in another process.
pub struct HttpBuckets {
    http: Http,
    keys: BucketKeys,
    writer: Arc<Writer>,
}

/// The owner's side of a bucket. Changes go one after the other, each with the next nonce.
struct Writer {
    signer: Arc<dyn Signer>,
    next_nonce: Mutex<u64>,
}

/// One bucket, with the rights of one key.
struct HttpBucket {
    http: Http,
    access: AccessKey,
    writer: Option<Arc<Writer>>,
}

impl HttpBuckets {
    /// Returns the buckets as the holder of `keys` and `signer` sees them.
    pub fn new(http: Http, keys: BucketKeys, signer: Arc<dyn Signer>) -> Self {
        // The store says which nonce is due if it is not the first.
        let writer = Arc::new(Writer { signer, next_nonce: Mutex::new(0) });
        Self { http, keys, writer }
    }
}

impl Buckets for HttpBuckets {
    fn own(&self) -> Arc<dyn ObjectStore> {
        Arc::new(HttpBucket {
            http: self.http.clone(),
            access: AccessKey::from(&self.keys.write),
            writer: Some(Arc::clone(&self.writer)),
        })
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.keys.read.clone()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let access = AccessKey::from(credentials);
        if !is_well_formed(&access) {
            return Err(foreign_credentials());
        }
        Ok(Arc::new(HttpBucket { http: self.http.clone(), access, writer: None }))
    }
}

/// Makes the bucket of `keys` for `signer`'s registered hotkey; doing so again is no error.
///
/// # Errors
/// [`ClientError::Denied`] when the hotkey is not registered, or the bucket has other keys.
pub async fn create_bucket(
    http: &Http,
    keys: &BucketKeys,
    signer: &dyn Signer,
) -> Result<(), ClientError> {
    let body = serde_json::to_vec(&keys.grant()).expect("strings are valid JSON");
    let bucket = keys.write.account_id.as_str();
    let change = StoreChange {
        genesis: http.genesis(),
        method: "CREATE",
        bucket,
        key: "",
        nonce: 0,
        body_sha256: Digest::of(&body),
    };
    let signature = String::from(signer.sign(&change.payload()));
    let request = http
        .request(Method::PUT, &format!("/store/{bucket}"), CALL_TIME)
        .header(SIGNATURE_HEADER, signature)
        .body(body);
    http.send(request).await?;
    Ok(())
}

impl HttpBucket {
    fn request(&self, method: Method, path: &str, access: &AccessKey) -> RequestBuilder {
        let shown = Zeroizing::new(format!(
            "{AUTH_SCHEME}{}:{}",
            access.access_key_id, *access.secret_access_key
        ));
        let request = self.http.request(method, path, TRANSFER_TIME);
        match HeaderValue::from_str(&shown) {
            Ok(mut value) => {
                value.set_sensitive(true);
                request.header(AUTHORIZATION, value)
            }
            // Cannot happen with well-formed keys; without the header the server denies access.
            Err(_) => request,
        }
    }

    fn object_path(&self, key: ValidKey<'_>) -> String {
        format!("/store/{}/{}", self.access.account_id, key.as_str())
    }

    /// Sends a change with `content`, signed; returns the content's SHA-256 as well.
    async fn change(
        &self,
        method: Method,
        key: &ObjectKey,
        content: Content<'_>,
        condition: Option<&PutCondition>,
    ) -> Result<(PutOutcome, FilePut), StoreError> {
        let valid = ValidKey::parse(key)?;
        let denied = || StoreError::Denied(format!("bucket {}", self.access.account_id));
        let writer = self.writer.as_ref().ok_or_else(denied)?;
        let signed = content.measure().await?;
        let signed_method = match method {
            Method::PUT => put_method(condition),
            _ => method.as_str().to_owned(),
        };
        let mut next_nonce = writer.next_nonce.lock().await;
        let mut signings = 0;
        loop {
            let change = StoreChange {
                genesis: self.http.genesis(),
                method: &signed_method,
                bucket: &self.access.account_id,
                key,
                nonce: *next_nonce,
                body_sha256: signed.sha256,
            };
            let signature = String::from(writer.signer.sign(&change.payload()));
            let (body, fault) = content.body(signed).await?;
            let request = self
                .request(method.clone(), &self.object_path(valid), &self.access)
                .header(NONCE_HEADER, *next_nonce)
                .header(SHA256_HEADER, signed.sha256.to_hex())
                .header(SIGNATURE_HEADER, signature)
                .header(CONTENT_LENGTH, signed.size)
                .body(body);
            let request = match condition {
                None => request,
                Some(PutCondition::Absent) => request.header(IF_ABSENT_HEADER, "1"),
                Some(PutCondition::Etag(etag)) => request.header(IF_ETAG_HEADER, etag),
            };
            signings += 1;
            let answer = self.http.send(request).await;
            // Whatever became of the request: this is why.
            if let Some(bad) = fault.get() {
                return Err(bad.clone().into());
            }
            match answer {
                Ok(_) => {
                    *next_nonce = next_nonce.saturating_add(1);
                    return Ok((PutOutcome::Written, signed));
                }
                Err(ClientError::ConditionFailed) => {
                    return Ok((PutOutcome::ConditionFailed, signed));
                }
                Err(ClientError::BadNonce { expected }) if signings < SIGNINGS_MAX => {
                    *next_nonce = expected;
                }
                Err(error) => return Err(store_error(key)(error)),
            }
        }
    }
}

/// What a request carries.
enum Content<'a> {
    Memory(Bytes),
    /// Read twice: its hash is signed before the first byte is sent.
    File(&'a Path),
}

/// Where a body that cannot be sent to its end says why.
type Fault = Arc<OnceLock<BadFile>>;

impl Content<'_> {
    /// Returns the size and the SHA-256.
    async fn measure(&self) -> Result<FilePut, StoreError> {
        match self {
            // A checkpoint takes a second to hash.
            Self::Memory(bytes) => {
                let bytes = bytes.clone();
                let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                from_file(move || Ok(FilePut { size, sha256: Digest::of(&bytes) })).await
            }
            Self::File(path) => {
                let path = path.to_path_buf();
                from_file(move || FileSource::open(&path)?.skim()).await
            }
        }
    }

    /// Returns a body with the bytes that were measured, or with fewer when they are no longer the
    /// same.
    async fn body(&self, measured: FilePut) -> Result<(Body, Fault), StoreError> {
        let fault = Fault::default();
        let path = match self {
            Self::Memory(bytes) => return Ok((Body::from(bytes.clone()), fault)),
            Self::File(path) => path.to_path_buf(),
        };
        let source = from_file(move || FileSource::open(&path)).await?;
        if source.size() != measured.size {
            return Err(source.changed("it has another size").into());
        }
        let told = Arc::clone(&fault);
        let pieces = try_unfold(source, move |source| {
            let told = Arc::clone(&told);
            async move {
                let read = spawn_blocking(move || next_piece(source, measured)).await;
                read.map_err(io::Error::other)?.map_err(|bad| {
                    let text = bad.to_string();
                    // The first one is the cause.
                    drop(told.set(bad));
                    io::Error::other(text)
                })
            }
        });
        Ok((Body::wrap_stream(pieces), fault))
    }
}

/// Returns the next piece of a file; the last one only if all are those that were measured.
fn next_piece(
    mut source: FileSource,
    measured: FilePut,
) -> Result<Option<(Bytes, FileSource)>, BadFile> {
    if source.left() == 0 {
        return Ok(None);
    }
    let piece = source.next(PIECE_BYTES)?;
    if source.left() == 0 && source.finish()? != measured {
        return Err(source.changed("it has other bytes"));
    }
    Ok(Some((piece, source)))
}

/// Runs `read` where it may wait for the disk.
async fn from_file<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, BadFile> + Send + 'static,
) -> Result<T, StoreError> {
    let read = spawn_blocking(read).await;
    Ok(read.map_err(|error| StoreError::Unavailable(error.to_string()))??)
}

#[async_trait]
impl ObjectStore for HttpBucket {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let valid = ValidKey::parse(key)?;
        let request = self.request(Method::GET, &self.object_path(valid), &self.access);
        let Some(response) = self.http.send(request).await.map_err(store_error(key))? else {
            return Ok(None);
        };
        let size = number(response.headers(), SIZE_HEADER)?;
        let bytes =
            read_bounded(&self.http, response, bytes_max).await.map_err(store_error(key))?;
        if u64::try_from(bytes.len()) != Ok(size) {
            return Err(StoreError::Unavailable("the answer broke off".into()));
        }
        Ok(Some(bytes.into()))
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let valid = ValidKey::parse(key)?;
        let (start, end) = (range.start.min(range.end), range.end);
        let mut request = self
            .request(Method::GET, &self.object_path(valid), &self.access)
            .header(RANGE_HEADER, format!("{start}-{end}"));
        if let Some(etag) = etag {
            request = request.header(IF_ETAG_HEADER, etag);
        }
        let Some(response) = self.http.send(request).await.map_err(store_error(key))? else {
            return Ok(None);
        };
        let size = number(response.headers(), SIZE_HEADER)?;
        let bytes =
            read_bounded(&self.http, response, end - start).await.map_err(store_error(key))?;
        if u64::try_from(bytes.len()) != Ok(end.min(size).saturating_sub(start)) {
            return Err(StoreError::Unavailable("the answer broke off".into()));
        }
        Ok(Some(bytes.into()))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let valid = ValidKey::parse(key)?;
        let request = self.request(Method::HEAD, &self.object_path(valid), &self.access);
        let response = self.http.send(request).await.map_err(store_error(key))?;
        response.map(|response| object_info(key, response.headers())).transpose()
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.change(Method::PUT, key, Content::Memory(bytes), None).await.map(drop)
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        self.change(Method::PUT, key, Content::File(file), None).await.map(|(_, put)| put)
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        let content = Content::Memory(bytes);
        self.change(Method::PUT, key, content, Some(condition)).await.map(|(outcome, _)| outcome)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        let path = format!("/store/{}?prefix={}", self.access.account_id, prefix);
        let request = self.request(Method::GET, &path, &self.access);
        let listed: Option<Vec<ObjectJson>> =
            self.http.send_for_json(request).await.map_err(store_error(prefix))?;
        let listed = listed.ok_or_else(|| StoreError::Malformed("listings are missing".into()))?;
        Ok(listed.into_iter().map(ObjectInfo::from).collect())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.change(Method::DELETE, key, Content::Memory(Bytes::new()), None).await.map(drop)
    }
}

fn object_info(key: &str, headers: &HeaderMap) -> Result<ObjectInfo, StoreError> {
    let etag = headers.get(ETAG).and_then(|value| value.to_str().ok());
    let etag = etag.ok_or_else(|| StoreError::Malformed("the answer has no etag".into()))?;
    Ok(ObjectInfo {
        key: key.to_owned(),
        size: number(headers, SIZE_HEADER)?,
        last_modified_ms: number(headers, MODIFIED_HEADER)?,
        etag: etag.trim_matches('"').to_owned(),
    })
}

fn number(headers: &HeaderMap, name: &str) -> Result<u64, StoreError> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| StoreError::Malformed(format!("the answer has no valid header {name}")))
}

/// Words a client's error for the port.
fn store_error(key: &str) -> impl Fn(ClientError) -> StoreError {
    move |error| match error {
        ClientError::Unavailable(reason) => StoreError::Unavailable(reason),
        ClientError::Denied(message) => StoreError::Denied(message),
        ClientError::Changed(key) => StoreError::Changed(key),
        ClientError::TooLarge { size, limit } => {
            StoreError::TooLarge { key: key.to_owned(), size, limit }
        }
        ClientError::BadNonce { expected } => StoreError::Unavailable(format!(
            "another process writes to the same bucket; nonce {expected} is due"
        )),
        other => StoreError::Malformed(other.to_string()),
    }
}
