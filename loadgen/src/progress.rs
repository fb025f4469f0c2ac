//! What a person sees while a run goes on, on stderr: one live line on a terminal, else a plain line now and then.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use holdfast_reactor::Moment;

use crate::engine::Snapshot;
use crate::units::count;

/// See the module's doc.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    live: bool,
    start: Moment,
    phase: &'static str,
    phase_start: Moment,
    last_shown: Moment,
    last: Snapshot,
    /// The live line that stands on the terminal.
    line_stands: bool,
}

/// A phase that is shorter shows nothing.
const SILENCE: Duration = Duration::from_secs(2);
const LIVE_EVERY: Duration = Duration::from_millis(200);
const PLAIN_EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// Begins at `start`.
    #[must_use]
    pub fn new(quiet: bool, start: Moment) -> Self {
        Self {
            quiet,
            live: std::io::stderr().is_terminal(),
            start,
            phase: "",
            phase_start: start,
            last_shown: start,
            last: Snapshot::default(),
            line_stands: false,
        }
    }

    /// Prints a line that stays.
    pub fn say(&mut self, text: &str) {
        if !self.quiet {
            self.clear();
            eprintln!("{text}");
        }
    }

    /// A new phase begins.
    pub fn phase(&mut self, name: &'static str, now: Moment, snapshot: Snapshot) {
        self.phase = name;
        self.phase_start = now;
        self.last_shown = now;
        self.last = snapshot;
    }

    /// Shows where we are, if it is time to.
    pub fn show(&mut self, now: Moment, target: u64, snapshot: Snapshot) {
        let every = if self.live { LIVE_EVERY } else { PLAIN_EVERY };
        let passed = now.since(self.last_shown);
        if self.quiet || now.since(self.phase_start) < SILENCE || passed < every {
            return;
        }
        let line = line(self.phase, now.since(self.start), passed, target, &self.last, &snapshot);
        self.last_shown = now;
        self.last = snapshot;
        if self.live {
            // Nobody to tell when stderr is gone.
            let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
            self.line_stands = true;
        } else {
            eprintln!("{line}");
        }
    }

    /// Takes the live line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.line_stands) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(
    phase: &str,
    since_start: Duration,
    passed: Duration,
    target: u64,
    last: &Snapshot,
    now: &Snapshot,
) -> String {
    let per_second = |later: u64, earlier: u64| {
        count((later.saturating_sub(earlier) as f64 / passed.as_secs_f64().max(1e-9)).round() as u64)
    };
    let mut line =
        format!("{:>4} s  {phase:<8} {} of {} up", since_start.as_secs(), count(now.up), count(target));
    if now.opened > last.opened {
        line += &format!(", {} connects/s", per_second(now.opened, last.opened));
    }
    if now.done > last.done {
        line += &format!(", {} messages/s", per_second(now.done, last.done));
    }
    if now.outstanding > 0 {
        line += &format!(", {} under way", count(now.outstanding.unsigned_abs()));
    }
    if now.failed > 0 {
        line += &format!(", {} failed attempts", count(now.failed));
    }
    if now.lost > 0 {
        line += &format!(", {} lost", count(now.lost));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_changes() {
        let last = Snapshot { up: 10_000, opened: 10_000, ..Snapshot::default() };
        let now = Snapshot { up: 25_000, opened: 25_000, lost: 2, ..Snapshot::default() };
        let text = line("ramp", Duration::from_secs(7), Duration::from_secs(1), 1_000_000, &last, &now);
        assert_eq!(text, "   7 s  ramp     25,000 of 1,000,000 up, 15,000 connects/s, 2 lost");
    }
}
