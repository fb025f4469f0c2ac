//! What the edge asks of the workers, and what they answer: the vocabulary between threads.
//!
//! Shards send [`Command`]s through the router; workers answer with [`Delivery`]s through the lane of the session's
//! shard. Everything that carries a `seq` or a `rev` is durable when it appears here.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_protocol::chat::{Audience, Role};
use holdfast_protocol::id::{ConversationId, DeviceId, GroupId, MessageId, Rev, Seq, UserId};
use smallvec::SmallVec;

pub use crate::group::GroupChange;
pub use crate::inbox::OwnMark;

/// Where a session lives: its shard and its connection there (a packed `ConnectionId`, opaque here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionAddress {
    /// The shard.
    pub shard: u16,
    /// The connection, generation included, so that an answer to a closed session reaches nobody.
    pub connection: u64,
}

/// A client's name for its message: at most 64 bytes.
pub type ClientId = SmallVec<[u8; 24]>;

/// What a shard asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// A session says who it is. Goes to the user's worker, which alone decides. Answer: `Registered` or `Refused`.
    Register(Register),
    /// The session is gone. Ignored when another session of the device has replaced it.
    Unregister {
        /// Who.
        user: UserId,
        /// Which installation.
        device: DeviceId,
        /// Where the session lived.
        session: SessionAddress,
    },
    /// Says or changes something in a conversation. Goes to the conversation's worker. Answer: `Accepted` or `Rejected`.
    Send(Box<SendMessage>),
    /// Asks for entries after `after`. Goes to the user's worker. Answer: one `Page` or `NoPage`; a session has
    /// at most one `Sync` on its way. The next page is asked for by
    /// the shard when the session has room, until a page says `live`.
    Sync {
        /// Whose inbox.
        user: UserId,
        /// The session that asks.
        session: SessionAddress,
        /// Entries with a greater `rev` are wanted.
        after: Rev,
        /// At most this many entries.
        limit: u32,
        /// Every entry, also where a snapshot would be shorter.
        every_entry: bool,
        /// The snapshot that was begun for this session goes on; else one begins anew.
        goes_on: bool,
    },
    /// Asks for a part of a conversation. Goes to the conversation's worker. Answer: `History` or `Rejected`, when the
    /// worker comes to it.
    History(HistoryRequest),
    /// Somebody is writing in a conversation, or not any more. Goes to the conversation's worker. Has no answer but
    /// `Rejected`, and reaches only who is live and has room.
    Typing {
        /// Who, where, and what.
        typing: Typing,
        /// The session that says so.
        session: SessionAddress,
    },
    /// A user has read on. Goes to the conversation's worker. Answer: `Receipts` with the user's mark, or `Rejected`.
    Read {
        /// Who, where, and how far.
        mark: ReadMark,
        /// The session that says so.
        session: SessionAddress,
    },
    /// Asks how far everybody in a conversation has read. Goes to its worker. Answer: `Receipts` or `Rejected`.
    Receipts(ReceiptsRequest),
    /// Asks for the user's conversations. Goes to the user's worker. Answer: `Conversations` or `Rejected`, when the
    /// worker comes to it.
    Conversations(ConversationsRequest),
    /// Asks who is in a group. Goes to the conversation's worker. Answer: `Group` or `Rejected`.
    Group(GroupRequest),
    /// A shard wants to know whether a user is there, and from now on of whoever comes or goes. Goes to the user's worker.
    /// Answer: the user stands in one of the next `Presence`s of that shard.
    Watch {
        /// Who is watched.
        user: UserId,
        /// Which shard wants to know.
        shard: u16,
    },
    /// Nobody is at a device, or somebody is again. Goes to the user's worker, and has no answer.
    Away {
        /// Whose device.
        user: UserId,
        /// Its session.
        session: SessionAddress,
        /// Nobody is.
        away: bool,
    },
    /// Asks which devices a user has. Goes to the user's worker. Answer: `Devices` or `Rejected`.
    Devices(DevicesRequest),
    /// Shuts one of a user's devices out. Goes to the user's worker. Answer: `Devices` or `Rejected`; the session of the
    /// device gets `Revoked`.
    Revoke(Box<Revoke>),
    /// Changes what others are to a user, or who may see the user's presence. Goes to the user's worker. Answer: `People`
    /// for all of the user's sessions once it is durable, or `Rejected`.
    ChangePeople(ChangePeople),
    /// Asks for a user's contacts and blocks. Goes to the user's worker. Answer: `People` or `Rejected`.
    People(PeopleRequest),
    /// A session watches a user whose presence may be hidden from it. Goes to the watched user's worker. Answer:
    /// `MayWatch`.
    MayWatch {
        /// Who is watched.
        user: UserId,
        /// Who watches.
        watcher: UserId,
        /// With which session.
        session: SessionAddress,
    },
    /// Moves the device's cursor, never back.
    Ack {
        /// Whose inbox.
        user: UserId,
        /// Which device's cursor.
        device: DeviceId,
        /// The session that asks.
        session: SessionAddress,
        /// Everything up to here has arrived.
        rev: Rev,
    },
    /// Between workers: inbox entries that a source database's fan-out log holds for users of this worker.
    FanOut(Box<crate::command::FanOut>),
    /// Between workers: the target has made everything up to `position` of the source's log durable.
    FannedOut {
        /// Which database has applied.
        target: u16,
        /// The last applied position.
        position: u64,
        /// The target wants everything after it (once more): it has just started, or has noticed a hole.
        again: bool,
    },
    /// Between workers: what may be lost on the way, and which users of this worker are to know.
    Notes(Vec<Notice>),
    /// Finish what is in the queue, make it durable, and stop.
    Stop,
}

