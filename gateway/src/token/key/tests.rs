use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::token::Claims;
use holdfast_protocol::id::UserId;

fn token(key: &TokenKey) -> String {
    key.mint(&Claims { user: UserId(1), device: None, issued_at: 1, expires_at: 2 })
}

#[test]
fn the_first_start_makes_a_key_that_only_the_owner_reads() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("new/data");
    let first = TokenKey::load_or_create(&data).expect("a key is made");
    let metadata = std::fs::metadata(data.join(KEY_FILE)).expect("the key file is there");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!(metadata.len(), 32);
    assert_eq!(
        std::fs::read_dir(&data).expect("the directory is readable").count(),
        1,
        "no draft stays behind"
    );
    let second = TokenKey::load_or_create(&data).expect("the key is read");
    assert_eq!(token(&first), token(&second));
    let elsewhere = TokenKey::load_or_create(&directory.path().join("other")).expect("a key is made");
    assert_ne!(token(&first), token(&elsewhere));
}

#[test]
fn of_many_that_start_at_once_all_get_the_same_key() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let start = std::sync::Barrier::new(8);
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    token(&TokenKey::load_or_create(directory.path()).expect("a key"))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    assert!(tokens.iter().all(|token| *token == tokens[0]));
}

#[test]
fn a_key_that_others_may_read_or_of_the_wrong_length_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    TokenKey::load_or_create(directory.path()).expect("a key is made");
    let path = directory.path().join(KEY_FILE);
    let error_of = |mode: u32, content: &[u8]| {
        std::fs::write(&path, content).expect("the file is writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        match TokenKey::load_or_create(directory.path()) {
            Ok(_) => panic!("accepted mode {mode:o}, {} bytes", content.len()),
            Err(error) => error.to_string(),
        }
    };
    assert!(error_of(0o644, &[1; 32]).contains("has mode 0644"), "{}", error_of(0o644, &[1; 32]));
    assert!(error_of(0o620, &[1; 32]).contains("chmod 600"));
    assert!(error_of(0o600, &[1; 31]).contains("has 31 bytes; a key has exactly 32"));
    assert!(error_of(0o600, &[1; 33]).contains("has 33 bytes"));
    assert!(error_of(0o600, &[]).contains("has 0 bytes"));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("the directory is writable");
    let error = TokenKey::load_or_create(&file.join("data")).expect_err("a file is no directory").to_string();
    assert!(error.contains(&file.join("data").display().to_string()), "{error}");
}
