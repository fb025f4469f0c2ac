//! A peer: a client that is mostly right, sometimes slow, and sometimes wrong on purpose.

use std::collections::{BTreeMap, VecDeque};

use holdfast_protocol::chat::{self, Format, client_frame, close, error_code, server_frame};
use holdfast_protocol::ws::handshake::{ClientRequest, client_key, parse_response, write_request};
use holdfast_protocol::ws::{CloseCode, Decoder, Item, MessageLimits, Opcode, Role, encode_frame};
use holdfast_reactor::sim::{PeerRead, Random, SimPeer};

use crate::deed::{self, Refusal};
use crate::survey::Survey;
use crate::truth::{Broken, Invariant, Truth, ensure};

/// Steps after which what was refused for now is sent again.
const AGAIN_AFTER: u32 = 40;

/// Bytes of echoes that one peer has waiting.
const ECHO_BACKLOG_BYTES: usize = 256 << 10;

const LIMITS: MessageLimits = MessageLimits { frame_bytes: 1 << 20, message_bytes: 1 << 20, fragments: 64 };

/// What a peer is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Chats as this user.
    Chat { user: u64, device: u8 },
    /// Sends messages to `/echo`.
    Echo,
    /// Sends bytes that mean nothing.
    Garbage,
}

/// Where a chat's `rev`s are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// No `welcome` yet.
    Before,
    /// The last `rev` that came.
    At(u64),
    /// A `sync` is out, and behind it a ping: what comes before the pong may be old news or the answer already.
    Syncing { after: u64, nonce: u64, candidate: u64 },
    /// The pong has come: what comes next begins behind `after`, or goes on with an answer that came before the pong.
    Settling { after: u64, candidate: u64 },
}

/// One peer; `None` as socket when it has to connect again.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    socket: Option<SimPeer>,
    format: Format,
    upgraded: bool,
    decoder: Decoder,
    head: Vec<u8>,
    out: VecDeque<u8>,
    place: Place,
    /// Sent by this peer and not answered for good; resent on the next connection, or when it may pass by then.
    unacked: VecDeque<(String, client_frame::Frame)>,
    /// Steps until what was refused for now is sent again.
    again_in: u32,
    /// And a sync, perhaps.
    syncs_again: bool,
    /// How often each message was sent on this connection and not answered.
    asked: BTreeMap<String, u32>,
    /// Echoes that are awaited.
    awaited: VecDeque<Vec<u8>>,
    next: u64,
    /// The last `rev` that it has had on any connection.
    last: u64,
    syncs: u64,
    /// The last `rev` that it has confirmed on any connection.
    confirmed: u64,
    /// How far it was told on this connection that others have read.
    told: BTreeMap<(String, u64), u64>,
    /// Parts of a snapshot, their `rev`, and that some of them may be of an older one.
    parts: Vec<chat::ConversationState>,
    parts_rev: u64,
    parts_are_doubtful: bool,
    /// Whom the user blocks, as far as it was told.
    blocks: BTreeMap<u64, bool>,
    /// What a reader asks at the end.
    pub(crate) survey: Option<Survey>,
    /// The greatest head that the server has named.
    pub(crate) head_rev: u64,
    /// It has read everything up to the head.
    is_live: bool,
    /// There have been no faults since it connected, so nothing excuses the end of this connection.
    in_peace: bool,
    has_connected: bool,
    /// It has left a connection before the `welcome`. The server may come to that one's login after this one's.
    has_forerunner: bool,
    /// It broke the protocol itself, so it may be told so.
    wrong: bool,
}

