//! CPU time of this process, from `/proc`.

use std::fs;
use std::time::Duration;

/// Ticks in which Linux tells CPU times to programs (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// CPU time, in the program and in the system for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the program.
    pub user: Duration,
    /// In the system.
    pub system: Duration,
}

impl CpuTime {
    /// Both together.
    #[must_use]
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was spent since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let user = self.user.saturating_sub(earlier.user);
        Self { user, system: self.system.saturating_sub(earlier.system) }
    }
}

/// CPU time that this process has spent so far; none where there is no `/proc`.
#[must_use]
pub fn cpu_time() -> CpuTime {
    fs::read_to_string("/proc/self/stat").ok().and_then(|text| parse(&text)).unwrap_or_default()
}

/// Reads `utime` and `stime`, fields 14 and 15 of proc(5); the second, a name, may hold blanks and ends in a bracket.
fn parse(stat: &str) -> Option<CpuTime> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse().ok();
    Some(CpuTime { user: TICK * ticks()?, system: TICK * ticks()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_a_name_with_blanks_and_brackets() {
        let stat = "71 (a (b) c) S 1 71 71 0 -1 4194560 900 0 3 0 250 75 0 0 20 0 9 0 100 200 300";
        let read = parse(stat).expect("times");
        assert_eq!((read.user, read.system), (Duration::from_millis(2_500), Duration::from_millis(750)));
        assert_eq!(parse("71 (x) S 1"), None);
    }
}
