//! `GET /v1/models`: the one model that is served.

use std::sync::Arc;

use axum::extract::{Path, State};
use grail_ports::model::Model;
use serde::Serialize;

use super::app::App;
use super::error::{Answer, json};
use super::params::unknown_model;

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Card>,
}

#[derive(Serialize)]
struct Card {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    max_model_len: usize,
    architecture: String,
    parameters: u64,
    numerics: String,
    checkpoint_digest: String,
}

/// Lists it.
pub async fn list(State(app): State<Arc<App>>) -> Answer {
    Ok(json(List { object: "list", data: vec![card(&app)] }))
}

/// Shows it, by its name.
pub async fn show(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    if name == app.name { Ok(json(card(&app))) } else { Err(unknown_model(&name, &app)) }
}

fn card(app: &App) -> Card {
    let info = app.model.info();
    Card {
        id: app.name.clone(),
        object: "model",
        created: app.started,
        owned_by: "grail",
        max_model_len: app.limits.context_max,
        architecture: info.architecture.clone(),
        parameters: info.parameters,
        numerics: info.numerics.clone(),
        checkpoint_digest: info.checkpoint_digest.to_hex(),
    }
}
