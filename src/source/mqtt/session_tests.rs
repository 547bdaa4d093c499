//! Tests of the protocol of one connection, without a socket.

use bytes::Bytes;
use rumqttc::mqttbytes::v4::Packet;

use super::super::Login;
use super::super::assembler::Body;
use super::*;

const KEEP_ALIVE: Duration = Duration::from_secs(8);
const EPOCH: Epoch = Epoch(5);

fn options() -> Options {
    Options {
        name: "east".into(),
        host: "127.0.0.1".into(),
        port: 1883,
        client_id: "sitepulse-east".into(),
        topics: vec!["telemetry/#".into(), "more/#".into()],
        login: Some(Login { user: "gateway".into(), password: "secret".into() }),
        keep_alive: KEEP_ALIVE,
        connect_timeout: Duration::from_secs(3),
        packet_bytes_max: 1_000,
        backoff_max: Duration::from_secs(1),
    }
}

struct Bench {
    session: Session,
    start: Instant,
}

impl Bench {
    fn connecting() -> Self {
        let start = Instant::now();
        let session = Session::new(&options(), EPOCH, start + Duration::from_secs(3), start).unwrap();
        Self { session, start }
    }

    fn subscribed() -> Self {
        let mut bench = Self::connecting();
        bench.take(Incoming::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).unwrap();
        bench.take(suback([SubscribeReasonCode::Success(QoS::AtLeastOnce); 2])).unwrap();
        bench.sent();
        bench
    }

    fn take(&mut self, packet: Incoming) -> Result<Event, Failure> {
        self.session.take(packet, self.start)
    }

    fn refused(code: ConnectReturnCode) -> String {
        Self::connecting().take(Incoming::ConnAck(ConnAck::new(code, false))).unwrap_err().to_string()
    }

    fn tick(&mut self, seconds: u64) -> Result<(), Failure> {
        self.session.tick(self.start + Duration::from_secs(seconds))
    }

    fn settle(&mut self, batch: BatchNumber) {
        self.session.settle(EPOCH, batch, Fate::Kept, self.start).unwrap();
    }

    /// What was queued for the broker since the last call.
    fn sent(&mut self) -> Vec<Packet> {
        let mut bytes = BytesMut::from(self.session.output());
        self.session.written(bytes.len(), self.start);
        std::iter::from_fn(|| (!bytes.is_empty()).then(|| Packet::read(&mut bytes, usize::MAX).unwrap())).collect()
    }

    fn acked(&mut self) -> Vec<u16> {
        let acks = self.sent().into_iter().map(|packet| match packet {
            Packet::PubAck(ack) => ack.pkid,
            other => panic!("no acknowledgement: {other:?}"),
        });
        acks.collect()
    }
}

fn suback(codes: [SubscribeReasonCode; 2]) -> Incoming {
    Incoming::SubAck(SubAck::new(SUBSCRIBE_ID, codes.to_vec()))
}

fn message(packet_id: u16) -> Incoming {
    Incoming::Message(Message { topic: "t".into(), packet_id: Some(packet_id), body: Body::Whole(Bytes::new()) })
}

#[test]
fn connect_asks_for_a_lasting_session_with_our_login() {
    let sent = Bench::connecting().sent();
    let [Packet::Connect(connect)] = sent.as_slice() else { panic!("{sent:?}") };
    assert!(!connect.clean_session);
    assert_eq!((connect.client_id.as_str(), connect.keep_alive), ("sitepulse-east", 8));
    assert_eq!(connect.login.as_ref().map(|login| login.username.as_str()), Some("gateway"));
}

#[test]
fn every_connack_is_answered_by_a_subscription_at_qos_1() {
    for session_present in [false, true] {
        let mut bench = Bench::connecting();
        bench.sent();
        bench.take(Incoming::ConnAck(ConnAck::new(ConnectReturnCode::Success, session_present))).unwrap();
        let sent = bench.sent();
        let [Packet::Subscribe(subscribe)] = sent.as_slice() else { panic!("{sent:?}") };
        let filters: Vec<_> = subscribe.filters.iter().map(|filter| (filter.path.as_str(), filter.qos)).collect();
        assert_eq!(filters, [("telemetry/#", QoS::AtLeastOnce), ("more/#", QoS::AtLeastOnce)]);
    }
}

