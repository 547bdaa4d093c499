//! CSV tables with a header, read so that a bad row never hides the next.
//!
//! Takes what spreadsheets write: a byte order mark, CRLF, blank rows, blanks around values, empty cells at the end.

use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, StringRecord, Trim};

use super::File;
use crate::document::nearest;
use crate::problem::Problem;

/// The columns of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Columns that the header must have.
    pub(super) required: &'static [&'static str],
    /// Columns that it may have.
    pub(super) optional: &'static [&'static str],
}

/// One row of a table.
pub(super) struct Row<'a> {
    /// Line in the file, the header being 1.
    pub(super) line: u64,
    file: &'a str,
    record: &'a StringRecord,
    header: &'a [String],
    problems: &'a mut Vec<Problem>,
}

impl<'a> Row<'a> {
    /// The value in `column`; empty where the table has no such column.
    pub(super) fn text(&self, column: &str) -> &'a str {
        let index = self.header.iter().position(|name| name == column);
        index.and_then(|index| self.record.get(index)).unwrap_or("")
    }

    /// The value in `column`; `None` where it is empty.
    pub(super) fn given(&self, column: &str) -> Option<&'a str> {
        Some(self.text(column)).filter(|text| !text.is_empty())
    }

    /// Adds a problem at `column`.
    pub(super) fn add(&mut self, column: &str, message: impl Into<String>) {
        let key = format!("line {}, column \"{column}\"", self.line);
        self.problems.push(Problem::new(self.file, key, message));
    }

    /// The value where `outcome` has one; a problem at `column` otherwise.
    pub(super) fn ok<T>(&mut self, column: &str, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|message| self.add(column, message)).ok()
    }

    /// Problems found so far, of all rows.
    pub(super) fn problem_count(&self) -> usize {
        self.problems.len()
    }
}

/// What the file at `path` holds; a problem where it cannot be read.
pub(super) fn bytes(path: &Path, problems: &mut Vec<Problem>) -> Option<Vec<u8>> {
    let unreadable = |error| Problem::new(path.display().to_string(), "", format!("cannot read the file: {error}"));
    std::fs::read(path).map_err(|error| problems.push(unreadable(error))).ok()
}

/// Reads the table in `file` and hands every row of the right width to `each`.
pub(super) fn read(file: &File, columns: Columns, problems: &mut Vec<Problem>, each: &mut dyn FnMut(&mut Row<'_>)) {
    if let Some(bytes) = &file.bytes {
        read_bytes(&file.name, bytes, columns, problems, each);
    }
}

fn read_bytes(
    file: &str,
    bytes: &[u8],
    columns: Columns,
    problems: &mut Vec<Problem>,
    each: &mut dyn FnMut(&mut Row<'_>),
) {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        problems.push(Problem::new(file, "", "is UTF-16 text; save it as \"CSV UTF-8\""));
        return;
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(bytes);
    let mut header: Option<Vec<String>> = None;
    let mut raw = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut raw) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                problems.push(Problem::new(file, "", format!("is no CSV: {error}")));
                return;
            }
        }
        if raw.iter().all(<[u8]>::is_empty) {
            continue;
        }
        let line = raw.position().map_or(0, |position| line_of(bytes, position));
        let Ok(record) = StringRecord::from_byte_record(std::mem::take(&mut raw)) else {
            problems.push(Problem::new(
                file,
                format!("line {line}"),
                "is not UTF-8 text; save it as \"CSV UTF-8\", not GBK",
            ));
            if header.is_none() {
                return;
            }
            continue;
        };
        match &header {
            None => match check_header(file, line, &record, columns, problems) {
                Some(names) => header = Some(names),
                None => return,
            },
            Some(header) => {
                if let Some(fault) = width_fault(&record, header.len()) {
                    problems.push(Problem::new(file, format!("line {line}"), fault));
                    continue;
                }
                each(&mut Row { line, file, record: &record, header, problems });
            }
        }
    }
    if header.is_none() {
        let names = [columns.required, columns.optional].concat().join(",");
        problems.push(Problem::new(file, "", format!("is empty; the first line names the columns: {names}")));
    }
}

