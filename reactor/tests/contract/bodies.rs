//! The contract itself: each body is one promise of `Driver`, and says so in its name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_reactor::{ConnectionId, Driver as _, DriverOptions, Moment, ReactorError};

use crate::harness::{Harness, Outcome, assert_same, pattern};
use crate::world::{Incoming, Peer as _, World};

const MEGABYTE: usize = 1 << 20;

/// Small, so that a driver cannot hide behind its buffers.
fn options() -> DriverOptions {
    DriverOptions {
        receive_buffer_bytes: 4 << 10,
        receive_buffers: 64,
        connections: 4_096,
        send_buffer_bytes: Some(64 << 10),
    }
}

fn listening<W: World>(make: impl FnOnce(DriverOptions) -> W, options: DriverOptions) -> Harness<W> {
    let mut harness = Harness::new(make, options);
    harness.world.listen();
    harness
}

// ---- reading and writing ----

pub(crate) fn what_a_peer_sends_comes_back<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let mut received = 0;
    for round in 0..50u64 {
        let message = pattern(round, 1 + 37 * round as usize);
        harness.write_all(&mut peer, &message);
        received += message.len();
        harness.until("the message has come", |harness| {
            (harness.of(id).received.len() == received).then_some(())
        });
        let echo = harness.of(id).received[received - message.len()..].to_vec();
        harness.send(id, &echo);
        harness.read_exactly(&mut peer, &message);
    }
    if harness.world.takes_what_fits() {
        assert_eq!(harness.of(id).drains, 0, "nothing was held back, so nothing drained");
    }
    assert_eq!(harness.driver().unsent_bytes(id), 0);
}

pub(crate) fn a_long_stream_arrives_whole_and_in_order<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(1, MEGABYTE);
    let mut written = 0;
    let mut size = 1;
    while written < bytes.len() {
        let end = (written + size).min(bytes.len());
        harness.write_all(&mut peer, &bytes[written..end]);
        written = end;
        size = size * 3 % 70_001 + 1;
    }
    harness.receive(id, &bytes);
}

pub(crate) fn output_of_many_turns_leaves_in_order<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(2, 200_000);
    let mut sent = 0;
    while sent < bytes.len() {
        for _ in 0..3 {
            let end = (sent + 1_237).min(bytes.len());
            harness.send(id, &bytes[sent..end]);
            sent = end;
        }
        let now = harness.driver().now();
        harness.turn(Some(now));
    }
    harness.read_exactly(&mut peer, &bytes);
}

pub(crate) fn a_peer_that_does_not_read_makes_unsent_bytes_grow_and_drains_later<W: World>(
    make: impl FnOnce(DriverOptions) -> W,
) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(3, W::MORE_THAN_FITS_BYTES);
    for part in bytes.chunks(256 << 10) {
        harness.send(id, part);
        let now = harness.driver().now();
        harness.turn(Some(now));
    }
    harness.settle();
    let held_back = harness.driver().unsent_bytes(id);
    assert!((1..bytes.len()).contains(&held_back), "{held_back} of {} bytes unsent", bytes.len());
    assert_eq!(harness.of(id).drains, 0, "nobody has read yet");
    expect_quiet(&mut harness);
    // More output goes behind what is held back.
    harness.send(id, b"the end");
    harness.settle();
    let held_back = harness.driver().unsent_bytes(id);
    assert!((7..bytes.len()).contains(&held_back), "{held_back} bytes unsent, and nobody has read yet");
    let memory = harness.driver().held_back_bytes();
    assert!(memory >= held_back, "{memory} bytes of memory for {held_back} unsent ones");
    harness.read_exactly(&mut peer, &[&bytes[..], b"the end"].concat());
    harness.until("it has drained", |harness| (harness.of(id).drains == 1).then_some(()));
    assert_eq!((harness.driver().unsent_bytes(id), harness.driver().held_back_bytes()), (0, 0));
    harness.settle();
    assert_eq!(harness.of(id).drains, 1, "drained once");
    // What comes after that leaves at once again.
    harness.send(id, b"encore");
    harness.read_exactly(&mut peer, b"encore");
    if harness.world.takes_what_fits() {
        assert_eq!(harness.of(id).drains, 1, "nothing was held back any more");
    }
}

