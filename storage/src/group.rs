//! A group: who is in it, who may do what, and what its events make of it. No I/O.
//!
//! The conversation's own log of events is the truth: [`Group::apply`] makes the state out of it, one event after the
//! other, and the record in the table `groups` is no more than that state at the conversation's head, so that nobody
//! needs to read the log. The worker decides ([`Group::decide`]) and applies in the same turn; the checker applies only.
//!
//! The one invariant: **who gets an event is decided by that event's place in the conversation's order**, never by when
//! it is delivered. A member that is removed gets the removal as the last event, one that is added the addition as the
//! first.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use holdfast_protocol::chat::{self, Role, body};
use holdfast_protocol::id::{Seq, UserId};

use crate::command::Refusal;
use crate::engine::{StoreError, Table};
use crate::layout;

/// A member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) user: UserId,
    pub(crate) role: Role,
    /// The event that made it one: it has got everything from there on.
    pub(crate) joined: Seq,
}

/// What somebody wants to do to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// Makes it. The creator owns it, the others are members.
    Create {
        /// What it is called.
        title: String,
        /// The others, each once.
        members: Vec<UserId>,
        /// Whether later members see what was written before.
        open_history: bool,
    },
    /// Adds members: each once.
    Add(Vec<UserId>),
    /// Removes another member.
    Remove(UserId),
    /// Goes.
    Leave,
    /// Calls it something else.
    Rename(String),
    /// Gives a member another role.
    SetRole(UserId, Role),
    /// Says for how long it keeps what is written in it.
    Keep {
        /// 0: as long as everything is kept.
        days: u32,
    },
}

/// A group's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Group {
    title: String,
    open_history: bool,
    /// For how many days it keeps what is written in it; 0: as long as everything is kept.
    retention_days: u32,
    /// In the order of their ids.
    members: Vec<Member>,
}

impl Group {
    /// Whether anything has happened in it.
    pub(crate) fn exists(&self) -> bool {
        // Every group has a title, also one that all have left.
        !self.title.is_empty()
    }

