//! The InfluxDB v2 write API over the network: writes, compressed or not, and the making of a missing bucket.
//!
//! Two clients of the influxdb2 package, because its requests carry the same headers for everything: the one for
//! writes says `Content-Encoding: gzip` where its bodies are compressed, the other does not. Never asks for anything
//! else than writes unless a bucket is to be made, so that stores that only have the write path (VictoriaMetrics) do.

use std::io::Write as _;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use influxdb2::api::organization::ListOrganizationRequest;
use influxdb2::api::write::TimestampPrecision;
use influxdb2::models::PostBucketRequest;
use influxdb2::{Client as Influx, ClientBuilder, RequestError};
use reqwest::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};

use super::lines::Lines;
use super::policy::Answer;
use super::{Encoding, Options};
use crate::problem::with_causes;

/// Characters of a store's words that are kept.
const REASON_CHARS_MAX: usize = 1_000;
/// Times that lines become smaller at the least; typically it is three.
const GZIP_RATIO: usize = 2;
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The address is none.
    #[error("`{url}` is no address of a store; give one such as http://host:8086, without a path")]
    Address {
        /// The address as configured.
        url: String,
    },
    /// The HTTP client cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Build(String),
}

/// What the sink asks of the store at the other end.
pub(super) trait FarSide: Send + Sync {
    /// Writes one body.
    fn write(&self, body: &Body) -> impl Future<Output = Answer> + Send;

    /// Makes the bucket, kept for ever.
    ///
    /// # Errors
    /// What to tell the operator.
    fn create_bucket(&self) -> impl Future<Output = Result<(), String>> + Send;
}

/// A store that takes the InfluxDB v2 write API.
#[derive(Debug)]
pub(super) struct Client {
    writes: Influx,
    admin: Influx,
    org: String,
    bucket: String,
}

/// One body, ready to be sent as often as it takes; it is not copied for that.
#[derive(Clone, Debug)]
pub(super) struct Body(Bytes);

impl Body {
    /// Some lines in that encoding.
    pub(super) fn of(lines: &Lines, part: Range<usize>, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Plain => Self(lines.bytes(part)),
            Encoding::Gzip => Self::compressed(lines.text(part)),
        }
    }

    /// A text, compressed.
    pub(super) fn compressed(text: &str) -> Self {
        let room = Vec::with_capacity(text.len() / GZIP_RATIO);
        let mut encoder = GzEncoder::new(room, Compression::fast());
        encoder.write_all(text.as_bytes()).expect("invariant: writing to memory does not fail");
        Self(encoder.finish().expect("invariant: writing to memory does not fail").into())
    }

    /// The bytes on the wire.
    #[cfg(any(test, feature = "bench"))]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its size on the wire.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Client {
    /// A client for the store in `options`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error`] where the address is none.
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let address = || Error::Address { url: options.url.clone() };
        let url = reqwest::Url::parse(&options.url).map_err(|_| address())?;
        // influxdb2 replaces the path of the address with its own.
        let plain = matches!(url.scheme(), "http" | "https") && matches!(url.path(), "" | "/") && url.has_host();
        if !plain {
            return Err(address());
        }
        let mut write_headers = HeaderMap::new();
        if options.encoding == Encoding::Gzip {
            write_headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let client = |headers: HeaderMap| {
            let http = reqwest::Client::builder()
                .timeout(options.timeout)
                .connect_timeout(options.timeout.min(CONNECT_TIMEOUT_MAX))
                // A redirected POST turns into a GET, which writes nothing and is answered 200.
                .redirect(reqwest::redirect::Policy::none())
                .default_headers(headers);
            ClientBuilder::with_builder(http, url.as_str(), &options.org, &options.token)
                .build()
                .map_err(|error| Error::Build(with_causes(&error)))
        };
        let (org, bucket) = (options.org.clone(), options.bucket.clone());
        Ok(Self { writes: client(write_headers)?, admin: client(HeaderMap::new())?, org, bucket })
    }
}

impl FarSide for Client {
    async fn write(&self, body: &Body) -> Answer {
        let precision = TimestampPrecision::Milliseconds;
        let written =
            self.writes.write_line_protocol_with_precision(&self.org, &self.bucket, body.0.clone(), precision).await;
        match written {
            Ok(()) => Answer::Written,
            Err(RequestError::Http { status, text }) => Answer::of(status.as_u16(), words(&text)),
            Err(error) => Answer::Busy { reason: with_causes(&error) },
        }
    }

    async fn create_bucket(&self) -> Result<(), String> {
        let refused = |action: &str, error: RequestError| match error {
            RequestError::Http { status, text } => format!("{action}: HTTP {}: {}", status.as_u16(), words(&text)),
            error => format!("{action}: {}", with_causes(&error)),
        };
        let request = ListOrganizationRequest { org: Some(self.org.clone()), ..ListOrganizationRequest::new() };
        let found = self.admin.list_organizations(request).await;
        let found = found.map_err(|error| refused("cannot look up the organisation", error))?;
        let org = found.orgs.into_iter().find(|org| org.name == self.org).and_then(|org| org.id);
        let org = org.ok_or_else(|| format!("the organisation {:?} does not exist", self.org))?;
        let request = PostBucketRequest::new(org, self.bucket.clone());
        let created = self.admin.create_bucket(Some(request)).await;
        created.map_err(|error| refused("cannot make the bucket", error))
    }
}

/// The message of an error body: InfluxDB 2 says `{"code", "message"}`, InfluxDB 3 `{"error", "data": [lines]}`.
fn words(text: &str) -> String {
    let body: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let message = body.as_ref().filter(|body| body.get("data").is_none_or(serde_json::Value::is_null));
    let message = message.and_then(|body| body.get("message").or_else(|| body.get("error"))?.as_str());
    message.unwrap_or(text).trim().chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::influx::Fields;

    fn options(url: &str) -> Options {
        Options {
            name: "store".to_owned(),
            url: url.to_owned(),
            org: "city".to_owned(),
            bucket: "telemetry".to_owned(),
            token: String::new(),
            create_bucket: false,
            windows: [crate::model::Window::Minute1].into(),
            fields: Fields::ALL,
            batch_lines_max: 10,
            encoding: Encoding::Gzip,
            timeout: Duration::from_secs(1),
            backoff_max: Duration::from_secs(1),
        }
    }

    #[test]
    fn an_address_that_the_client_would_misread_is_refused() {
        for url in ["store:8086", "ftp://store", "http://store:8086/insert/0/influx", "/x", ""] {
            assert!(matches!(Client::new(&options(url)), Err(Error::Address { .. })), "{url}");
        }
        for url in ["http://store:8086", "https://[::1]:8086/", "http://127.0.0.1:8428"] {
            assert!(Client::new(&options(url)).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_store_speaks_in_its_own_words() {
        assert_eq!(words(r#"{"code":"invalid","message":"unable to parse 'x'"}"#), "unable to parse 'x'");
        assert_eq!(words(r#"{"error":"no such database"}"#), "no such database");
        assert!(words(r#"{"error":"partial write","data":[{"original_line":"x y"}]}"#).contains("x y"));
        assert_eq!(words(" plain text\n"), "plain text");
    }
}
