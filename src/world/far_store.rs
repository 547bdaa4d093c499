//! A time-series store that answers slowly, partly, wrongly or not at all, and remembers what it took.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::faults::{Fault, Faults};
use crate::sink::influx::stepped::Script;

/// Its fields by name.
pub(super) type Fields = BTreeMap<String, f64>;

struct State {
    rng: fastrand::Rng,
    /// Of 16 requests, how many go wrong.
    faulty: u8,
    away: bool,
    lines_max: usize,
    /// The tags of lines that it never takes.
    refuses: Option<&'static str>,
    rows: BTreeMap<(String, i64), Fields>,
    faults: Faults,
}

/// The store.
pub(super) struct FarStore(Mutex<State>);

impl FarStore {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (faulty, lines_max) = (rng.u8(..12), rng.usize(3..200));
        let refuses = (rng.u8(..4) == 0).then_some("site=BS-4,");
        Self(Mutex::new(State {
            rng,
            faulty,
            away: false,
            lines_max,
            refuses,
            rows: BTreeMap::new(),
            faults: Faults::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// It answers nothing from now on, or again.
    pub(super) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// Nothing goes wrong any more, except for what it refuses for good.
    pub(super) fn calm(&self) {
        let mut state = self.state();
        (state.away, state.faulty, state.lines_max) = (false, 0, usize::MAX);
    }

    /// Whether it refuses the lines of this site.
    pub(super) fn refuses(&self, site: &str) -> bool {
        self.state().refuses.is_some_and(|tag| tag == format!("site={site},"))
    }

    pub(super) fn faults(&self) -> Faults {
        self.state().faults.clone()
    }

    /// What it has of a series at a time.
    pub(super) fn rows(&self) -> BTreeMap<(String, i64), Fields> {
        self.state().rows.clone()
    }
}

impl State {
    fn take(&mut self, lines: &[&str]) {
        for line in lines.iter().filter(|line| self.refuses.is_none_or(|tag| !line.contains(tag))) {
            let mut parts = line.split(' ');
            let (series, fields, time) = (parts.next(), parts.next(), parts.next());
            let series = series.expect("a series").to_owned();
            let time = time.expect("a time").parse().expect("epoch ms");
            let field = |field: &str| {
                let (name, value) = field.split_once('=').expect("a field");
                (name.to_owned(), value.parse().expect("a float"))
            };
            self.rows.insert((series, time), fields.expect("fields").split(',').map(field).collect());
        }
    }

    fn fail(&mut self, lines: &[&str]) -> Option<(u16, String)> {
        match self.rng.u8(..4) {
            0 => {
                self.take(lines);
                self.faults.count(Fault::AnswerLost);
                None
            }
            1 => {
                let some = self.rng.usize(..=lines.len());
                self.take(&lines[..some]);
                self.faults.count(Fault::WritePartial);
                Some((500, "out of breath".to_owned()))
            }
            _ => {
                self.faults.count(Fault::WriteFailed);
                let status = [429, 500, 502, 503, 504, 401, 404][self.rng.usize(..7)];
                Some((status, "not now".to_owned()))
            }
        }
    }
}

impl Script for FarStore {
    fn hear(&self, lines: &[&str]) -> Option<(u16, String)> {
        let mut state = self.state();
        if state.away {
            return None;
        }
        if state.rng.u8(..16) < state.faulty {
            return state.fail(lines);
        }
        if lines.len() > state.lines_max {
            state.faults.count(Fault::BodyTooLarge);
            return Some((413, "too large".to_owned()));
        }
        let refused = lines.iter().find(|line| state.refuses.is_some_and(|tag| line.contains(tag)));
        if let Some(refused) = refused {
            state.faults.count(Fault::LineRefused);
            return Some((400, format!("unable to parse '{refused}': not this one")));
        }
        state.take(lines);
        Some((204, String::new()))
    }
}
