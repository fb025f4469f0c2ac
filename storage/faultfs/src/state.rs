//! The tree of files and directories, as it is seen and as it is kept.
//!
//! Inode numbers are never used twice: after a crash everything but the root has a new one, so whatever was open before
//! is stale.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use rustix::io::Errno;

use crate::content::{Content, PAGE_BYTES};

pub(crate) const ROOT: u64 = 1;
/// As on most file systems.
const NAME_BYTES: usize = 255;
/// The longest file; it keeps every sum of offsets far from overflow.
const MOST_BYTES: u64 = 1 << 40;

/// Random numbers from a seed (splitmix64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 0 up to but without `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Entries of a directory: names and inode numbers.
type Entries = BTreeMap<OsString, u64>;

#[derive(Debug)]
enum Body {
    File(Content),
    Directory { seen: Entries, kept: Entries },
}

#[derive(Debug)]
struct Node {
    body: Body,
    owner: Owner,
    /// Handles that are open.
    open: u32,
    /// How many names it has, as it is seen.
    links: u32,
}

/// Whose a node is, and who may do what; kept at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) mode: u16,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// What `stat` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) inode: u64,
    pub(crate) is_directory: bool,
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) links: u32,
    pub(crate) owner: Owner,
}

/// A change of directories that no sync has kept yet; its edits are kept together.
#[derive(Debug)]
struct Change {
    edits: Vec<Edit>,
}

#[derive(Debug)]
struct Edit {
    directory: u64,
    name: OsString,
    /// `None`: the name goes.
    inode: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct State {
    nodes: BTreeMap<u64, Node>,
    next_inode: u64,
    /// Oldest first.
    changes: Vec<Change>,
    pub(crate) powered: bool,
    /// After so many more syncs the machine stops, before the next is done.
    pub(crate) power_cut_after: Option<(u64, Option<Random>)>,
    /// So many of the next syncs fail.
    pub(crate) failing_syncs: u32,
    pub(crate) syncs: u64,
    pub(crate) failed_syncs: u64,
    pub(crate) capacity_pages: u64,
}

impl State {
    pub(crate) fn new(capacity_pages: u64) -> Self {
        let body = Body::Directory { seen: Entries::new(), kept: Entries::new() };
        let owner = Owner { mode: 0o755, user: 0, group: 0 };
        Self {
            nodes: BTreeMap::from([(ROOT, Node { body, owner, open: 0, links: 1 })]),
            next_inode: ROOT + 1,
            changes: Vec::new(),
            powered: true,
            power_cut_after: None,
            failing_syncs: 0,
            syncs: 0,
            failed_syncs: 0,
            capacity_pages,
        }
    }

    pub(crate) fn used_pages(&self) -> u64 {
        let live = self.nodes.values().filter(|node| node.links > 0 || node.open > 0);
        live.map(|node| match &node.body {
            Body::File(content) => content.pages(),
            Body::Directory { .. } => 0,
        })
        .sum()
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.capacity_pages.saturating_sub(self.used_pages())
    }

    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// What a crash would lose: pages, and changes of directories.
    pub(crate) fn unsynced(&self) -> (u64, u64) {
        let pages = self.nodes.values().map(|node| match &node.body {
            Body::File(content) => content.dirty_pages(),
            Body::Directory { .. } => 0,
        });
        (pages.sum(), self.changes.len() as u64)
    }

    fn node(&self, inode: u64) -> Result<&Node, Errno> {
        if !self.powered {
            return Err(Errno::IO);
        }
        self.nodes.get(&inode).ok_or(Errno::STALE)
    }

    fn node_mut(&mut self, inode: u64) -> Result<&mut Node, Errno> {
        if !self.powered {
            return Err(Errno::IO);
        }
        self.nodes.get_mut(&inode).ok_or(Errno::STALE)
    }

    fn entries(&self, directory: u64) -> Result<&Entries, Errno> {
        match &self.node(directory)?.body {
            Body::Directory { seen, .. } => Ok(seen),
            Body::File(_) => Err(Errno::NOTDIR),
        }
    }

    fn content(&mut self, inode: u64) -> Result<&mut Content, Errno> {
        match &mut self.node_mut(inode)?.body {
            Body::File(content) => Ok(content),
            Body::Directory { .. } => Err(Errno::ISDIR),
        }
    }

    pub(crate) fn attributes(&self, inode: u64) -> Result<Attributes, Errno> {
        let node = self.node(inode)?;
        let (is_directory, bytes, pages) = match &node.body {
            Body::File(content) => (false, content.bytes(), content.pages()),
            Body::Directory { seen, .. } => (true, seen.len() as u64, 0),
        };
        let blocks = pages * (PAGE_BYTES / 512);
        Ok(Attributes { inode, is_directory, bytes, blocks, links: node.links, owner: node.owner })
    }

    pub(crate) fn look_up(&self, directory: u64, name: &OsStr) -> Result<Attributes, Errno> {
        let inode = self.entries(directory)?.get(name).copied().ok_or(Errno::NOENT)?;
        self.attributes(inode)
    }

