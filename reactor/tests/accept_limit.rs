//! What the epoll driver does when the process has no descriptor left: it says so, keeps trying without spinning,
//! and goes on as soon as there is one. Alone in its binary, because the limit is the whole process's.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use holdfast_reactor::epoll::EpollDriver;
use holdfast_reactor::{CloseReason, ConnectionId, Driver, DriverOptions, Event};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Turns until something has come or the time is over; how many turns that took, and what came.
fn turn_for(driver: &mut EpollDriver, time: Duration) -> (usize, Vec<Event>) {
    let until = driver.now().after(time);
    let (mut turns, mut events) = (0, Vec::new());
    while driver.now() < until {
        driver.turn(Some(until), &mut events).expect("the driver goes on");
        turns += 1;
    }
    (turns, events)
}

fn accepted(events: &[Event]) -> Vec<ConnectionId> {
    let accepted = events.iter().map(|event| if let Event::Accepted(id) = event { Some(*id) } else { None });
    accepted.flatten().collect()
}

fn failures(events: &[Event]) -> usize {
    let is_emfile = |event: &&Event| {
        matches!(event, Event::AcceptFailed(error)
            if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()))
    };
    events.iter().filter(is_emfile).count()
}

#[test]
fn without_descriptors_accepting_waits_and_does_not_spin() {
    let mut driver = EpollDriver::new(DriverOptions::default()).expect("epoll is always there");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("a bound listener has an address");
    driver.listen(listener).expect("the driver takes a listener");

    let inside: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    let (_, events) = turn_for(&mut driver, Duration::from_millis(20));
    let ids = accepted(&events);
    assert_eq!(ids.len(), 3);

    let mut outside: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    // The lowest descriptor that is free is the one that the next socket would get.
    let next = std::fs::File::open("/dev/null").expect("a descriptor");
    let limit = getrlimit(Resource::Nofile);
    let free_from = rustix::fd::AsRawFd::as_raw_fd(&next) as u64;
    drop(next);
    setrlimit(Resource::Nofile, Rlimit { current: Some(free_from), maximum: limit.maximum })
        .expect("the soft limit can be lowered");

    let (turns, events) = turn_for(&mut driver, Duration::from_millis(350));
    assert_eq!(accepted(&events).len(), 0, "there was no descriptor");
    // At once, and then every 100 ms.
    assert!((2..=5).contains(&failures(&events)), "{events:?}");
    assert!(turns < 20, "{turns} turns in 350 ms with nothing to do");

    // One leaves, one comes, without waiting for the next try.
    driver.close(ids[0]);
    let mut events = Vec::new();
    while accepted(&events).is_empty() {
        driver.turn(None, &mut events).expect("the driver goes on");
    }
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Closed(id, CloseReason::Requested) if *id == ids[0]))
    );

    setrlimit(Resource::Nofile, limit).expect("the limit can be raised to where it was");
    while accepted(&events).len() < 3 {
        driver.turn(None, &mut events).expect("the driver goes on");
    }
    // They can talk, those who came early and those who had to wait.
    drop(inside);
    for stream in &mut outside {
        std::io::Write::write_all(stream, b"here").expect("the stream is open");
    }
    let (_, events) = turn_for(&mut driver, Duration::from_millis(50));
    let heard =
        events.iter().filter(|event| matches!(event, Event::Received(_, bytes) if **bytes == *b"here"));
    assert_eq!(heard.count(), 3);
}
