//! One turn, in this order:
//!
//! 1. what the owner asked for since the last one: accepts, connects, sends, ends;
//! 2. receives for connections that are known to have bytes;
//! 3. one pass: submit, sleep if there is nothing to do, copy the completions out, handle them;
//! 4. what has just become readable or writable is received and sent at once, in a second pass that does not sleep.
//!
//! A connection is received from once per turn, so that none can starve the others.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};

use io_uring::types::Timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

use super::UringDriver;
use super::address::RawAddress;
use super::operation::{Operation, Tag};
use super::ring::Follows;
use super::slots::{Flags, Phase};
use crate::outputs::unsent;
use crate::{ConnectionId, Event, Moment};

/// How often a ring that shares its thread with others runs deferred work before its completions are handled
/// (with a single ring the wait itself runs all of it).
const RUNS_PER_PASS: u32 = 16;

const NANOSECONDS: u64 = 1_000_000_000;

/// The monotonic clock.
pub(super) fn clock() -> Moment {
    let time = clock_gettime(ClockId::Monotonic);
    Moment(time.tv_sec as u64 * NANOSECONDS + time.tv_nsec as u64)
}

/// Whether a pass may sleep.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sleep {
    No,
    Until(Option<Moment>),
}

impl UringDriver {
    pub(super) fn run_turn(&mut self, until: Option<Moment>, events: &mut Vec<Event>) -> io::Result<()> {
        let events_before = events.len();
        self.now = clock();
        self.tend_listeners(events)?;
        self.submit_connects()?;
        let something_follows = self.submit_dirty()?;
        let receives = self.submit_receives()?;

        // Room that was told at the end of the last turn is used in this one.
        let is_idle =
            !something_follows && receives == 0 && self.writable.is_empty() && events.len() == events_before;
        let until = match (until, self.accept_again) {
            (Some(until), Some(again)) => Some(until.min(again)),
            (until, again) => until.or(again),
        };
        self.pass(if is_idle { Sleep::Until(until) } else { Sleep::No })?;
        self.waker.awake();
        self.now = clock();
        self.handle_completions(events)?;
        self.settle_sends(events)?;

        let sends = self.submit_writable()?;
        let receives = self.submit_receives()?;
        if sends + receives > 0 {
            self.pass(Sleep::No)?;
            self.handle_completions(events)?;
            self.settle_sends(events)?;
        }
        self.to_read.extend(self.to_read_next.drain(..));
        Ok(())
    }

    fn submit_connects(&mut self) -> io::Result<()> {
        if self.connecting.is_empty() {
            return Ok(());
        }
        let requests = std::mem::take(&mut self.connecting);
        // Read by the kernel when the entries are submitted, so all of them stay until that has happened.
        let addresses: Vec<(Option<RawAddress>, RawAddress)> =
            requests.iter().map(|(_, source, target)| (source.map(Into::into), (*target).into())).collect();
        for ((id, ..), (source, target)) in requests.iter().zip(&addresses) {
            self.slots.at(id.index).in_kernel += 1;
            let tag = Tag::of(Operation::Connect, id.index, id.generation);
            let (ring, slot) = self.tables.locate(id.index);
            let bytes = self.send_buffer_bytes.as_deref();
            // SAFETY: `addresses` outlives the submit below; the number is in a box that is freed after the rings.
            unsafe { ring.connect(slot, source.as_ref(), target, bytes, tag)? };
        }
        for ring in self.tables.rings() {
            ring.submit(1)?;
        }
        Ok(())
    }

