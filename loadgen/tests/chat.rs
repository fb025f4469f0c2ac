//! `chat` against a server in one page that does one thing wrong: each thing is found, and called by its name.

mod support;

use support::chat_server::{ChatServer, Fault};
use support::{DRIVERS, Run, load};

struct Key(tempfile::TempDir);

impl Key {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("token.key"), [7; 32]).expect("it can be written");
        Self(directory)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().expect("a temporary directory has a plain name")
    }
}

/// What users may be made of.
const CLIENTS: [&str; 2] = ["library", "frames"];

fn chat(client: &str, driver: &str, server: &ChatServer, more: &[&str]) -> Run {
    let key = Key::new();
    let url = server.url();
    let words = [
        "chat",
        &url,
        "--client",
        client,
        "--data",
        key.path(),
        "--duration",
        "700ms",
        "--quiesce",
        "700ms",
        "--lateness",
        "1s",
        "--min-rate-share",
        "0.5",
    ];
    let words: Vec<&str> = words.into_iter().chain(more.iter().copied()).collect();
    load(driver, &words)
}

/// What a server may do wrong, and what that is called.
const WRONGS: [(Fault, &str); 8] = [
    (Fault::LoseDelivery(30), "lost"),
    (Fault::LoseOwnEvent(30), "chat/own_lost"),
    (Fault::DeliverTwice(30), "duplicated"),
    (Fault::RepeatRev(30), "chat/revs_repeated"),
    (Fault::Reorder(30), "reordered"),
    (Fault::Corrupt(30), "corrupted"),
    (Fault::SkipRev(30), "chat/revs_missing"),
    (Fault::SkipSeq(30), "chat/seqs_missing"),
];

const FEW: [&str; 6] = ["-n", "4", "--rate", "200", "--arrivals", "constant"];

#[test]
fn an_honest_server_passes() {
    for client in CLIENTS {
        for driver in DRIVERS {
            for more in
                [&[][..], &["--format", "json"], &["--hello"], &["--threads", "2"], &["--size", "4000"]]
            {
                let server = ChatServer::start(Fault::None);
                let words: Vec<&str> = FEW.iter().chain(more).copied().collect();
                let run = chat(client, driver, &server, &words).expect(0);
                let sent = run.number("/messages/sent");
                assert!((120.0..=145.0).contains(&sent), "200/s for 0.7 s are 140, not {sent}");
                for what in ["acked", "delivered", "chat/own"] {
                    assert_eq!(run.number(&format!("/messages/{what}")), sent, "{what}");
                }
                assert!(run.number("/latency_us/accepted/p99") > 0.0);
                assert!(run.number("/latency_us/delivered/p99") > 0.0);
            }
        }
    }
}

#[test]
fn whatever_a_server_does_wrong_is_found() {
    for client in CLIENTS {
        for (fault, counter) in WRONGS {
            let server = ChatServer::start(fault);
            let run = chat(client, "uring", &server, &FEW).expect(2);
            assert!(run.number(&format!("/messages/{counter}")) >= 1.0, "{fault:?}\n{}", run.stdout);
            assert_eq!(run.json["outcome"], "incorrect");
        }
    }
}

#[test]
fn a_message_that_was_never_acked_is_missed_but_not_wrong() {
    for client in CLIENTS {
        let server = ChatServer::start(Fault::Ignore(30));
        let run = chat(client, "uring", &server, &FEW).expect(1);
        assert_eq!(run.number("/messages/chat/unacked"), 1.0);
        assert_eq!(run.number("/messages/lost"), 0.0);
    }
}

#[test]
fn a_refusal_is_tried_again() {
    for client in CLIENTS {
        let server = ChatServer::start(Fault::RateLimit(30));
        let run = chat(client, "uring", &server, &FEW).expect(0);
        assert_eq!(run.json["messages"]["chat"]["errors"]["rate_limited"], 1);
        assert_eq!(run.number("/messages/chat/resent"), 1.0);
        assert_eq!(run.number("/messages/delivered"), run.number("/messages/sent"));
    }
}

#[test]
fn a_gap_is_healed_by_a_sync() {
    for client in CLIENTS {
        let server = ChatServer::start(Fault::Gap(30));
        let run = chat(client, "epoll", &server, &FEW).expect(0);
        assert_eq!(run.number("/messages/chat/gaps"), 1.0);
        assert!(run.number("/messages/chat/pages") >= 1.0);
        assert_eq!(run.number("/messages/delivered"), run.number("/messages/sent"));
    }
}

#[test]
fn who_is_sent_away_comes_back_and_loses_nothing() {
    for client in CLIENTS {
        for driver in DRIVERS {
            let server = ChatServer::start(Fault::CloseAll(30, 4_201));
            let words: Vec<&str> = FEW.into_iter().chain(["--max-lost", "4"]).collect();
            let run = chat(client, driver, &server, &words).expect(0);
            assert_eq!(run.number("/connections/lost"), 4.0);
            assert_eq!(run.number("/messages/chat/reconnects"), 4.0);
            assert_eq!(server.sessions(), 8);
            assert!(run.number("/messages/chat/resent") >= 1.0, "what was not acked is sent again");
            assert_eq!(run.number("/messages/delivered"), run.number("/messages/sent"));
            let reason = "closed by the server: 4201 planted";
            assert_eq!(run.json["connections"]["losses"][reason], 4, "{}", run.stdout);
        }
    }
}

