//! Fills the inboxes of groups: a few writers of each group send as fast as the server's limits allow, while everybody
//! else is away.
//!
//! Closed loop, on purpose: this is not what is measured. Each writer has a few messages under way and keeps to the
//! pace that its `welcome` told, so that nothing is refused. What is not acked is sent again on a new connection, with
//! the same `clientId`; so at the end each group has exactly the messages that were wanted, each once.
//!
//! Never here: a look at the events that writers get. They are read again, and judged, when everybody comes back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use holdfast_protocol::chat::{self, Body, FrameError, Send, ServerFrame, body, client_frame, server_frame};
use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

use super::books::groups::Division;
use super::chat::{come_back, no_frame, passes};
use super::login::Login;
use super::{Order, Scenario};
use crate::engine::{Ended, Fleet, Gauges, Next, Tally};
use crate::sequence::SequenceWindow;
use crate::stamp::Stamp;

/// Messages of one writer that wait for their ack.
const UNDER_WAY_MAX: u32 = 32;
/// The share of the server's limit that is used: two clocks are never quite equal.
const PACE: f64 = 0.95;
/// How long a refused request waits at least.
const RESEND_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Stands for the request that makes the group.
const CREATION: u32 = u32::MAX;

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub struct FillPlan {
    /// How users are divided.
    pub division: Division,
    /// Members of each group that write: the first ones. At least 1.
    pub writers: u32,
    /// Messages of each group.
    pub messages: u32,
    /// Bytes of a message's text.
    pub body_bytes: usize,
}

