//! The configuration that ships, of which the simulated city is made: areas, profiles, indicators.

/// The areas of the city.
pub const AREAS: &str = include_str!("../../config/areas.csv");

/// Every profile by its file's name.
pub const PROFILES: [(&str, &str); 11] = [
    ("agv.toml", include_str!("../../config/devices/agv.toml")),
    ("bs-energy-hourly.toml", include_str!("../../config/devices/bs-energy-hourly.toml")),
    ("bs-gnb.toml", include_str!("../../config/devices/bs-gnb.toml")),
    ("bs-meter.toml", include_str!("../../config/devices/bs-meter.toml")),
    ("bs-rectifier.toml", include_str!("../../config/devices/bs-rectifier.toml")),
    ("crane-plc.toml", include_str!("../../config/devices/crane-plc.toml")),
    ("dc-ups.toml", include_str!("../../config/devices/dc-ups.toml")),
    ("dc-utility-meter.toml", include_str!("../../config/devices/dc-utility-meter.toml")),
    ("rack-pdu.toml", include_str!("../../config/devices/rack-pdu.toml")),
    ("shore-power-meter.toml", include_str!("../../config/devices/shore-power-meter.toml")),
    ("yard.toml", include_str!("../../config/devices/yard.toml")),
];

/// Every file of indicators by its name.
pub const INDICATORS: [(&str, &str); 4] = [
    ("base_station.toml", include_str!("../../config/indicators/base_station.toml")),
    ("city.toml", include_str!("../../config/indicators/city.toml")),
    ("data_centre.toml", include_str!("../../config/indicators/data_centre.toml")),
    ("port.toml", include_str!("../../config/indicators/port.toml")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_ships_is_here() {
        let folder = |name: &str| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
            let entries = std::fs::read_dir(path).expect("folder");
            let mut names: Vec<_> =
                entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect();
            names.sort();
            names
        };
        assert_eq!(PROFILES.map(|(name, _)| name).as_slice(), folder("devices"));
        assert_eq!(INDICATORS.map(|(name, _)| name).as_slice(), folder("indicators"));
    }
}
