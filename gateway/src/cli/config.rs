//! `holdfast config`

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::{ConfigFlags, Exit, Failure, print};
use crate::config::{Effective, SETTINGS, Source};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    flags: ConfigFlags,
    /// For programs: an object of `{"value", "source"}` by key; sizes in bytes.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ConfigArgs) -> Result<Exit, Failure> {
    let effective = args.flags.resolve()?;
    print(&if args.json { as_json(&effective) } else { as_text(&effective) })?;
    Ok(Exit::Ok)
}

/// TOML that could be written to `holdfast.toml` as it is, with the source of each value behind it.
pub(super) fn as_text(effective: &Effective) -> String {
    let lines: Vec<(&str, String, String)> = SETTINGS
        .iter()
        .map(|setting| {
            let (section, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
            let value = toml_value(&setting.show(&effective.config), &setting.json(&effective.config));
            (section, format!("{name} = {value}"), effective.source(setting.key).to_string())
        })
        .collect();
    let width = lines.iter().map(|(_, line, _)| line.chars().count()).max().unwrap_or(0).min(56);
    let mut text = String::new();
    let mut present = "";
    for (section, line, source) in &lines {
        if *section != present {
            present = section;
            // Writing to a string fails never.
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text, "{line:width$}  # {source}");
    }
    text
}

fn toml_value(shown: &str, json: &serde_json::Value) -> String {
    match json {
        serde_json::Value::Bool(_) => shown.to_owned(),
        // Sizes are numbers for programs, but have a unit for people.
        serde_json::Value::Number(number) if number.to_string() == shown => shown.to_owned(),
        serde_json::Value::Array(_) => json.to_string(),
        _ => serde_json::Value::from(shown).to_string(),
    }
}

fn as_json(effective: &Effective) -> String {
    let mut settings = serde_json::Map::new();
    for setting in SETTINGS {
        let source = match effective.source(setting.key) {
            Source::Default => json!({"kind": "default"}),
            Source::File { path, line } => {
                json!({"kind": "file", "path": path.to_string_lossy(), "line": line})
            }
            Source::Environment(variable) => json!({"kind": "environment", "variable": variable}),
            Source::Flag(flag) => json!({"kind": "flag", "flag": flag}),
        };
        let value = setting.json(&effective.config);
        settings.insert(setting.key.to_owned(), json!({"value": value, "source": source}));
    }
    let mut text =
        serde_json::to_string_pretty(&settings).expect("a map with text keys always has a JSON form");
    text.push('\n');
    text
}
