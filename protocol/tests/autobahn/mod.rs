//! The cases of the Autobahn|Testsuite as a table: what is sent, how it is cut, what must come back, how it must end.
//!
//! The suite itself needs Python 2.7; the table keeps conformance tested where there is none. It covers the cases
//! 1-7 and 10 (247, three of them informational) and 9 (54).

mod closing;
mod control;
mod framing;
mod large;
mod messages;
mod utf8;

use holdfast_protocol::ws::{Opcode, Role, apply_mask, encode_header};

/// One case of the suite.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// As the suite numbers it.
    pub(crate) number: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) chop: Chop,
    pub(crate) echoes: Vec<Echo>,
    pub(crate) end: End,
}

/// What the suite does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Sends one frame.
    Frame(Frame),
    /// Waits, and must by then have got this many echoes and no close.
    IsOpen(usize),
    /// Waits, and must by then have been told that the connection fails. What follows is not sent any more.
    HasFailed,
}

#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    /// 0 to 7.
    pub(crate) reserved: u8,
    /// 0 to 15, reserved ones included.
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
    /// Where the payload is cut in addition, with a wait there: the peer must still be open, or have failed.
    pub(crate) pauses: Vec<(usize, Step)>,
}

/// How the bytes are cut into writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chop {
    /// All that comes between two waits at once.
    Whole,
    /// Each frame by itself.
    Frames,
    /// So many bytes at a time.
    Bytes(usize),
}

/// What must come back before the close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Echo {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
}

/// How the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The suite closes with 1000 when everything has come back, and is answered with 1000.
    Clean,
    /// The steps end it: the peer sends a close frame with this code, `None`: without one.
    Says(Option<u16>),
}

/// A category of the suite: its number, and what makes its cases.
pub(crate) type Category = (u8, fn() -> Vec<Case>);

/// The categories of the suite. Each is made when it is played: all payloads together are some 300 MB.
pub(crate) const CATEGORIES: [Category; 9] = [
    (1, messages::cases),
    (2, control::cases),
    (3, framing::reserved_bits),
    (4, framing::reserved_opcodes),
    (5, framing::fragments),
    (6, utf8::cases),
    (7, closing::cases),
    (9, large::cases),
    (10, large::automatic),
];

impl Case {
    /// A case that ends cleanly.
    fn clean(number: impl Into<String>, steps: impl Into<Vec<Step>>, echoes: impl Into<Vec<Echo>>) -> Self {
        Self::new(number, steps, echoes, End::Clean)
    }

    /// A case in which the suite's own steps close the connection, and the peer must answer with this code.
    fn closed(number: impl Into<String>, steps: impl Into<Vec<Step>>, answer: Option<u16>) -> Self {
        Self::new(number, steps, [], End::Says(answer))
    }

    /// A case in which the peer must fail the connection with this code.
    fn fails(
        number: impl Into<String>,
        steps: impl Into<Vec<Step>>,
        echoes: impl Into<Vec<Echo>>,
        code: u16,
    ) -> Self {
        Self::new(number, steps, echoes, End::Says(Some(code)))
    }

    fn new(
        number: impl Into<String>,
        steps: impl Into<Vec<Step>>,
        echoes: impl Into<Vec<Echo>>,
        end: End,
    ) -> Self {
        Self { number: number.into(), steps: steps.into(), chop: Chop::Whole, echoes: echoes.into(), end }
    }

    fn cut(self, chop: Chop) -> Self {
        Self { chop, ..self }
    }
}

impl Frame {
    /// The bytes of it that a peer in this role reads. `sequence`: makes the key another one in each frame.
    pub(crate) fn bytes(&self, reader: Role, sequence: usize) -> (usize, Vec<u8>) {
        let key = (reader == Role::Server).then(|| (sequence as u32).wrapping_mul(0x9e37_79b9).to_le_bytes());
        let mut bytes = Vec::with_capacity(self.payload.len() + 14);
        encode_header(&mut bytes, self.fin, Opcode::Text, self.payload.len() as u64, key);
        let header_bytes = bytes.len();
        bytes[0] = bytes[0] & 0x80 | self.reserved << 4 | self.opcode;
        bytes.extend_from_slice(&self.payload);
        if let Some(key) = key {
            apply_mask(&mut bytes[header_bytes..], key);
        }
        (header_bytes, bytes)
    }
}

/// A frame of any kind.
fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Step {
    full_frame(true, 0, opcode, payload)
}

/// A frame that is not the last of its message.
fn part(opcode: u8, payload: impl AsRef<[u8]>) -> Step {
    full_frame(false, 0, opcode, payload)
}

/// A frame with reserved bits.
fn reserved(bits: u8, opcode: u8, payload: impl AsRef<[u8]>) -> Step {
    full_frame(true, bits, opcode, payload)
}

fn full_frame(fin: bool, reserved: u8, opcode: u8, payload: impl AsRef<[u8]>) -> Step {
    Step::Frame(Frame { fin, reserved, opcode, payload: payload.as_ref().to_vec(), pauses: Vec::new() })
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A close frame with a code.
fn close(code: u16) -> Step {
    frame(CLOSE, code.to_be_bytes())
}

/// A message in fragments of at most `fragment_bytes`, as the suite cuts it: where it comes out even, an empty fragment
/// ends it.
fn fragmented(opcode: u8, payload: &[u8], fragment_bytes: usize) -> Vec<Step> {
    let last = payload.len() / fragment_bytes;
    let opcode_of = |index| if index == 0 { opcode } else { CONTINUATION };
    let chunk = |index| &payload[index * fragment_bytes..payload.len().min((index + 1) * fragment_bytes)];
    (0..=last).map(|index| full_frame(index == last, 0, opcode_of(index), chunk(index))).collect()
}

/// `pattern` over and over, to this length.
fn repeated(pattern: &[u8], bytes: usize) -> Vec<u8> {
    pattern.iter().copied().cycle().take(bytes).collect()
}

fn text(payload: impl AsRef<[u8]>) -> Echo {
    Echo::Text(payload.as_ref().to_vec())
}

fn binary(payload: impl AsRef<[u8]>) -> Echo {
    Echo::Binary(payload.as_ref().to_vec())
}

fn pong(payload: impl AsRef<[u8]>) -> Echo {
    Echo::Pong(payload.as_ref().to_vec())
}
