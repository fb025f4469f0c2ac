//! The command line: what can be asked of the `holdfast` binary, and its exit codes.
//!
//! Flags that set a configuration value are kept as text and go through the same table as the file and the
//! environment ([`crate::config`]), so that a bad value reads the same wherever it stands.
//!
//! Never here: what the commands do beyond reading their arguments and printing; that stands in its own module each.

mod config;
mod doctor;
mod serve;
mod store;
mod token;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigErrors, Effective, Inputs, Override};

/// How the process ends, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Done. For `serve`: drained and stopped as it was told.
    Ok = 0,
    /// `doctor` or `store check` found something that is wrong, or a running server had to stop.
    Failed = 1,
    /// The command line or the configuration is wrong (clap ends with the same code).
    Usage = 2,
    /// The command could not begin: address or store in use, key or directory not readable.
    Setup = 3,
}

const AFTER_HELP: &str = "\
Examples:
  holdfast                                  serve on 127.0.0.1:8080, data in ./holdfast-data
  holdfast --listen 0.0.0.0:8080            serve everybody who can reach this machine (guests are off then)
  holdfast token --user 42 --device phone   a token for user 42
  holdfast doctor --connections 1000000     what on this machine stands in the way of a million connections
  holdfast store check                      is everything there that was promised? (no server may be running)
  holdfast config                           every setting, its value and where that came from

Exit codes:
  0  done; for `serve`: drained and stopped as it was told
  1  `doctor` or `store check` found something wrong, or a running server had to stop
  2  the command line or the configuration is wrong
  3  the command could not begin: address or store in use, key or directory not readable
  130, 143  a second SIGINT or SIGTERM ended a drain";

/// A million WebSocket connections on one machine, and the chat system behind them.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ConfigFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once.
    Serve(ConfigFlags),
    /// Print a token that says who somebody is.
    Token(token::TokenArgs),
    /// Say what on this machine stands in the way of a number of connections, and how to change it.
    Doctor(doctor::DoctorArgs),
    /// Work out on paper what a number of connections needs.
    Plan(doctor::PlanArgs),
    /// Look at a store that no server is using.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Print every setting, its value, and where that came from.
    Config(config::ConfigArgs),
}

/// Settings on the command line; they win over environment and file.
#[derive(Debug, Clone, Default, Args)]
struct ConfigFlags {
    /// Read this file instead of ./holdfast.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, as 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The data directory.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Shard threads: a number, or auto.
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// What moves the bytes: auto, uring or epoll.
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// Connections of the whole process.
    #[arg(long, value_name = "N")]
    connections: Option<String>,
    /// Serve /echo, without login and rate limits.
    #[arg(long)]
    bench_endpoints: bool,
    /// Set any setting, as limits.memory=2GiB. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// The same for commands that only need to know where the data is.
#[derive(Debug, Clone, Default, Args)]
struct DataFlags {
    /// Read this file instead of ./holdfast.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

impl DataFlags {
    /// The configuration in force with these flags.
    fn resolve(&self) -> Result<Effective, ConfigErrors> {
        let Self { config, data } = self.clone();
        ConfigFlags { config, data, ..ConfigFlags::default() }.resolve()
    }
}

impl ConfigFlags {
    /// The configuration in force with these flags.
    fn resolve(&self) -> Result<Effective, ConfigErrors> {
        Effective::resolve(&Inputs::from_process(self.config.clone(), self.overrides())?)
    }

    fn overrides(&self) -> Vec<Override> {
        let named = [
            ("listen", "--listen", &self.listen),
            ("data", "--data", &self.data),
            ("shards", "--shards", &self.shards),
            ("driver", "--driver", &self.driver),
            ("limits.connections", "--connections", &self.connections),
        ];
        let mut overrides: Vec<Override> = Vec::new();
        for (key, flag, value) in named {
            if let Some(value) = value {
                overrides.push(Override { key: key.to_owned(), value: value.clone(), flag: flag.to_owned() });
            }
        }
        if self.bench_endpoints {
            let flag = "--bench-endpoints".to_owned();
            overrides.push(Override { key: "bench_endpoints".to_owned(), value: "true".to_owned(), flag });
        }
        for set in &self.set {
            // Without `=` the value is empty, and the error says what is allowed.
            let (key, value) = set.split_once('=').unwrap_or((set, ""));
            overrides.push(Override {
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                flag: format!("--set {set}"),
            });
        }
        overrides
    }
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(flags) => serve::run(&flags),
        Command::Token(args) => token::run(&args),
        Command::Doctor(args) => doctor::run_doctor(&args),
        Command::Plan(args) => doctor::run_plan(&args),
        Command::Store(command) => store::run(&command),
        Command::Config(args) => config::run(&args),
    };
    let exit = outcome.unwrap_or_else(|failure| {
        failure.print();
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// The error with its causes, each of which prints only its own level.
    fn new(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors print their cause themselves.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { exit, message }
    }

    fn print(&self) {
        let mark = if std::io::stderr().is_terminal() { "\x1b[1;31mholdfast:\x1b[0m" } else { "holdfast:" };
        for line in self.message.lines() {
            // Nobody is left to be told that nobody could be told.
            let _ = writeln!(std::io::stderr(), "{mark} {line}");
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self { exit: Exit::Usage, message: errors.to_string() }
    }
}

/// Prints to standard output; a reader that has left (`holdfast config | head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Setup, &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
