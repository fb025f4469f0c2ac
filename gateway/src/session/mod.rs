//! A session: a connection that speaks the chat protocol, from its first frame to its last, sans-IO.
//!
//! Messages and deliveries come in; frames for the peer are appended to a buffer, and at most one command for a
//! worker comes out of each call. A session knows no socket, no clock and no thread, so the same code runs under
//! the shard on a real network and on a simulated one.
//!
//! ```text
//!              hello / token            Registered            page reaches the head
//! AwaitHello ───────────────▶ Registering ─────────▶ Paging ─────────────────────▶ Live
//!                                                      ▲                             │ no room, or worker says Gap
//!                                                      └────────── sync ─── Gapped ◀─┘
//! ```
//!
//! Invariant: the `rev`s written to a peer between two `gap`s or `sync`s rise by exactly one.

mod device;
mod devices;
mod lists;
mod people;
mod presence;
mod rate;
mod requests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::chat::close::{self, ChatClose};
use holdfast_protocol::chat::{self, Format, client_frame, error_code, server_frame};
use holdfast_protocol::id::{ConversationId, DeviceId, Rev, Seq, UserId};
use holdfast_protocol::ws::{self, CloseCode, Opcode};
use holdfast_reactor::Moment;
use holdfast_router::Key;
use holdfast_storage::command::{
    ClientId, Command, Delivery, GroupRequest, History, Note, ReadMark, Receipt, Receipts, ReceiptsRequest,
    Refusal, Register, SendMessage, SessionAddress, Typing,
};
use prost::Message as _;
use smallvec::SmallVec;

pub use device::{Device, Devices};
pub use rate::{Rate, Spent};

use crate::metrics::ShardCounters;
use crate::planted;
use crate::token::{Claims, TokenError};

/// What every session of a gateway keeps to; from the configuration.
#[derive(Debug, Clone)]
pub struct SessionRules {
    /// How often a client must be heard from.
    pub heartbeat: Duration,
    /// Sends per session.
    pub send: Rate,
    /// Sends per second as `welcome` tells it.
    pub send_per_second: u32,
    /// Pings, pongs and requests that are not sends.
    pub control: Rate,
    /// Bytes of a message's body.
    pub body_bytes: u32,
    /// Bytes that may wait for a slow peer before it gets a `gap`.
    pub output_bytes: usize,
    /// Entries of one page.
    pub page_entries: u32,
    /// Members of a group.
    pub group_members: u32,
    /// Messages of one answer to `history`.
    pub history_messages: u32,
    /// Users whose presence one session watches.
    pub watched_users: u32,
}

/// What a session is told with each call, and where it writes.
#[derive(Debug)]
pub struct Context<'a> {
    /// The driver's clock.
    pub now: Moment,
    /// The wall clock in milliseconds since 1970, for tokens and for `serverTimeMs`.
    pub wall_ms: u64,
    /// What the session keeps to.
    pub rules: &'a SessionRules,
    /// Checks tokens.
    pub tokens: &'a dyn VerifyToken,
    /// When the connection was accepted; see [`Register::accepted_tick`].
    pub accepted_tick: u32,
    /// Where what happens is counted.
    pub counters: &'a ShardCounters,
    /// Bytes that wait for the peer already, those in `out` included.
    pub unsent_bytes: usize,
    /// Where frames are appended.
    pub out: &'a mut Vec<u8>,
    /// Reused for encoding.
    pub scratch: &'a mut Vec<u8>,
}

/// Checks a token: the seam between sessions and keys.
pub trait VerifyToken: std::fmt::Debug {
    /// Says whom the token names.
    ///
    /// # Errors
    /// When it is malformed, forged, expired or not valid yet.
    fn verify(&self, token: &str, now_seconds: u64) -> Result<Claims, TokenError>;
}

impl VerifyToken for crate::token::TokenKey {
    fn verify(&self, token: &str, now_seconds: u64) -> Result<Claims, TokenError> {
        Self::verify(self, token, now_seconds)
    }
}

/// What the owner must do after a call.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing.
    Nothing,
    /// Hand this to the worker that owns the key.
    Submit(Key, Command),
    /// From now on the session watches these users, sorted and each once; then [`Session::write_presence`] what is known
    /// of them.
    Watch(Vec<UserId>),
    /// Close the connection with this code and reason; the close frame is not written yet.
    Close(CloseCode, &'static str),
}

