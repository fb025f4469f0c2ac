use super::*;
use crate::probe::{CgroupMemory, Conntrack, CpuTime, Limit, MemInfo, UringProbe};

/// A 2-core, 24 GiB machine that was tuned for a million and can make rings.
fn tuned() -> Probe {
    let nofile = Limit { soft: Some(20_000), hard: Some(20_000) };
    Probe {
        kernel: Some((6, 18)),
        processors: 2,
        nofile,
        memlock: Limit { soft: Some(8 << 20), hard: Some(8 << 20) },
        may_lock_memory: true,
        may_exceed_file_max: false,
        seccomp_mode: Some(0),
        io_uring_disabled: Some(0),
        uring: UringProbe::Works,
        file_max: Some(2_466_177),
        files_open: Some(384),
        nr_open: Some(1_048_576),
        local_ports: Some((1_024, 65_535)),
        somaxconn: Some(65_535),
        syn_backlog: Some(65_535),
        netdev_backlog: Some(65_535),
        tcp_mem_pages: Some([1_500_000, 2_250_000, 3_000_000]),
        connection_buckets: Some(1 << 20),
        conntrack: None,
        memory: Some(MemInfo {
            total_bytes: 25_276_000_000,
            free_bytes: 24_500_000_000,
            available_bytes: 24_900_000_000,
            file_bytes: 400_000_000,
            slab_reclaimable_bytes: 50_000_000,
        }),
        cgroup: None,
        steal: Some(CpuTime { steal_ticks: 1, busy_ticks: 1_000 }),
    }
}

const MILLION: u64 = 1_000_000;

#[track_caller]
fn check(probe: &Probe, name: &str, severity: Severity, fix: Option<&str>) -> Finding {
    let report = examine(MILLION, probe);
    let finding = report.finding(name).unwrap_or_else(|| panic!("no finding {name} in {report:#?}"));
    assert_eq!((finding.severity, finding.fix.as_deref()), (severity, fix), "{finding:#?}");
    assert!(report.verdict >= severity);
    finding.clone()
}

#[test]
fn a_tuned_machine_holds_both_ends_of_a_million() {
    let report = examine_ends(MILLION, Ends::Both, &tuned());
    assert_eq!(report.verdict, Severity::Note, "{}", report.render(Colour::Never));
    assert_eq!(report.exit_code(), 0);
    assert_eq!(report.rings.map(|rings| rings.total), Some(50));
    let notes: Vec<_> =
        report.findings.iter().filter(|f| f.severity > Severity::Ok).map(|f| f.name).collect();
    assert_eq!(notes, ["rings"]);
}

#[test]
fn rings_are_needed_because_tables_do_not_add_up() {
    let fix = "prlimit --pid $$ --nofile=65536:65536";
    let finding = check(&tuned(), "rings", Severity::Note, Some(fix));
    assert_eq!((finding.present, finding.needed), (Quantity::Count(50), Quantity::Count(16)));
    let mut probe = tuned();
    probe.nofile.hard = Some(65_536);
    check(&probe, "rings", Severity::Ok, None);
}

#[test]
fn few_descriptors_stop_even_rings() {
    let mut probe = tuned();
    probe.nofile.hard = Some(1_024);
    let rings = 2 * 489; // 500,000 per shard in tables of 1,024
    let needed = 1_024 + 2 * rings;
    let fix = format!("prlimit --pid $$ --nofile={needed}:{needed}");
    check(&probe, "RLIMIT_NOFILE", Severity::Stops, Some(&fix));
}

#[test]
fn without_rings_every_connection_needs_a_descriptor() {
    let mut probe = tuned();
    probe.uring = UringProbe::Refused { reason: "EPERM".into() };
    probe.seccomp_mode = Some(2);
    let seccomp = "docker run --security-opt seccomp=tuning/seccomp/holdfast.json …";
    check(&probe, "io_uring", Severity::Slower, Some(seccomp));
    let fix = "prlimit --pid $$ --nofile=1001024:1001024";
    check(&probe, "RLIMIT_NOFILE", Severity::Stops, Some(fix));
    check(&probe, "fs.nr_open", Severity::Ok, None);
    let report = examine(MILLION, &probe);
    assert_eq!((report.driver, report.rings, report.exit_code()), ("epoll", None, 1));
    assert!(report.finding("RLIMIT_MEMLOCK").is_none(), "epoll locks no memory");

    let mut capped = probe.clone();
    capped.nr_open = Some(524_288);
    let fix = "sysctl -w fs.nr_open=1001024 && prlimit --pid $$ --nofile=1001024:1001024";
    check(&capped, "RLIMIT_NOFILE", Severity::Stops, Some(fix));
    check(&capped, "fs.nr_open", Severity::Stops, Some("sysctl -w fs.nr_open=1001024"));

    probe.nofile.hard = None;
    let finding = check(&probe, "RLIMIT_NOFILE", Severity::Ok, None);
    assert_eq!(finding.present, Quantity::Unlimited);
}

