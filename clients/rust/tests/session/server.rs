//! A server in memory that keeps to the protocol: one user's inbox, one device, and switches for what can go wrong.

use std::collections::HashMap;

use holdfast_protocol::chat::close::ChatClose;
use holdfast_protocol::chat::{
    self, Body, Entry, Event, Format, Limits, Message, body, client_frame::Frame, entry, server_frame,
};
use holdfast_protocol::ws::handshake::{HeadLimits, parse_request, write_accept, write_refusal};
use holdfast_protocol::ws::{self, CloseCode, Decoder, Item, MessageLimits, Opcode, Role};

pub(crate) const HEARTBEAT_MS: u32 = 30_000;
pub(crate) const TOKEN: &str = "good";

#[derive(Debug)]
pub(crate) struct Server {
    format: Format,
    /// What has happened for the user: entry n has the `rev` n + 1.
    pub(crate) inbox: Vec<Entry>,
    /// What was accepted, in order, and where each message stands in it.
    pub(crate) accepted: Vec<chat::Send>,
    known: HashMap<String, u64>,
    pub(crate) limits: Limits,
    pub(crate) page_entries: usize,
    /// Status and `Retry-After` of the answer to the next handshakes.
    pub(crate) refuses: Option<(u16, Option<u32>)>,
    /// Answers nothing at all.
    pub(crate) is_silent: bool,
    /// Takes messages, but its answers get lost.
    pub(crate) loses_answers: bool,
    /// Code and delay of the error that the next sends get.
    pub(crate) refuses_sends: Option<(&'static str, u32)>,
    /// The same of the next questions.
    pub(crate) refuses_questions: Option<(&'static str, u32)>,
    /// The cursor that `welcome` names, instead of the client's.
    pub(crate) insists_on_cursor: Option<u64>,
    pub(crate) ignores_syncs: bool,
    pub(crate) questions: usize,
    pub(crate) acts: Vec<String>,
    pub(crate) typing: Vec<bool>,
    pub(crate) watched: Vec<Vec<u64>>,
    pub(crate) away: Vec<bool>,
    pub(crate) hellos: Vec<chat::Hello>,
    pub(crate) acks: Vec<(u64, u64)>,
    pub(crate) syncs: Vec<u64>,
    pub(crate) pings: usize,
    pub(crate) pongs: Vec<Vec<u8>>,
    /// When something came last.
    pub(crate) heard_ms: u64,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    head: Vec<u8>,
    decoder: Option<Decoder>,
    out: Vec<u8>,
    is_registered: bool,
    /// The last `rev` that was sent, once live.
    live_at: Option<u64>,
    is_closed: bool,
}

impl Server {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            inbox: Vec::new(),
            accepted: Vec::new(),
            known: HashMap::new(),
            limits: Limits {
                message_bytes: 65_536,
                page_entries: 1_000,
                send_per_second: 20,
                send_burst: 100,
            },
            page_entries: 3,
            refuses: None,
            is_silent: false,
            loses_answers: false,
            refuses_sends: None,
            refuses_questions: None,
            questions: 0,
            acts: Vec::new(),
            typing: Vec::new(),
            watched: Vec::new(),
            away: Vec::new(),
            insists_on_cursor: None,
            ignores_syncs: false,
            hellos: Vec::new(),
            acks: Vec::new(),
            syncs: Vec::new(),
            pings: 0,
            pongs: Vec::new(),
            heard_ms: 0,
            connection: None,
        }
    }

    // What the test makes happen.

    /// Something happens for the user: a message of somebody else.
    pub(crate) fn deliver(&mut self, text: &str) {
        let message = Message {
            conversation: "42:43".into(),
            seq: 1,
            message_id: 1,
            sender: 43,
            client_id: "theirs".into(),
            device: "phone".into(),
            time_ms: 1,
            body: Some(Body { kind: Some(body::Kind::Text(text.into())) }),
            ..Message::default()
        };
        self.append(message);
    }

