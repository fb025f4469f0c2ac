//! Waking a thread that sleeps in its driver: an eventfd, written only when the other side sleeps.
//!
//! Three states: *awake*, *asleep*, *notified*. A message that is in its queue before [`Waker::wake`] is never
//! slept through: either the sleeper finds *notified* when it wants to sleep, or the waker finds *asleep* and
//! writes the eventfd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const NOTIFIED: u8 = 2;

/// Wakes one driver from its wait, from any thread; costs one atomic when the driver is awake anyway.
#[derive(Debug, Clone)]
pub struct Waker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: AtomicU8,
    /// `None` in the simulation, which never sleeps.
    eventfd: Option<rustix::fd::OwnedFd>,
}

impl Waker {
    /// A waker for a driver that sleeps in the kernel until its eventfd becomes readable.
    ///
    /// # Errors
    /// When the kernel gives no eventfd (EMFILE, ENFILE, ENOMEM).
    pub fn new() -> std::io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let eventfd = rustix::event::eventfd(0, flags)?;
        Ok(Self { inner: Arc::new(Inner { state: AtomicU8::new(AWAKE), eventfd: Some(eventfd) }) })
    }

    /// A waker for a driver that never sleeps (the simulation).
    #[must_use]
    pub fn never_sleeps() -> Self {
        Self { inner: Arc::new(Inner { state: AtomicU8::new(AWAKE), eventfd: None }) }
    }

    /// Ends the driver's present wait, or its next one. Call after the message is in its queue.
    pub fn wake(&self) {
        // The swap is a full barrier: the message is visible to whoever reads NOTIFIED.
        if self.inner.state.swap(NOTIFIED, Ordering::SeqCst) == ASLEEP
            && let Some(eventfd) = &self.inner.eventfd
        {
            // EAGAIN means that the counter is full, so the sleeper wakes anyway.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    /// Says that the driver is about to sleep. False when it was notified and must not.
    pub(crate) fn try_sleep(&self) -> bool {
        self.inner.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Says that the driver is awake and its owner is about to look into its queues.
    pub(crate) fn awake(&self) {
        self.inner.state.swap(AWAKE, Ordering::SeqCst);
    }

    /// True when [`Self::wake`] was called since the last [`Self::awake`].
    pub(crate) fn is_notified(&self) -> bool {
        self.inner.state.load(Ordering::SeqCst) == NOTIFIED
    }

    /// The descriptor that the driver waits on.
    pub(crate) fn eventfd(&self) -> Option<&rustix::fd::OwnedFd> {
        self.inner.eventfd.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(waker: &Waker) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(waker.eventfd().expect("it has one"), &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                0
            }
        }
    }

    #[test]
    fn only_a_sleeper_costs_a_write_and_only_the_first_wake() {
        let waker = Waker::new().expect("an eventfd");
        waker.wake();
        assert_eq!(count(&waker), 0, "it was awake");
        assert!(!waker.try_sleep(), "it was notified and must look into its queues");
        waker.awake();
        assert!(waker.try_sleep());
        let elsewhere = waker.clone();
        elsewhere.wake();
        elsewhere.wake();
        assert_eq!(count(&waker), 1, "one write for one sleep");
        waker.awake();
        assert!(waker.try_sleep(), "what woke it is done with");
    }

    #[test]
    fn a_waker_that_never_sleeps_has_no_descriptor() {
        let waker = Waker::never_sleeps();
        assert!(waker.eventfd().is_none());
        assert!(waker.try_sleep());
        waker.wake();
        assert!(!waker.try_sleep());
    }
}
