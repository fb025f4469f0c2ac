//! The head parser: no panic, one verdict however the bytes are cut, and what is accepted has one meaning.
#![no_main]

use holdfast_protocol::ws::handshake::{
    BodyFraming, HeadError, HeadLimits, HeadScanner, parse_request, parse_response,
};
use libfuzzer_sys::fuzz_target;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 1024, headers: 16 };

/// What a scanner says that gets one byte more each time.
fn byte_by_byte(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    let mut scanner = HeadScanner::new();
    (0..=bytes.len())
        .map(|end| scanner.scan(&bytes[..end], &LIMITS))
        .find(|verdict| *verdict != Ok(None))
        .unwrap_or(Ok(None))
}

fuzz_target!(|bytes: &[u8]| {
    let scanned = HeadScanner::new().scan(bytes, &LIMITS);
    assert_eq!(byte_by_byte(bytes), scanned);

    match parse_request(bytes, &LIMITS) {
        Ok(None) => assert_eq!(scanned, Ok(None)),
        Err(error) => assert!((400..600).contains(&error.status())),
        Ok(Some(head)) => {
            assert_eq!(scanned, Ok(Some(head.bytes())));
            let text = std::str::from_utf8(&bytes[..head.bytes()]).expect("ASCII");
            assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
            assert_eq!(text.matches('\r').count(), text.matches("\r\n").count());
            assert!(head.target().starts_with('/'));
            // Every line is a field or was counted otherwise: request line, blank line, at most one blank line first.
            let lines = text.matches("\r\n").count() - usize::from(text.starts_with("\r\n"));
            assert_eq!(head.headers().count(), lines - 2);
            let count =
                |name: &str| head.headers().filter(|(field, _)| field.eq_ignore_ascii_case(name)).count();
            assert_eq!(count("host"), 1);
            assert!(count("content-length") + count("transfer-encoding") <= 1);
            if head.body() == BodyFraming::Chunked {
                assert_eq!(count("transfer-encoding"), 1);
            }
            match head.upgrade() {
                Err(error) => assert!((400..500).contains(&error.status())),
                Ok(upgrade) => {
                    assert_eq!((upgrade.key.len(), count("sec-websocket-key")), (24, 1));
                    assert!(upgrade.protocols().all(|protocol| !protocol.contains([',', ' ', '\r', '\n'])));
                }
            }
        }
    }

    let _ = parse_response(bytes, "dGhlIHNhbXBsZSBub25jZQ==", &["chat"]);
});
