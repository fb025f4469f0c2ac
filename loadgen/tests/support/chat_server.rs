//! A chat server in one page, on `tungstenite`: one lock, nothing durable, and one thing wrong when told so. It
//! shares nothing with the real one but the protocol.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_protocol::chat::{self, ClientFrame, Format, ServerFrame, body, client_frame, server_frame};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, accept_hdr};

/// What goes wrong, once, with this message (counted from 0 over all).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Acked, and never delivered to the receiver.
    LoseDelivery(u64),
    /// Acked, and never shown to the sender as an event.
    LoseOwnEvent(u64),
    /// Delivered to the receiver twice, under two `rev`s.
    DeliverTwice(u64),
    /// The same entry, with the same `rev`, twice.
    RepeatRev(u64),
    /// Delivered to the receiver after the next one.
    Reorder(u64),
    /// One character of the body is another.
    Corrupt(u64),
    /// A `rev` is left out.
    SkipRev(u64),
    /// A `seq` is left out.
    SkipSeq(u64),
    /// The sender is told another `seq` than the events have.
    WrongSeq(u64),
    /// Each page comes twice.
    RepeatPage,
    /// The first page says that it reaches the head, and does not.
    LiveTooEarly,
    /// No group is made, ever.
    RefuseGroups,
    /// Each group is refused for a moment, the first time.
    DelayGroups,
    /// Neither acked nor delivered.
    Ignore(u64),
    /// Refused with `rate_limited`; the second time it is taken.
    RateLimit(u64),
    /// Every session is closed with this code; whoever comes back goes on where it was.
    CloseAll(u64, u16),
    /// The receiver gets a `gap` frame instead, and must sync.
    Gap(u64),
}

#[derive(Debug, Default)]
struct User {
    /// Everything that happened, in the order of `rev`.
    inbox: Vec<chat::Event>,
    rev: u64,
    session: Option<(u64, Sender<Out>)>,
    /// Entries are kept back until it syncs.
    gapped: bool,
    held: Option<chat::Event>,
}

/// Entries of one page.
const PAGE_ENTRIES: usize = 50;

#[derive(Debug)]
enum Out {
    Frame(Box<server_frame::Frame>),
    Close(u16),
}

#[derive(Debug, Default)]
struct World {
    users: HashMap<u64, User>,
    seqs: HashMap<String, u64>,
    groups: HashMap<String, Vec<u64>>,
    delayed: HashSet<String>,
    accepted: HashMap<(String, String), chat::Accepted>,
    messages: u64,
    sessions: u64,
    fault_done: bool,
}

/// A running server; it ends with the test's process.
#[derive(Debug)]
pub struct ChatServer {
    /// Where it listens.
    pub address: SocketAddr,
    world: Arc<Mutex<World>>,
}

impl ChatServer {
    /// Listens on 127.0.0.1.
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let world = Arc::new(Mutex::new(World::default()));
        let shared = Arc::clone(&world);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let world = Arc::clone(&shared);
                thread::spawn(move || {
                    // A connection that the client ends is no error of this server's.
                    let _ = serve(stream, &world, fault);
                });
            }
        });
        Self { address, world }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// Sessions that there have been.
    pub fn sessions(&self) -> u64 {
        lock(&self.world).sessions
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("no thread of this server panics")
}

fn user_in(token: &str) -> u64 {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("a JWT")).expect("base64url");
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    claims["sub"].as_str().expect("a user").parse().expect("a number")
}

