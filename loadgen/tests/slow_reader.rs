//! `slow-reader` against the `holdfast` that lies beside the generator's binary.

mod support;

use std::path::Path;
use std::time::Duration;

use holdfast_loadgen::server::{ServerOptions, ServerProcess};
use support::{DRIVERS, Run, load, server};

/// A server on this driver that lets a session send faster than by default; `None`: it was not built.
fn start(directory: &Path, driver: &str) -> Option<ServerProcess> {
    let binary = server()?;
    let settings = [
        "limits.send_per_second=1000",
        "limits.send_burst=1000",
        "heartbeat.interval=500ms",
        "heartbeat.silence_factor=5",
    ];
    let mut arguments = vec!["--driver".to_owned(), driver.to_owned()];
    arguments.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]));
    let options = ServerOptions {
        binary: Some(binary),
        data: directory.to_owned(),
        listen: std::net::Ipv4Addr::LOCALHOST,
        arguments,
        environment: Vec::new(),
        drain: Duration::from_secs(1),
    };
    Some(ServerProcess::start(&options, || true).expect("the server starts"))
}

fn slow_reader(driver: &str, server: &ServerProcess, more: &[&str]) -> Run {
    let key = server.token_key().display().to_string();
    let url = format!("ws://{}/ws", server.loopback());
    let pid = server.pid().to_string();
    let words =
        ["slow-reader", &url, "--token-key", &key, "--server-pid", &pid, "--senders", "20", "--stall", "3s"];
    load(driver, &words.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn who_reads_nothing_costs_little_and_gets_everything() {
    for driver in DRIVERS {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let Some(server) = start(directory.path(), driver) else { return };
        // Readers live through six heartbeats.
        let run = slow_reader(driver, &server, &["--readers", "2", "--messages", "20k", "--threads", "2"])
            .expect(0);
        for (what, wanted) in [
            ("delivered", 20_000.0),
            ("lost", 0.0),
            ("duplicated", 0.0),
            ("reordered", 0.0),
            ("chat/own", 20_000.0),
            ("slow/readers", 2.0),
            ("slow/senders", 20.0),
        ] {
            assert_eq!(run.number(&format!("/messages/{what}")), wanted, "{what}\n{}", run.stdout);
        }
        assert!(run.number("/messages/chat/gaps") >= 2.0 && run.number("/messages/chat/pages") >= 2.0);
        assert!(run.number("/messages/slow/stall_seconds") >= 3.0);
        // What the server says of its memory is what did not come out of any socket, and a little room.
        let said = 2.0 * run.number("/messages/slow/user_bytes");
        let seen = run.number("/messages/slow/waited_in_process_bytes");
        assert!(seen > 2.0 * 250.0 * 1024.0, "{seen} bytes had waited in the process");
        assert!((seen..=seen + 2.0 * 40.0 * 1024.0).contains(&said), "{said} bytes said, {seen} seen");
        let sent = run.number("/messages/slow/socket/send_bytes");
        let limit = run.number("/messages/slow/socket/send_limit_bytes");
        assert!((limit / 2.0..=limit + 80.0 * 1024.0).contains(&sent), "{sent} of {limit} bytes");
    }
}

#[test]
fn what_is_not_met_is_said() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(server) = start(directory.path(), "uring") else { return };
    // So few messages find room in the kernel's buffers: nobody falls behind.
    let run = slow_reader("uring", &server, &["--messages", "200"]).expect(1);
    assert!(run.stdout.contains("MISS  readers that fell behind (gaps)"), "{}", run.stdout);
    assert_eq!(run.number("/messages/delivered"), 200.0);
    let more = [
        "--messages",
        "10k",
        "--first-user",
        "2000000",
        "--max-kernel-bytes",
        "1000",
        "--max-user-bytes",
        "1000",
    ];
    let run = slow_reader("uring", &server, &more).expect(1);
    assert!(run.stdout.contains("MISS  user bytes of a reader"), "{}", run.stdout);
    assert!(run.stdout.contains("MISS  kernel bytes of a reader"), "{}", run.stdout);
    let run = slow_reader("uring", &server, &["--heartbeat", "0s"]).expect(4);
    assert!(run.stderr.contains("closed, as it ought to be"), "{}", run.stderr);
}
