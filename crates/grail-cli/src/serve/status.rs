//! `GET /health` and `GET /metrics`: for load balancers and dashboards.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::app::App;

/// 200 while requests are taken, 503 while the server drains.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let (status, word) = match app.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "ok"),
    };
    (status, axum::Json(json!({ "status": word }))).into_response()
}

/// The text format of Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let in_flight = app.limits.in_flight_max().saturating_sub(app.in_flight.available_permits());
    let page = app.metrics.render(&app.engine.stats(), &app.limits, in_flight);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}
