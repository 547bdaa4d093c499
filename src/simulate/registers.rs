//! The register image of a simulated device: values to raw registers, the inverse of [`crate::decode::modbus`].

use std::collections::BTreeMap;

use crate::decode::modbus::{BlockData, is_bit_table, width};
use crate::inventory::{ByteOrder, DataType, Register, RegisterTable};

/// What a device's tables hold at an instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    words: BTreeMap<(RegisterTable, u16), u16>,
}

impl Image {
    /// Puts `value` where `register` says. What the register cannot hold becomes the nearest value that it can; no value
    /// becomes one that means "absent".
    pub fn put(&mut self, register: &Register, value: f64) {
        if is_bit_table(register.table) {
            self.words.insert((register.table, register.address), u16::from(value != 0.0));
            return;
        }
        if let Some(bit) = register.bit {
            let word = self.words.entry((register.table, register.address)).or_default();
            // Within the register, the bytes lie as they do in a number.
            let mask = swapped(1_u16.checked_shl(bit.into()).unwrap_or(0), register.order);
            *word = if value == 0.0 { *word & !mask } else { *word | mask };
            return;
        }
        for (address, word) in (register.address..=u16::MAX).zip(words(register, raw(register, value))) {
            self.words.insert((register.table, address), word);
        }
    }

    /// `count` registers or bits from `address`; holes within the map read 0. `None` where the map does not begin and
    /// end with what is asked for: an illegal data address.
    #[must_use]
    pub fn read(&self, table: RegisterTable, address: u16, count: u16) -> Option<BlockData> {
        let last = address.checked_add(count.checked_sub(1)?)?;
        let held = |address: u16| self.words.get(&(table, address)).copied();
        held(address).and(held(last))?;
        let words = (address..=last).map(|address| held(address).unwrap_or(0));
        Some(if is_bit_table(table) {
            BlockData::Bits(words.map(|word| word != 0).collect())
        } else {
            BlockData::Registers(words.collect())
        })
    }
}

/// The raw value, in the low bits, that decodes to `value` or to the nearest that the type holds.
fn raw(register: &Register, value: f64) -> u64 {
    let inverse = register.scale.recip();
    let whole_inverse = register.scale.abs() < 1.0 && inverse.fract() == 0.0;
    let plain = value - register.offset;
    let number = if whole_inverse { plain * inverse } else { plain / register.scale };
    let raw = number_bits(register.data_type, number);
    // A device that measures its own sentinel says the value beside it.
    if register.absent.contains(&raw) { number_bits(register.data_type, number - 1.0) } else { raw }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest number of the type: `as` saturates"
)]
fn number_bits(data_type: DataType, number: f64) -> u64 {
    let whole = number.round();
    match data_type {
        DataType::Bool => u64::from(number != 0.0),
        DataType::U16 => u64::from(whole as u16),
        DataType::I16 => u64::from((whole as i16).cast_unsigned()),
        DataType::U32 => u64::from(whole as u32),
        DataType::I32 => u64::from((whole as i32).cast_unsigned()),
        DataType::U64 => whole as u64,
        DataType::I64 => (whole as i64).cast_unsigned(),
        DataType::F32 => u64::from((number as f32).to_bits()),
        DataType::F64 => number.to_bits(),
    }
}

/// The registers that hold `raw`, in order of their address.
#[expect(clippy::cast_possible_truncation, reason = "sixteen bits at a time are what is wanted")]
fn words(register: &Register, raw: u64) -> Vec<u16> {
    let count = width(register);
    let high_first = (0..count).rev().map(|word| swapped((raw >> (16 * word)) as u16, register.order));
    match register.order {
        ByteOrder::Abcd | ByteOrder::Badc => high_first.collect(),
        ByteOrder::Cdab | ByteOrder::Dcba => high_first.rev().collect(),
    }
}

