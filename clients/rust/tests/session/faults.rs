//! When everything goes wrong at once: whatever happens, at the end every message that was sent stands in the
//! conversation once and in order, and every entry has come once and in order.

use holdfast_protocol::chat::{Drain, Format, close, server_frame::Frame};
use proptest::prelude::*;

use crate::world::{World, text};

#[derive(Debug, Clone)]
enum Fault {
    Send,
    Deliver,
    Gap,
    LoseEvent,
    Cut,
    Unreachable(bool),
    LoseAnswers(bool),
    Silent(bool),
    Drain(u32),
    Close(usize),
    Refuse(bool),
    Insist(Option<u64>),
    Pass(u64),
    Ack,
}

fn fault() -> impl Strategy<Value = Fault> {
    let returning: Vec<usize> = (0..close::TABLE.len())
        .filter(|index| close::TABLE[*index].reconnect != close::Reconnect::Never)
        .collect();
    prop_oneof![
        8 => Just(Fault::Send),
        6 => Just(Fault::Deliver),
        2 => Just(Fault::Gap),
        2 => Just(Fault::LoseEvent),
        2 => Just(Fault::Cut),
        1 => any::<bool>().prop_map(Fault::Unreachable),
        1 => any::<bool>().prop_map(Fault::LoseAnswers),
        1 => any::<bool>().prop_map(Fault::Silent),
        1 => (0u32..20_000).prop_map(Fault::Drain),
        1 => prop::sample::select(returning).prop_map(Fault::Close),
        1 => any::<bool>().prop_map(Fault::Refuse),
        1 => prop::option::of(0u64..10).prop_map(Fault::Insist),
        8 => (0u64..100_000).prop_map(Fault::Pass),
        2 => Just(Fault::Ack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(
        seed: u64,
        json: bool,
        faults in prop::collection::vec(fault(), 1..80),
    ) {
        let format = if json { Format::Json } else { Format::Protobuf };
        let mut world = World::new(format, seed);
        // A lost answer is asked for again on the next connection, not before.
        let needs_cut = faults.iter().any(|fault| matches!(fault, Fault::LoseAnswers(true)));
        let mut sent = 0;
        for fault in faults {
            match fault {
                Fault::Send => {
                    world.client.send("@43", text(&format!("mine {sent}"))).expect("there is room");
                    sent += 1;
                }
                Fault::Deliver => world.server.deliver("theirs"),
                Fault::Gap => world.server.gap(),
                Fault::LoseEvent => world.server.lose_event("theirs, lost on the way"),
                Fault::Cut => world.cut(),
                Fault::Unreachable(is) => world.is_reachable = !is,
                Fault::LoseAnswers(does) => world.server.loses_answers = does,
                Fault::Silent(is) => world.server.is_silent = is,
                Fault::Drain(after_ms) => world.server.write(Frame::Drain(Drain { after_ms, to: String::new() })),
                Fault::Close(index) => world.server.close(close::TABLE[index]),
                Fault::Refuse(does) => world.server.refuses = does.then_some((503, Some(3))),
                Fault::Insist(cursor) => {
                    // Never more than there is.
                    let head = world.server.inbox.len() as u64;
                    world.server.insists_on_cursor = cursor.map(|cursor| cursor.min(head));
                }
                Fault::Pass(by_ms) => world.advance(by_ms),
                Fault::Ack => {
                    if let Some(cursor) = world.client.cursor() {
                        world.client.ack(cursor).expect("it has come");
                    }
                }
            }
            if world.random.below(2) == 0 {
                world.settle();
            }
        }
        // All is well again, and something more happens, by which a hole shows.
        world.is_reachable = true;
        world.server.loses_answers = false;
        world.server.is_silent = false;
        world.server.refuses = None;
        world.server.insists_on_cursor = None;
        if needs_cut {
            world.cut();
        }
        world.server.deliver("theirs, at last");
        world.advance(300_000);

        prop_assert_eq!(&world.entries, &world.inbox());
        prop_assert_eq!(world.client.outbox_len(), 0);
        let accepted: Vec<String> = world.entries.iter().filter(|text| text.starts_with("mine")).cloned().collect();
        let expected: Vec<String> = (0..sent).map(|n| format!("mine {n}")).collect();
        prop_assert_eq!(accepted, expected);
    }
}
