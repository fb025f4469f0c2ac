//! Each limit from both sides, and everything that a peer can do wrong: a clear answer, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "tests")]

mod live;

use std::io::Write;
use std::time::Duration;

use holdfast_gateway::token::TokenKey;
use holdfast_protocol::ws::Opcode;
use live::{Got, Live, Peer, drivers, eventually, upgrade_request};
use serde_json::json;

/// Runs the body on each driver, and asks afterwards that the server still serves others.
fn on_each(tweak: impl Fn(&mut holdfast_gateway::config::Config), body: impl Fn(&Live)) {
    for driver in drivers() {
        let live = Live::start(driver, &tweak);
        body(&live);
        let (mut other, _) = live.session(900, "other");
        other.send(&json!({"ping": {"nonce": "7"}}));
        assert_eq!(other.json_of("pong")["nonce"], "7");
    }
}

type MakePeer = fn(&Live) -> Peer;

fn status_of(live: &Live, request: &str) -> u16 {
    let mut peer = live.connect();
    peer.write(request.as_bytes());
    peer.answer().0
}

#[test]
fn request_heads_end_at_8_kib_and_64_headers() {
    on_each(
        |_| (),
        |live| {
            let with_bytes = |bytes: usize| {
                let empty = upgrade_request("/ws", "holdfast.v1.json", "X-Pad: \r\n").len();
                upgrade_request(
                    "/ws",
                    "holdfast.v1.json",
                    &format!("X-Pad: {}\r\n", "x".repeat(bytes - empty)),
                )
            };
            assert_eq!(status_of(live, &with_bytes(8 << 10)), 101);
            assert_eq!(status_of(live, &with_bytes((8 << 10) + 1)), 431);
            // Six headers stand in every request of ours.
            let with_headers = |count: usize| {
                let more: String = (0..count - 6).map(|n| format!("X-{n}: 1\r\n")).collect();
                upgrade_request("/ws", "holdfast.v1.json", &more)
            };
            assert_eq!(status_of(live, &with_headers(64)), 101);
            assert_eq!(status_of(live, &with_headers(65)), 431);
        },
    );
}

#[test]
fn a_head_may_come_byte_by_byte_but_not_for_ever() {
    on_each(
        |config| config.limits.handshake_timeout = Duration::from_millis(500),
        |live| {
            let mut slow = live.connect();
            for byte in upgrade_request("/ws", "holdfast.v1.json", "").bytes() {
                slow.write(&[byte]);
            }
            assert_eq!(slow.answer().0, 101);
            let mut stuck = live.connect();
            stuck.write(b"GET /ws HTTP/1.1\r\nHost: ");
            assert_eq!(stuck.answer().0, 408);
            let mut silent = live.connect();
            assert!(matches!(silent.end(), Got::End | Got::Reset));
        },
    );
}

#[test]
fn handshakes_that_are_not_ours_are_refused_by_status() {
    on_each(
        |config| config.bench_endpoints = true,
        |live| {
            for (request, status) in [
                (upgrade_request("/ws", "", ""), 400),
                (upgrade_request("/ws", "chat", ""), 400),
                (upgrade_request("/ws", "holdfast.v1.json", "").replace("Version: 13", "Version: 8"), 426),
                (upgrade_request("/ws", "holdfast.v1.json", "").replace("GET", "POST"), 405),
                (
                    upgrade_request(
                        "/ws",
                        "holdfast.v1.json",
                        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                    ),
                    400,
                ),
                (upgrade_request("/ws", "holdfast.v1.json", "Authorization: Basic abc\r\n"), 401),
                (upgrade_request("/ws", "holdfast.v1.json", "Cookie: holdfast_token=x\r\n"), 403),
                ("GET /ws HTTP/1.1\r\nHost: a\nHost: b\r\n\r\n".to_owned(), 400),
                ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404),
                (upgrade_request("/echo", "", ""), 101),
            ] {
                assert_eq!(status_of(live, &request), status, "{request}");
            }
        },
    );
}

