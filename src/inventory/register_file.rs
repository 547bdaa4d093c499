//! The register of a metric as a profile writes it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::{ByteOrder, DataType, Register, RegisterTable};
use crate::document::{Faults, Integer, Number, Text};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRegister {
    table: Option<Text>,
    address: Option<Integer>,
    #[serde(rename = "type")]
    data_type: Option<Text>,
    order: Option<Text>,
    bit: Option<Integer>,
    scale: Option<Number>,
    offset: Option<Number>,
    absent: Option<Vec<Option<Raw>>>,
}

/// A raw value: a whole number, or one in quotes where it needs more than 63 bits (`"0xFFFFFFFFFFFFFFFF"`).
#[derive(Debug)]
struct Raw(u64);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a raw value as an unsigned whole number, such as 0xFFFF")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Raw, E> {
                let refusal = || E::custom(format!("{number} is no raw value; write it unsigned, 0xFFFF and not -1"));
                u64::try_from(number).map(Raw).map_err(|_| refusal())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Raw, E> {
                let number = match text.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(&digits.replace('_', ""), 16),
                    None => text.parse(),
                };
                number.map(Raw).map_err(|_| E::custom(format!("`{text}` is no raw value; write it like \"0xFFFF\"")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Raw, A::Error> {
                Err(A::Error::custom("give plain numbers, not lists"))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

const TABLES: [(&str, RegisterTable); 4] = [
    ("coil", RegisterTable::Coil),
    ("discrete_input", RegisterTable::DiscreteInput),
    ("holding", RegisterTable::Holding),
    ("input", RegisterTable::Input),
];

const TYPES: [(&str, DataType); 9] = [
    ("bool", DataType::Bool),
    ("u16", DataType::U16),
    ("i16", DataType::I16),
    ("u32", DataType::U32),
    ("i32", DataType::I32),
    ("u64", DataType::U64),
    ("i64", DataType::I64),
    ("f32", DataType::F32),
    ("f64", DataType::F64),
];

const ORDERS: [(&str, ByteOrder); 4] =
    [("ABCD", ByteOrder::Abcd), ("CDAB", ByteOrder::Cdab), ("BADC", ByteOrder::Badc), ("DCBA", ByteOrder::Dcba)];

/// Registers (bits of the bit tables) that a value of this type takes.
const fn width(data_type: DataType) -> u32 {
    match data_type {
        DataType::Bool | DataType::U16 | DataType::I16 => 1,
        DataType::U32 | DataType::I32 | DataType::F32 => 2,
        DataType::U64 | DataType::I64 | DataType::F64 => 4,
    }
}

/// Checks a register; every fault is added to `found`.
pub(super) fn register(raw: RawRegister, key: &str, found: &mut Faults<'_>) -> Option<Register> {
    let sub = |name: &str| format!("{key}.{name}");
    let table = found.required(&sub("table"), raw.table, "one of coil, discrete_input, holding, input");
    let table = table.and_then(|text| found.choice(&sub("table"), &text.0, &TABLES));
    let data_type = found.required(&sub("type"), raw.data_type, "one of bool, u16, i16, u32, i32, u64, i64, f32, f64");
    let data_type = data_type.and_then(|text| found.choice(&sub("type"), &text.0, &TYPES));
    let order = raw.order.and_then(|text| found.choice(&sub("order"), &text.0, &ORDERS));
    let address = found.required(&sub("address"), raw.address, "the wire address, 0-65535; the first register is 0");
    let address = address.and_then(|address| {
        let refusal =
            || format!("{} is no wire address; give 0-65535, without the table's digit (40001 is 0)", address.0);
        found.ok(&sub("address"), u16::try_from(address.0).map_err(|_| refusal()))
    });
    let bit = raw.bit.and_then(|bit| {
        let read = u8::try_from(bit.0).ok().filter(|bit| *bit < 16);
        found.ok(&sub("bit"), read.ok_or_else(|| format!("{} is no bit; give 0-15, 0 the least significant", bit.0)))
    });
    let scale = raw.scale.map_or(1.0, |scale| scale.0);
    if scale == 0.0 {
        found.add(&sub("scale"), "0 would make every value 0; give the factor from raw value to unit");
    }
    let absent: Vec<u64> = raw.absent.into_iter().flatten().flatten().map(|raw| raw.0).collect();
    let register = Register {
        table: table?,
        address: address?,
        data_type: data_type?,
        order: order.unwrap_or_default(),
        bit,
        scale,
        offset: raw.offset.map_or(0.0, |offset| offset.0),
        absent,
    };
    check_fit(&register, key, found);
    Some(register)
}

fn check_fit(register: &Register, key: &str, found: &mut Faults<'_>) {
    let sub = |name: &str| format!("{key}.{name}");
    let holds_bits = matches!(register.table, RegisterTable::Coil | RegisterTable::DiscreteInput);
    let is_bool = register.data_type == DataType::Bool;
    if is_bool && !holds_bits {
        found.add(
            &sub("type"),
            "bool is only in the tables coil and discrete_input; of a register take type u16 and `bit`",
        );
    }
    if holds_bits && !is_bool {
        found.add(&sub("type"), "the tables coil and discrete_input hold bits; give type bool");
    }
    if register.bit.is_some() && register.data_type != DataType::U16 {
        found.add(&sub("bit"), "a bit is taken of type u16 only");
    }
    let width = width(register.data_type);
    if u32::from(register.address) + width > 65_536 {
        let message = format!("{} registers from {} on reach beyond the last one, 65535", width, register.address);
        found.add(&sub("address"), message);
    }
    let bits = if is_bool { 1 } else { 16 * width };
    for &raw in register.absent.iter().filter(|&&raw| bits < 64 && raw >> bits != 0) {
        found.add(&sub("absent"), format!("{raw:#X} does not fit the {bits} bits of the type"));
    }
}

#[cfg(test)]
mod tests {
    use crate::inventory::parse_profile;

    fn problems(register: &str) -> Vec<String> {
        let text =
            format!("id = 'p'\n[[metric]]\nname = 'x'\nunit = '1'\nkind = 'gauge'\nregister = {{ {register} }}\n");
        parse_profile("p.toml", &text)
            .map_or_else(|found| found.iter().map(|p| p.key.clone()).collect(), |_| Vec::new())
    }

    #[test]
    fn registers_that_cannot_be_are_refused() {
        let cases = [
            ("table = 'holding', address = 0, type = 'u16'", None),
            ("table = 'holding', address = 65535, type = 'u16', bit = 15", None),
            ("table = 'coil', address = 65535, type = 'bool'", None),
            ("table = 'input', address = 0, type = 'u64', absent = ['0xFFFFFFFFFFFFFFFF', 0x8000]", None),
            ("table = 'holding', address = 65535, type = 'u32'", Some("address")),
            ("table = 'holding', address = 65533, type = 'f64'", Some("address")),
            ("table = 'holding', address = 400001, type = 'u16'", Some("address")),
            ("table = 'holding', address = -1, type = 'u16'", Some("address")),
            ("table = 'holding', type = 'u16'", Some("address")),
            ("table = 'holding', address = 0, type = 'bool'", Some("type")),
            ("table = 'coil', address = 0, type = 'u16'", Some("type")),
            ("table = 'holding', address = 0, type = 'float'", Some("type")),
            ("table = 'holding', address = 0, type = 'i16', bit = 3", Some("bit")),
            ("table = 'holding', address = 0, type = 'u16', bit = 16", Some("bit")),
            ("table = 'holding', address = 0, type = 'u16', scale = 0", Some("scale")),
            ("table = 'holding', address = 0, type = 'u32', order = 'ABDC'", Some("order")),
            ("table = 'holding', address = 0, type = 'u16', absent = [0x1FFFF]", Some("absent")),
            ("table = 'holding', address = 0, type = 'u16', absent = [-1]", Some("absent[0]")),
            ("table = 'holdings', address = 0, type = 'u16'", Some("table")),
        ];
        for (register, fault) in cases {
            let expected: Vec<_> = fault.iter().map(|key| format!("metric[0].register.{key}")).collect();
            assert_eq!(problems(register), expected, "{register}");
        }
    }
}
