//! Bytes on disk. Numbers in keys are big-endian, so that keys sort as their numbers do; numbers in values are
//! little-endian. Every value begins with its version and a CRC-32C of all that follows the CRC.
//!
//! ```text
//! messages   conversation 16 | seq 8               →  01 | crc 4 | Entry (protobuf, chat.proto)
//! dedupe     fingerprint 16                        →  01 | crc 4 | message id 8 | seq 8
//! conversations  user 8 | conversation 16          →  01 | crc 4 | what `listing` says
//!                user 8 | 0 16                     →  01 | crc 4 | the rev up to which the others go 8
//! copies     conversation 16 | seq 8               →  01 | crc 4 | Entry: the very bytes of another database's message
//! inbox      user 8 | rev of its last item 8       →  02 | crc 4 | items, as `inbox` says
//!                                           before  →  01 | crc 4 | Entry: the very bytes of the message
//! fan-out    target 2 | position mod 4096 2        →  03 | crc 4 | position 8 | n × (what 1 | conversation 16 | seq 8 | rest)
//!                                           before  →  02 | crc 4 | position 8 | n × (conversation 16 | seq 8 | users)
//!                                          earlier  →  01 | crc 4 | position 8 | n × (conversation 16 | seq 8 | user 8)
//! cursors    user 8 | device 8, 0: all of them     →  02 | crc 4 | rev 8 | time 8 (ms) | shut out at 8 (ms) | name
//!                                           before  →  01 | crc 4 | rev 8 | time 8 (ms)
//! seen       user 8                                →  01 | crc 4 | time 8 (ms)
//! state      'i'                                   →  01 | crc 4 | last message id 8
//!            'a' | source 2                        →  01 | crc 4 | last position applied from it 8
//!            'k'                                   →  01 | crc 4 | 1 8: some group has said for how long it keeps messages
//! groups     conversation 16                       →  01 | crc 4 | what `group` says
//! amended    conversation 16 | seq 8               →  01 | crc 4 | seq of the last edit or deletion 8
//! blocks, hidden, people, floors                    what `blocks`, `people` and `floor` say
//! receipts   conversation 16 | user 8              →  03 | crc 4 | seq of the last message read 8 | its ordinal 8 | last delivered 8
//!                                           before  →  02 | crc 4 | seq of the last message read 8 | its ordinal 8
//!                                           before  →  01 | crc 4 | seq of the last message read 8
//! ```
//!
//! - **copies and inbox**: a database keeps a message of another one's conversation once, for all of its users, and
//!   inboxes only name messages. The first record of an inbox has one item, so that a look at rev 1 tells whether there
//!   is an inbox at all.
//! - **fan-out**: `what` is 1 for a message, whose rest are its users; 2 for how far one user has read, whose rest is the
//!   ordinal, as a varint, and that user; 3 for how far a conversation has arrived at one user, who is the rest; 4 and 5
//!   for whether one user, the rest, blocks the other of a direct conversation, or is blocked: 1 in place of the `seq`, or 0;
//!   6 for the first event of a conversation that is still there, and for no users: it has no rest.
//! - **cursors**: the `rev` of device 0 is the one up to which the senders of messages know that they have arrived.
//! - **users**: how many there are, then the first one and the distances between them, all as varints; 0: the same as
//!   before. 250 members whose ids lie close together take 300 bytes, and a batch of messages to them takes them once.
//!
//! - **fingerprint**: the first 16 bytes of SHA-256 over (conversation, sender, device, client id). Nobody can make two
//!   of them meet, which would swallow a message; and keys of 16 random bytes are what the engine compares fastest.
//! - **dedupe records stay as long as their messages**, and at least for as long as they decide anything. Their age (from
//!   the message id) decides what a resend gets: its `accepted` for 7 days, `client_id_expired` from then on. Were they
//!   purged, an old resend could not be told from a new message and would come twice; anything smaller that still tells
//!   them apart (a fingerprint per message) *is* this record, about 35 bytes on disk.
//! - **fan-out** is a ring: a slot is written over 4,096 positions later, which back-pressure ensures is after the
//!   target has confirmed it. So the log has a limit, and trimming it costs neither deletions nor tombstones.