pub(crate) fn an_output_without_bytes_sends_nothing<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.send(id, b"");
    harness.settle();
    assert_eq!(peer.read(&mut Vec::new()), Incoming::Nothing);
    harness.send(id, b"now");
    harness.read_exactly(&mut peer, b"now");
}

pub(crate) fn one_receive_per_connection_and_turn<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let (mut quiet, other) = harness.pair();
    let bytes = pattern(4, 40 * harness.receive_buffer_bytes());
    let (mut written, mut spoken, mut heard) = (0, false, false);
    while harness.of(id).received.len() < bytes.len() {
        written += peer.write(&bytes[written..]);
        if harness.of(id).receives >= 3 && !spoken {
            assert_eq!(quiet.write(b"me too"), 6);
            spoken = true;
        }
        let before = harness.of(id).receives;
        let soon = harness.driver().now().after(std::time::Duration::from_millis(2));
        harness.turn(Some(soon));
        assert!(harness.of(id).receives <= before + 1, "one connection was served twice in one turn");
        heard |= !harness.of(other).received.is_empty() && harness.of(id).received.len() < bytes.len();
    }
    assert_same(&harness.of(id).received, &bytes);
    harness.receive(other, b"me too");
    // Without that, the one who shouts would have been served alone.
    assert!(heard || harness.of(id).receives < 40, "the quiet one waited for the end of the loud one");
}

// ---- back-pressure ----

pub(crate) fn a_paused_connection_is_not_read_and_its_peer_feels_it<W: World>(
    make: impl FnOnce(DriverOptions) -> W,
) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let (mut other_peer, other) = harness.pair();
    harness.driver().pause(id);
    harness.settle();
    let bytes = pattern(5, W::MORE_THAN_FITS_BYTES);
    let mut written = 0;
    let mut stuck = 0;
    while stuck < 5 {
        let taken = peer.write(&bytes[written..]);
        written += taken;
        stuck = if taken == 0 { stuck + 1 } else { 0 };
        harness.settle();
    }
    assert!(written < bytes.len(), "the peer was never held back");
    assert_eq!(harness.of(id).receives, 0, "read although paused");
    harness.write_all(&mut other_peer, b"others are not held up");
    harness.receive(other, b"others are not held up");
    // Sending to a paused connection goes on.
    harness.send(id, b"still sending");
    harness.read_exactly(&mut peer, b"still sending");

    harness.driver().resume(id);
    harness.until("the peer has written the rest", |_| {
        written += peer.write(&bytes[written..]);
        (written == bytes.len()).then_some(())
    });
    harness.receive(id, &bytes);
}

pub(crate) fn a_pause_holds_even_where_bytes_were_waiting<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(15, 10 * harness.receive_buffer_bytes());
    harness.write_all(&mut peer, &bytes);
    harness.until("the first of it has come", |harness| (harness.of(id).receives > 0).then_some(()));
    harness.driver().pause(id);
    let before = harness.of(id).receives;
    harness.settle();
    expect_quiet(&mut harness);
    assert_eq!(harness.of(id).receives, before, "read although paused");
    harness.driver().resume(id);
    harness.receive(id, &bytes);
}

pub(crate) fn pausing_and_resuming_at_every_turn_loses_nothing<W: World>(
    make: impl FnOnce(DriverOptions) -> W,
) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(6, MEGABYTE);
    let (mut written, mut turn) = (0, 0u32);
    harness.until("everything has come", |harness| {
        written += peer.write(&bytes[written..(written + 9_999).min(bytes.len())]);
        turn += 1;
        match turn % 5 {
            0 | 2 => harness.driver().pause(id),
            1 => {}
            3 => harness.driver().resume(id),
            _ => {
                harness.driver().pause(id);
                harness.driver().resume(id);
            }
        }
        (harness.of(id).received.len() == bytes.len()).then_some(())
    });
    assert_same(&harness.of(id).received, &bytes);
}

