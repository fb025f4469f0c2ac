//! A device, sans-IO: what a client of the protocol keeps and does by itself. It keeps what was not accepted and sends it
//! again under the same `clientId`, goes on from its cursor, and asks for what is missing. One question is under way at
//! a time, and no `sync` beside it, so that an answer without a name has one question that it can belong to.

use std::collections::VecDeque;

use holdfast_protocol::chat::{self, Format, client_frame, error_code, server_frame};

use super::judge::client_id_of;

/// Requests that may wait for their answers.
pub(crate) const OUTBOX_MAX: usize = 16;
/// Requests that may be sent once more.
const RECENT_MAX: usize = 24;
/// A refusal that says "later".
const RETRY_MS: u64 = 200;

#[derive(Debug)]
struct Waiting {
    frame: client_frame::Frame,
    /// Refused for now: to be sent again then.
    again_ms: Option<u64>,
}

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) user: u64,
    pub(crate) name: String,
    pub(crate) format: Format,
    token: String,
    /// The last entry that it has.
    pub(crate) cursor: u64,
    /// The server has said `welcome`, on the newest connection.
    pub(crate) is_up: bool,
    pub(crate) is_live: bool,
    every_entry: bool,
    /// When to ask for what is missing.
    sync_at_ms: Option<u64>,
    outbox: VecDeque<Waiting>,
    recent: VecDeque<client_frame::Frame>,
    pub(crate) asked_ms: Option<u64>,
    names: u64,
}

impl Device {
    pub(crate) fn new(user: u64, name: String, format: Format) -> Self {
        Self {
            user,
            name,
            format,
            token: String::new(),
            cursor: 0,
            is_up: false,
            is_live: false,
            every_entry: false,
            sync_at_ms: None,
            outbox: VecDeque::new(),
            recent: VecDeque::new(),
            asked_ms: None,
            names: 0,
        }
    }

    pub(crate) fn set_token(&mut self, token: String) {
        self.token = token;
    }

    /// The first frame of a new connection.
    pub(crate) fn hello(&mut self, cursor: Option<u64>, every_entry: bool) -> client_frame::Frame {
        self.lost();
        self.every_entry = every_entry;
        client_frame::Frame::Hello(chat::Hello {
            token: self.token.clone(),
            device: String::new(),
            cursor,
            every_entry,
        })
    }

    /// The newest connection is gone.
    pub(crate) fn lost(&mut self) {
        (self.is_up, self.is_live) = (false, false);
        (self.asked_ms, self.sync_at_ms) = (None, None);
    }

    pub(crate) fn may_act(&self) -> bool {
        self.is_up && self.outbox.len() < OUTBOX_MAX
    }

    pub(crate) fn may_ask(&self) -> bool {
        self.is_live && self.asked_ms.is_none() && self.sync_at_ms.is_none()
    }

