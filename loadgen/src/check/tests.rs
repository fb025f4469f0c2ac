//! The judge against histories that are made up: an honest one passes, and each that is wrong in one way is found, and
//! called by its name.

use std::collections::BTreeMap;

use holdfast_protocol::chat::{self, Role, body, client_frame, content, entry, server_frame};

use super::judge::Judge;
use super::observation::{Device, Observation, What};
use super::violation::{Contract, smallest};

use client_frame::Frame as Ask;
use server_frame::Frame as Tell;

/// Devices: user 1 has two, the others have one. Their numbers are those of their first connections.
const DEVICES: [(u64, &str); 5] = [(1, "phone"), (2, "phone"), (3, "phone"), (4, "phone"), (1, "laptop")];
const GROUP: &str = "g7";

/// A server in a few lines. It does what the test says, right or wrong.
struct Scene {
    judge: Judge,
    now_ms: u64,
    lines: Vec<u32>,
    next_line: u32,
    inboxes: BTreeMap<u64, Vec<chat::Entry>>,
    logs: BTreeMap<String, Vec<chat::Message>>,
    names: u64,
    ids: u64,
}

impl Scene {
    fn new() -> Self {
        let devices = DEVICES.map(|(user, name)| Device { user, name: name.into() });
        let mut scene = Self {
            judge: Judge::new(devices.to_vec()),
            now_ms: 0,
            lines: vec![0; DEVICES.len()],
            next_line: 1,
            inboxes: BTreeMap::new(),
            logs: BTreeMap::new(),
            names: 0,
            ids: 100,
        };
        for device in 0..DEVICES.len() {
            scene.hello(device, Some(0), false);
            scene.welcome(device, 0);
        }
        scene
    }

    /// With a group of users 1, 2 and 3, whose owner is user 1, and two messages in it.
    fn with_group() -> Self {
        let mut scene = Self::new();
        scene.do_it(0, create(&[2, 3]), &[1, 2, 3]);
        scene.say(0, &[1, 2, 3]);
        scene.say(1, &[1, 2, 3]);
        scene
    }

    fn see(&mut self, device: usize, what: What) {
        self.now_ms += 1;
        let line = self.lines[device];
        self.judge.observe(&Observation { at_ms: self.now_ms, device, line, what });
    }

    fn ask(&mut self, device: usize, frame: Ask) {
        self.see(device, What::Sent(frame));
    }

    fn tell(&mut self, device: usize, frame: Tell) {
        self.see(device, What::Received(frame));
    }

    fn hello(&mut self, device: usize, cursor: Option<u64>, every_entry: bool) {
        self.see(device, What::Ended);
        self.lines[device] = self.next_line;
        self.next_line += 1;
        self.ask(
            device,
            Ask::Hello(chat::Hello { token: String::new(), device: String::new(), cursor, every_entry }),
        );
    }

    fn head(&self, device: usize) -> u64 {
        self.inboxes.get(&DEVICES[device].0).map_or(0, |inbox| inbox.len() as u64)
    }

    fn welcome(&mut self, device: usize, cursor: u64) {
        let head = self.head(device);
        self.tell(device, Tell::Welcome(chat::Welcome { cursor, head, ..Default::default() }));
    }

    /// All entries after `after`, in one page.
    fn page(&mut self, device: usize, after: u64) {
        let inbox = self.inboxes.get(&DEVICES[device].0).cloned().unwrap_or_default();
        let events =
            (1..).zip(inbox).skip(after as usize).map(|(rev, entry)| chat::Event { rev, entry: Some(entry) });
        let events = events.collect();
        self.tell(device, Tell::Page(chat::Page { events, head: self.head(device), live: true }));
    }

    /// The event that a request makes, and its ack; nobody has got it yet.
    fn make(&mut self, device: usize, mut frame: Ask) -> chat::Message {
        self.names += 1;
        let name = format!("c{}", self.names);
        set_name(&mut frame, &name);
        self.ask(device, frame.clone());
        self.make_again(device, &frame, &name)
    }

    fn make_again(&mut self, device: usize, frame: &Ask, name: &str) -> chat::Message {
        let message = self.event(device, frame, name);
        self.accept(device, &message);
        message
    }