    /// Names, inode numbers and whether each is a directory.
    pub(crate) fn list(&self, directory: u64) -> Result<Vec<(OsString, u64, bool)>, Errno> {
        let entries = self.entries(directory)?.iter();
        entries
            .map(|(name, &inode)| Ok((name.clone(), inode, self.attributes(inode)?.is_directory)))
            .collect()
    }

    pub(crate) fn make(
        &mut self,
        directory: u64,
        name: &OsStr,
        is_directory: bool,
        owner: Owner,
    ) -> Result<Attributes, Errno> {
        if name.len() > NAME_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        if self.entries(directory)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        let body = match is_directory {
            true => Body::Directory { seen: Entries::new(), kept: Entries::new() },
            false => Body::File(Content::default()),
        };
        self.nodes.insert(inode, Node { body, owner, open: 0, links: 1 });
        self.change(vec![Edit { directory, name: name.into(), inode: Some(inode) }])?;
        self.attributes(inode)
    }

    pub(crate) fn remove(&mut self, directory: u64, name: &OsStr, is_directory: bool) -> Result<(), Errno> {
        let attributes = self.look_up(directory, name)?;
        self.check_goes(attributes, is_directory)?;
        self.change(vec![Edit { directory, name: name.into(), inode: None }])?;
        self.unlink(attributes.inode);
        Ok(())
    }

    /// Whether this may be removed, or replaced by something that is a directory or not.
    fn check_goes(&self, what: Attributes, by_directory: bool) -> Result<(), Errno> {
        match (what.is_directory, by_directory) {
            (true, false) => Err(Errno::ISDIR),
            (false, true) => Err(Errno::NOTDIR),
            (true, true) if !self.entries(what.inode)?.is_empty() => Err(Errno::NOTEMPTY),
            _ => Ok(()),
        }
    }

    /// Another name for a file.
    pub(crate) fn link(&mut self, inode: u64, directory: u64, name: &OsStr) -> Result<Attributes, Errno> {
        if self.attributes(inode)?.is_directory {
            return Err(Errno::PERM);
        }
        if name.len() > NAME_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        if self.entries(directory)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.change(vec![Edit { directory, name: name.into(), inode: Some(inode) }])?;
        self.node_mut(inode)?.links += 1;
        self.attributes(inode)
    }

