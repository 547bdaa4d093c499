//! The payload of a Modbus poll: the blocks that one poll of one device brought, raw, and what they mean.
//!
//! Raw, so that a corrected register map can be replayed over what was heard. Blocks that a device refused are not in
//! the payload; metrics that no block covers have no reading, which is not the same as having no value.
//!
//! # Form, version 1 (integers little-endian)
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 1 | version, 1 |
//! | 2 | number of blocks |
//! | | then per block: |
//! | 1 | table: 0 coils, 1 discrete inputs, 2 holding registers, 3 input registers |
//! | 2 | wire address of the first register or bit |
//! | 2 | count of registers or bits, at least 1; address + count <= 65536 |
//! | 2 x count | registers, each as a number (its high byte on the wire is the high byte here) |
//! | count / 8, rounded up | or bits, the first in the lowest bit of the first byte, the rest of the last byte 0 |
//!
//! Nothing follows the last block. Never reads the clock, never panics on hostile bytes.

use crate::inventory::{ByteOrder, DataType, Profile, Register, RegisterTable};
use crate::ledger::{Invalid, Rejection};

const VERSION: u8 = 1;

/// One answered request of a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Table that was read.
    pub table: RegisterTable,
    /// Wire address of the first register or bit.
    pub address: u16,
    /// What the device answered.
    pub data: BlockData,
}

/// What a block holds; bits for coils and discrete inputs, registers for the other two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockData {
    /// Coils or discrete inputs.
    Bits(Vec<bool>),
    /// Holding or input registers.
    Registers(Vec<u16>),
}

impl BlockData {
    /// Number of bits or registers.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bits(bits) => bits.len(),
            Self::Registers(registers) => registers.len(),
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether `table` holds single bits.
#[must_use]
pub const fn is_bit_table(table: RegisterTable) -> bool {
    matches!(table, RegisterTable::Coil | RegisterTable::DiscreteInput)
}

/// How many registers (or bits, in the bit tables) the value of `register` takes.
#[must_use]
pub const fn width(register: &Register) -> u16 {
    if is_bit_table(register.table) {
        return 1;
    }
    match register.data_type {
        DataType::Bool | DataType::U16 | DataType::I16 => 1,
        DataType::U32 | DataType::I32 | DataType::F32 => 2,
        DataType::U64 | DataType::I64 | DataType::F64 => 4,
    }
}

/// The payload of a poll that brought `blocks`. Counts beyond 65535 cannot come off the wire and are cut.
#[must_use]
pub fn encode_poll(blocks: &[Block]) -> Vec<u8> {
    let count = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
    let data_bytes: usize = blocks.iter().map(|block| 5 + 2 * block.data.len()).sum();
    let mut out = Vec::with_capacity(3 + data_bytes);
    out.push(VERSION);
    out.extend(count(blocks.len()).to_le_bytes());
    for block in blocks.iter().take(usize::from(u16::MAX)) {
        out.push(table_code(block.table));
        out.extend(block.address.to_le_bytes());
        out.extend(count(block.data.len()).to_le_bytes());
        match &block.data {
            BlockData::Registers(registers) => {
                for register in registers.iter().take(usize::from(u16::MAX)) {
                    out.extend_from_slice(&register.to_le_bytes());
                }
            }
            BlockData::Bits(bits) => out.extend(bits.chunks(8).take(usize::from(u16::MAX).div_ceil(8)).map(pack)),
        }
    }
    out
}

fn pack(bits: &[bool]) -> u8 {
    bits.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit))
}

const fn table_code(table: RegisterTable) -> u8 {
    match table {
        RegisterTable::Coil => 0,
        RegisterTable::DiscreteInput => 1,
        RegisterTable::Holding => 2,
        RegisterTable::Input => 3,
    }
}

const fn table_of(code: u8) -> Option<RegisterTable> {
    match code {
        0 => Some(RegisterTable::Coil),
        1 => Some(RegisterTable::DiscreteInput),
        2 => Some(RegisterTable::Holding),
        3 => Some(RegisterTable::Input),
        _ => None,
    }
}

