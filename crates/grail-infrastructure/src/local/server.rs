//! Serves chain, beacon and store to other processes, on loopback unless told otherwise.

mod beacon;
mod listener;
mod reply;
mod store;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use grail_protocol::ids::BlockNumber;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::listener::GuardedListener;
use self::reply::Reply;
use super::beacon::LocalBeacon;
use super::chain::LocalChain;
use super::rpc::Node;
use super::store::FolderStore;
use super::wire::{ErrorBody, NETWORK_HEADER};

/// Longest time that an answer takes to begin, bodies of objects aside.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Longest time that an upload takes, and that a download takes to begin.
const TRANSFER_TIME: Duration = Duration::from_secs(600);

/// Time that answers under way get when the server stops.
const GRACE: Duration = Duration::from_secs(3);

/// Most uploads at once; each takes the room of its object on the disk.
const UPLOADS_MAX: usize = 4;

/// The parts that are served.
#[derive(Clone)]
pub struct Served {
    /// The chain.
    pub chain: Arc<LocalChain>,
    /// The chain as a node of the real one.
    pub node: Arc<Node>,
    /// The beacon.
    pub beacon: Arc<LocalBeacon>,
    /// The store.
    pub store: Arc<FolderStore>,
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

struct Shared {
    chain: Arc<LocalChain>,
    beacon: Arc<LocalBeacon>,
    store: Arc<FolderStore>,
    uploads: Semaphore,
}

type App = State<Arc<Shared>>;

impl Server {
    /// Binds `address` (port 0 takes a free one) and serves until `stop`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        served: Served,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let cut = CancellationToken::new();
        let guarded = GuardedListener::new(listener, cut.clone());
        let app = router(served);
        let task = tokio::spawn(async move {
            let serving =
                axum::serve(guarded, app).with_graceful_shutdown(stop.clone().cancelled_owned());
            let outcome = tokio::select! {
                outcome = serving => outcome,
                () = async {
                    stop.cancelled().await;
                    sleep(GRACE).await;
                    // Ends the connections, which ends the branch above.
                    cut.cancel();
                    pending::<()>().await;
                } => Ok(()),
            };
            // WebSockets are no requests under way: nobody waits for them.
            cut.cancel();
            outcome
        });
        Ok(Self { address, task })
    }

    /// Returns the address that is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base address for clients, such as `http://127.0.0.1:9944`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the server has stopped, at most a few seconds after it was asked to.
    ///
    /// # Errors
    /// When the listening socket failed.
    pub async fn stopped(self) -> io::Result<()> {
        self.task.await.map_err(io::Error::other)?
    }
}

/// Returns the routes of a network.
fn router(served: Served) -> Router {
    let genesis = HeaderValue::from_str(&served.chain.genesis().to_hex())
        .expect("hexadecimal digits are a valid header");
    let node = served.node.routes();
    let shared = Arc::new(Shared {
        chain: served.chain,
        beacon: served.beacon,
        store: served.store,
        uploads: Semaphore::new(UPLOADS_MAX),
    });
    let quick = Router::new()
        .route("/health", get(health))
        .merge(beacon::routes())
        .layer(from_fn(|request, next| within(ANSWER_TIME, request, next)));
    let slow = store::routes().layer(from_fn(|request, next| within(TRANSFER_TIME, request, next)));
    quick
        .merge(slow)
        .fallback(|| async {
            let message = "no such page on this server".to_owned();
            Reply(ErrorBody::NotFound { message })
        })
        .layer(from_fn_with_state(genesis, name_network))
        .with_state(shared)
        // The node's own page, which no time limit and no header of ours concerns.
        .merge(node)
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let message = format!("the request took longer than {} s", limit.as_secs());
        Reply(ErrorBody::Unavailable { message }).into_response()
    })
}

async fn name_network(
    State(genesis): State<HeaderValue>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(NETWORK_HEADER, genesis);
    response
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    network: String,
    head: BlockNumber,
    beacon_round: u64,
}

async fn health(State(app): App) -> Json<Health> {
    Json(Health {
        status: "ok",
        network: app.chain.rules().network.clone(),
        head: app.chain.head().number,
        beacon_round: app.beacon.latest(),
    })
}
