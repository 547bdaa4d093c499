//! The tables of what goes out: `[[influx]]`, `[city_brain]` and `[api]`.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::raw;
use super::section::{SecretKeys, Section, Surroundings};
use super::sources::{BACKOFF_MAX, broker_address, check_part_name, client_id, keep_alive, login};
use crate::document::List;
use crate::inventory::check_name;
use crate::model::Window;
use crate::problem::Problem;
use crate::sink::influx::{Field, Fields};
use crate::{api, sink};

/// Name of the city brain among the sinks.
const CITY_BRAIN_NAME: &str = "city_brain";

/// Where the API listens unless told otherwise.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8_800);

/// Checks every `[[influx]]`.
pub(super) fn influx(
    tables: Vec<Option<raw::Influx>>,
    around: &Surroundings<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<sink::influx::Options> {
    let mut names = BTreeSet::from([CITY_BRAIN_NAME.to_owned()]);
    let mut read = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let Some(table) = table else { continue };
        let mut section = Section::new(around, format!("influx[{index}]"), problems);
        read.extend(store(table, &mut section, &mut names));
    }
    read
}

fn store(table: raw::Influx, section: &mut Section<'_>, names: &mut BTreeSet<String>) -> Option<sink::influx::Options> {
    let name = section.required("name", table.name, "the name by which metrics know this sink");
    let name = name.and_then(|name| section.ok("name", check_part_name(&name)).map(|()| name));
    if let Some(name) = &name
        && !names.insert(name.clone())
    {
        section.add("name", format!("`{name}` is taken by another sink; names are unique"));
    }
    let url = section.required("url", table.url, "the store's address, such as http://192.0.2.7:8086");
    let url = url.and_then(|url| section.ok("url", store_url(&url)));
    let org = section.required("org", table.org, "the organisation; any word where the store knows none");
    let bucket = section.required("bucket", table.bucket, "the bucket to write to");
    let secret = SecretKeys { name: "token", variable: table.token_env, file: table.token_file };
    let token = token(secret, section).unwrap_or_default();
    let windows = labels("windows", table.windows, section)
        .unwrap_or_else(|| BTreeSet::from([Window::Minute1, Window::Minute15, Window::Hour1, Window::Day1]));
    let fields = fields(table.fields, section);
    let batch_lines_max = section.whole("batch_lines_max", table.batch_lines_max, 5_000_u32, 1..=100_000);
    let compress = table.compress.is_none_or(|flag| flag.0);
    let encoding = if compress { sink::influx::Encoding::Gzip } else { sink::influx::Encoding::Plain };
    let seconds = Duration::from_secs;
    let timeout = section.duration("timeout", table.timeout, seconds(30), seconds(1)..=Duration::from_mins(10));
    let backoff_max = section.duration("backoff_max", table.backoff_max, Duration::from_mins(1), BACKOFF_MAX);
    Some(sink::influx::Options {
        name: name?,
        url: url?,
        org: org?,
        bucket: bucket?,
        token,
        create_bucket: table.create_bucket.is_some_and(|flag| flag.0),
        windows,
        fields,
        batch_lines_max: usize::try_from(batch_lines_max).unwrap_or(usize::MAX),
        encoding,
        timeout,
        backoff_max,
    })
}

