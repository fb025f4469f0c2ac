//! What a client tells the program around it.

use holdfast_protocol::chat::{Entry, People, Presence, Receipts, UserTyping};
use holdfast_protocol::id::{MessageId, Rev, Seq, UserId};
use holdfast_protocol::ws::DecodeError;
use holdfast_protocol::ws::handshake::ResponseError;

use crate::questions::Answer;

/// Something that happened, or that must be done.
#[derive(Debug)]
pub enum Event {
    /// Open a transport, then call [`handle_connected`](crate::Client::handle_connected), or
    /// [`handle_disconnected`](crate::Client::handle_disconnected) if that failed.
    Connect {
        /// The URL that the server asked to come to, instead of the usual one. Whether to trust it with the token is
        /// the program's decision.
        to: Option<String>,
    },
    /// Write what [`poll_transmit`](crate::Client::poll_transmit) still gives, then close the transport; nothing that
    /// happens to it from here on is to be reported.
    Disconnect,
    /// The session is registered.
    Welcomed {
        /// Who the token says this is.
        user: UserId,
        /// The device's name.
        device: String,
        /// The last `rev` there is; entries up to it follow.
        head: Rev,
    },
    /// An inbox entry: the one after the one before.
    Entry {
        /// Its position.
        rev: Rev,
        /// What happened.
        entry: Entry,
    },
    /// Everything up to here has come; from here on entries come as they happen.
    Live {
        /// The cursor.
        rev: Rev,
    },
    /// A message is durable, and out of the outbox.
    Accepted {
        /// Which.
        client_id: String,
        /// Its id.
        message_id: MessageId,
        /// Its position in the conversation.
        seq: Seq,
        /// The group that it has made.
        conversation: Option<String>,
    },
    /// A message was refused for good, and is out of the outbox.
    Rejected {
        /// Which.
        client_id: String,
        /// Why.
        rejection: Rejection,
    },
    /// A message was refused for now: it stays in the outbox, and is sent again no earlier than `retry_at_ms`.
    Delayed {
        /// Which.
        client_id: String,
        /// Why.
        rejection: Rejection,
        /// When.
        retry_at_ms: u64,
    },
    /// The answer to the question that was asked first of those that were not answered.
    Answered(Answer),
    /// Another member has read on.
    Receipts(Receipts),
    /// Another device of the user has changed what others are to the user, or who may see the user.
    People(People),
    /// Another member is writing, or not any more: to be believed for some seconds.
    Typing(UserTyping),
    /// How it is with some of the watched users, now.
    Presence(Presence),
    /// The server refused something else, or says why it is about to close.
    Refused(Rejection),
    /// The connection is gone; another one will be asked for at `reconnect_at_ms`.
    Lost {
        /// Why.
        why: Lost,
        /// When.
        reconnect_at_ms: u64,
    },
    /// The connection is gone and will not be asked for again, unless by [`reconnect`](crate::Client::reconnect).
    Ended {
        /// Why.
        why: Lost,
    },
}

/// What an `error` frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// One of [`error_code`](holdfast_protocol::chat::error_code), or of a later version.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Why a connection is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// This side wanted it.
    #[error("closed by this client")]
    Local,
    /// The transport failed, or could not be opened.
    #[error("the transport failed")]
    Transport,
    /// The server closed it.
    #[error("closed by the server: {code} {reason}")]
    Closed {
        /// See [`close`](holdfast_protocol::chat::close).
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// The server refused the handshake.
    #[error(transparent)]
    Handshake(#[from] ResponseError),
    /// The server speaks another subprotocol, or none.
    #[error("the server did not agree to the subprotocol {0}")]
    Subprotocol(&'static str),
    /// No `welcome` came in time.
    #[error("no welcome within the time to connect")]
    ConnectTimeout,
    /// A ping was not answered in time.
    #[error("the server does not answer")]
    Silent,
    /// The server broke RFC 6455.
    #[error("the server broke the WebSocket protocol: {0}")]
    WebSocket(#[from] DecodeError),
    /// The server broke the chat protocol.
    #[error("the server broke the chat protocol: {0}")]
    Protocol(String),
}