    pub(crate) fn member(&self, user: UserId) -> Option<&Member> {
        self.members.binary_search_by_key(&user, |member| member.user).ok().map(|at| &self.members[at])
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    pub(crate) fn is_open_history(&self) -> bool {
        self.open_history
    }

    /// For how many days it keeps what is written in it, if it says so.
    pub(crate) fn kept_days(&self) -> Option<u32> {
        Some(self.retention_days).filter(|&days| days > 0)
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The first event that this member may read.
    pub(crate) fn visible_from(&self, member: &Member) -> Seq {
        if self.open_history { Seq(1) } else { member.joined }
    }

    /// What a change is as an event, if it is allowed.
    pub(crate) fn decide(
        &self,
        by: UserId,
        change: &GroupChange,
        most_members: usize,
    ) -> Result<body::Kind, Refusal> {
        if let GroupChange::Create { title, members, open_history } = change {
            if self.exists() {
                // By someone else or under another name: the ids met.
                return Err(Refusal::NotAllowed);
            }
            if members.len() + 1 > most_members {
                return Err(Refusal::TooManyMembers);
            }
            let members = members.iter().filter(|&&member| member != by).map(|member| member.0).collect();
            let (title, open_history) = (title.clone(), *open_history);
            return Ok(body::Kind::GroupCreated(chat::GroupCreated { title, members, open_history }));
        }
        let role = self.member(by).ok_or(Refusal::UnknownConversation)?.role;
        let at_least = |least: Role| if role >= least { Ok(()) } else { Err(Refusal::NotAllowed) };
        match change {
            GroupChange::Create { .. } => unreachable!("handled above"),
            GroupChange::Add(users) => {
                at_least(Role::Admin)?;
                let users: Vec<u64> =
                    users.iter().filter(|&&user| self.member(user).is_none()).map(|user| user.0).collect();
                if users.is_empty() {
                    return Err(Refusal::AlreadyMembers);
                }
                if self.members.len() + users.len() > most_members {
                    return Err(Refusal::TooManyMembers);
                }
                Ok(body::Kind::MembersAdded(chat::MembersAdded { users, title: self.title.clone() }))
            }
            &GroupChange::Remove(user) => {
                at_least(Role::Admin)?;
                let member = self.member(user).ok_or(Refusal::UnknownMember)?;
                if user == by || (role < Role::Owner && member.role >= Role::Admin) {
                    return Err(Refusal::NotAllowed);
                }
                Ok(body::Kind::MemberRemoved(chat::MemberRemoved { user: user.0 }))
            }
            GroupChange::Leave => {
                let new_owner = self.heir(by).map(|user| user.0);
                Ok(body::Kind::MemberLeft(chat::MemberLeft { new_owner }))
            }
            GroupChange::Rename(title) => {
                at_least(Role::Admin)?;
                Ok(body::Kind::Renamed(chat::Renamed { title: title.clone() }))
            }
            &GroupChange::SetRole(user, role) => {
                at_least(Role::Owner)?;
                let member = self.member(user).ok_or(Refusal::UnknownMember)?;
                if role < Role::Owner && member.role == Role::Owner && self.owners() == 1 {
                    // Somebody must own it.
                    return Err(Refusal::NotAllowed);
                }
                Ok(body::Kind::RoleSet(chat::RoleSet { user: user.0, role: role.into() }))
            }
            &GroupChange::Keep { days } => {
                at_least(Role::Admin)?;
                Ok(body::Kind::RetentionSet(chat::RetentionSet { days }))
            }
        }
    }

    fn owners(&self) -> usize {
        self.members.iter().filter(|member| member.role == Role::Owner).count()
    }

    /// Who owns it when this member is gone; `None` when somebody does already, or nobody is left.
    fn heir(&self, gone: UserId) -> Option<UserId> {
        let others = || self.members.iter().filter(|member| member.user != gone);
        if others().any(|member| member.role == Role::Owner) {
            return None;
        }
        let heir = others().min_by_key(|member| (std::cmp::Reverse(member.role), member.joined, member.user));
        heir.map(|member| member.user)
    }

    /// What an event of the conversation makes of it. Whoever gets the event and is no member afterwards is returned.
    pub(crate) fn apply(&mut self, seq: Seq, sender: UserId, event: &body::Kind) -> Option<UserId> {
        match event {
            body::Kind::GroupCreated(created) => {
                self.title.clone_from(&created.title);
                self.open_history = created.open_history;
                self.put(Member { user: sender, role: Role::Owner, joined: seq });
                for &user in &created.members {
                    self.put(Member { user: UserId(user), role: Role::Member, joined: seq });
                }
            }
            body::Kind::MembersAdded(added) => {
                for &user in &added.users {
                    self.put(Member { user: UserId(user), role: Role::Member, joined: seq });
                }
            }
            body::Kind::MemberRemoved(removed) => {
                let user = UserId(removed.user);
                self.members.retain(|member| member.user != user);
                return Some(user);
            }
            body::Kind::MemberLeft(left) => {
                self.members.retain(|member| member.user != sender);
                if let Some(heir) = left.new_owner {
                    self.set_role(UserId(heir), Role::Owner);
                }
                return Some(sender);
            }
            body::Kind::Renamed(renamed) => self.title.clone_from(&renamed.title),
            body::Kind::RoleSet(set) => {
                self.set_role(UserId(set.user), Role::try_from(set.role).unwrap_or_default());
            }
            body::Kind::RetentionSet(set) => self.retention_days = set.days,
            body::Kind::Text(_)
            | body::Kind::Custom(_)
            | body::Kind::Media(_)
            | body::Kind::Edited(_)
            | body::Kind::Deleted(_)
            | body::Kind::Expired(_) => {}
        }
        None
    }

    fn put(&mut self, member: Member) {
        if let Err(at) = self.members.binary_search_by_key(&member.user, |member| member.user) {
            self.members.insert(at, member);
        }
    }

    fn set_role(&mut self, user: UserId, role: Role) {
        if let Ok(at) = self.members.binary_search_by_key(&user, |member| member.user) {
            self.members[at].role = role;
        }
    }

    /// Its record: `days 4 | open 1 | title length 2 | title | n × (user 8 | role 1 | joined 8)`; before the second version
    /// without the days.
    pub(crate) fn seal(&self) -> Bytes {
        let bytes = FRONT_BYTES + self.title.len() + MEMBER_BYTES * self.members.len();
        let mut value = BytesMut::with_capacity(layout::ENVELOPE_BYTES + bytes);
        value.put_bytes(0, layout::ENVELOPE_BYTES);
        value.put_u32_le(self.retention_days);
        value.put_u8(u8::from(self.open_history));
        // A title is checked at the door, at far less than this.
        value.put_u16_le(u16::try_from(self.title.len()).unwrap_or(u16::MAX));
        value.put_slice(self.title.as_bytes());
        for member in &self.members {
            value.put_u64_le(member.user.0);
            value.put_u8(role_number(member.role));
            value.put_u64_le(member.joined.0);
        }
        layout::sign(GROUP_VERSION, &mut value);
        value.freeze()
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let (version, mut payload) = layout::open_version(Table::Groups, key, value, GROUP_VERSION)?;
        let wrong = |what| layout::corrupt(Table::Groups, key, what);
        let has_days = version >= GROUP_VERSION;
        if payload.len() < if has_days { FRONT_BYTES } else { FRONT_BYTES - size_of::<u32>() } {
            return Err(wrong("the value is too short"));
        }
        let retention_days = if has_days { payload.get_u32_le() } else { 0 };
        let open_history = payload.get_u8() != 0;
        let title_bytes = usize::from(payload.get_u16_le());
        if payload.len() < title_bytes || !(payload.len() - title_bytes).is_multiple_of(MEMBER_BYTES) {
            return Err(wrong("the value has a wrong length"));
        }
        let title = String::from_utf8(payload.split_to(title_bytes).to_vec())
            .map_err(|_| wrong("the title is not UTF-8"))?;
        let mut members = Vec::with_capacity(payload.len() / MEMBER_BYTES);
        while payload.has_remaining() {
            let user = UserId(payload.get_u64_le());
            let role = role_of(payload.get_u8())
                .ok_or_else(|| wrong("a member has a role that this program does not know"))?;
            members.push(Member { user, role, joined: Seq(payload.get_u64_le()) });
        }
        if !members.is_sorted_by(|one, other| one.user < other.user) {
            return Err(wrong("the members are not in order"));
        }
        Ok(Self { title, open_history, retention_days, members })
    }
}

/// Version byte of groups that say for how long they keep messages.
const GROUP_VERSION: u8 = 2;
/// Before the title.
const FRONT_BYTES: usize = 7;
const MEMBER_BYTES: usize = 17;

pub(crate) fn role_of(number: u8) -> Option<Role> {
    match number {
        0 => Some(Role::Member),
        1 => Some(Role::Admin),
        2 => Some(Role::Owner),
        _ => None,
    }
}

pub(crate) fn role_number(role: Role) -> u8 {
    match role {
        Role::Member => 0,
        Role::Admin => 1,
        Role::Owner => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWNER: UserId = UserId(1);
    const ADMIN: UserId = UserId(2);
    const MEMBER: UserId = UserId(3);
    const OTHER: UserId = UserId(4);
    const STRANGER: UserId = UserId(9);

    /// Decides and applies; what came of it.
    fn change(
        group: &mut Group,
        seq: u64,
        by: UserId,
        change: &GroupChange,
    ) -> Result<Option<UserId>, Refusal> {
        let event = group.decide(by, change, 6)?;
        Ok(group.apply(Seq(seq), by, &event))
    }

    fn group() -> Group {
        let mut group = Group::default();
        let create = GroupChange::Create {
            title: "Crew".into(),
            members: vec![ADMIN, MEMBER, OTHER],
            open_history: false,
        };
        change(&mut group, 1, OWNER, &create).unwrap();
        change(&mut group, 2, OWNER, &GroupChange::SetRole(ADMIN, Role::Admin)).unwrap();
        group
    }

    fn roles(group: &Group) -> Vec<(u64, Role)> {
        group.members().iter().map(|member| (member.user.0, member.role)).collect()
    }

    #[test]
    fn whoever_makes_it_owns_it() {
        assert_eq!(
            roles(&group()),
            [(1, Role::Owner), (2, Role::Admin), (3, Role::Member), (4, Role::Member)]
        );
    }

    #[test]
    fn each_role_may_do_what_it_may() {
        use GroupChange::{Add, Keep, Remove, Rename, SetRole};
        let no = Err(Refusal::NotAllowed);
        let unknown = Err(Refusal::UnknownConversation);
        let yes = |gone: Option<UserId>| Ok(gone);
        // By the owner, an admin, a member, and somebody from elsewhere.
        for (wish, [owner, admin, member, stranger]) in [
            (Add(vec![STRANGER]), [yes(None), yes(None), no, unknown]),
            (Rename("Us".into()), [yes(None), yes(None), no, unknown]),
            (Keep { days: 30 }, [yes(None), yes(None), no, unknown]),
            (Remove(OTHER), [yes(Some(OTHER)), yes(Some(OTHER)), no, unknown]),
            (Remove(OWNER), [no, no, no, unknown]),
            (Remove(ADMIN), [yes(Some(ADMIN)), no, no, unknown]),
            (Remove(STRANGER), [Err(Refusal::UnknownMember), Err(Refusal::UnknownMember), no, unknown]),
            (SetRole(OTHER, Role::Admin), [yes(None), no, no, unknown]),
            (SetRole(OTHER, Role::Owner), [yes(None), no, no, unknown]),
            (SetRole(OWNER, Role::Member), [no, no, no, unknown]),
            (SetRole(STRANGER, Role::Admin), [Err(Refusal::UnknownMember), no, no, unknown]),
        ] {
            for (by, expected) in [(OWNER, owner), (ADMIN, admin), (MEMBER, member), (STRANGER, stranger)] {
                assert_eq!(change(&mut group(), 3, by, &wish), expected, "{by:?}: {wish:?}");
            }
        }
    }

    #[test]
    fn a_group_is_never_larger_than_allowed() {
        let add = |users: &[u64]| GroupChange::Add(users.iter().map(|&user| UserId(user)).collect());
        assert_eq!(change(&mut group(), 3, OWNER, &add(&[10, 11, 12])), Err(Refusal::TooManyMembers));
        // Those who are in it already do not count.
        assert_eq!(change(&mut group(), 3, OWNER, &add(&[2, 3, 10, 11])), Ok(None));
        assert_eq!(change(&mut group(), 3, OWNER, &add(&[2, 3])), Err(Refusal::AlreadyMembers));
        let create = |others: u64| {
            let members = (2..2 + others).map(UserId).collect();
            let create = GroupChange::Create { title: "x".into(), members, open_history: true };
            change(&mut Group::default(), 1, OWNER, &create)
        };
        assert_eq!((create(5), create(6)), (Ok(None), Err(Refusal::TooManyMembers)));
    }

    #[test]
    fn somebody_always_owns_it() {
        let mut group = group();
        assert_eq!(change(&mut group, 3, OWNER, &GroupChange::Leave), Ok(Some(OWNER)));
        assert_eq!(roles(&group), [(2, Role::Owner), (3, Role::Member), (4, Role::Member)], "the admin");
        change(&mut group, 4, ADMIN, &GroupChange::Leave).unwrap();
        assert_eq!(roles(&group), [(3, Role::Owner), (4, Role::Member)], "of equals the smaller number");
        change(&mut group, 5, MEMBER, &GroupChange::SetRole(OTHER, Role::Owner)).unwrap();
        change(&mut group, 6, MEMBER, &GroupChange::SetRole(MEMBER, Role::Member)).unwrap();
        change(&mut group, 7, OTHER, &GroupChange::Leave).unwrap();
        change(&mut group, 8, MEMBER, &GroupChange::Leave).unwrap();
        assert!(group.members().is_empty() && group.exists());
        assert_eq!(change(&mut group, 9, MEMBER, &GroupChange::Leave), Err(Refusal::UnknownConversation));
    }

    #[test]
    fn a_new_member_sees_history_from_joining_on_or_all_of_it() {
        for (open_history, first) in [(false, 7), (true, 1)] {
            let mut group = Group::default();
            let create = GroupChange::Create { title: "x".into(), members: vec![MEMBER], open_history };
            change(&mut group, 1, OWNER, &create).unwrap();
            change(&mut group, 7, OWNER, &GroupChange::Add(vec![OTHER])).unwrap();
            let member = group.member(OTHER).unwrap();
            assert_eq!(group.visible_from(member), Seq(first));
            assert_eq!(group.visible_from(group.member(MEMBER).unwrap()), Seq(1));
        }
    }

    proptest! {
        #[test]
        fn its_record_comes_back_and_damage_is_noticed(
            title in "\\PC{1,40}",
            open_history: bool,
            retention_days: u32,
            members in proptest::collection::btree_map(any::<u64>(), (0..3i32, any::<u64>()), 0..40),
            flip in any::<(proptest::sample::Index, u8)>(),
        ) {
            let members = members.into_iter().map(|(user, (role, joined))| Member {
                user: UserId(user),
                role: Role::try_from(role).unwrap(),
                joined: Seq(joined),
            });
            let group = Group { title, open_history, retention_days, members: members.collect() };
            let sealed = group.seal();
            prop_assert_eq!(&Group::open(b"k", &sealed).unwrap(), &group);
            let mut bytes = sealed.to_vec();
            let at = flip.0.index(bytes.len());
            bytes[at] ^= flip.1.max(1);
            prop_assert!(Group::open(b"k", &bytes.into()).is_err());
        }
    }
}