impl From<ChatClose> for Outcome {
    fn from(close: ChatClose) -> Self {
        Self::Close(CloseCode(close.code), close.reason)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitHello,
    Registering,
    Paging,
    Live,
    Gapped,
}

/// One session; see the module's doc. Its size is part of the memory budget.
#[derive(Debug)]
pub struct Session {
    user: UserId,
    /// `None` until a token has said so.
    device: Option<Rc<Device>>,
    /// The last `rev` written to the peer, or where its sync began.
    last_rev: Rev,
    /// The last `rev` that is known to exist.
    head: Rev,
    sends: Spent,
    controls: Spent,
    /// When the token ends, in seconds since 1970.
    expires_s: u32,
    page_entries: u16,
    /// A `Sync` is on its way to the worker; there is never a second one.
    page_awaited: bool,
    /// The peer has asked for another page meanwhile: the awaited one is not what it wants any more.
    page_overtaken: bool,
    /// The peer wants pages, however many, and no snapshot.
    every_entry: bool,
    /// A snapshot has begun, and its next part is what is to be asked for.
    in_snapshot: bool,
    format: Format,
    state: State,
    /// A page, or the `gap` frame, waits until the output has drained.
    waits_for_room: bool,
}

/// Of a member in a `receipts` frame, at most, as JSON.
const RECEIPT_BYTES: usize = 98;

// The budget is 300 bytes for all of a logged-in connection's user space.
const _: () = assert!(size_of::<Session>() <= 64);

impl Session {
    /// A session of a connection whose handshake did not say who is there.
    #[must_use]
    pub fn anonymous(format: Format) -> Self {
        Self {
            user: UserId(0),
            device: None,
            last_rev: Rev(0),
            head: Rev(0),
            sends: Spent::default(),
            controls: Spent::default(),
            expires_s: 0,
            page_entries: 0,
            page_awaited: false,
            page_overtaken: false,
            every_entry: false,
            in_snapshot: false,
            format,
            state: State::AwaitHello,
            waits_for_room: false,
        }
    }

    /// Whose session this is; `None` until a token has said so.
    #[must_use]
    pub fn identity(&self) -> Option<(UserId, DeviceId)> {
        self.device.as_ref().map(|device| (self.user, device.id))
    }

    /// The device; `None` until a token has said so.
    #[must_use]
    pub fn device(&self) -> Option<&Rc<Device>> {
        self.device.as_ref()
    }

    /// True once the worker has registered it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        matches!(self.state, State::Paging | State::Live | State::Gapped)
    }

    /// True when [`Self::handle_drained`] must be called once the output has gone out.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    /// When the token ends, in seconds since 1970; `None` before there is one.
    #[must_use]
    pub fn expires_seconds(&self) -> Option<u64> {
        (self.state != State::AwaitHello).then_some(u64::from(self.expires_s))
    }

    /// Takes a verified identity and asks the user's worker to register the session.
    pub fn log_in(
        &mut self,
        claims: &Claims,
        device: Rc<Device>,
        session: SessionAddress,
        accepted_tick: u32,
        cursor: Option<Rev>,
    ) -> Outcome {
        self.user = claims.user;
        self.expires_s = u32::try_from(claims.expires_at).unwrap_or(u32::MAX);
        self.state = State::Registering;
        let request = Register {
            user: self.user,
            device: device.id,
            device_name: Arc::clone(&device.name),
            issued_at: claims.issued_at,
            session,
            accepted_tick,
            cursor,
        };
        self.device = Some(device);
        Outcome::Submit(Key::User(self.user), Command::Register(request))
    }

    /// What the worker must be told when the connection is gone.
    #[must_use]
    pub fn farewell(&self, session: SessionAddress) -> Option<(Key, Command)> {
        let (user, device) = self.identity()?;
        Some((Key::User(user), Command::Unregister { user, device, session }))
    }

