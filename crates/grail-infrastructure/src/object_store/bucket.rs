//! One bucket on an S3 server, as the port sees it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::Request;
use bytes::Bytes;
use grail_ports::object_store::{
    FilePut, ObjectInfo, ObjectKey, ObjectStore, PutCondition, PutOutcome, StoreError,
};
use object_store::ObjectMeta;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::client::HttpRequestBody;
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path;
use object_store::signer::Signer as _;
use object_store::{ObjectStoreExt as _, RetryConfig};
use reqwest::Method;

use super::attempts::{Attempts, Deadline, answered};
use super::fault::{Fault, FaultKind};
use super::secrets::KeyPair;
use super::settings::{Addressing, BadSettings, S3Settings};
use super::throttle::Throttle;
use super::wire::Wire;
use crate::local::store::key::{ValidKey, check_prefix};

/// Most objects that one listing returns. Source: the port.
const LIST_MAX: usize = 10_000;

/// Objects that are asked for at once; no server gives more.
const PAGE_MAX: usize = 1_000;

/// Most pages that are asked for: a server that gives small or empty ones without end is left.
const PAGES_MAX: usize = 64;

/// Most heads at once for what a listing leaves out.
const HEADS_AT_ONCE: usize = 16;

/// How long the permission to make a bucket is good for.
const PERMISSION_TIME: Duration = Duration::from_secs(60);

/// What all buckets of one server share.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) settings: S3Settings,
    pub(super) wire: Wire,
    pub(super) attempts: Attempts,
    /// For what is received; what is sent is spaced by the wire.
    pub(super) throttle: Option<Arc<Throttle>>,
}

/// One bucket, with the rights of one key pair; cheap to clone.
#[derive(Clone, Debug)]
pub struct S3Store {
    pub(super) server: Arc<Server>,
    pub(super) client: Arc<AmazonS3>,
    pub(super) bucket: Arc<str>,
}

/// A key in the form of the S3 client.
pub(super) struct Location<'a> {
    pub(super) key: &'a str,
    pub(super) path: Path,
}

impl<'a> Location<'a> {
    pub(super) fn parse(key: &'a str) -> Result<Self, StoreError> {
        let valid = ValidKey::parse(key)?;
        let path = Path::parse(valid.as_str())
            .map_err(|error| StoreError::Malformed(error.to_string()))?;
        Ok(Self { key, path })
    }
}

impl S3Store {
    /// Opens a bucket; nothing is sent yet.
    pub(super) fn open(
        server: Arc<Server>,
        account_id: &str,
        bucket: &str,
        keys: &KeyPair,
    ) -> Result<Self, BadSettings> {
        let settings = &server.settings;
        let address = settings.address(account_id, bucket)?;
        let id = &keys.access_key_id;
        // It stands between slashes and commas in the signature's header.
        if id.is_empty()
            || !id.bytes().all(|byte| byte.is_ascii_graphic() && !b"/,".contains(&byte))
        {
            return Err(BadSettings::KeyId);
        }
        let client = AmazonS3Builder::new()
            .with_endpoint(address.endpoint)
            .with_virtual_hosted_style_request(settings.addressing == Addressing::VirtualHost)
            .with_allow_http(settings.allow_http)
            .with_region(&settings.region)
            .with_bucket_name(bucket)
            .with_access_key_id(id)
            .with_secret_access_key(keys.secret_access_key.as_str())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // R2 and small servers lack the request that deletes several.
            .with_disable_bulk_delete(true)
            .with_http_connector(server.wire.clone())
            // Attempts are made here, where one deadline bounds them all.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build()
            .map_err(|error| BadSettings::Client(error.to_string()))?;
        Ok(Self { client: Arc::new(client), bucket: bucket.into(), server })
    }

    /// Starts an operation on `bytes` bytes.
    pub(super) fn deadline(&self, bytes: u64) -> Deadline {
        Deadline::start(&self.server.settings.patience, bytes)
    }

    /// Makes one small request until it is answered. `again` says that it may be sent twice.
    pub(super) async fn ask<T, F>(
        &self,
        deadline: Deadline,
        request: impl Fn() -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let wait = self.server.settings.patience.answer;
        let once = || {
            let answer = request();
            answered(wait, async { answer.await.map_err(|error| Fault::of(&error)) })
        };
        self.server.attempts.run(deadline, once).await
    }

    /// Like [`S3Store::ask`], for reads: a slow one is sent a second time.
    pub(super) async fn ask_twice<T, F>(
        &self,
        deadline: Deadline,
        request: impl Fn() -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let Server { settings, attempts, .. } = &*self.server;
        let once = || {
            let answer = request();
            answered(settings.patience.answer, async {
                answer.await.map_err(|error| Fault::of(&error))
            })
        };
        attempts.run(deadline, || attempts.hedged(once)).await
    }

