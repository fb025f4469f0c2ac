//! What a peer can do wrong in a frame, and the close code that says so.

use thiserror::Error;

use super::close::CloseCode;

/// Why a stream of frames cannot be read further. Final: the decoder discards whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// RFC 6455 §5.2: reserved bits are for extensions, and none is negotiated.
    #[error("reserved bits {0:#05b} are set in a frame header, but no extension is negotiated; clear them")]
    ReservedBits(u8),
    /// RFC 6455 §5.2: opcodes 3-7 and 11-15 are reserved.
    #[error("opcode {0:#x} is reserved; use 0x0, 0x1, 0x2, 0x8, 0x9 or 0xa")]
    ReservedOpcode(u8),
    /// RFC 6455 §5.5.
    #[error("a control frame (opcode {0:#x}) is fragmented; send it in one frame")]
    FragmentedControl(u8),
    /// RFC 6455 §5.5.
    #[error("a control frame declares more than 125 bytes (length field {0}); 125 are allowed")]
    ControlTooLong(u8),
    /// RFC 6455 §5.4.
    #[error(
        "a continuation frame came while no message was open; start messages with a text or binary frame"
    )]
    UnexpectedContinuation,
    /// RFC 6455 §5.4.
    #[error("a new data frame came before the last fragment of the message that was open; finish it first")]
    ExpectedContinuation,
    /// RFC 6455 §5.1: a client masks.
    #[error("a client's frame is not masked; every frame to a server must be")]
    Unmasked,
    /// RFC 6455 §5.1: a server does not mask.
    #[error("a server's frame is masked; no frame to a client may be")]
    Masked,
    /// RFC 6455 §5.2: the shortest form is a MUST.
    #[error("a payload of {0} bytes is declared in a longer form than needed; use the shortest one")]
    LengthNotMinimal(u64),
    /// RFC 6455 §5.2: the most significant bit of a 64-bit length is 0.
    #[error("a payload length of {0:#x} has its top bit set; lengths are below 2^63")]
    LengthTopBit(u64),
    /// Larger than [`frame_bytes`](super::MessageLimits::frame_bytes).
    #[error("a frame declares {declared} bytes; at most {limit} are taken, send less or in fragments")]
    FrameTooLarge {
        /// What the header says.
        declared: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Larger than [`message_bytes`](super::MessageLimits::message_bytes).
    #[error("a message comes to {declared} bytes; at most {limit} are taken, send less")]
    MessageTooLarge {
        /// The fragments so far and what the header says.
        declared: u64,
        /// What is allowed.
        limit: u64,
    },
    /// More than [`fragments`](super::MessageLimits::fragments).
    #[error("a message has more than {limit} fragments; send it in fewer and larger ones")]
    TooManyFragments {
        /// What is allowed.
        limit: u32,
    },
    /// RFC 6455 §8.1. Found at the first byte that cannot be right, also in the middle of a fragment.
    #[error("a text message is not UTF-8; send binary, or encode it")]
    TextNotUtf8,
    /// RFC 6455 §5.5.1.
    #[error("a close frame has a body of one byte; send none, or a two-byte code and a reason")]
    CloseOneByte,
    /// RFC 6455 §7.4.
    #[error("close code {0} may not be sent; use 1000-1003, 1007-1014 or 3000-4999")]
    CloseCode(CloseCode),
    /// RFC 6455 §5.5.1.
    #[error("the reason in a close frame is not UTF-8")]
    CloseReason,
}

// Returned by value for every frame: it must stay small.
const _: () = assert!(size_of::<DecodeError>() <= 24);

impl DecodeError {
    /// What to tell the peer when the connection is closed for this.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::FrameTooLarge { .. } | Self::MessageTooLarge { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::TooManyFragments { .. } => CloseCode::POLICY_VIOLATION,
            Self::TextNotUtf8 | Self::CloseReason => CloseCode::INVALID_PAYLOAD,
            Self::ReservedBits(_)
            | Self::ReservedOpcode(_)
            | Self::FragmentedControl(_)
            | Self::ControlTooLong(_)
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::Unmasked
            | Self::Masked
            | Self::LengthNotMinimal(_)
            | Self::LengthTopBit(_)
            | Self::CloseOneByte
            | Self::CloseCode(_) => CloseCode::PROTOCOL_ERROR,
        }
    }
}
