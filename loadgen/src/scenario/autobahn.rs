//! The client of Autobahn|Testsuite's fuzzing server: asks how many cases there are, then is an echo in each, then
//! asks for the reports. One member, one connection after the other.

use holdfast_protocol::ws::Opcode;
use holdfast_reactor::Driver;

use super::Scenario;
use crate::engine::{Ended, Fleet, Gauges, Next};

/// See the module's doc.
#[derive(Debug)]
pub struct Autobahn {
    agent: String,
    stage: Stage,
    report: AutobahnReport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Count,
    Case(u32),
    Reports,
    Done,
}

/// How far it came.
#[derive(Debug, Clone, Default)]
pub struct AutobahnReport {
    /// Cases that the server has.
    pub cases: Option<u32>,
    /// Cases that were gone through.
    pub done: u32,
    /// Why it gave up, if it did.
    pub error: Option<String>,
}

/// Cases that a server may claim to have.
const CASES_MAX: u32 = 10_000;

impl Autobahn {
    /// Under this name in the suite's report.
    #[must_use]
    pub fn new(agent: String) -> Self {
        Self { agent, stage: Stage::Count, report: AutobahnReport::default() }
    }

    fn give_up(&mut self, why: String) -> Next {
        self.report.error = Some(why);
        self.stage = Stage::Done;
        Next::Stay
    }
}

impl Scenario for Autobahn {
    type Report = AutobahnReport;

    fn path(&self, _member: u32) -> Option<String> {
        let agent = &self.agent;
        Some(match self.stage {
            Stage::Count => "/getCaseCount".to_owned(),
            Stage::Case(case) => format!("/runCase?case={case}&agent={agent}"),
            Stage::Reports | Stage::Done => format!("/updateReports?agent={agent}"),
        })
    }

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        fleet.up(member);
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        match self.stage {
            Stage::Count => {
                let number = std::str::from_utf8(payload).ok().and_then(|text| text.trim().parse().ok());
                self.report.cases = number.filter(|&cases| cases <= CASES_MAX);
            }
            Stage::Case(_) => {
                fleet.send(member, opcode, payload);
            }
            Stage::Reports | Stage::Done => {}
        }
    }

    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, _member: u32, why: &Ended, was_up: bool) -> Next {
        if !was_up {
            return self.give_up(why.to_string());
        }
        self.stage = match (self.stage, self.report.cases) {
            (Stage::Count, None) => {
                return self.give_up("the server did not say how many cases it has".into());
            }
            (Stage::Count, Some(0)) => Stage::Reports,
            (Stage::Count, Some(_)) => Stage::Case(1),
            (Stage::Case(case), Some(cases)) => {
                self.report.done = case;
                if case < cases { Stage::Case(case + 1) } else { Stage::Reports }
            }
            (Stage::Case(_) | Stage::Reports | Stage::Done, _) => Stage::Done,
        };
        if self.stage == Stage::Done { Next::Stay } else { Next::At(fleet.now()) }
    }

    fn show(&self, gauges: &Gauges) {
        gauges.set(|gauges| &gauges.done, self.report.done.into());
        gauges.set_outstanding(i64::from(self.stage != Stage::Done));
    }

    fn into_report(self) -> AutobahnReport {
        self.report
    }
}
