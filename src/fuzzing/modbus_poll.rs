//! Blocks of a poll through a register map that nobody wrote by hand.

use super::Script;
use crate::decode::modbus::{Block, BlockData, decode, encode_poll};
use crate::inventory::{ByteOrder, DataType, MetricDef, Profile, Register, RegisterTable, TimePolicy, UnknownMetrics};

const TABLES: [RegisterTable; 4] =
    [RegisterTable::Coil, RegisterTable::DiscreteInput, RegisterTable::Holding, RegisterTable::Input];
const TYPES: [DataType; 9] = [
    DataType::Bool,
    DataType::U16,
    DataType::I16,
    DataType::U32,
    DataType::I32,
    DataType::U64,
    DataType::I64,
    DataType::F32,
    DataType::F64,
];
const ORDERS: [ByteOrder; 4] = [ByteOrder::Abcd, ByteOrder::Cdab, ByteOrder::Badc, ByteOrder::Dcba];
/// Scales that profiles have, and those that none should.
const SCALES: [f64; 8] = [1.0, 0.1, 0.01, -2.5, 0.0, f64::MIN_POSITIVE, f64::MAX, 1e-300];

/// A register map, a payload, and blocks as a device would answer them.
pub fn modbus_poll(data: &[u8]) {
    let mut script = Script::new(data);
    let profile = profile(&mut script);
    let blocks: Vec<Block> = (0..script.byte() % 5).map(|_| block(&mut script)).collect();
    let ours = encode_poll(&blocks);
    check(&profile, &ours);
    assert!(decode(&profile, &ours).is_ok(), "a poll of our own is refused: {blocks:?}");
    let mut longer = ours;
    longer.push(script.byte());
    assert!(decode(&profile, &longer).is_err(), "a byte too many is taken");
    check(&profile, script.rest());
}

fn check(profile: &Profile, payload: &[u8]) {
    let Ok(readings) = decode(profile, payload) else { return };
    let slots: Vec<usize> = readings.iter().map(|(slot, _)| *slot).collect();
    assert!(slots.is_sorted_by(|a, b| a < b), "a metric has two readings: {slots:?}");
    assert!(slots.iter().all(|&slot| slot < profile.metrics.len()), "{slots:?}");
    for (_, value) in readings {
        assert!(value.is_err() || value.is_ok_and(f64::is_finite), "{value:?}");
    }
}

fn profile(script: &mut Script<'_>) -> Profile {
    let metric = |script: &mut Script<'_>, slot: u8| {
        let scale = if script.flag() { script.of(&SCALES) } else { script.f64() };
        let register = Register {
            table: script.of(&TABLES),
            address: if script.flag() { script.u16() } else { u16::from(script.byte() % 16) },
            data_type: script.of(&TYPES),
            order: script.of(&ORDERS),
            bit: script.flag().then(|| script.byte()),
            scale,
            offset: if script.flag() { script.f64() } else { 0.0 },
            absent: if script.flag() { vec![script.u64()] } else { Vec::new() },
        };
        MetricDef { register: Some(register), ..MetricDef::gauge(&format!("m{slot}")) }
    };
    Profile {
        id: "fuzzed".to_owned(),
        description: String::new(),
        interval_ms: None,
        unknown_metrics: UnknownMetrics::Refuse,
        time: TimePolicy::default(),
        metrics: (0..script.byte() % 9).map(|slot| metric(script, slot)).collect(),
    }
}

fn block(script: &mut Script<'_>) -> Block {
    let table = script.of(&TABLES);
    let count = 1 + u16::from(script.byte() % 130);
    let address = (if script.flag() { script.u16() } else { u16::from(script.byte() % 16) }).min(u16::MAX - count);
    let data = match table {
        RegisterTable::Coil | RegisterTable::DiscreteInput => {
            BlockData::Bits((0..count).map(|_| script.flag()).collect())
        }
        RegisterTable::Holding | RegisterTable::Input => {
            BlockData::Registers((0..count).map(|_| script.u16()).collect())
        }
    };
    Block { table, address, data }
}
