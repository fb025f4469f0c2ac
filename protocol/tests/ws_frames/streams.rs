//! Random streams of frames: proper ones, and ones with something wrong.

use std::ops::Range;

use holdfast_protocol::ws::{
    CloseCode, Decoder, Item, MessageLimits, Opcode, Role, apply_mask, encode_close, encode_frame,
    encode_header,
};
use proptest::prelude::*;
use proptest::sample::Index;

/// An [`Item`] that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Item<'_>> for Seen {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Text(text) => Self::Text(text.to_owned()),
            Item::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Item::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Item::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Item::Close(close) => Self::Close(close.map(|close| (close.code.0, close.reason.to_owned()))),
        }
    }
}

/// What a decoder makes of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) items: Vec<Seen>,
    pub(crate) error: Option<holdfast_protocol::ws::DecodeError>,
    /// Nothing is partial at the end.
    pub(crate) is_between_messages: bool,
}

/// Feeds `bytes` to a decoder, cut before each of `cuts` (ascending).
pub(crate) fn decode(role: Role, bytes: &[u8], cuts: &[usize], limits: &MessageLimits) -> Outcome {
    let mut decoder = Decoder::new(role);
    let mut items = Vec::new();
    let mut error = None;
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        // Each read has memory of its own, as from a buffer pool: nothing may be taken from the one before.
        let mut piece = bytes[start..end].to_vec();
        start = end;
        let mut input = piece.as_mut_slice();
        loop {
            match decoder.next(&mut input, limits) {
                Ok(Some(item)) => items.push(Seen::from(item)),
                Ok(None) => {
                    assert!(input.is_empty(), "all of the input is consumed when more is needed");
                    break;
                }
                Err(first) => {
                    assert!(error.is_none(), "an error is the last thing that a decoder says");
                    error = Some(first);
                }
            }
        }
    }
    Outcome { items, error, is_between_messages: decoder.is_between_messages() }
}

/// A message or control frame, with the places where a message is cut into fragments and the keys of its frames.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) seen: Seen,
    cuts: Vec<Index>,
    key: [u8; 4],
    /// Control frames that stand after its first fragment.
    between: Vec<Seen>,
}

impl Sent {
    /// In one frame.
    pub(crate) fn whole(seen: Seen) -> Self {
        Self { seen, cuts: Vec::new(), key: [0x5a, 0xc3, 0x0f, 0x99], between: Vec::new() }
    }

    /// Appends its frames, and what a peer should see of them to `expected`.
    pub(crate) fn write(&self, masked: bool, out: &mut Vec<u8>, expected: &mut Vec<Seen>) {
        let mask = masked.then_some(self.key);
        let (opcode, payload) = match &self.seen {
            Seen::Text(text) => (Opcode::Text, text.as_bytes()),
            Seen::Binary(bytes) => (Opcode::Binary, bytes.as_slice()),
            control => {
                write_control(out, control, mask);
                expected.push(control.clone());
                return;
            }
        };
        if self.cuts.is_empty() {
            encode_frame(out, opcode, payload, mask);
        } else {
            let mut ends: Vec<usize> = self.cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
            ends.sort_unstable();
            ends.push(payload.len());
            let mut start = 0;
            for (index, &end) in ends.iter().enumerate() {
                let opcode = if index == 0 { opcode } else { Opcode::Continuation };
                let is_last = index + 1 == ends.len();
                write_fragment(out, is_last, opcode, &payload[start..end], mask);
                start = end;
                if index == 0 && !is_last {
                    for control in &self.between {
                        write_control(out, control, mask);
                        expected.push(control.clone());
                    }
                }
            }
        }
        expected.push(self.seen.clone());
    }
}

fn write_fragment(out: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_header(out, fin, opcode, payload.len() as u64, mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key);
    }
}

fn write_control(out: &mut Vec<u8>, control: &Seen, mask: Option<[u8; 4]>) {
    match control {
        Seen::Ping(payload) => encode_frame(out, Opcode::Ping, payload, mask),
        Seen::Pong(payload) => encode_frame(out, Opcode::Pong, payload, mask),
        Seen::Close(Some((code, reason))) => encode_close(out, CloseCode(*code), reason, mask),
        Seen::Close(None) => encode_frame(out, Opcode::Close, &[], mask),
        Seen::Text(_) | Seen::Binary(_) => unreachable!("not a control frame"),
    }
}