    fn event(&mut self, device: usize, frame: &Ask, name: &str) -> chat::Message {
        let (conversation, kind) = event_of(frame);
        self.ids += 1;
        let log = self.logs.entry(conversation.clone()).or_default();
        let says = matches!(kind, body::Kind::Text(_));
        let ordinal = log.last().map_or(0, |last| last.ordinal()) + u64::from(says);
        let (user, device) = DEVICES[device];
        let message = chat::Message {
            conversation,
            seq: log.len() as u64 + 1,
            message_id: self.ids,
            sender: user,
            client_id: name.into(),
            device: device.into(),
            time_ms: 1,
            body: Some(chat::Body { kind: Some(kind) }),
            reply_to: None,
            changed_by: None,
            ordinal: Some(ordinal),
        };
        log.push(message.clone());
        message
    }

    fn accept(&mut self, device: usize, message: &chat::Message) {
        let chat::Message { client_id, message_id, seq, conversation, .. } = message.clone();
        let conversation = (seq == 1 && conversation == GROUP).then_some(conversation);
        self.tell(device, Tell::Accepted(chat::Accepted { client_id, message_id, seq, conversation }));
    }

    /// Puts it into an inbox, and tells the user's first device.
    fn deliver(&mut self, user: u64, message: &chat::Message) {
        self.deliver_entry(user, entry::Kind::Message(message.clone()));
    }

    fn deliver_entry(&mut self, user: u64, kind: entry::Kind) {
        let entry = chat::Entry { kind: Some(kind) };
        let inbox = self.inboxes.entry(user).or_default();
        inbox.push(entry.clone());
        let rev = inbox.len() as u64;
        self.tell(user as usize - 1, Tell::Event(chat::Event { rev, entry: Some(entry) }));
    }

    fn do_it(&mut self, device: usize, frame: Ask, recipients: &[u64]) -> chat::Message {
        let message = self.make(device, frame);
        for &user in recipients {
            self.deliver(user, &message);
        }
        message
    }

    fn say(&mut self, device: usize, recipients: &[u64]) -> chat::Message {
        let text = format!("text {}", self.ids);
        self.do_it(device, send(GROUP, &text), recipients)
    }

    fn read(&mut self, device: usize, up_to: u64) {
        let user = DEVICES[device].0;
        self.ask(device, Ask::Read(chat::Read { conversation: GROUP.into(), up_to }));
        let ordinal = self.logs[GROUP][up_to as usize - 1].ordinal();
        let mark = chat::ReadMark { conversation: GROUP.into(), up_to, ordinal };
        self.deliver_entry(user, entry::Kind::Read(mark));
        self.tell(device, receipts(&[(user, up_to)]));
    }

    fn list(&mut self, device: usize, states: Vec<chat::ConversationState>) {
        self.ask(device, Ask::Conversations(chat::ConversationsRequest::default()));
        let rev = self.head(device);
        self.tell(device, Tell::Conversations(chat::Conversations { conversations: states, rev, end: true }));
    }

    /// The group as user 2's list has it after [`Scene::with_group`].
    fn state(&self) -> chat::ConversationState {
        chat::ConversationState {
            conversation: GROUP.into(),
            rev: 3,
            unread: 0,
            title: "Roof".into(),
            messages: vec![self.logs[GROUP][2].clone()],
            ..Default::default()
        }
    }

    fn history(&mut self, device: usize, change: impl FnOnce(&mut chat::History)) {
        let conversation = GROUP.to_owned();
        self.ask(device, Ask::History(chat::HistoryRequest { conversation, ..Default::default() }));
        let messages = self.logs[GROUP].clone();
        let head = messages.len() as u64;
        let mut history = chat::History { conversation: GROUP.into(), messages, head, end: true };
        change(&mut history);
        self.tell(device, Tell::History(history));
    }

    /// What the judge says when everything has come to rest.
    fn verdict(mut self) -> Option<(Contract, String)> {
        self.judge.settle();
        smallest(self.judge.violations()).map(|it| (it.contract, it.to_string()))
    }

