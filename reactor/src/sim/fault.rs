//! What the simulated network does to whoever is on it, how often, and how often it has.

use std::time::Duration;

use super::random::{Chance, Random};

/// One kind of unkindness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The events of one turn came in another order than what caused them.
    Reordered,
    /// A receive brought less than had arrived, down to a single byte.
    SplitRead,
    /// A connection was not read although bytes had arrived, so that later ones join them.
    LateRead,
    /// A send was taken in part although there was room.
    ShortWrite,
    /// The receiving peer could not read for a while.
    Stalled,
    /// The connection was reset from outside.
    Reset,
    /// FIN came long after the last byte.
    LateFin,
    /// There were no receive buffers for a while (ENOBUFS).
    NoBuffers,
    /// The listener could not accept (EMFILE).
    AcceptFailed,
    /// A connect ran into a timeout.
    ConnectFailed,
    /// The slot that was freed last was given to the next connection.
    SlotReused,
    /// `Closed` came a while after everything else was over, as with a kernel that still holds something.
    SlowClose,
    /// A turn ended early, without a reason.
    SpuriousWake,
    /// The clock jumped forward, past deadlines.
    ClockJump,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Reordered,
        Self::SplitRead,
        Self::LateRead,
        Self::ShortWrite,
        Self::Stalled,
        Self::Reset,
        Self::LateFin,
        Self::NoBuffers,
        Self::AcceptFailed,
        Self::ConnectFailed,
        Self::SlotReused,
        Self::SlowClose,
        Self::SpuriousWake,
        Self::ClockJump,
    ];
}

/// How often each kind of fault happens, and how bad it is when it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// [`Fault::Reordered`], per turn.
    pub reordered: Chance,
    /// [`Fault::SplitRead`], per receive.
    pub split_read: Chance,
    /// [`Fault::LateRead`], per connection and turn.
    pub late_read: Chance,
    /// [`Fault::ShortWrite`], per send.
    pub short_write: Chance,
    /// [`Fault::Stalled`], per send.
    pub stalled: Chance,
    /// How long a peer stalls at most.
    pub stalled_max: Duration,
    /// [`Fault::Reset`], per send and per write of a peer; it strikes within [`Self::reset_max`].
    pub reset: Chance,
    /// How long after what brought it about a reset strikes at most.
    pub reset_max: Duration,
    /// [`Fault::LateFin`], per FIN of a peer.
    pub late_fin: Chance,
    /// How late FIN is at most.
    pub late_fin_max: Duration,
    /// [`Fault::NoBuffers`], per turn that has something to receive.
    pub no_buffers: Chance,
    /// How long buffers are missing at most.
    pub no_buffers_max: Duration,
    /// [`Fault::AcceptFailed`], per accept.
    pub accept_failed: Chance,
    /// [`Fault::ConnectFailed`], per connect.
    pub connect_failed: Chance,
    /// [`Fault::SlotReused`], per accept and connect.
    pub slot_reused: Chance,
    /// [`Fault::SlowClose`], per close.
    pub slow_close: Chance,
    /// How long a close takes at most.
    pub slow_close_max: Duration,
    /// [`Fault::SpuriousWake`], per turn that waits.
    pub spurious_wake: Chance,
    /// [`Fault::ClockJump`], per turn that waits.
    pub clock_jump: Chance,
    /// How far the clock jumps at most.
    pub clock_jump_max: Duration,
}

impl Faults {
    /// A network without faults.
    pub const NONE: Self = Self {
        reordered: Chance::NEVER,
        split_read: Chance::NEVER,
        late_read: Chance::NEVER,
        short_write: Chance::NEVER,
        stalled: Chance::NEVER,
        stalled_max: Duration::from_millis(5),
        reset: Chance::NEVER,
        reset_max: Duration::from_secs(1),
        late_fin: Chance::NEVER,
        late_fin_max: Duration::from_millis(5),
        no_buffers: Chance::NEVER,
        no_buffers_max: Duration::from_millis(5),
        accept_failed: Chance::NEVER,
        connect_failed: Chance::NEVER,
        slot_reused: Chance::NEVER,
        slow_close: Chance::NEVER,
        slow_close_max: Duration::from_millis(5),
        spurious_wake: Chance::NEVER,
        clock_jump: Chance::NEVER,
        clock_jump_max: Duration::from_secs(1),
    };

    /// Every fault that delays, divides or reorders, and none that changes what comes out in the end: a correct
    /// user of the driver does not notice.
    pub const HARMLESS: Self = Self {
        reordered: Chance::percent(30),
        split_read: Chance::percent(10),
        late_read: Chance::percent(10),
        short_write: Chance::percent(10),
        stalled: Chance::percent(3),
        late_fin: Chance::percent(20),
        no_buffers: Chance::percent(2),
        slot_reused: Chance::percent(50),
        slow_close: Chance::percent(30),
        spurious_wake: Chance::percent(10),
        ..Self::NONE
    };

    /// Everything that can go wrong, often enough to be met in a few thousand events.
    pub const UNKIND: Self = Self {
        stalled_max: Duration::from_secs(20),
        reset: Chance::per_million(2_000),
        reset_max: Duration::from_secs(30),
        late_fin_max: Duration::from_secs(5),
        no_buffers_max: Duration::from_millis(200),
        accept_failed: Chance::percent(2),
        connect_failed: Chance::percent(5),
        slow_close_max: Duration::from_millis(500),
        clock_jump: Chance::per_million(2_000),
        clock_jump_max: Duration::from_secs(120),
        ..Self::HARMLESS
    };

    /// [`Self::UNKIND`] with each kind left out, as it is, or much more frequent, as the seed has it: bugs hide
    /// where all faults come in the same mixture every time.
    #[must_use]
    pub fn mixture(random: &mut Random) -> Self {
        let mut faults = Self::UNKIND;
        for chance in [
            &mut faults.reordered,
            &mut faults.split_read,
            &mut faults.late_read,
            &mut faults.short_write,
            &mut faults.stalled,
            &mut faults.reset,
            &mut faults.late_fin,
            &mut faults.no_buffers,
            &mut faults.accept_failed,
            &mut faults.connect_failed,
            &mut faults.slot_reused,
            &mut faults.slow_close,
            &mut faults.spurious_wake,
            &mut faults.clock_jump,
        ] {
            match random.below(4) {
                0 => *chance = Chance::NEVER,
                1 => *chance = chance.times(4),
                _ => {}
            }
        }
        faults
    }
}

/// How often each kind of fault has happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultCounts {
    counts: [u64; Fault::ALL.len()],
}

impl FaultCounts {
    pub(super) fn add(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// How often this kind has happened.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    /// How many faults there were of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another network's counts to these.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// Every kind with its count, in the order of [`Fault::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.into_iter().zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_at_its_own_place() {
        assert!(Fault::ALL.iter().enumerate().all(|(place, fault)| *fault as usize == place));
        let mut counts = FaultCounts::default();
        counts.add(Fault::ClockJump);
        let mut sum = counts.clone();
        sum.merge(&counts);
        assert_eq!((sum.of(Fault::ClockJump), sum.total()), (2, 2));
        assert_eq!(sum.iter().last(), Some((Fault::ClockJump, 2)));
    }

    #[test]
    fn mixtures_differ_from_seed_to_seed_and_not_for_the_same() {
        let of = |seed| Faults::mixture(&mut Random::new(seed));
        assert_eq!(of(1), of(1));
        assert!((0..100).filter(|seed| of(*seed) == of(seed + 1)).count() < 5);
        assert!((0..100).any(|seed| of(seed).reset == Chance::NEVER));
    }
}
