//! `sitepulse run` and `sitepulse demo`: the runtime, the log and the signals they run under.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, info};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::{FormatFields, MakeWriter, format};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::app::Daemon;
use crate::clock::Clock;
use crate::config::{Config, LogFormat, LogOptions};
use crate::visible::Escaping;

/// Runs the daemon until SIGTERM or Ctrl-C.
///
/// # Errors
/// Where the daemon cannot start; the error says what an operator can do about it.
pub fn run(config: Config, path: &Path) -> anyhow::Result<()> {
    log_to_stderr(&config.log);
    info!(config = %path.display(), "starting");
    run_and_leave(runtime()?, async {
        let stop = stop_signal()?;
        let daemon = Daemon::start(config, Clock::system()).await?;
        let broken = tokio::select! {
            () = stop => None,
            thread = daemon.broken() => Some(thread),
        };
        daemon.stop().await;
        match broken {
            None => Ok(()),
            Some(thread) => anyhow::bail!(
                "the thread {thread} ended by a defect of ours; what it lacks is in the journal, start again"
            ),
        }
    })
}

/// Runs the demo until its time is up, SIGTERM or Ctrl-C.
///
/// # Errors
/// Where the demo cannot run, or its ledger does not balance.
#[cfg(feature = "demo")]
pub fn demo(args: crate::demo::Args) -> anyhow::Result<()> {
    Ok(run_and_leave(runtime()?, crate::demo::run(args))?)
}

/// Runs `work`, and leaves whatever a thread still waits for: a runtime that is merely dropped waits for its blocking
/// threads without end, such as the one that joins a pipeline which somebody locks out of the store.
fn run_and_leave<T>(runtime: tokio::runtime::Runtime, work: impl Future<Output = T>) -> T {
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// A runtime of two threads.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")
}

/// A future that is done at SIGTERM or Ctrl-C; both are caught from now on.
///
/// # Errors
/// Where the system lets no signal be caught.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Fields as text, what deceives written out: what comes from others neither ends the line nor speaks to a terminal.
fn on_one_line() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(Escaping(writer), "{value:?}"),
        name => write!(Escaping(writer), "{name}={value:?}"),
    })
    .delimited(" ")
}

/// Sends log lines to standard error, in colour only where it is a terminal.
pub fn log_to_stderr(options: &LogOptions) {
    let to_terminal = io::IsTerminal::is_terminal(&io::stderr());
    match options.format {
        LogFormat::Text => text(io::stderr, options.level, to_terminal).init(),
        LogFormat::Json => json(io::stderr, options.level).init(),
    }
}

fn text(
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
    level: LevelFilter,
    to_terminal: bool,
) -> Dispatch {
    let lines = tracing_subscriber::fmt().with_writer(writer).with_max_level(level).with_ansi(to_terminal);
    Dispatch::new(lines.with_target(false).fmt_fields(on_one_line()).finish())
}

fn json(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static, level: LevelFilter) -> Dispatch {
    let lines = tracing_subscriber::fmt().with_writer(writer).with_max_level(level);
    Dispatch::new(lines.json().flatten_event(true).finish())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::{Duration, Instant};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_others_say_neither_ends_a_line_of_the_log_nor_speaks_to_the_terminal() {
        let hostile = "refused\n2026-11-24T00:00:00Z ERROR forged\r\u{1b}[2Jx\u{9b}1m \u{202e}\u{200b}";
        let lines = Lines::default();
        let (one, other) = (lines.clone(), lines.clone());
        tracing::dispatcher::with_default(&text(move || one.clone(), LevelFilter::INFO, false), || {
            tracing::info!(cause = %hostile, reason = hostile, "{hostile}");
        });
        tracing::dispatcher::with_default(&json(move || other.clone(), LevelFilter::INFO), || {
            tracing::info!(cause = %hostile, "{hostile}");
        });
        let written = String::from_utf8(lines.0.lock().expect("a lock").clone()).expect("text");
        let (text, json) = written.trim_end().split_once('\n').expect("two lines");
        assert!(!json.contains(|character: char| character.is_ascii_control()), "{json:?}");
        assert!(!text.contains(crate::visible::deceives) && text.contains("cause=refused\\n2026-11-24"), "{text}");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!((json["cause"].as_str(), json["message"].as_str()), (Some(hostile), Some(hostile)));
    }

    #[test]
    fn a_thread_that_does_not_end_does_not_keep_the_process() {
        let (end, ended) = mpsc::channel::<()>();
        let begun = Instant::now();
        let left = run_and_leave(runtime().expect("a runtime"), async move {
            tokio::task::spawn_blocking(move || ended.recv_timeout(Duration::from_mins(1)));
            "left"
        });
        assert_eq!(left, "left");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        drop(end);
    }
}
