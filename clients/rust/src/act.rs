//! What a user does in a conversation. Each act has a name (`clientId`) by which the server knows it when it comes
//! again, so all of them wait in the outbox in the same way.

use holdfast_protocol::chat::{
    self, Body, Content, LimitError, Role, check_body, check_content, check_members, check_retention,
    check_title, client_frame,
};
use holdfast_protocol::id::{Seq, UserId};

/// Something to be done, once, whatever happens to the connection meanwhile.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Says something.
    Send {
        /// Where: `@43`, or a conversation's id.
        conversation: String,
        /// What.
        body: Body,
        /// The message that it answers.
        reply_to: Option<Seq>,
    },
    /// Lets a message of one's own say something else.
    Edit {
        /// Where.
        conversation: String,
        /// Which.
        seq: Seq,
        /// What it says now.
        content: Content,
    },
    /// Takes a message back.
    Delete {
        /// Where.
        conversation: String,
        /// Which.
        seq: Seq,
    },
    /// Makes a group; the answer names it.
    CreateGroup {
        /// What it is called.
        title: String,
        /// The other members.
        members: Vec<UserId>,
        /// Later members see what was written before.
        open_history: bool,
    },
    /// Adds members to a group.
    AddMembers {
        /// Which group.
        conversation: String,
        /// Whom.
        users: Vec<UserId>,
    },
    /// Removes a member from a group.
    RemoveMember {
        /// Which group.
        conversation: String,
        /// Whom.
        user: UserId,
    },
    /// Leaves a group.
    Leave {
        /// Which.
        conversation: String,
    },
    /// Gives a group another title.
    Rename {
        /// Which.
        conversation: String,
        /// The title.
        title: String,
    },
    /// Gives a member of a group another role.
    SetRole {
        /// Which group.
        conversation: String,
        /// Whom.
        user: UserId,
        /// What the member may do from now on.
        role: Role,
    },
    /// Says for how long a group keeps what is written in it.
    SetRetention {
        /// Which group.
        conversation: String,
        /// For how many days, at most [`RETENTION_DAYS_MAX`](holdfast_protocol::chat::limits::RETENTION_DAYS_MAX); 0: as
        /// long as the server keeps everything.
        days: u32,
    },
}

impl Act {
    /// Refuses what the server would refuse without looking at anything but the act.
    pub(crate) fn check(&self, body_bytes_max: usize) -> Result<(), LimitError> {
        match self {
            Self::Send { body, .. } => check_body(Some(body), body_bytes_max),
            Self::Edit { content, .. } => check_content(Some(content), body_bytes_max),
            Self::CreateGroup { title, members, .. } => {
                check_title(title)?;
                // How many are allowed, the server knows.
                check_members(&numbers(members), 1, u32::MAX).map(drop)
            }
            Self::AddMembers { users, .. } if users.is_empty() => Err(LimitError::NoMembers),
            Self::AddMembers { users, .. } => check_members(&numbers(users), 0, u32::MAX).map(drop),
            Self::Rename { title, .. } => check_title(title),
            &Self::SetRetention { days, .. } => check_retention(days),
            Self::Delete { .. } | Self::RemoveMember { .. } | Self::Leave { .. } | Self::SetRole { .. } => {
                Ok(())
            }
        }
    }

    pub(crate) fn frame(&self, client_id: String) -> client_frame::Frame {
        use client_frame::Frame;
        match self.clone() {
            Self::Send { conversation, body, reply_to } => {
                let reply_to = reply_to.map(|seq| seq.0);
                Frame::Send(chat::Send { client_id, conversation, body: Some(body), reply_to })
            }
            Self::Edit { conversation, seq, content } => {
                Frame::Edit(chat::Edit { client_id, conversation, seq: seq.0, content: Some(content) })
            }
            Self::Delete { conversation, seq } => {
                Frame::Delete(chat::Delete { client_id, conversation, seq: seq.0 })
            }
            Self::CreateGroup { title, members, open_history } => {
                let members = numbers(&members);
                Frame::CreateGroup(chat::CreateGroup { client_id, title, members, open_history })
            }
            Self::AddMembers { conversation, users } => {
                Frame::AddMembers(chat::AddMembers { client_id, conversation, users: numbers(&users) })
            }
            Self::RemoveMember { conversation, user } => {
                Frame::RemoveMember(chat::RemoveMember { client_id, conversation, user: user.0 })
            }
            Self::Leave { conversation } => Frame::Leave(chat::Leave { client_id, conversation }),
            Self::Rename { conversation, title } => {
                Frame::Rename(chat::Rename { client_id, conversation, title })
            }
            Self::SetRole { conversation, user, role } => {
                Frame::SetRole(chat::SetRole { client_id, conversation, user: user.0, role: role.into() })
            }
            Self::SetRetention { conversation, days } => {
                Frame::SetRetention(chat::SetRetention { client_id, conversation, days })
            }
        }
    }
}

fn numbers(users: &[UserId]) -> Vec<u64> {
    users.iter().map(|user| user.0).collect()
}
