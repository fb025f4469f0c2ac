//! Who of a shard's sessions watches whom, and what is known of those who are watched.
//!
//! A connection has a list of those whom it watches, so that it can go in one step; a user has the set of connections
//! that watch, so that whoever has to be told is found without looking at anybody else. Workers are asked once for a
//! user, however many watch: from then on they tell what changes.
//!
//! A user may hide from some. What a shard is told of such a user says so, and for each connection that watches, the
//! user's worker is asked whether it may; until then, and when it may not, it is not told ([`Watches::next_doubt`],
//! [`Watches::may`]). Whoever may not see a user sees what one sees of somebody who was never there.
//!
//! A user with five thousand watchers must not keep anybody waiting: a set is walked some members at a time
//! ([`Watches::walk`]), and a watcher who comes late to its turn is told how it is by then.
//!
//! Never here: sockets, frames, workers.

use std::collections::VecDeque;

use hashbrown::HashMap;
use holdfast_protocol::id::UserId;
use holdfast_reactor::ConnectionId;
use holdfast_storage::command::{Hides, LAST_SEEN_STEP_MS, Presence, UserPresence};

use super::index::Index;
use super::sets::{MEMBERS_MAX, Set, Sets};

/// Users whom one connection can watch at most: the configuration allows no more.
pub(crate) const WATCHED_MAX: usize = 1_024;

/// One connection watches one user: the target, and above it whether the connection may see a user who hides from some.
/// A hundred thousand connections that watch fifty users each have five million of these.
#[derive(Debug, Clone, Copy)]
struct Edge(u32);

/// Whether a connection may see a user who hides from some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// Nobody has been asked.
    Unknown = 0,
    /// The user's worker has been asked.
    Asked = 1,
    May = 2,
    MayNot = 3,
}

const SIGHT_SHIFT: u32 = 30;
/// Users whom a shard's connections watch, all together.
const TARGETS_MAX: u32 = 1 << SIGHT_SHIFT;

impl Edge {
    fn target(self) -> u32 {
        self.0 & (TARGETS_MAX - 1)
    }

    fn sight(self) -> Sight {
        match self.0 >> SIGHT_SHIFT {
            0 => Sight::Unknown,
            1 => Sight::Asked,
            2 => Sight::May,
            _ => Sight::MayNot,
        }
    }

    fn set_sight(&mut self, sight: Sight) {
        self.0 = self.target() | (sight as u32) << SIGHT_SHIFT;
    }
}

/// The edges of one connection, in the order of the users' ids.
#[derive(Debug)]
struct List {
    generation: u32,
    /// It had no room for what it was to be told.
    is_owed: bool,
    edges: Box<[Edge]>,
}

/// A user who is watched.
#[derive(Debug, Clone, Copy)]
struct Target {
    user: UserId,
    /// Empty: nobody watches any more, and a queue still knows the place.
    watchers: Set,
    known: Known,
}

const _: () = assert!(size_of::<Target>() == 16);

/// What is known of a user, and in which queues the user stands, in 32 bits: how it is in two, four flags, and in the
/// rest when the user was seen last, in steps of [`LAST_SEEN_STEP_MS`] since the end of 2024, which is enough until 2046.
#[derive(Debug, Clone, Copy)]
struct Known(u32);

impl Known {
    const STATE: u32 = 0b11;
    const UNKNOWN: u32 = 0;
    const ONLINE: u32 = 1;
    const AWAY: u32 = 2;
    const OFFLINE: u32 = 3;
    /// It stands in `changed`.
    const QUEUED: u32 = 0b100;
    /// It stands in `unasked`.
    const UNASKED: u32 = 0b1000;
    /// The user hides from some.
    const HIDES: u32 = 0b1_0000;
    /// Perhaps from others than before: every watcher is to be asked for.
    const HIDES_ANEW: u32 = 0b10_0000;
    const SEEN_SHIFT: u32 = 6;
    const SEEN_FROM_MS: u64 = 1_735_600_000_000;

