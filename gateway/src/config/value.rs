//! Domains: the sets of values that settings take, each with its text form in both directions and its range in words.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;

use super::{DriverChoice, Guests};

/// A set of values with a text form. `parse` and `show` are inverse; errors say what is wrong, not what is allowed.
pub(super) trait Domain {
    type Value;
    fn parse(&self, text: &str) -> Result<Self::Value, String>;
    fn show(&self, value: &Self::Value) -> String;
    fn json(&self, value: &Self::Value) -> Json {
        Json::String(self.show(value))
    }
    /// The range in words.
    fn allowed(&self) -> String;
}

/// Whole numbers.
pub(super) struct Count {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Domain for Count {
    type Value = u32;
    fn parse(&self, text: &str) -> Result<u32, String> {
        let value = number(text)?;
        in_range(value, u64::from(self.min), u64::from(self.max))?;
        u32::try_from(value).map_err(|_| "too large".to_owned())
    }
    fn show(&self, value: &u32) -> String {
        value.to_string()
    }
    fn json(&self, value: &u32) -> Json {
        Json::from(*value)
    }
    fn allowed(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }
}

/// Whole numbers that fit into 16 bits.
pub(super) struct SmallCount {
    pub(super) min: u16,
    pub(super) max: u16,
}

impl Domain for SmallCount {
    type Value = u16;
    fn parse(&self, text: &str) -> Result<u16, String> {
        let value = number(text)?;
        in_range(value, u64::from(self.min), u64::from(self.max))?;
        u16::try_from(value).map_err(|_| "too large".to_owned())
    }
    fn show(&self, value: &u16) -> String {
        value.to_string()
    }
    fn json(&self, value: &u16) -> Json {
        Json::from(*value)
    }
    fn allowed(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }
}

/// Decimal fractions.
pub(super) struct Factor {
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Domain for Factor {
    type Value = f64;
    fn parse(&self, text: &str) -> Result<f64, String> {
        let value: f64 = text.trim().parse().map_err(|_| "not a number".to_owned())?;
        if !value.is_finite() {
            return Err("not a finite number".to_owned());
        }
        in_range(value, self.min, self.max)?;
        Ok(value)
    }
    fn show(&self, value: &f64) -> String {
        value.to_string()
    }
    fn json(&self, value: &f64) -> Json {
        Json::from(*value)
    }
    fn allowed(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }
}

/// Sizes: a number of bytes, or with a unit.
pub(super) struct Bytes {
    pub(super) min: u64,
    pub(super) max: u64,
}

const BYTE_UNITS: [(&str, u64); 9] = [
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

impl Domain for Bytes {
    type Value = u64;
    fn parse(&self, text: &str) -> Result<u64, String> {
        let (digits, unit) = split_unit(text);
        let count = number(digits)?;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" => 1,
            unit => {
                BYTE_UNITS.iter().find_map(|(name, factor)| (*name == unit).then_some(*factor)).ok_or_else(
                    || format!("`{unit}` is not a unit; write B, KiB, MiB, GiB, TiB, KB, MB, GB or TB"),
                )?
            }
        };
        let value = count.checked_mul(factor).ok_or_else(|| "too large".to_owned())?;
        in_range(value, self.min, self.max)?;
        Ok(value)
    }
    fn show(&self, value: &u64) -> String {
        show_bytes(*value)
    }
    fn json(&self, value: &u64) -> Json {
        Json::from(*value)
    }
    fn allowed(&self) -> String {
        format!("{} to {}", show_bytes(self.min), show_bytes(self.max))
    }
}

/// A size in the largest unit that needs no fraction.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let unit = BYTE_UNITS[1..5].iter().rev().zip(["TiB", "GiB", "MiB", "KiB"]);
    for ((_, factor), name) in unit {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{} {name}", bytes / factor);
        }
    }
    format!("{bytes} B")
}

/// Durations, always with a unit.
pub(super) struct Span {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

const MILLISECONDS_OF: [(&str, u64); 6] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration as people write it: `250ms`, `30s`, `5min`, `12h`, `30d`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let count = number(digits)?;
    let factor = MILLISECONDS_OF
        .iter()
        .find_map(|(name, factor)| (*name == unit).then_some(*factor))
        .ok_or_else(|| "a duration needs a unit: ms, s, min, h or d, as in `30s`".to_owned())?;
    let milliseconds = count.checked_mul(factor).ok_or_else(|| "too large".to_owned())?;
    Ok(Duration::from_millis(milliseconds))
}

impl Domain for Span {
    type Value = Duration;
    fn parse(&self, text: &str) -> Result<Duration, String> {
        let value = parse_duration(text)?;
        if value < self.min || value > self.max {
            return Err("out of range".to_owned());
        }
        Ok(value)
    }
    fn show(&self, value: &Duration) -> String {
        show_duration(*value)
    }
    fn allowed(&self) -> String {
        format!("{} to {}", show_duration(self.min), show_duration(self.max))
    }
}

