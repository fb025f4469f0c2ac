//! The chat decoder: no panic in either format, and what was understood survives being written and read again, in
//! both formats.
#![no_main]

use holdfast_protocol::chat::{Format, decode_client, encode_client};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for format in [Format::Json, Format::Protobuf] {
        let frame = match decode_client(format, bytes) {
            Ok(frame) => frame,
            Err(error) => {
                assert!(!error.code().is_empty());
                continue;
            }
        };
        for other in [Format::Json, Format::Protobuf] {
            let mut written = Vec::new();
            encode_client(other, &frame, &mut written);
            let again = decode_client(other, &written).expect("what we write, we read");
            assert_eq!(again, frame, "{format:?} through {other:?}");
        }
    }
});