#[test]
fn a_refused_connection_says_what_to_do() {
    assert!(Bench::refused(ConnectReturnCode::BadUserNamePassword).contains("password_env"));
    assert!(Bench::refused(ConnectReturnCode::NotAuthorized).contains("rights"));
    assert!(Bench::refused(ConnectReturnCode::BadClientId).contains("\"sitepulse-east\""));
    assert!(Bench::refused(ConnectReturnCode::RefusedProtocolVersion).contains("3.1.1"));
    assert!(Bench::refused(ConnectReturnCode::ServiceUnavailable).contains("not available"));
}

#[test]
fn a_filter_that_is_refused_or_served_at_qos_0_is_named_and_a_refused_one_is_asked_for_again_less_and_less() {
    let mut bench = Bench::connecting();
    bench.take(Incoming::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).unwrap();
    let codes = [SubscribeReasonCode::Failure, SubscribeReasonCode::Success(QoS::AtMostOnce)];
    let Event::Subscribed { first: true, shortfalls } = bench.take(suback(codes)).unwrap() else { panic!("no SUBACK") };
    let [telemetry, more] = ["telemetry/#".to_owned(), "more/#".to_owned()];
    let refused = |seconds| Shortfalls {
        refused: vec![telemetry.clone()],
        lowered: vec![more.clone()],
        next: Some(Duration::from_secs(seconds)),
    };
    assert_eq!(shortfalls, refused(30));
    let subscribes = |bench: &mut Bench| {
        let sent = bench.sent().into_iter().filter_map(|packet| match packet {
            Packet::Subscribe(subscribe) => Some(subscribe.filters.into_iter().map(|filter| filter.path).collect()),
            _ => None,
        });
        sent.collect::<Vec<Vec<String>>>()
    };
    bench.sent();
    bench.tick(29).unwrap();
    assert!(subscribes(&mut bench).is_empty());
    bench.session.heard();
    bench.tick(30).unwrap();
    assert_eq!(subscribes(&mut bench), [[telemetry.clone()]], "only the one that was refused");
    let answer = |code| Incoming::SubAck(SubAck::new(SUBSCRIBE_ID, vec![code]));
    let at = |seconds| bench.start + Duration::from_secs(seconds);
    let (second, third) = (at(30), at(91));
    let again = bench.session.take(answer(SubscribeReasonCode::Failure), second).unwrap();
    assert_eq!(again, Event::Subscribed { first: false, shortfalls: refused(60) });
    bench.session.heard();
    bench.tick(89).unwrap();
    assert!(subscribes(&mut bench).is_empty());
    bench.session.heard();
    bench.tick(90).unwrap();
    assert_eq!(subscribes(&mut bench).len(), 1);
    let granted = bench.session.take(answer(SubscribeReasonCode::Success(QoS::AtLeastOnce)), third).unwrap();
    let shortfalls = Shortfalls { lowered: vec![more], ..Shortfalls::default() };
    assert_eq!(granted, Event::Subscribed { first: false, shortfalls });
}

#[test]
fn packets_out_of_turn_are_protocol_errors() {
    let connack = || Incoming::ConnAck(ConnAck::new(ConnectReturnCode::Success, false));
    assert!(Bench::connecting().take(message(1)).unwrap_err().is_protocol_error());
    assert!(Bench::subscribed().take(connack()).unwrap_err().is_protocol_error());
    let again = suback([SubscribeReasonCode::Success(QoS::AtLeastOnce); 2]);
    assert!(Bench::subscribed().take(again).unwrap_err().is_protocol_error());
    let mut bench = Bench::connecting();
    bench.take(connack()).unwrap();
    let foreign = Incoming::SubAck(SubAck::new(SUBSCRIBE_ID, vec![SubscribeReasonCode::Failure]));
    assert!(bench.take(foreign).unwrap_err().is_protocol_error());
}

#[test]
fn messages_of_a_resumed_session_may_come_before_the_suback() {
    let mut bench = Bench::connecting();
    bench.take(Incoming::ConnAck(ConnAck::new(ConnectReturnCode::Success, true))).unwrap();
    assert!(matches!(bench.take(message(3)).unwrap(), Event::Message(_)));
}

