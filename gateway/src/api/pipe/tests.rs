//! Both ends by hand: each acts only when it was told that there is something to do, so that a lost wake-up shows as
//! bytes that never arrive.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use proptest::prelude::*;

use super::*;

fn pipe(connection: u64) -> (HttpPipe, Arc<Pipe>, HttpEffects, Arc<Permits>) {
    let (port, effects) = effects(Waker::never_sleeps(), 4);
    let permits = Permits::new(4);
    let permit = permits.take().expect("a place is free");
    let (shards_end, hypers_end) = Pipe::new(connection, port, permit);
    (shards_end, hypers_end, effects, permits)
}

/// A task that notes that it was woken.
#[derive(Default)]
struct Woken(AtomicBool, AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    // Long enough a period that a lost or doubled piece shifts what follows.
    (0..bytes).map(|index| (index % 251) as u8 ^ (index / 251) as u8).collect()
}

/// Cuts `bytes` into pieces whose lengths go round in `lengths`.
fn pieces<'a>(bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> + 'a {
    let mut rest = bytes;
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = (*lengths.next()?).min(rest.len());
        if length == 0 {
            return None;
        }
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        Some(piece)
    })
}

struct Run {
    /// What hyper read.
    received: Vec<u8>,
    /// What the shard fetched.
    answered: Vec<u8>,
    closed: bool,
    ended: bool,
}

/// Sends `request` in pieces one way and `answer` the other, both ends taking turns as `turns` says.
fn run(
    request: &[u8],
    answer: &[u8],
    pushes: &[usize],
    reads: &[usize],
    writes: &[usize],
    rooms: &[usize],
    turns: &[bool],
) -> Run {
    let (mut shards_end, hypers_end, effects, _permits) = pipe(7);
    let mut outgoing = pieces(request, pushes).peekable();
    let mut writing = pieces(answer, writes);
    let mut unwritten: &[u8] = writing.next().unwrap_or_default();
    let mut run = Run { received: Vec::new(), answered: Vec::new(), closed: false, ended: false };
    let (mut paused, mut draining, mut end_sent, mut finished) = (false, false, false, false);
    let task = Arc::new(Woken::default());
    task.0.store(true, Ordering::SeqCst);
    let waker = TaskWaker::from(Arc::clone(&task));
    let mut context = Context::from_waker(&waker);
    // So often in a row nothing happened: nothing ever will.
    let patience = 2 * turns.len() + 2;
    let mut turns = turns.iter().cycle();
    let (mut reads, mut rooms) = (reads.iter().cycle(), rooms.iter().cycle());
    let mut idle = 0;
    while idle < patience {
        idle += 1;
        // The shard: everything that it was told of, and one piece from the socket.
        if *turns.next().expect("a cycle never ends") {
            while let Some(connection) = effects.pop() {
                assert_eq!(connection, 7);
                draining = true;
            }
            if std::mem::take(&mut draining) {
                idle = 0;
                let room = *rooms.next().expect("a cycle never ends");
                let before = run.answered.len();
                let advance = shards_end.advance(room, &mut run.answered);
                assert!(run.answered.len() - before <= room);
                if advance.resume_reading {
                    assert!(paused, "resumed what was not paused");
                    paused = false;
                }
                match advance.then {
                    Then::Drain => draining = true,
                    Then::Close => run.closed = true,
                    Then::Wait => {}
                    other => panic!("{other:?} in a plain exchange"),
                }
            }
            if !paused && outgoing.peek().is_some() {
                idle = 0;
                let piece = outgoing.next().expect("it was there a moment ago");
                paused = shards_end.push(piece) == PipeState::Full;
            } else if outgoing.peek().is_none() && !end_sent {
                idle = 0;
                shards_end.end();
                end_sent = true;
            }
        }
        // Hyper: only when it was woken.
        if task.0.swap(false, Ordering::SeqCst) {
            idle = 0;
            while !run.ended {
                let limit = *reads.next().expect("a cycle never ends");
                match hypers_end.poll_read(&mut context, limit, |bytes| run.received.extend_from_slice(bytes))
                {
                    Poll::Ready(Ok(0)) => run.ended = true,
                    Poll::Ready(Ok(bytes)) => assert!(bytes <= limit),
                    Poll::Ready(Err(Gone)) => panic!("the shard's end is still there"),
                    Poll::Pending => break,
                }
            }
            while !unwritten.is_empty() {
                match hypers_end.poll_write(&mut context, unwritten) {
                    Poll::Ready(Ok(taken)) => {
                        assert!(taken > 0);
                        unwritten = &unwritten[taken..];
                        if unwritten.is_empty() {
                            unwritten = writing.next().unwrap_or_default();
                        }
                    }
                    Poll::Ready(Err(Gone)) => panic!("the shard's end is still there"),
                    Poll::Pending => break,
                }
            }
            if unwritten.is_empty() && run.ended && !finished {
                finished = true;
                hypers_end.finish();
            }
        }
        let state = hypers_end.lock();
        assert!(state.outbound.len() <= OUTBOUND_BYTES);
        assert!(state.inbound.len() < INBOUND_BYTES + pushes.iter().max().copied().unwrap_or(0));
        assert!(effects.receiver.len() <= 1, "a pipe stands in the channel once");
    }
    run
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order_however_it_is_cut(
        request_bytes in 0usize..300_000,
        answer_bytes in 0usize..300_000,
        pushes in prop::collection::vec(1usize..=16_384, 1..20),
        reads in prop::collection::vec(1usize..=20_000, 1..20),
        writes in prop::collection::vec(1usize..=100_000, 1..20),
        rooms in prop::collection::vec(1usize..=70_000, 1..20),
        turns in prop::collection::vec(any::<bool>(), 1..16).prop_map(|mut turns| { turns.push(true); turns }),
    ) {
        let (request, answer) = (pattern(request_bytes), pattern(answer_bytes));
        let run = run(&request, &answer, &pushes, &reads, &writes, &rooms, &turns);
        prop_assert!(run.received == request, "{} of {} request bytes", run.received.len(), request.len());
        prop_assert!(run.answered == answer, "{} of {} answer bytes", run.answered.len(), answer.len());
        prop_assert!(run.ended && run.closed);
    }
}

