//! Who is connected: one record per session, in the worker that owns the user.
//!
//! A million users with one device each are in here, so a record has 48 bytes (asserted), lies in chunks that never
//! move, and is found through a table of 4-byte indices: about 59 bytes per session all told (a test measures it).
//!
//! The one invariant: **a live session has been handed every entry up to `last`, and `last` is its user's head.**

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use holdfast_protocol::id::{DeviceId, Rev, UserId};

use crate::command::{Register, SessionAddress};

/// How a session gets its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By pages that it asks for; not told of new ones.
    Paging,
    /// As they happen.
    Live,
    /// It missed some and has not been told yet.
    GapUntold,
    /// It missed some and knows; pages follow when it asks.
    Gap,
    /// It was live when a batch failed: whether it has everything is to be looked up.
    Doubtful,
}

/// One session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    connection: u64,
    /// See [`Register::accepted_tick`].
    accepted_tick: u32,
    /// The last entry that it was handed.
    pub(crate) last: Rev,
    /// The next session of the same user, or the next free record.
    next: u32,
    shard: u16,
    pub(crate) mode: Mode,
    /// Nobody is at the device.
    pub(crate) away: bool,
}

const _: () = assert!(size_of::<Session>() == 48);

const NONE: u32 = u32::MAX;
const CHUNK: usize = 4096;

impl Session {
    pub(crate) fn address(&self) -> SessionAddress {
        SessionAddress { shard: self.shard, connection: self.connection }
    }
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registration {
    /// The device had no session.
    New,
    /// The device had this one; it is replaced.
    Replaces(SessionAddress),
    /// The device has a session on a younger connection; that one stays.
    Superseded,
    /// The user has as many devices as are allowed.
    TooMany,
}

/// All sessions of a worker's users.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    chunks: Vec<Box<[Session]>>,
    free: Option<u32>,
    used: u32,
    count: usize,
    /// The first session of each user.
    users: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Sessions {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Bytes that they take.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Session>() + self.users.allocation_size()
    }

    pub(crate) fn at(&self, index: u32) -> &Session {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    pub(crate) fn at_mut(&mut self, index: u32) -> &mut Session {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn hash(&self, user: UserId) -> u64 {
        self.hasher.hash_one(user.0)
    }

    fn first(&self, user: UserId) -> Option<u32> {
        self.users.find(self.hash(user), |&index| self.at(index).user == user).copied()
    }

    /// The indices of a user's sessions.
    pub(crate) fn of(&self, user: UserId) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.first(user), |&index| self.after(index))
    }

    /// The next session of the same user.
    pub(crate) fn after(&self, index: u32) -> Option<u32> {
        Some(self.at(index).next).filter(|&next| next != NONE)
    }

    /// The session of a user with this address.
    pub(crate) fn find(&self, user: UserId, address: SessionAddress) -> Option<u32> {
        self.of(user).find(|&index| self.at(index).address() == address)
    }

    /// The user's head, if a live session knows it.
    pub(crate) fn live_head(&self, user: UserId) -> Option<Rev> {
        self.of(user)
            .map(|index| self.at(index))
            .find(|session| session.mode == Mode::Live)
            .map(|live| live.last)
    }

    /// Makes this the device's session.
    pub(crate) fn register(
        &mut self,
        request: &Register,
        last: Rev,
        mode: Mode,
        most_devices: u16,
    ) -> Registration {
        let &Register { user, device, session, accepted_tick, .. } = request;
        let SessionAddress { shard, connection } = session;
        let first = self.first(user);
        let mut devices = 0;
        let mut index = first.unwrap_or(NONE);
        while index != NONE {
            let session = self.at_mut(index);
            if session.device == device {
                if accepted_tick < session.accepted_tick {
                    return Registration::Superseded;
                }
                let before = session.address();
                *session = Session { connection, accepted_tick, last, shard, mode, away: false, ..*session };
                return Registration::Replaces(before);
            }
            devices += 1;
            index = session.next;
        }
        if devices >= most_devices {
            return Registration::TooMany;
        }
        // Behind the first one, so that the table needs to change only for a user's first.
        let next = first.map_or(NONE, |first| self.at(first).next);
        let index = self.allocate(Session {
            user,
            device,
            connection,
            accepted_tick,
            last,
            next,
            shard,
            mode,
            away: false,
        });
        match first {
            Some(first) => self.at_mut(first).next = index,
            None => {
                let hash = self.hash(user);
                let Self { users, chunks, hasher, .. } = self;
                let user_of = |index: u32| chunks[index as usize / CHUNK][index as usize % CHUNK].user;
                users.insert_unique(hash, index, |&index| hasher.hash_one(user_of(index).0));
            }
        }
        Registration::New
    }

    /// Forgets a session; false when it is not (any more) its device's session.
    pub(crate) fn unregister(&mut self, user: UserId, address: SessionAddress) -> bool {
        let Some(gone) = self.find(user, address) else { return false };
        let next = self.at(gone).next;
        let first = self.first(user).unwrap_or(NONE);
        if first == gone {
            let hash = self.hash(user);
            let entry = self.users.find_entry(hash, |&index| index == gone);
            let Ok(mut entry) = entry else { return false };
            if next == NONE {
                entry.remove();
            } else {
                *entry.get_mut() = next;
            }
        } else {
            let mut before = first;
            while self.at(before).next != gone {
                before = self.at(before).next;
            }
            self.at_mut(before).next = next;
        }
        self.at_mut(gone).next = self.free.unwrap_or(NONE);
        // Nobody's user: sweeps over all records skip it.
        self.at_mut(gone).user = UserId(0);
        self.free = Some(gone);
        self.count -= 1;
        true
    }

