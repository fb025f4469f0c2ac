//! `src/chat/generated.rs` is what prost makes of `proto/holdfast/v1/chat.proto`.
//!
//! The build needs neither `protoc` nor a build script; this test is what keeps the committed file true. After a
//! change of the schema:
//!
//! ```text
//! HOLDFAST_REGENERATE=1 cargo test -p holdfast-protocol --test chat generated
//! ```

use std::path::Path;

const SCHEMA: &str = "holdfast/v1/chat.proto";
const GENERATED: &str = "src/chat/generated.rs";

#[test]
fn the_committed_types_are_those_of_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([SCHEMA], [root.join("proto")]).expect("the schema compiles");
    let out = scratch();
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(&out)
        .compile_fds(descriptors)
        .expect("the types are generated");
    let fresh = std::fs::read_to_string(out.join("holdfast.v1.rs")).expect("one file per package");

    let committed = root.join(GENERATED);
    if std::env::var_os("HOLDFAST_REGENERATE").is_some() {
        std::fs::write(&committed, &fresh).expect("the source tree is writable");
    }
    assert!(
        std::fs::read_to_string(&committed).is_ok_and(|text| text == fresh),
        "{GENERATED} is not what {SCHEMA} says; run this test once with HOLDFAST_REGENERATE=1 and commit the file"
    );
}

/// A folder under cargo's own scratch space for integration tests.
fn scratch() -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat_generated");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}
