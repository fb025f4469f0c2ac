//! WebSocket frames of a connection: decoded in place, answered in one go.
//!
//! Everything that one receive brought is handled before anything is sent, so a peer that pipelines costs one send
//! per receive and not one per message.

use holdfast_protocol::ws::{Item, Opcode, encode_close, encode_frame};
use holdfast_reactor::{ConnectionId, Driver};

use super::connection::{Paused, Phase};
use super::{Shard, context_of};
use crate::backend::Backend;
use crate::planted;
use crate::session::Outcome;

/// How decoding one receive ended.
enum End {
    /// All bytes are consumed.
    Consumed,
    /// A session decided something that must be carried out before the next frame is looked at.
    Decided(Outcome),
    /// The peer closes.
    PeerCloses,
    /// The peer broke the protocol, or the connection takes no output any more.
    Failed,
}

impl<D: Driver, B: Backend> Shard<D, B> {
    pub(super) fn process_frames(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        if planted::SPLIT_HEADER_LOST.is_planted() && bytes.len() == 1 {
            return;
        }
        let mut input = bytes;
        loop {
            match self.decode(id, &mut input) {
                End::Consumed => return,
                End::Decided(outcome) => {
                    if !self.carry_out(id, outcome) {
                        self.keep_unread(id, input);
                        return;
                    }
                }
                End::PeerCloses => {
                    // Both close frames are out, so the server closes first (RFC 6455 §7.1.1).
                    self.counters.closed_by_peer.add(1);
                    self.close_flushed(id);
                    return;
                }
                End::Failed => {
                    self.linger(id);
                    return;
                }
            }
        }
    }

    fn keep_unread(&mut self, id: ConnectionId, input: &[u8]) {
        if input.is_empty() || planted::HELD_BACK_LOST.is_planted() {
            return;
        }
        if let Some(connection) = self.table.get(id)
            && !connection.paused.is_empty()
        {
            connection.rare().unread.extend_from_slice(input);
        }
    }

    /// Decodes until the input is consumed or something has to be decided outside of the loop.
    fn decode(&mut self, id: ConnectionId, input: &mut &mut [u8]) -> End {
        let address = self.address(id);
        let Some(connection) = self.table.get(id) else { return End::Consumed };
        let Some(output) = self.driver.output(id) else { return End::Consumed };
        let limits = match (&connection.phase, &self.rules.echo_messages) {
            (Phase::Echo, Some(limits)) => limits,
            _ => &self.rules.chat_messages,
        };
        let mut frames = 0;
        let end = loop {
            let item = match connection.decoder.next(input, limits) {
                Ok(Some(item)) => item,
                Ok(None) => break End::Consumed,
                Err(error) => {
                    self.counters.protocol_errors.add(1);
                    encode_close(output.buffer(), error.close_code(), &error.to_string(), None);
                    break End::Failed;
                }
            };
            frames += 1;
            let (opcode, payload) = match item {
                Item::Text(text) => (Opcode::Text, text.as_bytes()),
                Item::Binary(payload) => (Opcode::Binary, payload),
                Item::Ping(payload) => (Opcode::Ping, payload),
                Item::Pong(payload) => (Opcode::Pong, payload),
                Item::Close(frame) => {
                    match frame {
                        Some(frame) => encode_close(output.buffer(), frame.code, "", None),
                        None => encode_frame(output.buffer(), Opcode::Close, b"", None),
                    }
                    break End::PeerCloses;
                }
            };
            match &mut connection.phase {
                Phase::Echo => match opcode {
                    Opcode::Ping => encode_frame(output.buffer(), Opcode::Pong, payload, None),
                    Opcode::Pong => {}
                    _ => {
                        self.counters.frames_sent.add(1);
                        encode_frame(output.buffer(), opcode, payload, None);
                    }
                },
                Phase::Chat(session) => {
                    if opcode == Opcode::Ping {
                        encode_frame(output.buffer(), Opcode::Pong, payload, None);
                    }
                    let mut context = context_of(
                        self.now,
                        &self.rules,
                        &self.shared,
                        &self.counters,
                        connection.accepted_tick,
                        output,
                        &mut self.scratch,
                    );
                    let outcome = if matches!(opcode, Opcode::Ping | Opcode::Pong) {
                        session.handle_control(&context)
                    } else {
                        session.handle_message(opcode, payload, address, &mut self.devices, &mut context)
                    };
                    if !matches!(outcome, Outcome::Nothing) {
                        break End::Decided(outcome);
                    }
                }
                _ => break End::Consumed,
            }
        };
        let unsent_bytes = output.unsent_bytes();
        self.counters.frames_received.add(frames);
        // Events stop at a limit of their own; answers stop when what they answer is not read any more.
        let most_bytes = match connection.phase {
            Phase::Echo => self.rules.echo_output_bytes,
            _ => self.rules.session.output_bytes,
        };
        if unsent_bytes > most_bytes && !planted::OUTPUT_UNBOUNDED.is_planted() {
            self.pause(id, Paused::OUTPUT);
            self.awaiting_output.push(id);
        }
        end
    }
}
