//! A peer: a client that is mostly right, sometimes slow, and sometimes wrong on purpose.

use std::collections::VecDeque;

use holdfast_protocol::chat::{self, Format, client_frame, server_frame};
use holdfast_protocol::ws::handshake::{ClientRequest, client_key, parse_response, write_request};
use holdfast_protocol::ws::{Decoder, Item, MessageLimits, Opcode, Role, encode_frame};
use holdfast_reactor::sim::{PeerRead, Random, SimPeer};

use crate::truth::{Broken, Seen, Truth, ensure};

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
    /// Echoes that are awaited.
    awaited: VecDeque<Vec<u8>>,
    next: u64,
    syncs: u64,
    /// The greatest head that the server has named.
    pub(crate) head_rev: u64,
    /// It has read everything up to the head.
    pub(crate) is_live: bool,
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
            awaited: VecDeque::new(),
            next: 0,
            syncs: 0,
            head_rev: 0,
            is_live: false,
            wrong: false,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// True when nothing of its own is still on the way.
    pub(crate) fn is_settled(&self) -> bool {
        self.out.is_empty() && self.unacked.is_empty() && self.is_live
    }

    /// Where it stands, for the message of a failure.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{:?} ({}connected, {}upgraded, {}live, {:?}, {} bytes to write, {} unaccepted)",
            self.kind,
            if self.socket.is_some() { "" } else { "not " },
            if self.upgraded { "" } else { "not " },
            if self.is_live { "" } else { "not " },
            self.place,
            self.out.len(),
            self.unacked.len(),
        )
    }

    pub(crate) fn connect(&mut self, socket: SimPeer, cursor: Option<u64>) {
        let key = client_key([3; 16]);
        let token;
        let (target, offered): (&str, Vec<&str>) = match self.kind {
            Kind::Chat { user, device } => {
                token = format!("bearer.{user}.d{device}");
                ("/ws", vec![self.format.subprotocol(), &token])
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
            ..Self::new(self.kind, &mut Random::new(0))
        };
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

    fn queue_frame(&mut self, frame: client_frame::Frame) {
        let (mut payload, mut bytes) = (Vec::new(), Vec::new());
        chat::encode_client(self.format, &chat::ClientFrame { frame: Some(frame) }, &mut payload);
        let opcode = if self.format == Format::Json { Opcode::Text } else { Opcode::Binary };
        encode_frame(&mut bytes, opcode, &payload, Some([0x21, 0x84, 0xc0, 0x7e]));
        self.out.extend(bytes);
    }

    fn queue_sync(&mut self, after: u64) {
        self.syncs += 1;
        self.queue_frame(client_frame::Frame::Sync(chat::Sync { after, limit: 0 }));
        self.queue_frame(client_frame::Frame::Ping(chat::Ping { nonce: self.syncs }));
        self.place = Place::Syncing { after, nonce: self.syncs, candidate: after };
        self.is_live = false;
    }

    fn queue_send(&mut self, client_id: &str, to: u64, text: &str) {
        self.queue_frame(client_frame::Frame::Send(chat::Send {
            client_id: client_id.to_owned(),
            conversation: format!("@{to}"),
            body: Some(chat::Body { kind: Some(chat::body::Kind::Text(text.to_owned())) }),
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
                let mut frame = Vec::new();
                encode_frame(
                    &mut frame,
                    Opcode::Binary,
                    &payload,
                    Some((random.bits() as u32).to_ne_bytes()),
                );
                self.out.extend(frame);
                self.awaited.push_back(payload);
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
            PeerRead::End | PeerRead::Reset => {
                self.socket = None;
                return Ok(true);
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
        let mut closed = false;
        let mut pongs = Vec::new();
        loop {
            let item = self.decoder.next(&mut input, &LIMITS);
            let item = item.map_err(|error| Broken(format!("the server broke RFC 6455: {error}")))?;
            match item {
                None => break,
                Some(Item::Text(text)) => frames.push(text.as_bytes().to_vec()),
                Some(Item::Binary(payload)) => frames.push(payload.to_vec()),
                Some(Item::Ping(payload)) => pongs.push(payload.to_vec()),
                Some(Item::Pong(_)) => {}
                Some(Item::Close(_)) => closed = true,
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
                    ensure(awaited.as_deref() == Some(&payload[..]), || {
                        format!("an echo of {} bytes is not the one that was awaited", payload.len())
                    })?;
                }
                Kind::Garbage => {}
            }
        }
        if closed && let Some(socket) = &mut self.socket {
            socket.shutdown();
        }
        Ok(())
    }

    fn hear(&mut self, user: u64, payload: &[u8], truth: &mut Truth) -> Result<(), Broken> {
        let frame = chat::decode_server(self.format, payload)
            .map_err(|error| Broken(format!("a frame of the server cannot be read: {error}")))?;
        match frame.frame {
            Some(server_frame::Frame::Welcome(welcome)) => {
                ensure(welcome.user == user, || format!("user {user} was welcomed as {}", welcome.user))?;
                self.head_rev = self.head_rev.max(welcome.head);
                if self.place == Place::Before {
                    self.place = Place::At(welcome.cursor);
                    self.is_live = welcome.cursor == welcome.head;
                }
            }
            Some(server_frame::Frame::Accepted(accepted)) => {
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
                if let Place::At(last) = self.place {
                    ensure(gap.from == last + 1, || format!("a gap from {} follows rev {last}", gap.from))?;
                    self.queue_sync(last);
                }
            }
            Some(server_frame::Frame::Error(error)) => {
                ensure(error.code == "rate_limited" || self.wrong, || {
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
            Place::Before => Err(Broken(format!("rev {rev} came before `welcome`"))),
            Place::At(last) => {
                ensure(rev == *last + 1, || format!("rev {rev} follows {last}"))?;
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
                ensure(rev == *after + 1 || rev == *candidate + 1, || {
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
            return Err(Broken(format!("rev {} of user {user} is empty", event.rev)));
        };
        let text = match message.body.as_ref().and_then(|body| body.kind.as_ref()) {
            Some(chat::body::Kind::Text(text)) => text.clone(),
            other => return Err(Broken(format!("rev {} of user {user} says {other:?}", event.rev))),
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
