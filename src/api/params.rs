//! Query parameters, checked: an unknown or repeated one, and a value that is none, is refused with what would be right.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::extract::Query;

use super::error::ApiError;
use crate::model::Timestamp;

/// The form in which axum hands over a query string.
pub(super) type Pairs = Query<Vec<(String, String)>>;

/// Rows of an answer where the client names no number.
const LIMIT: usize = 10_000;
/// Rows of an answer at the most.
const LIMIT_MAX: usize = 100_000;

/// The parameters of one request.
#[derive(Debug)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// Takes parameters named in `known`.
    pub(super) fn checked(pairs: Vec<(String, String)>, known: &[&str]) -> Result<Self, ApiError> {
        let mut params = BTreeMap::new();
        for (name, value) in pairs {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad(format!("unknown parameter `{name}`; valid are {}", known.join(", "))));
            }
            if params.insert(name.clone(), value).is_some() {
                return Err(ApiError::bad(format!("parameter `{name}` is given twice")));
            }
        }
        Ok(Self(params))
    }

    /// A text; an empty one counts as not given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A value whose type says itself what is valid.
    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let parsed = self.text(name).map(str::parse).transpose();
        parsed.map_err(|error| ApiError::bad(format!("parameter `{name}`: {error}")))
    }

    /// A flag, `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(ApiError::bad(format!("parameter `{name}`: `{other}` is neither true nor false"))),
        }
    }

    /// `from` and `to`: `to` defaults to `now`, `from` to `span_ms` before it.
    pub(super) fn span(&self, now: Timestamp, span_ms: i64) -> Result<(Timestamp, Timestamp), ApiError> {
        let time = |name: &str| {
            let parsed = self.text(name).map(Timestamp::parse).transpose();
            let parsed = parsed.map_err(|error| ApiError::bad(format!("parameter `{name}`: {error}")))?;
            // Arithmetic of windows is exact for times that have a date, and overflows somewhere beyond.
            match parsed.filter(|time| jiff::Timestamp::from_millisecond(time.as_millis()).is_err()) {
                None => Ok(parsed),
                Some(_) => {
                    Err(ApiError::bad(format!("parameter `{name}`: give a time from the year -9999 to the year 9999")))
                }
            }
        };
        // One past now, so that a window that starts right now is in.
        let to = time("to")?.unwrap_or(now.plus_millis(1));
        let from = time("from")?.unwrap_or(to.plus_millis(-span_ms));
        if from > to {
            return Err(ApiError::bad(format!("`from` ({from}) lies after `to` ({to})")));
        }
        Ok((from, to))
    }

    /// `limit`, 1 to [`LIMIT_MAX`].
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.text("limit") else { return Ok(LIMIT) };
        let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| {
            ApiError::bad(format!("parameter `limit`: `{text}` is no whole number from 1 to {LIMIT_MAX}"))
        })
    }
}
