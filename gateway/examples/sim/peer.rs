//! A peer: a client that is mostly right, sometimes slow, and sometimes wrong on purpose.

use std::collections::{BTreeMap, VecDeque};

use holdfast_protocol::chat::{self, Format, client_frame, close, server_frame};
use holdfast_protocol::ws::handshake::{ClientRequest, client_key, parse_response, write_request};
use holdfast_protocol::ws::{CloseCode, Decoder, Item, MessageLimits, Opcode, Role, encode_frame};
use holdfast_reactor::sim::{PeerRead, Random, SimPeer};

use crate::truth::{Broken, Invariant, Seen, Truth, ensure};

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
    /// Sent by this peer and not accepted, with the text; resent on the next connection.
    unacked: VecDeque<(String, u64, String)>,
    /// How often each message was sent on this connection and not answered.
    asked: BTreeMap<String, u32>,
    /// Echoes that are awaited.
    awaited: VecDeque<Vec<u8>>,
    next: u64,
    syncs: u64,
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
            asked: BTreeMap::new(),
            awaited: VecDeque::new(),
            next: 0,
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
                hello = Some(chat::Hello { token, device: String::new(), cursor: None, every_entry: true });
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
        for (client_id, to, text) in again {
            self.queue_send(&client_id, to, &text);
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
        self.queue_frame(client_frame::Frame::Sync(chat::Sync { after, limit: 0, every_entry: true }));
        self.queue_frame(client_frame::Frame::Ping(chat::Ping { nonce: self.syncs }));
        self.place = Place::Syncing { after, nonce: self.syncs, candidate: after };
        self.is_live = false;
    }

    fn queue_send(&mut self, client_id: &str, to: u64, text: &str) {
        *self.asked.entry(client_id.to_owned()).or_default() += 1;
        self.queue_frame(client_frame::Frame::Send(chat::Send {
            client_id: client_id.to_owned(),
            conversation: format!("@{to}"),
            body: Some(chat::Body { kind: Some(chat::body::Kind::Text(text.to_owned())) }),
            reply_to: None,
        }));
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
            Kind::Echo => {
                let bytes = [0, 1, 5, 125, 126, 300, 5_000][random.below(7) as usize];
                let payload: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
                self.queue_echo(payload, (random.bits() as u32).to_ne_bytes());
            }
            Kind::Chat { user, device } => match random.below(12) {
                0 => self.queue_frame(client_frame::Frame::Ping(chat::Ping { nonce: 0 })),
                1 => {
                    if let Place::At(rev) = self.place {
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
                _ if self.unacked.len() < 20 => {
                    let to = 1 + (user + random.below(users - 1)) % users;
                    let client_id = format!("{device}-{}", self.next);
                    self.next += 1;
                    let text = "x".repeat(random.below(300) as usize);
                    // Both the text and whom it went to: a message must not be seen in another conversation.
                    let text = format!("{user}>{to} {client_id} {text}");
                    truth.sent.insert((user, client_id.clone()), text.clone());
                    self.queue_send(&client_id, to, &text);
                    self.unacked.push_back((client_id, to, text));
                }
                _ => {}
            },
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
        let late = [CloseCode::GOING_AWAY.0, close::HELLO_TIMEOUT.code, close::HEARTBEAT_TIMEOUT.code];
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
                truth.accepts(user, &accepted.client_id, accepted.message_id, accepted.seq)?;
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
            Some(server_frame::Frame::Pong(pong)) => {
                if let Place::Syncing { after, nonce, candidate } = self.place
                    && pong.nonce == nonce
                {
                    self.place = Place::Settling { after, candidate };
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
                ensure(Invariant::Courtesy, error.code == "rate_limited" || self.wrong, || {
                    format!("an honest user {user} got the error {}: {}", error.code, error.message)
                })?;
            }
            _ => {}
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
                Ok(())
            }
        }
    }

    /// The last `rev` of an unbroken row.
    fn reached(&self) -> u64 {
        match self.place {
            Place::Before => 0,
            Place::At(last) => last,
            Place::Syncing { candidate, .. } | Place::Settling { candidate, .. } => candidate,
        }
    }

    fn see(&mut self, user: u64, event: &chat::Event, truth: &mut Truth) -> Result<(), Broken> {
        self.head_rev = self.head_rev.max(event.rev);
        let message = event.entry.as_ref().and_then(|entry| entry.kind.as_ref());
        let Some(chat::entry::Kind::Message(message)) = message else {
            return Err(Invariant::OneStory.is_broken(format!("rev {} of user {user} is empty", event.rev)));
        };
        let text = match message.body.as_ref().and_then(|body| body.kind.as_ref()) {
            Some(chat::body::Kind::Text(text)) => text.clone(),
            other => {
                let how = format!("rev {} of user {user} says {other:?}", event.rev);
                return Err(Invariant::OneStory.is_broken(how));
            }
        };
        let seen = Seen {
            conversation: message.conversation.clone(),
            seq: message.seq,
            message_id: message.message_id,
            sender: message.sender,
            client_id: message.client_id.clone(),
            text,
        };
        truth.sees(user, event.rev, seen)
    }
}
