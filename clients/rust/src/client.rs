//! The state machine of one device.
//!
//! ```text
//!               up             101            welcome
//!  Connecting ──────▶ Opening ──────▶ Hello ──────────▶ Open ──▶ Closing ──▶ Ended
//!      ▲                 │              │                 │   close()          ▲
//!      │      at_ms      ▼              ▼                 ▼                    │
//!      └───────────── Waiting ◀──────────────── lost ──────────────────────────┘
//!                                                          "do not reconnect"
//! ```

use std::collections::VecDeque;

use holdfast_protocol::chat::close::Reconnect;
use holdfast_protocol::chat::limits::{BODY_BYTES_MAX, LimitError, WATCHED_USERS_MAX};
use holdfast_protocol::chat::{
    self, Body, ClientFrame, Entry, Format, FrameError, client_frame, error_code, server_frame,
};
use holdfast_protocol::id::{MessageId, Rev, Seq, UserId};
use holdfast_protocol::ws::handshake::ResponseError;
use holdfast_protocol::ws::{self, CloseCode, Decoder, Item, MessageLimits, Opcode, Role};

use crate::act::Act;
use crate::backoff::Backoff;
use crate::config::{ClientConfig, ConfigError};
use crate::event::{Event, Lost, Rejection};
use crate::handshake::Handshake;
use crate::heartbeat::{Beat, Heartbeat};
use crate::outbox::{Outbox, SendError};
use crate::pace::Pace;
use crate::presence::Presence;
use crate::questions::{Answer, Question, Questions, TooManyQuestions};
use crate::random::{Random, masking_key};

/// A page has at most 128 KiB of entries, and JSON may write a byte in six.
const LIMITS: MessageLimits =
    MessageLimits { frame_bytes: 2 << 20, message_bytes: 2 << 20, fragments: 1_024 };
/// One call of `poll_transmit` stops adding messages beyond this, so that a transport which is slow is not outrun.
const TRANSMIT_BYTES: usize = 64 * 1024;
/// How long the server may take to answer a close frame.
const CLOSE_TIMEOUT_MS: u64 = 2_000;
/// A refusal that says "later" but not when.
const RETRY_MS: u64 = 1_000;

/// More was acknowledged than has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entries up to {cursor} have come, so {rev} cannot be acknowledged")]
pub struct AckError {
    /// What was to be acknowledged.
    pub rev: Rev,
    /// The last entry that has come.
    pub cursor: Rev,
}

/// What a client has put right by itself, and what it has seen doing so; over all of its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// `gap` frames: the connection had not kept up.
    pub gaps: u64,
    /// `drain` frames: the server was about to go away.
    pub drains: u64,
    /// Pages of entries.
    pub pages: u64,
    /// Acts that were written again: after a reconnect, or because the server had refused them for the moment.
    pub written_again: u64,
    /// Entries that came live though they had come before. A server that keeps its word sends none.
    pub entries_repeated: u64,
    /// Live entries that were not the next ones, though no `gap` had said so. A server that keeps its word sends none.
    pub holes: u64,
}

#[derive(Debug)]
enum State {
    /// No transport until then.
    Waiting { at_ms: u64 },
    /// A transport was asked for.
    Connecting { deadline_ms: u64 },
    /// The handshake's request was written.
    Opening { deadline_ms: u64, handshake: Handshake },
    /// `hello` was written.
    Hello { deadline_ms: u64 },
    /// `welcome` has come.
    Open { since_ms: u64, heartbeat: Heartbeat, pace: Pace },
    /// The close frame was written.
    Closing { deadline_ms: u64 },
    /// Nothing more happens by itself.
    Ended,
}

/// One device's end of the protocol; see the crate's doc.
#[derive(Debug)]
pub struct Client<R> {
    config: ClientConfig,
    random: R,
    now_ms: u64,
    state: State,
    decoder: Decoder,
    /// Written, but not yet taken by the transport.
    out: Vec<u8>,
    scratch: Vec<u8>,
    /// The payload of the server's last ping; the ones before need no answer (RFC 6455 §5.5.3).
    pong: Option<Vec<u8>>,
    events: VecDeque<Event>,
    backoff: Backoff,
    /// Where a `drain` frame asked to come.
    next_server: Option<String>,
    outbox: Outbox,
    questions: Questions,
    presence: Presence,
    /// Who this is; 0 before the first `welcome`.
    me: u64,
    body_bytes_max: usize,
    /// The last entry that has come; `None` before the first `welcome` of a new device.
    cursor: Option<Rev>,
    /// When to ask for what is missing.
    sync_at_ms: Option<u64>,
    /// Pages are on their way; when the next one must have come.
    pages_by_ms: Option<u64>,
    /// A page began too late, and nothing has come since that did not.
    is_hole_known: bool,
    /// What the program has dealt with, what the server was told of it, and when it may be told again.
    acked: Rev,
    ack_told: Rev,
    ack_at_ms: u64,
    name: u64,
    names: u64,
    counters: Counters,
}