#[test]
fn tokens_must_be_ours_and_in_time() {
    on_each(
        |_| (),
        |live| {
            let other_key = TokenKey::from_bytes(&[7; 32]);
            let forged = other_key.mint(&holdfast_gateway::token::Claims {
                user: holdfast_protocol::id::UserId(42),
                device: Some("phone".into()),
                issued_at: 1,
                expires_at: u64::MAX / 2,
            });
            let expired = live.token_until(42, "phone", 1_000);
            for (token, code, close) in [
                ("nonsense", "unauthorized", 4000),
                (&forged, "unauthorized", 4000),
                (&expired, "token_expired", 4001),
            ] {
                let header = format!("Authorization: Bearer {token}\r\n");
                assert_eq!(status_of(live, &upgrade_request("/ws", "holdfast.v1.json", &header)), 401);
                let mut peer = live.upgraded("/ws", "holdfast.v1.json");
                peer.send(&json!({"hello": {"token": token}}));
                assert_eq!(peer.error(), code);
                assert_eq!(peer.close_code(), close);
            }
        },
    );
}

#[test]
fn a_session_ends_with_its_token() {
    on_each(
        |_| (),
        |live| {
            let soon = holdfast_gateway::token::unix_now_seconds() + 2;
            let token = live.token_until(42, "phone", soon);
            let mut peer = live.upgraded("/ws", "holdfast.v1.json");
            peer.send(&json!({"hello": {"token": token}}));
            peer.json_of("welcome");
            assert_eq!(peer.close_code(), 4001);
        },
    );
}

#[test]
fn hello_comes_first_once_and_in_time() {
    on_each(
        |config| config.limits.login_timeout = Duration::from_millis(500),
        |live| {
            let mut early = live.upgraded("/ws", "holdfast.v1.json");
            early.say("a1", "@43", "too early");
            assert_eq!(early.error(), "not_logged_in");
            assert_eq!(early.close_code(), 4000);
            let (mut twice, _) = live.session(42, "phone");
            twice.send(&json!({"hello": {"token": live.token(42, "phone")}}));
            assert_eq!(twice.error(), "already_logged_in");
            assert_eq!(twice.close_code(), 4002);
            let mut late = live.upgraded("/ws", "holdfast.v1.json");
            assert_eq!(late.close_code(), 4100);
        },
    );
}

#[test]
fn refused_frames_are_named_and_the_session_goes_on() {
    on_each(
        |_| (),
        |live| {
            let (mut peer, _) = live.session(42, "phone");
            let send = |client_id: &str, to: &str, body: serde_json::Value| json!({"send": {"clientId": client_id, "conversation": to, "body": body}});
            let text = json!({"text": "x"});
            for (frame, code) in [
                (json!({"nonsense": {}}), "bad_frame"),
                (
                    json!({"send": {"clientId": "a", "conversation": "@43", "body": {"text": "x"}, "colour": 1}}),
                    "bad_frame",
                ),
                (json!([1, 2]), "bad_frame"),
                (send("a", "@42", text.clone()), "conversation_with_self"),
                (send("a", "42:42", text.clone()), "conversation_with_self"),
                (send("a", "7:8", text.clone()), "unknown_conversation"),
                (send("a", "g999", text.clone()), "unknown_conversation"),
                (send("a", "somewhere", text.clone()), "bad_conversation"),
                (send("", "@43", text.clone()), "bad_client_id"),
                (send(&"x".repeat(65), "@43", text.clone()), "bad_client_id"),
                (send("a", "@43", json!({})), "bad_body"),
                (send("a", "@43", json!({"text": "x".repeat((64 << 10) + 1)})), "message_too_large"),
                (json!({"ack": {"rev": "1000"}}), "cursor_ahead"),
                (json!({"sync": {"after": "1000"}}), "cursor_ahead"),
                (json!({"sync": {"after": "0", "limit": 1001}}), "bad_limit"),
            ] {
                peer.send(&frame);
                assert_eq!(peer.error(), code, "{}", &frame.to_string()[..frame.to_string().len().min(200)]);
            }
            let largest = "x".repeat(64 << 10);
            peer.say("largest", "@43", &largest);
            assert_eq!(peer.json_of("accepted")["clientId"], "largest");
            peer.say(&"y".repeat(64), "@43", "longest clientId");
            peer.json_of("accepted");
        },
    );
}

