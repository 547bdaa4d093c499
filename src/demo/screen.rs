//! What the demo prints: a table redrawn in place in a terminal, plain lines anywhere else.

use std::io::{self, IsTerminal, Write};

use comfy_table::Table;
use tokio::time::Instant;

use super::city::{Intro, View, messages};
use super::findings::Report;
use super::table::{self, Layout, Style};
use crate::ledger::{Counts, Ledger};
use crate::simulate::FaultKind;

/// Columns that the wide table takes.
const WIDE_COLUMNS: u16 = 112;

/// Where the demo prints.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    layout: Layout,
    style: Style,
    /// Whether it is a terminal whose lines can be drawn over.
    live: bool,
    /// Lines that the next picture goes over.
    drawn: usize,
    last: Option<(Instant, u64)>,
}

impl Screen {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        let live = io::stdout().is_terminal();
        // https://no-color.org: set and not empty.
        let colourless = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = if live && !colourless { Style::Colour } else { Style::Plain };
        let width = Table::new().width().filter(|_| live);
        let layout = if width.is_some_and(|width| width < WIDE_COLUMNS) { Layout::Narrow } else { Layout::Wide };
        Self { out: Box::new(io::stdout()), layout, style, live, drawn: 0, last: None }
    }

    /// Whether it is a terminal.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// What the demo is, the page's address first.
    pub(super) fn intro(&mut self, intro: &Intro) -> io::Result<()> {
        let Intro { page, stations, racks, devices, speed, start } = intro;
        writeln!(self.out, "Page: http://{page}/")?;
        writeln!(
            self.out,
            "\nA simulated city: {stations} base stations, a data centre with {racks} racks, a port; {devices} devices.\n\
             Simulated time runs {speed} times faster than real time, from {start} on.\nIts faults:"
        )?;
        for labels in FaultKind::ALL.chunks(3) {
            let labels: Vec<_> = labels.iter().map(|kind| kind.label()).collect();
            writeln!(self.out, "  {}", labels.join("; "))?;
        }
        writeln!(self.out)?;
        self.out.flush()
    }

    /// What there is to show now.
    pub(super) fn show(&mut self, view: &View) -> io::Result<()> {
        let status = self.status(view);
        if !self.live {
            let line = plain_line(view);
            writeln!(self.out, "{status}\n  {line}")?;
            return self.out.flush();
        }
        let mut lines = table::indicators(&view.descriptions, &view.rows, self.layout, self.style);
        lines.push(status);
        self.draw(&lines)
    }

    /// A remark below what is shown.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.drawn += 1;
        self.out.flush()
    }

    /// What it came to.
    pub(super) fn summary(&mut self, report: &Report) -> io::Result<()> {
        let mut lines = table::indicators(&report.descriptions, &report.rows, self.layout, self.style);
        lines.push(format!("\nSimulated {} to {}.", report.start, report.end));
        lines.push(format!(
            "Targets of stations and racks are a whole city's; this one is small. What the model itself knows: {} racks \
             in use,\nPUE {:.4} over this time.",
            report.city.racks_in_use(),
            report.city.pue(report.start, report.end)
        ));
        lines.extend(ledger_lines(&report.ledger, report.published));
        lines.push("\nFaults made, and where the collector shows them:".to_owned());
        let finding = |finding: &super::findings::Finding| {
            format!("  {:>6}  {:<42} {:>6}  {}", finding.made, finding.kind.label(), finding.seen, finding.place)
        };
        lines.extend(report.faults.iter().map(finding));
        if self.live {
            self.draw(&lines)
        } else {
            writeln!(self.out, "\n{}", lines.join("\n"))?;
            self.out.flush()
        }
    }

    /// Draws over what was drawn before.
    fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let mut picture = String::new();
        if self.drawn > 0 {
            // Up, to the line's start, and clear from there down.
            picture = format!("\u{1b}[{}A\r\u{1b}[J", self.drawn);
        }
        picture.push_str(&lines.join("\n"));
        picture.push('\n');
        self.drawn = lines.iter().map(|line| line.matches('\n').count() + 1).sum();
        self.out.write_all(picture.as_bytes())?;
        self.out.flush()
    }

    fn status(&mut self, view: &View) -> String {
        let received = view.ledger.received;
        let rate = self.last.replace((view.at, received)).map_or(String::new(), |(then, before)| {
            let seconds = view.at.duration_since(then).as_secs_f64().max(1e-3);
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let messages = received.saturating_sub(before) as f64;
            format!("{:.0} messages/s, ", messages / seconds)
        });
        let lag = if view.lag_ms > 60_000 {
            format!(", devices {} s behind: try a lower --speed", view.lag_ms / 1_000)
        } else {
            String::new()
        };
        format!(
            "{}  {rate}{received} received, ledger {}, {} faults so far{lag}",
            view.now,
            balance(&view.ledger),
            view.faults
        )
    }
}

