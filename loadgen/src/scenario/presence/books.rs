//! What watchers have been told of their contacts, and whether it was so.
//!
//! The protocol promises how it *is*, not each change: changes are gathered, and some that undo each other are never
//! told. So a flap that a watcher does not see is no fault by itself, it is counted as coalesced; a fault is what was
//! never so (`invented`), what concerns somebody else (`misrouted`), and what is not so any more when everything has come
//! to rest (`stale`).
//!
//! Memory: four bytes for each contact of each watcher.
//!
//! Sans-IO: time is an argument, and nothing here sends.

use std::sync::Arc;
use std::time::Duration;

use holdfast_reactor::Moment;

use super::plan::Plan;
use crate::measure::latency::Latencies;

/// What a watcher knows of a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing yet.
    Nothing,
    /// It is not there.
    Offline,
    /// It is there.
    Online,
}

/// A contact of a watcher: the member's number, and in the lowest two bits what is known of it.
#[derive(Debug, Clone, Copy)]
struct Contact(u32);

impl Contact {
    const NOTHING: u32 = 0;
    const OFFLINE: u32 = 1;
    const ONLINE: u32 = 2;

    const fn new(member: u32) -> Self {
        Self(member << 2)
    }

    const fn member(self) -> u32 {
        self.0 >> 2
    }

    const fn known(self) -> Known {
        match self.0 & 3 {
            Self::ONLINE => Known::Online,
            Self::OFFLINE => Known::Offline,
            _ => Known::Nothing,
        }
    }

    const fn set(&mut self, known: Known) {
        let bits = match known {
            Known::Nothing => Self::NOTHING,
            Known::Offline => Self::OFFLINE,
            Known::Online => Self::ONLINE,
        };
        self.0 = self.0 & !3 | bits;
    }
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct WatchCounts {
    /// Watchers that have said whom they watch.
    pub watching: u64,
    /// `presence` frames.
    pub frames: u64,
    /// Users in them.
    pub told: u64,
    /// Of them: no news.
    pub repeated: u64,
    /// Changes that watchers ought to see: two for each flap and watcher of the member.
    pub expected: u64,
    /// Changes that watchers saw.
    pub seen: u64,
    /// Told of somebody who is not watched, or to somebody who does not watch.
    pub misrouted: u64,
    /// Told of what was not so: offline without having left for longer than the grace, back before it was, or away.
    pub invented: u64,
    /// Contacts of whom a watcher believes what is not so, at the end.
    pub stale: u64,
    /// Contacts of whom a watcher was never told.
    pub untold: u64,
    /// From a member's leave, the grace included, to a watcher's frame.
    pub offline_latency: Latencies,
    /// From a member's `hello` to a watcher's frame.
    pub online_latency: Latencies,
}

impl WatchCounts {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.watching += other.watching;
        self.frames += other.frames;
        self.told += other.told;
        self.repeated += other.repeated;
        self.expected += other.expected;
        self.seen += other.seen;
        self.misrouted += other.misrouted;
        self.invented += other.invented;
        self.stale += other.stale;
        self.untold += other.untold;
        self.offline_latency.merge(&other.offline_latency);
        self.online_latency.merge(&other.online_latency);
    }

    /// Changes that no frame told of; meaningful for all threads together.
    #[must_use]
    pub const fn coalesced(&self) -> u64 {
        self.expected.saturating_sub(self.seen)
    }

    /// True when the server kept its word.
    #[must_use]
    pub const fn is_correct(&self) -> bool {
        self.misrouted + self.invented + self.stale + self.untold == 0
    }
}

/// What the watchers of one thread know.
#[derive(Debug)]
pub struct WatchBooks {
    plan: Arc<Plan>,
    grace: Duration,
    first_watcher: u32,
    /// [`Plan::watched`] of each watcher, in the order of the members' numbers.
    contacts: Vec<Contact>,
    not_online: u64,
    /// See [`WatchCounts`].
    pub counts: WatchCounts,
}

impl WatchBooks {
    /// Members whose number fits.
    pub const MEMBERS_MAX: u32 = 1 << 30;

    /// The watchers among `members` members from `first_member` on.
    #[must_use]
    pub fn new(plan: Arc<Plan>, grace: Duration, first_member: u32, members: u32) -> Self {
        let first_watcher = plan.first_watcher(first_member);
        let watchers = first_watcher..plan.first_watcher(first_member + members);
        let mut contacts = Vec::with_capacity(watchers.len() * plan.watched() as usize);
        let mut of_one = Vec::new();
        for watcher in watchers {
            plan.contacts(watcher, &mut of_one);
            contacts.extend(of_one.iter().map(|member| Contact::new(*member)));
        }
        let not_online = contacts.len() as u64;
        Self { plan, grace, first_watcher, contacts, not_online, counts: WatchCounts::default() }
    }

