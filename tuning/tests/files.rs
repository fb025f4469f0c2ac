//! The files beside the crate say what the code demands: sysctl, systemd and seccomp, for 1,000,000 connections.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tuning::demand::{self, Ends};
use holdfast_tuning::doctor::{self, Severity};
use holdfast_tuning::probe::{CpuTime, Limit, MemInfo, Probe, UringProbe};

const MILLION: u64 = 1_000_000;

fn file(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `key = value value …`, with comments, as sysctl.d(5) has it.
fn sysctls(paths: &[&str]) -> BTreeMap<String, Vec<u64>> {
    let mut settings = BTreeMap::new();
    for path in paths {
        for line in file(path).lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, values) = line.split_once('=').unwrap_or_else(|| panic!("{path}: no `=` in {line:?}"));
            let values = values
                .split_ascii_whitespace()
                .map(|word| word.parse().unwrap_or_else(|_| panic!("{path}: not a number: {word:?}")))
                .collect();
            settings.insert(key.trim().to_owned(), values);
        }
    }
    settings
}

/// A machine with these settings, and everything else as small as it may be.
fn machine(sysctls: &BTreeMap<String, Vec<u64>>) -> Probe {
    let one = |key: &str| sysctls.get(key).and_then(|values| values.first().copied());
    let unlimited = Limit { soft: None, hard: None };
    Probe {
        kernel: Some((6, 18)),
        processors: 2,
        nofile: unlimited,
        memlock: unlimited,
        may_lock_memory: false,
        may_exceed_file_max: false,
        seccomp_mode: Some(0),
        io_uring_disabled: one("kernel.io_uring_disabled").and_then(|value| u32::try_from(value).ok()),
        uring: UringProbe::Works,
        file_max: one("fs.file-max"),
        files_open: Some(10_000),
        nr_open: one("fs.nr_open"),
        local_ports: sysctls.get("net.ipv4.ip_local_port_range").map(|ports| (ports[0], ports[1])),
        somaxconn: one("net.core.somaxconn"),
        syn_backlog: one("net.ipv4.tcp_max_syn_backlog"),
        netdev_backlog: one("net.core.netdev_max_backlog"),
        tcp_mem_pages: sysctls.get("net.ipv4.tcp_mem").map(|pages| [pages[0], pages[1], pages[2]]),
        // No file can set it: the kernel's command line does.
        connection_buckets: Some(u64::MAX),
        conntrack: None,
        memory: Some(MemInfo {
            total_bytes: 24 << 30,
            free_bytes: 23 << 30,
            available_bytes: 23 << 30,
            file_bytes: 0,
            slab_reclaimable_bytes: 0,
        }),
        cgroup: None,
        steal: Some(CpuTime { steal_ticks: 0, busy_ticks: 1 }),
    }
}

#[track_caller]
fn assert_nothing_is_missing(ends: Ends, probe: &Probe) {
    let report = doctor::examine_ends(MILLION, ends, probe);
    assert_eq!(report.verdict, Severity::Ok, "{}", report.render(doctor::Colour::Never));
}

#[test]
fn the_servers_sysctls_satisfy_the_doctor_for_a_million() {
    let settings = sysctls(&["sysctl/90-holdfast.conf"]);
    let mut probe = machine(&settings);
    assert_nothing_is_missing(Ends::Server, &probe);
    // And with epoll, where every connection has a descriptor: nothing but the driver itself is left to say.
    probe.uring = UringProbe::Refused { reason: "ENOSYS".to_owned() };
    let report = doctor::examine(MILLION, &probe);
    let missing = report.findings.iter().filter(|finding| finding.severity > Severity::Ok);
    assert_eq!(missing.map(|finding| finding.name).collect::<Vec<_>>(), ["io_uring"]);
}

#[test]
fn both_sysctl_files_satisfy_the_doctor_with_both_ends_here() {
    let settings = sysctls(&["sysctl/90-holdfast.conf", "sysctl/91-holdfast-load.conf"]);
    assert_nothing_is_missing(Ends::Both, &machine(&settings));
}

#[test]
fn every_sysctl_of_the_servers_file_is_one_that_the_doctor_asks_for() {
    let report = doctor::examine(MILLION, &machine(&BTreeMap::new()));
    let names: BTreeSet<&str> = report.findings.iter().map(|finding| finding.name).collect();
    for key in sysctls(&["sysctl/90-holdfast.conf"]).keys() {
        assert!(
            names.contains(key.as_str()) || key == "kernel.io_uring_disabled",
            "{key} is set, but the doctor does not ask for it"
        );
    }
}

