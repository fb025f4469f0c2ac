//! The limits: defaults, and the relations between them that everything else relies on.
//!
//! Limits that are compared with each other at run time are compared here at compile time for the defaults, and by
//! [`super::Effective::resolve`] for what an operator chose.

use std::time::Duration;

use holdfast_protocol::chat::limits::TITLE_BYTES_MAX;

use super::error::ConfigError;
use super::layers::Source;

/// Bytes of one message's body: beyond, `message_too_large`.
pub const MESSAGE_BODY_BYTES: u64 = 64 << 10;
/// Bytes of one WebSocket frame's payload.
pub const FRAME_BYTES: u64 = 256 << 10;
/// Bytes of one WebSocket message, all fragments together.
pub const MESSAGE_BYTES: u64 = 256 << 10;
/// Fragments of one WebSocket message.
pub const FRAGMENTS: u32 = 64;
/// Bytes that may wait for one session's socket: beyond, `gap`.
pub const OUTPUT_BYTES: u64 = 256 << 10;
/// Bytes of one page of inbox entries.
pub const PAGE_BYTES: u64 = 128 << 10;
/// Entries of one page.
pub const PAGE_ENTRIES: u32 = 1_000;
/// Members of one group: beyond, `too_many_members`.
pub const GROUP_MEMBERS: u32 = 500;
/// Messages of one answer to `history`.
pub const HISTORY_MESSAGES: u32 = 200;
/// Inbox entries that a device may be behind: beyond, `snapshot`.
pub const SNAPSHOT_AFTER: u32 = 10_000;
/// Users whose presence one session watches: beyond, `too_many_watched`.
pub const WATCHED_USERS: u32 = 500;
/// Bytes of a request head.
pub const REQUEST_HEAD_BYTES: u64 = 8 << 10;
/// Header lines of a request head.
pub const REQUEST_HEADERS: u32 = 64;
/// SO_SNDBUF of every connection. The kernel takes twice as much, since it counts its own overhead, and goes beyond it by
/// the segment that it is filling, which over loopback is 64 KiB: 460 KiB for a peer that reads nothing.
pub const KERNEL_SEND_BUFFER_BYTES: u64 = 192 << 10;
/// Messages per second and session, sustained.
pub const SEND_PER_SECOND: u32 = 20;
/// Messages that a session may send at once.
pub const SEND_BURST: u32 = 100;
/// Control frames per window.
pub const CONTROL_FRAMES: u32 = 20;
/// What a message adds to its body on the wire, generously: ids, names, JSON keys, the WebSocket header.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 1 << 10;
/// A group's member in an answer to `group`, or to `receipts`, at most, as JSON.
pub const GROUP_MEMBER_BYTES: u64 = 104;
/// What such an answer, or a conversation in a list, has beside members, messages and titles, at most, as JSON.
pub const CONVERSATION_BYTES: u64 = 256;

/// `/echo` takes messages up to this size …
pub const BENCH_MESSAGE_BYTES: u64 = 16 << 20;
/// … in up to this many fragments: 65,536 and the one that only ends the message, as Autobahn|Testsuite sends it.
pub const BENCH_FRAGMENTS: u32 = 65_537;

const _: () = {
    // Base64 makes three bytes four: an opaque body in JSON still fits into a message.
    assert!(MESSAGE_BODY_BYTES * 4 / 3 + MESSAGE_OVERHEAD_BYTES <= MESSAGE_BYTES);
    assert!(FRAME_BYTES <= MESSAGE_BYTES);
    // One message always fits into an empty output, or a session could never get past it.
    assert!(MESSAGE_BYTES <= OUTPUT_BYTES);
    // A page ends with the entry that crosses its limit; both together fit into an empty output.
    assert!(PAGE_BYTES + MESSAGE_BODY_BYTES + MESSAGE_OVERHEAD_BYTES <= OUTPUT_BYTES);
    // All of a group's members too, and so do fewer.
    assert!(group_bytes(GROUP_MEMBERS) <= OUTPUT_BYTES);
    assert!(PAGE_ENTRIES >= 1 && FRAGMENTS >= 1 && REQUEST_HEADERS >= 1);
    assert!(SEND_PER_SECOND <= SEND_BURST);
    assert!(BENCH_MESSAGE_BYTES >= MESSAGE_BYTES && BENCH_FRAGMENTS >= FRAGMENTS);
};