use bytes::{BufMut as _, Bytes, BytesMut};
use holdfast_protocol::id::{ConversationId, DeviceId, GroupId, MessageId, Rev, Seq, UserId};
use sha2::{Digest as _, Sha256};

use crate::command::Users;
use crate::engine::{Key, StoreError, Table};
use crate::entry::{self, MessageEntry};
use crate::inbox::OwnMark;

/// Version byte of values.
pub(crate) const VALUE_VERSION: u8 = 1;
/// Version byte of inbox records with several items, of read marks with their ordinals, and of cursors with names.
pub(crate) const PACKED_VERSION: u8 = 2;
/// Version byte of intents for several users each.
const INTENTS_OF_USERS_VERSION: u8 = 2;
/// Version byte of intents of several kinds.
const INTENTS_VERSION: u8 = 3;
/// Version and checksum.
pub(crate) const ENVELOPE_BYTES: usize = 5;
/// Positions that a fan-out log holds per target.
pub(crate) const RING: u64 = 4096;

pub(crate) type Fingerprint = [u8; 16];

pub(crate) fn message_key(conversation: ConversationId, seq: Seq) -> Key {
    let mut key = Key::from_slice(&conversation.0.to_be_bytes());
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

pub(crate) fn dedupe_key(fingerprint: &Fingerprint) -> Key {
    Key::from_slice(fingerprint)
}

pub(crate) fn inbox_key(user: UserId, rev: Rev) -> Key {
    pair_key(user.0, rev.0)
}

pub(crate) fn cursor_key(user: UserId, device: DeviceId) -> Key {
    pair_key(user.0, device.0)
}

fn pair_key(one: u64, two: u64) -> Key {
    let mut key = Key::from_slice(&one.to_be_bytes());
    key.extend_from_slice(&two.to_be_bytes());
    key
}

pub(crate) fn fan_out_key(target: u16, position: u64) -> Key {
    let mut key = Key::from_slice(&target.to_be_bytes());
    key.extend_from_slice(&((position % RING) as u16).to_be_bytes());
    key
}

pub(crate) fn group_key(conversation: ConversationId) -> Key {
    Key::from_slice(&conversation.0.to_be_bytes())
}

pub(crate) fn receipt_key(conversation: ConversationId, user: UserId) -> Key {
    let mut key = Key::from_slice(&conversation.0.to_be_bytes());
    key.extend_from_slice(&user.0.to_be_bytes());
    key
}

pub(crate) fn listing_key(user: UserId, conversation: ConversationId) -> Key {
    let mut key = Key::from_slice(&user.0.to_be_bytes());
    key.extend_from_slice(&conversation.0.to_be_bytes());
    key
}

pub(crate) fn seen_key(user: UserId) -> Key {
    Key::from_slice(&user.0.to_be_bytes())
}

pub(crate) fn last_id_key() -> Key {
    Key::from_slice(b"i")
}

pub(crate) fn groups_keep_key() -> Key {
    Key::from_slice(b"k")
}

pub(crate) fn applied_key(source: u16) -> Key {
    let mut key = Key::from_slice(b"a");
    key.extend_from_slice(&source.to_be_bytes());
    key
}

pub(crate) fn fingerprint(
    conversation: ConversationId,
    sender: UserId,
    device: DeviceId,
    client_id: &[u8],
) -> Fingerprint {
    digest(conversation, sender, device, client_id)
}

/// The group that a device makes under a client id: the same one however often it asks, so that there is no second one
/// when it has to ask again.
#[must_use]
pub fn new_group(creator: UserId, device: DeviceId, client_id: &[u8]) -> GroupId {
    // No conversation has this id, so no message has this digest.
    let digest = digest(ConversationId(0), creator, device, client_id);
    let (number, _) = digest.split_first_chunk::<8>().expect("invariant: 16 bytes");
    GroupId(u64::from_be_bytes(*number).max(1))
}

fn digest(conversation: ConversationId, sender: UserId, device: DeviceId, client_id: &[u8]) -> Fingerprint {
    let digest = Sha256::new()
        .chain_update(conversation.0.to_be_bytes())
        .chain_update(sender.0.to_be_bytes())
        .chain_update(device.0.to_be_bytes())
        .chain_update(client_id)
        .finalize();
    let (first, _) = digest.split_first_chunk().expect("invariant: SHA-256 has 32 bytes");
    *first
}

/// Makes a value of a payload that `write` appends; `payload_bytes` is how much that will be.
pub(crate) fn seal(payload_bytes: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut value = BytesMut::with_capacity(ENVELOPE_BYTES + payload_bytes);
    value.put_bytes(0, ENVELOPE_BYTES);
    write(&mut value);
    sign(VALUE_VERSION, &mut value);
    value.freeze()
}

/// The value of a message, and of the inbox entries that it becomes.
pub(crate) fn seal_entry(entry: &MessageEntry<'_>) -> Bytes {
    let mut value = entry.encode(|entry_bytes| {
        let mut value = BytesMut::with_capacity(ENVELOPE_BYTES + entry_bytes);
        value.put_bytes(0, ENVELOPE_BYTES);
        value
    });
    sign(VALUE_VERSION, &mut value);
    value.freeze()
}

/// Writes version and checksum into the front of a value that has room for them.
pub(crate) fn sign(version: u8, value: &mut BytesMut) {
    let crc = crc32c::crc32c(&value[ENVELOPE_BYTES..]);
    value[0] = version;
    value[1..ENVELOPE_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// The payload of a value, checked.
pub(crate) fn open(table: Table, key: &[u8], value: &Bytes) -> Result<Bytes, StoreError> {
    open_version(table, key, value, VALUE_VERSION).map(|(_, payload)| payload)
}

/// Version and payload of a value, checked; versions up to `newest` are known.
pub(crate) fn open_version(
    table: Table,
    key: &[u8],
    value: &Bytes,
    newest: u8,
) -> Result<(u8, Bytes), StoreError> {
    let [version, c0, c1, c2, c3, payload @ ..] = value.as_ref() else {
        return Err(corrupt(table, key, "the value is too short"));
    };
    if !(VALUE_VERSION..=newest).contains(version) {
        return Err(corrupt(table, key, "the value has a version that this program does not know"));
    }
    if crc32c::crc32c(payload) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
        return Err(corrupt(table, key, "the checksum is wrong"));
    }
    Ok((*version, value.slice(ENVELOPE_BYTES..)))
}

/// The entry in a sealed value, unchecked: for values that were made by this process.
pub(crate) fn entry_of(sealed: &Bytes) -> Bytes {
    sealed.slice(ENVELOPE_BYTES..)
}

pub(crate) fn corrupt(table: Table, key: &[u8], what: &'static str) -> StoreError {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(2 * key.len());
    for byte in key {
        let _ = write!(hex, "{byte:02x}");
    }
    StoreError::Corrupt { table: table.name(), key: hex, what }
}

/// Little-endian numbers of a value.
pub(crate) fn seal_numbers<const N: usize>(numbers: [u64; N]) -> Bytes {
    seal(8 * N, |payload| numbers.iter().for_each(|&number| payload.put_u64_le(number)))
}

pub(crate) fn open_numbers<const N: usize>(
    table: Table,
    key: &[u8],
    value: &Bytes,
) -> Result<[u64; N], StoreError> {
    let payload = open(table, key, value)?;
    let (chunks, rest) = payload.as_chunks::<8>();
    match <[[u8; 8]; N]>::try_from(chunks) {
        Ok(chunks) if rest.is_empty() => Ok(chunks.map(u64::from_le_bytes)),
        _ => Err(corrupt(table, key, "the value has a wrong length")),
    }
}

/// The number in the last 8 bytes of a key.
pub(crate) fn key_number(table: Table, key: &[u8]) -> Result<u64, StoreError> {
    match key.split_last_chunk::<8>() {
        Some((_, number)) => Ok(u64::from_be_bytes(*number)),
        None => Err(corrupt(table, key, "the key is too short")),
    }
}

/// Something for these users, as the fan-out log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) what: Intended,
    /// In the order of their ids, each once; none only of a floor.
    pub(crate) users: Users,
}

/// What an intent is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intended {
    /// A message.
    Message { conversation: ConversationId, seq: Seq },
    /// The one user has read on.
    Read(OwnMark),
    /// The conversation has arrived at the one user up to this message.
    Delivered { conversation: ConversationId, seq: Seq },
    /// Whether the one user blocks the other one of the conversation: for the conversation.
    Blocks { conversation: ConversationId, blocks: bool },
    /// Whether the one user is blocked by the other one of the conversation: for the user.
    BlockedBy { conversation: ConversationId, blocks: bool },
    /// What is before this event of the conversation is not there any more.
    Floor { conversation: ConversationId, seq: Seq },
}