    /// The entries since the last one sent are skipped.
    pub(crate) fn gap(&mut self) {
        let to = self.inbox.len() as u64;
        if let Some(live_at) = self.connection.as_mut().and_then(|connection| connection.live_at.take()) {
            let why = "the test says so".into();
            self.write(server_frame::Frame::Gap(chat::Gap { from: live_at + 1, to, why }));
        }
    }

    /// An event is lost without a `gap`, against the protocol.
    pub(crate) fn lose_event(&mut self, text: &str) {
        let live_at = self.connection.as_mut().and_then(|connection| connection.live_at.take());
        self.deliver(text);
        if let Some(connection) = &mut self.connection {
            connection.live_at = live_at.map(|rev| rev + 1);
        }
    }

    pub(crate) fn write(&mut self, frame: server_frame::Frame) {
        let mut payload = Vec::new();
        let frame = chat::ServerFrame { frame: Some(frame) };
        chat::encode_server(self.format, &frame, &mut payload);
        self.write_message(&payload);
    }

    pub(crate) fn write_message(&mut self, payload: &[u8]) {
        let opcode = match self.format {
            Format::Json => Opcode::Text,
            Format::Protobuf => Opcode::Binary,
        };
        self.write_raw(|out| ws::encode_frame(out, opcode, payload, None));
    }

    pub(crate) fn write_raw(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(connection) = self.connection.as_mut().filter(|connection| !connection.is_closed) {
            write(&mut connection.out);
        }
    }

    pub(crate) fn close(&mut self, close: ChatClose) {
        self.close_with(CloseCode(close.code), close.reason);
    }

    pub(crate) fn close_with(&mut self, code: CloseCode, reason: &str) {
        self.write_raw(|out| ws::encode_close(out, code, reason, None));
        if let Some(connection) = &mut self.connection {
            connection.is_closed = true;
        }
    }

    // What the network makes happen.

