//! Which sites there are: two of five are base stations, the others racks of data centres, and one is a port.

use std::cmp::Ordering;

use crate::simulate::AREAS;

/// Racks of one data centre.
const RACKS_PER_CENTRE: usize = 500;
const OPERATORS: [&str; 3] = ["mobile", "telecom", "unicom"];

/// What a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SiteKind {
    Station,
    Rack,
    Port,
}

impl SiteKind {
    pub(super) const ALL: [Self; 3] = [Self::Station, Self::Rack, Self::Port];

    /// The profile of its gateway.
    pub(super) const fn profile(self) -> &'static str {
        match self {
            Self::Station => "city-station",
            Self::Rack => "city-rack",
            Self::Port => "city-port",
        }
    }

    /// What the inventory says of such a site, for the indicators that ask for it.
    pub(super) const fn attributes(self) -> &'static str {
        match self {
            Self::Station => "",
            Self::Rack => "racks_built=500",
            Self::Port => "teu_capacity=36000;berths=2",
        }
    }

    /// The kind in topic and inventory.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Station => "base_station",
            Self::Rack => "data_centre",
            Self::Port => "port",
        }
    }
}

/// Whatever sends one message: a station, a rack, the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) kind: SiteKind,
    pub(super) area: &'static str,
    pub(super) operator: &'static str,
    /// Site in topic and inventory; racks share that of their data centre.
    pub(super) site: String,
    pub(super) device: String,
}

impl Member {
    pub(super) fn topic(&self) -> String {
        format!("telemetry/{}/{}/{}/{}", self.kind.label(), self.area, self.site, self.device)
    }
}

/// A city of so many sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Stations, racks and the port together.
    pub sites: usize,
}

impl Fleet {
    /// Every member: stations, then the port, then racks. The same number of sites makes the same members.
    pub(super) fn members(self) -> impl Iterator<Item = Member> {
        let districts: Vec<&str> = districts().collect();
        let stations = self.sites * 2 / 5;
        (0..self.sites).map(move |index| {
            let (kind, number) = match index.cmp(&stations) {
                Ordering::Less => (SiteKind::Station, index),
                Ordering::Equal => (SiteKind::Port, 0),
                Ordering::Greater => (SiteKind::Rack, index - stations - 1),
            };
            let place = if kind == SiteKind::Rack { number / RACKS_PER_CENTRE } else { number };
            let area = districts[place % districts.len()];
            let (site, device) = match kind {
                SiteKind::Station => (format!("BS-{area}-{:06}", number + 1), "gateway".to_owned()),
                SiteKind::Rack => {
                    (format!("DC-{area}-{:06}", place + 1), format!("rack-{:03}", number % RACKS_PER_CENTRE + 1))
                }
                SiteKind::Port => (format!("PT-{area}-{:06}", number + 1), "gateway".to_owned()),
            };
            Member { kind, area, operator: OPERATORS[place % OPERATORS.len()], site, device }
        })
    }
}

/// Codes of the districts of the city that ships.
fn districts() -> impl Iterator<Item = &'static str> {
    let fields = AREAS.lines().skip(1).map(|line| line.split(','));
    fields.filter_map(|mut fields| {
        let code = fields.next()?;
        fields.nth(2).filter(|parent| !parent.is_empty()).map(|_| code)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_whole_city_has_30_000_stations_a_port_and_racks_for_the_rest() {
        let members: Vec<_> = Fleet { sites: 75_000 }.members().collect();
        let count = |kind| members.iter().filter(|member| member.kind == kind).count();
        assert_eq!(SiteKind::ALL.map(count), [30_000, 44_999, 1]);
        assert_eq!(members.iter().map(Member::topic).collect::<BTreeSet<_>>().len(), 75_000);
    }

    #[test]
    fn sites_lie_in_districts_and_not_in_the_city_as_a_whole() {
        assert!(districts().count() >= 12 && districts().all(|code| code != "350100" && code.len() == 6));
    }
}