#[test]
fn a_refused_ring_says_what_the_driver_says_and_who_likely_refused() {
    type Change = fn(&mut Probe);
    let disabled = Some("sysctl -w kernel.io_uring_disabled=0");
    let seccomp = Some("docker run --security-opt seccomp=tuning/seccomp/holdfast.json …");
    let memlock = Some("prlimit --pid $$ --memlock=10485760:10485760");
    let cases: [(Change, Option<&str>); 6] = [
        (|probe| probe.io_uring_disabled = Some(2), disabled),
        (|probe| (probe.io_uring_disabled, probe.seccomp_mode) = (Some(1), Some(2)), disabled),
        (|probe| probe.seccomp_mode = Some(2), seccomp),
        (|probe| (probe.may_lock_memory, probe.memlock.hard) = (false, Some(65_536)), memlock),
        (|probe| (probe.kernel, probe.seccomp_mode) = (Some((5, 15)), Some(2)), None),
        (|_| {}, None),
    ];
    for (change, fix) in cases {
        let mut probe = tuned();
        probe.uring = UringProbe::Refused { reason: "io_uring_setup is refused with EPERM".into() };
        change(&mut probe);
        let finding = check(&probe, "io_uring", Severity::Slower, fix);
        assert!(finding.why.starts_with("io_uring_setup is refused with EPERM. "), "{}", finding.why);
    }
}

#[test]
fn what_forbids_rings_is_seen_without_trying() {
    let mut probe = tuned();
    probe.uring = UringProbe::NotTried;
    check(&probe, "io_uring", Severity::Ok, None);
    probe.seccomp_mode = Some(2);
    check(&probe, "io_uring", Severity::Note, None);
    probe.io_uring_disabled = Some(1);
    check(&probe, "io_uring", Severity::Slower, Some("sysctl -w kernel.io_uring_disabled=0"));
    probe.may_exceed_file_max = true;
    check(&probe, "io_uring", Severity::Note, None);
    probe.kernel = Some((5, 15));
    check(&probe, "io_uring", Severity::Slower, None);
}

#[test]
fn an_older_kernel_is_worth_a_note() {
    let mut probe = tuned();
    probe.kernel = Some((6, 8));
    let finding = check(&probe, "io_uring", Severity::Note, None);
    assert!(finding.why.contains("6.12"), "{}", finding.why);
}

#[test]
fn rings_are_charged_to_locked_memory_only_on_new_kernels_without_the_capability() {
    let mut probe = tuned();
    check(&probe, "RLIMIT_MEMLOCK", Severity::Ok, None);
    probe.may_lock_memory = false;
    probe.memlock.hard = Some(4 << 20);
    let fix = "prlimit --pid $$ --memlock=8192000:8192000";
    check(&probe, "RLIMIT_MEMLOCK", Severity::Stops, Some(fix));
    probe.kernel = Some((6, 12));
    check(&probe, "RLIMIT_MEMLOCK", Severity::Ok, None);
}

