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

    /// True when at least half of the lane is free.
    #[must_use]
    pub fn is_half_free(&self) -> bool {
        self.queue.slots() >= self.queue.buffer().capacity().div_ceil(2)
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

    /// True when the sending thread has dropped its end. What it sent before can still be taken.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.queue.is_abandoned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MESSAGES: u32 = if cfg!(miri) { 50 } else { 2_000 };

    #[test]
    fn messages_come_in_order_and_none_is_lost_between_two_threads() {
        let (mut sender, mut receiver) = lane(32, Waker::never_sleeps());
        let sending = std::thread::spawn(move || {
            for number in 0..MESSAGES {
                let mut message = Box::new(number);
                while let Err(back) = sender.push(message) {
                    message = back;
                    std::thread::yield_now();
                }
                sender.flush();
            }
        });
        let mut expected = 0;
        while expected < MESSAGES {
            match receiver.pop() {
                Some(message) => {
                    assert_eq!(*message, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        sending.join().expect("the sender does not panic");
        assert!(receiver.is_empty());
        assert!(receiver.is_abandoned());
    }

    #[test]
    fn a_full_lane_gives_the_message_back_and_wakes_who_could_make_room() {
        let waker = Waker::never_sleeps();
        let (mut sender, mut receiver) = lane(2, waker.clone());
        assert_eq!((sender.push("a"), sender.push("b")), (Ok(()), Ok(())));
        assert!(!waker.is_notified(), "nobody has flushed");
        assert_eq!(sender.push("c"), Err("c"));
        assert!(waker.is_notified(), "or both would wait for each other");
        assert_eq!(receiver.pop(), Some("a"));
        assert_eq!(sender.push("c"), Ok(()));
        assert_eq!((receiver.pop(), receiver.pop(), receiver.pop()), (Some("b"), Some("c"), None));
    }

    #[test]
    fn half_free_is_half_free() {
        let (mut sender, mut receiver) = lane(5, Waker::never_sleeps());
        let free: Vec<bool> = (0..6)
            .map(|n| {
                let is_free = sender.is_half_free();
                let _ = sender.push(n);
                is_free
            })
            .collect();
        assert_eq!(free, [true, true, true, false, false, false]);
        for _ in 0..3 {
            receiver.pop();
        }
        assert!(sender.is_half_free());
    }

    #[test]
    fn only_a_flush_after_a_push_wakes() {
        let waker = Waker::never_sleeps();
        let (mut sender, _receiver) = lane(8, waker.clone());
        sender.flush();
        assert!(!waker.is_notified(), "there is nothing to see");
        sender.push(1).expect("there is room");
        sender.push(2).expect("there is room");
        sender.flush();
        assert!(waker.is_notified());
        waker.awake();
        sender.flush();
        assert!(!waker.is_notified(), "it was told already");
    }

    #[test]
    fn what_was_in_an_abandoned_lane_is_dropped_once() {
        let token = Arc::new(());
        let (mut sender, mut receiver) = lane(4, Waker::never_sleeps());
        for _ in 0..3 {
            sender.push(Arc::clone(&token)).expect("there is room");
        }
        assert!(!sender.is_abandoned());
        drop(receiver.pop());
        drop(receiver);
        assert!(sender.is_abandoned());
        // Nobody will ever take it, but it is not lost either: it goes with the lane.
        sender.push(Arc::clone(&token)).expect("there is room");
        assert_eq!(Arc::strong_count(&token), 4);
        drop(sender);
        assert_eq!(Arc::strong_count(&token), 1);
    }
}