impl Peer {
    pub(crate) fn new(kind: Kind, random: &mut Random) -> Self {
        Self {
            kind,
            socket: None,
            format: if random.below(2) == 0 { Format::Json } else { Format::Protobuf },
            upgraded: false,
            decoder: Decoder::new(Role::Client),
            head: Vec::new(),
            out: VecDeque::new(),
            place: Place::Before,
            unacked: VecDeque::new(),
            again_in: 0,
            syncs_again: false,
            confirmed: 0,
            told: BTreeMap::new(),
            parts: Vec::new(),
            parts_rev: 0,
            parts_are_doubtful: false,
            blocks: BTreeMap::new(),
            survey: None,
            asked: BTreeMap::new(),
            awaited: VecDeque::new(),
            next: 0,
            last: 0,
            syncs: 0,
            head_rev: 0,
            is_live: false,
            in_peace: false,
            has_connected: false,
            has_forerunner: false,
            wrong: false,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether it connects again when the faults are over. Two devices stay away: what is left of them at the server
    /// must not need their return to go away.
    pub(crate) fn comes_back(&self) -> bool {
        match self.kind {
            Kind::Chat { user, device } => device != 1 || user <= 2,
            Kind::Echo => true,
            Kind::Garbage => false,
        }
    }

    /// True when nothing of its own is still on the way, and it has read what there is to read.
    pub(crate) fn is_settled(&self, truth: &Truth) -> bool {
        match self.kind {
            _ if self.socket.is_none() && !self.comes_back() => true,
            Kind::Chat { user, .. } => {
                let reads_all = self.is_live && self.reached() == truth.head(user);
                reads_all && self.out.is_empty() && self.unacked.is_empty()
            }
            Kind::Echo => self.upgraded && self.out.is_empty() && self.awaited.is_empty(),
            Kind::Garbage => true,
        }
    }

    /// The server is going away: it may end the connection.
    pub(crate) fn may_be_ended(&mut self) {
        self.in_peace = false;
    }

    /// Where it stands, for the message of a failure.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{:?} ({}connected, {}upgraded, {}live, {:?}, {} bytes to write, {} unaccepted, {} echoes awaited)",
            self.kind,
            if self.socket.is_some() { "" } else { "not " },
            if self.upgraded { "" } else { "not " },
            if self.is_live { "" } else { "not " },
            self.place,
            self.out.len(),
            self.unacked.len(),
            self.awaited.len(),
        )
    }

    /// Begins a connection, and a sync from `cursor` on it.
    pub(crate) fn connect(&mut self, socket: SimPeer, cursor: Option<u64>, in_peace: bool) {
        let key = client_key([3; 16]);
        let token;
        let mut hello = None;
        let (target, offered): (&str, Vec<&str>) = match self.kind {
            // Half of the devices say who they are in the handshake, the others in their first frame.
            Kind::Chat { user, device } if device % 2 == 0 => {
                token = format!("bearer.{user}.d{device}");
                ("/ws", vec![self.format.subprotocol(), &token])
            }
            Kind::Chat { user, device } => {
                let token = format!("{user}.d{device}");
                // One that does not remember goes on from what it has confirmed.
                let cursor = (self.next % 2 == 1 && self.last > 0).then_some(self.last);
                let every_entry = device != 1;
                hello = Some(chat::Hello { token, device: String::new(), cursor, every_entry });
                ("/ws", vec![self.format.subprotocol()])
            }
            _ => ("/echo", Vec::new()),
        };
        let mut bytes = Vec::new();
        let request =
            ClientRequest { host: "sim", target, key: key.as_str(), subprotocols: &offered, headers: &[] };
        write_request(&mut bytes, &request);
        *self = Self {
            kind: self.kind,
            socket: Some(socket),
            format: self.format,
            out: bytes.into(),
            unacked: std::mem::take(&mut self.unacked),
            next: self.next,
            last: self.last,
            confirmed: self.confirmed,
            blocks: std::mem::take(&mut self.blocks),
            survey: self.survey.take(),
            head_rev: self.head_rev,
            in_peace,
            has_forerunner: self.has_forerunner || (self.has_connected && self.place == Place::Before),
            has_connected: true,
            ..Self::new(self.kind, &mut Random::new(0))
        };
        if let Some(hello) = hello {
            self.queue_frame(client_frame::Frame::Hello(hello));
        }
        if self.kind == Kind::Echo && in_peace {
            for bytes in [1, 300, 5_000] {
                self.queue_echo(vec![7; bytes], [4, 3, 2, 1]);
            }
        }
        // The handshake brings no cursor: the server goes on from what this device has acknowledged, and a sync
        // moves it to where the test wants it.
        if let (Kind::Chat { .. }, Some(after)) = (self.kind, cursor) {
            self.queue_sync(after);
        }
        let again: Vec<_> = self.unacked.iter().cloned().collect();
        for (client_id, frame) in again {
            self.queue_deed(&client_id, frame);
        }
    }

