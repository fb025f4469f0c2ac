//! The user's side: who is connected, and how entries get to them.
//!
//! A session gets entry r only after r - 1, by an event while it is live and by a page otherwise; the page that reaches
//! the head makes it live in the same turn, so that nothing fits in between.

use bytes::Bytes;
use holdfast_protocol::id::{DeviceId, Rev, UserId};

use super::{Effects, Health, Wanted, Worker};
use crate::command::{Delivery, Refusal, Register, SessionAddress};
use crate::engine::Store;
use crate::planted;
use crate::sessions::{Mode, Registration};

/// Sessions that one turn looks at after a failed batch.
const DOUBTS_PER_TURN: u32 = 1_000;

impl<S: Store> Worker<S> {
    pub(super) fn register(&mut self, request: &Register, effects: &mut impl Effects) {
        let session = request.session;
        let delivery = self.try_register(request, effects).unwrap_or_else(|why| {
            self.counters.refused.add(1);
            Delivery::Refused { session, why }
        });
        self.lanes.answer(session.shard, delivery, effects);
    }

    fn try_register(&mut self, request: &Register, effects: &mut impl Effects) -> Result<Delivery, Refusal> {
        let (user, session) = (request.user, request.session);
        let kept = self.admit(request)?;
        let head = self.head(user).map_err(|error| self.unreadable(&error))?;
        let known = || self.cursors.of(user, request.device, kept.as_ref()).min(head);
        let cursor = match request.cursor {
            None if planted::CURSOR_AHEAD.is_planted() => head,
            cursor => cursor.unwrap_or_else(known),
        };
        if cursor > head {
            return Err(Refusal::CursorAhead);
        }
        let mode = if cursor == head { Mode::Live } else { Mode::Paging };
        let most = self.identity.limits.devices;
        match self.sessions.register(request, cursor, mode, most) {
            Registration::TooMany => return Err(Refusal::TooManyDevices),
            Registration::Superseded => return Ok(Delivery::Replaced { session }),
            Registration::Replaces(before) if before != session => {
                self.wishes.forget(before);
                self.lists.forget(user, before);
                self.lanes.answer(before.shard, Delivery::Replaced { session: before }, effects);
            }
            Registration::Replaces(_) => {}
            Registration::New => self.names.add(request.device, &request.device_name),
        }
        self.remember(request, kept.as_ref(), head);
        self.presence_changed(user);
        Ok(Delivery::Registered { session, cursor, head })
    }

    pub(super) fn unregister(&mut self, user: UserId, session: SessionAddress) {
        // Its head was known through it; whoever comes next asks the store.
        let gone = self.sessions.find(user, session).map(|index| *self.sessions.at(index));
        self.sessions.unregister(user, session);
        if let Some(gone) = gone {
            self.names.release(gone.device);
            self.presence_of_one_less(user, gone.away);
        }
        self.wishes.forget(session);
        self.lists.forget(user, session);
    }

    pub(super) fn ack(
        &mut self,
        user: UserId,
        device: DeviceId,
        session: SessionAddress,
        rev: Rev,
        effects: &mut impl Effects,
    ) {
        // A session that was replaced has been told so; what it still says does not count.
        let Some(index) = self.sessions.find(user, session) else { return };
        if self.sessions.at(index).device != device {
            return;
        }
        let why = match self.head(user) {
            Ok(head) if rev <= head => {
                // Without a disk to write them to, no more are kept than one batch would take.
                if (self.health == Health::Good || self.cursors.len() < self.identity.limits.dirty_cursors)
                    && let Some(name) = self.names.of(device)
                {
                    self.cursors.set(user, device, name, rev, self.now_ms);
                }
                return;
            }
            Ok(_) => Refusal::CursorAhead,
            Err(error) => self.unreadable(&error),
        };
        self.reject(session, why, effects);
    }

    pub(super) fn reject(&mut self, session: SessionAddress, why: Refusal, effects: &mut impl Effects) {
        self.counters.refused.add(1);
        self.lanes.answer(session.shard, Delivery::Rejected { session, client_id: None, why }, effects);
    }

    fn refuse_page(&mut self, session: SessionAddress, why: Refusal, effects: &mut impl Effects) {
        self.counters.refused.add(1);
        self.lanes.answer(session.shard, Delivery::NoPage { session, why }, effects);
    }