    fn finds(self, contract: Contract, what: &str) {
        let (found, text) = self.verdict().expect("it is wrong");
        assert_eq!(found, contract, "{text}");
        assert!(text.contains(what), "{what:?} is not in: {text}");
        assert!(text.lines().count() >= 2, "observations are named: {text}");
    }
}

fn send(conversation: &str, text: &str) -> Ask {
    let body = Some(chat::Body { kind: Some(body::Kind::Text(text.into())) });
    Ask::Send(chat::Send {
        client_id: String::new(),
        conversation: conversation.into(),
        body,
        reply_to: None,
    })
}

fn create(members: &[u64]) -> Ask {
    let (title, members) = ("Roof".into(), members.to_vec());
    Ask::CreateGroup(chat::CreateGroup { client_id: String::new(), title, members, open_history: false })
}

fn remove(user: u64) -> Ask {
    Ask::RemoveMember(chat::RemoveMember { client_id: String::new(), conversation: GROUP.into(), user })
}

fn add(user: u64) -> Ask {
    Ask::AddMembers(chat::AddMembers {
        client_id: String::new(),
        conversation: GROUP.into(),
        users: vec![user],
    })
}

fn edit(seq: u64) -> Ask {
    let content = Some(chat::Content { kind: Some(content::Kind::Text("edited".into())) });
    Ask::Edit(chat::Edit { client_id: String::new(), conversation: GROUP.into(), seq, content })
}

fn receipts(marks: &[(u64, u64)]) -> Tell {
    let member = |&(user, read): &(u64, u64)| chat::MemberReceipt { user, read, delivered: read };
    let members = marks.iter().map(member).collect();
    Tell::Receipts(chat::Receipts { conversation: GROUP.into(), members })
}

fn set_name(frame: &mut Ask, name: &str) {
    match frame {
        Ask::Send(it) => it.client_id = name.into(),
        Ask::CreateGroup(it) => it.client_id = name.into(),
        Ask::RemoveMember(it) => it.client_id = name.into(),
        Ask::AddMembers(it) => it.client_id = name.into(),
        Ask::Edit(it) => it.client_id = name.into(),
        _ => unreachable!("the tests ask for nothing else"),
    }
}

fn event_of(frame: &Ask) -> (String, body::Kind) {
    let in_group = |kind| (GROUP.to_owned(), kind);
    match frame.clone() {
        Ask::Send(it) => (it.conversation, it.body.and_then(|body| body.kind).expect("it says something")),
        Ask::CreateGroup(chat::CreateGroup { title, members, open_history, .. }) => {
            in_group(body::Kind::GroupCreated(chat::GroupCreated { title, members, open_history }))
        }
        Ask::RemoveMember(it) => in_group(body::Kind::MemberRemoved(chat::MemberRemoved { user: it.user })),
        Ask::AddMembers(it) => {
            in_group(body::Kind::MembersAdded(chat::MembersAdded { users: it.users, title: "Roof".into() }))
        }
        Ask::Edit(it) => in_group(body::Kind::Edited(chat::Edited { seq: it.seq, content: it.content })),
        _ => unreachable!("the tests ask for nothing else"),
    }
}