    /// `None` until a worker has said.
    fn presence(self) -> Option<Presence> {
        match self.0 & Self::STATE {
            Self::ONLINE => Some(Presence::Online),
            Self::AWAY => Some(Presence::Away),
            Self::OFFLINE => {
                let steps = u64::from(self.0 >> Self::SEEN_SHIFT);
                let last_seen_ms = Self::SEEN_FROM_MS + steps * LAST_SEEN_STEP_MS;
                Some(Presence::Offline { last_seen_ms: (steps > 0).then_some(last_seen_ms) })
            }
            _ => None,
        }
    }

    fn set_presence(&mut self, presence: Presence) {
        let flags = self.0 & (Self::QUEUED | Self::UNASKED | Self::HIDES | Self::HIDES_ANEW);
        self.0 = flags
            | match presence {
                Presence::Online => Self::ONLINE,
                Presence::Away => Self::AWAY,
                Presence::Offline { last_seen_ms } => {
                    let most = u64::from(u32::MAX >> Self::SEEN_SHIFT);
                    let since_ms = last_seen_ms.unwrap_or(0).saturating_sub(Self::SEEN_FROM_MS);
                    let steps = (since_ms / LAST_SEEN_STEP_MS).min(most) as u32;
                    Self::OFFLINE | (steps << Self::SEEN_SHIFT)
                }
            };
    }

