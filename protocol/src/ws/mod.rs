//! WebSocket, RFC 6455, sans-IO: bytes in, messages out; messages in, bytes out.
//!
//! - [`handshake`]: the HTTP/1.1 request that opens a connection, and both sides' answers (§4).
//! - [`Decoder`]: frames and fragments to whole messages (§5, §6.2), strict about everything that §5 says MUST.
//! - [`encode_frame`], [`encode_header`], [`encode_close`]: messages to frames (§5, §6.1).
//! - [`CloseCode`]: what a close frame says (§7.4).
//!
//! What it must never do: read a clock, touch a socket, panic on what a peer sent, or allocate because a header
//! *declares* a length. Memory is taken only for bytes that have arrived, and only while a message is partial.
//!
//! The one invariant: what comes out depends on the bytes alone, never on where the reads happened to cut them.
//!
//! ```text
//!  0               1               2               3
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! |F|R|R|R| opcode|M| length (7)  | length (16 or 64, big-endian) |
//! |I|S|S|S|  (4)  |A| ≤125: it is | 126: 16 bits follow           |
//! |N|V|V|V|       |S| the length  | 127: 64 bits follow, top one 0|
//! | |1|2|3|       |K|             |                               |
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! | masking key (32), client to server only | payload …           |
//! +-----------------------------------------+---------------------+
//! ```
//!
//! Extensions are not negotiated, so a reserved bit that is set is always an error.

mod close;
mod decode;
mod encode;
mod error;
mod header;
mod mask;
mod partial;
mod text;

pub mod handshake;

pub use close::{CloseCode, CloseFrame, REASON_BYTES_MAX};
pub use decode::{Decoder, Item};
pub use encode::{encode_close, encode_frame, encode_header, header_bytes};
pub use error::DecodeError;
pub use header::Opcode;
pub use mask::apply_mask;

/// Which end of the connection reads. RFC 6455 §5.1: a server refuses unmasked frames, a client masked ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads what a client sent: every frame must be masked.
    Server,
    /// Reads what a server sent: no frame may be masked.
    Client,
}

/// How much one message may cost. Checked as soon as a header says more, before any of it is kept.
///
/// Control frames are outside of it: 125 bytes and one frame each, by RFC 6455 §5.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// The payload of one data frame.
    pub frame_bytes: u64,
    /// The payload of one message, all its fragments together.
    pub message_bytes: u64,
    /// The frames that one message may consist of.
    pub fragments: u32,
}

impl Default for MessageLimits {
    /// 256 KiB per frame and message, 64 fragments.
    fn default() -> Self {
        Self { frame_bytes: 256 * 1024, message_bytes: 256 * 1024, fragments: 64 }
    }
}
