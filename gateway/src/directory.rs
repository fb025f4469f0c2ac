//! Who is connected where: user → live sessions, for every thread to read.
//!
//! A copy: the user's worker alone decides which sessions are live; shards write here what it has answered.
//! Nothing on the path of a frame reads it.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use holdfast_protocol::id::UserId;
use rustc_hash::FxBuildHasher;

/// Where one session is: shard and slot, packed so that a user with one device costs 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64);

#[derive(Debug)]
enum Places {
    One(Place),
    #[expect(clippy::box_collection, reason = "keeps the common case at 16 bytes")]
    Many(Box<Vec<Place>>),
}

const _: () = assert!(size_of::<Places>() == 16);

/// See the module's doc.
#[derive(Debug)]
pub struct Directory {
    users: DashMap<u64, Places, FxBuildHasher>,
}

impl Default for Directory {
    fn default() -> Self {
        // Few, large parts: a hash table has up to half of its buckets empty, and each part rounds up for itself.
        Self { users: DashMap::with_hasher_and_shard_amount(FxBuildHasher, 16) }
    }
}

impl Directory {
    /// A session was registered.
    pub(crate) fn insert(&self, user: UserId, shard: u16, index: u32) {
        let place = place(shard, index);
        match self.users.entry(user.0) {
            Entry::Vacant(vacant) => {
                vacant.insert(Places::One(place));
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                Places::One(one) => {
                    let both = vec![*one, place];
                    occupied.insert(Places::Many(Box::new(both)));
                }
                Places::Many(many) => many.push(place),
            },
        }
    }

    /// A session is gone.
    pub(crate) fn remove(&self, user: UserId, shard: u16, index: u32) {
        let gone = place(shard, index);
        let Entry::Occupied(mut occupied) = self.users.entry(user.0) else { return };
        match occupied.get_mut() {
            Places::One(one) => {
                if *one == gone {
                    occupied.remove();
                }
            }
            Places::Many(many) => {
                many.retain(|place| *place != gone);
                if let [last] = many[..] {
                    occupied.insert(Places::One(last));
                }
            }
        }
    }

    /// Users with at least one live session.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Live sessions of a user on this node.
    #[must_use]
    pub fn sessions(&self, user: UserId) -> usize {
        self.users.get(&user.0).map_or(0, |places| match places.value() {
            Places::One(_) => 1,
            Places::Many(many) => many.len(),
        })
    }
}

fn place(shard: u16, index: u32) -> Place {
    Place(u64::from(shard) << 32 | u64::from(index))
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
        for left in (0..3).rev() {
            directory.remove(user, 0, left);
            assert_eq!(directory.sessions(user), left as usize);
        }
        assert_eq!(directory.users(), 0);
    }
}