/// Slot of a metric in its profile, and the value or why there is none.
pub type SlotReading = (usize, Result<f64, Invalid>);

/// The readings of one poll by the profile's register map.
///
/// A metric without a register, or whose registers no block covers whole, has no reading.
///
/// # Errors
/// [`Rejection::MalformedPoll`] where the payload is not of the form above.
pub fn decode(profile: &Profile, payload: &[u8]) -> Result<Vec<SlotReading>, Rejection> {
    let blocks = parse(payload).ok_or(Rejection::MalformedPoll)?;
    let mut readings = Vec::with_capacity(profile.metrics.len());
    for (slot, metric) in profile.metrics.iter().enumerate() {
        let Some(register) = &metric.register else { continue };
        if let Some(raw) = blocks.iter().find_map(|block| block.raw(register)) {
            readings.push((slot, value(register, raw)));
        }
    }
    Ok(readings)
}

/// A block as it lies in the payload.
struct RawBlock<'a> {
    table: RegisterTable,
    address: u16,
    count: u16,
    data: &'a [u8],
}

fn parse(payload: &[u8]) -> Option<Vec<RawBlock<'_>>> {
    let mut rest = Bytes(payload);
    if rest.byte()? != VERSION {
        return None;
    }
    let blocks_count = rest.u16()?;
    let mut blocks = Vec::with_capacity(usize::from(blocks_count).min(payload.len() / 6));
    for _ in 0..blocks_count {
        let (table, address, count) = (table_of(rest.byte()?)?, rest.u16()?, rest.u16()?);
        if count == 0 || u32::from(address) + u32::from(count) > 1 << 16 {
            return None;
        }
        let bytes = if is_bit_table(table) { usize::from(count).div_ceil(8) } else { 2 * usize::from(count) };
        blocks.push(RawBlock { table, address, count, data: rest.take(bytes)? });
    }
    rest.0.is_empty().then_some(blocks)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

impl RawBlock<'_> {
    /// The raw value of `register` as an unsigned integer of its width; `None` where this block does not cover it.
    fn raw(&self, register: &Register) -> Option<u64> {
        let width = width(register);
        let first = register.address.checked_sub(self.address)?;
        if self.table != register.table || u32::from(first) + u32::from(width) > u32::from(self.count) {
            return None;
        }
        let first = usize::from(first);
        if is_bit_table(self.table) {
            let byte = *self.data.get(first / 8)?;
            return Some(u64::from(byte >> (first % 8) & 1));
        }
        let bytes = self.data.get(2 * first..2 * (first + usize::from(width)))?;
        let words = bytes.chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
        Some(match register.order {
            ByteOrder::Abcd => join(words),
            ByteOrder::Cdab => join(words.rev()),
            ByteOrder::Badc => join(words.map(u16::swap_bytes)),
            ByteOrder::Dcba => join(words.rev().map(u16::swap_bytes)),
        })
    }
}

/// Words to one number, the first the most significant.
fn join(words: impl Iterator<Item = u16>) -> u64 {
    words.fold(0, |value, word| value << 16 | u64::from(word))
}

fn value(register: &Register, raw: u64) -> Result<f64, Invalid> {
    if register.absent.contains(&raw) {
        return Err(Invalid::Absent);
    }
    let number = if is_bit_table(register.table) || register.bit.is_some() {
        // A shift beyond the register reads 0, as the bits above a register do.
        f64::from(u8::from(raw.checked_shr(register.bit.unwrap_or(0).into()).unwrap_or(0) & 1 == 1))
    } else {
        number(register.data_type, raw)
    };
    if number.is_nan() {
        return Err(Invalid::Absent);
    }
    let value = scaled(number, register.scale) + register.offset;
    if value.is_finite() { Ok(value) } else { Err(Invalid::NotANumber) }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "the low bits are reinterpreted as the declared type; beyond 2^53 a value is rounded, as binary64 is"
)]
fn number(data_type: DataType, raw: u64) -> f64 {
    match data_type {
        DataType::Bool => f64::from(u8::from(raw != 0)),
        DataType::U16 | DataType::U32 | DataType::U64 => raw as f64,
        DataType::I16 => f64::from(raw as u16 as i16),
        DataType::I32 => f64::from(raw as u32 as i32),
        DataType::I64 => raw as i64 as f64,
        DataType::F32 => f64::from(f32::from_bits(raw as u32)),
        DataType::F64 => f64::from_bits(raw),
    }
}