#[test]
fn sends_have_a_burst_and_a_rate() {
    on_each(
        |_| (),
        |live| {
            let (mut peer, welcome) = live.session(42, "phone");
            assert_eq!(welcome["limits"]["sendBurst"], 100);
            for n in 0..150 {
                peer.say(&format!("a{n}"), "@43", "x");
            }
            // Each is answered; those that were taken only when they are durable.
            let (mut accepted, mut refused) = (0, 0);
            while accepted + refused < 150 {
                let frame = peer.json();
                if frame.get("accepted").is_some() {
                    accepted += 1;
                } else if let Some(error) = frame.get("error") {
                    refused += 1;
                    assert_eq!(error["code"], "rate_limited");
                    assert!((1..=50).contains(&error["retryAfterMs"].as_u64().unwrap()), "{error}");
                }
            }
            // The burst, and what the rate has let through meanwhile.
            assert!((100..150).contains(&accepted), "{accepted} accepted");
        },
    );
}

#[test]
fn a_page_has_at_most_1000_entries_and_128_kib() {
    on_each(
        |config| config.limits.send_burst = 2_000,
        |live| {
            let (mut ana, _) = live.session(42, "phone");
            for hundred in 0..11 {
                (0..100).for_each(|n| ana.say(&format!("s{hundred}-{n}"), "@43", "short"));
                (0..100).for_each(|_| drop(ana.json_of("accepted")));
            }
            // Asked for the most that may be asked for, it comes; 1,001 is refused (see above).
            let (mut bea, _) = live.session(43, "laptop");
            while !bea.json_of("page")["live"].as_bool().unwrap() {}
            bea.send(&json!({"sync": {"after": "0", "limit": 1000}}));
            assert_eq!(bea.json_of("page")["events"].as_array().unwrap().len(), 1_000);

            let long = "x".repeat(30 << 10);
            for n in 0..12 {
                ana.say(&format!("l{n}"), "@44", &long);
                ana.json_of("accepted");
            }
            let (mut cem, _) = live.session(44, "laptop");
            let mut seen = 0;
            while seen < 12 {
                let page = cem.json_of("page");
                let entries = page["events"].as_array().unwrap();
                // 128 KiB hold four of them; the entry that crosses the limit is the last of its page.
                assert!((1..=5).contains(&entries.len()), "{}", entries.len());
                seen += entries.len();
            }
        },
    );
}

#[test]
fn control_frames_are_counted() {
    on_each(
        |_| (),
        |live| {
            let (mut peer, _) = live.session(42, "phone");
            for _ in 0..20 {
                peer.frame(Opcode::Ping, b"x");
            }
            for _ in 0..20 {
                assert_eq!(peer.next(), Got::Pong(b"x".to_vec()));
            }
            for _ in 0..20 {
                peer.frame(Opcode::Ping, b"x");
            }
            assert_eq!(peer.close_code(), 4101);
        },
    );
}

#[test]
fn binary_on_a_json_session_is_closed_with_1003() {
    on_each(
        |_| (),
        |live| {
            let (mut peer, _) = live.session(42, "phone");
            peer.frame(Opcode::Binary, b"\x0a\x00");
            assert_eq!(peer.close_code(), 1003);
        },
    );
}

