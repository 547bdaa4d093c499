//! Rows as JSON or CSV.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::ApiError;
use super::params::Params;

/// Says in a CSV answer whether rows were left out.
const TRUNCATED: HeaderName = HeaderName::from_static("sitepulse-truncated");

/// How rows are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `{"rows":[...],"truncated":false}`.
    Json,
    /// RFC 4180 with a header line; what is not known is empty.
    Csv,
}

impl Format {
    /// Parameter `format`.
    pub(super) fn of(params: &Params) -> Result<Self, ApiError> {
        match params.text("format") {
            None | Some("json") => Ok(Self::Json),
            Some("csv") => Ok(Self::Csv),
            Some(other) => Err(ApiError::bad(format!("parameter `format`: `{other}` is neither json nor csv"))),
        }
    }
}

/// A row that can be written as a line of CSV.
pub(super) trait CsvRow {
    /// Names of the columns.
    const COLUMNS: &'static [&'static str];

    /// The cells, one per column.
    fn cells(&self) -> Vec<String>;
}

/// Rows cut to `limit`, and whether some were left out.
#[derive(Serialize)]
pub(super) struct Rows<T> {
    rows: Vec<T>,
    truncated: bool,
}

impl<T: Serialize + CsvRow> Rows<T> {
    /// `rows` may hold one more than `limit`, which tells that there are more.
    pub(super) fn cut(mut rows: Vec<T>, limit: usize) -> Self {
        let truncated = rows.len() > limit;
        rows.truncate(limit);
        Self { rows, truncated }
    }

    pub(super) fn respond(self, format: Format) -> Result<Response, ApiError> {
        match format {
            Format::Json => Ok(Json(self).into_response()),
            Format::Csv => {
                let csv = self.csv().map_err(|error| ApiError::internal(&error))?;
                let truncated = HeaderValue::from_static(if self.truncated { "true" } else { "false" });
                let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
                Ok(([(header::CONTENT_TYPE, kind), (TRUNCATED, truncated)], csv).into_response())
            }
        }
    }

    fn csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(T::COLUMNS)?;
        for row in &self.rows {
            writer.write_record(row.cells())?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    }
}

/// A cell of something that may not be known.
pub(super) fn cell(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
