//! `sitepulse simulate inventory`: the configuration folder of a collector for the load.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::publish::sites;
use super::{BrokerArgs, span};
use crate::simulate::load::{Fleet, FolderOptions, ModbusPark, write_folder};

/// What the folder is to say.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
        sitepulse simulate inventory --out city && sitepulse run --config city\n  \
        sitepulse simulate inventory --sites 1000 --interval 1s --out small\n  \
        sitepulse simulate inventory --sites 0 --modbus-devices 1000 --modbus-interval 1s --out polled")]
pub(super) struct InventoryArgs {
    /// Folder to write: sitepulse.toml, areas, sites, devices, profiles, indicators
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    broker: BrokerArgs,
    /// Sites, as many as are to send; 0 for Modbus devices alone, without a broker
    #[arg(long, value_name = "N", default_value_t = 75_000, value_parser = sites_or_none)]
    sites: usize,
    /// From a site's message to its next one
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = span)]
    interval: Duration,
    /// Where the collector's API listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8800")]
    listen: SocketAddr,
    /// Modbus devices on this machine, those of `simulate modbus`
    #[arg(long, value_name = "N", default_value_t = 0)]
    modbus_devices: usize,
    /// Port of the first of them
    #[arg(long, value_name = "PORT", default_value_t = 15_020)]
    modbus_port: u16,
    /// Devices behind one port
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=247))]
    units_per_port: u8,
    /// Registers of each, read as so many metrics
    #[arg(long, value_name = "N", default_value_t = 60)]
    registers: u16,
    /// From poll to poll
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = span)]
    modbus_interval: Duration,
}

fn sites_or_none(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { sites(text) }
}

/// Writes the folder.
pub(super) fn run(args: &InventoryArgs) -> anyhow::Result<()> {
    let modbus = (args.modbus_devices > 0).then_some(ModbusPark {
        devices: args.modbus_devices,
        port: args.modbus_port,
        units_per_port: args.units_per_port,
        registers: args.registers,
        interval: args.modbus_interval,
    });
    let options = FolderOptions {
        fleet: Fleet { sites: args.sites },
        interval: args.interval,
        broker: args.broker.broker,
        listen: args.listen,
        modbus,
    };
    write_folder(&args.out, &options).with_context(|| format!("cannot write {}", args.out.display()))?;
    writeln!(io::stdout(), "{} sites in {}", args.sites, args.out.display())?;
    Ok(())
}
