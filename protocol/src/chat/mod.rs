//! The client protocol: one schema (`proto/holdfast/v1/chat.proto`), two formats.
//!
//! A WebSocket message holds one [`ClientFrame`] or [`ServerFrame`]: as protobuf in a binary message
//! (`holdfast.v1.proto`), or as protobuf's JSON mapping in a text message (`holdfast.v1.json`). Which of the two a
//! connection speaks is settled by its subprotocol. `docs/protocol.md` shows every frame.
//!
//! - Whole frames: [`decode_client`], [`decode_server`], [`encode_client`], [`encode_server`].
//! - Frames for many receivers: [`entry_json`] once per body, then [`write_event`] and [`write_page`] splice the
//!   encoded entry between a header and a `rev`; nothing is allocated or encoded again per receiver.
//! - What a field may hold: [`limits`], [`parse_conversation`].
//! - What a refusal is called: [`error_code`] for requests, [`close`] for connections.
//!
//! Decoding is where a peer's bytes become values: it never panics, its work and its memory are linear in the
//! message that the WebSocket layer has already bounded, and what it accepts in one format means the same in the
//! other. The one difference is forced by protobuf: an unknown *field* is skipped there and refused in JSON, where
//! it is most often a misspelt one.
//!
//! Never here: sessions, state, anything that remembers the frame before.

mod audience;
pub mod close;
mod conversation;
pub mod error_code;
mod format;
#[rustfmt::skip]
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "prost-build writes this file; tests/chat/generated.rs compares it with the schema"
)]
mod generated;
mod json;
pub mod limits;
mod splice;

pub use audience::Audience;
pub use conversation::{ConversationError, parse_conversation};
pub use format::{
    Format, FrameError, decode_client, decode_server, encode_client, encode_server, entry_json,
};
pub use generated::*;
pub use limits::{
    LimitError, check_body, check_client_id, check_content, check_device, check_history_limit,
    check_list_limit, check_members, check_other, check_page_limit, check_people_limit, check_retention,
    check_title, check_watched,
};
pub use splice::{event_bytes, page_bytes, write_event, write_page};
