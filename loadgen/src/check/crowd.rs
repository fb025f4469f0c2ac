//! The I/O around devices and judge: sockets of all devices in one loop, the server's process, the faults.
//!
//! A run is made of rounds. In each the crowd acts while faults strike; then faults stop, everybody who owes or is owed
//! something comes back, and when nothing is under way the judge settles. Devices that are away may stay away through
//! several rounds, and come back with old cursors.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_protocol::chat::{self, Format, client_frame, server_frame};
use holdfast_reactor::Moment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::actor::{Act, Actor, Return};
use super::device::Device;
use super::disk::{Disk, DiskError};
use super::fault::{Fault, Faults, Plan};
use super::judge::Judge;
use super::line::{Got, Line};
use super::observation::{self, LineNumber, Observation, What};
use super::violation::{Contract, Fact};
use crate::clock;
use crate::random::Random;
use crate::server::{ServerError, ServerOptions, ServerProcess};
use crate::token::{Mint, TokenError};
use crate::units::count;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("sockets cannot be used: {0}")]
    Socket(#[from] io::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} has a store already; `check` begins with an empty one", .0.display())]
    NotNew(PathBuf),
    #[error("the run was interrupted")]
    Interrupted,
    #[error("`{command}` cannot be run: {why}")]
    StoreCheck { command: String, why: String },
}

/// What to do.
#[derive(Debug)]
pub(crate) struct CrowdOptions {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) faults: Faults,
    pub(crate) users: u32,
    /// Acts per second.
    pub(crate) rate: f64,
    pub(crate) server: ServerOptions,
    /// The file that a disk which fails is, when one is needed.
    pub(crate) faultfs: PathBuf,
    /// Where every observation is written.
    pub(crate) record: Option<PathBuf>,
    pub(crate) quiet: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) judge: Judge,
    pub(crate) devices: usize,
    pub(crate) rounds: u32,
    pub(crate) faults: BTreeMap<Fault, u32>,
    pub(crate) seconds: f64,
    pub(crate) acting_seconds: f64,
    /// What `holdfast store check` said in the end, if it came to that.
    pub(crate) store_check: Option<String>,
    /// Where the data is, if there is something to see in it.
    pub(crate) server_log: String,
}

/// The first user.
const FIRST_USER: u64 = 1_000;
/// Devices of a user: one to so many.
const DEVICES_MAX: u32 = 3;
/// Acting between two settlings.
const ROUND_MS: (u32, u32) = (12_000, 25_000);
/// From answer to answer, until nothing is under way any more.
const REST_WITHIN_MS: u64 = 45_000;
/// All of them together.
const REST_AT_LAST_MS: u64 = 600_000;
/// The same when something is wrong already.
const LAST_LOOK_MS: u64 = 5_000;
const STOP_MS: u64 = 5_000;
const BEAT_MS: u64 = 10_000;
const SHOW_MS: u64 = 5_000;
const RECEIVE_BYTES: usize = 64 * 1024;
/// Of three connections in four: so that it is full soon when its client does not read.
const SMALL_BUFFER_BYTES: usize = 4 * 1024;
const TOKEN_LIFETIME_S: u64 = 7 * 86_400;

#[derive(Debug)]
struct Member {
    device: Device,
    line: Option<LineNumber>,
    /// `None`: it stays away.
    comes_ms: Option<u64>,
    comes_as: Return,
    /// Questions of one who reads everything in the end, and the one that is under way.
    audit: VecDeque<client_frame::Frame>,
    auditing: Option<client_frame::Frame>,
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    line: Line,
    member: usize,
    deaf_until_ms: u64,
    last_sent_ms: u64,
}

/// A fault that takes its time.
#[derive(Debug, Clone, Copy)]
struct Lasting {
    fault: Fault,
    until_ms: u64,
}

/// See the module's doc.
pub(crate) struct Crowd {
    options: CrowdOptions,
    begin: Moment,
    server: ServerProcess,
    disk: Option<Disk>,
    address: SocketAddr,
    /// Those who act come first.
    members: Vec<Member>,
    actors: usize,
    sockets: BTreeMap<LineNumber, Socket>,
    next_line: LineNumber,
    judge: Judge,
    actor: Actor,
    plan: Plan,
    random: Random,
    lasting: Option<Lasting>,
    next_act_ms: f64,
    is_acting: bool,
    record: Option<io::BufWriter<std::fs::File>>,
    faults: BTreeMap<Fault, u32>,
    shown_ms: u64,
    shown_entries: u64,
    rounds: u32,
    acting_ms: u64,
}

