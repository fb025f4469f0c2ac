//! What `doctor` found, as data and as text. The JSON form is versioned by `schema`; the text form is for people.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use crate::demand::{Ends, Memory, Rings};
use crate::units;

/// Version of the JSON form; raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// What `doctor` found out about a number of connections on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// How many connections were asked for.
    pub connections: u64,
    /// Whose.
    pub ends: Ends,
    /// The worst of the findings.
    pub verdict: Severity,
    /// The driver that `--driver auto` will take: `uring` or `epoll`.
    pub driver: &'static str,
    /// Rings and their tables; `None` with `epoll`.
    pub rings: Option<Rings>,
    /// Memory by the ledger.
    pub memory: Memory,
    /// Every limit that was looked at, the harmless ones too.
    pub findings: Vec<Finding>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// As the system calls it: `RLIMIT_NOFILE`, `net.core.somaxconn` …
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What holds now.
    pub present: Quantity,
    /// What the connections need.
    pub needed: Quantity,
    /// What `present` and `needed` count.
    pub unit: &'static str,
    /// What happens because of it, or why it does not matter here.
    pub why: String,
    /// The command that sets it, to be run as root unless it says otherwise.
    pub fix: Option<String>,
}

/// How bad a finding is, from harmless to fatal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Enough.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// The connections can be held, but slower or with stalls.
    Slower,
    /// The connections cannot be held.
    Stops,
}

impl Severity {
    const fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Slower => "SLOWER",
            Self::Stops => "STOPS",
        }
    }

    /// The escape sequence that colours the mark.
    const fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Note => "\x1b[36m",
            Self::Slower => "\x1b[33m",
            Self::Stops => "\x1b[1;31m",
        }
    }
}

/// A value of a limit: a number wherever there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quantity {
    /// So many of `unit`.
    Count(u64),
    /// So many bytes.
    Bytes(u64),
    /// No limit.
    Unlimited,
    /// Not shown by this kernel or container.
    Unknown,
    /// A value that is not a number.
    Text(String),
}

impl Quantity {
    pub(crate) fn count(value: Option<u64>) -> Self {
        value.map_or(Self::Unknown, Self::Count)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(number) | Self::Bytes(number) => serializer.serialize_u64(*number),
            Self::Unlimited => serializer.serialize_str("unlimited"),
            Self::Unknown => serializer.serialize_none(),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Count(number) => units::count(*number),
            Self::Bytes(number) => units::bytes(*number),
            Self::Unlimited => "unlimited".to_owned(),
            Self::Unknown => "unknown".to_owned(),
            Self::Text(text) => text.clone(),
        };
        f.pad(&text)
    }
}

/// Whether the text may carry escape sequences: the caller knows if it writes to a terminal and what the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Never,
    /// With ANSI colours.
    Always,
}

impl Report {
    /// 0 when the connections can be held (perhaps slower), 1 when at least one limit stops them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(self.verdict == Severity::Stops)
    }

    /// The finding about one limit, by its name.
    #[must_use]
    pub fn finding(&self, name: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.name == name)
    }

    /// The text for people: a line per limit, and below those that matter what happens and what to do.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, colour);
        text
    }

    fn write(&self, out: &mut String, colour: Colour) -> fmt::Result {
        let whose = match self.ends {
            Ends::Server => "on this machine",
            Ends::Client => "from this machine",
            Ends::Both => "with both ends on this machine",
        };
        write!(out, "{} connections {whose}, driver {}", units::count(self.connections), self.driver)?;
        if let Some(rings) = self.rings {
            let plural = if rings.total == 1 { "" } else { "s" };
            let slots = units::count(rings.slots_per_ring);
            write!(out, ", {} ring{plural} of {slots} slots", rings.total)?;
        }
        let memory = units::bytes(self.memory.total_bytes);
        writeln!(out, ", {memory} of memory by the ledger\n")?;
        let name_width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        let present: Vec<String> = self.findings.iter().map(|finding| finding.present.to_string()).collect();
        let present_width = present.iter().map(String::len).max().unwrap_or(0).max("present".len());
        writeln!(out, "        {:name_width$}  {:>present_width$}  needed", "limit", "present")?;
        for (finding, present) in self.findings.iter().zip(&present) {
            let mark = finding.severity.mark();
            match colour {
                Colour::Never => write!(out, "{mark:6}")?,
                Colour::Always => write!(out, "{}{mark:6}\x1b[0m", finding.severity.colour())?,
            }
            let Finding { name, needed, unit, .. } = finding;
            let demand = format!("{needed} {unit}");
            writeln!(out, "  {name:name_width$}  {present:>present_width$}  {}", demand.trim_end())?;
            if finding.severity > Severity::Ok {
                for line in wrap(&finding.why, WIDTH - INDENT.len()) {
                    writeln!(out, "{INDENT}{line}")?;
                }
                if let Some(fix) = &finding.fix {
                    writeln!(out, "{INDENT}→ {fix}")?;
                }
            }
        }
        writeln!(out, "\n{}", self.conclusion())
    }

    fn conclusion(&self) -> String {
        let connections = units::count(self.connections);
        let number = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        match self.verdict {
            Severity::Ok | Severity::Note => format!("{connections} connections fit."),
            Severity::Slower => {
                format!(
                    "{connections} connections fit, but slower: {} too low.",
                    limits(number(Severity::Slower))
                )
            }
            Severity::Stops => {
                format!(
                    "{connections} connections do not fit: {} in the way.",
                    limits(number(Severity::Stops))
                )
            }
        }
    }
}

fn limits(number: usize) -> String {
    if number == 1 { "1 limit".to_owned() } else { format!("{number} limits") }
}

const WIDTH: usize = 100;
const INDENT: &str = "          ";

/// Breaks at spaces so that no line is longer than `width` characters, unless a word is.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_ascii_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_every_word_and_the_width() {
        let text = "a bb ccc dddd eeeeeeeeeeee f";
        let lines = wrap(text, 8);
        assert_eq!(lines, ["a bb ccc", "dddd", "eeeeeeeeeeee", "f"]);
        assert_eq!(lines.join(" "), text);
        assert!(wrap("", 8).is_empty());
    }

    #[test]
    fn quantities_are_numbers_in_json_wherever_there_is_one() {
        let json = |quantity: Quantity| serde_json::to_string(&quantity).expect("serialises");
        assert_eq!(json(Quantity::Count(4_096)), "4096");
        assert_eq!(json(Quantity::Bytes(1 << 30)), "1073741824");
        assert_eq!(json(Quantity::Unlimited), "\"unlimited\"");
        assert_eq!(json(Quantity::Unknown), "null");
        assert_eq!(json(Quantity::Text("kernel 5.15".to_owned())), "\"kernel 5.15\"");
    }
}
