//! 6: UTF-8, whole and in fragments, right and wrong.

use super::{CONTINUATION, Case, Frame, Step, TEXT, fragmented, frame, part, text};

const KOSME: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";

pub(super) fn cases() -> Vec<Case> {
    [whole_and_fragmented(), fail_fast(), sequences()].concat()
}

fn whole_and_fragmented() -> Vec<Case> {
    let greeting = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    let (front, back) = ("Hello-µ@ßöä", "üàá-UTF-8!!");
    let wrong = [KOSME, b"\xed\xa0\x80edited"].concat();
    let middle = "middle frame payload";
    vec![
        Case::clean("6.1.1", [frame(TEXT, "")], [text("")]),
        Case::clean("6.1.2", [part(TEXT, ""), part(CONTINUATION, ""), frame(CONTINUATION, "")], [text("")]),
        Case::clean(
            "6.1.3",
            [part(TEXT, ""), part(CONTINUATION, middle), frame(CONTINUATION, "")],
            [text(middle)],
        ),
        Case::clean("6.2.1", [frame(TEXT, greeting)], [text(greeting)]),
        Case::clean("6.2.2", [part(TEXT, front), frame(CONTINUATION, back)], [text(greeting)]),
        Case::clean("6.2.3", fragmented(TEXT, greeting, 1), [text(greeting)]),
        Case::clean("6.2.4", fragmented(TEXT, KOSME, 1), [text(KOSME)]),
        Case::fails("6.3.1", [frame(TEXT, &wrong)], [], 1007),
        Case::fails("6.3.2", fragmented(TEXT, &wrong, 1), [], 1007),
    ]
}

/// 6.4: text that becomes wrong in the middle must be refused there, not when the frame or message is over.
fn fail_fast() -> Vec<Case> {
    let wrong = [KOSME, b"\xf4\x90\x80\x80edited"].concat();
    let in_frames = |one: usize, two: usize| {
        [
            part(TEXT, &wrong[..one]),
            Step::IsOpen(0),
            part(CONTINUATION, &wrong[one..two]),
            Step::HasFailed,
            frame(CONTINUATION, &wrong[two..]),
        ]
    };
    let in_one_frame = |one: usize, two: usize| {
        let pauses = vec![(one, Step::IsOpen(0)), (two, Step::HasFailed)];
        [Step::Frame(Frame { fin: true, reserved: 0, opcode: TEXT, payload: wrong.clone(), pauses })]
    };
    vec![
        Case::fails("6.4.1", in_frames(11, 15), [], 1007),
        Case::fails("6.4.2", in_frames(12, 13), [], 1007),
        Case::fails("6.4.3", in_one_frame(11, 15), [], 1007),
        Case::fails("6.4.4", in_one_frame(12, 13), [], 1007),
    ]
}

/// 6.5 to 6.23: one message each.
fn sequences() -> Vec<Case> {
    let mut cases = Vec::new();
    for ((is_valid, payloads), group) in groups().into_iter().zip(5..) {
        for (index, payload) in payloads.into_iter().enumerate() {
            let number = format!("6.{group}.{}", index + 1);
            let sent = [frame(TEXT, &payload)];
            cases.push(if is_valid.holds(index) {
                Case::clean(number, sent, [text(payload)])
            } else {
                Case::fails(number, sent, [], 1007)
            });
        }
    }
    cases
}

/// Which sequences of a group are UTF-8.
enum Valid {
    All,
    None,
    /// Those at these indices.
    At(&'static [usize]),
}

impl Valid {
    fn holds(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::At(indices) => indices.contains(&index),
        }
    }
}

