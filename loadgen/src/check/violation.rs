//! What a broken contract looks like to whoever must find out why: the observations that contradict each other.

use std::fmt;
use std::ops::RangeInclusive;

use holdfast_protocol::id::ConversationId;

/// The contracts, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Contract {
    /// What was acknowledged is there, and reaches every member.
    Durable,
    /// Nothing happens twice.
    Once,
    /// One order, without holes, the same for all.
    Ordered,
    /// Everything after a cursor comes, and lists and snapshots say what the inbox says.
    Complete,
    /// Who is not in a conversation sees nothing of it.
    Visibility,
    /// Marks of what was read never go back and say nothing that was not said.
    ReadMarks,
    /// The server lives, starts again on what it has kept, and speaks the protocol.
    Alive,
}

impl Contract {
    pub(crate) const ALL: [Self; 7] = [
        Self::Durable,
        Self::Once,
        Self::Ordered,
        Self::Complete,
        Self::Visibility,
        Self::ReadMarks,
        Self::Alive,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Once => "once",
            Self::Ordered => "ordered",
            Self::Complete => "complete",
            Self::Visibility => "visibility",
            Self::ReadMarks => "read marks",
            Self::Alive => "alive",
        }
    }
}

/// One of the observations that a violation is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fact {
    /// When, in milliseconds since the run began.
    pub(crate) at_ms: u64,
    /// Who saw what.
    pub(crate) text: String,
}

/// A contract that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) contract: Contract,
    /// What is wrong, in one sentence.
    pub(crate) what: String,
    /// The observations that show it.
    pub(crate) facts: Vec<Fact>,
    /// Events that seem lost, while they may still come in a wrong place.
    pub(crate) hole: Option<Hole>,
}

/// Events of a conversation that are not in an inbox where they must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) user: u64,
    pub(crate) conversation: ConversationId,
    pub(crate) seqs: RangeInclusive<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.contract.name(), self.what)?;
        let mut facts = self.facts.clone();
        facts.sort();
        for Fact { at_ms, text } in facts {
            writeln!(f, "  {:>9.3} s  {text}", at_ms as f64 / 1_000.0)?;
        }
        Ok(())
    }
}

/// The one to show: of the gravest kind, the one that the fewest observations tell.
pub(crate) fn smallest(violations: &[Violation]) -> Option<&Violation> {
    violations.iter().min_by_key(|it| (it.contract, it.facts.len(), it.facts.iter().map(|it| it.at_ms).max()))
}