    /// Takes one whole WebSocket message from the peer.
    pub fn handle_message(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        session: SessionAddress,
        devices: &mut Devices,
        context: &mut Context<'_>,
    ) -> Outcome {
        let expected = match self.format {
            Format::Json => Opcode::Text,
            Format::Protobuf => Opcode::Binary,
        };
        if opcode != expected {
            let reason = match self.format {
                Format::Json => "this subprotocol has text messages only",
                Format::Protobuf => "this subprotocol has binary messages only",
            };
            return Outcome::Close(CloseCode::UNSUPPORTED_DATA, reason);
        }
        let frame = match chat::decode_client(self.format, payload) {
            Ok(frame) => frame,
            Err(error) => {
                if self.controls.take(context.rules.control, context.now).is_err() {
                    return close::RATE.into();
                }
                self.write_error(context, error.code(), &error.to_string(), 0, "");
                return if self.is_registered() { Outcome::Nothing } else { close::PROTOCOL.into() };
            }
        };
        let Some(frame) = frame.frame else { return Outcome::Nothing };
        match (self.state, frame) {
            (State::AwaitHello, client_frame::Frame::Hello(hello)) => {
                self.handle_hello(hello, session, devices, context)
            }
            (State::AwaitHello, _) => {
                let text = "the first frame must be `hello` with a token, since the handshake carried none";
                self.write_error(context, error_code::NOT_LOGGED_IN, text, 0, "");
                close::UNAUTHORIZED.into()
            }
            (_, client_frame::Frame::Hello(_)) => {
                let text =
                    "this connection has said hello already; open another one for another user or device";
                self.write_error(context, error_code::ALREADY_LOGGED_IN, text, 0, "");
                close::PROTOCOL.into()
            }
            (_, client_frame::Frame::History(request)) => self.limited(context, |this, context| {
                match requests::history(request, this.user, session, context.rules) {
                    Ok(request) => {
                        Outcome::Submit(Key::Conversation(request.conversation), Command::History(request))
                    }
                    Err(wrong) => {
                        this.write_error(context, wrong.code, &wrong.message, 0, "");
                        Outcome::Nothing
                    }
                }
            }),
            (_, client_frame::Frame::Typing(typing)) => self.handle_typing(&typing, session, context),
            (_, client_frame::Frame::Read(read)) => self.limited(context, |this, context| {
                this.in_conversation(&read.conversation, context, |user, conversation| {
                    let mark = ReadMark { user, conversation, up_to: Seq(read.up_to) };
                    Command::Read { mark, session }
                })
            }),
            (_, client_frame::Frame::Receipts(request)) => self.limited(context, |this, context| {
                this.in_conversation(&request.conversation, context, |user, conversation| {
                    Command::Receipts(ReceiptsRequest { user, session, conversation })
                })
            }),
            (_, client_frame::Frame::Conversations(request)) => {
                self.limited(context, |this, context| this.ask_for_conversations(&request, session, context))
            }
            (_, client_frame::Frame::Group(request)) => self.limited(context, |this, context| {
                this.in_conversation(&request.conversation, context, |user, conversation| {
                    Command::Group(GroupRequest { user, session, conversation })
                })
            }),
            (_, client_frame::Frame::WatchPresence(watch)) => {
                self.limited(context, |this, context| this.watch_presence(&watch, context))
            }
            (_, client_frame::Frame::SetAway(set)) => self.limited(context, |this, _| {
                let away = Command::Away { user: this.user, session, away: set.away };
                Outcome::Submit(Key::User(this.user), away)
            }),
            (_, client_frame::Frame::Devices(_)) => {
                self.limited(context, |this, _| this.ask_for_devices(session))
            }
            (
                _,
                frame @ (client_frame::Frame::Block(_)
                | client_frame::Frame::Unblock(_)
                | client_frame::Frame::SetContact(_)
                | client_frame::Frame::SetPrivacy(_)
                | client_frame::Frame::People(_)),
            ) => self.limited(context, |this, context| this.handle_people_frame(&frame, session, context)),
            (_, client_frame::Frame::RevokeDevice(revoke)) => {
                self.limited(context, |this, context| this.revoke_device(&revoke, session, context))
            }
            (_, client_frame::Frame::Ack(ack)) => self.limited(context, |this, _| {
                let Some((user, device)) = this.identity() else { return Outcome::Nothing };
                Outcome::Submit(Key::User(user), Command::Ack { user, device, session, rev: Rev(ack.rev) })
            }),
            (_, client_frame::Frame::Sync(sync)) => self.limited(context, |this, context| {
                let limit = match chat::check_page_limit(sync.limit, context.rules.page_entries) {
                    Ok(limit) => limit,
                    Err(error) => {
                        this.write_error(context, error.code(), &error.to_string(), 0, "");
                        return Outcome::Nothing;
                    }
                };
                this.page_entries = u16::try_from(limit).unwrap_or(u16::MAX);
                this.last_rev = Rev(sync.after);
                this.every_entry = sync.every_entry;
                this.in_snapshot = false;
                this.next_page(session)
            }),
            (_, client_frame::Frame::Ping(ping)) => self.limited(context, |this, context| {
                let pong = chat::Pong { nonce: ping.nonce };
                this.write(context, server_frame::Frame::Pong(pong));
                Outcome::Nothing
            }),
            (_, frame) => self.handle_request(frame, session, context),
        }
    }

