//! MQTT topic filters (MQTT 3.1.1, 4.7).

/// Checks that `filter` is a valid topic filter, `$share/group/filter` included.
///
/// # Errors
/// What is wrong and what would be valid.
pub(super) fn check(filter: &str) -> Result<(), String> {
    let fault = |what: &str| Err(format!("`{}` {what}", filter.escape_debug()));
    let mut rest = filter;
    if let Some(shared) = filter.strip_prefix("$share/") {
        let Some((group, inner)) = shared.split_once('/') else {
            return fault("names no topics; write $share/group/filter");
        };
        if group.is_empty() || group.contains(['+', '#']) {
            return fault("has no valid group; write $share/group/filter");
        }
        rest = inner;
    }
    if rest.is_empty() {
        return fault("is empty; give a topic filter such as telemetry/+/+/+/+");
    }
    if filter.len() > 65_535 || filter.chars().any(char::is_control) {
        return fault("is longer than 65535 bytes or holds control characters");
    }
    let levels: Vec<_> = rest.split('/').collect();
    for (index, level) in levels.iter().enumerate() {
        if level.contains('+') && *level != "+" {
            return fault("has a `+` beside other characters; a `+` stands for one whole level");
        }
        if level.contains('#') && (*level != "#" || index + 1 < levels.len()) {
            return fault("has a `#` that is not the whole last level; only there may it stand");
        }
    }
    if !reaches_template(&levels) {
        return fault("matches no topic of the form telemetry/{kind}/{area}/{site}/{device}; write telemetry/+/+/+/+");
    }
    Ok(())
}

/// Whether a topic of the native form can match.
fn reaches_template(levels: &[&str]) -> bool {
    const LEVELS: usize = 5;
    let first = levels.first().copied().unwrap_or_default();
    if !matches!(first, "telemetry" | "+" | "#") {
        return false;
    }
    match levels.iter().position(|level| *level == "#") {
        Some(prefix) => prefix <= LEVELS,
        None => levels.len() == LEVELS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_can_hear_the_native_form_are_taken() {
        for good in [
            "#",
            "telemetry/#",
            "telemetry/+/+/+/+",
            "+/+/+/+/+",
            "telemetry/port/350105/P1/crane",
            "telemetry/+/+/+/+/#",
            "$share/sitepulse/telemetry/+/+/+/+",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn filters_that_are_wrong_or_hear_nothing_are_refused() {
        for bad in [
            "",
            "telemetry/#/x",
            "telemetry/b#",
            "telemetry/+x/+/+/+",
            "telemetry/+/+/+",
            "telemetry/+/+/+/+/+",
            "sensors/#",
            "$share/g",
            "$share//telemetry/#",
            "$share/g/",
            "$SYS/#",
            "/telemetry/#",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
