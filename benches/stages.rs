//! What each stage costs, per message of 13 readings, beside the least that it was measured to take; and the whole path.
//!
//! ```text
//! cargo bench --features bench --bench stages                       every stage, then the whole path
//! cargo bench --features bench --bench stages -- decode merge       these only
//! cargo bench --features bench --bench stages -- path sites=1000 interval=10 seconds=300
//! ```
//!
//! `instructions` runs a fixed small workload once, for `benches/instructions`.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

mod stage;
mod support;
mod whole;

use std::path::Path;

use support::Line;

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Stages, or none for all.
    names: Vec<String>,
    /// Sites of the city.
    pub(crate) sites: usize,
    /// Seconds between the messages of a site, in the whole path.
    pub(crate) interval_s: usize,
    /// Seconds that the whole path goes through.
    pub(crate) seconds: usize,
    /// Runs of each stage, of which the median is shown.
    pub(crate) samples: usize,
}

impl Request {
    fn read() -> Self {
        let mut request = Self { names: Vec::new(), sites: 75_000, interval_s: 1, seconds: 180, samples: 5 };
        for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
            let Some((key, value)) = argument.split_once('=') else {
                request.names.push(argument);
                continue;
            };
            let number = value.parse().expect("a number");
            match key {
                "sites" => request.sites = number,
                "interval" => request.interval_s = number,
                "seconds" => request.seconds = number,
                "samples" => request.samples = number,
                _ => {
                    println!("{key}: none of sites, interval, seconds, samples");
                    std::process::exit(2);
                }
            }
        }
        request
    }

    /// Whether `name` is to be run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

fn main() {
    let request = Request::read();
    if let Some(read) = stage::window::read(&request) {
        println!("{read}");
        return;
    }
    // On a real disk, not where temporary files may lie in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    if request.names == ["instructions"] {
        return whole::fixed_workload(folder.path());
    }
    Line::print_header();
    let sum = stages(&request, folder.path());
    if request.wants("path") {
        whole::run(&request, folder.path(), sum);
    }
}

/// Runs the stages and returns what those of the path come to together, ns.
fn stages(request: &Request, folder: &Path) -> f64 {
    let mut sum = 0.0;
    for (name, is_of_path, run) in stage::ALL {
        if request.wants(name) {
            let line = run(request, folder);
            line.print();
            sum += if is_of_path { line.ns } else { 0.0 };
        }
    }
    sum
}
