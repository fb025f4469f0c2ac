//! What a reader asks when nothing happens any more: the list of conversations, page by page, and the whole history of
//! each conversation that the user is in, or was.

use std::collections::VecDeque;

use holdfast_protocol::chat::{self, client_frame};

use crate::truth::Truth;

/// Conversations of one answer, and messages.
const PAGE: u32 = 3;

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// An answer is awaited.
    waits: bool,
    list: Vec<chat::ConversationState>,
    list_is_whole: bool,
    /// Conversations whose history is still to be read; what is there of the first one.
    left: VecDeque<String>,
    messages: Vec<chat::Message>,
}

impl Survey {
    pub(crate) fn is_done(&self) -> bool {
        self.list_is_whole && self.left.is_empty()
    }

    pub(crate) fn next_question(&mut self) -> Option<client_frame::Frame> {
        if self.waits || self.is_done() {
            return None;
        }
        self.waits = true;
        if !self.list_is_whole {
            let after = self.list.last().map_or(String::new(), |last| last.conversation.clone());
            let request = chat::ConversationsRequest { after, limit: PAGE };
            return Some(client_frame::Frame::Conversations(request));
        }
        let conversation = self.left.front()?.clone();
        let after = Some(self.messages.last().map_or(0, |last| last.seq));
        let request = chat::HistoryRequest { conversation, before: None, after, limit: PAGE };
        Some(client_frame::Frame::History(request))
    }

    pub(crate) fn hear_list(&mut self, user: u64, list: chat::Conversations, truth: &mut Truth) {
        self.waits = false;
        self.list.extend(list.conversations);
        if list.end {
            self.list_is_whole = true;
            // Also of those that the user has left: that must be refused.
            self.left = self.list.iter().map(|it| it.conversation.clone()).collect();
            truth.lists.push((user, list.rev, std::mem::take(&mut self.list)));
        }
    }

    /// True when it was a history that was refused.
    pub(crate) fn hear_refusal(&mut self, user: u64, truth: &mut Truth) -> bool {
        if !self.list_is_whole || !std::mem::take(&mut self.waits) {
            return false;
        }
        let Some(conversation) = self.left.pop_front() else { return false };
        self.messages.clear();
        truth.refused_histories.push((user, conversation));
        true
    }

    pub(crate) fn hear_history(&mut self, user: u64, history: chat::History, truth: &mut Truth) {
        self.waits = false;
        self.messages.extend(history.messages);
        if history.end {
            self.left.pop_front();
            truth.histories.push((user, history.conversation, std::mem::take(&mut self.messages)));
        }
    }
}
