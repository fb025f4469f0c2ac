//! 3: reserved bits. 4: reserved opcodes. 5: fragments.

use super::{
    BINARY, CLOSE, CONTINUATION, Case, Chop, PING, PONG, Step, TEXT, frame, part, pong, reserved, text,
};

const HELLO: &str = "Hello, world!";
const NOT_UTF8: &[u8] = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";

pub(super) fn reserved_bits() -> Vec<Case> {
    // A message that comes back, the same with reserved bits, a ping that must not be answered.
    let after_good = |bits| [frame(TEXT, HELLO), reserved(bits, TEXT, HELLO), frame(PING, "")];
    vec![
        Case::fails("3.1", [reserved(1, TEXT, HELLO)], [], 1002),
        Case::fails("3.2", after_good(2), [text(HELLO)], 1002),
        Case::fails("3.3", after_good(3), [text(HELLO)], 1002).cut(Chop::Frames),
        Case::fails("3.4", after_good(4), [text(HELLO)], 1002).cut(Chop::Bytes(1)),
        Case::fails("3.5", [reserved(5, BINARY, NOT_UTF8)], [], 1002),
        Case::fails("3.6", [reserved(6, BINARY, HELLO)], [], 1002),
        Case::fails("3.7", [reserved(7, CLOSE, "")], [], 1002),
    ]
}

pub(super) fn reserved_opcodes() -> Vec<Case> {
    let of_kind = |kind: u8, first: u8| {
        let after_good =
            |opcode, payload: &str| [frame(TEXT, HELLO), frame(opcode, payload), frame(PING, "")];
        let number = |index: u8| format!("4.{kind}.{index}");
        vec![
            Case::fails(number(1), [frame(first, "")], [], 1002),
            Case::fails(number(2), [frame(first + 1, "reserved opcode payload")], [], 1002),
            Case::fails(number(3), after_good(first + 2, ""), [text(HELLO)], 1002),
            Case::fails(number(4), after_good(first + 3, HELLO), [text(HELLO)], 1002),
            Case::fails(number(5), after_good(first + 4, HELLO), [text(HELLO)], 1002).cut(Chop::Bytes(1)),
        ]
    };
    [of_kind(1, 3), of_kind(2, 11)].concat()
}

pub(super) fn fragments() -> Vec<Case> {
    let two = || [part(TEXT, "fragment1"), frame(CONTINUATION, "fragment2")];
    let both = || [text("fragment1fragment2")];
    let with_ping =
        || [part(TEXT, "fragment1"), frame(PING, "ping payload"), frame(CONTINUATION, "fragment2")];
    let pong_and_both = || [pong("ping payload"), text("fragment1fragment2")];
    let nothing_open = |fin: bool| {
        let orphan = if fin { frame } else { part };
        [orphan(CONTINUATION, "non-continuation payload".as_bytes()), frame(TEXT, HELLO)]
    };
    let orphans_between = |fin: bool| {
        let orphan = if fin { frame } else { part };
        let once = || {
            [
                orphan(CONTINUATION, "fragment1".as_bytes()),
                part(TEXT, "fragment2"),
                frame(CONTINUATION, "fragment3"),
            ]
        };
        [once(), once()].concat()
    };
    // A ping is answered at once, long before the message that it stands in is over.
    let five_with_pings = || {
        [
            part(TEXT, "fragment1"),
            part(CONTINUATION, "fragment2"),
            frame(PING, "pongme 1!"),
            Step::IsOpen(1),
            part(CONTINUATION, "fragment3"),
            part(CONTINUATION, "fragment4"),
            frame(PING, "pongme 2!"),
            frame(CONTINUATION, "fragment5"),
        ]
    };
    let five =
        || [pong("pongme 1!"), pong("pongme 2!"), text("fragment1fragment2fragment3fragment4fragment5")];
    let after_message = [
        part(TEXT, "fragment1"),
        frame(CONTINUATION, "fragment2"),
        part(CONTINUATION, "fragment3"),
        frame(TEXT, "fragment4"),
    ];
    vec![
        Case::fails("5.1", [part(PING, "fragment1"), frame(CONTINUATION, "fragment2")], [], 1002),
        Case::fails("5.2", [part(PONG, "fragment1"), frame(CONTINUATION, "fragment2")], [], 1002),
        Case::clean("5.3", two(), both()),
        Case::clean("5.4", two(), both()).cut(Chop::Frames),
        Case::clean("5.5", two(), both()).cut(Chop::Bytes(1)),
        Case::clean("5.6", with_ping(), pong_and_both()),
        Case::clean("5.7", with_ping(), pong_and_both()).cut(Chop::Frames),
        Case::clean("5.8", with_ping(), pong_and_both()).cut(Chop::Bytes(1)),
        Case::fails("5.9", nothing_open(true), [], 1002),
        Case::fails("5.10", nothing_open(true), [], 1002).cut(Chop::Frames),
        Case::fails("5.11", nothing_open(true), [], 1002).cut(Chop::Bytes(1)),
        Case::fails("5.12", nothing_open(false), [], 1002),
        Case::fails("5.13", nothing_open(false), [], 1002).cut(Chop::Frames),
        Case::fails("5.14", nothing_open(false), [], 1002).cut(Chop::Bytes(1)),
        Case::fails("5.15", after_message, both(), 1002),
        Case::fails("5.16", orphans_between(false), [], 1002),
        Case::fails("5.17", orphans_between(true), [], 1002),
        Case::fails("5.18", [part(TEXT, "fragment1"), frame(TEXT, "fragment2")], [], 1002),
        Case::clean("5.19", five_with_pings(), five()),
        Case::clean("5.20", five_with_pings(), five()).cut(Chop::Frames),
    ]
}
