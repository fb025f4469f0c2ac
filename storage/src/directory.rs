//! The store's directory: who has it open, how many databases it has, which slice lies in which.
//!
//! ```text
//! LOCK     locked while a process has the store open; says which
//! FORMAT   what is written below, replaced atomically
//! db-00/   one database
//! db-01/   …
//! ```
//! ```text
//! holdfast-store 5          the format's version; a program refuses a newer one
//! state ready               `making` until every database has been made
//! databases 2               fixed for ever
//! epoch 1                   of the assignment below
//! owners 0001000100…        the database of each slice, two hex digits each
//! crc32c 12345678           of all lines above
//! ```
//!
//! Version 2 has inboxes that name messages, and copies of messages (`layout`). What version 1 has written is read as it
//! is; the first start of a newer program only writes the new number here, so that older ones refuse what they could not
//! read.
//!
//! The assignment is kept, not computed again, so that data is found where it was put whatever later versions compute.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use holdfast_router::{Assignment, Epoch, WorkerId};

use crate::error::StorageError;

const FORMAT_VERSION: u32 = 5;
/// One byte of hex per slice names the database.
const MOST_DATABASES: u16 = 64;

/// A store's directory, locked by this process.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Unlocked when it is closed, however the process ends.
    _lock: File,
    /// As the description says.
    version: u32,
    ready: bool,
    databases: u16,
    assignment: Assignment,
}

/// Whether a store that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// With so many databases.
    Make(u16),
    /// That is an error.
    Refuse,
}

