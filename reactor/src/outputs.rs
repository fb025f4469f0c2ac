//! The pool of [`Output`]s: a connection has one only while there is something to send.

use crate::{Output, planted};

/// Stands for "has no output" in a connection's record.
pub(crate) const NO_OUTPUT: u32 = u32::MAX;

/// A buffer that grew beyond this goes back to the allocator when it is empty.
const KEPT_BUFFER_BYTES: usize = 64 << 10;
/// Empty outputs that keep their buffer for the next connection; the others give it back.
const KEPT_BUFFERS: usize = 256;
/// What an output that is held back may take beyond what waits in it. A vector doubles, and a slow reader's stays: at
/// a limit of 256 KiB it would be 512.
const SLACK_BYTES: usize = 40 << 10;
/// What is left of the slack when memory is given back. Less than all of it, so that the next little does not copy
/// everything again.
const SLACK_LEFT_BYTES: usize = 24 << 10;
/// A sent prefix shorter than this is not worth moving the rest for.
const COMPACT_BYTES: usize = 64 << 10;

/// Outputs by number; the number stands in the record of the connection that has it.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    outputs: Vec<Output>,
    /// Empty ones, the last used on top. Those below [`KEPT_BUFFERS`] keep their buffer.
    free: Vec<u32>,
    /// Memory of those that are held back.
    held_back_bytes: usize,
}

impl Outputs {
    /// An empty output.
    pub(crate) fn acquire(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.outputs.push(Output::default());
            u32::try_from(self.outputs.len() - 1).expect("there are fewer outputs than connections")
        })
    }

    /// Takes an output back, with whatever stands in it.
    pub(crate) fn release(&mut self, number: u32) {
        let output = &mut self.outputs[number as usize];
        self.held_back_bytes -= std::mem::take(&mut output.counted);
        output.sent = 0;
        output.bytes.clear();
        if output.bytes.capacity() > KEPT_BUFFER_BYTES || self.free.len() >= KEPT_BUFFERS {
            output.bytes = Vec::new();
        }
        self.free.push(number);
    }

    /// The socket is full, and keeps this output from going out.
    pub(crate) fn hold_back(&mut self, number: u32) {
        if let Some(output) = self.outputs.get_mut(number as usize) {
            let bytes = output.bytes.capacity();
            self.held_back_bytes = self.held_back_bytes - output.counted + bytes;
            output.counted = bytes;
        }
    }

    /// The same, after something was appended to it: what is too much of memory goes back to the allocator.
    pub(crate) fn hold_back_more(&mut self, number: u32) {
        if let Some(output) = self.outputs.get_mut(number as usize) {
            let unsent_bytes = output.unsent_bytes();
            if output.bytes.capacity() > unsent_bytes + SLACK_BYTES {
                output.bytes.drain(..output.sent);
                output.sent = 0;
                output.bytes.shrink_to(unsent_bytes + SLACK_LEFT_BYTES);
            }
        }
        self.hold_back(number);
    }

    /// Memory of all outputs that are held back.
    pub(crate) fn held_back_bytes(&self) -> usize {
        self.held_back_bytes
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Output> {
        self.outputs.get(number as usize)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Output> {
        self.outputs.get_mut(number as usize)
    }
}

/// What waits in an output.
pub(crate) fn unsent(output: &Output) -> &[u8] {
    &output.bytes[output.sent..]
}

/// Notes that the socket took `bytes` more. What was sent does not pile up in front of what was not.
pub(crate) fn advance(output: &mut Output, bytes: usize) {
    let bytes = if planted::SHORT_SEND_FORGOTTEN.is_planted() { output.unsent_bytes() } else { bytes };
    output.sent += bytes;
    debug_assert!(output.sent <= output.bytes.len(), "more was sent than there was");
    if output.sent >= COMPACT_BYTES && output.sent >= output.bytes.len() / 2 {
        output.bytes.drain(..output.sent);
        output.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_receiver_does_not_make_the_sent_prefix_grow() {
        let mut outputs = Outputs::default();
        let number = outputs.acquire();
        let mut largest = 0;
        for round in 0..2_000u32 {
            let output = outputs.get_mut(number).expect("it was acquired");
            output.buffer().extend_from_slice(&[round as u8; 4096]);
            if output.unsent_bytes() > 40_000 {
                let first = unsent(output)[0];
                advance(output, 4096);
                assert_eq!(u32::from(first), (round - 9) % 256);
            }
            largest = largest.max(output.bytes.len());
        }
        assert!(largest <= 2 * (COMPACT_BYTES + 40_960), "{largest} bytes held for 40,960 unsent ones");
    }

    #[test]
    fn what_a_full_socket_holds_back_takes_little_more_than_what_waits() {
        let mut outputs = Outputs::default();
        let numbers = [outputs.acquire(), outputs.acquire()];
        let mut copied_bytes = 0;
        for number in numbers {
            let output = outputs.get_mut(number).expect("it was acquired");
            // As much was sent as may be, without being worth a move.
            output.buffer().extend_from_slice(&[1; COMPACT_BYTES]);
            advance(output, COMPACT_BYTES - 1);
            outputs.hold_back(number);
            for _ in 0..1_024 {
                let output = outputs.get_mut(number).expect("it was acquired");
                output.buffer().extend_from_slice(&[2; 256]);
                let before = output.bytes.capacity();
                outputs.hold_back_more(number);
                let output = outputs.get(number).expect("it was acquired");
                let (bytes, unsent_bytes) = (output.bytes.capacity(), output.unsent_bytes());
                assert!(bytes <= unsent_bytes + SLACK_BYTES, "{bytes} bytes held for {unsent_bytes}");
                copied_bytes += if bytes == before { 0 } else { unsent_bytes };
            }
            assert_eq!(unsent(outputs.get(number).expect("it was acquired"))[..2], [1, 2], "nothing is lost");
        }
        assert!(copied_bytes <= 8 << 20, "{copied_bytes} bytes copied for 512 KiB");
        let held = numbers.map(|number| outputs.get(number).map_or(0, |output| output.bytes.capacity()));
        assert_eq!(outputs.held_back_bytes(), held[0] + held[1]);
        outputs.release(numbers[0]);
        assert_eq!(outputs.held_back_bytes(), held[1]);
        outputs.release(numbers[1]);
        assert_eq!(outputs.held_back_bytes(), 0);
    }

    #[test]
    fn empty_outputs_keep_a_bounded_amount_of_memory() {
        let mut outputs = Outputs::default();
        let numbers: Vec<u32> = (0..1_000).map(|_| outputs.acquire()).collect();
        for number in numbers {
            let output = outputs.get_mut(number).expect("it was acquired");
            output.buffer().extend_from_slice(&[1; 1024]);
            output.buffer().reserve(if number % 2 == 0 { 0 } else { 2 * KEPT_BUFFER_BYTES });
            outputs.release(number);
        }
        let kept: usize = outputs.outputs.iter().map(|output| output.bytes.capacity()).sum();
        assert!((1..=KEPT_BUFFERS * KEPT_BUFFER_BYTES).contains(&kept), "{kept} bytes kept");
        assert_eq!(outputs.get(outputs.free[0]).map(Output::unsent_bytes), Some(0));
    }
}