    fn queue_echo(&mut self, payload: Vec<u8>, mask: [u8; 4]) {
        let mut frame = Vec::new();
        encode_frame(&mut frame, Opcode::Binary, &payload, Some(mask));
        self.out.extend(frame);
        self.awaited.push_back(payload);
    }

    fn queue_frame(&mut self, frame: client_frame::Frame) {
        let (mut payload, mut bytes) = (Vec::new(), Vec::new());
        chat::encode_client(self.format, &chat::ClientFrame { frame: Some(frame) }, &mut payload);
        let opcode = if self.format == Format::Json { Opcode::Text } else { Opcode::Binary };
        encode_frame(&mut bytes, opcode, &payload, Some([0x21, 0x84, 0xc0, 0x7e]));
        self.out.extend(bytes);
    }

    fn queue_sync(&mut self, after: u64) {
        self.syncs += 1;
        let every_entry = !matches!(self.kind, Kind::Chat { device: 1, .. });
        self.queue_frame(client_frame::Frame::Sync(chat::Sync { after, limit: 0, every_entry }));
        self.parts.clear();
        self.parts_are_doubtful = false;
        self.queue_frame(client_frame::Frame::Ping(chat::Ping { nonce: self.syncs }));
        self.place = Place::Syncing { after, nonce: self.syncs, candidate: after };
        self.is_live = false;
    }

    fn queue_deed(&mut self, client_id: &str, frame: client_frame::Frame) {
        *self.asked.entry(client_id.to_owned()).or_default() += 1;
        self.queue_frame(frame);
    }

    /// What was refused for now, once more.
    fn try_again(&mut self) {
        let waits = |(client_id, _): &&(String, client_frame::Frame)| {
            self.asked.get(client_id).is_none_or(|asked| *asked == 0)
        };
        let again: Vec<_> = self.unacked.iter().filter(waits).cloned().collect();
        for (client_id, frame) in again {
            self.queue_deed(&client_id, frame);
        }
    }

    /// Something that the seed makes it do.
    pub(crate) fn act(&mut self, users: u64, random: &mut Random, truth: &mut Truth) {
        if !self.upgraded {
            return;
        }
        match self.kind {
            Kind::Garbage => {
                self.wrong = true;
                let bytes: Vec<u8> = (0..random.below(40)).map(|_| random.bits() as u8).collect();
                self.out.extend(bytes);
            }
            // Over a slow link it would take the rest of the day.
            Kind::Echo if self.out.len() > ECHO_BACKLOG_BYTES => {}
            Kind::Echo => {
                let bytes = [0, 1, 5, 125, 126, 300, 5_000][random.below(7) as usize];
                let payload: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
                self.queue_echo(payload, (random.bits() as u32).to_ne_bytes());
            }
            Kind::Chat { user, device } => match random.below(20) {
                0 => self.queue_frame(client_frame::Frame::Ping(chat::Ping { nonce: 0 })),
                1 => {
                    if let Place::At(rev) = self.place {
                        self.confirmed = rev.max(self.confirmed);
                        self.queue_frame(client_frame::Frame::Ack(chat::Ack { rev }));
                    }
                }
                2 => {
                    if let Place::At(rev) = self.place {
                        let after = random.below(rev + 1);
                        self.queue_sync(after);
                    }
                }
                3 => {
                    let mut pong = Vec::new();
                    encode_frame(&mut pong, Opcode::Pong, b"", Some([1, 2, 3, 4]));
                    self.out.extend(pong);
                }
                4 | 5 => self.read_something(user, random, truth),
                6 => {
                    let conversation = format!("@{}", 1 + (user + random.below(users - 1)) % users);
                    let stopped = random.below(2) == 0;
                    self.queue_frame(client_frame::Frame::Typing(chat::Typing { conversation, stopped }));
                }
                7 => {
                    let other = 1 + (user + random.below(users - 1)) % users;
                    truth.blocked.insert(deed::name_of(&format!("@{other}"), user));
                    self.queue_frame(match random.below(3) {
                        0 => client_frame::Frame::Block(chat::Block { user: other }),
                        _ => client_frame::Frame::Unblock(chat::Unblock { user: other }),
                    });
                }
                _ if self.unacked.len() < 20 => {
                    let client_id = format!("{device}-{}", self.next);
                    self.next += 1;
                    let frame = deed::choose(user, users, &client_id, random, truth);
                    truth.sent.insert((user, client_id.clone()), frame.clone());
                    self.queue_deed(&client_id, frame.clone());
                    self.unacked.push_back((client_id, frame));
                }
                _ => {}
            },
        }
    }