impl<R: Random> Client<R> {
    /// A client that wants to connect now.
    ///
    /// # Errors
    /// When the configuration is not one.
    pub fn new(config: ClientConfig, mut random: R, now_ms: u64) -> Result<Self, ConfigError> {
        config.check()?;
        let name = random.next_u64();
        let mut client = Self {
            random,
            now_ms,
            state: State::Ended,
            decoder: Decoder::new(Role::Client),
            out: Vec::new(),
            scratch: Vec::new(),
            pong: None,
            events: VecDeque::new(),
            backoff: Backoff::new(config.backoff_first_ms, config.backoff_max_ms),
            next_server: None,
            outbox: Outbox::new(config.outbox_messages, config.outbox_bytes),
            questions: Questions::default(),
            presence: Presence::default(),
            me: 0,
            body_bytes_max: BODY_BYTES_MAX,
            cursor: config.cursor,
            sync_at_ms: None,
            pages_by_ms: None,
            is_hole_known: false,
            acked: Rev(0),
            ack_told: Rev(0),
            ack_at_ms: 0,
            name,
            names: 0,
            counters: Counters::default(),
            config,
        };
        client.connect();
        Ok(client)
    }

    // What the program asks for.

    /// Puts a message into the outbox, under a name that no other message of this device has; gives the name.
    ///
    /// # Errors
    /// When the server would refuse it, or the outbox is full.
    pub fn send(&mut self, conversation: impl Into<String>, body: Body) -> Result<String, SendError> {
        self.act(Act::Send { conversation: conversation.into(), body, reply_to: None })
    }

    /// Puts anything that a user does in a conversation into the outbox, in the same way as messages; gives its name.
    ///
    /// # Errors
    /// When the server would refuse it, or the outbox is full.
    pub fn act(&mut self, act: Act) -> Result<String, SendError> {
        let client_id = format!("{:016x}-{}", self.name, self.names);
        self.act_as(client_id.clone(), act)?;
        self.names += 1;
        Ok(client_id)
    }

    /// Puts a message into the outbox, under the program's own name for it: for programs that keep their outbox over
    /// a restart and send it again.
    ///
    /// # Errors
    /// When the server would refuse it, one of this name is waiting, or the outbox is full.
    pub fn send_as(
        &mut self,
        client_id: impl Into<String>,
        conversation: impl Into<String>,
        body: Body,
    ) -> Result<(), SendError> {
        self.act_as(client_id, Act::Send { conversation: conversation.into(), body, reply_to: None })
    }

    /// [`act`](Self::act) under the program's own name for it.
    ///
    /// # Errors
    /// When the server would refuse it, one of this name is waiting, or the outbox is full.
    pub fn act_as(&mut self, client_id: impl Into<String>, act: Act) -> Result<(), SendError> {
        self.outbox.push(client_id.into(), act, self.body_bytes_max)
    }

    /// Asks the server something; the answer comes as [`Event::Answered`], a refusal as [`Event::Refused`].
    ///
    /// # Errors
    /// When too many questions wait for their answers.
    pub fn ask(&mut self, question: Question) -> Result<(), TooManyQuestions> {
        self.questions.push(question)
    }

    /// Says that the user is writing, or not any more. It is lost while there is no connection.
    pub fn typing(&mut self, conversation: impl Into<String>, stopped: bool) {
        if matches!(self.state, State::Open { .. }) && self.out.len() < TRANSMIT_BYTES {
            let typing = chat::Typing { conversation: conversation.into(), stopped };
            self.write(client_frame::Frame::Typing(typing));
        }
    }