/// Line on which a record begins: the reader's position lies before the line ends that it skips.
fn line_of(bytes: &[u8], position: &csv::Position) -> u64 {
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let skipped = bytes.get(start..).unwrap_or_default().iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    let ends = skipped.filter(|byte| **byte == b'\n').count();
    position.line() + u64::try_from(ends).unwrap_or(0)
}

fn width_fault(record: &StringRecord, width: usize) -> Option<String> {
    let blank_beyond = record.iter().skip(width).all(str::is_empty);
    if record.len() == width || (record.len() > width && blank_beyond) {
        return None;
    }
    let hint = if record.len() > width { "; put a value that holds a comma in double quotes" } else { "" };
    Some(format!("has {} values where the header has {width} columns{hint}", record.len()))
}

/// The names of the columns; `None` where rows cannot be read without those that are missing.
fn check_header(
    file: &str,
    line: u64,
    record: &StringRecord,
    columns: Columns,
    problems: &mut Vec<Problem>,
) -> Option<Vec<String>> {
    let key = format!("line {line}");
    let all = [columns.required, columns.optional].concat();
    let names: Vec<String> = record.iter().map(str::to_owned).collect();
    if let [only] = &names[..]
        && let Some(separator) = [';', '\t'].into_iter().find(|separator| only.contains(*separator))
    {
        problems.push(Problem::new(
            file,
            key,
            format!("values are separated by {separator:?}; separate them by commas"),
        ));
        return None;
    }
    let missing: Vec<_> = columns.required.iter().filter(|&&column| !names.iter().any(|name| name == column)).collect();
    for (index, name) in names.iter().enumerate() {
        let blank_beyond = name.is_empty();
        if !blank_beyond && !all.contains(&name.as_str()) {
            let message = match nearest(name, all.iter().copied()) {
                Some(near) => format!("unknown column \"{}\"; did you mean \"{near}\"?", name.escape_debug()),
                None => format!("unknown column \"{}\"; valid: {}", name.escape_debug(), all.join(",")),
            };
            problems.push(Problem::new(file, key.clone(), message));
        } else if !blank_beyond && names[..index].contains(name) {
            problems.push(Problem::new(file, key.clone(), format!("column \"{name}\" stands twice")));
        }
    }
    for column in &missing {
        problems.push(Problem::new(file, key.clone(), format!("column \"{column}\" is missing")));
    }
    missing.is_empty().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns { required: &["site", "kind"], optional: &["name"] };

    fn read_text(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
        let (mut rows, mut problems) = (Vec::new(), Vec::new());
        read_bytes("s.csv", bytes, COLUMNS, &mut problems, &mut |row| {
            rows.push(format!("{} {} {} {}", row.line, row.text("site"), row.text("kind"), row.text("name")));
        });
        (rows, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_a_spreadsheet_writes_is_read() {
        let (rows, problems) =
            read_text("\u{feff}kind,site,name,\r\n port , P1,\"a, b\",\r\n,,,\r\nport,P2,福,\r\n".as_bytes());
        assert_eq!(rows, ["2 P1 port a, b", "4 P2 port 福"]);
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn a_bad_row_does_not_hide_the_next() {
        let (rows, problems) = read_text(b"site,kind\nP1\nP2,port,x\nP3,\xC4\xDA\nP4,port\n");
        assert_eq!(rows, ["5 P4 port "]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("s.csv: line 2: has 1 values"), "{problems:?}");
        assert!(problems[2].starts_with("s.csv: line 4: is not UTF-8"), "{problems:?}");
    }

    #[test]
    fn a_header_that_does_not_fit_is_told_once() {
        assert_eq!(read_text(b"").1.len(), 1);
        assert_eq!(
            read_text(b"site;kind\nP1;port\n").1,
            ["s.csv: line 1: values are separated by ';'; separate them by commas"]
        );
        assert_eq!(
            read_text(b"site,knid\nP1,port\n").1,
            [
                "s.csv: line 1: unknown column \"knid\"; did you mean \"kind\"?",
                "s.csv: line 1: column \"kind\" is missing"
            ]
        );
        assert_eq!(read_text(&[0xFF, 0xFE, 0x41, 0]).1.len(), 1);
    }
}
