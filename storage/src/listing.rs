//! A conversation as it is for one user: what is unread, what it is called, whether the user is still in it. Made of the
//! user's inbox, one item after the other. No I/O.
//!
//! The inbox is the truth; records of the table `conversations` are what its first entries make, up to the `rev` that
//! stands in the record of conversation 0, so that nobody needs to read an inbox from its beginning.

use bytes::{Buf as _, BufMut as _, Bytes};
use holdfast_protocol::chat::{Role, body};
use holdfast_protocol::id::{ConversationId, Rev, Seq, UserId};

use crate::engine::{Store, StoreError, Table};
use crate::group::{role_number, role_of};
use crate::inbox::{Item, OwnMark, Traits};
use crate::layout;

/// See the module's doc.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Listed {
    /// The first event that the user has got, since joining for the last time.
    pub(crate) since: Seq,
    /// Of the last entry about it.
    pub(crate) rev: Rev,
    /// The last event that the user has got.
    pub(crate) seq: Seq,
    /// The last one that says something; 0 for none.
    pub(crate) said: Seq,
    /// The last mark of the user; 0 for none.
    pub(crate) read: Seq,
    /// How many messages there are up to `seq`.
    ordinal: u64,
    /// How many of them are not unread: up to the last mark, the user's last own event, or joining.
    seen: u64,
    /// The user is not in it any more.
    pub(crate) gone: bool,
    /// Of a group.
    pub(crate) role: Role,
    /// Of a group.
    pub(crate) title: String,
}

impl Listed {
    pub(crate) fn unread(&self) -> u64 {
        self.ordinal.saturating_sub(self.seen)
    }

    /// The next entry of the user's inbox is about this conversation; `event` is what it says, if the group has changed.
    pub(crate) fn apply(&mut self, user: UserId, rev: Rev, item: &Item, event: Option<&body::Kind>) {
        self.rev = rev;
        match *item {
            Item::Message { seq, ordinal, traits, .. } => {
                let counts = traits.has(Traits::COUNTS);
                if self.since == Seq(0) || self.gone {
                    // It begins, perhaps again.
                    let seen = ordinal - u64::from(counts && ordinal > 0);
                    *self = Self { since: seq, rev, seen, ..Self::default() };
                }
                self.seq = seq;
                self.ordinal = ordinal;
                if counts {
                    self.said = seq;
                }
                if traits.has(Traits::OWN) {
                    self.seen = self.seen.max(ordinal);
                }
                if let Some(event) = event {
                    self.change(user, traits, event);
                }
                self.gone = traits.has(Traits::GONE);
            }
            Item::Read(OwnMark { up_to, ordinal, .. }) => {
                self.read = up_to;
                self.seen = self.seen.max(ordinal);
            }
            Item::Whole(_) => unreachable!("whoever reads the inbox has made an item of it"),
        }
    }

    fn change(&mut self, user: UserId, traits: Traits, event: &body::Kind) {
        match event {
            body::Kind::GroupCreated(created) => {
                self.title.clone_from(&created.title);
                self.role = if traits.has(Traits::OWN) { Role::Owner } else { Role::Member };
            }
            body::Kind::MembersAdded(added) => {
                if !added.title.is_empty() {
                    self.title.clone_from(&added.title);
                }
                if added.users.contains(&user.0) {
                    self.role = Role::Member;
                }
            }
            body::Kind::Renamed(renamed) => self.title.clone_from(&renamed.title),
            body::Kind::RoleSet(set) if set.user == user.0 => {
                self.role = Role::try_from(set.role).unwrap_or_default();
            }
            body::Kind::MemberLeft(left) if left.new_owner == Some(user.0) => self.role = Role::Owner,
            _ => {}
        }
    }

    /// Its record: `7 numbers of 8 | gone 1 | role 1 | title`.
    pub(crate) fn seal(&self) -> Bytes {
        layout::seal(FIXED_BYTES + self.title.len(), |payload| {
            let Self { since, rev, seq, said, read, ordinal, seen, gone, role, title } = self;
            for number in [since.0, rev.0, seq.0, said.0, read.0, *ordinal, *seen] {
                payload.put_u64_le(number);
            }
            payload.put_u8(u8::from(*gone));
            payload.put_u8(role_number(*role));
            payload.put_slice(title.as_bytes());
        })
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let mut payload = layout::open(Table::Conversations, key, value)?;
        let wrong = |what| layout::corrupt(Table::Conversations, key, what);
        if payload.len() < FIXED_BYTES {
            return Err(wrong("the value is too short"));
        }
        let [since, rev, seq, said, read, ordinal, seen] = std::array::from_fn(|_| payload.get_u64_le());
        let gone = payload.get_u8() != 0;
        let role = role_of(payload.get_u8())
            .ok_or_else(|| wrong("it has a role that this program does not know"))?;
        let title = String::from_utf8(payload.to_vec()).map_err(|_| wrong("the title is not UTF-8"))?;
        let (since, rev, seq) = (Seq(since), Rev(rev), Seq(seq));
        Ok(Self { since, rev, seq, said: Seq(said), read: Seq(read), ordinal, seen, gone, role, title })
    }
}

const FIXED_BYTES: usize = 7 * 8 + 2;

