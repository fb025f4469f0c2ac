//! Limits of the network stack: queues, ports, memory for data in sockets, connection tracking.

use super::{Ask, AtLeast, Finding, Probe, Quantity, Severity, sysctl};
use crate::{demand, units};

pub(super) fn examine(ask: &Ask, probe: &Probe, findings: &mut Vec<Finding>) {
    if ask.ends.server() {
        findings.push(somaxconn(ask, probe));
        findings.push(syn_backlog(ask, probe));
    }
    findings.push(netdev_backlog(ask, probe));
    findings.push(tcp_mem(ask, probe));
    findings.push(connection_buckets(ask, probe));
    findings.push(ports(ask, probe));
    findings.extend(conntrack(ask, probe));
}

fn somaxconn(ask: &Ask, probe: &Probe) -> Finding {
    let needed = demand::backlog(ask.connections);
    AtLeast {
        name: "net.core.somaxconn",
        unit: "connections that wait to be accepted",
        present: probe.somaxconn,
        needed,
        otherwise: Severity::Slower,
        why: "When all come back at once the accept queue overflows; SYNs are dropped and come again after 1 s.",
        fix: sysctl("net.core.somaxconn", needed),
    }
    .finding()
}

fn syn_backlog(ask: &Ask, probe: &Probe) -> Finding {
    let needed = demand::backlog(ask.connections);
    AtLeast {
        name: "net.ipv4.tcp_max_syn_backlog",
        unit: "half-open connections",
        present: probe.syn_backlog,
        needed,
        otherwise: Severity::Slower,
        why: "When all come back at once SYNs are dropped and come again after 1 s.",
        fix: sysctl("net.ipv4.tcp_max_syn_backlog", needed),
    }
    .finding()
}

fn netdev_backlog(ask: &Ask, probe: &Probe) -> Finding {
    let needed = demand::netdev_backlog(ask.connections);
    AtLeast {
        name: "net.core.netdev_max_backlog",
        unit: "packets per processor",
        present: probe.netdev_backlog,
        needed,
        otherwise: Severity::Slower,
        why: "Packets that the stack cannot take at once (over loopback too) are dropped and sent again.",
        fix: sysctl("net.core.netdev_max_backlog", needed),
    }
    .finding()
}

fn tcp_mem(ask: &Ask, probe: &Probe) -> Finding {
    let needed = demand::tcp_mem_pages(ask.sockets());
    let [low, pressure] = [needed / 2, needed / 4 * 3];
    let mut finding = AtLeast {
        name: "net.ipv4.tcp_mem",
        unit: "pages (the third value)",
        present: probe.tcp_mem_pages.map(|[_, _, limit]| limit),
        needed,
        otherwise: Severity::Slower,
        why: "A socket with queued data is charged a whole page. Idle ones are not; but when many have data at \
              once, windows shrink and packets are dropped.",
        fix: None,
    }
    .finding();
    if finding.severity == Severity::Slower {
        finding.fix = sysctl("net.ipv4.tcp_mem", format!("\"{low} {pressure} {needed}\""));
    }
    finding
}

fn connection_buckets(ask: &Ask, probe: &Probe) -> Finding {
    let needed = demand::connection_buckets(ask.sockets());
    AtLeast {
        name: "net.ipv4.tcp_ehash_entries",
        unit: "buckets of the table of connections",
        present: probe.connection_buckets,
        needed,
        otherwise: Severity::Slower,
        why: "Each packet is looked up in this table, whose size is fixed when the kernel starts. With eight \
              connections in a bucket that alone took an eighth of all processor time.",
        fix: Some(format!("thash_entries={needed} on the kernel's command line")),
    }
    .finding()
}

fn ports(ask: &Ask, probe: &Probe) -> Finding {
    let ports = probe.local_ports.map(|(low, high)| high.saturating_sub(low).saturating_add(1));
    let name = "net.ipv4.ip_local_port_range";
    if !ask.ends.client() {
        return Finding {
            name,
            severity: Severity::Ok,
            present: Quantity::count(ports),
            needed: Quantity::Count(0),
            unit: "ports",
            why: "Connections that are accepted take no local port.".into(),
            fix: None,
        };
    }
    let each = ports.unwrap_or(0).clamp(1, demand::TUPLES_PER_ADDRESS_MAX);
    let needed = demand::TUPLES_PER_ADDRESS_MAX.min(ask.connections);
    let mut finding = AtLeast {
        name,
        unit: "ports for each pair of addresses",
        present: ports,
        needed,
        otherwise: Severity::Slower,
        why: "",
        fix: sysctl(name, "\"1024 65535\""),
    }
    .finding();
    finding.why = format!(
        "A source and a destination address share {} ports: {} destination addresses (127.0.0.0/8 has 16 million), \
         or against one address as many source addresses.",
        units::count(each),
        units::count(demand::client_addresses(ask.connections, each)),
    );
    finding
}

fn conntrack(ask: &Ask, probe: &Probe) -> Option<Finding> {
    let conntrack = probe.conntrack?;
    let needed = conntrack.count.saturating_add(ask.connections);
    let tracks = conntrack.count > 0;
    Some(
        AtLeast {
            name: "net.netfilter.nf_conntrack_max",
            unit: "tracked connections, with those of now",
            present: Some(conntrack.max),
            needed,
            otherwise: if tracks { Severity::Stops } else { Severity::Note },
            why: if tracks {
                "A rule of the firewall tracks connections; when the table is full new ones are dropped."
            } else {
                "Loaded, but nothing is tracked now; a rule that tracks would drop connections beyond it."
            },
            fix: sysctl("net.netfilter.nf_conntrack_max", needed),
        }
        .finding(),
    )
}