    /// Says whose presence the program wants to be told of from now on, on this connection and those to come:
    /// [`Event::Presence`] with each of them, then as it changes.
    ///
    /// # Errors
    /// When a user stands there twice or is nobody, or there are more than [`WATCHED_USERS_MAX`].
    pub fn watch_presence(&mut self, users: &[u64]) -> Result<(), LimitError> {
        let users = chat::check_watched(users, WATCHED_USERS_MAX)?;
        self.presence.watch(users.into_iter().map(|user| user.0).collect());
        Ok(())
    }

    /// Says that nobody is at this device, or somebody again, on this connection and those to come.
    pub fn set_away(&mut self, away: bool) {
        self.presence.set_away(away);
    }

    /// Says that everything up to `rev` has been dealt with; the server hears of it soon.
    ///
    /// # Errors
    /// When `rev` has not come yet.
    pub fn ack(&mut self, rev: Rev) -> Result<(), AckError> {
        let cursor = self.cursor.unwrap_or_default();
        if rev > cursor {
            return Err(AckError { rev, cursor });
        }
        self.acked = self.acked.max(rev);
        Ok(())
    }

    /// Ends the connection, and does not come back.
    pub fn close(&mut self, now_ms: u64) {
        self.advance(now_ms);
        match self.state {
            State::Hello { .. } | State::Open { .. } => {
                self.write_close(CloseCode::NORMAL, "");
                self.state = State::Closing { deadline_ms: self.now_ms.saturating_add(CLOSE_TIMEOUT_MS) };
            }
            State::Connecting { .. } | State::Opening { .. } => self.lose(Lost::Local, true),
            State::Waiting { .. } => self.lose(Lost::Local, false),
            State::Closing { .. } | State::Ended => {}
        }
    }

    /// Connects now: instead of later, because the program knows that the network is back; or again after the end,
    /// with another token if the old one was the reason. Without effect while there is a connection.
    pub fn reconnect(&mut self, now_ms: u64, token: Option<String>) {
        self.advance(now_ms);
        if let Some(token) = token {
            self.config.token = token;
        }
        if matches!(self.state, State::Waiting { .. } | State::Ended) {
            self.connect();
        }
    }

    /// The last entry that has come out, which the next connection goes on from.
    #[must_use]
    pub const fn cursor(&self) -> Option<Rev> {
        self.cursor
    }

    /// Messages that wait for their answer.
    #[must_use]
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// What it has put right by itself.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    // What happens to the transport, and time.

    /// The transport that [`Event::Connect`] asked for is there.
    pub fn handle_connected(&mut self, now_ms: u64) {
        self.advance(now_ms);
        let State::Connecting { deadline_ms } = self.state else { return };
        self.out.clear();
        self.pong = None;
        self.decoder = Decoder::new(Role::Client);
        let handshake = Handshake::begin(&self.config, &mut self.random, &mut self.out);
        self.state = State::Opening { deadline_ms, handshake };
    }

    /// The transport is gone, or could not be had.
    pub fn handle_disconnected(&mut self, now_ms: u64) {
        self.advance(now_ms);
        match self.state {
            State::Closing { .. } => self.lose(Lost::Local, false),
            State::Waiting { .. } | State::Ended => {}
            _ => self.lose(Lost::Transport, false),
        }
    }

    /// Bytes have come; they are unmasked and read where they lie.
    pub fn handle_bytes(&mut self, now_ms: u64, bytes: &mut [u8]) {
        self.advance(now_ms);
        if let State::Open { heartbeat, .. } = &mut self.state {
            heartbeat.hear(now_ms);
        }
        let State::Opening { deadline_ms, handshake } = &mut self.state else {
            return self.handle_frames(bytes);
        };
        let deadline_ms = *deadline_ms;
        match handshake.take(bytes, &self.config) {
            Ok(None) => {}
            Ok(Some(mut rest)) => {
                self.state = State::Hello { deadline_ms };
                self.write(client_frame::Frame::Hello(chat::Hello {
                    token: self.config.token.clone(),
                    device: self.config.device.clone(),
                    cursor: self.cursor.map(|rev| rev.0),
                    every_entry: true,
                }));
                self.handle_frames(&mut rest);
            }
            Err(lost) => {
                if let Lost::Handshake(ResponseError::Refused {
                    retry_after_seconds: Some(seconds), ..
                }) = lost
                {
                    self.backoff.not_before(self.now_ms.saturating_add(u64::from(seconds) * 1_000));
                }
                self.lose(lost, true);
            }
        }
    }

