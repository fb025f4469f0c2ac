//! Lists of conversations, snapshots, and who is in a group: from what workers say to frames.

use holdfast_protocol::chat::{self, server_frame};
use holdfast_protocol::id::ConversationId;
use holdfast_router::Key;
use holdfast_storage::command::{
    Command, ConversationList, ConversationView, ConversationsRequest, GroupView, SessionAddress,
};

use super::{Context, Outcome, Session, State, message_of};
use crate::config::limits;

/// Of a conversation in a list beside its messages and its title, and of a group's member, at most, as JSON.
const CONVERSATION_BYTES: usize = limits::CONVERSATION_BYTES as usize;
const MEMBER_BYTES: usize = limits::GROUP_MEMBER_BYTES as usize;
const _: () = assert!(super::RECEIPT_BYTES <= MEMBER_BYTES);

impl Session {
    pub(super) fn ask_for_conversations(
        &mut self,
        request: &chat::ConversationsRequest,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        let limit = match chat::check_list_limit(request.limit) {
            Ok(limit) => limit,
            Err(error) => {
                self.write_error(context, error.code(), &error.to_string(), 0, "");
                return Outcome::Nothing;
            }
        };
        let after = match request.after.as_str() {
            "" => Ok(ConversationId(0)),
            name => chat::parse_conversation(name, self.user),
        };
        match after {
            Ok(after) => {
                let request = ConversationsRequest { user: self.user, session, after, limit };
                Outcome::Submit(Key::User(self.user), Command::Conversations(request))
            }
            Err(error) => {
                self.write_error(context, error.code(), &error.to_string(), 0, "");
                Outcome::Nothing
            }
        }
    }

    pub(super) fn handle_conversations(&mut self, list: ConversationList, context: &mut Context<'_>) {
        if self.has_room(bytes_of(&list), context) {
            let ConversationList { conversations, rev, end, .. } = list;
            let conversations = conversations.into_iter().map(state_of).collect();
            let frame = chat::Conversations { conversations, rev: rev.0, end };
            self.write(context, server_frame::Frame::Conversations(frame));
        }
    }

    pub(super) fn handle_group(&mut self, group: GroupView, context: &mut Context<'_>) {
        let GroupView { conversation, title, open_history, members, seq, retention_days, .. } = group;
        if self.has_room(CONVERSATION_BYTES + title.len() + MEMBER_BYTES * members.len(), context) {
            let members = members
                .into_iter()
                .map(|(user, role, joined)| chat::GroupMember {
                    user: user.0,
                    role: role.into(),
                    joined: joined.0,
                })
                .collect();
            let conversation = conversation.to_string();
            let seq = seq.0;
            let frame = chat::GroupState { conversation, title, open_history, members, seq, retention_days };
            self.write(context, server_frame::Frame::Group(frame));
        }
    }

    /// A part of a snapshot: like a page, and the next one, or what follows its end, is asked for when there is room.
    pub(super) fn handle_snapshot(
        &mut self,
        list: ConversationList,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        self.page_awaited = false;
        if std::mem::take(&mut self.page_overtaken) {
            return self.next_page(session);
        }
        if self.state != State::Paging {
            return Outcome::Nothing;
        }
        let ConversationList { conversations, rev, end, .. } = list;
        let conversations = conversations.into_iter().map(state_of).collect();
        let frame = chat::Snapshot { conversations, rev: rev.0, end };
        self.write(context, server_frame::Frame::Snapshot(frame));
        self.in_snapshot = !end;
        if end {
            self.last_rev = rev;
            self.head = self.head.max(rev);
        }
        self.next_page_when_there_is_room(session, context)
    }
}

fn bytes_of(list: &ConversationList) -> usize {
    let of = |it: &ConversationView| {
        CONVERSATION_BYTES + it.title.len() + it.messages.iter().map(bytes::Bytes::len).sum::<usize>()
    };
    list.conversations.iter().map(of).sum()
}

fn state_of(view: ConversationView) -> chat::ConversationState {
    let ConversationView { conversation, rev, unread, read, gone, role, title, messages } = view;
    chat::ConversationState {
        conversation: conversation.to_string(),
        rev: rev.0,
        unread,
        read: read.0,
        title,
        role: role.into(),
        gone,
        messages: messages.iter().filter_map(message_of).collect(),
    }
}
