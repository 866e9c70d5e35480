//! Sends requests to an embedded network and bounds what comes back.

use std::error::Error;
use std::time::Duration;

use grail_protocol::ids::BlockHash;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::local::wire::{ErrorBody, JSON_BYTES_MAX, NETWORK_HEADER};
use crate::tls;

/// Time to connect on the same machine.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// Longest time without a byte of the answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Longest time for a small call.
pub(super) const CALL_TIME: Duration = Duration::from_secs(35);

/// Longest time for an object.
pub(super) const TRANSFER_TIME: Duration = Duration::from_secs(620);

/// Most memory taken on the word of a `content-length` header, bytes.
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// A connection pool to one embedded network; cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    base: String,
    genesis: BlockHash,
}

/// Why a request did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No answer.
    #[error("{0}; is `grail localnet` running?")]
    Unavailable(String),
    /// An answer that makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// The request was sent before, or not in its turn.
    #[error("nonce {expected} is due")]
    BadNonce {
        /// The nonce that is due.
        expected: u64,
    },
    /// The condition of a conditional put does not hold.
    #[error("the object is not the one that was to be replaced")]
    ConditionFailed,
    /// The object has another etag than the one asked for.
    #[error("object {0} was replaced while it was read")]
    Changed(String),
    /// The credentials do not allow this.
    #[error("access denied to {0}")]
    Denied(String),
    /// More bytes than allowed.
    #[error("{size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Bytes there are.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

impl Http {
    /// Returns a client of the network with the block 0 `genesis` at `base`, such as
    /// `http://127.0.0.1:9944`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the operating system refuses what a client needs.
    pub fn new(base: &str, genesis: BlockHash) -> Result<Self, ClientError> {
        tls::install_provider();
        let client = Client::builder()
            // A proxy from the environment cannot reach this machine's loopback.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIME)
            .read_timeout(SILENCE_MAX)
            .build()
            .map_err(|error| ClientError::Unavailable(innermost(&error)))?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), genesis })
    }

    /// Checks that the network that was meant answers.
    ///
    /// # Errors
    /// When nobody answers, or another network does.
    pub async fn ping(&self) -> Result<(), ClientError> {
        self.expect_json::<IgnoredAny>("/health").await.map(drop)
    }

    /// Returns the hash of the network's block 0.
    pub(super) fn genesis(&self) -> BlockHash {
        self.genesis
    }

    /// Starts a request; `path` begins with a slash and needs no escaping.
    pub(super) fn request(&self, method: Method, path: &str, time: Duration) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).timeout(time)
    }

    /// Returns the JSON at `path`, or `None` if the network says that it is not there.
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, ClientError> {
        self.send_for_json(self.request(Method::GET, path, CALL_TIME)).await
    }

    /// Sends `request` and returns the answer's JSON, or `None` for "not there".
    pub(super) async fn send_for_json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<Option<T>, ClientError> {
        match self.send(request).await? {
            Some(response) => self.read_json(response).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the JSON at `path`, which every network of ours has.
    pub(super) async fn expect_json<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, ClientError> {
        self.get_json(path).await?.ok_or_else(|| lacks(path))
    }

    /// Sends `request` and returns the good answer, or `None` for "not there".
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
    ) -> Result<Option<Response>, ClientError> {
        let response = request.send().await.map_err(|error| self.away(&error))?;
        let network = response.headers().get(NETWORK_HEADER).and_then(|value| value.to_str().ok());
        if network != Some(self.genesis.to_hex().as_str()) {
            let what = if network.is_some() { "another network" } else { "no network of ours" };
            return Err(ClientError::Malformed(format!(
                "{what} answers at {}; check the endpoint in network.json",
                self.base
            )));
        }
        match response.status() {
            status if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(self.refusal(status, response).await),
        }
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let bytes = read_bounded(self, response, JSON_BYTES_MAX).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Malformed(format!("not the expected JSON: {error}")))
    }

    /// Returns the error that a bad answer stands for.
    async fn refusal(&self, status: StatusCode, response: Response) -> ClientError {
        let bytes = match read_bounded(self, response, JSON_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        match serde_json::from_slice(&bytes) {
            Ok(ErrorBody::BadNonce { expected }) => ClientError::BadNonce { expected },
            Ok(ErrorBody::ConditionFailed) => ClientError::ConditionFailed,
            Ok(ErrorBody::Changed { key }) => ClientError::Changed(key),
            Ok(ErrorBody::Denied { message }) => ClientError::Denied(message),
            Ok(ErrorBody::TooLarge { size, limit }) => ClientError::TooLarge { size, limit },
            Ok(ErrorBody::Malformed { message } | ErrorBody::NotFound { message }) => {
                ClientError::Malformed(message)
            }
            Ok(ErrorBody::Unavailable { message }) => ClientError::Unavailable(message),
            // Answers to HEAD have no body; only the status tells.
            Err(_) if status == StatusCode::FORBIDDEN => ClientError::Denied("the bucket".into()),
            Err(_) if status.is_server_error() => {
                ClientError::Unavailable(format!("HTTP {status}"))
            }
            Err(_) => ClientError::Malformed(format!("HTTP {status} without an explanation")),
        }
    }

    /// Words a failed exchange; addresses in it never hold secrets.
    pub(super) fn away(&self, error: &reqwest::Error) -> ClientError {
        let what = if error.is_timeout() { "no answer in time".into() } else { innermost(error) };
        ClientError::Unavailable(format!("{}: {what}", self.base))
    }
}

/// Returns the bytes of `response`, at most `bytes_max`.
pub(super) async fn read_bounded(
    http: &Http,
    mut response: Response,
    bytes_max: u64,
) -> Result<Vec<u8>, ClientError> {
    let too_large = |size| ClientError::TooLarge { size, limit: bytes_max };
    let claimed = response.content_length();
    if let Some(size) = claimed.filter(|size| *size > bytes_max) {
        return Err(too_large(size));
    }
    // A claim is not yet a byte: beyond this much, memory is taken as bytes arrive.
    let reserve = claimed.unwrap_or(0).min(RESERVE_BYTES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(reserve).unwrap_or(0));
    while let Some(chunk) = response.chunk().await.map_err(|error| http.away(&error))? {
        let size = u64::try_from(bytes.len().saturating_add(chunk.len())).unwrap_or(u64::MAX);
        if size > bytes_max {
            return Err(too_large(size));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn lacks(path: &str) -> ClientError {
    ClientError::Malformed(format!("the network has no {path}; is it an older version?"))
}

/// Returns the last cause of `error`: the outer ones only repeat the address.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
