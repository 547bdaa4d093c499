//! Which sites a group has: districts, operators, the city, found once per computation.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Level;
use crate::inventory::{Area, Inventory, Site};

/// Areas above an area that are followed at the most, so that a ring of parents ends.
const ANCESTORS_MAX: usize = 16;

/// A district, an operator or a city.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) level: Level,
    pub(super) area: Arc<str>,
    pub(super) operator: Arc<str>,
    /// Inhabitants of its area.
    pub(super) persons: Option<u64>,
}

/// The groups of every site, as indices into `groups`.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    /// By site: its district, operator and city, as far as they are known.
    memberships: Vec<[Option<usize>; 3]>,
}

impl Groups {
    /// Finds the groups of all sites of `inventory`.
    pub(super) fn of(inventory: &Inventory) -> Self {
        let mut finder = Finder { inventory, places: BTreeMap::new(), keys: BTreeMap::new(), groups: Vec::new() };
        let memberships = inventory.sites().iter().map(|site| finder.memberships(site)).collect();
        Self { groups: finder.groups, memberships }
    }

    /// The groups that the site numbered `site` belongs to.
    pub(super) fn of_site(&self, site: usize) -> impl Iterator<Item = usize> {
        self.memberships[site].into_iter().flatten()
    }
}

/// District and city of an area.
#[derive(Clone, Debug, Default)]
struct Place {
    district: Option<Arc<str>>,
    city: Option<Arc<str>>,
}

struct Finder<'a> {
    inventory: &'a Inventory,
    places: BTreeMap<Arc<str>, Place>,
    keys: BTreeMap<(Level, Arc<str>, Arc<str>), usize>,
    groups: Vec<Group>,
}

impl Finder<'_> {
    fn memberships(&mut self, site: &Site) -> [Option<usize>; 3] {
        let inventory = self.inventory;
        let place = self.places.entry(site.area.clone()).or_insert_with(|| place(inventory, &site.area)).clone();
        let none: Arc<str> = Arc::from("");
        let operator = Some(&site.operator).filter(|operator| !operator.is_empty());
        [
            place.district.map(|area| self.group(Level::District, area, none.clone())),
            place
                .city
                .clone()
                .zip(operator)
                .map(|(area, operator)| self.group(Level::Operator, area, operator.clone())),
            place.city.map(|area| self.group(Level::City, area, none)),
        ]
    }

    fn group(&mut self, level: Level, area: Arc<str>, operator: Arc<str>) -> usize {
        let (groups, inventory) = (&mut self.groups, self.inventory);
        *self.keys.entry((level, area.clone(), operator.clone())).or_insert_with(|| {
            let persons = persons(inventory, &area, ANCESTORS_MAX);
            groups.push(Group { level, area, operator, persons });
            groups.len() - 1
        })
    }
}

/// The city is the area without one above it; the district is what lies right below. A code that the inventory does not
/// list is a district of the only city there is, else of the city that its first four digits name (GB/T 2260).
fn place(inventory: &Inventory, code: &Arc<str>) -> Place {
    let areas = inventory.areas();
    let Some(area) = areas.get(code) else {
        let mut roots = areas.values().filter(|area| area.parent.is_none());
        let city = match (roots.next(), roots.next()) {
            (Some(only), None) => Some(only.code.clone()),
            _ if code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(Arc::from(format!("{}00", &code[..4])))
            }
            _ => None,
        };
        let district = Some(code.clone()).filter(|code| !code.is_empty() && Some(code) != city.as_ref());
        return Place { district, city };
    };
    let mut below: Option<&Area> = None;
    let mut top = area;
    for _ in 0..ANCESTORS_MAX {
        match top.parent.as_ref().and_then(|parent| areas.get(parent)) {
            Some(parent) => (below, top) = (Some(top), parent),
            None => break,
        }
    }
    Place { district: below.map(|area| area.code.clone()), city: Some(top.code.clone()) }
}

/// Inhabitants of an area: its own count, else the sum of the areas below it where each of them has one.
fn persons(inventory: &Inventory, code: &str, depth: usize) -> Option<u64> {
    if let Some(population) = inventory.areas().get(code).and_then(|area| area.population) {
        return Some(population.persons);
    }
    let mut children = inventory.areas().values().filter(|area| area.parent.as_deref() == Some(code)).peekable();
    children.peek()?;
    let depth = depth.checked_sub(1)?;
    children.map(|child| persons(inventory, &child.code, depth)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Population;

    fn area(code: &str, parent: Option<&str>, persons: Option<u64>) -> Area {
        Area {
            code: Arc::from(code),
            name: code.to_owned(),
            name_zh: code.to_owned(),
            parent: parent.map(Arc::from),
            population: persons.map(|persons| Population { persons, year: 2020 }),
        }
    }

    fn inventory(areas: &[(&str, Option<&str>, Option<u64>)]) -> Inventory {
        let mut inventory = Inventory::default();
        for &(code, parent, persons) in areas {
            inventory.add_area(area(code, parent, persons));
        }
        inventory
    }

    /// District and city, empty where there is none.
    fn places(inventory: &Inventory, code: &str) -> [String; 2] {
        let place = place(inventory, &Arc::from(code));
        [place.district, place.city].map(|area| area.map_or_else(String::new, |area| area.to_string()))
    }

    #[test]
    fn a_street_belongs_to_the_district_above_it_and_the_city_itself_to_none() {
        let inventory =
            inventory(&[("350100", None, None), ("350102", Some("350100"), None), ("350102001", Some("350102"), None)]);
        assert_eq!(places(&inventory, "350102001"), ["350102", "350100"]);
        assert_eq!(places(&inventory, "350102"), ["350102", "350100"]);
        assert_eq!(places(&inventory, "350100"), ["", "350100"]);
        assert_eq!(places(&inventory, "999999"), ["999999", "350100"]);
        assert_eq!(places(&inventory, ""), ["", "350100"]);
    }

    #[test]
    fn without_areas_the_code_itself_names_the_city() {
        assert_eq!(places(&Inventory::default(), "350102"), ["350102", "350100"]);
        assert_eq!(places(&Inventory::default(), "harbour"), ["harbour", ""]);
    }

    #[test]
    fn areas_that_lie_in_each_other_do_not_hang() {
        let ring = inventory(&[("a", Some("b"), None), ("b", Some("a"), None)]);
        assert!(place(&ring, &Arc::from("a")).city.is_some());
        assert_eq!(persons(&ring, "a", ANCESTORS_MAX), None);
    }

    #[test]
    fn a_population_is_summed_only_where_every_part_is_known() {
        let whole = [("c", None, None), ("d1", Some("c"), Some(5)), ("d2", Some("c"), Some(7))];
        assert_eq!(persons(&inventory(&whole), "c", ANCESTORS_MAX), Some(12));
        let part = [("c", None, None), ("d1", Some("c"), Some(5)), ("d2", Some("c"), None)];
        assert_eq!(persons(&inventory(&part), "c", ANCESTORS_MAX), None);
        assert_eq!(persons(&inventory(&part), "d2", ANCESTORS_MAX), None);
    }
}