    fn handle_hello(
        &mut self,
        hello: chat::Hello,
        session: SessionAddress,
        devices: &mut Devices,
        context: &mut Context<'_>,
    ) -> Outcome {
        let claims = match context.tokens.verify(&hello.token, context.wall_ms / 1000) {
            Ok(claims) => claims,
            Err(error) => {
                let (code, close) = match error {
                    TokenError::Expired { .. } => (error_code::TOKEN_EXPIRED, close::TOKEN_EXPIRED),
                    _ => (error_code::UNAUTHORIZED, close::UNAUTHORIZED),
                };
                self.write_error(context, code, &error.to_string(), 0, "");
                return close.into();
            }
        };
        let name = match claims.device.as_deref() {
            Some(name) if !hello.device.is_empty() && hello.device != name => {
                let text =
                    format!("the token names the device {name:?}; leave `device` out, or say the same");
                self.write_error(context, error_code::BAD_DEVICE, &text, 0, "");
                return close::UNAUTHORIZED.into();
            }
            Some(name) => name,
            None => hello.device.as_str(),
        };
        if let Err(error) = chat::check_device(name) {
            self.write_error(context, error.code(), &error.to_string(), 0, "");
            return close::UNAUTHORIZED.into();
        }
        self.every_entry = hello.every_entry;
        self.log_in(&claims, devices.share(name), session, context.accepted_tick, hello.cursor.map(Rev))
    }

    /// What changes a conversation: a message, or something about one, or about who is there.
    fn handle_request(
        &mut self,
        frame: client_frame::Frame,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        let client_id = ClientId::from_slice(requests::client_id(&frame).as_bytes());
        if let Err(wait) = self.sends.take(context.rules.send, context.now) {
            let text = format!(
                "more than {} sends per second with a burst of {}",
                context.rules.send_per_second, context.rules.send.burst
            );
            context.counters.rate_limited.add(1);
            let client_id = String::from_utf8_lossy(&client_id);
            self.write_error(context, error_code::RATE_LIMITED, &text, wait_ms(wait), &client_id);
            return Outcome::Nothing;
        }
        let Some(device) = self.device.clone() else { return Outcome::Nothing };
        let (conversation, act) = match requests::act(frame, self.user, device.id, context.rules) {
            Ok(act) => act,
            Err(wrong) => {
                let client_id = String::from_utf8_lossy(&client_id);
                self.write_error(context, wrong.code, &wrong.message, 0, &client_id);
                return Outcome::Nothing;
            }
        };
        let message = SendMessage {
            sender: self.user,
            device: device.id,
            device_name: SmallVec::from_slice(device.name.as_bytes()),
            session,
            conversation,
            client_id,
            act,
        };
        Outcome::Submit(Key::Conversation(conversation), Command::Send(Box::new(message)))
    }

    /// Somebody is writing: as cheap to leave out as to say, so what comes too fast is not even refused.
    fn handle_typing(
        &mut self,
        typing: &chat::Typing,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        if self.sends.take(context.rules.send, context.now).is_err() {
            context.counters.dropped.add(1);
            return Outcome::Nothing;
        }
        self.in_conversation(&typing.conversation, context, |user, conversation| Command::Typing {
            typing: Typing { user, conversation, stopped: typing.stopped },
            session,
        })
    }

    /// A command for the worker of a conversation, whose name must be one.
    fn in_conversation(
        &mut self,
        name: &str,
        context: &mut Context<'_>,
        command: impl FnOnce(UserId, ConversationId) -> Command,
    ) -> Outcome {
        match chat::parse_conversation(name, self.user) {
            Ok(conversation) => {
                Outcome::Submit(Key::Conversation(conversation), command(self.user, conversation))
            }
            Err(error) => {
                self.write_error(context, error.code(), &error.to_string(), 0, "");
                Outcome::Nothing
            }
        }
    }

