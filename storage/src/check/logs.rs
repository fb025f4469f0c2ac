//! The logs between databases: what is recorded, and what has been applied.

use bytes::Bytes;
use holdfast_protocol::id::MessageId;

use super::{Checker, entry_in};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::layout::{self, Intended, RING};

impl Checker {
    pub(super) fn state(
        &mut self,
        number: u16,
        store: &impl Store,
        newest: MessageId,
    ) -> Result<(), StoreError> {
        let key = layout::last_id_key();
        let last = match store.get(Table::State, &key)? {
            Some(value) => layout::open_numbers::<1>(Table::State, &key, &value)?[0],
            None => 0,
        };
        if newest.0 > last {
            self.problem(Some(number), format!("the last id is {last}, but there is a message {newest}"));
        }
        for source in 0..self.databases {
            self.applied.insert((source, number), crate::worker::read_applied(store, source)?);
        }
        Ok(())
    }

    pub(super) fn fan_out(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        for target in 0..self.databases {
            let mut log = Vec::new();
            let mut damaged = Vec::new();
            let (from, to) = (layout::fan_out_key(target, 0), layout::fan_out_key(target, RING - 1));
            store.scan(Table::FanOut, &from, &to, &mut |key, value| {
                match layout::open_intents(key, &value) {
                    Ok((position, intents)) => log.push((position, intents)),
                    Err(error) => damaged.push(error),
                }
                Visit::More
            })?;
            for error in damaged {
                self.problem(Some(number), error.to_string());
            }
            log.sort_unstable_by_key(|&(position, _)| position);
            if log.windows(2).any(|pair| pair[0].0 + 1 != pair[1].0) {
                self.problem(Some(number), format!("the log for database {target} has a hole"));
            }
            let mut resolved = Vec::new();
            for (position, intents) in log {
                let mut found = Vec::new();
                for intent in intents {
                    let (conversation, seq) = match intent.what {
                        Intended::Message { conversation, seq } => (conversation, seq),
                        Intended::Read(_)
                        | Intended::Floor { .. }
                        | Intended::Delivered { .. }
                        | Intended::Blocks { .. }
                        | Intended::BlockedBy { .. } => {
                            found.push((intent, Bytes::new()));
                            continue;
                        }
                    };
                    let key = layout::message_key(conversation, seq);
                    let hidden = match intent.users.first() {
                        Some(&user) => self.hidden_entry(store, conversation, user, seq)?,
                        None => None,
                    };
                    let message = store.get(Table::Messages, &key)?.map(|sealed| entry_in(&sealed));
                    match message.or(hidden) {
                        Some(entry) => found.push((intent, entry)),
                        // So old that it is not to arrive any more.
                        None if seq < self.floor(number, store, conversation).seq => {}
                        None => {
                            let what = format!(
                                "an intent names message {seq} of {conversation}, which is not there"
                            );
                            self.problem(Some(number), what);
                        }
                    }
                }
                resolved.push((position, found));
            }
            self.logs.insert((number, target), resolved);
        }
        Ok(())
    }
}
