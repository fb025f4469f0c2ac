//! 7: the close handshake.

use super::{CLOSE, CONTINUATION, Case, End, PING, TEXT, close, frame, part, repeated, text};

pub(super) fn cases() -> Vec<Case> {
    [handshake(), bodies(), codes()].concat()
}

/// 7.1: nothing that comes after a close frame counts.
fn handshake() -> Vec<Case> {
    let hello = "Hello World!";
    let large = repeated(b"BAsd7&jh23", 256 << 10);
    vec![
        Case::clean("7.1.1", [frame(TEXT, hello)], [text(hello)]),
        Case::closed("7.1.2", [close(1000), frame(CLOSE, "")], Some(1000)),
        Case::closed("7.1.3", [close(1000), frame(PING, "")], Some(1000)),
        Case::closed("7.1.4", [close(1000), frame(TEXT, hello)], Some(1000)),
        Case::closed(
            "7.1.5",
            [part(TEXT, "fragment1"), close(1000), frame(CONTINUATION, "fragment2")],
            Some(1000),
        ),
        // Informational: we answer in the order in which things came.
        Case::new(
            "7.1.6",
            [frame(TEXT, &large), frame(TEXT, hello), close(1000), frame(PING, "")],
            [text(&large), text(hello)],
            End::Says(Some(1000)),
        ),
    ]
}

/// 7.3, 7.5: the body of a close frame.
fn bodies() -> Vec<Case> {
    let with_reason = |reason: &[u8]| frame(CLOSE, [1000u16.to_be_bytes().as_slice(), reason].concat());
    let not_utf8 = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    vec![
        Case::closed("7.3.1", [frame(CLOSE, "")], None),
        Case::closed("7.3.2", [frame(CLOSE, "a")], Some(1002)),
        Case::closed("7.3.3", [close(1000)], Some(1000)),
        Case::closed("7.3.4", [with_reason(b"Hello World!")], Some(1000)),
        Case::closed("7.3.5", [with_reason(&repeated(b"*", 123))], Some(1000)),
        Case::closed("7.3.6", [with_reason(&repeated(b"*", 124))], Some(1002)),
        // The suite takes 1002 as well.
        Case::closed("7.5.1", [with_reason(not_utf8)], Some(1007)),
    ]
}

/// 7.7: codes that are echoed. 7.9: codes that may not be sent. 7.13, informational: beyond all ranges.
fn codes() -> Vec<Case> {
    let group = |group: u8, codes: &[u16], is_valid: bool| -> Vec<Case> {
        let answer = |code| Some(if is_valid { code } else { 1002 });
        let numbered = codes.iter().zip(1..);
        numbered
            .map(|(&code, n)| Case::closed(format!("7.{group}.{n}"), [close(code)], answer(code)))
            .collect()
    };
    [
        group(7, &[1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999], true),
        group(9, &[0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999], false),
        group(13, &[5000, 65_535], false),
    ]
    .concat()
}
