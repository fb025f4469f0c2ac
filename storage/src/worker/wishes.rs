//! What sessions want to be read for them: pages, parts of snapshots, lists, histories.
//!
//! A turn reads for as many of them as it may ([`Limits::turn_page_bytes`], in what [`Spent`] counts), those that have
//! waited first, shard by shard in turn, in the order in which they came; at least one of them, so nobody waits for
//! ever. What came with the turn's commands and does not fit waits for the next turn, what is for a full lane until that
//! has room, and whoever's list is still being written down until it is.
//!
//! The one invariant: **what waits is bounded.** A session has at most one page that waits, because a later wish takes
//! its place, and [`SESSION_QUESTIONS`] lists and histories, of which all sessions together have at most [`QUESTIONS`];
//! what is beyond is refused. For a session that is gone nothing is read, as far as it is known here: of the readers of
//! a conversation that are other workers' users this worker does not hear, and their histories reach nobody.
//!
//! [`Limits::turn_page_bytes`]: crate::options::Limits::turn_page_bytes
//! [`Spent`]: super::spent::Spent

use std::collections::VecDeque;

use hashbrown::HashMap;
use holdfast_protocol::id::UserId;
use smallvec::SmallVec;

use super::{Effects, Health, Wanted, Worker};
use crate::command::{ConversationsRequest, Delivery, HistoryRequest, Refusal, SessionAddress};
use crate::engine::Store;

/// Lists and histories of one session that may wait.
const SESSION_QUESTIONS: u8 = 4;
/// The same of all sessions: 6 MB.
const QUESTIONS: usize = 65_536;
/// What every one of them counts for beside what is read for it.
const WISH_BYTES: usize = 64;

/// Something to be read for a session.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    /// Which page stands in [`Wishes::pages`], unless the session is gone or has got it.
    Page(SessionAddress),
    List(ConversationsRequest),
    History(HistoryRequest),
}

const _: () = assert!(size_of::<Wish>() <= 96);

impl Wish {
    fn session(&self) -> SessionAddress {
        match self {
            Self::Page(session) => *session,
            Self::List(request) => request.session,
            Self::History(request) => request.session,
        }
    }
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Those of the present turn's commands.
    arrived: Vec<Wish>,
    /// By shard, oldest first.
    waiting: Vec<VecDeque<Wish>>,
    /// Those of users whose list is being written down.
    unfolded: HashMap<UserId, SmallVec<[Wish; 1]>>,
    pages: HashMap<SessionAddress, Wanted>,
    /// Lists and histories of each session that wait; of one that is gone, none do.
    questions: HashMap<SessionAddress, u8>,
    /// Lists and histories that wait, those of sessions that are gone included.
    count: usize,
    /// The shard that is next.
    next: usize,
}

impl Wishes {
    /// A session wants a page. A later wish of a session takes the place of one that still waits.
    pub(super) fn want_page(&mut self, session: SessionAddress, wanted: Wanted) {
        if self.pages.insert(session, wanted).is_none() {
            self.arrived.push(Wish::Page(session));
        }
    }

    pub(super) fn want(&mut self, wish: Wish) {
        self.arrived.push(wish);
    }

    /// The session is gone.
    pub(super) fn forget(&mut self, session: SessionAddress) {
        self.pages.remove(&session);
        self.questions.remove(&session);
    }

    /// The user's list is written down, or cannot be for now.
    pub(super) fn folded(&mut self, user: UserId) {
        for wish in self.unfolded.remove(&user).unwrap_or_default().into_iter().rev() {
            self.of_shard(wish.session().shard).push_front(wish);
        }
    }

    fn of_shard(&mut self, shard: u16) -> &mut VecDeque<Wish> {
        let shard = usize::from(shard);
        if self.waiting.len() <= shard {
            self.waiting.resize_with(shard + 1, VecDeque::new);
        }
        &mut self.waiting[shard]
    }

    fn waits_for(&self, shard: u16) -> bool {
        self.waiting.get(usize::from(shard)).is_some_and(|waiting| !waiting.is_empty())
    }

