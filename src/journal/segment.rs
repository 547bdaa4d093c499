//! Names of segments, and what the catalogue knows of one.

use crate::model::Timestamp;

const SUFFIX: &str = ".journal";
const DAMAGED_SUFFIX: &str = ".damaged";
const DIGITS: usize = 20;
/// No journal gets here; a stray file of such a name must not make positions run out.
const FIRST_MAX: u64 = u64::MAX >> 2;

/// A segment file. Its records end where the next segment starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Position of its first record.
    pub(super) first: u64,
    pub(super) name: String,
    /// Bytes of it that are durable; 0 while they are not known.
    pub(super) bytes: u64,
    /// Whether the disk could say how many.
    pub(super) bytes_known: bool,
    /// When its first record came, where that is known.
    pub(super) begun: Option<Timestamp>,
    /// Whether it was renamed because of damage.
    pub(super) damaged: bool,
}

impl Segment {
    /// The segment that a file is, by its name; without its size.
    pub(super) fn named(name: String) -> Option<Self> {
        let (digits, damaged) = match (name.strip_suffix(SUFFIX), name.strip_suffix(DAMAGED_SUFFIX)) {
            (Some(digits), _) => (digits, false),
            (None, Some(digits)) => (digits, true),
            (None, None) => return None,
        };
        if digits.len() != DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let first = digits.parse().ok().filter(|first| *first <= FIRST_MAX)?;
        Some(Self { first, name, bytes: 0, bytes_known: false, begun: None, damaged })
    }
}

/// The name of the segment that starts at `first`.
pub(super) fn name(first: u64) -> String {
    format!("{first:0DIGITS$}{SUFFIX}")
}

/// Its name once it is known to be damaged.
pub(super) fn damaged_name(first: u64) -> String {
    format!("{first:0DIGITS$}{DAMAGED_SUFFIX}")
}
