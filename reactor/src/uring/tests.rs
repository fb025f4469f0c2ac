//! What the contract suite cannot see: the kernel's answers that the driver is built on, the tables, what is left
//! when all is over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::address::RawAddress;
use super::operation::{Operation, Tag};
use super::ring::{Completion, Follows, Ring};
use super::slots::Flags;
use super::turn::Sleep;
use super::{UringDriver, probe};
use crate::{CloseReason, ConnectionId, Driver, DriverOptions, Event, Moment, ReactorError};

/// The socket of slot 0 of a ring of its own, and its peer.
fn ring_and_peer(send_buffer_bytes: usize) -> (Ring, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    sockopt::set_socket_send_buffer_size(&listener, send_buffer_bytes).expect("SO_SNDBUF");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let mut ring = Ring::new(4).expect("io_uring is allowed here");
    ring.accept(listener.as_fd(), Tag::of(Operation::Accept, 0, 0)).expect("there is room");
    assert_eq!(results(&mut ring), [(Operation::Accept, 0)]);
    (ring, peer)
}

/// Submits, and says which operations completed and how.
fn results(ring: &mut Ring) -> Vec<(Operation, i32)> {
    ring.submit(1).expect("the ring works");
    let mut completions = Vec::new();
    ring.take_reaped(&mut completions);
    let operation =
        |completion: &Completion| Tag::from_bits(completion.user_data).expect("our tag").operation;
    completions.iter().map(|completion| (operation(completion), completion.result)).collect()
}

/// A send that the submit has completed.
fn send(ring: &mut Ring, bytes: &[u8]) -> Vec<(Operation, i32)> {
    let tag = Tag::of(Operation::Send, 0, 0);
    // SAFETY: `bytes` outlives the submit.
    unsafe { ring.send(0, bytes.as_ptr(), bytes.len() as u32, Follows::Anything, tag) }
        .expect("there is room");
    results(ring)
}

#[test]
fn a_send_completes_within_the_submit_and_says_so_only_when_it_fell_short() {
    let (mut ring, mut peer) = ring_and_peer(16 << 10);
    assert_eq!(send(&mut ring, b"all of this fits"), []);
    let mut first = [0; 16];
    peer.read_exact(&mut first).expect("it was sent");
    assert_eq!(&first, b"all of this fits");

    // Far more than both sockets hold: what was taken is told, exactly.
    let bytes: Vec<u8> = (0..32 << 20).map(|number: u32| (number / 7) as u8).collect();
    let mut taken = 0;
    loop {
        match send(&mut ring, &bytes[taken..])[..] {
            [(Operation::Send, count)] if count > 0 => taken += count as usize,
            [(Operation::Send, error)] if error == -libc::EAGAIN => break,
            ref other => panic!("a short send is told once: {other:?}"),
        }
    }
    assert!((1..bytes.len()).contains(&taken));

    let mut received = vec![0; taken];
    peer.read_exact(&mut received).expect("it was sent");
    assert!(received == bytes[..taken], "what was said to be taken is what arrives");
    // Nothing more was sent than was told.
    peer.set_nonblocking(true).expect("a stream can be made non-blocking");
    let error = peer.read(&mut first).expect_err("that was all");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_receive_completes_within_the_submit() {
    let (mut ring, mut peer) = ring_and_peer(64 << 10);
    let mut buffer = [0; 4];
    let mut receive = |ring: &mut Ring| {
        let tag = Tag::of(Operation::Receive, 0, 0);
        // SAFETY: the completion comes within this closure's life of `buffer`: that is what is tested.
        unsafe { ring.receive(0, buffer.as_mut_ptr(), 4, tag) }.expect("there is room");
        (results(ring), buffer)
    };
    assert_eq!(
        receive(&mut ring).0,
        [(Operation::Receive, -libc::EAGAIN)],
        "nothing is there, and nothing waits"
    );
    peer.write_all(b"123456").expect("the socket has room");
    assert_eq!(receive(&mut ring), (vec![(Operation::Receive, 4)], *b"1234"));
    assert_eq!(receive(&mut ring), (vec![(Operation::Receive, 2)], *b"5634"));
}

#[test]
fn a_connect_chain_completes_once_whichever_link_fails() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = RawAddress::from(listener.local_addr().expect("bound"));
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|other| other.local_addr());
    let nobody = RawAddress::from(nobody.expect("a port"));
    let foreign = RawAddress::from(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0)));
    let mut ring = Ring::new(4).expect("io_uring is allowed here");
    let tag = Tag::of(Operation::Connect, 0, 0);
    let mut connect = |slot, source, target| {
        // SAFETY: the addresses live in this test; there is no send buffer size.
        unsafe { ring.connect(slot, source, target, Some(&65_536), tag) }.expect("there is room");
        let mut completed = Vec::new();
        for _ in 0..100 {
            completed.extend(results(&mut ring));
        }
        completed
    };
    assert_eq!(connect(0, None, &target), [(Operation::Connect, 0)]);
    assert_eq!(connect(1, None, &nobody), [(Operation::Connect, -libc::ECONNREFUSED)]);
    assert_eq!(connect(2, Some(&foreign), &target), [(Operation::Connect, -libc::EADDRNOTAVAIL)]);
    let beyond = connect(4, None, &target);
    assert!(matches!(beyond[..], [(Operation::Connect, error)] if error < 0), "no such slot: {beyond:?}");
}