    /// Blocks a user, or does not any more.
    pub(crate) fn block(&mut self, user: u64, blocks: bool) {
        self.blocks.remove(&user);
        self.queue_frame(if blocks {
            client_frame::Frame::Block(chat::Block { user })
        } else {
            client_frame::Frame::Unblock(chat::Unblock { user })
        });
    }

    /// Whether it was told that the user blocks this one, or does not.
    pub(crate) fn knows_block(&self, user: u64, blocks: bool) -> bool {
        self.blocks.get(&user) == Some(&blocks)
    }

    /// Writes to a user; under which name.
    pub(crate) fn write_to(&mut self, user: u64, text: &str, truth: &mut Truth) -> String {
        let Kind::Chat { user: me, device } = self.kind else { return String::new() };
        let client_id = format!("{device}-{}", self.next);
        self.next += 1;
        let body = Some(chat::Body { kind: Some(chat::body::Kind::Text(text.to_owned())) });
        let (conversation, reply_to) = (format!("@{user}"), None);
        let send = chat::Send { client_id: client_id.clone(), conversation, body, reply_to };
        let frame = client_frame::Frame::Send(send);
        truth.sent.insert((me, client_id.clone()), frame.clone());
        self.queue_deed(&client_id, frame.clone());
        self.unacked.push_back((client_id.clone(), frame));
        client_id
    }

    /// Says that something of the user's inbox was read.
    fn read_something(&mut self, user: u64, random: &mut Random, truth: &Truth) {
        let head = truth.head(user);
        if head == 0 {
            return;
        }
        let entry = truth.inbox.get(&(user, 1 + random.below(head))).and_then(|entry| entry.kind.as_ref());
        if let Some(chat::entry::Kind::Message(message)) = entry {
            let (conversation, up_to) = (message.conversation.clone(), message.seq);
            self.queue_frame(client_frame::Frame::Read(chat::Read { conversation, up_to }));
        }
    }

    /// Leaves in one of the ways in which peers leave.
    pub(crate) fn leave(&mut self, random: &mut Random) {
        let Some(mut socket) = self.socket.take() else { return };
        match random.below(4) {
            0 => socket.reset(),
            1 => socket.vanish(),
            2 => {
                socket.shutdown();
                self.socket = Some(socket);
            }
            _ => {
                let mut close = Vec::new();
                encode_frame(&mut close, Opcode::Close, &1000u16.to_be_bytes(), Some([9; 4]));
                self.out.extend(close);
                self.wrong = true;
                self.socket = Some(socket);
            }
        }
    }

    pub(crate) fn stall(&mut self, time: std::time::Duration) {
        if let Some(socket) = &mut self.socket {
            socket.stall(time);
        }
    }

    /// Writes what it has, as much as the network takes, and reads what has come. True when something happened.
    pub(crate) fn step(&mut self, truth: &mut Truth) -> Result<bool, Broken> {
        if self.again_in > 0 {
            self.again_in -= 1;
            if self.again_in == 0 {
                self.try_again();
                if std::mem::take(&mut self.syncs_again) && self.place != Place::Before {
                    self.queue_sync(self.reached());
                }
            }
        }
        if self.is_live
            && let Some(question) = self.survey.as_mut().and_then(Survey::next_question)
        {
            self.queue_frame(question);
        }
        let Some(socket) = &mut self.socket else { return Ok(false) };
        let mut moved = false;
        if !self.out.is_empty() {
            let taken = socket.write(self.out.make_contiguous());
            self.out.drain(..taken);
            moved |= taken > 0;
        }
        let mut bytes = Vec::new();
        match socket.read(&mut bytes) {
            PeerRead::Nothing => return Ok(moved),
            PeerRead::Bytes(_) => {}
            end @ (PeerRead::End | PeerRead::Reset) => {
                self.socket = None;
                return ensure(Invariant::Courtesy, !self.in_peace, || {
                    format!("{:?} lost a connection that nothing was wrong with: {end:?}", self.kind)
                })
                .map(|()| true);
            }
        }
        self.receive(&mut bytes, truth)?;
        Ok(true)
    }

