//! Records of inboxes: what one batch has brought one user.
//!
//! An item says *which* message it is, not what it says: a database has each message once, however many of its users
//! have it in their inboxes. Beside it stands what the list of the user's conversations is made of, so that nobody needs
//! to read the messages for that.
//!
//! ```text
//! payload   number of items 2 | items
//! item      what 1 | conversation 16 | seq varint | ordinal varint
//! what      bits 0-1: 1 a message, 2 the user has read up to it
//!           bit 2: the conversation is that of the item before, and is left out
//!           bits 4-7: see `Traits`; of a message
//! ```
//!
//! The first version had one record per entry, and all of the entry in it; such records are read for ever.

use bytes::{BufMut as _, Bytes, BytesMut};
use holdfast_protocol::chat::{self, body, entry};
use holdfast_protocol::id::{ConversationId, Seq, UserId};
use prost::Message as _;

use crate::engine::{StoreError, Table};
use crate::entry::{self as bytes_of, MessageEntry};
use crate::layout;

/// Items of one record, at the most.
const MOST_ITEMS: u16 = u16::MAX;

const MESSAGE: u8 = 1;
const READ: u8 = 2;
const KIND: u8 = 3;
const SAME_CONVERSATION: u8 = 4;
const TRAITS_SHIFT: u32 = 4;

/// What an event is to one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Traits(u8);

impl Traits {
    /// Somebody has said something: it counts among what is unread.
    pub(crate) const COUNTS: Self = Self(1);
    /// The user has done it.
    pub(crate) const OWN: Self = Self(2);
    /// The group, or who is in it, has changed.
    pub(crate) const GROUP: Self = Self(4);
    /// The user is not in the group any more.
    pub(crate) const GONE: Self = Self(8);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn with(self, other: Self, it_has: bool) -> Self {
        if it_has { Self(self.0 | other.0) } else { self }
    }
}

/// What an event is, as far as inboxes need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) conversation: ConversationId,
    pub(crate) seq: Seq,
    pub(crate) ordinal: u64,
    sender: UserId,
    counts: bool,
    group: bool,
    gone: Option<UserId>,
    /// The message that it changes.
    pub(crate) amends: Option<Seq>,
}

impl Facts {
    pub(crate) fn of(entry: &MessageEntry<'_>) -> Self {
        let facts = Self {
            conversation: entry.conversation,
            seq: entry.seq,
            ordinal: entry.ordinal(),
            sender: entry.sender,
            counts: false,
            group: false,
            gone: None,
            amends: None,
        };
        if says_something(entry.body) {
            return Self { counts: true, ..facts };
        }
        match chat::Body::decode(entry.body).ok().and_then(|body| body.kind) {
            Some(
                body::Kind::Edited(chat::Edited { seq, .. }) | body::Kind::Deleted(chat::Deleted { seq }),
            ) => Self { amends: Some(Seq(seq)), ..facts },
            Some(body::Kind::MemberRemoved(removed)) => {
                Self { group: true, gone: Some(UserId(removed.user)), ..facts }
            }
            Some(body::Kind::MemberLeft(_)) => Self { group: true, gone: Some(entry.sender), ..facts },
            _ => Self { group: true, ..facts },
        }
    }

    /// Whether it is what has happened to a group, or to who is in it.
    pub(crate) fn is_of_group(&self) -> bool {
        self.group
    }

    /// Whether the user is not in the group any more, and gets nothing after it.
    pub(crate) fn is_last_of(&self, user: UserId) -> bool {
        self.gone == Some(user)
    }

    /// What it is in the inbox of this user.
    pub(crate) fn item_for(&self, user: UserId) -> Item {
        let traits = Traits::default()
            .with(Traits::COUNTS, self.counts)
            .with(Traits::OWN, self.sender == user)
            .with(Traits::GROUP, self.group)
            .with(Traits::GONE, self.is_last_of(user));
        Item::Message { conversation: self.conversation, seq: self.seq, ordinal: self.ordinal, traits }
    }
}

/// Whether a body is something that a user has said, not something that has happened.
pub(crate) fn says_something(body: &[u8]) -> bool {
    // The `oneof` is all there is to a body, so its first field tells: `text`, `custom` or `media`.
    matches!(body.first().map(|tag| tag >> 3), Some(1..=3))
}

/// How far the user has read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnMark {
    /// In which conversation.
    pub conversation: ConversationId,
    /// Up to this message.
    pub up_to: Seq,
    /// The ordinal of that message.
    pub ordinal: u64,
}

impl OwnMark {
    /// A protobuf-encoded `holdfast.v1.Entry`.
    pub(crate) fn entry(&self) -> Bytes {
        let read = chat::ReadMark {
            conversation: self.conversation.to_string(),
            up_to: self.up_to.0,
            ordinal: self.ordinal,
        };
        chat::Entry { kind: Some(entry::Kind::Read(read)) }.encode_to_vec().into()
    }
}

