//! The disk that fails: `faultfs`, a process of its own, told by lines what to do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("no faultfs at {0}; build it with `cargo build -p holdfast-faultfs`, or name one with --faultfs")]
    Missing(PathBuf),
    #[error("faultfs cannot be used: {0}")]
    Unusable(String),
}

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Disk {
    /// Mounts one on a directory that exists.
    pub(crate) fn mount(binary: &Path, directory: &Path) -> Result<Self, DiskError> {
        if !binary.exists() {
            return Err(DiskError::Missing(binary.to_owned()));
        }
        let unusable = |error: std::io::Error| DiskError::Unusable(error.to_string());
        let mut child = Command::new(binary)
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(unusable)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.ok_or_else(|| DiskError::Unusable("it has no output".into()))?);
        let mut disk = Self { child, input, output };
        // It answers when it is mounted, or ends and says why it is not.
        if disk.tell("usage").is_err() {
            let mut why = String::new();
            if let Some(mut stderr) = disk.child.stderr.take() {
                let _ = std::io::Read::read_to_string(&mut stderr, &mut why);
            }
            return Err(DiskError::Unusable(why.trim().to_owned()));
        }
        Ok(disk)
    }

    /// One of the lines that faultfs knows.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), DiskError> {
        let unusable = |error: std::io::Error| DiskError::Unusable(error.to_string());
        let input = self.input.as_mut().ok_or_else(|| DiskError::Unusable("it is going away".into()))?;
        writeln!(input, "{line}").map_err(unusable)?;
        let mut answer = String::new();
        let bytes = self.output.read_line(&mut answer).map_err(unusable)?;
        if bytes == 0 || answer.starts_with("error") {
            return Err(DiskError::Unusable(format!("`{line}` was answered with `{}`", answer.trim())));
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The end of its input lets it unmount.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