    fn receive(&mut self, bytes: &mut Vec<u8>, truth: &mut Truth) -> Result<(), Broken> {
        if !self.upgraded {
            self.head.append(bytes);
            let key = client_key([3; 16]);
            let offered = [Format::Json.subprotocol(), Format::Protobuf.subprotocol()];
            match parse_response(&self.head, key.as_str(), &offered) {
                Ok(None) => return Ok(()),
                Ok(Some(response)) => {
                    let used = response.bytes;
                    *bytes = self.head.split_off(used);
                    self.upgraded = true;
                }
                // Refused, as with 503 while it drains.
                Err(_) => {
                    self.socket = None;
                    return Ok(());
                }
            }
        }
        let mut input = bytes.as_mut_slice();
        let mut frames = Vec::new();
        let mut closed = None;
        let mut pongs = Vec::new();
        loop {
            let item = self.decoder.next(&mut input, &LIMITS);
            let item = item.map_err(|error| Invariant::Wire.is_broken(error.to_string()))?;
            match item {
                None => break,
                Some(Item::Text(text)) => frames.push(text.as_bytes().to_vec()),
                Some(Item::Binary(payload)) => frames.push(payload.to_vec()),
                Some(Item::Ping(payload)) => pongs.push(payload.to_vec()),
                Some(Item::Pong(_)) => {}
                Some(Item::Close(frame)) => closed = Some(frame.map_or(1005, |frame| frame.code.0)),
            }
        }
        for payload in pongs {
            let mut pong = Vec::new();
            encode_frame(&mut pong, Opcode::Pong, &payload, Some([5; 4]));
            self.out.extend(pong);
        }
        for payload in frames {
            match self.kind {
                Kind::Chat { user, .. } => self.hear(user, &payload, truth)?,
                Kind::Echo => {
                    let awaited = self.awaited.pop_front();
                    ensure(Invariant::Echo, awaited.as_deref() == Some(&payload[..]), || {
                        format!("an echo of {} bytes is not the one that was awaited", payload.len())
                    })?;
                }
                Kind::Garbage => {}
            }
        }
        let Some(code) = closed else { return Ok(()) };
        ensure(Invariant::Courtesy, self.wrong || self.is_excused(code), || {
            format!("{:?}, which did nothing wrong, was closed with {code}", self.kind)
        })?;
        self.in_peace = false;
        if let Some(socket) = &mut self.socket {
            socket.shutdown();
        }
        Ok(())
    }

    /// Close codes that say nothing against the client: it was not heard in time, the server restarts, or an earlier
    /// connection of its own was slower.
    fn is_excused(&self, code: u16) -> bool {
        let late = [
            CloseCode::GOING_AWAY.0,
            close::HELLO_TIMEOUT.code,
            close::HEARTBEAT_TIMEOUT.code,
            close::STORAGE.code,
            close::OVERLOADED.code,
        ];
        (self.has_forerunner && code == close::REPLACED.code)
            || (!self.in_peace && (late.contains(&code) || code == CloseCode::SERVICE_RESTART.0))
    }

