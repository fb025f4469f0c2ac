//! Requests that have an answer and no name of their own: one is on its way at a time, so the next answer, or refusal,
//! is its. They are asked again after a reconnect, until they are answered.
//!
//! Invariant: at most [`QUESTIONS_MAX`] wait; the program is told when another one does not fit.

use std::collections::VecDeque;

use holdfast_protocol::chat::{self, client_frame, server_frame};
use holdfast_protocol::id::{Seq, UserId};

/// Questions that may wait for their answers.
pub const QUESTIONS_MAX: usize = 64;

/// Something that the server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A part of a conversation. Answer: [`Answer::History`].
    History {
        /// Of which.
        conversation: String,
        /// From where on, in which direction.
        from: HistoryFrom,
        /// At most so many messages; 0: as many as the server thinks right.
        limit: u32,
    },
    /// Which conversations are there? Answer: [`Answer::Conversations`].
    Conversations {
        /// Those behind this one; empty: from the first one.
        after: String,
        /// At most so many; 0: as many as the server thinks right.
        limit: u32,
    },
    /// Who is in a group? Answer: [`Answer::Group`].
    Group {
        /// Which.
        conversation: String,
    },
    /// Who has read what? Answer: [`Answer::Receipts`].
    Receipts {
        /// Where.
        conversation: String,
    },
    /// The user has read on. Answer: [`Answer::Receipts`] with the user's own mark, once it is durable.
    Read {
        /// Where.
        conversation: String,
        /// Up to which message.
        up_to: Seq,
    },
    /// Which devices does the user have? Answer: [`Answer::Devices`].
    Devices,
    /// A device is to be shut out. Answer: [`Answer::Devices`] without it, once that is durable.
    RevokeDevice {
        /// Which.
        device: String,
    },
    /// Which are the contacts, and who is blocked? Answer: [`Answer::People`].
    People {
        /// Those with greater ids.
        after: UserId,
        /// At most so many; 0: as many as the server gives.
        limit: u32,
    },
    /// Somebody is to be blocked, or not any more. Answer: [`Answer::People`] with that one, once it is durable.
    Block {
        /// Who.
        user: UserId,
        /// Whether.
        blocked: bool,
    },
    /// Somebody is to be a contact, or not any more. Answer: [`Answer::People`] with that one, once it is durable.
    SetContact {
        /// Who.
        user: UserId,
        /// Whether.
        contact: bool,
    },
    /// Others are to see the presence, or not. Answer: [`Answer::People`] with nobody in it, once it is durable.
    SetPrivacy {
        /// Who is to see it.
        presence: chat::Audience,
    },
}

/// Where a part of a conversation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryFrom {
    /// The last ones.
    End,
    /// The last ones before this message.
    Before(Seq),
    /// The first ones after this message.
    After(Seq),
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// See [`Question::History`].
    History(chat::History),
    /// See [`Question::Conversations`].
    Conversations(chat::Conversations),
    /// See [`Question::Group`].
    Group(chat::GroupState),
    /// See [`Question::Receipts`] and [`Question::Read`].
    Receipts(chat::Receipts),
    /// See [`Question::Devices`] and [`Question::RevokeDevice`].
    Devices(chat::Devices),
    /// See [`Question::People`], [`Question::Block`], [`Question::SetContact`] and [`Question::SetPrivacy`].
    People(chat::People),
}

/// Why a question was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{QUESTIONS_MAX} questions wait for their answers, as many as are allowed; wait for some")]
pub struct TooManyQuestions;

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: VecDeque<Question>,
    /// The first one was written to the present connection.
    is_asked: bool,
    /// Not before this.
    at_ms: u64,
}

impl Questions {
    pub(crate) fn push(&mut self, question: Question) -> Result<(), TooManyQuestions> {
        // What was read is one number per conversation: a later one takes the place of one that still waits.
        if let Question::Read { conversation, up_to } = &question {
            let skip = usize::from(self.is_asked);
            for waiting in self.waiting.iter_mut().skip(skip) {
                if let Question::Read { conversation: there, up_to: read } = waiting
                    && there == conversation
                {
                    *read = (*read).max(*up_to);
                    return Ok(());
                }
            }
        }
        if self.waiting.len() >= QUESTIONS_MAX {
            return Err(TooManyQuestions);
        }
        self.waiting.push_back(question);
        Ok(())
    }