impl Crowd {
    /// Starts the server, on a disk that can fail if a fault needs one.
    pub(crate) fn start(options: CrowdOptions, keep_going: &dyn Fn() -> bool) -> Result<Self, CheckError> {
        let file_error = |path: &std::path::Path| {
            let path = path.to_owned();
            |source| CheckError::File { path, source }
        };
        let store = options.server.data.join("store");
        if store.exists() {
            return Err(CheckError::NotNew(store));
        }
        let mut disk = None;
        if options.faults.0.iter().any(|fault| fault.needs_disk()) {
            std::fs::create_dir_all(&store).map_err(file_error(&store))?;
            disk = Some(Disk::mount(&options.faultfs, &store)?);
        }
        let server = ServerProcess::start(&options.server, keep_going)?;
        let mint = Mint::from_file(&server.token_key(), clock::unix_ms() / 1_000, TOKEN_LIFETIME_S)?;
        let record = match &options.record {
            Some(path) => Some(io::BufWriter::new(std::fs::File::create(path).map_err(file_error(path))?)),
            None => None,
        };
        let mut random = Random::stream(options.seed, 3);
        let users: Vec<u64> = (FIRST_USER..).take(options.users as usize).collect();
        let mut members = Vec::new();
        for &user in &users {
            for number in 0..=random.below(DEVICES_MAX) {
                let format = if members.len().is_multiple_of(2) { Format::Protobuf } else { Format::Json };
                members.push(member(user, format!("d{number}"), format, &mint));
            }
        }
        let actors = members.len();
        // The one who reads everything in the end.
        for &user in &users {
            let mut auditor = member(user, "audit".into(), Format::Protobuf, &mint);
            auditor.comes_ms = None;
            members.push(auditor);
        }
        let known = members
            .iter()
            .map(|it| observation::Device { user: it.device.user, name: it.device.name.clone() });
        let judge = Judge::new(known.collect());
        let actor = Actor::new(options.seed, users);
        let plan = Plan::new(&options.faults, options.seed);
        let begin = clock::monotonic();
        Ok(Self {
            address: server.loopback(),
            begin,
            server,
            disk,
            members,
            actors,
            sockets: BTreeMap::new(),
            next_line: 1,
            judge,
            actor,
            plan,
            random,
            lasting: None,
            next_act_ms: 0.0,
            is_acting: false,
            record,
            faults: BTreeMap::new(),
            shown_ms: 0,
            shown_entries: 0,
            rounds: 0,
            acting_ms: 0,
            options,
        })
    }

    /// The whole run.
    pub(crate) fn run(mut self, keep_going: &dyn Fn() -> bool) -> Result<Tally, CheckError> {
        let end_ms = self.options.duration.as_millis() as u64;
        while self.judge.is_sound() && self.now_ms() < end_ms {
            self.round(end_ms, keep_going)?;
            self.settle(keep_going)?;
            self.rounds += 1;
        }
        if self.judge.is_sound() {
            self.audit(keep_going)?;
        }
        let server_log = if self.judge.is_sound() { String::new() } else { self.server.last_words() };
        // What the store says of itself helps to understand what was seen, too.
        let store_check = match self.look_at_store() {
            Err(error) if !self.judge.is_sound() => Some(error.to_string()),
            text => text?,
        };
        Ok(Tally {
            devices: self.actors,
            rounds: self.rounds,
            faults: std::mem::take(&mut self.faults),
            seconds: self.now_ms() as f64 / 1_000.0,
            acting_seconds: self.acting_ms as f64 / 1_000.0,
            store_check,
            server_log,
            judge: std::mem::take(&mut self.judge),
        })
    }

    fn now_ms(&self) -> u64 {
        clock::monotonic().since(self.begin).as_millis() as u64
    }

    fn say(&self, text: &str) {
        if !self.options.quiet {
            eprintln!("{text}");
        }
    }

    fn show(&mut self, phase: &str, now_ms: u64) {
        if now_ms < self.shown_ms + SHOW_MS {
            return;
        }
        let counts = self.judge.counts;
        let passed = (now_ms - self.shown_ms).max(1);
        let per_second = (counts.inbox_entries - self.shown_entries) * 1_000 / passed;
        (self.shown_ms, self.shown_entries) = (now_ms, counts.inbox_entries);
        let up = self.members.iter().filter(|it| it.device.is_up).count();
        let faults: u32 = self.faults.values().sum();
        self.say(&format!(
            "{:>4} s  {phase:<6} {up} devices up, {} accepted, {} inbox entries ({}/s), {faults} faults, {} violations",
            now_ms / 1_000,
            count(counts.acks),
            count(counts.inbox_entries),
            count(per_second),
            self.judge.violations().len(),
        ));
    }

