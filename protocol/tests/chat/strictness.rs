//! What JSON is refused, and what the refusal says; what is accepted in several ways.

use holdfast_protocol::chat::{
    Format, FrameError, client_frame::Frame, decode_client, decode_server, encode_client, error_code,
};

/// The frame written again, as the server would.
fn accepted(json: &str) -> String {
    let frame =
        decode_client(Format::Json, json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
    let mut out = Vec::new();
    encode_client(Format::Json, &frame, &mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn refused(json: &str) -> FrameError {
    match decode_client(Format::Json, json.as_bytes()) {
        Err(error) => {
            assert_eq!(error.code(), error_code::BAD_FRAME);
            error
        }
        Ok(frame) => panic!("{json} was taken for {frame:?}"),
    }
}

#[test]
fn a_refusal_names_the_field_and_what_is_allowed() {
    for (json, says) in [
        // Fields that are not there, that are there twice, that exclude each other.
        (
            r#"{"send":{"clientID":"a"}}"#,
            "unknown field `clientID`, allowed here: `clientId`, `conversation`, `body`",
        ),
        (r#"{"send":{"client_id":"a"}}"#, "unknown field `client_id`, allowed here: `clientId`"),
        (r#"{"sned":{}}"#, "unknown field `sned`, allowed here: `hello`, `send`, `ack`, `sync`, `ping`"),
        (r#"{"welcome":{}}"#, "unknown field `welcome`, allowed here: `hello`"),
        (r#"{"ack":{"rev":1,"rev":2}}"#, "the field `rev` comes twice"),
        (r#"{"ack":{"rev":1,"r\u0065v":2}}"#, "the field `rev` comes twice"),
        (r#"{"ping":{},"ping":{}}"#, "the field `ping` comes twice"),
        (r#"{"ping":{},"ack":{}}"#, "`ping` and `ack` together: exactly one of `hello`, `send`"),
        (
            r#"{"send":{"body":{"text":"a","custom":{}}}}"#,
            "`text` and `custom` together: exactly one of `text`, `custom`, `media`, `groupCreated`",
        ),
        // Types.
        (r#"{"send":{"clientId":5}}"#, "invalid type: integer `5`, expected a string for `clientId`"),
        (r#"{"send":{"clientId":null}}"#, "invalid type: null, expected a string for `clientId`"),
        (r#"{"send":{"clientId":["a"]}}"#, "expected a string for `clientId`"),
        (r#"{"send":{"body":"hi"}}"#, "invalid type: string \"hi\", expected an object for `body`"),
        (r#"{"send":{"body":["hi"]}}"#, "invalid type: sequence, expected an object for `body`"),
        (r#"{"send":null}"#, "invalid type: null, expected an object for `send`"),
        (r#"{"send":["a","@43",{"text":"hi"}]}"#, "invalid type: sequence, expected an object for `send`"),
        (
            r#"{"hello":{"cursor":null}}"#,
            "invalid type: null, expected a whole number from 0 to 18446744073709551615",
        ),
        (r#""ping""#, "invalid type: string \"ping\", expected an object for `the message`"),
        ("[]", "invalid type: sequence, expected an object for `the message`"),
        ("5", "invalid type: integer `5`, expected an object for `the message`"),
        ("null", "expected an object for `the message`"),
        // Numbers.
        (r#"{"ack":{"rev":-1}}"#, "invalid type: integer `-1`, expected a whole number"),
        (r#"{"ack":{"rev":1.0}}"#, "invalid type: floating point `1.0`, expected a whole number"),
        (r#"{"ack":{"rev":18446744073709551616}}"#, "expected a whole number from 0 to 18446744073709551615"),
        (r#"{"ack":{"rev":"18446744073709551616"}}"#, "or a string of its digits, for `rev`"),
        (r#"{"ack":{"rev":""}}"#, "invalid value: string \"\""),
        (r#"{"ack":{"rev":"+1"}}"#, "invalid value: string \"+1\""),
        (r#"{"ack":{"rev":"-1"}}"#, "invalid value: string \"-1\""),
        (r#"{"ack":{"rev":" 1"}}"#, "invalid value: string \" 1\""),
        (r#"{"ack":{"rev":"01"}}"#, "invalid value: string \"01\""),
        (r#"{"ack":{"rev":"1e3"}}"#, "invalid value: string \"1e3\""),
        (r#"{"ack":{"rev":"0x1"}}"#, "invalid value: string \"0x1\""),
        (r#"{"ack":{"rev":true}}"#, "invalid type: boolean `true`"),
        (
            r#"{"sync":{"limit":4294967296}}"#,
            "invalid value: integer `4294967296`, expected a whole number from 0 to 4294967295",
        ),
        (r#"{"sync":{"limit":"4294967296"}}"#, "expected a whole number from 0 to 4294967295"),
        // Base64.
        (r#"{"send":{"body":{"custom":{"data":"a"}}}}"#, "`data` must be a string of base64"),
        (r#"{"send":{"body":{"custom":{"data":"+_+_"}}}}"#, "`data` must be a string of base64"),
        (r#"{"send":{"body":{"custom":{"data":"ab c"}}}}"#, "`data` must be a string of base64"),
        (r#"{"send":{"body":{"custom":{"data":"QR=="}}}}"#, "`data` must be a string of base64"),
        (r#"{"send":{"body":{"custom":{"data":[1,2]}}}}"#, "expected a string of base64 for `data`"),
        // No frame.
        ("{}", "no frame of this version in the message; it must hold exactly one of `hello`, `send`"),
    ] {
        let error = refused(json).to_string();
        assert!(error.contains(says), "{json}\n says: {error}\nnot: {says}");
        assert!(!error.starts_with("not JSON"), "{json} is JSON: {error}");
    }
}

#[test]
fn what_is_not_json_is_told_apart_and_where() {
    for json in [
        "",
        " ",
        "{",
        r#"{"ping""#,
        r#"{"ping":}"#,
        r#"{"ping":{}"#,
        r#"{"ping":{}}}"#,
        r#"{"ping":{}} {"ping":{}}"#,
        r#"{"ping":{},}"#,
        r#"{ping:{}}"#,
        r#"{'ping':{}}"#,
        r#"{"ack":{"rev":01}}"#,
        r#"{"ack":{"rev":0x1}}"#,
        r#"{"ack":{"rev":NaN}}"#,
        "{\"hello\":{\"token\":\"a\nb\"}}",
        r#"{"hello":{"token":"\x41"}}"#,
        r#"{"hello":{"token":"\ud800"}}"#,
        r#"{"hello":{"token":"\udc00\ud800"}}"#,
        "\u{feff}{\"ping\":{}}",
    ] {
        assert!(matches!(refused(json), FrameError::Syntax { .. }), "{json}: {}", refused(json));
    }
    assert!(matches!(
        decode_client(Format::Json, b"{\"hello\":{\"token\":\"\xff\"}}"),
        Err(FrameError::Syntax { line: 1, .. })
    ));
    assert_eq!(refused("{\"ping\":\n  x}").to_string(), "not JSON: expected value (line 2, column 3)");
}

#[test]
fn depth_is_bounded_by_the_schema() {
    let deep = "[".repeat(100_000);
    refused(&deep);
    refused(&format!("{{\"ping\":{deep}"));
    refused(&format!("{{\"unknown\":{deep}"));
    refused(&format!("{{\"ack\":{{\"rev\":{deep}"));
    refused(&r#"{"send":"#.repeat(100_000));
    let deep = format!("{}{}", r#"{"page":{"events":["#, r#"{"entry":"#.repeat(100_000));
    assert!(decode_server(Format::Json, deep.as_bytes()).is_err());
    // Groups within groups of a field that the schema does not know: protobuf would skip them.
    let mut groups = vec![0x7b; 100_000];
    groups.extend(vec![0x7c; 100_000]);
    assert!(matches!(decode_client(Format::Protobuf, &groups), Err(FrameError::Protobuf(_))));
}

#[test]
fn what_protobufs_mapping_lets_a_client_write_in_several_ways() {
    for (json, canonical) in [
        (r#"{"ack":{"rev":17}}"#, r#"{"ack":{"rev":"17"}}"#),
        (r#"{"ack":{"rev":"17"}}"#, r#"{"ack":{"rev":"17"}}"#),
        (r#"{"ack":{}}"#, r#"{"ack":{"rev":"0"}}"#),
        (r#" { "ack" : { "rev" : 9007199254740993 } } "#, r#"{"ack":{"rev":"9007199254740993"}}"#),
        (r#"{"ack":{"rev":18446744073709551615}}"#, r#"{"ack":{"rev":"18446744073709551615"}}"#),
        (r#"{"\u0061ck":{"r\u0065v":"\u0031"}}"#, r#"{"ack":{"rev":"1"}}"#),
        (r#"{"sync":{"limit":"5"}}"#, r#"{"sync":{"after":"0","limit":5,"everyEntry":false}}"#),
        (
            r#"{"sync":{"limit":4294967295}}"#,
            r#"{"sync":{"after":"0","limit":4294967295,"everyEntry":false}}"#,
        ),
        (r#"{"hello":{"token":"t"}}"#, r#"{"hello":{"token":"t","device":"","everyEntry":false}}"#),
        (
            r#"{"hello":{"cursor":0}}"#,
            r#"{"hello":{"token":"","device":"","cursor":"0","everyEntry":false}}"#,
        ),
        (
            r#"{"send":{"body":{"text":"\ud83d\ude00\u0000"}}}"#,
            r#"{"send":{"clientId":"","conversation":"","body":{"text":"😀\u0000"}}}"#,
        ),
    ] {
        assert_eq!(accepted(json), canonical, "{json}");
    }
    // 0xfb 0xff: base64 with and without padding, in both alphabets.
    for data in ["+/8=", "+/8", "-_8=", "-_8"] {
        let json = format!(r#"{{"send":{{"body":{{"custom":{{"contentType":"a/b","data":"{data}"}}}}}}}}"#);
        let frame = decode_client(Format::Json, json.as_bytes()).expect(&json);
        let Some(Frame::Send(send)) = frame.frame else { panic!("{json} was taken for {frame:?}") };
        let Some(holdfast_protocol::chat::body::Kind::Custom(custom)) = send.body.and_then(|body| body.kind)
        else {
            panic!("{json} has a custom body")
        };
        assert_eq!(&custom.data[..], [0xfb, 0xff]);
    }
}

#[test]
fn protobuf_skips_fields_of_later_versions_and_refuses_wrong_types() {
    // ack { rev: 17, 9: "new" }
    let frame =
        decode_client(Format::Protobuf, b"\x1a\x07\x08\x11\x4a\x03new").expect("an ack of a later version");
    assert!(matches!(frame.frame, Some(Frame::Ack(ack)) if ack.rev == 17));
    for bytes in [
        // ack, but as a number; a length beyond the end; a varint of eleven bytes; a string that is not UTF-8.
        &b"\x18\x11"[..],
        b"\x1a\x05\x08\x11",
        b"\x1a\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x03\x0a\x01\xff",
    ] {
        let error = decode_client(Format::Protobuf, bytes).expect_err("not a frame");
        assert!(matches!(error, FrameError::Protobuf(_)), "{error}");
        assert_eq!(error.code(), error_code::BAD_FRAME);
    }
}