    pub(crate) fn accept(&mut self) {
        self.connection = Some(Connection {
            head: Vec::new(),
            decoder: None,
            out: Vec::new(),
            is_registered: false,
            live_at: None,
            is_closed: false,
        });
    }

    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        match &mut self.connection {
            Some(connection) if !self.is_silent => std::mem::take(&mut connection.out),
            _ => Vec::new(),
        }
    }

    pub(crate) fn handle_bytes(&mut self, now_ms: u64, bytes: &mut [u8]) {
        self.heard_ms = now_ms;
        let Some(connection) = &mut self.connection else { return };
        let Some(mut decoder) = connection.decoder.take() else {
            connection.head.extend_from_slice(bytes);
            return self.handle_head(now_ms);
        };
        let mut input = bytes;
        loop {
            match decoder.next(&mut input, &MessageLimits::default()) {
                Ok(Some(Item::Text(text))) => {
                    assert_eq!(self.format, Format::Json);
                    self.handle_message(now_ms, text.as_bytes());
                }
                Ok(Some(Item::Binary(bytes))) => {
                    assert_eq!(self.format, Format::Protobuf);
                    self.handle_message(now_ms, bytes);
                }
                Ok(Some(Item::Ping(payload))) => {
                    self.pings += 1;
                    let payload = payload.to_vec();
                    self.write_raw(|out| ws::encode_frame(out, Opcode::Pong, &payload, None));
                }
                Ok(Some(Item::Pong(payload))) => self.pongs.push(payload.to_vec()),
                Ok(Some(Item::Close(frame))) => {
                    let code = frame.map_or(CloseCode::NORMAL, |frame| frame.code);
                    self.write_raw(|out| ws::encode_close(out, code, "", None));
                    if let Some(connection) = &mut self.connection {
                        connection.is_closed = true;
                    }
                }
                Ok(None) => break,
                Err(error) => panic!("the client broke RFC 6455: {error}"),
            }
        }
        if let Some(connection) = &mut self.connection {
            connection.decoder = Some(decoder);
        }
    }

    fn handle_head(&mut self, now_ms: u64) {
        let Some(connection) = &mut self.connection else { return };
        let head = std::mem::take(&mut connection.head);
        let request = parse_request(&head, &HeadLimits::default()).expect("the client's head is good");
        let Some(request) = request else {
            connection.head = head;
            return;
        };
        assert_eq!(request.path(), "/ws");
        let upgrade = request.upgrade().expect("the client's upgrade is good");
        let subprotocol = self.format.subprotocol();
        assert_eq!(upgrade.protocols().collect::<Vec<_>>(), [subprotocol]);
        if let Some((status, retry_after)) = self.refuses {
            write_refusal(&mut connection.out, status, retry_after, "the test says so");
            return;
        }
        write_accept(&mut connection.out, upgrade.key, Some(subprotocol));
        connection.decoder = Some(Decoder::new(Role::Server));
        let mut rest = head[request.bytes()..].to_vec();
        self.handle_bytes(now_ms, &mut rest);
    }

    fn handle_message(&mut self, now_ms: u64, bytes: &[u8]) {
        let Some(connection) = &mut self.connection else { return };
        if connection.is_closed {
            return;
        }
        let frame = chat::decode_client(self.format, bytes).expect("the client's frames are good");
        match frame.frame.expect("decoding refuses no frame") {
            Frame::Hello(hello) => {
                assert!(!connection.is_registered, "hello comes once");
                self.handle_hello(hello);
            }
            frame => {
                assert!(connection.is_registered, "hello comes first");
                match frame {
                    Frame::Send(send) => self.handle_send(send),
                    Frame::Ack(ack) => self.acks.push((now_ms, ack.rev)),
                    Frame::Sync(sync) => {
                        self.syncs.push(sync.after);
                        if !self.ignores_syncs {
                            self.page(sync.after);
                        }
                    }
                    Frame::Typing(typing) => self.typing.push(typing.stopped),
                    Frame::SetAway(set) => self.away.push(set.away),
                    Frame::WatchPresence(watch) => {
                        let users = watch.users.iter();
                        let users = users.map(|&user| chat::UserPresence {
                            user,
                            online: true,
                            ..Default::default()
                        });
                        let presence = chat::Presence { users: users.collect() };
                        self.watched.push(watch.users);
                        self.write(server_frame::Frame::Presence(presence));
                    }
                    Frame::Group(request) => {
                        let group =
                            chat::GroupState { conversation: request.conversation, ..Default::default() };
                        self.answer(server_frame::Frame::Group(group));
                    }
                    Frame::Read(read) => {
                        let members =
                            vec![chat::MemberReceipt { user: 42, read: read.up_to, delivered: read.up_to }];
                        let receipts = chat::Receipts { conversation: read.conversation, members };
                        self.answer(server_frame::Frame::Receipts(receipts));
                    }
                    Frame::CreateGroup(create) => self.handle_act(create.client_id, Some("g9".into())),
                    Frame::AddMembers(add) => self.handle_act(add.client_id, None),
                    Frame::RemoveMember(remove) => self.handle_act(remove.client_id, None),
                    Frame::Leave(leave) => self.handle_act(leave.client_id, None),
                    Frame::Rename(rename) => self.handle_act(rename.client_id, None),
                    Frame::SetRole(set) => self.handle_act(set.client_id, None),
                    Frame::SetRetention(set) => self.handle_act(set.client_id, None),
                    Frame::Edit(edit) => self.handle_act(edit.client_id, None),
                    Frame::Delete(delete) => self.handle_act(delete.client_id, None),
                    other => panic!("the client has no reason to send {other:?}"),
                }
            }
        }
    }

    fn handle_hello(&mut self, hello: chat::Hello) {
        self.hellos.push(hello.clone());
        if hello.token != TOKEN {
            self.write(server_frame::Frame::Error(chat::Error {
                code: chat::error_code::UNAUTHORIZED.into(),
                message: "the test says so".into(),
                retry_after_ms: 0,
                client_id: String::new(),
            }));
            return self.close(chat::close::UNAUTHORIZED);
        }
        if let Some(connection) = &mut self.connection {
            connection.is_registered = true;
        }
        let head = self.inbox.len() as u64;
        let cursor = self.insists_on_cursor.or(hello.cursor).unwrap_or(0);
        self.write(server_frame::Frame::Welcome(chat::Welcome {
            session: 1,
            user: 42,
            device: hello.device,
            heartbeat_ms: HEARTBEAT_MS,
            cursor,
            head,
            limits: Some(self.limits),
            server_time_ms: 1,
        }));
        if cursor == head {
            self.set_live();
        } else {
            self.page(cursor);
        }
    }

    fn handle_send(&mut self, send: chat::Send) {
        if let Some((code, retry_after_ms)) = self.refuses_sends {
            let error = chat::Error {
                code: code.into(),
                message: "the test says so".into(),
                retry_after_ms,
                client_id: send.client_id,
            };
            return self.write(server_frame::Frame::Error(error));
        }
        let known = self.known.get(&send.client_id).copied();
        let seq = known.unwrap_or_else(|| {
            self.accepted.push(send.clone());
            let seq = self.accepted.len() as u64;
            self.known.insert(send.client_id.clone(), seq);
            seq
        });
        if !self.loses_answers {
            let client_id = send.client_id.clone();
            self.write(server_frame::Frame::Accepted(chat::Accepted {
                client_id,
                message_id: 1_000 + seq,
                seq,
                conversation: None,
            }));
        }
        if known.is_none() {
            self.append(Message {
                conversation: "42:43".into(),
                seq,
                message_id: 1_000 + seq,
                sender: 42,
                client_id: send.client_id,
                device: "phone".into(),
                time_ms: 1,
                body: send.body,
                ..Message::default()
            });
        }
    }

    /// Something in a conversation that is no message.
    fn handle_act(&mut self, client_id: String, conversation: Option<String>) {
        self.acts.push(client_id.clone());
        if !self.loses_answers {
            let accepted = chat::Accepted { client_id, message_id: 1, seq: 1, conversation };
            self.write(server_frame::Frame::Accepted(accepted));
        }
    }

    fn answer(&mut self, frame: server_frame::Frame) {
        self.questions += 1;
        match self.refuses_questions {
            _ if self.loses_answers => {}
            None => self.write(frame),
            Some((code, retry_after_ms)) => self.write(server_frame::Frame::Error(chat::Error {
                code: code.into(),
                message: "the test says so".into(),
                retry_after_ms,
                client_id: String::new(),
            })),
        }
    }

    fn append(&mut self, message: Message) {
        self.inbox.push(Entry { kind: Some(entry::Kind::Message(message)) });
        let live_at = self.connection.as_ref().and_then(|connection| connection.live_at);
        if live_at.is_some() && !self.loses_answers {
            let rev = self.inbox.len() as u64;
            self.write(server_frame::Frame::Event(self.event(rev)));
            self.set_live();
        }
    }

    fn event(&self, rev: u64) -> Event {
        Event { rev, entry: Some(self.inbox[rev as usize - 1].clone()) }
    }

    /// All pages after `after`, up to the one that is live.
    fn page(&mut self, after: u64) {
        let head = self.inbox.len() as u64;
        let mut after = after;
        loop {
            let last = head.min(after + self.page_entries as u64);
            let events = (after + 1..=last).map(|rev| self.event(rev)).collect();
            let live = last == head;
            self.write(server_frame::Frame::Page(chat::Page { events, head, live }));
            after = last;
            if live {
                return self.set_live();
            }
        }
    }

    fn set_live(&mut self) {
        let head = self.inbox.len() as u64;
        if let Some(connection) = &mut self.connection {
            connection.live_at = Some(head);
        }
    }
}
