//! Who may ask: a bearer token, which the page keeps in a cookie that scripts cannot read.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Server;
use super::error::ApiError;

const COOKIE: &str = "sitepulse_token";

/// Lets a request through that carries the token, or any where none is configured.
pub(super) async fn require_token(
    State(server): State<Server>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match &server.token {
        Some(token) if !presented(request.headers()).any(|given| same(given, token)) => Err(ApiError::unauthorized()),
        _ => Ok(next.run(request).await),
    }
}

/// The page's way to present the token.
#[derive(Deserialize)]
pub(super) struct Presented {
    token: String,
}

/// Gives the page a cookie for the token.
pub(super) async fn open(State(server): State<Server>, Json(presented): Json<Presented>) -> Result<Response, ApiError> {
    if server.token.as_ref().is_some_and(|token| !same(&presented.token, token)) {
        return Err(ApiError::unauthorized());
    }
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/", presented.token);
    let cookie = HeaderValue::try_from(cookie)
        .map_err(|_| ApiError::bad("the token has characters that no header can carry"))?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

fn presented(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let cookies = cookies.flat_map(|value| value.split("; ")).filter_map(|pair| pair.split_once('='));
    bearer.into_iter().chain(cookies.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value))
}

/// Compares without telling by the time it takes where they differ.
fn same(given: &str, token: &str) -> bool {
    let differing = given.bytes().zip(token.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
    given.len() == token.len() && differing == 0
}