#[test]
fn an_honest_history_passes() {
    let mut scene = Scene::with_group();
    scene.do_it(3, send("1:4", "hello"), &[1, 4]);
    // A resend, of which nobody hears.
    let again = scene.logs[GROUP][1].clone();
    scene.accept(0, &again);
    scene.read(2, 3);
    scene.tell(0, receipts(&[(3, 3)]));
    scene.do_it(0, edit(2), &[1, 2, 3]);
    scene.history(1, |history| {
        history.messages[1].body = Some(chat::Body { kind: Some(body::Kind::Text("edited".into())) });
        history.messages[1].changed_by = Some(4);
    });
    let state = chat::ConversationState { rev: 4, unread: 0, ..scene.state() };
    scene.list(1, vec![state]);
    // The other device of user 1 comes back to everything, another one to a snapshot.
    scene.hello(4, Some(0), true);
    scene.welcome(4, 0);
    scene.page(4, 0);
    scene.hello(2, Some(0), false);
    scene.welcome(2, 0);
    let messages = scene.logs[GROUP].clone();
    let mut changed = scene.logs[GROUP][1].clone();
    changed.body = Some(chat::Body { kind: Some(body::Kind::Text("edited".into())) });
    changed.changed_by = Some(4);
    let messages = [&messages[..1], &[changed], &messages[2..4]].concat();
    let state = chat::ConversationState { rev: 5, read: 3, messages, ..scene.state() };
    scene.tell(2, Tell::Snapshot(chat::Snapshot { conversations: vec![state], rev: 5, end: true }));
    scene.page(2, 5);
    // Somebody is removed, asks, and comes into it again.
    scene.do_it(0, remove(3), &[1, 2, 3]);
    scene.ask(2, Ask::Receipts(chat::ReceiptsRequest { conversation: GROUP.into() }));
    let code = "unknown_conversation".to_owned();
    scene.tell(2, Tell::Error(chat::Error { code, ..Default::default() }));
    scene.say(1, &[1, 2]);
    scene.do_it(0, add(3), &[1, 2, 3]);
    scene.say(2, &[1, 2, 3]);
    scene.ask(2, Ask::Receipts(chat::ReceiptsRequest { conversation: GROUP.into() }));
    scene.tell(2, receipts(&[(1, 0), (2, 0), (3, 0)]));
    scene.ask(1, Ask::Group(chat::GroupRequest { conversation: GROUP.into() }));
    let member = |user, role: Role, joined| chat::GroupMember { user, role: role.into(), joined };
    scene.tell(
        1,
        Tell::Group(chat::GroupState {
            conversation: GROUP.into(),
            title: "Roof".into(),
            open_history: false,
            members: vec![member(1, Role::Owner, 1), member(2, Role::Member, 1), member(3, Role::Member, 7)],
            seq: 8,
            retention_days: 0,
        }),
    );
    assert!(scene.judge.is_at_rest());
    assert_eq!(scene.verdict(), None);
}

#[test]
fn a_message_that_is_lost_in_one_inbox() {
    let mut scene = Scene::with_group();
    scene.say(0, &[1, 2]);
    assert!(!scene.judge.is_at_rest());
    scene.say(0, &[1, 2, 3]);
    scene.finds(Contract::Durable, "g7 seq 4 never came to user 3");
    // And the last one of all, which only the end shows.
    let mut scene = Scene::with_group();
    scene.say(0, &[1, 2]);
    scene.finds(Contract::Durable, "g7 seq 4 never came to user 3");
}

#[test]
fn a_message_that_was_acknowledged_and_is_nowhere() {
    let mut scene = Scene::with_group();
    scene.make(0, send(GROUP, "lost"));
    scene.finds(Contract::Durable, "was accepted and has reached nobody");
}

#[test]
fn an_inbox_that_is_shorter_after_a_restart() {
    let mut scene = Scene::with_group();
    scene.inboxes.get_mut(&2).unwrap().pop();
    scene.hello(1, Some(2), false);
    scene.welcome(1, 2);
    scene.finds(Contract::Durable, "reached rev 3, and afterwards only rev 2");
}

#[test]
fn what_comes_twice() {
    let mut scene = Scene::with_group();
    let message = scene.say(0, &[1, 2, 3]);
    scene.deliver(3, &message);
    scene.finds(Contract::Once, "g7 seq 4 stands twice in the inbox of user 3");
    // One clientId, two events.
    let mut scene = Scene::with_group();
    let message = scene.say(0, &[1, 2, 3]);
    let frame = send(GROUP, &format!("text {}", scene.ids - 1));
    let again = scene.event(0, &frame, &message.client_id);
    for user in 1..=3 {
        scene.deliver(user, &again);
    }
    scene.finds(Contract::Once, "has happened twice");
    // One clientId, two answers.
    let mut scene = Scene::with_group();
    let mut message = scene.say(0, &[1, 2, 3]);
    message.message_id += 1;
    scene.accept(0, &message);
    scene.finds(Contract::Once, "a resend got another answer");
    // One messageId, two events.
    let mut scene = Scene::with_group();
    scene.ids -= 1;
    scene.say(0, &[1, 2, 3]);
    scene.finds(Contract::Once, "stands for two messages");
}

