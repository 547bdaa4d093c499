//! `sitepulse simulate`: a load of a city's size, the folder for a collector that takes it, and what to compare with.
//!
//! A tool to measure with; what it sends is made in [`crate::simulate::load`].

mod consume;
mod inventory;
mod modbus;
mod poll;
mod publish;

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::run::stop_signal;
use crate::document::{address, duration};

/// Time between lines of progress.
const LOOK: Duration = Duration::from_millis(500);

/// What to send, or what else to do.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        sitepulse simulate inventory --out city                          a folder for a collector that takes the load\n  \
        sitepulse run --config city                                      that collector\n  \
        sitepulse simulate --rate 7500 --for 10m                         75,000 sites, each every 10 s\n  \
        sitepulse simulate --messages 1000000 --json                     as fast as the broker takes them\n  \
        sitepulse simulate --rate 7500 --late 0.01 --repeat 0.02         some 5 minutes late, some twice\n  \
        sitepulse simulate consume                                       what a bare subscriber costs\n  \
        sitepulse simulate modbus --devices 1000 --registers 60 --port 15020\n  \
        sitepulse simulate poll --devices 1000 --for 30s                 what a bare poller of these costs\n\n\
        Exit codes: 0 the broker has every message, 1 it has not or is not there, 2 wrong usage"
)]
pub struct SimulateArgs {
    #[command(subcommand)]
    command: Option<SimulateCommand>,
    #[command(flatten)]
    publish: publish::PublishArgs,
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
enum SimulateCommand {
    /// Write the configuration folder of a collector that knows every site of the load
    Inventory(inventory::InventoryArgs),
    /// Subscribe and only count: what the broker alone allows
    Consume(consume::ConsumeArgs),
    /// Serve Modbus TCP devices
    Modbus(modbus::ModbusArgs),
    /// Poll Modbus TCP devices and only count: what the library alone costs
    Poll(poll::PollArgs),
}

/// Does what was asked for.
///
/// # Errors
/// Where it cannot be done, or the broker did not take all of it.
pub fn run(args: SimulateArgs) -> anyhow::Result<()> {
    // The log is for what goes wrong only.
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(tracing::Level::WARN);
    let _ = lines.with_target(false).with_ansi(io::stderr().is_terminal()).try_init();
    match args.command {
        None => publish::run(&args.publish),
        Some(SimulateCommand::Inventory(args)) => inventory::run(&args),
        Some(SimulateCommand::Consume(args)) => consume::run(&args),
        Some(SimulateCommand::Modbus(args)) => modbus::run(&args),
        Some(SimulateCommand::Poll(args)) => poll::run(&args),
    }
}

/// The broker, as every subcommand names it.
#[derive(Clone, Debug, Args)]
struct BrokerArgs {
    /// The broker
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883", value_parser = broker)]
    broker: SocketAddr,
}

fn broker(text: &str) -> Result<SocketAddr, String> {
    let place = address(text, "mqtt", 1_883)?;
    let found = (place.host.as_str(), place.port).to_socket_addrs();
    found.ok().and_then(|mut found| found.next()).ok_or_else(|| format!("`{}` is no host that is known", place.host))
}

fn span(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span.is_zero() { Err("give more than nothing, such as 10s".to_owned()) } else { Ok(span) }
}

/// Waits until `finished`, `duration` is over, or Ctrl-C; on a terminal `line` is shown meanwhile.
async fn watch(
    duration: Option<Duration>,
    finished: impl Fn() -> bool,
    mut line: impl FnMut() -> String,
) -> io::Result<()> {
    let mut stop = std::pin::pin!(stop_signal()?);
    let until = duration.map(|span| tokio::time::Instant::now() + span);
    let (mut looks, on_terminal) = (interval(LOOK), io::stderr().is_terminal());
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !finished() && until.is_none_or(|until| tokio::time::Instant::now() < until) {
        let soon = tokio::time::Instant::now() + Duration::from_millis(20);
        tokio::select! {
            _ = looks.tick() => if on_terminal {
                write!(io::stderr(), "\r\x1b[K{}", line())?;
            },
            () = tokio::time::sleep_until(until.map_or(soon, |until| until.min(soon))) => {}
            () = &mut stop => break,
        }
    }
    if on_terminal {
        write!(io::stderr(), "\r\x1b[K")?;
    }
    Ok(())
}

/// `count` in `span`, a second.
fn per_second(count: u64, span: Duration) -> f64 {
    ratio(count) / span.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// `span` per one of `count`, microseconds.
fn micros_each(span: Duration, count: u64) -> f64 {
    span.as_secs_f64() * 1e6 / ratio(count.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages lie far below 2^53")]
fn ratio(count: u64) -> f64 {
    count as f64
}
