//! Can this process make rings, and if not, who forbids it?

use super::{Finding, Probe, Quantity, Severity, sysctl};
use crate::demand;
use crate::probe::UringProbe;

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const SECCOMP_FILTER: u32 = 2;

/// True and a finding when the `uring` driver will run.
pub(super) fn examine(probe: &Probe) -> (bool, Finding) {
    match &probe.uring {
        UringProbe::Works => (true, works(probe)),
        UringProbe::Refused { step, errno } => {
            let (why, fix) = explain(probe, step, *errno);
            (false, blocked(probe, format!("errno {errno} from {step}"), why, fix))
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
        return Some(("too old".into(), old_kernel(), None));
    }
    let (why, fix) = disabled(probe)?;
    Some(("disabled".into(), why, fix))
}

fn old_kernel() -> String {
    let (major, minor) = demand::KERNEL_URING;
    format!("The uring driver needs Linux {major}.{minor} (deferred task work, direct accept).")
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

/// The likeliest reason for a refusal.
fn explain(probe: &Probe, step: &str, errno: i32) -> (String, Option<String>) {
    if matches!(errno, EPERM | ENOSYS) {
        if let Some(disabled) = disabled(probe) {
            return disabled;
        }
        if probe.seccomp_mode == Some(SECCOMP_FILTER) {
            return (
                "A seccomp filter forbids it, as the default ones of Docker and containerd do.".into(),
                Some("docker run --security-opt seccomp=tuning/seccomp/holdfast.json …".into()),
            );
        }
    }
    match errno {
        ENOSYS => ("This kernel was built without io_uring.".into(), None),
        ENOMEM => {
            let bytes = demand::memlock_bytes(64);
            (
                "Rings are charged to RLIMIT_MEMLOCK and it is used up.".into(),
                Some(format!("prlimit --pid $$ --memlock={bytes}:{bytes}")),
            )
        }
        EINVAL => (old_kernel(), None),
        EPERM => ("A security module (SELinux, AppArmor, Landlock) forbids it.".into(), None),
        _ => (format!("The kernel refused {step} with error {errno}."), None),
    }
}