pub(crate) fn buffers_that_are_all_lent_hold_up_reading_and_lose_nothing<W: World>(
    make: impl FnOnce(DriverOptions) -> W,
) {
    let options = DriverOptions { receive_buffers: 2, receive_buffer_bytes: 1024, ..options() };
    let mut harness = listening(make, options);
    let mut pairs: Vec<_> = (0..10).map(|_| harness.pair()).collect();
    harness.hoard = Some(Vec::new());
    for (number, (peer, _)) in pairs.iter_mut().enumerate() {
        let bytes = pattern(number as u64, 5_000);
        harness.write_all(peer, &bytes);
    }
    harness.until("both buffers are lent", |harness| {
        harness.hoard.as_ref().is_some_and(|hoard| hoard.len() == 2).then_some(())
    });
    harness.settle();
    expect_quiet(&mut harness);
    let hoard = harness.hoard.take().expect("it was set above");
    assert_eq!(hoard.len(), 2, "there were two buffers");
    let mut seen = BTreeMap::<ConnectionId, usize>::new();
    for (id, buffer) in &hoard {
        // What was lent is still what it was.
        let start = seen.entry(*id).or_default();
        assert_same(buffer, &harness.of(*id).received[*start..*start + buffer.len()]);
        *start += buffer.len();
    }
    drop(hoard);
    for (number, (_, id)) in pairs.iter().enumerate() {
        harness.receive(*id, &pattern(number as u64, 5_000));
    }
}

// ---- the end of a stream ----

pub(crate) fn the_peer_ends_first<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(7, 100_000);
    harness.write_all(&mut peer, &bytes);
    peer.shutdown();
    harness.until("its end is reported", |harness| (harness.of(id).ends == 1).then_some(()));
    assert_same(&harness.of(id).received, &bytes);
    // The other direction is still open.
    harness.send(id, b"and this is my answer");
    harness.read_exactly(&mut peer, b"and this is my answer");
    harness.driver().shutdown(id);
    assert!(harness.driver().output(id).is_none(), "nothing can follow FIN");
    assert_eq!(harness.read_to_end(&mut peer), (vec![], Incoming::End));
    harness.settle();
    expect_quiet(&mut harness);
    assert!(!harness.is_closed(id), "both have ended, but only the owner closes");
    harness.close(id);
    assert_eq!(harness.closed(id), Outcome::Requested);
}

pub(crate) fn we_end_first<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.send(id, b"last words");
    harness.driver().shutdown(id);
    assert_eq!(harness.read_to_end(&mut peer), (b"last words".to_vec(), Incoming::End));
    let bytes = pattern(8, 100_000);
    harness.write_all(&mut peer, &bytes);
    harness.receive(id, &bytes);
    peer.shutdown();
    harness.until("its end is reported", |harness| (harness.of(id).ends == 1).then_some(()));
    harness.close(id);
    assert_eq!(harness.closed(id), Outcome::Requested);
}

pub(crate) fn a_shutdown_waits_for_what_is_held_back<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(9, W::MORE_THAN_FITS_BYTES);
    harness.send(id, &bytes);
    harness.driver().shutdown(id);
    harness.settle();
    assert!(harness.driver().unsent_bytes(id) > 0, "more than sockets hold");
    let (read, end) = harness.read_to_end(&mut peer);
    assert_same(&read, &bytes);
    assert_eq!(end, Incoming::End);
}

pub(crate) fn a_peer_that_is_dropped_ends_the_stream<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.write_all(&mut peer, b"bye");
    drop(peer);
    harness.until("its end is reported", |harness| (harness.of(id).ends == 1).then_some(()));
    assert_eq!(harness.of(id).received, b"bye");
    harness.close(id);
    assert_eq!(harness.closed(id), Outcome::Requested);
}

// ---- resets ----

fn expect_reset<W: World>(harness: &mut Harness<W>, id: ConnectionId) {
    assert_eq!(harness.closed(id), Outcome::Error);
    assert!(harness.driver().output(id).is_none());
    assert_eq!(harness.driver().connections(), 0);
    // Nothing may follow; the harness looks.
    harness.settle();
}

pub(crate) fn a_reset_while_idle<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (peer, id) = harness.pair();
    peer.reset();
    expect_reset(&mut harness, id);
}

pub(crate) fn a_reset_while_paused<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.driver().pause(id);
    harness.settle();
    harness.write_all(&mut peer, b"unread");
    harness.settle();
    peer.reset();
    expect_reset(&mut harness, id);
}

pub(crate) fn a_reset_after_the_peers_end<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    peer.shutdown();
    harness.until("its end is reported", |harness| (harness.of(id).ends == 1).then_some(()));
    peer.reset();
    expect_reset(&mut harness, id);
}

pub(crate) fn a_reset_after_our_end<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.driver().shutdown(id);
    assert_eq!(harness.read_to_end(&mut peer).1, Incoming::End);
    peer.reset();
    expect_reset(&mut harness, id);
}

