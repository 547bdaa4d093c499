//! The whole source against a scripted broker and a real journal.

use std::collections::BTreeSet;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet, Publish, SubscribeReasonCode};

use super::super::test_rig::{Disk, Rig, Setup, bytes_of, publish};
use crate::health::State;
use crate::model::FrameKind;

#[test]
fn a_message_is_acknowledged_only_once_it_is_on_disk() {
    let rig = Rig::new();
    let mut peer = rig.broker.welcome();
    rig.gate.set(Disk::Hangs);
    peer.send(&[publish(1, b"one"), publish(2, b"two")]);
    rig.until_messages(2);
    peer.answer_ping();
    rig.gate.set(Disk::Works);
    assert_eq!(peer.acks(2), [1, 2]);
    let frames = rig.frames(2);
    assert_eq!((&*frames[1].source, &*frames[1].topic, &*frames[1].payload), ("east", "telemetry/t", &b"two"[..]));
    assert_eq!(frames[1].kind, FrameKind::NativeJson);
}

#[test]
fn acknowledgements_come_in_receive_order() {
    let rig = Rig::new();
    let mut peer = rig.broker.welcome();
    let ids = [500, 3, 65_535, 77, 1, 9];
    for (count, id) in (1..).zip(ids) {
        peer.send(&[publish(id, b"x")]);
        rig.until_messages(count);
    }
    assert_eq!(peer.acks(ids.len()), ids);
}

#[test]
fn a_receipt_of_the_lost_connection_is_not_sent_on_the_next_one() {
    let rig = Rig::new();
    let mut first = rig.broker.welcome();
    rig.gate.set(Disk::Hangs);
    first.send(&[publish(1, b"a"), publish(2, b"b")]);
    rig.until_messages(2);
    drop(first);
    let mut second = rig.broker.welcome();
    // Delivered again under another identifier, while 1 and 2 now mean other messages.
    second.send(&[publish(7, b"a")]);
    rig.until_messages(3);
    rig.gate.set(Disk::Works);
    assert_eq!(second.acks(1), [7]);
    second.answer_ping();
    assert_eq!(rig.frames(3).len(), 3);
    assert_eq!((rig.counter("connects"), rig.counter("disconnects"), rig.counter("acks")), (2, 1, 1));
}

#[test]
fn a_busy_journal_holds_the_broker_back_and_nothing_is_lost() {
    let rig = Rig::new();
    let mut peer = rig.broker.welcome();
    rig.gate.set(Disk::Hangs);
    let (mut writer, writing) = (peer.stream.try_clone().unwrap(), peer.writing.clone());
    // More than the journal queues and TCP buffers together.
    let sender = thread::spawn(move || {
        for id in 1..=60 {
            let _writing = writing.lock().unwrap();
            writer.write_all(&bytes_of(&[publish(id, &vec![b'x'; 1 << 20])])).unwrap();
        }
    });
    rig.until(|part| part.counters["refused"] > 0);
    let taken_in = rig.counter("messages");
    for _ in 0..3 {
        assert_eq!(peer.next(), Packet::PingReq);
    }
    assert_eq!(rig.counter("messages"), taken_in, "read on while the journal was busy");
    assert!(taken_in < 60);
    rig.gate.set(Disk::Works);
    assert_eq!(peer.acks(60), (1..=60).collect::<Vec<_>>());
    sender.join().unwrap();
    assert_eq!(rig.frames(60).len(), 60);
    assert_eq!(rig.counter("disconnects"), 0);
}

#[test]
fn a_full_journal_is_reported_and_its_release_lets_messages_in_again() {
    let rig = Rig::with(&Setup { journal_bytes_max: 256 * 1024, ..Setup::default() });
    let mut peer = rig.broker.welcome();
    for id in 1..=30 {
        peer.send(&[publish(id, &[b'x'; 10 * 1024])]);
    }
    rig.until(|part| part.state == State::Degraded);
    assert!(rig.part().detail.contains("the journal is full"), "{}", rig.part().detail);
    let mut acks = BTreeSet::new();
    while acks.len() < 30 {
        rig.journal().release(rig.journal().end());
        acks.extend(peer.acks(1));
    }
    rig.until(|part| part.state == State::Up);
    assert_eq!(rig.journal().end().0, 30);
}