#[test]
fn a_full_pipe_pauses_once_and_resumes_once() {
    let (mut shards_end, hypers_end, effects, _permits) = pipe(1);
    let piece = vec![0u8; INBOUND_BYTES / 4];
    for _ in 0..3 {
        assert_eq!(shards_end.push(&piece), PipeState::Open);
    }
    assert_eq!(shards_end.push(&piece), PipeState::Full);
    assert_eq!(effects.pop(), None);
    let mut context = Context::from_waker(TaskWaker::noop());
    let mut read = |limit| hypers_end.poll_read(&mut context, limit, |_| {});
    assert_eq!(read(INBOUND_BYTES / 2 - 1), Poll::Ready(Ok(INBOUND_BYTES / 2 - 1)));
    assert_eq!(effects.pop(), None, "still more than half full");
    assert_eq!(read(1), Poll::Ready(Ok(1)));
    assert_eq!(effects.pop(), Some(1));
    let mut output = Vec::new();
    assert_eq!(shards_end.advance(100, &mut output), Advance { resume_reading: true, then: Then::Wait });
    assert_eq!(shards_end.advance(100, &mut output), Advance { resume_reading: false, then: Then::Wait });
    assert_eq!(read(usize::MAX), Poll::Ready(Ok(INBOUND_BYTES / 2)));
    assert_eq!(effects.pop(), None);
}

#[test]
fn an_upgrade_waits_for_the_answers_before_it_and_keeps_what_came_behind() {
    let (mut shards_end, hypers_end, effects, _permits) = pipe(9);
    let mut context = Context::from_waker(TaskWaker::noop());
    assert_eq!(hypers_end.poll_write(&mut context, b"answer"), Poll::Ready(Ok(6)));
    hypers_end.hand_back(b"GET /ws + read by hyper".to_vec());
    let _ = shards_end.push(b" + in the pipe");
    assert_eq!(effects.pop(), Some(9));
    assert_eq!(effects.pop(), None);
    let mut output = Vec::new();
    assert_eq!(shards_end.advance(4, &mut output).then, Then::Drain);
    let _ = shards_end.push(b" + pushed late");
    assert_eq!(shards_end.advance(4, &mut output).then, Then::Upgrade);
    assert_eq!(output, b"answer");
    assert_eq!(shards_end.into_upgrade(), b"GET /ws + read by hyper + in the pipe + pushed late");
}

#[test]
fn when_the_shard_lets_go_hyper_is_woken_and_told() {
    let (shards_end, hypers_end, _effects, _permits) = pipe(1);
    let task = Arc::new(Woken::default());
    let waker = TaskWaker::from(Arc::clone(&task));
    let mut context = Context::from_waker(&waker);
    assert!(hypers_end.poll_read(&mut context, 1, |_| {}).is_pending());
    let full = vec![0u8; OUTBOUND_BYTES];
    assert_eq!(hypers_end.poll_write(&mut context, &full), Poll::Ready(Ok(OUTBOUND_BYTES)));
    assert!(hypers_end.poll_write(&mut context, b"x").is_pending());
    drop(shards_end);
    assert_eq!(task.1.load(Ordering::SeqCst), 2, "reader and writer");
    assert_eq!(hypers_end.poll_read(&mut context, 1, |_| {}), Poll::Ready(Err(Gone)));
    assert_eq!(hypers_end.poll_write(&mut context, b"x"), Poll::Ready(Err(Gone)));
    assert_eq!(hypers_end.poll_fetched(&mut context), Poll::Ready(Err(Gone)));
}

#[test]
fn an_abort_overtakes_what_was_not_fetched() {
    let (mut shards_end, hypers_end, _effects, _permits) = pipe(1);
    let mut context = Context::from_waker(TaskWaker::noop());
    assert_eq!(hypers_end.poll_write(&mut context, b"never fetched"), Poll::Ready(Ok(13)));
    hypers_end.abort();
    assert_eq!(shards_end.advance(0, &mut Vec::new()).then, Then::Abort);
}

#[test]
fn a_place_is_free_again_when_the_channel_names_the_pipe_no_more() {
    let (shards_end, hypers_end, effects, permits) = pipe(1);
    assert_eq!(permits.free(), 3);
    hypers_end.finish();
    drop(shards_end);
    drop(hypers_end);
    // Its name is still in the channel, which has one place per permit.
    assert_eq!(permits.free(), 3);
    assert_eq!(effects.pop(), Some(1));
    assert_eq!(permits.free(), 4);
    let taken: Vec<_> = std::iter::from_fn(|| permits.take()).collect();
    assert_eq!(taken.len(), 4);
}