    fn hear(&mut self, user: u64, payload: &[u8], truth: &mut Truth) -> Result<(), Broken> {
        let frame = chat::decode_server(self.format, payload)
            .map_err(|error| Invariant::Wire.is_broken(format!("a frame cannot be read: {error}")))?;
        match frame.frame {
            Some(server_frame::Frame::Welcome(welcome)) => {
                ensure(Invariant::OneStory, welcome.user == user, || {
                    format!("user {user} was welcomed as {}", welcome.user)
                })?;
                self.head_rev = self.head_rev.max(welcome.head);
                // What was confirmed may be lost with the power, but nothing is taken for confirmed that was not.
                let most = self.confirmed.max(self.last);
                ensure(Invariant::Dense, welcome.cursor <= most, || {
                    format!(
                        "{:?} was welcomed at {}, but has had no more than {most}",
                        self.kind, welcome.cursor
                    )
                })?;
                if self.place == Place::Before {
                    self.place = Place::At(welcome.cursor);
                    self.is_live = welcome.cursor == welcome.head;
                }
            }
            Some(server_frame::Frame::Accepted(accepted)) => {
                let asked = self.asked.get_mut(&accepted.client_id).filter(|asked| **asked > 0);
                let Some(asked) = asked else {
                    let how = format!("user {user} got one more `accepted` for {}", accepted.client_id);
                    return Err(Invariant::Answers.is_broken(how));
                };
                *asked -= 1;
                self.unacked.retain(|(client_id, ..)| *client_id != accepted.client_id);
                truth.accepts(user, &accepted)?;
            }
            Some(server_frame::Frame::Event(event)) => {
                self.advance(event.rev)?;
                self.see(user, &event, truth)?;
            }
            Some(server_frame::Frame::Page(page)) => {
                self.head_rev = self.head_rev.max(page.head);
                for event in &page.events {
                    self.advance(event.rev)?;
                    self.see(user, event, truth)?;
                }
                self.is_live = page.live && page.head == self.reached();
            }
            Some(server_frame::Frame::Snapshot(part)) => self.take_part(user, part, truth)?,
            Some(server_frame::Frame::Receipts(receipts)) => {
                for member in &receipts.members {
                    self.hear_mark(&receipts.conversation, member, truth)?;
                }
            }
            Some(server_frame::Frame::Typing(typing)) => {
                ensure(Invariant::Visible, typing.user != user, || {
                    format!("user {user} is told that user {user} is writing")
                })?;
            }
            Some(server_frame::Frame::People(people)) if people.changed => {
                self.blocks.extend(people.people.iter().map(|person| (person.user, person.blocked)));
            }
            Some(server_frame::Frame::Conversations(list)) => {
                if let Some(survey) = &mut self.survey {
                    survey.hear_list(user, list, truth);
                }
            }
            Some(server_frame::Frame::History(history)) => {
                if let Some(survey) = &mut self.survey {
                    survey.hear_history(user, history, truth);
                }
            }
            Some(server_frame::Frame::Pong(pong)) => {
                if let Place::Syncing { after, nonce, candidate } = self.place
                    && pong.nonce == nonce
                {
                    self.place = Place::Settling { after, candidate };
                    self.parts_are_doubtful = !self.parts.is_empty();
                }
            }
            Some(server_frame::Frame::Gap(gap)) => {
                let after = match self.place {
                    Place::Before => {
                        return Err(Invariant::Dense.is_broken("a gap came before `welcome`".to_owned()));
                    }
                    Place::At(last) => {
                        ensure(Invariant::Dense, gap.from == last + 1, || {
                            format!("a gap from {} follows rev {last}", gap.from)
                        })?;
                        last
                    }
                    // It may be about what was before the sync, or about what followed an answer without entries.
                    Place::Syncing { after, .. } | Place::Settling { after, .. } => after,
                };
                self.queue_sync(after);
            }
            Some(server_frame::Frame::Error(error)) => {
                self.hear_error(user, &error, truth)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn hear_error(&mut self, user: u64, error: &chat::Error, truth: &mut Truth) -> Result<(), Broken> {
        let honest = |holds: bool| {
            ensure(Invariant::Courtesy, holds, || {
                format!("an honest user {user} got the error {}: {}", error.code, error.message)
            })
        };
        if self.wrong {
            return Ok(());
        }
        if error.client_id.is_empty() {
            // Reading in a group that one has left meanwhile, and what disks do.
            let gone = [error_code::UNKNOWN_CONVERSATION, error_code::UNKNOWN_MESSAGE];
            if deed::for_now(&error.code) {
                // It may have been a sync.
                self.again_in = AGAIN_AFTER;
                self.syncs_again = true;
            }
            let is_gone = gone.contains(&error.code.as_str());
            if is_gone && let Some(survey) = self.survey.as_mut().filter(|survey| !survey.is_done()) {
                return honest(survey.hear_refusal(user, truth));
            }
            return honest(deed::for_now(&error.code) || is_gone);
        }
        let Some(at) = self.unacked.iter().position(|(client_id, _)| *client_id == error.client_id) else {
            // Sent again, and answered twice.
            return honest(self.asked.contains_key(&error.client_id));
        };
        let Some(asked) = self.asked.get_mut(&error.client_id).filter(|asked| **asked > 0) else {
            let how = format!("user {user} got one more error for {}", error.client_id);
            return Err(Invariant::Answers.is_broken(how));
        };
        *asked -= 1;
        match deed::refusal(&self.unacked[at].1, &error.code, user, truth) {
            Refusal::ForNow => self.again_in = AGAIN_AFTER,
            Refusal::ForGood => {
                truth.refuses(user, &error.client_id, &error.code)?;
                self.unacked.remove(at);
            }
            Refusal::Wrong => return honest(false),
        }
        Ok(())
    }

    /// Somebody has read on; on one connection nobody reads less than before.
    fn hear_mark(
        &mut self,
        conversation: &str,
        member: &chat::MemberReceipt,
        truth: &mut Truth,
    ) -> Result<(), Broken> {
        // In groups one may leave, and begin anew.
        if conversation.starts_with('g') {
            return Ok(());
        }
        let told = self.told.entry((conversation.to_owned(), member.user)).or_default();
        let before = std::mem::replace(told, member.read);
        truth.reads(conversation, member.user, member.read);
        ensure(Invariant::OneStory, before <= member.read && member.read <= member.delivered, || {
            format!("{:?} had read {conversation} up to {before}, and now {member:?}", self.kind)
        })
    }

    /// A part of a snapshot.
    fn take_part(&mut self, user: u64, part: chat::Snapshot, truth: &mut Truth) -> Result<(), Broken> {
        self.head_rev = self.head_rev.max(part.rev);
        if self.parts_rev != part.rev {
            self.parts.clear();
        }
        self.parts_rev = part.rev;
        self.parts.extend(part.conversations);
        let before = match self.place {
            Place::Before => return Err(Invariant::Dense.is_broken("a snapshot before `welcome`".to_owned())),
            Place::At(last) => last,
            Place::Syncing { after, .. } | Place::Settling { after, .. } => after,
        };
        ensure(Invariant::Dense, part.rev >= before, || {
            format!("a snapshot of rev {} follows rev {before}", part.rev)
        })?;
        if !part.end {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        match &mut self.place {
            Place::Syncing { candidate, .. } => *candidate = part.rev,
            _ => {
                if !std::mem::take(&mut self.parts_are_doubtful) {
                    truth.lists.push((user, part.rev, parts));
                }
                self.place = Place::At(part.rev);
                self.last = part.rev;
            }
        }
        Ok(())
    }

    /// An entry has come: it must be the next one.
    fn advance(&mut self, rev: u64) -> Result<(), Broken> {
        match &mut self.place {
            Place::Before => Err(Invariant::Dense.is_broken(format!("rev {rev} came before `welcome`"))),
            Place::At(last) => {
                ensure(Invariant::Dense, rev == *last + 1, || format!("rev {rev} follows {last}"))?;
                *last = rev;
                self.last = self.last.max(rev);
                Ok(())
            }
            Place::Syncing { after, candidate, .. } => {
                if rev == *after + 1 || rev == *candidate + 1 {
                    *candidate = rev;
                }
                Ok(())
            }
            Place::Settling { after, candidate } => {
                ensure(Invariant::Dense, rev == *after + 1 || rev == *candidate + 1, || {
                    format!("rev {rev} follows a sync from {after}, answered up to {candidate}")
                })?;
                self.place = Place::At(rev);
                self.last = self.last.max(rev);
                Ok(())
            }
        }
    }

    /// The last `rev` of an unbroken row.
    pub(crate) fn reached(&self) -> u64 {
        match self.place {
            Place::Before => 0,
            Place::At(last) => last,
            Place::Syncing { candidate, .. } | Place::Settling { candidate, .. } => candidate,
        }
    }

    fn see(&mut self, user: u64, event: &chat::Event, truth: &mut Truth) -> Result<(), Broken> {
        self.head_rev = self.head_rev.max(event.rev);
        let entry = event.entry.as_ref().filter(|entry| entry.kind.is_some());
        let Some(entry) = entry else {
            return Err(Invariant::OneStory.is_broken(format!("rev {} of user {user} is empty", event.rev)));
        };
        truth.sees(user, event.rev, entry)
    }
}