const INTENDED_MESSAGE: u8 = 1;
const INTENDED_READ: u8 = 2;
const INTENDED_DELIVERED: u8 = 3;
const INTENDED_BLOCKS: u8 = 4;
const INTENDED_BLOCKED_BY: u8 = 5;
const INTENDED_FLOOR: u8 = 6;
/// Of an intent about a message, without its users.
const INTENT_BYTES: usize = 25;
/// Of an intent in the first version, which had one user each.
#[cfg(test)]
const INTENT_BYTES_1: usize = 32;

pub(crate) fn seal_intents(position: u64, intents: &[Intent]) -> Bytes {
    let users: usize = intents.iter().map(|intent| intent.users.len()).sum();
    let mut value =
        BytesMut::with_capacity(ENVELOPE_BYTES + 8 + (INTENT_BYTES + 4) * intents.len() + 4 * users);
    value.put_bytes(0, ENVELOPE_BYTES);
    value.put_u64_le(position);
    let mut before: &[UserId] = &[];
    for intent in intents {
        match intent.what {
            Intended::Message { conversation, seq } => {
                value.put_u8(INTENDED_MESSAGE);
                value.put_u128_le(conversation.0);
                value.put_u64_le(seq.0);
            }
            Intended::Delivered { conversation, seq } => {
                value.put_u8(INTENDED_DELIVERED);
                value.put_u128_le(conversation.0);
                value.put_u64_le(seq.0);
            }
            Intended::Blocks { conversation, blocks } => {
                value.put_u8(INTENDED_BLOCKS);
                value.put_u128_le(conversation.0);
                value.put_u64_le(u64::from(blocks));
            }
            Intended::BlockedBy { conversation, blocks } => {
                value.put_u8(INTENDED_BLOCKED_BY);
                value.put_u128_le(conversation.0);
                value.put_u64_le(u64::from(blocks));
            }
            Intended::Read(OwnMark { conversation, up_to, ordinal }) => {
                value.put_u8(INTENDED_READ);
                value.put_u128_le(conversation.0);
                value.put_u64_le(up_to.0);
                entry::put_varint(&mut value, ordinal);
            }
            Intended::Floor { conversation, seq } => {
                value.put_u8(INTENDED_FLOOR);
                value.put_u128_le(conversation.0);
                value.put_u64_le(seq.0);
                continue;
            }
        }
        if intent.users.as_slice() == before {
            entry::put_varint(&mut value, 0);
            continue;
        }
        before = &intent.users;
        entry::put_varint(&mut value, before.len() as u64);
        let mut last = 0;
        for user in before {
            entry::put_varint(&mut value, user.0 - last);
            last = user.0;
        }
    }
    sign(INTENTS_VERSION, &mut value);
    value.freeze()
}

