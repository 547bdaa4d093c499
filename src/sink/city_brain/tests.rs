//! The sink against a broker that does what the test says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::{ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Options, run};
use crate::health::{Health, Part, PartKind, State};
use crate::sink::testing::{City, MINUTE, SINK, at, indicator, until};
use crate::source::mqtt::Login;
use crate::store::Feed;

/// Longer than any machine needs, shorter than anybody waits.
const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "citybrain/v1/indicator/city/350100/DC1/15m";

struct Broker(TcpListener);

impl Broker {
    async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    fn options(&self) -> Options {
        Options {
            name: SINK.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: self.0.local_addr().expect("an address").port(),
            client_id: "sitepulse-test".to_owned(),
            login: Some(Login { user: "brain".to_owned(), password: "secret".to_owned() }),
            topic_prefix: "citybrain/v1".to_owned(),
            keep_alive: Duration::from_mins(1),
            backoff_max: Duration::from_millis(20),
        }
    }

    /// The next connection and its CONNECT, answered with `code`.
    async fn accept(&self, code: ConnectReturnCode) -> (Peer, Connect) {
        let (stream, _) = timeout(PATIENCE, self.0.accept()).await.expect("in time").expect("a connection");
        let mut peer = Peer { stream, buffer: BytesMut::new() };
        let Some(Packet::Connect(connect)) = peer.next().await else { panic!("no CONNECT") };
        peer.send(Packet::ConnAck(ConnAck::new(code, false))).await;
        (peer, connect)
    }

    /// The next connection, past its status and schema.
    async fn welcome(&self) -> Peer {
        let (mut peer, _) = self.accept(ConnectReturnCode::Success).await;
        for topic in ["citybrain/v1/status", "citybrain/v1/schema/indicator/v1"] {
            let publish = peer.publish().await;
            assert_eq!((&*publish.topic, publish.retain), (topic, true));
            peer.ack(&publish).await;
        }
        peer
    }
}

/// The broker's side of one connection.
struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    /// The next packet, pings apart; `None` when the sink has closed the connection.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, usize::MAX) {
                Ok(Packet::PingReq) => self.send(Packet::PingResp).await,
                Ok(packet) => return Some(packet),
                Err(_) => {
                    let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("in time");
                    if read.unwrap_or(0) == 0 {
                        return None;
                    }
                }
            }
        }
    }

    async fn publish(&mut self) -> Publish {
        match self.next().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).expect("a packet");
        self.stream.write_all(&bytes).await.expect("a connection");
    }

    async fn ack(&mut self, publish: &Publish) {
        self.send(Packet::PubAck(PubAck::new(publish.pkid))).await;
    }
}

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    part: Arc<Part>,
}

impl Running {
    fn start(city: &City, options: Options) -> Self {
        let (stop, stopping) = watch::channel(false);
        let part = Health::default().part(PartKind::CityBrain, SINK, at(0));
        let task = tokio::spawn(run(options, city.context(), part.clone(), stopping));
        Self { stop, task, part }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        let began = Instant::now();
        self.task.await.expect("the sink ends well");
        assert!(began.elapsed() < Duration::from_secs(4), "left after {:?}", began.elapsed());
    }
}

fn body(publish: &Publish) -> Value {
    serde_json::from_slice(&publish.payload).expect("JSON")
}

/// Topic, start, value, revision, whether it is retained.
fn row(publish: &Publish) -> (String, Value, Value, Value, bool) {
    let mut body = body(publish);
    let mut take = |key: &str| body[key].take();
    (publish.topic.clone(), take("start"), take("value"), take("revision"), publish.retain)
}

