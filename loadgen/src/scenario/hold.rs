//! Come up, stay, beat: connections that do nothing but live. With a login when told, else against any server.

use std::time::Duration;

use holdfast_protocol::chat::{self, server_frame};
use holdfast_protocol::ws::Opcode;
use holdfast_reactor::Driver;

use super::Scenario;
use super::login::Login;
use crate::engine::{Ended, Fleet, Gauges, Next};

/// See the module's doc.
#[derive(Debug)]
pub struct Hold {
    login: Option<Login>,
    first_member: u32,
    scratch: Vec<u8>,
    report: HoldReport,
}

/// What holding found out.
#[derive(Debug, Clone, Default)]
pub struct HoldReport {
    /// Messages that the server sent though nobody had asked it anything.
    pub pushed: u64,
}

impl Hold {
    /// Members numbered from `first_member` that log in, or do not.
    #[must_use]
    pub fn new(login: Option<Login>, first_member: u32) -> Self {
        Self { login, first_member, scratch: Vec::new(), report: HoldReport::default() }
    }
}

impl Scenario for Hold {
    type Report = HoldReport;

    fn authorize(&mut self, member: u32, token: &mut String) {
        if let Some(login) = self.login.as_ref().filter(|login| !login.by_hello) {
            login.credentials.write(self.first_member + member, token);
        }
    }

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        match &self.login {
            None => fleet.up(member),
            Some(login) if login.by_hello => {
                login.hello(self.first_member + member, None, &mut self.scratch);
                fleet.send(member, login.opcode(), &self.scratch);
            }
            Some(_) => {}
        }
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        let Some(login) = self.login.as_ref().filter(|_| !fleet.is_up(member)) else {
            self.report.pushed += 1;
            return;
        };
        match welcome(login, opcode, payload) {
            Ok(Some(heartbeat)) => {
                fleet.limit_heartbeat(heartbeat);
                fleet.up(member);
            }
            Ok(None) => {}
            Err(why) => fleet.fail(member, Ended::Scenario(why)),
        }
    }

    fn closed<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _member: u32, _why: &Ended, was_up: bool) -> Next {
        // What was up and is lost stays lost: coming back would hide it.
        if was_up { Next::Stay } else { Next::Backoff }
    }

    fn show(&self, gauges: &Gauges) {
        gauges.set(|gauges| &gauges.done, self.report.pushed);
    }

    fn into_report(self) -> HoldReport {
        self.report
    }
}

/// Looks for the `welcome` of a member that logs in, and says how often it wants to be heard from.
pub(super) fn welcome(login: &Login, opcode: Opcode, payload: &[u8]) -> Result<Option<Duration>, String> {
    if opcode != login.opcode() {
        return Err(format!("login: a {opcode:?} message came where {:?} was agreed", login.format));
    }
    let frame = chat::decode_server(login.format, payload).map_err(|error| format!("login: {error}"))?;
    match frame.frame {
        Some(server_frame::Frame::Welcome(welcome)) => {
            Ok(Some(Duration::from_millis(u64::from(welcome.heartbeat_ms))))
        }
        Some(server_frame::Frame::Error(error)) => Err(format!("login: {}: {}", error.code, error.message)),
        _ => Ok(None),
    }
}