    /// When the next one may be asked; `None`: there is none, or one is on its way.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        (!self.is_asked && !self.waiting.is_empty()).then_some(self.at_ms)
    }

    /// The frame of the next one, if its time has come.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<client_frame::Frame> {
        if self.next_ms().is_none_or(|at_ms| at_ms > now_ms) {
            return None;
        }
        self.is_asked = true;
        self.waiting.front().map(frame)
    }

    /// Another connection, to which nothing was written.
    pub(crate) fn begin_again(&mut self) {
        self.is_asked = false;
    }

    /// Whether this is the answer to the one on its way.
    pub(crate) fn answer(&mut self, frame: &server_frame::Frame, me: u64) -> bool {
        use server_frame::Frame;
        let is_answer = match (self.waiting.front(), frame) {
            (Some(Question::History { .. }), Frame::History(_))
            | (Some(Question::Conversations { .. }), Frame::Conversations(_))
            | (Some(Question::Group { .. }), Frame::Group(_))
            | (Some(Question::Devices | Question::RevokeDevice { .. }), Frame::Devices(_)) => true,
            (Some(question), Frame::People(people)) => is_answered_by(question, people),
            // What comes unasked is about one other member; an answer is about all members, or about oneself.
            (Some(Question::Receipts { .. } | Question::Read { .. }), Frame::Receipts(receipts)) => {
                receipts.members.iter().any(|member| member.user == me)
            }
            _ => false,
        };
        if is_answer && self.is_asked {
            self.waiting.pop_front();
            self.is_asked = false;
        }
        is_answer
    }

    /// An error without a name came: true if it refuses the one on its way, which is out unless it may pass later.
    pub(crate) fn refuse(&mut self, retry_at_ms: Option<u64>) -> bool {
        if !std::mem::take(&mut self.is_asked) {
            return false;
        }
        match retry_at_ms {
            Some(at_ms) => self.at_ms = at_ms,
            None => drop(self.waiting.pop_front()),
        }
        true
    }
}

fn frame(question: &Question) -> client_frame::Frame {
    use client_frame::Frame;
    match question.clone() {
        Question::History { conversation, from, limit } => {
            let (before, after) = match from {
                HistoryFrom::End => (None, None),
                HistoryFrom::Before(seq) => (Some(seq.0), None),
                HistoryFrom::After(seq) => (None, Some(seq.0)),
            };
            Frame::History(chat::HistoryRequest { conversation, before, after, limit })
        }
        Question::Conversations { after, limit } => {
            Frame::Conversations(chat::ConversationsRequest { after, limit })
        }
        Question::Group { conversation } => Frame::Group(chat::GroupRequest { conversation }),
        Question::Receipts { conversation } => Frame::Receipts(chat::ReceiptsRequest { conversation }),
        Question::Read { conversation, up_to } => Frame::Read(chat::Read { conversation, up_to: up_to.0 }),
        Question::Devices => Frame::Devices(chat::DevicesRequest {}),
        Question::RevokeDevice { device } => Frame::RevokeDevice(chat::RevokeDevice { device }),
        Question::People { after, limit } => Frame::People(chat::PeopleRequest { after: after.0, limit }),
        Question::Block { user, blocked: true } => Frame::Block(chat::Block { user: user.0 }),
        Question::Block { user, blocked: false } => Frame::Unblock(chat::Unblock { user: user.0 }),
        Question::SetContact { user, contact } => {
            Frame::SetContact(chat::SetContact { user: user.0, contact })
        }
        Question::SetPrivacy { presence } => {
            Frame::SetPrivacy(chat::SetPrivacy { presence: presence.name().to_owned() })
        }
    }
}

