//! Message ids under clocks of any kind, and ids as text.

use holdfast_protocol::id::{ConversationId, DeviceId, GroupId, MessageId, Rev, Snowflake, UserId, WorkerId};
use proptest::prelude::*;

const START_MS: u64 = Snowflake::EPOCH_MS + 10_000_000;

#[derive(Debug, Clone)]
enum Event {
    /// So many ids at once.
    Issue(u16),
    /// The clock goes on.
    Pass(u16),
    /// The clock is set, back or ahead.
    Step(i32),
    /// The clock is wrong altogether, for one id.
    Nonsense(u64),
    /// The process starts anew and knows only the last id; maybe as another worker.
    Restart(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1u16..6_000).prop_map(Event::Issue),
        4 => (0u16..20).prop_map(Event::Pass),
        1 => (-5_000_000i32..5_000_000).prop_map(Event::Step),
        1 => any::<u64>().prop_map(Event::Nonsense),
        1 => (0..WorkerId::COUNT).prop_map(Event::Restart),
    ]
}

proptest! {
    /// Each id is greater than the one before, whatever the clock does and across restarts.
    #[test]
    fn ids_only_grow(events in prop::collection::vec(event(), 1..40)) {
        let mut ids = Snowflake::new(WorkerId::new(3).unwrap(), None);
        let mut now_ms = START_MS;
        let mut last = None;
        for event in events {
            match event {
                Event::Issue(count) => for _ in 0..count {
                    let id = ids.next(now_ms);
                    prop_assert!(last < Some(id));
                    last = Some(id);
                },
                Event::Pass(ms) => now_ms += u64::from(ms),
                Event::Step(ms) => now_ms = now_ms.saturating_add_signed(ms.into()),
                Event::Nonsense(clock_ms) => {
                    // Not a time in the far future, which would be believed from then on.
                    let clock_ms = if clock_ms > START_MS { clock_ms | 1 << 63 } else { clock_ms };
                    let id = ids.next(clock_ms);
                    prop_assert!(last < Some(id));
                    last = Some(id);
                }
                Event::Restart(worker) => ids = Snowflake::new(WorkerId::new(worker).unwrap(), last),
            }
        }
    }

    /// With a clock that only goes on, ids run ahead of it by no more than the milliseconds that their number fills.
    #[test]
    fn the_lead_is_bounded(turns in prop::collection::vec((0u64..4, 0u64..9_000), 1..60)) {
        let mut ids = Snowflake::new(WorkerId::new(0).unwrap(), None);
        let mut now_ms = START_MS;
        // A bucket of ids: what is issued beyond 4,096 per millisecond.
        let mut beyond = 0u64;
        for (passed_ms, count) in turns {
            now_ms += passed_ms;
            beyond = beyond.saturating_sub(passed_ms * 4_096);
            for _ in 0..count {
                let id = ids.next(now_ms);
                beyond += 1;
                prop_assert!(id.timestamp_ms() >= now_ms);
                prop_assert!(id.timestamp_ms() - now_ms <= beyond / 4_096 + 1);
            }
            prop_assert!(ids.lead_ms(now_ms) <= beyond / 4_096 + 1);
        }
    }

    #[test]
    fn text_and_back(number in any::<u64>(), other in any::<u64>()) {
        prop_assert_eq!(MessageId(number).to_string().parse(), Ok(MessageId(number)));
        prop_assert_eq!(Rev(number).to_string().parse(), Ok(Rev(number)));
        prop_assert_eq!(DeviceId(number).to_string().parse(), Ok(DeviceId(number)));
        let (user, other) = (UserId(number.max(1)), UserId(other.max(1)));
        prop_assert_eq!(user.to_string().parse(), Ok(user));
        prop_assume!(user != other);
        let direct = ConversationId::direct(user, other);
        prop_assert_eq!(direct.to_string().parse(), Ok(direct));
        prop_assert_eq!(direct.users(), Some((user.min(other), user.max(other))));
        let group = ConversationId::group(GroupId(number.max(1)));
        prop_assert_eq!(group.to_string().parse(), Ok(group));
    }

    /// A text that is an id is the only one that is.
    #[test]
    fn an_id_has_one_spelling(text in "[+g0-9a-f:]{0,20}") {
        if let Ok(id) = text.parse::<MessageId>() {
            prop_assert_eq!(id.to_string(), text.as_str());
        }
        if let Ok(id) = text.parse::<ConversationId>() {
            prop_assert_eq!(id.to_string(), text.as_str());
        }
        if let Ok(id) = text.parse::<DeviceId>() {
            prop_assert_eq!(id.to_string(), text.as_str());
        }
    }
}
