//! `holdfast doctor` and `holdfast plan`: the arithmetic is `holdfast_tuning`'s.

use std::io::IsTerminal as _;

use clap::Args;
use holdfast_tuning::doctor::{self, Colour};
use holdfast_tuning::plan::{self, Wish};
use holdfast_tuning::probe::UringProbe;
use serde::Serialize;

use super::{Exit, Failure, print};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0: so many connections can be held here, perhaps slower than they could be; 1: a limit stops them.")]
pub(super) struct DoctorArgs {
    /// How many connections this machine shall hold.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    connections: u64,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Connections on one machine.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    connections: u64,
    /// RLIMIT_NOFILE there [default: this process's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(64..))]
    nofile: Option<u64>,
    /// Shard threads [default: the CPUs that this process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    shards: Option<u64>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run_doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    let mut here = doctor::probe();
    // The arithmetic stands below the driver and cannot make a ring to see.
    here.uring = match holdfast_reactor::uring::probe() {
        Ok(_) => UringProbe::Works,
        Err(error) => UringProbe::Refused { reason: error.to_string() },
    };
    let report = doctor::examine(args.connections, &here);
    let colour = if std::io::stdout().is_terminal() { Colour::Always } else { Colour::Never };
    print(&if args.json { as_json(&report) } else { report.render(colour) })?;
    Ok(if report.exit_code() == 0 { Exit::Ok } else { Exit::Failed })
}

pub(super) fn run_plan(args: &PlanArgs) -> Result<Exit, Failure> {
    let (nofile, shards) = match (args.nofile, args.shards) {
        (Some(nofile), Some(shards)) => (nofile, shards),
        (nofile, shards) => {
            let here = doctor::probe();
            (nofile.unwrap_or(here.nofile.reachable()), shards.unwrap_or(here.processors))
        }
    };
    let plan = plan::plan(Wish { connections: args.connections, nofile, shards });
    print(&if args.json { as_json(&plan) } else { plan.render() })?;
    Ok(Exit::Ok)
}

fn as_json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("reports have text keys and finite numbers");
    text.push('\n');
    text
}