/// One writer.
#[derive(Debug, Clone, Copy)]
struct Writer {
    acked: SequenceWindow,
    sent: u32,
    quota: u32,
    /// When all that was sent would have been sent at the pace; ahead of now by the burst at most.
    paced_to: Moment,
    gap: Duration,
    burst: u32,
    /// A moment of its stands in the heap.
    is_waiting: bool,
    was_up: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Fill {
    login: Login,
    plan: FillPlan,
    /// The number of the first group among all threads'.
    first_group: u32,
    writers: Vec<Writer>,
    /// Ids of the groups that are there.
    groups: Vec<Option<String>>,
    made: u32,
    /// When writers go on that wait for their pace.
    wakes: BinaryHeap<Reverse<(Moment, u32)>>,
    /// Refused requests, and when they are sent again.
    resends: BinaryHeap<Reverse<(Moment, u32, u32)>>,
    frame: Vec<u8>,
    text: String,
    report: FillReport,
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct FillReport {
    /// Messages that the server accepted.
    pub acked: u64,
    /// Requests that were sent again.
    pub resent: u64,
    /// Members that were refused something for a moment: what they sent may have another order. Numbers among all.
    pub deferred: Vec<u32>,
    /// Why it cannot go on.
    pub broken: Option<String>,
    /// `error` frames, by code.
    pub errors: Tally,
}

impl Fill {
    /// Whole groups, from the writer `first_writer` on.
    #[must_use]
    pub fn new(login: Login, plan: FillPlan, first_writer: u32, writers: u32) -> Self {
        let groups = writers / plan.writers;
        let quota = |writer: u32| {
            let place = writer % plan.writers;
            plan.messages / plan.writers + u32::from(place < plan.messages % plan.writers)
        };
        let writer = |writer| Writer {
            acked: SequenceWindow::default(),
            sent: 0,
            quota: quota(writer),
            paced_to: Moment(0),
            gap: Duration::ZERO,
            burst: 1,
            is_waiting: false,
            was_up: false,
        };
        Self {
            login,
            plan,
            first_group: first_writer / plan.writers,
            writers: (0..writers).map(writer).collect(),
            groups: vec![None; groups as usize],
            made: 0,
            wakes: BinaryHeap::new(),
            resends: BinaryHeap::new(),
            frame: Vec::new(),
            text: String::new(),
            report: FillReport::default(),
        }
    }

    /// The number of a writer's user among all members.
    const fn member(&self, writer: u32) -> u32 {
        let group = self.first_group + writer / self.plan.writers;
        group * self.plan.division.group_members + writer % self.plan.writers
    }

    const fn is_owner(&self, writer: u32) -> bool {
        writer.is_multiple_of(self.plan.writers)
    }

    fn conversation(&self, writer: u32) -> Option<&String> {
        self.groups[(writer / self.plan.writers) as usize].as_ref()
    }

    fn write<D: Driver>(&mut self, fleet: &mut Fleet<D>, writer: u32, number: u32) {
        let group = self.first_group + writer / self.plan.writers;
        let frame = if number == CREATION {
            let credentials = &self.login.credentials;
            let create = self.plan.division.create(group, |member| credentials.user(member));
            client_frame::Frame::CreateGroup(create)
        } else {
            let Some(conversation) = self.conversation(writer).cloned() else { return };
            let sender = self.member(writer);
            let run = self.plan.division.run;
            let intended_ns = fleet.now().0;
            let stamp = Stamp { run, sender, receiver: group, sequence: number, intended_ns };
            stamp.write(self.plan.body_bytes, &mut self.text);
            client_frame::Frame::Send(Send {
                client_id: self.plan.division.client_id(sender, number),
                conversation,
                body: Some(Body { kind: Some(body::Kind::Text(self.text.clone())) }),
                reply_to: None,
            })
        };
        self.login.encode(frame, &mut self.frame);
        fleet.send(writer, self.login.opcode(), &self.frame);
    }

    /// Sends what window and pace allow.
    fn go_on<D: Driver>(&mut self, fleet: &mut Fleet<D>, writer: u32) {
        if self.conversation(writer).is_none() || !fleet.is_up(writer) {
            return;
        }
        let now = fleet.now();
        loop {
            let record = &mut self.writers[writer as usize];
            if record.sent >= record.quota || record.sent >= record.acked.next() + UNDER_WAY_MAX {
                return;
            }
            let ahead = record.paced_to.since(now);
            let allowed = record.gap * record.burst;
            if ahead > allowed {
                if !std::mem::replace(&mut record.is_waiting, true) {
                    self.wakes.push(Reverse((now.after(ahead - allowed), writer)));
                }
                return;
            }
            record.paced_to = record.paced_to.max(now).after(record.gap);
            let number = record.sent;
            record.sent += 1;
            self.write(fleet, writer, number);
        }
    }

    fn welcome<D: Driver>(&mut self, fleet: &mut Fleet<D>, writer: u32, welcome: &chat::Welcome) {
        if !fleet.is_opening(writer) {
            return;
        }
        fleet.limit_heartbeat(Duration::from_millis(u64::from(welcome.heartbeat_ms)));
        fleet.up(writer);
        let limits = welcome.limits.unwrap_or_default();
        let record = &mut self.writers[writer as usize];
        if limits.send_per_second > 0 {
            record.gap = Duration::from_secs_f64(1.0 / (f64::from(limits.send_per_second) * PACE));
            // The creation counts too, and one in ten is kept back.
            record.burst = (limits.send_burst * 9 / 10).saturating_sub(1);
        }
        let unacked: Vec<u32> =
            (record.acked.next()..record.sent).filter(|number| !record.acked.contains(*number)).collect();
        if std::mem::replace(&mut record.was_up, true) {
            // A new session begins with a whole burst, of which this is a part.
            record.paced_to = fleet.now().after(record.gap * unacked.len() as u32);
        }
        if self.is_owner(writer) && self.conversation(writer).is_none() {
            self.write(fleet, writer, CREATION);
        }
        for number in unacked {
            self.report.resent += 1;
            self.write(fleet, writer, number);
        }
        self.go_on(fleet, writer);
    }

    fn accepted<D: Driver>(&mut self, fleet: &mut Fleet<D>, writer: u32, accepted: &chat::Accepted) {
        match self.number(writer, &accepted.client_id) {
            Some(CREATION) => {
                let local = writer / self.plan.writers;
                let Some(conversation) = &accepted.conversation else {
                    self.break_off(
                        "the server accepted a createGroup and did not say which conversation it made",
                    );
                    return;
                };
                if self.groups[local as usize].replace(conversation.clone()).is_none() {
                    self.made += 1;
                    let first = local * self.plan.writers;
                    (first..first + self.plan.writers).for_each(|writer| self.go_on(fleet, writer));
                }
            }
            Some(number) => {
                let record = &mut self.writers[writer as usize];
                if !record.acked.contains(number) {
                    record.acked.observe(number);
                    self.report.acked += 1;
                }
                self.go_on(fleet, writer);
            }
            None => self.break_off(&format!(
                "the server accepted `{}`, which was never sent",
                accepted.client_id.chars().take(80).collect::<String>()
            )),
        }
    }

    fn number(&self, writer: u32, client_id: &str) -> Option<u32> {
        let group = self.first_group + writer / self.plan.writers;
        if self.is_owner(writer) && client_id == self.plan.division.creation_id(group) {
            return Some(CREATION);
        }
        let number = self.plan.division.number_of(self.member(writer), client_id)?;
        (number < self.writers[writer as usize].sent).then_some(number)
    }

    fn break_off(&mut self, why: &str) {
        self.report.broken.get_or_insert_with(|| why.to_owned());
    }

    fn error<D: Driver>(&mut self, fleet: &mut Fleet<D>, writer: u32, error: &chat::Error) {
        self.report.errors.add(&error.code);
        if fleet.is_opening(writer) {
            fleet.fail(writer, Ended::Scenario(format!("login: {}: {}", error.code, error.message)));
            return;
        }
        let Some(number) = self.number(writer, &error.client_id) else { return };
        if !passes(&error.code) {
            self.break_off(&format!(
                "the server refused what fills the inboxes: {}: {}",
                error.code, error.message
            ));
            return;
        }
        self.report.deferred.push(self.member(writer));
        if self.report.deferred.len() > 1_024 {
            self.report.deferred.sort_unstable();
            self.report.deferred.dedup();
        }
        let pause = Duration::from_millis(u64::from(error.retry_after_ms)).max(RESEND_PAUSE_MIN);
        self.resends.push(Reverse((fleet.now().after(pause), writer, number)));
    }

    fn outstanding(&self) -> i64 {
        let wanted = i64::from(self.plan.messages) * self.groups.len() as i64;
        wanted - self.report.acked as i64 + self.groups.len() as i64 - i64::from(self.made)
    }
}

impl Scenario for Fill {
    type Report = FillReport;

    fn authorize(&mut self, writer: u32, token: &mut String) {
        if !self.login.by_hello {
            self.login.credentials.write(self.member(writer), token);
        }
    }

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, writer: u32) {
        if self.login.by_hello {
            self.login.hello(self.member(writer), None, &mut self.frame);
            fleet.send(writer, self.login.opcode(), &self.frame);
        }
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, writer: u32, opcode: Opcode, payload: &[u8]) {
        if opcode == Opcode::Binary && crate::wire::event(payload).is_some() {
            return;
        }
        match chat::decode_server(self.login.format, payload) {
            Ok(ServerFrame { frame: Some(frame) }) if opcode == self.login.opcode() => match frame {
                server_frame::Frame::Welcome(welcome) => self.welcome(fleet, writer, &welcome),
                server_frame::Frame::Accepted(accepted) => self.accepted(fleet, writer, &accepted),
                server_frame::Frame::Error(error) => self.error(fleet, writer, &error),
                // Everything is read again when everybody comes back.
                _ => {}
            },
            // Of a later version of the protocol.
            Err(FrameError::Missing { .. }) => {}
            refused => fleet.fail(writer, no_frame(refused.err().as_ref())),
        }
    }

    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, _writer: u32, why: &Ended, _was_up: bool) -> Next {
        come_back(fleet.now(), why, None)
    }

