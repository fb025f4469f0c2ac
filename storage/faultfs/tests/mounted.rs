//! Through the kernel: what programs see of a faulty disk, with nothing but `std::fs`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use holdfast_faultfs::{Disk, Loss, Mounted};

/// Runs the test on a mounted disk, or says that it cannot.
fn on_disk(test: impl FnOnce(&Disk, &Path)) {
    let disk = Disk::new();
    if let Some(mounted) = Mounted::for_test(&disk) {
        test(&disk, mounted.path());
    }
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// What the kernel calls EIO; `std` has no name for it.
fn is_io_error(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(5)
}

#[test]
fn files_are_written_read_appended_cut_and_renamed() {
    on_disk(|_, root| {
        let path = root.join("a");
        let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        file.write_all(&bytes).unwrap();
        file.seek(SeekFrom::Start(1_000_001)).unwrap();
        let mut some = vec![0; 100_000];
        file.read_exact(&mut some).unwrap();
        assert_eq!(some, bytes[1_000_001..1_100_001]);
        assert!(fs::read(&path).unwrap() == bytes);
        file.set_len(5_000).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"end").unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 5_003);
        fs::rename(&path, root.join("b")).unwrap();
        let bytes = fs::read(root.join("b")).unwrap();
        assert_eq!((&bytes[..5], &bytes[5_000..]), (&b"begin"[..], &b"end"[..]));
        fs::write(root.join("b"), "short").unwrap();
        assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "short");
        fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::metadata(root.join("b")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            OpenOptions::new().create_new(true).write(true).open(root.join("b")).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
    });
}

#[test]
fn directories_of_any_size_are_listed_and_removed() {
    on_disk(|_, root| {
        let deep = root.join("d/e");
        fs::create_dir_all(&deep).unwrap();
        for n in 0..1_000 {
            File::create(deep.join(format!("a-file-with-a-long-name-{n}"))).unwrap();
        }
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1_000);
        assert_eq!(fs::remove_dir(&deep).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
        fs::remove_dir_all(root.join("d")).unwrap();
        assert_eq!(fs::read_dir(root).unwrap().count(), 0);
    });
}

#[test]
fn a_crash_takes_what_was_not_synced_and_leaves_old_handles_stale() {
    on_disk(|disk, root| {
        let path = root.join("f");
        fs::write(&path, "kept").unwrap();
        sync(&path);
        sync(root);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b" lost").unwrap();
        fs::write(root.join("g"), "lost").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept lost");
        disk.crash(Loss::All);
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        assert_eq!(fs::read(root.join("g")).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(file.write_all(b"late").is_err() && file.sync_all().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    });
}

#[test]
fn without_power_every_operation_fails() {
    on_disk(|disk, root| {
        let path = root.join("f");
        let mut file = File::create(&path).unwrap();
        file.sync_all().unwrap();
        sync(root);
        disk.cut_power(Loss::All);
        assert!(file.write_all(b"x").is_err());
        assert!(is_io_error(&fs::read(&path).unwrap_err()));
        assert!(is_io_error(&fs::create_dir(root.join("d")).unwrap_err()));
        drop(file);
        disk.restore_power();
        assert_eq!(fs::read(&path).unwrap(), b"");
    });
}

#[test]
fn a_failed_sync_says_eio_and_the_next_one_lies_as_linux_does() {
    on_disk(|disk, root| {
        let path = root.join("f");
        let mut file = File::create(&path).unwrap();
        sync(root);
        file.write_all(b"lost").unwrap();
        disk.fail_syncs(1);
        assert!(is_io_error(&file.sync_data().unwrap_err()));
        file.sync_data().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"lost", "it is still seen");
        disk.crash(Loss::All);
        assert_eq!(fs::read(&path).unwrap(), [0; 4]);
        disk.fail_syncs(1);
        assert!(is_io_error(&File::open(root).unwrap().sync_all().unwrap_err()), "directories too");
    });
}

#[test]
fn a_full_disk_says_so_until_it_is_healed() {
    on_disk(|disk, root| {
        let mut file = File::create(root.join("f")).unwrap();
        disk.fill(100 * 4096);
        assert_eq!(file.write_all(&[1; 101 * 4096]).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(file.metadata().unwrap().len(), 100 * 4096, "what fits is written");
        file.set_len(1 << 30).expect("holes take no space");
        disk.heal();
        file.write_all(b"more").unwrap();
    });
}

#[test]
fn locks_exclude_and_end_with_their_file() {
    on_disk(|_, root| {
        let open =
            || OpenOptions::new().create(true).truncate(false).write(true).open(root.join("LOCK")).unwrap();
        let first = open();
        first.try_lock().unwrap();
        let second = open();
        assert!(matches!(second.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(first);
        second.try_lock().unwrap();
    });
}

#[test]
fn the_program_obeys_its_lines() {
    on_disk(|_, _| {
        let directory = tempfile::tempdir().unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_faultfs"))
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = std::io::BufReader::new(program.stdout.take().unwrap());
        let mut lines = program.stdin.take().unwrap();
        let mut ask = |line: &str| {
            writeln!(lines, "{line}").unwrap();
            let mut answer = String::new();
            std::io::BufRead::read_line(&mut answers, &mut answer).unwrap();
            answer
        };
        // Answered, so it is mounted.
        assert_eq!(ask("heal"), "ok\n");
        let path = directory.path().join("f");
        fs::write(&path, "lost").unwrap();
        assert_eq!(ask("crash"), "ok\n");
        assert!(!path.exists());
        assert_eq!(ask("eio"), "ok\n");
        assert!(File::create(&path).unwrap().sync_all().is_err());
        assert_eq!(ask("full 0"), "ok\n");
        assert_eq!(fs::write(&path, "x").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(ask("crash 7"), "ok\n");
        assert!(ask("full much").starts_with("error: 'much'"));
        assert!(ask("burn").starts_with("error: 'burn'"));
        assert!(ask("usage").contains("failed_syncs: 1"));
        drop(lines);
        assert!(program.wait().unwrap().success());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "unmounted");
    });
}
