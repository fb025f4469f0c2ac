//! Memory of the machine and of the control group.

use super::{Ask, Finding, Probe, Quantity, Severity};
use crate::units;

pub(super) fn examine(ask: &Ask, probe: &Probe, findings: &mut Vec<Finding>) {
    findings.push(machine(ask, probe));
    findings.extend(group(ask, probe));
}

fn machine(ask: &Ask, probe: &Probe) -> Finding {
    let needed = ask.memory();
    let parts = format!(
        "By the ledger {} in the kernel ({} per socket), {} of rings, {} in user space.",
        units::bytes(needed.kernel_bytes),
        units::bytes(ask.waiting.connection_bytes()),
        units::bytes(needed.rings_bytes),
        units::bytes(needed.user_bytes),
    );
    let (severity, present, why) = match probe.memory {
        None => (Severity::Note, Quantity::Unknown, parts),
        Some(memory) => {
            let usable = memory.usable_bytes();
            let present = Quantity::Bytes(usable);
            if usable >= needed.total_bytes {
                (Severity::Ok, present, parts)
            } else {
                let why = format!(
                    "{parts} About {} connections fit. What counts is MemFree and pages of files ({}); \
                     MemAvailable says {}, but it takes inode and dentry slabs for reclaimable, and live sockets \
                     pin a quarter of their memory there.",
                    units::count(ask.connections_in(usable)),
                    units::bytes(usable),
                    units::bytes(memory.available_bytes),
                );
                (Severity::Stops, present, why)
            }
        }
    };
    Finding {
        name: "memory",
        severity,
        present,
        needed: Quantity::Bytes(needed.total_bytes),
        unit: "free or droppable (not MemAvailable)",
        why,
        fix: None,
    }
}

fn group(ask: &Ask, probe: &Probe) -> Option<Finding> {
    let group = probe.cgroup.as_ref()?;
    let needed = ask.memory().total_bytes;
    let usable = group.usable_bytes();
    let enough = usable >= needed;
    let file = group.file.display();
    let limit = needed.saturating_add(group.used_bytes);
    Some(Finding {
        name: "cgroup memory",
        severity: if enough { Severity::Ok } else { Severity::Stops },
        present: Quantity::Bytes(usable),
        needed: Quantity::Bytes(needed),
        unit: "left in the control group (sockets in the kernel count)",
        why: format!(
            "{file} limits the group to {}, of which {} are used; about {} connections fit.",
            units::bytes(group.limit_bytes),
            units::bytes(group.used_bytes),
            units::count(ask.connections_in(usable)),
        ),
        fix: (!enough).then(|| format!("echo {limit} > {file}")),
    })
}
