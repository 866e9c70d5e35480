//! The beacon's pages, those of drand's HTTP interface.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Json;
use axum::routing::get;

use super::reply::Reply;
use super::{App, Shared};
use crate::beacon::verify::{BeaconInfo, RoundJson};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/chains", get(chains))
        .route("/{chain_hash}/info", get(info))
        .route("/{chain_hash}/public/{round}", get(round))
}

async fn chains(State(app): App) -> Json<[String; 1]> {
    Json([app.beacon.info().hash.to_hex()])
}

async fn info(State(app): App, Path(hash): Path<String>) -> Result<Json<BeaconInfo>, Reply> {
    check_hash(&app, &hash)?;
    Ok(Json(app.beacon.info().clone()))
}

async fn round(
    State(app): App,
    Path((hash, round)): Path<(String, String)>,
) -> Result<Json<RoundJson>, Reply> {
    check_hash(&app, &hash)?;
    let latest = app.beacon.latest();
    let round = match round.as_str() {
        "latest" => latest,
        number => number.parse().map_err(|_| {
            Reply::malformed("a round is `latest` or a decimal number below 2 to the power of 64")
        })?,
    };
    let signed = app.beacon.sign(round);
    signed.map(Json).ok_or_else(|| {
        Reply::not_found(format!("round {round} is not out; the latest is {latest}"))
    })
}

fn check_hash(app: &Shared, hash: &str) -> Result<(), Reply> {
    let ours = app.beacon.info().hash.to_hex();
    if hash == ours {
        return Ok(());
    }
    Err(Reply::not_found(format!("no such beacon here; the only one is {ours}")))
}
