//! Messages that have not been acked: one list per sender, all in one slab.
//!
//! A sender's list is in the order of its numbers, and acks come mostly in that order, so looking for one begins
//! where it is most often found.

use holdfast_reactor::Moment;

const NONE: u32 = u32::MAX;

/// A sender's list: first and last node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };
}

#[derive(Debug, Clone, Copy)]
struct Node {
    intended: Moment,
    number: u32,
    next: u32,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub struct Outbox {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

impl Outbox {
    /// Messages in all lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// True when everything has been acked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, list: &mut List, number: u32, intended: Moment) {
        let node = Node { intended, number, next: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        match list.last {
            NONE => list.first = index,
            last => self.nodes[last as usize].next = index,
        }
        list.last = index;
    }

    pub(super) fn remove(&mut self, list: &mut List, number: u32) -> Option<Moment> {
        let (mut previous, mut index) = (NONE, list.first);
        while index != NONE && self.nodes[index as usize].number != number {
            (previous, index) = (index, self.nodes[index as usize].next);
        }
        if index == NONE {
            return None;
        }
        let Node { intended, next, .. } = self.nodes[index as usize];
        match previous {
            NONE => list.first = next,
            previous => self.nodes[previous as usize].next = next,
        }
        if list.last == index {
            list.last = previous;
        }
        self.free.push(index);
        Some(intended)
    }

    pub(super) fn iter(&self, list: List) -> impl Iterator<Item = (u32, Moment)> + '_ {
        let mut index = list.first;
        std::iter::from_fn(move || {
            let node = self.nodes.get(index as usize)?;
            index = node.next;
            Some((node.number, node.intended))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Many lists in one slab are as many maps.
        #[test]
        fn agrees_with_maps(steps in prop::collection::vec((0usize..4, prop::option::of(0u32..20)), 0..200)) {
            let mut outbox = Outbox::default();
            let mut lists = [List::EMPTY; 4];
            let mut models: [BTreeMap<u32, u64>; 4] = Default::default();
            let mut sent = [0u32; 4];
            for (owner, remove) in steps {
                match remove {
                    None => {
                        let number = sent[owner];
                        sent[owner] += 1;
                        outbox.push(&mut lists[owner], number, Moment(u64::from(number) + 7));
                        models[owner].insert(number, u64::from(number) + 7);
                    }
                    Some(number) => {
                        let removed = outbox.remove(&mut lists[owner], number).map(|moment| moment.0);
                        prop_assert_eq!(removed, models[owner].remove(&number));
                    }
                }
                for owner in 0..4 {
                    let listed: Vec<(u32, u64)> = outbox.iter(lists[owner]).map(|(n, m)| (n, m.0)).collect();
                    let model: Vec<(u32, u64)> = models[owner].iter().map(|(n, m)| (*n, *m)).collect();
                    prop_assert_eq!(listed, model);
                }
                prop_assert_eq!(outbox.len(), models.iter().map(BTreeMap::len).sum::<usize>());
            }
        }
    }
}
