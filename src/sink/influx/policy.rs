//! What to do with a store's answer, and how a refused batch is searched for its bad lines. Pure.
//!
//! Rows are idempotent, so sending again what was written does no harm; that is what makes the search simple: a part
//! that was refused is sent again in halves until the bad lines stand alone.

use std::ops::Range;

use super::lines::Lines;

/// Lines that a store refused without naming them, with nothing written in between, before we believe that it is the
/// request that it does not like (its bucket, its organisation) and not the lines.
const SUSPECTS_MAX: usize = 8;
/// Bytes at the start of a line by which a store's reason is taken to name it.
const LINE_NAME_BYTES: usize = 24;

/// What a store answered to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has all of it.
    Written,
    /// It does not take some line; `status` is 400 or 422.
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// It takes no body of this size.
    TooLarge {
        /// Its words.
        reason: String,
    },
    /// It cannot now, or cannot be reached: try again.
    Busy {
        /// Its words, or what went wrong on the way.
        reason: String,
    },
    /// Somebody has to put something right: token, organisation, bucket, address.
    Operator {
        /// HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
}

impl Answer {
    /// The meaning of an HTTP status (InfluxDB 2, "Troubleshoot issues writing data").
    pub(super) fn of(status: u16, reason: String) -> Self {
        match status {
            200..=299 => Self::Written,
            400 | 422 => Self::Refused { status, reason },
            413 => Self::TooLarge { reason },
            408 | 425 | 429 | 500..=599 => Self::Busy { reason: format!("HTTP {status}: {reason}") },
            _ => Self::Operator { status, reason },
        }
    }
}

/// A line that the store does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Index of the line in its batch.
    pub line: usize,
    /// The store's words.
    pub reason: String,
}

/// What comes next in the delivery of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send these lines.
    Send(Range<usize>),
    /// The batch is through; the refused lines go to quarantine.
    Done(Vec<Refusal>),
    /// Everything was refused without a line being named: it is the request that is wrong, and no line is given up.
    Unproven(String),
}

/// Why a part is to be sent again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It will pass.
    Passing(String),
    /// A person is needed.
    Operator {
        /// HTTP status.
        status: u16,
        /// The store's words.
        reason: String,
    },
}

/// The delivery of one batch.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Parts to send, the next one last.
    parts: Vec<Range<usize>>,
    written: usize,
    refused: Vec<Refusal>,
    /// Lines refused by a 400 that does not name them.
    suspects: Vec<Refusal>,
    lines_max: usize,
}

impl Delivery {
    /// The delivery of `lines` lines in parts of `lines_max` at the most.
    pub(super) fn new(lines: usize, lines_max: usize) -> Self {
        let lines_max = lines_max.max(1);
        let starts = (0..lines).step_by(lines_max);
        let mut parts: Vec<_> = starts.map(|start| start..lines.min(start + lines_max)).collect();
        parts.reverse();
        Self { parts, written: 0, refused: Vec::new(), suspects: Vec::new(), lines_max }
    }

    /// Lines that one write may have, lowered by every body that was too large.
    pub(super) fn lines_max(&self) -> usize {
        self.lines_max
    }

    /// Lines written so far.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// Whether nothing is known of any line yet, so that the batch may as well be read again.
    pub(super) fn is_untouched(&self) -> bool {
        !self.is_proven() && self.suspects.is_empty()
    }

    /// Whether the store has taken a line or named one that it does not take: then the request itself is right.
    fn is_proven(&self) -> bool {
        self.written > 0 || !self.refused.is_empty()
    }

    /// What to do next.
    pub(super) fn next(&self) -> Next {
        let proven = self.is_proven();
        match (self.parts.last(), self.suspects.first()) {
            (Some(part), _) if proven || self.suspects.len() < SUSPECTS_MAX => Next::Send(part.clone()),
            (_, Some(suspect)) if !proven => Next::Unproven(suspect.reason.clone()),
            _ => {
                let mut refused = [self.refused.as_slice(), self.suspects.as_slice()].concat();
                refused.sort_by_key(|refusal| refusal.line);
                Next::Done(refused)
            }
        }
    }

