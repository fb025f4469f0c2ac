//! Looks at a database's journals before `fjall` does: tells a torn last write from damage, and makes durable what is
//! about to be read.
//!
//! A worker has one batch in flight, so only the last batch can be unsynced when the machine stops. If it is not whole,
//! nobody was promised anything: it is cut off here, whatever pages of it the disk kept. If an intact batch *follows*
//! the broken one, then data that was durable has been damaged, and opening must not go on as if it had never been.
//!
//! Values are what users wrote, and a user could write what looks like an intact batch. So each of ours carries the
//! [`Mark`] of its database, 16 random bytes that nobody else knows: what follows a broken batch without it is only
//! the inside of that batch.
//!
//! The last batch may also be whole and yet not durable, when the process was killed, or its fsync failed, after the
//! bytes had been written: they are in the page cache, where this process reads them and answers from them. So the last
//! batch is written once more, over itself, and synced. Syncing alone would do after a kill, but not after a failed
//! fsync, which leaves pages that count as clean.
//!
//! The journal's format (`fjall` 3.1, little-endian; files are preallocated with zeros):
//! ```text
//! start  01 | items u32 | seqno u64
//! item   02 | kind u8 | compression u8 | table u64 | key bytes u16 | value bytes u32 | stored bytes u32 | key | value
//! clear  04 | table u64                                                  (counts as an item)
//! end    03 | xxh3 of the items u64 | "FJL" 03
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::super::StoreError;

const TRAILER: [u8; 4] = *b"FJL\x03";
/// No value that we write is longer: a length above this is not one.
const MOST_VALUE_BYTES: u32 = 256 * 1024 * 1024;

/// Where the mark stands in each batch: no key of a worker begins with a zero.
const MARK_KEY: &[u8] = b"\0journal-mark";
const MARK_FILE: &str = "journal-mark";
const MARK_BYTES: usize = 16;

/// What tells the batches of a database from what its users may write; see the module's doc.
#[derive(Debug, Clone)]
pub(super) struct Mark([u8; MARK_BYTES]);

