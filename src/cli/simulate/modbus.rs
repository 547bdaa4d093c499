//! `sitepulse simulate modbus`: devices that answer.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;

use super::{micros_each, per_second, span, watch};
use crate::simulate::load::{ModbusLoad, ModbusOptions, cpu_time};

/// Which devices to serve.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
        sitepulse simulate modbus --devices 1000 --port 15020                  one port each, 15020 to 16019\n  \
        sitepulse simulate modbus --devices 240 --units-per-port 240 --port 502    one gateway, units 1 to 240\n\n\
        Says `listening` on standard error when it is ready.")]
pub(super) struct ModbusArgs {
    /// Devices
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    devices: u32,
    /// Registers of each, from 0 on
    #[arg(long, value_name = "N", default_value_t = 60)]
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
    /// End after this long; without it at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    duration: Option<Duration>,
}

/// Serves until it is over.
pub(super) fn run(args: &ModbusArgs) -> anyhow::Result<()> {
    let options = ModbusOptions {
        host: args.host,
        port: args.port,
        devices: args.devices as usize,
        units_per_port: args.units_per_port,
        registers: args.registers,
    };
    let (begun, cpu) = (Instant::now(), cpu_time());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(async {
        let load = ModbusLoad::bind(options).await?;
        writeln!(io::stderr(), "listening")?;
        let requests = load.requests();
        let count = || requests.load(Ordering::Relaxed);
        let line = || format!("{} requests, {:.0}/s", count(), per_second(count(), begun.elapsed()));
        tokio::select! {
            () = load.serve() => {}
            watched = watch(args.duration, || false, line) => watched?,
        }
        anyhow::Ok(count())
    })?;
    let spent = cpu_time().since(cpu).total();
    let each = micros_each(spent, answered);
    writeln!(
        io::stdout(),
        "{answered} requests: {:.0}/s, CPU {each:.2} us a request",
        per_second(answered, begun.elapsed())
    )?;
    Ok(())
}