/// A session that says who it is.
#[derive(Debug, Clone)]
pub struct Register {
    /// Who.
    pub user: UserId,
    /// Which installation.
    pub device: DeviceId,
    /// What people know it by.
    pub device_name: Arc<str>,
    /// When the token was made, in seconds since 1970: a device that was shut out since is not registered.
    pub issued_at: u64,
    /// Where the session lives.
    pub session: SessionAddress,
    /// When its connection was accepted, in tenths of a second of the process's monotonic clock. What a client wrote on
    /// a connection that it has given up may arrive after its next connection has logged in: the older of two
    /// connections never replaces the younger.
    pub accepted_tick: u32,
    /// The last `rev` that the device says it has; `None`: what the server kept.
    pub cursor: Option<Rev>,
}

/// What one receives: several users, once each.
pub type Users = SmallVec<[UserId; 2]>;

/// Something that is to happen in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A message.
    Say {
        /// A protobuf-encoded `holdfast.v1.Body` of a kind that clients may send.
        body: Bytes,
        /// The message that it answers.
        reply_to: Option<Seq>,
    },
    /// A message of one's own says something else.
    Edit {
        /// Which.
        seq: Seq,
        /// A protobuf-encoded `holdfast.v1.Content`.
        content: Bytes,
    },
    /// A message is taken back.
    Delete {
        /// Which.
        seq: Seq,
    },
    /// The group changes.
    Group(GroupChange),
}

impl Act {
    /// Bytes of what is said.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Say { body, .. } => body.len(),
            Self::Edit { content, .. } => content.len(),
            Self::Delete { .. } => 0,
            Self::Group(change) => match change {
                GroupChange::Create { members, .. } | GroupChange::Add(members) => {
                    size_of_val(members.as_slice())
                }
                _ => 0,
            },
        }
    }
}

/// Somebody is writing, or not any more. It is never kept, and the first to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typing {
    /// Who.
    pub user: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// Not any more.
    pub stopped: bool,
}

/// How far a user has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadMark {
    /// Who.
    pub user: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// Up to this message.
    pub up_to: Seq,
}

/// What has arrived at a user's devices in a conversation, and what the user has read of it. Neither ever goes back while
/// the user is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Who.
    pub user: UserId,
    /// The last message read; 0 for none.
    pub read: Seq,
    /// The last message that a device has confirmed, or the one read if that is later; 0 for none.
    pub delivered: Seq,
}

