//! `sitepulse simulate poll`: a poller that only counts.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{micros_each, per_second, span, watch};
use crate::cli::run::runtime;
use crate::document::duration;
use crate::simulate::load::{BarePoller, ModbusOptions, PollOptions, Polled};

/// Which devices to poll, and how often.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
        sitepulse simulate poll --devices 1000 --port 15020 --interval 1s --for 30s\n  \
        sitepulse simulate poll --devices 240 --units-per-port 240 --port 502 --json\n\n\
        Polls what `sitepulse simulate modbus` serves. Says `polling` on standard error once it is connected.")]
pub(super) struct PollArgs {
    /// Devices
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    devices: u32,
    /// Registers that are read of each, from 0 on
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=125))]
    registers: u16,
    /// Port of the first one
    #[arg(long, value_name = "PORT", default_value_t = 15_020)]
    port: u16,
    /// Devices behind one port, as units from 1 on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=247))]
    units_per_port: u8,
    /// Where they listen
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// From poll to poll
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = span)]
    interval: Duration,
    /// Poll together what is due within this long; without it every connection has its own instant
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    step: Duration,
    /// End after this long; without it at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    duration: Option<Duration>,
    /// End with one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Polls until it is over.
pub(super) fn run(args: &PollArgs) -> anyhow::Result<()> {
    let devices = ModbusOptions {
        host: args.host,
        port: args.port,
        devices: args.devices as usize,
        units_per_port: args.units_per_port,
        registers: args.registers,
    };
    // The daemon's runtime, so that the two can be compared.
    let polled = runtime()?.block_on(async {
        let poller = BarePoller::connect(PollOptions { devices, interval: args.interval, step: args.step }).await?;
        writeln!(io::stderr(), "polling")?;
        let board = poller.board();
        let line = || format!("{} polls", board.polled().polls);
        tokio::select! {
            () = poller.run() => {}
            watched = watch_quietly(args.duration, line) => watched?,
        }
        anyhow::Ok(board.polled())
    })?;
    let text = if args.json { as_json(&polled) } else { as_text(&polled) };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

/// As [`watch`], but without its looks at whether there is more to do: they would be most of what a slow poll costs.
async fn watch_quietly(duration: Option<Duration>, line: impl FnMut() -> String) -> io::Result<()> {
    match duration {
        Some(span) => {
            tokio::time::sleep(span).await;
            Ok(())
        }
        None => watch(None, || false, line).await,
    }
}

fn as_text(polled: &Polled) -> String {
    format!(
        "{} polls, {:.0}/s, {} failed; half began within {} ms of their instant, 99 % within {} ms\n\
         CPU {:.2} us a poll ({:.2} user, {:.2} system)",
        polled.polls,
        per_second(polled.polls, polled.elapsed),
        polled.failures,
        polled.delay_ms_p50,
        polled.delay_ms_p99,
        micros_each(polled.cpu.total(), polled.polls),
        micros_each(polled.cpu.user, polled.polls),
        micros_each(polled.cpu.system, polled.polls),
    )
}

fn as_json(polled: &Polled) -> String {
    json!({
        "polls": polled.polls,
        "failures": polled.failures,
        "elapsed_s": polled.elapsed.as_secs_f64(),
        "polls_per_s": per_second(polled.polls, polled.elapsed),
        "delay_ms_p50": polled.delay_ms_p50,
        "delay_ms_p99": polled.delay_ms_p99,
        "cpu_user_s": polled.cpu.user.as_secs_f64(),
        "cpu_system_s": polled.cpu.system.as_secs_f64(),
        "cpu_us_per_poll": micros_each(polled.cpu.total(), polled.polls),
    })
    .to_string()
}
