//! One ring: its queues, its file table, and the entries that the driver submits.
//!
//! Every pointer that the kernel is given passes through here. The rule that makes that safe: an entry that points
//! to the driver's memory completes *inside* the call that submits it (`MSG_DONTWAIT` transfers are never parked,
//! addresses are copied when the entry is read), so nothing of ours is with the kernel once [`Ring::submit`] has
//! returned. The exceptions point to statics or to memory that lives as long as the driver, and are only read.
//!
//! A ring belongs to the thread that made it (`SINGLE_ISSUER`).

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;

use io_uring::squeue::Flags as EntryFlags;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, opcode, squeue};

use super::address::RawAddress;
use super::errno::EnterFailure;
use super::operation::{Operation, Tag};

/// Submission queue entries; when they are used up the queue is submitted and goes on.
const SUBMISSION_ENTRIES: u32 = 256;
/// Completions that fit before the kernel has to allocate for them. The kernel's table of armed polls, in which a
/// cancellation searches, grows with this number: 256 buckets is its most, and 8,192 the fewest that give it.
const COMPLETION_ENTRIES: u32 = 8192;

/// With `DEFER_TASKRUN` one call runs at most max(20, completions wanted) pieces of work. Waiting for this many,
/// but no longer than [`MIN_WAIT_MICROSECONDS`] once there is one, lifts the limit: 6-12 % less CPU per message.
const COMPLETIONS_WANTED: u32 = 256;
const MIN_WAIT_MICROSECONDS: u32 = 1;
/// That arms a timer, which is dear where there is little to do, and in a virtual machine dearest: so it is done only
/// when the last wait brought so many that the limit was near.
const MANY_COMPLETIONS: usize = 16;
/// How often in a row the kernel may refuse to take entries before the ring is given up.
const REFUSALS_LIMIT: u32 = 1_000;

/// `IORING_ACCEPT_POLL_FIRST`: look whether somebody waits before trying. An accept that finds nobody has made a socket
/// and a file already and throws them away, which is 40 % of what accepting costs a server that waits for its clients.
const ACCEPT_POLL_FIRST: u16 = 1 << 2;

/// More than a receive buffer that grows by itself usually gets to.
const DISCARD_BYTES: u32 = 16 << 20;

static YES: i32 = 1;
static RESET_ON_CLOSE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// What comes behind a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// Nobody knows: it goes out now.
    Anything,
    /// The close, in the same submission: the bytes wait for it, and FIN travels in their segment.
    Fin,
}

/// A completion, copied out of its queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    /// A count or a slot; negative: an errno.
    pub(super) result: i32,
    pub(super) flags: u32,
}

/// The queues of one ring and its table of direct descriptors.
pub(super) struct Ring {
    // The parts of `split()` are held for the life of the ring: the index of the registered ring descriptor is kept
    // in that `Submitter` alone. They borrow from `ring`, which is on the heap and freed after them.
    submitter: ManuallyDrop<Submitter<'static>>,
    submissions: ManuallyDrop<SubmissionQueue<'static>>,
    completions: ManuallyDrop<CompletionQueue<'static>>,
    ring: NonNull<IoUring>,
    /// The kernel understands a minimum wait (6.12).
    has_min_wait: bool,
    /// The kernel understands [`ACCEPT_POLL_FIRST`] (6.10; only the feature above tells).
    has_poll_first: bool,
    enter_flags: EnterFlags,
    /// The last wait brought many completions: the next one wants many.
    is_loaded: bool,
    /// Entries are queued that the kernel has not taken.
    is_queued: bool,
    /// Completions that were copied out and not yet taken.
    reaped: Vec<Completion>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("fd", &self.as_raw_fd()).field("reaped", &self.reaped.len()).finish()
    }
}

impl Ring {
    /// The kernel's side of a ring, with the flags that this driver depends on.
    pub(super) fn set_up() -> io::Result<IoUring> {
        IoUring::builder()
            .dontfork()
            .setup_cqsize(COMPLETION_ENTRIES)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_no_sqarray()
            .build(SUBMISSION_ENTRIES)
    }