/// What another device has changed comes unasked, and may be the very same.
fn is_answered_by(question: &Question, people: &chat::People) -> bool {
    let is = |user: UserId, so: &dyn Fn(&chat::Person) -> bool| {
        people.changed && people.people.iter().any(|person| person.user == user.0 && so(person))
    };
    match question {
        Question::People { .. } => !people.changed,
        Question::Block { user, blocked } => is(*user, &|person| person.blocked == *blocked),
        Question::SetContact { user, contact } => is(*user, &|person| person.contact == *contact),
        Question::SetPrivacy { presence } => people.changed && people.presence == presence.name(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> Question {
        Question::Group { conversation: name.into() }
    }

    fn read(up_to: u64) -> Question {
        Question::Read { conversation: "@2".into(), up_to: Seq(up_to) }
    }

    fn answer() -> server_frame::Frame {
        server_frame::Frame::Group(chat::GroupState::default())
    }

    fn receipts(user: u64) -> server_frame::Frame {
        let members = vec![chat::MemberReceipt { user, read: 1, delivered: 1 }];
        server_frame::Frame::Receipts(chat::Receipts { conversation: "1:2".into(), members })
    }

    #[test]
    fn one_is_on_its_way_at_a_time_and_asked_again_after_a_reconnect() {
        let mut questions = Questions::default();
        questions.push(group("g1")).unwrap();
        questions.push(group("g2")).unwrap();
        assert_eq!(questions.next(0), Some(frame(&group("g1"))));
        assert_eq!(questions.next(0), None, "the answer first");
        questions.begin_again();
        assert_eq!(questions.next(0), Some(frame(&group("g1"))));
        assert!(questions.answer(&answer(), 1));
        assert_eq!(questions.next(0), Some(frame(&group("g2"))));
        assert!(!questions.answer(&receipts(1), 1), "not of this kind");
        assert!(questions.answer(&answer(), 1));
        assert!(!questions.answer(&answer(), 1), "nothing was asked");
        assert_eq!(questions.next_ms(), None);
    }

    #[test]
    fn the_list_of_devices_answers_also_whoever_has_shut_one_out() {
        let mut questions = Questions::default();
        let devices = server_frame::Frame::Devices(chat::Devices::default());
        for question in [Question::Devices, Question::RevokeDevice { device: "old-phone".into() }] {
            questions.push(question.clone()).unwrap();
            assert_eq!(questions.next(0), Some(frame(&question)));
            assert!(!questions.answer(&answer(), 1), "not of this kind");
            assert!(questions.answer(&devices, 1));
            assert_eq!(questions.next_ms(), None);
        }
    }

    #[test]
    fn what_is_refused_for_now_is_asked_later() {
        let mut questions = Questions::default();
        questions.push(group("g1")).unwrap();
        assert!(!questions.refuse(None), "it was not asked yet");
        assert!(questions.next(0).is_some());
        assert!(questions.refuse(Some(500)));
        assert_eq!((questions.next(499), questions.next_ms()), (None, Some(500)));
        assert!(questions.next(500).is_some());
        assert!(questions.refuse(None));
        assert_eq!(questions.next_ms(), None, "refused for good");
    }

    #[test]
    fn marks_of_one_conversation_are_one_and_what_others_read_is_no_answer() {
        let mut questions = Questions::default();
        for up_to in [3, 5, 4] {
            questions.push(read(up_to)).unwrap();
        }
        assert_eq!(questions.next(0), Some(frame(&read(5))));
        questions.push(read(6)).unwrap();
        assert!(!questions.answer(&receipts(2), 1), "another member has read");
        assert!(questions.answer(&receipts(1), 1));
        assert_eq!(questions.next(0), Some(frame(&read(6))), "the one on its way was not changed");
    }

    #[test]
    fn so_many_and_no_more_may_wait() {
        let mut questions = Questions::default();
        for _ in 0..QUESTIONS_MAX {
            questions.push(group("g1")).unwrap();
        }
        assert_eq!(questions.push(group("g1")), Err(TooManyQuestions));
    }
}
