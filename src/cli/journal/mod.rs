//! `sitepulse journal`: looks at the journal of a daemon that is stopped, or running; changes nothing.

mod dump;
mod text;
mod verify;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};

use super::EXIT_CONFIG;
use super::check::render_problems;
use crate::config;
use crate::journal::{Folder, Scope, has_segments};

/// Name of the folder of segments in the data folder.
const JOURNAL_FOLDER: &str = "journal";

/// What to do with a journal.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Read every segment and say what is damaged: exit code 0 where all is sound, 1 where not
    #[command(after_help = "Examples:\n  \
        sitepulse journal verify /var/lib/sitepulse\n  \
        sitepulse journal verify --config /etc/sitepulse || echo look at the table")]
    Verify(Place),
    /// Print records, one a line
    #[command(after_help = "Examples:\n  \
        sitepulse journal dump /var/lib/sitepulse | jq -r .topic | sort | uniq -c\n  \
        sitepulse journal dump /var/lib/sitepulse --topic 'telemetry/+/350102/#' --payload --format text | less\n  \
        sitepulse journal dump /var/lib/sitepulse/journal/00000000000000004711.damaged --payload\n\n\
        Where records are gone there is a line with `position` and `lost` instead.")]
    Dump(DumpArgs),
}

/// Where the journal is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// Data folder, folder of segments, or one segment
    pub path: Option<PathBuf>,
    /// Configuration that names the data folder: a file, or a folder that holds sitepulse.toml
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

/// Which records to print, and how.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Where the journal is.
    #[command(flatten)]
    pub place: Place,
    /// First position
    #[arg(long, value_name = "POS", default_value_t = 0)]
    pub from: u64,
    /// Position before which to end
    #[arg(long, value_name = "POS", default_value_t = u64::MAX, hide_default_value = true)]
    pub to: u64,
    /// Only what this source heard (`modbus`, or the name of an [[mqtt]])
    #[arg(long)]
    pub source: Option<String>,
    /// Only topics that this filter matches, with `+` and `#`
    #[arg(long, value_name = "FILTER")]
    pub topic: Option<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
    /// Print payloads too: as text, or in base64 where they are no UTF-8
    #[arg(long)]
    pub payload: bool,
}

/// How to print records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A JSON object a line
    Json,
    /// Columns
    Text,
}

/// Does what is asked, on standard output.
#[must_use]
pub fn run(command: &JournalCommand) -> ExitCode {
    let (JournalCommand::Verify(place) | JournalCommand::Dump(DumpArgs { place, .. })) = command;
    let path = match (&place.path, &place.config) {
        (None, Some(config)) => match config::load(config) {
            Ok(config) => config.journal.folder,
            Err(problems) => {
                complain(render_problems(&problems).trim_end());
                return ExitCode::from(EXIT_CONFIG);
            }
        },
        (path, _) => path.clone().unwrap_or_default(),
    };
    let done = segments_at(&path).and_then(|(folder, name)| {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let storage = Folder::existing(&folder);
        let scope = Scope { name, ..Scope::default() };
        // A journal may hold nothing yet; a folder that was named by mistake is not sound for that.
        let may_be_empty = scope.name.is_none() && folder.ends_with(JOURNAL_FOLDER);
        if !may_be_empty && !has_segments(&storage, &scope)? {
            return Err(io::Error::other("there is none; name the data folder, or one that holds segments"));
        }
        let is_sound = match command {
            JournalCommand::Verify(_) => verify::verify(&storage, &scope, &mut out, &mut Progress::start())?,
            JournalCommand::Dump(args) => dump::dump(&storage, scope, args, &mut out).map(|()| true)?,
        };
        out.flush()?;
        Ok(is_sound)
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(cause) => {
            complain(&format!("cannot look at the journal in {}: {cause}", path.display()));
            ExitCode::FAILURE
        }
    }
}

/// The folder of segments that is meant by `path`, and the one segment, where it is one.
fn segments_at(path: &Path) -> io::Result<(PathBuf, Option<String>)> {
    if std::fs::metadata(path)?.is_file() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return Ok((folder.unwrap_or(Path::new(".")).to_owned(), name));
    }
    let inside = path.join(JOURNAL_FOLDER);
    Ok((if inside.is_dir() { inside } else { path.to_owned() }, None))
}

fn complain(text: &str) {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// How far it is, on a terminal, once it takes long.
pub(super) struct Progress {
    is_shown: bool,
    began: Instant,
    drawn: bool,
}

impl Progress {
    fn start() -> Self {
        Self { is_shown: io::stderr().is_terminal(), began: Instant::now(), drawn: false }
    }

    fn at(&mut self, done: u64, total: u64) {
        const QUIET: Duration = Duration::from_secs(1);
        const WIDTH: u64 = 30;
        if !self.is_shown || self.began.elapsed() < QUIET {
            return;
        }
        self.drawn = true;
        let share = done.min(total) * WIDTH / total.max(1);
        let bar: String = (0..WIDTH).map(|place| if place < share { '#' } else { '.' }).collect();
        let _ = write!(io::stderr(), "\r[{bar}] {:>3} %", done.min(total) * 100 / total.max(1));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
