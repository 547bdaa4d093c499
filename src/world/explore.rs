//! Many worlds, one after the other, and what their seeds brought to light.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use super::World;
use super::faults::{Fault, Faults};

/// Failures after which no more seeds are tried.
const FAILURES_MAX: u64 = 10;

/// Runs the worlds of `seeds` on both cores and returns the seeds that failed, and what went wrong in all of them. Ends
/// early where many fail.
fn explore(seeds: std::ops::Range<u64>) -> (Vec<u64>, Faults) {
    let next = AtomicU64::new(seeds.start);
    let failures = AtomicU64::new(0);
    let results = std::thread::scope(|scope| {
        let work = || {
            let (mut failed, mut faults) = (Vec::new(), Faults::default());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || failures.load(Ordering::Relaxed) >= FAILURES_MAX {
                    return (failed, faults);
                }
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    let mut world = World::new(seed);
                    world.run();
                    world.faults.clone()
                }));
                if let Ok(went_wrong) = outcome {
                    faults.merge(&went_wrong);
                } else {
                    failed.push(seed);
                    failures.fetch_add(1, Ordering::Relaxed);
                    eprintln!("the world of seed {seed} failed; again: tests/world --from {seed} --seeds 1");
                }
                if seed % 500 == 499 {
                    eprintln!("{} of {} seeds", seed + 1 - seeds.start, seeds.end - seeds.start);
                }
            }
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic outside of a world")).collect::<Vec<_>>()
    });
    let (mut failed, mut faults) = (Vec::new(), Faults::default());
    for (more_failed, more_faults) in results {
        failed.extend(more_failed);
        faults.merge(&more_faults);
    }
    failed.sort_unstable();
    (failed, faults)
}

/// Seeds that have failed once, a line each, with what it was. `tests/world` adds to them.
const FAILED_SEEDS: &str = include_str!("failed_seeds.txt");

#[test]
fn worlds_that_failed_once_are_right_by_now() {
    let seeds = FAILED_SEEDS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next());
    for seed in seeds {
        let seed = seed.parse().unwrap_or_else(|_| panic!("failed_seeds.txt: {seed:?} is no seed"));
        let (failed, _) = explore(seed..seed + 1);
        assert!(failed.is_empty(), "the world of seed {seed} fails again");
    }
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_nothing_counted_twice() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is no number")),
        Err(_) => default,
    };
    let from = number("SITEPULSE_WORLD_FROM", 0);
    let seeds = number("SITEPULSE_WORLD_SEEDS", 60);
    let (failed, faults) = explore(from..from + seeds);
    eprintln!("{seeds} worlds\n{faults}");
    if let Ok(path) = std::env::var("SITEPULSE_WORLD_KEEP") {
        let mut file = std::fs::File::options().append(true).open(&path).expect("the list of failed seeds");
        for seed in &failed {
            writeln!(file, "{seed} not looked into yet").expect("written");
        }
    }
    assert!(failed.is_empty(), "{} worlds failed: {failed:?}", failed.len());
    if seeds >= 60 {
        let idle = Fault::ALL.iter().find(|fault| faults.of(**fault) == 0);
        assert_eq!(idle, None, "it never went wrong, so nothing is known of it");
    }
}
