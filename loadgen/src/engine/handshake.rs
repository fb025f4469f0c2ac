//! The opening handshake of one member, RFC 6455 §4.1: the request, and the answer in one part or in many.

use holdfast_protocol::ws::handshake::{ClientKey, ClientRequest, client_key, parse_response, write_request};
use holdfast_reactor::Driver;

use super::member::{Ended, Phase};
use super::{Engine, Fleet};
use crate::random::Random;
use crate::scenario::Scenario;

impl<D: Driver> Fleet<D> {
    /// The key of a member's present handshake: it follows from the seed, so nobody has to remember it.
    fn key(&self, member: u32) -> ClientKey {
        let attempt = self.members[member as usize].attempts;
        let stream = u64::from(self.global(member)) << 16 | u64::from(attempt);
        client_key(Random::stream(self.options.seed, stream).bytes16())
    }
}

impl<D: Driver, S: Scenario> Engine<D, S> {
    /// The TCP connection stands: ask for the upgrade.
    pub(super) fn request(&mut self, member: u32) {
        let key = self.fleet.key(member);
        let mut authorization = String::new();
        self.scenario.authorize(member, &mut authorization);
        if !authorization.is_empty() {
            authorization.insert_str(0, "Bearer ");
        }
        let path = self.scenario.path(member);
        let Fleet { driver, options, members, .. } = &mut self.fleet;
        let record = &mut members[member as usize];
        let Some(output) = driver.output(record.connection) else { return };
        let subprotocols: Vec<&str> = options.subprotocols.iter().map(String::as_str).collect();
        let mut headers: Vec<(&str, &str)> =
            options.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if !authorization.is_empty() {
            headers.push(("Authorization", &authorization));
        }
        let request = ClientRequest {
            host: &options.host,
            target: path.as_deref().unwrap_or(&options.path),
            key: &key,
            subprotocols: &subprotocols,
            headers: &headers,
        };
        write_request(output.buffer(), &request);
        record.phase = Phase::Upgrading;
    }

    /// Bytes of the answer came, perhaps with the first frames behind it.
    pub(super) fn answer(&mut self, member: u32, bytes: &mut [u8]) {
        let held = self.fleet.openings.get_mut(&member).map(|opening| std::mem::take(&mut opening.head));
        let mut held = held.unwrap_or_default();
        if held.is_empty() {
            if !self.judge(member, bytes)
                && self.fleet.members[member as usize].phase == Phase::Upgrading
                && let Some(opening) = self.fleet.openings.get_mut(&member)
            {
                opening.head = bytes.to_vec();
            }
            return;
        }
        held.extend_from_slice(bytes);
        if !self.judge(member, &mut held)
            && self.fleet.members[member as usize].phase == Phase::Upgrading
            && let Some(opening) = self.fleet.openings.get_mut(&member)
        {
            opening.head = held;
        }
    }

    /// Judges an answer that may be complete; false when it is not. The parser limits how long it may get.
    fn judge(&mut self, member: u32, bytes: &mut [u8]) -> bool {
        let key = self.fleet.key(member);
        let offered: Vec<&str> = self.fleet.options.subprotocols.iter().map(String::as_str).collect();
        let head_bytes = match parse_response(bytes, &key, &offered) {
            Ok(None) => return false,
            Ok(Some(response)) => response.bytes,
            Err(error) => {
                self.fleet.fail(member, Ended::Refused(error));
                return true;
            }
        };
        let connection = self.fleet.members[member as usize].connection;
        self.fleet.members[member as usize].phase = Phase::Opening;
        self.scenario.opened(&mut self.fleet, member);
        if self.fleet.member_of(connection) == Some(member) {
            self.frames(member, &mut bytes[head_bytes..]);
        }
        true
    }
}
