//! The report's forms: complete, documented, and the same in all three.

use super::*;
use crate::address::PairLimit;
use crate::measure::lateness::LatenessRule;
use crate::measure::sample::ServerSample;
use crate::scenario::books::{Books, Marks, Pairing};
use std::sync::Arc;
use std::time::Duration;

fn some_latencies() -> Latencies {
    let mut latencies = Latencies::default();
    (1..=2_000).for_each(|us| latencies.record(Duration::from_micros(us)));
    latencies
}

fn sample(seconds: f64, connections: u64) -> Sample {
    let per = connections as f64;
    Sample {
        seconds,
        connections,
        server: Some(ServerSample {
            rss_bytes: 10_000_000 + 250 * connections,
            page_table_bytes: 100_000,
            slab_bytes: 5_000.0 + 4_100.0 * per,
            other_bytes: 20.0 * per,
            cpu_ns: (seconds * 4e8) as u64,
        }),
        generator_rss_bytes: 8_000_000 + 180 * connections,
        generator_cpu_ns: (seconds * 6e8) as u64,
        kernel_growth_bytes: (8_240.0 * per) as i64,
    }
}

/// A report with something in every field.
fn full() -> Report {
    let books = Books::new(1, 0, 2, Pairing::Neighbours, Arc::new(Marks::new(2)));
    let mut settlement = Books::settle(vec![books]);
    settlement.counts.sent = 300_000;
    settlement.counts.refused.add("message_too_large");
    let mut counts = ChatCounts::default();
    counts.errors.add("rate_limited");
    let mut engine = EngineReport { opened: 1_000, up: 1_000, ..EngineReport::default() };
    engine.failures.add("connect: ECONNREFUSED");
    let line = Line { slope: 250.0, intercept: 1e7, slope_error: 2.0, r_squared: 0.999, samples: 60 };
    let per = PerConnection { user: 250.0, kernel: 4_120.0, total: 4_370.0 };
    let threads = vec![ThreadUse { name: "shard-0".into(), ns: 5 }];
    let target = "127.0.0.1:8080".parse().unwrap();
    let addresses = AddressPlan::new(1_000, target, &[], PairLimit(19_000), |_| true).unwrap();
    let mut messages = Messages::of_chat(&settlement, &counts, 5_000.0);
    messages.groups =
        Some(GroupMessages { count: 20, members: 500, deliveries: 7, deliveries_per_second: 5_000.0 });
    messages.sync =
        Some(SyncMessages { behind: 10_000, live: 990, entries_per_second: 1.5e6, ..Default::default() });
    messages.slow = Some(SlowMessages {
        readers: 1,
        user_bytes: Some(280_000.0),
        kernel_bytes: Some(470_000),
        socket: Some(SocketMemory::default()),
        ..Default::default()
    });
    let mut report = Report {
        schema: SCHEMA,
        verdict: "pass",
        outcome: Outcome::Ok,
        exit_code: 0,
        error: None,
        mode: "million",
        version: "0.1.0",
        url: "ws://127.0.0.1:8080/ws".into(),
        started_unix_ms: 1_700_000_000_000,
        seed: 42,
        connections: Connections::of(&engine, 1_000, 1_000, 0.5),
        messages: Some(messages),
        presence: Some(PresenceReport {
            watchers: 100,
            watched: 50,
            bytes_per_watcher: Some(PerConnection { user: 1_050.0, kernel: 3.0, total: 1_053.0 }),
            delivered_p99_factor: Some(1.1),
            expected: 5_000,
            seen: 4_998,
            coalesced: 2,
            ..Default::default()
        }),
        server: Some(Server {
            pid: 4_242,
            bytes_per_connection: Some(per),
            bytes_per_connection_at_plateau: Some(per),
            fit: Some(Fit { user: line, kernel: line, total: line }),
            total_bytes: Some(4.4e9),
            memory: Some(MemoryParts {
                rss_bytes: 1,
                page_table_bytes: 2,
                slab_bytes: 3.0,
                other_bytes: 4.0,
                method: "caches",
                waits: WaitsBy::Uring,
                machine_kernel_growth_bytes: 5,
            }),
            caches: vec![CacheGrowth { name: "TCP".into(), bytes: 2_520, server_bytes: 1_260.0 }],
            idle_cpu_us_per_connection_second: Some(0.5),
            cpu_us_per_message: Some(30.0),
            cpu_us_per_handshake: Some(40.0),
            environment: [("HOLDFAST_LIMITS__PRESENCE_GRACE".into(), "1000ms".into())].into(),
            cpu: [("hold", CpuPhase { seconds: 60.0, total_us: 3e7, threads })].into(),
        }),
        latency_us: BTreeMap::new(),
        seconds: [("ramp", 50.0), ("hold", 60.0), ("messages", 60.0), ("total", 190.0)].into(),
        thresholds: vec![
            Threshold::at_most("server side in all", Some(4.4e9), 4.6e9, "bytes"),
            Threshold::at_least("sessions opened", Some(999.0), 1_000.0, ""),
        ],
        generator: Generator {
            driver: "uring",
            threads: 1,
            nice: -10,
            addresses,
            lateness: Some(LatenessRule::default().judge(&some_latencies(), &some_latencies())),
            heartbeat_lateness_us: Some(some_latencies().summary()),
            cpu_share: Some(0.7),
            cpu_us_per_message: Some(5.0),
            user_bytes_per_connection: Some(180.0),
            heartbeats: 7,
            received_bytes: 8,
        },
        machine: Machine {
            processors: 2,
            memory_bytes: 24 << 30,
            kernel: "6.18".into(),
            steal_share: Some(0.02),
            raised: vec![Change { name: "net.core.somaxconn", before: "128".into(), now: "65535".into() }],
            not_raised: vec![Missing {
                name: "fs.file-max", present: "1".into(), command: "sudo …".into()
            }],
        },
        series: (0..40).map(|step| sample(f64::from(step), 25 * u64::from(step as u32))).collect(),
        curves: BTreeMap::new(),
    };
    for name in [
        "accepted",
        "delivered",
        "delivered_with_presence",
        "presence_offline",
        "presence_online",
        "handshake",
        "handshake_from_intended",
        "echo",
        "first_page",
        "live",
    ] {
        report.latency(name, &some_latencies());
    }
    report
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::to_value(report).unwrap()
}