/// Sizes around the edges of the length forms, and small ones.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        2 => prop::collection::vec(any::<u8>(), 120..135),
        1 => (65_530usize..65_545, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "\\PC{0,30}",
        2 => prop::collection::vec(any::<char>(), 0..60).prop_map(String::from_iter),
        1 => (0usize..140).prop_map(|length| "🦭".repeat(length)),
    ]
}

fn ping_or_pong() -> impl Strategy<Value = Seen> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(Seen::Ping),
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(Seen::Pong),
    ]
}

/// One message or control frame; no close.
pub(crate) fn sent() -> impl Strategy<Value = Sent> {
    let seen = prop_oneof![
        3 => text().prop_map(Seen::Text),
        3 => payload().prop_map(Seen::Binary),
        1 => ping_or_pong(),
    ];
    let cuts = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any::<Index>(), 1..6)];
    (seen, cuts, any::<[u8; 4]>(), prop::collection::vec(ping_or_pong(), 0..3))
        .prop_map(|(seen, cuts, key, between)| Sent { seen, cuts, key, between })
}

/// A close frame that is allowed.
pub(crate) fn close() -> impl Strategy<Value = Seen> {
    let code = prop_oneof![1000u16..=1003, 1007u16..=1014, 3000u16..=4999];
    prop_oneof![
        Just(Seen::Close(None)),
        // At most 30 characters of at most 4 bytes: it fits.
        (code, "\\PC{0,30}").prop_map(|(code, reason)| Seen::Close(Some((code, reason)))),
    ]
}

/// A frame in which each part is mostly right: what a broken or hostile peer sends.
#[derive(Debug, Clone)]
struct RawFrame {
    first: u8,
    masked: bool,
    /// 0: the shortest form; 1, 2: 16 and 64 bits.
    form: u8,
    /// The declared length less the real one.
    excess: i64,
    key: [u8; 4],
    payload: Vec<u8>,
}

impl RawFrame {
    fn write(&self, out: &mut Vec<u8>) {
        let declared = (self.payload.len() as u64).wrapping_add_signed(self.excess);
        let masked = if self.masked { 0x80 } else { 0 };
        out.push(self.first);
        match (self.form, declared) {
            (0, 0..=125) => out.push(masked | declared as u8),
            (0 | 1, 0..=0xffff) => {
                out.push(masked | 126);
                out.extend_from_slice(&(declared as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&declared.to_be_bytes());
            }
        }
        let mut payload = self.payload.clone();
        if self.masked {
            out.extend_from_slice(&self.key);
            apply_mask(&mut payload, self.key);
        }
        out.extend_from_slice(&payload);
    }
}

fn raw_frame(masked: bool) -> impl Strategy<Value = RawFrame> {
    let first = prop_oneof![
        // Fragments and whole messages, so that sequences get somewhere.
        4 => prop::sample::select(vec![0x01u8, 0x02, 0x00, 0x00, 0x80]),
        4 => prop::sample::select(vec![0x81u8, 0x82, 0x89, 0x8a, 0x88]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => text().prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        1 => prop::collection::vec(any::<u8>(), 120..300),
        // Bodies of close frames.
        2 => (any::<u16>(), "[a-z]{0,4}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
        2 => (990u16..1020).prop_map(|code| code.to_be_bytes().to_vec()),
    ];
    (
        first,
        prop::bool::weighted(0.97).prop_map(move |right| right == masked),
        prop_oneof![20 => Just(0u8), 1 => 1u8..3],
        prop_oneof![30 => Just(0i64), 1 => -3i64..4, 1 => Just(i64::MIN)],
        any::<[u8; 4]>(),
        payload,
    )
        .prop_map(|(first, masked, form, excess, key, payload)| RawFrame {
            first,
            masked,
            form,
            excess,
            key,
            payload,
        })
}

/// Frames, right and wrong, and then some bytes changed, added, removed or cut off.
pub(crate) fn hostile(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let frames = prop::collection::vec(raw_frame(masked), 1..8).prop_map(|frames| {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        bytes
    });
    let change = (any::<Index>(), any::<u8>(), 0u8..4);
    let changes = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(change, 1..4)];
    (frames, changes).prop_map(|(mut bytes, changes)| {
        for (at, byte, kind) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

/// Places to cut `length` bytes at, ascending.
pub(crate) fn cuts_of(length: usize, cuts: &[Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
    cuts.sort_unstable();
    cuts
}

/// Every place.
pub(crate) fn every_byte(length: usize) -> Vec<usize> {
    let all: Range<usize> = 1..length.max(1);
    all.collect()
}