#[test]
fn acknowledgements_leave_in_receive_order_whatever_the_order_of_receipts() {
    let mut bench = Bench::subscribed();
    let first = bench.session.hand_over(vec![11, 12], bench.start);
    let second = bench.session.hand_over(vec![4], bench.start);
    let third = bench.session.hand_over(vec![9, 2], bench.start);
    bench.settle(second);
    assert_eq!(bench.acked(), [0; 0]);
    bench.settle(first);
    assert_eq!(bench.acked(), [11, 12, 4]);
    assert!(bench.session.has_outstanding());
    bench.settle(third);
    assert_eq!(bench.acked(), [9, 2]);
    assert!(!bench.session.has_outstanding());
    assert_eq!(bench.session.take_acks().total(), 5);
}

#[test]
fn a_receipt_of_an_earlier_connection_acknowledges_nothing() {
    let mut bench = Bench::subscribed();
    let batch = bench.session.hand_over(vec![1], bench.start);
    bench.session.settle(Epoch(4), batch, Fate::Kept, bench.start).unwrap();
    bench.session.settle(Epoch(4), batch, Fate::GivenUp, bench.start).unwrap();
    assert_eq!(bench.acked(), [0; 0]);
    assert!(bench.session.has_outstanding());
}

#[test]
fn a_batch_that_the_journal_gave_up_ends_the_connection() {
    let mut bench = Bench::subscribed();
    let batch = bench.session.hand_over(vec![1], bench.start);
    let failure = bench.session.settle(EPOCH, batch, Fate::GivenUp, bench.start).unwrap_err();
    assert!(matches!(failure, Failure::JournalGaveUp));
}

#[test]
fn silence_of_ours_is_broken_by_a_ping_in_time() {
    let mut bench = Bench::subscribed();
    bench.tick(5).unwrap();
    assert_eq!(bench.sent(), []);
    bench.tick(6).unwrap();
    assert_eq!(bench.sent(), [Packet::PingReq]);
    bench.session.heard();
    bench.tick(11).unwrap();
    assert_eq!(bench.sent(), []);
    bench.tick(12).unwrap();
    assert_eq!(bench.sent(), [Packet::PingReq]);
}

#[test]
fn a_ping_without_any_answer_ends_the_connection() {
    let mut bench = Bench::subscribed();
    bench.tick(6).unwrap();
    bench.sent();
    bench.tick(13).unwrap();
    bench.sent();
    assert!(matches!(bench.tick(14).unwrap_err(), Failure::Silent("a ping")));
}

#[test]
fn pings_go_on_while_we_do_not_read_and_their_answers_are_not_missed() {
    let mut bench = Bench::subscribed();
    let mut pings = Vec::new();
    for second in 0..100 {
        bench.session.not_listening(bench.start + Duration::from_secs(second));
        bench.tick(second).unwrap();
        pings.extend(bench.sent());
    }
    assert_eq!(pings.len(), 16);
    assert!(pings.iter().all(|packet| *packet == Packet::PingReq));
    // From here we listen: the broker gets its full time again.
    bench.tick(106).unwrap();
    bench.sent();
    assert!(matches!(bench.tick(107).unwrap_err(), Failure::Silent("a ping")));
}

#[test]
fn connack_and_suback_have_deadlines() {
    let mut bench = Bench::connecting();
    bench.tick(2).unwrap();
    assert!(matches!(bench.tick(3).unwrap_err(), Failure::Silent("CONNECT")));
    let mut bench = Bench::connecting();
    bench.take(Incoming::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).unwrap();
    bench.tick(2).unwrap();
    assert!(matches!(bench.tick(3).unwrap_err(), Failure::Silent("SUBSCRIBE")));
}

#[test]
fn a_broker_that_takes_nothing_is_given_up() {
    let mut bench = Bench::subscribed();
    let batch = bench.session.hand_over(vec![1], bench.start);
    bench.settle(batch);
    bench.session.not_listening(bench.start + Duration::from_secs(8));
    assert!(matches!(bench.tick(8).unwrap_err(), Failure::WriteStalled));
}
