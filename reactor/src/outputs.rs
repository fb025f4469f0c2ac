//! The pool of [`Output`]s: a connection has one only while there is something to send.

use crate::{Output, planted};

/// Stands for "has no output" in a connection's record.
pub(crate) const NO_OUTPUT: u32 = u32::MAX;

/// A buffer that grew beyond this goes back to the allocator when it is empty.
const KEPT_BUFFER_BYTES: usize = 64 << 10;
/// Empty outputs that keep their buffer for the next connection; the others give it back.
const KEPT_BUFFERS: usize = 256;
/// A sent prefix shorter than this is not worth moving the rest for.
const COMPACT_BYTES: usize = 64 << 10;

/// Outputs by number; the number stands in the record of the connection that has it.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    outputs: Vec<Output>,
    /// Empty ones, the last used on top. Those below [`KEPT_BUFFERS`] keep their buffer.
    free: Vec<u32>,
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
        output.sent = 0;
        output.bytes.clear();
        if output.bytes.capacity() > KEPT_BUFFER_BYTES || self.free.len() >= KEPT_BUFFERS {
            output.bytes = Vec::new();
        }
        self.free.push(number);
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
