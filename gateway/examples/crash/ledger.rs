//! What the users of a conversation know of it, and whether the server's inboxes agree.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;

use holdfast_protocol::chat::{self, client_frame, server_frame};

use super::Random;
use super::client::{PATIENCE, Talker};
use super::server::Server;

/// How long to wait for entries that are late, or lost, when others are lost for certain.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// Which contract was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contract {
    /// An acknowledged act is in all inboxes, as it was acknowledged, and so is an acknowledged read mark in its user's.
    Durable,
    /// No `clientId` stands twice.
    Once,
    /// One order without holes, the same for all.
    Ordered,
    /// A cursor gets everything after it, and an entry keeps its `rev`.
    Complete,
    /// `holdfast store check` has nothing to say.
    Sound,
}

/// A contract that was broken.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) contract: Contract,
    what: String,
}

impl Violation {
    pub(crate) fn of(contract: Contract, what: String) -> Self {
        Self { contract, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.contract, self.what)
    }
}

/// What one user has sent and seen.
pub(crate) struct Side {
    user: u64,
    conversation: String,
    next: u64,
    /// Sent and not acknowledged, by clientId.
    unacked: BTreeMap<String, client_frame::Frame>,
    /// Acknowledged: clientId → (messageId, seq).
    acked: BTreeMap<String, (u64, u64)>,
    /// Own messages that were acknowledged and not changed yet: `seq`s.
    unchanged: Vec<u64>,
    /// The last message of others that was seen, and the last one that was acknowledged as read.
    heard: u64,
    read: u64,
    /// Seen live: rev → messageId, if it is a message.
    seen: BTreeMap<u64, Option<u64>>,
    /// The last `rev` when the inbox was read as a whole.
    head: u64,
    /// A refusal, which this load never earns.
    refused: Option<String>,
}

impl Side {
    fn new(user: u64, conversation: String) -> Self {
        Self {
            user,
            conversation,
            next: 0,
            unacked: BTreeMap::new(),
            acked: BTreeMap::new(),
            unchanged: Vec::new(),
            heard: 0,
            read: 0,
            seen: BTreeMap::new(),
            head: 0,
            refused: None,
        }
    }

    pub(crate) fn user(&self) -> u64 {
        self.user
    }

    /// From where it goes on reading when it connects again.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Mostly a message; now and then a change of one of the own ones, each at most once, so that the order in which acts
    /// are sent again does not matter.
    pub(crate) fn next_act(&mut self, round: u32, random: &mut Random) -> client_frame::Frame {
        use client_frame::Frame;
        let client_id = self.next_client_id();
        let conversation = self.conversation.clone();
        let text = format!("round {round}, message {}", self.next);
        let what = random.between(0, 9);
        let seq = if what < 2 { self.unchanged.pop() } else { None };
        let act = match seq {
            Some(seq) if what == 0 => {
                Frame::Delete(chat::Delete { client_id: client_id.clone(), conversation, seq })
            }
            Some(seq) => {
                let content = Some(chat::Content { kind: Some(chat::content::Kind::Text(text)) });
                Frame::Edit(chat::Edit { client_id: client_id.clone(), conversation, seq, content })
            }
            None => {
                let body = Some(chat::Body { kind: Some(chat::body::Kind::Text(text)) });
                Frame::Send(chat::Send { client_id: client_id.clone(), conversation, body, reply_to: None })
            }
        };
        self.unacked.insert(client_id, act.clone());
        act
    }

    fn next_client_id(&mut self) -> String {
        self.next += 1;
        format!("{}-{}", self.user, self.next)
    }

    /// Now and then: what has arrived, or what was read.
    pub(crate) fn confirmation(&self, random: &mut Random) -> Option<client_frame::Frame> {
        use client_frame::Frame;
        match random.between(0, 7) {
            0 => self.seen.last_key_value().map(|(&rev, _)| Frame::Ack(chat::Ack { rev })),
            1 if self.heard > self.read => {
                let conversation = self.conversation.clone();
                Some(Frame::Read(chat::Read { conversation, up_to: self.heard }))
            }
            _ => None,
        }
    }

    /// Writes down what the server said.
    pub(crate) fn see(&mut self, frame: server_frame::Frame) {
        match frame {
            server_frame::Frame::Accepted(accepted) => {
                if let Some(client_frame::Frame::Send(_)) = self.unacked.remove(&accepted.client_id) {
                    self.unchanged.push(accepted.seq);
                }
                if let Some(conversation) = accepted.conversation {
                    self.conversation = conversation;
                }
                self.acked.insert(accepted.client_id, (accepted.message_id, accepted.seq));
            }
            server_frame::Frame::Receipts(receipts) => {
                let own = receipts.members.iter().find(|member| member.user == self.user);
                self.read = own.map_or(0, |own| own.read).max(self.read);
            }
            server_frame::Frame::Event(event) => self.see_event(&event),
            server_frame::Frame::Page(page) => page.events.iter().for_each(|event| self.see_event(event)),
            server_frame::Frame::Error(error) => {
                self.refused = Some(format!("{}: {}", error.code, error.message));
            }
            _ => {}
        }
    }