    /// What may be lost is lost here when the peer does not read fast enough: who is writing first, then who has got or read what;
    /// half of the room is for what must arrive.
    fn handle_note(&mut self, note: Note, context: &mut Context<'_>) {
        let room = match note {
            Note::Typing(_) => context.rules.output_bytes / 4,
            Note::Receipt(..) => context.rules.output_bytes / 2,
        };
        if self.state != State::Live || context.unsent_bytes > room {
            context.counters.dropped.add(1);
            return;
        }
        match note {
            Note::Typing(Typing { user, conversation, stopped }) => {
                let conversation = conversation.to_string();
                let typing = chat::UserTyping { conversation, user: user.0, stopped };
                self.write(context, server_frame::Frame::Typing(typing));
            }
            Note::Receipt(conversation, receipt) => {
                self.write_receipts(conversation, &[receipt], context);
            }
        }
    }

    fn write_receipts(
        &mut self,
        conversation: ConversationId,
        members: &[Receipt],
        context: &mut Context<'_>,
    ) {
        let member = |&Receipt { user, read, delivered }: &Receipt| chat::MemberReceipt {
            user: user.0,
            read: read.0,
            delivered: delivered.0,
        };
        let members = members.iter().map(member).collect();
        let conversation = conversation.to_string();
        self.write(context, server_frame::Frame::Receipts(chat::Receipts { conversation, members }));
    }

    /// Whether an answer of this size may be written; else the peer is told to read first.
    fn has_room(&mut self, bytes: usize, context: &mut Context<'_>) -> bool {
        let has_room = context.unsent_bytes + bytes <= context.rules.output_bytes;
        if !has_room {
            let text = "more is waiting for this connection than limits.output leaves room for";
            self.write_error(context, error_code::OVERLOADED, text, 1_000, "");
        }
        has_room
    }

