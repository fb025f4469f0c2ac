//! `sync` against a server in one page that does one thing wrong: each thing is found, and called by its name.

mod support;

use support::chat_server::{ChatServer, Fault};
use support::{DRIVERS, Run, load};

fn sync(driver: &str, server: &ChatServer, more: &[&str]) -> Run {
    let key = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(key.path().join("token.key"), [7; 32]).expect("it can be written");
    let data = key.path().to_str().expect("a temporary directory has a plain name");
    let url = server.url();
    // Two groups of three, of which two write.
    let words = ["sync", &url, "--data", data, "-n", "6", "--group-members", "3", "--behind", "120"];
    let words: Vec<&str> =
        words.into_iter().chain(["--writers", "2", "--duration", "3s"]).chain(more.iter().copied()).collect();
    load(driver, &words)
}

#[test]
fn an_honest_server_passes() {
    for driver in DRIVERS {
        for more in [&[][..], &["--format", "json"], &["--hello"], &["--threads", "2"], &["--ramp", "100"]] {
            let server = ChatServer::start(Fault::None);
            let run = sync(driver, &server, more).expect(0);
            for (what, wanted) in [
                ("sent", 238.0),
                ("acked", 238.0),
                ("sync/filled", 238.0),
                ("sync/live", 6.0),
                ("sync/entries", 720.0),
                // 120 entries are three pages of at most 50.
                ("sync/pages", 18.0),
                ("delivered", 476.0),
                ("chat/own", 238.0),
                ("chat/foreign", 0.0),
            ] {
                assert_eq!(run.number(&format!("/messages/{what}")), wanted, "{what}\n{}", run.stdout);
            }
            assert!(run.number("/messages/sync/entries_per_second") > 0.0);
            assert!(run.number("/messages/sync/page_bytes") > 720.0 * 128.0);
            assert_eq!(run.number("/latency_us/first_page/count"), 6.0);
            assert_eq!(run.number("/latency_us/live/count"), 6.0);
            assert!(run.number("/seconds/fill") > 0.0 && run.number("/seconds/sync") > 0.0);
        }
    }
}

#[test]
fn whatever_is_wrong_with_an_inbox_is_found() {
    for format in ["proto", "json"] {
        for (fault, counter) in [
            (Fault::LoseDelivery(30), "lost"),
            (Fault::LoseOwnEvent(30), "chat/own_lost"),
            (Fault::DeliverTwice(30), "duplicated"),
            (Fault::Reorder(30), "reordered"),
            (Fault::Corrupt(30), "corrupted"),
            (Fault::SkipRev(30), "chat/revs_missing"),
            (Fault::SkipSeq(30), "chat/seqs_missing"),
            (Fault::RepeatPage, "chat/revs_repeated"),
            (Fault::LiveTooEarly, "chat/revs_missing"),
        ] {
            let server = ChatServer::start(fault);
            let run = sync("uring", &server, &["--format", format]).expect(2);
            assert!(run.number(&format!("/messages/{counter}")) >= 1.0, "{fault:?}\n{}", run.stdout);
            assert_eq!(run.json["outcome"], "incorrect");
        }
    }
}

#[test]
fn filling_survives_refusals_and_reconnects() {
    for fault in [Fault::RateLimit(30), Fault::CloseAll(30, 4_201), Fault::DelayGroups] {
        let server = ChatServer::start(fault);
        let run = sync("epoll", &server, &[]).expect(0);
        assert!(run.number("/messages/chat/resent") >= 1.0, "{fault:?}\n{}", run.stdout);
        assert_eq!(run.number("/messages/sync/entries"), 720.0);
    }
}

#[test]
fn what_earlier_runs_left_is_read_and_not_judged() {
    let server = ChatServer::start(Fault::None);
    sync("uring", &server, &[]).expect(0);
    let run = sync("uring", &server, &[]).expect(0);
    assert_eq!(run.number("/messages/sync/entries"), 1_440.0);
    assert_eq!(run.number("/messages/chat/foreign"), 720.0);
}

#[test]
fn inboxes_that_cannot_be_filled_are_said_so() {
    let server = ChatServer::start(Fault::RefuseGroups);
    let run = sync("uring", &server, &[]).expect(4);
    assert!(run.stderr.contains("too_many_members: planted"), "{}", run.stderr);
    let server = ChatServer::start(Fault::Ignore(30));
    let run = sync("uring", &server, &["--fill-within", "500ms"]).expect(4);
    assert!(run.stderr.contains("are missing") && run.stderr.contains("--fill-within"), "{}", run.stderr);
    let run = load("uring", &["sync", &server.url(), "-n", "100", "--behind", "1"]).expect(4);
    assert!(run.stderr.contains("--behind 1: an inbox gets 2 to"), "{}", run.stderr);
}