#[test]
fn frames_that_break_rfc_6455_are_closed_with_its_codes() {
    on_each(
        |_| (),
        |live| {
            let declared = |bytes: u64| [&[0x82, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat();
            let fragments = |count: usize| {
                let mut bytes = vec![0x01, 0x81, 0, 0, 0, 0, b'x'];
                for n in 1..count {
                    let fin = if n == count - 1 { 0x80 } else { 0 };
                    bytes.extend_from_slice(&[fin, 0x81, 0, 0, 0, 0, b'x']);
                }
                bytes
            };
            for (what, bytes, code) in [
                ("unmasked", vec![0x81, 0x01, b'x'], 1002),
                ("reserved bit", vec![0xc1, 0x80, 0, 0, 0, 0], 1002),
                ("unknown opcode", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
                ("2^63 bytes", declared(1 << 63), 1002),
                ("2^63 - 1 bytes", declared((1 << 63) - 1), 1009),
                ("256 KiB + 1", declared((256 << 10) + 1), 1009),
                ("65 fragments", fragments(65), 1008),
                ("continuation of nothing", vec![0x80, 0x80, 0, 0, 0, 0], 1002),
                ("long ping", [&[0x89, 0xfe, 0, 126, 0, 0, 0, 0][..], &[0; 126]].concat(), 1002),
                ("fragmented ping", vec![0x09, 0x80, 0, 0, 0, 0], 1002),
                ("not UTF-8", vec![0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
                ("close code 1005", vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed], 1002),
            ] {
                let (mut peer, _) = live.session(42, "phone");
                peer.write(&bytes);
                assert_eq!(peer.close_code(), code, "{what}");
                assert_eq!(peer.end(), Got::End, "{what}, {:?}", live.config.driver);
            }
            // 64 fragments are a message, and so are 256 KiB; these are no JSON, which is the session's to say.
            let (mut peer, _) = live.session(42, "phone");
            peer.write(&fragments(64));
            assert_eq!(peer.error(), "bad_frame");
            peer.frame(Opcode::Text, &[b'x'; 256 << 10]);
            assert_eq!(peer.error(), "bad_frame");
            // Two frames within the limit are a message beyond it.
            let half =
                [&[0x01, 0xff][..], &(128u64 << 10).to_be_bytes(), &[0; 4], &[b'x'; 128 << 10]].concat();
            let rest = [&[0x80, 0xff][..], &((128u64 << 10) + 1).to_be_bytes(), &[0; 4]].concat();
            peer.write(&half);
            peer.write(&rest);
            assert_eq!(peer.close_code(), 1009);
        },
    );
}

#[test]
fn what_comes_after_a_close_frame_is_ignored() {
    on_each(
        |_| (),
        |live| {
            let (mut peer, _) = live.session(42, "phone");
            let mut bytes = vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
            let mut late = Vec::new();
            holdfast_protocol::ws::encode_frame(
                &mut late,
                Opcode::Text,
                br#"{"send":{"clientId":"late","conversation":"@43","body":{"text":"late"}}}"#,
                Some([1; 4]),
            );
            bytes.extend(late);
            peer.write(&bytes);
            assert_eq!(peer.close_code(), 1000);
            peer.end();
            let (_, welcome) = live.session(43, "laptop");
            assert_eq!(welcome["head"], "0", "the late message must not have been sent");
        },
    );
}

#[test]
fn a_peer_that_falls_silent_is_asked_and_then_closed() {
    on_each(
        |config| config.heartbeat.interval = Duration::from_millis(400),
        |live| {
            let (mut silent, _) = live.session(42, "phone");
            let mut seen = Vec::new();
            let code = loop {
                match silent.next() {
                    Got::Close(code, _) => break code,
                    got => seen.push(got),
                }
            };
            assert_eq!((seen, code), (vec![Got::Ping], 4200));
            // An unsolicited pong is life enough, and is not answered.
            let (mut alive, _) = live.session(43, "laptop");
            alive.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut byte = [0u8; 1];
            for _ in 0..8 {
                alive.frame(Opcode::Pong, b"");
                let nothing = alive.read(&mut byte).map_err(|error| error.kind());
                assert_eq!(nothing, Err(std::io::ErrorKind::WouldBlock), "the server has nothing to say");
            }
        },
    );
}

#[test]
fn a_reset_in_any_state_leaves_nothing_behind() {
    on_each(
        |config| config.bench_endpoints = true,
        |live| {
            let states: [(&str, MakePeer); 12] = [
                ("connected", |live| live.connect()),
                ("half a head", |live| {
                    let mut peer = live.connect();
                    peer.write(b"GET /ws HT");
                    peer
                }),
                ("waiting for hello", |live| live.upgraded("/ws", "holdfast.v1.json")),
                ("registering", |live| {
                    let mut peer = live.connect();
                    let protocols = format!("holdfast.v1.json, bearer.{}", live.token(42, "phone"));
                    peer.write(upgrade_request("/ws", &protocols, "").as_bytes());
                    peer
                }),
                ("live", |live| live.session(42, "phone").0),
                ("half a frame", |live| {
                    let (mut peer, _) = live.session(42, "phone");
                    peer.write(&[0x81, 0xff, 0, 0]);
                    peer
                }),
                ("closing", |live| {
                    let (mut peer, _) = live.session(42, "phone");
                    peer.frame(Opcode::Close, &[0x03, 0xe8]);
                    peer
                }),
                ("being thrown out", |live| {
                    let (mut peer, _) = live.session(42, "phone");
                    peer.write(&[0xc1, 0x80, 0, 0, 0, 0]);
                    peer
                }),
                ("asking for a page", |live| {
                    let (mut peer, _) = live.session(42, "phone");
                    peer.send(&json!({"sync": {"after": "0"}}));
                    peer
                }),
                ("sending", |live| {
                    let (mut peer, _) = live.session(42, "phone");
                    peer.say("never read", "@43", "x");
                    peer
                }),
                ("paused for its output", |live| {
                    let mut peer = live.upgraded("/echo", "");
                    peer.stream.set_nonblocking(true).unwrap();
                    let mut frame = Vec::new();
                    holdfast_protocol::ws::encode_frame(
                        &mut frame,
                        Opcode::Binary,
                        &[b'x'; 64 << 10],
                        Some([9; 4]),
                    );
                    let mut written = 0;
                    while let Ok(count) = peer.stream.write(&frame[written % frame.len()..]) {
                        written += count;
                    }
                    peer
                }),
                ("being served by hyper", |live| {
                    let mut peer = live.connect();
                    peer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    peer
                }),
            ];
            for (what, make) in states {
                eprintln!("reset while {what}");
                make(live).reset();
            }
            let mut http = live.connect();
            http.write(b"GET /metrics HTTP/1.1\r\n");
            http.reset();
            live.await_metric("holdfast_sessions", 0.0);
            // The connection that asks is one.
            live.await_metric("holdfast_connections", 1.0);
        },
    );
}

#[test]
fn beyond_limits_connections_there_is_503_with_retry_after() {
    on_each(
        |config| config.limits.connections = 4,
        |live| {
            let held: Vec<_> = (0..4).map(|n| live.session(100 + n, "phone")).collect();
            let mut refused = live.connect();
            refused.write(upgrade_request("/ws", "holdfast.v1.json", "").as_bytes());
            let (status, head) = refused.answer();
            assert_eq!(status, 503);
            assert!(head.to_ascii_lowercase().contains("retry-after: "), "{head}");
            drop(refused);
            // Health stays visible.
            assert_eq!(status_of(live, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
            drop(held);
            live.await_metric("holdfast_connections", 1.0);
        },
    );
}

#[test]
fn with_limits_memory_reached_new_connections_are_refused() {
    for driver in drivers() {
        let live = Live::start(driver, |config| config.limits.memory_bytes = Some(1));
        // The watch looks a few times a second.
        let request = upgrade_request("/ws", "holdfast.v1.json", "");
        eventually("the watch has looked", || status_of(&live, &request) == 503);
    }
}

#[test]
fn a_user_has_at_most_10_devices_at_a_time() {
    on_each(
        |_| (),
        |live| {
            let held: Vec<_> = (0..10).map(|n| live.session(42, &format!("d{n}"))).collect();
            let token = live.token(42, "one-more");
            let mut refused = live.upgraded("/ws", &format!("holdfast.v1.json, bearer.{token}"));
            assert_eq!(refused.error(), "too_many_devices");
            assert_eq!(refused.close_code(), 4004);
            drop(held);
        },
    );
}

#[test]
fn a_peer_that_does_not_read_its_echo_is_not_read_either() {
    on_each(
        |config| {
            config.bench_endpoints = true;
            config.limits.kernel_send_buffer_bytes = 4 << 10;
        },
        |live| {
            let mut peer = live.upgraded("/echo", "");
            peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut frame = Vec::new();
            holdfast_protocol::ws::encode_frame(&mut frame, Opcode::Binary, &[b'x'; 64 << 10], Some([9; 4]));
            let mut written = 0usize;
            let stuck = loop {
                match peer.stream.write(&frame[written % frame.len()..]) {
                    Ok(count) => written += count,
                    Err(error) => break error.kind(),
                }
                assert!(written < 256 << 20, "the server takes without end what it cannot give back");
            };
            assert_eq!(stuck, std::io::ErrorKind::WouldBlock);
            let whole = written / frame.len();
            for n in 0..whole {
                assert_eq!(peer.next(), Got::Binary(vec![b'x'; 64 << 10]), "message {n}");
            }
        },
    );
}

#[test]
fn a_chat_peer_that_does_not_read_its_answers_is_not_read_either() {
    on_each(
        |config| config.limits.kernel_send_buffer_bytes = 4 << 10,
        |live| {
            let (mut peer, _) = live.session(42, "phone");
            peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            rustix::net::sockopt::set_socket_recv_buffer_size(&peer.stream, 16 << 10).unwrap();
            let mut frame = Vec::new();
            // Long ones, so that few of them fill the socket's buffers once they are not read.
            let ping = format!("{:2048}", r#"{"ping":{}}"#);
            holdfast_protocol::ws::encode_frame(&mut frame, Opcode::Text, ping.as_bytes(), Some([9; 4]));
            let mut written = 0usize;
            let stuck = loop {
                match peer.stream.write(&frame[written % frame.len()..]) {
                    Ok(count) => written += count,
                    Err(error) => break error.kind(),
                }
                assert!(written < 64 << 20, "the server takes without end what it cannot answer");
            };
            assert_eq!(stuck, std::io::ErrorKind::WouldBlock);
            // Each got its answer, the few within the limit a pong, the others an error; none is forgotten.
            let (mut pongs, whole) = (0, written / frame.len());
            for n in 0..whole {
                let answer = peer.json();
                match answer.get("error") {
                    Some(error) => assert_eq!(error["code"], "rate_limited", "answer {n}"),
                    None => pongs += usize::from(answer.get("pong").is_some()),
                }
            }
            assert!((1..=whole / 2).contains(&pongs), "{pongs} pongs to {whole} pings");
            // And it is read again.
            peer.write(&frame[written % frame.len()..]);
            peer.json();
        },
    );
}

#[test]
fn an_echo_larger_than_the_output_budget_does_not_stop_the_connection() {
    on_each(
        |config| config.bench_endpoints = true,
        |live| {
            let mut peer = live.upgraded("/echo", "");
            for _ in 0..3 {
                let text = "x".repeat(256 << 10);
                peer.frame(Opcode::Text, text.as_bytes());
                assert_eq!(peer.next(), Got::Text(text));
            }
            peer.frame(Opcode::Close, &[0x03, 0xe8]);
            assert_eq!(peer.close_code(), 1000);
        },
    );
}
