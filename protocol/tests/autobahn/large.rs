//! 9: large messages, many fragments, small writes, many messages. 10: automatic fragments.

use super::{BINARY, Case, Chop, Echo, Step, TEXT, binary, fragmented, frame, repeated, text};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

pub(super) fn cases() -> Vec<Case> {
    let groups = [increasing_sizes(), fragments(), chops(), round_trips()];
    groups.into_iter().flatten().collect()
}

/// Text and binary, with the number of the group of each.
fn kinds(text_group: u8) -> [(u8, u8, &'static [u8]); 2] {
    [(text_group, TEXT, b"BAsd7&jh23"), (text_group + 1, BINARY, b"\x00\xfe\x23\xfa\xf0")]
}

fn echo_of(opcode: u8, payload: &[u8]) -> Echo {
    if opcode == TEXT { text(payload) } else { binary(payload) }
}

/// 9.1, 9.2: one frame of up to 16 MiB.
fn increasing_sizes() -> Vec<Case> {
    let sizes = [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB];
    let one = |group, opcode, pattern| {
        move |(bytes, index)| {
            let payload = repeated(pattern, bytes);
            Case::clean(format!("9.{group}.{index}"), [frame(opcode, &payload)], [echo_of(opcode, &payload)])
        }
    };
    kinds(1)
        .into_iter()
        .flat_map(|(group, opcode, pattern)| sizes.into_iter().zip(1..).map(one(group, opcode, pattern)))
        .collect()
}

/// 9.3, 9.4: 4 MiB in up to 65,536 fragments and an empty one.
fn fragments() -> Vec<Case> {
    let sizes = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
    let mut cases = Vec::new();
    for (group, opcode) in [(3, TEXT), (4, BINARY)] {
        for (fragment_bytes, index) in sizes.into_iter().zip(1..) {
            // The suite sends stars in all of these but the first of the binary ones.
            let pattern: &[u8] = if (group, index) == (4, 1) { b"\xfe" } else { b"*" };
            let payload = repeated(pattern, 4 * MIB);
            let steps = fragmented(opcode, &payload, fragment_bytes);
            cases.push(Case::clean(format!("9.{group}.{index}"), steps, [echo_of(opcode, &payload)]));
        }
    }
    cases
}

/// 9.5, 9.6: 1 MiB in small writes.
fn chops() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode, pattern) in kinds(5) {
        for (chop_bytes, index) in [64, 128, 256, 512, 1_024, 2_048].into_iter().zip(1..) {
            let payload = repeated(pattern, MIB);
            let case = Case::clean(
                format!("9.{group}.{index}"),
                [frame(opcode, &payload)],
                [echo_of(opcode, &payload)],
            );
            cases.push(case.cut(Chop::Bytes(chop_bytes)));
        }
    }
    cases
}

/// 9.7, 9.8: 1,000 messages, each sent when the one before has come back.
fn round_trips() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode, pattern) in [(7, TEXT, b"*"), (8, BINARY, b"\xfe")] {
        for (bytes, index) in [0, 16, 64, 256, 1_024, 4_096].into_iter().zip(1..) {
            let payload = repeated(pattern, bytes);
            let steps: Vec<Step> =
                (1..=1_000).flat_map(|count| [frame(opcode, &payload), Step::IsOpen(count)]).collect();
            cases.push(Case::clean(
                format!("9.{group}.{index}"),
                steps,
                vec![echo_of(opcode, &payload); 1_000],
            ));
        }
    }
    cases
}

/// 10.1.1: a message that the sender's library cuts into fragments.
pub(super) fn automatic() -> Vec<Case> {
    let payload = repeated(b"*", 65_536);
    vec![Case::clean("10.1.1", fragmented(TEXT, &payload, 1_300), [text(&payload)])]
}
