//! `check`: starts a server, lets a crowd use it while faults strike, and says which of its promises it broke.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::setup::random_seed;
use crate::check::crowd::{CheckError, Crowd, CrowdOptions, Tally, beside};
use crate::check::fault::Faults;
use crate::check::violation::{Contract, Violation, smallest};
use crate::cli::CheckArgs;
use crate::clock;
use crate::outcome::Outcome;
use crate::pilot::catch_signals;
use crate::server::ServerOptions;
use crate::units::count;

/// Violations that the report has in full.
const SHOWN_MAX: usize = 20;

/// What the server is started with: no limits of rates, which would only slow the crowd down, and everything else so
/// small that it is reached.
const SETTINGS: [&str; 13] = [
    "limits.send_per_second=100000",
    "limits.send_burst=1000000",
    "limits.control_frames=100000",
    "limits.snapshot_after=300",
    // More than the crowd has, and few enough for a list of them to fit into the output.
    "limits.group_members=200",
    "limits.message_body=16KiB",
    "limits.frame=24KiB",
    "limits.message=24KiB",
    "limits.page_entries=200",
    "limits.page=16KiB",
    "limits.output=34KiB",
    "limits.kernel_send_buffer=4KiB",
    "log.filter=warn",
];

/// Does what the command line says.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let started_ms = clock::unix_ms();
    let seed = match args.seed.map_or_else(random_seed, Ok) {
        Ok(seed) => seed,
        Err(error) => {
            eprintln!("holdfast-load: {error}");
            return ExitCode::from(Outcome::Setup.exit_code());
        }
    };
    let outcome = prepare(args, seed);
    let (outcome, error, tally) = match &outcome {
        Ok(tally) if tally.judge.is_sound() => (Outcome::Ok, None, Some(tally)),
        Ok(tally) => (Outcome::Incorrect, None, Some(tally)),
        Err(error) => (Outcome::Setup, Some(error.to_string()), None),
    };
    let mut code = outcome.exit_code();
    if let Some(tally) = tally {
        print!("{}", text(args, seed, tally));
    }
    if let Some(error) = &error {
        eprintln!("holdfast-load: {error}");
    }
    if let Some(path) = &args.json {
        let report = report(args, seed, started_ms, outcome, error.as_deref(), tally);
        let written = serde_json::to_string_pretty(&report).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|text| std::fs::write(path, text)) {
            eprintln!("holdfast-load: cannot write {}: {error}", path.display());
            code = Outcome::Setup.exit_code();
        }
    }
    ExitCode::from(code)
}

fn prepare(args: &CheckArgs, seed: u64) -> Result<Tally, CheckError> {
    let interrupted = catch_signals().map_err(|error| CheckError::Socket(std::io::Error::other(error)))?;
    let temporary;
    let data = match &args.data {
        Some(data) => data.clone(),
        None => {
            temporary = temporary_directory()?;
            temporary.0.clone()
        }
    };
    let mut arguments: Vec<String> =
        SETTINGS.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]).collect();
    arguments.extend(args.server_arg.iter().cloned());
    let options = CrowdOptions {
        seed,
        duration: Duration::from_secs_f64(args.minutes * 60.0),
        faults: args.faults.clone(),
        users: args.users,
        rate: args.rate,
        server: ServerOptions {
            binary: args.server.clone(),
            data,
            listen: std::net::Ipv4Addr::LOCALHOST,
            arguments,
            environment: Vec::new(),
            drain: Duration::from_secs(2),
        },
        faultfs: args.faultfs.clone().unwrap_or_else(|| beside("faultfs")),
        record: args.record.clone(),
        quiet: args.quiet,
    };
    let keep_going = || !interrupted.load(Ordering::Relaxed);
    Crowd::start(options, &keep_going)?.run(&keep_going)
}

/// A directory that goes away with this value.
struct Temporary(std::path::PathBuf);

fn temporary_directory() -> Result<Temporary, CheckError> {
    let path =
        std::env::temp_dir().join(format!("holdfast-check-{}-{}", std::process::id(), clock::unix_ms()));
    std::fs::create_dir_all(&path).map_err(|source| CheckError::File { path: path.clone(), source })?;
    Ok(Temporary(path))
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The command that does the same again.
fn command(args: &CheckArgs, seed: u64) -> String {
    let mut text =
        format!("holdfast-load check --seed {seed} --minutes {} --faults {}", args.minutes, args.faults);
    text += &format!(" --users {} --rate {}", args.users, args.rate);
    if let Some(server) = &args.server {
        text += &format!(" --server {}", server.display());
    }
    for argument in &args.server_arg {
        text += &format!(" --server-arg={argument}");
    }
    text
}

fn by_contract(violations: &[Violation]) -> impl Iterator<Item = (Contract, usize)> + '_ {
    Contract::ALL
        .into_iter()
        .map(|it| (it, violations.iter().filter(|violation| violation.contract == it).count()))
}