#[test]
fn sysctls_that_are_too_small_come_with_their_command() {
    type Spoil = fn(&mut Probe);
    let cases: [(&str, Spoil, Severity, &str); 7] = [
        (
            "fs.file-max",
            |probe| probe.file_max = Some(900_000),
            Severity::Stops,
            "sysctl -w fs.file-max=1001408",
        ),
        (
            "net.core.somaxconn",
            |probe| probe.somaxconn = Some(4_096),
            Severity::Slower,
            "sysctl -w net.core.somaxconn=65535",
        ),
        (
            "net.ipv4.tcp_max_syn_backlog",
            |probe| probe.syn_backlog = Some(2_048),
            Severity::Slower,
            "sysctl -w net.ipv4.tcp_max_syn_backlog=65535",
        ),
        (
            "net.core.netdev_max_backlog",
            |probe| probe.netdev_backlog = Some(1_000),
            Severity::Slower,
            "sysctl -w net.core.netdev_max_backlog=65535",
        ),
        (
            "net.ipv4.tcp_mem",
            |probe| probe.tcp_mem_pages = Some([287_901, 383_868, 575_802]),
            Severity::Slower,
            "sysctl -w net.ipv4.tcp_mem=\"750000 1125000 1500000\"",
        ),
        (
            "net.ipv4.tcp_ehash_entries",
            |probe| probe.connection_buckets = Some(262_144),
            Severity::Slower,
            "thash_entries=524288 on the kernel's command line",
        ),
        (
            "net.netfilter.nf_conntrack_max",
            |probe| probe.conntrack = Some(Conntrack { count: 7, max: 262_144 }),
            Severity::Stops,
            "sysctl -w net.netfilter.nf_conntrack_max=1000007",
        ),
    ];
    for (name, spoil, severity, fix) in cases {
        let mut probe = tuned();
        spoil(&mut probe);
        check(&probe, name, severity, Some(fix));
    }
}

#[test]
fn who_may_exceed_file_max_is_only_told() {
    let mut probe = tuned();
    probe.file_max = Some(900_000);
    probe.may_exceed_file_max = true;
    check(&probe, "fs.file-max", Severity::Note, Some("sysctl -w fs.file-max=1001408"));
}

#[test]
fn conntrack_that_counts_nothing_does_not_stop() {
    let mut probe = tuned();
    probe.conntrack = Some(Conntrack { count: 0, max: 262_144 });
    check(
        &probe,
        "net.netfilter.nf_conntrack_max",
        Severity::Note,
        Some("sysctl -w net.netfilter.nf_conntrack_max=1000000"),
    );
}

#[test]
fn memory_is_judged_by_what_is_free_not_by_mem_available() {
    let mut probe = tuned();
    probe.memory = Some(MemInfo {
        total_bytes: 8_000_000_000,
        free_bytes: 4_000_000_000,
        available_bytes: 7_000_000_000,
        file_bytes: 100_000_000,
        slab_reclaimable_bytes: 2_900_000_000,
    });
    let finding = check(&probe, "memory", Severity::Stops, None);
    assert_eq!(finding.present, Quantity::Bytes(4_100_000_000));
    assert!(finding.why.contains("MemAvailable says 7.00 GB"), "{}", finding.why);
    assert!(finding.why.contains("About 889,"), "{}", finding.why);
    let fewer = examine(880_000, &probe);
    assert_eq!(fewer.finding("memory").map(|finding| finding.severity), Some(Severity::Ok));
}

#[test]
fn a_control_group_that_is_too_small_stops() {
    let mut probe = tuned();
    probe.cgroup = Some(CgroupMemory {
        file: "/sys/fs/cgroup/system.slice/memory.max".into(),
        limit_bytes: 2 << 30,
        used_bytes: 1 << 30,
    });
    let needed = examine(MILLION, &probe).memory.total_bytes + (1 << 30);
    let fix = format!("echo {needed} > /sys/fs/cgroup/system.slice/memory.max");
    check(&probe, "cgroup memory", Severity::Stops, Some(&fix));
}

