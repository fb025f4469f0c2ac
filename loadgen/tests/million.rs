//! `million --watchers` against the `holdfast` that lies beside the generator's binary.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::{Run, load, server};

/// A server that has another grace than the generator tells it.
fn with_grace(directory: &Path, server: &Path, grace: &str) -> PathBuf {
    let path = directory.join("server");
    let text =
        format!("#!/bin/sh\nHOLDFAST_LIMITS__PRESENCE_GRACE={grace} exec '{}' \"$@\"\n", server.display());
    std::fs::write(&path, text).expect("it can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// 40 of 200 watch 10 each. What is measured of a few sessions on a shared machine
/// says nothing, and is not judged.
fn million(driver: &str, server: &Path, more: &[&str]) -> Run {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let html = directory.path().join("report.html").display().to_string();
    let server = server.display().to_string();
    let driver_of_server = format!("--server-arg={driver}");
    let words = [
        "million",
        "-n",
        "200",
        "--watchers",
        "40",
        "--watched",
        "10",
        "--watch-rate",
        "200",
        "--ramp",
        "200",
        "--hold",
        "500ms",
        "--heartbeat",
        "500ms",
        "--duration",
        "3s",
        "--rate",
        "200",
        "--keep-settings",
        "--quiet",
        "--server",
        &server,
        "--server-arg=--driver",
        &driver_of_server,
        "--server-arg=--set",
        "--server-arg=drain.timeout=1s",
        "--html",
        &html,
        "--lateness",
        "10s",
        "--max-user-bytes",
        "1e9",
        "--max-total-bytes",
        "1e9",
        "--max-idle-cpu",
        "1e9",
        "--min-ramp",
        "1",
        "--max-watcher-bytes",
        "1e9",
        "--max-presence-factor",
        "1e9",
    ];
    let run = load(driver, &words.into_iter().chain(more.iter().copied()).collect::<Vec<_>>());
    if run.code != 4 {
        let page = std::fs::read_to_string(&html).expect("it wrote a page");
        assert!(page.contains("Latency with presence"), "the page has the plot of presence");
    }
    run
}

fn every_watcher_hears_of_everybody_who_comes_and_goes(driver: &str) {
    let Some(server) = server() else { return };
    let run =
        million(driver, &server, &["--threads", "2", "--flapping", "600%", "--presence-grace", "200ms"])
            .expect(0);
    let of = |name: &str| run.number(&format!("/presence/{name}"));
    assert_eq!(of("watching"), 40.0);
    assert!(of("flaps") >= 20.0, "20 per second are due in three seconds: {}", run.stdout);
    assert_eq!(of("returned"), of("flaps"));
    assert!(of("expected") > 0.0 && of("seen") >= 0.99 * of("expected"), "{}", run.stdout);
    assert!(of("told") >= 40.0 * 10.0 + of("seen"), "each contact once, and then each change");
    for wrong in ["misrouted", "invented", "stale", "untold"] {
        assert_eq!(of(wrong), 0.0, "{wrong}");
    }
    // Half of the changes are somebody's leave, half a return; each is timed.
    for name in ["presence_offline", "presence_online"] {
        assert!(run.number(&format!("/latency_us/{name}/count")) > 0.0, "{name}");
    }
    assert!(
        run.number("/latency_us/presence_offline/min") >= 100_000.0,
        "nobody is gone before the grace is"
    );
    let messages = run.number("/latency_us/delivered/count");
    let with_presence = run.number("/latency_us/delivered_with_presence/count");
    assert!(messages > 0.0 && with_presence > 0.0);
    assert_eq!(messages + with_presence, run.number("/messages/delivered"));
    assert_eq!(run.number("/messages/lost") + run.number("/connections/lost"), 0.0);
    assert_eq!(run.json["server"]["environment"]["HOLDFAST_LIMITS__PRESENCE_GRACE"], "200ms");
}

#[test]
fn every_watcher_hears_of_everybody_on_uring() {
    every_watcher_hears_of_everybody_who_comes_and_goes("uring");
}

#[test]
fn every_watcher_hears_of_everybody_on_epoll() {
    every_watcher_hears_of_everybody_who_comes_and_goes("epoll");
}

#[test]
fn who_is_called_offline_too_early_is_found() {
    let Some(server) = server() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = with_grace(directory.path(), &server, "0s");
    let run = million("uring", &server, &["--flapping", "100%", "--presence-grace", "1s", "--quiesce", "8s"])
        .expect(2);
    assert!(run.number("/presence/invented") > 0.0, "{}", run.stdout);
    assert_eq!(run.json["outcome"], "incorrect");
}

#[test]
fn changes_that_nobody_is_told_of_are_missed() {
    let Some(server) = server() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = with_grace(directory.path(), &server, "5min");
    let run =
        million("uring", &server, &["--flapping", "600%", "--presence-grace", "200ms", "--quiesce", "6s"])
            .expect(1);
    assert_eq!(run.number("/presence/coalesced"), run.number("/presence/expected"));
    assert_eq!(run.number("/presence/stale"), 0.0, "at the end everybody is there, as everybody believes");
    assert!(run.stdout.contains("MISS  changes of presence seen"), "{}", run.stdout);
}