    fn unlink(&mut self, inode: u64) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.links = node.links.saturating_sub(1);
        }
    }

    pub(crate) fn rename(
        &mut self,
        (from, name): (u64, &OsStr),
        (to, new_name): (u64, &OsStr),
        may_replace: bool,
    ) -> Result<(), Errno> {
        if new_name.len() > NAME_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        let moved = self.look_up(from, name)?;
        let replaced = match self.look_up(to, new_name) {
            Ok(_) if !may_replace => return Err(Errno::EXIST),
            Ok(replaced) if replaced.inode == moved.inode => return Ok(()),
            Ok(replaced) => {
                self.check_goes(replaced, moved.is_directory)?;
                Some(replaced.inode)
            }
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        self.change(vec![
            Edit { directory: from, name: name.into(), inode: None },
            Edit { directory: to, name: new_name.into(), inode: Some(moved.inode) },
        ])?;
        if let Some(replaced) = replaced {
            self.unlink(replaced);
        }
        Ok(())
    }

    /// Makes a change seen, and writes it down for a sync to keep.
    fn change(&mut self, edits: Vec<Edit>) -> Result<(), Errno> {
        for edit in &edits {
            match &mut self.node_mut(edit.directory)?.body {
                Body::Directory { seen, .. } => apply(seen, edit),
                Body::File(_) => return Err(Errno::NOTDIR),
            }
        }
        self.changes.push(Change { edits });
        Ok(())
    }

    pub(crate) fn set_owner(
        &mut self,
        inode: u64,
        mode: Option<u16>,
        user: Option<u32>,
        group: Option<u32>,
    ) -> Result<(), Errno> {
        let owner = &mut self.node_mut(inode)?.owner;
        owner.mode = mode.unwrap_or(owner.mode);
        owner.user = user.unwrap_or(owner.user);
        owner.group = group.unwrap_or(owner.group);
        Ok(())
    }

    pub(crate) fn set_bytes(&mut self, inode: u64, bytes: u64) -> Result<(), Errno> {
        if bytes > MOST_BYTES {
            return Err(Errno::FBIG);
        }
        self.content(inode)?.set_bytes(bytes);
        Ok(())
    }

    pub(crate) fn read(&mut self, inode: u64, offset: u64, most: usize) -> Result<Vec<u8>, Errno> {
        Ok(self.content(inode)?.read(offset, most))
    }

    /// Writes here, or at the end; says how many bytes fitted.
    pub(crate) fn write(&mut self, inode: u64, offset: Option<u64>, data: &[u8]) -> Result<usize, Errno> {
        let free_pages = self.free_pages();
        let content = self.content(inode)?;
        let offset = offset.unwrap_or(content.bytes());
        if offset.saturating_add(data.len() as u64) > MOST_BYTES {
            return Err(Errno::FBIG);
        }
        match content.write(offset, data, free_pages) {
            0 if !data.is_empty() => Err(Errno::NOSPC),
            written => Ok(written),
        }
    }

    pub(crate) fn open(&mut self, inode: u64) -> Result<(), Errno> {
        self.node_mut(inode)?.open += 1;
        Ok(())
    }

    pub(crate) fn release(&mut self, inode: u64) {
        // It may be from before a crash.
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.open = node.open.saturating_sub(1);
        }
    }

    pub(crate) fn sync(&mut self, inode: u64) -> Result<(), Errno> {
        self.node(inode)?;
        match self.power_cut_after.take() {
            None => {}
            Some((0, random)) => {
                self.crash(random);
                self.powered = false;
                return Err(Errno::IO);
            }
            Some((more, random)) => self.power_cut_after = Some((more - 1, random)),
        }
        let fails = self.failing_syncs > 0;
        if fails {
            self.failing_syncs -= 1;
            self.failed_syncs += 1;
        } else {
            self.syncs += 1;
        }
        match &mut self.node_mut(inode)?.body {
            Body::File(content) if fails => content.fail_sync(),
            Body::File(content) => content.sync(),
            // A later sync may still keep its changes: what ext4 does then is to stop altogether.
            Body::Directory { .. } if fails => {}
            Body::Directory { .. } => self.sync_entries(inode),
        }
        if fails { Err(Errno::IO) } else { Ok(()) }
    }

    fn sync_entries(&mut self, directory: u64) {
        let touches = |change: &Change| change.edits.iter().any(|edit| edit.directory == directory);
        let crosses =
            |change: &Change| change.edits.iter().any(|edit| edit.directory != change.edits[0].directory);
        // What moves between two directories is kept together with all that came before it in either.
        let last_crossing = self.changes.iter().rposition(|change| touches(change) && crosses(change));
        let all_before = last_crossing.map_or(0, |last| last + 1);
        for (index, change) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            if index < all_before || touches(&change) {
                self.keep(&change);
            } else {
                self.changes.push(change);
            }
        }
        self.forget_unreachable();
    }

    fn keep(&mut self, change: &Change) {
        for edit in &change.edits {
            if let Some(Node { body: Body::Directory { kept, .. }, .. }) = self.nodes.get_mut(&edit.directory)
            {
                apply(kept, edit);
            }
        }
    }

    /// Drops nodes that no directory has, seen or kept, and nobody has open.
    fn forget_unreachable(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        for node in self.nodes.values() {
            if let Body::Directory { seen, kept } = &node.body {
                reachable.extend(seen.values().chain(kept.values()));
            }
        }
        for change in &self.changes {
            reachable.extend(change.edits.iter().filter_map(|edit| edit.inode));
        }
        self.nodes.retain(|inode, node| node.open > 0 || reachable.contains(inode));
    }

    /// The machine stops: what was kept is all there is, and with random numbers a little more.
    pub(crate) fn crash(&mut self, mut random: Option<Random>) {
        let changes = std::mem::take(&mut self.changes);
        if let Some(random) = &mut random {
            let count = random.below(changes.len() as u64 + 1) as usize;
            for change in &changes[..count] {
                self.keep(change);
            }
        }
        let mut old = std::mem::take(&mut self.nodes);
        let mut new_inodes = BTreeMap::from([(ROOT, ROOT)]);
        let mut unvisited = vec![ROOT];
        while let Some(inode) = unvisited.pop() {
            let mut node = old.remove(&inode).expect("invariant: kept entries name nodes that are there");
            match &mut node.body {
                Body::File(content) => content.crash(random.as_mut()),
                Body::Directory { seen, kept } => {
                    for inode in kept.values_mut() {
                        *inode = *new_inodes.entry(*inode).or_insert_with(|| {
                            unvisited.push(*inode);
                            self.next_inode += 1;
                            self.next_inode - 1
                        });
                    }
                    *seen = kept.clone();
                }
            }
            node.open = 0;
            node.links = u32::from(inode == ROOT);
            self.nodes.insert(new_inodes[&inode], node);
        }
        let named = self.nodes.values().flat_map(|node| match &node.body {
            Body::File(_) => Vec::new(),
            Body::Directory { seen, .. } => seen.values().copied().collect(),
        });
        for inode in named.collect::<Vec<_>>() {
            if let Some(node) = self.nodes.get_mut(&inode) {
                node.links += 1;
            }
        }
        self.failing_syncs = 0;
    }
}

fn apply(entries: &mut Entries, edit: &Edit) {
    match edit.inode {
        Some(inode) => entries.insert(edit.name.clone(), inode),
        None => entries.remove(&edit.name),
    };
}