    /// Requests that cost the server more than they cost the client count as control frames.
    fn limited(
        &mut self,
        context: &mut Context<'_>,
        act: impl FnOnce(&mut Self, &mut Context<'_>) -> Outcome,
    ) -> Outcome {
        match self.controls.take(context.rules.control, context.now) {
            Ok(()) => act(self, context),
            Err(wait) => {
                let text = "more requests than limits.control_frames allows";
                context.counters.rate_limited.add(1);
                self.write_error(context, error_code::RATE_LIMITED, text, wait_ms(wait), "");
                Outcome::Nothing
            }
        }
    }

    /// Counts a WebSocket ping or pong of the peer.
    pub fn handle_control(&mut self, context: &Context<'_>) -> Outcome {
        match self.controls.take(context.rules.control, context.now) {
            Ok(()) => Outcome::Nothing,
            Err(_) => close::RATE.into(),
        }
    }

    /// Takes what a worker says about this session. `entry_json` turns an entry into its JSON, once for all receivers.
    pub fn handle_delivery(
        &mut self,
        delivery: Delivery,
        session: SessionAddress,
        entry_json: &mut EntryJson,
        context: &mut Context<'_>,
    ) -> Outcome {
        match delivery {
            Delivery::Registered { cursor, head, .. } => {
                self.handle_registered(cursor, head, session, context)
            }
            Delivery::Refused { why, .. } => {
                let (code, text) = explain(why);
                self.write_error(context, code, text, 0, "");
                match why {
                    Refusal::TooManyDevices => close::TOO_MANY_DEVICES,
                    Refusal::DeviceRevoked => close::REVOKED,
                    Refusal::CursorAhead => close::PROTOCOL,
                    Refusal::StorageFailed | Refusal::StorageFull => close::STORAGE,
                    _ => close::OVERLOADED,
                }
                .into()
            }
            Delivery::Replaced { .. } if planted::REPLACED_GOES_ON.is_planted() => Outcome::Nothing,
            Delivery::Replaced { .. } => close::REPLACED.into(),
            Delivery::Revoked { .. } => close::REVOKED.into(),
            Delivery::Devices(list) => {
                self.handle_devices(*list, context);
                Outcome::Nothing
            }
            Delivery::People(list) => {
                self.handle_people(*list, context);
                Outcome::Nothing
            }
            Delivery::Accepted { client_id, message_id, seq, group, .. } => {
                let client_id = String::from_utf8_lossy(&client_id).into_owned();
                let conversation = group.map(|group| ConversationId::group(group).to_string());
                let accepted =
                    chat::Accepted { client_id, message_id: message_id.0, seq: seq.0, conversation };
                if planted::ANSWERED_TWICE.is_planted() {
                    self.write(context, server_frame::Frame::Accepted(accepted.clone()));
                }
                self.write(context, server_frame::Frame::Accepted(accepted));
                Outcome::Nothing
            }
            Delivery::Rejected { client_id, why, .. } => {
                let (code, text) = explain(why);
                let client_id = client_id.unwrap_or_default();
                let retry_after_ms = if why == Refusal::Overloaded { 1_000 } else { 0 };
                self.write_error(context, code, text, retry_after_ms, &String::from_utf8_lossy(&client_id));
                Outcome::Nothing
            }
            Delivery::Event { rev, entry, .. } => {
                self.handle_event(rev, &entry, entry_json, context);
                Outcome::Nothing
            }
            Delivery::Page { entries, head, live, .. } => {
                self.handle_page(&entries, head, live, session, entry_json, context)
            }
            Delivery::Snapshot(list) => self.handle_snapshot(*list, session, context),
            Delivery::Conversations(list) => {
                self.handle_conversations(*list, context);
                Outcome::Nothing
            }
            Delivery::Group(group) => {
                self.handle_group(*group, context);
                Outcome::Nothing
            }
            Delivery::History(history) => {
                let History { conversation, messages, head, end, .. } = *history;
                let bytes: usize = messages.iter().map(bytes::Bytes::len).sum();
                if !self.has_room(bytes, context) {
                    return Outcome::Nothing;
                }
                let messages = messages.iter().filter_map(message_of).collect();
                let conversation = conversation.to_string();
                let history = chat::History { conversation, messages, head: head.0, end };
                self.write(context, server_frame::Frame::History(history));
                Outcome::Nothing
            }
            Delivery::Receipts(receipts) => {
                let Receipts { conversation, members, .. } = *receipts;
                if self.has_room(RECEIPT_BYTES * members.len(), context) {
                    self.write_receipts(conversation, &members, context);
                }
                Outcome::Nothing
            }
            Delivery::Note { note, .. } => {
                self.handle_note(note, context);
                Outcome::Nothing
            }
            // The shard's; it finds out whom it concerns.
            Delivery::Presence(_) | Delivery::PresenceMissed | Delivery::MayWatch { .. } => Outcome::Nothing,
            Delivery::NoPage { why, .. } => {
                self.page_awaited = false;
                if std::mem::take(&mut self.page_overtaken) {
                    return self.next_page(session);
                }
                self.state = State::Gapped;
                let (code, text) = explain(why);
                self.write_error(context, code, text, 0, "");
                Outcome::Nothing
            }
            Delivery::Gap { from, to, .. } => {
                if self.state == State::Live {
                    debug_assert_eq!(
                        from.0,
                        self.last_rev.0 + 1,
                        "the worker skips nothing but what it names"
                    );
                    self.head = to;
                    self.begin_gap(context);
                }
                Outcome::Nothing
            }
        }
    }

    fn handle_registered(
        &mut self,
        cursor: Rev,
        head: Rev,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        if self.state != State::Registering {
            return Outcome::Nothing;
        }
        self.last_rev = cursor;
        self.head = head;
        self.page_entries = u16::try_from(context.rules.page_entries).unwrap_or(u16::MAX);
        let welcome = chat::Welcome {
            session: session.connection,
            user: self.user.0,
            device: self.device.as_ref().map(|device| device.name.to_string()).unwrap_or_default(),
            heartbeat_ms: u32::try_from(context.rules.heartbeat.as_millis()).unwrap_or(u32::MAX),
            cursor: cursor.0,
            head: head.0,
            limits: Some(chat::Limits {
                message_bytes: context.rules.body_bytes,
                page_entries: context.rules.page_entries,
                send_per_second: context.rules.send_per_second,
                send_burst: context.rules.send.burst,
            }),
            server_time_ms: context.wall_ms,
        };
        self.write(context, server_frame::Frame::Welcome(welcome));
        if cursor == head {
            self.state = State::Live;
            return Outcome::Nothing;
        }
        self.next_page(session)
    }

    fn handle_event(
        &mut self,
        rev: Rev,
        entry: &bytes::Bytes,
        json: &mut EntryJson,
        context: &mut Context<'_>,
    ) {
        self.head = self.head.max(rev);
        // While a page is awaited, everything up to its head comes with it.
        if self.state != State::Live || rev <= self.last_rev {
            return;
        }
        let entry_in_format = match self.format {
            Format::Protobuf => entry.as_ref(),
            Format::Json => json.of(entry),
        };
        let payload_bytes = chat::event_bytes(self.format, rev, entry_in_format.len());
        if rev.0 != self.last_rev.0 + 1 || context.unsent_bytes + payload_bytes > context.rules.output_bytes {
            if planted::CURSOR_AHEAD_OF_DELIVERY.is_planted() {
                self.last_rev = rev;
                return;
            }
            self.begin_gap(context);
            return;
        }
        ws::encode_header(context.out, true, self.opcode(), payload_bytes as u64, None);
        chat::write_event(self.format, rev, entry_in_format, context.out);
        context.counters.frames_sent.add(1);
        self.last_rev = rev;
    }

    fn handle_page(
        &mut self,
        entries: &[(Rev, bytes::Bytes)],
        head: Rev,
        live: bool,
        session: SessionAddress,
        json: &mut EntryJson,
        context: &mut Context<'_>,
    ) -> Outcome {
        self.page_awaited = false;
        if std::mem::take(&mut self.page_overtaken) && !planted::PAGE_OF_OLDER_SYNC.is_planted() {
            return self.next_page(session);
        }
        if self.state != State::Paging {
            return Outcome::Nothing;
        }
        self.head = self.head.max(head);
        context.scratch.clear();
        match self.format {
            Format::Protobuf => {
                let entries = entries.iter().map(|(rev, entry)| (*rev, entry.as_ref()));
                chat::write_page(self.format, entries, head, live, context.scratch);
            }
            Format::Json => {
                let texts: Vec<(Rev, Vec<u8>)> =
                    entries.iter().map(|(rev, entry)| (*rev, json.of(entry).to_vec())).collect();
                let entries = texts.iter().map(|(rev, text)| (*rev, text.as_slice()));
                chat::write_page(self.format, entries, head, live, context.scratch);
            }
        }
        ws::encode_frame(context.out, self.opcode(), context.scratch, None);
        context.counters.frames_sent.add(1);
        if let Some((rev, _)) = entries.last() {
            self.last_rev = *rev;
        }
        if live {
            self.state = State::Live;
            return Outcome::Nothing;
        }
        self.next_page_when_there_is_room(session, context)
    }

    /// What was written last is in `context.scratch`.
    fn next_page_when_there_is_room(
        &mut self,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        if context.unsent_bytes + context.scratch.len() > context.rules.output_bytes / 2 {
            self.waits_for_room = true;
            return Outcome::Nothing;
        }
        self.next_page(session)
    }

    /// The output has drained: what waited for room goes on.
    pub fn handle_drained(&mut self, session: SessionAddress, context: &mut Context<'_>) -> Outcome {
        if !std::mem::take(&mut self.waits_for_room) {
            return Outcome::Nothing;
        }
        match self.state {
            State::Gapped => {
                self.write_gap(context);
                Outcome::Nothing
            }
            State::Paging => self.next_page(session),
            _ => Outcome::Nothing,
        }
    }

    /// Tells the peer when to come back.
    pub fn write_drain(&mut self, after_ms: u32, context: &mut Context<'_>) {
        if self.is_registered() {
            let drain = chat::Drain { after_ms, to: String::new() };
            self.write(context, server_frame::Frame::Drain(drain));
        }
    }

    fn next_page(&mut self, session: SessionAddress) -> Outcome {
        self.state = State::Paging;
        self.waits_for_room = false;
        if self.page_awaited {
            self.page_overtaken = true;
            return Outcome::Nothing;
        }
        self.page_awaited = true;
        let command = Command::Sync {
            user: self.user,
            session,
            after: self.last_rev,
            limit: u32::from(self.page_entries.max(1)),
            every_entry: self.every_entry,
            goes_on: self.in_snapshot,
        };
        Outcome::Submit(Key::User(self.user), command)
    }

    fn begin_gap(&mut self, context: &mut Context<'_>) {
        self.state = State::Gapped;
        context.counters.gaps.add(1);
        if context.unsent_bytes == 0 {
            self.write_gap(context);
        } else {
            self.waits_for_room = !planted::GAP_UNTOLD.is_planted();
        }
    }

    fn write_gap(&mut self, context: &mut Context<'_>) {
        let gap = chat::Gap {
            from: self.last_rev.0 + 1,
            to: self.head.0.max(self.last_rev.0 + 1),
            why: "more was waiting for this connection than limits.output; sync from `from` - 1".to_owned(),
        };
        self.write(context, server_frame::Frame::Gap(gap));
    }

    /// Says why something was refused.
    pub fn write_error(
        &mut self,
        context: &mut Context<'_>,
        code: &'static str,
        message: &str,
        retry_after_ms: u32,
        client_id: &str,
    ) {
        context.counters.errors.add(code, 1);
        let error = chat::Error {
            code: code.to_owned(),
            message: message.to_owned(),
            retry_after_ms,
            client_id: client_id.to_owned(),
        };
        self.write(context, server_frame::Frame::Error(error));
    }

    fn write(&self, context: &mut Context<'_>, frame: server_frame::Frame) {
        context.scratch.clear();
        let frame = chat::ServerFrame { frame: Some(frame) };
        chat::encode_server(self.format, &frame, context.scratch);
        ws::encode_frame(context.out, self.opcode(), context.scratch, None);
        context.counters.frames_sent.add(1);
    }

    fn opcode(&self) -> Opcode {
        match self.format {
            Format::Json => Opcode::Text,
            Format::Protobuf => Opcode::Binary,
        }
    }
}

/// The JSON of the entry that was asked for last: consecutive receivers of one message share it.
#[derive(Debug, Default)]
pub struct EntryJson {
    entry: bytes::Bytes,
    json: Vec<u8>,
}

impl EntryJson {
    /// The entry as JSON.
    ///
    /// # Panics
    /// Never for what a worker delivers: entries are made by [`chat`] and checksummed on disk.
    pub fn of(&mut self, entry: &bytes::Bytes) -> &[u8] {
        // The same allocation means the same entry: entries are immutable and this one is kept alive here.
        let same = self.entry.as_ptr() == entry.as_ptr() && self.entry.len() == entry.len();
        if !same || self.json.is_empty() {
            self.json.clear();
            chat::entry_json(entry, &mut self.json)
                .expect("entries are encoded by this server and checksummed");
            self.entry = entry.clone();
        }
        &self.json
    }
}

/// The message in an entry.
fn message_of(entry: &bytes::Bytes) -> Option<chat::Message> {
    match chat::Entry::decode(entry.clone()).ok()?.kind? {
        chat::entry::Kind::Message(message) => Some(message),
        chat::entry::Kind::Read(_) => None,
    }
}

/// A wait in whole milliseconds, at least one: 0 would mean that there is none.
fn wait_ms(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// A refusal in the words of the protocol.
fn explain(why: Refusal) -> (&'static str, &'static str) {
    match why {
        Refusal::UnknownConversation => {
            (error_code::UNKNOWN_CONVERSATION, "there is no such conversation, or you are not in it")
        }
        Refusal::ClientIdExpired => (
            error_code::CLIENT_ID_EXPIRED,
            "this clientId is older than 7 days; whether it was sent is not known any more",
        ),
        Refusal::TooManyDevices => {
            (error_code::TOO_MANY_DEVICES, "the user has as many devices as limits.devices allows")
        }
        Refusal::DeviceRevoked => (
            error_code::DEVICE_REVOKED,
            "the user has shut this device out since the token was made; sign in anew",
        ),
        Refusal::StorageFailed => {
            (error_code::STORAGE_FAILED, "the message could not be made durable; nothing was stored")
        }
        Refusal::StorageFull => (error_code::STORAGE_FULL, "the server's disk is full; nothing was stored"),
        Refusal::WrongEpoch => {
            (error_code::OVERLOADED, "the conversation is moving to another worker; send it again")
        }
        Refusal::Overloaded => (
            error_code::OVERLOADED,
            "too many questions wait for their answers; wait for some, then ask again",
        ),
        Refusal::CursorAhead => (error_code::CURSOR_AHEAD, "the cursor is greater than the inbox's last rev"),
        Refusal::NotAllowed => {
            (error_code::NOT_ALLOWED, "your role in this conversation does not allow that")
        }
        Refusal::UnknownMessage => (
            error_code::UNKNOWN_MESSAGE,
            "there is no message with this seq that could be edited, taken back, answered or read",
        ),
        Refusal::UnknownMember => (error_code::UNKNOWN_MEMBER, "this user is not in the group"),
        Refusal::AlreadyMembers => {
            (error_code::ALREADY_MEMBERS, "all of these users are in the group already")
        }
        Refusal::TooManyPeople => (
            error_code::TOO_MANY_PEOPLE,
            "you have as many contacts, or have blocked as many, as limits.contacts allows",
        ),
        Refusal::Blocked => (error_code::BLOCKED, "you have blocked this user; unblock first, then write"),
        Refusal::TooManyMembers => {
            (error_code::TOO_MANY_MEMBERS, "the group would have more members than limits.group_members")
        }
    }
}
