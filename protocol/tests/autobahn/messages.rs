//! 1: text and binary messages around the edges of the length forms.

use super::{BINARY, Case, Chop, TEXT, binary, frame, repeated, text};

pub(super) fn cases() -> Vec<Case> {
    let sizes = [0, 125, 126, 127, 128, 65_535, 65_536];
    let numbered = || sizes.into_iter().zip(1..);
    let texts = numbered().map(|(bytes, number)| {
        let payload = repeated(b"*", bytes);
        Case::clean(format!("1.1.{number}"), [frame(TEXT, &payload)], [text(payload)])
    });
    let binaries = numbered().map(|(bytes, number)| {
        let payload = repeated(b"\xfe", bytes);
        Case::clean(format!("1.2.{number}"), [frame(BINARY, &payload)], [binary(payload)])
    });
    let chopped_text = repeated(b"*", 65_536);
    let chopped_text =
        Case::clean("1.1.8", [frame(TEXT, &chopped_text)], [text(&chopped_text)]).cut(Chop::Bytes(997));
    let chopped_binary = repeated(b"\xfe", 65_536);
    let chopped_binary = Case::clean("1.2.8", [frame(BINARY, &chopped_binary)], [binary(&chopped_binary)])
        .cut(Chop::Bytes(997));
    texts.chain([chopped_text]).chain(binaries).chain([chopped_binary]).collect()
}
