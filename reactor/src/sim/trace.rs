//! What happened, as a number to compare runs by and, on request, as lines to read.

use std::collections::VecDeque;

use crate::{CloseReason, ConnectionId, Event, Moment};

/// One step of a run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Traced {
    Accepted(ConnectionId),
    Connected(ConnectionId),
    Received(ConnectionId, usize),
    EndOfStream(ConnectionId),
    Drained(ConnectionId),
    Closed(ConnectionId, Why),
    AcceptFailed,
    Sent { link: u32, bytes: usize },
    Dialled { link: u32 },
    PeerWrote { link: u32, bytes: usize },
    PeerRead { link: u32, bytes: usize },
    PeerShut { link: u32 },
    PeerLeft { link: u32, with_reset: bool },
    PowerCut,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    Requested,
    Error,
    ConnectFailed,
}

impl Traced {
    /// The step as numbers: its kind, and what it is about.
    const fn words(self) -> [u64; 3] {
        match self {
            Self::Accepted(id) => [1, id.to_bits(), 0],
            Self::Connected(id) => [2, id.to_bits(), 0],
            Self::Received(id, bytes) => [3, id.to_bits(), bytes as u64],
            Self::EndOfStream(id) => [4, id.to_bits(), 0],
            Self::Drained(id) => [5, id.to_bits(), 0],
            Self::Closed(id, why) => [6, id.to_bits(), why as u64],
            Self::AcceptFailed => [7, 0, 0],
            Self::Sent { link, bytes } => [8, link as u64, bytes as u64],
            Self::Dialled { link } => [9, link as u64, 0],
            Self::PeerWrote { link, bytes } => [10, link as u64, bytes as u64],
            Self::PeerRead { link, bytes } => [11, link as u64, bytes as u64],
            Self::PeerShut { link } => [12, link as u64, 0],
            Self::PeerLeft { link, with_reset } => [13, link as u64, with_reset as u64],
            Self::PowerCut => [14, 0, 0],
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    kept: VecDeque<(Moment, Traced)>,
    keep: usize,
}

impl Trace {
    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn keep(&mut self, lines: usize) {
        self.keep = lines;
        self.kept.truncate(lines);
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.kept.iter().map(|(at, traced)| format!("{:>16} ns  {traced:?}", at.0)).collect()
    }

    pub(super) fn note(&mut self, now: Moment, traced: Traced) {
        self.mix(now.0);
        traced.words().into_iter().for_each(|word| self.mix(word));
        if self.keep > 0 {
            if self.kept.len() == self.keep {
                self.kept.pop_front();
            }
            self.kept.push_back((now, traced));
        }
    }

    pub(super) fn note_bytes(&mut self, now: Moment, traced: Traced, bytes: &[u8]) {
        self.note(now, traced);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    pub(super) fn note_event(&mut self, now: Moment, event: &Event) {
        match event {
            Event::Accepted(id) => self.note(now, Traced::Accepted(*id)),
            Event::Connected(id) => self.note(now, Traced::Connected(*id)),
            Event::Received(id, buffer) => {
                self.note_bytes(now, Traced::Received(*id, buffer.len()), buffer);
            }
            Event::EndOfStream(id) => self.note(now, Traced::EndOfStream(*id)),
            Event::Drained(id) => self.note(now, Traced::Drained(*id)),
            Event::Closed(id, CloseReason::Requested) => self.note(now, Traced::Closed(*id, Why::Requested)),
            Event::Closed(id, CloseReason::Error(_)) => self.note(now, Traced::Closed(*id, Why::Error)),
            Event::Closed(id, CloseReason::ConnectFailed(_)) => {
                self.note(now, Traced::Closed(*id, Why::ConnectFailed));
            }
            Event::AcceptFailed(_) => self.note(now, Traced::AcceptFailed),
        }
    }

    /// A word more: different orders and different words give different hashes. (Not against an adversary.)
    const fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }
}
