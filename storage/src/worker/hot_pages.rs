//! Parts of conversations that were read a moment ago: a thousand readers of one page cost one read.
//!
//! The one invariant: a page is what the store would say. Whatever happens in a conversation, edits and deletions too,
//! raises its head, so a page is good for as long as the head is the one that it was read at.

use bytes::Bytes;
use hashbrown::HashMap;
use holdfast_protocol::id::{ConversationId, Seq};

use super::Worker;
use crate::engine::{Store, StoreError, Table};

/// Bytes of all pages together, of which each of two generations may have half.
const CACHED_BYTES: usize = 2 * 1024 * 1024;
/// What a message costs beside its bytes.
const MESSAGE_BYTES: usize = 64;
/// What a message that is at hand counts for.
const HOT_MESSAGE_BYTES: usize = 8;

/// Messages `first..=last` of a conversation, or as many of them as fit into a page: the first ones, or the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) conversation: ConversationId,
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// It begins with the last one.
    pub(super) backward: bool,
}

/// A part as it was when its conversation had this head.
#[derive(Debug)]
struct Page {
    head: Seq,
    messages: Vec<Bytes>,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(super) struct HotPages {
    young: HashMap<Part, Page>,
    young_bytes: usize,
    old: HashMap<Part, Page>,
}

impl HotPages {
    fn get(&mut self, part: &Part, head: Seq) -> Option<Vec<Bytes>> {
        if let Some(page) = self.young.get(part) {
            return (page.head == head).then(|| page.messages.clone());
        }
        let page = self.old.remove(part).filter(|page| page.head == head)?;
        let messages = page.messages.clone();
        self.keep(*part, page);
        Some(messages)
    }

    /// Only the store knows what has become of the last batch.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn keep(&mut self, part: Part, page: Page) {
        let bytes = page.messages.iter().map(|message| message.len() + MESSAGE_BYTES).sum::<usize>();
        if bytes > CACHED_BYTES / 2 {
            return;
        }
        // A page that takes the place of an older one is counted twice: the generation ends sooner, never later.
        if self.young_bytes + bytes > CACHED_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(part, page);
    }
}

impl<S: Store> Worker<S> {
    /// A part of a conversation whose head is this, as it is now, as far as it fits into a page.
    pub(super) fn hot_messages(
        &mut self,
        part: Part,
        head: Seq,
        page_bytes: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        if let Some(messages) = self.hot_pages.get(&part, head) {
            self.spent.add(HOT_MESSAGE_BYTES * messages.len());
            return Ok(messages);
        }
        let messages = self.read_messages(Table::Messages, part, Seq(u64::MAX), page_bytes)?;
        self.counters.history_reads.add(1);
        self.hot_pages.keep(part, Page { head, messages: messages.clone() });
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u128) -> Part {
        Part { conversation: ConversationId(number), first: Seq(1), last: Seq(2), backward: true }
    }

    fn page(head: u64, bytes: usize) -> Page {
        Page { head: Seq(head), messages: vec![Bytes::from(vec![7; bytes])] }
    }

    #[test]
    fn a_page_is_good_for_its_head_alone() {
        let mut pages = HotPages::default();
        pages.keep(part(1), page(5, 10));
        assert!(pages.get(&part(1), Seq(5)).is_some());
        assert!(pages.get(&part(1), Seq(6)).is_none());
        assert!(pages.get(&part(2), Seq(5)).is_none());
        pages.keep(part(1), page(6, 10));
        assert!(pages.get(&part(1), Seq(6)).is_some());
    }

    #[test]
    fn all_pages_together_have_a_limit_and_those_that_are_read_stay() {
        let mut pages = HotPages::default();
        for number in 0..1_000 {
            pages.keep(part(number), page(1, 10_000));
            assert!(pages.get(&part(0), Seq(1)).is_some(), "it is read all the time");
            let bytes: usize =
                pages.young.values().chain(pages.old.values()).map(|page| page.messages[0].len()).sum();
            assert!(bytes <= CACHED_BYTES);
        }
        assert!(pages.get(&part(1), Seq(1)).is_none());
        pages.keep(part(7_777), page(1, CACHED_BYTES));
        assert!(pages.get(&part(7_777), Seq(1)).is_none(), "one that is larger than all may be");
    }
}