    fn see_event(&mut self, event: &chat::Event) {
        self.seen.insert(event.rev, message_of(event).map(|message| message.message_id));
        if let Some(message) = message_of(event)
            && message.sender != self.user
        {
            self.heard = message.seq.max(self.heard);
        }
    }
}

fn message_of(event: &chat::Event) -> Option<&chat::Message> {
    match event.entry.as_ref()?.kind.as_ref()? {
        chat::entry::Kind::Message(message) => Some(message),
        chat::entry::Kind::Read(_) => None,
    }
}

/// How far the entry says that the user has read.
fn read_in(event: &chat::Event) -> u64 {
    match event.entry.as_ref().and_then(|entry| entry.kind.as_ref()) {
        Some(chat::entry::Kind::Read(mark)) => mark.up_to,
        _ => 0,
    }
}

/// Everybody in one conversation.
pub(crate) struct Ledger {
    /// The first one makes the group, if it is one.
    sides: Vec<Side>,
}

impl Ledger {
    /// A direct conversation.
    pub(crate) fn pair(low: u64, high: u64) -> Self {
        Self { sides: vec![Side::new(low, format!("@{high}")), Side::new(high, format!("@{low}"))] }
    }

    /// A group, which is made when the server runs.
    pub(crate) fn group(members: Range<u64>) -> Self {
        Self { sides: members.map(|user| Side::new(user, String::new())).collect() }
    }

    pub(crate) fn sides(&mut self) -> impl Iterator<Item = &mut Side> {
        self.sides.iter_mut()
    }

    /// Makes the group, if it is one that is not there yet.
    pub(crate) fn begin(&mut self, server: &Server) -> io::Result<()> {
        let [creator, others @ ..] = self.sides.as_mut_slice() else { return Ok(()) };
        if !creator.conversation.is_empty() {
            return Ok(());
        }
        let client_id = creator.next_client_id();
        let create = client_frame::Frame::CreateGroup(chat::CreateGroup {
            client_id: client_id.clone(),
            title: "crew".to_owned(),
            members: others.iter().map(|side| side.user).collect(),
            open_history: false,
        });
        creator.unacked.insert(client_id, create);
        resend(server, creator).map_err(|error| doing("makes a group", creator, &error))?;
        for side in others {
            side.conversation.clone_from(&creator.conversation);
        }
        Ok(())
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sides.iter().map(|side| side.next).sum()
    }

    pub(crate) fn acked(&self) -> u64 {
        self.sides.iter().map(|side| side.acked.len() as u64).sum()
    }

    /// Resends what was not acknowledged, reads all inboxes from the beginning and from somewhere within, and compares.
    pub(crate) fn resend_and_verify(
        &mut self,
        server: &Server,
        random: &mut Random,
        findings: &mut Findings,
    ) -> io::Result<()> {
        for side in &mut self.sides {
            resend(server, side).map_err(|error| doing("resends", side, &error))?;
        }
        let messages = self.sent() as usize;
        // Once something is known to be lost nothing is worth waiting for.
        let patience = if findings.violations.is_empty() { PATIENCE } else { IMPATIENCE };
        let mut heads = Vec::new();
        let mut first_order: Option<(u64, Vec<u64>)> = None;
        for side in &self.sides {
            let inbox = read_inbox(server, side, 0, messages, patience)?;
            check_inbox(side, &inbox, findings);
            for sender in &self.sides {
                check_acked(side, &inbox, sender, findings);
            }
            let head = inbox.len() as u64;
            heads.push(head);
            for cursor in [random.between(0, head), head] {
                let expected = &inbox[cursor as usize..];
                let messages = expected.iter().filter_map(message_of).count();
                let rest = read_inbox(server, side, cursor, messages, patience)?;
                if rest != expected {
                    let count = rest.len();
                    let what = format!(
                        "user {}: cursor {cursor} got {count} other entries than it should",
                        side.user
                    );
                    findings.violations.push(Violation::of(Contract::Complete, what));
                }
            }
            findings.cursors += 3;
            let order = inbox.iter().filter_map(message_of).map(|message| message.message_id).collect();
            match &first_order {
                None => first_order = Some((side.user, order)),
                Some((_, first)) if *first == order => {}
                Some((user, _)) => {
                    let what =
                        format!("users {user} and {} see their conversation in different orders", side.user);
                    findings.violations.push(Violation::of(Contract::Ordered, what));
                }
            }
        }
        for (side, head) in self.sides.iter_mut().zip(heads) {
            side.head = head;
        }
        Ok(())
    }
}

