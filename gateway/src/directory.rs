//! Who is connected where: user → live sessions, for every thread to read.
//!
//! A copy: the user's worker alone decides which sessions are live; shards write here what it has answered.
//! Nothing on the path of a frame reads it.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use holdfast_protocol::id::UserId;
use rustc_hash::FxBuildHasher;

/// Where one session is: shard and slot, packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Place {
    fn new(shard: u16, index: u32) -> Self {
        Self(u64::from(shard) << 32 | u64::from(index))
    }
}

/// See the module's doc.
///
/// Lock order: whoever touches `others` of a user holds the user's entry in `first`.
#[derive(Debug)]
pub struct Directory {
    /// One session of each user. A million users with one device each are in here, so an entry has 16 bytes.
    first: DashMap<u64, Place, FxBuildHasher>,
    /// Further sessions of those users that have any.
    others: DashMap<u64, Vec<Place>, FxBuildHasher>,
}

impl Default for Directory {
    fn default() -> Self {
        // Few, large parts: a hash table has up to half of its buckets empty, and each part rounds up for itself.
        let parts = 16;
        Self {
            first: DashMap::with_hasher_and_shard_amount(FxBuildHasher, parts),
            others: DashMap::with_hasher_and_shard_amount(FxBuildHasher, parts),
        }
    }
}

impl Directory {
    /// A session was registered.
    pub(crate) fn insert(&self, user: UserId, shard: u16, index: u32) {
        let place = Place::new(shard, index);
        match self.first.entry(user.0) {
            Entry::Vacant(vacant) => {
                vacant.insert(place);
            }
            Entry::Occupied(_first) => self.others.entry(user.0).or_default().push(place),
        }
    }

    /// A session is gone.
    pub(crate) fn remove(&self, user: UserId, shard: u16, index: u32) {
        let gone = Place::new(shard, index);
        let Entry::Occupied(mut first) = self.first.entry(user.0) else { return };
        let next = match self.others.entry(user.0) {
            Entry::Vacant(_) => None,
            Entry::Occupied(mut others) => {
                let places = others.get_mut();
                let next = if *first.get() == gone {
                    places.pop()
                } else {
                    places.retain(|place| *place != gone);
                    Some(*first.get())
                };
                if places.is_empty() {
                    others.remove();
                }
                next
            }
        };
        match next {
            Some(next) => {
                first.insert(next);
            }
            None if *first.get() == gone => {
                first.remove();
            }
            None => {}
        }
    }

    /// Users with at least one live session.
    #[must_use]
    pub fn users(&self) -> usize {
        self.first.len()
    }

    /// Live sessions of a user on this node.
    #[must_use]
    pub fn sessions(&self, user: UserId) -> usize {
        let Some(_first) = self.first.get(&user.0) else { return 0 };
        1 + self.others.get(&user.0).map_or(0, |others| others.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_a_user_come_and_go() {
        let directory = Directory::default();
        let user = UserId(42);
        for index in 0..3 {
            directory.insert(user, 0, index);
        }
        assert_eq!((directory.users(), directory.sessions(user)), (1, 3));
        directory.remove(user, 1, 0);
        assert_eq!(directory.sessions(user), 3, "another shard's slot is another session");
        for (index, left) in [(1, 2), (0, 1), (2, 0)] {
            directory.remove(user, 0, index);
            directory.remove(user, 0, index);
            assert_eq!(directory.sessions(user), left);
        }
        assert_eq!((directory.users(), directory.others.len()), (0, 0));
    }
}
