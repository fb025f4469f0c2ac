//! Header fields of a head that has been judged, and the little grammar that their values share (RFC 9110 §5.6).

/// The header fields of a head, in order.
///
/// The lines are read again from the head instead of being kept in a table: a head needs no memory besides its bytes.
/// There is one way to read them, because folded lines, bare line ends and blanks before the colon were refused.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// Complete lines, each with its CR LF.
    lines: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(lines: &'a str) -> Self {
        Self { lines }
    }

    /// The first field of this name, whatever its case.
    pub(crate) fn first(self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// Every field of this name.
    pub(crate) fn all(self, name: &str) -> impl Iterator<Item = &'a str> + use<'a, '_> {
        self.raw()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| trim_blanks(value))
    }

    /// The fields of these names, of which each may stand once, in one pass.
    pub(crate) fn singles<const N: usize>(self, names: [&str; N]) -> [Single<'a>; N] {
        let mut found = [Single::Missing; N];
        for (field, value) in self.raw() {
            if let Some(index) = names.iter().position(|name| field.eq_ignore_ascii_case(name)) {
                found[index] = match found[index] {
                    Single::Missing => Single::One(trim_blanks(value)),
                    Single::One(_) | Single::Several => Single::Several,
                };
            }
        }
        found
    }

    /// Names and values, with the blanks around the values.
    fn raw(mut self) -> impl Iterator<Item = (&'a str, &'a str)> {
        std::iter::from_fn(move || self.next_raw())
    }

    fn next_raw(&mut self) -> Option<(&'a str, &'a str)> {
        // Every LF follows a CR, and no CR is anywhere else.
        let end = memchr::memchr(b'\n', self.lines.as_bytes())?;
        let (line, rest) = (&self.lines[..end], &self.lines[end + 1..]);
        let colon = memchr::memchr(b':', line.as_bytes())?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        self.lines = rest;
        Some((name, value.strip_suffix('\r').unwrap_or(value)))
    }

    /// Whether a list field of this name has the token, whatever its case.
    pub(crate) fn list_has(self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(list).any(|element| element.eq_ignore_ascii_case(token))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.next_raw()?;
        Some((name, trim_blanks(value)))
    }
}

/// A field that may stand once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Single<'a> {
    Missing,
    One(&'a str),
    Several,
}

/// The elements of a comma-separated list. Empty ones are skipped, as RFC 9110 §5.6.1.2 asks of recipients.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(trim_blanks).filter(|element| !element.is_empty())
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| {
            // A match and not a search in a list: tokens are checked byte by byte.
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
                )
        })
}

fn trim_blanks(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields<'static> =
        Fields::new("Host: a\r\nConnection:keep-alive ,, Upgrade\t\r\nEmpty:\r\nX: 1\r\nx: 2\r\n");

    #[test]
    fn reads_names_without_case_and_values_without_blanks() {
        assert_eq!(FIELDS.count(), 5);
        assert_eq!(FIELDS.first("host"), Some("a"));
        assert_eq!(FIELDS.first("EMPTY"), Some(""));
        assert_eq!(FIELDS.first("connection"), Some("keep-alive ,, Upgrade"));
        assert!(FIELDS.list_has("connection", "upgrade"));
        assert!(!FIELDS.list_has("connection", "grade"));
        let expected = [Single::Several, Single::One("a"), Single::Missing];
        assert_eq!(FIELDS.singles(["X", "host", "y"]), expected);
    }

    #[test]
    fn tokens_have_no_separators() {
        assert!(is_token("holdfast.v1.json"));
        assert!(is_token("bearer.eyJhbGciOi_-.x"));
        for wrong in ["", "a b", "a/b", "a,b", "a\"", "ä", "a;"] {
            assert!(!is_token(wrong), "{wrong}");
        }
    }
}
