//! Queues to a worker, and the bell that wakes it.
//!
//! A worker has several queues and one bell. A sender puts its command into a queue and rings; that costs a system
//! call only when the worker sleeps, so a burst wakes it once.
//!
//! Invariant: a worker never sleeps while something is in one of its queues. The sender writes the queue and then
//! reads whether the worker sleeps; the worker says that it sleeps and then reads the queues; of the two full fences
//! between, one comes first.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use flume::TrySendError;

use crate::router::Envelope;

/// Wakes one worker's thread.
#[derive(Debug, Default)]
pub struct Bell {
    thread: OnceLock<Thread>,
    sleeps: AtomicBool,
}

impl Bell {
    /// A bell per worker.
    #[must_use]
    pub fn several(workers: u16) -> Vec<Arc<Self>> {
        (0..workers).map(|_| Arc::default()).collect()
    }

    /// Wakes the worker if it sleeps.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeps.load(Ordering::Relaxed)
            && self.sleeps.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Sleeps until it rings, or for so long, unless there is something to do. May return early.
    ///
    /// Always called by the same thread: the first call decides who is woken.
    pub fn wait(&self, at_most: Option<Duration>, nothing_to_do: impl FnOnce() -> bool) {
        self.thread.get_or_init(thread::current);
        self.sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if nothing_to_do() {
            match at_most {
                Some(duration) => thread::park_timeout(duration),
                None => thread::park(),
            }
        }
        self.sleeps.store(false, Ordering::Relaxed);
    }
}

/// The sending end of a worker's queue.
#[derive(Debug)]
pub struct Link<C> {
    commands: flume::Sender<Envelope<C>>,
    bell: Arc<Bell>,
}

impl<C> Clone for Link<C> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<C> Link<C> {
    /// Puts a command into the queue. Never blocks.
    ///
    /// # Errors
    /// Gives it back when the queue is full, or the worker is gone.
    pub fn try_send(&self, envelope: Envelope<C>) -> Result<(), TrySendError<Envelope<C>>> {
        let sent = self.queue(envelope);
        // A full queue too: whoever filled it may not have rung yet.
        self.ring();
        sent
    }

    /// Puts a command into the queue and lets the worker sleep: [`Self::ring`] after the last one, or it sleeps on.
    ///
    /// A worker that shares its processor with the sender runs as soon as it is woken. Woken by the first of several
    /// commands it would find that one alone, and sleep again before the second.
    ///
    /// # Errors
    /// Gives it back when the queue is full, or the worker is gone.
    pub fn queue(&self, envelope: Envelope<C>) -> Result<(), TrySendError<Envelope<C>>> {
        self.commands.try_send(envelope)
    }

    /// Wakes the worker if it sleeps.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Puts a command into the queue, and waits for room if there is none.
    ///
    /// # Errors
    /// When the worker is gone.
    pub fn send(&self, envelope: Envelope<C>) -> Result<(), flume::SendError<Envelope<C>>> {
        match self.try_send(envelope) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(envelope)) => Err(flume::SendError(envelope)),
            // The worker is awake, since its queue is full, and sees this one after the others.
            Err(TrySendError::Full(envelope)) => {
                let sent = self.commands.send(envelope);
                self.bell.ring();
                sent
            }
        }
    }

    /// Commands in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// True when nothing is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// True when at least half of the queue is free.
    #[must_use]
    pub fn is_half_free(&self) -> bool {
        self.commands.capacity().is_none_or(|capacity| self.commands.len() <= capacity / 2)
    }
}

/// The worker's end of a queue.
#[derive(Debug)]
pub struct Queue<C> {
    commands: flume::Receiver<Envelope<C>>,
}

impl<C> Queue<C> {
    /// The next command, if there is one.
    #[must_use]
    pub fn pop(&self) -> Option<Envelope<C>> {
        self.commands.try_recv().ok()
    }

    /// What is there now, in order.
    pub fn drain(&self) -> impl Iterator<Item = Envelope<C>> {
        self.commands.drain()
    }

    /// Commands in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// True when nothing is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }
}

/// One bounded queue to each of these bells' workers.
///
/// # Panics
/// When `queue_commands` is 0: a queue without room would make senders wait for the worker.
#[must_use]
pub fn links<C>(bells: &[Arc<Bell>], queue_commands: usize) -> (Vec<Link<C>>, Vec<Queue<C>>) {
    assert!(queue_commands > 0, "a worker's queue has room for at least one command");
    let pair = |bell: &Arc<Bell>| {
        let (sender, receiver) = flume::bounded(queue_commands);
        (Link { commands: sender, bell: Arc::clone(bell) }, Queue { commands: receiver })
    };
    bells.iter().map(pair).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, SliceId};

    fn envelope(command: u64) -> Envelope<u64> {
        Envelope { slice: SliceId(0), epoch: Epoch(1), command }
    }

    #[test]
    fn no_command_is_slept_over() {
        const COMMANDS: u64 = 20_000;
        let bells = Bell::several(1);
        let (links, mut queues) = links::<u64>(&bells, 64);
        let queue = queues.remove(0);
        let bell = Arc::clone(&bells[0]);
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let mut sum = 0;
                let mut received = 0;
                while received < 2 * COMMANDS {
                    // Without a time limit: what is slept over hangs here.
                    bell.wait(None, || queue.is_empty());
                    for envelope in queue.drain() {
                        sum += envelope.command;
                        received += 1;
                    }
                }
                sum
            });
            let (link, other) = (links[0].clone(), links[0].clone());
            scope.spawn(move || (1..=COMMANDS).for_each(|n| link.send(envelope(n)).expect("it receives")));
            // The other one puts three at a time into the queue, and rings once.
            scope.spawn(move || {
                for n in 1..=COMMANDS {
                    if let Err(TrySendError::Full(full)) = other.queue(envelope(n)) {
                        other.send(full).expect("it receives");
                    }
                    if n % 3 == 0 || n == COMMANDS {
                        other.ring();
                    }
                }
            });
            assert_eq!(worker.join().expect("it does not panic"), COMMANDS * (COMMANDS + 1));
        });
    }

    #[test]
    fn half_free_is_half_free() {
        let (links, queues) = links::<u64>(&Bell::several(1), 5);
        let free: Vec<bool> = (0..6)
            .map(|n| {
                let is_free = links[0].is_half_free();
                let _ = links[0].queue(envelope(n));
                is_free
            })
            .collect();
        assert_eq!(free, [true, true, true, false, false, false]);
        let _ = queues[0].pop().map(|_| queues[0].pop()).map(|_| queues[0].pop());
        assert!(links[0].is_half_free());
    }

    #[test]
    fn sleep_ends_in_time() {
        Bell::default().wait(Some(Duration::from_millis(1)), || true);
        Bell::default().wait(None, || false);
    }
}