pub(crate) fn a_reset_while_output_is_held_back<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (peer, id) = harness.pair();
    harness.send(id, &pattern(10, W::MORE_THAN_FITS_BYTES));
    harness.settle();
    assert!(harness.driver().unsent_bytes(id) > 0);
    peer.reset();
    expect_reset(&mut harness, id);
    assert_eq!(harness.driver().unsent_bytes(id), 0, "what cannot be sent is not kept");
}

pub(crate) fn a_reset_while_we_are_sending<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (peer, id) = harness.pair();
    peer.reset();
    let mut rounds = 0;
    harness.until("the reset is noticed", |harness| {
        rounds += 1;
        if let Some(output) = harness.driver().output(id) {
            output.buffer().extend_from_slice(&[rounds as u8; 1_000]);
        }
        harness.is_closed(id).then_some(())
    });
    expect_reset(&mut harness, id);
}

pub(crate) fn a_reset_after_close_changes_nothing<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (peer, id) = harness.pair();
    harness.close(id);
    peer.reset();
    assert_eq!(harness.closed(id), Outcome::Requested);
}

pub(crate) fn a_reset_before_anything_was_read<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    for _ in 0..20 {
        let mut peer = harness.world.dial().expect("the driver listens");
        let _ = peer.write(b"never mind");
        peer.reset();
    }
    // A connection that was reset before it was accepted may or may not show up; if it does, it ends.
    harness.settle();
    harness.until("those that were accepted are closed", |harness| {
        harness.known.values().all(|known| known.closed == Some(Outcome::Error)).then_some(())
    });
    let (mut peer, id) = {
        let known: BTreeSet<ConnectionId> = harness.known.keys().copied().collect();
        let peer = harness.world.dial().expect("the driver still listens");
        let id = harness.until("a live connection is accepted", |harness| {
            harness.known.keys().find(|id| !known.contains(id)).copied()
        });
        (peer, id)
    };
    harness.write_all(&mut peer, b"alive");
    harness.receive(id, b"alive");
}

// ---- closing ----

pub(crate) fn closing_sends_what_the_socket_takes<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    let bytes = pattern(11, 8_000);
    harness.send(id, &bytes);
    harness.close(id);
    assert!(harness.driver().output(id).is_none(), "nothing can follow close");
    assert_eq!(harness.closed(id), Outcome::Requested);
    let (read, end) = harness.read_to_end(&mut peer);
    let expected = if harness.world.takes_what_fits() { bytes.len() } else { read.len() };
    assert_same(&read, &bytes[..expected]);
    assert_eq!(end, Incoming::End);
}

pub(crate) fn closing_does_not_wait_for_a_peer_that_does_not_read<W: World>(
    make: impl FnOnce(DriverOptions) -> W,
) {
    let mut harness = listening(make, options());
    let (_peer, id) = harness.pair();
    harness.send(id, &pattern(12, W::MORE_THAN_FITS_BYTES));
    harness.settle();
    harness.close(id);
    assert_eq!(harness.closed(id), Outcome::Requested);
    assert_eq!((harness.driver().connections(), harness.driver().unsent_bytes(id)), (0, 0));
}

pub(crate) fn closing_twice_is_closing_once<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (_peer, id) = harness.pair();
    harness.close(id);
    harness.close(id);
    harness.driver().shutdown(id);
    harness.abort(id);
    assert_eq!(harness.closed(id), Outcome::Requested);
    harness.close(id);
    harness.settle();
    assert_eq!(harness.driver().connections(), 0);
}

pub(crate) fn no_event_follows_close_but_closed<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    for round in 0..10 {
        let (mut peer, id) = harness.pair();
        harness.write_all(&mut peer, &pattern(round, 60_000));
        if round % 2 == 0 {
            peer.shutdown();
        }
        let now = harness.driver().now();
        harness.turn(Some(now));
        if round % 3 == 0 {
            harness.driver().pause(id);
        }
        // The harness fails at any event of this connection from here on.
        harness.close(id);
        assert_eq!(harness.closed(id), Outcome::Requested);
        harness.settle();
    }
}

pub(crate) fn aborting_resets_and_drops_the_output<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.send(id, b"this is never seen");
    harness.abort(id);
    assert!(harness.driver().output(id).is_none());
    assert_eq!(harness.closed(id), Outcome::Requested);
    assert_eq!(harness.read_to_end(&mut peer), (vec![], Incoming::Reset));
}