    fn order<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _order: Order) {}

    fn turn<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        let now = fleet.now();
        while let Some(Reverse((moment, writer))) = self.wakes.peek().copied()
            && moment <= now
        {
            self.wakes.pop();
            self.writers[writer as usize].is_waiting = false;
            self.go_on(fleet, writer);
        }
        while let Some(Reverse((moment, writer, number))) = self.resends.peek().copied()
            && moment <= now
        {
            self.resends.pop();
            let is_open = match number {
                CREATION => self.conversation(writer).is_none(),
                number => !self.writers[writer as usize].acked.contains(number),
            };
            if is_open && fleet.is_up(writer) {
                self.report.resent += 1;
                self.write(fleet, writer, number);
            }
        }
    }

    fn next(&self) -> Option<Moment> {
        let wake = self.wakes.peek().map(|Reverse((moment, _))| *moment);
        let resend = self.resends.peek().map(|Reverse((moment, _, _))| *moment);
        wake.into_iter().chain(resend).min()
    }

    fn show(&self, gauges: &Gauges) {
        gauges.set(|gauges| &gauges.done, self.report.acked);
        gauges.set(|gauges| &gauges.broken, u64::from(self.report.broken.is_some()));
        gauges.set_outstanding(self.outstanding());
    }

    fn into_report(self) -> FillReport {
        self.report
    }
}