    // --- phases

    fn round(&mut self, end_ms: u64, keep_going: &dyn Fn() -> bool) -> Result<(), CheckError> {
        let (least, most) = ROUND_MS;
        let began_ms = self.now_ms();
        let until_ms = (began_ms + u64::from(least + self.random.below(most - least))).min(end_ms);
        for member in &mut self.members {
            // Who stayed away through the settling comes back some time.
            if member.line.is_none() && member.device.name != "audit" {
                member.comes_ms = Some(began_ms + u64::from(self.random.below(6_000)));
            }
        }
        self.is_acting = true;
        self.next_act_ms = began_ms as f64;
        self.plan.pause(began_ms);
        while self.judge.is_sound() {
            let now_ms = self.now_ms();
            if now_ms >= until_ms {
                break;
            }
            if !keep_going() {
                return Err(CheckError::Interrupted);
            }
            self.strike(now_ms)?;
            self.turn(5)?;
            self.show("act", now_ms);
        }
        self.is_acting = false;
        self.acting_ms += self.now_ms() - began_ms;
        Ok(())
    }

    /// Until nothing is under way; then the judge settles.
    fn settle(&mut self, keep_going: &dyn Fn() -> bool) -> Result<(), CheckError> {
        self.end_lasting()?;
        let began_ms = self.now_ms();
        for socket in self.sockets.values_mut() {
            socket.deaf_until_ms = 0;
        }
        let is_sound = self.judge.is_sound();
        let patience_ms = if is_sound { REST_WITHIN_MS } else { LAST_LOOK_MS };
        let (mut answers, mut answered_ms) = (self.judge.counts.answers(), began_ms);
        let mut looked_ms = 0;
        loop {
            let now_ms = self.now_ms();
            self.call_back(now_ms);
            self.turn(5)?;
            self.show("settle", now_ms);
            if !keep_going() {
                return Err(CheckError::Interrupted);
            }
            if now_ms >= looked_ms + 50 {
                looked_ms = now_ms;
                if self.is_quiet() && self.judge.is_at_rest() {
                    break;
                }
                let answers_now = self.judge.counts.answers();
                if is_sound && answers_now != answers {
                    (answers, answered_ms) = (answers_now, now_ms);
                }
                if now_ms > answered_ms + patience_ms || now_ms > began_ms + REST_AT_LAST_MS {
                    break;
                }
            }
            if self.has_died()? {
                break;
            }
        }
        let rests = self.is_quiet() && self.judge.is_at_rest();
        self.judge.settle();
        if !rests && self.judge.is_sound() {
            let at_ms = self.now_ms();
            let stuck: Vec<Fact> = self
                .members
                .iter()
                .filter(|it| it.line.is_some() && !it.device.is_quiet())
                .take(5)
                .map(|it| Fact {
                    at_ms,
                    text: format!(
                        "user {} {}: up {}, live {}, cursor {}, asked {:?}, waits for answers: {}",
                        it.device.user,
                        it.device.name,
                        it.device.is_up,
                        it.device.is_live,
                        it.device.cursor,
                        it.device.asked_ms,
                        it.device.has_outbox(),
                    ),
                })
                .collect();
            let former = self.sockets.len() - self.members.iter().filter(|it| it.line.is_some()).count();
            let mut stuck = stuck;
            if former > 0 {
                let text = format!("{former} connections are still open that their devices have replaced");
                stuck.push(Fact { at_ms, text });
            }
            let what = format!(
                "not everything is answered, {} s after the last answer and {} s after the last act",
                (at_ms - answered_ms) / 1_000,
                (at_ms - began_ms) / 1_000
            );
            self.judge.accuse(Contract::Alive, what, stuck);
        }
        Ok(())
    }