    /// Takes in the answer to the part that [`Delivery::next`] gave; `lines` is the batch.
    pub(super) fn answered(&mut self, answer: Answer, lines: &Lines) -> Option<Trouble> {
        let part = self.parts.last().cloned()?;
        match answer {
            Answer::Busy { reason } => return Some(Trouble::Passing(reason)),
            Answer::Operator { status, reason } => return Some(Trouble::Operator { status, reason }),
            Answer::Written => {
                self.parts.pop();
                self.written += part.len();
            }
            Answer::TooLarge { reason } => {
                self.lines_max = self.lines_max.min((part.len() / 2).max(1));
                self.narrow(part, reason, Blame::Line);
            }
            Answer::Refused { status: 422, reason } if dropped_points(&reason) == Some(part.len()) => {
                // All of them, as it says itself (beyond its retention, say): no need to ask about each.
                self.parts.pop();
                self.refused.extend(part.map(|line| Refusal { line, reason: reason.clone() }));
            }
            Answer::Refused { status, reason } => {
                let named = lines.get(part.start).is_some_and(|line| names(&reason, line));
                let blame = if status == 422 || named { Blame::Line } else { Blame::Unclear };
                self.narrow(part, reason, blame);
            }
        }
        None
    }

    /// Replaces a part by its halves; a part of one line is settled.
    fn narrow(&mut self, part: Range<usize>, reason: String, blame: Blame) {
        self.parts.pop();
        if part.len() == 1 {
            let list = match blame {
                Blame::Line => &mut self.refused,
                Blame::Unclear => &mut self.suspects,
            };
            list.push(Refusal { line: part.start, reason });
        } else {
            let middle = part.start + part.len() / 2;
            self.parts.push(middle..part.end);
            self.parts.push(part.start..middle);
        }
    }
}

/// Whether a lone line that was refused is known to be the cause.
#[derive(Clone, Copy)]
enum Blame {
    Line,
    Unclear,
}