/// Key of the record that says up to which `rev` the others go.
pub(crate) const CHECKPOINT: ConversationId = ConversationId(0);

/// The `rev` up to which a user's list is written down.
pub(crate) fn read_checkpoint(store: &impl Store, user: UserId) -> Result<Rev, StoreError> {
    let key = layout::listing_key(user, CHECKPOINT);
    match store.get(Table::Conversations, &key)? {
        None => Ok(Rev(0)),
        Some(value) => layout::open_numbers(Table::Conversations, &key, &value).map(|[rev]| Rev(rev)),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::chat;
    use holdfast_protocol::id::MessageId;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::MessageEntry;
    use crate::inbox::Facts;
    use prost::Message as _;

    const ME: UserId = UserId(1);
    const OTHER: UserId = UserId(2);

    /// A conversation that grows, and what it is for `ME`.
    #[derive(Default)]
    struct Growing {
        seq: u64,
        ordinal: u64,
        rev: u64,
        listed: Listed,
    }

    impl Growing {
        fn happens(&mut self, sender: UserId, kind: body::Kind) {
            let body = chat::Body { kind: Some(kind.clone()) }.encode_to_vec();
            self.seq += 1;
            self.ordinal += u64::from(crate::inbox::says_something(&body));
            let entry = MessageEntry {
                conversation: ConversationId(9),
                seq: Seq(self.seq),
                message_id: MessageId(self.seq),
                sender,
                client_id: b"",
                device: b"",
                time_ms: 0,
                body: &body,
                reply_to: None,
                changed_by: None,
                ordinal: Some(self.ordinal),
            };
            self.rev += 1;
            self.listed.apply(ME, Rev(self.rev), &Facts::of(&entry).item_for(ME), Some(&kind));
        }

        fn says(&mut self, sender: UserId) {
            self.happens(sender, body::Kind::Text("x".into()));
        }

        fn read(&mut self, up_to: u64, ordinal: u64) {
            self.rev += 1;
            let mark = OwnMark { conversation: ConversationId(9), up_to: Seq(up_to), ordinal };
            self.listed.apply(ME, Rev(self.rev), &Item::Read(mark), None);
        }
    }

    #[test]
    fn what_others_have_said_is_unread_until_it_was_read_or_answered() {
        let mut growing = Growing::default();
        growing.says(OTHER);
        growing.says(OTHER);
        growing.happens(OTHER, body::Kind::Edited(chat::Edited { seq: 1, content: None }));
        growing.says(OTHER);
        assert_eq!((growing.listed.unread(), growing.listed.said), (3, Seq(4)));
        growing.read(2, 2);
        assert_eq!((growing.listed.unread(), growing.listed.read), (1, Seq(2)));
        growing.says(ME);
        assert_eq!(growing.listed.unread(), 0, "who answers has seen it");
        growing.says(OTHER);
        growing.read(3, 2);
        assert_eq!(growing.listed.unread(), 1, "a late mark unreads nothing");
    }

    #[test]
    fn who_comes_into_a_group_has_nothing_unread_and_again_after_leaving() {
        use body::Kind;
        let added = || chat::MembersAdded { users: vec![ME.0], title: "Roof".into() };
        let mut growing = Growing { seq: 7, ordinal: 5, ..Growing::default() };
        growing.happens(OTHER, Kind::MembersAdded(added()));
        assert_eq!((growing.listed.unread(), growing.listed.title.as_str()), (0, "Roof"));
        growing.says(OTHER);
        growing.happens(OTHER, Kind::RoleSet(chat::RoleSet { user: ME.0, role: Role::Admin.into() }));
        growing.read(9, 6);
        assert_eq!((growing.listed.unread(), growing.listed.role), (0, Role::Admin));
        growing.happens(OTHER, Kind::MemberRemoved(chat::MemberRemoved { user: ME.0 }));
        assert!(growing.listed.gone);
        assert_eq!(growing.listed.title, "Roof", "what it was is still to be seen");
        growing.seq += 20;
        growing.ordinal += 20;
        growing.happens(OTHER, Kind::MembersAdded(added()));
        let listed = &growing.listed;
        assert_eq!(
            (listed.unread(), listed.gone, listed.role, listed.read),
            (0, false, Role::Member, Seq(0))
        );
        assert_eq!(listed.since, listed.seq);
    }

    proptest! {
        #[test]
        fn its_record_comes_back_and_damage_is_noticed(
            numbers in any::<[u64; 7]>(),
            (gone, role, title) in (any::<bool>(), 0..3i32, "\\PC{0,40}"),
            flip in any::<(proptest::sample::Index, u8)>(),
        ) {
            let [since, rev, seq, said, read, ordinal, seen] = numbers;
            let listed = Listed {
                since: Seq(since),
                rev: Rev(rev),
                seq: Seq(seq),
                said: Seq(said),
                read: Seq(read),
                ordinal,
                seen,
                gone,
                role: Role::try_from(role).unwrap(),
                title,
            };
            let sealed = listed.seal();
            prop_assert_eq!(&Listed::open(b"k", &sealed).unwrap(), &listed);
            let mut bytes = sealed.to_vec();
            let at = flip.0.index(bytes.len());
            bytes[at] ^= flip.1.max(1);
            prop_assert!(Listed::open(b"k", &bytes.into()).is_err());
        }
    }
}