    /// Who owes or is owed something comes back, and one device of each user.
    fn call_back(&mut self, now_ms: u64) {
        let mut users_up = BTreeMap::new();
        for member in &self.members {
            let is_there = member.line.is_some() || (member.comes_ms.is_some() && member.device.has_outbox());
            *users_up.entry(member.device.user).or_insert(false) |= is_there;
        }
        for member in &mut self.members {
            if member.line.is_some() || member.device.name == "audit" {
                continue;
            }
            let is_needed = member.device.has_outbox() || !users_up[&member.device.user];
            if is_needed {
                users_up.insert(member.device.user, true);
                member.comes_ms = Some(member.comes_ms.map_or(now_ms, |at_ms| at_ms.min(now_ms + 100)));
            } else {
                member.comes_ms = None;
            }
        }
        // What a snapshot has left out nobody has seen: somebody asks for it.
        let mut asked = Vec::new();
        for (index, member) in self.members.iter().enumerate() {
            let user = member.device.user;
            let Some(inbox) = self.judge.inboxes.get(&user) else { continue };
            if inbox.prefix < inbox.known
                && member.device.may_ask()
                && member.device.cursor > inbox.prefix
                && !asked.iter().any(|&(_, it, _)| it == user)
            {
                asked.push((index, user, inbox.prefix));
            }
        }
        for (index, user, after) in asked {
            // One at a time: the others of this user are content.
            let busy =
                self.members.iter().any(|it| it.device.user == user && it.device.is_up && !it.device.is_live);
            if !busy {
                let frame = self.members[index].device.sync(after, 0, true);
                self.send(index, now_ms, frame);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let mut users_up: BTreeMap<u64, bool> = BTreeMap::new();
        for member in &self.members {
            let is_up = member.line.is_some() && member.device.is_live;
            *users_up.entry(member.device.user).or_default() |= is_up;
            if !member.device.is_quiet() || (member.line.is_some() && !member.device.is_up) {
                return false;
            }
        }
        // A device has one session: the server has ended those that another one took the place of.
        let are_current =
            self.sockets.iter().all(|(&number, it)| self.members[it.member].line == Some(number));
        are_current
            && users_up.values().all(|&is_up| is_up)
            && self.members.iter().all(|it| it.audit.is_empty())
    }

    /// Every inbox from its beginning, every list, every conversation's history.
    fn audit(&mut self, keep_going: &dyn Fn() -> bool) -> Result<(), CheckError> {
        self.say("         every inbox, list and history is read from its beginning");
        let mut readers: BTreeMap<u64, VecDeque<client_frame::Frame>> = BTreeMap::new();
        for (conversation, log) in &self.judge.logs {
            let members = &log.state().members;
            let Some(&reader) = members.keys().nth(self.random.below(members.len() as u32) as usize) else {
                continue;
            };
            let questions = readers.entry(reader).or_default();
            let conversation = conversation.to_string();
            questions.push_back(history_after(&conversation, 0));
            if log.conversation.users().is_none() {
                let conversation = conversation.clone();
                questions.push_back(client_frame::Frame::Group(chat::GroupRequest { conversation }));
            }
            questions.push_back(client_frame::Frame::Receipts(chat::ReceiptsRequest { conversation }));
        }
        let now_ms = self.now_ms();
        for member in self.members.iter_mut().filter(|it| it.device.name == "audit") {
            member.comes_ms = Some(now_ms);
            member.comes_as = Return { cursor: Some(0), every_entry: true };
            member.audit = readers.remove(&member.device.user).unwrap_or_default();
            member.audit.push_front(list_after(""));
        }
        self.settle(keep_going)
    }

    /// Lets the server end, and has its own checker look at what it has kept.
    fn look_at_store(&mut self) -> Result<Option<String>, CheckError> {
        self.sockets.clear();
        self.server.terminate()?;
        let status = self.server.wait()?;
        // What is wrong already is not to be outdone by what it has left behind.
        let is_sound = self.judge.is_sound();
        if is_sound && !status.success() {
            let what = format!("the server ended with {status} when it was told to");
            self.judge.accuse(Contract::Alive, what, Vec::new());
        }
        let binary = self.options.server.binary.clone().unwrap_or_else(|| beside("holdfast"));
        let data = self.options.server.data.join("store");
        let command = format!("{} store check --data {}", binary.display(), data.display());
        let output = Command::new(&binary)
            .args(["store", "check", "--data"])
            .arg(&data)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| CheckError::StoreCheck { command: command.clone(), why: error.to_string() })?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match output.status.code() {
            Some(0) => {}
            Some(1) if !is_sound => {}
            Some(1) => {
                let facts = text
                    .lines()
                    .map(|line| Fact { at_ms: self.now_ms(), text: line.trim().into() })
                    .collect();
                self.judge.accuse(
                    Contract::Durable,
                    "`holdfast store check` is not content with the data",
                    facts,
                );
            }
            _ => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(CheckError::StoreCheck { command, why });
            }
        }
        Ok(Some(text))
    }