fn text(args: &CheckArgs, seed: u64, tally: &Tally) -> String {
    let counts = tally.judge.counts;
    let faults: Vec<String> =
        tally.faults.iter().map(|(fault, times)| format!("{} {times}", fault.name())).collect();
    let mut text = format!(
        "check        {} users, {} devices, {} rounds in {:.0} s, seed {seed}\n",
        args.users, tally.devices, tally.rounds, tally.seconds
    );
    text += &format!("faults       {}\n", if faults.is_empty() { "none".into() } else { faults.join(", ") });
    text += &format!(
        "requests     {} sent, {} of them again, {} accepted, {} refused, {} connections\n",
        count(counts.requests + counts.resends),
        count(counts.resends),
        count(counts.acks),
        count(counts.refusals),
        count(counts.connections)
    );
    text += &format!(
        "inboxes      {} entries of {} events ({:.0}/s while acting), read {} times over\n",
        count(counts.inbox_entries),
        count(counts.events),
        counts.inbox_entries as f64 / tally.acting_seconds.max(1.0),
        format_args!("{:.1}", counts.entries_seen as f64 / (counts.inbox_entries.max(1)) as f64)
    );
    text += &format!(
        "answers      {} histories, {} lists, {} snapshots, {} groups, {} receipts, {} gaps\n",
        count(counts.histories),
        count(counts.lists),
        count(counts.snapshots),
        count(counts.groups),
        count(counts.receipts),
        count(counts.gaps)
    );
    let violations = tally.judge.violations();
    if let Some(store) = &tally.store_check {
        text += &format!("store check  {}\n", store.lines().last().unwrap_or_default());
        if !violations.is_empty() {
            text.extend(store.lines().rev().skip(1).take(20).map(|line| format!("             {line}\n")));
        }
    }
    let Some(first) = smallest(violations) else {
        text += "\nverdict      pass: every contract held\n";
        return text;
    };
    let kinds: Vec<String> = by_contract(violations)
        .filter(|(_, times)| *times > 0)
        .map(|(contract, times)| format!("{} {times}", contract.name()))
        .collect();
    text += &format!("violations   {}\n\n{first}", kinds.join(", "));
    if !tally.server_log.is_empty() {
        text += "\nthe server's last words:\n";
        text.extend(tally.server_log.lines().map(|line| format!("    {line}\n")));
    }
    text += &format!("\nthe same again: {}\n", command(args, seed));
    text += "\nverdict      FAIL: a contract was broken\n";
    text
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    verdict: &'static str,
    outcome: Outcome,
    exit_code: u8,
    error: Option<String>,
    mode: &'static str,
    version: &'static str,
    started_unix_ms: u64,
    seed: u64,
    command: String,
    check: Value,
}

fn report(
    args: &CheckArgs,
    seed: u64,
    started_unix_ms: u64,
    outcome: Outcome,
    error: Option<&str>,
    tally: Option<&Tally>,
) -> Report {
    Report {
        schema: 1,
        verdict: outcome.verdict(),
        outcome,
        exit_code: outcome.exit_code(),
        error: error.map(str::to_owned),
        mode: "check",
        version: env!("CARGO_PKG_VERSION"),
        started_unix_ms,
        seed,
        command: command(args, seed),
        check: tally.map_or(Value::Null, |tally| figures(args, &args.faults, tally)),
    }
}

fn figures(args: &CheckArgs, faults: &Faults, tally: &Tally) -> Value {
    let counts = tally.judge.counts;
    let violations = tally.judge.violations();
    let struck: Map<String, Value> =
        tally.faults.iter().map(|(fault, times)| (fault.name().to_owned(), json!(times))).collect();
    let broken: Map<String, Value> = by_contract(violations)
        .map(|(contract, times)| (contract.name().replace(' ', "_"), json!(times)))
        .collect();
    let shown = smallest(violations).into_iter().chain(violations.iter()).take(SHOWN_MAX).map(|it| {
        let mut facts = it.facts.clone();
        facts.sort();
        let facts: Vec<Value> =
            facts.iter().map(|fact| json!({"at_ms": fact.at_ms, "what": fact.text})).collect();
        json!({"contract": it.contract.name(), "what": it.what, "observations": facts})
    });
    json!({
        "faults": faults.to_string(),
        "struck": struck,
        "users": args.users,
        "devices": tally.devices,
        "rounds": tally.rounds,
        "seconds": tally.seconds,
        "acting_seconds": tally.acting_seconds,
        "connections": counts.connections,
        "requests": counts.requests,
        "resends": counts.resends,
        "accepted": counts.acks,
        "refused": counts.refusals,
        "events": counts.events,
        "inbox_entries": counts.inbox_entries,
        "inbox_entries_per_second": counts.inbox_entries as f64 / tally.acting_seconds.max(1.0),
        "entries_seen": counts.entries_seen,
        "histories": counts.histories,
        "lists": counts.lists,
        "snapshots": counts.snapshots,
        "groups": counts.groups,
        "receipts": counts.receipts,
        "gaps": counts.gaps,
        "store_check": tally.store_check,
        "broken": broken,
        "violations": shown.collect::<Vec<Value>>(),
    })
}
