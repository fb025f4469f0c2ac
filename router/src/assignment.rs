//! Who owns which slice.
//!
//! The hash gives every slice an order of preference among the workers (rendezvous: the greatest weight first). The
//! assignment is sticky: a slice stays where it is as long as its owner lives and has not more than its share.
//! When workers come or go only the slices of the gone and the surplus of the rest move, each to the worker that it
//! prefers among those with room.
//!
//! The share is the mean, rounded down or up to whole slices; as many workers round up as the remainder demands,
//! those that hold most first, so that nothing moves for the rounding's sake. That keeps every owner's load within
//! 1.05 times the mean wherever whole slices allow it (with 60 workers, 1,024 slices cannot: 18 is 1.055 times the
//! mean of 17.07, and 17 each would leave four over), and every change within 1.1 times K/N moves. A looser share
//! would do neither at every number: 1.05 times the mean in whole slices is 17 for 63 workers and 16 for 64, so that
//! the 64th would set up to 60 slices moving instead of 16.
//!
//! A preference without stickiness would need no memory but move slices between workers that stayed; so the
//! assignment is stored with its epoch, and each follows from the one before.

use std::collections::BTreeMap;
use std::fmt;

use crate::slice::{SLICES, SliceId, mix};

/// A worker: a thread that owns slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version of an assignment of slices to workers; 1 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a stored assignment is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// Written by another version, or damaged.
    #[error("an assignment names the owners of {SLICES} slices, this one of {0}")]
    Slices(usize),
    /// The first epoch is 1.
    #[error("an assignment's epoch is at least 1, this one's is 0")]
    NoEpoch,
}

/// Who owns which slice, at one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    epoch: Epoch,
    owners: Box<[WorkerId]>,
}

impl Assignment {
    /// The first assignment, at epoch 1. The order of the workers does not matter.
    ///
    /// # Panics
    /// When there is no worker: somebody must own the slices.
    #[must_use]
    pub fn new(workers: &[WorkerId]) -> Self {
        Self { epoch: Epoch(1), owners: owners(&[None; SLICES as usize], workers) }
    }

    /// An assignment as it was stored: the owner of each slice, in order.
    ///
    /// # Errors
    /// When there are not as many owners as slices, or no epoch.
    pub fn from_owners(epoch: Epoch, owners: Vec<WorkerId>) -> Result<Self, AssignmentError> {
        if owners.len() != usize::from(SLICES) {
            return Err(AssignmentError::Slices(owners.len()));
        }
        if epoch.0 == 0 {
            return Err(AssignmentError::NoEpoch);
        }
        Ok(Self { epoch, owners: owners.into() })
    }

    /// The next assignment, at the next epoch, for the workers that are there now: as few slices as possible move.
    ///
    /// # Panics
    /// When there is no worker: somebody must own the slices.
    #[must_use]
    pub fn rebalance(&self, workers: &[WorkerId]) -> Self {
        let before: Vec<_> = self.owners.iter().copied().map(Some).collect();
        Self { epoch: Epoch(self.epoch.0 + 1), owners: owners(&before, workers) }
    }

    /// Its version.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who owns a slice.
    ///
    /// # Panics
    /// When there is no such slice; [`Key::slice`](crate::Key::slice) gives only slices that there are.
    #[must_use]
    pub fn owner(&self, slice: SliceId) -> WorkerId {
        self.owners[usize::from(slice.0)]
    }

    /// The owner of each slice, in order; what [`from_owners`](Self::from_owners) takes.
    #[must_use]
    pub fn owners(&self) -> &[WorkerId] {
        &self.owners
    }

    /// The slices of one worker, in order.
    pub fn slices_of(&self, worker: WorkerId) -> impl Iterator<Item = SliceId> {
        SliceId::all().filter(move |slice| self.owner(*slice) == worker)
    }
}

/// A worker while slices are given out.
struct Share {
    load: usize,
    quota: usize,
}

fn owners(before: &[Option<WorkerId>], workers: &[WorkerId]) -> Box<[WorkerId]> {
    assert!(!workers.is_empty(), "an assignment needs a worker to own the slices");
    let mut shares: BTreeMap<WorkerId, Share> =
        workers.iter().map(|worker| (*worker, Share { load: 0, quota: 0 })).collect();
    let mut owners: Vec<Option<WorkerId>> =
        before.iter().map(|owner| owner.filter(|worker| shares.contains_key(worker))).collect();
    for worker in owners.iter().flatten() {
        shares.get_mut(worker).expect("owners that are gone were filtered out").load += 1;
    }
    set_quotas(&mut shares);
    release_surplus(&mut owners, &mut shares);

    SliceId::all()
        .zip(owners)
        .map(|(slice, owner)| {
            owner.unwrap_or_else(|| {
                let (worker, share) = shares
                    .iter_mut()
                    .filter(|(_, share)| share.load < share.quota)
                    .max_by_key(|(worker, _)| weight(slice, **worker))
                    .expect("the quotas add up to the number of slices");
                share.load += 1;
                *worker
            })
        })
        .collect()
}