    /// Watchers in these books.
    #[must_use]
    pub fn watchers(&self) -> std::ops::Range<u32> {
        let count = self.contacts.len() / self.plan.watched().max(1) as usize;
        self.first_watcher..self.first_watcher + count as u32
    }

    /// Whom a watcher watches.
    pub fn contacts(&self, watcher: u32) -> impl Iterator<Item = u32> + '_ {
        self.contacts[self.range(watcher)].iter().map(|contact| contact.member())
    }

    /// A watcher says on a new connection whom it watches: what it knew, it knows no longer.
    pub fn asks(&mut self, watcher: u32) {
        let range = self.range(watcher);
        for contact in &mut self.contacts[range] {
            self.not_online += u64::from(contact.known() == Known::Online);
            contact.set(Known::Nothing);
        }
    }

    /// A watcher is told of a member (`None`: of a user who is none).
    pub fn told(&mut self, watcher: u32, member: Option<u32>, online: bool, now: Moment) {
        self.counts.told += 1;
        let range = self.range(watcher);
        let contacts = &mut self.contacts[range];
        let found = member.and_then(|it| contacts.binary_search_by_key(&it, |contact| contact.member()).ok());
        let Some(index) = found else {
            self.counts.misrouted += 1;
            return;
        };
        let contact = &mut contacts[index];
        let (member, before) = (contact.member(), contact.known());
        let news = if online { Known::Online } else { Known::Offline };
        if before == news {
            self.counts.repeated += 1;
            return;
        }
        contact.set(news);
        match news {
            Known::Online => self.not_online -= 1,
            _ => self.not_online += u64::from(before == Known::Online),
        }
        if self.plan.is_disturbed(member) {
            return;
        }
        let since = match (before, news) {
            (_, Known::Offline) => self.plan.left(member, now, self.grace),
            (Known::Offline, _) => self.plan.back(member),
            // That somebody is there who has not left is no change; somebody in the grace is there too.
            _ => return,
        };
        let Some(since) = since else {
            self.counts.invented += 1;
            return;
        };
        if before == Known::Nothing {
            return;
        }
        self.counts.seen += 1;
        let latencies = match news {
            Known::Offline => &mut self.counts.offline_latency,
            _ => &mut self.counts.online_latency,
        };
        latencies.record(now.since(since));
    }

    /// Contacts of whom their watcher does not know that they are there.
    #[must_use]
    pub const fn not_online(&self) -> u64 {
        self.not_online
    }

    /// Everything has come to rest: compares what each watcher believes with how it is.
    pub fn close(&mut self) {
        let judged = self.contacts.iter().filter(|contact| !self.plan.is_disturbed(contact.member()));
        let (mut stale, mut untold) = (0, 0);
        for contact in judged {
            let truth = if self.plan.is_away(contact.member()) { Known::Offline } else { Known::Online };
            untold += u64::from(contact.known() == Known::Nothing);
            stale += u64::from(contact.known() != Known::Nothing && contact.known() != truth);
        }
        (self.counts.stale, self.counts.untold) = (stale, untold);
    }

    fn range(&self, watcher: u32) -> std::ops::Range<usize> {
        let watched = self.plan.watched() as usize;
        let start = (watcher - self.first_watcher) as usize * watched;
        start..start + watched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::books::Pairing;

    const MS: u64 = 1_000_000;
    const GRACE: Duration = Duration::from_millis(1_000);

    /// One watcher that knows of all its contacts that they are there, and one of these, who flaps.
    struct World {
        plan: Arc<Plan>,
        books: WatchBooks,
        flapper: u32,
    }

    impl World {
        fn new() -> Self {
            let plan = Arc::new(Plan::new(20, 1, 19, 3, Pairing::cycle(20, 5), 7));
            let mut books = WatchBooks::new(Arc::clone(&plan), GRACE, 0, 20);
            assert_eq!((books.watchers(), books.not_online()), (0..1, 19));
            books.asks(0);
            let contacts: Vec<u32> = books.contacts(0).collect();
            contacts.iter().for_each(|member| books.told(0, Some(*member), true, Moment(MS)));
            assert_eq!(books.not_online(), 0);
            let flapper = plan.flappers(0, 20).next().unwrap();
            Self { plan, books, flapper }
        }

        fn leave(&mut self, ms: u64) {
            let watchers = self.plan.leaves(self.flapper, Moment(ms * MS));
            assert_eq!(watchers, 1);
            self.books.counts.expected += 2 * u64::from(watchers);
        }

        fn tell(&mut self, online: bool, ms: u64) {
            self.books.told(0, Some(self.flapper), online, Moment(ms * MS));
        }

        fn close(mut self) -> WatchCounts {
            self.books.close();
            self.books.counts
        }
    }

    #[test]
    fn a_flap_is_seen_as_offline_and_then_online_and_timed() {
        let mut world = World::new();
        world.leave(5_000);
        world.tell(false, 6_100);
        assert_eq!(world.books.not_online(), 1);
        world.plan.returns(world.flapper, Moment(8_000 * MS));
        world.tell(true, 8_050);
        assert_eq!(world.books.not_online(), 0);
        let counts = world.close();
        assert!(counts.is_correct(), "{counts:?}");
        assert_eq!((counts.expected, counts.seen, counts.coalesced(), counts.repeated), (2, 2, 0, 0));
        let ms = |latencies: &Latencies| (latencies.summary().max / 1_000.0).round();
        assert_eq!((ms(&counts.offline_latency), ms(&counts.online_latency)), (1_101.0, 50.0));
    }

    #[test]
    fn a_flap_that_was_coalesced_is_no_fault_and_one_that_is_not_seen_to_end_is() {
        let mut world = World::new();
        world.leave(5_000);
        world.plan.returns(world.flapper, Moment(8_000 * MS));
        world.tell(true, 8_050);
        let counts = world.close();
        assert!(counts.is_correct());
        assert_eq!((counts.coalesced(), counts.repeated), (2, 1));

        let mut world = World::new();
        world.leave(5_000);
        world.tell(false, 6_100);
        world.plan.returns(world.flapper, Moment(8_000 * MS));
        let counts = world.close();
        assert_eq!((counts.stale, counts.is_correct()), (1, false));
    }

    #[test]
    fn who_stays_away_has_to_be_known_as_offline() {
        let mut world = World::new();
        world.leave(5_000);
        assert_eq!(world.close().stale, 1);
        let mut world = World::new();
        world.leave(5_000);
        world.tell(false, 6_100);
        assert!(world.close().is_correct());
    }

    #[test]
    fn what_was_never_so_is_found() {
        let mut world = World::new();
        world.tell(false, 4_000);
        assert_eq!(world.close().invented, 1, "it never left");

        let mut world = World::new();
        world.leave(5_000);
        world.tell(false, 5_300);
        assert_eq!(world.close().invented, 1, "its grace was not over");

        let mut world = World::new();
        world.leave(5_000);
        world.tell(false, 6_100);
        world.tell(true, 6_200);
        assert_eq!(world.close().invented, 1, "it was not back");
    }

    #[test]
    fn who_is_not_watched_is_misrouted() {
        let mut world = World::new();
        let me = world.plan.member(0);
        world.books.told(0, Some(me), true, Moment(MS));
        world.books.told(0, None, true, Moment(MS));
        let counts = world.close();
        assert_eq!((counts.misrouted, counts.is_correct()), (2, false));
    }

    #[test]
    fn who_was_lost_is_not_judged() {
        let mut world = World::new();
        world.plan.disturb(world.flapper);
        world.tell(false, 4_000);
        assert!(world.close().is_correct());
    }

    #[test]
    fn who_asks_again_knows_nothing_until_it_is_told() {
        let mut world = World::new();
        world.books.asks(0);
        assert_eq!(world.books.not_online(), 19);
        world.leave(5_000);
        world.tell(false, 7_000);
        assert_eq!(world.books.counts.seen, 0, "an answer is no change");
        let counts = world.close();
        assert_eq!((counts.untold, counts.stale, counts.is_correct()), (18, 0, false));
    }

    #[test]
    fn two_threads_have_all_watchers_between_them_for_four_bytes_a_contact() {
        let plan = Arc::new(Plan::new(1_000, 100, 50, 10, Pairing::cycle(1_000, 5), 7));
        let [one, other] = [(0, 333), (333, 667)]
            .map(|(first, count)| WatchBooks::new(Arc::clone(&plan), GRACE, first, count));
        assert_eq!((one.watchers(), other.watchers()), (0..34, 34..100));
        assert_eq!(one.contacts.len() + other.contacts.len(), 100 * 50);
        assert_eq!(size_of::<Contact>(), 4);
        let mut contacts = Vec::new();
        plan.contacts(40, &mut contacts);
        assert!(other.contacts(40).eq(contacts));
    }
}
