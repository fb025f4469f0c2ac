//! `echo`, `connect` and `hold` against servers that we did not write, some of which do one thing wrong.

mod support;

use std::sync::atomic::Ordering;

use support::echo_server::{EchoServer, Fault};
use support::{DRIVERS, load};

const SHORT: [&str; 4] = ["--duration", "400ms", "--warmup", "100ms"];

fn echo(driver: &str, server: &EchoServer, more: &[&str]) -> support::Run {
    let url = server.url();
    let words: Vec<&str> = ["echo", &url].into_iter().chain(SHORT).chain(more.iter().copied()).collect();
    load(driver, &words)
}

#[test]
fn an_honest_server_passes() {
    for driver in DRIVERS {
        let server = EchoServer::start(Fault::None);
        for more in [
            &["-n", "20", "--in-flight", "1"][..],
            &["-n", "20", "--in-flight", "16", "--text", "--size", "200"],
            &["-n", "2", "--in-flight", "3", "--size", "70000"],
            &["-n", "1", "--size", "1"],
            &["-n", "8", "--threads", "2", "--in-flight", "2"],
        ] {
            let run = echo(driver, &server, more).expect(0);
            assert_eq!(run.json["verdict"], "pass");
            assert_eq!(run.json["generator"]["driver"], driver);
            assert!(run.number("/messages/delivered") > 10.0);
            assert_eq!(run.number("/messages/sent"), run.number("/messages/delivered"), "all were answered");
            assert!(run.number("/latency_us/echo/p50") > 0.0);
            assert_eq!(run.number("/connections/held"), run.number("/connections/target"));
        }
    }
}

#[test]
fn whatever_a_server_does_wrong_is_found() {
    for driver in DRIVERS {
        for (fault, counter) in [
            (Fault::Drop(10), "lost"),
            (Fault::Double(10), "duplicated"),
            (Fault::Swap(10), "reordered"),
            (Fault::Corrupt(10), "corrupted"),
        ] {
            let server = EchoServer::start(fault);
            let run = echo(driver, &server, &["-n", "3", "--in-flight", "4"]).expect(2);
            for name in ["lost", "duplicated", "reordered", "corrupted"] {
                let expected = if name == counter { 1.0 } else { 0.0 };
                let found = run.number(&format!("/messages/{name}"));
                assert_eq!(found, expected, "{fault:?} on {driver}: {name}\n{}", run.stdout);
            }
        }
    }
}

#[test]
fn a_connection_that_ends_is_named_with_its_reason() {
    for (fault, reason) in [
        (Fault::Close(5), "closed by the server: 1008 go away"),
        (Fault::HangUp(5), "hung up without a close frame"),
    ] {
        let server = EchoServer::start(fault);
        // The message that was under way is lost too, and that is the graver thing.
        let run = echo("uring", &server, &["-n", "3"]).expect(2);
        assert_eq!(run.number("/connections/lost"), 1.0);
        assert!(run.json["connections"]["losses"].to_string().contains(reason), "{}", run.stdout);
        // RFC 6455 §7.1.1: the server closes the connection first.
        assert_eq!(server.early_ends.load(Ordering::Relaxed), 0);
        let run =
            load("epoll", &["hold", &EchoServer::start(fault).url(), "-n", "3", "--hold", "200ms"]).expect(0);
        assert_eq!(run.number("/connections/lost"), 0.0, "without a message nothing goes wrong here");
    }
}

#[test]
fn a_stall_is_charged_to_the_server_from_the_intended_moment() {
    let server = EchoServer::start(Fault::Stall(50, 300));
    let more =
        ["-n", "1", "--in-flight", "1000", "--rate", "500", "--arrivals", "constant", "--lateness", "100ms"];
    let run = echo("uring", &server, &more).expect(0);
    assert!(run.number("/latency_us/echo/max") > 250_000.0, "{}", run.stdout);
    // 150 messages were due in those 300 ms; a closed loop would have noticed one.
    assert!(run.number("/latency_us/echo/p90") > 50_000.0, "{}", run.stdout);
}

#[test]
fn a_generator_that_is_late_says_so() {
    let server = EchoServer::start(Fault::None);
    // No machine hands over within 0 ns.
    let run = echo(
        "uring",
        &server,
        &["-n", "4", "--rate", "2000", "--in-flight", "64", "--lateness", "0s", "--lateness-share", "0"],
    )
    .expect(3);
    assert_eq!(run.json["generator"]["lateness"]["limited"], true);
    assert!(run.stdout.contains("the generator itself was the limit"), "{}", run.stdout);
}

