//! Prometheus's text format, version 0.0.4: `# HELP`, `# TYPE`, samples.

use std::fmt::{Display, Write as _};

/// A page under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// A number that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, help, "counter");
        self.sample(name, &[], value);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, help, "gauge");
        self.sample(name, &[], value);
    }

    /// One counter per value of a label.
    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (impl AsRef<str>, u64)>,
    ) {
        self.family(name, help, "counter");
        for (value, count) in samples {
            self.sample(name, &[(label, value.as_ref())], count);
        }
    }

    /// A histogram of durations. `counts` are those of each bucket alone, one more than there are bounds.
    pub fn histogram_seconds(
        &mut self,
        name: &str,
        help: &str,
        bounds_us: &[u64],
        counts: &[u64],
        sum_us: u64,
    ) {
        self.family(name, help, "histogram");
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in bounds_us.iter().zip(counts) {
            below += count;
            self.sample(&bucket, &[("le", &seconds(*bound))], below);
        }
        let all: u64 = counts.iter().sum();
        self.sample(&bucket, &[("le", "+Inf")], all);
        self.sample(&format!("{name}_sum"), &[], seconds(sum_us));
        self.sample(&format!("{name}_count"), &[], all);
    }

    /// A family that [`Self::sample`] fills; for what has several labels.
    pub fn family(&mut self, name: &str, help: &str, kind: &str) {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// One sample of the family before it.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string fails never.
        let _ = writeln!(self.text, "{line}");
    }
}

/// Microseconds as a decimal number of seconds, exactly.
fn seconds(microseconds: u64) -> String {
    let text = format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}
