//! Who watches whom, and who comes and goes: all of it follows from the seed, so nothing of it has to be kept per member.
//!
//! Watchers are spread evenly over the members. Half of whom a watcher watches are the next ones after it in the chat's
//! [`Pairing`], as people watch those whom they write to, and half are random members.
//!
//! Those who flap are random members who do not watch, each with the moments of its last leave and return, which all
//! threads see: whoever is told of a change can say whether it was so, and how long it took to be told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_reactor::Moment;

use crate::random::Random;
use crate::scenario::books::{Marks, Pairing};

/// By how much the server may be ahead of the end of a grace: its clock of milliseconds, and a turn of its worker.
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// See the module's doc.
#[derive(Debug)]
pub struct Plan {
    members: u32,
    watchers: u32,
    watched: u32,
    seed: u64,
    pairing: Pairing,
    flappers: Box<[Flapper]>,
    /// Members whose connection was lost: what is said of them is not judged.
    disturbed: Marks,
}

/// A member that comes and goes.
#[derive(Debug)]
struct Flapper {
    member: u32,
    /// How many watch it.
    watchers: u32,
    /// When it left last; 0: never.
    left_ns: AtomicU64,
    /// When it said `hello` again.
    back_ns: AtomicU64,
}

impl Plan {
    /// `watchers` of the members watch `watched` others each (fewer than there are); `flappers` flap, at most as many
    /// as there are members who do not watch.
    #[must_use]
    pub fn new(
        members: u32,
        watchers: u32,
        watched: u32,
        flappers: u32,
        pairing: Pairing,
        seed: u64,
    ) -> Self {
        let mut plan = Self {
            members,
            watchers: watchers.min(members),
            watched: watched.min(members.saturating_sub(1)),
            seed,
            pairing,
            flappers: Box::default(),
            disturbed: Marks::new(members),
        };
        let flappers = flappers.min(members - plan.watchers) as usize;
        let mut random = Random::stream(seed, 0xf1a9);
        let mut chosen = BTreeSet::new();
        while chosen.len() < flappers {
            let member = random.below(members);
            if plan.watcher(member).is_none() {
                chosen.insert(member);
            }
        }
        let flapper =
            |member| Flapper { member, watchers: 0, left_ns: AtomicU64::new(0), back_ns: AtomicU64::new(0) };
        plan.flappers = chosen.into_iter().map(flapper).collect();
        let mut contacts = Vec::new();
        for watcher in 0..plan.watchers {
            plan.contacts(watcher, &mut contacts);
            for contact in &contacts {
                if let Some(index) = plan.flapper_index(*contact) {
                    plan.flappers[index].watchers += 1;
                }
            }
        }
        plan
    }

    /// How many members watch.
    #[must_use]
    pub const fn watchers(&self) -> u32 {
        self.watchers
    }

    /// How many members each watcher watches.
    #[must_use]
    pub const fn watched(&self) -> u32 {
        self.watched
    }

    /// Which watcher a member is, if it is one.
    #[must_use]
    pub fn watcher(&self, member: u32) -> Option<u32> {
        let watcher = self.first_watcher(member);
        (watcher < self.watchers && self.member(watcher) == member).then_some(watcher)
    }

    /// The member that a watcher is.
    #[must_use]
    pub fn member(&self, watcher: u32) -> u32 {
        (u64::from(watcher) * u64::from(self.members) / u64::from(self.watchers.max(1))) as u32
    }

    /// The first watcher among the members from this one on.
    #[must_use]
    pub fn first_watcher(&self, member: u32) -> u32 {
        (u64::from(member) * u64::from(self.watchers)).div_ceil(u64::from(self.members.max(1))) as u32
    }

