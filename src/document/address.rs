//! Addresses as people write them: `host:port`, IPv6 in brackets.

use std::fmt;
use std::net::Ipv6Addr;

/// A host and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Host name or address (IPv4, or IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// `host:port`, IPv6 in brackets.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads `scheme://host:port`; without a port it is `port_default`.
///
/// # Errors
/// What is wrong and what would be valid; never the text itself where it may hold a password.
pub fn address(text: &str, scheme: &str, port_default: u16) -> Result<HostPort, String> {
    let example = format!("{scheme}://192.0.2.7:{port_default} or {scheme}://[2001:db8::7]:{port_default}");
    if text.contains('@') {
        return Err(format!("user and password do not stand in the address; give {example}"));
    }
    let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    let rest = rest.ok_or_else(|| format!("`{text}` does not start with {scheme}://; give {example}"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = split(rest).map_err(|fault| format!("`{text}` {fault}; give {example}"))?;
    let port = match port {
        None => port_default,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("`{text}` has no port of 1-65535; give {example}"))?,
    };
    Ok(HostPort { host: host.to_owned(), port })
}

fn split(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has no closing bracket")?;
        host.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address in its brackets")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("has something other than a port after its bracket"),
        };
    }
    if text.matches(':').count() > 1 {
        return Err("has several colons; an IPv6 address stands in brackets");
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if host.is_empty() || host.len() > 253 || !host.chars().all(fits) {
        return Err("has no valid host name");
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_both_kinds_of_addresses_are_read() {
        let read = |text| address(text, "mqtt", 1883).expect("an address");
        assert_eq!(read("mqtt://broker").to_string(), "broker:1883");
        assert_eq!(read("mqtt://192.0.2.7:8883/").to_string(), "192.0.2.7:8883");
        let v6 = read("mqtt://[2001:db8::1]:99");
        assert_eq!((v6.host.as_str(), v6.to_string().as_str()), ("2001:db8::1", "[2001:db8::1]:99"));
    }

    #[test]
    fn other_forms_are_refused() {
        for wrong in [
            "",
            "broker",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a:0",
            "mqtt://a:65536",
            "mqtt://a:x",
            "mqtt://2001:db8::1",
            "mqtt://[2001:db8::1",
            "mqtt://[x]:1",
            "mqtt://[::1]x",
            "mqtt://a b",
            "mqtt://a/path",
        ] {
            assert!(address(wrong, "mqtt", 1883).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_without_repeating_it() {
        let fault = address("mqtt://user:hunter2@broker", "mqtt", 1883).expect_err("refused");
        assert!(!fault.contains("hunter2"), "{fault}");
    }
}
