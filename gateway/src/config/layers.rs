//! The four layers, and the source that every value remembers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, ConfigErrors, SETTINGS, Setting};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "holdfast.toml";
/// Names the file, like `--config`.
pub const FILE_VARIABLE: &str = "HOLDFAST_CONFIG";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A line of the configuration file.
    File {
        /// Which file.
        path: Arc<Path>,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag on the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A configuration file's text, and the name that errors call it by.
#[derive(Debug, Clone)]
pub struct FileText {
    /// Its name.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

/// A value from the command line.
#[derive(Debug, Clone)]
pub struct Override {
    /// The setting's key.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// The flag as the user wrote it: `--listen`.
    pub flag: String,
}

/// What [`Effective::resolve`] works on: everything from outside, so that it is a pure function.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The configuration file, if there is one.
    pub file: Option<FileText>,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// The command line.
    pub flags: Vec<Override>,
}

impl Inputs {
    /// Reads the file that `--config` or `HOLDFAST_CONFIG` names, or `holdfast.toml` if it is there, and the
    /// process's environment.
    ///
    /// # Errors
    /// When a file that was named cannot be read, or the default one exists and cannot.
    pub fn from_process(config_file: Option<PathBuf>, flags: Vec<Override>) -> Result<Self, ConfigErrors> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = config_file.or_else(|| {
            let variable = environment.iter().find(|(name, _)| name == FILE_VARIABLE);
            variable.map(|(_, path)| PathBuf::from(path))
        });
        let must_exist = named.is_some();
        let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some(FileText { path, text }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => None,
            Err(source) => return Err(ConfigErrors(vec![ConfigError::Unreadable { path, source }])),
        };
        Ok(Self { file, environment, flags })
    }
}

/// The configuration in force, and where each value came from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The values.
    pub config: Config,
    sources: BTreeMap<&'static str, Source>,
}

impl Effective {
    /// Lays the layers over each other.
    ///
    /// # Errors
    /// Everything that is wrong, all at once: syntax, unknown keys, values out of range, limits that do not fit.
    pub fn resolve(inputs: &Inputs) -> Result<Self, ConfigErrors> {
        let mut layers = Layers::default();
        if let Some(file) = &inputs.file {
            layers.file(file);
        }
        layers.environment(&inputs.environment);
        for flag in &inputs.flags {
            layers.set(&flag.key, &flag.value, Source::Flag(flag.flag.clone()));
        }
        let Layers { config, sources, mut errors } = layers;
        let effective = Self { config, sources };
        errors.extend(effective.config.limits.conflicts(|key| effective.source(key)));
        if errors.is_empty() { Ok(effective) } else { Err(ConfigErrors(errors)) }
    }

    /// Where the value of a setting came from.
    #[must_use]
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }
}

/// Service links that Kubernetes puts into the environment of a pod beside a service called `holdfast`.
fn is_kubernetes_service_link(name: &str) -> bool {
    ["HOLDFAST_PORT", "HOLDFAST_SERVICE_HOST", "HOLDFAST_SERVICE_PORT"].iter().any(|link| {
        name.strip_prefix(link)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_') && !rest.contains("__"))
    })
}

#[derive(Default)]
struct Layers {
    config: Config,
    sources: BTreeMap<&'static str, Source>,
    errors: Vec<ConfigError>,
}

impl Layers {
    fn set(&mut self, key: &str, value: &str, source: Source) {
        let Some(setting) = Setting::find(key) else {
            self.errors.push(ConfigError::UnknownKey {
                key: key.to_owned(),
                nearest: nearest(key),
                at: source,
            });
            return;
        };
        match setting.apply(&mut self.config, value) {
            Ok(()) => {
                self.sources.insert(setting.key, source);
            }
            Err(why) => self.errors.push(ConfigError::BadValue {
                key: setting.key,
                value: value.to_owned(),
                why,
                allowed: setting.allowed(),
                at: source,
            }),
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("HOLDFAST_") else { continue };
            let plants = cfg!(feature = "planted") && name == "HOLDFAST_PLANTED";
            if name == FILE_VARIABLE || plants || is_kubernetes_service_link(name) {
                continue;
            }
            let key = rest.to_ascii_lowercase().replace("__", ".");
            self.set(&key, value, Source::Environment(name.clone()));
        }
    }

    fn file(&mut self, file: &FileText) {
        let path: Arc<Path> = file.path.as_path().into();
        let at = |offset: usize| Source::File { path: Arc::clone(&path), line: line_of(&file.text, offset) };
        let table = match DeTable::parse(&file.text) {
            Ok(table) => table,
            Err(error) => {
                let line = line_of(&file.text, error.span().map_or(0, |span| span.start));
                let message = error.message().to_owned();
                self.errors.push(ConfigError::Syntax { path: file.path.clone(), line, message });
                return;
            }
        };
        for (name, value) in table.get_ref() {
            match value.get_ref() {
                DeValue::Table(section) => {
                    for (key, value) in section {
                        let key_at = at(key.span().start);
                        self.file_value(&format!("{}.{}", name.get_ref(), key.get_ref()), value, key_at);
                    }
                }
                _ => self.file_value(name.get_ref(), value, at(name.span().start)),
            }
        }
    }

    fn file_value(&mut self, key: &str, value: &Spanned<DeValue<'_>>, source: Source) {
        match text_of(value.get_ref()) {
            Some(text) => self.set(key, &text, source),
            // Reported as the wrong value of a known key, or as an unknown key.
            None => self.set(key, &format!("a {}", value.get_ref().type_str()), source),
        }
    }
}

/// A TOML value as it would stand in a variable; `None` for what no setting takes.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str().to_owned()),
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Array(values) => {
            let texts: Option<Vec<String>> = values
                .iter()
                .map(|value| match value.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The known key with the fewest edits from `key`, if that is few enough to be a slip of the finger.
fn nearest(key: &str) -> Option<&'static str> {
    let name = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    let candidates = SETTINGS.iter().map(|setting| {
        let whole = edits(key, setting.key);
        // `memory` alone is `limits.memory` without its section.
        let bare = if key == name(setting.key) { 1 } else { usize::MAX };
        (whole.min(bare), setting.key)
    });
    let (distance, nearest) = candidates.min()?;
    (distance <= 3.max(key.len() / 4)).then_some(nearest)
}

/// Levenshtein distance.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests;