    pub(super) async fn describe(
        &self,
        location: &Location<'_>,
        deadline: Deadline,
    ) -> Result<Option<ObjectInfo>, Fault> {
        match self.ask_twice(deadline, || self.client.head(&location.path)).await {
            Ok(meta) => info(location.key, &meta).map(Some),
            Err(fault) if fault.kind == FaultKind::Absent => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn list_pages(&self, prefix: &str) -> Result<Vec<ObjectInfo>, Fault> {
        let deadline = self.deadline(0);
        let mut listed: Vec<ObjectMeta> = Vec::new();
        let mut page_token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = self
                .ask_twice(deadline, || {
                    let max_keys = Some(PAGE_MAX);
                    let page_token = page_token.clone();
                    let options = PaginatedListOptions {
                        max_keys,
                        page_token,
                        ..PaginatedListOptions::default()
                    };
                    let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
                    self.client.list_paginated(prefix, options)
                })
                .await?;
            for meta in &page.result.objects {
                let key = meta.location.as_ref();
                // Objects that others put by hand may have keys that are none here.
                if key.starts_with(prefix) && ValidKey::parse(key).is_ok() {
                    listed.push(meta.clone());
                }
            }
            page_token = page.page_token;
            if page_token.is_none() || listed.len() >= LIST_MAX {
                listed.sort_unstable_by(|a, b| a.location.cmp(&b.location));
                listed.dedup_by(|a, b| a.location == b.location);
                listed.truncate(LIST_MAX);
                return self.told(listed, deadline).await;
            }
        }
        let text = format!("a listing of more than {PAGES_MAX} pages");
        Err(Fault::new(FaultKind::Broken, text))
    }

    /// Returns what the port tells of listed objects; a head tells what a small server's listing
    /// leaves out.
    async fn told(
        &self,
        listed: Vec<ObjectMeta>,
        deadline: Deadline,
    ) -> Result<Vec<ObjectInfo>, Fault> {
        let mut told = Vec::with_capacity(listed.len());
        for metas in listed.chunks(HEADS_AT_ONCE) {
            let looks = metas.iter().map(|meta| async {
                if meta.e_tag.is_some() {
                    return info(meta.location.as_ref(), meta).map(Some);
                }
                let location =
                    Location { key: meta.location.as_ref(), path: meta.location.clone() };
                self.describe(&location, deadline).await
            });
            // An object that was deleted meanwhile is not listed.
            told.extend(futures::future::try_join_all(looks).await?.into_iter().flatten());
        }
        Ok(told)
    }

    /// Makes the bucket unless it is ours already.
    pub(super) async fn create(&self) -> Result<(), StoreError> {
        let region = self.server.settings.region.as_str();
        // S3 wants no word about the region that it takes for the usual one.
        let body = match region {
            "us-east-1" | "auto" => String::new(),
            _ => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        let send = async || {
            let top = Path::default();
            let signed = self.client.signed_url(Method::PUT, &top, PERMISSION_TIME);
            let url = signed.await.map_err(|error| Fault::of(&error))?;
            let request = Request::builder().method(Method::PUT).uri(url.as_str());
            let request = request
                .body(HttpRequestBody::from(body.clone()))
                .map_err(|error| Fault::new(FaultKind::Broken, error.to_string()))?;
            let answer = self.server.wire.send(request);
            answered(self.server.settings.patience.answer, answer).await
        };
        match self.server.attempts.run(self.deadline(0), send).await {
            Err(fault) if fault.kind == FaultKind::OwnBucket => Ok(()),
            outcome => outcome.map(drop).map_err(self.worded("")),
        }
    }

    async fn remove(&self, location: &Location<'_>) -> Result<(), Fault> {
        match self.ask(self.deadline(0), || self.client.delete(&location.path)).await {
            Err(fault) if fault.kind != FaultKind::Absent => Err(fault),
            _ => Ok(()),
        }
    }

    /// Words faults of an operation on `key` for the port.
    pub(super) fn worded(&self, key: &str) -> impl FnOnce(Fault) -> StoreError {
        let (bucket, key) = (Arc::clone(&self.bucket), key.to_owned());
        move |fault| fault.into_store_error(&bucket, &key)
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.download(&Location::parse(key)?, bytes_max).await
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let location = Location::parse(key)?;
        self.download_range(&location, range, etag).await.map_err(self.worded(key))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let location = Location::parse(key)?;
        self.describe(&location, self.deadline(0)).await.map_err(self.worded(key))
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.upload(&Location::parse(key)?, bytes).await.map_err(self.worded(key))
    }

    async fn put_file(
        &self,
        key: &ObjectKey,
        file: &std::path::Path,
    ) -> Result<FilePut, StoreError> {
        self.upload_file(&Location::parse(key)?, file).await.map_err(self.worded(key))
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        let location = Location::parse(key)?;
        self.upload_if(&location, bytes, condition).await.map_err(self.worded(key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        self.list_pages(prefix).await.map_err(self.worded(prefix))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let location = Location::parse(key)?;
        self.remove(&location).await.map_err(self.worded(key))
    }
}

/// Returns what the port tells of an object.
fn info(key: &str, meta: &ObjectMeta) -> Result<ObjectInfo, Fault> {
    // Listings have milliseconds, heads whole seconds; both must agree.
    let last_modified_ms = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0) * 1_000;
    Ok(ObjectInfo {
        key: key.to_owned(),
        size: meta.size,
        last_modified_ms,
        etag: etag_of(meta)?.to_owned(),
    })
}

/// Returns the etag without the quotes that it has on the wire.
pub(super) fn etag_of(meta: &ObjectMeta) -> Result<&str, Fault> {
    let etag = meta.e_tag.as_deref().map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    etag.filter(|etag| !etag.is_empty())
        .ok_or_else(|| Fault::new(FaultKind::Broken, "the answer has no etag"))
}
