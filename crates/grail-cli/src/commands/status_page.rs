//! The pages of a role that runs alone: `/health` for whoever restarts it, `/metrics` for dashboards.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use grail_monitoring::Metrics;
use grail_neurons::health::{Health, HealthReport};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serve::listener;

/// What the pages tell of.
#[derive(Clone)]
struct Told {
    health: Health,
    metrics: Metrics,
}

/// The page `/health`; what a status means is in docs/metrics.md.
#[derive(Serialize)]
struct HealthPage {
    schema_version: u32,
    status: &'static str,
    #[serde(flatten)]
    report: HealthReport,
}

/// Serves the pages at `address` (port 0 takes a free one) until `stop`; returns where.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<SocketAddr> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = bound.await.with_context(|| {
        format!("while opening the status page at {address}; choose another with --status")
    })?;
    let router = Router::new()
        .route("/health", get(health_page))
        .route("/metrics", get(metrics_page))
        .fallback(|| async { (StatusCode::NOT_FOUND, "the pages are /health and /metrics\n") })
        .with_state(Told { health, metrics });
    // A reader that holds still must not hold up the end.
    tokio::spawn(listener::serve(listener, router, stop.clone(), stop));
    Ok(address)
}

/// 200 while the role does its work, 503 before it could and while it cannot.
async fn health_page(State(told): State<Told>) -> Response {
    let report = told.health.report();
    let status = status_of(&report);
    let code = match status {
        "ok" | "alarm" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(HealthPage { schema_version: 1, status, report })).into_response()
}

/// Says in one word how a role is doing.
fn status_of(report: &HealthReport) -> &'static str {
    match report {
        HealthReport { ended: Some(_), .. } => "ended",
        HealthReport { ready: false, failures: 0, .. } => "starting",
        HealthReport { ready: false, .. } => "failing",
        HealthReport { alarm: Some(_), .. } => "alarm",
        _ => "ok",
    }
}

/// The text format of Prometheus.
async fn metrics_page(State(told): State<Told>) -> Response {
    let page = told.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn page(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_are_served_until_the_role_stops() {
        let stop = CancellationToken::new();
        let (health, metrics) = (Health::default(), Metrics::default());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = serve(any, health, metrics.clone(), stop.clone()).await.unwrap();
        let taken = serve(address, Health::default(), metrics.clone(), stop.clone()).await;
        assert!(format!("{:#}", taken.unwrap_err()).contains("--status"));
        let told = page(address, "/health").await;
        assert!(
            told.starts_with("HTTP/1.1 503") && told.contains("\"status\":\"starting\""),
            "{told}"
        );
        let told = page(address, "/metrics").await;
        assert!(told.starts_with("HTTP/1.1 200") && told.ends_with(&metrics.render()), "{told}");
        assert!(page(address, "/").await.starts_with("HTTP/1.1 404"));
        // One that never asks anything does not keep the server.
        let silent = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        drop(silent);
    }

    #[test]
    fn a_word_tells_how_a_role_is_doing() {
        let report = |ready, failures| HealthReport { ready, failures, ..HealthReport::default() };
        let alarm = HealthReport { alarm: Some("lost".to_owned()), ..report(true, 0) };
        let ended = HealthReport { ended: Some("stopped".to_owned()), ..report(true, 0) };
        for (report, word) in [
            (report(false, 0), "starting"),
            (report(false, 2), "failing"),
            (report(true, 0), "ok"),
            (alarm, "alarm"),
            (ended, "ended"),
        ] {
            assert_eq!(status_of(&report), word);
        }
    }
}
