//! Request heads that must be refused, each with its status, and that the verdict does not depend on how they are cut.

use holdfast_protocol::ws::handshake::{
    BodyFraming, ClientRequest, HandshakeError, HeadError, HeadLimits, HeadScanner, ResponseError,
    accept_value, client_key, parse_request, parse_response, write_accept, write_refusal, write_request,
};
use proptest::prelude::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const LIMITS: HeadLimits = HeadLimits { head_bytes: 8192, headers: 64 };

fn status_of(head: &str) -> u16 {
    match parse_request(head.as_bytes(), &LIMITS) {
        Ok(Some(_)) => 200,
        Ok(None) => 0,
        Err(error) => error.status(),
    }
}

#[test]
fn heads_that_must_be_refused() {
    let many = "A: b\r\n".repeat(64);
    let large = "x".repeat(8192);
    let cases: &[(&str, u16, &str)] = &[
        // Request line.
        ("bare LF", 400, "GET / HTTP/1.1\nHost: a\n\n"),
        ("bare LF in the middle", 400, "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
        ("bare CR", 400, "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
        ("NUL in the target", 400, "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("NUL in a value", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
        ("non-ASCII target", 400, "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("non-ASCII value", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: ä\r\n\r\n"),
        ("non-ASCII name", 400, "GET / HTTP/1.1\r\nHost: a\r\nÄ: x\r\n\r\n"),
        ("no target", 400, "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two blanks", 400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("tab as separator", 400, "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("blank before the method", 400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("blank in the target", 400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("blank after the version", 400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        ("no version", 400, "GET /\r\nHost: a\r\n\r\n"),
        ("two empty lines first", 400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("TLS", 400, "\x16\x03\x01\x02\0\x01\0\x01"),
        ("separator in the method", 400, "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("lower-case method", 501, "get / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("unknown method", 501, "BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("CONNECT", 405, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("TRACE", 405, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("absolute-form", 400, "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("authority-form", 400, "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("asterisk-form", 400, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("fragment", 400, "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/1.0", 505, "GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
        ("HTTP/1.2", 505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("lower-case version", 400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("version of three parts", 400, "GET / HTTP/1.1.1\r\nHost: a\r\n\r\n"),
        // Fields.
        ("folded", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
        ("folded by tab", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n"),
        ("blank before the first name", 400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("blank before the colon", 400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("tab before the colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n"),
        ("no colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        ("no name", 400, "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
        ("separator in a name", 400, "GET / HTTP/1.1\r\nHost: a\r\nX(y): x\r\n\r\n"),
        ("no Host", 400, "GET / HTTP/1.1\r\n\r\n"),
        ("two Hosts", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("empty Host", 400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("list as Host", 400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("user info in Host", 400, "GET / HTTP/1.1\r\nHost: me@a\r\n\r\n"),
        ("path in Host", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("port that is none", 400, "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n"),
        ("open bracket", 400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        // Framing.
        (
            "length and encoding",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "encoding and length",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
        ),
        (
            "two lengths that differ",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        ),
        (
            "two lengths that agree",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        ),
        ("list of lengths", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n"),
        ("signed length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n"),
        ("negative length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n"),
        ("hexadecimal length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n"),
        ("empty length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        ("length of 2^63", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n"),
        (
            "length beyond 2^64",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ),
        ("unknown encoding", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (
            "chunked twice",
            501,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("disguised chunked", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        // Size.
        ("65 headers", 431, &format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        ("large header", 431, &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n")),
        ("large header, unfinished", 431, &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {large}")),
        ("large target", 414, &format!("GET /{large} HTTP/1.1\r\nHost: a\r\n\r\n")),
    ];
    for (name, status, head) in cases {
        assert_eq!(status_of(head), *status, "{name}: {}", head.escape_debug());
    }
}

#[test]
fn refusals_say_which_rule() {
    let error = |head: &str| parse_request(head.as_bytes(), &LIMITS).unwrap_err();
    assert_eq!(error("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"), HeadError::FoldedHeader);
    assert_eq!(error("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), HeadError::BlankBeforeColon);
    assert_eq!(error("GET / HTTP/1.1\r\nHost\r\n\r\n"), HeadError::HeaderName);
    assert_eq!(error("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::Target);
    assert_eq!(error("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), HeadError::Version);
}

#[test]
fn heads_that_must_be_taken() {
    let heads = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a%20b?c=d&e=%2F HTTP/1.1\r\nHost: chat.example.org:8080\r\n\r\n",
        "HEAD / HTTP/1.1\r\nhost:[2001:db8::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX:\r\nY: \t a  b\t\r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        &format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(63)),
    ];
    for head in heads {
        assert_eq!(status_of(head), 200, "{}", head.escape_debug());
    }
}

#[test]
fn a_head_says_what_it_says() {
    let bytes = b"POST /v1/send?to=43&x=? HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX-One:  1 \r\nx-one: 2\r\n\r\nbody";
    let head = parse_request(bytes, &LIMITS).unwrap().unwrap();
    assert_eq!((head.method(), head.target()), ("POST", "/v1/send?to=43&x=?"));
    assert_eq!((head.path(), head.query()), ("/v1/send", Some("to=43&x=?")));
    assert_eq!((head.header("X-ONE"), head.header("y")), (Some("1"), None));
    assert_eq!(head.body(), BodyFraming::Length(12));
    assert_eq!(&bytes[head.bytes()..], b"body");
    let names: Vec<&str> = head.headers().map(|(name, _)| name).collect();
    assert_eq!(names, ["Host", "Content-Length", "X-One", "x-one"]);
    assert!(!head.wants_upgrade());
}

/// A line's beginning, and what stands in its place; an empty beginning adds a line, an empty replacement removes it.
type Change<'a> = (&'a str, &'a str);

/// An upgrade with some lines changed.
fn upgrade(changes: &[Change<'_>]) -> Result<Vec<String>, HandshakeError> {
    let mut lines = vec![
        "GET /ws HTTP/1.1".to_owned(),
        "Host: a".to_owned(),
        "Upgrade: websocket".to_owned(),
        "Connection: keep-alive, Upgrade".to_owned(),
        "Sec-WebSocket-Version: 13".to_owned(),
        format!("Sec-WebSocket-Key: {KEY}"),
    ];
    for (prefix, replacement) in changes {
        match lines.iter().position(|line| line.starts_with(prefix)) {
            Some(index) if !prefix.is_empty() => lines[index] = (*replacement).to_owned(),
            _ => lines.push((*replacement).to_owned()),
        }
    }
    lines.retain(|line| !line.is_empty());
    let head = lines.join("\r\n") + "\r\n\r\n";
    let head = parse_request(head.as_bytes(), &LIMITS).expect("a proper head").expect("a whole one");
    let upgrade = head.upgrade()?;
    assert_eq!(upgrade.key, KEY);
    Ok(upgrade.protocols().map(str::to_owned).collect())
}

#[test]
fn upgrades_that_must_be_refused() {
    use HandshakeError as E;
    let version = "Sec-WebSocket-Version";
    let key = "Sec-WebSocket-Key";
    let two_keys = format!("Sec-WebSocket-Key: {KEY}");
    let many = (0..17).map(|n| format!("p{n}")).collect::<Vec<_>>().join(", ");
    let many = format!("Sec-WebSocket-Protocol: {many}");
    let cases: &[(&[Change<'_>], E, u16)] = &[
        (&[("Upgrade", "")], E::NotUpgrade, 426),
        (&[("Upgrade", "Upgrade: h2c")], E::NotUpgrade, 426),
        (&[("GET", "POST /ws HTTP/1.1")], E::MethodNotGet, 405),
        (&[("Connection", "")], E::ConnectionHeader, 400),
        (&[("Connection", "Connection: close")], E::ConnectionHeader, 400),
        (&[(version, "")], E::VersionMissing, 400),
        (&[(version, "Sec-WebSocket-Version: 8")], E::VersionUnsupported, 426),
        (&[(version, "Sec-WebSocket-Version: 13, 8")], E::VersionUnsupported, 426),
        (&[("", "Sec-WebSocket-Version: 13")], E::Duplicate("Sec-WebSocket-Version"), 400),
        (&[(key, "")], E::KeyMissing, 400),
        (&[(key, "Sec-WebSocket-Key: abc")], E::Key, 400),
        (&[("", &two_keys)], E::Duplicate("Sec-WebSocket-Key"), 400),
        (&[("", "Origin: https://a"), ("", "Origin: https://b")], E::Duplicate("Origin"), 400),
        (
            &[("", "Authorization: Bearer a"), ("", "authorization: Bearer b")],
            E::Duplicate("Authorization"),
            400,
        ),
        (&[("", "Cookie: a=b"), ("", "Cookie: a=c")], E::Duplicate("Cookie"), 400),
        (&[("", "Content-Length: 5")], E::Body, 400),
        (&[("", "Transfer-Encoding: chunked")], E::Body, 400),
        (&[("", "Sec-WebSocket-Protocol: a b")], E::Protocols, 400),
        (&[("", "Sec-WebSocket-Protocol: a, a")], E::Protocols, 400),
        (&[("", "Sec-WebSocket-Protocol: a"), ("", "sec-websocket-protocol: b, a")], E::Protocols, 400),
        (&[("", &many)], E::TooManyProtocols, 400),
    ];
    for (changes, error, status) in cases {
        assert_eq!(upgrade(changes), Err(*error), "{changes:?}");
        assert_eq!(error.status(), *status);
    }
}

#[test]
fn upgrades_that_must_be_taken() {
    assert_eq!(upgrade(&[]), Ok(vec![]));
    assert_eq!(upgrade(&[("Upgrade", "upgrade: h2c, WebSocket")]), Ok(vec![]));
    assert_eq!(upgrade(&[("Connection", "connection: UPGRADE")]), Ok(vec![]));
    assert_eq!(upgrade(&[("", "Content-Length: 0")]), Ok(vec![]));
    let offered = upgrade(&[
        ("", "Sec-WebSocket-Protocol: holdfast.v1.json, bearer.a-b_c.d"),
        ("", "Sec-WebSocket-Protocol: ,x"),
    ]);
    assert_eq!(offered.unwrap(), ["holdfast.v1.json", "bearer.a-b_c.d", "x"]);
}

#[test]
fn both_ends_agree() {
    let key = client_key([9; 16]);
    let offered = ["holdfast.v1.json", "bearer.abc"];
    let mut request = Vec::new();
    let client = ClientRequest {
        host: "127.0.0.1:8080",
        target: "/ws?x=1",
        key: key.as_str(),
        subprotocols: &offered,
        headers: &[("Authorization", "Bearer abc")],
    };
    write_request(&mut request, &client);
    let head = parse_request(&request, &LIMITS).unwrap().unwrap();
    assert_eq!(head.bytes(), request.len());
    let upgrade = head.upgrade().unwrap();
    assert_eq!((upgrade.path(), upgrade.authorization()), ("/ws", Some("Bearer abc")));
    assert!(upgrade.protocols().eq(offered));

    let mut answer = Vec::new();
    write_accept(&mut answer, upgrade.key, Some("holdfast.v1.json"));
    let length = answer.len();
    answer.extend_from_slice(b"\x81\x02hi");
    for end in 0..length {
        assert_eq!(parse_response(&answer[..end], &key, &offered), Ok(None));
    }
    let response = parse_response(&answer, &key, &offered).unwrap().unwrap();
    assert_eq!((response.bytes, response.subprotocol), (length, Some("holdfast.v1.json")));
}

#[test]
fn answers_that_open_no_connection() {
    let accept = String::from_utf8(accept_value(KEY).to_vec()).unwrap();
    let good = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    let error = |answer: &str| parse_response(answer.as_bytes(), KEY, &["a"]).unwrap_err();
    let with = |line: &str| format!("{good}{line}\r\n\r\n");
    assert!(parse_response(format!("{good}\r\n").as_bytes(), KEY, &[]).unwrap().is_some());
    assert_eq!(error(&with("Sec-WebSocket-Protocol: b")), ResponseError::Subprotocol);
    assert_eq!(
        error(&with("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a")),
        ResponseError::Subprotocol
    );
    assert_eq!(error(&with("Sec-WebSocket-Extensions: permessage-deflate")), ResponseError::Extension);
    assert_eq!(error(&(good.replace("websocket", "h2c") + "\r\n")), ResponseError::NotUpgraded);
    assert_eq!(
        error(&(good.replace(&accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=") + "\r\n")),
        ResponseError::Accept
    );
    assert_eq!(error(&(good.replace("HTTP/1.1", "HTTP/1.0") + "\r\n")), ResponseError::Malformed);
    assert_eq!(error("SSH-2.0-OpenSSH_9.6\r\n\r\n"), ResponseError::Malformed);
    assert_eq!(error("HTTP/1.1 101\nX: y\n\n"), ResponseError::Head(HeadError::BareLineFeed));
    let mut refusal = Vec::new();
    write_refusal(&mut refusal, 503, Some(12), "full\n");
    let refused = ResponseError::Refused { status: 503, retry_after_seconds: Some(12) };
    assert_eq!(parse_response(&refusal, KEY, &[]), Err(refused));
}

/// Pieces of heads, right and wrong, so that random ones get far.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "GET ",
        "/ws",
        "?a=b",
        " HTTP/1.1",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "Host: a\r\n",
        "Host : a\r\n",
        " ",
        "\t",
        ":",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "\0",
        "ä",
        "X: y\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\n",
    ]);
    prop::collection::vec(words, 0..24).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    /// The verdict on the first prefix that has one is the verdict on the whole, and later bytes do not change it.
    #[test]
    fn a_head_means_the_same_however_it_is_cut(bytes in pieces(), limit in 16usize..400) {
        let limits = HeadLimits { head_bytes: limit, headers: 8 };
        let whole = HeadScanner::new().scan(&bytes, &limits);
        let mut scanner = HeadScanner::new();
        let cut = (0..=bytes.len())
            .map(|end| scanner.scan(&bytes[..end], &limits))
            .find(|verdict| *verdict != Ok(None))
            .unwrap_or(Ok(None));
        prop_assert_eq!(whole, cut);
        let parsed = parse_request(&bytes, &limits);
        match whole {
            Ok(None) => prop_assert!(matches!(parsed, Ok(None))),
            Err(error) => prop_assert_eq!(parsed.err(), Some(error)),
            Ok(Some(end)) => if let Ok(Some(head)) = parsed {
                prop_assert_eq!(head.bytes(), end);
                // An independent reading of the same lines must agree.
                let text = std::str::from_utf8(&bytes[..end]).unwrap();
                let lines: Vec<&str> = text.trim_start_matches("\r\n").trim_end_matches("\r\n").split("\r\n").collect();
                prop_assert_eq!(head.headers().count(), lines.len() - 1);
                let line = format!("{} {} HTTP/1.1", head.method(), head.target());
                prop_assert_eq!(lines[0], line.as_str());
            },
        }
    }

    /// Whatever arrives, nothing panics.
    #[test]
    fn arbitrary_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_request(&bytes, &LIMITS).map(|head| head.map(|head| head.upgrade().map(|_| ())));
        let _ = parse_response(&bytes, KEY, &[]);
    }
}
