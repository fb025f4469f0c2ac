//! What two users know of their conversation, and whether the server's inboxes agree.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
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
    /// An acknowledged message is in both inboxes, as it was acknowledged.
    Durable,
    /// No `clientId` stands twice.
    Once,
    /// One order without holes, the same for both.
    Ordered,
    /// A cursor gets everything after it, and an entry keeps its `rev`.
    Complete,
}

/// A contract that was broken.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) contract: Contract,
    what: String,
}

impl Violation {
    fn of(contract: Contract, what: String) -> Self {
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
    other: u64,
    next: u64,
    /// Sent and not acknowledged, by clientId.
    unacked: BTreeMap<String, chat::Send>,
    /// Acknowledged: clientId → (messageId, seq).
    acked: BTreeMap<String, (u64, u64)>,
    /// Seen live: rev → messageId.
    seen: BTreeMap<u64, u64>,
    /// The last `rev` when the inbox was read as a whole.
    head: u64,
    /// A refusal, which this load never earns.
    refused: Option<String>,
}

impl Side {
    pub(crate) fn user(&self) -> u64 {
        self.user
    }

    /// From where it goes on reading when it connects again.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    pub(crate) fn next_send(&mut self, round: u32) -> chat::Send {
        self.next += 1;
        let client_id = format!("{}-{}", self.user, self.next);
        let text = format!("round {round}, message {}", self.next);
        let send = chat::Send {
            client_id: client_id.clone(),
            conversation: format!("@{}", self.other),
            body: Some(chat::Body { kind: Some(chat::body::Kind::Text(text)) }),
            reply_to: None,
        };
        self.unacked.insert(client_id, send.clone());
        send
    }

    /// Writes down what the server said.
    pub(crate) fn see(&mut self, frame: server_frame::Frame) {
        match frame {
            server_frame::Frame::Accepted(accepted) => {
                self.unacked.remove(&accepted.client_id);
                self.acked.insert(accepted.client_id, (accepted.message_id, accepted.seq));
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
        if let Some(message) = message_of(event) {
            self.seen.insert(event.rev, message.message_id);
        }
    }
}

fn message_of(event: &chat::Event) -> Option<&chat::Message> {
    match event.entry.as_ref()?.kind.as_ref()? {
        chat::entry::Kind::Message(message) => Some(message),
        chat::entry::Kind::Read(_) => None,
    }
}

/// Both sides of one direct conversation.
pub(crate) struct Ledger {
    low: Side,
    high: Side,
}

impl Ledger {
    pub(crate) fn new(low: u64, high: u64) -> Self {
        let side = |user, other| Side {
            user,
            other,
            next: 0,
            unacked: BTreeMap::new(),
            acked: BTreeMap::new(),
            seen: BTreeMap::new(),
            head: 0,
            refused: None,
        };
        Self { low: side(low, high), high: side(high, low) }
    }

    pub(crate) fn sides(&mut self) -> [&mut Side; 2] {
        [&mut self.low, &mut self.high]
    }

    pub(crate) fn sent(&self) -> u64 {
        self.low.next + self.high.next
    }

    pub(crate) fn acked(&self) -> u64 {
        (self.low.acked.len() + self.high.acked.len()) as u64
    }

    /// Resends what was not acknowledged, reads both inboxes from the beginning and from somewhere within, and compares.
    pub(crate) fn resend_and_verify(
        &mut self,
        server: &Server,
        random: &mut Random,
        findings: &mut Findings,
    ) -> io::Result<()> {
        for side in [&mut self.low, &mut self.high] {
            resend(server, side).map_err(|error| doing("resends", side, &error))?;
        }
        let entries = self.sent() as usize;
        // Once something is known to be lost nothing is worth waiting for.
        let patience = if findings.violations.is_empty() { PATIENCE } else { IMPATIENCE };
        let low = read_inbox(server, &self.low, 0, entries, patience)?;
        let high = read_inbox(server, &self.high, 0, entries, patience)?;
        for (side, inbox) in [(&self.low, &low), (&self.high, &high)] {
            check_inbox(side, inbox, findings);
            for sender in [&self.low, &self.high] {
                check_acked(side, inbox, sender, findings);
            }
            let head = inbox.len() as u64;
            for cursor in [random.between(0, head), head] {
                let rest = read_inbox(server, side, cursor, (head - cursor) as usize, patience)?;
                if rest != inbox[cursor as usize..] {
                    let count = rest.len();
                    let what = format!(
                        "user {}: cursor {cursor} got {count} other entries than it should",
                        side.user
                    );
                    findings.violations.push(Violation::of(Contract::Complete, what));
                }
            }
            findings.cursors += 3;
        }
        self.low.head = low.len() as u64;
        self.high.head = high.len() as u64;
        let order = |inbox: &[chat::Event]| -> Vec<u64> {
            inbox.iter().filter_map(message_of).map(|message| message.message_id).collect()
        };
        if order(&low) != order(&high) {
            let (low, high) = (self.low.user, self.high.user);
            let what = format!("users {low} and {high} see their conversation in different orders");
            findings.violations.push(Violation::of(Contract::Ordered, what));
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
    let frames: Vec<_> = side.unacked.values().cloned().map(client_frame::Frame::Send).collect();
    let mut talker = Talker::connect(server, side, side.head)?;
    talker.send(&frames)?;
    while !side.unacked.is_empty() {
        side.see(talker.next()?);
        if let Some(refused) = side.refused.take() {
            return Err(io::Error::other(format!("a send of user {} was refused: {refused}", side.user)));
        }
    }
    Ok(())
}

/// What an inbox has after a cursor: `hello` with it makes the server send that. Now that everything has been
/// acknowledged that many entries must come, in pages or live: the other user's database may be a moment behind.
fn read_inbox(
    server: &Server,
    side: &Side,
    cursor: u64,
    entries: usize,
    patience: Duration,
) -> io::Result<Vec<chat::Event>> {
    let read = || -> io::Result<Vec<chat::Event>> {
        let mut talker = Talker::connect(server, side, cursor)?;
        let mut events = Vec::new();
        let mut live = talker.is_live();
        while !live || events.len() < entries {
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
    for (index, event) in inbox.iter().enumerate() {
        let rev = index as u64 + 1;
        if event.rev != rev {
            return found(Contract::Complete, format!("rev {} stands where {rev} should", event.rev));
        }
        let Some(message) = message_of(event) else { continue };
        if message.seq != rev {
            // These users have one conversation only, so both numbers count the same messages.
            found(Contract::Ordered, format!("rev {rev} has seq {}", message.seq));
        }
        if let Some(earlier) = known.insert((message.sender, &message.client_id), rev) {
            let client_id = &message.client_id;
            found(Contract::Once, format!("clientId {client_id} stands twice, at rev {earlier} and {rev}"));
        }
    }
    for (rev, message_id) in &side.seen {
        let now = inbox.get(*rev as usize - 1).and_then(message_of).map(|message| message.message_id);
        if now != Some(*message_id) {
            let what = format!("rev {rev} was message {message_id} before the kill and is {now:?} now");
            found(Contract::Complete, what);
        }
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
