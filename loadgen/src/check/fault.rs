//! Which faults there are, and when they strike: from a seed.

use std::fmt;

use crate::random::Random;

/// Something that goes wrong around the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// `kill -9`, and a restart.
    Kill,
    /// SIGSTOP for 5 s, then SIGCONT.
    Stop,
    /// Connections are reset.
    Reset,
    /// Clients stop reading for a while.
    Slow,
    /// `kill -9`, and what was not synced is gone.
    Lost,
    /// The same, and of the last writes some pages are there, or parts of them.
    Torn,
    /// fsync fails with EIO; then the machine stops.
    Eio,
    /// The disk is full for a while.
    Full,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Kill, Self::Stop, Self::Reset, Self::Slow, Self::Lost, Self::Torn, Self::Eio, Self::Full];

    /// As the command line has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Reset => "reset",
            Self::Slow => "slow",
            Self::Lost => "lost",
            Self::Torn => "torn",
            Self::Eio => "eio",
            Self::Full => "full",
        }
    }

    /// Whether it needs a disk that can fail.
    #[must_use]
    pub const fn needs_disk(self) -> bool {
        matches!(self, Self::Lost | Self::Torn | Self::Eio | Self::Full)
    }
}

/// A choice of faults: `all`, `none`, or names with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Reads it.
    ///
    /// # Errors
    /// A text for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self(Fault::ALL.to_vec())),
            "none" => return Ok(Self(Vec::new())),
            _ => {}
        }
        let mut faults = Vec::new();
        for name in text.split(',').map(str::trim) {
            let fault = Fault::ALL.into_iter().find(|fault| fault.name() == name);
            let names = || Fault::ALL.map(Fault::name).join(", ");
            let fault =
                fault.ok_or_else(|| format!("`{name}` is no fault; there are all, none, {}", names()))?;
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        Ok(Self(faults))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        if self.0.len() == Fault::ALL.len() {
            return f.write_str("all");
        }
        f.write_str(&self.0.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(","))
    }
}

/// When which fault strikes.
#[derive(Debug)]
pub(crate) struct Plan {
    faults: Vec<Fault>,
    random: Random,
    next_ms: u64,
    /// Those that have not had their turn.
    bag: Vec<Fault>,
}

/// Between two faults, at least and at most.
const PAUSE_MS: (u32, u32) = (700, 3_500);

impl Plan {
    pub(crate) fn new(faults: &Faults, seed: u64) -> Self {
        Self { faults: faults.0.clone(), random: Random::stream(seed, 2), next_ms: 0, bag: Vec::new() }
    }

    /// Nothing strikes before a pause from now on.
    pub(crate) fn pause(&mut self, now_ms: u64) {
        let (least, most) = PAUSE_MS;
        self.next_ms = now_ms + u64::from(least + self.random.below(most - least));
    }

    /// What strikes now, if anything: each once before one strikes again.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Fault> {
        if now_ms < self.next_ms || self.faults.is_empty() {
            return None;
        }
        self.pause(now_ms);
        if self.bag.is_empty() {
            self.bag.clone_from(&self.faults);
        }
        let at = self.random.below(self.bag.len() as u32) as usize;
        Some(self.bag.swap_remove(at))
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_back() {
        for text in ["all", "none", "kill", "kill,reset", "lost,torn,eio,full"] {
            assert_eq!(Faults::parse(text).unwrap().to_string(), text);
        }
        assert!(Faults::parse("kill,flood").unwrap_err().contains("`flood` is no fault"));
    }

    #[test]
    fn every_fault_has_its_turn_and_the_seed_decides_when() {
        let strikes = |seed| {
            let mut plan = Plan::new(&Faults(Fault::ALL.to_vec()), seed);
            (0..100_000).filter_map(|ms| plan.next(ms).map(|fault| (ms, fault))).collect::<Vec<_>>()
        };
        let once = strikes(1);
        assert_eq!(once, strikes(1));
        assert_ne!(once, strikes(2));
        assert!(once.len() >= 2 * Fault::ALL.len());
        for chunk in once.chunks_exact(Fault::ALL.len()) {
            let mut faults: Vec<Fault> = chunk.iter().map(|(_, fault)| *fault).collect();
            faults.sort();
            assert_eq!(faults, Fault::ALL, "each once before one strikes again");
        }
    }
}
