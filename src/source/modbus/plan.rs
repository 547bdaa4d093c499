//! The planner: which requests bring the registers of a profile.
//!
//! Neighbouring values are read together, reading over gaps that cost less than another request. A value is never split
//! over two requests: its halves would be of different instants. A request that the device refuses is split the next
//! time, first at its gaps, then into single values, so that a device with holes in its map works too. Pure.

use crate::decode::modbus::{is_bit_table, width};
use crate::inventory::{Profile, RegisterTable};

/// Registers that one request may ask for (Modbus Application Protocol 1.1b3, 6.3 and 6.4).
const REGISTERS_MAX: u32 = 125;
/// Bits that one request may ask for (6.1 and 6.2).
const BITS_MAX: u32 = 2_000;
/// Bits that cost what one register costs on the wire.
const BITS_PER_REGISTER: u32 = 16;

/// One value's place in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    table: RegisterTable,
    /// Wire address of the first register or bit.
    start: u32,
    /// The address after the last one.
    end: u32,
}

/// One read request, and the values that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadRequest {
    pub(super) table: RegisterTable,
    /// Wire address of the first register or bit.
    pub(super) address: u16,
    /// Registers or bits, at least 1.
    pub(super) count: u16,
    /// In order of start; the first starts at the address.
    spans: Vec<Span>,
}

impl ReadRequest {
    /// A request for `spans`, which are in order and near each other; `None` where there are none.
    fn over(spans: Vec<Span>) -> Option<Self> {
        let (first, end) = (*spans.first()?, spans.iter().map(|span| span.end).max()?);
        let address = u16::try_from(first.start).ok()?;
        let count = u16::try_from(end - first.start).ok()?;
        Some(Self { table: first.table, address, count, spans })
    }

    /// The smaller requests that bring the same values: one per stretch without a gap, or where it has no gap, one per
    /// value. `None` where it is of one value already.
    pub(super) fn split(&self) -> Option<Vec<Self>> {
        let by_gaps = group(&self.spans, |_, end, next| next.start <= end);
        let parts =
            if by_gaps.len() > 1 { by_gaps } else { group(&self.spans, |open, _, next| open.last() == Some(next)) };
        (parts.len() > 1).then_some(parts)
    }
}

/// The requests that bring every register of `profile`, few and within the protocol's limits. A register that lies past
/// the table's end is left out: no request could bring it.
pub(super) fn plan(profile: &Profile, gap_registers_max: u16) -> Vec<ReadRequest> {
    let registers = profile.metrics.iter().filter_map(|metric| metric.register.as_ref());
    let mut spans: Vec<Span> = registers
        .map(|register| {
            let start = u32::from(register.address);
            Span { table: register.table, start, end: start + u32::from(width(register)) }
        })
        .filter(|span| span.end <= 1 << 16)
        .collect();
    spans.sort_unstable();
    group(&spans, |open, end, next| {
        let (gap_max, count_max) = if is_bit_table(next.table) {
            (u32::from(gap_registers_max) * BITS_PER_REGISTER, BITS_MAX)
        } else {
            (u32::from(gap_registers_max), REGISTERS_MAX)
        };
        let start = open.first().map_or(next.start, |first| first.start);
        next.start <= end + gap_max && next.end.max(end) - start <= count_max
    })
}

