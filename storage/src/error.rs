//! Why a store could not be opened, checked or stopped.

use std::path::PathBuf;

use crate::engine::StoreError;

/// Why a store could not be opened, checked or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An option is out of its range.
    #[error("storage option {key} is {value}; it must be {least} to {most}")]
    Option {
        /// Which.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
    },
    /// Another process has the directory open.
    #[error("the store in {path} is in use by another process (id {process}); stop that one first")]
    InUse {
        /// The store's directory.
        path: PathBuf,
        /// What the lock file says about the process.
        process: String,
    },
    /// A newer version of Holdfast made the directory.
    #[error(
        "the store in {path} has format {found}, this program knows formats up to {known}; use the newer Holdfast that wrote it"
    )]
    NewerFormat {
        /// The store's directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The directory's description cannot be read.
    #[error("{path}/FORMAT is damaged: {what}; restore it from a backup of this store")]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A database that the directory's description names is not there.
    #[error(
        "the store in {path} was made with {databases} databases, but {missing} is not there; restore it from a backup"
    )]
    MissingDatabase {
        /// The store's directory.
        path: PathBuf,
        /// How many it should have.
        databases: u16,
        /// The one that is missing.
        missing: String,
    },
    /// There is no store.
    #[error("there is no store in {path}")]
    NoStore {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// Not one deliverer per worker.
    #[error(
        "the store has {databases} databases, so it needs {databases} deliverers, one per worker; it was given {given}"
    )]
    Deliverers {
        /// How many workers there are.
        databases: u16,
        /// How many deliverers were given.
        given: usize,
    },
    /// A database could not be opened, or a write failed at the end.
    #[error("database {database} in {path}")]
    Database {
        /// Which.
        database: u16,
        /// The store's directory.
        path: PathBuf,
        /// What happened.
        source: StoreError,
    },
    /// A file could not be read or written.
    #[error("{doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A worker's thread could not be started.
    #[error("starting the thread of worker {database}")]
    Thread {
        /// Which.
        database: u16,
        /// What happened.
        source: std::io::Error,
    },
}