/// One entry of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A message, which stands in this database.
    Message { conversation: ConversationId, seq: Seq, ordinal: u64, traits: Traits },
    /// The user has read on.
    Read(OwnMark),
    /// As the first version kept it: a `holdfast.v1.Entry`.
    Whole(Bytes),
}

/// A record in the making.
#[derive(Debug)]
pub(crate) struct Pack {
    /// With room for the envelope and the number of items in front.
    bytes: BytesMut,
    count: u16,
    conversation: ConversationId,
}

const FRONT_BYTES: usize = layout::ENVELOPE_BYTES + size_of::<u16>();

impl Pack {
    pub(crate) fn new() -> Self {
        let mut bytes = BytesMut::with_capacity(FRONT_BYTES + 32);
        bytes.put_bytes(0, FRONT_BYTES);
        Self { bytes, count: 0, conversation: ConversationId(0) }
    }

    /// No further item fits.
    pub(crate) fn is_full(&self) -> bool {
        self.count == MOST_ITEMS
    }

    pub(crate) fn push(&mut self, item: &Item) {
        let (what, conversation, seq, ordinal) = match *item {
            Item::Message { conversation, seq, ordinal, traits } => {
                (MESSAGE | traits.0 << TRAITS_SHIFT, conversation, seq, ordinal)
            }
            Item::Read(OwnMark { conversation, up_to, ordinal }) => (READ, conversation, up_to, ordinal),
            Item::Whole(_) => unreachable!("only the first version wrote these"),
        };
        if self.count > 0 && conversation == self.conversation {
            self.bytes.put_u8(what | SAME_CONVERSATION);
        } else {
            self.bytes.put_u8(what);
            self.bytes.put_u128_le(conversation.0);
            self.conversation = conversation;
        }
        bytes_of::put_varint(&mut self.bytes, seq.0);
        bytes_of::put_varint(&mut self.bytes, ordinal);
        self.count += 1;
    }

    /// The record.
    pub(crate) fn seal(mut self) -> Bytes {
        self.bytes[layout::ENVELOPE_BYTES..FRONT_BYTES].copy_from_slice(&self.count.to_le_bytes());
        layout::sign(layout::PACKED_VERSION, &mut self.bytes);
        self.bytes.freeze()
    }
}

/// A record that is intact. Its items are read as far as somebody wants them: there may be 65,535.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    key: &'a [u8],
    /// How many items it has.
    pub(crate) count: u16,
    what: Contents,
}

#[derive(Debug)]
enum Contents {
    Items(Bytes),
    /// As the first version kept them.
    Whole(Bytes),
}

impl<'a> Record<'a> {
    pub(crate) fn open(key: &'a [u8], value: &Bytes) -> Result<Self, StoreError> {
        let (version, payload) = layout::open_version(Table::Inbox, key, value, layout::PACKED_VERSION)?;
        if version == layout::VALUE_VERSION {
            return Ok(Self { key, count: 1, what: Contents::Whole(payload) });
        }
        match payload.first_chunk::<2>().map(|count| u16::from_le_bytes(*count)) {
            Some(count) if count > 0 => Ok(Self { key, count, what: Contents::Items(payload.slice(2..)) }),
            _ => Err(layout::corrupt(Table::Inbox, key, "there are no items")),
        }
    }

    /// At most so many items behind the first `skipped`, in the order of their `rev`s, of which the key names the last.
    pub(crate) fn items(&self, skipped: usize, most: usize) -> Result<Vec<Item>, StoreError> {
        let items = match &self.what {
            Contents::Whole(entry) if skipped == 0 && most > 0 => Some(vec![Item::Whole(entry.clone())]),
            Contents::Whole(_) => Some(Vec::new()),
            Contents::Items(items) => read_items(items, usize::from(self.count), skipped, most),
        };
        items.ok_or_else(|| layout::corrupt(Table::Inbox, self.key, "the items are not whole"))
    }
}

/// All items of a record.
pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Vec<Item>, StoreError> {
    Record::open(key, value)?.items(0, usize::MAX)
}