/// A driver whose rings hold eight connections each, and the address at which it listens.
fn driver(connections: usize) -> (UringDriver, SocketAddr) {
    let options = DriverOptions {
        receive_buffer_bytes: 1024,
        receive_buffers: 16,
        connections,
        send_buffer_bytes: Some(32 << 10),
    };
    let mut driver = UringDriver::with_table_slots(options, 8).expect("io_uring is allowed here");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    driver.listen(listener).expect("it listens");
    (driver, address)
}

/// Turns until the condition holds.
fn turn_until(driver: &mut UringDriver, mut condition: impl FnMut(&mut UringDriver, Vec<Event>) -> bool) {
    let limit = driver.now().after(Duration::from_secs(20));
    loop {
        let mut events = Vec::new();
        let soon = driver.now().after(Duration::from_millis(2));
        driver.turn(Some(soon), &mut events).expect("the driver works");
        if condition(driver, events) {
            return;
        }
        assert!(driver.now() < limit, "waited in vain");
    }
}

/// Nothing is lent, promised or held for nobody.
fn assert_nothing_is_left(driver: &mut UringDriver) {
    assert_eq!(driver.connections(), 0);
    assert_eq!((driver.tables.used(), driver.receiving, driver.parked.len()), (0, 0, 0));
    assert_eq!(driver.pool.free_slots(), 16, "every loan was returned");
    assert!(driver.sending.is_empty() && driver.writable.is_empty() && driver.connecting.is_empty());
}