/// What is told to whoever is live and has room, and may be lost on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Somebody is writing, or not any more.
    Typing(Typing),
    /// Somebody has got or read more of this conversation; it is durable.
    Receipt(ConversationId, Receipt),
}

/// A note, and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What is told.
    pub note: Note,
    /// The session that it comes from, if one does: it knows.
    pub by: Option<SessionAddress>,
    /// Whose other sessions are told.
    pub users: Users,
}

/// Whether a user is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// A device is connected, or was until a moment ago, and somebody is at it.
    Online,
    /// Nobody is at the devices that are connected.
    Away,
    /// No device is connected.
    Offline {
        /// When the last one went, in milliseconds since 1970 and in steps of [`LAST_SEEN_STEP_MS`], if there ever was
        /// one.
        last_seen_ms: Option<u64>,
    },
}

/// When somebody was seen last is told in steps of this many milliseconds: nobody has to know to the second.
pub const LAST_SEEN_STEP_MS: u64 = 10_000;

/// A user, and whether the user is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserPresence {
    /// Who.
    pub user: UserId,
    /// Whether.
    pub presence: Presence,
    /// From whom it may be hidden.
    pub hides: Hides,
}

/// From whom a user's presence may be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hides {
    /// From nobody.
    FromNobody,
    /// From some: each watcher is to be asked for.
    FromSome,
    /// From some, and they may be others than before.
    FromOthers,
}

/// Somebody wants to know how far everybody in a conversation has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptsRequest {
    /// Who.
    pub user: UserId,
    /// Who gets the answer.
    pub session: SessionAddress,
    /// In which conversation.
    pub conversation: ConversationId,
}

/// Somebody wants to know which conversations there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationsRequest {
    /// Who.
    pub user: UserId,
    /// Who gets the answer.
    pub session: SessionAddress,
    /// Those behind this one, in the order of their ids.
    pub after: ConversationId,
    /// At most so many.
    pub limit: u32,
}

/// Somebody wants to know which devices there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicesRequest {
    /// Whose.
    pub user: UserId,
    /// Who gets the answer.
    pub session: SessionAddress,
}

/// Somebody shuts a device out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoke {
    /// Whose device, and who gets the answer.
    pub request: DevicesRequest,
    /// Which.
    pub device: DeviceId,
    /// What people know it by.
    pub name: Box<str>,
}

/// What a user changes about others, or about what they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangePeople {
    /// Who.
    pub user: UserId,
    /// The session that asks.
    pub session: SessionAddress,
    /// What.
    pub change: PeopleChange,
}

/// See [`ChangePeople`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeopleChange {
    /// Somebody is blocked, or not any more.
    Block(UserId, bool),
    /// Somebody is a contact, or not any more.
    Contact(UserId, bool),
    /// Who may see the user's presence.
    Presence(Audience),
}

/// Somebody wants to know who the contacts are, and who is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeopleRequest {
    /// Whose.
    pub user: UserId,
    /// Who gets the answer.
    pub session: SessionAddress,
    /// Those with greater ids.
    pub after: UserId,
    /// At most so many.
    pub limit: u32,
}

/// Somebody wants to know who is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRequest {
    /// Who.
    pub user: UserId,
    /// Who gets the answer.
    pub session: SessionAddress,
    /// Which group.
    pub conversation: ConversationId,
}

/// A part of a conversation that somebody wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRequest {
    /// Who.
    pub user: UserId,
    /// Who gets the answer.
    pub session: SessionAddress,
    /// Of which conversation.
    pub conversation: ConversationId,
    /// From where, and in which direction.
    pub from: HistoryFrom,
    /// At most so many messages.
    pub limit: u32,
}

/// Where a history begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryFrom {
    /// The last ones.
    End,
    /// The last ones before this.
    Before(Seq),
    /// The first ones after this.
    After(Seq),
}

/// A message to be sent.
#[derive(Debug)]
pub struct SendMessage {
    /// Who sends.
    pub sender: UserId,
    /// From which installation.
    pub device: DeviceId,
    /// The device's name, as the entry will show it.
    pub device_name: SmallVec<[u8; 24]>,
    /// Who gets the answer.
    pub session: SessionAddress,
    /// Where to.
    pub conversation: ConversationId,
    /// The device's name for it.
    pub client_id: ClientId,
    /// What is to happen.
    pub act: Act,
}

