//! Holdfast against its peers, in one run on two processors; see [`holdfast_peers::duel`].
//!
//! Exit code 0: all gates met; 1: one was missed; 2: something could not be measured.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use holdfast_peers::duel::contest::{ContestError, Ring, Server};
use holdfast_peers::duel::verdict::{Gate, Results, gates, render};
use holdfast_peers::duel::{Contender, Discipline};

/// Measures Holdfast and its peers, interleaved, and prints a Markdown table of the server's CPU µs.
#[derive(Debug, Parser)]
struct Options {
    /// Where holdfast, holdfast-load and the peers are [default: beside this program].
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Measurements of each server in each discipline; the table shows medians.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// The servers' processor.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The load generator's processor.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let binaries = match &options.binaries {
        Some(binaries) => binaries.clone(),
        None => std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default(),
    };
    let work = tempfile::tempdir()?;
    let ring = Ring {
        binaries,
        work: work.path().to_owned(),
        server_core: options.server_core,
        load_core: options.load_core,
        seconds: options.seconds,
    };
    let start = |who: Contender| ring.start(who).map(|server| (who, server));
    let servers = Contender::ALL.into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
    let results = rounds(&ring, servers, options.rounds)?;
    println!("{}", render(&results, &Discipline::ALL));
    Ok(gates(&results, &Discipline::ALL).iter().all(Gate::is_met))
}

fn rounds(ring: &Ring, mut servers: Vec<(Contender, Server)>, rounds: u32) -> Result<Results, ContestError> {
    let mut results = Results::default();
    for round in 0..rounds {
        for discipline in Discipline::ALL {
            for (contender, server) in &servers {
                let cpu_us = ring.measure(server, discipline)?;
                results.add(*contender, discipline, cpu_us);
                // Progress is for whoever watches; nobody there is no failure.
                let _ = writeln!(
                    std::io::stderr(),
                    "round {}/{rounds}, {discipline}: {contender}: {cpu_us:.2} µs",
                    round + 1
                );
            }
            // Nobody is always the first, or always after the same one.
            servers.rotate_left(1);
        }
    }
    Ok(results)
}