fn groups() -> Vec<(Valid, Vec<Vec<u8>>)> {
    let group = |valid, sequences: &[&[u8]]| (valid, sequences.iter().map(|bytes| bytes.to_vec()).collect());
    let prefixes = (1..=KOSME.len()).map(|end| KOSME[..end].to_vec()).collect();
    // Cut before the last continuation byte.
    let cut: &[&[u8]] = &[
        b"\xc0",
        b"\xe0\x80",
        b"\xf0\x80\x80",
        b"\xf8\x80\x80\x80",
        b"\xfc\x80\x80\x80\x80",
        b"\xdf",
        b"\xef\xbf",
        b"\xf7\xbf\xbf",
        b"\xfb\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf",
    ];
    let all_continuations: Vec<u8> = (0x80..0xbf).collect();
    let lonely = |first: u8, last: u8| (first..last).flat_map(|byte| [byte, b' ']).collect::<Vec<u8>>();
    vec![
        // 6.5: some text.
        group(
            Valid::All,
            &[
                b"hello\x24world",
                b"hello\xc2\xa2world",
                b"hello\xe2\x82\xacworld",
                b"hello\xf0\xa4\xad\xa2world",
                KOSME,
            ],
        ),
        // 6.6: every beginning of a word; right where a character ends.
        (Valid::At(&[1, 4, 6, 8, 10]), prefixes),
        // 6.7: the first sequence of each length.
        group(Valid::All, &[b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]),
        // 6.8: lengths that UTF-8 does not have.
        group(Valid::None, &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
        // 6.9: the last sequence of each length.
        group(Valid::All, &[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]),
        // 6.10: beyond the last.
        group(Valid::None, &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
        // 6.11: other edges.
        group(
            Valid::At(&[0, 1, 2, 3]),
            &[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80"],
        ),
        // 6.12: continuation bytes with nothing to continue.
        group(
            Valid::None,
            &[
                b"\x80",
                b"\xbf",
                b"\x80\xbf",
                b"\x80\xbf\x80",
                b"\x80\xbf\x80\xbf",
                b"\x80\xbf\x80\xbf\x80",
                b"\x80\xbf\x80\xbf\x80\xbf",
                &all_continuations,
            ],
        ),
        // 6.13: first bytes with nothing after them.
        group(
            Valid::None,
            &[
                &lonely(0xc0, 0xdf),
                &lonely(0xe0, 0xef),
                &lonely(0xf0, 0xf7),
                &lonely(0xf8, 0xfb),
                &lonely(0xfc, 0xfd),
            ],
        ),
        // 6.14: the last byte missing; 6.15: all of those together.
        group(Valid::None, cut),
        group(Valid::None, &[&cut.concat()]),
        // 6.16: bytes that never occur.
        group(Valid::None, &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
        // 6.17 to 6.19: longer than needed: a slash, the largest of each length, NUL.
        group(
            Valid::None,
            &[
                b"\xc0\xaf",
                b"\xe0\x80\xaf",
                b"\xf0\x80\x80\xaf",
                b"\xf8\x80\x80\x80\xaf",
                b"\xfc\x80\x80\x80\x80\xaf",
            ],
        ),
        group(
            Valid::None,
            &[
                b"\xc1\xbf",
                b"\xe0\x9f\xbf",
                b"\xf0\x8f\xbf\xbf",
                b"\xf8\x87\xbf\xbf\xbf",
                b"\xfc\x83\xbf\xbf\xbf\xbf",
            ],
        ),
        group(
            Valid::None,
            &[
                b"\xc0\x80",
                b"\xe0\x80\x80",
                b"\xf0\x80\x80\x80",
                b"\xf8\x80\x80\x80\x80",
                b"\xfc\x80\x80\x80\x80\x80",
            ],
        ),
        // 6.20: one surrogate; 6.21: two.
        group(
            Valid::None,
            &[
                b"\xed\xa0\x80",
                b"\xed\xad\xbf",
                b"\xed\xae\x80",
                b"\xed\xaf\xbf",
                b"\xed\xb0\x80",
                b"\xed\xbe\x80",
                b"\xed\xbf\xbf",
            ],
        ),
        group(
            Valid::None,
            &[
                b"\xed\xa0\x80\xed\xb0\x80",
                b"\xed\xa0\x80\xed\xbf\xbf",
                b"\xed\xad\xbf\xed\xb0\x80",
                b"\xed\xad\xbf\xed\xbf\xbf",
                b"\xed\xae\x80\xed\xb0\x80",
                b"\xed\xae\x80\xed\xbf\xbf",
                b"\xed\xaf\xbf\xed\xb0\x80",
                b"\xed\xaf\xbf\xed\xbf\xbf",
            ],
        ),
        // 6.22: code points that are no characters, which UTF-8 has all the same.
        (Valid::All, non_characters()),
        // 6.23: the specials.
        group(
            Valid::All,
            &[
                b"\xef\xbf\xb9",
                b"\xef\xbf\xba",
                b"\xef\xbf\xbb",
                b"\xef\xbf\xbc",
                b"\xef\xbf\xbd",
                b"\xef\xbf\xbe",
                b"\xef\xbf\xbf",
            ],
        ),
    ]
}

/// The last two code points of every plane.
fn non_characters() -> Vec<Vec<u8>> {
    let planes = (0..=16u32).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
    planes.map(|point| char::from_u32(point).expect("no surrogate").to_string().into_bytes()).collect()
}
