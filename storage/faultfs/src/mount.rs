//! A disk as a directory: what the kernel asks is answered from the disk's state.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::OFlags;
use rustix::mount::{UnmountFlags, unmount};

use crate::content::PAGE_BYTES;
use crate::disk::Disk;
use crate::state::{Attributes, Owner};

/// The kernel asks each time: an answer that it kept would outlive a crash.
const KEPT_FOR: Duration = Duration::ZERO;
/// Same numbers are never used twice, so generations are not needed.
const GENERATION: Generation = Generation(0);

/// Why a disk could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no FUSE, or this process may not mount.
    #[error(
        "FUSE cannot be used here ({cause}): it needs /dev/fuse and the right to mount (root, or fusermount3)"
    )]
    Unavailable {
        /// What was said.
        cause: std::io::Error,
    },
    /// There is no directory to mount on.
    #[error("making a directory to mount on")]
    Directory(#[source] std::io::Error),
}

/// A disk that is mounted; dropping this unmounts it, the [`Disk`] lives on.
#[derive(Debug)]
pub struct Mounted {
    /// `None` only while it is being dropped.
    session: Option<BackgroundSession>,
    path: PathBuf,
    /// Removed after unmounting.
    _directory: Option<tempfile::TempDir>,
}

impl Mounted {
    /// Mounts the disk on a temporary directory.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn new(disk: &Disk) -> Result<Self, MountError> {
        let directory =
            tempfile::Builder::new().prefix("faultfs-").tempdir().map_err(MountError::Directory)?;
        let mut mounted = Self::at(disk, directory.path())?;
        mounted._directory = Some(directory);
        Ok(mounted)
    }

    /// Mounts the disk on this directory, which exists.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn at(disk: &Disk, path: &Path) -> Result<Self, MountError> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faultfs".to_owned()), MountOption::NoAtime];
        let unavailable = |cause| MountError::Unavailable { cause };
        let session = fuser::spawn_mount(Volume::new(disk.clone()), path, &config).map_err(unavailable)?;
        Ok(Self { session: Some(session), path: path.to_owned(), _directory: None })
    }

    /// For tests: where FUSE cannot be used this is `None` and says so on standard error, past the test harness, which
    /// would keep it to itself. With `CI=true` nothing is left out: there it panics.
    ///
    /// # Panics
    /// With `CI=true`, where FUSE cannot be used.
    #[must_use]
    pub fn for_test(disk: &Disk) -> Option<Self> {
        match Self::new(disk) {
            Ok(mounted) => Some(mounted),
            Err(error) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => {
                panic!("NOT TESTED on faultfs, which fails with CI=true: {error}")
            }
            Err(error) => {
                let test = std::thread::current().name().unwrap_or("a test").to_owned();
                let _ = writeln!(std::io::stderr(), "NOT TESTED on faultfs, {test}: {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        if session.umount_and_join().is_err() {
            // Somebody has a file open. The mount goes away with the last of them; its thread then ends by itself.
            let _ = unmount(&self.path, UnmountFlags::DETACH);
        }
    }
}

/// What one `opendir` saw, so that removing while reading skips nothing.
type Listing = Vec<(OsString, u64, FileType)>;

struct Volume {
    disk: Disk,
    listings: Mutex<HashMap<u64, Listing>>,
    next_listing: AtomicU64,
}

impl Volume {
    fn new(disk: Disk) -> Self {
        Self { disk, listings: Mutex::default(), next_listing: AtomicU64::new(1) }
    }

    fn listings(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Listing>> {
        self.listings.lock().expect("invariant: nothing panics while it holds the listings")
    }

    fn make(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        is_directory: bool,
        mode: u32,
    ) -> Result<Attributes, rustix::io::Errno> {
        let owner = Owner { mode: (mode & 0o7777) as u16, user: request.uid(), group: request.gid() };
        self.disk.state().make(parent.0, name, is_directory, owner)
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn kind(is_directory: bool) -> FileType {
    if is_directory { FileType::Directory } else { FileType::RegularFile }
}

fn file_attr(attributes: Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.inode),
        size: attributes.bytes,
        blocks: attributes.blocks,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(attributes.is_directory),
        perm: attributes.owner.mode,
        nlink: attributes.links + u32::from(attributes.is_directory),
        uid: attributes.owner.user,
        gid: attributes.owner.group,
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    }
}

fn answer_entry(reply: ReplyEntry, result: Result<Attributes, rustix::io::Errno>) {
    match result {
        Ok(attributes) => reply.entry(&KEPT_FOR, &file_attr(attributes), GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_attributes(reply: ReplyAttr, result: Result<Attributes, rustix::io::Errno>) {
    match result {
        Ok(attributes) => reply.attr(&KEPT_FOR, &file_attr(attributes)),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), rustix::io::Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

// What is not here is answered with ENOSYS or EPERM, by `fuser`'s defaults; file locks are the kernel's own.
impl Filesystem for Volume {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.disk.state().look_up(parent.0, name));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.disk.state().attributes(inode.0));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        bytes: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _changed_by: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.disk.state();
        let result = bytes
            .map_or(Ok(()), |bytes| state.set_bytes(inode.0, bytes))
            .and_then(|()| state.set_owner(inode.0, mode.map(|mode| (mode & 0o7777) as u16), user, group))
            .and_then(|()| state.attributes(inode.0));
        answer_attributes(reply, result);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        answer_entry(reply, self.make(request, (parent, name), true, mode));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.disk.state().remove(parent.0, name, false));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.disk.state().remove(parent.0, name, true));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let may_replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        answer(reply, self.disk.state().rename((parent.0, name), (new_parent.0, new_name), may_replace));
    }

    fn link(
        &self,
        _request: &Request,
        inode: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        answer_entry(reply, self.disk.state().link(inode.0, new_parent.0, new_name));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(request, (parent, name), false, mode);
        let opened = made.and_then(|made| self.disk.state().open(made.inode).map(|()| made));
        match opened {
            Ok(made) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&KEPT_FOR, &file_attr(made), GENERATION, FileHandle(0), flags);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.disk.state().open(inode.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.disk.state().release(inode.0);
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.state().read(inode.0, offset, bytes as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let appends = flags.0 as u32 & OFlags::APPEND.bits() != 0;
        match self.disk.state().write(inode.0, (!appends).then_some(offset), data) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Closing keeps nothing.
    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.disk.state().sync(inode.0));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.disk.state().sync(inode.0));
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let entries = match self.disk.state().list(inode.0) {
            Ok(entries) => entries,
            Err(error) => return reply.error(errno(error)),
        };
        let dots = [".", ".."].map(|name| (name.into(), inode.0, FileType::Directory));
        let entries =
            entries.into_iter().map(|(name, inode, is_directory)| (name, inode, kind(is_directory)));
        let handle = self.next_listing.fetch_add(1, Ordering::Relaxed);
        self.listings().insert(handle, dots.into_iter().chain(entries).collect());
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listings = self.listings();
        let Some(listing) = listings.get(&handle.0) else { return reply.error(Errno::EBADF) };
        for (next, (name, inode, kind)) in (1..).zip(listing).skip(offset as usize) {
            if reply.add(INodeNo(*inode), next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings().remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let state = self.disk.state();
        let (all, free) = (state.capacity_pages, state.free_pages());
        let (files, page) = (1 << 20, PAGE_BYTES as u32);
        reply.statfs(all, free, free, files, files, page, 255, page);
    }
}
