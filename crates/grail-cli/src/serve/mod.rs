//! An HTTP server for text: OpenAI's API, and token ids in and out, on the exact engine.
//!
//! A request is read ([`body`]), parsed field by field ([`fields`]), tokenised ([`prompt`]) and
//! queued ([`job`]); its answer is worded by its route. Handlers own what they began: a client that
//! goes away drops its handler or its stream, and with it every slot it had.

mod account;
mod app;
mod body;
mod chat;
mod completions;
mod error;
mod fields;
mod host;
mod job;
mod keys;
mod limits;
pub mod listener;
mod metrics;
mod models;
mod native;
mod options;
pub mod params;
mod prompt;
mod route;
mod status;
mod streaming;
pub mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::app::App;
pub use self::keys::Keys;
pub use self::limits::Limits;

use self::error::ApiError;
use self::limits::{BODY_BYTES_MAX, LAST_WORDS};

const HEALTH: &str = "/health";

/// A running server.
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    /// Ends the accepting; connections may finish what they are at.
    stop: CancellationToken,
    /// Ends the connections.
    cut: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Binds `address` (port 0 takes a free one) and serves.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(app: Arc<App>, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let is_private = address.ip().is_loopback() && app.keys.is_open();
        let router = router(app.clone(), is_private);
        let serving = listener::serve(listener, router, stop.clone(), cut.clone());
        Ok(Self { app, address, stop, cut, task: tokio::spawn(serving) })
    }

    /// Returns the address that is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new requests, lets those under way end until `deadline`, then cuts the rest off.
    /// Meanwhile `/health` says that the server drains.
    pub async fn drain(self, deadline: Duration) {
        self.app.start_draining();
        let engine = self.app.engine.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || engine.drain(deadline)).await {
            tracing::error!(%error, "the engine did not drain");
        }
        self.stop.cancel();
        let mut task = self.task;
        if tokio::time::timeout(LAST_WORDS, &mut task).await.is_err() {
            self.cut.cancel();
            // Cut connections end at once; a panic in the accept loop was logged by its task.
            let _ = task.await;
        }
    }
}

/// With `is_private` the server is for this machine alone, without keys.
fn router(app: Arc<App>, is_private: bool) -> Router {
    Router::new()
        .route(HEALTH, get(status::health))
        .route("/metrics", get(status::metrics))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::show))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/chat/completions", post(chat::handle))
        .route("/generate", post(native::handle))
        .fallback(|| async {
            let message = "there is no such page; docs/serve.md lists them";
            ApiError::with(StatusCode::NOT_FOUND, "not_found", message)
        })
        .method_not_allowed_fallback(|| async {
            let message = "this page is asked for in another way (GET or POST); see docs/serve.md";
            ApiError::with(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state((app.clone(), is_private), admit))
        .with_state(app)
}

/// Lets in who has a key, and counts the answers.
async fn admit(
    State((app, is_private)): State<(Arc<App>, bool)>,
    request: Request,
    next: Next,
) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("other", MatchedPath::as_str).to_owned();
    let headers = request.headers();
    let allowed = match route.as_str() {
        HEALTH => Ok(()),
        _ if is_private => host::check(headers),
        _ => app.keys.check(headers),
    };
    let response = match allowed {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    app.metrics.answered(&route, response.status().as_u16());
    response
}
