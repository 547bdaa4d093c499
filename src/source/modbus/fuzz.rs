//! A hostile device at the other end of a connection that we opened.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};

use super::link::{Failure, Link};
use super::plan::{ReadRequest, plan};
use crate::decode::modbus::BlockData;
use crate::fuzzing::Script;
use crate::inventory::{ByteOrder, DataType, MetricDef, Profile, Register, RegisterTable, TimePolicy, UnknownMetrics};

/// Bytes of a request to read: a header of seven, function, address, count.
const REQUEST_BYTES: usize = 12;
/// Longest reason that is given for a lost connection.
const REASON_BYTES_MAX: usize = 400;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Registers to ask for, and what the device answers.
pub fn modbus_reply(data: &[u8]) {
    let mut script = Script::new(data);
    let requests = plan(&profile(&mut script), 8);
    RUNTIME.with(|runtime| {
        let (ours, theirs) = duplex(1 << 16);
        runtime.block_on(async { tokio::join!(ask(Link::over(ours), &requests), answer(theirs, script)) });
    });
}

/// What comes is as long and of the kind that was asked for, or a reason.
async fn ask(mut link: Link, requests: &[ReadRequest]) {
    for request in requests {
        match link.read(1, request, Duration::from_secs(1), Duration::ZERO).await {
            Ok(data) => {
                assert_eq!(data.len(), usize::from(request.count), "{request:?}");
                let bits = matches!(request.table, RegisterTable::Coil | RegisterTable::DiscreteInput);
                assert_eq!(bits, matches!(data, BlockData::Bits(_)), "{request:?}");
            }
            Err(Failure::Exception(_)) => {}
            Err(Failure::Lost(reason) | Failure::Unreachable(reason)) => {
                assert!(!reason.is_empty() && reason.len() <= REASON_BYTES_MAX, "{reason:?}");
                assert!(!reason.contains(char::is_control), "{reason:?}");
                return;
            }
            Err(Failure::Timeout) => return,
        }
    }
}

/// Answers as the script says: mostly in a good frame, else with any bytes, after which the device hangs up.
async fn answer(mut stream: DuplexStream, mut script: Script<'_>) {
    let mut request = [0; REQUEST_BYTES];
    while !script.is_over() && stream.read_exact(&mut request).await.is_ok() {
        let how = script.byte() % 16;
        let reply = match how {
            0 => script.piece().to_vec(),
            1 => good_answer(&request, request[11]),
            _ => {
                let pdu = if how < 6 { script.piece() } else { &good_pdu(&request, script.byte()) };
                framed(&request, pdu, how)
            }
        };
        if stream.write_all(&reply).await.is_err() || how == 0 {
            return;
        }
    }
}

fn framed(request: &[u8; REQUEST_BYTES], pdu: &[u8], how: u8) -> Vec<u8> {
    let length = u16::try_from(pdu.len() + 1).expect("short").to_be_bytes();
    let unit = if how == 15 { request[6] ^ 1 } else { request[6] };
    let transaction = if how == 14 { request[1] ^ 1 } else { request[1] };
    let header = [request[0], transaction, 0, u8::from(how == 13), length[0], length[1], unit];
    [&header[..], pdu].concat()
}

fn good_answer(request: &[u8; REQUEST_BYTES], fill: u8) -> Vec<u8> {
    framed(request, &good_pdu(request, fill), 6)
}

/// Function, byte count and as many bytes as the request wants.
fn good_pdu(request: &[u8; REQUEST_BYTES], fill: u8) -> Vec<u8> {
    let count = usize::from(u16::from_be_bytes([request[10], request[11]]));
    let bytes = if request[7] <= 2 { count.div_ceil(8) } else { 2 * count };
    let mut pdu = vec![request[7], u8::try_from(bytes).expect("a request's answer fits")];
    pdu.resize(2 + bytes, fill);
    pdu
}

fn profile(script: &mut Script<'_>) -> Profile {
    let tables = [RegisterTable::Coil, RegisterTable::DiscreteInput, RegisterTable::Holding, RegisterTable::Input];
    let types = [DataType::U16, DataType::U32, DataType::F64];
    let metric = |slot: u8, script: &mut Script<'_>| {
        let register = Register {
            table: script.of(&tables),
            address: if script.flag() { script.u16() } else { u16::from(script.byte()) },
            data_type: script.of(&types),
            order: ByteOrder::Abcd,
            bit: None,
            scale: 1.0,
            offset: 0.0,
            absent: Vec::new(),
        };
        MetricDef { register: Some(register), ..MetricDef::gauge(&format!("m{slot}")) }
    };
    Profile {
        id: "fuzzed".to_owned(),
        description: String::new(),
        interval_ms: None,
        unknown_metrics: UnknownMetrics::Refuse,
        time: TimePolicy::default(),
        metrics: (0..=script.byte() % 6).map(|slot| metric(slot, script)).collect(),
    }
}
