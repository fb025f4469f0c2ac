//! Come up, go, come again: what a handshake costs.
//!
//! With [`Close::Politely`] the member says Close and waits for the server to hang up, as RFC 6455 §7.1.1 wants,
//! so the server's side of the goodbye is in the figure. With [`Close::Reset`] it sends RST.

use holdfast_protocol::ws::Opcode;
use holdfast_reactor::Driver;

use super::hold::welcome;
use super::login::Login;
use super::{Order, Scenario};
use crate::engine::{Ended, Fleet, Gauges, Next};

/// How a connection that is through its handshake ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Close frames, then FIN.
    Politely,
    /// RST.
    Reset,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Connect {
    login: Option<Login>,
    first_member: u32,
    close: Close,
    quiescing: bool,
    scratch: Vec<u8>,
    report: ConnectReport,
}

/// What connecting found out.
#[derive(Debug, Clone, Default)]
pub struct ConnectReport {
    /// Handshakes that went through, login included, since the last [`Order::Measure`].
    pub handshakes: u64,
}

impl Connect {
    /// Members numbered from `first_member`.
    #[must_use]
    pub fn new(login: Option<Login>, first_member: u32, close: Close) -> Self {
        let report = ConnectReport::default();
        Self { login, first_member, close, quiescing: false, scratch: Vec::new(), report }
    }

    fn through<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        fleet.up(member);
        self.report.handshakes += 1;
        fleet.finish(member, self.close == Close::Politely);
    }
}

impl Scenario for Connect {
    type Report = ConnectReport;

    fn authorize(&mut self, member: u32, token: &mut String) {
        if let Some(login) = self.login.as_ref().filter(|login| !login.by_hello) {
            login.credentials.write(self.first_member + member, token);
        }
    }

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        match &self.login {
            None => self.through(fleet, member),
            Some(login) if login.by_hello => {
                login.hello(self.first_member + member, None, &mut self.scratch);
                fleet.send(member, login.opcode(), &self.scratch);
            }
            Some(_) => {}
        }
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        let Some(login) = self.login.as_ref().filter(|_| fleet.is_opening(member)) else { return };
        match welcome(login, opcode, payload) {
            Ok(Some(_)) => self.through(fleet, member),
            Ok(None) => {}
            Err(why) => fleet.fail(member, Ended::Scenario(why)),
        }
    }

    fn closed<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _member: u32, _why: &Ended, was_up: bool) -> Next {
        match (self.quiescing, was_up) {
            (true, _) => Next::Stay,
            (false, true) => Next::Queue,
            (false, false) => Next::Backoff,
        }
    }

    fn order<D: Driver>(&mut self, fleet: &mut Fleet<D>, order: Order) {
        match order {
            Order::Measure => {
                self.report = ConnectReport::default();
                fleet.forget_handshakes();
            }
            Order::Quiesce => {
                self.quiescing = true;
                fleet.stop_connecting();
            }
            _ => {}
        }
    }

    fn show(&self, gauges: &Gauges) {
        gauges.set(|gauges| &gauges.done, self.report.handshakes);
    }

    fn into_report(self) -> ConnectReport {
        self.report
    }
}
