//! The groups that a worker has in memory: those of the present batch, and a bounded cache of the others.
//!
//! The one invariant is that of [`Heads`](crate::heads::Heads): a change of the present batch is seen by what follows
//! it in the batch, and forgotten when the batch is not durable.

use std::sync::Arc;

use hashbrown::HashMap;
use holdfast_protocol::id::ConversationId;

use super::Worker;
use crate::engine::{Store, StoreError, Table};
use crate::group::Group;
use crate::layout;

/// Members of cached groups, all together, of which each of two generations may have half: 6 MB at the most.
const CACHED_MEMBERS: usize = 262_144;

/// See the module's doc.
#[derive(Debug, Default)]
pub(super) struct Groups {
    fresh: HashMap<ConversationId, Arc<Group>>,
    young: HashMap<ConversationId, Arc<Group>>,
    young_members: usize,
    old: HashMap<ConversationId, Arc<Group>>,
}

impl Groups {
    fn get(&mut self, conversation: ConversationId) -> Option<Arc<Group>> {
        if let Some(group) = self.fresh.get(&conversation).or_else(|| self.young.get(&conversation)) {
            return Some(Arc::clone(group));
        }
        let group = self.old.remove(&conversation)?;
        self.keep(conversation, Arc::clone(&group));
        Some(group)
    }

    fn keep(&mut self, conversation: ConversationId, group: Arc<Group>) {
        // A group without members costs something too.
        let members = group.members().len().max(8);
        if self.young_members + members > CACHED_MEMBERS / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_members = 0;
        }
        self.young_members += members;
        if let Some(before) = self.young.insert(conversation, group) {
            self.young_members -= before.members().len().max(8);
        }
    }

    /// What the present batch makes of it.
    pub(super) fn set(&mut self, conversation: ConversationId, group: Group) {
        self.fresh.insert(conversation, Arc::new(group));
    }

    /// The present batch is durable.
    pub(super) fn commit(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for (conversation, group) in fresh.drain() {
            // The other generation must not answer with an older state later.
            self.old.remove(&conversation);
            self.keep(conversation, group);
        }
        self.fresh = fresh;
    }

    /// The present batch is not durable, or perhaps it is: only the store knows.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl<S: Store> Worker<S> {
    /// A group as it is, the present batch included; one that does not exist has no members.
    pub(super) fn group(&mut self, conversation: ConversationId) -> Result<Arc<Group>, StoreError> {
        if let Some(group) = self.groups.get(conversation) {
            return Ok(group);
        }
        let key = layout::group_key(conversation);
        let Some(value) = self.store.get(Table::Groups, &key)? else { return Ok(Arc::default()) };
        let group = Arc::new(Group::open(&key, &value)?);
        self.groups.keep(conversation, Arc::clone(&group));
        Ok(group)
    }
}
