//! What the demo can be told.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::document::duration;

/// What the demo can be told.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
        sitepulse demo                                   until Ctrl-C\n  \
        sitepulse demo --for 60s                         ends by itself, with the ledger\n  \
        sitepulse demo --sites 300 --speed 30\n\n\
        Exit codes: 0 the ledger is balanced, 1 it is not or the demo could not run, 2 wrong usage")]
pub struct Args {
    /// End after this much real time, such as 60s or 5m; without it: at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    pub duration: Option<Duration>,
    /// Base stations of the simulated city
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=30_000))]
    pub sites: u16,
    /// Simulated time runs this many times faster than real time
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub speed: u16,
    /// Where the page listens [default: 127.0.0.1:8800, or a free port where that one is taken]
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    pub listen: Option<SocketAddr>,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "give an address and a port, such as 127.0.0.1:8800")?;
    let refusal = "the demo asks for no token, so it listens on this machine only: give 127.0.0.1:PORT or [::1]:PORT";
    if address.ip().is_loopback() { Ok(address) } else { Err(refusal.to_owned()) }
}

fn span(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span.is_zero() { Err("give more than nothing, such as 60s".to_owned()) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_span_has_a_unit_and_a_city_has_a_station() {
        let line = Line::try_parse_from(["demo", "--for", "90s", "--sites", "5"]).expect("good").args;
        assert_eq!((line.duration, line.sites, line.speed), (Some(Duration::from_secs(90)), 5, 90));
        for wrong in
            [["demo", "--for", "90"], ["demo", "--for", "0s"], ["demo", "--sites", "0"], ["demo", "--speed", "0"]]
        {
            assert_eq!(Line::try_parse_from(wrong).expect_err("wrong").exit_code(), 2, "{wrong:?}");
        }
    }
}