#[test]
fn a_failing_disk_delays_acknowledgements_until_it_works() {
    let rig = Rig::new();
    let mut peer = rig.broker.welcome();
    rig.gate.set(Disk::Fails);
    peer.send(&[publish(1, b"x")]);
    rig.until_messages(1);
    peer.answer_ping();
    assert_eq!(rig.counter("acks"), 0);
    rig.gate.set(Disk::Works);
    assert_eq!(peer.acks(1), [1]);
}

#[test]
fn what_the_journal_gives_up_stays_with_the_broker() {
    let mut rig = Rig::new();
    let mut peer = rig.broker.welcome();
    rig.gate.set(Disk::Fails);
    peer.send(&[publish(1, b"x")]);
    rig.until_messages(1);
    rig.close_journal();
    rig.until(|part| part.detail.contains("the journal gave up a batch"));
    assert_eq!(peer.try_next(), None);
    let mut peer = rig.broker.welcome();
    peer.send(&[publish(1, b"x")]);
    rig.until(|part| part.state == State::Down && part.detail.contains("the journal is closed"));
    assert_eq!(rig.counter("acks"), 0);
}

#[test]
fn a_refused_topic_filter_degrades_the_source_and_is_named() {
    let rig = Rig::new();
    let mut peer = rig.broker.accept();
    peer.answer(ConnectReturnCode::Success);
    peer.grant([SubscribeReasonCode::Success(QoS::AtLeastOnce), SubscribeReasonCode::Failure]);
    rig.until(|part| part.state == State::Degraded);
    assert!(rig.part().detail.contains("refused topic filter \"more/#\""), "{}", rig.part().detail);
    peer.send(&[publish(1, b"x")]);
    assert_eq!(peer.acks(1), [1]);
}

#[test]
fn a_refused_login_is_reported_and_tried_again() {
    let rig = Rig::new();
    rig.broker.accept().answer(ConnectReturnCode::BadUserNamePassword);
    rig.until(|part| part.state == State::Down);
    assert!(rig.part().detail.contains("check `user`"), "{}", rig.part().detail);
    let _peer = rig.broker.welcome();
    rig.until(|part| part.state == State::Up);
    assert!(rig.part().detail.contains("2 filters"), "{}", rig.part().detail);
}

#[test]
fn a_broker_that_answers_no_ping_is_left_for_a_new_connection() {
    let rig = Rig::with(&Setup { keep_alive: Duration::from_millis(100), ..Setup::default() });
    let mut silent = rig.broker.welcome();
    assert_eq!(silent.next(), Packet::PingReq);
    let mut peer = rig.broker.welcome();
    peer.answer_ping();
    peer.answer_ping();
    assert_eq!(rig.counter("protocol_errors"), 0);
}

#[test]
fn a_broker_that_closes_each_connection_after_the_subscription_points_to_a_rival() {
    let rig = Rig::new();
    for _ in 0..2 {
        drop(rig.broker.welcome());
    }
    rig.until(|part| part.counters["disconnects"] == 2);
    assert!(!rig.part().detail.contains("client_id"), "{}", rig.part().detail);
    drop(rig.broker.welcome());
    rig.until(|part| part.state == State::Degraded);
    assert!(rig.part().detail.contains("use client_id \"sitepulse-east\" on this broker"), "{}", rig.part().detail);
    // It goes on with its work while it is connected, and one connection does not end the suspicion.
    let mut peer = rig.broker.welcome();
    peer.send(&[publish(1, b"x")]);
    assert_eq!(peer.acks(1), [1]);
    let part = rig.part();
    assert!(part.state == State::Degraded && part.detail.contains("connected to"), "{}", part.detail);
}

#[test]
fn an_oversize_message_is_journalled_by_its_head_and_acknowledged() {
    let rig = Rig::with(&Setup { packet_bytes_max: 1_000, ..Setup::default() });
    let mut peer = rig.broker.welcome();
    peer.send(&[publish(1, &vec![b'x'; 300_000]), publish(2, b"small")]);
    assert_eq!(peer.acks(2), [1, 2]);
    let frames = rig.frames(2);
    assert_eq!((frames[0].kind, frames[0].payload.len(), &*frames[0].topic), (FrameKind::Oversize, 256, "telemetry/t"));
    assert_eq!(&*frames[1].payload, b"small");
    assert_eq!((rig.counter("oversize"), rig.counter("messages")), (1, 2));
}