#[test]
fn what_was_refused_and_happened() {
    let mut scene = Scene::with_group();
    let mut frame = send(GROUP, "refused");
    set_name(&mut frame, "r1");
    scene.ask(1, frame.clone());
    let (code, client_id) = ("not_allowed".to_owned(), "r1".to_owned());
    scene.tell(1, Tell::Error(chat::Error { code, client_id, ..Default::default() }));
    let message = scene.event(1, &frame, "r1");
    for user in 1..=3 {
        scene.deliver(user, &message);
    }
    scene.finds(Contract::Once, "what was refused has happened");
}

#[test]
fn what_is_out_of_order() {
    let mut scene = Scene::with_group();
    let first = scene.make(0, send(GROUP, "first"));
    let second = scene.make(0, send(GROUP, "second"));
    for user in [1, 2] {
        scene.deliver(user, &first);
        scene.deliver(user, &second);
    }
    scene.deliver(3, &second);
    scene.deliver(3, &first);
    // At first it looks like a loss; what follows shows what it is.
    scene.finds(Contract::Ordered, "g7 seq 4 stands at rev 5 of user 3, the wrong way round");
    // Two readers, two messages at one place.
    let mut scene = Scene::with_group();
    let mut message = scene.say(0, &[1, 2]);
    message.body = Some(chat::Body { kind: Some(body::Kind::Text("another".into())) });
    scene.deliver(3, &message);
    scene.finds(Contract::Ordered, "one thing to one reader and another to another");
    // An earlier place than what had been seen before it was sent.
    let mut scene = Scene::with_group();
    let mut frame = send(GROUP, "late");
    set_name(&mut frame, "late");
    scene.ask(0, frame);
    let message = chat::Message { seq: 3, client_id: "late".into(), message_id: 9, ..Default::default() };
    scene.accept(0, &message);
    scene.finds(Contract::Ordered, "seq 3 was given to what was sent after seq 3 had been seen");
    // A rev that becomes another entry.
    let mut scene = Scene::with_group();
    scene.inboxes.get_mut(&1).unwrap().swap(1, 2);
    scene.hello(4, Some(0), true);
    scene.welcome(4, 0);
    scene.page(4, 0);
    scene.finds(Contract::Ordered, "rev 2 of user 1 was one thing first and another later");
}

#[test]
fn a_hole_in_rev() {
    let mut scene = Scene::with_group();
    let message = scene.make(0, send(GROUP, "text"));
    for user in [1, 2] {
        scene.deliver(user, &message);
    }
    let entry = Some(chat::Entry { kind: Some(entry::Kind::Message(message)) });
    scene.tell(2, Tell::Event(chat::Event { rev: 5, entry }));
    let found = scene.judge.violations();
    assert_eq!(found[0].contract, Contract::Complete);
    assert!(found[0].what.contains("rev 4 was to come next for user 3, and rev 5 came"), "{found:?}");
}

#[test]
fn a_page_that_leaves_something_out() {
    let mut scene = Scene::with_group();
    scene.hello(4, Some(0), true);
    scene.welcome(4, 0);
    scene.page(4, 1);
    scene.finds(Contract::Complete, "rev 1 was to come next for user 1, and rev 2 came");
}

#[test]
fn an_event_after_a_gap() {
    let mut scene = Scene::with_group();
    scene.tell(1, Tell::Gap(chat::Gap { from: 4, to: 9, why: String::new() }));
    scene.say(0, &[1, 2, 3]);
    scene.finds(Contract::Complete, "an event came after `gap`");
}

#[test]
fn lists_that_say_something_else_than_the_inbox() {
    let wrong: [fn(&mut chat::ConversationState); 6] = [
        |state| state.unread = 1,
        |state| state.rev = 2,
        |state| state.title = "Cellar".into(),
        |state| state.gone = true,
        |state| state.messages[0].seq = 2,
        |state| state.messages.clear(),
    ];
    for (index, wrong) in wrong.into_iter().enumerate() {
        let mut scene = Scene::with_group();
        let mut state = scene.state();
        wrong(&mut state);
        scene.list(1, vec![state]);
        let (contract, text) = scene.verdict().unwrap_or_else(|| panic!("case {index} was not found"));
        assert_eq!(contract, Contract::Complete, "{text}");
    }
    let mut scene = Scene::with_group();
    scene.list(1, Vec::new());
    scene.finds(Contract::Complete, "has 0 conversations with end true");
}