#[test]
fn programs_find_what_they_were_promised() {
    let json = json(&full());
    for path in [
        "/schema",
        "/verdict",
        "/connections/target",
        "/connections/opened",
        "/connections/held",
        "/connections/lost",
        "/messages/sent",
        "/messages/acked",
        "/messages/delivered",
        "/messages/lost",
        "/messages/duplicated",
        "/messages/reordered",
        "/server/bytes_per_connection/user",
        "/server/bytes_per_connection/kernel",
        "/server/bytes_per_connection/total",
        "/server/total_bytes",
        "/server/idle_cpu_us_per_connection_second",
        "/server/cpu_us_per_message",
        "/server/cpu_us_per_handshake",
        "/latency_us/accepted/p50",
        "/latency_us/accepted/p99",
        "/latency_us/accepted/max",
        "/latency_us/delivered/p99",
        "/seconds/ramp",
        "/seconds/hold",
        "/seconds/total",
    ] {
        let value = json.pointer(path).unwrap_or_else(|| panic!("no {path}"));
        assert!(value.is_number() || (path == "/verdict" && value == "pass"), "{path} is {value}");
    }
    assert_eq!(json["schema"], 1);
    assert_eq!(json["latency_us"]["accepted"]["p50"].as_f64().unwrap().round(), 1_000.0);
}

/// Names that are data rather than fields: they stand for themselves.
const DATA: &[&str] = &[
    "failures",
    "losses",
    "ends",
    "refused",
    "errors",
    "cpu",
    "curves",
    "latency_us",
    "seconds",
    "environment",
];

