//! What a user's list of conversations must say, from the entries of the inbox and nothing else: which messages are
//! unread is a set here, not a difference of numbers.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_protocol::chat::{self, body, entry};
use holdfast_protocol::id::{ConversationId, Rev, Seq, UserId};
use holdfast_storage::command::ConversationView;

#[derive(Debug, Default)]
pub(crate) struct Expected {
    unread: BTreeSet<u64>,
    /// Whether everything that may be unread is known: of what has expired nobody knows who has said it.
    is_blurred: bool,
    read: u64,
    gone: bool,
    rev: Rev,
    title: String,
    begun: bool,
}

/// The list at a `rev`, which these entries lead up to.
pub(crate) fn expected(
    user: UserId,
    entries: impl Iterator<Item = (Rev, chat::Entry)>,
) -> BTreeMap<ConversationId, Expected> {
    let mut all: BTreeMap<ConversationId, Expected> = BTreeMap::new();
    for (rev, entry) in entries {
        match entry.kind.expect("an entry says something") {
            entry::Kind::Read(mark) => {
                let it = all.get_mut(&id_of(&mark.conversation)).expect("who reads has got something");
                it.read = mark.up_to;
                it.unread.retain(|&seq| seq > mark.up_to);
                it.rev = rev;
            }
            entry::Kind::Message(message) => {
                let it = all.entry(id_of(&message.conversation)).or_default();
                if !it.begun || it.gone {
                    *it = Expected { begun: true, ..Expected::default() };
                }
                it.rev = rev;
                it.take(user, &message);
            }
        }
    }
    all
}

impl Expected {
    fn take(&mut self, user: UserId, message: &chat::Message) {
        let is_own = message.sender == user.0;
        match message.body.as_ref().and_then(|body| body.kind.as_ref()).expect("every event has a body") {
            body::Kind::Text(_) if !is_own => {
                self.unread.insert(message.seq);
            }
            body::Kind::Expired(_) => self.is_blurred = true,
            body::Kind::GroupCreated(created) => self.title.clone_from(&created.title),
            body::Kind::MembersAdded(added) => self.title.clone_from(&added.title),
            body::Kind::Renamed(renamed) => self.title.clone_from(&renamed.title),
            body::Kind::MemberRemoved(removed) => self.gone = removed.user == user.0,
            body::Kind::MemberLeft(_) => self.gone = is_own,
            _ => {}
        }
        if is_own {
            self.unread.clear();
            self.is_blurred = false;
        }
    }
}

/// All parts of a snapshot, or the beginning of a list, against what it must say.
pub(crate) fn compare(
    user: UserId,
    told: &[ConversationView],
    is_whole: bool,
    expected: &BTreeMap<ConversationId, Expected>,
) {
    let ids: Vec<_> = told.iter().map(|it| it.conversation).collect();
    assert!(
        ids.iter().eq(expected.keys().take(ids.len())),
        "of user {user}: {ids:?}, not {:?}",
        expected.keys()
    );
    assert!(!is_whole || ids.len() == expected.len(), "of user {user} only {ids:?}");
    for (told, (conversation, it)) in told.iter().zip(expected) {
        let unread = if it.is_blurred { told.unread } else { it.unread.len() as u64 };
        let is = (told.unread, told.read, told.gone, told.rev, told.title.as_str());
        let must = (unread, Seq(it.read), it.gone, it.rev, it.title.as_str());
        assert_eq!(is, must, "user {user} in {conversation}: {told:?}, {it:?}");
    }
}

fn id_of(text: &str) -> ConversationId {
    text.parse().expect("a conversation")
}
