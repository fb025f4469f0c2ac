//! What stands in every chat message that the generator sends, so that the receiver can say where it came from,
//! when it ought to have been sent, and whether it arrived whole.
//!
//! ```text
//!   hl1:  run(8) sender(8) receiver(8) sequence(8) intended_ns(16) crc32c(8)  filler …
//!         └──────────────── lower-case hexadecimal ────────────────────────┘
//! ```
//!
//! The checksum covers everything but itself, the filler too: a body that is cut, mixed up or altered anywhere is
//! found. The one invariant: `parse(write(x)) == x`, and a text with any one byte changed does not parse to `x`.

/// Where a message belongs and when it was meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run: messages of an earlier run, kept by the server, are told from this one's.
    pub run: u32,
    /// The sending member.
    pub sender: u32,
    /// The receiving member.
    pub receiver: u32,
    /// Dense from 0 for each (sender, receiver).
    pub sequence: u32,
    /// When the schedule wanted it sent, in nanoseconds of the generator's clock.
    pub intended_ns: u64,
}

/// Why a text is no stamp of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampError {
    /// It does not begin like one: somebody else's message.
    Foreign,
    /// It begins like one and is damaged.
    Corrupt,
}

const PREFIX: &[u8] = b"hl1:";
const FIELDS_END: usize = 52;
const HEX: &[u8; 16] = b"0123456789abcdef";

impl Stamp {
    /// The shortest body that holds a stamp.
    pub const BYTES: usize = FIELDS_END + 8;

    /// Writes the stamp and filler up to `bytes` in all (at least [`Self::BYTES`]).
    pub fn write(&self, bytes: usize, out: &mut String) {
        out.clear();
        out.reserve(bytes);
        out.push_str("hl1:");
        for field in [self.run, self.sender, self.receiver, self.sequence] {
            push_hex(u64::from(field), 8, out);
        }
        push_hex(self.intended_ns, 16, out);
        debug_assert_eq!(out.len(), FIELDS_END);
        let header = crc32c::crc32c(out.as_bytes());
        let filler = filler(bytes.saturating_sub(Self::BYTES));
        push_hex(u64::from(crc32c::crc32c_append(header, filler.as_bytes())), 8, out);
        out.push_str(filler);
    }

    /// Reads a stamp back, checking every byte of the body.
    ///
    /// # Errors
    /// When the body is not ours, or not as it was sent.
    pub fn parse(body: &[u8]) -> Result<Self, StampError> {
        if !body.starts_with(PREFIX) {
            return Err(StampError::Foreign);
        }
        let (fields, rest) = body.split_at_checked(FIELDS_END).ok_or(StampError::Corrupt)?;
        let (checksum, filler) = rest.split_at_checked(8).ok_or(StampError::Corrupt)?;
        let expected = crc32c::crc32c_append(crc32c::crc32c(fields), filler);
        if hex(checksum) != Some(u64::from(expected)) {
            return Err(StampError::Corrupt);
        }
        let field = |from: usize, digits: usize| hex(&fields[from..from + digits]).ok_or(StampError::Corrupt);
        Ok(Self {
            run: field(4, 8)? as u32,
            sender: field(12, 8)? as u32,
            receiver: field(20, 8)? as u32,
            sequence: field(28, 8)? as u32,
            intended_ns: field(36, 16)?,
        })
    }
}

fn push_hex(number: u64, digits: u32, out: &mut String) {
    for digit in (0..digits).rev() {
        out.push(char::from(HEX[(number >> (4 * digit)) as usize & 15]));
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            // Upper case is refused: it would be a changed byte that goes unnoticed.
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

/// Text that looks like text, so that what compresses or validates it is not flattered by zeros.
fn filler(bytes: usize) -> &'static str {
    use std::sync::LazyLock;
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let words = ["kelp ", "rock ", "tide ", "anchor ", "frond ", "swell ", "reef ", "grip "];
        let mut random = crate::random::Random::new(0x6b65_6c70);
        let mut text = String::with_capacity(FILLER_BYTES_MAX + 8);
        while text.len() < FILLER_BYTES_MAX {
            text.push_str(words[random.below(8) as usize]);
        }
        text.truncate(FILLER_BYTES_MAX);
        text
    });
    &TEXT[..bytes.min(FILLER_BYTES_MAX)]
}

/// More filler than any server that we know takes in one message.
const FILLER_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: Stamp =
        Stamp { run: 0xdead_beef, sender: 42, receiver: 43, sequence: 7, intended_ns: 1 << 40 };

    #[test]
    fn golden() {
        let mut body = String::new();
        STAMP.write(80, &mut body);
        assert_eq!(body.len(), 80);
        assert!(body.starts_with("hl1:deadbeef0000002a0000002b000000070000010000000000"), "{body}");
        assert_eq!(Stamp::parse(body.as_bytes()), Ok(STAMP));
    }

    #[test]
    fn any_changed_byte_is_found() {
        let mut body = String::new();
        STAMP.write(100, &mut body);
        let body = body.into_bytes();
        for index in 0..body.len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut damaged = body.clone();
                damaged[index] ^= flip;
                let expected = if index < 4 { StampError::Foreign } else { StampError::Corrupt };
                assert_eq!(Stamp::parse(&damaged), Err(expected), "byte {index} changed");
            }
        }
    }

    #[test]
    fn any_cut_or_addition_is_found() {
        let mut body = String::new();
        STAMP.write(100, &mut body);
        for length in 0..body.len() {
            assert!(Stamp::parse(&body.as_bytes()[..length]).is_err(), "cut to {length}");
        }
        body.push('x');
        assert_eq!(Stamp::parse(body.as_bytes()), Err(StampError::Corrupt));
        assert_eq!(Stamp::parse(b"hello"), Err(StampError::Foreign));
    }

    proptest! {
        #[test]
        fn parse_inverts_write(run: u32, sender: u32, receiver: u32, sequence: u32, intended_ns: u64, bytes in 0usize..2_000) {
            let stamp = Stamp { run, sender, receiver, sequence, intended_ns };
            let mut body = String::new();
            stamp.write(bytes, &mut body);
            prop_assert_eq!(body.len(), bytes.max(Stamp::BYTES));
            prop_assert_eq!(Stamp::parse(body.as_bytes()), Ok(stamp));
        }
    }
}
