//! `sitepulse journal verify`: a line for each segment, and whether a person should look at any.

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::Progress;
use crate::journal::{Scope, SegmentReport, Sight, Storage, Verdict, bytes_of, inspect};

/// What all segments come to.
#[derive(Default)]
struct Sums {
    segments: u64,
    records: u64,
    bytes: u64,
    lost: u64,
    damaged: u64,
}

/// Prints the table and a summary; whether all is sound.
pub(super) fn verify(
    storage: &dyn Storage,
    scope: &Scope,
    out: &mut dyn Write,
    progress: &mut Progress,
) -> io::Result<bool> {
    let total = bytes_of(storage)?;
    writeln!(
        out,
        "{:>20}  {:>10}  {:>12}  {:<24}  {:<24}  verdict",
        "first", "records", "bytes", "arrived from", "to"
    )?;
    let mut sums = Sums::default();
    let mut failure = None;
    inspect(storage, scope, &mut |sight| {
        let printed = match sight {
            Sight::Record(..) | Sight::Lost { .. } => return ControlFlow::Continue(()),
            Sight::Segment(report) => {
                sums.add(&report);
                progress.at(sums.bytes, total);
                line(&report, out)
            }
            Sight::Twin(name) => {
                sums.damaged += 1;
                writeln!(out, "{name}: left alone, another file has the same first position")
            }
            Sight::Gone(name) => writeln!(out, "{name}: went away, or was renamed, meanwhile"),
        };
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(cause) => {
                failure = Some(cause);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(cause) = failure {
        return Err(cause);
    }
    let Sums { segments, records, bytes, lost, damaged } = sums;
    writeln!(out, "\n{segments} segments, {records} records, {bytes} bytes")?;
    if damaged == 0 && lost == 0 {
        writeln!(out, "sound")?;
        return Ok(true);
    }
    writeln!(out, "damaged: {damaged} files to look at, {lost} records lost at the most; the rest is read as usual")?;
    Ok(false)
}

impl Sums {
    fn add(&mut self, report: &SegmentReport) {
        self.segments += 1;
        self.records += report.records;
        self.bytes += report.bytes;
        self.lost += report.lost;
        self.damaged += u64::from(report.is_damaged());
    }
}

fn line(report: &SegmentReport, out: &mut dyn Write) -> io::Result<()> {
    let time = |time: Option<crate::model::Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    let (from, to) = (time(report.arrivals.map(|(from, _)| from)), time(report.arrivals.map(|(_, to)| to)));
    let (first, records, bytes) = (report.first.0, report.records, report.bytes);
    write!(out, "{first:>20}  {records:>10}  {bytes:>12}  {from:<24}  {to:<24}  ")?;
    match report.verdict {
        Verdict::Sound => write!(out, "sound")?,
        Verdict::Unused => write!(out, "unused")?,
        Verdict::Torn { at } => write!(out, "sound up to {at}, torn or being written behind it")?,
        Verdict::Short => write!(out, "ends before the next one starts")?,
        Verdict::Damaged { at } => write!(out, "damaged at {at}")?,
        Verdict::Later { version } => write!(out, "of a later format, {version}")?,
    }
    if report.lost > 0 {
        write!(out, ", {} records lost", report.lost)?;
    }
    if report.is_set_aside {
        write!(out, ", set aside as {}", report.name)?;
    }
    writeln!(out)
}