    /// A ring with an empty table of `table_slots` direct descriptors.
    pub(super) fn new(table_slots: u32) -> Result<Self, (&'static str, io::Error)> {
        let ring = Self::set_up().map_err(|error| ("an io_uring", error))?;
        ring.submitter()
            .register_files_sparse(table_slots)
            .map_err(|error| ("a ring's table of direct descriptors", error))?;
        let has_min_wait = ring.params().is_feature_min_timeout();
        let mut enter_flags = EnterFlags::GETEVENTS;
        if ring.params().is_feature_no_iowait() {
            // A thread that waits for the network is idle, not waiting for a disk.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        let owner = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the box is leaked until `drop`, which ends these borrows first; nobody else uses it meanwhile.
        let (mut submitter, submissions, completions) = unsafe { (*owner.as_ptr()).split() };
        // There are 16 places for these per thread; a ring without one costs a descriptor look-up per call.
        if let Err(error) = submitter.register_ring_fd() {
            tracing::trace!(%error, "the ring's descriptor is not registered");
        }
        Ok(Self {
            submitter: ManuallyDrop::new(submitter),
            submissions: ManuallyDrop::new(submissions),
            completions: ManuallyDrop::new(completions),
            ring: owner,
            has_min_wait,
            has_poll_first: has_min_wait,
            enter_flags,
            is_loaded: false,
            is_queued: false,
            reaped: Vec::new(),
        })
    }

    /// Submits what is queued, runs the kernel's deferred work up to `runs` times, copies completions out.
    /// Does not wait.
    pub(super) fn submit(&mut self, runs: u32) -> io::Result<()> {
        let mut refusals = 0;
        for _ in 0..runs {
            // One load for a ring with nothing to do: a thread with many rings comes here often.
            if !self.is_queued && !self.has_kernel_work() {
                return Ok(());
            }
            self.enter(0, None, &mut refusals)?;
        }
        self.submit_all(&mut refusals)
    }

    /// The same, and waits for a completion until the timeout has passed.
    pub(super) fn submit_and_wait(&mut self, timeout: Option<Timespec>) -> io::Result<()> {
        let mut refusals = 0;
        let reaped = self.reaped.len();
        self.enter(1, timeout, &mut refusals)?;
        self.is_loaded = self.reaped.len() - reaped >= MANY_COMPLETIONS;
        self.submit_all(&mut refusals)?;
        if self.reaped.len() == reaped && self.has_kernel_work() { self.submit(1) } else { Ok(()) }
    }

    /// Submits until the queue is empty: the callers' rule about memory depends on it.
    fn submit_all(&mut self, refusals: &mut u32) -> io::Result<()> {
        while self.is_queued || self.submissions.cq_overflow() {
            self.enter(0, None, refusals)?;
        }
        Ok(())
    }

    /// One `io_uring_enter`, then reaps.
    fn enter(&mut self, want: u32, timeout: Option<Timespec>, refusals: &mut u32) -> io::Result<()> {
        self.submissions.sync();
        let queued = self.submissions.len() as u32;
        let mut args = SubmitArgs::new();
        let mut flags = self.enter_flags;
        let mut want = want;
        if want > 0 {
            flags |= EnterFlags::EXT_ARG;
            if self.has_min_wait && self.is_loaded {
                want = COMPLETIONS_WANTED;
                args = args.min_wait_usec(MIN_WAIT_MICROSECONDS);
            }
        }
        let entered = match &timeout {
            _ if want == 0 => {
                // SAFETY: without EXT_ARG the argument is a signal mask, and there is none.
                unsafe { self.submitter.enter::<libc::sigset_t>(queued, 0, flags.bits(), None) }
            }
            None => {
                // SAFETY: with EXT_ARG the argument is what `SubmitArgs` wraps; it outlives the call.
                unsafe { self.submitter.enter(queued, want, flags.bits(), Some(&args)) }
            }
            Some(timeout) => {
                let args = args.timespec(timeout);
                // SAFETY: as above; `timeout` outlives the call too.
                unsafe { self.submitter.enter(queued, want, flags.bits(), Some(&args)) }
            }
        };
        self.submissions.sync();
        self.is_queued = !self.submissions.is_empty();
        self.reap();
        match entered {
            Ok(taken) if taken > 0 || queued == 0 => {
                *refusals = 0;
                Ok(())
            }
            // None of several entries taken, no error: as if it had been EAGAIN.
            Ok(_) => Self::refused(refusals, io::Error::from_raw_os_error(libc::EAGAIN)),
            Err(error) => match EnterFailure::of(&error) {
                EnterFailure::WaitEnded => Ok(()),
                EnterFailure::ReapAndRetry => Self::refused(refusals, error),
                EnterFailure::Fatal => Err(error),
            },
        }
    }

    fn refused(refusals: &mut u32, error: io::Error) -> io::Result<()> {
        *refusals += 1;
        if *refusals > REFUSALS_LIMIT { Err(error) } else { Ok(()) }
    }

    fn reap(&mut self) {
        self.completions.sync();
        self.reaped.extend((&mut *self.completions).map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        self.completions.sync();
    }

    /// True when the kernel has something that only an enter brings out. (With deferred work nothing is put into the
    /// completion queue but by an enter of ours, which reaps it.)
    fn has_kernel_work(&self) -> bool {
        self.submissions.taskrun() || self.submissions.cq_overflow()
    }

    /// True when a sleep would be wrong.
    pub(super) fn is_busy(&self) -> bool {
        !self.reaped.is_empty() || self.has_kernel_work()
    }

    /// Swaps the completions that were copied out against an empty list, so that its memory is used again.
    pub(super) fn take_reaped(&mut self, empty: &mut Vec<Completion>) {
        debug_assert!(empty.is_empty(), "no completion is forgotten");
        std::mem::swap(&mut self.reaped, empty);
    }

    pub(super) fn has_reaped(&self) -> bool {
        !self.reaped.is_empty()
    }

    /// Lets completions of this ring write the eventfd, or not; starts as not.
    pub(super) fn register_eventfd(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.completions.disable_eventfd();
        self.submitter.register_eventfd(eventfd.as_raw_fd())
    }

    pub(super) fn enable_eventfd(&self) {
        self.completions.enable_eventfd();
    }

    pub(super) fn disable_eventfd(&self) {
        self.completions.disable_eventfd();
    }

    /// Multishot poll of an eventfd, for the waker.
    pub(super) fn poll_eventfd(&mut self, eventfd: BorrowedFd<'_>, tag: Tag) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(entry, tag)
    }

    /// Accepts one connection into a free slot of the table.
    pub(super) fn accept(&mut self, listener: BorrowedFd<'_>, tag: Tag) -> io::Result<()> {
        let nowhere = std::ptr::null_mut();
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), nowhere, nowhere.cast());
        let mut entry = entry.file_index(Some(DestinationSlot::auto_target())).build();
        if self.has_poll_first {
            set_ioprio(&mut entry, ACCEPT_POLL_FIRST);
        }
        self.push(entry, tag)
    }