    /// The time has come, or some time.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.advance(now_ms);
        match &mut self.state {
            State::Waiting { at_ms } if now_ms >= *at_ms => self.connect(),
            State::Connecting { deadline_ms }
            | State::Opening { deadline_ms, .. }
            | State::Hello { deadline_ms }
                if now_ms >= *deadline_ms =>
            {
                self.lose(Lost::ConnectTimeout, true);
            }
            State::Closing { deadline_ms } if now_ms >= *deadline_ms => self.lose(Lost::Local, true),
            State::Open { .. } if self.pages_by_ms.is_some_and(|by_ms| now_ms >= by_ms) => {
                self.break_off("the next page did not come in time".to_owned());
            }
            State::Open { heartbeat, .. } => match heartbeat.due(now_ms) {
                Some(Beat::Pong) => self.write_control(Opcode::Pong, &[]),
                Some(Beat::Ping) => self.write_control(Opcode::Ping, &[]),
                Some(Beat::Dead) => self.lose(Lost::Silent, true),
                None => {}
            },
            _ => {}
        }
    }

    // What the program does next.

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; `None`: no need.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<u64> {
        match &mut self.state {
            State::Waiting { at_ms } => Some(*at_ms),
            State::Connecting { deadline_ms }
            | State::Opening { deadline_ms, .. }
            | State::Hello { deadline_ms }
            | State::Closing { deadline_ms } => Some(*deadline_ms),
            State::Open { heartbeat, pace, .. } => {
                let mut next_ms = heartbeat.next_ms();
                if self.outbox.has_next() {
                    next_ms = next_ms.min(pace.next_ms(self.now_ms));
                }
                if self.acked > self.ack_told {
                    next_ms = next_ms.min(self.ack_at_ms);
                }
                [self.sync_at_ms, self.pages_by_ms, self.questions.next_ms(), self.presence.next_ms()]
                    .into_iter()
                    .flatten()
                    .chain([next_ms])
                    .min()
            }
            State::Ended => None,
        }
    }

    /// Appends bytes for the transport to `out`; false: there are none. Call it again when the transport has taken
    /// them: what is not taken from here yet can still be left out.
    pub fn poll_transmit(&mut self, now_ms: u64, out: &mut Vec<u8>) -> bool {
        self.advance(now_ms);
        let before = out.len();
        out.append(&mut self.out);
        if matches!(self.state, State::Hello { .. } | State::Open { .. }) {
            if let Some(payload) = self.pong.take() {
                self.write_control(Opcode::Pong, &payload);
            }
            self.write_what_is_due();
            out.append(&mut self.out);
        }
        let is_any = out.len() > before;
        if let State::Open { heartbeat, .. } = &mut self.state
            && is_any
        {
            heartbeat.speak(self.now_ms);
        }
        is_any
    }

    /// The next thing that happened or must be done.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // Frames from the server.

    fn handle_frames(&mut self, bytes: &mut [u8]) {
        // What it lends must not borrow the client.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Client));
        let mut input = bytes;
        while matches!(self.state, State::Hello { .. } | State::Open { .. } | State::Closing { .. }) {
            match decoder.next(&mut input, &LIMITS) {
                Ok(Some(item)) => self.handle_item(item),
                Ok(None) => break,
                Err(error) => {
                    self.write_close(error.close_code(), "");
                    self.lose(Lost::WebSocket(error), true);
                }
            }
        }
        self.decoder = decoder;
    }

    fn handle_item(&mut self, item: Item<'_>) {
        match (item, self.config.format) {
            (Item::Text(text), Format::Json) => self.handle_message(text.as_bytes()),
            (Item::Binary(bytes), Format::Protobuf) => self.handle_message(bytes),
            (Item::Text(_) | Item::Binary(_), format) => {
                self.write_close(CloseCode::UNSUPPORTED_DATA, "");
                let subprotocol = format.subprotocol();
                self.lose(
                    Lost::Protocol(format!("a message of the other kind than {subprotocol} has")),
                    true,
                );
            }
            (Item::Ping(payload), _) => self.pong = Some(payload.to_vec()),
            (Item::Pong(_), _) => {}
            (Item::Close(_), _) if matches!(self.state, State::Closing { .. }) => {
                self.lose(Lost::Local, true);
            }
            (Item::Close(frame), _) => {
                let (code, reason) =
                    frame.map_or((CloseCode::NO_STATUS, ""), |frame| (frame.code, frame.reason));
                self.write_close(if frame.is_some() { code } else { CloseCode::NORMAL }, "");
                self.lose(Lost::Closed { code: code.0, reason: reason.to_owned() }, true);
            }
        }
    }

    fn handle_message(&mut self, bytes: &[u8]) {
        // What comes after this side's close frame is too late.
        if matches!(self.state, State::Closing { .. }) {
            return;
        }
        match chat::decode_server(self.config.format, bytes) {
            Ok(frame) => {
                self.handle_frame(
                    frame.frame.expect("invariant: decoding refuses a message without a frame"),
                );
            }
            // A frame of a later version: this one was not asked to understand it.
            Err(FrameError::Missing { .. }) => {}
            Err(error) => self.break_off(error.to_string()),
        }
    }

    fn handle_frame(&mut self, frame: server_frame::Frame) {
        use server_frame::Frame;
        match (&self.state, frame) {
            (State::Hello { .. }, Frame::Welcome(welcome)) => self.handle_welcome(welcome),
            (_, Frame::Error(error)) => self.handle_error(error),
            (_, Frame::Drain(drain)) => {
                self.counters.drains += 1;
                self.backoff.come_back_at(self.now_ms.saturating_add(drain.after_ms.into()));
                self.next_server = Some(drain.to).filter(|to| !to.is_empty());
            }
            (State::Open { .. }, frame) => match frame {
                Frame::Event(event) => self.handle_event(event),
                Frame::Page(page) => self.handle_page(page),
                Frame::Accepted(accepted) => self.handle_accepted(accepted),
                Frame::Gap(_) => {
                    self.counters.gaps += 1;
                    self.sync_at_ms = Some(self.now_ms);
                }
                Frame::Welcome(_) => self.break_off("a second `welcome`".to_owned()),
                Frame::Snapshot(_) => {
                    self.break_off("a snapshot, though every entry was asked for".to_owned());
                }
                Frame::Typing(typing) => self.events.push_back(Event::Typing(typing)),
                Frame::Presence(presence) => self.events.push_back(Event::Presence(presence)),
                frame => self.handle_answer(frame),
            },
            _ => self.break_off("a frame before `welcome`".to_owned()),
        }
    }

    fn handle_welcome(&mut self, welcome: chat::Welcome) {
        let now_ms = self.now_ms;
        let limits = welcome.limits.unwrap_or_default();
        let heartbeat = Heartbeat::new(welcome.heartbeat_ms.into(), now_ms);
        let pace = Pace::new(limits.send_per_second, limits.send_burst, now_ms);
        self.state = State::Open { since_ms: now_ms, heartbeat, pace };
        if limits.message_bytes > 0 {
            self.body_bytes_max = limits.message_bytes as usize;
        }
        self.outbox.begin_again();
        self.questions.begin_again();
        self.presence.begin_again();
        self.me = welcome.user;
        self.ack_told = Rev(0);
        self.ack_at_ms = now_ms;
        self.next_server = None;
        let (server_cursor, head) = (Rev(welcome.cursor), Rev(welcome.head));
        let cursor = *self.cursor.get_or_insert(server_cursor);
        self.is_hole_known = false;
        let (user, device) = (UserId(welcome.user), welcome.device);
        self.events.push_back(Event::Welcomed { user, device, head });
        // The server goes on from its own idea of the cursor; if that is another one, it is told so.
        self.sync_at_ms = (cursor != server_cursor).then_some(now_ms);
        self.pages_by_ms = (cursor != head).then(|| self.page_deadline());
        if !self.is_syncing() {
            self.events.push_back(Event::Live { rev: cursor });
        }
    }

    fn handle_event(&mut self, event: chat::Event) {
        let rev = Rev(event.rev);
        let is_known = rev <= self.cursor.unwrap_or_default();
        let is_next = self.take_entry(rev, event.entry);
        // While pages are on their way, what is live may overtake them or be in them.
        if !self.is_syncing() {
            self.counters.entries_repeated += u64::from(is_known);
            if !is_next {
                self.counters.holes += 1;
                self.sync_at_ms = Some(self.now_ms);
            }
        }
    }

    fn handle_page(&mut self, page: chat::Page) {
        self.counters.pages += 1;
        let before = self.cursor;
        for event in page.events {
            if !self.take_entry(Rev(event.rev), event.entry) {
                // The rest of an answer to somebody else's idea of the cursor. The answer to the `sync` that this
                // client has sent, or sends now, begins where it should; if it never comes, the deadline ends it.
                if self.sync_at_ms.is_none() && !self.is_hole_known {
                    self.sync_at_ms = Some(self.now_ms);
                    self.is_hole_known = true;
                }
                return;
            }
        }
        if page.live && self.sync_at_ms.is_none() {
            self.pages_by_ms = None;
            self.events.push_back(Event::Live { rev: self.cursor.unwrap_or_default() });
        } else if self.cursor != before && self.pages_by_ms.is_some() {
            self.pages_by_ms = Some(self.page_deadline());
        }
    }

    /// Whether entries are missing, and asked for or about to be.
    const fn is_syncing(&self) -> bool {
        self.pages_by_ms.is_some() || self.sync_at_ms.is_some()
    }

    const fn page_deadline(&self) -> u64 {
        self.now_ms.saturating_add(self.config.connect_timeout_ms)
    }

    /// Takes the entry after the cursor; one that is known already is dropped. False: there is a hole before it.
    fn take_entry(&mut self, rev: Rev, entry: Option<Entry>) -> bool {
        let cursor = self.cursor.unwrap_or_default();
        if rev > cursor.next() {
            return false;
        }
        if rev == cursor.next() {
            self.cursor = Some(rev);
            self.is_hole_known = false;
            // Of a later version, if it is none that this one knows; it has its place all the same.
            self.events.push_back(Event::Entry { rev, entry: entry.unwrap_or_default() });
        }
        true
    }

    fn handle_accepted(&mut self, accepted: chat::Accepted) {
        // The answer to a repetition may come after the answer.
        if self.outbox.remove(&accepted.client_id).is_some() {
            self.events.push_back(Event::Accepted {
                client_id: accepted.client_id,
                message_id: MessageId(accepted.message_id),
                seq: Seq(accepted.seq),
                conversation: accepted.conversation,
            });
        }
    }

    fn handle_answer(&mut self, frame: server_frame::Frame) {
        use server_frame::Frame;
        let is_answer = self.questions.answer(&frame, self.me);
        let answer = match frame {
            Frame::History(history) => Answer::History(history),
            Frame::Conversations(conversations) => Answer::Conversations(conversations),
            Frame::Group(group) => Answer::Group(group),
            Frame::Devices(devices) => Answer::Devices(devices),
            Frame::People(people) if is_answer => Answer::People(people),
            Frame::People(people) => return self.events.push_back(Event::People(people)),
            Frame::Receipts(receipts) if is_answer => Answer::Receipts(receipts),
            Frame::Receipts(receipts) => return self.events.push_back(Event::Receipts(receipts)),
            // A pong is life, and nothing else.
            _ => return,
        };
        if is_answer {
            self.events.push_back(Event::Answered(answer));
        }
    }

    fn handle_error(&mut self, error: chat::Error) {
        let chat::Error { code, message, retry_after_ms, client_id } = error;
        // The same request may pass later.
        let is_later = [
            error_code::RATE_LIMITED,
            error_code::OVERLOADED,
            error_code::STORAGE_FAILED,
            error_code::STORAGE_FULL,
        ]
        .contains(&code.as_str());
        let wait_ms = if retry_after_ms > 0 { u64::from(retry_after_ms) } else { RETRY_MS };
        let retry_at_ms = self.now_ms.saturating_add(wait_ms);
        if retry_after_ms > 0 {
            self.backoff.not_before(retry_at_ms);
        }
        if client_id.is_empty() {
            // It does not say what it refuses: the question on its way, or an `ack` or a `sync`, which may be repeated.
            if self.questions.refuse(is_later.then_some(retry_at_ms)) && is_later {
                return;
            }
            if is_later && let State::Open { .. } = self.state {
                self.ack_told = Rev(0);
                self.ack_at_ms = self.ack_at_ms.max(retry_at_ms);
                self.presence.repeat(retry_at_ms);
                if self.is_syncing() {
                    self.sync_at_ms = Some(retry_at_ms);
                }
            }
            self.events.push_back(Event::Refused(Rejection { code, message }));
        } else if is_later {
            if let State::Open { pace, .. } = &mut self.state
                && self.outbox.rewind_to(&client_id)
            {
                pace.pause_until(retry_at_ms);
                let rejection = Rejection { code, message };
                self.events.push_back(Event::Delayed { client_id, rejection, retry_at_ms });
            }
        } else if self.outbox.remove(&client_id).is_some() {
            let rejection = Rejection { code, message };
            self.events.push_back(Event::Rejected { client_id, rejection });
        }
    }

    // Frames to the server.

    fn write_what_is_due(&mut self) {
        let now_ms = self.now_ms;
        if !matches!(self.state, State::Open { .. }) {
            return;
        }
        if self.sync_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.sync_at_ms = None;
            self.pages_by_ms = Some(self.page_deadline());
            let after = self.cursor.unwrap_or_default().0;
            self.write(client_frame::Frame::Sync(chat::Sync { after, limit: 0, every_entry: true }));
        }
        if self.acked > self.ack_told && self.ack_at_ms <= now_ms {
            self.ack_told = self.acked;
            self.ack_at_ms = now_ms.saturating_add(self.config.ack_interval_ms);
            self.write(client_frame::Frame::Ack(chat::Ack { rev: self.acked.0 }));
        }
        if let Some(frame) = self.questions.next(now_ms) {
            self.write(frame);
        }
        if let Some(frame) = self.presence.next(now_ms) {
            self.write(frame);
        }
        while self.out.len() < TRANSMIT_BYTES
            && let State::Open { pace, .. } = &mut self.state
            && self.outbox.has_next()
            && pace.take(now_ms)
            && let Some(frame) = self.outbox.next()
        {
            self.counters.written_again += u64::from(self.outbox.mark_written());
            self.write(frame);
        }
    }

    fn write(&mut self, frame: client_frame::Frame) {
        self.scratch.clear();
        chat::encode_client(self.config.format, &ClientFrame { frame: Some(frame) }, &mut self.scratch);
        let opcode = match self.config.format {
            Format::Json => Opcode::Text,
            Format::Protobuf => Opcode::Binary,
        };
        let mask = masking_key(&mut self.random);
        ws::encode_frame(&mut self.out, opcode, &self.scratch, Some(mask));
    }

    fn write_control(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = masking_key(&mut self.random);
        ws::encode_frame(&mut self.out, opcode, payload, Some(mask));
    }

    fn write_close(&mut self, code: CloseCode, reason: &str) {
        let mask = masking_key(&mut self.random);
        ws::encode_close(&mut self.out, code, reason, Some(mask));
    }

    // The end of a connection, and the next.

    /// The server does not keep to the chat protocol.
    fn break_off(&mut self, why: String) {
        self.write_close(CloseCode::POLICY_VIOLATION, "");
        self.lose(Lost::Protocol(why), true);
    }

    fn lose(&mut self, why: Lost, transport_is_up: bool) {
        if transport_is_up {
            self.events.push_back(Event::Disconnect);
        }
        let lasted_ms = match self.state {
            State::Open { since_ms, .. } => Some(self.now_ms.saturating_sub(since_ms)),
            _ => None,
        };
        let reconnect = after(&why);
        match self.backoff.next(self.now_ms, lasted_ms, reconnect, &mut self.random) {
            Some(at_ms) => {
                self.state = State::Waiting { at_ms };
                self.events.push_back(Event::Lost { why, reconnect_at_ms: at_ms });
            }
            None => {
                self.state = State::Ended;
                self.events.push_back(Event::Ended { why });
            }
        }
    }

    fn connect(&mut self) {
        let deadline_ms = self.now_ms.saturating_add(self.config.connect_timeout_ms);
        self.state = State::Connecting { deadline_ms };
        self.events.push_back(Event::Connect { to: self.next_server.take() });
    }

    /// Time does not go back, whatever the program's clock does.
    fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }
}

/// Whether the end of a connection is the end.
fn after(why: &Lost) -> Reconnect {
    match why {
        Lost::Local | Lost::Subprotocol(_) => Reconnect::Never,
        Lost::Closed { code, .. } => Reconnect::after_close(*code),
        // The same request would be refused again, except where the status says that it is about the moment.
        Lost::Handshake(ResponseError::Refused { status: 408 | 425 | 429, .. }) => Reconnect::AfterDelay,
        Lost::Handshake(ResponseError::Refused { status: 400..=499, .. }) => Reconnect::Never,
        // Anything else that answers in the server's place may be gone a minute later: a portal of some hotel.
        Lost::Handshake(_) => Reconnect::AfterDelay,
        Lost::Silent => Reconnect::AtOnce,
        Lost::Transport | Lost::ConnectTimeout | Lost::WebSocket(_) | Lost::Protocol(_) => {
            Reconnect::AfterDelay
        }
    }
}
