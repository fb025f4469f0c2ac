//! Mounts a faulty disk and does what the lines on standard input say; see [`holdfast_faultfs`].
//!
//! ```text
//! faultfs DIRECTORY
//!
//! crash           what was not synced is gone; whatever has files open must be dead
//! crash SEED      some of it survives, as the seed decides
//! eio [COUNT]     the next fsync, or so many, fail
//! full BYTES      only so many more bytes fit
//! heal            no fault is left
//! usage           figures
//! ```
//! Each line is answered by `ok`, by figures, or by `error` and what is wrong. The end of the input unmounts.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use holdfast_faultfs::{Disk, Loss, Mounted};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        eprintln!(
            "usage: faultfs DIRECTORY\nCommands are read from standard input: crash [SEED], eio [COUNT], full BYTES, heal, usage"
        );
        return ExitCode::from(2);
    };
    let disk = Disk::new();
    let mounted = match Mounted::at(&disk, Path::new(&directory)) {
        Ok(mounted) => mounted,
        Err(error) => {
            eprintln!("mounting on {}: {error}", Path::new(&directory).display());
            return ExitCode::FAILURE;
        }
    };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = obey(&disk, &line).unwrap_or_else(|wrong| format!("error: {wrong}"));
        if writeln!(std::io::stdout(), "{answer}").is_err() {
            break;
        }
    }
    drop(mounted);
    ExitCode::SUCCESS
}

/// Does what a line says; the error says what is wrong with it.
fn obey(disk: &Disk, line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| {
        word.parse::<u64>().map_err(|_| format!("'{word}' in '{line}' is not a whole number from 0 up"))
    };
    match words[..] {
        ["crash"] => disk.crash(Loss::All),
        ["crash", seed] => disk.crash(Loss::Some { seed: number(seed)? }),
        ["eio"] => disk.fail_syncs(1),
        ["eio", count] => disk.fail_syncs(number(count)?.min(u64::from(u32::MAX)) as u32),
        ["full", bytes] => disk.fill(number(bytes)?),
        ["heal"] => disk.heal(),
        ["usage"] => return Ok(format!("{:?}", disk.usage())),
        _ => return Err(format!("'{line}' is none of: crash [SEED], eio [COUNT], full BYTES, heal, usage")),
    }
    Ok("ok".to_owned())
}