#[test]
fn a_value_that_is_too_small_would_be_noticed() {
    let settings = sysctls(&["sysctl/90-holdfast.conf"]);
    for (key, values) in &settings {
        if key == "kernel.io_uring_disabled" {
            continue;
        }
        let mut spoiled = settings.clone();
        spoiled.insert(key.clone(), values.iter().map(|value| value / 3).collect());
        let mut probe = machine(&spoiled);
        if key == "fs.nr_open" {
            // It matters where every connection has a descriptor.
            probe.uring = UringProbe::Refused { reason: "ENOSYS".to_owned() };
        }
        let report = doctor::examine(MILLION, &probe);
        let severity = report.finding(key).map(|finding| finding.severity);
        assert!(severity > Some(Severity::Ok), "{key}: {severity:?}");
    }
}

fn unit() -> Vec<(String, String)> {
    file("systemd/holdfast.service")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn setting<'a>(unit: &'a [(String, String)], key: &str) -> &'a str {
    let mut values = unit.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let value = values.next().unwrap_or_else(|| panic!("{key} is missing"));
    assert_eq!(values.next(), None, "{key} stands twice");
    value
}

#[test]
fn the_units_limits_hold_a_million_with_either_driver() {
    let unit = unit();
    let nofile: u64 = setting(&unit, "LimitNOFILE").parse().expect("a number");
    assert!(nofile >= demand::nofile_epoll(MILLION), "LimitNOFILE={nofile}");
    let nr_open = sysctls(&["sysctl/90-holdfast.conf"])["fs.nr_open"][0];
    assert!(nofile <= nr_open, "systemd cannot set {nofile} above fs.nr_open = {nr_open}");

    let memlock = setting(&unit, "LimitMEMLOCK");
    let mebibytes: u64 = memlock.strip_suffix('M').and_then(|text| text.parse().ok()).expect("mebibytes");
    // Even where an administrator leaves the limit of descriptors at 20,000 and one ring cannot hold a shard.
    let rings = demand::rings(MILLION, 20_000, 64).total;
    assert!(mebibytes << 20 >= demand::memlock_bytes(rings), "LimitMEMLOCK={memlock} for {rings} rings");
}

#[test]
fn the_unit_stops_with_a_drain_and_forbids_no_ring() {
    let unit = unit();
    assert_eq!(setting(&unit, "KillSignal"), "SIGTERM");
    let seconds: u64 = setting(&unit, "TimeoutStopSec").parse().expect("seconds");
    assert!(seconds > 5, "the drain alone may take 5 s");
    // @system-service contains @aio, and that the calls of io_uring.
    assert_eq!(setting(&unit, "SystemCallFilter"), "@system-service");
    assert!(setting(&unit, "RestrictAddressFamilies").contains("AF_INET AF_INET6"));
}

#[test]
fn the_seccomp_profile_allows_rings_and_forbids_what_it_does_not_list() {
    let profile: serde_json::Value = serde_json::from_str(&file("seccomp/holdfast.json")).expect("is JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut allowed = BTreeSet::new();
    let mut listed = BTreeSet::new();
    for group in profile["syscalls"].as_array().expect("an array") {
        assert!(group["comment"].as_str().is_some_and(|text| !text.is_empty()), "{group} says not what for");
        for name in group["names"].as_array().expect("an array") {
            let name = name.as_str().expect("a name");
            assert!(listed.insert(name), "{name} stands twice");
            if group["action"] == "SCMP_ACT_ALLOW" {
                allowed.insert(name);
            }
        }
    }
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(name), "{name} must be allowed");
    }
    // The other driver, the store and the threads.
    for name in
        ["epoll_pwait", "accept4", "fdatasync", "fsync", "renameat2", "futex", "clone", "sched_setaffinity"]
    {
        assert!(allowed.contains(name), "{name} must be allowed");
    }
    for name in
        ["ptrace", "mount", "bpf", "userfaultfd", "perf_event_open", "unshare", "setns", "init_module"]
    {
        assert!(!allowed.contains(name), "{name} must not be allowed");
    }
    let clone = profile["syscalls"]
        .as_array()
        .and_then(|groups| groups.iter().find(|group| group["names"][0] == "clone"))
        .expect("a group of its own");
    assert_eq!(clone["args"][0]["value"], 0x7e02_0000, "clone must not make namespaces");
}
