//! What each completion means, and the three steps of closing.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::UringDriver;
use super::errno::TransferFailure;
use super::operation::{Operation, Tag};
use super::ring::Completion;
use super::slots::{Flags, Phase};
use crate::outputs::advance;
use crate::{CloseReason, ConnectionId, Event};

impl UringDriver {
    /// Handles one completion of a ring.
    pub(super) fn completed(
        &mut self,
        ring: usize,
        completion: Completion,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        let Some(tag) = Tag::from_bits(completion.user_data) else {
            debug_assert!(false, "user_data that nobody made: {:#x}", completion.user_data);
            return Ok(());
        };
        let Completion { result, flags, .. } = completion;
        match tag.operation {
            Operation::Unwatched => Ok(()),
            Operation::Wake if cqueue::more(flags) => Ok(()),
            Operation::Wake => self.tables.watch_waker(),
            Operation::Accept => self.accept_completed(ring, tag, result, events),
            Operation::Receive => self.received(tag, result, flags, events),
            _ if !self.slots.find(tag.index).is_some_and(|slot| tag.is_of(slot.generation)) => {
                // A completion of a connection that is gone reaches nobody.
                Ok(())
            }
            // Of a poll that was cancelled and closed over; it is not counted any more.
            Operation::Readable if self.slots.at(tag.index).phase == Phase::Closing => Ok(()),
            Operation::Readable => self.became_readable(tag.index, result, cqueue::more(flags)),
            Operation::Writable => self.became_writable(tag.index, result),
            Operation::Send => self.sent_short(tag.index, result),
            Operation::Connect => self.connected(tag.index, result, events),
            Operation::CancelConnect => self.cancel_connect(tag.index),
            Operation::Install => self.installed(tag.index, result),
            Operation::Shutdown => {
                self.left_kernel(tag.index);
                self.join(tag.index)
            }
            Operation::Close => match self.slots.at(tag.index).phase {
                Phase::Closing => self.closed(tag.index, events),
                _ => Ok(()),
            },
        }
    }

    pub(super) fn id_of(&mut self, index: u32) -> ConnectionId {
        ConnectionId { index, generation: self.slots.at(index).generation }
    }

    fn left_kernel(&mut self, index: u32) {
        let slot = self.slots.at(index);
        debug_assert!(slot.in_kernel > 0, "a completion of nothing");
        slot.in_kernel -= 1;
    }

    /// Begins to wait for input.
    pub(super) fn arm_poll(&mut self, index: u32) -> io::Result<()> {
        let slot = self.slots.at(index);
        slot.flags.set(Flags::POLL_ARMED);
        slot.in_kernel += 1;
        let tag = Tag::of(Operation::Readable, index, slot.generation);
        let (ring, slot) = self.tables.locate(index);
        ring.poll_readable(slot, tag)
    }

    fn arm_writable(&mut self, index: u32) -> io::Result<()> {
        let slot = self.slots.at(index);
        if !slot.flags.raise(Flags::WRITABLE_ARMED) {
            return Ok(());
        }
        slot.in_kernel += 1;
        let tag = Tag::of(Operation::Writable, index, slot.generation);
        let (ring, slot) = self.tables.locate(index);
        ring.poll_writable(slot, tag)
    }

    pub(super) fn queue_to_read(&mut self, index: u32) {
        if self.slots.at(index).flags.raise(Flags::QUEUED_TO_READ) {
            self.to_read.push_back(index);
        }
    }

    fn became_readable(&mut self, index: u32, result: i32, is_armed: bool) -> io::Result<()> {
        if !is_armed {
            self.left_kernel(index);
            self.slots.at(index).flags.clear(Flags::POLL_ARMED);
        }
        let slot = self.slots.at(index);
        if slot.phase != Phase::Open {
            return self.join(index);
        }
        if result < 0 {
            return match TransferFailure::of(result) {
                TransferFailure::Fatal(errno) => self.terminate(index, errno),
                TransferFailure::WouldBlock | TransferFailure::Retry => self.rearm(index, is_armed),
            };
        }
        if result & i32::from(libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP) != 0 {
            slot.flags.set(Flags::HUNG_UP);
        }
        if result & i32::from(libc::POLLERR) != 0 {
            slot.flags.set(Flags::ERRED);
            // Nobody reads, so nobody would be told.
            if slot.flags.has(Flags::PAUSED | Flags::END_OF_STREAM) {
                return self.terminate(index, libc::ECONNRESET);
            }
        }
        if !slot.flags.has(Flags::PAUSED | Flags::END_OF_STREAM) {
            self.queue_to_read(index);
        }
        self.rearm(index, is_armed)
    }

