//! The disk as tests hold it: what they can do to it.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::content::PAGE_BYTES;
use crate::state::{Random, State};

/// Far more than a test writes, and than a store wants to see free.
const CAPACITY_BYTES: u64 = 16 << 30;

/// What becomes of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It is gone.
    All,
    /// Some of it, as this seed decides: pages are there, or not, or up to some sector; directories have the changes up
    /// to some moment.
    Some {
        /// The same seed loses the same.
        seed: u64,
    },
}

impl Loss {
    fn random(self) -> Option<Random> {
        match self {
            Self::All => None,
            Self::Some { seed } => Some(Random::new(seed)),
        }
    }
}

/// Figures of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of pages that take space.
    pub used_bytes: u64,
    /// Bytes that can be written.
    pub free_bytes: u64,
    /// Bytes of pages that a crash would lose.
    pub unsynced_bytes: u64,
    /// Changes of directories that a crash would lose.
    pub unsynced_changes: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Syncs that were made to fail.
    pub failed_syncs: u64,
}

/// A disk in memory; clones are the same disk. [`crate::Mounted`] makes it a directory.
#[derive(Debug, Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State::new(CAPACITY_BYTES / PAGE_BYTES))) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: nothing panics while it holds the disk")
    }

    /// The machine stops and starts again at once. For programs that are dead already: one that lives would go on
    /// writing by path.
    pub fn crash(&self, loss: Loss) {
        self.cut_power(loss);
        self.restore_power();
    }

    /// The machine stops: from here on every operation fails with `EIO`, until [`Disk::restore_power`]. In between, a
    /// store within the test's own process can be brought to its end.
    pub fn cut_power(&self, loss: Loss) {
        let mut state = self.state();
        state.crash(loss.random());
        state.powered = false;
    }

    /// The power goes when `syncs` more syncs are done and the next one asks: the moment at which most is at stake, and
    /// one that a test can walk through everything that a program does.
    pub fn cut_power_after(&self, syncs: u64, loss: Loss) {
        self.state().power_cut_after = Some((syncs, loss.random()));
    }

    /// The machine starts again, or does not stop after all.
    pub fn restore_power(&self) {
        let mut state = self.state();
        state.powered = true;
        state.power_cut_after = None;
    }

    /// Whether the machine runs.
    #[must_use]
    pub fn has_power(&self) -> bool {
        self.state().powered
    }

    /// The next `count` syncs, of files or directories, fail with `EIO`. What a file's sync was to write counts as clean
    /// then: later syncs succeed without writing it, and a crash loses it.
    pub fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// Only so many more bytes can be written, rounded down to pages; then `ENOSPC`.
    pub fn fill(&self, bytes_left: u64) {
        let mut state = self.state();
        state.capacity_pages = state.used_pages() + bytes_left / PAGE_BYTES;
    }

    /// No fault is left: there is space again, and syncs succeed.
    pub fn heal(&self) {
        let mut state = self.state();
        state.capacity_pages = CAPACITY_BYTES / PAGE_BYTES;
        state.failing_syncs = 0;
    }

    /// How it stands.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let state = self.state();
        let (pages, unsynced_changes) = state.unsynced();
        Usage {
            used_bytes: state.used_pages() * PAGE_BYTES,
            free_bytes: state.free_pages() * PAGE_BYTES,
            unsynced_bytes: pages * PAGE_BYTES,
            unsynced_changes,
            syncs: state.syncs,
            failed_syncs: state.failed_syncs,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use rustix::io::Errno;

    use super::*;
    use crate::state::{Owner, ROOT};

    const OWNER: Owner = Owner { mode: 0o600, user: 0, group: 0 };

    fn file(disk: &Disk, directory: u64, name: &str, bytes: &[u8]) -> u64 {
        let mut state = disk.state();
        let inode = state.make(directory, OsStr::new(name), false, OWNER).unwrap().inode;
        assert_eq!(state.write(inode, Some(0), bytes), Ok(bytes.len()));
        inode
    }

    fn sync(disk: &Disk, inode: u64) {
        disk.state().sync(inode).unwrap();
    }

    fn read(disk: &Disk, directory: u64, name: &str) -> Result<Vec<u8>, Errno> {
        let mut state = disk.state();
        let inode = state.look_up(directory, OsStr::new(name))?.inode;
        state.read(inode, 0, 1 << 20)
    }

    fn rename(disk: &Disk, from: (u64, &str), to: (u64, &str)) {
        disk.state().rename((from.0, OsStr::new(from.1)), (to.0, OsStr::new(to.1)), true).unwrap();
    }

    #[test]
    fn a_file_needs_its_own_sync_and_its_directorys() {
        let disk = Disk::new();
        let both = file(&disk, ROOT, "both", b"1");
        sync(&disk, both);
        file(&disk, ROOT, "entry", b"2");
        sync(&disk, ROOT);
        let content = file(&disk, ROOT, "content", b"3");
        sync(&disk, content);
        assert_eq!(disk.usage().unsynced_changes, 1);
        disk.crash(Loss::All);
        assert_eq!(read(&disk, ROOT, "both").unwrap(), b"1");
        assert_eq!(read(&disk, ROOT, "entry").unwrap(), b"");
        assert_eq!(read(&disk, ROOT, "content"), Err(Errno::NOENT));
        assert_eq!(disk.state().read(both, 0, 1), Err(Errno::STALE), "what was open is stale");
    }

    #[test]
    fn a_directory_needs_its_parents_sync() {
        let disk = Disk::new();
        let directory = disk.state().make(ROOT, OsStr::new("d"), true, OWNER).unwrap().inode;
        let inner = file(&disk, directory, "f", b"1");
        sync(&disk, inner);
        sync(&disk, directory);
        disk.crash(Loss::All);
        assert_eq!(disk.state().look_up(ROOT, OsStr::new("d")).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn a_rename_is_kept_whole_by_a_sync_of_either_directory() {
        for synced_first in [true, false] {
            let disk = Disk::new();
            let directory = disk.state().make(ROOT, OsStr::new("d"), true, OWNER).unwrap().inode;
            let moved = file(&disk, ROOT, "new", b"new");
            let old = file(&disk, directory, "f", b"old");
            sync(&disk, moved);
            sync(&disk, old);
            sync(&disk, ROOT);
            sync(&disk, directory);
            rename(&disk, (ROOT, "new"), (directory, "f"));
            sync(&disk, if synced_first { ROOT } else { directory });
            disk.crash(Loss::All);
            let directory = disk.state().look_up(ROOT, OsStr::new("d")).unwrap().inode;
            assert_eq!(read(&disk, directory, "f").unwrap(), b"new");
            assert_eq!(read(&disk, ROOT, "new"), Err(Errno::NOENT));
        }
    }

    #[test]
    fn what_was_replaced_or_removed_without_a_sync_comes_back() {
        let disk = Disk::new();
        let [a, b] = ["a", "b"].map(|name| file(&disk, ROOT, name, name.as_bytes()));
        sync(&disk, a);
        sync(&disk, b);
        sync(&disk, ROOT);
        rename(&disk, (ROOT, "b"), (ROOT, "a"));
        disk.state().remove(ROOT, OsStr::new("a"), false).unwrap();
        disk.crash(Loss::All);
        assert_eq!(read(&disk, ROOT, "a").unwrap(), b"a");
        assert_eq!(read(&disk, ROOT, "b").unwrap(), b"b");
    }

    #[test]
    fn a_file_with_two_names_stays_one_file() {
        let disk = Disk::new();
        let inode = file(&disk, ROOT, "draft", b"1");
        disk.state().link(inode, ROOT, OsStr::new("final")).unwrap();
        sync(&disk, inode);
        sync(&disk, ROOT);
        disk.crash(Loss::All);
        disk.state().remove(ROOT, OsStr::new("draft"), false).unwrap();
        let kept = disk.state().look_up(ROOT, OsStr::new("final")).unwrap();
        assert_eq!((kept.links, disk.usage().used_bytes), (1, 4096));
        assert_eq!(read(&disk, ROOT, "final").unwrap(), b"1");
        assert_eq!(disk.state().make(ROOT, OsStr::new("final"), false, OWNER).unwrap_err(), Errno::EXIST);
    }

    #[test]
    fn a_tearing_crash_keeps_the_changes_up_to_some_moment() {
        let mut counts = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let disk = Disk::new();
            for name in ["a", "b", "c"] {
                file(&disk, ROOT, name, b"");
            }
            disk.crash(Loss::Some { seed });
            let there = ["a", "b", "c"].map(|name| read(&disk, ROOT, name).is_ok());
            assert!(there.is_sorted_by(|earlier, later| earlier >= later), "{there:?}");
            counts.insert(there.iter().filter(|&&there| there).count());
        }
        assert!(counts.into_iter().eq(0..=3));
    }

    #[test]
    fn failed_syncs_are_counted_and_a_crash_tells() {
        let disk = Disk::new();
        let inode = file(&disk, ROOT, "f", b"lost");
        sync(&disk, ROOT);
        disk.fail_syncs(1);
        assert_eq!(disk.state().sync(inode), Err(Errno::IO));
        sync(&disk, inode);
        assert_eq!((disk.usage().failed_syncs, disk.usage().syncs), (1, 2));
        disk.crash(Loss::All);
        assert_eq!(read(&disk, ROOT, "f").unwrap(), [0; 4], "the length was written, the page was not");
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_removing_makes_room() {
        let disk = Disk::new();
        let inode = file(&disk, ROOT, "f", &[1; 4096]);
        disk.fill(8192);
        assert_eq!(disk.state().write(inode, None, &[2; 10_000]), Ok(8192));
        assert_eq!(disk.state().write(inode, None, b"x"), Err(Errno::NOSPC));
        assert_eq!(disk.usage().free_bytes, 0);
        let other = disk.state().make(ROOT, OsStr::new("g"), false, OWNER).unwrap().inode;
        disk.state().open(inode).unwrap();
        disk.state().remove(ROOT, OsStr::new("f"), false).unwrap();
        assert_eq!(disk.state().write(other, None, b"x"), Err(Errno::NOSPC), "it is still open");
        disk.state().release(inode);
        assert_eq!(disk.state().write(other, None, b"x"), Ok(1));
        disk.heal();
        assert!(disk.usage().free_bytes > 1 << 30);
    }

    #[test]
    fn without_power_nothing_works_and_nothing_changes() {
        let disk = Disk::new();
        let inode = file(&disk, ROOT, "f", b"1");
        sync(&disk, inode);
        sync(&disk, ROOT);
        disk.cut_power(Loss::All);
        assert_eq!(read(&disk, ROOT, "f"), Err(Errno::IO));
        assert_eq!(disk.state().remove(ROOT, OsStr::new("f"), false), Err(Errno::IO));
        assert_eq!(disk.state().sync(ROOT), Err(Errno::IO));
        disk.restore_power();
        assert_eq!(read(&disk, ROOT, "f").unwrap(), b"1");
    }

    #[test]
    fn the_power_goes_before_the_sync_that_was_named() {
        let disk = Disk::new();
        let [a, b] = ["a", "b"].map(|name| file(&disk, ROOT, name, name.as_bytes()));
        sync(&disk, ROOT);
        disk.cut_power_after(1, Loss::All);
        sync(&disk, a);
        assert_eq!(disk.state().sync(b), Err(Errno::IO));
        assert!(!disk.has_power());
        disk.restore_power();
        assert_eq!(read(&disk, ROOT, "a").unwrap(), b"a");
        assert_eq!(read(&disk, ROOT, "b").unwrap(), b"");
    }

    #[test]
    fn what_nobody_can_reach_is_forgotten() {
        let disk = Disk::new();
        for _ in 0..100 {
            let inode = file(&disk, ROOT, "f", &[1; 4096]);
            sync(&disk, inode);
            sync(&disk, ROOT);
            disk.state().remove(ROOT, OsStr::new("f"), false).unwrap();
        }
        sync(&disk, ROOT);
        assert_eq!((disk.usage().used_bytes, disk.usage().unsynced_changes), (0, 0));
        assert_eq!(disk.state().nodes(), 1);
    }
}
