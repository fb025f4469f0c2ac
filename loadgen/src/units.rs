//! Numbers as people write them: `1,000,000`, `4.18 GB`, `120s`.

use std::time::Duration;

/// `1234567` → `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Decimal units, as budgets here are stated: `4.18 GB`.
#[must_use]
pub fn bytes(number: f64) -> String {
    let magnitude = number.abs();
    for (unit, size) in [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)] {
        if magnitude >= size {
            return format!("{:.2} {unit}", number / size);
        }
    }
    format!("{number:.0} B")
}

/// Microseconds in the unit that reads best.
#[must_use]
pub fn micros(us: f64) -> String {
    match us.abs() {
        large if large >= 1e6 => format!("{:.2} s", us / 1e6),
        middle if middle >= 1e3 => format!("{:.2} ms", us / 1e3),
        _ => format!("{us:.1} µs"),
    }
}

/// `90s`, `1m30s`, `250ms`, `2h`; a bare number is seconds.
///
/// # Errors
/// A text for people when it is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write for example 250ms, 90s, 1m30s or 2h");
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..number_end].parse().map_err(|_| wrong())?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit_end] {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong()),
        };
        rest = &rest[unit_end..];
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// `1000000`, `1,000,000`, `1_000_000`, `100k`, `1M`.
///
/// # Errors
/// A text for people when it is no count.
pub fn parse_count(text: &str) -> Result<u32, String> {
    let wrong = || {
        format!(
            "`{text}` is no count from 0 to 4,294,967,295; write for example 1000000, 1_000_000, 100k or 1M"
        )
    };
    let plain: String = text.chars().filter(|&c| c != ',' && c != '_').collect();
    let (digits, factor) = match plain.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => plain.strip_suffix('M').map_or((plain.as_str(), 1), |digits| (digits, 1_000_000)),
    };
    digits.parse::<u32>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sizes() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!(bytes(4_180_000_000.0), "4.18 GB");
        assert_eq!(bytes(-1_500.0), "-1.50 kB");
        assert_eq!(bytes(273.4), "273 B");
        assert_eq!(micros(0.72), "0.7 µs");
        assert_eq!(micros(2_500.0), "2.50 ms");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("120s"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        for wrong in ["", "s", "5 s", "-1s", "5x", "1e400", "99999999999999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_are_read_as_people_write_them() {
        assert_eq!(parse_count("1,000,000"), Ok(1_000_000));
        assert_eq!(parse_count("1M"), Ok(1_000_000));
        assert_eq!(parse_count("100k"), Ok(100_000));
        for wrong in ["", "-1", "1.5", "5000M", "x"] {
            assert!(parse_count(wrong).is_err(), "{wrong}");
        }
    }
}
