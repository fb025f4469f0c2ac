//! The opening handshake: strict HTTP/1.1 request heads (RFC 9112) and the upgrade (RFC 6455 §4).
//!
//! Server: [`HeadScanner`] finds the end of the head while it arrives, [`parse_request`] judges it,
//! [`RequestHead::upgrade`] judges the upgrade, [`write_accept`] or [`write_refusal`] answers. The same head goes to
//! the HTTP API when it asks for no upgrade, so everything that two parsers could read in two ways is refused here:
//! bare LF, obs-fold, blanks around a field name, more than one length, a request target that is not a path.
//!
//! Client: [`client_key`], [`write_request`], [`parse_response`].
//!
//! What it must never do: look at a byte again and again because it came alone (work is linear in bytes), or let a
//! head grow beyond [`HeadLimits`].

mod answer;
mod client;
mod fields;
mod head;
mod key;
mod request;
mod scan;
mod upgrade;

pub use answer::{reason_phrase, write_accept, write_refusal};
pub use client::{ClientRequest, Response, ResponseError, parse_response, write_request};
pub use fields::Fields;
pub use head::HeadError;
pub use key::{ClientKey, accept_value, client_key};
pub use request::{BodyFraming, RequestHead, parse_request};
pub use scan::{HeadLimits, HeadScanner};
pub use upgrade::{HandshakeError, PROTOCOLS_MAX, Upgrade};
