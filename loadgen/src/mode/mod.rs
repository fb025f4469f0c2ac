//! What the commands do: set up, lead the run through its phases, judge, report.

mod autobahn;
mod chat;
mod check;
mod connect;
mod echo;
mod hold;
mod million;
mod setup;
mod slow_reader;
mod sync;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Mode, OutputArgs};
use crate::outcome::Outcome;
use crate::report::{Report, terminal};
use setup::SetupError;

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a wrong command line is a run that could not be set up.
            let code = if error.use_stderr() { Outcome::Setup.exit_code() } else { 0 };
            // Nobody to tell when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let (result, output) = match &cli.mode {
        Mode::Hold(args) => (hold::run(args), &args.output),
        Mode::Echo(args) => (echo::run(args), &args.output),
        Mode::Connect(args) => (connect::run(args), &args.output),
        Mode::Chat(args) => (chat::run(args), &args.output),
        Mode::Sync(args) => (sync::run(args), &args.output),
        Mode::SlowReader(args) => (slow_reader::run(args), &args.output),
        Mode::Million(args) => (million::run(args), &args.reports()),
        Mode::Check(args) => return check::run(args),
        Mode::Autobahn(args) => return autobahn::run(args),
    };
    match result {
        Ok(report) => finish(&report, output),
        Err(error) => fail(&error),
    }
}

fn finish(report: &Report, output: &OutputArgs) -> ExitCode {
    print!("{}", terminal::render(report));
    for path in [&output.json, &output.html].into_iter().flatten() {
        println!("report       {}", path.display());
    }
    let json = output.json.as_deref().map(|path| report.write_json(path));
    let html = output.html.as_deref().map(|path| report.write_html(path));
    let mut code = report.exit_code;
    for result in [json, html].into_iter().flatten() {
        if let Err(error) = result {
            eprintln!("holdfast-load: {error}");
            code = Outcome::Setup.exit_code();
        }
    }
    ExitCode::from(code)
}

fn fail(error: &SetupError) -> ExitCode {
    eprintln!("holdfast-load: {error}");
    ExitCode::from(Outcome::Setup.exit_code())
}
