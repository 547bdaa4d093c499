//! The sink against a store that answers what the test says.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use flate2::read::GzDecoder;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::stepped::{self, SteppedSink};
use super::{Encoding, Field, Fields, IDLE, Options, run};
use crate::health::{Health, Part, PartKind, PartSnapshot, State};
use crate::model::Window;
use crate::sink::Context;
use crate::sink::testing::{City, MINUTE, SINK, at, indicator, until};
use crate::store::Feed;

/// What a scripted store does with a request.
enum Reply {
    Status(u16, String),
    Hang,
    Close,
    /// This status, once somebody says so.
    Late(Arc<Notify>, u16),
}

fn ok() -> Reply {
    Reply::Status(204, String::new())
}

type Script = Box<dyn FnMut(&str, &[String]) -> Reply + Send>;

/// Path with query, and lines.
type Request = (String, Vec<String>);

/// A store that records what it is sent.
#[derive(Clone)]
struct Store {
    seen: Arc<Mutex<Vec<Request>>>,
    /// Lines that it answered with 204, in order.
    kept: Arc<Mutex<Vec<String>>>,
    /// What its writes were encoded as.
    encodings: Arc<Mutex<BTreeSet<Option<String>>>>,
    script: Arc<Mutex<Script>>,
}

impl Store {
    async fn start(script: impl FnMut(&str, &[String]) -> Reply + Send + 'static) -> (Self, String) {
        let script: Script = Box::new(script);
        let script = Arc::new(Mutex::new(script));
        let store = Self { seen: Arc::default(), kept: Arc::default(), encodings: Arc::default(), script };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(answer).with_state(store.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (store, url)
    }

    fn kept(&self) -> Vec<String> {
        self.kept.lock().unwrap().clone()
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

async fn answer(Shared(store): Shared<Store>, uri: Uri, headers: HeaderMap, body: Bytes) -> axum::response::Response {
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut lines = Vec::new();
    if path.starts_with("/api/v2/write") {
        assert_eq!(headers["authorization"], "Token secret");
        let encoding = headers.get("content-encoding").map(|value| value.to_str().expect("ASCII").to_owned());
        let mut text = String::new();
        let read = match encoding.as_deref() {
            None => (&body[..]).read_to_string(&mut text),
            Some("gzip") => GzDecoder::new(&body[..]).read_to_string(&mut text),
            Some(other) => panic!("a body in the encoding {other}"),
        };
        read.expect("a body as its header says");
        store.encodings.lock().unwrap().insert(encoding);
        lines = text.lines().map(str::to_owned).collect();
    } else {
        assert!(!headers.contains_key("content-encoding"));
    }
    store.seen.lock().unwrap().push((path.clone(), lines.clone()));
    let mut reply = (store.script.lock().unwrap())(&path, &lines);
    if let Reply::Late(word, status) = reply {
        word.notified().await;
        reply = Reply::Status(status, String::new());
    }
    match reply {
        Reply::Late(..) => unreachable!("it was waited for"),
        Reply::Hang => std::future::pending().await,
        Reply::Close => panic!("the scripted store hangs up"),
        Reply::Status(status, text) => {
            if status == 204 {
                store.kept.lock().unwrap().extend(lines);
            }
            let json = [("content-type", "application/json")];
            (StatusCode::from_u16(status).expect("a status"), json, text).into_response()
        }
    }
}

/// A sink under test.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    part: Arc<Part>,
}

impl Running {
    fn start(city: &City, options: Options) -> Self {
        let (stop, stopping) = watch::channel(false);
        let part = Health::default().part(PartKind::Influx, SINK, at(0));
        let task = tokio::spawn(run(options, city.context(), part.clone(), stopping));
        Self { stop, task, part }
    }

    async fn stop(self) -> PartSnapshot {
        self.stop.send_replace(true);
        let began = Instant::now();
        self.task.await.expect("the sink ends well");
        assert!(began.elapsed() < Duration::from_secs(4), "left after {:?}", began.elapsed());
        self.part.snapshot()
    }
}

fn options(url: &str) -> Options {
    Options {
        name: SINK.to_owned(),
        url: url.to_owned(),
        org: "city".to_owned(),
        bucket: "telemetry".to_owned(),
        token: "secret".to_owned(),
        create_bucket: false,
        windows: [Window::Minute1].into(),
        fields: Fields::ALL,
        batch_lines_max: 100,
        encoding: Encoding::Gzip,
        timeout: Duration::from_millis(500),
        backoff_max: Duration::from_millis(50),
    }
}

/// A city in which every site was heard in the first minute.
fn city_of(sites: u32) -> City {
    let mut city = City::new(sites);
    for site in 0..sites {
        city.hear(site, at(0), f64::from(site));
        city.hear(site, at(30_000), f64::from(site) + 2.0);
    }
    city.flush(at(MINUTE));
    city
}

fn line_of(site: u32, power_last: f64) -> String {
    let n = f64::from(site);
    let (mean, sum, increase) = (f64::midpoint(n, power_last), n + power_last, power_last - n);
    format!(
        "base_station,area=350102,device=meter,operator=mobile,site=s{site},window=1m \
         energy_kwh_last={power_last},energy_kwh_increase={increase},energy_kwh_count=2,energy_kwh_completeness=1,\
         pwr_w_mean={mean},pwr_w_min={n},pwr_w_max={power_last},pwr_w_sum={sum},pwr_w_last={power_last},pwr_w_count=2,\
         pwr_w_completeness=1 {}",
        at(0).as_millis()
    )
}

fn lines_of(sites: u32) -> Vec<String> {
    (0..sites).map(|site| line_of(site, f64::from(site) + 2.0)).collect()
}

async fn caught_up(city: &City, feed: Feed) {
    let end = city.reader().feed_end(feed).expect("an end");
    assert!(end > 0);
    until("the sink has caught up", || city.position(feed) == end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_arrives_once_and_the_position_follows() {
    let city = city_of(3);
    let (store, url) = Store::start(|_, _| ok()).await;
    let sink = Running::start(&city, options(&url));
    caught_up(&city, Feed::Rollup).await;
    // What is behind is counted after the turn in which the last row was sent.
    let told = |part: PartSnapshot| part.state == State::Up && part.counters["feed_behind"] == 0;
    until("the sink is up and has nothing behind it", || told(sink.part.snapshot())).await;
    let health = sink.stop().await;
    assert_eq!(store.kept(), lines_of(3));
    assert_eq!(store.seen()[0].0, "/api/v2/write?bucket=telemetry&org=city&precision=ms");
    assert_eq!((health.counters["lines_written"], health.counters["feed_behind"]), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_is_encoded_as_its_header_says() {
    for (encoding, header) in [(Encoding::Gzip, Some("gzip".to_owned())), (Encoding::Plain, None)] {
        let city = city_of(7);
        let (store, url) = Store::start(|_, lines| {
            let refused = lines.iter().any(|line| line.contains("site=s3,"));
            if refused { Reply::Status(400, "no".to_owned()) } else { ok() }
        })
        .await;
        // Bodies made ahead of their turn, in memory of earlier ones, and those of halves of a batch.
        let sink = Running::start(&city, Options { encoding, batch_lines_max: 2, ..options(&url) });
        caught_up(&city, Feed::Rollup).await;
        sink.stop().await;
        let mut expected = lines_of(7);
        expected.remove(3);
        assert_eq!(store.kept(), expected);
        assert_eq!(*store.encodings.lock().unwrap(), BTreeSet::from([header]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amended_row_goes_again_under_the_same_tags_and_time() {
    let mut city = city_of(1);
    let (store, url) = Store::start(|_, _| ok()).await;
    let sink = Running::start(&city, options(&url));
    caught_up(&city, Feed::Rollup).await;
    city.hear(0, at(45_000), 12.0);
    city.flush(at(2 * MINUTE));
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    let kept = store.kept();
    let key = |line: &str| (line.split(' ').next().map(str::to_owned), line.rsplit(' ').next().map(str::to_owned));
    assert_eq!(kept.len(), 2);
    assert_eq!(key(&kept[0]), key(&kept[1]));
    assert!(kept[1].contains("pwr_w_max=12,") && kept[1].contains("pwr_w_count=3"), "{}", kept[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_of_other_sinks_are_passed_over() {
    let mut city = city_of(1);
    city.flush(at(5 * MINUTE));
    let (store, url) = Store::start(|_, _| ok()).await;
    let sink = Running::start(&city, Options { windows: [Window::Minute5].into(), ..options(&url) });
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    let kept = store.kept();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].contains(",window=5m ") && kept[0].contains("pwr_w_completeness=0.2"), "{}", kept[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_are_not_wanted_are_not_sent_and_rows_without_any_are_counted() {
    // A counter has no sum, and that of a gauge may be beyond any number.
    for (wanted, value, expected) in [
        (vec![Field::Max, Field::Count], 2.0, Some("energy_kwh_count=2,pwr_w_max=2,pwr_w_count=2")),
        (vec![Field::Sum], 2.0, Some("pwr_w_sum=4")),
        (vec![Field::Sum], f64::MAX, None),
    ] {
        let mut city = City::new(1);
        city.hear(0, at(0), value);
        city.hear(0, at(30_000), value);
        city.flush(at(MINUTE));
        let (store, url) = Store::start(|_, _| ok()).await;
        let fields = Fields::from_iter(wanted);
        let sink = Running::start(&city, Options { fields, ..options(&url) });
        caught_up(&city, Feed::Rollup).await;
        let health = sink.stop().await;
        let kept = store.kept();
        let sent: Vec<&str> = kept.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(sent, Vec::from_iter(expected));
        assert_eq!(health.counters["lines_empty"], u64::from(expected.is_none()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_goes_to_quarantine_and_the_others_to_the_store() {
    for status in [400, 422] {
        let city = city_of(40);
        let (store, url) = Store::start(move |_, lines| match lines.iter().find(|line| line.contains("site=s17,")) {
            Some(line) => {
                Reply::Status(status, format!(r#"{{"code":"invalid","message":"unable to parse '{line}'"}}"#))
            }
            None => ok(),
        })
        .await;
        let sink = Running::start(&city, options(&url));
        caught_up(&city, Feed::Rollup).await;
        until("the sink says so", || sink.part.snapshot().state == State::Degraded).await;
        let health = sink.stop().await;
        let mut expected = lines_of(40);
        let bad = expected.remove(17);
        assert_eq!(store.kept(), expected);
        let quarantined = city.reader().quarantined(10).expect("a list");
        assert_eq!(quarantined.len(), 1);
        assert_eq!((&quarantined[0].line, &*quarantined[0].sink), (&bad, SINK));
        assert_eq!(quarantined[0].reason, format!("unable to parse '{bad}'"));
        assert_eq!((health.counters["lines_written"], health.counters["lines_quarantined"]), (39, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_costs_nothing_but_time() {
    let city = city_of(2);
    let mut script = [
        Reply::Status(429, "slow down".to_owned()),
        Reply::Status(500, r#"{"code":"internal error"}"#.to_owned()),
        Reply::Hang,
        Reply::Close,
        Reply::Status(503, "starting".to_owned()),
    ]
    .into_iter();
    let (store, url) = Store::start(move |_, _| script.next().unwrap_or_else(ok)).await;
    let sink = Running::start(&city, options(&url));
    caught_up(&city, Feed::Rollup).await;
    let health = sink.stop().await;
    assert_eq!(store.kept(), lines_of(2));
    let seen = store.seen();
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|(_, lines)| *lines == lines_of(2)));
    assert_eq!((health.counters["retries"], health.counters["lines_quarantined"]), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_loses_nothing_and_says_what_to_do() {
    let city = city_of(2);
    let open = Arc::new(Mutex::new(false));
    let door = open.clone();
    let (store, url) = Store::start(move |_, _| {
        let open = *door.lock().unwrap();
        if open {
            ok()
        } else {
            Reply::Status(401, r#"{"code":"unauthorized","message":"unauthorized access"}"#.into())
        }
    })
    .await;
    let sink = Running::start(&city, options(&url));
    until("it was tried twice", || store.seen().len() > 1).await;
    let health = sink.part.snapshot();
    assert_eq!((health.state, city.position(Feed::Rollup)), (State::Down, 0));
    assert!(health.detail.contains("unauthorized access; check the token"), "{}", health.detail);
    assert!(!health.detail.contains("secret"));
    *open.lock().unwrap() = true;
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    assert_eq!(store.kept(), lines_of(2));
    assert!(city.reader().quarantined(1).expect("a list").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_400_that_blames_the_request_puts_no_line_into_quarantine() {
    let city = city_of(20);
    let (store, url) = Store::start(|_, _| Reply::Status(400, "invalid bucket".to_owned())).await;
    let sink = Running::start(&city, options(&url));
    until("the sink says so", || sink.part.snapshot().detail.contains("invalid bucket")).await;
    let health = sink.stop().await;
    assert_eq!((health.state, city.position(Feed::Rollup)), (State::Down, 0));
    assert!(store.kept().is_empty() && city.reader().quarantined(1).expect("a list").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_sent_in_smaller_ones() {
    let city = city_of(10);
    let (store, url) =
        Store::start(|_, lines| if lines.len() > 3 { Reply::Status(413, "too large".to_owned()) } else { ok() }).await;
    let sink = Running::start(&city, options(&url));
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    assert_eq!(store.kept(), lines_of(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_made_where_that_is_wanted_and_allowed() {
    let city = city_of(1);
    let mut made = false;
    let (store, url) = Store::start(move |path, _| match path.split('?').next() {
        Some("/api/v2/orgs") => Reply::Status(200, r#"{"orgs":[{"id":"0a","name":"city"}]}"#.to_owned()),
        Some("/api/v2/buckets") => {
            made = true;
            Reply::Status(201, "{}".to_owned())
        }
        _ if made => ok(),
        _ => Reply::Status(404, r#"{"code":"not found","message":"bucket \"telemetry\" not found"}"#.to_owned()),
    })
    .await;
    let sink = Running::start(&city, Options { create_bucket: true, ..options(&url) });
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    let paths: Vec<String> = store.seen().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths[1..3], ["/api/v2/orgs?org=city", "/api/v2/buckets"]);
    assert_eq!(store.kept(), lines_of(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_may_not_be_made_is_asked_for_once_and_said() {
    let city = city_of(1);
    let (store, url) = Store::start(|path, _| {
        if path.starts_with("/api/v2/write") {
            Reply::Status(404, "bucket not found".to_owned())
        } else {
            Reply::Status(403, "forbidden".to_owned())
        }
    })
    .await;
    let sink = Running::start(&city, Options { create_bucket: true, ..options(&url) });
    until("it was tried a few times", || store.seen().len() > 4).await;
    let asked = store.seen().iter().filter(|(path, _)| !path.starts_with("/api/v2/write")).count();
    let health = sink.stop().await;
    assert_eq!((asked, health.state, city.position(Feed::Rollup)), (1, State::Down, 0));
    assert!(health.detail.contains("create bucket \"telemetry\" in organisation \"city\""), "{}", health.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_stopped_amid_a_request_sends_its_rows_after_the_restart() {
    let city = city_of(2);
    let mut first = true;
    let (store, url) = Store::start(move |_, _| if std::mem::take(&mut first) { Reply::Hang } else { ok() }).await;
    let patient = Options { timeout: Duration::from_mins(1), ..options(&url) };
    let sink = Running::start(&city, patient.clone());
    until("the request is under way", || store.seen().len() == 1).await;
    sink.stop().await;
    assert_eq!(city.position(Feed::Rollup), 0);
    let sink = Running::start(&city, patient);
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    assert_eq!(store.kept(), lines_of(2));
}

/// Whether the sink has read so many batches.
fn has_read(sink: &Running, batches: u64) -> bool {
    sink.part.snapshot().counters["batches_read"] == batches
}

#[tokio::test(flavor = "multi_thread")]
async fn one_batch_is_read_ahead_and_no_amended_row_is_overtaken_by_what_it_was() {
    let mut city = city_of(6);
    let word = Arc::new(Notify::new());
    let mut first = Some(word.clone());
    let (store, url) = Store::start(move |_, _| first.take().map_or_else(ok, |word| Reply::Late(word, 204))).await;
    let patient = Options { timeout: Duration::from_mins(1), batch_lines_max: 2, ..options(&url) };
    let sink = Running::start(&city, patient);
    until("one batch is under way and one read ahead", || !store.seen().is_empty() && has_read(&sink, 2)).await;
    for site in [2, 4] {
        city.hear(site, at(45_000), 50.0);
    }
    city.flush(at(2 * MINUTE));
    word.notify_one();
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    let kept = store.kept();
    let versions = |site: u32| -> Vec<bool> {
        let tag = format!(",site=s{site},");
        kept.iter().filter(|line| line.contains(&tag)).map(|line| line.contains("pwr_w_max=50,")).collect()
    };
    // The third batch was not read before the second was on its way.
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(versions),
        [vec![false], vec![false], vec![false, true], vec![false], vec![true], vec![false]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_had_to_wait_goes_as_its_rows_are_by_then() {
    for status in [503, 403] {
        let mut city = city_of(1);
        let word = Arc::new(Notify::new());
        let mut first = Some(word.clone());
        let (store, url) =
            Store::start(move |_, _| first.take().map_or_else(ok, |word| Reply::Late(word, status))).await;
        let sink = Running::start(&city, Options { timeout: Duration::from_mins(1), ..options(&url) });
        until("the batch is under way", || !store.seen().is_empty()).await;
        city.hear(0, at(45_000), 50.0);
        city.flush(at(2 * MINUTE));
        word.notify_one();
        caught_up(&city, Feed::Rollup).await;
        sink.stop().await;
        let kept = store.kept();
        assert!(kept.len() == 1 && kept[0].contains("pwr_w_max=50,"), "{kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_ahead_is_read_again_where_the_batch_before_it_had_to_wait() {
    let mut city = city_of(4);
    let word = Arc::new(Notify::new());
    let mut script = [Reply::Late(word.clone(), 503), Reply::Status(429, "slow down".to_owned())].into_iter();
    let (store, url) = Store::start(move |_, _| script.next().unwrap_or_else(ok)).await;
    let patient = Options { timeout: Duration::from_mins(1), batch_lines_max: 2, ..options(&url) };
    let sink = Running::start(&city, patient);
    until("one batch is under way and one read ahead", || !store.seen().is_empty() && has_read(&sink, 2)).await;
    city.hear(2, at(45_000), 50.0);
    city.flush(at(2 * MINUTE));
    word.notify_one();
    caught_up(&city, Feed::Rollup).await;
    let health = sink.stop().await;
    let [first, second, _, fourth] = &lines_of(4)[..] else { panic!("four") };
    let kept = store.kept();
    assert_eq!([&kept[0], &kept[1], &kept[3]], [first, second, fourth]);
    assert!(kept.len() == 4 && kept[2].contains(",site=s2,") && kept[2].contains("pwr_w_max=50,"), "{kept:?}");
    let tried: Vec<_> = store.seen().into_iter().map(|(_, lines)| lines).take(3).collect();
    assert!(tried.iter().all(|lines| lines[..] == kept[..2]), "{tried:?}");
    assert_eq!((health.counters["retries"], health.counters["lines_written"]), (2, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_ahead_is_read_again_where_the_other_feed_had_to_wait() {
    let mut city = city_of(4);
    city.store_indicators(&[indicator(at(0), Some(1.25))]);
    let word = Arc::new(Notify::new());
    let mut script = [ok(), Reply::Late(word.clone(), 503)].into_iter();
    let (store, url) = Store::start(move |_, _| script.next().unwrap_or_else(ok)).await;
    let patient = Options { timeout: Duration::from_mins(1), batch_lines_max: 2, ..options(&url) };
    let sink = Running::start(&city, patient);
    until("two rows are written and two read ahead", || store.seen().len() == 2 && has_read(&sink, 3)).await;
    city.hear(2, at(45_000), 50.0);
    city.flush(at(2 * MINUTE));
    word.notify_one();
    caught_up(&city, Feed::Rollup).await;
    caught_up(&city, Feed::Indicator).await;
    sink.stop().await;
    let of_amended: Vec<_> = store.kept().into_iter().filter(|line| line.contains(",site=s2,")).collect();
    assert!(of_amended.len() == 1 && of_amended[0].contains("pwr_w_max=50,"), "{of_amended:?}");
    assert_eq!(store.kept().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_stopped_with_a_batch_ahead_sends_all_of_it_after_the_restart() {
    let city = city_of(6);
    let mut first = true;
    let (store, url) = Store::start(move |_, _| if std::mem::take(&mut first) { Reply::Hang } else { ok() }).await;
    let patient = Options { timeout: Duration::from_mins(1), batch_lines_max: 2, ..options(&url) };
    let sink = Running::start(&city, patient.clone());
    until("one batch is under way and one read ahead", || !store.seen().is_empty() && has_read(&sink, 2)).await;
    sink.stop().await;
    assert_eq!(city.position(Feed::Rollup), 0);
    let sink = Running::start(&city, patient);
    caught_up(&city, Feed::Rollup).await;
    sink.stop().await;
    assert_eq!(store.kept(), lines_of(6));
}

/// A store in memory that takes everything.
struct Takes;

impl stepped::Script for Takes {
    fn hear(&self, _: &[&str]) -> Option<(u16, String)> {
        Some((204, String::new()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_the_wait_for_rows_and_the_end_of_the_pipeline_does_not() {
    let city = City::new(1);
    let (teller, flushes) = watch::channel(());
    let context = Context { flushes, ..city.context() };
    let part = Health::default().part(PartKind::Influx, SINK, at(0));
    let mut sink = SteppedSink::new(Arc::new(Takes), options("http://far"), context, part);
    let began = tokio::time::Instant::now();
    teller.send_replace(());
    sink.idle().await;
    assert!(began.elapsed() < IDLE / 10);
    sink.idle().await;
    assert!(began.elapsed() >= IDLE);
    drop(teller);
    sink.idle().await;
    assert!(began.elapsed() >= 2 * IDLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indicator_goes_out_with_its_target_and_its_unknowns_left_out() {
    let city = City::new(1);
    city.store_indicators(&[indicator(at(0), Some(1.25)), indicator(at(15 * MINUTE), None)]);
    let (store, url) = Store::start(|_, _| ok()).await;
    let sink = Running::start(&city, options(&url));
    caught_up(&city, Feed::Indicator).await;
    sink.stop().await;
    let tags = "indicator,area=350100,id=DC1,level=city,window=15m";
    let expected = [
        format!(
            "{tags} value=1.25,numerator=125,denominator=100,completeness=0.75,target=1.5,revision=1 {}",
            at(0).as_millis()
        ),
        format!("{tags} denominator=100,completeness=0.75,target=1.5,revision=1 {}", at(15 * MINUTE).as_millis()),
    ];
    assert_eq!(store.kept(), expected);
}
