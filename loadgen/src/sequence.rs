//! Which numbers of a dense sequence have been seen, in 16 bytes.
//!
//! ```text
//!   … seen …  next  . X . X X . . .          X = seen ahead of `next` (64 positions)
//!   ──────────┘     └─ ahead: bit k stands for next + 1 + k
//! ```
//!
//! Everything below `next` has been seen, but for `skipped` numbers that were given up on when something arrived
//! more than 64 ahead. The senders here never have more than [`SequenceWindow::REACH`] unanswered, so giving up
//! happens only when a server loses many in a row; then late and duplicate can no longer be told apart for those.

/// What the arrival of a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next one.
    InOrder,
    /// Some before it have not come yet.
    Ahead,
    /// It comes after a later one: out of order.
    Late,
    /// It has been here before.
    Duplicate,
}

/// See the module's doc.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceWindow {
    ahead: u64,
    next: u32,
    skipped: u32,
}

const _: () = assert!(size_of::<SequenceWindow>() == 16);

impl SequenceWindow {
    /// How many numbers beyond `next` are told apart.
    pub const REACH: u32 = 64;
    /// Numbers from here on are not taken: `next` and what is computed from it must not overflow.
    pub const END: u32 = u32::MAX - 2 * Self::REACH;

    /// The lowest number that has not been seen (nor given up on).
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.next
    }

    /// Takes note of a number below [`Self::END`]; one from there on counts as given up on at once.
    pub fn observe(&mut self, number: u32) -> Arrival {
        if number >= Self::END {
            return Arrival::Ahead;
        }
        if number < self.next {
            if self.skipped > 0 {
                self.skipped -= 1;
                return Arrival::Late;
            }
            return Arrival::Duplicate;
        }
        if number == self.next {
            let late = self.ahead != 0;
            self.step();
            return if late { Arrival::Late } else { Arrival::InOrder };
        }
        let mut offset = number - self.next - 1;
        if offset >= Self::REACH {
            self.give_up(offset - (Self::REACH - 1));
            if number == self.next {
                // Everything between the hole and this one had been seen.
                self.step();
                return Arrival::Ahead;
            }
            offset = number - self.next - 1;
        }
        let bit = 1u64 << offset;
        if self.ahead & bit != 0 {
            return Arrival::Duplicate;
        }
        self.ahead |= bit;
        Arrival::Ahead
    }

    /// True when the number has been seen (or given up on).
    #[must_use]
    pub const fn contains(&self, number: u32) -> bool {
        if number <= self.next {
            return number < self.next;
        }
        let offset = number - self.next - 1;
        offset < Self::REACH && self.ahead & (1 << offset) != 0
    }

    /// How many different numbers have been seen.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.next as u64 - self.skipped as u64 + self.ahead.count_ones() as u64
    }

    /// How many numbers are in `self` but not in `other`: acked but not delivered, say.
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> u64 {
        let end = self.next.max(other.next) + 1 + Self::REACH;
        let holes = (other.next..end).filter(|&number| self.contains(number) && !other.contains(number));
        u64::from(other.skipped) + holes.count() as u64
    }

    /// Moves past `next` and whatever was seen right behind it.
    fn step(&mut self) {
        let run = self.ahead.trailing_ones();
        self.next += run + 1;
        self.ahead = self.ahead.checked_shr(run + 1).unwrap_or(0);
    }

    /// Moves `next` on by at least `distance`, counting what was not seen on the way.
    fn give_up(&mut self, distance: u32) {
        // `next` itself, and the unseen ones among the distance - 1 behind it.
        let window = (distance - 1).min(Self::REACH);
        let passed = if window == 64 { self.ahead } else { self.ahead & ((1 << window) - 1) };
        self.skipped += 1 + window - passed.count_ones() + (distance - 1 - window);
        self.next += distance;
        // The bit of the new `next` goes away with the shift: it is looked at first.
        let next_was_seen = distance <= Self::REACH && self.ahead & (1 << (distance - 1)) != 0;
        self.ahead = self.ahead.checked_shr(distance).unwrap_or(0);
        if next_was_seen {
            self.step();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn tells_the_four_apart() {
        let mut window = SequenceWindow::default();
        let observed: Vec<Arrival> = [0, 2, 1, 1, 3, 5, 5, 4].map(|number| window.observe(number)).to_vec();
        use Arrival::{Ahead, Duplicate, InOrder, Late};
        assert_eq!(observed, [InOrder, Ahead, Late, Duplicate, InOrder, Ahead, Duplicate, Late]);
        assert_eq!((window.next(), window.seen()), (6, 6));
    }

    #[test]
    fn a_long_hole_is_given_up_on_and_counted() {
        let mut window = SequenceWindow::default();
        window.observe(0);
        assert_eq!(window.observe(200), Arrival::Ahead);
        assert_eq!(window.seen(), 2);
        let mut acked = SequenceWindow::default();
        (0..=200).for_each(|number| {
            acked.observe(number);
        });
        assert_eq!(acked.missing_from(&window), 199);
        assert_eq!(window.observe(7), Arrival::Late, "one that had been given up on");
        assert_eq!(acked.missing_from(&window), 198);
    }

    #[test]
    fn giving_up_may_close_the_window_up_to_the_newcomer() {
        let mut window = SequenceWindow::default();
        (1..=64).for_each(|number| assert_eq!(window.observe(number), Arrival::Ahead));
        assert_eq!(window.observe(65), Arrival::Ahead);
        assert_eq!(window, SequenceWindow { ahead: 0, next: 66, skipped: 1 });
    }

    #[test]
    fn a_full_window_closes() {
        let mut window = SequenceWindow::default();
        (1..=64).for_each(|number| assert_eq!(window.observe(number), Arrival::Ahead));
        assert_eq!(window.observe(0), Arrival::Late);
        assert_eq!(window, SequenceWindow { ahead: 0, next: 65, skipped: 0 });
    }

    proptest! {
        /// Within its reach the window agrees with a set.
        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec(0u32..80, 0..400)) {
            let mut window = SequenceWindow::default();
            let mut set = BTreeSet::new();
            let mut greatest = None;
            for step in steps {
                let number = (window.next() + step).saturating_sub(12).min(window.next() + 64);
                let expected = if set.contains(&number) {
                    Arrival::Duplicate
                } else if greatest.is_some_and(|greatest| number < greatest) && number == window.next() {
                    Arrival::Late
                } else if number == window.next() {
                    Arrival::InOrder
                } else {
                    Arrival::Ahead
                };
                prop_assert_eq!(window.observe(number), expected);
                set.insert(number);
                greatest = greatest.max(Some(number));
                prop_assert_eq!(window.seen(), set.len() as u64);
                for probe in 0..window.next() + 70 {
                    prop_assert_eq!(window.contains(probe), set.contains(&probe));
                }
            }
        }

        /// However far it is thrown, it neither panics nor counts a number twice.
        #[test]
        fn counts_after_any_jump(numbers in prop::collection::vec(prop_oneof![0u32..300, 0u32..100_000], 0..300)) {
            let mut window = SequenceWindow::default();
            let mut fresh = 0;
            for number in numbers {
                if window.observe(number) != Arrival::Duplicate {
                    fresh += 1;
                }
                prop_assert_eq!(window.seen(), fresh);
            }
        }
    }
}