#[test]
fn clients_need_addresses_and_servers_no_ports() {
    let mut probe = tuned();
    probe.local_ports = Some((32_768, 40_000));
    check(&probe, "net.ipv4.ip_local_port_range", Severity::Ok, None);
    let report = examine_ends(MILLION, Ends::Client, &probe);
    let finding = report.finding("net.ipv4.ip_local_port_range").expect("always there");
    assert_eq!(finding.severity, Severity::Slower);
    assert_eq!(finding.fix.as_deref(), Some("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""));
    assert!(finding.why.contains("139 destination addresses"), "{}", finding.why);
    assert!(report.finding("net.core.somaxconn").is_none(), "a client accepts nothing");
}

#[test]
fn stolen_time_is_told() {
    let mut probe = tuned();
    probe.steal = Some(CpuTime { steal_ticks: 51, busy_ticks: 1_000 });
    let finding = check(&probe, "CPU steal", Severity::Slower, None);
    assert_eq!(finding.present, Quantity::Text("5.1 %".to_owned()));
}

#[test]
fn a_machine_that_shows_nothing_is_not_condemned() {
    let probe = Probe {
        kernel: None,
        file_max: None,
        files_open: None,
        nr_open: None,
        local_ports: None,
        somaxconn: None,
        syn_backlog: None,
        netdev_backlog: None,
        tcp_mem_pages: None,
        connection_buckets: None,
        memory: None,
        steal: None,
        seccomp_mode: None,
        io_uring_disabled: None,
        ..tuned()
    };
    let report = examine_ends(MILLION, Ends::Both, &probe);
    assert_eq!(report.verdict, Severity::Note);
    assert_eq!(report.exit_code(), 0);
    assert_eq!(report.finding("memory").map(|finding| finding.present.clone()), Some(Quantity::Unknown));
}

#[test]
fn enough_for_many_is_enough_for_fewer() {
    let mut probe = tuned();
    probe.somaxconn = Some(4_096);
    probe.file_max = Some(700_000);
    let severity = |connections| examine(connections, &probe).verdict;
    let steps = [0, 100, 4_096, 5_000, 100_000, 698_000, 700_000, MILLION, 5 * MILLION];
    for pair in steps.windows(2) {
        assert!(severity(pair[0]) <= severity(pair[1]), "{pair:?}");
    }
    assert_eq!(severity(4_096), Severity::Ok);
    assert_eq!(severity(5 * MILLION), Severity::Stops);
}

#[test]
fn commands_of_a_report_cure_it() {
    let mut probe = tuned();
    probe.somaxconn = Some(1);
    probe.tcp_mem_pages = Some([1, 2, 3]);
    probe.file_max = Some(1);
    let report = examine(MILLION, &probe);
    let value = |name: &str| -> Vec<u64> {
        let fix = report.finding(name).and_then(|finding| finding.fix.clone()).expect("has a command");
        let (_, values) = fix.split_once('=').expect("sysctl -w key=value");
        values.trim_matches('"').split(' ').map(|word| word.parse().expect("a number")).collect()
    };
    probe.somaxconn = Some(value("net.core.somaxconn")[0]);
    probe.file_max = Some(value("fs.file-max")[0]);
    let pages = value("net.ipv4.tcp_mem");
    assert!(pages.is_sorted(), "{pages:?}");
    probe.tcp_mem_pages = Some([pages[0], pages[1], pages[2]]);
    assert_eq!(examine(MILLION, &probe).verdict, Severity::Note, "only the rings are left");
}

#[test]
fn the_text_names_each_limit_and_has_colour_only_when_told() {
    let mut probe = tuned();
    probe.somaxconn = Some(4_096);
    let report = examine(MILLION, &probe);
    let text = report.render(Colour::Never);
    for finding in &report.findings {
        assert!(text.contains(finding.name), "{} is missing in:\n{text}", finding.name);
    }
    assert!(text.contains("→ sysctl -w net.core.somaxconn=65535"), "{text}");
    assert!(text.contains("fit, but slower: 1 limit too low."), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    let coloured = report.render(Colour::Always);
    assert!(coloured.contains("\x1b[33mSLOWER\x1b[0m"), "{coloured}");
}

#[test]
fn the_json_has_its_schema_and_numbers() {
    let json = serde_json::to_value(examine(MILLION, &tuned())).expect("serialises");
    assert_eq!(json["schema"], 1);
    assert_eq!(json["connections"], 1_000_000);
    assert_eq!(json["verdict"], "note");
    assert_eq!(json["driver"], "uring");
    assert_eq!(json["rings"]["total"], 50);
    let first = &json["findings"][1];
    assert_eq!(first["name"], "RLIMIT_NOFILE");
    assert_eq!(first["present"], 20_000);
    assert_eq!(first["severity"], "ok");
    assert!(first["fix"].is_null());
}

#[test]
fn a_snapshot_can_be_kept_and_read_again() {
    let text = serde_json::to_string(&tuned()).expect("serialises");
    let again: Probe = serde_json::from_str(&text).expect("reads what it wrote");
    assert_eq!(again, tuned());
}
