//! Kernel settings that a number of connections needs: raised for a run where we may, and put back at its end.
//!
//! Only values that are lower than needed are touched. What may not be written is named with the command that does
//! it. A generator that is killed with SIGKILL puts nothing back; the printed lines say what the values had been.

use std::path::PathBuf;

use holdfast_tuning::demand;

/// One setting that ought to have at least this value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    name: &'static str,
    wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// A number, at least.
    AtLeast(u64),
    /// A number, at most.
    AtMost(u64),
    /// Several numbers, the last at least this; the others in proportion.
    LastAtLeast([u64; 3]),
    /// A range of ports, at least this wide.
    Ports(u64, u64),
}

/// What was changed; puts it back when dropped.
#[derive(Debug)]
pub struct Settings {
    root: PathBuf,
    changed: Vec<Change>,
}

/// One setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// As `sysctl` calls it.
    pub name: &'static str,
    /// What it had been.
    pub before: String,
    /// What it is now.
    pub now: String,
}

/// One setting that ought to be changed and could not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// As `sysctl` calls it.
    pub name: &'static str,
    /// What it is.
    pub present: String,
    /// The command that sets it.
    pub command: String,
}

impl Settings {
    /// Raises what both ends of `connections` over loopback need, where it is lower.
    #[must_use]
    pub fn raise(connections: u64) -> (Self, Vec<Missing>) {
        Self::raise_in("/proc/sys".into(), connections)
    }

    fn raise_in(root: PathBuf, connections: u64) -> (Self, Vec<Missing>) {
        let mut settings = Self { root, changed: Vec::new() };
        let missing = wishes(connections).into_iter().filter_map(|wish| settings.grant(&wish)).collect();
        (settings, missing)
    }

    /// What was changed.
    #[must_use]
    pub fn changed(&self) -> &[Change] {
        &self.changed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name.replace('.', "/"))
    }

    fn grant(&mut self, wish: &Wish) -> Option<Missing> {
        let name = wish.name;
        // A kernel without the setting has no such limit.
        let present = std::fs::read_to_string(self.path(name)).ok()?;
        let present = present.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let now = wish.wanted.better_than(&present)?;
        if std::fs::write(self.path(name), &now).is_ok() {
            self.changed.push(Change { name, before: present, now });
            return None;
        }
        Some(refused(name, present, &now))
    }

    /// Puts everything back; says what could not be.
    pub fn restore(&mut self) -> Vec<Change> {
        let mut stuck = Vec::new();
        while let Some(change) = self.changed.pop() {
            if std::fs::write(self.path(change.name), &change.before).is_err() {
                stuck.push(change);
            }
        }
        stuck
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        self.restore();
    }
}

fn refused(name: &'static str, present: String, now: &str) -> Missing {
    let quote = if now.contains(' ') { "\"" } else { "" };
    Missing { name, present, command: format!("sudo sysctl -w {name}={quote}{now}{quote}") }
}

impl Wanted {
    /// The value to write, or `None` when the present one will do (or is none that we understand).
    fn better_than(&self, present: &str) -> Option<String> {
        let numbers: Option<Vec<u64>> = present.split(' ').map(|number| number.parse().ok()).collect();
        let numbers = numbers?;
        match *self {
            Self::AtLeast(wanted) => (*numbers.first()? < wanted).then(|| wanted.to_string()),
            Self::AtMost(wanted) => (*numbers.first()? > wanted).then(|| wanted.to_string()),
            Self::LastAtLeast(wanted) => (*numbers.get(2)? < wanted[2]).then(|| {
                let [low, pressure, limit] = wanted;
                format!("{} {} {limit}", low.max(numbers[0]), pressure.max(numbers[1]))
            }),
            Self::Ports(low, high) => {
                let width = numbers.get(1)?.saturating_sub(*numbers.first()?);
                (width < high - low).then(|| format!("{low} {high}"))
            }
        }
    }
}