#[test]
fn a_member_that_reads_on() {
    let removed = || {
        let mut scene = Scene::with_group();
        scene.do_it(0, remove(3), &[1, 2, 3]);
        scene
    };
    let mut scene = removed();
    scene.say(0, &[1, 2, 3]);
    scene.finds(Contract::Visibility, "user 3 got g7 seq 5");
    let mut scene = removed();
    scene.history(2, |_| {});
    scene.finds(Contract::Visibility, "user 3 reads g7 without being in it");
    let mut scene = removed();
    scene.ask(2, Ask::Group(chat::GroupRequest { conversation: GROUP.into() }));
    scene.tell(2, Tell::Group(chat::GroupState { conversation: GROUP.into(), seq: 4, ..Default::default() }));
    scene.finds(Contract::Visibility, "user 3 is told of group g7");
}

#[test]
fn a_member_that_reads_what_was_before() {
    let mut scene = Scene::with_group();
    scene.say(0, &[1, 2, 3, 4]);
    scene.finds(Contract::Visibility, "user 4 got g7 seq 4 without having joined");
    let mut scene = Scene::with_group();
    scene.do_it(0, add(4), &[1, 2, 3, 4]);
    scene.history(3, |_| {});
    scene.finds(Contract::Visibility, "a history has seqs 1-4");
}

#[test]
fn somebody_does_what_is_not_allowed() {
    let mut scene = Scene::with_group();
    scene.do_it(1, remove(3), &[1, 2, 3]);
    scene.finds(Contract::Visibility, "user 2 was not allowed to do that");
}

#[test]
fn histories_that_say_something_else_than_the_log() {
    let wrong: [fn(&mut chat::History); 5] = [
        |history| drop(history.messages.remove(1)),
        |history| history.head = 2,
        |history| history.end = false,
        |history| history.messages[2].sender = 4,
        |history| history.messages[1].changed_by = Some(3),
    ];
    for (index, wrong) in wrong.into_iter().enumerate() {
        let mut scene = Scene::with_group();
        scene.history(1, wrong);
        let (contract, text) = scene.verdict().unwrap_or_else(|| panic!("case {index} was not found"));
        assert_eq!(contract, Contract::Durable, "{text}");
    }
    // The edit is not in it.
    let mut scene = Scene::with_group();
    scene.do_it(0, edit(2), &[1, 2, 3]);
    scene.history(1, |_| {});
    scene.finds(Contract::Durable, "a history tells g7 seq 2 otherwise than its log");
}

/// An error without a name seems to refuse a question, and is about something else: the answer comes, and is not taken for
/// the answer to the question after it.
#[test]
fn an_answer_to_what_seemed_refused_is_no_other_questions() {
    let history_of = |conversation: &str| {
        Ask::History(chat::HistoryRequest { conversation: conversation.into(), ..Default::default() })
    };
    let list = || Ask::Conversations(chat::ConversationsRequest::default());
    let refused = || Tell::Error(chat::Error { code: "storage_failed".into(), ..Default::default() });
    let mut scene = Scene::with_group();
    scene.ask(1, history_of("@1"));
    scene.tell(1, refused());
    scene.ask(1, history_of(GROUP));
    scene.tell(
        1,
        Tell::History(chat::History { conversation: "1:2".into(), end: true, ..Default::default() }),
    );
    let messages = scene.logs[GROUP].clone();
    let history = chat::History { conversation: GROUP.into(), messages, head: 3, end: true };
    scene.tell(1, Tell::History(history));
    scene.ask(1, list());
    scene.tell(1, refused());
    scene.ask(1, list());
    scene.tell(1, Tell::Conversations(chat::Conversations::default()));
    assert_eq!(scene.verdict(), None);
    let mut scene = Scene::with_group();
    scene.ask(1, list());
    scene.tell(1, Tell::Conversations(chat::Conversations::default()));
    assert!(scene.verdict().is_some(), "an empty list is wrong");
}