fn read_items(mut rest: &[u8], count: usize, skipped: usize, most: usize) -> Option<Vec<Item>> {
    let last = count.min(skipped.saturating_add(most));
    // Each takes three bytes at least.
    let mut items = Vec::with_capacity(last.saturating_sub(skipped).min(rest.len() / 3));
    let mut conversation = None;
    for at in 0..last {
        let (&what, after) = rest.split_first()?;
        rest = after;
        if what & SAME_CONVERSATION == 0 {
            let (id, after) = rest.split_first_chunk::<16>()?;
            rest = after;
            conversation = Some(ConversationId(u128::from_le_bytes(*id)));
        }
        let conversation = conversation?;
        let seq = Seq(bytes_of::varint(&mut rest)?);
        let ordinal = bytes_of::varint(&mut rest)?;
        let item = match what & KIND {
            MESSAGE => Item::Message { conversation, seq, ordinal, traits: Traits(what >> TRAITS_SHIFT) },
            READ => Item::Read(OwnMark { conversation, up_to: seq, ordinal }),
            _ => return None,
        };
        if at >= skipped {
            items.push(item);
        }
    }
    (rest.is_empty() || last < count).then_some(items)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item() -> impl Strategy<Value = Item> {
        let message = (0u128..3, any::<u64>(), any::<u64>(), 0u8..16).prop_map(
            |(conversation, seq, ordinal, traits)| Item::Message {
                conversation: ConversationId(conversation),
                seq: Seq(seq),
                ordinal,
                traits: Traits(traits),
            },
        );
        let read = (0u128..3, any::<u64>(), any::<u64>()).prop_map(|(conversation, up_to, ordinal)| {
            Item::Read(OwnMark { conversation: ConversationId(conversation), up_to: Seq(up_to), ordinal })
        });
        prop_oneof![message, read]
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back_and_damage_is_noticed(
            items in proptest::collection::vec(item(), 1..40),
            flip in any::<(proptest::sample::Index, u8)>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut pack = Pack::new();
            items.iter().for_each(|item| pack.push(item));
            let sealed = pack.seal();
            prop_assert_eq!(open(b"k", &sealed).unwrap(), items);
            let mut bytes = sealed.to_vec();
            let at = flip.0.index(bytes.len());
            bytes[at] ^= flip.1.max(1);
            prop_assert!(open(b"k", &bytes.into()).is_err());
            prop_assert!(open(b"k", &sealed.slice(..cut.index(sealed.len()))).is_err());
        }

        #[test]
        fn any_part_of_a_record_is_what_stands_there(
            items in proptest::collection::vec(item(), 1..40),
            skipped in 0usize..45,
            most in 0usize..45,
        ) {
            let mut pack = Pack::new();
            items.iter().for_each(|item| pack.push(item));
            let sealed = pack.seal();
            let record = Record::open(b"k", &sealed).unwrap();
            prop_assert_eq!(usize::from(record.count), items.len());
            let expected: Vec<_> = items.into_iter().skip(skipped).take(most).collect();
            prop_assert_eq!(record.items(skipped, most).unwrap(), expected);
        }

        #[test]
        fn any_payload_is_read_or_not_and_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            numbers in any::<(u16, u8, u8)>(),
        ) {
            let (count, skipped, most) = numbers;
            let _ = read_items(&bytes, count.into(), skipped.into(), most.into());
        }
    }

    #[test]
    fn a_record_of_the_first_version_is_one_entry() {
        let value = layout::seal(3, |payload| payload.put_slice(b"abc"));
        assert_eq!(open(b"k", &value).unwrap(), [Item::Whole(Bytes::from_static(b"abc"))]);
    }

    #[test]
    fn a_batch_of_one_group_is_a_few_bytes_per_message() {
        let item = |seq: u64| Item::Message {
            conversation: ConversationId(1 << 100),
            seq: Seq(1_000 + seq),
            ordinal: 900 + seq,
            traits: Traits::COUNTS,
        };
        let bytes = |count: u64| {
            let mut pack = Pack::new();
            (0..count).for_each(|seq| pack.push(&item(seq)));
            pack.seal().len()
        };
        assert_eq!(bytes(1), FRONT_BYTES + 21);
        assert_eq!(bytes(100), FRONT_BYTES + 21 + 99 * 5);
    }

    #[test]
    fn only_what_somebody_has_said_counts() {
        use body::Kind;
        let bytes = |kind: Kind| chat::Body { kind: Some(kind) }.encode_to_vec();
        assert!(says_something(&bytes(Kind::Text("x".into()))));
        assert!(says_something(&bytes(Kind::Text(String::new()))));
        assert!(says_something(&bytes(Kind::Custom(chat::Custom::default()))));
        assert!(says_something(&bytes(Kind::Media(chat::Media::default()))));
        for kind in [
            Kind::GroupCreated(chat::GroupCreated::default()),
            Kind::MembersAdded(chat::MembersAdded::default()),
            Kind::MemberRemoved(chat::MemberRemoved::default()),
            Kind::MemberLeft(chat::MemberLeft::default()),
            Kind::Renamed(chat::Renamed::default()),
            Kind::RoleSet(chat::RoleSet::default()),
            Kind::RetentionSet(chat::RetentionSet::default()),
            Kind::Edited(chat::Edited::default()),
            Kind::Deleted(chat::Deleted::default()),
        ] {
            assert!(!says_something(&bytes(kind.clone())), "{kind:?}");
        }
        assert!(!says_something(b""));
    }
}
