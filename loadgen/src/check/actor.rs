//! Chooses what users do, from a seed and from what is known of the world. Decides only; whether it is allowed is the
//! server's business, and much of it is not.

use holdfast_protocol::chat::{self, Role, body, client_frame, content};
use holdfast_protocol::id::{ConversationId, UserId};

use super::judge::Judge;
use super::log::{Log, says_something};
use crate::random::Random;

/// Something that a device does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// A request; its `clientId` is still to be given.
    Do(client_frame::Frame),
    /// An earlier request once more, under the same `clientId`.
    Again { at: usize },
    /// A question.
    Ask(client_frame::Frame),
    /// Back by so many entries.
    Sync { back: u64, limit: u32, every_entry: bool },
    /// Acknowledges everything that it has.
    Ack,
    /// Something without an answer.
    Say(client_frame::Frame),
    /// Goes away for a while.
    GoAway { for_ms: u64, with_reset: bool },
    /// A second session of the same device.
    Rival,
}

/// How a device comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Return {
    /// `None`: where the server thinks that it was.
    pub(super) cursor: Option<u64>,
    pub(super) every_entry: bool,
}

/// Groups with members, and groups in all.
const GROUPS_ALIVE: usize = 14;
const GROUPS_MAX: usize = 400;
/// How many users each user writes to directly.
const FRIENDS: u64 = 4;

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Actor {
    random: Random,
    users: Vec<u64>,
    messages: u64,
}