    /// The shards for which something waits.
    pub(super) fn shards(&self) -> impl Iterator<Item = u16> + '_ {
        (0..).zip(&self.waiting).filter(|(_, waiting)| !waiting.is_empty()).map(|(shard, _)| shard)
    }

    /// Whether it may wait.
    fn admit(&mut self, wish: &Wish) -> bool {
        if matches!(wish, Wish::Page(_)) {
            return true;
        }
        let of_session = self.questions.get(&wish.session()).copied().unwrap_or_default();
        let fits = of_session < SESSION_QUESTIONS && self.count < QUESTIONS;
        if fits {
            self.questions.insert(wish.session(), of_session + 1);
            self.count += 1;
        }
        fits
    }

    /// It waits no more; false if nobody waits for it.
    fn dismiss(&mut self, wish: &Wish) -> bool {
        let session = wish.session();
        if matches!(wish, Wish::Page(_)) {
            return self.pages.contains_key(&session);
        }
        self.count -= 1;
        match self.questions.get_mut(&session) {
            None => false,
            Some(1) => self.questions.remove(&session).is_some(),
            Some(waiting) => {
                *waiting -= 1;
                true
            }
        }
    }
}

impl<S: Store> Worker<S> {
    /// Reads for sessions as much as one turn may.
    pub(super) fn grant_wishes(&mut self, effects: &mut impl Effects) {
        self.spent.begin();
        if self.health != Health::Good && !self.wishes.unfolded.is_empty() {
            // Nothing is written down any more: lists are made of what there is.
            let mut users: Vec<UserId> = self.wishes.unfolded.keys().copied().collect();
            users.sort_unstable();
            users.into_iter().for_each(|user| self.wishes.folded(user));
        }
        self.grant_waiting(effects);
        let mut arrived = std::mem::take(&mut self.wishes.arrived);
        for wish in arrived.drain(..) {
            let shard = wish.session().shard;
            if self.wishes.waits_for(shard) || self.lanes.is_full(shard) || !self.may_read() {
                self.wait_with(wish, effects);
            } else {
                self.grant(wish, effects);
            }
        }
        // Nothing arrives while wishes are granted.
        self.wishes.arrived = arrived;
    }

    /// One of each shard in turn, for as long as there is something to be done for any.
    fn grant_waiting(&mut self, effects: &mut impl Effects) {
        let shards = self.wishes.waiting.len();
        let mut idle = 0;
        while idle < shards && self.may_read() {
            let shard = self.wishes.next % shards;
            self.wishes.next = shard + 1;
            idle += 1;
            if self.lanes.is_full(shard as u16) {
                continue;
            }
            // Those that nobody waits for any more are passed over at once.
            while let Some(wish) = self.wishes.waiting[shard].pop_front() {
                if self.wishes.dismiss(&wish) {
                    self.grant(wish, effects);
                    idle = 0;
                    break;
                }
            }
        }
    }

    /// Whether the turn may read more.
    fn may_read(&self) -> bool {
        self.spent.bytes() < self.identity.limits.turn_page_bytes
    }

    fn grant(&mut self, wish: Wish, effects: &mut impl Effects) {
        self.spent.add(WISH_BYTES);
        match wish {
            Wish::Page(session) => {
                if let Some(wanted) = self.wishes.pages.remove(&session) {
                    self.serve_page(session, wanted, effects);
                }
            }
            Wish::List(request) => self.serve_list(request, effects),
            Wish::History(request) => self.history(&request, effects),
        }
    }

    fn wait_with(&mut self, wish: Wish, effects: &mut impl Effects) {
        if self.wishes.admit(&wish) {
            self.wishes.of_shard(wish.session().shard).push_back(wish);
        } else {
            self.reject(wish.session(), Refusal::Overloaded, effects);
        }
    }

    /// The page waits until the user's list is written down.
    pub(super) fn page_when_folded(&mut self, session: SessionAddress, wanted: Wanted) {
        self.lists.fold_soon(wanted.user);
        self.wishes.pages.insert(session, wanted);
        self.wishes.unfolded.entry(wanted.user).or_default().push(Wish::Page(session));
    }

    /// The list waits until it is written down.
    pub(super) fn list_when_folded(&mut self, request: ConversationsRequest, effects: &mut impl Effects) {
        let wish = Wish::List(request);
        if self.wishes.admit(&wish) {
            self.lists.fold_soon(request.user);
            self.wishes.unfolded.entry(request.user).or_default().push(wish);
        } else {
            self.reject(request.session, Refusal::Overloaded, effects);
        }
    }

    fn serve_list(&mut self, request: ConversationsRequest, effects: &mut impl Effects) {
        let session = request.session;
        let delivery = match self.is_near(request.user) {
            Ok(false) => return self.list_when_folded(request, effects),
            Ok(true) => self.list(&request).map_err(|error| self.unreadable(&error)),
            Err(error) => Err(self.unreadable(&error)),
        };
        let delivery = delivery.unwrap_or_else(|why| {
            self.counters.refused.add(1);
            Delivery::Rejected { session, client_id: None, why }
        });
        self.lanes.answer(session.shard, delivery, effects);
    }
}
