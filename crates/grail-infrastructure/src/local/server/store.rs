//! The store's pages. Reads show a key; changes show the write key and the owner's signature.

use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, put};
use bytes::BytesMut;
use futures::StreamExt as _;
use grail_ports::object_store::{ObjectInfo, PutCondition, PutOutcome, StoreError};
use grail_protocol::ids::{Digest, Hotkey, Signature};
use grail_protocol::signature::verify;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;
use zeroize::Zeroizing;

use super::reply::{Reply, blocking};
use super::{App, Shared};
use crate::local::store::credentials::{AccessKey, BucketGrant, account_id};
use crate::local::store::{Incoming, OpenObject};
use crate::local::wire::{
    AUTH_SCHEME, ErrorBody, IF_ABSENT_HEADER, IF_ETAG_HEADER, MODIFIED_HEADER, NONCE_HEADER,
    ObjectJson, RANGE_HEADER, SHA256_HEADER, SIGNATURE_HEADER, SIZE_HEADER, StoreChange,
    put_method,
};
use crate::source::PIECE_BYTES;

/// Largest description of a new bucket, bytes.
const GRANT_BYTES_MAX: usize = 4096;

/// Bytes that a download reads from the disk at once.
const CHUNK_BYTES: usize = 256 << 10;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/store/{bucket}", get(list).put(create))
        .route("/store/{bucket}/{*key}", put(upload).get(download).head(describe).delete(remove))
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
}

