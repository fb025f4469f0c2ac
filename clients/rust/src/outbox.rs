//! Acts on their way, messages above all: kept until the server has accepted them or refused them for good.
//!
//! Invariant: they go out in the order in which they came in, on every connection from the first that is left;
//! the server knows one that it has by its `clientId`, and answers as it did before.

use std::collections::VecDeque;

use holdfast_protocol::chat::{ClientFrame, LimitError, check_client_id, client_frame};
use prost::Message as _;

use crate::act::Act;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The server would refuse it.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// One with this name is on its way.
    #[error("a message with the clientId {0:?} is waiting for its answer; choose another one")]
    Duplicate(String),
    /// Too many are waiting.
    #[error(
        "{messages} messages of {bytes} bytes wait for their answers, as many as are allowed; wait for some"
    )]
    Full {
        /// How many there are.
        messages: usize,
        /// How many bytes they have.
        bytes: usize,
    },
}

#[derive(Debug)]
struct Waiting {
    client_id: String,
    act: Act,
    bytes: usize,
    /// Some connection has seen it.
    was_written: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: VecDeque<Waiting>,
    /// How many of them, from the front, were written to the present connection.
    written: usize,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
}

impl Outbox {
    pub(crate) const fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), written: 0, bytes: 0, messages_max, bytes_max }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn push(
        &mut self,
        client_id: String,
        act: Act,
        body_bytes_max: usize,
    ) -> Result<(), SendError> {
        check_client_id(&client_id)?;
        act.check(body_bytes_max)?;
        if self.position(&client_id).is_some() {
            return Err(SendError::Duplicate(client_id));
        }
        let bytes = ClientFrame { frame: Some(act.frame(client_id.clone())) }.encoded_len();
        if self.waiting.len() >= self.messages_max || self.bytes + bytes > self.bytes_max {
            return Err(SendError::Full { messages: self.waiting.len(), bytes: self.bytes });
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting { client_id, act, bytes, was_written: false });
        Ok(())
    }

    /// The next message that the present connection has not seen.
    pub(crate) fn next(&self) -> Option<client_frame::Frame> {
        self.waiting.get(self.written).map(|waiting| waiting.act.frame(waiting.client_id.clone()))
    }

    /// There is one.
    pub(crate) fn has_next(&self) -> bool {
        self.written < self.waiting.len()
    }

    /// It was written. Says whether it had been before.
    pub(crate) fn mark_written(&mut self) -> bool {
        let Some(waiting) = self.waiting.get_mut(self.written) else { return false };
        self.written += 1;
        std::mem::replace(&mut waiting.was_written, true)
    }

    /// Another connection, which has seen nothing.
    pub(crate) const fn begin_again(&mut self) {
        self.written = 0;
    }

    /// Takes a message out, because it was answered. `None`: it was not waiting.
    pub(crate) fn remove(&mut self, client_id: &str) -> Option<Act> {
        let position = self.position(client_id)?;
        let waiting = self.waiting.remove(position)?;
        self.bytes -= waiting.bytes;
        if position < self.written {
            self.written -= 1;
        }
        Some(waiting.act)
    }

    /// A message must be written again, and with it, for the order's sake, whatever was written after it.
    pub(crate) fn rewind_to(&mut self, client_id: &str) -> bool {
        match self.position(client_id) {
            Some(position) => {
                self.written = self.written.min(position);
                true
            }
            None => false,
        }
    }

    /// Answers come mostly in the order of the messages, so the search is short.
    fn position(&self, client_id: &str) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.client_id == client_id)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::chat::{Body, body};

    use super::*;

    fn message() -> Act {
        let body = Body { kind: Some(body::Kind::Text("12345678".into())) };
        Act::Send { conversation: "@2".into(), body, reply_to: None }
    }

    /// Of a message with a name of one byte.
    fn message_bytes() -> usize {
        ClientFrame { frame: Some(message().frame("a".into())) }.encoded_len()
    }

    fn written(outbox: &mut Outbox) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(frame) = outbox.next() {
            let client_frame::Frame::Send(send) = frame else { panic!("{frame:?}") };
            seen.push(send.client_id);
            outbox.mark_written();
        }
        seen
    }

    #[test]
    fn messages_go_out_in_order_and_again_after_a_reconnect() {
        let mut outbox = Outbox::new(10, 1_000);
        for name in ["a", "b", "c"] {
            outbox.push(name.into(), message(), 100).unwrap();
        }
        assert_eq!(written(&mut outbox), ["a", "b", "c"]);
        assert!(outbox.remove("b").is_some());
        assert!(outbox.remove("b").is_none());
        outbox.push("d".into(), message(), 100).unwrap();
        assert_eq!(written(&mut outbox), ["d"]);
        outbox.begin_again();
        assert_eq!(written(&mut outbox), ["a", "c", "d"]);
        assert!(outbox.rewind_to("c"));
        assert!(!outbox.rewind_to("b"));
        assert_eq!(written(&mut outbox), ["c", "d"]);
    }

    #[test]
    fn the_limits_hold_from_both_sides() {
        let mut outbox = Outbox::new(2, 1_000);
        outbox.push("a".into(), message(), 8).unwrap();
        assert!(matches!(
            outbox.push("b".into(), message(), 7),
            Err(SendError::Limit(LimitError::BodyTooLarge { .. }))
        ));
        assert_eq!(outbox.push("a".into(), message(), 8), Err(SendError::Duplicate("a".into())));
        assert!(matches!(
            outbox.push("".into(), message(), 8),
            Err(SendError::Limit(LimitError::ClientId { bytes: 0 }))
        ));
        outbox.push("b".into(), message(), 8).unwrap();
        assert_eq!(
            outbox.push("c".into(), message(), 8),
            Err(SendError::Full { messages: 2, bytes: 2 * message_bytes() })
        );
        outbox.remove("a").unwrap();
        outbox.push("c".into(), message(), 8).unwrap();

        let mut outbox = Outbox::new(10, 2 * message_bytes());
        outbox.push("a".into(), message(), 8).unwrap();
        outbox.push("b".into(), message(), 8).unwrap();
        assert_eq!(
            outbox.push("c".into(), message(), 8),
            Err(SendError::Full { messages: 2, bytes: 2 * message_bytes() })
        );
        outbox.remove("b").unwrap();
        outbox.push("c".into(), message(), 8).unwrap();
    }
}