/// The mean in whole slices, rounded up for as many as the remainder demands: those that hold most, then by number.
fn set_quotas(shares: &mut BTreeMap<WorkerId, Share>) {
    let (floor, remainder) = (usize::from(SLICES) / shares.len(), usize::from(SLICES) % shares.len());
    let mut by_load: Vec<_> = shares.values_mut().collect();
    by_load.sort_by_key(|share| std::cmp::Reverse(share.load));
    for (rank, share) in by_load.into_iter().enumerate() {
        share.quota = floor + usize::from(rank < remainder);
    }
}

/// Takes from each worker what it has over its quota: the slices that prefer it least.
fn release_surplus(owners: &mut [Option<WorkerId>], shares: &mut BTreeMap<WorkerId, Share>) {
    for (worker, share) in shares {
        let Some(surplus) = share.load.checked_sub(share.quota).filter(|surplus| *surplus > 0) else {
            continue;
        };
        let mut held: Vec<SliceId> =
            SliceId::all().filter(|slice| owners[usize::from(slice.0)] == Some(*worker)).collect();
        held.sort_by_key(|slice| weight(*slice, *worker));
        for slice in &held[..surplus] {
            owners[usize::from(slice.0)] = None;
        }
        share.load = share.quota;
    }
}

/// How much a slice prefers a worker (rendezvous, or highest random weight: Thaler and Ravishankar, 1998). Different
/// for each pair, because `mix` is a bijection.
const fn weight(slice: SliceId, worker: WorkerId) -> u64 {
    mix(mix(slice.0 as u64) ^ worker.0 as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(count: u16) -> Vec<WorkerId> {
        (0..count).map(WorkerId).collect()
    }

    #[test]
    fn the_order_of_the_workers_and_repetitions_do_not_matter() {
        let assignment = Assignment::new(&workers(7));
        let mut shuffled = workers(7);
        shuffled.reverse();
        shuffled.push(WorkerId(3));
        assert_eq!(Assignment::new(&shuffled), assignment);
    }

    /// Every node computes the same assignment, of whatever version: slices of a running cluster must not move
    /// because of an upgrade. The numbers come from an implementation of their own.
    #[test]
    fn assignments_never_change() {
        let digest = |assignment: &Assignment| {
            assignment.owners().iter().fold(0, |hash, worker| mix(hash ^ u64::from(worker.0)))
        };
        let two = Assignment::new(&workers(2));
        assert_eq!(digest(&two), 0x0f29_c575_90a2_d58f);
        assert_eq!(digest(&two.rebalance(&workers(3))), 0x307b_b97e_81a5_5396);
        let first_gone = Assignment::new(&workers(64)).rebalance(&workers(64)[1..]);
        assert_eq!(digest(&first_gone), 0x7aa8_0fb4_f07f_b3cb);
    }

    #[test]
    fn nothing_moves_when_nobody_comes_or_goes() {
        for count in [1, 2, 3, 60, 63, 64, 1_024, 2_000] {
            let assignment = Assignment::new(&workers(count));
            let next = assignment.rebalance(&workers(count));
            assert_eq!(next.owners(), assignment.owners());
            assert_eq!(next.epoch(), Epoch(assignment.epoch().0 + 1));
        }
    }

    #[test]
    fn slices_go_to_the_worker_that_they_prefer_where_it_has_room() {
        let all = workers(8);
        let assignment = Assignment::new(&all);
        let first_choice = SliceId::all()
            .filter(|slice| {
                all.iter().all(|w| weight(*slice, *w) <= weight(*slice, assignment.owner(*slice)))
            })
            .count();
        // Some workers are preferred by more than their share: those slices are second choices.
        assert!((900..1_024).contains(&first_choice), "{first_choice}");
    }

    #[test]
    fn a_stored_assignment_is_read_back_or_refused() {
        let assignment = Assignment::new(&workers(3)).rebalance(&workers(4));
        let stored = assignment.owners().to_vec();
        assert_eq!(Assignment::from_owners(Epoch(2), stored.clone()), Ok(assignment));
        assert_eq!(Assignment::from_owners(Epoch(0), stored.clone()), Err(AssignmentError::NoEpoch));
        let short = stored[1..].to_vec();
        assert_eq!(Assignment::from_owners(Epoch(2), short), Err(AssignmentError::Slices(1_023)));
    }

    #[test]
    #[should_panic(expected = "needs a worker")]
    fn no_workers_is_an_error_of_the_program() {
        let _ = Assignment::new(&[]);
    }
}