async fn list(
    State(app): App,
    Path(bucket): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Json<Vec<ObjectJson>>, Reply> {
    let access = access_key(bucket, &headers)?;
    let listed = blocking(move || app.store.list(&access, &query.prefix)).await?;
    Ok(Json(listed.into_iter().map(ObjectJson::from).collect()))
}

async fn describe(
    State(app): App,
    Path((bucket, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Reply> {
    let access = access_key(bucket, &headers)?;
    let info = blocking(move || app.store.head(&access, &key)).await?;
    let info = info.ok_or_else(|| Reply::not_found("no such object"))?;
    Ok(object_headers(&info).into_response())
}

async fn download(
    State(app): App,
    Path((bucket, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Reply> {
    let access = access_key(bucket, &headers)?;
    let (wanted, etag) = (wanted_range(&headers)?, optional(&headers, IF_ETAG_HEADER)?);
    let opened = blocking(move || -> Result<_, StoreError> {
        let Some(mut object) = app.store.open_object(&access, &key)? else { return Ok(None) };
        let range = object.narrow(&wanted, etag.as_deref())?;
        Ok(Some((object, range)))
    })
    .await?;
    let (OpenObject { info, file }, range) =
        opened.ok_or_else(|| Reply::not_found("no such object"))?;
    let file = tokio::fs::File::from_std(file);
    let length = range.end - range.start;
    let mut headers = object_headers(&info);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK_BYTES));
    Ok((headers, body).into_response())
}

async fn upload(
    State(app): App,
    Path((bucket, key)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Reply> {
    // Who may not write is turned away before a byte of the body is read.
    let condition = condition(&headers)?;
    let method = put_method(condition.as_ref());
    let (access, nonce, sha256) = signed_change(&app, &method, bucket, &key, &headers).await?;
    let limit = app.store.limits().object_bytes_max;
    let claimed = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(size) = claimed.filter(|size| *size > limit) {
        return Err(Reply(ErrorBody::TooLarge { size, limit }));
    }
    let _turn = app.uploads.acquire().await.map_err(Reply::unavailable)?;
    let store = Arc::clone(&app.store);
    let incoming = receive(blocking(move || store.begin(&access, &key)).await?, body).await?;
    let store = Arc::clone(&app.store);
    blocking(move || {
        if incoming.sha256() != sha256 {
            return Err(Reply::malformed("the body is not the one that was signed"));
        }
        match store.commit(incoming, Some(nonce), condition.as_ref())? {
            PutOutcome::Written => Ok(()),
            PutOutcome::ConditionFailed => Err(Reply(ErrorBody::ConditionFailed)),
        }
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes a body to the disk as it comes.
async fn receive(mut incoming: Incoming, body: Body) -> Result<Incoming, Reply> {
    let mut chunks = body.into_data_stream();
    let mut is_over = false;
    while !is_over {
        // Many small chunks for one way to the disk.
        let mut piece = BytesMut::new();
        while piece.len() < PIECE_BYTES {
            let Some(chunk) = chunks.next().await else {
                is_over = true;
                break;
            };
            piece.extend_from_slice(&chunk.map_err(|_| Reply::malformed("the body broke off"))?);
        }
        incoming = blocking(move || -> Result<_, StoreError> {
            incoming.write(&piece)?;
            Ok(incoming)
        })
        .await?;
    }
    Ok(incoming)
}

async fn remove(
    State(app): App,
    Path((bucket, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Reply> {
    let (access, nonce, _) = signed_change(&app, "DELETE", bucket, &key, &headers).await?;
    let store = Arc::clone(&app.store);
    blocking(move || store.delete(&access, &key, Some(nonce))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes the bucket of a registered hotkey. There is one bucket a hotkey, and its name follows from
/// the hotkey, so a replayed request makes nothing new.
async fn create(
    State(app): App,
    Path(bucket): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Reply> {
    let bytes = to_bytes(body, GRANT_BYTES_MAX)
        .await
        .map_err(|_| Reply::malformed("the description of the bucket is too large"))?;
    let grant: BucketGrant = serde_json::from_slice(&bytes)
        .map_err(|error| Reply::malformed(format!("not the description of a bucket: {error}")))?;
    let change = StoreChange {
        genesis: app.chain.genesis(),
        method: "CREATE",
        bucket: &bucket,
        key: "",
        nonce: 0,
        body_sha256: Digest::of(&bytes),
    };
    check_signature(grant.owner, &change, &headers)?;
    if bucket != account_id(grant.owner) {
        return Err(Reply::malformed("the bucket's name does not follow from the hotkey"));
    }
    if app.chain.uid(grant.owner).is_none() {
        return Err(Reply::denied("a bucket; register the hotkey first"));
    }
    blocking(move || app.store.create_bucket(&grant)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the key, the nonce and the body's hash of a change that the bucket's owner signed.
async fn signed_change(
    app: &Arc<Shared>,
    method: &str,
    bucket: String,
    key: &str,
    headers: &HeaderMap,
) -> Result<(AccessKey, u64, Digest), Reply> {
    let access = access_key(bucket, headers)?;
    let (store, checked) = (Arc::clone(&app.store), access.clone());
    let owner = blocking(move || {
        store.check_write(&checked)?;
        store.owner(&checked.account_id)
    })
    .await?;
    let owner = owner.ok_or_else(|| Reply::denied("the bucket"))?;
    let nonce = header(headers, NONCE_HEADER)?
        .parse()
        .map_err(|_| Reply::malformed("the nonce is no decimal number"))?;
    let body_sha256 = header(headers, SHA256_HEADER)?
        .parse()
        .map_err(|_| Reply::malformed("the body's hash is not 64 hexadecimal digits"))?;
    let change = StoreChange {
        genesis: app.chain.genesis(),
        method,
        bucket: &access.account_id,
        key,
        nonce,
        body_sha256,
    };
    check_signature(owner, &change, headers)?;
    Ok((access, nonce, body_sha256))
}

fn check_signature(
    owner: Hotkey,
    change: &StoreChange<'_>,
    headers: &HeaderMap,
) -> Result<(), Reply> {
    let signature = Signature::try_from(header(headers, SIGNATURE_HEADER)?.to_owned())
        .map_err(|error| Reply::malformed(error.to_string()))?;
    verify(owner, &change.payload(), &signature)
        .map_err(|_| Reply::denied("the bucket: the request is not signed by its owner"))
}

fn access_key(bucket: String, headers: &HeaderMap) -> Result<AccessKey, Reply> {
    let refuse = || Reply::denied("the bucket: the request shows no key");
    let shown = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix(AUTH_SCHEME))
        .ok_or_else(refuse)?;
    let (access_key_id, secret) = shown.split_once(':').ok_or_else(refuse)?;
    Ok(AccessKey {
        account_id: bucket,
        access_key_id: access_key_id.to_owned(),
        secret_access_key: Zeroizing::new(secret.to_owned()),
    })
}

/// Returns the bytes of the object that are wanted: all of them without a header.
fn wanted_range(headers: &HeaderMap) -> Result<Range<u64>, Reply> {
    let Some(text) = optional(headers, RANGE_HEADER)? else { return Ok(0..u64::MAX) };
    let bounds = text.split_once('-').and_then(|(start, end)| {
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        (start <= end).then_some(start..end)
    });
    bounds.ok_or_else(|| Reply::malformed(format!("{RANGE_HEADER} is no `start-end`")))
}

fn condition(headers: &HeaderMap) -> Result<Option<PutCondition>, Reply> {
    if headers.contains_key(IF_ABSENT_HEADER) {
        return Ok(Some(PutCondition::Absent));
    }
    Ok(optional(headers, IF_ETAG_HEADER)?.map(PutCondition::Etag))
}

fn optional(headers: &HeaderMap, name: &str) -> Result<Option<String>, Reply> {
    headers.contains_key(name).then(|| header(headers, name).map(str::to_owned)).transpose()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Reply> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| Reply::malformed(format!("header {name} is missing or not text")))
}

fn object_headers(info: &ObjectInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SIZE_HEADER, HeaderValue::from(info.size));
    headers.insert(MODIFIED_HEADER, HeaderValue::from(info.last_modified_ms));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", info.etag)) {
        headers.insert(ETAG, etag);
    }
    headers
}