#[test]
fn refused_and_absent_servers_are_named() {
    let refusing = EchoServer::start(Fault::Refuse);
    let run = echo("uring", &refusing, &["-n", "2", "--attempts", "2"]).expect(1);
    assert!(run.json["connections"]["failures"]["upgrade: HTTP 503"].as_u64() == Some(4), "{}", run.stdout);
    for driver in DRIVERS {
        let run =
            load(driver, &["hold", "ws://127.0.0.1:9/", "-n", "2", "--attempts", "1", "--hold", "10ms"])
                .expect(1);
        let failures = &run.json["connections"]["failures"];
        assert_eq!(failures["connect: ECONNREFUSED"].as_u64(), Some(2), "{}", run.stdout);
    }
}

#[test]
fn a_server_that_never_answers_times_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let words = ["hold", &url, "-n", "2", "--attempts", "1", "--timeout", "200ms", "--hold", "10ms"];
    let run = load("uring", &words).expect(1);
    assert_eq!(run.json["connections"]["failures"]["upgrade timed out"].as_u64(), Some(2), "{}", run.stdout);
}

#[test]
fn headers_and_subprotocols_reach_the_server() {
    let server = EchoServer::start(Fault::None);
    let url = format!("ws://{}/guarded", server.address);
    let words = ["hold", &url, "-n", "1", "--hold", "10ms", "--attempts", "1"];
    load("uring", &words).expect(1);
    let more = ["--header", "X-Key: secret", "--subprotocol", "chat.v2", "--subprotocol", "chat.v1"];
    let words: Vec<&str> = words.into_iter().chain(more).collect();
    load("uring", &words).expect(0);
}

#[test]
fn heartbeats_are_spread_and_on_time() {
    for driver in DRIVERS {
        let server = EchoServer::start(Fault::None);
        let words =
            ["hold", &server.url(), "-n", "20", "--heartbeat", "200ms", "--hold", "1s", "--ramp", "1000"];
        let run = load(driver, &words).expect(0);
        // 20 connections beat 5 times a second, for a second and what the ramp and the close took.
        let sent = run.number("/generator/heartbeats");
        assert!((100.0..160.0).contains(&sent), "{sent} heartbeats\n{}", run.stdout);
        assert!(server.pongs.load(Ordering::Relaxed) as f64 >= sent - 20.0);
        assert!(run.number("/generator/heartbeat_lateness_us/p50") < 20_000.0);
    }
}

#[test]
fn handshakes_again_and_again() {
    for driver in DRIVERS {
        let server = EchoServer::start(Fault::None);
        let url = server.url();
        let base = ["connect", &url, "-n", "4", "--warmup", "50ms", "--duration", "5s", "--repeat", "50"];
        for more in [&[][..], &["--reset"], &["--rate", "400"]] {
            let words: Vec<&str> = base.iter().chain(more).copied().collect();
            let run = load(driver, &words).expect(0);
            assert!(run.number("/connections/opened") >= 50.0);
            assert!(run.number("/latency_us/handshake/count") >= 50.0);
            assert!(run.number("/seconds/load") < 5.0, "--repeat ends it");
        }
    }
}

#[test]
fn a_named_process_is_measured() {
    let server = EchoServer::start(Fault::None);
    let pid = std::process::id().to_string();
    let run = echo("uring", &server, &["-n", "10", "--server-pid", &pid]).expect(0);
    assert!(run.number("/server/cpu_us_per_message") > 0.1);
    assert!(run.number("/server/total_bytes") > 1e6);
    assert!(run.number("/server/cpu/load/total_us") > 0.0);
    assert_eq!(run.number("/server/pid"), f64::from(std::process::id()));
}

#[test]
fn runs_that_cannot_be_set_up() {
    let says = |words: &[&str], part: &str| {
        let run = load("uring", words).expect(4);
        assert!(run.stderr.contains(part), "`{part}` in {}", run.stderr);
    };
    says(&["hold", "wss://127.0.0.1/"], "wss:// is not supported yet");
    says(&["echo", "http://127.0.0.1/"], "begins with ws://");
    says(&["chat", "ws://127.0.0.1:9/ws"], "--data");
    says(&["chat", "ws://127.0.0.1:9/ws", "-n", "3", "--data", "x"], "even");
    says(&["hold", "ws://127.0.0.1:9/", "--login"], "--token-key");
    says(&["hold", "ws://127.0.0.1:9/", "--data", "/no/such"], "token.key");
    says(&["hold", "ws://127.0.0.1:9/", "-n", "0"], "at least 1");
    says(&["echo", "ws://127.0.0.1:9/", "--rate", "0"], "more than 0");
    says(&["hold", "ws://127.0.0.1:9/", "--server-pid", "4000000000"], "has the process ended?");
    says(&["hold", "ws://127.0.0.1:9/", "--hold", "soon"], "is no duration");
    says(
        &["million", "--server", "/no/such/holdfast", "--keep-settings", "-n", "2"],
        "cargo build --release",
    );
}
