//! What a completion says about itself: which operation, on which slot, of which generation.
//!
//! ```text
//! user_data   63       56 55                    32 31                                   0
//!            +-----------+------------------------+--------------------------------------+
//!            | operation | detail                 | index of the connection, or listener |
//!            +-----------+------------------------+--------------------------------------+
//! ```
//!
//! `detail` is the low 24 bits of the slot's generation; for a receive it is the number of the buffer that the
//! kernel wrote to (a receive completes within the turn that submitted it, so its slot cannot change hands).

/// What was asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    /// Multishot poll of the waker's eventfd.
    Wake = 1,
    /// Accept; the index is the listener's.
    Accept,
    /// Multishot poll for input.
    Readable,
    /// Poll for room in the socket's send buffer.
    Writable,
    /// Receive into a pool buffer; the detail is the buffer's number.
    Receive,
    /// Send; completes only when it fell short.
    Send,
    /// An ordinary descriptor, to send FIN with.
    Install,
    /// FIN, sent by a worker of the kernel.
    Shutdown,
    /// Any link of the chain that connects; the first that fails completes, else the last.
    Connect,
    /// Cancellation of a connect; completes only when there was nothing to cancel yet, or any more.
    CancelConnect,
    /// Close of the direct descriptor.
    Close,
    /// Nobody asks how it went: cancellations, socket options before a close.
    Unwatched,
}

impl Operation {
    const ALL: [Self; 12] = [
        Self::Wake,
        Self::Accept,
        Self::Readable,
        Self::Writable,
        Self::Receive,
        Self::Send,
        Self::Install,
        Self::Shutdown,
        Self::Connect,
        Self::CancelConnect,
        Self::Close,
        Self::Unwatched,
    ];
}

/// The three parts of `user_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) operation: Operation,
    pub(super) detail: u32,
    pub(super) index: u32,
}

/// Details are smaller than this.
pub(super) const DETAIL_LIMIT: u32 = 1 << 24;

impl Tag {
    /// The tag of an operation on a connection.
    pub(super) const fn of(operation: Operation, index: u32, generation: u32) -> Self {
        Self { operation, detail: generation % DETAIL_LIMIT, index }
    }

    /// True when the tag was made for this generation of its slot.
    pub(super) const fn is_of(self, generation: u32) -> bool {
        self.detail == generation % DETAIL_LIMIT
    }

    pub(super) const fn to_bits(self) -> u64 {
        (self.operation as u64) << 56 | (self.detail as u64) << 32 | self.index as u64
    }

    /// The inverse of [`Self::to_bits`]; `None` for what it cannot have made.
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        let operation = *Operation::ALL.get(((bits >> 56) as usize).wrapping_sub(1))?;
        Some(Self { operation, detail: (bits >> 32) as u32 % DETAIL_LIMIT, index: bits as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_the_kernel() {
        for operation in Operation::ALL {
            for (generation, index) in [(0, 0), (1, u32::MAX), (u32::MAX, 7), (DETAIL_LIMIT, 1_000_000)] {
                let tag = Tag::of(operation, index, generation);
                let back = Tag::from_bits(tag.to_bits()).expect("it was made by to_bits");
                assert_eq!(back, tag);
                assert!(back.is_of(generation) && !back.is_of(generation.wrapping_add(1)));
            }
        }
        assert_eq!((Tag::from_bits(0), Tag::from_bits(u64::MAX)), (None, None));
    }
}