    fn rearm(&mut self, index: u32, is_armed: bool) -> io::Result<()> {
        if is_armed { Ok(()) } else { self.arm_poll(index) }
    }

    fn received(&mut self, tag: Tag, result: i32, flags: u32, events: &mut Vec<Event>) -> io::Result<()> {
        self.receiving -= 1;
        self.left_kernel(tag.index);
        let bytes = usize::try_from(result).unwrap_or(0);
        let buffer = self.pool.lend(tag.detail, bytes);
        let id = self.id_of(tag.index);
        let slot = self.slots.at(tag.index);
        if slot.phase != Phase::Open || slot.flags.is_closing() {
            return self.join(tag.index);
        }
        if bytes > 0 {
            let has_more = cqueue::sock_nonempty(flags) || slot.flags.has(Flags::HUNG_UP);
            if has_more && slot.flags.raise(Flags::QUEUED_TO_READ) {
                self.to_read_next.push(tag.index);
            }
            events.push(Event::Received(id, buffer));
            return Ok(());
        }
        if result == 0 && slot.flags.has(Flags::ERRED) {
            // FIN, and a reset behind it that no receive would report any more.
            return self.terminate(tag.index, libc::ECONNRESET);
        }
        if result == 0 {
            slot.flags.set(Flags::END_OF_STREAM);
            events.push(Event::EndOfStream(id));
            return Ok(());
        }
        match TransferFailure::of(result) {
            TransferFailure::WouldBlock => Ok(()),
            TransferFailure::Retry => {
                if slot.flags.raise(Flags::QUEUED_TO_READ) {
                    self.to_read_next.push(tag.index);
                }
                Ok(())
            }
            TransferFailure::Fatal(errno) => self.terminate(tag.index, errno),
        }
    }

    /// A send took less than it was given, or nothing.
    fn sent_short(&mut self, index: u32, result: i32) -> io::Result<()> {
        let slot = self.slots.at(index);
        let Some(number) = slot.output() else { return Ok(()) };
        if result < 0
            && let TransferFailure::Fatal(errno) = TransferFailure::of(result)
        {
            return self.terminate(index, errno);
        }
        slot.flags.set(Flags::BLOCKED | Flags::HELD_BACK);
        if let Some(output) = self.outputs.get_mut(number) {
            advance(output, usize::try_from(result).unwrap_or(0));
        }
        self.outputs.hold_back(number);
        self.arm_writable(index)
    }

    fn became_writable(&mut self, index: u32, result: i32) -> io::Result<()> {
        self.left_kernel(index);
        let slot = self.slots.at(index);
        slot.flags.clear(Flags::WRITABLE_ARMED);
        if slot.phase != Phase::Open {
            return self.join(index);
        }
        if result < 0
            && let TransferFailure::Fatal(errno) = TransferFailure::of(result)
        {
            return self.terminate(index, errno);
        }
        // A send of this pass that fell short is told from one that went out whole by this flag alone, and its completion
        // may have come before this one: then the flag stays until the sends are settled, and the next send clears it.
        if !slot.flags.has(Flags::SENDING) {
            slot.flags.clear(Flags::BLOCKED);
        }
        self.writable.push(index);
        Ok(())
    }

    /// Sends FIN. The ring's own operation for it always goes through a worker thread of the kernel, which costs 7 µs
    /// of CPU more than an ordinary descriptor for an instant (25 against 32 for a connection's whole end, both
    /// sides, medians of five rounds of 15,000).
    fn installed(&mut self, index: u32, result: i32) -> io::Result<()> {
        self.left_kernel(index);
        if result >= 0 {
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
            let socket = unsafe { OwnedFd::from_raw_fd(result) };
            // ENOTCONN: the peer was faster, and its reset is on the way to us.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
            return self.join(index);
        }
        if self.slots.at(index).phase != Phase::Open {
            return self.join(index);
        }
        // No descriptor to be had: the dear way then.
        let slot = self.slots.at(index);
        slot.in_kernel += 1;
        let tag = Tag::of(Operation::Shutdown, index, slot.generation);
        let (ring, slot) = self.tables.locate(index);
        ring.shutdown(slot, tag)
    }

    fn connected(&mut self, index: u32, result: i32, events: &mut Vec<Event>) -> io::Result<()> {
        self.left_kernel(index);
        let slot = self.slots.at(index);
        if slot.phase != Phase::Connecting {
            return self.join(index);
        }
        if result < 0 {
            slot.flags.set(Flags::CONNECT_FAILED);
            return self.terminate(index, -result);
        }
        slot.phase = Phase::Open;
        let id = self.id_of(index);
        events.push(Event::Connected(id));
        // Its owner may have written, shut down or closed before it was there.
        self.mark_dirty(index);
        self.arm_poll(index)
    }