pub(crate) fn open_intents(key: &[u8], value: &Bytes) -> Result<(u64, Vec<Intent>), StoreError> {
    let (version, payload) = open_version(Table::FanOut, key, value, INTENTS_VERSION)?;
    let wrong = || corrupt(Table::FanOut, key, "the value has a wrong length");
    let (position, mut rest) = payload.split_first_chunk::<8>().ok_or_else(wrong)?;
    let mut intents: Vec<Intent> = Vec::new();
    while !rest.is_empty() {
        let before = intents.iter().rev().map(|before| &before.users).find(|users| !users.is_empty());
        let intent = read_intent(version, &mut rest, before);
        intents.push(intent.ok_or_else(wrong)?);
    }
    Ok((u64::from_le_bytes(*position), intents))
}

fn read_intent(version: u8, rest: &mut &[u8], before: Option<&Users>) -> Option<Intent> {
    let mut kind = INTENDED_MESSAGE;
    if version >= INTENTS_VERSION {
        let (&what, after) = rest.split_first()?;
        (kind, *rest) = (what, after);
    }
    let (conversation, after) = rest.split_first_chunk::<16>()?;
    let (seq, after) = after.split_first_chunk::<8>()?;
    *rest = after;
    let conversation = ConversationId(u128::from_le_bytes(*conversation));
    let seq = Seq(u64::from_le_bytes(*seq));
    let what = match kind {
        INTENDED_MESSAGE => Intended::Message { conversation, seq },
        INTENDED_READ => {
            let ordinal = entry::varint(rest)?;
            Intended::Read(OwnMark { conversation, up_to: seq, ordinal })
        }
        INTENDED_DELIVERED => Intended::Delivered { conversation, seq },
        INTENDED_BLOCKS => Intended::Blocks { conversation, blocks: seq.0 != 0 },
        INTENDED_BLOCKED_BY => Intended::BlockedBy { conversation, blocks: seq.0 != 0 },
        INTENDED_FLOOR => {
            return Some(Intent { what: Intended::Floor { conversation, seq }, users: Users::new() });
        }
        _ => return None,
    };
    let users = if version < INTENTS_OF_USERS_VERSION {
        let (user, after) = rest.split_first_chunk::<8>()?;
        *rest = after;
        Users::from_slice(&[UserId(u64::from_le_bytes(*user))])
    } else {
        read_users(rest, before)?
    };
    Some(Intent { what, users })
}

