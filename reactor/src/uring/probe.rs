//! Whether io_uring can be used here, and if not, why and what to do about it.

use std::fmt;
use std::io;

use io_uring::{opcode, types};

use super::ring::Ring;

/// What this kernel offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The kernel's release, as `uname -r` says.
    pub kernel: String,
    /// Slots that one ring's table of direct descriptors may have (RLIMIT_NOFILE, at most 65,536).
    pub table_slots: u32,
    /// A wait may ask for several completions and yet end early (6.12): less CPU under load.
    pub has_min_wait: bool,
}

/// Why io_uring cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel was built without it, or is older than 5.1.
    #[error("this kernel ({kernel}) has no io_uring; use a kernel from 6.8 on, or `--driver epoll`")]
    NoSystemCall {
        /// The kernel's release.
        kernel: String,
    },
    /// `kernel.io_uring_disabled` forbids it.
    #[error(
        "kernel.io_uring_disabled is {value}: io_uring is forbidden {whom}; \
         run `sysctl -w kernel.io_uring_disabled=0`, or use `--driver epoll`"
    )]
    Disabled {
        /// The setting: 1 or 2.
        value: u8,
        /// For whom, in words.
        whom: &'static str,
    },
    /// A seccomp filter or another security module refuses the system call.
    #[error(
        "{what} is refused with {errno} although kernel.io_uring_disabled allows it: probably a seccomp filter, as \
         containers have by default; run the container with a profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register (tuning/seccomp), or use `--driver epoll`"
    )]
    Blocked {
        /// The system call.
        what: &'static str,
        /// The errno's name.
        errno: &'static str,
    },
    /// The kernel is too old for something that this driver needs.
    #[error(
        "this kernel ({kernel}) lacks {what}, which came with {since}; use a newer kernel, or `--driver epoll`"
    )]
    TooOld {
        /// The kernel's release.
        kernel: String,
        /// What is missing.
        what: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// The ring's memory was refused.
    #[error(
        "no memory for a ring: RLIMIT_MEMLOCK is {memlock} and a ring needs 160 KiB; raise it with `ulimit -l` or \
         systemd's LimitMEMLOCK, or free memory"
    )]
    NoMemory {
        /// The limit, in bytes or "unlimited".
        memlock: String,
    },
    /// No ordinary descriptor is left for the ring.
    #[error("no descriptor for a ring ({source}); raise RLIMIT_NOFILE or fs.file-max")]
    NoDescriptor {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something else.
    #[error("io_uring does not work here: {what} failed: {source}; use `--driver epoll`")]
    Unexpected {
        /// Which step.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Tries what the driver does: a ring with its flags, a table, a socket in it, an option, a close.
///
/// # Errors
/// The reason why [`super::UringDriver`] would fail here.
pub fn probe() -> Result<Probe, ProbeError> {
    let ring = Ring::set_up().map_err(explain_set_up)?;
    let has_min_wait = ring.params().is_feature_min_timeout();
    require(ring.params().is_feature_skip_cqe_on_success(), "silent completions", "5.17")?;
    require(ring.params().is_feature_nodrop(), "lossless completion queues", "5.5")?;
    let mut operations = io_uring::Probe::new();
    ring.submitter().register_probe(&mut operations).map_err(explain_register)?;
    for (code, what, since) in NEEDED_OPERATIONS {
        require(operations.is_supported(code), what, since)?;
    }
    ring.submitter().register_files_sparse(4).map_err(explain_register)?;
    try_socket(ring)?;
    let table_slots = table_slots();
    Ok(Probe { kernel: kernel(), table_slots, has_min_wait })
}

const NEEDED_OPERATIONS: [(u8, &str, &str); 10] = [
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD", "5.1"),
    (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT", "5.5"),
    (opcode::AsyncCancel2::CODE, "IORING_OP_ASYNC_CANCEL", "5.5"),
    (opcode::Close::CODE, "IORING_OP_CLOSE", "5.6"),
    (opcode::Send::CODE, "IORING_OP_SEND", "5.6"),
    (opcode::Recv::CODE, "IORING_OP_RECV", "5.6"),
    (opcode::Shutdown::CODE, "IORING_OP_SHUTDOWN", "5.11"),
    (opcode::Socket::CODE, "IORING_OP_SOCKET", "5.19"),
    (opcode::FixedFdInstall::CODE, "IORING_OP_FIXED_FD_INSTALL", "6.8"),
    (opcode::SetSockOpt::CODE, "IORING_OP_URING_CMD", "5.19"),
];

/// Slots that one table may have under the present limit.
fn table_slots() -> u32 {
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let nofile = nofile.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX);
    nofile.min(super::table::TABLE_SLOTS_LIMIT)
}

/// A socket in a direct descriptor, an option on it (6.7), and its close.
fn try_socket(mut ring: io_uring::IoUring) -> Result<(), ProbeError> {
    static YES: i32 = 1;
    let slot = types::DestinationSlot::auto_target();
    let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).file_index(Some(slot)).build();
    run(&mut ring, socket, "a socket in a direct descriptor", "5.19")?;
    let option = opcode::SetSockOpt::new(
        types::Fixed(0),
        libc::IPPROTO_TCP as u32,
        libc::TCP_NODELAY as u32,
        std::ptr::from_ref(&YES).cast(),
        size_of::<i32>() as u32,
    );
    run(&mut ring, option.build(), "socket options on direct descriptors", "6.7")?;
    run(&mut ring, opcode::Close::new(types::Fixed(0)).build(), "closing direct descriptors", "5.15")
}

fn run(
    ring: &mut io_uring::IoUring,
    entry: io_uring::squeue::Entry,
    what: &'static str,
    since: &'static str,
) -> Result<(), ProbeError> {
    let unexpected = |source| ProbeError::Unexpected { what, source };
    // SAFETY: the only memory that an entry points to is a static that is read.
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.map_err(|_| unexpected(io::Error::from_raw_os_error(libc::ENOBUFS)))?;
    match ring.submit_and_wait(1) {
        Ok(_) => {}
        Err(error) if is_refusal(&error) => return Err(blocked("io_uring_enter", &error)),
        Err(error) => return Err(unexpected(error)),
    }
    let result = ring.completion().next().map_or(-libc::EAGAIN, |completion| completion.result());
    match -result {
        libc::EINVAL | libc::EOPNOTSUPP => Err(ProbeError::TooOld { kernel: kernel(), what, since }),
        errno if errno > 0 => Err(unexpected(io::Error::from_raw_os_error(errno))),
        _ => Ok(()),
    }
}

fn require(is_there: bool, what: &'static str, since: &'static str) -> Result<(), ProbeError> {
    if is_there { Ok(()) } else { Err(ProbeError::TooOld { kernel: kernel(), what, since }) }
}

fn explain_set_up(error: io::Error) -> ProbeError {
    match error.raw_os_error() {
        // The setting exists where the system call does (from 6.6 on).
        Some(libc::ENOSYS) if setting().is_none() => ProbeError::NoSystemCall { kernel: kernel() },
        Some(libc::ENOSYS) => blocked("io_uring_setup", &error),
        Some(libc::EPERM | libc::EACCES) => match setting() {
            Some(2) => ProbeError::Disabled { value: 2, whom: "for everybody" },
            Some(1) if !rustix::process::geteuid().is_root() => ProbeError::Disabled {
                value: 1,
                whom: "for those without CAP_SYS_ADMIN who are not in kernel.io_uring_group",
            },
            _ => blocked("io_uring_setup", &error),
        },
        Some(libc::ENOMEM) => ProbeError::NoMemory { memlock: memlock() },
        Some(libc::EMFILE | libc::ENFILE) => ProbeError::NoDescriptor { source: error },
        Some(libc::EINVAL) => {
            ProbeError::TooOld { kernel: kernel(), what: "a set-up flag of io_uring", since: "6.6" }
        }
        _ => ProbeError::Unexpected { what: "io_uring_setup", source: error },
    }
}

fn explain_register(error: io::Error) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => ProbeError::NoMemory { memlock: memlock() },
        _ if is_refusal(&error) => blocked("io_uring_register", &error),
        _ => ProbeError::Unexpected { what: "io_uring_register", source: error },
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
}