/// A duration in the largest unit that needs no fraction.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let fits = MILLISECONDS_OF.iter().find(|(_, factor)| milliseconds.is_multiple_of(*factor));
    // The last unit is one millisecond and fits everything.
    let (name, factor) = fits.unwrap_or(&MILLISECONDS_OF[5]);
    format!("{}{name}", milliseconds / factor)
}

/// A domain's values, or a word that says that there is none.
pub(super) struct Or<D>(pub(super) &'static str, pub(super) D);

impl<D: Domain> Domain for Or<D> {
    type Value = Option<D::Value>;
    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text.trim() == self.0 { Ok(None) } else { self.1.parse(text).map(Some) }
    }
    fn show(&self, value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| self.0.to_owned(), |value| self.1.show(value))
    }
    fn json(&self, value: &Self::Value) -> Json {
        value.as_ref().map_or_else(|| Json::from(self.0), |value| self.1.json(value))
    }
    fn allowed(&self) -> String {
        format!("{}, or {}", self.0, self.1.allowed())
    }
}

/// `true` or `false`.
pub(super) struct Switch;

impl Domain for Switch {
    type Value = bool;
    fn parse(&self, text: &str) -> Result<bool, String> {
        match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("neither true nor false".to_owned()),
        }
    }
    fn show(&self, value: &bool) -> String {
        value.to_string()
    }
    fn json(&self, value: &bool) -> Json {
        Json::from(*value)
    }
    fn allowed(&self) -> String {
        "true or false".to_owned()
    }
}

/// One of a few words.
pub(super) struct OneOf<T: 'static>(pub(super) &'static [(&'static str, T)]);

pub(super) const DRIVERS: OneOf<DriverChoice> =
    OneOf(&[("auto", DriverChoice::Auto), ("uring", DriverChoice::Uring), ("epoll", DriverChoice::Epoll)]);
pub(super) const GUESTS: OneOf<Guests> =
    OneOf(&[("auto", Guests::Auto), ("on", Guests::On), ("off", Guests::Off)]);

impl<T: Copy + PartialEq> Domain for OneOf<T> {
    type Value = T;
    fn parse(&self, text: &str) -> Result<T, String> {
        let text = text.trim();
        let found = self.0.iter().find_map(|(name, value)| (*name == text).then_some(*value));
        found.ok_or_else(|| "not one of the choices".to_owned())
    }
    fn show(&self, value: &T) -> String {
        let found = self.0.iter().find_map(|(name, known)| (known == value).then_some(*name));
        found.expect("every variant stands in its table").to_owned()
    }
    fn allowed(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }
}

/// An IP address and a port.
pub(super) struct Address;

impl Domain for Address {
    type Value = SocketAddr;
    fn parse(&self, text: &str) -> Result<SocketAddr, String> {
        text.trim().parse().map_err(|_| "not an IP address and a port".to_owned())
    }
    fn show(&self, value: &SocketAddr) -> String {
        value.to_string()
    }
    fn allowed(&self) -> String {
        "an IP address and a port, as 127.0.0.1:8080 or [::]:8080 (port 0: any free one)".to_owned()
    }
}

/// A directory.
pub(super) struct Directory;

impl Domain for Directory {
    type Value = PathBuf;
    fn parse(&self, text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err("empty".to_owned()) } else { Ok(PathBuf::from(text)) }
    }
    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }
    fn allowed(&self) -> String {
        "a path".to_owned()
    }
}

/// Origins as RFC 6454 writes them: scheme, host, port if it is not the scheme's own; nothing behind.
pub(super) struct Origins;

impl Domain for Origins {
    type Value = Vec<String>;
    fn parse(&self, text: &str) -> Result<Vec<String>, String> {
        let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        origins.map(origin).collect()
    }
    fn show(&self, value: &Vec<String>) -> String {
        value.join(", ")
    }
    fn json(&self, value: &Vec<String>) -> Json {
        Json::from(value.clone())
    }
    fn allowed(&self) -> String {
        "a list of origins such as https://chat.example.org or http://localhost:3000".to_owned()
    }
}

fn origin(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let host = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"));
    let plain = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
    };
    match host {
        Some(host) if plain(host) => Ok(lower),
        _ => Err(format!("`{text}` is not an origin")),
    }
}

/// A filter for log lines.
pub(super) struct LogFilter;

impl Domain for LogFilter {
    type Value = String;
    fn parse(&self, text: &str) -> Result<String, String> {
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
    fn show(&self, value: &String) -> String {
        value.clone()
    }
    fn allowed(&self) -> String {
        "a level (error, warn, info, debug, trace), or module=level, separated by commas".to_owned()
    }
}

fn number(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("not a whole number".to_owned());
    }
    text.parse().map_err(|_| "too large".to_owned())
}

fn in_range<T: PartialOrd>(value: T, min: T, max: T) -> Result<(), String> {
    if value < min || value > max { Err("out of range".to_owned()) } else { Ok(()) }
}

/// `"64 KiB"` → `("64", "KiB")`.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    (&text[..end], text[end..].trim_start())
}
