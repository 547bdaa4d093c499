//! The command line: what may be asked for, and what `check` prints.

pub mod check;
pub mod journal;
pub mod run;
#[cfg(feature = "demo")]
pub mod simulate;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Exit code of a configuration with problems (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// The command line of `sitepulse`.
#[derive(Debug, Parser)]
#[command(
    name = "sitepulse",
    version,
    about = "Collects telemetry of a city's infrastructure and makes indicators of it",
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        sitepulse demo                                   see it at work on a simulated city\n  \
        sitepulse check --config config/                 every problem at once, or what would be done\n  \
        sitepulse run --config /etc/sitepulse            a folder with sitepulse.toml\n  \
        sitepulse journal verify /var/lib/sitepulse      what recovery would say of every segment\n  \
        SITEPULSE__LOG__LEVEL=debug sitepulse run --config site.toml\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad configuration"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Collect until stopped (SIGTERM or Ctrl-C)
    #[command(after_help = "Example:\n  sitepulse run --config /etc/sitepulse")]
    Run(ConfigArgs),
    /// Check the configuration: list every problem, or what would be subscribed, polled and computed
    #[command(after_help = "Example:\n  sitepulse check --config config/ && systemctl restart sitepulse")]
    Check(ConfigArgs),
    /// Look at the journal, of a daemon that is stopped or running; changes nothing
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Run the collector on a simulated city: brokers, stations, racks and a port, with faults
    #[cfg(feature = "demo")]
    Demo(crate::demo::Args),
    /// Send a load of a city's size to a broker, as cheaply as can be, to measure with
    #[cfg(feature = "demo")]
    Simulate(Box<simulate::SimulateArgs>),
}

/// Which configuration to use.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file, or folder that holds sitepulse.toml
    #[arg(long, value_name = "PATH")]
    pub config: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_wrong_usage_exits_with_2() {
        Cli::command().debug_assert();
        for wrong in [
            vec!["sitepulse"],
            vec!["sitepulse", "check"],
            vec!["sitepulse", "chekc", "--config", "x"],
            vec!["sitepulse", "journal", "verify"],
        ] {
            let error = Cli::try_parse_from(&wrong).expect_err("wrong usage");
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
        let help = Cli::try_parse_from(["sitepulse", "--help"]).expect_err("help");
        assert_eq!(help.exit_code(), 0);
        assert!(help.to_string().contains("sitepulse check --config config/"), "{help}");
    }
}
