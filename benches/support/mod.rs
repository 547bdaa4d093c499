//! A small harness: CPU time of this thread per operation, the median of some samples, and a table with the floors.
//!
//! CPU time and not the wall's: a machine that others use too makes the latter longer, the former hardly. What other
//! threads and the kernel's own threads do for a stage (write-back) is not in it.

use rustix::time::{ClockId, clock_gettime};

/// CPU time that this thread has taken, ns.
pub(crate) fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "a thread does not run for 2^53 ns")]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds * 1e9 + nanoseconds
}

/// CPU time of `work`, ns, with what it gave.
pub(crate) fn measure<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let before = cpu_ns();
    let result = std::hint::black_box(work());
    (cpu_ns() - before, result)
}

/// Median CPU time of `work` over `samples` runs, ns; `prepare` makes what each run works on and is not counted.
pub(crate) fn median<S, T>(samples: usize, mut prepare: impl FnMut() -> S, mut work: impl FnMut(&mut S) -> T) -> f64 {
    let mut times: Vec<f64> = (0..samples)
        .map(|_| {
            let mut state = prepare();
            measure(|| work(&mut state)).0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// `total` for each of `count`.
pub(crate) fn per(total: f64, count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let count = count as f64;
    total / count
}

/// A line of the table.
pub(crate) struct Line {
    pub(crate) stage: &'static str,
    /// Per message of 13 readings, ns.
    pub(crate) ns: f64,
    /// The least that it was ever measured to take, ns.
    pub(crate) floor_ns: Option<f64>,
    pub(crate) note: String,
}

impl Line {
    pub(crate) fn print(&self) {
        let floor = self
            .floor_ns
            .map_or_else(|| format!("{:>8} {:>6}", "-", "-"), |floor| format!("{floor:>8.0} {:>6.2}", self.ns / floor));
        println!("{:<26} {:>9.1} {floor}  {}", self.stage, self.ns, self.note);
    }

    pub(crate) fn print_header() {
        println!("{:<26} {:>9} {:>8} {:>6}", "stage", "ns", "floor", "ratio");
    }
}
