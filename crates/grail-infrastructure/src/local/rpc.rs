//! Serves the local chain as a node of the real one: JSON-RPC 2.0 over WebSocket and HTTP, with the
//! real metadata, so that the same clients talk to both.
//!
//! It is a development chain: it says so by its name, and nothing on it has a value.

mod apis;
mod calls;
mod error;
mod faults;
mod methods;
#[cfg(test)]
mod records;
#[cfg(test)]
mod replay;
mod runtime;
mod socket;
mod storage;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use grail_protocol::ids::BlockHash;
use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;

pub use self::error::RpcError;
pub use self::faults::{Fault, Faults};
pub use self::runtime::Runtime;
use self::storage::Storage;
use super::chain::LocalChain;
use super::chain::recent::SealedBlock;

/// Largest message that a client may send. Source: the real node's `--rpc-max-request-size`.
const MESSAGE_BYTES_MAX: usize = 15 << 20;

/// Most requests in one message.
const BATCH_MAX: usize = 256;

/// Most connections by WebSocket at once.
const SOCKETS_MAX: usize = 128;

/// Most blocks whose storage is kept in its encoding.
const STORAGES_MAX: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

/// What everybody who starts or joins such a chain is told.
pub const DEVELOPMENT_NOTICE: &str = "this is a development chain: nothing on it has a value";

/// A node of the local chain.
pub struct Node {
    chain: Arc<LocalChain>,
    runtime: RwLock<Arc<Runtime>>,
    faults: Faults,
    storages: Mutex<Vec<(BlockHash, Arc<Storage>)>>,
    sockets: Arc<Semaphore>,
}

impl Node {
    /// Returns a node of `chain` with `runtime`, see [`Runtime::for_chain`].
    pub fn new(chain: Arc<LocalChain>, runtime: Arc<Runtime>) -> Arc<Self> {
        let runtime = fitted(runtime, &chain);
        let (network, netuid) = (&chain.rules().network, chain.rules().netuid.0);
        tracing::info!(%network, netuid, "{DEVELOPMENT_NOTICE}");
        Arc::new(Self {
            chain,
            runtime: RwLock::new(runtime),
            faults: Faults::default(),
            storages: Mutex::new(Vec::new()),
            sockets: Arc::new(Semaphore::new(SOCKETS_MAX)),
        })
    }

    /// Returns the switches that make this node misbehave.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Changes the runtime, as an upgrade does.
    pub fn upgrade(&self, runtime: Arc<Runtime>) {
        let runtime = fitted(runtime, &self.chain);
        *self.runtime.write().unwrap_or_else(PoisonError::into_inner) = runtime;
        self.storages.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns the page `/` of the node, for WebSocket and HTTP.
    pub fn routes(self: &Arc<Self>) -> Router {
        Router::new().route("/", get(socket::upgrade).post(post)).with_state(Arc::clone(self))
    }

    fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the storage after `block` in its encoding.
    fn storage(&self, block: &SealedBlock) -> Arc<Storage> {
        let mut kept = self.storages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, storage)) = kept.iter().find(|(hash, _)| *hash == block.row.hash) {
            return Arc::clone(storage);
        }
        let runtime = self.runtime();
        let storage = Arc::new(storage::storage(&runtime.metadata, self.chain.rules(), block));
        if kept.len() >= STORAGES_MAX.get() {
            kept.remove(0);
        }
        kept.push((block.row.hash, Arc::clone(&storage)));
        storage
    }
}

/// Returns `runtime` as `chain` has it.
fn fitted(runtime: Arc<Runtime>, chain: &LocalChain) -> Arc<Runtime> {
    let block_time_ms = chain.rules().block_time_ms;
    Arc::clone(&runtime).for_chain(block_time_ms).unwrap_or(runtime)
}

/// Answers requests by HTTP.
async fn post(State(node): State<Arc<Node>>, body: Body) -> Response {
    let Ok(bytes) = to_bytes(body, MESSAGE_BYTES_MAX).await else {
        return axum::http::StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    match answer(&node, &bytes).await {
        Some(answer) => axum::Json(answer).into_response(),
        None => axum::http::StatusCode::NO_CONTENT.into_response(),
    }
}

/// Answers a message without subscriptions, or not at all if it is a notification or a fault says
/// so.
async fn answer(node: &Arc<Node>, bytes: &[u8]) -> Option<Json> {
    let requests = match parse(bytes) {
        Ok(requests) => requests,
        Err(error) => return Some(failure(&Json::Null, &error)),
    };
    let (requests, is_batch) = requests;
    let mut answers = Vec::new();
    for request in requests {
        let (id, method, params) = match read(&request) {
            Ok(parts) => parts,
            Err(error) => {
                answers.push(failure(&Json::Null, &error));
                continue;
            }
        };
        node.faults.before(method).await?;
        let outcome = methods::call(node, method, params).await;
        answers.push(match outcome {
            Ok(result) => success(id, &result),
            Err(error) => failure(id, &error),
        });
    }
    if is_batch { Some(Json::Array(answers)) } else { answers.pop() }
}

/// Reads a message: its requests, and whether it was a batch.
fn parse(bytes: &[u8]) -> Result<(Vec<Json>, bool), RpcError> {
    match serde_json::from_slice(bytes).map_err(|_| RpcError::parse())? {
        Json::Array(requests) if requests.is_empty() => Err(RpcError::invalid_request()),
        Json::Array(requests) if requests.len() > BATCH_MAX => {
            Err(RpcError::batch_too_large(BATCH_MAX))
        }
        Json::Array(requests) => Ok((requests, true)),
        request => Ok((vec![request], false)),
    }
}

/// Reads a request: its id, its method, and its parameters by position.
fn read(request: &Json) -> Result<(&Json, &str, &[Json]), RpcError> {
    let method = request.get("method").and_then(Json::as_str);
    let method = method.ok_or_else(RpcError::invalid_request)?;
    let params = match request.get("params") {
        None | Some(Json::Null) => &[],
        Some(Json::Array(params)) => params.as_slice(),
        Some(_) => return Err(RpcError::invalid_params("expected a list")),
    };
    Ok((request.get("id").unwrap_or(&Json::Null), method, params))
}

fn success(id: &Json, result: &Json) -> Json {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn failure(id: &Json, error: &RpcError) -> Json {
    json!({"jsonrpc": "2.0", "id": id, "error": error.to_json()})
}