/// Checks a store's address; the client library panics on a wrong one and keeps no path of it.
fn store_url(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "give http://host:port or https://host:port";
    if text.contains('@') {
        return Err(format!("user and password do not stand in the address; {EXAMPLE}, and token_env or token_file"));
    }
    let url = reqwest::Url::parse(text).map_err(|error| format!("`{text}` is no URL ({error}); {EXAMPLE}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("`{text}` is no web address; {EXAMPLE}"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{text}` has a path; {EXAMPLE} only, /api/v2/write is added"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Reads a token, which goes into an HTTP header.
fn token(keys: SecretKeys, section: &mut Section<'_>) -> Option<String> {
    let key = if keys.variable.is_some() { "token_env" } else { "token_file" };
    let token = section.secret(keys)?;
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(token);
    }
    section.add(key, "the token there holds something other than visible ASCII characters");
    None
}

/// The aggregates that are sent of each metric: all, unless a list names some.
fn fields(value: Option<List>, section: &mut Section<'_>) -> Fields {
    if matches!(&value, Some(List(labels)) if labels.is_empty()) {
        section.add("fields", "names no field; give some, or `windows = []` to send indicators only");
    }
    labels::<Field>("fields", value, section).map_or(Fields::ALL, Fields::from_iter)
}

/// A list of labels, none of which may stand twice; `None` where there is no list.
fn labels<T>(key: &str, value: Option<List>, section: &mut Section<'_>) -> Option<BTreeSet<T>>
where
    T: FromStr<Err: Display> + Ord,
{
    let List(labels) = value?;
    let mut read = BTreeSet::new();
    for (index, label) in labels.iter().enumerate() {
        let key = format!("{key}[{index}]");
        let one = label.parse::<T>().map_err(|error| error.to_string());
        if let Some(one) = section.ok(&key, one)
            && !read.insert(one)
        {
            section.add(&key, format!("`{label}` stands twice"));
        }
    }
    Some(read)
}

/// Checks `[city_brain]`.
pub(super) fn city_brain(table: raw::CityBrain, section: &mut Section<'_>) -> Option<sink::city_brain::Options> {
    let address = broker_address(table.url, section);
    let client_id = client_id(table.client_id, section);
    let login = login(table.user, table.password_env, table.password_file, section);
    let topic_prefix = table.topic_prefix.map_or_else(|| "citybrain/v1".to_owned(), |text| text.0);
    for level in topic_prefix.split('/') {
        let fault = check_name(level).map_err(|fault| format!("`{}`: {fault}", topic_prefix.escape_debug()));
        if section.ok("topic_prefix", fault).is_none() {
            break;
        }
    }
    let keep_alive = keep_alive(table.keep_alive, section);
    let backoff_max = section.duration("backoff_max", table.backoff_max, Duration::from_mins(1), BACKOFF_MAX);
    let address = address?;
    Some(sink::city_brain::Options {
        name: CITY_BRAIN_NAME.to_owned(),
        host: address.host,
        port: address.port,
        client_id: client_id?,
        login,
        topic_prefix,
        keep_alive,
        backoff_max,
    })
}

/// Checks `[api]`.
pub(super) fn api(table: raw::Api, section: &mut Section<'_>) -> api::Options {
    let named = table.token_env.is_some() || table.token_file.is_some();
    let token = token(SecretKeys { name: "token", variable: table.token_env, file: table.token_file }, section);
    let listen = table.listen.and_then(|text| section.ok("listen", listen_address(&text.0)));
    let listen = listen.unwrap_or(LISTEN_DEFAULT);
    if !listen.ip().is_loopback() && !named {
        let message = format!(
            "{listen} can be reached from other machines, which needs a token: set token_env or token_file, or listen on {LISTEN_DEFAULT}"
        );
        section.add("listen", message);
    }
    api::Options { listen, token }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let hint = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => "an address and a port, such as 127.0.0.1:8800 or [::1]:8800".to_owned(),
    };
    text.parse().map_err(|_| format!("`{text}` is no address to listen on; give {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_address_is_one_that_the_client_library_takes() {
        assert_eq!(store_url("http://[2001:db8::1]:8086/").as_deref(), Ok("http://[2001:db8::1]:8086"));
        assert_eq!(store_url("https://store.example").as_deref(), Ok("https://store.example"));
        for wrong in [
            "",
            "store:8086",
            "store.example",
            "http://",
            "http://a:99999",
            "ftp://a",
            "http://a/influx",
            "http://a?db=x",
            "http://u:p@a",
            "http://[::1",
            "http://a b",
        ] {
            assert!(store_url(wrong).is_err(), "{wrong}");
        }
    }
}