/// Positions of a source database's fan-out log for one target database, one after the other; `worker` has the protocol.
#[derive(Debug)]
pub struct FanOut {
    /// The database whose log it is.
    pub source: u16,
    /// The last position that this is about.
    pub position: u64,
    /// The position before the first one: the target applies this only when that is the last one it has applied.
    pub previous: u64,
    /// For whom, and what.
    pub entries: Vec<(Users, Arrival)>,
}

/// What arrives in inboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// A message: its stored value (checksum and `holdfast.v1.Entry`), so that the target stores the very same bytes.
    Message(Bytes),
    /// The one user that it is for has read on.
    Read(OwnMark),
    /// A message that only the one user that it is for sees, whose it is: its `holdfast.v1.Entry`.
    Hidden(Bytes),
    /// Not for an inbox but for the conversation: whether the one user blocks the other one of it.
    Blocks {
        /// A direct conversation.
        conversation: ConversationId,
        /// Whether.
        blocks: bool,
    },
    /// Not for an inbox but for the user: whether the other one of the conversation blocks the one user.
    BlockedBy {
        /// A direct conversation.
        conversation: ConversationId,
        /// Whether.
        blocks: bool,
    },
    /// For nobody's inbox: what is before this event of a conversation is not there any more.
    Floor {
        /// Which conversation.
        conversation: ConversationId,
        /// The first event that is there.
        seq: Seq,
    },
    /// Not for an inbox but for the conversation: up to here its messages have arrived at devices of the one user.
    Delivered {
        /// Which conversation.
        conversation: ConversationId,
        /// The last message that has.
        seq: Seq,
    },
}

/// What a worker tells a shard about one of its sessions.
#[derive(Debug)]
pub enum Delivery {
    /// The session is the device's live session now.
    Registered {
        /// Which session.
        session: SessionAddress,
        /// The device's cursor, as the server knows it.
        cursor: Rev,
        /// The last `rev` of the inbox.
        head: Rev,
    },
    /// The session must not be registered.
    Refused {
        /// Which session.
        session: SessionAddress,
        /// Why.
        why: Refusal,
    },
    /// Another session of the same device has taken over, or had before this one came to be registered; close this
    /// one.
    Replaced {
        /// Which session.
        session: SessionAddress,
    },
    /// The device has been shut out; close this one.
    Revoked {
        /// Which session.
        session: SessionAddress,
    },
    /// The answer to `Devices` and to `Revoke`.
    Devices(Box<DeviceList>),
    /// The answer to `People`; and what `ChangePeople` has changed, for all sessions of the user.
    People(Box<PeopleList>),
    /// The answer to the session's `MayWatch`.
    MayWatch {
        /// For which session.
        session: SessionAddress,
        /// Who is watched.
        user: UserId,
        /// Whether the session's user may see the presence of that one.
        may: bool,
    },
    /// The message is durable.
    Accepted {
        /// Who sent it.
        session: SessionAddress,
        /// The device's name for it.
        client_id: ClientId,
        /// Its id.
        message_id: MessageId,
        /// Its position in the conversation.
        seq: Seq,
        /// The group that it has made.
        group: Option<GroupId>,
    },
    /// The request was refused.
    Rejected {
        /// Whose request.
        session: SessionAddress,
        /// The refused send, if it was one.
        client_id: Option<ClientId>,
        /// Why.
        why: Refusal,
    },
    /// One inbox entry for a session that is live: its `rev` follows the one before without a hole.
    Event {
        /// For which session.
        session: SessionAddress,
        /// Its position in the inbox.
        rev: Rev,
        /// A protobuf-encoded `holdfast.v1.Entry`, shared by all receivers.
        entry: Bytes,
    },
    /// The answer to `Sync`.
    Page {
        /// For which session.
        session: SessionAddress,
        /// Entries in the order of their `rev`.
        entries: Vec<(Rev, Bytes)>,
        /// The last `rev` of the inbox when the page was read.
        head: Rev,
        /// True when `Event`s follow from here.
        live: bool,
    },
    /// The answer to `Sync` for somebody who is far behind: a part of a snapshot. The next `Sync` goes on with it, the
    /// one after its end goes on from its `rev`.
    Snapshot(Box<ConversationList>),
    /// The answer to `Conversations`.
    Conversations(Box<ConversationList>),
    /// The answer to `Group`.
    Group(Box<GroupView>),
    /// The other answer to `Sync`: there is no page, and the session is not live until another `Sync`.
    NoPage {
        /// For which session.
        session: SessionAddress,
        /// Why.
        why: Refusal,
    },
    /// The answer to `History`.
    History(Box<History>),
    /// The answer to `Read` and to `Receipts`.
    Receipts(Box<Receipts>),
    /// Something that may be lost on the way: it has been offered, and there was room.
    Note {
        /// For which session.
        session: SessionAddress,
        /// What.
        note: Note,
    },
    /// Who has come or gone: for the shard, whose sessions may watch some of them. It may be late, and what is missing is
    /// named by `PresenceMissed`.
    Presence(Arc<[UserPresence]>),
    /// The shard has missed changes of presence: it has to ask again for whomever its sessions watch.
    PresenceMissed,
    /// Entries that were not delivered because the lane was full; the session is not live until it syncs.
    Gap {
        /// For which session.
        session: SessionAddress,
        /// The first that was not sent.
        from: Rev,
        /// The last `rev` of the inbox.
        to: Rev,
    },
}

