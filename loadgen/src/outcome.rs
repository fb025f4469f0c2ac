//! How a run ends: its verdict and exit code.

use serde::Serialize;

/// What a run says, from best to worst; the number is the exit code.
///
/// When several apply the gravest is reported: what was lost or doubled is wrong whoever was slow, and figures of
/// a generator that was the limit say nothing about thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    /// Everything as it should be.
    Ok = 0,
    /// A figure missed its threshold.
    ThresholdMissed = 1,
    /// Something was lost, duplicated, reordered or corrupted.
    Incorrect = 2,
    /// The generator itself was the limit.
    GeneratorLimited = 3,
    /// The run could not be set up, or was broken off.
    Setup = 4,
}

impl Outcome {
    /// The gravest of three answers.
    #[must_use]
    pub const fn of(correct: bool, generator_limited: bool, thresholds_met: bool) -> Self {
        match (correct, generator_limited, thresholds_met) {
            (false, _, _) => Self::Incorrect,
            (true, true, _) => Self::GeneratorLimited,
            (true, false, false) => Self::ThresholdMissed,
            (true, false, true) => Self::Ok,
        }
    }

    /// The process's exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        self as u8
    }

    /// `pass` or `fail`.
    #[must_use]
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::Ok => "pass",
            _ => "fail",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Ok => "all thresholds met",
            Self::ThresholdMissed => "a threshold was missed",
            Self::Incorrect => "messages were lost, duplicated, reordered or corrupted",
            Self::GeneratorLimited => "the generator itself was the limit: do not trust the latencies",
            Self::Setup => "the run could not be set up",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_wins() {
        assert_eq!(Outcome::of(true, false, true).exit_code(), 0);
        assert_eq!(Outcome::of(true, false, false).exit_code(), 1);
        assert_eq!(Outcome::of(false, true, false).exit_code(), 2);
        assert_eq!(Outcome::of(true, true, false).exit_code(), 3);
        assert_eq!(Outcome::Setup.exit_code(), 4);
    }
}
