//! The bytes of one file, as they are seen and as they are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::state::Random;

pub(crate) const PAGE_BYTES: u64 = 4096;
/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;

type Page = Arc<[u8; PAGE_BYTES as usize]>;

/// Pages that are not there are zeros.
#[derive(Debug, Clone, Default)]
struct Image {
    pages: BTreeMap<u64, Page>,
    bytes: u64,
}

impl Image {
    /// Cuts or grows; zeros what is cut within the last page.
    fn set_bytes(&mut self, bytes: u64) {
        if bytes < self.bytes {
            self.pages.split_off(&bytes.div_ceil(PAGE_BYTES));
            if let Some(page) = self.pages.get_mut(&(bytes / PAGE_BYTES)) {
                Arc::make_mut(page)[(bytes % PAGE_BYTES) as usize..].fill(0);
            }
        }
        self.bytes = bytes;
    }

    fn put(&mut self, index: u64, page: Option<Page>) {
        match page {
            Some(page) => self.pages.insert(index, page),
            None => self.pages.remove(&index),
        };
    }
}

#[derive(Debug, Default)]
pub(crate) struct Content {
    seen: Image,
    kept: Image,
    /// Pages that differ, and that the next sync writes.
    dirty: BTreeSet<u64>,
}

impl Content {
    pub(crate) fn bytes(&self) -> u64 {
        self.seen.bytes
    }

    /// Pages that take space.
    pub(crate) fn pages(&self) -> u64 {
        self.seen.pages.len() as u64
    }

    pub(crate) fn dirty_pages(&self) -> u64 {
        self.dirty.len() as u64
    }