fn blocked(what: &'static str, error: &io::Error) -> ProbeError {
    let errno = match error.raw_os_error() {
        Some(libc::ENOSYS) => "ENOSYS",
        Some(libc::EACCES) => "EACCES",
        _ => "EPERM",
    };
    ProbeError::Blocked { what, errno }
}

/// `kernel.io_uring_disabled`; kernels before 6.6 do not have it.
fn setting() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn memlock() -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"))
}

/// The short form, for a driver that fails in a place where a probe has succeeded, or none was made.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
            "io_uring is blocked here: `holdfast doctor` says by what; use `--driver epoll`"
        }
        Some(libc::ENOMEM) => "raise RLIMIT_MEMLOCK or free memory",
        Some(libc::EMFILE | libc::ENFILE) => "raise RLIMIT_NOFILE and fs.file-max",
        Some(libc::EINVAL) => "this kernel is too old for it: use one from 6.8 on, or `--driver epoll`",
        _ => "use `--driver epoll`",
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring on kernel {}, {} connections per ring", self.kernel, self.table_slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a system call fail with an errno, for the calling thread alone, as a container's profile does.
    fn forbid(system_call: i64, errno: i32) {
        let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let mut filter = [
            // The first word of `seccomp_data` is the system call's number.
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
            libc::sock_filter {
                jf: 1,
                ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, system_call as u32)
            },
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program and its filter outlive the calls, which read them.
        let results = unsafe {
            let alone = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            (alone, libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program))
        };
        assert_eq!(results, (0, 0), "{}", io::Error::last_os_error());
    }

    fn probe_without(system_call: i64, errno: i32) -> ProbeError {
        let probing = std::thread::spawn(move || {
            forbid(system_call, errno);
            probe()
        });
        probing.join().expect("the probe does not panic").expect_err("what it needs is forbidden")
    }

    #[test]
    fn a_seccomp_filter_is_named_with_what_to_do() {
        for (system_call, name) in [
            (libc::SYS_io_uring_setup, "io_uring_setup"),
            (libc::SYS_io_uring_enter, "io_uring_enter"),
            (libc::SYS_io_uring_register, "io_uring_register"),
        ] {
            for (errno, errno_name) in [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS")] {
                let error = probe_without(system_call, errno);
                assert!(
                    matches!(&error, ProbeError::Blocked { what, errno } if *what == name && *errno == errno_name),
                    "{error:?}"
                );
                let text = error.to_string();
                assert!(text.contains(name) && text.contains(errno_name), "{text}");
                assert!(text.contains("seccomp") && text.contains("--driver epoll"), "{text}");
            }
        }
    }

    #[test]
    fn a_lack_of_memory_or_descriptors_is_not_called_a_block() {
        let error = probe_without(libc::SYS_io_uring_setup, libc::ENOMEM);
        assert!(matches!(error, ProbeError::NoMemory { .. }), "{error:?}");
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        let error = probe_without(libc::SYS_io_uring_setup, libc::EMFILE);
        assert!(matches!(error, ProbeError::NoDescriptor { .. }), "{error:?}");
        let error = probe_without(libc::SYS_io_uring_setup, libc::EINVAL);
        assert!(matches!(error, ProbeError::TooOld { .. }), "{error:?}");
    }

    #[test]
    fn a_driver_that_is_blocked_says_what_to_do() {
        let making = std::thread::spawn(|| {
            forbid(libc::SYS_io_uring_setup, libc::EPERM);
            crate::uring::UringDriver::new(crate::DriverOptions::default()).map(|_| ())
        });
        let error = making.join().expect("making a driver does not panic").expect_err("it is forbidden");
        let text = error.to_string();
        assert!(text.contains("holdfast doctor") && text.contains("--driver epoll"), "{text}");
    }
}