/// An answer that names all members of a group.
const fn group_bytes(members: u32) -> u64 {
    CONVERSATION_BYTES + TITLE_BYTES_MAX as u64 + members as u64 * GROUP_MEMBER_BYTES
}

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the whole process: beyond, 503 with `Retry-After`.
    pub connections: u32,
    /// Memory of the whole process, kernel's socket memory included: beyond, new connections get 503.
    /// `None`: four fifths of what the machine or the control group has.
    pub memory_bytes: Option<u64>,
    /// Bytes of a request head.
    pub request_head_bytes: u64,
    /// Header lines of a request head.
    pub request_headers: u32,
    /// From the TCP connection to the end of the request head.
    pub handshake_timeout: Duration,
    /// From the handshake to the first `hello`.
    pub login_timeout: Duration,
    /// Bytes of one message's body.
    pub message_body_bytes: u64,
    /// Bytes of one WebSocket frame's payload.
    pub frame_bytes: u64,
    /// Bytes of one WebSocket message.
    pub message_bytes: u64,
    /// Fragments of one WebSocket message.
    pub fragments: u32,
    /// Bytes that may wait for one session's socket.
    pub output_bytes: u64,
    /// SO_SNDBUF, set on the listener.
    pub kernel_send_buffer_bytes: u64,
    /// Entries of one inbox page.
    pub page_entries: u32,
    /// Bytes of one inbox page.
    pub page_bytes: u64,
    /// Members of one group.
    pub group_members: u32,
    /// Contacts of one user; also users that one can block.
    pub contacts: u32,
    /// Messages of one answer to `history`.
    pub history_messages: u32,
    /// Inbox entries that a device may be behind and still gets all of them.
    pub snapshot_after: u32,
    /// Users whose presence one session watches.
    pub watched_users: u32,
    /// For how long a user is still online after the last device has gone.
    pub presence_grace: Duration,
    /// Messages per second and session, sustained.
    pub send_per_second: u32,
    /// Messages that a session may send at once.
    pub send_burst: u32,
    /// Control frames (ping, pong, close) per [`Self::control_window`].
    pub control_frames: u32,
    /// The window in which control frames are counted.
    pub control_window: Duration,
    /// Devices of one user.
    pub devices: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2_000_000,
            memory_bytes: None,
            request_head_bytes: REQUEST_HEAD_BYTES,
            request_headers: REQUEST_HEADERS,
            handshake_timeout: Duration::from_secs(10),
            login_timeout: Duration::from_secs(10),
            message_body_bytes: MESSAGE_BODY_BYTES,
            frame_bytes: FRAME_BYTES,
            message_bytes: MESSAGE_BYTES,
            fragments: FRAGMENTS,
            output_bytes: OUTPUT_BYTES,
            kernel_send_buffer_bytes: KERNEL_SEND_BUFFER_BYTES,
            page_entries: PAGE_ENTRIES,
            page_bytes: PAGE_BYTES,
            group_members: GROUP_MEMBERS,
            contacts: 5_000,
            history_messages: HISTORY_MESSAGES,
            snapshot_after: SNAPSHOT_AFTER,
            watched_users: WATCHED_USERS,
            presence_grace: Duration::from_secs(10),
            send_per_second: SEND_PER_SECOND,
            send_burst: SEND_BURST,
            control_frames: CONTROL_FRAMES,
            control_window: Duration::from_secs(10),
            devices: 10,
        }
    }
}

impl Limits {
    /// Limits that are each in range and still do not fit together; the same relations as at the top of this file.
    pub(super) fn conflicts(&self, source: impl Fn(&str) -> Source) -> Vec<ConfigError> {
        let bytes = super::value::show_bytes;
        let body_on_the_wire = self.message_body_bytes * 4 / 3 + MESSAGE_OVERHEAD_BYTES;
        let page_on_the_wire = self.page_bytes + self.message_body_bytes + MESSAGE_OVERHEAD_BYTES;
        let mut conflicts = Vec::new();
        let mut relate = |fits: bool, one: &'static str, other: &'static str, least: String, why| {
            if !fits {
                let sources = (source(one), source(other));
                conflicts.push(ConfigError::Conflict { one, other, least, why, sources: Box::new(sources) });
            }
        };
        relate(
            body_on_the_wire <= self.message_bytes,
            "limits.message_body",
            "limits.message",
            bytes(body_on_the_wire),
            "a body in base64 with its envelope must fit into a message",
        );
        relate(
            self.frame_bytes <= self.message_bytes,
            "limits.frame",
            "limits.message",
            bytes(self.frame_bytes),
            "a frame is at most a whole message",
        );
        relate(
            self.message_bytes <= self.output_bytes,
            "limits.message",
            "limits.output",
            bytes(self.message_bytes),
            "one message must fit into an empty output, or its receiver could never get past it",
        );
        relate(
            page_on_the_wire <= self.output_bytes,
            "limits.page",
            "limits.output",
            bytes(page_on_the_wire),
            "a page and the entry that ends it must fit into an empty output",
        );
        relate(
            group_bytes(self.group_members) <= self.output_bytes,
            "limits.group_members",
            "limits.output",
            bytes(group_bytes(self.group_members)),
            "all members of a group must fit into an empty output, or nobody could be told who they are",
        );
        relate(
            self.send_per_second <= self.send_burst,
            "limits.send_per_second",
            "limits.send_burst",
            self.send_per_second.to_string(),
            "a burst is at least one second's worth",
        );
        conflicts
    }
}