#[test]
fn tables_are_filled_to_the_last_slot_and_no_connection_is_lost() {
    let (mut driver, address) = driver(100);
    let mut peers: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let mut accepted = Vec::new();
    turn_until(&mut driver, |_, events| {
        accepted.extend(events.into_iter().map(|event| match event {
            Event::Accepted(id) => id,
            other => panic!("nothing else has happened, but {other:?}"),
        }));
        accepted.len() == 100
    });
    // 12 rings of eight, and four slots of the thirteenth.
    assert_eq!(driver.rings(), 13);
    let indices: BTreeSet<u32> = accepted.iter().map(|id| id.index).collect();
    assert_eq!(indices, (0..100).collect());

    // One too many waits in the accept queue, and is let in when there is room.
    let mut late = TcpStream::connect(address).expect("the accept queue takes it");
    late.write_all(b"late").expect("the socket takes it");
    let mut turns = 0;
    turn_until(&mut driver, |driver, events| {
        turns += 1;
        assert!(events.is_empty() && driver.connections() == 100, "{events:?}");
        turns == 5
    });
    driver.close(accepted[42]);
    let mut heard = false;
    turn_until(&mut driver, |_, events| {
        for event in events {
            match event {
                Event::Closed(id, CloseReason::Requested) => assert_eq!(id, accepted[42]),
                Event::Accepted(id) => {
                    assert_eq!(id, ConnectionId { index: accepted[42].index, generation: 1 });
                }
                Event::Received(_, buffer) => heard = &*buffer == b"late",
                other => panic!("{other:?}"),
            }
        }
        heard
    });
    peers.truncate(1);
    drop(driver);
    // Who drops the driver closes its connections.
    assert!(matches!(peers[0].read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn who_was_accepted_beyond_the_limit_is_shown_when_another_closes() {
    let (mut driver, address) = driver(2);
    let mut peers = vec![TcpStream::connect(address).expect("it listens")];
    let mut first = None;
    turn_until(&mut driver, |_, events| {
        first = events.iter().find_map(|event| match event {
            Event::Accepted(id) => Some(*id),
            _ => None,
        });
        first.is_some()
    });
    // The accept for the second place is armed now.
    driver.turn(Some(Moment(0)), &mut Vec::new()).expect("the driver works");
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let ours = driver.connect(None, elsewhere.local_addr().expect("bound")).expect("there is room for one");
    assert!(matches!(
        driver.connect(None, elsewhere.local_addr().expect("bound")),
        Err(ReactorError::Full { slots: 2 })
    ));
    peers.push(TcpStream::connect(address).expect("it listens"));
    peers[1].write_all(b"patience").expect("the socket takes it");
    turn_until(&mut driver, |driver, events| {
        let is_shown = events.iter().any(|event| matches!(event, Event::Accepted(_) | Event::Received(..)));
        assert!(!is_shown && driver.connections() == 2, "{events:?}");
        driver.parked.len() == 1
    });
    driver.abort(ours);
    let mut heard = false;
    turn_until(&mut driver, |_, events| {
        heard |= events
            .iter()
            .any(|event| matches!(event, Event::Received(_, buffer) if **buffer == *b"patience"));
        heard
    });
    assert_eq!((driver.connections(), driver.parked.len()), (2, 0));
}

#[test]
fn completions_of_an_older_life_of_a_slot_reach_nobody() {
    let (mut driver, address) = driver(8);
    let _peer = TcpStream::connect(address).expect("it listens");
    let mut id = None;
    turn_until(&mut driver, |_, events| {
        id = events.iter().find_map(|event| match event {
            Event::Accepted(id) => Some(*id),
            _ => None,
        });
        id.is_some()
    });
    let id = id.expect("it was accepted");
    let before = format!("{:?}", driver.slots.find(id.index));
    let mut events = Vec::new();
    for operation in [
        Operation::Readable,
        Operation::Writable,
        Operation::Send,
        Operation::Install,
        Operation::Shutdown,
        Operation::Connect,
        Operation::CancelConnect,
        Operation::Close,
    ] {
        for result in [-libc::ECANCELED, -libc::ECONNRESET, i32::MAX] {
            let user_data = Tag::of(operation, id.index, id.generation.wrapping_sub(1)).to_bits();
            let completion = Completion { user_data, result, flags: 0 };
            driver.completed(0, completion, &mut events).expect("nothing is submitted");
        }
    }
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(format!("{:?}", driver.slots.find(id.index)), before);
}

#[test]
fn a_short_send_is_remembered_when_room_is_told_in_the_same_pass() {
    let (mut driver, address) = driver(8);
    let mut peer = TcpStream::connect(address).expect("it listens");
    let mut id = None;
    turn_until(&mut driver, |_, events| {
        id = events.iter().find_map(|event| match event {
            Event::Accepted(id) => Some(*id),
            _ => None,
        });
        id.is_some()
    });
    let id = id.expect("it was accepted");
    let sent: Vec<u8> = (0..4_000_000u32).map(|number| (number / 7) as u8).collect();
    driver.output(id).expect("it is open").buffer().extend_from_slice(&sent);

    // A turn, step by step: the send falls short, and waiting for room is queued.
    let mut events = Vec::new();
    driver.submit_dirty().expect("there is room");
    driver.pass(Sleep::No).expect("the driver works");
    driver.handle_completions(&mut events).expect("the driver works");
    assert!(driver.unsent_bytes(id) > 0, "it fell short");
    // The peer makes room, and a queue that is full of other connections' entries is submitted before the sends of this
    // pass are settled.
    let mut got: Vec<u8> = Vec::new();
    let limit = driver.now().after(Duration::from_secs(20));
    while driver.slots.at(id.index).flags.has(Flags::WRITABLE_ARMED) {
        let mut piece = vec![0; 100_000];
        let count = peer.read(&mut piece).expect("there is more");
        got.extend_from_slice(&piece[..count]);
        driver.pass(Sleep::No).expect("the driver works");
        driver.handle_completions(&mut events).expect("the driver works");
        assert!(driver.now() < limit, "waited in vain");
    }
    driver.settle_sends(&mut events).expect("the driver works");
    assert!(driver.unsent_bytes(id) > 0, "what was not sent was thrown away");

    peer.set_nonblocking(true).expect("a stream can be made non-blocking");
    turn_until(&mut driver, |_, _| {
        let mut piece = vec![0; 100_000];
        while let Ok(count @ 1..) = peer.read(&mut piece) {
            got.extend_from_slice(&piece[..count]);
        }
        got.len() >= sent.len()
    });
    assert!(got == sent, "every byte once, in order");
}

/// A generator of bad days (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn whatever_happens_every_connection_is_closed_once_and_nothing_is_left() {
    for seed in 1..=8 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let (mut driver, address) = driver(200);
        let mut peers = Vec::<TcpStream>::new();
        // What is open, and whether its owner has asked for its end.
        let mut open = BTreeMap::<ConnectionId, bool>::new();
        let mut events = Vec::new();
        let mut steps = 0;
        while steps < 3_000 || driver.connections() > 0 || !peers.is_empty() {
            steps += 1;
            assert!(steps < 60_000, "seed {seed}: {} connections never end", driver.connections());
            if steps == 3_000 {
                driver.stop_listening();
                peers.clear();
            }
            let is_over = steps >= 3_000;
            let peer = dice.below(peers.len().max(1));
            match dice.below(8) {
                0 | 1 if !is_over && peers.len() < 150 => {
                    let peer = TcpStream::connect(address).expect("it listens");
                    peer.set_nonblocking(true).expect("a stream can be made non-blocking");
                    peers.push(peer);
                }
                2 if !is_over && driver.connections() < 180 => {
                    // Half of them find somebody: ourselves.
                    let target = if dice.below(2) == 0 { address } else { ([127, 0, 0, 1], 1).into() };
                    let id = driver.connect(None, target).expect("there is room");
                    assert!(open.insert(id, false).is_none(), "seed {seed}: {id:?} names two connections");
                }
                3 | 4 if !peers.is_empty() => {
                    let bytes = vec![steps as u8; 1 + dice.below(200_000)];
                    let _ = peers[peer].write(&bytes);
                    if dice.below(3) == 0 {
                        let _ = peers[peer].read(&mut vec![0; 100_000]);
                    }
                }
                5 if !peers.is_empty() => {
                    let peer = peers.swap_remove(peer);
                    if dice.below(2) == 0 {
                        sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("SO_LINGER");
                    }
                }
                _ => {
                    let until = driver.now().after(Duration::from_micros(dice.below(300) as u64));
                    driver.turn(Some(until), &mut events).expect("the driver works");
                }
            }
            for event in events.drain(..) {
                match event {
                    Event::Accepted(id) => {
                        assert!(
                            open.insert(id, false).is_none(),
                            "seed {seed}: {id:?} names two connections"
                        );
                    }
                    Event::Closed(id, reason) => {
                        let asked = open.remove(&id).expect("it was open");
                        let is_requested = matches!(reason, CloseReason::Requested);
                        assert_eq!(is_requested, asked, "seed {seed}: {id:?}: {reason:?}");
                    }
                    Event::AcceptFailed(error) => panic!("seed {seed}: {error}"),
                    Event::Connected(id)
                    | Event::EndOfStream(id)
                    | Event::Drained(id)
                    | Event::Received(id, _) => {
                        assert_eq!(
                            open.get(&id),
                            Some(&false),
                            "seed {seed}: an event of {id:?} after its end"
                        );
                    }
                }
            }
            // The owner's whims; at last it closes all.
            let id = open.keys().nth(dice.below(open.len().max(1))).copied();
            let whim = if is_over { dice.below(2) } else { dice.below(12) };
            let Some(id) = id else { continue };
            match whim {
                0 => {
                    driver.close(id);
                    open.insert(id, true);
                }
                1 => {
                    driver.abort(id);
                    open.insert(id, true);
                }
                2 => driver.shutdown(id),
                3 => driver.pause(id),
                4 | 5 => driver.resume(id),
                6..=9 => {
                    if let Some(output) = driver.output(id) {
                        output.buffer().extend_from_slice(&vec![7; 1 + 10 * (steps % 5_000)]);
                    }
                }
                _ => {}
            }
        }
        assert!(open.is_empty(), "seed {seed}: {open:?}");
        assert_nothing_is_left(&mut driver);
    }
}

#[test]
fn last_words_arrive_though_the_peer_was_not_listened_to() {
    let (mut driver, address) = driver(16);
    let mut peer = TcpStream::connect(address).expect("it listens");
    let mut accepted = None;
    turn_until(&mut driver, |_, events| {
        accepted = events.iter().find_map(|event| match event {
            Event::Accepted(id) => Some(*id),
            _ => None,
        });
        accepted.is_some()
    });
    let id = accepted.expect("waited for");
    driver.pause(id);
    peer.write_all(&[b'x'; 100_000]).expect("there is room");
    driver.output(id).expect("it is open").buffer().extend_from_slice(b"last words");
    driver.close(id);
    turn_until(&mut driver, |_, events| {
        events.iter().any(|event| matches!(event, Event::Closed(_, CloseReason::Requested)))
    });
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).expect("FIN, and no reset");
    assert_eq!(heard, b"last words");
    assert_nothing_is_left(&mut driver);
}

#[test]
fn a_driver_that_is_dropped_leaves_no_descriptor() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    // Other tests of this process open and close some meanwhile; two hundred rings would stand out.
    let before = descriptors();
    for _ in 0..100 {
        let (mut driver, address) = driver(20);
        let peers: Vec<TcpStream> =
            (0..12).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        turn_until(&mut driver, |driver, _| driver.connections() == 12);
        assert_eq!(driver.rings(), 2);
        drop(driver);
        drop(peers);
    }
    let after = descriptors();
    assert!(after < before + 150, "{before} descriptors before, {after} after");
}

#[test]
fn the_probe_says_what_the_driver_finds() {
    let found = probe().expect("io_uring is allowed here");
    assert!(found.table_slots > 0 && !found.kernel.is_empty());
    assert!(found.to_string().contains(&found.kernel));
}