    // --- faults

    fn strike(&mut self, now_ms: u64) -> Result<(), CheckError> {
        if self.lasting.is_some_and(|lasting| lasting.until_ms <= now_ms) {
            self.end_lasting()?;
        }
        if self.lasting.is_some() {
            return Ok(());
        }
        let Some(fault) = self.plan.next(now_ms) else { return Ok(()) };
        *self.faults.entry(fault).or_default() += 1;
        let bits = self.plan.random().bits();
        match fault {
            Fault::Kill => self.kill_and_restart(&[])?,
            Fault::Lost => self.kill_and_restart(&["crash".into()])?,
            Fault::Torn => self.kill_and_restart(&[format!("crash {}", bits >> 1)])?,
            Fault::Stop => {
                self.server.suspend(true)?;
                self.lasting = Some(Lasting { fault, until_ms: now_ms + STOP_MS });
            }
            Fault::Eio => {
                self.tell_disk(&format!("eio {}", 1 + bits % 4))?;
                self.lasting = Some(Lasting { fault, until_ms: now_ms + 300 + bits % 1_000 });
            }
            Fault::Full => {
                self.tell_disk(&format!("full {}", bits % 300_000))?;
                self.lasting = Some(Lasting { fault, until_ms: now_ms + 1_000 + bits % 2_000 });
            }
            Fault::Reset => {
                let some = 1 + bits % 4;
                let numbers: Vec<LineNumber> = self.sockets.keys().copied().collect();
                for number in numbers {
                    if u64::from(self.random.below(4)) < some {
                        self.hang_up(number, true, now_ms);
                    }
                }
            }
            Fault::Slow => {
                for socket in self.sockets.values_mut() {
                    if self.random.below(3) == 0 {
                        socket.deaf_until_ms = now_ms + 1_000 + u64::from(self.random.below(7_000));
                    }
                }
            }
        }
        // Connections that end, or are slow, keep nothing from arriving within the server.
        if !matches!(fault, Fault::Reset | Fault::Slow) {
            let until_ms = self.lasting.map_or(0, |lasting| lasting.until_ms).max(self.now_ms());
            self.judge.disturbed(now_ms, until_ms);
        }
        Ok(())
    }

    fn tell_disk(&mut self, line: &str) -> Result<(), CheckError> {
        if let Some(disk) = &mut self.disk {
            disk.tell(line)?;
        }
        Ok(())
    }

    /// Ends what takes its time.
    fn end_lasting(&mut self) -> Result<(), CheckError> {
        let Some(Lasting { fault, until_ms }) = self.lasting.take() else { return Ok(()) };
        match fault {
            Fault::Stop => self.server.suspend(false)?,
            Fault::Full => self.tell_disk("heal")?,
            // Nobody knows what is on such a disk, so the process cannot go on; often the machine cannot either.
            Fault::Eio => {
                let bits = self.plan.random().bits();
                let mut lines = vec!["heal".to_owned()];
                match bits % 3 {
                    0 => {}
                    1 => lines.push("crash".into()),
                    _ => lines.push(format!("crash {}", bits >> 2)),
                }
                self.kill_and_restart(&lines)?;
            }
            _ => {}
        }
        self.judge.disturbed(until_ms, self.now_ms());
        Ok(())
    }

    fn kill_and_restart(&mut self, between: &[String]) -> Result<(), CheckError> {
        self.server.kill()?;
        // What it had written before it died was said, and counts.
        for socket in self.sockets.values_mut() {
            socket.deaf_until_ms = 0;
        }
        let was_acting = std::mem::take(&mut self.is_acting);
        let patience_ms = self.now_ms() + 2_000;
        while !self.sockets.is_empty() && self.now_ms() < patience_ms {
            self.exchange(5)?;
        }
        let now_ms = self.now_ms();
        for number in self.sockets.keys().copied().collect::<Vec<_>>() {
            self.hang_up(number, true, now_ms);
        }
        self.is_acting = was_acting;
        for line in between {
            self.tell_disk(line)?;
        }
        match ServerProcess::start(&self.options.server, || true) {
            Ok(server) => {
                self.address = server.loopback();
                self.server = server;
            }
            Err(error @ (ServerError::Died { .. } | ServerError::NotReady { .. })) => {
                let at_ms = self.now_ms();
                let facts = vec![Fact { at_ms, text: error.to_string() }];
                self.judge.accuse(
                    Contract::Alive,
                    "the server does not start again on what it has kept",
                    facts,
                );
            }
            Err(error) => return Err(error.into()),
        }
        let now_ms = self.now_ms();
        self.next_act_ms = now_ms as f64;
        self.plan.pause(now_ms);
        Ok(())
    }