impl Delivery {
    /// The session that it is for; `None`: the shard itself.
    #[must_use]
    pub const fn session(&self) -> Option<SessionAddress> {
        Some(match self {
            Self::Presence(_) | Self::PresenceMissed => return None,
            Self::Registered { session, .. }
            | Self::Refused { session, .. }
            | Self::Replaced { session }
            | Self::Revoked { session }
            | Self::Accepted { session, .. }
            | Self::Rejected { session, .. }
            | Self::Event { session, .. }
            | Self::Page { session, .. }
            | Self::NoPage { session, .. }
            | Self::Note { session, .. }
            | Self::MayWatch { session, .. }
            | Self::Gap { session, .. } => *session,
            Self::Snapshot(list) | Self::Conversations(list) => list.session,
            Self::Devices(list) => list.session,
            Self::People(list) => list.session,
            Self::Group(group) => group.session,
            Self::History(history) => history.session,
            Self::Receipts(receipts) => receipts.session,
        })
    }
}

// Lanes are rings of these, made when the process starts.
const _: () = assert!(size_of::<Delivery>() <= 88);

/// A part of a conversation.
#[derive(Debug)]
pub struct History {
    /// For which session.
    pub session: SessionAddress,
    /// Of which conversation.
    pub conversation: ConversationId,
    /// In the order of their `seq`, as they are now: protobuf-encoded `holdfast.v1.Entry`s.
    pub messages: Vec<Bytes>,
    /// The last `seq` of the conversation.
    pub head: Seq,
    /// Nothing that the user may see lies further in this direction.
    pub end: bool,
}

/// Conversations of a user, in the order of their ids.
#[derive(Debug, PartialEq, Eq)]
pub struct ConversationList {
    /// For which session.
    pub session: SessionAddress,
    /// Some of them.
    pub conversations: Vec<ConversationView>,
    /// The inbox entry up to which they are told.
    pub rev: Rev,
    /// There are no further ones.
    pub end: bool,
}

/// A conversation as it is for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationView {
    /// Which.
    pub conversation: ConversationId,
    /// Of the last inbox entry about it.
    pub rev: Rev,
    /// How many messages of others have come since the user has read, written, or joined.
    pub unread: u64,
    /// The user's mark; 0 for none.
    pub read: Seq,
    /// The user is not in it any more.
    pub gone: bool,
    /// How much the user may do, in a group.
    pub role: Role,
    /// What a group is called.
    pub title: String,
    /// What was last said, or in a snapshot what happened last: protobuf-encoded `holdfast.v1.Entry`s, as they are now.
    pub messages: Vec<Bytes>,
}