/// Groups spans that are in order: a span joins the open group of its table where `joins(group, its end, span)`.
fn group(spans: &[Span], joins: impl Fn(&[Span], u32, &Span) -> bool) -> Vec<ReadRequest> {
    let mut groups: Vec<Vec<Span>> = Vec::new();
    let mut end = 0;
    for span in spans {
        match groups.last_mut() {
            Some(open) if open[0].table == span.table && joins(open, end, span) => {
                open.push(*span);
                end = end.max(span.end);
            }
            _ => {
                groups.push(vec![*span]);
                end = span.end;
            }
        }
    }
    groups.into_iter().filter_map(ReadRequest::over).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inventory::{ByteOrder, DataType, MetricDef, Register, UnknownMetrics};

    fn profile(registers: &[(RegisterTable, u16, DataType)]) -> Profile {
        let metric = |&(table, address, data_type): &(RegisterTable, u16, DataType)| {
            let order = ByteOrder::Abcd;
            let register =
                Register { table, address, data_type, order, bit: None, scale: 1.0, offset: 0.0, absent: Vec::new() };
            MetricDef { register: Some(register), ..MetricDef::gauge("m") }
        };
        Profile {
            id: "test".to_owned(),
            description: String::new(),
            interval_ms: None,
            unknown_metrics: UnknownMetrics::Refuse,
            time: crate::inventory::TimePolicy::default(),
            metrics: registers.iter().map(metric).collect(),
        }
    }

    fn asks(requests: &[ReadRequest]) -> Vec<(RegisterTable, u16, u16)> {
        requests.iter().map(|request| (request.table, request.address, request.count)).collect()
    }

    use DataType::{Bool, F64, I16, U16, U32};
    use RegisterTable::{Coil, Holding, Input};

    #[test]
    fn neighbours_share_a_request_and_wide_gaps_do_not() {
        let map = profile(&[(Holding, 30, U16), (Holding, 10, U32), (Holding, 16, I16), (Input, 17, U16)]);
        assert_eq!(asks(&plan(&map, 4)), [(Holding, 10, 7), (Holding, 30, 1), (Input, 17, 1)]);
        assert_eq!(asks(&plan(&map, 3)), [(Holding, 10, 2), (Holding, 16, 1), (Holding, 30, 1), (Input, 17, 1)]);
        assert_eq!(asks(&plan(&map, u16::MAX)), [(Holding, 10, 21), (Input, 17, 1)]);
    }

    #[test]
    fn a_value_at_the_limit_of_a_request_is_not_torn() {
        let map = profile(&[(Holding, 0, U16), (Holding, 123, F64)]);
        assert_eq!(asks(&plan(&map, 125)), [(Holding, 0, 1), (Holding, 123, 4)]);
        let map = profile(&[(Holding, 0, U16), (Holding, 121, F64)]);
        assert_eq!(asks(&plan(&map, 125)), [(Holding, 0, 125)]);
        let map = profile(&[(Coil, 0, Bool), (Coil, 1_999, Bool), (Coil, 2_000, Bool)]);
        assert_eq!(asks(&plan(&map, 125)), [(Coil, 0, 2_000), (Coil, 2_000, 1)]);
    }

    #[test]
    fn a_gap_of_bits_weighs_a_sixteenth() {
        let map = profile(&[(Coil, 0, Bool), (Coil, 17, Bool), (Coil, 34, Bool)]);
        assert_eq!(asks(&plan(&map, 1)), [(Coil, 0, 35)]);
        assert_eq!(asks(&plan(&map, 0)), [(Coil, 0, 1), (Coil, 17, 1), (Coil, 34, 1)]);
    }

    #[test]
    fn the_last_register_is_reached_and_what_lies_past_it_left_out() {
        let map = profile(&[(Holding, 65_535, U16), (Holding, 65_534, U32), (Holding, 65_535, U32)]);
        assert_eq!(asks(&plan(&map, 8)), [(Holding, 65_534, 2)]);
    }

    #[test]
    fn a_refused_request_is_split_at_its_gaps_and_then_by_value() {
        let map = profile(&[(Holding, 10, U32), (Holding, 12, U16), (Holding, 12, U16), (Holding, 20, U16)]);
        let whole = plan(&map, 16);
        assert_eq!(asks(&whole), [(Holding, 10, 11)]);
        let parts = whole[0].split().expect("has a gap");
        assert_eq!(asks(&parts), [(Holding, 10, 3), (Holding, 20, 1)]);
        let values = parts[0].split().expect("has two values");
        assert_eq!(asks(&values), [(Holding, 10, 2), (Holding, 12, 1)]);
        assert_eq!((values[0].split(), values[1].split(), parts[1].split()), (None, None, None));
    }

    fn any_map() -> impl Strategy<Value = Vec<(RegisterTable, u16, DataType)>> {
        let tables = proptest::sample::select(vec![Coil, RegisterTable::DiscreteInput, Holding, Input]);
        let types = proptest::sample::select(vec![U16, U32, F64]);
        let addresses = prop_oneof![0_u16..600, 0_u16..5_000, 65_500_u16..=65_531];
        proptest::collection::vec((tables, addresses, types), 0..60)
    }

    /// Whether one of `requests` brings the whole value.
    fn covered(requests: &[ReadRequest], (table, address, data_type): (RegisterTable, u16, DataType)) -> bool {
        let value = profile(&[(table, address, data_type)]);
        let width = width(value.metrics[0].register.as_ref().expect("has one"));
        requests.iter().any(|request| {
            let end = u32::from(request.address) + u32::from(request.count);
            request.table == table && request.address <= address && u32::from(address) + u32::from(width) <= end
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_whole_and_no_request_is_above_the_limits(map in any_map(), gap in 0_u16..200) {
            let mut requests = plan(&profile(&map), gap);
            // However often the device refuses, what is left still brings every value.
            loop {
                for request in &requests {
                    let count_max = if is_bit_table(request.table) { BITS_MAX } else { REGISTERS_MAX };
                    prop_assert!(request.count >= 1 && u32::from(request.count) <= count_max);
                    prop_assert!(u32::from(request.address) + u32::from(request.count) <= 1 << 16);
                }
                for &value in &map {
                    prop_assert!(covered(&requests, value), "{value:?}");
                }
                let Some(at) = requests.iter().position(|request| request.split().is_some()) else { break };
                let parts = requests[at].split().expect("has parts");
                prop_assert!(parts.iter().all(|part| part.count < requests[at].count || part.spans.len() < requests[at].spans.len()));
                requests.splice(at..=at, parts);
            }
        }

        #[test]
        fn a_gap_above_the_limit_is_never_read_over(map in any_map(), gap in 0_u16..20) {
            for request in plan(&profile(&map), gap) {
                let scale = if is_bit_table(request.table) { BITS_PER_REGISTER } else { 1 };
                let mut end = request.spans[0].end;
                for span in &request.spans {
                    prop_assert!(span.start <= end + u32::from(gap) * scale);
                    end = end.max(span.end);
                }
            }
        }
    }
}