    /// One entry for all live sessions of a user.
    pub(super) fn hand_out(&mut self, user: UserId, rev: Rev, entry: &Bytes, effects: &mut impl Effects) {
        let mut next = self.sessions.of(user).next();
        while let Some(index) = next {
            let session = self.sessions.at_mut(index);
            // In doubt, and the entry before is the last that it has: then it has missed nothing.
            let in_turn = matches!(session.mode, Mode::Live | Mode::Doubtful) && session.last.next() == rev;
            let address = session.address();
            if in_turn {
                let event = Delivery::Event { session: address, rev, entry: entry.clone() };
                let taken =
                    !self.lanes.is_full(address.shard) && effects.deliver(address.shard, event).is_ok();
                let session = self.sessions.at_mut(index);
                if taken {
                    session.mode = Mode::Live;
                    session.last = rev;
                    self.counters.events.add(1);
                } else {
                    self.mark_gap(index);
                }
            } else if session.mode == Mode::Doubtful && session.last < rev {
                self.mark_gap(index);
            }
            next = self.sessions.after(index);
        }
    }

    /// The session missed something; it is told as soon as there is room.
    fn mark_gap(&mut self, index: u32) {
        let session = self.sessions.at_mut(index);
        session.mode = Mode::GapUntold;
        let (user, address) = (session.user, session.address());
        if !planted::GAP_FORGOTTEN.is_planted() {
            self.untold.push_back((user, address));
        }
        self.counters.gaps.add(1);
    }

    pub(super) fn tell_gaps(&mut self, effects: &mut impl Effects) {
        for _ in 0..self.untold.len() {
            let Some((user, address)) = self.untold.pop_front() else { return };
            let Some(index) = self.sessions.find(user, address) else { continue };
            if self.sessions.at(index).mode != Mode::GapUntold {
                // It has asked for pages by itself in the meantime.
                continue;
            }
            let told = !self.lanes.is_full(address.shard)
                && self.head(user).is_ok_and(|to| {
                    let from = self.sessions.at(index).last.next();
                    effects.deliver(address.shard, Delivery::Gap { session: address, from, to }).is_ok()
                });
            if told {
                self.sessions.at_mut(index).mode = Mode::Gap;
            } else {
                self.untold.push_back((user, address));
            }
        }
    }

    /// After a failed batch: looks whether the sessions that were live then still have everything.
    pub(super) fn resolve_doubts(&mut self) {
        if self.health == Health::Full {
            // The database may be closed until it opens again, and then all of them are in doubt once more.
            return;
        }
        for _ in 0..DOUBTS_PER_TURN.min(self.in_doubt) {
            self.in_doubt -= 1;
            let session = *self.sessions.at(self.in_doubt);
            if session.user == UserId(0) || session.mode != Mode::Doubtful {
                continue;
            }
            match self.head(session.user) {
                Ok(head) if head == session.last => self.sessions.at_mut(self.in_doubt).mode = Mode::Live,
                Ok(_) => self.mark_gap(self.in_doubt),
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Answers a `Sync`.
    pub(super) fn serve_page(&mut self, session: SessionAddress, wanted: Wanted, effects: &mut impl Effects) {
        let Wanted { user, after, limit, every_entry, .. } = wanted;
        // Replaced or gone, and told so.
        let Some(index) = self.sessions.find(user, session) else { return };
        // Whatever comes of it: not live until a page says so.
        self.sessions.at_mut(index).mode = Mode::Paging;
        let head = match self.head(user) {
            Ok(head) if after <= head => head,
            Ok(_) => {
                self.refuse_page(session, Refusal::CursorAhead, effects);
                return;
            }
            Err(error) => {
                let why = self.unreadable(&error);
                self.refuse_page(session, why, effects);
                return;
            }
        };
        if !every_entry && head.0 - after.0 > self.identity.limits.snapshot_after {
            return match self.serve_snapshot(session, wanted) {
                Ok(Some(snapshot)) => {
                    self.counters.pages.add(1);
                    self.lanes.answer(session.shard, snapshot, effects);
                }
                Ok(None) => self.page_when_folded(session, wanted),
                Err(why) => self.refuse_page(session, why, effects),
            };
        }
        let entries = match self.read_page(user, after, head, limit) {
            Ok(page) => page,
            Err(error) => {
                let why = self.unreadable(&error);
                self.refuse_page(session, why, effects);
                return;
            }
        };
        let last = entries.last().map_or(after, |&(rev, _)| rev);
        let live = last == head;
        let record = self.sessions.at_mut(index);
        record.last = last;
        record.mode = if live { Mode::Live } else { Mode::Paging };
        self.counters.pages.add(1);
        self.lanes.answer(session.shard, Delivery::Page { session, entries, head, live }, effects);
    }
}
