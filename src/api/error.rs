//! What a client is told when it does not get what it asked for: what, where, and what would be right.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::warn;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// The request is wrong; `message` says how it would be right.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// What is named does not exist.
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    /// The query took too long or there are too many.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message: message.into() }
    }

    /// The token is missing or wrong.
    pub(super) fn unauthorized() -> Self {
        let message = "this address wants the token of api.token_env or api.token_file: Authorization: Bearer <token>";
        Self { status: StatusCode::UNAUTHORIZED, message: message.to_owned() }
    }

    /// Nothing answers at this path.
    pub(super) fn no_route(path: &str) -> Self {
        Self::missing(format!("nothing answers at {path}; docs/api.md lists the addresses, /api/v1/sites is one"))
    }

    /// The path does not take this method.
    pub(super) fn method(method: &str) -> Self {
        let message = format!("{method} is not taken here; GET is");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, message }
    }

    /// Our own fault; the cause goes to the log.
    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        warn!(%error, cause = error.source().map(ToString::to_string), "a query failed");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: "the store cannot be read; see the log".to_owned() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
