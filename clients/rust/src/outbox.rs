//! Messages on their way: kept until the server has accepted them or refused them for good.
//!
//! Invariant: messages go out in the order in which they came in, on every connection from the first that is left;
//! the server knows one that it has by its `clientId`, and answers as it did before.

use std::collections::VecDeque;

use holdfast_protocol::chat::{self, Body, LimitError, body, check_body, check_client_id};

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
    send: chat::Send,
    bytes: usize,
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

    pub(crate) fn push(&mut self, send: chat::Send, body_bytes_max: usize) -> Result<(), SendError> {
        check_client_id(&send.client_id)?;
        check_body(send.body.as_ref(), body_bytes_max)?;
        if self.position(&send.client_id).is_some() {
            return Err(SendError::Duplicate(send.client_id));
        }
        let bytes = send.client_id.len() + send.conversation.len() + send.body.as_ref().map_or(0, body_bytes);
        if self.waiting.len() >= self.messages_max || self.bytes + bytes > self.bytes_max {
            return Err(SendError::Full { messages: self.waiting.len(), bytes: self.bytes });
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting { send, bytes });
        Ok(())
    }

    /// The next message that the present connection has not seen.
    pub(crate) fn next(&self) -> Option<&chat::Send> {
        self.waiting.get(self.written).map(|waiting| &waiting.send)
    }

    /// It was written.
    pub(crate) fn mark_written(&mut self) {
        self.written = (self.written + 1).min(self.waiting.len());
    }

    /// Another connection, which has seen nothing.
    pub(crate) const fn begin_again(&mut self) {
        self.written = 0;
    }

    /// Takes a message out, because it was answered. `None`: it was not waiting.
    pub(crate) fn remove(&mut self, client_id: &str) -> Option<chat::Send> {
        let position = self.position(client_id)?;
        let waiting = self.waiting.remove(position)?;
        self.bytes -= waiting.bytes;
        if position < self.written {
            self.written -= 1;
        }
        Some(waiting.send)
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
        self.waiting.iter().position(|waiting| waiting.send.client_id == client_id)
    }
}

fn body_bytes(body: &Body) -> usize {
    match &body.kind {
        Some(body::Kind::Text(text)) => text.len(),
        Some(body::Kind::Custom(custom)) => custom.content_type.len() + custom.data.len(),
        Some(body::Kind::Media(media)) => {
            media.id.len() + media.content_type.len() + media.name.len() + media.caption.len()
        }
        // Only a server writes these, and refuses them from a client.
        Some(
            body::Kind::GroupCreated(_)
            | body::Kind::MembersAdded(_)
            | body::Kind::MemberRemoved(_)
            | body::Kind::MemberLeft(_)
            | body::Kind::Renamed(_)
            | body::Kind::RoleSet(_)
            | body::Kind::Edited(_)
            | body::Kind::Deleted(_),
        )
        | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(client_id: &str) -> chat::Send {
        let body = Some(Body { kind: Some(body::Kind::Text("12345678".into())) });
        chat::Send { client_id: client_id.into(), conversation: "@2".into(), body, reply_to: None }
    }

    fn written(outbox: &mut Outbox) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(send) = outbox.next() {
            seen.push(send.client_id.clone());
            outbox.mark_written();
        }
        seen
    }

    #[test]
    fn messages_go_out_in_order_and_again_after_a_reconnect() {
        let mut outbox = Outbox::new(10, 1_000);
        for name in ["a", "b", "c"] {
            outbox.push(message(name), 100).unwrap();
        }
        assert_eq!(written(&mut outbox), ["a", "b", "c"]);
        assert!(outbox.remove("b").is_some());
        assert!(outbox.remove("b").is_none());
        outbox.push(message("d"), 100).unwrap();
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
        outbox.push(message("a"), 8).unwrap();
        assert!(matches!(
            outbox.push(message("b"), 7),
            Err(SendError::Limit(LimitError::BodyTooLarge { .. }))
        ));
        assert_eq!(outbox.push(message("a"), 8), Err(SendError::Duplicate("a".into())));
        assert!(matches!(
            outbox.push(message(""), 8),
            Err(SendError::Limit(LimitError::ClientId { bytes: 0 }))
        ));
        outbox.push(message("b"), 8).unwrap();
        assert_eq!(outbox.push(message("c"), 8), Err(SendError::Full { messages: 2, bytes: 22 }));
        outbox.remove("a").unwrap();
        outbox.push(message("c"), 8).unwrap();

        // Eleven bytes each: the name, "@2", the text.
        let mut outbox = Outbox::new(10, 22);
        outbox.push(message("a"), 8).unwrap();
        outbox.push(message("b"), 8).unwrap();
        assert_eq!(outbox.push(message("c"), 8), Err(SendError::Full { messages: 2, bytes: 22 }));
        outbox.remove("b").unwrap();
        outbox.push(message("c"), 8).unwrap();
    }
}
