//! The smoke test of the whole: a short demo, from simulated devices to indicators.

use std::time::Duration;

use super::city::{Demo, messages};
use super::findings::Report;
use super::*;
use crate::model::Window;
use crate::simulate::FaultKind;

/// A quarter of an hour of the city, and a little more for every fault to have come.
const SPEED: u16 = 150;
const SPAN: Duration = Duration::from_millis(6_600);

async fn short_demo() -> Report {
    let listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    let args = Args { duration: None, sites: 4, speed: SPEED, listen };
    let demo = Demo::start(&args).await.expect("the demo starts");
    tokio::time::sleep(demo.time_to_start() + SPAN).await;
    let view = demo.view().expect("the store can be read");
    assert!(view.ledger.received > 0 && view.ledger.balanced(), "{:?}", view.ledger);
    demo.finish().await.expect("the demo ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_demo_accounts_for_everything_and_tells_the_citys_true_pue() {
    let report = short_demo().await;
    let ledger = &report.ledger;
    assert!(ledger.balanced(), "{ledger:?}");
    assert_eq!(ledger.pending, 0);
    assert_eq!(messages(&ledger.sources["city-broker"]), report.published, "{ledger:?}");
    for finding in &report.faults {
        assert!(finding.made > 0 && finding.seen > 0, "{finding:?}");
    }
    let seen = |kind| report.faults.iter().find(|finding| finding.kind == kind).expect("each kind");
    for exact in [FaultKind::MalformedJson, FaultKind::OutOfRange, FaultKind::NotANumber, FaultKind::CounterReset] {
        assert_eq!(seen(exact).made, seen(exact).seen, "{exact:?}");
    }
    // A message of a vehicle holds three readings.
    assert_eq!(seen(FaultKind::Repeated).made * 3, seen(FaultKind::Repeated).seen);

    let row = |id: &str, window| report.rows.iter().find(|row| *row.id == *id && row.window == window);
    let pue = row("DC1", Window::Minute15).expect("a quarter of an hour is final");
    let (from, to) = (pue.start, pue.start.plus_millis(15 * 60_000));
    let (value, truth) = (pue.value.expect("every meter was heard"), report.city.pue(from, to));
    // Meters are read every ten seconds of fifteen minutes, so either energy may miss that much at each end.
    let tolerance = 2.0 * 10.0 / 900.0 + (1.0 - pue.completeness.expect("intervals are declared"));
    assert!((value / truth - 1.0).abs() < tolerance, "{value} for {truth}, {pue:?}");
    let racks = row("DC8", Window::Minute15).and_then(|row| row.value).expect("racks were heard");
    assert_eq!(racks, 28.0, "{:?}", report.city.racks_in_use());
    for (id, low, high) in [("BS7", 6_000.0, 20_000.0), ("PT1", 15.0, 40.0), ("PT6", 60.0, 80.0), ("BS16", 4.0, 5.0)] {
        let value = row(id, Window::Minute15).and_then(|row| row.value).expect(id);
        assert!((low..=high).contains(&value), "{id} = {value}");
    }
}