const fn swapped(word: u16, order: ByteOrder) -> u16 {
    match order {
        ByteOrder::Abcd | ByteOrder::Cdab => word,
        ByteOrder::Badc | ByteOrder::Dcba => word.swap_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::modbus::{Block, decode, encode_poll};
    use crate::inventory::{MetricDef, Profile};

    const ORDERS: [ByteOrder; 4] = [ByteOrder::Abcd, ByteOrder::Cdab, ByteOrder::Badc, ByteOrder::Dcba];

    fn register(data_type: DataType, order: ByteOrder, scale: f64) -> Register {
        let (table, address) = (RegisterTable::Holding, 40);
        Register { table, address, data_type, order, bit: None, scale, offset: 0.0, absent: Vec::new() }
    }

    /// What a collector makes of the image.
    fn read_back(image: &Image, register: &Register) -> f64 {
        let count = width(register);
        let data = image.read(register.table, register.address, count).expect("in the map");
        let profile = Profile {
            metrics: vec![MetricDef { register: Some(register.clone()), ..MetricDef::gauge("m") }],
            ..Profile::open()
        };
        let poll = encode_poll(&[Block { table: register.table, address: register.address, data }]);
        decode(&profile, &poll).expect("well formed")[0].1.expect("a value")
    }

    fn round_trip(register: &Register, value: f64) -> f64 {
        let mut image = Image::default();
        image.put(register, value);
        read_back(&image, register)
    }

    /// Bounds within which every whole number of the type survives binary64.
    fn whole_types() -> [(DataType, f64, f64); 6] {
        [
            (DataType::U16, 0.0, 65_535.0),
            (DataType::I16, -32_768.0, 32_767.0),
            (DataType::U32, 0.0, 4_294_967_295.0),
            (DataType::I32, -2_147_483_648.0, 2_147_483_647.0),
            (DataType::U64, 0.0, 1e15),
            (DataType::I64, -1e15, 1e15),
        ]
    }

    proptest! {
        #[test]
        fn a_value_in_any_type_and_order_reads_back_within_half_a_step(
            kind in 0_usize..6,
            order in 0_usize..4,
            part in 0.0_f64..=1.0,
            scale in proptest::sample::select(vec![1.0, 0.1, 0.01, 0.001, 2.5, 10.0]),
            offset in proptest::sample::select(vec![0.0, -40.0, 1.5]),
        ) {
            let (data_type, low, high) = whole_types()[kind];
            let register = Register { offset, ..register(data_type, ORDERS[order], scale) };
            let value = (low + part * (high - low)) * scale + offset;
            let off = (round_trip(&register, value) - value).abs();
            let room = scale / 2.0 + value.abs() * 1e-15 * 4.0;
            prop_assert!(off <= room, "{value} came back {off} off");
        }

        #[test]
        fn floats_of_any_order_read_back(value in -1e9_f64..1e9, order in 0_usize..4, scale in proptest::sample::select(vec![1.0, 0.001, 3.0])) {
            let single = round_trip(&register(DataType::F32, ORDERS[order], scale), value);
            prop_assert!((single - value).abs() <= value.abs() * 1e-6, "{value} came back as {single}");
            let double = round_trip(&register(DataType::F64, ORDERS[order], scale), value);
            prop_assert!((double - value).abs() <= value.abs() * 1e-15 * 4.0, "{value} came back as {double}");
        }

        #[test]
        fn a_bit_changes_nothing_beside_it(bit in 0_u8..16, word: u16, on: bool, order in 0_usize..4) {
            let whole = register(DataType::U16, ORDERS[order], 1.0);
            let single = Register { bit: Some(bit), ..whole.clone() };
            let mut image = Image::default();
            image.put(&whole, f64::from(word));
            image.put(&single, f64::from(u8::from(on)));
            prop_assert_eq!(read_back(&image, &single), f64::from(u8::from(on)));
            let expected = if on { word | 1 << bit } else { word & !(1 << bit) };
            prop_assert_eq!(read_back(&image, &whole), f64::from(expected));
        }
    }

    #[test]
    fn bits_of_coils_read_back() {
        let coil = Register { table: RegisterTable::Coil, ..register(DataType::Bool, ByteOrder::Abcd, 1.0) };
        assert_eq!((round_trip(&coil, 1.0), round_trip(&coil, 0.0)), (1.0, 0.0));
    }

    #[test]
    fn a_value_beyond_the_type_saturates_and_keeps_off_the_sentinel() {
        let register = Register { absent: vec![0xFFFF], ..register(DataType::U16, ByteOrder::Abcd, 1.0) };
        assert_eq!(round_trip(&register, 65_535.0), 65_534.0);
        assert_eq!(round_trip(&register, -5.0), 0.0);
    }

    #[test]
    fn a_hole_reads_0_and_what_lies_outside_is_refused() {
        let mut image = Image::default();
        image.put(&register(DataType::U16, ByteOrder::Abcd, 1.0), 7.0);
        image.put(&Register { address: 42, ..register(DataType::U16, ByteOrder::Abcd, 1.0) }, 9.0);
        let read = |address, count| image.read(RegisterTable::Holding, address, count);
        assert_eq!(read(40, 3), Some(BlockData::Registers(vec![7, 0, 9])));
        assert_eq!((read(40, 2), read(39, 2), read(40, 0), read(65_535, 2)), (None, None, None, None));
        assert_eq!(image.read(RegisterTable::Input, 40, 1), None);
    }
}
