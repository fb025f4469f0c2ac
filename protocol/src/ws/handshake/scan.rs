//! Finding the end of a head while it arrives.

use super::head::HeadError;

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// From the first byte to the blank line, that included.
    pub head_bytes: usize,
    /// Header fields; more than [`Self::HEADERS_MAX`] are never taken.
    pub headers: usize,
}

impl HeadLimits {
    /// The upper end of [`headers`](Self::headers): the parser's scratch space on the stack.
    pub const HEADERS_MAX: usize = 256;
}

impl Default for HeadLimits {
    /// 8 KiB, 64 fields.
    fn default() -> Self {
        Self { head_bytes: 8 * 1024, headers: 64 }
    }
}

/// Looks for the blank line that ends a head, each byte once however the head is cut into reads, and refuses at once
/// what can stand in no head: control and non-ASCII bytes, CR or LF alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadScanner {
    /// The bytes before this one need no second look.
    examined: u32,
}

impl HeadScanner {
    /// A scanner at the first byte of a head.
    #[must_use]
    pub const fn new() -> Self {
        Self { examined: 0 }
    }

    /// `bytes`: all of the head that has arrived, from its first byte; the scanner goes on where it stopped.
    /// `Some`: the length of the head. `None`: not complete.
    ///
    /// # Errors
    /// No continuation can make it a head, or it is too large.
    pub fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        let window = &bytes[..bytes.len().min(limits.head_bytes)];
        let mut index = self.examined as usize;
        while let Some(&byte) = window.get(index) {
            match byte {
                b' '..=b'~' | b'\t' => {}
                b'\n' => {
                    if index == 0 || window[index - 1] != b'\r' {
                        return Err(HeadError::BareLineFeed);
                    }
                    // RFC 9112 §2.2: one empty line before the request line is skipped. Any other ends the head.
                    if index >= 3 && window[index - 2] == b'\n' {
                        self.examined = index as u32;
                        return Ok(Some(index + 1));
                    }
                }
                b'\r' => match window.get(index + 1) {
                    Some(b'\n') => {}
                    Some(_) => return Err(HeadError::BareCarriageReturn),
                    // Looked at again when its LF has come.
                    None => break,
                },
                0x16 if index == 0 => return Err(HeadError::LooksLikeTls),
                0x80.. => return Err(HeadError::NotAscii(byte)),
                _ => return Err(HeadError::ControlByte(byte)),
            }
            index += 1;
        }
        if bytes.len() >= limits.head_bytes {
            let limit = limits.head_bytes;
            // Only the request line has arrived, and not all of it: it is the target that is too long.
            let in_request_line = !window.iter().skip(2).any(|&byte| byte == b'\n');
            return Err(if in_request_line {
                HeadError::TargetTooLong { limit }
            } else {
                HeadError::HeadTooLarge { limit }
            });
        }
        self.examined = index as u32;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 64, headers: 8 };

    fn whole(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        HeadScanner::new().scan(bytes, &LIMITS)
    }

    /// What the scanner says at the first prefix on which it says anything.
    fn byte_by_byte(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        let mut scanner = HeadScanner::new();
        (1..=bytes.len())
            .map(|end| scanner.scan(&bytes[..end], &LIMITS))
            .find(|verdict| *verdict != Ok(None))
            .unwrap_or(Ok(None))
    }

    #[test]
    fn finds_the_end_however_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut with_more = head.to_vec();
        with_more.extend_from_slice(b"\x81\x80more");
        assert_eq!(whole(&with_more), Ok(Some(head.len())));
        assert_eq!(byte_by_byte(&with_more), Ok(Some(head.len())));
        assert_eq!(whole(b"\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(20)));
        assert_eq!(whole(&head[..head.len() - 1]), Ok(None));
    }

    #[test]
    fn refuses_at_the_byte_that_is_wrong() {
        let cases: &[(&[u8], HeadError)] = &[
            (b"\n", HeadError::BareLineFeed),
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", HeadError::BareLineFeed),
            (b"GET / HTTP/1.1\r\nHost: a\n\r\n", HeadError::BareLineFeed),
            (b"GET / HTTP/1.1\rHost: a\r\n\r\n", HeadError::BareCarriageReturn),
            (b"GET / HTTP/1.1\r\r\n", HeadError::BareCarriageReturn),
            (b"GET /\0 HTTP/1.1\r\n\r\n", HeadError::ControlByte(0)),
            (b"GET /\x7f HTTP/1.1\r\n\r\n", HeadError::ControlByte(0x7f)),
            (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", HeadError::NotAscii(0xc3)),
            (b"\x16\x03\x01\x02\x00\x01", HeadError::LooksLikeTls),
        ];
        for (bytes, error) in cases {
            assert_eq!(whole(bytes), Err(*error), "{}", bytes.escape_ascii());
            assert_eq!(byte_by_byte(bytes), Err(*error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_head_is_exactly_as_large_as_allowed_or_refused() {
        let head_of = |bytes: usize| {
            let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
            head.resize(bytes - 4, b'x');
            head.extend_from_slice(b"\r\n\r\n");
            head
        };
        assert_eq!(byte_by_byte(&head_of(64)), Ok(Some(64)));
        assert_eq!(whole(&head_of(64)), Ok(Some(64)));
        let error = HeadError::HeadTooLarge { limit: 64 };
        assert_eq!(whole(&head_of(65)), Err(error));
        assert_eq!(byte_by_byte(&head_of(65)), Err(error));
        let long_target = [b"GET /".as_slice(), &[b'x'; 64]].concat();
        assert_eq!(byte_by_byte(&long_target), Err(HeadError::TargetTooLong { limit: 64 }));
    }

    #[test]
    fn each_byte_is_looked_at_once() {
        let mut scanner = HeadScanner::new();
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n";
        for end in 1..=head.len() {
            scanner.scan(&head[..end], &LIMITS).unwrap();
            // A CR waits for its LF; all else is done with.
            let waiting = usize::from(head[end - 1] == b'\r');
            assert_eq!(scanner.examined as usize, end - waiting);
        }
    }
}
