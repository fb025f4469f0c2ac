//! Can this process make rings, and if not, who forbids it?

use super::{Finding, Probe, Quantity, Severity, sysctl};
use crate::demand;
use crate::probe::UringProbe;

const SECCOMP_FILTER: u32 = 2;

/// True and a finding when the `uring` driver will run.
pub(super) fn examine(probe: &Probe) -> (bool, Finding) {
    match &probe.uring {
        UringProbe::Works => (true, works(probe)),
        UringProbe::Refused { reason } => {
            let reason = format!("{}.", reason.trim_end_matches('.'));
            (false, blocked(probe, "refused".into(), reason, likely_cure(probe)))
        }
        UringProbe::NotTried => match forbidden(probe) {
            Some((what, why, fix)) => (false, blocked(probe, what, why, fix)),
            None => (true, untried(probe)),
        },
    }
}

fn finding(probe: &Probe, severity: Severity, present: String, why: String, fix: Option<String>) -> Finding {
    let (major, minor) = demand::KERNEL_URING;
    let (batch_major, batch_minor) = demand::KERNEL_URING_BATCH;
    let present = match probe.kernel {
        Some((major, minor)) => format!("{present}, Linux {major}.{minor}"),
        None => present,
    };
    let needed = format!("allowed, Linux {major}.{minor}, better {batch_major}.{batch_minor}");
    Finding {
        name: "io_uring",
        severity,
        present: Quantity::Text(present),
        needed: Quantity::Text(needed),
        unit: "",
        why,
        fix,
    }
}

fn works(probe: &Probe) -> Finding {
    let (major, minor) = demand::KERNEL_URING_BATCH;
    if probe.kernel.is_some_and(|kernel| kernel < demand::KERNEL_URING_BATCH) {
        let why = format!(
            "Before Linux {major}.{minor} one system call reaps at most 20 completions: 6 to 12 % more processor \
             time per message under load."
        );
        return finding(probe, Severity::Note, "works".into(), why, None);
    }
    finding(probe, Severity::Ok, "works".into(), "A ring was made.".into(), None)
}

fn untried(probe: &Probe) -> Finding {
    let (severity, why) = match probe.seccomp_mode {
        Some(SECCOMP_FILTER) => (
            Severity::Note,
            "Nothing that can be read forbids it, but a seccomp filter is on, and the default ones of Docker and \
             containerd do. Only making a ring can tell.",
        ),
        _ => (Severity::Ok, "Nothing forbids it; no ring was made to see."),
    };
    finding(probe, severity, "not tried".into(), why.into(), None)
}

fn blocked(probe: &Probe, what: String, why: String, fix: Option<String>) -> Finding {
    let why =
        format!("{why} The epoll driver takes over: a descriptor per connection, and more processor time.");
    finding(probe, Severity::Slower, what, why, fix)
}

/// What can be read beforehand and forbids rings: what it is, what it means, what to do.
fn forbidden(probe: &Probe) -> Option<(String, String, Option<String>)> {
    if let Some(kernel) = probe.kernel
        && kernel < demand::KERNEL_URING
    {
        let (major, minor) = demand::KERNEL_URING;
        let why =
            format!("The uring driver needs Linux {major}.{minor} (socket options on direct descriptors).");
        return Some(("too old".into(), why, None));
    }
    let (why, fix) = disabled(probe)?;
    Some(("disabled".into(), why, fix))
}

fn disabled(probe: &Probe) -> Option<(String, Option<String>)> {
    let why = match probe.io_uring_disabled {
        Some(2..) => "kernel.io_uring_disabled forbids it to everybody.",
        // CAP_SYS_ADMIN is exempt from 1, not from 2.
        Some(1) if !probe.may_exceed_file_max => {
            "kernel.io_uring_disabled allows it only to the group in kernel.io_uring_group, and to CAP_SYS_ADMIN."
        }
        _ => return None,
    };
    Some((why.into(), sysctl("kernel.io_uring_disabled", 0)))
}

/// The command against the likeliest reason for a refusal.
fn likely_cure(probe: &Probe) -> Option<String> {
    if probe.kernel.is_some_and(|kernel| kernel < demand::KERNEL_URING) {
        return None;
    }
    if let Some((_, fix)) = disabled(probe) {
        return fix;
    }
    if probe.seccomp_mode == Some(SECCOMP_FILTER) {
        return Some("docker run --security-opt seccomp=tuning/seccomp/holdfast.json …".into());
    }
    let one_ring = demand::memlock_bytes(1);
    let is_charged = probe.kernel.is_none_or(|kernel| kernel >= demand::KERNEL_RINGS_LOCKED);
    if is_charged && !probe.may_lock_memory && probe.memlock.reachable() < one_ring {
        let bytes = demand::memlock_bytes(64);
        return Some(format!("prlimit --pid $$ --memlock={bytes}:{bytes}"));
    }
    None
}
