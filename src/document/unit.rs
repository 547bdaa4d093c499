//! Durations and sizes as people write them.

use std::time::Duration;

/// Reads a whole number with its unit: `5ms`, `30s`, `2m`, `1h`, `90d`.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn duration(text: &str) -> Result<Duration, String> {
    let per_unit_ms = |unit: &str| match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    scaled(text, per_unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is no duration; give a whole number with ms, s, m, h or d, such as 30s"))
}

/// Reads a whole number of bytes with its unit: `512B`, `256KiB`, `64MiB`, `1GiB`.
///
/// # Errors
/// What is wrong and what would be valid.
pub fn size(text: &str) -> Result<u64, String> {
    let per_unit = |unit: &str| match unit {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    scaled(text, per_unit)
        .ok_or_else(|| format!("`{text}` is no size; give a whole number with B, KiB, MiB, GiB or TiB, such as 64MiB"))
}

fn scaled(text: &str, per_unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    number.parse::<u64>().ok()?.checked_mul(per_unit(unit.trim_start())?)
}

/// Writes a duration in the largest unit that it is a whole number of.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, per_unit) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= per_unit && millis.is_multiple_of(per_unit) {
            return format!("{}{unit}", millis / per_unit);
        }
    }
    format!("{millis}ms")
}

/// Writes a size in the largest unit that it is a whole number of.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("90d"), Ok(Duration::from_hours(90 * 24)));
        for wrong in ["", "5", "s", "-1s", "1.5h", "5 min", "1h30m", "99999999999999999999d", "9999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_need_their_binary_unit() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("0B"), Ok(0));
        for wrong in ["", "1", "1GB", "1 gb", "-1KiB", "99999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["1ms", "1500ms", "59s", "1m", "25h", "7d"] {
            assert_eq!(duration_text(duration(text).expect("a duration")), text);
        }
        for text in ["0B", "1000B", "3KiB", "1GiB", "1025MiB"] {
            assert_eq!(size_text(size(text).expect("a size")), text);
        }
    }
}
