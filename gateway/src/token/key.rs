//! The key file: 32 random bytes that nobody but the server's user may read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{KEY_BYTES, TokenKey};

/// The key file's name in the data directory.
pub const KEY_FILE: &str = "token.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// Which step.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others could have read it, so it proves nothing.
    #[error(
        "{} has mode {mode:04o}, so others may read or change it; allowed: no rights but the owner's. If nobody did, \
         run `chmod 600 {}`; otherwise delete it: a new key is made, and all old tokens end",
        path.display(), path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error("{} has {bytes} bytes; a key has exactly 32. Restore it from a backup, or delete it: a new key is made, \
             and all old tokens end", path.display())]
    WrongLength {
        /// Which file.
        path: PathBuf,
        /// How many it has.
        bytes: u64,
    },
    /// The kernel gave no random bytes.
    #[error("cannot get random bytes from the kernel: {0}")]
    Random(getrandom::Error),
}

impl TokenKey {
    /// The key of a data directory; on the first start makes both, the file with mode 0600.
    ///
    /// Of two processes that start at the same time both get the same key: the file appears whole, by a hard link
    /// that only one of them can make.
    ///
    /// # Errors
    /// When the file cannot be made or read, others may read it, or it is not 32 bytes long.
    pub fn load_or_create(directory: &Path) -> Result<Self, KeyError> {
        let path = directory.join(KEY_FILE);
        match Self::load(&path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
        create(directory, &path)?;
        Self::load(&path)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// As [`Self::load_or_create`], and when there is none.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io_error = |what| move |source| KeyError::Io { what, path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io_error("open"))?;
        let metadata = file.metadata().map_err(io_error("examine"))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        if !metadata.is_file() || metadata.len() != KEY_BYTES as u64 {
            return Err(KeyError::WrongLength { path: path.to_owned(), bytes: metadata.len() });
        }
        let mut bytes = [0u8; KEY_BYTES];
        file.read_exact(&mut bytes).map_err(io_error("read"))?;
        Ok(Self::from_bytes(&bytes))
    }
}

fn create(directory: &Path, path: &Path) -> Result<(), KeyError> {
    let io_error = |what, path: &Path| {
        let path = path.to_owned();
        move |source| KeyError::Io { what, path, source }
    };
    holdfast_storage::make_directory(directory).map_err(io_error("make the directory", directory))?;
    let mut bytes = [0u8; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    // A name of its own, so that what a crash leaves behind is in nobody's way.
    let unique = getrandom::u64().map_err(KeyError::Random)?;
    let draft = directory.join(format!("{KEY_FILE}.{unique:016x}"));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(io_error("create", &draft))?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    // A link, unlike a rename, fails when somebody else was first.
    let linked = written.and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    });
    let removed = std::fs::remove_file(&draft);
    linked.map_err(io_error("write", path))?;
    removed.map_err(io_error("remove", &draft))?;
    // The names must survive a power cut too, or the tokens minted before it would not: the key's, and that of the
    // directory, which may be new.
    File::open(directory).and_then(|file| file.sync_all()).map_err(io_error("synchronise", directory))?;
    let resolved = directory.canonicalize().map_err(io_error("resolve", directory))?;
    let Some(parent) = resolved.parent() else { return Ok(()) };
    match File::open(parent).and_then(|file| file.sync_all()) {
        // A directory can be made in one that cannot be read; then nobody can ask for more.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        outcome => outcome.map_err(io_error("synchronise", parent)),
    }
}

#[cfg(test)]
mod tests;
