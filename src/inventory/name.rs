//! What sites, devices, areas and metrics may be called.

use crate::decode::topic::LEVEL_BYTES_MAX;

/// Checks that `name` can be a level of an MQTT topic, a tag of the line protocol and a value in a URL.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("give a name".to_owned());
    }
    if name.len() > LEVEL_BYTES_MAX {
        return Err(format!("the name is {} bytes long; {LEVEL_BYTES_MAX} are the most", name.len()));
    }
    if let Some(bad) = name.chars().find(|&c| c.is_control() || matches!(c, '/' | '+' | '#' | '\\')) {
        return Err(format!(
            "`{}` holds {bad:?}, which no topic level can hold; use letters, digits, `-`, `_`, `.`",
            name.escape_debug()
        ));
    }
    Ok(())
}

/// Checks that `name` is lower case with underscores: a letter first, then letters, digits, underscores.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn check_lower_snake(name: &str) -> Result<(), String> {
    check_name(name)?;
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts_well && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        return Ok(());
    }
    Err(format!("`{name}` is not lower case with underscores; write it like `pwr_w`: a letter, then a-z, 0-9, `_`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_topics_and_line_protocol() {
        for good in ["FZ-GL-001", "福州站", "R_A07.PDU1", "a b"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a/b", "a+b", "a#", "a\\", "a\n", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metric_names_are_lower_snake() {
        assert_eq!(check_lower_snake("energy_kwh"), Ok(()));
        for bad in ["Energy", "energy-kwh", "1st", "_x", "energy kwh", "温度"] {
            assert!(check_lower_snake(bad).is_err(), "{bad}");
        }
    }
}
