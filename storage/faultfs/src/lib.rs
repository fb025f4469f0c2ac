//! A disk for tests: a file system in memory that behaves as the kernel promises and no better.
//!
//! Everything on it exists twice: as programs *see* it, and as it is *kept* when the machine stops. What a program
//! writes, cuts, creates, renames or removes changes only what is seen. `fsync` of a file keeps its bytes and length,
//! `fsync` of a directory keeps its entries; nothing else keeps anything. [`Disk::crash`] makes what is kept what is
//! seen.
//!
//! ```text
//!                write, truncate                 create, rename, unlink
//! programs ──▶ pages seen ─── fsync(file) ──▶ pages kept ─────┐
//!         └──▶ entries seen ─ fsync(dir) ───▶ entries kept ───┴─▶ after a crash
//! ```
//!
//! It is stricter than ext4 or XFS, where a crash mostly keeps more: a file that was synced in a directory that was not
//! is gone. Code that survives here survives there. With [`Loss::Some`] it is as unkind as a real disk: of what was not
//! synced, any page may have been written or not, or up to some sector of it, and directories keep the changes up to
//! some moment.
//!
//! Faults: the next fsyncs fail ([`Disk::fail_syncs`]; as on Linux, the pages then count as clean and no later fsync
//! writes them), and the disk runs full ([`Disk::fill`]).
//!
//! What it is not: fast, large (everything is in memory), or complete. There are no symbolic links, extended
//! attributes or shared mappings; times are not kept, and modes are kept at once.
//!
//! The one invariant: **after a crash there is nothing that was not synced, except what [`Loss::Some`] lets through.**
//! The kernel helps nobody to break it: files are opened with `FOPEN_DIRECT_IO`, so no page outlives a crash in its
//! cache, and after a crash everything has another inode number, so what was open before is stale.

#![forbid(unsafe_code)]

mod content;
mod disk;
mod mount;
mod state;

pub use disk::{Disk, Loss, Usage};
pub use mount::{MountError, Mounted};