fn balance(ledger: &Ledger) -> &'static str {
    if ledger.balanced() { "balanced" } else { "NOT BALANCED" }
}

/// The newest value of each indicator in one line.
fn plain_line(view: &View) -> String {
    let newest = |id: &str| view.rows.iter().filter(|row| *row.id == *id).min_by_key(|row| row.window);
    let of = |description: &crate::indicator::Description| {
        let row = newest(&description.id)?;
        let unit = if description.unit == "1" { String::new() } else { format!(" {}", description.unit) };
        Some(match row.value {
            Some(_) => format!("{} {}{unit}", description.id, table::number(row.value)),
            None => format!("{} not known", description.id),
        })
    };
    let known: Vec<_> = view.descriptions.iter().filter_map(of).collect();
    if known.is_empty() { "no minute is final yet".to_owned() } else { known.join(", ") }
}

fn ledger_lines(ledger: &Ledger, published: u64) -> Vec<String> {
    let total = ledger.total();
    let heard = ledger.sources.get("city-broker").map_or(0, messages);
    let reasons = |counts: Vec<(&str, u64)>| {
        let parts: Vec<_> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    };
    let Counts { messages_decoded, readings_decoded, applied, duplicate, conflicting, expired, .. } = total;
    let rejected = reasons(total.rejected.iter().map(|(reason, &count)| (reason.label(), count)).collect());
    let invalid = reasons(total.invalid.iter().map(|(reason, &count)| (reason.label(), count)).collect());
    vec![
        format!("\nLedger: {}", balance(ledger)),
        format!(
            "  messages  {} received = {messages_decoded} decoded + {} rejected{rejected} + {} pending",
            ledger.received,
            total.messages_rejected(),
            ledger.pending
        ),
        format!(
            "  readings  {readings_decoded} decoded = {applied} applied + {duplicate} duplicate + {conflicting} conflicting + {} \
             invalid{invalid} + {expired} expired",
            total.readings_invalid()
        ),
        format!("  of the messages, devices published {published} over MQTT and {heard} of them were received"),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::Timestamp;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("lock").clone()).expect("UTF-8")
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn screen(live: bool) -> (Screen, Paper) {
        let paper = Paper::default();
        let out = Box::new(paper.clone());
        (Screen { out, layout: Layout::Wide, style: Style::Plain, live, drawn: 0, last: None }, paper)
    }

    fn view(received: u64) -> View {
        View {
            now: Timestamp::from_millis(1_764_000_000_000),
            at: Instant::now(),
            lag_ms: 0,
            ledger: Ledger { received, pending: received, ..Ledger::default() },
            faults: 3,
            rows: Vec::new(),
            descriptions: Arc::new([]),
        }
    }

    #[test]
    fn in_a_terminal_each_picture_goes_over_the_one_before() {
        let (mut screen, paper) = screen(true);
        screen.show(&view(1)).expect("printed");
        assert!(!paper.text().contains('\u{1b}'), "{}", paper.text());
        let lines = paper.text().lines().count();
        screen.note("stopping").expect("printed");
        screen.show(&view(2)).expect("printed");
        assert!(paper.text().contains(&format!("stopping\n\u{1b}[{}A\r\u{1b}[J", lines + 1)), "{:?}", paper.text());
    }

    #[test]
    fn in_a_file_nothing_is_drawn_over() {
        let (mut screen, paper) = screen(false);
        screen.show(&view(1)).expect("printed");
        screen.show(&view(2)).expect("printed");
        assert!(!paper.text().contains('\u{1b}'), "{}", paper.text());
        assert_eq!(paper.text().matches("ledger balanced, 3 faults so far").count(), 2, "{}", paper.text());
    }

    #[test]
    fn a_ledger_that_does_not_balance_says_so_loudly() {
        let ledger = Ledger { received: 5, ..Ledger::default() };
        let text = ledger_lines(&ledger, 5).join("\n");
        assert!(text.contains("Ledger: NOT BALANCED"), "{text}");
    }
}
