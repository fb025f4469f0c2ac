//! The codec against itself.

use holdfast_protocol::ws::{MessageLimits, Role};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::streams::{Sent, close, cuts_of, decode, every_byte, hostile, sent};

const ROOMY: MessageLimits = MessageLimits { frame_bytes: 1 << 20, message_bytes: 1 << 20, fragments: 64 };
/// So small that random streams reach them.
const TIGHT: MessageLimits = MessageLimits { frame_bytes: 200, message_bytes: 260, fragments: 3 };

fn role() -> impl Strategy<Value = (Role, bool)> {
    prop::sample::select(vec![(Role::Server, true), (Role::Client, false)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 2, ..ProptestConfig::default() })]

    /// decode ∘ encode is the identity, for any messages, fragments, keys, control frames between, and cuts.
    #[test]
    fn what_is_sent_is_what_is_seen(
        messages in prop::collection::vec(sent(), 0..6),
        last in close(),
        (role, masked) in role(),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for message in &messages {
            message.write(masked, &mut bytes, &mut expected);
        }
        let without_close = bytes.len();
        Sent::whole(last).write(masked, &mut bytes, &mut expected);
        let outcome = decode(role, &bytes, &cuts_of(bytes.len(), &cuts), &ROOMY);
        prop_assert_eq!(outcome.error, None);
        prop_assert_eq!(&outcome.items, &expected);
        prop_assert!(outcome.is_between_messages);

        // And nothing is left over without the close either.
        let outcome = decode(role, &bytes[..without_close], &[], &ROOMY);
        prop_assert!(outcome.is_between_messages);
        prop_assert_eq!(&outcome.items[..], &expected[..expected.len() - 1]);
    }

    /// Any cut of the same bytes gives the same items and the same error, also when the bytes are wrong.
    #[test]
    fn a_stream_means_the_same_however_it_is_cut(
        (role, bytes) in role().prop_flat_map(|(role, masked)| (Just(role), hostile(masked))),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        limits in prop::sample::select(vec![ROOMY, TIGHT]),
    ) {
        let whole = decode(role, &bytes, &[], &limits);
        prop_assert_eq!(&decode(role, &bytes, &cuts_of(bytes.len(), &cuts), &limits), &whole);
        prop_assert_eq!(&decode(role, &bytes, &every_byte(bytes.len()), &limits), &whole);
    }

    /// A verdict is never taken back: more bytes add items, and change nothing after an error.
    #[test]
    fn more_bytes_only_add(
        (role, bytes) in role().prop_flat_map(|(role, masked)| (Just(role), hostile(masked))),
        end in any::<Index>(),
    ) {
        let end = end.index(bytes.len() + 1);
        let front = decode(role, &bytes[..end], &[], &TIGHT);
        let whole = decode(role, &bytes, &[], &TIGHT);
        prop_assert!(whole.items.starts_with(&front.items));
        if front.error.is_some() {
            prop_assert_eq!(front, whole);
        }
    }

    /// Whatever arrives, nothing panics, and both roles stop at the first byte that is wrong for them.
    #[test]
    fn arbitrary_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for role in [Role::Server, Role::Client] {
            let whole = decode(role, &bytes, &[], &TIGHT);
            prop_assert_eq!(decode(role, &bytes, &every_byte(bytes.len()), &TIGHT), whole);
        }
    }
}
