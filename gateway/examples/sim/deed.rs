//! What users do in conversations: which of it there is, what it looks like as an event, and when it may be refused.

use holdfast_protocol::chat::client_frame::Frame;
use holdfast_protocol::chat::{self, body, content, error_code};
use holdfast_protocol::id::{ConversationId, UserId};
use holdfast_reactor::sim::Random;

use crate::truth::Truth;

/// Groups of a world: few, so that everybody is in some of them, and not in others.
const GROUPS: usize = 3;

/// What a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It may pass later.
    ForNow,
    /// It will not.
    ForGood,
    /// It must not have been refused for this.
    Wrong,
}

/// Something for a user to do, under this name.
pub(crate) fn choose(user: u64, users: u64, client_id: &str, random: &mut Random, truth: &Truth) -> Frame {
    let client_id = client_id.to_owned();
    let other = 1 + (user + random.below(users - 1)) % users;
    let whom = 1 + random.below(users);
    let group = (!truth.groups.is_empty())
        .then(|| truth.groups[random.below(truth.groups.len() as u64) as usize].clone());
    let direct = format!("@{other}");
    let what = random.below(40);
    let Some(group) = group.filter(|_| what >= 16) else {
        return match what {
            0..=2 if truth.groups.len() < GROUPS => create(client_id, user, users, random),
            _ => say(client_id, direct, random),
        };
    };
    match what {
        16..=25 => say(client_id, group, random),
        26 | 27 => {
            let users = vec![whom];
            Frame::AddMembers(chat::AddMembers { client_id, conversation: group, users })
        }
        28 => Frame::RemoveMember(chat::RemoveMember { client_id, conversation: group, user: whom }),
        29 => Frame::Leave(chat::Leave { client_id, conversation: group }),
        30 if random.below(2) == 0 => {
            let days = [0, 1, 30][random.below(3) as usize];
            Frame::SetRetention(chat::SetRetention { client_id, conversation: group, days })
        }
        30 => {
            let title = format!("again {client_id}");
            Frame::Rename(chat::Rename { client_id, conversation: group, title })
        }
        31 => {
            let role = random.below(3) as i32;
            Frame::SetRole(chat::SetRole { client_id, conversation: group, user: whom, role })
        }
        _ => {
            let conversation = if what.is_multiple_of(2) { group } else { direct };
            let last = truth.last_seq(&name_of(&conversation, user));
            let seq = last.saturating_sub(random.below(6));
            if what >= 37 {
                return Frame::Delete(chat::Delete { client_id, conversation, seq });
            }
            let text = content::Kind::Text(format!("edit {client_id}"));
            let content = Some(chat::Content { kind: Some(text) });
            Frame::Edit(chat::Edit { client_id, conversation, seq, content })
        }
    }
}

fn create(client_id: String, user: u64, users: u64, random: &mut Random) -> Frame {
    let members = (1..=users).filter(|&member| member != user && random.below(3) > 0).collect::<Vec<_>>();
    let members = if members.is_empty() { vec![1 + user % users] } else { members };
    let (title, open_history) = (format!("group {client_id}"), random.below(2) == 0);
    Frame::CreateGroup(chat::CreateGroup { client_id, title, members, open_history })
}

fn say(client_id: String, conversation: String, random: &mut Random) -> Frame {
    let text = format!("{client_id} {}", "x".repeat(random.below(300) as usize));
    let body = Some(chat::Body { kind: Some(body::Kind::Text(text)) });
    Frame::Send(chat::Send { client_id, conversation, body, reply_to: None })
}

/// The conversation of a frame, by the name that entries have for it; `None` for one that is being made.
pub(crate) fn conversation_of(frame: &Frame, user: u64) -> Option<String> {
    let conversation = match frame {
        Frame::Send(chat::Send { conversation, .. })
        | Frame::AddMembers(chat::AddMembers { conversation, .. })
        | Frame::RemoveMember(chat::RemoveMember { conversation, .. })
        | Frame::Leave(chat::Leave { conversation, .. })
        | Frame::Rename(chat::Rename { conversation, .. })
        | Frame::SetRetention(chat::SetRetention { conversation, .. })
        | Frame::SetRole(chat::SetRole { conversation, .. })
        | Frame::Edit(chat::Edit { conversation, .. })
        | Frame::Delete(chat::Delete { conversation, .. }) => conversation,
        _ => return None,
    };
    Some(name_of(conversation, user))
}

/// `@7` as entries have it.
pub(crate) fn name_of(conversation: &str, user: u64) -> String {
    match conversation.strip_prefix('@').and_then(|other| other.parse().ok()) {
        Some(other) => ConversationId::direct(UserId(user), UserId(other)).to_string(),
        None => conversation.to_owned(),
    }
}

/// Whether a message is the event that this has become.
pub(crate) fn is_event_of(frame: &Frame, message: &chat::Message) -> bool {
    let kind = message.body.as_ref().and_then(|body| body.kind.as_ref());
    let is_there = conversation_of(frame, message.sender).is_none_or(|name| name == message.conversation);
    let Some(kind) = kind.filter(|_| is_there) else { return false };
    match (frame, kind) {
        (Frame::Send(send), kind) => send.body.as_ref().and_then(|body| body.kind.as_ref()) == Some(kind),
        (Frame::Edit(edit), body::Kind::Edited(edited)) => {
            edit.seq == edited.seq && edit.content == edited.content
        }
        (Frame::Delete(delete), body::Kind::Deleted(deleted)) => delete.seq == deleted.seq,
        (Frame::CreateGroup(create), body::Kind::GroupCreated(created)) => create.title == created.title,
        (Frame::AddMembers(add), body::Kind::MembersAdded(added)) => add.users == added.users,
        (Frame::RemoveMember(remove), body::Kind::MemberRemoved(removed)) => remove.user == removed.user,
        (Frame::Leave(_), body::Kind::MemberLeft(_)) => true,
        (Frame::Rename(rename), body::Kind::Renamed(renamed)) => rename.title == renamed.title,
        (Frame::SetRetention(set), body::Kind::RetentionSet(is)) => set.days == is.days,
        (Frame::SetRole(set), body::Kind::RoleSet(is)) => (set.user, set.role) == (is.user, is.role),
        _ => false,
    }
}

/// What it means that this was refused with that code.
pub(crate) fn refusal(frame: &Frame, code: &str, user: u64, truth: &Truth) -> Refusal {
    if for_now(code) {
        return Refusal::ForNow;
    }
    let name = conversation_of(frame, user);
    let is_blocked = name.is_some_and(|name| truth.blocked.contains(&name));
    let changes = matches!(frame, Frame::Edit(_) | Frame::Delete(_));
    let in_group = conversation_of(frame, user).is_some_and(|name| truth.groups.contains(&name));
    let members =
        matches!(frame, Frame::AddMembers(_) | Frame::RemoveMember(_) | Frame::Leave(_) | Frame::SetRole(_));
    let allowed = match code {
        error_code::BLOCKED => is_blocked,
        error_code::UNKNOWN_CONVERSATION => in_group,
        error_code::UNKNOWN_MESSAGE => changes,
        error_code::NOT_ALLOWED => changes || in_group,
        error_code::UNKNOWN_MEMBER | error_code::ALREADY_MEMBERS => members,
        _ => false,
    };
    if allowed { Refusal::ForGood } else { Refusal::Wrong }
}

/// Whether the same may pass later.
pub(crate) fn for_now(code: &str) -> bool {
    [error_code::RATE_LIMITED, error_code::OVERLOADED, error_code::STORAGE_FAILED, error_code::STORAGE_FULL]
        .contains(&code)
}