fn wishes(connections: u64) -> Vec<Wish> {
    let sockets = demand::Ends::Both.sockets(connections);
    let pages = demand::tcp_mem_pages(sockets);
    let open_files = crate::measure::memory::open_files().unwrap_or(0);
    let backlog = demand::backlog(connections);
    let list = [
        ("net.core.somaxconn", Wanted::AtLeast(backlog)),
        ("net.ipv4.tcp_max_syn_backlog", Wanted::AtLeast(backlog)),
        ("net.core.netdev_max_backlog", Wanted::AtLeast(demand::netdev_backlog(connections))),
        ("net.ipv4.ip_local_port_range", Wanted::Ports(1_024, 65_535)),
        ("fs.file-max", Wanted::AtLeast(demand::file_max(sockets, open_files))),
        ("net.ipv4.tcp_mem", Wanted::LastAtLeast([pages / 2, pages / 4 * 3, pages])),
        // Only for the end of the run: sockets that linger cost the next one its ports and memory.
        ("net.ipv4.tcp_max_orphans", Wanted::AtLeast(sockets)),
        ("net.ipv4.tcp_max_tw_buckets", Wanted::AtMost(1_000)),
    ];
    list.into_iter().map(|(name, wanted)| Wish { name, wanted }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(values: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in values {
            let path = root.path().join(name.replace('.', "/"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        root
    }

    fn value(root: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(root.path().join(name.replace('.', "/"))).unwrap()
    }

    #[test]
    fn raises_what_is_low_and_puts_it_back() {
        let root = tree(&[
            ("net.core.somaxconn", "4096\n"),
            ("net.ipv4.ip_local_port_range", "32768\t60999\n"),
            ("net.ipv4.tcp_mem", "100\t200\t300\n"),
            ("fs.file-max", "9223372036854775807\n"),
            ("net.ipv4.tcp_max_tw_buckets", "131072\n"),
        ]);
        let (mut settings, missing) = Settings::raise_in(root.path().into(), 1_000_000);
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(value(&root, "net.core.somaxconn"), "65535");
        assert_eq!(value(&root, "net.ipv4.ip_local_port_range"), "1024 65535");
        assert_eq!(value(&root, "net.ipv4.tcp_mem"), "1500000 2250000 3000000");
        assert_eq!(value(&root, "fs.file-max"), "9223372036854775807\n", "it was enough");
        assert_eq!(value(&root, "net.ipv4.tcp_max_tw_buckets"), "1000");
        assert_eq!(settings.changed().len(), 4);
        assert!(settings.restore().is_empty());
        assert_eq!(value(&root, "net.core.somaxconn"), "4096");
        assert_eq!(value(&root, "net.ipv4.ip_local_port_range"), "32768 60999");
        assert_eq!(value(&root, "net.ipv4.tcp_mem"), "100 200 300");
    }

    #[test]
    fn dropping_puts_back_too() {
        let root = tree(&[("net.core.somaxconn", "128")]);
        drop(Settings::raise_in(root.path().into(), 5_000));
        assert_eq!(value(&root, "net.core.somaxconn"), "128");
    }

    #[test]
    fn names_the_command_when_it_may_not() {
        let mut settings = Settings { root: "/dev".into(), changed: Vec::new() };
        let missing = refused("net.ipv4.tcp_mem", "1 2 3".into(), "4 5 6");
        assert_eq!(missing.command, "sudo sysctl -w net.ipv4.tcp_mem=\"4 5 6\"");
        // No such file: nothing to raise, nothing to complain about.
        let wish = Wish { name: "no.such.setting", wanted: Wanted::AtLeast(4_096) };
        assert_eq!(settings.grant(&wish), None);
    }

    #[test]
    fn values_that_will_do_are_left_alone() {
        assert_eq!(Wanted::AtLeast(10).better_than("10"), None);
        assert_eq!(Wanted::AtMost(10).better_than("10"), None);
        assert_eq!(Wanted::LastAtLeast([1, 2, 3]).better_than("0 0 3"), None);
        assert_eq!(Wanted::Ports(1_024, 65_535).better_than("1000 65535"), None);
        assert_eq!(Wanted::AtLeast(10).better_than("unlimited"), None);
        assert_eq!(Wanted::LastAtLeast([1, 2, 3]).better_than("5"), None);
    }
}