fn read_users(rest: &mut &[u8], before: Option<&Users>) -> Option<Users> {
    let count = usize::try_from(entry::varint(rest)?).ok()?;
    if count == 0 {
        return before.cloned();
    }
    // Each takes a byte at least.
    let mut users = Users::with_capacity(count.min(rest.len()));
    let mut last = 0u64;
    for _ in 0..count {
        last = last.checked_add(entry::varint(rest)?)?;
        users.push(UserId(last));
    }
    Some(users)
}

/// A dedupe record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) message_id: MessageId,
    pub(crate) seq: Seq,
}

impl Known {
    pub(crate) fn seal(self) -> Bytes {
        seal_numbers([self.message_id.0, self.seq.0])
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let [message_id, seq] = open_numbers(Table::Dedupe, key, value)?;
        Ok(Self { message_id: MessageId(message_id), seq: Seq(seq) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers() {
        let revs = [0, 1, 255, 256, 1 << 32, u64::MAX];
        let keys = revs.map(|rev| inbox_key(UserId(7), Rev(rev)));
        assert!(keys.is_sorted());
        assert!(inbox_key(UserId(7), Rev(u64::MAX)) < inbox_key(UserId(8), Rev(0)));
        for (key, rev) in keys.iter().zip(revs) {
            assert_eq!(key_number(Table::Inbox, key).unwrap(), rev);
        }
    }

    #[test]
    fn no_key_needs_the_heap() {
        let conversation = ConversationId(u128::MAX);
        assert!(!message_key(conversation, Seq(u64::MAX)).spilled());
        assert!(!dedupe_key(&[0xff; 16]).spilled());
    }

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        let users = Users::from_slice(&[UserId(3), UserId(300)]);
        let read = OwnMark { conversation: ConversationId(1), up_to: Seq(2), ordinal: 300 };
        let one = Users::from_slice(&[UserId(3)]);
        let value = seal_intents(
            9,
            &[message_intent(1, 2, users), Intent { what: Intended::Read(read), users: one }],
        );
        assert_eq!(open_intents(b"k", &value).unwrap().0, 9);
        for at in 0..value.len() {
            let mut bytes = value.to_vec();
            bytes[at] ^= 1;
            assert!(open_intents(b"k", &bytes.into()).is_err(), "byte {at}");
        }
        for len in 0..value.len() {
            assert!(open_intents(b"k", &value.slice(..len)).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn numbers_and_intents_come_back() {
        let known = Known { message_id: MessageId(1 << 40), seq: Seq(3) };
        assert_eq!(Known::open(b"k", &known.seal()).unwrap(), known);
        assert!(open_numbers::<1>(Table::State, b"k", &known.seal()).is_err());
        let intents: Vec<_> = [&[3][..], &[3], &[1, 2, u64::MAX], &[], &[1, 2, u64::MAX], &[3]]
            .into_iter()
            .zip(1..)
            .map(|(users, n): (_, u64)| {
                let users = users.iter().map(|&user| UserId(user)).collect();
                let conversation = ConversationId(n.into());
                let read = OwnMark { conversation, up_to: Seq(n), ordinal: n << 20 };
                let message = Intended::Message { conversation, seq: Seq(n + 1) };
                let what = match n {
                    1 => message,
                    2 => Intended::Read(read),
                    3 => Intended::Blocks { conversation, blocks: true },
                    4 => Intended::Floor { conversation, seq: Seq(n) },
                    5 => Intended::BlockedBy { conversation, blocks: false },
                    _ => Intended::Delivered { conversation, seq: Seq(n) },
                };
                Intent { what, users }
            })
            .collect();
        assert_eq!(open_intents(b"k", &seal_intents(77, &intents)).unwrap(), (77, intents));
        assert_eq!(open_intents(b"k", &seal_intents(78, &[])).unwrap(), (78, vec![]));
    }

    #[test]
    fn intents_of_the_first_version_are_read() {
        let value = seal(8 + 2 * INTENT_BYTES_1, |payload| {
            payload.put_u64_le(9);
            for n in 1..3u64 {
                payload.put_u128_le(n.into());
                payload.put_u64_le(n + 10);
                payload.put_u64_le(n + 20);
            }
        });
        let intent = |n: u64| message_intent(n.into(), n + 10, Users::from_slice(&[UserId(n + 20)]));
        assert_eq!(open_intents(b"k", &value).unwrap(), (9, vec![intent(1), intent(2)]));
        // Of the second one.
        let mut value = BytesMut::from(&[0; ENVELOPE_BYTES][..]);
        value.put_u64_le(9);
        value.put_u128_le(1);
        value.put_u64_le(11);
        value.put_slice(&[1, 21]);
        value.put_u128_le(2);
        value.put_u64_le(12);
        value.put_u8(0);
        sign(INTENTS_OF_USERS_VERSION, &mut value);
        let again = message_intent(2, 12, Users::from_slice(&[UserId(21)]));
        assert_eq!(open_intents(b"k", &value.freeze()).unwrap(), (9, vec![intent(1), again]));
    }

    fn message_intent(conversation: u128, seq: u64, users: Users) -> Intent {
        let what = Intended::Message { conversation: ConversationId(conversation), seq: Seq(seq) };
        Intent { what, users }
    }

    #[test]
    fn the_users_of_a_group_are_few_bytes_each_and_stand_once_per_batch() {
        let intent = |seq: u64| message_intent(7, seq, (1..=250).map(|user| UserId(user * 40)).collect());
        let one = seal_intents(1, &[intent(1)]).len();
        let hundred = seal_intents(1, &(1..=100).map(intent).collect::<Vec<_>>()).len();
        assert!(one <= 300, "{one} bytes");
        assert_eq!(hundred, one + 99 * (INTENT_BYTES + 1));
    }

    #[test]
    fn fingerprints_tell_all_four_apart() {
        let mut all = std::collections::BTreeSet::new();
        for conversation in [1, 2] {
            for sender in [1, 2] {
                for device in [1, 2] {
                    for client_id in [b"a".as_slice(), b"b", b"ab"] {
                        let conversation = ConversationId(conversation);
                        all.insert(fingerprint(conversation, UserId(sender), DeviceId(device), client_id));
                    }
                }
            }
        }
        assert_eq!(all.len(), 24);
    }
}