pub(crate) fn aborting_overtakes_a_close_that_waits<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.send(id, &pattern(13, W::MORE_THAN_FITS_BYTES));
    harness.driver().shutdown(id);
    harness.settle();
    harness.abort(id);
    assert_eq!(harness.closed(id), Outcome::Requested);
    assert_eq!(harness.read_to_end(&mut peer).1, Incoming::Reset);
}

// ---- names ----

pub(crate) fn a_slot_is_used_again_under_a_new_generation<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let mut used = BTreeMap::<u32, BTreeSet<u32>>::new();
    for round in 0..200u32 {
        let (mut peer, id) = harness.pair();
        assert!(used.entry(id.index).or_default().insert(id.generation), "{id:?} names two connections");
        harness.write_all(&mut peer, &round.to_le_bytes());
        harness.receive(id, &round.to_le_bytes());
        match round % 3 {
            0 => harness.close(id),
            1 => harness.abort(id),
            _ => peer.reset(),
        }
        harness.closed(id);
    }
    assert!(used.keys().all(|index| *index < 64), "slots are not dense: {:?}", used.keys());
    assert!(used.values().any(|generations| generations.len() > 1), "no slot was used again");
}

pub(crate) fn commands_to_a_name_that_is_gone_do_nothing<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let mut gone = Vec::new();
    for _ in 0..20 {
        let (_peer, id) = harness.pair();
        harness.close(id);
        harness.closed(id);
        gone.push(id);
    }
    gone.push(ConnectionId { index: u32::MAX, generation: u32::MAX });
    gone.push(ConnectionId { index: 1_000_000, generation: 0 });
    let mut pairs: Vec<_> = (0..5).map(|_| harness.pair()).collect();
    let command = |harness: &mut Harness<W>| {
        for id in &gone {
            let driver = harness.driver();
            assert!(driver.output(*id).is_none());
            assert_eq!(driver.unsent_bytes(*id), 0);
            driver.pause(*id);
            driver.shutdown(*id);
            driver.close(*id);
            driver.abort(*id);
        }
    };
    command(&mut harness);
    harness.settle();
    command(&mut harness);
    for (number, (peer, id)) in pairs.iter_mut().enumerate() {
        let bytes = pattern(number as u64, 1_000);
        harness.write_all(peer, &bytes);
        harness.receive(*id, &bytes);
        harness.send(*id, &bytes);
        harness.read_exactly(peer, &bytes);
    }
}

// ---- waiting ----

/// A driver with nothing to do waits instead of coming back over and over.
fn expect_quiet<W: World>(harness: &mut Harness<W>) {
    let until = harness.driver().now().after(std::time::Duration::from_millis(30));
    let mut turns = 0;
    while harness.driver().now() < until {
        harness.turn(Some(until));
        turns += 1;
        assert!(turns < 100, "woken {turns} times with nothing to tell");
    }
}

pub(crate) fn a_turn_keeps_its_deadline<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (_peer, _id) = harness.pair();
    harness.settle();
    expect_quiet(&mut harness);
    // In the past: comes back without waiting, or this test would not end.
    harness.turn(Some(Moment(0)));
    let now = harness.driver().now();
    harness.turn(Some(now));
}

pub(crate) fn a_wake_before_the_turn_ends_its_wait<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let waker = harness.driver().waker();
    for _ in 0..100 {
        waker.wake();
        // Without a deadline: a lost wake-up hangs here.
        harness.turn(None);
    }
}

pub(crate) fn a_wake_from_another_thread_ends_the_wait<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let waker = harness.driver().waker();
    let (sent, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let sender = std::thread::spawn({
        let (sent, seen) = (Arc::clone(&sent), Arc::clone(&seen));
        move || {
            for message in 1..=W::MESSAGES_FROM_A_THREAD {
                sent.store(message, Ordering::SeqCst);
                waker.wake();
                // Every other time, let the driver fall asleep first.
                while message % 2 == 0 && seen.load(Ordering::SeqCst) < message {
                    std::thread::yield_now();
                }
            }
        }
    });
    while seen.load(Ordering::SeqCst) < W::MESSAGES_FROM_A_THREAD {
        // Without a deadline: a lost wake-up hangs here.
        harness.turn(None);
        seen.store(sent.load(Ordering::SeqCst), Ordering::SeqCst);
    }
    sender.join().expect("the sender does not panic");
}