    /// First step of closing: no more events but the last, and the kernel is asked to let go. With errno 0 the
    /// owner has asked for it.
    pub(super) fn terminate(&mut self, index: u32, errno: i32) -> io::Result<()> {
        let phase = self.slots.at(index).phase;
        self.end(index, errno);
        let slot = self.slots.at(index);
        let (flags, generation) = (slot.flags, slot.generation);
        for (armed, operation) in
            [(Flags::POLL_ARMED, Operation::Readable), (Flags::WRITABLE_ARMED, Operation::Writable)]
        {
            if flags.has(armed) {
                let target = Tag::of(operation, index, generation);
                let (ring, _) = self.tables.locate(index);
                ring.cancel(target, Tag::of(Operation::Unwatched, index, generation))?;
            }
        }
        if phase == Phase::Connecting {
            self.cancel_connect(index)?;
        }
        self.join(index)
    }

    /// A chain whose connect has not begun cannot be cancelled: the cancellation fails and comes here again.
    fn cancel_connect(&mut self, index: u32) -> io::Result<()> {
        let slot = self.slots.at(index);
        if slot.phase != Phase::Joining || slot.in_kernel == 0 {
            return Ok(());
        }
        let target = Tag::of(Operation::Connect, index, slot.generation);
        let failure = Tag::of(Operation::CancelConnect, index, slot.generation);
        let (ring, _) = self.tables.locate(index);
        ring.cancel(target, failure)
    }

    /// Gives the output back and remembers why.
    fn end(&mut self, index: u32, errno: i32) {
        let slot = self.slots.at(index);
        if let Some(number) = slot.output() {
            self.outputs.release(number);
        }
        let is_requested = slot.flags.is_closing();
        slot.phase = Phase::Joining;
        slot.link = if is_requested { 0 } else { errno as u32 };
    }

    /// Second step, and with nothing left to wait for the third: the close itself.
    pub(super) fn join(&mut self, index: u32) -> io::Result<()> {
        let slot = self.slots.at(index);
        if slot.phase != Phase::Joining || slot.in_kernel > 0 {
            return Ok(());
        }
        slot.phase = Phase::Closing;
        let reset = slot.flags.has(Flags::ABORTED);
        let tag = Tag::of(Operation::Close, index, slot.generation);
        let (ring, slot) = self.tables.locate(index);
        ring.close(slot, reset, tag)
    }

    /// True when nothing but the poll for input is with the kernel.
    pub(super) fn may_close_behind_output(&mut self, index: u32) -> bool {
        let slot = self.slots.at(index);
        slot.phase == Phase::Open && slot.in_kernel == u8::from(slot.flags.has(Flags::POLL_ARMED))
    }

    /// All three steps in one submission, right behind the last send, so that FIN travels with the last bytes: one
    /// segment and one wakeup of the peer instead of two.
    pub(super) fn close_behind_output(&mut self, index: u32) -> io::Result<()> {
        let slot = self.slots.at(index);
        let is_polled = slot.flags.has(Flags::POLL_ARMED);
        self.spent_outputs.extend(slot.output());
        let generation = slot.generation;
        slot.phase = Phase::Closing;
        slot.link = 0;
        // The poll's last completion may come after the slot is somebody else's, whose generation keeps it away.
        slot.in_kernel = 0;
        let (ring, slot) = self.tables.locate(index);
        let unwatched = Tag::of(Operation::Unwatched, index, generation);
        ring.discard(slot, unwatched)?;
        if is_polled {
            ring.cancel(Tag::of(Operation::Readable, index, generation), unwatched)?;
        }
        ring.close(slot, false, Tag::of(Operation::Close, index, generation))
    }

    /// The slot is free.
    pub(super) fn closed(&mut self, index: u32, events: &mut Vec<Event>) -> io::Result<()> {
        let id = self.id_of(index);
        let slot = self.slots.at(index);
        let error = || io::Error::from_raw_os_error(slot.link as i32);
        let reason = match slot.link {
            0 => CloseReason::Requested,
            _ if slot.flags.has(Flags::CONNECT_FAILED) => CloseReason::ConnectFailed(error()),
            _ => CloseReason::Error(error()),
        };
        slot.vacate();
        self.tables.free(index);
        self.connections -= 1;
        events.push(Event::Closed(id, reason));
        self.admit_parked(events)
    }
}