    /// Multishot poll for input: the cheapest way to wait, 264 bytes of kernel memory.
    pub(super) fn poll_readable(&mut self, slot: u32, tag: Tag) -> io::Result<()> {
        let mask = (libc::POLLIN | libc::POLLRDHUP) as u32;
        self.push(opcode::PollAdd::new(Fixed(slot), mask).multi(true).build(), tag)
    }

    /// Poll, once, for room in the send buffer.
    pub(super) fn poll_writable(&mut self, slot: u32, tag: Tag) -> io::Result<()> {
        self.push(opcode::PollAdd::new(Fixed(slot), libc::POLLOUT as u32).build(), tag)
    }

    /// Receives what is there; completes within the submit.
    ///
    /// # Safety
    /// `into` is valid for writes of `bytes` until the completion has come.
    pub(super) unsafe fn receive(
        &mut self,
        slot: u32,
        into: *mut u8,
        bytes: u32,
        tag: Tag,
    ) -> io::Result<()> {
        self.push(opcode::Recv::new(Fixed(slot), into, bytes).flags(libc::MSG_DONTWAIT).build(), tag)
    }

    /// Sends as much as the socket takes; completes within the submit, and says so only when that was not all.
    /// (Skipping the completion is safe only with `MSG_WAITALL`: without it a short send counts as success.)
    ///
    /// # Safety
    /// `from` is valid for reads of `bytes` until [`Self::submit`] has returned.
    pub(super) unsafe fn send(
        &mut self,
        slot: u32,
        from: *const u8,
        bytes: u32,
        follows: Follows,
        tag: Tag,
    ) -> io::Result<()> {
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT;
        if follows == Follows::Fin {
            flags |= libc::MSG_MORE;
        }
        let entry = opcode::Send::new(Fixed(slot), from, bytes).flags(flags).build();
        self.push(entry.flags(EntryFlags::SKIP_SUCCESS), tag)
    }

