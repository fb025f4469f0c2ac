//! What a turn has read for sessions: bytes, and what counts like bytes.

use std::cell::Cell;

/// What an item of an inbox record counts for that is gone over, whether it is wanted or stands before those.
pub(super) const ITEM_BYTES: usize = 32;
/// What a look at one record, or the beginning of a scan, counts for beside the bytes that it brings.
pub(super) const LOOK_BYTES: usize = 128;

/// See the module's doc. A cell, because whoever reads does not change the worker.
#[derive(Debug, Default)]
pub(super) struct Spent(Cell<usize>);

impl Spent {
    /// Nothing yet.
    pub(super) fn begin(&self) {
        self.0.set(0);
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.get()
    }
}
