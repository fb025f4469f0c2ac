//! UTF-8 that arrives in pieces, RFC 6455 §8.1.
//!
//! The invariant: `valid` is a `String`, so what is in it never needs to be checked again; the at most three bytes of
//! a character that a piece has cut wait in `cut`. A byte that cannot be right is refused when it arrives.

/// The bytes were not, and cannot become, UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotUtf8;

/// A text message so far.
#[derive(Debug, Default)]
pub(crate) struct Text {
    valid: String,
    cut: [u8; 4],
    cut_bytes: u8,
}

impl Text {
    /// Appends a piece that ends anywhere.
    pub(crate) fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.cut_bytes > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            self.push_to_cut(byte)?;
            piece = rest;
        }
        let (whole, cut) = piece.split_at(piece.len() - cut_bytes_of(piece));
        self.valid.push_str(simdutf8::basic::from_utf8(whole).map_err(|_| NotUtf8)?);
        cut.iter().try_for_each(|&byte| self.push_to_cut(byte))
    }

    /// The message is over: wrong if its last character is incomplete.
    pub(crate) fn finish(&self) -> Result<(), NotUtf8> {
        if self.cut_bytes == 0 { Ok(()) } else { Err(NotUtf8) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.valid
    }

    /// The bytes so far, those of a character that is cut included.
    pub(crate) fn held_bytes(&self) -> usize {
        self.valid.len() + usize::from(self.cut_bytes)
    }

    /// Makes room for `additional` bytes beyond those held.
    pub(crate) fn reserve_exact(&mut self, additional: usize) {
        if additional > 0 {
            self.valid.reserve_exact(usize::from(self.cut_bytes) + additional);
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.valid.capacity()
    }

    fn push_to_cut(&mut self, byte: u8) -> Result<(), NotUtf8> {
        self.cut[usize::from(self.cut_bytes)] = byte;
        self.cut_bytes += 1;
        match std::str::from_utf8(&self.cut[..usize::from(self.cut_bytes)]) {
            Ok(character) => {
                self.valid.push_str(character);
                self.cut_bytes = 0;
                Ok(())
            }
            // No length: a longer input could still be right. So at most three bytes ever wait.
            Err(error) if error.error_len().is_none() => Ok(()),
            Err(_) => Err(NotUtf8),
        }
    }
}

/// How many bytes at the end of `piece` begin a character that the piece does not finish. Whether they can be right
/// is not judged here.
fn cut_bytes_of(piece: &[u8]) -> usize {
    for (before_end, &byte) in (1..=3).zip(piece.iter().rev()) {
        let width = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if width > before_end { before_end } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "κόσμε \u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff} plain";

    #[test]
    fn any_cut_gives_the_same_text() {
        let bytes = SAMPLE.as_bytes();
        for one in 0..bytes.len() {
            for two in one..bytes.len() {
                let mut text = Text::default();
                for piece in [&bytes[..one], &bytes[one..two], &bytes[two..]] {
                    text.push(piece).unwrap();
                }
                text.finish().unwrap();
                assert_eq!(text.as_str(), SAMPLE);
            }
        }
    }

    /// The first byte after which no continuation can be UTF-8, by the standard library.
    fn first_wrong(bytes: &[u8]) -> Option<usize> {
        (1..=bytes.len())
            .find(|&end| std::str::from_utf8(&bytes[..end]).is_err_and(|error| error.error_len().is_some()))
    }

    #[test]
    fn fails_at_the_first_byte_that_cannot_be_right() {
        let wrong: &[&[u8]] = &[
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
            b"ab\xed\xa0\x80",
            b"ab\xc0\xaf",
            b"\xe0\x80\xaf",
            b"\xf0\x8f\xbf\xbf",
            b"\xf8\x88",
            b"\x80",
            b"\xe2\x82A",
            b"\xfe",
        ];
        for bytes in wrong {
            let expected = first_wrong(bytes).unwrap();
            let mut text = Text::default();
            let failed = bytes.iter().position(|&byte| text.push(&[byte]).is_err()).unwrap();
            assert_eq!(failed + 1, expected, "{bytes:x?}");
            assert_eq!(Text::default().push(bytes), Err(NotUtf8));
            // Not before.
            assert_eq!(Text::default().push(&bytes[..expected - 1]), Ok(()));
        }
    }

    #[test]
    fn an_unfinished_character_is_wrong_only_at_the_end() {
        let mut text = Text::default();
        text.push(b"ok \xf0\x9f\x90").unwrap();
        assert_eq!(text.finish(), Err(NotUtf8));
        text.push(b"\x9f").unwrap();
        text.finish().unwrap();
        assert_eq!(text.as_str(), "ok 🐟");
    }
}