#[test]
fn marks_that_go_back_or_too_far() {
    let mut scene = Scene::with_group();
    scene.read(2, 3);
    scene.tell(0, receipts(&[(3, 3)]));
    scene.tell(0, receipts(&[(3, 2)]));
    scene.finds(Contract::ReadMarks, "the mark of user 3 in g7 has gone back");
    // What somebody was told before, another one is not told afterwards.
    let mut scene = Scene::with_group();
    scene.read(2, 3);
    scene.ask(1, Ask::Receipts(chat::ReceiptsRequest { conversation: GROUP.into() }));
    scene.tell(1, receipts(&[(1, 0), (2, 0), (3, 0)]));
    scene.finds(Contract::ReadMarks, "the mark of user 3 in g7 has gone back");
    let mut scene = Scene::with_group();
    scene.read(2, 2);
    scene.tell(0, receipts(&[(3, 3)]));
    scene.finds(Contract::ReadMarks, "never said to have read g7 farther than 2");
    // Answered, and not in the inbox.
    let mut scene = Scene::with_group();
    scene.ask(2, Ask::Read(chat::Read { conversation: GROUP.into(), up_to: 2 }));
    scene.tell(2, receipts(&[(3, 2)]));
    scene.finds(Contract::ReadMarks, "never came to the inbox");
    // Members of another conversation.
    let mut scene = Scene::with_group();
    scene.ask(1, Ask::Receipts(chat::ReceiptsRequest { conversation: GROUP.into() }));
    scene.tell(1, receipts(&[(1, 0), (2, 0)]));
    scene.finds(Contract::ReadMarks, "never had these members");
}

#[test]
fn a_snapshot_that_was_not_wanted_or_lacks_something() {
    let mut scene = Scene::with_group();
    scene.hello(1, Some(0), true);
    scene.welcome(1, 0);
    let mut state = scene.state();
    state.messages = scene.logs[GROUP].clone();
    scene.tell(1, Tell::Snapshot(chat::Snapshot { conversations: vec![state.clone()], rev: 3, end: true }));
    scene.finds(Contract::Complete, "though every entry was asked for");
    let mut scene = Scene::with_group();
    scene.hello(1, Some(0), false);
    scene.welcome(1, 0);
    state.messages.remove(1);
    scene.tell(1, Tell::Snapshot(chat::Snapshot { conversations: vec![state], rev: 3, end: true }));
    scene.finds(Contract::Complete, "it shows seqs 1, 3 and must show 1-3");
}

#[test]
fn two_syncs_may_have_two_answers_or_one() {
    let sync = |after| Ask::Sync(chat::Sync { after, limit: 0, every_entry: false });
    for answers in [&[0, 1][..], &[1]] {
        let mut scene = Scene::with_group();
        scene.ask(1, sync(0));
        scene.tell(1, Tell::Gap(chat::Gap { from: 4, to: 9, why: String::new() }));
        scene.ask(1, sync(1));
        for &after in answers {
            scene.page(1, after);
        }
        scene.say(0, &[1, 2, 3]);
        assert_eq!(scene.verdict(), None, "{answers:?}");
    }
    let mut scene = Scene::with_group();
    scene.ask(1, sync(1));
    scene.page(1, 0);
    scene.finds(Contract::Complete, "rev 4 was to come next for user 2, and rev 1 came");
}

#[test]
fn what_was_on_its_way_anyway_comes_again_once_when_it_is_asked_for() {
    for pages in [2, 3] {
        let mut scene = Scene::with_group();
        scene.hello(1, Some(0), true);
        scene.welcome(1, 0);
        scene.ask(1, Ask::Sync(chat::Sync { after: 0, limit: 0, every_entry: true }));
        (0..pages).for_each(|_| scene.page(1, 0));
        match pages {
            2 => assert_eq!(scene.verdict(), None),
            _ => scene.finds(Contract::Complete, "rev 4 was to come next for user 2, and rev 1 came"),
        }
    }
}