    /// Nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.outbox.is_empty() && (!self.is_up || (self.is_live && self.asked_ms.is_none()))
    }

    pub(crate) fn has_outbox(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The next name for a request.
    pub(crate) fn next_name(&mut self) -> String {
        self.names += 1;
        format!("{}-{}", self.name, self.names)
    }

    /// Keeps a request until it is answered.
    pub(crate) fn keep(&mut self, frame: client_frame::Frame) {
        self.outbox.push_back(Waiting { frame, again_ms: None });
    }

    /// A request that it has sent before, answered or not.
    pub(crate) fn earlier(&self, at: usize) -> Option<&client_frame::Frame> {
        let waiting = self.outbox.iter().map(|waiting| &waiting.frame);
        let all = self.recent.len() + self.outbox.len();
        self.recent.iter().chain(waiting).nth(at.checked_rem(all)?)
    }

    /// Goes back to a cursor, or stays, and asks for everything after it.
    pub(crate) fn sync(&mut self, after: u64, limit: u32, every_entry: bool) -> client_frame::Frame {
        self.cursor = after;
        self.is_live = false;
        self.sync_at_ms = None;
        self.every_entry = every_entry;
        client_frame::Frame::Sync(chat::Sync { after, limit, every_entry })
    }

    /// Takes a frame of the newest connection; what is to be sent at once.
    pub(crate) fn handle(
        &mut self,
        now_ms: u64,
        frame: &server_frame::Frame,
        send: &mut Vec<client_frame::Frame>,
    ) {
        use server_frame::Frame;
        match frame {
            Frame::Welcome(welcome) => {
                self.cursor = welcome.cursor;
                self.is_up = true;
                self.is_live = welcome.cursor == welcome.head;
                for waiting in &mut self.outbox {
                    waiting.again_ms = None;
                    send.push(waiting.frame.clone());
                }
            }
            Frame::Event(event) if event.rev == self.cursor + 1 => self.cursor = event.rev,
            Frame::Page(page) => {
                for event in &page.events {
                    if event.rev == self.cursor + 1 {
                        self.cursor = event.rev;
                    }
                }
                self.is_live = page.live;
            }
            Frame::Snapshot(snapshot) if snapshot.end => self.cursor = snapshot.rev,
            Frame::Gap(_) => {
                self.is_live = false;
                self.sync_at_ms = Some(now_ms);
            }
            Frame::Accepted(accepted) => self.answered(&accepted.client_id),
            Frame::Error(error) if !error.client_id.is_empty() => {
                let is_for_now = [
                    error_code::STORAGE_FAILED,
                    error_code::STORAGE_FULL,
                    error_code::OVERLOADED,
                    error_code::RATE_LIMITED,
                ];
                if is_for_now.contains(&error.code.as_str()) {
                    let waiting =
                        self.outbox.iter_mut().find(|it| client_id_of(&it.frame) == Some(&error.client_id));
                    if let Some(waiting) = waiting {
                        waiting.again_ms = Some(now_ms + RETRY_MS);
                    }
                } else {
                    self.answered(&error.client_id);
                }
            }
            Frame::Error(_) => {
                let asked = self.asked_ms.take();
                if asked.is_none() && !self.is_live {
                    self.sync_at_ms = Some(now_ms + RETRY_MS);
                }
            }
            Frame::History(_) | Frame::Conversations(_) | Frame::Group(_) => self.asked_ms = None,
            Frame::Receipts(receipts) if receipts.members.iter().any(|it| it.user == self.user) => {
                self.asked_ms = None;
            }
            _ => {}
        }
    }

    fn answered(&mut self, client_id: &str) {
        let at = self.outbox.iter().position(|it| client_id_of(&it.frame) == Some(client_id));
        if let Some(waiting) = at.and_then(|at| self.outbox.remove(at)) {
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(waiting.frame);
        }
    }

    /// What is due.
    pub(crate) fn due(&mut self, now_ms: u64, send: &mut Vec<client_frame::Frame>) {
        if !self.is_up {
            return;
        }
        if self.asked_ms.is_none() && self.sync_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            send.push(self.sync(self.cursor, 0, self.every_entry));
        }
        for waiting in &mut self.outbox {
            if waiting.again_ms.is_some_and(|at_ms| at_ms <= now_ms) {
                waiting.again_ms = None;
                send.push(waiting.frame.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client_frame::Frame as Ask;
    use server_frame::Frame as Tell;

    fn device() -> Device {
        let mut device = Device::new(1, "phone".into(), Format::Json);
        device.hello(Some(0), false);
        take(&mut device, 0, &welcome(0, 0));
        device
    }

    fn welcome(cursor: u64, head: u64) -> Tell {
        Tell::Welcome(chat::Welcome { cursor, head, ..Default::default() })
    }

    fn event(rev: u64) -> chat::Event {
        chat::Event { rev, entry: None }
    }

    fn take(device: &mut Device, now_ms: u64, frame: &Tell) -> Vec<Ask> {
        let mut send = Vec::new();
        device.handle(now_ms, frame, &mut send);
        send
    }

    fn due(device: &mut Device, now_ms: u64) -> Vec<Ask> {
        let mut send = Vec::new();
        device.due(now_ms, &mut send);
        send
    }

    fn leave(client_id: &str) -> Ask {
        Ask::Leave(chat::Leave { client_id: client_id.into(), conversation: "g7".into() })
    }

    fn error(code: &str, client_id: &str) -> Tell {
        let (code, client_id) = (code.into(), client_id.into());
        Tell::Error(chat::Error { code, client_id, ..Default::default() })
    }

    #[test]
    fn what_was_not_answered_is_sent_again() {
        let mut device = device();
        device.keep(leave("a"));
        device.keep(leave("b"));
        take(&mut device, 1, &Tell::Accepted(chat::Accepted { client_id: "a".into(), ..Default::default() }));
        device.hello(Some(0), false);
        assert!(!device.is_up && due(&mut device, 2).is_empty());
        assert_eq!(take(&mut device, 3, &welcome(0, 0)), [leave("b")]);
        assert_eq!(take(&mut device, 4, &error(error_code::STORAGE_FULL, "b")), []);
        assert_eq!(due(&mut device, 4 + RETRY_MS - 1), []);
        assert_eq!(due(&mut device, 4 + RETRY_MS), [leave("b")]);
        take(&mut device, 300, &error(error_code::NOT_ALLOWED, "b"));
        assert!(device.is_quiet(), "refused for good");
        assert_eq!((device.earlier(0), device.earlier(1)), (Some(&leave("a")), Some(&leave("b"))));
    }

    #[test]
    fn its_cursor_follows_what_comes_and_gaps_are_asked_for() {
        let mut device = device();
        take(&mut device, 1, &Tell::Event(event(1)));
        take(&mut device, 1, &Tell::Event(event(3)));
        assert_eq!(device.cursor, 1, "the judge will say what is wrong with that");
        take(&mut device, 2, &Tell::Gap(chat::Gap { from: 2, to: 9, why: String::new() }));
        assert!(!device.may_ask());
        let sync = Ask::Sync(chat::Sync { after: 1, limit: 0, every_entry: false });
        assert_eq!(due(&mut device, 2), [sync]);
        let snapshot = chat::Snapshot { conversations: Vec::new(), rev: 8, end: true };
        take(&mut device, 3, &Tell::Snapshot(snapshot));
        take(&mut device, 4, &Tell::Page(chat::Page { events: vec![event(9)], head: 9, live: true }));
        assert!(device.may_ask() && device.cursor == 9);
    }
}