    /// Looks at what was asked for. True when something will follow of which no completion tells.
    pub(super) fn submit_dirty(&mut self) -> io::Result<bool> {
        let mut something_follows = false;
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            something_follows |= self.attend(index)?;
        }
        // Nothing marks while it attends, so the list's memory can be used again.
        self.dirty = dirty;
        Ok(something_follows)
    }

    /// Submits a send, or what comes after the last one.
    fn attend(&mut self, index: u32) -> io::Result<bool> {
        let slot = self.slots.at(index);
        slot.flags.clear(Flags::DIRTY);
        let flags = slot.flags;
        match slot.phase {
            Phase::Open => {}
            Phase::Connecting if flags.is_closing() => {
                self.terminate(index, 0)?;
                return Ok(false);
            }
            _ => return Ok(false),
        }
        if flags.has(Flags::ABORTED) {
            self.terminate(index, 0)?;
            return Ok(false);
        }
        if flags.has(Flags::BLOCKED) && !flags.has(Flags::CLOSE_WANTED) {
            if let Some(number) = slot.output() {
                self.outputs.hold_back_more(number);
            }
            return Ok(false);
        }
        if flags.has(Flags::CLOSE_WANTED) && self.may_close_behind_output(index) {
            self.submit_send(index, Follows::Fin)?;
            self.close_behind_output(index)?;
            return Ok(false);
        }
        if self.submit_send(index, Follows::Anything)? {
            // Successful sends are silent; what is to come after this one must not wait for something else.
            return Ok(flags.has(Flags::HELD_BACK | Flags::SHUTDOWN_WANTED | Flags::CLOSE_WANTED));
        }
        self.after_output(index)?;
        Ok(false)
    }

    /// Submits what the output holds; false when it holds nothing.
    fn submit_send(&mut self, index: u32, follows: Follows) -> io::Result<bool> {
        let slot = self.slots.at(index);
        let Some(output) = slot.output().and_then(|number| self.outputs.get(number)) else {
            return Ok(false);
        };
        let bytes = unsent(output);
        if bytes.is_empty() {
            return Ok(false);
        }
        if slot.flags.raise(Flags::SENDING) {
            slot.flags.clear(Flags::BLOCKED);
            self.sending.push(index);
            let tag = Tag::of(Operation::Send, index, slot.generation);
            let (ring, slot) = self.tables.locate(index);
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(i32::MAX as u32);
            // SAFETY: nobody touches an output within a turn before the pass that submits this has returned.
            unsafe { ring.send(slot, bytes.as_ptr(), length, follows, tag)? };
        }
        Ok(true)
    }

    /// Sends on where there is room again. Says how many sends that are.
    fn submit_writable(&mut self) -> io::Result<usize> {
        let mut sends = 0;
        let mut writable = std::mem::take(&mut self.writable);
        for index in writable.drain(..) {
            if self.slots.at(index).phase == Phase::Open && self.submit_send(index, Follows::Anything)? {
                sends += 1;
            }
        }
        self.writable = writable;
        Ok(sends)
    }

    /// Receives from the connections whose turn it is, as far as there are buffers. Says how many.
    fn submit_receives(&mut self) -> io::Result<usize> {
        let mut receives = 0;
        while let Some(&index) = self.to_read.front() {
            let slot = self.slots.at(index);
            let wants = slot.phase == Phase::Open
                && slot.flags.has(Flags::QUEUED_TO_READ)
                && !slot.flags.has(Flags::PAUSED | Flags::END_OF_STREAM);
            if !wants {
                slot.flags.clear(Flags::QUEUED_TO_READ);
                self.to_read.pop_front();
                continue;
            }
            // Without a buffer the queue keeps its order until loans have come back.
            let Some((number, memory)) = self.pool.take_for_kernel() else { break };
            slot.flags.clear(Flags::QUEUED_TO_READ);
            slot.in_kernel += 1;
            self.to_read.pop_front();
            self.receiving += 1;
            receives += 1;
            let bytes = self.pool.slot_bytes() as u32;
            let tag = Tag { operation: Operation::Receive, detail: number, index };
            let (ring, slot) = self.tables.locate(index);
            // SAFETY: the pool gives this memory to nobody until `lend`, which the completion calls.
            unsafe { ring.receive(slot, memory, bytes, tag)? };
        }
        Ok(receives)
    }

    /// Submits on all rings and reaps. Sleeps first, if it may and there is nothing to reap.
    pub(super) fn pass(&mut self, sleep: Sleep) -> io::Result<()> {
        let timeout = match sleep {
            Sleep::Until(until) if self.waker.try_sleep() => Some(until),
            _ => None,
        };
        // `None`: do not sleep. `Some(None)`: as long as it takes.
        let timeout = match timeout {
            Some(Some(until)) if until <= self.now => None,
            Some(until) => Some(until.map(|until| until.since(self.now))),
            None => None,
        };
        if self.tables.len() == 1 {
            let ring = self.tables.ring(0);
            return match timeout {
                None => ring.submit(1),
                Some(timeout) => ring.submit_and_wait(
                    timeout.map(|t| Timespec::new().sec(t.as_secs()).nsec(t.subsec_nanos())),
                ),
            };
        }
        let mut reaped = false;
        for ring in self.tables.rings() {
            ring.submit(RUNS_PER_PASS)?;
            reaped |= ring.has_reaped();
        }
        if let Some(timeout) = timeout
            && !reaped
        {
            self.sleep(timeout)?;
            for ring in self.tables.rings() {
                ring.submit(RUNS_PER_PASS)?;
            }
        }
        Ok(())
    }

    /// Sleeps until any ring has work, the waker was used, or the timeout has passed. The rings write the eventfd
    /// only from here to the end of this function.
    fn sleep(&mut self, timeout: Option<std::time::Duration>) -> io::Result<()> {
        let Some(eventfd) = self.waker.eventfd() else { return Ok(()) };
        for ring in self.tables.rings() {
            ring.enable_eventfd();
        }
        // Either the kernel sees the flag, or we see its work.
        fence(Ordering::SeqCst);
        let is_busy = self.tables.rings().any(|ring| ring.is_busy());
        if !is_busy {
            let mut fds = [PollFd::new(eventfd, PollFlags::IN)];
            let timeout = timeout.map(|timeout| rustix::time::Timespec {
                tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            });
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {
                    // Takes the count, whoever wrote it. EAGAIN cannot be: it was readable and nobody else reads.
                    let _ = rustix::io::read(eventfd.as_fd(), &mut [0u8; 8]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        for ring in self.tables.rings() {
            ring.disable_eventfd();
        }
        Ok(())
    }

    /// Handles what was copied out, ring after ring.
    pub(super) fn handle_completions(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        for ring in 0..self.tables.len() {
            // Handling queues entries; a full queue is submitted, and that may bring more completions.
            while self.tables.ring(ring).has_reaped() {
                self.tables.ring(ring).take_reaped(&mut completions);
                for completion in completions.drain(..) {
                    self.completed(ring, completion, events)?;
                }
            }
        }
        self.completions = completions;
        Ok(())
    }

    /// Sends of this pass of which no completion came have gone out whole.
    pub(super) fn settle_sends(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        for number in self.spent_outputs.drain(..) {
            self.outputs.release(number);
        }
        let mut sending = std::mem::take(&mut self.sending);
        for index in sending.drain(..) {
            let slot = self.slots.at(index);
            slot.flags.clear(Flags::SENDING);
            if slot.phase != Phase::Open {
                continue;
            }
            if slot.flags.has(Flags::BLOCKED) {
                if slot.flags.has(Flags::CLOSE_WANTED) {
                    // It had its attempt.
                    self.terminate(index, 0)?;
                }
                continue;
            }
            let id = ConnectionId { index, generation: slot.generation };
            if slot.flags.take(Flags::HELD_BACK) && !slot.flags.is_closing() {
                events.push(Event::Drained(id));
            }
            self.after_output(index)?;
        }
        self.sending = sending;
        Ok(())
    }

    /// The output is empty: it goes back to its pool, and what was to follow it follows.
    fn after_output(&mut self, index: u32) -> io::Result<()> {
        let slot = self.slots.at(index);
        if let Some(number) = slot.output() {
            self.outputs.release(number);
            slot.link = crate::outputs::NO_OUTPUT;
        }
        if slot.flags.has(Flags::CLOSE_WANTED) {
            return self.terminate(index, 0);
        }
        if slot.flags.has(Flags::SHUTDOWN_WANTED) && slot.flags.raise(Flags::SHUTDOWN_SENT) {
            slot.in_kernel += 1;
            let tag = Tag::of(Operation::Install, index, slot.generation);
            let (ring, slot) = self.tables.locate(index);
            return ring.install(slot, tag);
        }
        Ok(())
    }
}
