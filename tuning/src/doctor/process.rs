//! Limits of the process, and of files on the machine.

use super::{Ask, AtLeast, Finding, Probe, Quantity, Severity, sysctl};
use crate::probe::Limit;
use crate::{demand, units};

pub(super) fn examine(ask: &Ask, probe: &Probe, findings: &mut Vec<Finding>) {
    findings.push(nofile(ask, probe));
    if ask.uring_works {
        findings.push(rings(ask, probe));
        findings.push(memlock(ask, probe));
    }
    findings.push(file_max(ask, probe));
    findings.push(nr_open(ask, probe));
    findings.push(steal(probe));
}

fn nofile_needed(ask: &Ask) -> u64 {
    if ask.uring_works { demand::nofile_uring(ask.rings) } else { demand::nofile_epoll(ask.connections) }
}

fn limit(limit: Limit) -> Option<u64> {
    Some(limit.reachable())
}

fn unlimited(mut finding: Finding) -> Finding {
    if finding.present == Quantity::Count(u64::MAX) {
        finding.present = Quantity::Unlimited;
    }
    finding
}

fn nofile(ask: &Ask, probe: &Probe) -> Finding {
    let needed = nofile_needed(ask);
    let mut fix = format!("prlimit --pid $$ --nofile={needed}:{needed}");
    if probe.nr_open.is_some_and(|most| most < needed) {
        fix = format!("sysctl -w fs.nr_open={needed} && {fix}");
    }
    unlimited(
        AtLeast {
            name: "RLIMIT_NOFILE",
            unit: "descriptors (hard limit; the server raises the soft one)",
            present: limit(probe.nofile),
            needed,
            otherwise: Severity::Stops,
            why: if ask.uring_works {
                "Connections live in the rings' own tables; rings, listeners and the store's files need descriptors."
            } else {
                "With epoll each connection has a descriptor."
            },
            fix: Some(fix),
        }
        .finding(),
    )
}

/// Tables do not add up, so any number of connections fits under any limit; many rings are only a little dearer.
fn rings(ask: &Ask, probe: &Probe) -> Finding {
    let best = demand::rings(ask.connections, u64::MAX, probe.processors);
    let enough = ask.rings <= best.total;
    let slots = best.slots_per_ring;
    let raise = probe.nr_open.is_some_and(|most| most < slots);
    let first = if raise { format!("sysctl -w fs.nr_open={slots} && ") } else { String::new() };
    Finding {
        name: "rings",
        severity: if enough { Severity::Ok } else { Severity::Note },
        present: Quantity::Count(ask.rings),
        needed: Quantity::Count(best.total),
        unit: "at best",
        why: format!(
            "RLIMIT_NOFILE caps each ring's file table, not their sum: {} rings are filled one after the other. \
             With tables of {} slots there would be fewer, which cost less per message at low load.",
            units::count(ask.rings),
            units::count(slots),
        ),
        fix: (!enough).then(|| format!("{first}prlimit --pid $$ --nofile={slots}:{slots}")),
    }
}

fn memlock(ask: &Ask, probe: &Probe) -> Finding {
    let needed = demand::memlock_bytes(ask.rings);
    let exempt = if probe.may_lock_memory {
        Some("CAP_IPC_LOCK: the limit does not count.")
    } else if probe.kernel.is_some_and(|kernel| kernel < demand::KERNEL_RINGS_LOCKED) {
        Some("Before Linux 6.14 rings are not charged to it.")
    } else {
        None
    };
    let mut finding = unlimited(
        AtLeast {
            name: "RLIMIT_MEMLOCK",
            unit: "for rings, over all processes of the user",
            present: limit(probe.memlock),
            needed,
            otherwise: Severity::Stops,
            why: "Since Linux 6.14 rings are charged to it; when it is used up the next ring gets ENOMEM.",
            fix: Some(format!("prlimit --pid $$ --memlock={needed}:{needed}")),
        }
        .finding(),
    );
    if let Quantity::Count(bytes) = finding.present {
        finding.present = Quantity::Bytes(bytes);
    }
    finding.needed = Quantity::Bytes(needed);
    if let Some(why) = exempt {
        finding.severity = Severity::Ok;
        finding.why = why.into();
        finding.fix = None;
    }
    finding
}

fn file_max(ask: &Ask, probe: &Probe) -> Finding {
    let needed = demand::file_max(ask.sockets(), probe.files_open.unwrap_or(0));
    AtLeast {
        name: "fs.file-max",
        unit: "files, with those that are open now",
        present: probe.file_max,
        needed,
        otherwise: if probe.may_exceed_file_max { Severity::Note } else { Severity::Stops },
        why: if probe.may_exceed_file_max {
            "Every socket is a file, on a direct descriptor too. CAP_SYS_ADMIN is exempt; other processes are not."
        } else {
            "Every socket is a file, on a direct descriptor too; beyond the limit accept fails with ENFILE."
        },
        fix: sysctl("fs.file-max", needed),
    }
    .finding()
}

fn nr_open(ask: &Ask, probe: &Probe) -> Finding {
    let needed = nofile_needed(ask);
    AtLeast {
        name: "fs.nr_open",
        unit: "descriptors",
        present: probe.nr_open,
        needed,
        otherwise: if probe.nofile.reachable() >= needed { Severity::Note } else { Severity::Stops },
        why: "RLIMIT_NOFILE cannot be raised above it.",
        fix: sysctl("fs.nr_open", needed),
    }
    .finding()
}

/// From so much on, a measurement says more about the neighbours than about this machine.
const STEAL_PERMILLE_MAX: u64 = 50;

fn steal(probe: &Probe) -> Finding {
    let steal = probe.steal.map(|time| time.steal_permille());
    let percent = |permille: u64| Quantity::Text(format!("{}.{} %", permille / 10, permille % 10));
    Finding {
        name: "CPU steal",
        severity: match steal {
            None => Severity::Note,
            Some(permille) if permille <= STEAL_PERMILLE_MAX => Severity::Ok,
            Some(_) => Severity::Slower,
        },
        present: steal.map_or(Quantity::Unknown, percent),
        needed: percent(STEAL_PERMILLE_MAX),
        unit: "at most, of the busy time since boot",
        why: "The hypervisor gives processors to other guests when this one has work; latencies and costs that are \
              measured here are too high."
            .into(),
        fix: None,
    }
}