/// `number` x `scale`; a scale of 1/10 divides by 10, which is exact where a multiplication by the nearest binary
/// fraction is not (1234 becomes 123.4, not 123.40000000000001).
fn scaled(number: f64, scale: f64) -> f64 {
    let inverse = scale.recip();
    if scale.abs() < 1.0 && inverse.is_finite() && inverse.fract() == 0.0 { number / inverse } else { number * scale }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inventory::{MetricDef, UnknownMetrics};

    fn register(table: RegisterTable, address: u16, data_type: DataType, order: ByteOrder) -> Register {
        Register { table, address, data_type, order, bit: None, scale: 1.0, offset: 0.0, absent: Vec::new() }
    }

    fn profile(registers: impl IntoIterator<Item = Register>) -> Profile {
        let metric = |(slot, register)| MetricDef { register: Some(register), ..MetricDef::gauge(&format!("m{slot}")) };
        Profile {
            id: "test".to_owned(),
            description: String::new(),
            interval_ms: None,
            unknown_metrics: UnknownMetrics::Refuse,
            time: crate::inventory::TimePolicy::default(),
            metrics: registers.into_iter().enumerate().map(metric).collect(),
        }
    }

    fn holding(address: u16, registers: &[u16]) -> Block {
        Block { table: RegisterTable::Holding, address, data: BlockData::Registers(registers.to_vec()) }
    }

    fn one(register: Register, registers: &[u16]) -> Result<f64, Invalid> {
        let payload = encode_poll(&[holding(register.address, registers)]);
        decode(&profile([register]), &payload).expect("well formed")[0].1
    }

    fn sample() -> Vec<Block> {
        let bits = [true, false, false, true, true, false, false, false, false, true];
        vec![
            Block { table: RegisterTable::Coil, address: 0x0102, data: BlockData::Bits(bits.to_vec()) },
            Block { table: RegisterTable::DiscreteInput, address: 65_535, data: BlockData::Bits(vec![true]) },
            holding(40_000, &[0x0001, 0xABCD]),
            Block { table: RegisterTable::Input, address: 0, data: BlockData::Registers(vec![0xFFFF]) },
        ]
    }

    #[test]
    fn version_1_keeps_its_bytes() {
        let frozen: &[u8] = include_bytes!("../../tests/fixtures/modbus-poll-v1.bin");
        assert_eq!(&*encode_poll(&sample()), frozen);
        let map = profile([
            Register { bit: Some(15), ..register(RegisterTable::Holding, 40_001, DataType::U16, ByteOrder::Abcd) },
            register(RegisterTable::Holding, 40_000, DataType::U32, ByteOrder::Abcd),
            register(RegisterTable::Coil, 0x0102 + 9, DataType::Bool, ByteOrder::Abcd),
            register(RegisterTable::DiscreteInput, 65_535, DataType::Bool, ByteOrder::Abcd),
            register(RegisterTable::Input, 0, DataType::I16, ByteOrder::Abcd),
        ]);
        let expected = [1.0, f64::from(0x0001_ABCD), 1.0, 1.0, -1.0];
        let readings: Vec<_> = expected.into_iter().map(Ok).enumerate().collect();
        assert_eq!(decode(&map, frozen), Ok(readings));
    }

    #[test]
    fn the_four_orders_place_the_same_value_differently() {
        let orders = [
            (ByteOrder::Abcd, [0x0102_u16, 0x0304], [0x0102_u16, 0x0304, 0x0506, 0x0708], 0x0102_u16),
            (ByteOrder::Cdab, [0x0304, 0x0102], [0x0708, 0x0506, 0x0304, 0x0102], 0x0102),
            (ByteOrder::Badc, [0x0201, 0x0403], [0x0201, 0x0403, 0x0605, 0x0807], 0x0201),
            (ByteOrder::Dcba, [0x0403, 0x0201], [0x0807, 0x0605, 0x0403, 0x0201], 0x0201),
        ];
        for (order, two, four, single) in orders {
            let read = |data_type, words: &[u16]| one(register(RegisterTable::Holding, 7, data_type, order), words);
            assert_eq!(read(DataType::U16, &[single]), Ok(f64::from(0x0102)), "{order:?}");
            assert_eq!(read(DataType::U32, &two), Ok(f64::from(0x0102_0304)), "{order:?}");
            assert_eq!(read(DataType::U64, &four), Ok(72_623_859_790_382_856.0), "{order:?}");
            assert_eq!(read(DataType::F64, &four), Ok(f64::from_bits(0x0102_0304_0506_0708)), "{order:?}");
            assert_eq!(read(DataType::F32, &two), Ok(f64::from(f32::from_bits(0x0102_0304))), "{order:?}");
        }
    }

    #[test]
    fn signed_values_take_their_sign_from_their_own_width() {
        let read =
            |data_type, words: &[u16]| one(register(RegisterTable::Holding, 0, data_type, ByteOrder::Abcd), words);
        assert_eq!(read(DataType::I16, &[0x8000]), Ok(-32_768.0));
        assert_eq!(read(DataType::U16, &[0x8000]), Ok(32_768.0));
        assert_eq!(read(DataType::I32, &[0xFFFF, 0xFFFE]), Ok(-2.0));
        assert_eq!(read(DataType::I64, &[0xFFFF, 0xFFFF, 0xFFFF, 0xFFFD]), Ok(-3.0));
    }

    #[test]
    fn scale_comes_before_offset_and_a_tenth_is_exact() {
        let tenth = Register { scale: 0.1, ..register(RegisterTable::Holding, 0, DataType::U16, ByteOrder::Abcd) };
        assert_eq!(one(tenth.clone(), &[1_234]), Ok(123.4));
        assert_eq!(one(Register { offset: -40.0, ..tenth }, &[650]), Ok(25.0));
        let coarse = Register { scale: 2.5, ..register(RegisterTable::Holding, 0, DataType::I16, ByteOrder::Abcd) };
        assert_eq!(one(coarse, &[0xFFFC]), Ok(-10.0));
    }

    #[test]
    fn sentinels_and_nan_are_absent_and_infinity_is_no_number() {
        let sentinel =
            |data_type, absent| Register { absent, ..register(RegisterTable::Holding, 0, data_type, ByteOrder::Cdab) };
        assert_eq!(one(sentinel(DataType::I16, vec![0x7FFF, 0xFFFF]), &[0xFFFF]), Err(Invalid::Absent));
        assert_eq!(one(sentinel(DataType::U32, vec![0xFFFF_0000]), &[0x0000, 0xFFFF]), Err(Invalid::Absent));
        let status = Register { bit: Some(3), ..sentinel(DataType::U16, vec![0xFFFF]) };
        assert_eq!(one(status, &[0xFFFF]), Err(Invalid::Absent));
        assert_eq!(one(sentinel(DataType::F32, vec![]), &[0x0000, 0x7FC0]), Err(Invalid::Absent));
        assert_eq!(one(sentinel(DataType::F32, vec![]), &[0x0000, 0x7F80]), Err(Invalid::NotANumber));
    }

    #[test]
    fn a_metric_that_no_block_covers_whole_has_no_reading() {
        let map = profile([
            register(RegisterTable::Holding, 11, DataType::U32, ByteOrder::Abcd),
            register(RegisterTable::Input, 10, DataType::U16, ByteOrder::Abcd),
            register(RegisterTable::Holding, 9, DataType::U16, ByteOrder::Abcd),
            register(RegisterTable::Holding, 65_535, DataType::U64, ByteOrder::Abcd),
            register(RegisterTable::Holding, 10, DataType::U32, ByteOrder::Abcd),
        ]);
        assert_eq!(decode(&map, &encode_poll(&[holding(10, &[0, 5]), holding(65_535, &[1])])), Ok(vec![(4, Ok(5.0))]));
    }

    #[test]
    fn damage_of_any_length_is_refused() {
        let whole = encode_poll(&sample());
        let map = profile([]);
        for len in 0..whole.len() {
            assert_eq!(decode(&map, &whole[..len]), Err(Rejection::MalformedPoll), "cut at {len}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(decode(&map, &longer), Err(Rejection::MalformedPoll));
        for (at, byte) in [(0, 2), (3, 4), (6, 0)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert_eq!(decode(&map, &other), Err(Rejection::MalformedPoll), "byte {at}");
        }
        let beyond = [1, 1, 0, 2, 0xFF, 0xFF, 2, 0, 1, 2, 3, 4];
        assert_eq!(decode(&map, &beyond), Err(Rejection::MalformedPoll));
    }

    fn any_register() -> impl Strategy<Value = Register> {
        let tables = [RegisterTable::Coil, RegisterTable::DiscreteInput, RegisterTable::Holding, RegisterTable::Input];
        let types = [DataType::Bool, DataType::I16, DataType::U32, DataType::I64, DataType::F32, DataType::F64];
        let orders = [ByteOrder::Abcd, ByteOrder::Cdab, ByteOrder::Badc, ByteOrder::Dcba];
        let choices = (proptest::sample::select(tables.to_vec()), 0_u16..12, proptest::sample::select(types.to_vec()));
        let more = (proptest::sample::select(orders.to_vec()), proptest::option::of(any::<u8>()), any::<f64>());
        (choices, more).prop_map(|((table, address, data_type), (order, bit, scale))| Register {
            bit,
            scale,
            ..register(table, address, data_type, order)
        })
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            registers in proptest::collection::vec(any_register(), 0..8),
            tail in proptest::collection::vec(0_u8..8, 0..64),
            payload: Vec<u8>,
        ) {
            let map = profile(registers);
            let _ = decode(&map, &payload);
            let nearly: Vec<u8> = [1, 2, 0].into_iter().chain(tail).collect();
            let _ = decode(&map, &nearly);
        }

        #[test]
        fn what_is_encoded_is_decoded(
            address in 0_u16..=65_535 - 40,
            registers in proptest::collection::vec(any::<u16>(), 1..40),
            bits in proptest::collection::vec(any::<bool>(), 1..40),
        ) {
            let at = |first: usize| address + u16::try_from(first).expect("short");
            let holding_map = (0..registers.len())
                .map(|first| register(RegisterTable::Holding, at(first), DataType::U16, ByteOrder::Abcd));
            let bit_map = (0..bits.len())
                .map(|first| register(RegisterTable::DiscreteInput, at(first), DataType::Bool, ByteOrder::Abcd));
            let payload = encode_poll(&[
                Block { table: RegisterTable::DiscreteInput, address, data: BlockData::Bits(bits.clone()) },
                Block { table: RegisterTable::Holding, address, data: BlockData::Registers(registers.clone()) },
            ]);
            let values = registers.iter().map(|&word| f64::from(word)).chain(bits.iter().map(|&bit| f64::from(u8::from(bit))));
            let expected: Vec<_> = values.map(Ok).enumerate().collect();
            prop_assert_eq!(decode(&profile(holding_map.chain(bit_map)), &payload), Ok(expected));
        }
    }
}
