//! Requests that change a conversation, or ask for a part of it: from the frames of the protocol to what workers
//! understand. Everything that can be told from the frame alone is checked here.

use holdfast_protocol::chat::{self, ConversationError, LimitError, Role, client_frame};
use holdfast_protocol::id::{ConversationId, DeviceId, Seq, UserId};
use holdfast_storage::command::{Act, GroupChange, HistoryFrom, HistoryRequest, SessionAddress};
use holdfast_storage::new_group;
use prost::Message as _;

use super::SessionRules;

/// Why a frame is refused.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl From<LimitError> for Wrong {
    fn from(error: LimitError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl From<ConversationError> for Wrong {
    fn from(error: ConversationError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

/// The `clientId` of a frame that has one.
pub(super) fn client_id(frame: &client_frame::Frame) -> &str {
    use client_frame::Frame;
    match frame {
        Frame::Send(chat::Send { client_id, .. })
        | Frame::CreateGroup(chat::CreateGroup { client_id, .. })
        | Frame::AddMembers(chat::AddMembers { client_id, .. })
        | Frame::RemoveMember(chat::RemoveMember { client_id, .. })
        | Frame::Leave(chat::Leave { client_id, .. })
        | Frame::Rename(chat::Rename { client_id, .. })
        | Frame::SetRole(chat::SetRole { client_id, .. })
        | Frame::SetRetention(chat::SetRetention { client_id, .. })
        | Frame::Edit(chat::Edit { client_id, .. })
        | Frame::Delete(chat::Delete { client_id, .. }) => client_id,
        Frame::Hello(_)
        | Frame::Ack(_)
        | Frame::Sync(_)
        | Frame::Ping(_)
        | Frame::History(_)
        | Frame::Typing(_)
        | Frame::Read(_)
        | Frame::Receipts(_)
        | Frame::Conversations(_)
        | Frame::Group(_)
        | Frame::WatchPresence(_)
        | Frame::SetAway(_)
        | Frame::Devices(_)
        | Frame::RevokeDevice(_)
        | Frame::Block(_)
        | Frame::Unblock(_)
        | Frame::SetContact(_)
        | Frame::SetPrivacy(_)
        | Frame::People(_) => "",
    }
}

/// What a frame wants done, and where.
pub(super) fn act(
    frame: client_frame::Frame,
    me: UserId,
    device: DeviceId,
    rules: &SessionRules,
) -> Result<(ConversationId, Act), Wrong> {
    use client_frame::Frame;
    chat::check_client_id(client_id(&frame))?;
    let body_bytes = rules.body_bytes as usize;
    let conversation = |name: &str| chat::parse_conversation(name, me);
    Ok(match frame {
        Frame::Send(send) => {
            chat::check_body(send.body.as_ref(), body_bytes)?;
            let body = send.body.unwrap_or_default().encode_to_vec().into();
            (conversation(&send.conversation)?, Act::Say { body, reply_to: send.reply_to.map(Seq) })
        }
        Frame::CreateGroup(create) => {
            chat::check_title(&create.title)?;
            let others: Vec<u64> = create.members.into_iter().filter(|&user| user != me.0).collect();
            let members = chat::check_members(&others, 1, rules.group_members)?;
            let group = new_group(me, device, create.client_id.as_bytes());
            let (title, open_history) = (create.title, create.open_history);
            let change = GroupChange::Create { title, members, open_history };
            (ConversationId::group(group), Act::Group(change))
        }
        Frame::AddMembers(add) => {
            let users = chat::check_members(&add.users, 0, rules.group_members)?;
            if users.is_empty() {
                return Err(LimitError::NoMembers.into());
            }
            (conversation(&add.conversation)?, Act::Group(GroupChange::Add(users)))
        }
        Frame::RemoveMember(remove) => {
            (conversation(&remove.conversation)?, Act::Group(GroupChange::Remove(UserId(remove.user))))
        }
        Frame::Leave(leave) => (conversation(&leave.conversation)?, Act::Group(GroupChange::Leave)),
        Frame::Rename(rename) => {
            chat::check_title(&rename.title)?;
            (conversation(&rename.conversation)?, Act::Group(GroupChange::Rename(rename.title)))
        }
        Frame::SetRole(set) => {
            let role = Role::try_from(set.role).map_err(|_| LimitError::Role { role: set.role })?;
            (conversation(&set.conversation)?, Act::Group(GroupChange::SetRole(UserId(set.user), role)))
        }
        Frame::SetRetention(set) => {
            chat::check_retention(set.days)?;
            (conversation(&set.conversation)?, Act::Group(GroupChange::Keep { days: set.days }))
        }
        Frame::Edit(edit) => {
            chat::check_content(edit.content.as_ref(), body_bytes)?;
            let content = edit.content.unwrap_or_default().encode_to_vec().into();
            (conversation(&edit.conversation)?, Act::Edit { seq: Seq(edit.seq), content })
        }
        Frame::Delete(delete) => (conversation(&delete.conversation)?, Act::Delete { seq: Seq(delete.seq) }),
        Frame::Hello(_)
        | Frame::Ack(_)
        | Frame::Sync(_)
        | Frame::Ping(_)
        | Frame::History(_)
        | Frame::Typing(_)
        | Frame::Read(_)
        | Frame::Receipts(_)
        | Frame::Conversations(_)
        | Frame::Group(_)
        | Frame::WatchPresence(_)
        | Frame::SetAway(_)
        | Frame::Devices(_)
        | Frame::RevokeDevice(_)
        | Frame::Block(_)
        | Frame::Unblock(_)
        | Frame::SetContact(_)
        | Frame::SetPrivacy(_)
        | Frame::People(_) => {
            unreachable!("the session handles these itself")
        }
    })
}

/// Which part of a conversation is asked for.
pub(super) fn history(
    request: chat::HistoryRequest,
    user: UserId,
    session: SessionAddress,
    rules: &SessionRules,
) -> Result<HistoryRequest, Wrong> {
    let from = match (request.before, request.after) {
        (Some(_), Some(_)) => return Err(LimitError::TwoDirections.into()),
        (Some(before), None) => HistoryFrom::Before(Seq(before)),
        (None, Some(after)) => HistoryFrom::After(Seq(after)),
        (None, None) => HistoryFrom::End,
    };
    let limit = chat::check_history_limit(request.limit, rules.history_messages)?;
    let conversation = chat::parse_conversation(&request.conversation, user)?;
    Ok(HistoryRequest { user, session, conversation, from, limit })
}