    /// Throws away what has arrived and nobody will read: with unread bytes a close would send RST, and the kernel would
    /// drop the last output with it. Completes within the submit.
    pub(super) fn discard(&mut self, slot: u32, tag: Tag) -> io::Result<()> {
        // With MSG_TRUNC nothing is copied, so there need not be any memory.
        let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), DISCARD_BYTES).flags(flags).build();
        self.push(entry.flags(EntryFlags::SKIP_SUCCESS), tag)
    }

    /// Makes an ordinary descriptor for the same socket, which completes within the submit.
    pub(super) fn install(&mut self, slot: u32, tag: Tag) -> io::Result<()> {
        self.push(opcode::FixedFdInstall::new(Fixed(slot), 0).build(), tag)
    }

    /// Sends FIN, by one of the kernel's worker threads.
    pub(super) fn shutdown(&mut self, slot: u32, tag: Tag) -> io::Result<()> {
        self.push(opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build(), tag)
    }

    /// Ends an operation; its own completion tells when it has ended. (By its tag: a cancellation by descriptor
    /// would look at every armed poll of the ring.)
    pub(super) fn cancel(&mut self, target: Tag, failure: Tag) -> io::Result<()> {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target.to_bits())).build();
        self.push(entry.flags(EntryFlags::SKIP_SUCCESS), failure)
    }

    /// Closes the direct descriptor; the slot is free afterwards. With `reset` the peer gets RST.
    pub(super) fn close(&mut self, slot: u32, reset: bool, tag: Tag) -> io::Result<()> {
        let close = opcode::Close::new(Fixed(slot)).build().user_data(tag.to_bits());
        if !reset {
            return self.push_chain(&[close]);
        }
        let linger = Self::set_option(slot, libc::SOL_SOCKET, libc::SO_LINGER, &RESET_ON_CLOSE);
        // A hard link: closed it is in any case.
        let linger = linger.flags(EntryFlags::IO_HARDLINK | EntryFlags::SKIP_SUCCESS);
        let unwatched = Tag::of(Operation::Unwatched, tag.index, 0);
        self.push_chain(&[linger.user_data(unwatched.to_bits()), close])
    }

    /// Makes a socket in the slot and connects it. One completion comes: of the first link that failed, or of the
    /// connect. (A link that skips its success and fails silences those behind it.)
    ///
    /// # Safety
    /// The addresses are valid until [`Self::submit`] has returned, `send_buffer_bytes` as long as the ring.
    pub(super) unsafe fn connect(
        &mut self,
        slot: u32,
        source: Option<&RawAddress>,
        target: &RawAddress,
        send_buffer_bytes: Option<&i32>,
        tag: Tag,
    ) -> io::Result<()> {
        let destination = DestinationSlot::try_from_slot_target(slot)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENFILE))?;
        let link = EntryFlags::IO_LINK | EntryFlags::SKIP_SUCCESS;
        let socket = opcode::Socket::new(target.family(), libc::SOCK_STREAM, libc::IPPROTO_TCP)
            .file_index(Some(destination))
            .build();
        let mut chain = Vec::with_capacity(6);
        chain.push(socket.flags(link));
        chain.push(Self::set_option(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY, &YES).flags(link));
        if let Some(bytes) = send_buffer_bytes {
            chain.push(Self::set_option(slot, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes).flags(link));
        }
        if let Some(source) = source {
            if source.is_any_port_of_v4() {
                // The port is chosen when the target is known, so that it need not be unique for all targets.
                let option = libc::IP_BIND_ADDRESS_NO_PORT;
                chain.push(Self::set_option(slot, libc::IPPROTO_IP, option, &YES).flags(link));
            }
            let (address, bytes) = source.parts();
            chain.push(opcode::Bind::new(Fixed(slot), address, bytes).build().flags(link));
        }
        let (address, bytes) = target.parts();
        chain.push(opcode::Connect::new(Fixed(slot), address, bytes).build());
        for entry in &mut chain {
            entry.set_user_data(tag.to_bits());
        }
        self.push_chain(&chain)
    }

    /// The value is read when the entry's turn in its chain has come.
    fn set_option<T>(slot: u32, level: i32, name: i32, value: &T) -> squeue::Entry {
        let bytes = size_of::<T>() as u32;
        opcode::SetSockOpt::new(
            Fixed(slot),
            level as u32,
            name as u32,
            std::ptr::from_ref(value).cast(),
            bytes,
        )
        .build()
    }

    fn push(&mut self, entry: squeue::Entry, tag: Tag) -> io::Result<()> {
        self.push_chain(&[entry.user_data(tag.to_bits())])
    }

    /// Queues entries that are submitted together (a link does not reach over the end of a submission).
    fn push_chain(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        if self.submissions.capacity() - self.submissions.len() < entries.len() {
            self.submit_all(&mut 0)?;
        }
        // SAFETY: whoever builds an entry that points to memory, above, asks its caller for what this needs.
        let pushed = unsafe { self.submissions.push_multiple(entries) };
        self.is_queued = true;
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::ENOBUFS))
    }
}

/// The crate has no way to set this field of an accept.
fn set_ioprio(entry: &mut squeue::Entry, ioprio: u16) {
    // struct io_uring_sqe { __u8 opcode; __u8 flags; __u16 ioprio; … }, 64 bytes
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: `Entry` is `repr(C)` around the kernel's structure, whose third and fourth byte are this field; any
    // number is valid there.
    unsafe { std::ptr::from_mut(entry).cast::<u16>().add(1).write_unaligned(ioprio) };
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        // SAFETY: the ring is alive until `drop`; only a plain number is read.
        unsafe { self.ring.as_ref() }.as_raw_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The registration holds the ring for as long as the thread lives; that it may not exist is fine.
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: the three parts borrow from the ring and go first, each once; then the box is taken back, once.
        unsafe {
            ManuallyDrop::drop(&mut self.submitter);
            ManuallyDrop::drop(&mut self.submissions);
            ManuallyDrop::drop(&mut self.completions);
            drop(Box::from_raw(self.ring.as_ptr()));
        }
    }
}
