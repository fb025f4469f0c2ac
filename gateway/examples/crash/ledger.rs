//! What two users know of their conversation, and whether the server's inboxes agree.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use holdfast_protocol::chat::{self, client_frame, server_frame};

use super::Failure;
use super::client::Talker;
use super::server::Server;

/// A contract that was broken.
#[derive(Debug)]
pub(crate) struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
    /// A refusal, which this load never earns.
    refused: Option<String>,
}

impl Side {
    pub(crate) fn user(&self) -> u64 {
        self.user
    }

    pub(crate) fn next_send(&mut self, round: u32) -> chat::Send {
        self.next += 1;
        let client_id = format!("{}-{}", self.user, self.next);
        let text = format!("round {round}, message {}", self.next);
        let send = chat::Send {
            client_id: client_id.clone(),
            conversation: format!("@{}", self.other),
            body: Some(chat::Body { kind: Some(chat::body::Kind::Text(text)) }),
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

    /// Resends what was not acknowledged, reads both inboxes from the beginning, and compares.
    pub(crate) fn resend_and_verify(&mut self, server: &Server) -> Result<(), Failure> {
        for side in [&mut self.low, &mut self.high] {
            resend(server, side)?;
        }
        let low = read_inbox(server, &self.low)?;
        let high = read_inbox(server, &self.high)?;
        for (side, inbox) in [(&self.low, &low), (&self.high, &high)] {
            check_inbox(side, inbox)?;
            for sender in [&self.low, &self.high] {
                check_acked(side, inbox, sender)?;
            }
        }
        let order = |inbox: &[chat::Event]| -> Vec<u64> {
            inbox.iter().filter_map(message_of).map(|message| message.message_id).collect()
        };
        if order(&low) != order(&high) {
            return Err(Violation(format!(
                "users {} and {} see their conversation in different orders",
                self.low.user, self.high.user
            ))
            .into());
        }
        Ok(())
    }
}

fn resend(server: &Server, side: &mut Side) -> Result<(), Failure> {
    let frames: Vec<_> = side.unacked.values().cloned().map(client_frame::Frame::Send).collect();
    let mut talker = Talker::connect(server, side)?;
    talker.send(&frames)?;
    while !side.unacked.is_empty() {
        side.see(talker.next()?);
        if let Some(refused) = side.refused.take() {
            return Err(Violation(format!("user {}: a send was refused: {refused}", side.user)).into());
        }
    }
    Ok(())
}

/// The whole inbox: `hello` with cursor 0 makes the server send everything.
fn read_inbox(server: &Server, side: &Side) -> Result<Vec<chat::Event>, Failure> {
    let mut talker = Talker::connect(server, side)?;
    let mut events = Vec::new();
    loop {
        match talker.next()? {
            server_frame::Frame::Page(page) => {
                events.extend(page.events);
                if page.live {
                    return Ok(events);
                }
            }
            server_frame::Frame::Event(event) => events.push(event),
            server_frame::Frame::Error(error) => {
                return Err(io::Error::other(format!("{}: {}", error.code, error.message)).into());
            }
            _ => {}
        }
    }
}

fn check_inbox(side: &Side, inbox: &[chat::Event]) -> Result<(), Violation> {
    let mut known = BTreeMap::new();
    for (index, event) in inbox.iter().enumerate() {
        let rev = index as u64 + 1;
        if event.rev != rev {
            return Err(Violation(format!(
                "user {}: rev {} stands where {rev} should",
                side.user, event.rev
            )));
        }
        let Some(message) = message_of(event) else { continue };
        if message.seq != rev {
            // These users have one conversation only, so both numbers count the same messages.
            return Err(Violation(format!("user {}: rev {rev} has seq {}", side.user, message.seq)));
        }
        if let Some(earlier) = known.insert((message.sender, &message.client_id), rev) {
            return Err(Violation(format!(
                "user {}: clientId {} stands twice, at rev {earlier} and {rev}",
                side.user, message.client_id
            )));
        }
    }
    for (rev, message_id) in &side.seen {
        let now = inbox.get(*rev as usize - 1).and_then(message_of).map(|message| message.message_id);
        if now != Some(*message_id) {
            return Err(Violation(format!(
                "user {}: rev {rev} was message {message_id} before the kill and is {now:?} now",
                side.user
            )));
        }
    }
    Ok(())
}

fn check_acked(side: &Side, inbox: &[chat::Event], sender: &Side) -> Result<(), Violation> {
    let kept: BTreeMap<&str, (u64, u64)> = inbox
        .iter()
        .filter_map(message_of)
        .filter(|message| message.sender == sender.user)
        .map(|message| (message.client_id.as_str(), (message.message_id, message.seq)))
        .collect();
    for (client_id, acked) in &sender.acked {
        match kept.get(client_id.as_str()) {
            Some(found) if found == acked => {}
            Some(found) => {
                return Err(Violation(format!(
                    "user {}: {client_id} was acknowledged as {acked:?} and is {found:?} (messageId, seq)",
                    side.user
                )));
            }
            None => {
                return Err(Violation(format!(
                    "user {}: acknowledged {client_id} {acked:?} is lost",
                    side.user
                )));
            }
        }
    }
    Ok(())
}