    fn allocate(&mut self, session: Session) -> u32 {
        self.count += 1;
        if let Some(index) = self.free {
            self.free = Some(self.at(index).next).filter(|&next| next != NONE);
            *self.at_mut(index) = session;
            return index;
        }
        let index = self.used;
        assert!(index < NONE, "invariant: a process has fewer than 2^32 sessions");
        self.used += 1;
        if index as usize / CHUNK == self.chunks.len() {
            self.chunks.push(vec![session; CHUNK].into_boxed_slice());
        } else {
            *self.at_mut(index) = session;
        }
        index
    }

    /// After a failed batch: no session is known to have everything. Returns how many records there are to look at.
    pub(crate) fn doubt_all(&mut self) -> u32 {
        for index in 0..self.used {
            let session = self.at_mut(index);
            if session.mode == Mode::Live {
                session.mode = Mode::Doubtful;
            }
        }
        self.used
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn address(connection: u64) -> SessionAddress {
        SessionAddress { shard: (connection % 7) as u16, connection }
    }

    fn register(sessions: &mut Sessions, user: u64, device: u64, connection: u64) -> Registration {
        register_accepted(sessions, user, device, connection, 1)
    }

    fn register_accepted(
        sessions: &mut Sessions,
        user: u64,
        device: u64,
        connection: u64,
        accepted_tick: u32,
    ) -> Registration {
        let (user, device, session) = (UserId(user), DeviceId(device), address(connection));
        let device_name = "".into();
        let request =
            Register { user, device, device_name, issued_at: 0, session, accepted_tick, cursor: None };
        sessions.register(&request, Rev(0), Mode::Live, 3)
    }

    #[test]
    fn the_older_of_two_connections_never_replaces_the_younger() {
        let mut sessions = Sessions::default();
        assert_eq!(register_accepted(&mut sessions, 1, 1, 10, 7), Registration::New);
        assert_eq!(register_accepted(&mut sessions, 1, 1, 11, 6), Registration::Superseded);
        assert!(!sessions.unregister(UserId(1), address(11)), "11 never was the device's session");
        assert_eq!(register_accepted(&mut sessions, 1, 1, 12, 7), Registration::Replaces(address(10)));
        assert_eq!(register_accepted(&mut sessions, 1, 2, 13, 6), Registration::New, "another device");
        // What a session has left behind counts no more.
        assert!(sessions.unregister(UserId(1), address(12)));
        assert_eq!(register_accepted(&mut sessions, 1, 1, 11, 6), Registration::New);
    }

    #[test]
    fn a_device_has_one_session_and_a_user_so_many_devices() {
        let mut sessions = Sessions::default();
        assert_eq!(register(&mut sessions, 1, 1, 10), Registration::New);
        assert_eq!(register(&mut sessions, 1, 1, 11), Registration::Replaces(address(10)));
        assert_eq!(register(&mut sessions, 1, 2, 12), Registration::New);
        assert_eq!(register(&mut sessions, 1, 3, 13), Registration::New);
        assert_eq!(register(&mut sessions, 1, 4, 14), Registration::TooMany);
        assert_eq!(register(&mut sessions, 2, 4, 15), Registration::New);
        assert!(!sessions.unregister(UserId(1), address(10)), "10 was replaced");
        assert!(sessions.unregister(UserId(1), address(12)));
        assert_eq!(register(&mut sessions, 1, 4, 16), Registration::New);
        assert_eq!(sessions.len(), 4);
        assert_eq!(sessions.of(UserId(1)).count(), 3);
    }

    proptest! {
        #[test]
        fn is_a_map_from_user_and_device_to_address(
            steps in proptest::collection::vec((1u64..6, 1u64..5, any::<bool>()), 0..400),
        ) {
            let mut sessions = Sessions::default();
            let mut model: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            for (connection, (user, device, register_it)) in steps.into_iter().enumerate() {
                let connection = connection as u64;
                if register_it {
                    let devices = model.range((user, 0)..=(user, u64::MAX)).count();
                    let expected = match model.get(&(user, device)) {
                        Some(&before) => Registration::Replaces(address(before)),
                        None if devices >= 3 => Registration::TooMany,
                        None => Registration::New,
                    };
                    prop_assert_eq!(register(&mut sessions, user, device, connection), expected);
                    if expected != Registration::TooMany {
                        model.insert((user, device), connection);
                    }
                } else if let Some(gone) = model.remove(&(user, device)) {
                    prop_assert!(sessions.unregister(UserId(user), address(gone)));
                } else {
                    prop_assert!(!sessions.unregister(UserId(user), address(connection)));
                }
                prop_assert_eq!(sessions.len(), model.len());
                for user in 1..6 {
                    let mut there: Vec<_> = sessions
                        .of(UserId(user))
                        .map(|index| (sessions.at(index).device.0, sessions.at(index).address()))
                        .collect();
                    there.sort_unstable();
                    let expected: Vec<_> = model
                        .range((user, 0)..=(user, u64::MAX))
                        .map(|(&(_, device), &connection)| (device, address(connection)))
                        .collect();
                    prop_assert_eq!(there, expected);
                }
            }
        }
    }

    #[test]
    fn a_million_users_take_less_than_100_bytes_each() {
        let mut sessions = Sessions::default();
        let mut most = 0.0f64;
        for user in 1..=1_000_000u64 {
            assert_eq!(register(&mut sessions, user, user ^ 7, user), Registration::New);
            if user >= 100_000 {
                most = most.max(sessions.bytes() as f64 / user as f64);
            }
        }
        let bytes = sessions.bytes() as f64 / 1_000_000.0;
        println!("{bytes:.1} bytes per session at 1,000,000 sessions, at most {most:.1} from 100,000 on");
        assert!(bytes <= 60.0, "{bytes} bytes per session");
        assert!(most <= 100.0, "{most} bytes per session");
    }
}
