//! Whom the program watches, and whether anybody is at this device.
//!
//! Neither is kept by the server beyond a connection, so each new one is told again; and what changes faster than it may
//! be told is told as it is in the end.

use holdfast_protocol::chat::{SetAway, WatchPresence, client_frame};

/// Between two frames: the server counts them among others, 20 in 10 s by default.
const INTERVAL_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub(crate) struct Presence {
    watched: Vec<u64>,
    is_away: bool,
    owes_watch: bool,
    owes_away: bool,
    not_before_ms: u64,
}

impl Presence {
    pub(crate) fn watch(&mut self, users: Vec<u64>) {
        if users != self.watched {
            self.watched = users;
            self.owes_watch = true;
        }
    }

    pub(crate) fn set_away(&mut self, is_away: bool) {
        if is_away != self.is_away {
            self.is_away = is_away;
            self.owes_away = true;
        }
    }

    /// A new connection: the server knows nothing.
    pub(crate) fn begin_again(&mut self) {
        self.owes_watch = !self.watched.is_empty();
        self.owes_away = self.is_away;
        self.not_before_ms = 0;
    }

    /// Something was refused for the moment, and it may have been this.
    pub(crate) fn repeat(&mut self, at_ms: u64) {
        self.begin_again();
        self.not_before_ms = at_ms;
    }

    /// When the next frame is due.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        (self.owes_watch || self.owes_away).then_some(self.not_before_ms)
    }

    /// The next frame, if one is due.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<client_frame::Frame> {
        if self.next_ms().is_none_or(|at_ms| at_ms > now_ms) {
            return None;
        }
        self.not_before_ms = now_ms.saturating_add(INTERVAL_MS);
        if std::mem::take(&mut self.owes_watch) {
            let users = self.watched.clone();
            return Some(client_frame::Frame::WatchPresence(WatchPresence { users }));
        }
        self.owes_away = false;
        Some(client_frame::Frame::SetAway(SetAway { away: self.is_away }))
    }
}
