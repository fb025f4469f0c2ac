//! What can be wrong with a configuration, said so that it can be put right without the manual.

use std::fmt;
use std::path::PathBuf;

use super::layers::Source;

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not TOML: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// No setting has this key.
    #[error("{at}: unknown key `{key}`{}; `holdfast config` lists all keys", did_you_mean(*.nearest))]
    UnknownKey {
        /// As written.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
        /// Where it stands.
        at: Source,
    },
    /// The value is not one of the setting's.
    #[error("{at}: `{key}` is {value:?}: {why}; allowed: {allowed}")]
    BadValue {
        /// The setting.
        key: &'static str,
        /// As written.
        value: String,
        /// What is wrong with it.
        why: String,
        /// The allowed range.
        allowed: String,
        /// Where it stands.
        at: Source,
    },
    /// Two values that are each allowed, but not together.
    #[error("`{other}` ({}) must be at least {least} to fit `{one}` ({}): {why}", sources.1, sources.0)]
    Conflict {
        /// The value that asks for room.
        one: &'static str,
        /// The value that is too small for it.
        other: &'static str,
        /// What `other` would have to be.
        least: String,
        /// The relation.
        why: &'static str,
        /// Where `one` and `other` came from.
        sources: Box<(Source, Source)>,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!(", did you mean `{key}`?"))
}

/// Everything that is wrong, so that one run shows it all.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}
