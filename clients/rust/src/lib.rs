//! A sans-IO client of the Holdfast chat protocol: bytes, time and requests in; bytes, deadlines and events out.
//!
//! [`Client`] is the whole protocol of one device: the WebSocket handshake, `hello`, an outbox whose messages are
//! sent again after a reconnect under the same `clientId`, an inbox whose entries come out each once and in order
//! (what is missing is asked for), heartbeats, and when to reconnect. It owns no socket, clock, thread or source of
//! randomness; the program around it does what it says:
//!
//! ```text
//!   transport is up / bytes / is down ─▶ ┌────────┐ ─▶ poll_transmit: bytes for the transport
//!               the time, when due ─▶    │ Client │ ─▶ poll_timeout: when it wants to be woken
//!       act, ask, ack, close, … ─▶      └────────┘ ─▶ poll_event: connect, entries, answers, the end
//! ```
//!
//! After every call: write what [`Client::poll_transmit`] gives, act on what [`Client::poll_event`] gives, and sleep
//! until [`Client::poll_timeout`] or until the transport has something.
//!
//! Use [`Format::Protobuf`](holdfast_protocol::chat::Format::Protobuf) where there is a choice: a frame in JSON with
//! a field of a later version is an error here as it is for the server, protobuf skips it.
//!
//! Invariants: an entry that comes out has the `rev` after the one before; a message is in the outbox until it was
//! accepted or refused for good; what a server can make this grow is bounded by what the caller hands in at once.
//!
//! Never here: sockets, TLS, clocks, storage, anything of the server.

#![forbid(unsafe_code)]

mod act;
mod backoff;
mod client;
mod config;
mod event;
mod handshake;
mod heartbeat;
mod outbox;
mod pace;
mod presence;
mod questions;
mod random;

pub use act::Act;
pub use client::{AckError, Client, Counters};
pub use config::{ClientConfig, ConfigError};
pub use event::{Event, Lost, Rejection};
pub use outbox::SendError;
pub use questions::{Answer, HistoryFrom, QUESTIONS_MAX, Question, TooManyQuestions};
pub use random::Random;