    fn has_died(&mut self) -> Result<bool, CheckError> {
        match self.server.check() {
            Ok(()) => Ok(false),
            Err(error @ ServerError::Died { .. }) => {
                if self.judge.violations().iter().all(|it| it.contract != Contract::Alive) {
                    let facts = vec![Fact { at_ms: self.now_ms(), text: error.to_string() }];
                    self.judge.accuse(Contract::Alive, "the server has ended by itself", facts);
                }
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    // --- turns

    fn turn(&mut self, wait_ms: u64) -> Result<(), CheckError> {
        let now_ms = self.now_ms();
        for index in 0..self.members.len() {
            if self.members[index].line.is_none()
                && self.members[index].comes_ms.is_some_and(|at_ms| at_ms <= now_ms)
            {
                self.connect(index, now_ms);
            }
        }
        if self.is_acting {
            self.act(now_ms);
            self.has_died()?;
        }
        let mut send = Vec::new();
        for index in 0..self.members.len() {
            self.members[index].device.due(now_ms, &mut send);
            if self.members[index].device.may_ask()
                && let Some(question) = self.members[index].audit.pop_front()
            {
                self.members[index].device.asked_ms = Some(now_ms);
                self.members[index].auditing = Some(question.clone());
                send.push(question);
            }
            for frame in send.drain(..) {
                self.send(index, now_ms, frame);
            }
        }
        self.exchange(wait_ms)
    }

    fn act(&mut self, now_ms: u64) {
        // What is due, but no more than a burst after a stop.
        let mut budget = 64;
        while self.next_act_ms <= now_ms as f64 && budget > 0 {
            budget -= 1;
            self.next_act_ms += self.random.exponential() * 1_000.0 / self.options.rate;
            let index = self.random.below(self.actors as u32) as usize;
            if self.members[index].device.is_up {
                self.act_as(index, now_ms);
            }
        }
        self.next_act_ms = self.next_act_ms.max(now_ms as f64 - 200.0);
    }

    fn act_as(&mut self, index: usize, now_ms: u64) {
        let member = &mut self.members[index];
        let device = &mut member.device;
        match self.actor.choose(device.user, &self.judge) {
            Act::Do(frame) if device.may_act() => {
                let frame = named(frame, device.next_name());
                device.keep(frame.clone());
                // Now and then twice at once: the answer must be the same.
                if self.random.below(40) == 0 {
                    self.send(index, now_ms, frame.clone());
                }
                self.send(index, now_ms, frame);
            }
            Act::Again { at } => {
                if let Some(frame) = device.earlier(at).cloned() {
                    self.send(index, now_ms, frame);
                }
            }
            Act::Ask(frame) if device.may_ask() => {
                device.asked_ms = Some(now_ms);
                self.send(index, now_ms, frame);
            }
            Act::Sync { back, limit, every_entry } if device.may_ask() => {
                let frame = device.sync(device.cursor.saturating_sub(back), limit, every_entry);
                self.send(index, now_ms, frame);
            }
            Act::Ack => {
                let rev = device.cursor;
                self.send(index, now_ms, client_frame::Frame::Ack(chat::Ack { rev }));
            }
            Act::Say(frame) => self.send(index, now_ms, frame),
            Act::GoAway { for_ms, with_reset } => {
                if let Some(number) = member.line {
                    self.hang_up(number, with_reset, now_ms);
                    self.members[index].comes_ms = Some(now_ms + for_ms);
                }
            }
            Act::Rival => self.connect(index, now_ms),
            Act::Do(_) | Act::Ask(_) | Act::Sync { .. } => {}
        }
    }

    /// A new connection, which takes the place of the one before if there is one.
    fn connect(&mut self, index: usize, now_ms: u64) {
        let number = self.next_line;
        let Ok(stream) = open(self.address, !number.is_multiple_of(4)) else {
            self.members[index].comes_ms = Some(now_ms + 100);
            return;
        };
        self.next_line += 1;
        let random = Random::stream(self.options.seed, 1_000 + u64::from(number));
        let member = &mut self.members[index];
        let line = Line::new(member.device.format, &self.address.to_string(), random);
        member.device.lost();
        member.line = Some(number);
        member.comes_ms = None;
        let socket = Socket { stream, line, member: index, deaf_until_ms: 0, last_sent_ms: now_ms };
        self.sockets.insert(number, socket);
    }

    fn hang_up(&mut self, number: LineNumber, with_reset: bool, now_ms: u64) {
        if let Some(socket) = self.sockets.get(&number)
            && with_reset
        {
            // Closing then sends RST instead of FIN.
            let _ = sockopt::set_socket_linger(&socket.stream, Some(Duration::ZERO));
        }
        self.ended(number, now_ms);
    }

    fn ended(&mut self, number: LineNumber, now_ms: u64) {
        let Some(socket) = self.sockets.remove(&number) else { return };
        let index = socket.member;
        self.observe(now_ms, index, number, What::Ended);
        let member = &mut self.members[index];
        if member.line != Some(number) {
            return;
        }
        member.line = None;
        member.device.lost();
        member.comes_ms = Some(now_ms + 20 + u64::from(self.random.below(200)));
        if member.device.name != "audit" {
            member.comes_as = self.actor.come_back(member.device.cursor);
        } else {
            member.comes_as.cursor = Some(member.device.cursor);
            member.audit.extend(member.auditing.take());
        }
    }

    fn observe(&mut self, at_ms: u64, device: usize, line: LineNumber, what: What) {
        let observation = Observation { at_ms, device, line, what };
        if let Some(record) = &mut self.record {
            let it = &self.members[device].device;
            // A record that cannot be written is missed by whoever looks for it.
            let _ =
                writeln!(record, "{at_ms} user {} {} line {line} {:?}", it.user, it.name, observation.what);
        }
        self.judge.observe(&observation);
    }

    fn send(&mut self, index: usize, now_ms: u64, frame: client_frame::Frame) {
        let Some(number) = self.members[index].line else { return };
        let Some(socket) = self.sockets.get_mut(&number) else { return };
        if socket.line.is_open() {
            socket.line.send(&frame);
            socket.last_sent_ms = now_ms;
            self.observe(now_ms, index, number, What::Sent(frame));
        }
    }

    /// Writes and reads what goes.
    fn exchange(&mut self, wait_ms: u64) -> Result<(), CheckError> {
        let now_ms = self.now_ms();
        let mut gone = Vec::new();
        let mut numbers = Vec::new();
        for (&number, socket) in &mut self.sockets {
            if socket.line.is_open() && now_ms > socket.last_sent_ms + BEAT_MS {
                socket.last_sent_ms = now_ms;
                socket.line.beat();
            }
            socket.flush();
            numbers.push(number);
        }
        let ready: Vec<LineNumber> = {
            let mut fds: Vec<PollFd<'_>> = self
                .sockets
                .values()
                .map(|socket| {
                    let mut flags = PollFlags::empty();
                    flags.set(PollFlags::IN, socket.deaf_until_ms <= now_ms);
                    flags.set(PollFlags::OUT, !socket.line.out.is_empty());
                    PollFd::new(&socket.stream, flags)
                })
                .collect();
            let timeout = Timespec { tv_sec: 0, tv_nsec: wait_ms as i64 * 1_000_000 };
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
            let ready = fds.iter().zip(&numbers).filter(|(fd, _)| fd.revents().intersects(readable));
            ready.map(|(_, &number)| number).collect()
        };
        let now_ms = self.now_ms();
        let mut buffer = vec![0; RECEIVE_BYTES];
        for number in ready {
            if self.sockets.get(&number).is_some_and(|socket| socket.deaf_until_ms <= now_ms)
                && !self.receive(number, now_ms, &mut buffer)
            {
                gone.push(number);
            }
        }
        for number in gone {
            self.ended(number, now_ms);
        }
        Ok(())
    }

    /// Reads what there is; false: the connection is gone.
    fn receive(&mut self, number: LineNumber, now_ms: u64, buffer: &mut [u8]) -> bool {
        let mut got = Vec::new();
        let mut lives = true;
        let Some(socket) = self.sockets.get_mut(&number) else { return true };
        let index = socket.member;
        match socket.stream.read(buffer) {
            Ok(0) => lives = false,
            Ok(bytes) => socket.line.take(&mut buffer[..bytes], &mut got),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => lives = false,
        }
        for got in got {
            match got {
                Got::Open => {
                    let member = &mut self.members[index];
                    if member.line == Some(number) {
                        let Return { cursor, every_entry } = member.comes_as;
                        let frame = member.device.hello(cursor, every_entry);
                        self.send(index, now_ms, frame);
                    }
                }
                Got::Frame(frame) => self.take(index, number, now_ms, *frame),
                Got::Closed => lives = false,
                Got::Nonsense(what) => {
                    let it = &self.members[index].device;
                    let text = format!("user {} {}: {what}", it.user, it.name);
                    self.judge.accuse(
                        Contract::Alive,
                        "the server breaks the protocol",
                        vec![Fact { at_ms: now_ms, text }],
                    );
                    lives = false;
                }
            }
        }
        lives
    }

    fn take(&mut self, index: usize, number: LineNumber, now_ms: u64, frame: server_frame::Frame) {
        if self.members[index].line == Some(number) {
            let mut send = Vec::new();
            let member = &mut self.members[index];
            member.device.handle(now_ms, &frame, &mut send);
            if member.device.name == "audit" {
                let is_answer = matches!(
                    frame,
                    server_frame::Frame::History(_)
                        | server_frame::Frame::Conversations(_)
                        | server_frame::Frame::Group(_)
                        | server_frame::Frame::Receipts(_)
                );
                if is_answer {
                    member.auditing = None;
                }
                match &frame {
                    // There is no room for the answer now.
                    server_frame::Frame::Error(error) if error.retry_after_ms > 0 => {
                        member.audit.extend(member.auditing.take());
                    }
                    server_frame::Frame::History(history) if !history.end => {
                        let last = history.messages.last().map_or(0, |message| message.seq);
                        member.audit.push_front(history_after(&history.conversation, last));
                    }
                    server_frame::Frame::Conversations(list) if !list.end => {
                        let last = list.conversations.last().map_or("", |state| &state.conversation);
                        member.audit.push_front(list_after(last));
                    }
                    _ => {}
                }
            }
            self.observe(now_ms, index, number, What::Received(frame));
            for frame in send {
                self.send(index, now_ms, frame);
            }
        } else {
            self.observe(now_ms, index, number, What::Received(frame));
        }
    }
}

impl Socket {
    /// Writes what goes.
    fn flush(&mut self) {
        while !self.line.out.is_empty() {
            match self.stream.write(&self.line.out) {
                Ok(bytes) => drop(self.line.out.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What has come before the end can still be read, and then the end is seen.
                Err(_) => self.line.out.clear(),
            }
        }
    }
}

fn member(user: u64, name: String, format: Format, mint: &Mint) -> Member {
    let mut token = String::new();
    mint.write(user, &name, &mut token);
    let mut device = Device::new(user, name, format);
    device.set_token(token);
    let comes_as = Return { cursor: Some(0), every_entry: false };
    Member { device, line: None, comes_ms: Some(0), comes_as, audit: VecDeque::new(), auditing: None }
}

fn open(address: SocketAddr, small_buffer: bool) -> io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if small_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, SMALL_BUFFER_BYTES)?;
    }
    // On loopback this waits for nobody: the kernel takes the connection for the listener.
    rustix::net::connect(&socket, &address)?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A binary beside ours.
pub(crate) fn beside(name: &str) -> PathBuf {
    std::env::current_exe().map_or_else(|_| name.into(), |path| path.with_file_name(name))
}

fn history_after(conversation: &str, after: u64) -> client_frame::Frame {
    let conversation = conversation.to_owned();
    client_frame::Frame::History(chat::HistoryRequest {
        conversation,
        before: None,
        after: Some(after),
        limit: 50,
    })
}

fn list_after(after: &str) -> client_frame::Frame {
    client_frame::Frame::Conversations(chat::ConversationsRequest { after: after.to_owned(), limit: 50 })
}

/// A request with its name.
fn named(mut frame: client_frame::Frame, name: String) -> client_frame::Frame {
    use client_frame::Frame;
    match &mut frame {
        Frame::Send(it) => it.client_id = name,
        Frame::CreateGroup(it) => it.client_id = name,
        Frame::AddMembers(it) => it.client_id = name,
        Frame::RemoveMember(it) => it.client_id = name,
        Frame::Leave(it) => it.client_id = name,
        Frame::Rename(it) => it.client_id = name,
        Frame::SetRole(it) => it.client_id = name,
        Frame::SetRetention(it) => it.client_id = name,
        Frame::Edit(it) => it.client_id = name,
        Frame::Delete(it) => it.client_id = name,
        _ => {}
    }
    frame
}
