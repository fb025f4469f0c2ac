//! `check` where it cannot run: it says why, and ends with the code of a run that could not be set up.

use std::process::Command;

fn check(words: &[&str]) -> (Option<i32>, String) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-load"))
        .args(["check", "--minutes", "0.1", "--quiet", "--data"])
        .arg(data.path())
        .args(words)
        .output()
        .expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_server_that_is_not_there() {
    let (code, said) = check(&["--server", "/no/such/holdfast"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("no server at /no/such/holdfast"), "{said}");
}

#[test]
fn a_disk_that_fails_is_asked_for_and_is_not_there() {
    for faults in ["all", "kill,torn"] {
        let (code, said) = check(&["--faults", faults, "--faultfs", "/no/such/faultfs"]);
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("no faultfs at /no/such/faultfs"), "{said}");
    }
    // One that ends at once, as where FUSE may not be used.
    let (code, said) = check(&["--faults", "lost", "--faultfs", "/bin/false"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("faultfs cannot be used"), "{said}");
}

#[test]
fn a_fault_that_is_none() {
    let (code, said) = check(&["--faults", "kill,flood"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("`flood` is no fault"), "{said}");
}
