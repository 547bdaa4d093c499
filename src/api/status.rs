//! How the daemon is doing: alive, ready, its parts, the ledger, and what was rejected or refused.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Server;
use super::error::ApiError;
use super::params::{Pairs, Params};

/// Answers while the process lives.
pub(super) async fn alive() -> Response {
    Json(json!({ "status": "alive", "version": env!("CARGO_PKG_VERSION") })).into_response()
}

/// Answers 200 once the journal of the last run is in the store.
pub(super) async fn ready(State(server): State<Server>) -> Response {
    let ready = server.context.ready.load(Ordering::Acquire);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready }))).into_response()
}

pub(super) async fn ledger(State(server): State<Server>) -> Response {
    Json((server.context.ledger)()).into_response()
}

pub(super) async fn parts(State(server): State<Server>) -> Response {
    Json(json!({ "parts": server.context.health.snapshot() })).into_response()
}

/// The newest messages that were rejected, payloads as text with what is no UTF-8 replaced.
pub(super) async fn dead_letters(State(server): State<Server>, Query(pairs): Pairs) -> Result<Response, ApiError> {
    let limit = Params::checked(pairs, &["limit"])?.limit()?;
    let letters = server.readers.query(move |reader, _| Ok(reader.dead_letters(limit)?)).await?;
    let rows = letters.iter().map(|letter| {
        json!({
            "at": letter.at,
            "source": letter.source,
            "topic": letter.topic,
            "reason": letter.reason,
            "payload": String::from_utf8_lossy(&letter.payload),
        })
    });
    Ok(Json(json!({ "rows": rows.collect::<Vec<_>>() })).into_response())
}

/// The newest lines that a time-series store refused for good.
pub(super) async fn quarantine(State(server): State<Server>, Query(pairs): Pairs) -> Result<Response, ApiError> {
    let limit = Params::checked(pairs, &["limit"])?.limit()?;
    let lines = server.readers.query(move |reader, _| Ok(reader.quarantined(limit)?)).await?;
    let rows = lines.iter().map(|quarantined| {
        json!({
            "at": quarantined.at,
            "sink": quarantined.sink,
            "line": quarantined.line,
            "reason": quarantined.reason,
        })
    });
    Ok(Json(json!({ "rows": rows.collect::<Vec<_>>() })).into_response())
}
