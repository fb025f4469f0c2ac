//! `holdfast store`: looks at a store that no server is using.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use holdfast_storage::check::{DatabaseSize, Report, check, stats};
use serde_json::json;

use super::{DataFlags, Exit, Failure, print};
use crate::config::{show_bytes, storage_options};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Read everything and say whether all that was promised is there. Exit code 1: it is not.
    Check(StoreArgs),
    /// Say how large each database is, without reading it.
    Stats(StoreArgs),
}

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    #[command(flatten)]
    flags: DataFlags,
    /// For programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &StoreCommand) -> Result<Exit, Failure> {
    let setup = |error| Failure::new(Exit::Setup, &error);
    let (StoreCommand::Check(args) | StoreCommand::Stats(args)) = command;
    let directory = storage_options(&args.flags.resolve()?.config).directory;
    match command {
        StoreCommand::Check(_) => {
            let report = check(&directory).map_err(setup)?;
            print(&if args.json { report_json(&report) } else { report_text(&report) })?;
            Ok(if report.is_sound() { Exit::Ok } else { Exit::Failed })
        }
        StoreCommand::Stats(_) => {
            let sizes = stats(&directory).map_err(setup)?;
            print(&if args.json { sizes_json(&sizes) } else { sizes_text(&sizes) })?;
            Ok(Exit::Ok)
        }
    }
}

/// The lines of a report with their keys in JSON.
fn figures(report: &Report) -> [(&'static str, &'static str, u64); 8] {
    [
        ("databases", "databases", u64::from(report.databases)),
        ("messages", "messages", report.messages),
        ("conversations", "conversations", report.conversations),
        ("entries", "inbox entries", report.entries),
        ("users", "users", report.users),
        ("cursors", "device cursors", report.cursors),
        ("expired", "events that were old enough to be removed", report.expired),
        ("waiting_intents", "intents that the next start applies", report.waiting_intents),
    ]
}

fn report_text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string fails never.
    for (_, what, count) in figures(report) {
        let _ = writeln!(text, "{count:>14}  {what}");
    }
    if report.is_sound() {
        text.push_str("\nEverything is there that was promised.\n");
        return text;
    }
    let _ = writeln!(text, "\n{} problems:", report.problem_count);
    for problem in &report.problems {
        let _ = writeln!(text, "  {problem}");
    }
    let more = report.problem_count - report.problems.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
    text
}

fn report_json(report: &Report) -> String {
    let mut object = serde_json::Map::new();
    object.insert("schema".to_owned(), 1.into());
    object.insert("sound".to_owned(), report.is_sound().into());
    for (key, _, count) in figures(report) {
        object.insert(key.to_owned(), count.into());
    }
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|problem| json!({"database": problem.database, "what": problem.what}))
        .collect();
    object.insert("problem_count".to_owned(), report.problem_count.into());
    object.insert("problems".to_owned(), problems.into());
    format!("{:#}\n", serde_json::Value::from(object))
}

fn sizes_text(sizes: &[DatabaseSize]) -> String {
    let mut text = format!("{:9}{:14}{:>14}  {:>14}\n", "database", "table", "records", "on disk");
    for size in sizes {
        for table in &size.tables {
            let bytes = show_bytes(table.disk_bytes);
            let _ =
                writeln!(text, "{:<9}{:14}{:>14}  {bytes:>14}", size.database, table.table, table.records);
        }
        let _ = writeln!(
            text,
            "{:<9}{:14}{:>14}  {:>14}",
            size.database,
            "journals",
            "",
            show_bytes(size.journal_bytes)
        );
    }
    text
}

fn sizes_json(sizes: &[DatabaseSize]) -> String {
    let databases: Vec<_> = sizes
        .iter()
        .map(|size| {
            let tables: Vec<_> = size
                .tables
                .iter()
                .map(|table| json!({"table": table.table, "records": table.records, "disk_bytes": table.disk_bytes}))
                .collect();
            json!({"database": size.database, "tables": tables, "journal_bytes": size.journal_bytes})
        })
        .collect();
    format!("{:#}\n", json!({"schema": 1, "databases": databases}))
}

#[cfg(test)]
mod tests {
    use holdfast_storage::check::Problem;

    use super::*;

    #[test]
    fn a_report_says_what_is_wrong_and_how_much_is_not_shown() {
        let sound = Report { databases: 2, messages: 7, ..Report::default() };
        assert!(report_text(&sound).ends_with("Everything is there that was promised.\n"));
        let problem = Problem { database: Some(1), what: "seq 3 is missing".to_owned() };
        let broken = Report { problems: vec![problem], problem_count: 5, ..sound };
        let text = report_text(&broken);
        assert!(text.contains("5 problems:\n  db-01: seq 3 is missing\n  and 4 more\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report_json(&broken)).expect("it is JSON");
        assert_eq!(
            (&json["sound"], &json["messages"], &json["problem_count"]),
            (&json!(false), &json!(7), &json!(5))
        );
        assert_eq!(json["problems"][0], json!({"database": 1, "what": "seq 3 is missing"}));
    }
}
