//! The chain's pages.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use grail_ports::chain::Block;
use grail_protocol::ids::{BlockNumber, Hotkey};
use serde::Serialize;
use std::sync::Arc;

use super::reply::{Reply, blocking};
use super::{App, Shared};
use crate::local::chain::BlockRow;
use crate::local::chain::extrinsic::SignedExtrinsic;
use crate::local::wire::{ChainInfo, MetagraphJson, SigningTerms, Submitted};

/// Largest signed call: 256 uids and weights, or a commitment, in JSON.
const EXTRINSIC_BYTES_MAX: usize = 64 << 10;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/chain/info", get(info))
        .route("/chain/head", get(head))
        .route("/chain/block/{number}", get(block))
        .route("/chain/metagraph", get(metagraph))
        .route("/chain/hyperparameters", get(hyperparameters))
        .route("/chain/commitments", get(commitments))
        .route("/chain/account/{hotkey}", get(account))
        .route("/chain/submit", post(submit))
}

async fn info(State(app): App) -> Json<ChainInfo> {
    let rules = app.chain.rules();
    Json(ChainInfo {
        network: rules.network.clone(),
        netuid: rules.netuid,
        genesis: app.chain.genesis(),
        block_time_ms: rules.block_time_ms,
    })
}

async fn head(State(app): App) -> Json<Block> {
    Json(app.chain.head())
}

#[derive(Serialize)]
struct BlockJson {
    number: BlockNumber,
    #[serde(flatten)]
    row: BlockRow,
}

async fn block(State(app): App, Path(number): Path<String>) -> Result<Response, Reply> {
    let number = number.parse().map(BlockNumber).map_err(|_| {
        Reply::malformed("a block's number is a decimal number below 2 to the power of 64")
    })?;
    let row = app.chain.block(number).map_err(Reply::unavailable)?;
    let row = row.ok_or_else(|| Reply::not_found("the chain has not come to this block"))?;
    Ok(Json(BlockJson { number, row }).into_response())
}

async fn metagraph(State(app): App) -> Json<MetagraphJson> {
    Json(MetagraphJson::from(&*app.chain.metagraph()))
}

async fn hyperparameters(State(app): App) -> Response {
    Json(app.chain.hyperparameters()).into_response()
}

async fn commitments(State(app): App) -> Json<BTreeMap<Hotkey, String>> {
    let commitments = app.chain.commitments();
    Json(commitments.iter().map(|(hotkey, data)| (*hotkey, hex::encode(data))).collect())
}

async fn account(State(app): App, Path(hotkey): Path<String>) -> Result<Json<SigningTerms>, Reply> {
    let hotkey: Hotkey = hotkey
        .parse()
        .map_err(|error: grail_protocol::ids::NotAnAddress| Reply::malformed(error.to_string()))?;
    let (nonce, valid_until) = app.chain.signing_terms(hotkey);
    Ok(Json(SigningTerms { nonce, valid_until }))
}

async fn submit(State(app): App, body: Body) -> Result<Json<Submitted>, Reply> {
    let bytes = to_bytes(body, EXTRINSIC_BYTES_MAX).await.map_err(|_| {
        Reply::malformed(format!("a signed call has at most {EXTRINSIC_BYTES_MAX} bytes"))
    })?;
    let extrinsic: SignedExtrinsic = serde_json::from_slice(&bytes)
        .map_err(|error| Reply::malformed(format!("not a signed call: {error}")))?;
    let call = extrinsic.call.name();
    let chain = Arc::clone(&app.chain);
    let block =
        blocking(move || chain.submit(extrinsic).map_err(|error| Reply::of_chain(error, call)))
            .await?;
    Ok(Json(Submitted { block }))
}