    /// Whom a watcher watches, in the order of their numbers.
    pub fn contacts(&self, watcher: u32, contacts: &mut Vec<u32>) {
        let me = self.member(watcher);
        contacts.clear();
        let mut near = self.pairing.receiver(me);
        while (contacts.len() as u32) < self.watched.div_ceil(2) && near != me {
            contacts.push(near);
            near = self.pairing.receiver(near);
        }
        let mut random = Random::stream(self.seed ^ 0xc047_ac75, u64::from(watcher));
        while (contacts.len() as u32) < self.watched {
            let member = random.below(self.members);
            if member != me && !contacts.contains(&member) {
                contacts.push(member);
            }
        }
        contacts.sort_unstable();
    }

    /// Members who have to be silent while others come and go: those who do, and those who write to them.
    #[must_use]
    pub fn silent(&self) -> Marks {
        let silent = Marks::new(self.members);
        for member in 0..self.members {
            if self.is_flapper(member) || self.is_flapper(self.pairing.receiver(member)) {
                silent.set(member);
            }
        }
        silent
    }

    /// Members of this stretch who flap, in the order of their numbers.
    pub fn flappers(&self, first: u32, members: u32) -> impl Iterator<Item = u32> + '_ {
        let stretch = first..first + members;
        self.flappers.iter().map(|flapper| flapper.member).filter(move |member| stretch.contains(member))
    }

    /// How many flap, of all members.
    #[must_use]
    pub fn flapper_count(&self) -> u32 {
        self.flappers.len() as u32
    }

    /// True for members who flap.
    #[must_use]
    pub fn is_flapper(&self, member: u32) -> bool {
        self.flapper_index(member).is_some()
    }

    /// A flapper leaves now. Says how many watch it.
    pub fn leaves(&self, member: u32, now: Moment) -> u32 {
        self.flapper(member).map_or(0, |flapper| {
            flapper.left_ns.store(now.0, Ordering::Release);
            flapper.watchers
        })
    }

    /// A flapper logs in again now.
    pub fn returns(&self, member: u32, now: Moment) {
        if let Some(flapper) = self.flapper(member) {
            flapper.back_ns.store(now.0, Ordering::Release);
        }
    }

    /// A member's connection was lost.
    pub fn disturb(&self, member: u32) {
        self.disturbed.set(member);
    }

    /// True when nothing can be said about what is told of this member: its connection was lost.
    #[must_use]
    pub fn is_disturbed(&self, member: u32) -> bool {
        self.disturbed.is_set(member)
    }

    /// When a member left that may rightly be called offline now; `None`: it never left, or its grace is not over.
    #[must_use]
    pub fn left(&self, member: u32, now: Moment, grace: Duration) -> Option<Moment> {
        let left = Moment(self.flapper(member)?.left_ns.load(Ordering::Acquire));
        let is_over = left.0 > 0 && now.after(CLOCK_SLACK) >= left.after(grace);
        is_over.then_some(left)
    }

    /// When a member came back that was away; `None`: it has not.
    #[must_use]
    pub fn back(&self, member: u32) -> Option<Moment> {
        let flapper = self.flapper(member)?;
        let back_ns = flapper.back_ns.load(Ordering::Acquire);
        (back_ns > flapper.left_ns.load(Ordering::Acquire)).then_some(Moment(back_ns))
    }

    /// True while a member is away.
    #[must_use]
    pub fn is_away(&self, member: u32) -> bool {
        let left = self.flapper(member).map_or(0, |flapper| flapper.left_ns.load(Ordering::Acquire));
        left > 0 && self.back(member).is_none()
    }

    fn flapper(&self, member: u32) -> Option<&Flapper> {
        self.flapper_index(member).map(|index| &self.flappers[index])
    }

    fn flapper_index(&self, member: u32) -> Option<usize> {
        self.flappers.binary_search_by_key(&member, |flapper| flapper.member).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(members: u32, watchers: u32, watched: u32, flappers: u32) -> Plan {
        Plan::new(members, watchers, watched, flappers, Pairing::cycle(members, 5), 7)
    }

    #[test]
    fn watchers_are_spread_evenly_and_found_again() {
        for (members, watchers) in [(200, 40), (1_000, 999), (7, 7), (10, 0), (3, 2)] {
            let plan = plan(members, watchers, 1, 0);
            let found: Vec<u32> = (0..members).filter_map(|member| plan.watcher(member)).collect();
            assert_eq!(found, (0..watchers).collect::<Vec<_>>(), "{members}");
            for stretch in [0, members / 3, members] {
                let before = (0..stretch).filter(|member| plan.watcher(*member).is_some()).count();
                assert_eq!(plan.first_watcher(stretch) as usize, before);
            }
        }
    }

    #[test]
    fn contacts_are_others_each_once_half_of_them_near() {
        let plan = plan(1_000, 100, 50, 0);
        let mut contacts = Vec::new();
        for watcher in 0..100 {
            plan.contacts(watcher, &mut contacts);
            assert_eq!(contacts.len(), 50);
            assert!(contacts.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
            assert!(!contacts.contains(&plan.member(watcher)));
            let mut near = plan.member(watcher);
            for _ in 0..25 {
                near = plan.pairing.receiver(near);
                assert!(contacts.contains(&near));
            }
        }
        let again = super::tests::plan(1_000, 100, 50, 0);
        let mut the_same = Vec::new();
        again.contacts(99, &mut the_same);
        assert_eq!(contacts, the_same);
    }

    #[test]
    fn everybody_else_can_be_watched() {
        let plan = plan(3, 3, 9, 0);
        let mut contacts = Vec::new();
        plan.contacts(1, &mut contacts);
        assert_eq!(contacts, [0, 2]);
    }

    #[test]
    fn who_flaps_watches_nobody_and_neither_writes_nor_is_written_to() {
        let plan = plan(1_000, 500, 10, 100);
        assert_eq!((plan.flapper_count(), plan.flappers(0, 1_000).count()), (100, 100));
        assert_eq!(plan.flappers(0, 400).count() + plan.flappers(400, 600).count(), 100);
        let silent = plan.silent();
        for member in 0..1_000 {
            let flaps = plan.is_flapper(member);
            assert!(!(flaps && plan.watcher(member).is_some()));
            assert_eq!(silent.is_set(member), flaps || plan.is_flapper(plan.pairing.receiver(member)));
        }
        let mut contacts = Vec::new();
        let mut watched = 0;
        for watcher in 0..500 {
            plan.contacts(watcher, &mut contacts);
            watched += contacts.iter().filter(|contact| plan.is_flapper(**contact)).count() as u32;
        }
        let counted: u32 = plan.flappers(0, 1_000).map(|member| plan.leaves(member, Moment(1))).sum();
        assert_eq!(watched, counted);
    }

    #[test]
    fn moments_of_a_flap() {
        const SECOND: u64 = 1_000_000_000;
        let grace = Duration::from_secs(1);
        let plan = plan(100, 10, 5, 10);
        let member = plan.flappers(0, 100).next().unwrap();
        assert_eq!(plan.left(member, Moment(SECOND), grace), None, "it never left");
        plan.leaves(member, Moment(5 * SECOND));
        assert!(plan.is_away(member));
        assert_eq!(plan.left(member, Moment(5 * SECOND + SECOND / 2), grace), None, "its grace is not over");
        assert_eq!(plan.left(member, Moment(6 * SECOND), grace), Some(Moment(5 * SECOND)));
        assert_eq!(plan.back(member), None);
        plan.returns(member, Moment(8 * SECOND));
        assert_eq!((plan.back(member), plan.is_away(member)), (Some(Moment(8 * SECOND)), false));
        plan.leaves(member, Moment(9 * SECOND));
        assert_eq!((plan.back(member), plan.is_away(member)), (None, true));
        let other = (0..100).find(|member| !plan.is_flapper(*member)).unwrap();
        plan.leaves(other, Moment(1));
        assert_eq!(plan.left(other, Moment(9 * SECOND), grace), None);
    }
}