impl Actor {
    pub(super) fn new(seed: u64, users: Vec<u64>) -> Self {
        Self { random: Random::stream(seed, 1), users, messages: 0 }
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u32) -> bool {
        self.random.below(times) == 0
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound as u32) as usize
    }

    /// How a device comes back that has everything up to `cursor`.
    pub(super) fn come_back(&mut self, cursor: u64) -> Return {
        let cursor = match self.random.below(10) {
            0 => None,
            1 => Some(self.random.below(cursor.min(1 << 30) as u32 + 1).into()),
            2 => Some(cursor.saturating_sub(self.random.below(400).into())),
            _ => Some(cursor),
        };
        Return { cursor, every_entry: self.once_in(3) }
    }

    pub(super) fn choose(&mut self, user: u64, judge: &Judge) -> Act {
        use client_frame::Frame;
        let groups = || judge.logs.values().take_while(|log| log.conversation.users().is_none());
        match self.random.below(1_000) {
            0..620 => match self.somewhere(user, judge) {
                Some((conversation, log)) => {
                    let reply_to = match log {
                        Some(log) if log.known > 0 && self.once_in(10) => {
                            Some(1 + u64::from(self.random.below(log.known as u32)))
                        }
                        _ => None,
                    };
                    let body = Some(self.body());
                    Act::Do(Frame::Send(chat::Send {
                        client_id: String::new(),
                        conversation,
                        body,
                        reply_to,
                    }))
                }
                None => self.make_group(user),
            },
            620..660 => Act::Again { at: self.below(1 << 16) },
            660..720 => match self.own_message(user, judge) {
                Some((conversation, seq)) if self.once_in(3) => {
                    Act::Do(Frame::Delete(chat::Delete { client_id: String::new(), conversation, seq }))
                }
                Some((conversation, seq)) => {
                    let content = Some(self.content());
                    Act::Do(Frame::Edit(chat::Edit { client_id: String::new(), conversation, seq, content }))
                }
                None => Act::Ack,
            },
            720..730 => {
                let alive = groups().filter(|log| !log.state().members.is_empty()).count();
                if alive < GROUPS_ALIVE && groups().count() < GROUPS_MAX {
                    self.make_group(user)
                } else {
                    Act::Ack
                }
            }
            730..780 => self.change_group(user, judge),
            780..830 => match self.somewhere(user, judge) {
                Some((conversation, Some(log))) => {
                    let seen = judge.inboxes.get(&user).and_then(|inbox| inbox.places.get(&log.conversation));
                    let seen = seen.map_or(1, |place| place.seq);
                    let back = if self.once_in(3) { self.random.below(20).into() } else { 0 };
                    let up_to = seen.saturating_sub(back);
                    Act::Ask(Frame::Read(chat::Read { conversation, up_to }))
                }
                _ => Act::Ack,
            },
            830..875 => match self.somewhere(user, judge) {
                Some((conversation, Some(log))) => {
                    let at = Some(u64::from(self.random.below(log.known as u32 + 5)));
                    let (before, after) = match self.random.below(3) {
                        0 => (None, None),
                        1 => (at, None),
                        _ => (None, at),
                    };
                    let limit = [0, 1, 20, 50, 200][self.below(5)];
                    Act::Ask(Frame::History(chat::HistoryRequest { conversation, before, after, limit }))
                }
                _ => Act::Ack,
            },
            875..900 => {
                let after = match self.somewhere(user, judge) {
                    Some((_, Some(log))) if self.once_in(2) => log.conversation.to_string(),
                    _ => String::new(),
                };
                let limit = [0, 1, 5, 50, 200][self.below(5)];
                Act::Ask(Frame::Conversations(chat::ConversationsRequest { after, limit }))
            }
            900..915 => match self.somewhere(user, judge) {
                Some((conversation, Some(_))) => {
                    Act::Ask(Frame::Receipts(chat::ReceiptsRequest { conversation }))
                }
                _ => Act::Ack,
            },
            915..930 => match self.group(user, judge) {
                Some(log) => {
                    let conversation = log.conversation.to_string();
                    Act::Ask(Frame::Group(chat::GroupRequest { conversation }))
                }
                None => Act::Ack,
            },
            930..940 => {
                let back = if self.once_in(2) { self.random.below(50) } else { self.random.below(2_000) };
                let limit = [0, 1, 7, 100][self.below(4)];
                Act::Sync { back: back.into(), limit, every_entry: self.once_in(2) }
            }
            940..978 => Act::Ack,
            // Who is not in a group gets an error without a name for it, which would be taken for a question's answer; in
            // direct conversations both always are.
            // Of some pairs: all the others must see everything. Both ways, for either may write to the other.
            978..981 => match self.acquaintance(user).filter(|other| (user + other).is_multiple_of(3)) {
                Some(user) if self.once_in(3) => Act::Say(Frame::Block(chat::Block { user })),
                Some(user) => Act::Say(Frame::Unblock(chat::Unblock { user })),
                None => Act::Ack,
            },
            981..985 => match self.friend(user) {
                Some(friend) => {
                    let conversation = format!("@{friend}");
                    let stopped = self.once_in(2);
                    Act::Say(Frame::Typing(chat::Typing { conversation, stopped }))
                }
                None => Act::Ack,
            },
            985..997 => {
                let for_ms = if self.once_in(3) { self.random.below(8_000) } else { self.random.below(800) };
                Act::GoAway { for_ms: for_ms.into(), with_reset: self.once_in(2) }
            }
            _ => Act::Rival,
        }
    }

    /// A conversation to write to, and its log if anything has happened in it.
    fn somewhere<'a>(&mut self, user: u64, judge: &'a Judge) -> Option<(String, Option<&'a Log>)> {
        if !self.once_in(5) {
            let log = self.group(user, judge)?;
            return Some((log.conversation.to_string(), Some(log)));
        }
        let other = self.friend(user)?;
        let conversation = ConversationId::direct(UserId(user), UserId(other));
        let name = if self.once_in(2) { format!("@{other}") } else { conversation.to_string() };
        Some((name, judge.logs.get(&conversation)))
    }

    /// Somebody to write to directly.
    fn friend(&mut self, user: u64) -> Option<u64> {
        let count = self.users.len() as u64;
        let at = self.users.iter().position(|&it| it == user)? as u64;
        let other = self.users[((at + 1 + u64::from(self.random.below(FRIENDS as u32))) % count) as usize];
        (other != user).then_some(other)
    }

    /// Somebody who writes to the user directly, or to whom the user writes.
    fn acquaintance(&mut self, user: u64) -> Option<u64> {
        if self.once_in(4) {
            return self.friend(user);
        }
        let count = self.users.len() as u64;
        let at = self.users.iter().position(|&it| it == user)? as u64;
        let back = (1 + u64::from(self.random.below(FRIENDS as u32))) % count;
        let other = self.users[((at + count - back) % count) as usize];
        (other != user).then_some(other)
    }

    /// A group that the user is in, as a rule.
    fn group<'a>(&mut self, user: u64, judge: &'a Judge) -> Option<&'a Log> {
        let groups: Vec<&Log> =
            judge.logs.values().take_while(|log| log.conversation.users().is_none()).collect();
        if groups.is_empty() {
            return None;
        }
        // Now and then one that the user is not in, or not any more: nothing may be seen of it.
        let must_be_in = !self.once_in(20);
        for _ in 0..64 {
            let log = groups[self.below(groups.len())];
            let is_in = log.state().members.contains_key(&user);
            if is_in || (!must_be_in && (log.gone.contains(&user) || self.once_in(8))) {
                return Some(log);
            }
        }
        None
    }

    fn own_message(&mut self, user: u64, judge: &Judge) -> Option<(String, u64)> {
        let (conversation, log) = self.somewhere(user, judge)?;
        let log = log?;
        let moderates = self.once_in(6);
        let last = log.prefix.saturating_sub(self.random.below(10).into());
        let wanted = (last.saturating_sub(60)..=last).rev().find(|&seq| {
            log.event(seq).is_some_and(|event| {
                says_something(&event.message) && (moderates || event.message.sender == user)
            })
        });
        wanted.map(|seq| (conversation, seq))
    }

    fn make_group(&mut self, user: u64) -> Act {
        let members = self.some_users(3, 14).into_iter().filter(|&it| it != user).collect();
        self.messages += 1;
        Act::Do(client_frame::Frame::CreateGroup(chat::CreateGroup {
            client_id: String::new(),
            title: format!("Group {}", self.messages),
            members,
            open_history: self.once_in(2),
        }))
    }

    fn change_group(&mut self, user: u64, judge: &Judge) -> Act {
        use client_frame::Frame;
        let Some(log) = self.group(user, judge) else { return Act::Ack };
        let (client_id, conversation) = (String::new(), log.conversation.to_string());
        let members: Vec<u64> = log.state().members.keys().copied().collect();
        let somebody = if members.is_empty() { user } else { members[self.below(members.len())] };
        Act::Do(match self.random.below(20) {
            0..7 => {
                let users = self.some_users(1, 4);
                Frame::AddMembers(chat::AddMembers { client_id, conversation, users })
            }
            7..12 => Frame::RemoveMember(chat::RemoveMember { client_id, conversation, user: somebody }),
            12..14 => Frame::Leave(chat::Leave { client_id, conversation }),
            14..16 => {
                self.messages += 1;
                let title = format!("Title {}", self.messages);
                Frame::Rename(chat::Rename { client_id, conversation, title })
            }
            // For longer than any run takes.
            16 => {
                let days = [0, 1, 30, 365][self.below(4)];
                Frame::SetRetention(chat::SetRetention { client_id, conversation, days })
            }
            _ => {
                let role = [Role::Member, Role::Admin, Role::Admin, Role::Owner][self.below(4)].into();
                Frame::SetRole(chat::SetRole { client_id, conversation, user: somebody, role })
            }
        })
    }

    /// Users, each once.
    fn some_users(&mut self, least: usize, most: usize) -> Vec<u64> {
        let count = (least + self.below(most - least)).min(self.users.len());
        let mut users = Vec::new();
        while users.len() < count {
            let at = self.below(self.users.len());
            let user = self.users[at];
            if !users.contains(&user) {
                users.push(user);
            }
        }
        users
    }

    /// A text that no other message has.
    fn text(&mut self) -> String {
        self.messages += 1;
        let mut text = format!("text {} ", self.messages);
        let longest = if self.once_in(50) { 2_000 } else { 60 };
        let length = self.below(longest);
        text.extend(std::iter::repeat_n('ä', length));
        text
    }

    fn body(&mut self) -> chat::Body {
        let kind =
            if self.once_in(10) { body::Kind::Custom(self.custom()) } else { body::Kind::Text(self.text()) };
        chat::Body { kind: Some(kind) }
    }

    fn content(&mut self) -> chat::Content {
        let kind = if self.once_in(10) {
            content::Kind::Custom(self.custom())
        } else {
            content::Kind::Text(self.text())
        };
        chat::Content { kind: Some(kind) }
    }

    fn custom(&mut self) -> chat::Custom {
        self.messages += 1;
        let data = self.messages.to_be_bytes().to_vec().into();
        chat::Custom { content_type: "application/vnd.holdfast.check".into(), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::observation::Device;

    #[test]
    fn the_seed_decides() {
        let users: Vec<u64> = (1..=8).collect();
        let devices = users.iter().map(|&user| Device { user, name: "phone".into() }).collect();
        let judge = Judge::new(devices);
        let acts = |seed| {
            let mut actor = Actor::new(seed, users.clone());
            (0..500).map(|at| actor.choose(1 + at % 8, &judge)).collect::<Vec<_>>()
        };
        assert_eq!(acts(1), acts(1));
        assert_ne!(acts(1), acts(2));
        let kinds = |wanted: fn(&Act) -> bool| acts(1).iter().filter(|act| wanted(act)).count();
        assert!(kinds(|act| matches!(act, Act::Do(client_frame::Frame::CreateGroup(_)))) > 0);
        assert!(kinds(|act| matches!(act, Act::Do(client_frame::Frame::Send(_)))) > 0);
        assert!(kinds(|act| matches!(act, Act::Again { .. })) > 0);
        assert!(kinds(|act| matches!(act, Act::GoAway { .. })) > 0);
    }
}