impl Directory {
    pub(crate) fn open(path: &Path, missing: Missing) -> Result<Self, StorageError> {
        if missing == Missing::Refuse && !path.join("FORMAT").exists() {
            return Err(StorageError::NoStore { path: path.into() });
        }
        make_directory(path).map_err(io_error("making", path))?;
        let lock = lock(path)?;
        let text = match std::fs::read_to_string(path.join("FORMAT")) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("reading", &path.join("FORMAT"))(error)),
        };
        let directory = match (text, missing) {
            (Some(text), _) => {
                let (version, ready, databases, assignment) = parse(path, &text)?;
                // Whoever wrote it may have been killed before it had synced what names it.
                sync_directory(path)?;
                sync_parent(path)?;
                Self { path: path.into(), _lock: lock, version, ready, databases, assignment }
            }
            (None, Missing::Make(databases)) => {
                if path.join("db-00").exists() {
                    let what = "it is missing, but there are databases".to_owned();
                    return Err(StorageError::Damaged { path: path.into(), what });
                }
                let workers: Vec<WorkerId> = (0..databases).map(WorkerId).collect();
                let assignment = Assignment::new(&workers);
                let (path, version) = (path.to_owned(), FORMAT_VERSION);
                let new = Self { path, _lock: lock, version, ready: false, databases, assignment };
                new.write()?;
                sync_parent(&new.path)?;
                new
            }
            (None, Missing::Refuse) => return Err(StorageError::NoStore { path: path.into() }),
        };
        if directory.ready {
            for database in 0..directory.databases {
                // `fjall` writes it last when it makes a database.
                if !directory.database(database).join("version").exists() {
                    let missing = format!("db-{database:02}");
                    let databases = directory.databases;
                    return Err(StorageError::MissingDatabase { path: path.into(), databases, missing });
                }
            }
        }
        Ok(directory)
    }

    /// All databases have been made, and are going to be written to.
    pub(crate) fn finish(&mut self) -> Result<(), StorageError> {
        if !self.ready || self.version < FORMAT_VERSION {
            sync_directory(&self.path)?;
            self.ready = true;
            self.version = FORMAT_VERSION;
            self.write()?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn databases(&self) -> u16 {
        self.databases
    }

    pub(crate) fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    pub(crate) fn database(&self, number: u16) -> PathBuf {
        self.path.join(format!("db-{number:02}"))
    }

    fn write(&self) -> Result<(), StorageError> {
        let state = if self.ready { "ready" } else { "making" };
        let mut text = format!(
            "holdfast-store {}\nstate {state}\ndatabases {}\nepoch {}\nowners ",
            self.version,
            self.databases,
            self.assignment.epoch().0
        );
        for owner in self.assignment.owners() {
            let _ = write!(text, "{:02x}", owner.0);
        }
        text.push('\n');
        let _ = writeln!(text, "crc32c {:08x}", crc32c::crc32c(text.as_bytes()));
        let (path, new) = (self.path.join("FORMAT"), self.path.join("FORMAT.new"));
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(io_error("writing", &new))?;
        std::fs::rename(&new, &path).map_err(io_error("writing", &path))?;
        sync_directory(&self.path)
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let file_path = path.join("LOCK");
    let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file_path);
    let mut file = opened.map_err(io_error("opening", &file_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(StorageError::InUse { path: path.into(), process: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(io_error("locking", &file_path)(error)),
    }
    let said = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    said.map_err(io_error("writing", &file_path))?;
    Ok(file)
}

fn parse(path: &Path, text: &str) -> Result<(u32, bool, u16, Assignment), StorageError> {
    let damaged = |what: &str| StorageError::Damaged { path: path.into(), what: what.to_owned() };
    let first = text.lines().next().unwrap_or_default();
    let version = first.strip_prefix("holdfast-store ").and_then(|version| version.parse::<u32>().ok());
    let version = version.ok_or_else(|| damaged("it does not begin with `holdfast-store` and a version"))?;
    if version > FORMAT_VERSION {
        return Err(StorageError::NewerFormat { path: path.into(), found: version, known: FORMAT_VERSION });
    }
    let (body, crc) = text
        .rfind("crc32c ")
        .map(|at| text.split_at(at))
        .ok_or_else(|| damaged("its last line is no checksum"))?;
    let crc = crc.trim_start_matches("crc32c ").trim_end();
    if u32::from_str_radix(crc, 16).ok() != Some(crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum is wrong"));
    }
    let value = |key: &str| {
        let found = body.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        found.ok_or_else(|| damaged(&format!("it has no line `{key}`")))
    };
    let ready = match value("state")? {
        "ready" => true,
        "making" => false,
        _ => return Err(damaged("its state is neither `making` nor `ready`")),
    };
    let databases = value("databases")?.parse::<u16>().ok().filter(|n| (1..=MOST_DATABASES).contains(n));
    let databases = databases.ok_or_else(|| damaged("its number of databases is not 1 to 64"))?;
    let epoch = value("epoch")?.parse().map_err(|_| damaged("its epoch is no number"))?;
    let owners = value("owners")?.as_bytes();
    let owners: Option<Vec<WorkerId>> = owners
        .chunks(2)
        .map(|hex| u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok().map(WorkerId))
        .collect();
    let owners = owners.filter(|owners| owners.iter().all(|owner| owner.0 < databases));
    let owners = owners.ok_or_else(|| damaged("an owner is no database"))?;
    let assignment =
        Assignment::from_owners(Epoch(epoch), owners).map_err(|error| damaged(&error.to_string()))?;
    Ok((version, ready, databases, assignment))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { doing, path, source }
}

fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("syncing", path))
}

/// Makes a directory, and all above it that are missing, so that they outlive a power cut: a new directory is there for
/// good once the one above it is synced.
///
/// # Errors
/// When one cannot be made or synced.
pub fn make_directory(path: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let made: Vec<PathBuf> = path.ancestors().take_while(is_missing).map(Path::to_owned).collect();
    std::fs::create_dir_all(path)?;
    for directory in made.iter().rev() {
        let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
        File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), StorageError> {
    match path.canonicalize().map_err(io_error("resolving", path))?.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Directory, StorageError> {
        Directory::open(path, Missing::Make(3))
    }

    /// Opens a new store and pretends that its databases were made.
    fn made(path: &Path) {
        let mut directory = open(path).unwrap();
        for database in 0..3 {
            std::fs::create_dir(directory.database(database)).unwrap();
            std::fs::write(directory.database(database).join("version"), "").unwrap();
        }
        directory.finish().unwrap();
    }

    #[test]
    fn the_number_of_databases_and_the_assignment_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a").join("store");
        made(&path);
        let first = open(&path).unwrap().assignment().clone();
        let again = Directory::open(&path, Missing::Make(7)).unwrap();
        assert_eq!((again.databases(), again.assignment()), (3, &first));
    }

    #[test]
    fn a_second_opener_is_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let held = open(directory.path()).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, StorageError::InUse { .. }));
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(held);
        open(directory.path()).unwrap();
    }

    #[test]
    fn a_newer_format_and_damage_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        made(directory.path());
        let format = directory.path().join("FORMAT");
        let text = std::fs::read_to_string(&format).unwrap();
        std::fs::write(&format, text.replace("holdfast-store 5", "holdfast-store 6")).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, StorageError::NewerFormat { found: 6, known: 5, .. }), "{error}");
        for damage in
            [text.replace("databases 3", "databases 2"), text.replacen("01", "02", 1), String::new()]
        {
            std::fs::write(&format, damage).unwrap();
            assert!(matches!(open(directory.path()), Err(StorageError::Damaged { .. })));
        }
        std::fs::remove_file(&format).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "databases without a description: {error}");
        std::fs::write(&format, text).unwrap();
        open(directory.path()).unwrap();
    }

    #[test]
    fn a_missing_database_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        made(directory.path());
        std::fs::remove_dir_all(directory.path().join("db-01")).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(
            matches!(&error, StorageError::MissingDatabase { missing, .. } if missing == "db-01"),
            "{error}"
        );
    }

    #[test]
    fn a_store_that_was_not_finished_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()).unwrap());
        made(directory.path());
        assert!(matches!(
            Directory::open(&directory.path().join("nothing"), Missing::Refuse),
            Err(StorageError::NoStore { .. })
        ));
    }
}
