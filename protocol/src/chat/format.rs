//! The two formats of a frame, and what can be wrong with one.

use prost::Message as _;

use super::{ClientFrame, Entry, ServerFrame, error_code, json};

/// Characters of a peer's own text that an error message repeats.
const QUOTE_CHARS_MAX: usize = 240;

/// How the frames of a connection are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Protobuf's JSON mapping, in text messages.
    Json,
    /// Protobuf, in binary messages.
    Protobuf,
}

impl Format {
    /// Both, in the order in which the server prefers them when a client offers several: as the client does.
    pub const ALL: [Self; 2] = [Self::Json, Self::Protobuf];

    /// The WebSocket subprotocol that stands for it.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "holdfast.v1.json",
            Self::Protobuf => "holdfast.v1.proto",
        }
    }

    /// The format that a subprotocol stands for. Names are compared exactly, as RFC 6455 §4.1 says.
    #[must_use]
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.subprotocol() == name)
    }
}

/// Why bytes are not a frame. The message says what is allowed, and repeats at most a line of what came.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not JSON at all.
    #[error("not JSON: {message} (line {line}, column {column})")]
    Syntax {
        /// What the parser stumbled over.
        message: String,
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// JSON, but not what the schema says: an unknown or repeated field, a wrong type, a number out of range.
    #[error("not a frame: {message} (line {line}, column {column})")]
    Shape {
        /// Which field, and what it may be.
        message: String,
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// Not the protobuf message of the schema.
    #[error("not a frame: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A message of the schema with nothing in it, or with a frame of a later version.
    #[error("no frame of this version in the message; it must hold exactly one of {}", names(.allowed))]
    Missing {
        /// The frames that this side may send.
        allowed: &'static [&'static str],
    },
}

impl FrameError {
    /// The code of the `error` frame that reports it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        error_code::BAD_FRAME
    }
}

impl From<serde_json::Error> for FrameError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        // serde_json ends its text with the position, which a shortened text would lose.
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        let message = shorten(text);
        match error.classify() {
            serde_json::error::Category::Data => Self::Shape { message, line, column },
            _ => Self::Syntax { message, line, column },
        }
    }
}

/// Decodes what a client sent.
///
/// # Errors
/// When the bytes are not exactly one frame of the schema.
pub fn decode_client(format: Format, bytes: &[u8]) -> Result<ClientFrame, FrameError> {
    let frame: ClientFrame = match format {
        Format::Json => json::from_slice(bytes)?,
        Format::Protobuf => ClientFrame::decode(bytes)?,
    };
    match frame.frame {
        Some(_) => Ok(frame),
        None => Err(FrameError::Missing { allowed: json::field_names::<ClientFrame>() }),
    }
}

/// Decodes what a server sent.
///
/// # Errors
/// When the bytes are not exactly one frame of the schema.
pub fn decode_server(format: Format, bytes: &[u8]) -> Result<ServerFrame, FrameError> {
    let frame: ServerFrame = match format {
        Format::Json => json::from_slice(bytes)?,
        Format::Protobuf => ServerFrame::decode(bytes)?,
    };
    match frame.frame {
        Some(_) => Ok(frame),
        None => Err(FrameError::Missing { allowed: json::field_names::<ServerFrame>() }),
    }
}

/// Appends a client's frame to `out`.
pub fn encode_client(format: Format, frame: &ClientFrame, out: &mut Vec<u8>) {
    match format {
        Format::Json => json::to_vec(frame, out),
        Format::Protobuf => protobuf_to_vec(frame, out),
    }
}

/// Appends a server's frame to `out`. What goes to many receivers is cheaper with
/// [`write_event`](super::write_event).
pub fn encode_server(format: Format, frame: &ServerFrame, out: &mut Vec<u8>) {
    match format {
        Format::Json => json::to_vec(frame, out),
        Format::Protobuf => protobuf_to_vec(frame, out),
    }
}

/// Appends the JSON twin of a protobuf-encoded [`Entry`] to `out`: once per entry, whatever the number of receivers.
///
/// # Errors
/// When the bytes are not an [`Entry`]; `out` is then as it was.
pub fn entry_json(entry: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let entry = Entry::decode(entry)?;
    json::to_vec(&entry, out);
    Ok(())
}

fn protobuf_to_vec(message: &impl prost::Message, out: &mut Vec<u8>) {
    out.reserve(message.encoded_len());
    message.encode_raw(out);
}

/// At most a line of a text that may hold whatever a peer sent.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn names(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subprotocols_are_compared_exactly() {
        for format in Format::ALL {
            assert_eq!(Format::from_subprotocol(format.subprotocol()), Some(format));
        }
        for name in ["", "holdfast.v1", "holdfast.v2.json", "Holdfast.v1.json", "holdfast.v1.json "] {
            assert_eq!(Format::from_subprotocol(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_message_without_a_frame_is_refused_in_both_formats() {
        // Field 200 of a later version, skipped by protobuf: nothing is left.
        for (format, bytes) in
            [(Format::Json, &b"{}"[..]), (Format::Protobuf, b""), (Format::Protobuf, &[0xc2, 0x0c, 0x00])]
        {
            let error = decode_client(format, bytes).expect_err("no frame");
            assert_eq!(error.code(), error_code::BAD_FRAME);
            assert_eq!(
                error.to_string(),
                "no frame of this version in the message; it must hold exactly one of `hello`, `send`, `ack`, \
                 `sync`, `ping`, `createGroup`, `addMembers`, `removeMember`, `leave`, `rename`, `setRole`, `edit`, \
                 `delete`, `history`, `typing`, `read`, `receipts`, `conversations`, `group`, \
                 `watchPresence`, `setAway`, `devices`, `revokeDevice`, \
                 `block`, `unblock`, `setContact`, `setPrivacy`, `people`, `setRetention`"
            );
        }
    }

    #[test]
    fn an_error_repeats_no_more_than_a_line() {
        let long = "x".repeat(200_000);
        for json in [format!(r#"{{"{long}":1}}"#), format!(r#"{{"ping":"{long}"}}"#), long.clone()] {
            let error = decode_client(Format::Json, json.as_bytes()).expect_err("not a frame");
            assert!(error.to_string().len() < 1_000, "{} bytes", error.to_string().len());
        }
    }
}
