//! 2: pings and pongs.

use super::{Case, Chop, PING, PONG, close, frame, pong, repeated};

pub(super) fn cases() -> Vec<Case> {
    let not_utf8 = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";
    let largest = repeated(b"\xfe", 125);
    let too_large = repeated(b"\xfe", 126);
    let unsolicited = "unsolicited pong payload";
    let ten: Vec<String> = (0..10).map(|index| format!("payload-{index}")).collect();
    let ten_pings: Vec<_> = ten.iter().map(|payload| frame(PING, payload)).collect();
    let ten_pongs: Vec<_> = ten.iter().map(pong).collect();
    vec![
        Case::clean("2.1", [frame(PING, "")], [pong("")]),
        Case::clean("2.2", [frame(PING, "Hello, world!")], [pong("Hello, world!")]),
        Case::clean("2.3", [frame(PING, not_utf8)], [pong(not_utf8)]),
        Case::clean("2.4", [frame(PING, &largest)], [pong(&largest)]),
        Case::fails("2.5", [frame(PING, too_large)], [], 1002),
        Case::clean("2.6", [frame(PING, &largest)], [pong(&largest)]).cut(Chop::Bytes(1)),
        Case::closed("2.7", [frame(PONG, ""), close(1000)], Some(1000)),
        Case::closed("2.8", [frame(PONG, unsolicited), close(1000)], Some(1000)),
        Case::clean("2.9", [frame(PONG, unsolicited), frame(PING, "ping payload")], [pong("ping payload")]),
        Case::clean("2.10", ten_pings.clone(), ten_pongs.clone()),
        Case::clean("2.11", ten_pings, ten_pongs).cut(Chop::Bytes(1)),
    ]
}