#[test]
fn qos_0_and_retained_messages_are_journalled_and_not_acknowledged() {
    let rig = Rig::new();
    let mut peer = rig.broker.welcome();
    let mut retained = Publish::new("telemetry/r", QoS::AtMostOnce, b"kept".as_slice());
    retained.retain = true;
    peer.send(&[Packet::Publish(retained), publish(4, b"x")]);
    assert_eq!(peer.acks(1), [4]);
    assert_eq!(&*rig.frames(2)[0].topic, "telemetry/r");
}

#[test]
fn a_protocol_error_is_counted_and_what_came_before_it_is_kept() {
    let rig = Rig::new();
    let mut peer = rig.broker.welcome();
    peer.send(&[publish(1, b"good"), Packet::PingReq]);
    assert_eq!(rig.frames(1).len(), 1);
    let _second = rig.broker.welcome();
    assert_eq!(rig.counter("protocol_errors"), 1);
}

#[test]
fn a_stop_waits_for_the_disk_then_acknowledges_and_takes_leave() {
    let mut rig = Rig::new();
    let mut peer = rig.broker.welcome();
    rig.gate.set(Disk::Hangs);
    peer.send(&[publish(1, b"x")]);
    rig.until_messages(1);
    rig.set_stop();
    // Unread or still taken in: it must not cost the broker the acknowledgement of the first.
    peer.send(&[publish(2, b"late")]);
    rig.gate.set(Disk::Works);
    assert_eq!(peer.acks(1), [1]);
    while !matches!(peer.next(), Packet::Disconnect) {}
    assert_eq!(peer.try_next(), None);
    drop(peer);
    rig.join();
}

#[test]
fn a_stop_does_not_wait_for_a_broker_that_is_not_there() {
    let mut rig = Rig::new();
    let peer = rig.broker.accept();
    rig.set_stop();
    rig.join();
    drop(peer);
}

#[test]
fn a_quiet_connection_hears_of_the_journal_s_word_and_of_bytes_before_its_wait_is_over() {
    const LONG: Duration = Duration::from_mins(1);
    let (rig, mut driver) = Rig::by_hand(&Setup { keep_alive: LONG, ..Setup::default() });
    let stream = rig.broker.connect();
    stream.set_nonblocking(true).unwrap();
    let mut link = driver.link(stream, Instant::now() + LONG, Instant::now()).unwrap();
    let in_time = {
        let deadline = Instant::now() + LONG / 2;
        move || assert!(Instant::now() < deadline, "it does not come")
    };
    let mut peer = thread::scope(|scope| {
        let peer = scope.spawn(|| rig.broker.welcome());
        while link.subscribed_at.is_none() {
            in_time();
            driver.turn(&mut link, Instant::now()).unwrap();
        }
        peer.join().unwrap()
    });
    rig.gate.set(Disk::Hangs);
    peer.send(&[publish(1, b"x")]);
    while rig.counter("messages") == 0 {
        in_time();
        driver.turn(&mut link, Instant::now()).unwrap();
    }
    let (bell, gate) = (driver.bell.clone(), rig.gate.clone());
    let disk = thread::spawn(move || {
        while !bell.is_awaited() {
            in_time();
            thread::yield_now();
        }
        gate.set(Disk::Works);
    });
    assert!(driver.wait_for_either(&mut link, LONG).unwrap());
    disk.join().unwrap();
    driver.turn(&mut link, Instant::now()).unwrap();
    assert_eq!(peer.acks(1), [1]);
    assert_eq!(driver.intake.spare_frames(), 1, "of what is on disk the memory comes back");
    // The journal's word may have come before the bell was waited for.
    driver.wait_for_either(&mut link, Duration::ZERO).unwrap();
    peer.send(&[publish(2, b"x")]);
    assert!(driver.wait_for_either(&mut link, LONG).unwrap());
    driver.turn(&mut link, Instant::now()).unwrap();
    assert_eq!(rig.counter("messages"), 2);
    // Nor does it wait for the next connection.
    drop(link);
    while driver.intake.spare_frames() == 0 {
        in_time();
        driver.wait(Duration::from_millis(5));
    }
}
