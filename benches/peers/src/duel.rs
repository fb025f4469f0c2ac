//! The duel: what one message and one handshake cost each server's processor, in one run, interleaved.
//!
//! Differences between machines, and between minutes on one machine, are larger than those between servers. So all
//! servers run side by side, idle but one; each round measures every one of them once, in an order that rotates.
//! Only ratios within a round mean anything; their median is what counts.
//!
//! - [`contest`]: the contenders, as processes, and one measurement of one of them;
//! - [`verdict`]: medians, ratios and gates, pure.

pub mod contest;
pub mod verdict;

use std::fmt;

use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discipline {
    /// 200 connections, each sends 64 bytes, waits for them to come back, and sends again.
    PingPong,
    /// 200 connections with 16 messages of 64 bytes under way each.
    Pipelined,
    /// Connect, upgrade, close. Holdfast's includes the login; a bare echo server has none.
    Handshake,
}

impl Discipline {
    /// All, in the order of the table's columns.
    pub const ALL: [Self; 3] = [Self::PingPong, Self::Pipelined, Self::Handshake];

    /// Where in a list of one per discipline.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PingPong => "ping-pong",
            Self::Pipelined => "16 in flight",
            Self::Handshake => "handshake",
        })
    }
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Our gateway on io_uring, one shard.
    HoldfastUring,
    /// Our gateway on epoll, one shard.
    HoldfastEpoll,
    /// `fastwebsockets` on Tokio.
    Fastwebsockets,
    /// `tokio-tungstenite` with 4 KiB buffers.
    Tungstenite,
    /// Our codec on `tokio-uring`: shown, not gated.
    TokioUring,
}

impl Contender {
    /// All, in the order of the table's rows.
    pub const ALL: [Self; 5] =
        [Self::HoldfastUring, Self::HoldfastEpoll, Self::Fastwebsockets, Self::Tungstenite, Self::TokioUring];

    /// Those whose better one is the yardstick.
    pub const RIVALS: [Self; 2] = [Self::Fastwebsockets, Self::Tungstenite];

    /// True for our own server.
    #[must_use]
    pub const fn is_holdfast(self) -> bool {
        matches!(self, Self::HoldfastUring | Self::HoldfastEpoll)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HoldfastUring => "Holdfast, io_uring",
            Self::HoldfastEpoll => "Holdfast, epoll",
            Self::Fastwebsockets => "fastwebsockets",
            Self::Tungstenite => "tokio-tungstenite, 4 KiB buffers",
            Self::TokioUring => "our codec on tokio-uring",
        })
    }
}
