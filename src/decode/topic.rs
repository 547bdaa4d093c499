//! The topic of a native message: `telemetry/{kind}/{area}/{site}/{device}`.

/// The levels of a native topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic<'a> {
    /// Site kind.
    pub kind: &'a str,
    /// Area code.
    pub area: &'a str,
    /// Site identifier.
    pub site: &'a str,
    /// Device name.
    pub device: &'a str,
}

/// Longest level that is taken in, in bytes.
pub const LEVEL_BYTES_MAX: usize = 128;

impl<'a> Topic<'a> {
    /// Splits a topic; `None` where it does not fit the template or a level is empty, too long or holds control
    /// characters.
    #[must_use]
    pub fn parse(topic: &'a str) -> Option<Self> {
        let mut levels = topic.split('/');
        if levels.next() != Some("telemetry") {
            return None;
        }
        let mut level = || {
            let level = levels.next()?;
            let fits = !level.is_empty() && level.len() <= LEVEL_BYTES_MAX && !level.chars().any(char::is_control);
            fits.then_some(level)
        };
        let parsed = Self { kind: level()?, area: level()?, site: level()?, device: level()? };
        levels.next().is_none().then_some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_template_fits() {
        let topic = Topic::parse("telemetry/base_station/350102/B_1/meter");
        assert_eq!(topic, Some(Topic { kind: "base_station", area: "350102", site: "B_1", device: "meter" }));
        let long = format!("telemetry/k/a/s/{}", "d".repeat(LEVEL_BYTES_MAX + 1));
        for other in ["", "telemetry", "telemetry/a/b/c", "telemetry/a/b/c/d/e", "telemetry/a//c/d", "x/a/b/c/d", &long]
        {
            assert_eq!(Topic::parse(other), None, "{other}");
        }
        assert_eq!(Topic::parse("telemetry/a/b/c/d\u{7}"), None);
    }
}