pub(crate) fn what_comes_through_a_lane_ends_the_wait<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (mut sender, mut receiver) = holdfast_reactor::lane::lane(8, harness.driver().waker());
    let taken = Arc::new(AtomicUsize::new(0));
    let sending = std::thread::spawn({
        let taken = Arc::clone(&taken);
        move || {
            for number in 0..W::MESSAGES_FROM_A_THREAD {
                while sender.push(number).is_err() {
                    // Full, and not flushed: the driver has to wake nevertheless.
                    std::thread::yield_now();
                }
                // Batches of eight without a flush, then some with, between which the driver may fall asleep.
                if number % 64 >= 32 || number + 1 == W::MESSAGES_FROM_A_THREAD {
                    sender.flush();
                    while number % 2 == 0 && taken.load(Ordering::SeqCst) <= number {
                        std::thread::yield_now();
                    }
                }
            }
        }
    });
    let mut expected = 0;
    while expected < W::MESSAGES_FROM_A_THREAD {
        // Without a deadline: a lost wake-up hangs here.
        harness.turn(None);
        while let Some(number) = receiver.pop() {
            assert_eq!(number, expected);
            expected += 1;
            taken.store(expected, Ordering::SeqCst);
        }
    }
    sending.join().expect("the sender does not panic");
}

// ---- connecting ----

pub(crate) fn a_connect_succeeds_and_both_sides_talk<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = Harness::new(make, options());
    let address = harness.world.host();
    let id = harness.connect(None, address);
    assert_eq!(harness.driver().connections(), 1);
    // What is appended before the connect has succeeded is sent when it has.
    harness.send(id, b"early");
    harness.connected(id);
    let (mut peer, _) = harness.until("the connection arrives", |harness| harness.world.arrival());
    harness.read_exactly(&mut peer, b"early");
    let bytes = pattern(14, 300_000);
    harness.write_all(&mut peer, &bytes);
    harness.receive(id, &bytes);
    harness.send(id, &bytes);
    harness.read_exactly(&mut peer, &bytes);
    harness.close(id);
    assert_eq!(harness.closed(id), Outcome::Requested);
    assert_eq!(harness.read_to_end(&mut peer), (vec![], Incoming::End));
}

pub(crate) fn a_connect_leaves_from_the_address_that_was_asked_for<W: World>(
    make: impl FnOnce(DriverOptions) -> W,
) {
    let mut harness = Harness::new(make, options());
    let address = harness.world.host();
    for last in 2..6 {
        let source = Ipv4Addr::new(127, 0, 0, last);
        let id = harness.connect(Some(SocketAddr::from((source, 0))), address);
        harness.connected(id);
        let (_peer, from) = harness.until("the connection arrives", |harness| harness.world.arrival());
        assert_eq!(from.ip(), IpAddr::from(source));
        assert_ne!(from.port(), 0);
    }
}

pub(crate) fn a_connect_that_is_refused_fails<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = Harness::new(make, options());
    let address = harness.world.deserted();
    for round in 0..20 {
        let id = harness.connect(None, address);
        if round % 2 == 0 {
            harness.send(id, b"is anybody there?");
        }
        assert_eq!(harness.closed(id), Outcome::ConnectFailed);
        assert!(harness.driver().output(id).is_none());
    }
    assert_eq!(harness.driver().connections(), 0);
}

pub(crate) fn a_connect_from_an_impossible_address_fails<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = Harness::new(make, options());
    let address = harness.world.host();
    // TEST-NET-1 (RFC 5737): no machine has it.
    let source = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0));
    let id = harness.connect(Some(source), address);
    assert_eq!(harness.closed(id), Outcome::ConnectFailed);
}

pub(crate) fn a_connect_can_be_closed_before_it_succeeds<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = Harness::new(make, options());
    let (address, deserted) = (harness.world.host(), harness.world.deserted());
    for round in 0..20 {
        let target = if round % 4 < 2 { address } else { deserted };
        let id = harness.connect(None, target);
        if round % 2 == 0 {
            harness.close(id);
        } else {
            harness.abort(id);
        }
        assert_eq!(harness.closed(id), Outcome::Requested);
    }
    assert_eq!(harness.driver().connections(), 0);
}