/// What verification has found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Cursors that were read from.
    pub(crate) cursors: u64,
    pub(crate) violations: Vec<Violation>,
}

fn resend(server: &Server, side: &mut Side) -> io::Result<()> {
    let frames: Vec<_> = side.unacked.values().cloned().collect();
    let mut talker = Talker::connect(server, side, side.head)?;
    talker.send(&frames)?;
    while !side.unacked.is_empty() {
        side.see(talker.next()?);
        if let Some(refused) = side.refused.take() {
            return Err(io::Error::other(format!("an act of user {} was refused: {refused}", side.user)));
        }
    }
    Ok(())
}

/// What an inbox has after a cursor: `hello` with it makes the server send that. Now that everything has been
/// acknowledged that many messages must come, in pages or live: the other user's database may be a moment behind.
fn read_inbox(
    server: &Server,
    side: &Side,
    cursor: u64,
    messages: usize,
    patience: Duration,
) -> io::Result<Vec<chat::Event>> {
    let read = || -> io::Result<Vec<chat::Event>> {
        let mut talker = Talker::connect(server, side, cursor)?;
        let mut events = Vec::new();
        let mut live = talker.is_live();
        while !live || events.iter().filter_map(message_of).count() < messages {
            if live {
                talker.be_patient_for(patience)?;
            }
            match talker.next() {
                Ok(server_frame::Frame::Page(page)) => {
                    events.extend(page.events);
                    live = page.live;
                }
                Ok(server_frame::Frame::Event(event)) => events.push(event),
                Ok(server_frame::Frame::Error(error)) => {
                    return Err(io::Error::other(format!("{}: {}", error.code, error.message)));
                }
                Ok(_) => {}
                // No more is coming: what is missing is lost, and is told as that.
                Err(error) if live && error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    };
    read().map_err(|error| doing("reads the inbox", side, &error))
}

/// Says what went wrong for whom.
pub(crate) fn doing(what: &str, side: &Side, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("user {} {what}: {error}", side.user))
}

fn check_inbox(side: &Side, inbox: &[chat::Event], findings: &mut Findings) {
    let mut found = |contract, what: String| {
        findings.violations.push(Violation::of(contract, format!("user {}: {what}", side.user)));
    };
    let mut known = BTreeMap::new();
    let (mut last, mut read) = (0, 0);
    for (index, event) in inbox.iter().enumerate() {
        let rev = index as u64 + 1;
        if event.rev != rev {
            return found(Contract::Complete, format!("rev {} stands where {rev} should", event.rev));
        }
        let Some(message) = message_of(event) else {
            read = read_in(event).max(read);
            continue;
        };
        last += 1;
        if message.seq != last {
            // These users have one conversation only, and are in it from its beginning.
            found(Contract::Ordered, format!("rev {rev} has seq {}, not {last}", message.seq));
        }
        if let Some(earlier) = known.insert((message.sender, &message.client_id), rev) {
            let client_id = &message.client_id;
            found(Contract::Once, format!("clientId {client_id} stands twice, at rev {earlier} and {rev}"));
        }
    }
    for (rev, message_id) in &side.seen {
        let now = inbox.get(*rev as usize - 1).and_then(message_of).map(|message| message.message_id);
        if now != *message_id || inbox.len() < *rev as usize {
            let what = format!("rev {rev} was message {message_id:?} before the kill and is {now:?} now");
            found(Contract::Complete, what);
        }
    }
    if read < side.read {
        let told = side.read;
        found(Contract::Durable, format!("was told of having read up to {told}, the inbox tells of {read}"));
    }
}

fn check_acked(side: &Side, inbox: &[chat::Event], sender: &Side, findings: &mut Findings) {
    let kept: BTreeMap<&str, (u64, u64)> = inbox
        .iter()
        .filter_map(message_of)
        .filter(|message| message.sender == sender.user)
        .map(|message| (message.client_id.as_str(), (message.message_id, message.seq)))
        .collect();
    for (client_id, acked) in &sender.acked {
        let found = kept.get(client_id.as_str());
        if found == Some(acked) {
            continue;
        }
        let is = found.map_or("is lost".to_owned(), |found| format!("is {found:?} now (messageId, seq)"));
        let what = format!("user {}: {client_id}, acknowledged as {acked:?}, {is}", side.user);
        findings.violations.push(Violation::of(Contract::Durable, what));
    }
}