fn fields(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                found.insert(key.clone());
                match value {
                    serde_json::Value::Object(inner) if DATA.contains(&key.as_str()) => {
                        inner.values().for_each(|value| fields(value, found));
                    }
                    value => fields(value, found),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_is_documented() {
    let documentation = include_str!("../../../docs/loadgen.md");
    let mut found = std::collections::BTreeSet::new();
    fields(&json(&full()), &mut found);
    let missing: Vec<&String> =
        found.iter().filter(|field| !documentation.contains(&format!("`{field}`"))).collect();
    assert!(missing.is_empty(), "docs/loadgen.md does not explain {missing:?}");
}

#[test]
fn the_verdict_follows_from_what_was_measured() {
    let mut report = full();
    report.judge(true);
    assert_eq!((report.outcome, report.exit_code, report.verdict), (Outcome::GeneratorLimited, 3, "fail"));
    report.generator.lateness = None;
    report.judge(true);
    assert_eq!((report.outcome, report.exit_code), (Outcome::ThresholdMissed, 1));
    report.thresholds.pop();
    report.judge(true);
    assert_eq!((report.outcome, report.verdict), (Outcome::Ok, "pass"));
    report.judge(false);
    assert_eq!(report.exit_code, 2);
    report.broken_off("interrupted".into());
    assert_eq!((report.exit_code, report.verdict), (4, "fail"));
}

#[test]
fn what_could_not_be_measured_is_not_met() {
    assert!(!Threshold::at_most("x", None, 1.0, "").pass);
    assert!(Threshold::at_most("x", Some(1.0), 1.0, "").pass);
    assert!(!Threshold::at_least("x", Some(0.9), 1.0, "").pass);
    assert!(!Threshold::at_most("x", Some(f64::NAN), 1.0, "").pass);
}

#[test]
fn the_terminal_says_the_same() {
    let mut report = full();
    report.generator.lateness = None;
    report.judge(true);
    let text = terminal::render(&report);
    for part in [
        "1,000 of 1,000 opened (2,000/s)",
        "1 × connect: ECONNREFUSED",
        "300,000 sent",
        "1 × error rate_limited",
        "250 ± 2 B user",
        "4.40 GB in all",
        "1050 B user + 3 B kernel more per watching session",
        "4,998 of 5,000 changes seen",
        "2 changes coalesced",
        "ok    server side in all",
        "MISS  sessions opened",
        "fail: a threshold was missed",
    ] {
        assert!(text.contains(part), "`{part}` in\n{text}");
    }
}

#[test]
fn the_page_is_self_contained_and_has_its_plots() {
    let page = html::render(&full());
    assert_eq!(page.matches("<svg").count(), 5);
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "the page contains {foreign}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(!page.contains("NaN") && !page.contains("inf "));
    for open in ["<table", "<section", "<figure", "<div", "<main", "<p ", "<tr"] {
        let tag = open.trim_start_matches('<').trim_end();
        let closed = page.matches(&format!("</{tag}>")).count();
        let opened = page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count();
        assert_eq!(opened, closed, "<{tag}> is opened and closed as often");
    }
}

#[test]
fn a_page_without_server_or_messages_is_whole_too() {
    let mut report = full();
    report.server = None;
    report.messages = None;
    report.series.clear();
    report.curves.clear();
    report.url = "ws://<script>".into();
    let page = html::render(&report);
    assert!(page.contains("ws://&lt;script&gt;") && page.ends_with("</html>\n"));
}

#[test]
fn memory_is_fitted_over_the_ramp_alone() {
    let mut sampler_samples: Vec<Sample> =
        (0..=20).map(|step| sample(f64::from(step), 50 * step as u64)).collect();
    // Messages after the ramp cost memory that is no connection's.
    let mut late = sample(30.0, 1_000);
    if let Some(server) = &mut late.server {
        server.rss_bytes += 500_000_000;
    }
    sampler_samples.push(late);
    let mut server = Server::default();
    server.memory_of(&sampler_samples);
    let per = server.bytes_per_connection.unwrap();
    assert_eq!((per.user, per.kernel, per.total), (250.0, 4_120.0, 4_370.0));
    assert_eq!(server.bytes_per_connection_at_plateau, Some(per));
    let all = 10_000_000.0 + 250.0 * 1_000.0 + 500_000_000.0 + 100_000.0 + 5_000.0 + 4_120.0 * 1_000.0;
    assert_eq!(server.total_bytes, Some(all));
}