/// The devices of a user, in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceList {
    /// For which session.
    pub session: SessionAddress,
    /// Those that are connected, and those that have confirmed something and have not been shut out since.
    pub devices: Vec<DeviceView>,
}

/// A device of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// What people know it by.
    pub name: Box<str>,
    /// It is connected.
    pub online: bool,
    /// It is the one that asks.
    pub current: bool,
    /// When it has confirmed something last, in milliseconds since 1970, if ever.
    pub moved_ms: Option<u64>,
    /// What it has confirmed.
    pub cursor: Rev,
}

/// What others are to a user.
#[derive(Debug, PartialEq, Eq)]
pub struct PeopleList {
    /// For which session.
    pub session: SessionAddress,
    /// Who may see the user's presence.
    pub presence: Audience,
    /// In the order of their ids.
    pub people: Vec<Person>,
    /// There are no further ones.
    pub end: bool,
    /// It tells of a change.
    pub changed: bool,
    /// The session has asked for that, or for the list; else another one of the user's has, and it may be lost on the way.
    pub asked: bool,
}

/// What somebody is to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub user: UserId,
    /// One of the contacts.
    pub contact: bool,
    /// Blocked.
    pub blocked: bool,
}

/// A group as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct GroupView {
    /// For which session.
    pub session: SessionAddress,
    /// Which.
    pub conversation: ConversationId,
    /// What it is called.
    pub title: String,
    /// Whether later members see what was written before.
    pub open_history: bool,
    /// Who is in it, how much they may do, and by which event they have come; in the order of their ids.
    pub members: Vec<(UserId, Role, Seq)>,
    /// The last event of the conversation.
    pub seq: Seq,
    /// For how many days it keeps what is written in it; 0: as long as everything is kept.
    pub retention_days: u32,
}

/// How far members of a conversation have read.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipts {
    /// For which session.
    pub session: SessionAddress,
    /// In which conversation.
    pub conversation: ConversationId,
    /// In the order of the users' ids.
    pub members: Vec<Receipt>,
}

/// Why a worker refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No such conversation, or the user is not in it (the two are not told apart).
    UnknownConversation,
    /// The `clientId` is known, but so old that its answer is not kept any more.
    ClientIdExpired,
    /// More devices than `limits.devices`.
    TooManyDevices,
    /// The device has been shut out since its token was made.
    DeviceRevoked,
    /// A durable write failed; nothing was promised. The store takes no more writes.
    StorageFailed,
    /// The disk is full, or the log of what a member's database has still to apply is.
    StorageFull,
    /// The worker does not own the slice (any more): route again.
    WrongEpoch,
    /// As many questions of the session, or of all sessions, wait for their answers as may.
    Overloaded,
    /// A cursor or `after` greater than the inbox's head.
    CursorAhead,
    /// The user's role does not allow it, or the conversation is not one that it can be done to.
    NotAllowed,
    /// There is no such message that the user could edit, take back, answer or read.
    UnknownMessage,
    /// The user that it is about is not in the group.
    UnknownMember,
    /// All of them are in the group already.
    AlreadyMembers,
    /// More members than `limits.group_members`.
    TooManyMembers,
    /// More contacts, or more blocks, than `limits.contacts`.
    TooManyPeople,
    /// The user blocks the other one.
    Blocked,
}

/// How a worker reaches the sessions: one lane per shard. Never blocks.
pub trait Deliver {
    /// Puts a delivery into the lane of its session's shard.
    ///
    /// # Errors
    /// Gives it back when the lane is full.
    fn deliver(&mut self, shard: u16, delivery: Delivery) -> Result<(), Delivery>;

    /// Puts something into the lane that may as well be lost; false when it was. A lane that can be full takes it only
    /// while half of it is free, so that it keeps nothing out that must arrive.
    fn offer(&mut self, shard: u16, delivery: Delivery) -> bool {
        self.deliver(shard, delivery).is_ok()
    }

    /// Wakes the shards that something was put into the lane of.
    fn flush(&mut self);
}