    pub(crate) fn read(&self, offset: u64, most: usize) -> Vec<u8> {
        let end = self.seen.bytes.min(offset.saturating_add(most as u64));
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let (index, from) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let to = ((end - index * PAGE_BYTES).min(PAGE_BYTES)) as usize;
            match self.seen.pages.get(&index) {
                Some(page) => bytes.extend_from_slice(&page[from..to]),
                None => bytes.resize(bytes.len() + (to - from), 0),
            }
            at += (to - from) as u64;
        }
        bytes
    }

    /// Writes until a page would be needed that `free_pages` has not; says how many bytes fitted.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], mut free_pages: u64) -> usize {
        let mut written = 0;
        while written < data.len() {
            let at = offset + written as u64;
            let (index, from) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let count = (PAGE_BYTES as usize - from).min(data.len() - written);
            if !self.seen.pages.contains_key(&index) {
                if free_pages == 0 {
                    break;
                }
                free_pages -= 1;
            }
            let page = self.seen.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            Arc::make_mut(page)[from..from + count].copy_from_slice(&data[written..written + count]);
            self.dirty.insert(index);
            written += count;
        }
        self.seen.bytes = self.seen.bytes.max(offset + written as u64);
        written
    }

    pub(crate) fn set_bytes(&mut self, bytes: u64) {
        if bytes < self.seen.bytes {
            let first = bytes / PAGE_BYTES;
            self.dirty.extend(self.seen.pages.range(first..).map(|(&index, _)| index));
            self.dirty.extend(self.kept.pages.range(first..).map(|(&index, _)| index));
        }
        self.seen.set_bytes(bytes);
    }

    /// What is seen is kept.
    pub(crate) fn sync(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            self.kept.put(index, self.seen.pages.get(&index).cloned());
        }
        self.kept.set_bytes(self.seen.bytes);
    }

    /// A sync that failed: what was to be written counts as clean, so no later sync writes it.
    pub(crate) fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    /// The machine stops; with random numbers, some of what was not synced has been written all the same.
    pub(crate) fn crash(&mut self, random: Option<&mut Random>) {
        if let Some(random) = random {
            self.write_back_some(random);
        }
        self.dirty.clear();
        self.seen = self.kept.clone();
    }

    fn write_back_some(&mut self, random: &mut Random) {
        // A length that was cut is cut at once or not at all, with all that lay behind it.
        let cut = self.seen.bytes < self.kept.bytes;
        let keeps_cut = cut && random.below(2) == 0;
        let mut end = self.kept.bytes;
        for &index in &self.dirty {
            let page_end = (index + 1) * PAGE_BYTES;
            if cut && !keeps_cut && page_end > self.seen.bytes {
                continue;
            }
            let new = self.seen.pages.get(&index).cloned();
            match random.below(3) {
                0 => continue,
                1 => self.kept.put(index, new),
                _ => {
                    let zeros = || Arc::new([0; PAGE_BYTES as usize]);
                    let mut torn = self.kept.pages.get(&index).cloned().unwrap_or_else(zeros);
                    let sectors = 1 + random.below(PAGE_BYTES / SECTOR_BYTES as u64 - 1) as usize;
                    let bytes = sectors * SECTOR_BYTES;
                    Arc::make_mut(&mut torn)[..bytes].copy_from_slice(&new.unwrap_or_else(zeros)[..bytes]);
                    self.kept.put(index, Some(torn));
                }
            }
            end = end.max(page_end.min(self.seen.bytes));
        }
        self.kept.set_bytes(if keeps_cut { self.seen.bytes } else { end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u64 = 1 << 40;

    fn everything(content: &Content) -> Vec<u8> {
        content.read(0, usize::MAX)
    }

    fn synced(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        assert_eq!(content.write(0, bytes, MANY), bytes.len());
        content.sync();
        content
    }

    #[test]
    fn only_what_was_synced_survives() {
        let mut content = synced(b"kept");
        content.write(4, b" and lost", MANY);
        content.write(0, b"K", MANY);
        assert_eq!(everything(&content), b"Kept and lost");
        content.crash(None);
        assert_eq!(everything(&content), b"kept");
        content.write(4, b"!", MANY);
        content.sync();
        content.write(0, &[7; 20_000], MANY);
        content.set_bytes(3);
        assert_eq!(everything(&content), [7; 3]);
        content.crash(None);
        assert_eq!(everything(&content), b"kept!");
    }

    #[test]
    fn a_cut_that_was_synced_stays_and_leaves_zeros() {
        let mut content = synced(&[9; 10_000]);
        content.set_bytes(5_000);
        content.sync();
        content.set_bytes(10_000);
        content.crash(None);
        assert_eq!(everything(&content), [9; 5_000]);
        content.set_bytes(9_000);
        assert_eq!(everything(&content)[5_000..], [0; 4_000]);
        assert_eq!(content.pages(), 2);
    }

    #[test]
    fn after_a_failed_sync_the_next_one_writes_only_what_is_new() {
        let mut content = synced(&[1; 8192]);
        content.write(0, &[2; 4096], MANY);
        content.fail_sync();
        content.write(4096, &[3; 4096], MANY);
        content.sync();
        assert_eq!(everything(&content)[..4096], [2; 4096], "it is still seen");
        content.crash(None);
        assert_eq!(everything(&content)[..4096], [1; 4096]);
        assert_eq!(everything(&content)[4096..], [3; 4096]);
    }

    #[test]
    fn writes_stop_where_space_ends_and_overwriting_needs_none() {
        let mut content = synced(&[1; 4096]);
        assert_eq!(content.write(4000, &[2; 10_000], 1), 96 + 4096);
        assert_eq!(content.bytes(), 8192);
        assert_eq!(content.write(0, &[3; 8192], 0), 8192);
        assert_eq!(content.write(8192, &[3; 1], 0), 0);
    }

    /// Every sector is old or new, the length is one that the file could have had, and all outcomes do occur.
    #[test]
    fn a_tearing_crash_mixes_old_and_new_by_sectors() {
        let (mut old_pages, mut new_pages, mut torn_pages, mut lengths) = (0, 0, 0, BTreeSet::new());
        for seed in 0..200 {
            let mut content = synced(&[1; 4 * 4096]);
            content.write(4096, &[2; 5 * 4096], MANY);
            content.crash(Some(&mut Random::new(seed)));
            let bytes = everything(&content);
            lengths.insert(bytes.len());
            assert_eq!(bytes[..4096], [1; 4096], "what was synced and not touched stays");
            for page in bytes[4096..4 * 4096].chunks(4096) {
                let new = page.iter().filter(|&&byte| byte == 2).count();
                assert!(new % SECTOR_BYTES == 0 && page[..new].iter().all(|&byte| byte == 2));
                assert!(page[new..].iter().all(|&byte| byte == 1));
                match new {
                    0 => old_pages += 1,
                    4096 => new_pages += 1,
                    _ => torn_pages += 1,
                }
            }
        }
        assert!(old_pages > 100 && new_pages > 100 && torn_pages > 100);
        assert!(lengths.into_iter().eq([4 * 4096, 5 * 4096, 6 * 4096]));
    }

    #[test]
    fn a_tearing_crash_cuts_whole_or_not_at_all() {
        let mut lengths = BTreeSet::new();
        for seed in 0..50 {
            let mut content = synced(&[1; 9000]);
            content.set_bytes(5000);
            content.crash(Some(&mut Random::new(seed)));
            assert!(everything(&content).iter().all(|&byte| byte == 1));
            lengths.insert(content.bytes());
        }
        assert!(lengths.into_iter().eq([5000, 9000]));
    }
}
