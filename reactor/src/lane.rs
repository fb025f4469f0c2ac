//! Lanes: bounded lock-free queues from one thread to another that wakes the receiving driver only when it sleeps.
//!
//! The sender pushes any number of messages and calls [`Sender::flush`] once, so that a batch costs one wake at most.

use crate::Waker;

/// The sending end; belongs to one thread.
#[derive(Debug)]
pub struct Sender<T> {
    queue: rtrb::Producer<T>,
    waker: Waker,
    unflushed: bool,
}

/// The receiving end; belongs to the thread whose driver gave the waker.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: rtrb::Consumer<T>,
}

/// A lane for `capacity` messages to the driver that `waker` wakes.
#[must_use]
pub fn lane<T>(capacity: usize, waker: Waker) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    (Sender { queue: producer, waker, unflushed: false }, Receiver { queue: consumer })
}

impl<T> Sender<T> {
    /// Puts a message into the lane; it is seen at the latest after [`Self::flush`].
    ///
    /// # Errors
    /// Gives the message back when the lane is full. Never blocks.
    pub fn push(&mut self, message: T) -> Result<(), T> {
        match self.queue.push(message) {
            Ok(()) => {
                self.unflushed = true;
                Ok(())
            }
            Err(rtrb::PushError::Full(message)) => {
                // The receiver may be asleep on a lane that was filled within one batch.
                self.waker.wake();
                Err(message)
            }
        }
    }

    /// Wakes the receiver if it sleeps and something was pushed since the last call.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed) {
            self.waker.wake();
        }
    }

    /// True when the receiving thread has dropped its end.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.queue.is_abandoned()
    }
}

impl<T> Receiver<T> {
    /// The next message, if there is one.
    pub fn pop(&mut self) -> Option<T> {
        self.queue.pop().ok()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