fn names(reason: &str, line: &str) -> bool {
    let mut end = line.len().min(LINE_NAME_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    reason.contains(&line[..end])
}

/// The number in `dropped=7`, with which InfluxDB 2 ends its words on a partial write.
fn dropped_points(reason: &str) -> Option<usize> {
    let (_, count) = reason.rsplit_once("dropped=")?;
    let digits = count.len() - count.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    count[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(count: usize) -> Lines {
        (0..count).map(|n| format!("base_station,site=s{n:03},window=1m x=1 1764000000000")).collect()
    }

    /// Plays a store that answers each part; gives the requests it saw and how the batch ended.
    fn play(count: usize, lines_max: usize, store: impl Fn(&[&str]) -> Answer) -> (Vec<Range<usize>>, Next) {
        let lines = batch(count);
        let mut delivery = Delivery::new(lines.len(), lines_max);
        let mut requests = Vec::new();
        loop {
            match delivery.next() {
                Next::Send(part) => {
                    requests.push(part.clone());
                    let sent: Vec<&str> = lines.text(part).lines().collect();
                    assert_eq!(delivery.answered(store(&sent), &lines), None);
                }
                end => return (requests, end),
            }
        }
    }

    fn bad(lines: &[&str], sites: &[&str]) -> Option<String> {
        lines.iter().find(|line| sites.iter().any(|site| line.contains(site))).map(ToString::to_string)
    }

    #[test]
    fn a_batch_goes_out_in_order_and_in_parts() {
        let (requests, end) = play(5, 2, |_| Answer::Written);
        assert_eq!(requests, [0..2, 2..4, 4..5]);
        assert_eq!(end, Next::Done(vec![]));
    }

    #[test]
    fn two_bad_lines_in_a_thousand_are_found_and_the_rest_is_written() {
        let lines_written = std::cell::Cell::new(0);
        let (requests, end) = play(1_000, 1_000, |lines| {
            if let Some(line) = bad(lines, &["s017,", "s800,"]) {
                return Answer::of(400, format!("unable to parse '{line}': bad timestamp"));
            }
            lines_written.set(lines_written.get() + lines.len());
            Answer::Written
        });
        let Next::Done(refused) = end else { panic!("{end:?}") };
        assert_eq!(refused.iter().map(|refusal| refusal.line).collect::<Vec<_>>(), [17, 800]);
        assert!(refused[1].reason.contains("site=s800"));
        assert_eq!(lines_written.get(), 998);
        assert!(requests.len() < 50, "{} requests", requests.len());
    }

    #[test]
    fn a_400_that_blames_the_request_gives_no_line_up() {
        let (requests, end) = play(1_000, 1_000, |_| Answer::of(400, "bucket name is invalid".to_owned()));
        assert_eq!(end, Next::Unproven("bucket name is invalid".to_owned()));
        assert!(requests.len() < 40, "{} requests", requests.len());
    }

    #[test]
    fn a_400_without_a_name_is_believed_once_another_line_was_written() {
        let (_, end) = play(4, 4, |lines| match bad(lines, &["s000,"]) {
            Some(_) => Answer::of(400, "partial write".to_owned()),
            None => Answer::Written,
        });
        assert_eq!(end, Next::Done(vec![Refusal { line: 0, reason: "partial write".to_owned() }]));
    }

    #[test]
    fn a_lone_line_that_the_store_names_is_given_up() {
        let (_, end) = play(1, 9, |lines| Answer::of(400, format!("unable to parse '{}': no", lines[0])));
        assert!(matches!(end, Next::Done(refused) if refused.len() == 1));
    }

    #[test]
    fn points_that_are_all_dropped_cost_one_request() {
        let (requests, end) = play(300, 300, |lines| {
            let reason = format!("partial write: points beyond retention policy dropped={}", lines.len());
            Answer::of(422, reason)
        });
        assert_eq!(requests.len(), 1);
        assert!(matches!(end, Next::Done(refused) if refused.len() == 300));
    }

    #[test]
    fn a_body_that_is_too_large_is_halved_and_later_parts_with_it() {
        let lines = batch(16);
        let mut delivery = Delivery::new(lines.len(), 16);
        let mut sizes = Vec::new();
        while let Next::Send(part) = delivery.next() {
            sizes.push(part.len());
            let fits = part.len() <= 4;
            let answer = if fits { Answer::Written } else { Answer::of(413, "too large".to_owned()) };
            assert_eq!(delivery.answered(answer, &lines), None);
        }
        assert_eq!(sizes, [16, 8, 4, 4, 8, 4, 4]);
        assert_eq!((delivery.lines_max(), delivery.written()), (4, 16));
    }

    #[test]
    fn a_line_that_is_too_large_alone_is_given_up() {
        let (_, end) = play(1, 1, |_| Answer::of(413, "too large".to_owned()));
        assert_eq!(end, Next::Done(vec![Refusal { line: 0, reason: "too large".to_owned() }]));
    }

    #[test]
    fn trouble_keeps_the_part_for_the_next_attempt() {
        let lines = batch(2);
        let mut delivery = Delivery::new(2, 2);
        for (status, operator) in [(429, false), (503, false), (500, false), (401, true), (403, true), (404, true)] {
            let trouble = delivery.answered(Answer::of(status, "no".to_owned()), &lines);
            assert_eq!(matches!(trouble, Some(Trouble::Operator { .. })), operator, "{status}");
            assert_eq!(delivery.next(), Next::Send(0..2));
        }
    }

    #[test]
    fn a_redirect_is_for_the_operator() {
        assert!(matches!(Answer::of(301, String::new()), Answer::Operator { status: 301, .. }));
        assert_eq!(Answer::of(200, String::new()), Answer::Written);
    }
}
