//! What bytes *mean*, sans-IO.
//!
//! - [`ws`]: RFC 6455: handshake, frames, masking, UTF-8, close codes.
//! - [`chat`]: the client protocol: protobuf and its JSON twin.
//! - [`id`]: typed ids and the Snowflake generator.
//!
//! Never here: sockets, clocks, threads, allocation per frame.

#![forbid(unsafe_code)]

pub mod chat;
pub mod id;
pub mod ws;