#[test]
fn who_is_told_not_to_come_back_stays_away() {
    for client in CLIENTS {
        let server = ChatServer::start(Fault::CloseAll(30, 4_002));
        let words: Vec<&str> = FEW.into_iter().chain(["--max-lost", "4"]).collect();
        let run = chat(client, "uring", &server, &words).expect(1);
        assert_eq!(server.sessions(), 4);
        assert_eq!(run.number("/connections/held"), 0.0);
    }
}

/// Two groups of three.
const GROUPS: [&str; 8] = ["-n", "6", "--group-members", "3", "--rate", "200", "--arrivals", "constant"];

#[test]
fn groups_on_an_honest_server_pass() {
    for client in CLIENTS {
        for driver in DRIVERS {
            for more in [&[][..], &["--format", "json"], &["--hello"], &["--threads", "2"]] {
                let server = ChatServer::start(Fault::None);
                let words: Vec<&str> = GROUPS.iter().chain(more).copied().collect();
                let run = chat(client, driver, &server, &words).expect(0);
                let sent = run.number("/messages/sent");
                assert!((120.0..=145.0).contains(&sent), "200/s for 0.7 s are 140, not {sent}");
                assert_eq!(run.number("/messages/acked"), sent);
                assert_eq!(run.number("/messages/delivered"), 2.0 * sent);
                assert_eq!(run.number("/messages/chat/own"), sent);
                assert_eq!(run.number("/messages/groups/deliveries"), 3.0 * sent);
                assert_eq!(
                    (run.number("/messages/groups/count"), run.number("/messages/groups/members")),
                    (2.0, 3.0)
                );
                assert!(run.number("/messages/groups/deliveries_per_second") > 400.0);
                assert_eq!(run.number("/latency_us/delivered/count"), 2.0 * sent);
                assert!(run.number("/seconds/groups") >= 0.0);
            }
        }
    }
}

#[test]
fn whatever_a_server_does_wrong_in_a_group_is_found() {
    for client in CLIENTS {
        for format in ["proto", "json"] {
            for (fault, counter) in WRONGS.into_iter().chain([(Fault::WrongSeq(30), "chat/seqs_conflicting")])
            {
                let server = ChatServer::start(fault);
                let words: Vec<&str> = GROUPS.into_iter().chain(["--format", format]).collect();
                let run = chat(client, "uring", &server, &words).expect(2);
                assert!(run.number(&format!("/messages/{counter}")) >= 1.0, "{fault:?}\n{}", run.stdout);
                assert_eq!(run.json["outcome"], "incorrect");
            }
        }
    }
}

#[test]
fn groups_survive_refusals_gaps_and_reconnects() {
    for client in CLIENTS {
        for (fault, counter) in [
            (Fault::RateLimit(30), "chat/resent"),
            (Fault::Gap(30), "chat/gaps"),
            (Fault::CloseAll(30, 4_201), "chat/reconnects"),
            (Fault::DelayGroups, "chat/errors/overloaded"),
        ] {
            let server = ChatServer::start(fault);
            let words: Vec<&str> = GROUPS.into_iter().chain(["--max-lost", "6"]).collect();
            let run = chat(client, "epoll", &server, &words).expect(0);
            assert!(run.number(&format!("/messages/{counter}")) >= 1.0, "{fault:?}\n{}", run.stdout);
            assert_eq!(
                run.number("/messages/groups/deliveries"),
                3.0 * run.number("/messages/sent"),
                "{fault:?}"
            );
        }
    }
}

#[test]
fn groups_that_cannot_be_are_said_so() {
    for client in CLIENTS {
        let server = ChatServer::start(Fault::RefuseGroups);
        let run = chat(client, "uring", &server, &GROUPS).expect(4);
        assert!(run.stderr.contains("too_many_members: planted"), "{}", run.stderr);
    }
    let server = ChatServer::start(Fault::None);
    let run = chat("library", "uring", &server, &["-n", "7", "--group-members", "3"]).expect(4);
    assert!(run.stderr.contains("1 would be left over") && run.stderr.contains("6 or 9"), "{}", run.stderr);
}

#[test]
fn hold_and_connect_log_in_too() {
    let key = Key::new();
    let server = ChatServer::start(Fault::None);
    let words = ["hold", &server.url(), "-n", "6", "--hold", "100ms", "--data", key.path()];
    let run = load("uring", &words).expect(0);
    assert_eq!((run.number("/connections/held"), server.sessions()), (6.0, 6));
    let words =
        ["connect", &server.url(), "-n", "2", "--repeat", "10", "--warmup", "0s", "--data", key.path()];
    load("epoll", &words).expect(0);
    assert!(server.sessions() >= 16);
}
