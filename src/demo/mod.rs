//! `sitepulse demo`: the real collector on a simulated city, in one process, with nothing else installed.
//!
//! Makes a configuration folder of what ships, loads it as any other, and starts the daemon on a clock that runs faster
//! than real time; broker, devices and their faults are those of [`crate::simulate`]. Owns what is printed; decides
//! nothing about data.

mod args;
mod city;
mod findings;
mod folder;
mod screen;
mod table;

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing_subscriber::EnvFilter;

pub use args::Args;

use self::city::Demo;
use self::screen::Screen;
use crate::cli::run::stop_signal;
use crate::config::Config;
use crate::problem::Problem;
use crate::simulate::BrokerError;
use crate::{app, store};

/// Time between looks at what there is to show: in a terminal, and in a file or a pipe.
const LOOK_LIVE: Duration = Duration::from_millis(500);
const LOOK_PLAIN: Duration = Duration::from_secs(5);

/// Why the demo did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The configuration folder, a simulated device or the terminal failed.
    #[error("the demo cannot {action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The configuration that it made for itself is refused.
    #[error("the demo's configuration is refused:\n{}", lines(.0))]
    Config(Vec<Problem>),
    /// The daemon does not start.
    #[error("the collector does not start")]
    Daemon(#[from] app::Error),
    /// The collector does not hear the broker.
    #[error("the collector did not connect to the embedded broker within {0:?}")]
    Deaf(Duration),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Something is nowhere.
    #[error("the ledger is not balanced: something was lost or counted twice, which is a fault of sitepulse")]
    Unbalanced,
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, source }
}

/// Runs the demo until its time is over, or until Ctrl-C or SIGTERM; needs a runtime of several threads.
///
/// # Errors
/// [`Error`] where it cannot run, and where the ledger is not balanced at its end.
pub async fn run(args: Args) -> Result<(), Error> {
    let mut screen = Screen::stdout();
    log(&screen);
    let mut stop = pin!(stop_signal().map_err(io_error("catch Ctrl-C"))?);
    let demo = Demo::start(&args).await?;
    screen.intro(&demo.intro()).map_err(io_error("print"))?;
    let end = args.duration.map(|span| Instant::now() + demo.time_to_start() + span);
    let look = if screen.is_live() { LOOK_LIVE } else { LOOK_PLAIN };
    loop {
        let next = Instant::now() + look;
        let until = end.map_or(next, |end| end.min(next));
        tokio::select! {
            () = sleep_until(until) => {}
            () = &mut stop => break,
        }
        if end.is_some_and(|end| end <= Instant::now()) {
            break;
        }
        screen.show(&demo.view()?).map_err(io_error("print"))?;
    }
    screen.note("stopping: waiting for what is on its way ...").map_err(io_error("print"))?;
    let report = demo.finish().await?;
    screen.summary(&report).map_err(io_error("print"))?;
    if report.ledger.balanced() { Ok(()) } else { Err(Error::Unbalanced) }
}

/// Logs to standard error as `RUST_LOG` says; without it warnings only, and nothing where they would run into the table.
/// What the process logs already is left alone.
fn log(screen: &Screen) {
    let default = if screen.is_live() && io::stderr().is_terminal() { "off" } else { "warn,rumqttd=off" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    // It fails where there is a subscriber, which is the one to keep.
    let _ = lines.with_target(false).with_env_filter(filter).try_init();
}

/// Loads the configuration of `folder` as `run` would, whatever the environment says.
fn load(folder: &folder::Folder) -> Result<Config, Error> {
    crate::config::load_with(folder.path(), &crate::config::Environment::new()).map_err(Error::Config)
}
