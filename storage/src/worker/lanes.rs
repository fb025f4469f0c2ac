//! Answers for shards whose lane is full.
//!
//! An answer is never dropped. That needs no limit of its own: a shard that does not take deliveries does not send
//! commands either, so no more answers wait than there were commands in this worker's queue. Events are not kept here:
//! a session that cannot get one is marked (contract 4). Pages are not either: they are read when there is room.

use std::collections::VecDeque;

use super::Effects;
use crate::command::Delivery;

/// What waits, per shard, oldest first.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    waiting: Vec<VecDeque<Delivery>>,
    count: usize,
}

impl Lanes {
    /// True when something waits for a shard: then events for it must not overtake.
    pub(super) fn is_full(&self, shard: u16) -> bool {
        self.waiting.get(usize::from(shard)).is_some_and(|waiting| !waiting.is_empty())
    }

    /// True when something waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.count > 0
    }

    /// How much waits.
    pub(super) fn waiting(&self) -> usize {
        self.count
    }

    /// Delivers it, now or later, behind what waits already.
    pub(super) fn answer(&mut self, shard: u16, delivery: Delivery, effects: &mut impl Effects) {
        let refused = if self.is_full(shard) { Err(delivery) } else { effects.deliver(shard, delivery) };
        if let Err(delivery) = refused {
            let lane = usize::from(shard);
            if self.waiting.len() <= lane {
                self.waiting.resize_with(lane + 1, VecDeque::new);
            }
            self.waiting[lane].push_back(delivery);
            self.count += 1;
        }
    }

    /// Tries everything that waits once more.
    pub(super) fn retry(&mut self, effects: &mut impl Effects) {
        if self.count == 0 {
            return;
        }
        for (shard, waiting) in (0..).zip(&mut self.waiting) {
            while let Some(delivery) = waiting.pop_front() {
                if let Err(delivery) = effects.deliver(shard, delivery) {
                    waiting.push_front(delivery);
                    break;
                }
                self.count -= 1;
            }
        }
    }
}