pub(crate) fn connecting_beyond_the_capacity_is_an_error<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let options = DriverOptions { connections: 3, ..options() };
    let mut harness = Harness::new(make, options);
    let address = harness.world.host();
    let ids: Vec<_> = (0..3).map(|_| harness.connect(None, address)).collect();
    let refused = harness.driver().connect(None, address);
    assert!(matches!(refused, Err(ReactorError::Full { slots: 3 })), "{refused:?}");
    for id in &ids {
        harness.connected(*id);
    }
    harness.close(ids[0]);
    harness.closed(ids[0]);
    let id = harness.connect(None, address);
    harness.connected(id);
}

// ---- accepting ----

pub(crate) fn a_thousand_connections_at_once<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    const CONNECTIONS: usize = 1_000;
    let mut harness = listening(make, options());
    let mut peers: Vec<W::Peer> =
        (0..CONNECTIONS).map(|_| harness.world.dial().expect("the driver listens")).collect();
    harness.until("all are accepted", |harness| (harness.accepted_count() == CONNECTIONS).then_some(()));
    assert_eq!(harness.driver().connections(), CONNECTIONS);
    for (number, peer) in peers.iter_mut().enumerate() {
        harness.write_all(peer, &(number as u32).to_le_bytes());
    }
    harness.until("all have been heard", |harness| {
        harness.known.values().all(|known| known.received.len() == 4).then_some(())
    });
    let ids: Vec<ConnectionId> = harness.known.keys().copied().collect();
    let numbers: BTreeSet<Vec<u8>> = harness.known.values().map(|known| known.received.clone()).collect();
    assert_eq!(numbers.len(), CONNECTIONS, "each was heard once");
    for id in &ids {
        let echo = harness.of(*id).received.clone();
        harness.send(*id, &echo);
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        harness.read_exactly(peer, &(number as u32).to_le_bytes());
    }
    for id in &ids {
        harness.close(*id);
    }
    harness.until("all are closed", |harness| (harness.driver().connections() == 0).then_some(()));
    for peer in &mut peers {
        assert_eq!(harness.read_to_end(peer), (vec![], Incoming::End));
    }
}

pub(crate) fn no_more_are_accepted_than_there_is_room_for<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let options = DriverOptions { connections: 3, ..options() };
    let mut harness = listening(make, options);
    let mut peers: Vec<W::Peer> = (0..5).map(|_| harness.world.dial().expect("the driver listens")).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.write(&[number as u8]), 1);
    }
    // Who comes first is not promised; that everybody comes is.
    let mut numbers = BTreeSet::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(harness.accept());
    }
    for round in 0..3 {
        harness.settle();
        assert_eq!((harness.accepted_count(), harness.driver().connections()), (0, 3));
        for id in &ids {
            harness.until("it says who it is", |harness| (harness.of(*id).received.len() == 1).then_some(()));
            numbers.insert(harness.of(*id).received[0]);
        }
        // Those who wait outside do not keep the driver awake.
        expect_quiet(&mut harness);
        if round < 2 {
            // Those who wait are served as soon as somebody leaves.
            let id = ids.remove(round);
            if round == 0 {
                harness.close(id);
            } else {
                harness.abort(id);
            }
            harness.closed(id);
            ids.push(harness.accept());
        }
    }
    assert_eq!(numbers.len(), 5, "{numbers:?} came, and five were there");
}

pub(crate) fn after_stop_listening_nobody_new_comes_and_those_inside_stay<W: World>(
    make: impl FnOnce(DriverOptions) -> W,
) {
    let mut harness = listening(make, options());
    let (mut peer, id) = harness.pair();
    harness.driver().stop_listening();
    harness.settle();
    assert!(harness.world.dial().is_none(), "accepted after stop_listening");
    harness.settle();
    assert_eq!(harness.accepted_count(), 0);
    harness.write_all(&mut peer, b"still here");
    harness.receive(id, b"still here");
    harness.send(id, b"so am I");
    harness.read_exactly(&mut peer, b"so am I");
}

pub(crate) fn listening_again_after_stopping<W: World>(make: impl FnOnce(DriverOptions) -> W) {
    let mut harness = listening(make, options());
    let (_peer, _id) = harness.pair();
    harness.driver().stop_listening();
    harness.settle();
    harness.world.listen();
    let (mut peer, id) = harness.pair();
    harness.write_all(&mut peer, b"open again");
    harness.receive(id, b"open again");
}
