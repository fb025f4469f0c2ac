//! What the tests of the whole program share: running it, and reading what it wrote.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod chat_server;
pub mod echo_server;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// Both drivers that move real bytes.
pub const DRIVERS: [&str; 2] = ["uring", "epoll"];

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    /// Its exit code.
    pub code: i32,
    /// Its JSON; `Null` when there is none.
    pub json: Value,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Run {
    /// A number of the JSON.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> f64 {
        let value = self.json.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number at {pointer}\n{}\n{}", self.stdout, self.stderr))
    }

    /// Checks the exit code, and shows everything when it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// The server that lies beside the generator; `None`: it was not built.
pub fn server() -> Option<PathBuf> {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_holdfast-load")).with_file_name("holdfast");
    if !binary.exists() {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "`cargo build -p holdfast-gateway` comes first"
        );
        eprintln!("skipped: no server beside the generator; `cargo build -p holdfast-gateway` makes one");
        return None;
    }
    Some(binary)
}

/// Runs `holdfast-load` with these words, on this driver, with a report.
pub fn load(driver: &str, words: &[&str]) -> Run {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("report.json");
    let output: Output = Command::new(env!("CARGO_BIN_EXE_holdfast-load"))
        .args(words)
        .args(["--driver", driver, "--json"])
        .arg(&path)
        // Whole huge pages of 2 MiB would hide what a connection costs.
        .env("MIMALLOC_ALLOW_THP", "0")
        .output()
        .expect("the program runs");
    let json = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    Run {
        code: output.status.code().expect("it ends by itself"),
        json: json.unwrap_or(Value::Null),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