#[expect(clippy::result_large_err, reason = "tungstenite's signature")]
fn serve(stream: TcpStream, world: &Mutex<World>, fault: Fault) -> tungstenite::Result<()> {
    stream.set_nodelay(true)?;
    let (mut format, mut token) = (Format::Protobuf, None);
    let accepted = accept_hdr(stream, |request: &Request, mut response: Response| {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let name = header("sec-websocket-protocol").unwrap_or_default().to_owned();
        format = Format::from_subprotocol(&name).expect("one of ours");
        response.headers_mut().insert("sec-websocket-protocol", name.parse().expect("a token"));
        token = header("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        Ok(response)
    });
    let Ok(mut socket) = accepted else { return Ok(()) };
    // Short, so that one thread can both read and write.
    socket.get_mut().set_read_timeout(Some(Duration::from_millis(1)))?;
    let (sender, outgoing): (Sender<Out>, Receiver<Out>) = channel();
    let mut me = token.as_deref().map(user_in);
    if let Some(user) = me {
        register(&mut lock(world), user, None, &sender, fault);
    }
    loop {
        while let Ok(out) = outgoing.try_recv() {
            match out {
                Out::Frame(frame) => {
                    let mut bytes = Vec::new();
                    chat::encode_server(format, &ServerFrame { frame: Some(*frame) }, &mut bytes);
                    socket.write(match format {
                        Format::Json => Message::text(String::from_utf8(bytes).expect("JSON is UTF-8")),
                        Format::Protobuf => Message::binary(bytes),
                    })?;
                }
                Out::Close(code) => {
                    socket
                        .close(Some(CloseFrame { code: CloseCode::from(code), reason: "planted".into() }))?;
                    while socket.read().is_ok() {}
                    return Ok(());
                }
            }
        }
        socket.flush()?;
        let message = match socket.read() {
            Ok(message) => message,
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        if !matches!(message, Message::Text(_) | Message::Binary(_)) {
            continue;
        }
        let frame =
            chat::decode_client(format, &message.into_data()).expect("the generator's frames are sound");
        let ClientFrame { frame: Some(frame) } = frame else { continue };
        handle(&mut lock(world), &mut me, frame, &sender, fault);
    }
}

fn register(world: &mut World, user: u64, cursor: Option<u64>, sender: &Sender<Out>, fault: Fault) {
    world.sessions += 1;
    let session = world.sessions;
    let record = world.users.entry(user).or_default();
    let cursor = cursor.unwrap_or(record.rev);
    let welcome = chat::Welcome {
        session,
        user,
        heartbeat_ms: 5_000,
        cursor,
        head: record.rev,
        ..chat::Welcome::default()
    };
    let _ = sender.send(Out::Frame(Box::new(server_frame::Frame::Welcome(welcome))));
    page(record, cursor, sender, fault);
    record.session = Some((session, sender.clone()));
}

fn page(record: &mut User, after: u64, sender: &Sender<Out>, fault: Fault) {
    let events: Vec<chat::Event> = record.inbox.iter().filter(|event| event.rev > after).cloned().collect();
    record.gapped = false;
    let mut left = events.len();
    for events in events.chunks(PAGE_ENTRIES) {
        left -= events.len();
        let live = left == 0 || fault == Fault::LiveTooEarly;
        let page = chat::Page { events: events.to_vec(), head: record.rev, live };
        for _ in 0..if fault == Fault::RepeatPage { 2 } else { 1 } {
            let _ = sender.send(Out::Frame(Box::new(server_frame::Frame::Page(page.clone()))));
        }
        if live {
            return;
        }
    }
}

fn handle(
    world: &mut World,
    me: &mut Option<u64>,
    frame: client_frame::Frame,
    sender: &Sender<Out>,
    fault: Fault,
) {
    match (frame, *me) {
        (client_frame::Frame::Hello(hello), None) => {
            let user = user_in(&hello.token);
            *me = Some(user);
            register(world, user, hello.cursor, sender, fault);
        }
        (client_frame::Frame::Send(send), Some(user)) => receive(world, user, send, sender, fault),
        (client_frame::Frame::CreateGroup(create), Some(user)) => {
            make_group(world, user, create, sender, fault);
        }
        (client_frame::Frame::Sync(sync), Some(user)) => {
            page(world.users.entry(user).or_default(), sync.after, sender, fault);
        }
        _ => {}
    }
}

fn refuse(code: &str, client_id: String, sender: &Sender<Out>) {
    let error = chat::Error { code: code.into(), message: "planted".into(), retry_after_ms: 30, client_id };
    let _ = sender.send(Out::Frame(Box::new(server_frame::Frame::Error(error))));
}

fn make_group(world: &mut World, from: u64, create: chat::CreateGroup, sender: &Sender<Out>, fault: Fault) {
    match fault {
        Fault::RefuseGroups => return refuse("too_many_members", create.client_id, sender),
        Fault::DelayGroups if world.delayed.insert(create.client_id.clone()) => {
            return refuse("overloaded", create.client_id, sender);
        }
        _ => {}
    }
    let key = (String::new(), create.client_id.clone());
    if !world.accepted.contains_key(&key) {
        let conversation = format!("g{}", world.groups.len() + 1);
        let members: Vec<u64> = std::iter::once(from).chain(create.members.iter().copied()).collect();
        world.seqs.insert(conversation.clone(), 1);
        let made = chat::GroupCreated { title: create.title, members: create.members, open_history: false };
        let message = chat::Message {
            conversation: conversation.clone(),
            seq: 1,
            sender: from,
            client_id: create.client_id.clone(),
            body: Some(chat::Body { kind: Some(body::Kind::GroupCreated(made)) }),
            ..chat::Message::default()
        };
        for member in &members {
            deliver(world.users.entry(*member).or_default(), message.clone(), Fault::None, 0);
        }
        world.groups.insert(conversation.clone(), members);
        let accepted = chat::Accepted {
            client_id: create.client_id,
            message_id: 1,
            seq: 1,
            conversation: Some(conversation),
        };
        world.accepted.insert(key.clone(), accepted);
    }
    let accepted = world.accepted[&key].clone();
    let _ = sender.send(Out::Frame(Box::new(server_frame::Frame::Accepted(accepted))));
}

fn receive(world: &mut World, from: u64, send: chat::Send, sender: &Sender<Out>, fault: Fault) {
    // The first of the others is the one for whom things go wrong.
    let (conversation, others) = match world.groups.get(&send.conversation) {
        Some(members) => {
            let others = members.iter().copied().filter(|member| *member != from).collect();
            (send.conversation.clone(), others)
        }
        None => {
            let to: u64 = send.conversation.trim_start_matches('@').parse().expect("@user");
            (format!("{}:{}", from.min(to), from.max(to)), vec![to])
        }
    };
    let key = (conversation.clone(), send.client_id.clone());
    if let Some(again) = world.accepted.get(&key) {
        let _ = sender.send(Out::Frame(Box::new(server_frame::Frame::Accepted(again.clone()))));
        return;
    }
    let number = world.messages;
    let is = |at: u64| at == number && !world.fault_done;
    match fault {
        Fault::Ignore(at) if is(at) => {
            world.messages += 1;
            return;
        }
        Fault::RateLimit(at) if is(at) => {
            world.fault_done = true;
            refuse("rate_limited", send.client_id, sender);
            return;
        }
        Fault::CloseAll(at, code) if is(at) => {
            world.fault_done = true;
            let sessions = world.users.values_mut().filter_map(|user| user.session.take());
            sessions.for_each(|(_, session)| {
                let _ = session.send(Out::Close(code));
            });
            return;
        }
        _ => {}
    }
    world.messages += 1;
    let seq = world.seqs.entry(conversation.clone()).or_default();
    *seq += if fault == Fault::SkipSeq(number) { 2 } else { 1 };
    let message = chat::Message {
        conversation,
        seq: *seq,
        message_id: number + 1,
        sender: from,
        client_id: send.client_id.clone(),
        body: send.body,
        ..chat::Message::default()
    };
    let told = if fault == Fault::WrongSeq(number) { message.seq + 1 } else { message.seq };
    let (client_id, message_id, seq) = (send.client_id, number + 1, told);
    let accepted = chat::Accepted { client_id, message_id, seq, conversation: None };
    world.accepted.insert(key, accepted.clone());
    let _ = sender.send(Out::Frame(Box::new(server_frame::Frame::Accepted(accepted))));
    if fault != Fault::LoseOwnEvent(number) {
        deliver(world.users.entry(from).or_default(), message.clone(), Fault::None, number);
    }
    for (index, other) in others.into_iter().enumerate() {
        let fault = if index == 0 { fault } else { Fault::None };
        deliver(world.users.entry(other).or_default(), message.clone(), fault, number);
    }
}

fn deliver(user: &mut User, mut message: chat::Message, fault: Fault, number: u64) {
    match fault {
        Fault::LoseDelivery(at) if at == number => return,
        Fault::DeliverTwice(at) if at == number => deliver(user, message.clone(), Fault::None, number),
        Fault::SkipRev(at) if at == number => user.rev += 1,
        Fault::Corrupt(at) if at == number => {
            if let Some(chat::Body { kind: Some(body::Kind::Text(text)) }) = &mut message.body {
                text.replace_range(80..81, "#");
            }
        }
        _ => {}
    }
    user.rev += 1;
    let kind = Some(chat::entry::Kind::Message(message));
    let event = chat::Event { rev: user.rev, entry: Some(chat::Entry { kind }) };
    match fault {
        Fault::Reorder(at) if at == number => {
            user.rev -= 1;
            user.held = Some(event);
            return;
        }
        Fault::Gap(at) if at == number => {
            user.gapped = true;
            let gap = chat::Gap { from: event.rev, to: event.rev, why: "planted".into() };
            if let Some((_, session)) = &user.session {
                let _ = session.send(Out::Frame(Box::new(server_frame::Frame::Gap(gap))));
            }
        }
        _ => {}
    }
    show(user, event.clone());
    if fault == Fault::RepeatRev(number) {
        user.inbox.pop();
        show(user, event);
    }
    // It comes after the one that followed it: the inbox has no hole, the conversation is out of order.
    if let Some(mut held) = user.held.take() {
        user.rev += 1;
        held.rev = user.rev;
        show(user, held);
    }
}

fn show(user: &mut User, event: chat::Event) {
    user.inbox.push(event.clone());
    if let (Some((_, session)), false) = (&user.session, user.gapped) {
        let _ = session.send(Out::Frame(Box::new(server_frame::Frame::Event(event))));
    }
}