    fn is(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    fn set(&mut self, flag: u32) {
        self.0 |= flag;
    }

    fn clear(&mut self, flag: u32) {
        self.0 &= !flag;
    }
}

/// Targets in pieces that never move: a vector that doubles would hold twice what it needs.
#[derive(Debug, Default)]
struct Targets {
    chunks: Vec<Box<[Target]>>,
    used: u32,
}

const CHUNK: usize = 4_096;
/// Room that a queue which is empty keeps.
const QUEUE_KEPT: usize = 4_096;

/// A user, and how it is with the user as far as a connection may see.
pub(super) type Seen = (UserId, Presence);

impl Targets {
    fn at(&self, index: u32) -> &Target {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn at_mut(&mut self, index: u32) -> &mut Target {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn push(&mut self, target: Target) -> u32 {
        let index = self.used;
        self.used += 1;
        if index as usize / CHUNK == self.chunks.len() {
            self.chunks.push(vec![target; CHUNK].into_boxed_slice());
        }
        *self.at_mut(index) = target;
        index
    }
}

/// All watches of a shard.
#[derive(Debug, Default)]
pub(super) struct Watches {
    targets: Targets,
    free: Vec<u32>,
    by_user: Index,
    watchers: Sets,
    lists: HashMap<u32, List>,
    /// Targets for whom no worker has been asked.
    unasked: VecDeque<u32>,
    /// Targets whose watchers are to be told.
    changed: VecDeque<u32>,
    /// How many watchers of the first of them have not been told, those at the first places; `None`: nobody has.
    untold: Option<usize>,
    /// Connections for which workers are to be asked whether they may see somebody.
    doubts: VecDeque<(ConnectionId, UserId)>,
}

/// What is told of a user to whoever may not see the user.
const UNSEEN: Presence = Presence::Offline { last_seen_ms: None };

impl Watches {
    /// From now on this connection watches these users, who are sorted and each named once, and nobody else. Says how it
    /// is with those of whom it is known; of the others the connection is told later. `None`: the shard has too many
    /// connections for this one to watch anybody.
    pub(super) fn watch(&mut self, id: ConnectionId, users: &[UserId]) -> Option<Vec<Seen>> {
        self.forget(id.index);
        if users.is_empty() {
            return Some(Vec::new());
        }
        if id.index >= MEMBERS_MAX || users.len() > WATCHED_MAX {
            return None;
        }
        let mut known = Vec::new();
        let mut edges = Vec::with_capacity(users.len());
        for &user in users {
            let index = self.target(user);
            let target = self.targets.at_mut(index);
            target.watchers = self.watchers.insert(target.watchers, id.index);
            let mut edge = Edge(index);
            if target.known.is(Known::HIDES) {
                edge.set_sight(Sight::Asked);
                self.doubts.push_back((id, user));
            } else {
                known.extend(target.known.presence().map(|presence| (user, presence)));
            }
            edges.push(edge);
        }
        let edges = edges.into_boxed_slice();
        self.lists.insert(id.index, List { generation: id.generation, is_owed: false, edges });
        Some(known)
    }

    /// The connection watches nobody any more.
    pub(super) fn forget(&mut self, connection: u32) {
        let Some(list) = self.lists.remove(&connection) else { return };
        for edge in &list.edges {
            let target = self.targets.at_mut(edge.target());
            let Some(mut place) = self.watchers.find(target.watchers, connection) else { continue };
            if self.changed.front() == Some(&edge.target())
                && let Some(untold) = &mut self.untold
                && place < *untold
            {
                // The last one, who takes the place, has been told.
                *untold -= 1;
                self.watchers.swap(target.watchers, place, *untold);
                place = *untold;
            }
            target.watchers = self.watchers.remove(target.watchers, place);
            if target.watchers.is_empty() {
                self.drop_target(edge.target());
            }
        }
    }

    /// A worker has said how it is with some users.
    pub(super) fn learn(&mut self, users: &[UserPresence]) {
        for &UserPresence { user, presence, hides } in users {
            let Some(index) = self.find(user) else { continue };
            let known = &mut self.targets.at_mut(index).known;
            let before = known.presence();
            known.set_presence(presence);
            let hid = known.is(Known::HIDES);
            if hides == Hides::FromNobody {
                known.clear(Known::HIDES);
            } else {
                known.set(Known::HIDES);
            }
            let is_other = hides == Hides::FromOthers || hid != (hides != Hides::FromNobody);
            if is_other {
                known.set(Known::HIDES_ANEW);
            }
            if before == known.presence() && !is_other {
                continue;
            }
            if !known.is(Known::QUEUED) {
                known.set(Known::QUEUED);
                self.changed.push_back(index);
            } else if self.changed.front() == Some(&index) {
                // Those who were told a moment ago are told again.
                self.untold = None;
            }
        }
    }

    /// Workers have to be asked for everybody again.
    pub(super) fn ask_again(&mut self) {
        for index in 0..self.targets.used {
            let target = self.targets.at_mut(index);
            if !target.watchers.is_empty() {
                // Also of who may not see whom something may have been missed.
                if target.known.is(Known::HIDES) {
                    target.known.set(Known::HIDES_ANEW);
                }
                self.ask(index);
            }
        }
    }

    /// Somebody for whom a worker is to be asked; once.
    pub(super) fn next_unasked(&mut self) -> Option<UserId> {
        while let Some(index) = self.unasked.pop_front() {
            let target = self.targets.at_mut(index);
            target.known.clear(Known::UNASKED);
            if !target.watchers.is_empty() {
                return Some(target.user);
            }
            self.retire(index);
        }
        // When many watch at once it is as long as all of them.
        self.unasked.shrink_to(QUEUE_KEPT);
        None
    }

    /// A connection, and whether it may see this user is to be asked of the user's worker.
    pub(super) fn next_doubt(&mut self) -> Option<(ConnectionId, UserId)> {
        while let Some((id, user)) = self.doubts.pop_front() {
            if self.edge_of(id, user).is_some() {
                return Some((id, user));
            }
        }
        None
    }

    /// The worker could not be asked: later.
    pub(super) fn could_not_doubt(&mut self, id: ConnectionId, user: UserId) {
        self.doubts.push_front((id, user));
    }

    /// True while workers are to be asked who may see whom.
    pub(super) fn has_doubts(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// The user's worker says whether a connection may see the user. What the connection is to be told.
    pub(super) fn may(&mut self, id: ConnectionId, user: UserId, may: bool) -> Option<Seen> {
        let edge = self.edge_of(id, user)?;
        edge.set_sight(if may { Sight::May } else { Sight::MayNot });
        let target = edge.target();
        let known = self.targets.at(target).known;
        let presence = if may || !known.is(Known::HIDES) { known.presence()? } else { UNSEEN };
        Some((user, presence))
    }

    /// Where a connection's edge to a user is, if it still watches the user.
    fn edge_of(&mut self, id: ConnectionId, user: UserId) -> Option<&mut Edge> {
        let Self { lists, targets, .. } = self;
        let list = lists.get_mut(&id.index).filter(|list| list.generation == id.generation)?;
        let at = list.edges.binary_search_by_key(&user, |edge| targets.at(edge.target()).user).ok()?;
        list.edges.get_mut(at)
    }

    /// The worker could not be asked: later.
    pub(super) fn could_not_ask(&mut self, user: UserId) {
        if let Some(index) = self.find(user) {
            self.ask(index);
        }
    }

    /// True while somebody is to be asked for.
    pub(super) fn has_unasked(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// True while watchers are to be told.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whom to tell what: about `most` of them, and the rest in the next steps. It makes as many doubts at the most.
    pub(super) fn walk(&mut self, most: usize, told: &mut Vec<(ConnectionId, Seen)>) {
        let mut left = most;
        while left > 0
            && let Some(&index) = self.changed.front()
        {
            let &Target { user, watchers, known } = self.targets.at(index);
            let mut untold = self.untold.unwrap_or_else(|| self.watchers.len(watchers));
            while left > 0 && untold > 0 {
                left -= 1;
                untold -= 1;
                let connection = self.watchers.at(watchers, untold);
                let Some(list) = self.lists.get_mut(&connection) else { continue };
                let id = ConnectionId { index: connection, generation: list.generation };
                if !known.is(Known::HIDES) {
                    told.extend(known.presence().map(|presence| (id, (user, presence))));
                    continue;
                }
                let Some(edge) = list.edges.iter_mut().find(|edge| edge.target() == index) else { continue };
                if known.is(Known::HIDES_ANEW) || edge.sight() == Sight::Unknown {
                    edge.set_sight(Sight::Asked);
                    self.doubts.push_back((id, user));
                } else if edge.sight() == Sight::May {
                    told.extend(known.presence().map(|presence| (id, (user, presence))));
                }
            }
            if untold > 0 {
                self.untold = Some(untold);
                return;
            }
            self.untold = None;
            self.changed.pop_front();
            let known = &mut self.targets.at_mut(index).known;
            known.clear(Known::QUEUED | Known::HIDES_ANEW);
            self.retire(index);
        }
        if self.changed.is_empty() {
            self.changed.shrink_to(QUEUE_KEPT);
        }
    }

    /// The connection had no room for what it was to be told; it is told everything once it has.
    pub(super) fn owe(&mut self, id: ConnectionId) {
        if let Some(list) = self.lists.get_mut(&id.index) {
            list.is_owed = true;
        }
    }

    /// What a connection that had no room is to be told, now that it has.
    pub(super) fn take_owed(&mut self, id: ConnectionId) -> Vec<Seen> {
        let Some(list) = self.lists.get_mut(&id.index) else { return Vec::new() };
        if !std::mem::take(&mut list.is_owed) {
            return Vec::new();
        }
        let known = |edge: &Edge| {
            let &Target { user, known, .. } = self.targets.at(edge.target());
            let presence = match (known.is(Known::HIDES), edge.sight()) {
                (false, _) | (true, Sight::May) => known.presence()?,
                (true, Sight::MayNot) => UNSEEN,
                (true, Sight::Unknown | Sight::Asked) => return None,
            };
            Some((user, presence))
        };
        list.edges.iter().filter_map(known).collect()
    }

    fn find(&self, user: UserId) -> Option<u32> {
        self.by_user.find(user.0, |index| self.targets.at(index).user.0)
    }

    /// The target of a user, made if need be.
    fn target(&mut self, user: UserId) -> u32 {
        if let Some(index) = self.find(user) {
            return index;
        }
        let target = Target { user, watchers: Set::EMPTY, known: Known(Known::UNKNOWN) };
        let index = match self.free.pop() {
            Some(index) => {
                *self.targets.at_mut(index) = target;
                index
            }
            None => self.targets.push(target),
        };
        let Self { targets, by_user, .. } = self;
        by_user.insert(user.0, index, |index| targets.at(index).user.0);
        self.ask(index);
        index
    }

    fn ask(&mut self, index: u32) {
        let known = &mut self.targets.at_mut(index).known;
        if !known.is(Known::UNASKED) {
            known.set(Known::UNASKED);
            self.unasked.push_back(index);
        }
    }

    /// Nobody watches this user any more.
    fn drop_target(&mut self, index: u32) {
        let user = self.targets.at(index).user;
        self.by_user.remove(user.0, index);
        self.retire(index);
    }

    /// Gives the place of a target that nobody watches to the next one, once no queue knows it.
    fn retire(&mut self, index: u32) {
        let target = self.targets.at(index);
        if target.watchers.is_empty() && !target.known.is(Known::QUEUED | Known::UNASKED) {
            self.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn id(index: u32) -> ConnectionId {
        ConnectionId { index, generation: index + 7 }
    }

    fn users(of: impl IntoIterator<Item = u64>) -> Vec<UserId> {
        of.into_iter().map(UserId).collect()
    }

    fn seen(user: u64, presence: Presence) -> UserPresence {
        UserPresence { user: UserId(user), presence, hides: Hides::FromNobody }
    }

    fn sees(user: u64, presence: Presence) -> Seen {
        (UserId(user), presence)
    }

    fn asked(watches: &mut Watches) -> Vec<u64> {
        std::iter::from_fn(|| watches.next_unasked()).map(|user| user.0).collect()
    }

    fn told(watches: &mut Watches, most: usize) -> Vec<(u32, u64)> {
        let mut told = Vec::new();
        watches.walk(most, &mut told);
        let mut told: Vec<(u32, u64)> = told.iter().map(|(id, seen)| (id.index, seen.0.0)).collect();
        told.sort_unstable();
        told
    }

    #[test]
    fn a_worker_is_asked_once_and_whoever_watches_is_told() {
        let mut watches = Watches::default();
        assert_eq!(watches.watch(id(1), &users([5, 6])), Some(vec![]));
        assert_eq!(watches.watch(id(2), &users([5])), Some(vec![]));
        assert_eq!(asked(&mut watches), [5, 6]);
        watches.learn(&[seen(5, Presence::Online), seen(9, Presence::Online)]);
        assert_eq!(told(&mut watches, 10), [(1, 5), (2, 5)]);
        watches.learn(&[seen(5, Presence::Online)]);
        assert!(!watches.has_changes(), "nothing has changed");
        assert_eq!(watches.watch(id(3), &users([5, 6])), Some(vec![sees(5, Presence::Online)]));
        assert_eq!(asked(&mut watches), [0; 0]);
        watches.forget(1);
        watches.learn(&[seen(5, Presence::Away), seen(6, Presence::Away)]);
        assert_eq!(told(&mut watches, 10), [(2, 5), (3, 5), (3, 6)]);
    }

    #[test]
    fn what_could_not_be_asked_is_asked_again_and_so_is_everything_when_something_was_missed() {
        let mut watches = Watches::default();
        watches.watch(id(1), &users([5, 6]));
        let first = watches.next_unasked().unwrap();
        watches.could_not_ask(first);
        assert!(watches.has_unasked());
        assert_eq!(asked(&mut watches), [6, 5]);
        watches.ask_again();
        watches.ask_again();
        assert_eq!(asked(&mut watches), [5, 6]);
        watches.forget(1);
        watches.ask_again();
        assert_eq!(asked(&mut watches), [0; 0]);
    }

    #[test]
    fn a_long_chain_is_walked_in_steps_and_says_how_it_is_by_then() {
        let mut watches = Watches::default();
        for connection in 0..10 {
            watches.watch(id(connection), &users([5]));
        }
        watches.learn(&[seen(5, Presence::Online)]);
        let first = told(&mut watches, 4);
        assert_eq!(first.len(), 4);
        // One who has been told goes, and one who has not, another one comes, and the user goes away.
        let not_told = (0..10).find(|connection| !first.contains(&(*connection, 5))).unwrap();
        watches.forget(first[0].0);
        watches.forget(not_told);
        let mut all = told(&mut watches, 2);
        all.extend(&first);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 6, "nobody twice");
        watches.watch(id(10), &users([5]));
        watches.learn(&[seen(5, Presence::Away)]);
        let mut rest = Vec::new();
        while watches.has_changes() {
            watches.walk(4, &mut rest);
        }
        assert!(rest.iter().all(|(_, seen)| seen.1 == Presence::Away));
        let connections: BTreeSet<u32> = rest.iter().map(|(id, _)| id.index).collect();
        assert_eq!((connections.len(), rest.len()), (9, 9), "everybody once");
        assert!(connections.contains(&10) && !connections.contains(&first[0].0));
    }

    #[test]
    fn who_had_no_room_is_told_everything_later() {
        let mut watches = Watches::default();
        watches.watch(id(1), &users([5, 6, 7]));
        watches.learn(&[seen(5, Presence::Online), seen(7, Presence::Away)]);
        told(&mut watches, 10);
        watches.owe(id(1));
        watches.owe(id(2));
        assert_eq!(watches.take_owed(id(1)), [sees(5, Presence::Online), sees(7, Presence::Away)]);
        assert!(watches.take_owed(id(1)).is_empty() && watches.take_owed(id(2)).is_empty());
    }

    #[test]
    fn what_is_known_comes_back() {
        for presence in [
            Presence::Online,
            Presence::Away,
            Presence::Offline { last_seen_ms: None },
            Presence::Offline { last_seen_ms: Some(1_780_000_000_000) },
        ] {
            let mut known = Known(Known::QUEUED);
            assert_eq!(known.presence(), None);
            known.set_presence(presence);
            assert_eq!(known.presence(), Some(presence));
            assert!(known.is(Known::QUEUED) && !known.is(Known::UNASKED));
        }
    }

    #[test]
    fn a_connection_beyond_the_places_watches_nobody() {
        let mut watches = Watches::default();
        assert!(watches.watch(id(MEMBERS_MAX - 1), &users([5])).is_some());
        assert_eq!(watches.watch(id(MEMBERS_MAX), &users([5])), None);
        assert_eq!(watches.watch(id(MEMBERS_MAX), &[]), Some(vec![]));
        let many: Vec<u64> = (1..=WATCHED_MAX as u64 + 1).collect();
        assert_eq!(watches.watch(id(1), &users(many.iter().copied())), None);
        assert!(watches.watch(id(1), &users(many[1..].iter().copied())).is_some());
        watches.learn(&[seen(5, Presence::Online)]);
        assert_eq!(told(&mut watches, 10), [(1, 5), (MEMBERS_MAX - 1, 5)]);
    }

    #[test]
    fn a_watching_connection_takes_less_than_950_bytes() {
        const CONNECTIONS: u32 = 20_000;
        let mut watches = Watches::default();
        for connection in 0..CONNECTIONS {
            // As on one of two shards, when 100,000 of a million watch 50 of them, whoever they are: 18 users per
            // connection.
            let mut random = u64::from(connection);
            let of = std::iter::repeat_with(|| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % (20 * u64::from(CONNECTIONS)) + 1
            });
            let of: BTreeSet<u64> = of.take(50).collect();
            watches.watch(id(connection), &users(of));
        }
        asked(&mut watches);
        let edges: usize = watches.lists.values().map(|list| size_of_val(&*list.edges)).sum();
        let bytes = edges
            + watches.lists.allocation_size()
            + watches.by_user.bytes()
            + watches.watchers.bytes()
            + watches.targets.chunks.len() * CHUNK * size_of::<Target>();
        let each = bytes / CONNECTIONS as usize;
        println!("{each} bytes per watching connection");
        assert!(each <= 950, "{each} bytes per watching connection");
    }

    fn hidden(user: u64, presence: Presence, hides: Hides) -> UserPresence {
        UserPresence { hides, ..seen(user, presence) }
    }

    fn doubts(watches: &mut Watches) -> Vec<(u32, u64)> {
        let doubts = std::iter::from_fn(|| watches.next_doubt());
        let mut doubts: Vec<(u32, u64)> = doubts.map(|(id, user)| (id.index, user.0)).collect();
        doubts.sort_unstable();
        doubts
    }

    #[test]
    fn who_hides_from_some_is_shown_to_whom_the_worker_allows() {
        let mut watches = Watches::default();
        watches.watch(id(1), &users([5, 6]));
        watches.watch(id(2), &users([5]));
        watches.learn(&[hidden(5, Presence::Online, Hides::FromSome)]);
        assert_eq!(told(&mut watches, 10), [], "nobody before the worker has said");
        assert_eq!(doubts(&mut watches), [(1, 5), (2, 5)]);
        assert_eq!(watches.may(id(1), UserId(5), true), Some(sees(5, Presence::Online)));
        assert_eq!(watches.may(id(2), UserId(5), false), Some(sees(5, UNSEEN)));
        watches.learn(&[hidden(5, Presence::Away, Hides::FromSome)]);
        assert_eq!(
            told(&mut watches, 10),
            [(1, 5)],
            "the other one is not even told that something has changed"
        );
        assert_eq!(doubts(&mut watches), []);
        // Whoever comes later is asked for too.
        assert_eq!(watches.watch(id(3), &users([5])), Some(vec![]));
        assert_eq!(doubts(&mut watches), [(3, 5)]);
        watches.owe(id(2));
        assert_eq!(watches.take_owed(id(2)), [sees(5, UNSEEN)]);
        watches.owe(id(3));
        assert_eq!(watches.take_owed(id(3)), []);
        assert_eq!(watches.may(id(3), UserId(6), true), None, "it does not watch that one");
        assert_eq!(watches.may(id(4), UserId(5), true), None);
        // From others than before: all of them anew.
        watches.learn(&[hidden(5, Presence::Away, Hides::FromOthers)]);
        assert_eq!(told(&mut watches, 10), []);
        assert_eq!(doubts(&mut watches), [(1, 5), (2, 5), (3, 5)]);
        // And from nobody any more.
        watches.learn(&[seen(5, Presence::Away)]);
        assert_eq!(told(&mut watches, 10), [(1, 5), (2, 5), (3, 5)]);
        // After something was missed, that may have been missed too.
        watches.learn(&[hidden(5, Presence::Away, Hides::FromSome)]);
        told(&mut watches, 10);
        doubts(&mut watches);
        watches.ask_again();
        asked(&mut watches);
        watches.learn(&[hidden(5, Presence::Online, Hides::FromSome)]);
        assert_eq!(told(&mut watches, 10), []);
        assert_eq!(doubts(&mut watches), [(1, 5), (2, 5), (3, 5)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Watch(u32, BTreeSet<u64>),
        Forget(u32),
        /// A user comes or is away.
        Is(u64, bool),
        /// A user hides from all connections but these, or from none.
        Hides(u64, Option<BTreeSet<u32>>),
        /// So much of what workers say arrives.
        Arrive(usize),
        Walk(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..6u32, prop::collection::btree_set(1..8u64, 0..5))
                .prop_map(|(connection, users)| Step::Watch(connection, users)),
            1 => (0..6u32).prop_map(Step::Forget),
            3 => (1..8u64, any::<bool>()).prop_map(|(user, online)| Step::Is(user, online)),
            2 => (1..8u64, prop::option::of(prop::collection::btree_set(0..6u32, 0..4)))
                .prop_map(|(user, but)| Step::Hides(user, but)),
            3 => (1..6usize).prop_map(Step::Arrive),
            2 => (1..4usize).prop_map(Step::Walk),
        ]
    }

    #[derive(Debug)]
    enum Word {
        Is(UserPresence),
        May(ConnectionId, UserId, bool),
    }

    /// Workers that answer at once, and the lane in which their words wait.
    #[derive(Debug, Default)]
    struct Truth {
        presence: BTreeMap<u64, Presence>,
        hides: BTreeMap<u64, BTreeSet<u32>>,
        lane: VecDeque<Word>,
        /// What each connection was told of those whom it watches.
        told: BTreeMap<u32, BTreeMap<u64, Option<Presence>>>,
    }

    impl Truth {
        fn say(&mut self, user: u64, hides_anew: bool) {
            let presence = *self.presence.entry(user).or_insert(Presence::Away);
            let hides = match self.hides.contains_key(&user) {
                _ if hides_anew => Hides::FromOthers,
                true => Hides::FromSome,
                false => Hides::FromNobody,
            };
            self.lane.push_back(Word::Is(hidden(user, presence, hides)));
        }

        fn may(&self, connection: u32, user: u64) -> bool {
            self.hides.get(&user).is_none_or(|but| but.contains(&connection))
        }

        fn answer(&mut self, watches: &mut Watches) {
            for user in asked(watches) {
                self.say(user, false);
            }
            while let Some((id, user)) = watches.next_doubt() {
                let may = self.may(id.index, user.0);
                self.lane.push_back(Word::May(id, user, may));
            }
        }

        fn tell(&mut self, connection: u32, (user, presence): Seen) {
            let of = self.told.get_mut(&connection).expect("it watches somebody");
            *of.get_mut(&user.0).expect("it watches this one") = Some(presence);
        }

        fn arrive(&mut self, watches: &mut Watches, most: usize) {
            for _ in 0..most {
                match self.lane.pop_front() {
                    Some(Word::Is(user)) => watches.learn(&[user]),
                    Some(Word::May(id, user, may)) => {
                        if let Some(seen) = watches.may(id, user, may) {
                            self.tell(id.index, seen);
                        }
                    }
                    None => return,
                }
            }
        }

        fn walk(&mut self, watches: &mut Watches, most: usize) {
            let mut told = Vec::new();
            watches.walk(most, &mut told);
            told.into_iter().for_each(|(id, seen)| self.tell(id.index, seen));
        }
    }

    proptest! {
        /// In the end each connection knows of each user whom it watches what the workers have said last, and of those
        /// who hide from it nothing.
        #[test]
        fn everybody_knows_in_the_end(steps in prop::collection::vec(step(), 0..80)) {
            let mut watches = Watches::default();
            let mut truth = Truth::default();
            for step in steps {
                match step {
                    Step::Watch(connection, of) => {
                        let known = watches.watch(id(connection), &users(of.iter().copied())).unwrap();
                        let list = of.into_iter().map(|user| (user, None)).collect();
                        truth.told.insert(connection, list);
                        known.into_iter().for_each(|seen| truth.tell(connection, seen));
                    }
                    Step::Forget(connection) => {
                        watches.forget(connection);
                        truth.told.remove(&connection);
                    }
                    Step::Is(user, online) => {
                        let presence = if online { Presence::Online } else { Presence::Away };
                        truth.presence.insert(user, presence);
                        truth.say(user, false);
                    }
                    Step::Hides(user, but) => {
                        match but {
                            Some(but) => truth.hides.insert(user, but),
                            None => truth.hides.remove(&user),
                        };
                        truth.say(user, true);
                    }
                    Step::Arrive(most) => truth.arrive(&mut watches, most),
                    Step::Walk(most) => truth.walk(&mut watches, most),
                }
                truth.answer(&mut watches);
            }
            while watches.has_changes() || !truth.lane.is_empty() {
                truth.arrive(&mut watches, 2);
                truth.walk(&mut watches, 3);
                truth.answer(&mut watches);
            }
            for (&connection, list) in &truth.told {
                for (&user, &known) in list {
                    let presence = truth.presence[&user];
                    let sees = if truth.may(connection, user) { presence } else { UNSEEN };
                    prop_assert_eq!(known, Some(sees), "{} of {}", connection, user);
                }
            }
            for connection in 0..6 {
                watches.forget(connection);
            }
            asked(&mut watches);
            prop_assert_eq!(watches.free.len(), watches.targets.used as usize, "nothing is left behind");
            prop_assert!(watches.by_user.is_empty());
        }
    }
}
