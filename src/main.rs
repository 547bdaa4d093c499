//! The `sitepulse` command.

use std::process::ExitCode;

use clap::Parser;
#[cfg(feature = "demo")]
use sitepulse::cli::simulate;
use sitepulse::cli::{Cli, Command, EXIT_CONFIG, check, journal, run};
use sitepulse::config;
use sitepulse::visible::Visible;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line is what prints")]
fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => {
            let report = check::check(&args.config, &config::environment());
            print!("{}", report.text);
            ExitCode::from(report.exit_code)
        }
        Command::Run(args) => match config::load(&args.config) {
            Ok(config) => ended(&run::run(config, &args.config)),
            Err(problems) => {
                eprint!("{}", check::render_problems(&problems));
                ExitCode::from(EXIT_CONFIG)
            }
        },
        Command::Journal(command) => journal::run(&command),
        #[cfg(feature = "demo")]
        Command::Demo(args) => ended(&run::demo(args)),
        #[cfg(feature = "demo")]
        Command::Simulate(args) => ended(&simulate::run(*args)),
    }
}

#[expect(clippy::print_stderr, reason = "the command line is what prints")]
fn ended(result: &anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sitepulse cannot run: {}", Visible(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
