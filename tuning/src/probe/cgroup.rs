//! Finds the control group that limits memory most: any group on the way from this process's own to the root
//! counts, in version 2 (`memory.max`, `memory.high`) and version 1 (`memory.limit_in_bytes`).

use std::fs;
use std::path::{Path, PathBuf};

use super::CgroupMemory;

/// The limit that leaves least, or `None` where no group limits memory.
pub(super) fn tightest(proc: &Path, sys: &Path) -> Option<CgroupMemory> {
    let groups = fs::read_to_string(proc.join("self/cgroup")).ok()?;
    let mounts = sys.join("fs/cgroup");
    groups.lines().flat_map(|line| limits(&mounts, line)).min_by_key(CgroupMemory::usable_bytes)
}

/// Limits along one line of `/proc/self/cgroup`: `hierarchy:controllers:path`.
fn limits(mounts: &Path, line: &str) -> Vec<CgroupMemory> {
    let mut fields = line.splitn(3, ':');
    let (Some(hierarchy), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
    else {
        return Vec::new();
    };
    let (mount, files, usage): (PathBuf, &[&str], &str) = if hierarchy == "0" {
        (mounts.to_path_buf(), &["memory.max", "memory.high"], "memory.current")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (mounts.join("memory"), &["memory.limit_in_bytes"], "memory.usage_in_bytes")
    } else {
        return Vec::new();
    };
    // In a container the path is the host's, while the mount shows the group itself: its root is looked at as well.
    let own = mount.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|group| group.starts_with(&mount))
        .flat_map(|group| files.iter().filter_map(|file| limit(&group.join(file), &group.join(usage))))
        .collect()
}

fn limit(file: &Path, usage: &Path) -> Option<CgroupMemory> {
    // `max` does not parse, which is right: it limits nothing. Neither does version 1's "no limit", the largest
    // multiple of a page.
    let limit_bytes: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    if limit_bytes >= UNLIMITED_BYTES {
        return None;
    }
    let usage_bytes: u64 = fs::read_to_string(usage).ok()?.trim().parse().ok()?;
    let used_bytes = usage_bytes.saturating_sub(file_bytes(&file.with_file_name("memory.stat")));
    Some(CgroupMemory { file: file.to_path_buf(), limit_bytes, used_bytes })
}

/// Pages of files that the group is charged for, which the kernel drops before it refuses memory. Version 1 counts
/// the groups below only in the lines that begin with `total_`.
fn file_bytes(stat: &Path) -> u64 {
    let text = fs::read_to_string(stat).unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
    };
    let both = |total: &str, own: &str| bytes(total).or_else(|| bytes(own)).unwrap_or(0);
    both("total_active_file", "active_file") + both("total_inactive_file", "inactive_file")
}

/// Version 1 writes `i64::MAX` rounded down to a page (4 to 64 KiB) when there is no limit.
const UNLIMITED_BYTES: u64 = i64::MAX as u64 & !0xffff;

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(groups: &str, files: &[(&str, &str)]) -> Option<CgroupMemory> {
        let root = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir_all(root.path().join("self")).expect("can be made");
        fs::write(root.path().join("self/cgroup"), groups).expect("can be written");
        for (path, text) in files {
            let path = root.path().join("fs/cgroup").join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("can be made");
            fs::write(path, text).expect("can be written");
        }
        tightest(root.path(), root.path())
    }

    #[test]
    fn version_2_takes_the_tightest_on_the_way_up() {
        let found = machine(
            "0::/system.slice/holdfast.service\n",
            &[
                ("system.slice/holdfast.service/memory.max", "max\n"),
                ("system.slice/holdfast.service/memory.high", "9000\n"),
                ("system.slice/holdfast.service/memory.current", "1000\n"),
                ("system.slice/memory.max", "6000\n"),
                ("system.slice/memory.current", "2500\n"),
                ("system.slice/memory.stat", "anon 7\nactive_file 300\ninactive_file 200\n"),
            ],
        )
        .expect("a limit is found");
        assert!(found.file.ends_with("system.slice/memory.max"), "{found:?}");
        assert_eq!(found.usable_bytes(), 4_000);
    }

    #[test]
    fn version_1_without_a_limit_is_no_limit() {
        let files = [
            ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.usage_in_bytes", "5\n"),
        ];
        assert_eq!(machine("4:memory:/a\n3:cpuset:/\n0::/\n", &files), None);
    }

    #[test]
    fn version_1_with_a_limit_in_a_container_is_found_at_the_mount() {
        let files = [("memory/memory.limit_in_bytes", "1000\n"), ("memory/memory.usage_in_bytes", "5\n")];
        let found = machine("4:cpu,memory:/docker/0123\n", &files).expect("a limit is found");
        assert_eq!(found.usable_bytes(), 995);
    }
}