fn expected(minutes: i64, value: f64, revision: u64, retain: bool) -> (String, Value, Value, Value, bool) {
    (TOPIC.to_owned(), at(minutes * MINUTE).to_string().into(), value.into(), revision.into(), retain)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_goes_forward_when_the_broker_has_acknowledged() {
    let city = City::new(1);
    city.store_indicators(&[indicator(at(0), Some(1.25))]);
    let broker = Broker::open().await;
    let sink = Running::start(&city, broker.options());
    let mut peer = broker.welcome().await;
    let publish = peer.publish().await;
    assert_eq!(row(&publish), expected(0, 1.25, 1, true));
    let body = body(&publish);
    assert_eq!((&body["area_name"], &body["target"]["met"]), (&"Fuzhou".into(), &true.into()));
    assert_eq!(city.position(Feed::Indicator), 0);
    peer.ack(&publish).await;
    until("the position is saved", || city.position(Feed::Indicator) == 1).await;
    assert_eq!(sink.part.snapshot().state, State::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_connection_left_open_is_sent_again_in_order() {
    let city = City::new(1);
    city.store_indicators(&[indicator(at(0), Some(1.0)), indicator(at(15 * MINUTE), Some(2.0))]);
    let broker = Broker::open().await;
    let _sink = Running::start(&city, broker.options());
    let mut peer = broker.welcome().await;
    let first = peer.publish().await;
    peer.publish().await;
    peer.ack(&first).await;
    drop(peer);

    let mut peer = broker.welcome().await;
    for (minutes, value, retain) in [(0, 1.0, false), (15, 2.0, true)] {
        let publish = peer.publish().await;
        assert_eq!(row(&publish), expected(minutes, value, 1, retain));
        peer.ack(&publish).await;
    }
    until("the position is saved", || city.position(Feed::Indicator) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amended_window_takes_the_retained_place_only_where_it_is_the_newest() {
    let city = City::new(1);
    city.store_indicators(&[indicator(at(0), Some(1.0)), indicator(at(15 * MINUTE), Some(2.0))]);
    let broker = Broker::open().await;
    let _sink = Running::start(&city, broker.options());
    let mut peer = broker.welcome().await;
    for _ in 0..2 {
        let publish = peer.publish().await;
        peer.ack(&publish).await;
    }
    city.store_indicators(&[indicator(at(0), Some(1.5)), indicator(at(15 * MINUTE), Some(2.5))]);
    for (minutes, value, retain) in [(0, 1.5, false), (15, 2.5, true)] {
        let publish = peer.publish().await;
        assert_eq!(row(&publish), expected(minutes, value, 2, retain));
        peer.ack(&publish).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_death_is_left_as_a_will_and_our_leave_is_said() {
    let city = City::new(1);
    let broker = Broker::open().await;
    let sink = Running::start(&city, broker.options());
    let (mut peer, connect) = broker.accept(ConnectReturnCode::Success).await;
    let will = connect.last_will.expect("a will");
    assert_eq!(
        (&*will.topic, &will.message[..], will.retain),
        ("citybrain/v1/status", &br#"{"status":"offline"}"#[..], true)
    );
    let online = peer.publish().await;
    assert_eq!(
        (&*online.topic, &body(&online)["status"], online.retain),
        ("citybrain/v1/status", &"online".into(), true)
    );
    peer.ack(&online).await;
    let schema = peer.publish().await;
    peer.ack(&schema).await;
    until("the sink is up", || sink.part.snapshot().state == State::Up).await;
    let leave = tokio::spawn(sink.stop());
    let offline = peer.publish().await;
    assert_eq!(
        (&*offline.topic, &body(&offline)["status"], offline.retain),
        ("citybrain/v1/status", &"offline".into(), true)
    );
    peer.ack(&offline).await;
    assert_eq!(peer.next().await, Some(Packet::Disconnect));
    drop(peer);
    leave.await.expect("the sink leaves in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_never_answers_does_not_hold_up_the_stop() {
    let city = City::new(1);
    city.store_indicators(&[indicator(at(0), Some(1.0))]);
    let broker = Broker::open().await;
    let sink = Running::start(&city, broker.options());
    let mut peer = broker.welcome().await;
    peer.publish().await;
    sink.stop().await;
    assert_eq!(city.position(Feed::Indicator), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_said_and_tried_again() {
    let city = City::new(1);
    city.store_indicators(&[indicator(at(0), Some(1.0))]);
    let broker = Broker::open().await;
    let sink = Running::start(&city, broker.options());
    drop(broker.accept(ConnectReturnCode::NotAuthorized).await);
    until("the sink says so", || sink.part.snapshot().detail.contains("check city_brain.user")).await;
    assert!(!sink.part.snapshot().detail.contains("secret"));
    let mut peer = broker.welcome().await;
    let publish = peer.publish().await;
    assert_eq!(row(&publish), expected(0, 1.0, 1, true));
}
