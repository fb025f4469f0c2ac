//! Connections that speak plain HTTP: their bytes go through a pipe to hyper, which lives on other threads.
//!
//! The socket stays here. Answers are fetched from the pipe as far as the output has room, so a client that does not
//! read stops hyper and not the shard.

use holdfast_protocol::ws::Decoder;
use holdfast_protocol::ws::Role;
use holdfast_reactor::{ConnectionId, Driver};

use super::Shard;
use super::connection::{Paused, Phase, tick_of};
use crate::api::pipe::{Advance, OUTBOUND_BYTES, PipeState, Then};
use crate::backend::Backend;

impl<D: Driver, B: Backend> Shard<D, B> {
    /// Hands a connection over, with the bytes that it has sent.
    pub(super) fn begin_http(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let pipe = match self.inputs.http.connect(self.id, id.to_bits()) {
            Ok(pipe) => pipe,
            Err(busy) => {
                self.counters.http_refused.add(1);
                let retry_after_seconds = Some(self.rules.retry_after_seconds);
                self.refuse(id, 503, retry_after_seconds, &busy.to_string());
                return;
            }
        };
        self.counters.http_connections.add(1);
        // hyper has its own deadlines from here on.
        self.timers.cancel(id.index);
        if let Some(connection) = self.table.get(id) {
            connection.phase = Phase::Http(Box::new(pipe));
        }
        self.process_http(id, bytes);
    }

    pub(super) fn process_http(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.table.get(id) else { return };
        let Phase::Http(pipe) = &mut connection.phase else { return };
        if pipe.push(bytes) == PipeState::Full {
            self.pause(id, Paused::HTTP);
        }
    }

    /// The pipe has something to say, or the output has room again.
    pub(super) fn advance_http(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        let Phase::Http(pipe) = &mut connection.phase else { return };
        let Some(output) = self.driver.output(id) else { return };
        let room_bytes = OUTBOUND_BYTES.saturating_sub(output.unsent_bytes());
        let Advance { resume_reading, then } = pipe.advance(room_bytes, output.buffer());
        if resume_reading {
            self.go_on(id, Paused::HTTP);
        }
        match then {
            Then::Wait => {}
            Then::Drain => self.awaiting_output.push(id),
            Then::Close => self.linger(id),
            Then::Abort => self.close_now(id),
            Then::Upgrade => self.return_from_http(id),
        }
    }

    /// A kept-alive connection asks for a WebSocket: it becomes like a fresh one whose head has arrived.
    fn return_from_http(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        let Phase::Http(pipe) = std::mem::replace(&mut connection.phase, Phase::Head) else { return };
        connection.decoder = Decoder::new(Role::Server);
        // Whoever upgrades now is there now, however long the connection has been kept alive.
        connection.accepted_tick = tick_of(self.now);
        let mut bytes = pipe.into_upgrade();
        // What arrived while the pipe was full comes behind what the pipe gives back.
        if let Some(rare) = &mut connection.rare {
            bytes.append(&mut rare.unread);
        }
        connection.tidy();
        self.timers.set(id.index, self.now.after(self.rules.handshake));
        self.process_head(id, &mut bytes);
        self.go_on(id, Paused::HTTP);
    }
}