impl Mark {
    /// The database's own, made when there is none. The caller syncs the directory before the first commit.
    pub(super) fn load_or_create(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(MARK_FILE);
        match std::fs::read(&path) {
            // One that is cut short was never used: a process died over it.
            Ok(bytes) => {
                if let Ok(mark) = bytes.try_into() {
                    return Ok(Self(mark));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut mark = [0; MARK_BYTES];
        getrandom::fill(&mut mark).map_err(io::Error::other)?;
        let mut file = File::create(&path)?;
        file.write_all(&mark)?;
        file.sync_all()?;
        Ok(Self(mark))
    }

    /// The record that stands in each batch.
    pub(super) fn record(&self) -> (&'static [u8], &[u8]) {
        (MARK_KEY, &self.0)
    }

    fn is(&self, payload: &[u8]) -> bool {
        payload.strip_prefix(MARK_KEY) == Some(&self.0)
    }
}

/// Cuts a torn last batch off the newest journal of the database in `directory`, if there is one, and makes durable what
/// is left of it.
pub(super) fn settle(directory: &Path, mark: &Mark) -> Result<(), StoreError> {
    let failed =
        |path: &Path, error: &io::Error| StoreError::Open { path: path.into(), cause: error.to_string() };
    let journals = journals(directory).map_err(|error| failed(directory, &error))?;
    let newest = journals.last().cloned();
    for path in journals {
        let (tail, last_batch) = inspect(&path, mark).map_err(|error| failed(&path, &error))?;
        let is_newest = Some(&path) == newest.as_ref();
        match tail {
            Tail::Clean => {}
            Tail::Torn { position } if is_newest => {
                tracing::info!(journal = %path.display(), position, "cutting off a batch that was never durable");
                cut(&path, position).map_err(|error| failed(&path, &error))?;
            }
            Tail::Torn { position } | Tail::Damaged { position } => {
                return Err(StoreError::Journal { path, position });
            }
        }
        // Older ones were synced before the next was begun.
        if is_newest {
            write_again(&path, last_batch).map_err(|error| failed(&path, &error))?;
        }
    }
    Ok(())
}

/// Writes these bytes of a file over themselves, and syncs it.
fn write_again(path: &Path, range: Range<u64>) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    file.write_all_at(&bytes, range.start)?;
    file.sync_all()
}

/// The journals of a database, oldest first.
fn journals(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    let listing = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    for file in listing {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jnl")
            && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok())
        {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

fn cut(path: &Path, position: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(position)?;
    file.sync_all()
}

#[derive(Debug, PartialEq, Eq)]
enum Tail {
    /// Whole batches, then nothing but zeros.
    Clean,
    /// Something follows the last whole batch, and it contains no whole batch of ours.
    Torn { position: u64 },
    /// Whole batches of ours follow something that is none.
    Damaged { position: u64 },
}

/// How a journal ends, and where its last whole batch is.
fn inspect(path: &Path, mark: &Mark) -> io::Result<(Tail, Range<u64>)> {
    let mut file = BufReader::with_capacity(256 * 1024, File::open(path)?);
    let (mut last_batch, mut position) = (0..0, 0);
    while let Some(Whole { bytes, .. }) = batch(&mut file, mark)? {
        last_batch = position..position + bytes;
        position += bytes;
    }
    let mut torn = false;
    let mut matched = 0;
    let mut chunk = vec![0; 256 * 1024];
    let mut at = position;
    // Every place where a batch may have ended is one where another may begin.
    let mut candidates = Vec::new();
    file.seek(SeekFrom::Start(position))?;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        // Nearly all of it is zeros, which this passes over many at a time.
        if matched == 0 && chunk[..read].iter().all(|&byte| byte == 0) {
            at += read as u64;
            continue;
        }
        for (index, &byte) in chunk[..read].iter().enumerate() {
            if byte == 0 && matched == 0 {
                continue;
            }
            torn |= byte != 0;
            matched = if byte == TRAILER[matched] { matched + 1 } else { usize::from(byte == TRAILER[0]) };
            if matched == TRAILER.len() {
                matched = 0;
                candidates.push(at + index as u64 + 1);
            }
        }
        at += read as u64;
    }
    if !torn {
        return Ok((Tail::Clean, last_batch));
    }
    for candidate in candidates {
        file.seek(SeekFrom::Start(candidate))?;
        if batch(&mut file, mark)?.is_some_and(|whole| whole.is_marked) {
            return Ok((Tail::Damaged { position }, last_batch));
        }
    }
    Ok((Tail::Torn { position }, last_batch))
}

/// A batch that is all there.
struct Whole {
    bytes: u64,
    /// It carries the database's mark.
    is_marked: bool,
}

/// Reads one whole batch; `None` when what follows is not one.
fn batch(file: &mut impl Read, mark: &Mark) -> io::Result<Option<Whole>> {
    let Some(start) = exactly::<13>(file)? else { return Ok(None) };
    let [0x01, items @ .., _, _, _, _, _, _, _, _] = start else { return Ok(None) };
    let items = u32::from_le_bytes(items);
    let (mut bytes, mut is_marked) = (13, false);
    let mut hasher = Xxh3::new();
    let mut payload = Vec::new();
    for _ in 0..items {
        let Some(tag) = exactly::<1>(file)? else { return Ok(None) };
        hasher.update(&tag);
        match tag {
            [0x02] => {
                let Some(head) = exactly::<20>(file)? else { return Ok(None) };
                let [_, _, _, _, _, _, _, _, _, _, key0, key1, _, _, _, _, stored @ ..] = head;
                let stored = u32::from_le_bytes(stored);
                if stored > MOST_VALUE_BYTES {
                    return Ok(None);
                }
                let payload_bytes = u64::from(u16::from_le_bytes([key0, key1])) + u64::from(stored);
                payload.clear();
                if file.take(payload_bytes).read_to_end(&mut payload)? as u64 != payload_bytes {
                    return Ok(None);
                }
                hasher.update(&head);
                hasher.update(&payload);
                is_marked |= mark.is(&payload);
                bytes += 21 + payload_bytes;
            }
            [0x04] => {
                let Some(table) = exactly::<8>(file)? else { return Ok(None) };
                hasher.update(&table);
                bytes += 9;
            }
            _ => return Ok(None),
        }
    }
    let Some(end) = exactly::<13>(file)? else { return Ok(None) };
    let [0x03, sum @ .., t0, t1, t2, t3] = end else { return Ok(None) };
    let whole = [t0, t1, t2, t3] == TRAILER && u64::from_le_bytes(sum) == hasher.digest();
    Ok(whole.then_some(Whole { bytes: bytes + 13, is_marked }))
}

/// `None` at the end of the file.
fn exactly<const BYTES: usize>(file: &mut impl Read) -> io::Result<Option<[u8; BYTES]>> {
    let mut bytes = [0; BYTES];
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Fjall};
    use super::*;
    use crate::engine::{Batch, Key, Store as _, Table};

    /// A database with three batches in its journal, and the journal's path, bytes, and where each batch ends.
    fn three_batches(directory: &Path) -> (PathBuf, Vec<u8>, Vec<u64>) {
        let mut store = Fjall::open(config(directory)).unwrap();
        let path = journals(directory).unwrap().pop().unwrap();
        let mut ends = Vec::new();
        for number in 0..3u8 {
            let mut write = Batch::default();
            for item in 0..20u8 {
                write.put(Table::Inbox, Key::from_slice(&[number, item]), vec![number + 1; 700].into());
            }
            store.commit(&write).unwrap();
            let mut file = BufReader::new(File::open(&path).unwrap());
            let mut end = 0;
            let mark = Mark::load_or_create(directory).unwrap();
            while let Some(whole) = batch(&mut file, &mark).unwrap() {
                assert!(whole.is_marked, "each of ours is known by its mark");
                end += whole.bytes;
            }
            ends.push(end);
        }
        drop(store);
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes, ends)
    }

    fn config(directory: &Path) -> Config {
        Config { path: directory.into(), cache_bytes: 16 << 20, reserve_bytes: 0 }
    }

    fn batches_after_reopening(directory: &Path) -> Vec<bool> {
        let store = Fjall::open(config(directory)).unwrap();
        (0..3u8)
            .map(|number| {
                let there = (0..20u8)
                    .map(|item| store.get(Table::Inbox, &[number, item]).unwrap().is_some())
                    .collect::<Vec<_>>();
                assert!(there.iter().all(|&item| item == there[0]), "a batch is there whole or not at all");
                there[0]
            })
            .collect()
    }

    #[test]
    fn a_torn_last_batch_is_cut_off_however_it_was_torn() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes, ends) = three_batches(directory.path());
        let (second, third) = (ends[1] as usize, ends[2] as usize);
        assert!(third - second > 8192, "the batch spans pages");
        // Cut short at every kind of place, then with a page of zeros inside, then with garbage.
        let mut torn: Vec<Vec<u8>> = [1, 5, 13, 14, 34, 4096, third - second - 1]
            .iter()
            .map(|more| bytes[..second + more].to_vec())
            .collect();
        for hole in [0, 13, 4096, 8192, third - second - 13] {
            let mut holed = bytes.clone();
            let to = third.min(second + hole + 4096);
            holed[second + hole..to].fill(0);
            torn.push(holed);
        }
        let mut garbage = bytes.clone();
        garbage[second + 100] ^= 0x40;
        torn.push(garbage);
        for bytes in torn {
            std::fs::write(&path, &bytes).unwrap();
            let mark = Mark::load_or_create(directory.path()).unwrap();
            assert_eq!(inspect(&path, &mark).unwrap().0, Tail::Torn { position: ends[1] });
            assert_eq!(batches_after_reopening(directory.path()), [true, true, false]);
        }
    }

    #[test]
    fn a_batch_that_a_user_wrote_is_no_batch() {
        // What an empty batch looks like, and one with a record, each behind what looks like the end of another.
        let record = [&[0x02, 0, 0][..], &[0; 8], &[1, 0], &[1, 0, 0, 0], &[1, 0, 0, 0], b"kv"].concat();
        for items in [vec![], record] {
            let mut hasher = Xxh3::new();
            hasher.update(&items);
            let count = u32::from(!items.is_empty()).to_le_bytes();
            let start = [&TRAILER[..], &[0x01], &count, &[9; 8]].concat();
            let forged = [&start[..], &items, &[0x03], &hasher.digest().to_le_bytes(), &TRAILER].concat();
            let directory = tempfile::tempdir().unwrap();
            let mut store = Fjall::open(config(directory.path())).unwrap();
            let mark = Mark::load_or_create(directory.path()).unwrap();
            let mut write = Batch::default();
            write.put(Table::Inbox, Key::from_slice(b"before"), vec![1; 10].into());
            store.commit(&write).unwrap();
            let path = journals(directory.path()).unwrap().pop().unwrap();
            let (_, before) = inspect(&path, &mark).unwrap();
            let mut write = Batch::default();
            write.put(Table::Inbox, Key::from_slice(b"forged"), forged.repeat(100).into());
            write.put(Table::Inbox, Key::from_slice(b"later"), vec![1; 5_000].into());
            store.commit(&write).unwrap();
            drop(store);
            let bytes = std::fs::read(&path).unwrap();
            let (_, last) = inspect(&path, &mark).unwrap();
            std::fs::write(&path, &bytes[..last.end as usize - 100]).unwrap();
            assert_eq!(inspect(&path, &mark).unwrap().0, Tail::Torn { position: before.end });
            let store = Fjall::open(config(directory.path())).expect("a torn write is nothing unusual");
            assert!(store.get(Table::Inbox, b"before").unwrap().is_some());
            assert!(store.get(Table::Inbox, b"forged").unwrap().is_none());
        }
    }

    #[test]
    fn damage_before_intact_batches_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes, ends) = three_batches(directory.path());
        for damage in [ends[0] as usize, ends[0] as usize + 200] {
            let mut damaged = bytes.clone();
            damaged[damage] ^= 0xff;
            std::fs::write(&path, &damaged).unwrap();
            let error = Fjall::open(config(directory.path())).unwrap_err();
            assert!(
                matches!(error, StoreError::Journal { position, .. } if position == ends[0]),
                "opening says where: {error}"
            );
        }
    }

    #[test]
    fn a_clean_journal_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes, _) = three_batches(directory.path());
        let mark = Mark::load_or_create(directory.path()).unwrap();
        assert_eq!(inspect(&path, &mark).unwrap().0, Tail::Clean);
        settle(directory.path(), &mark).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(batches_after_reopening(directory.path()), [true, true, true]);
    }
}
