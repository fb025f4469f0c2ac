//! `docs/protocol.md` tells the truth: its examples are frames, complete ones, of all kinds; its tables are the code's.
//!
//! After a change of a table in the code: `HOLDFAST_REGENERATE=1 cargo test -p holdfast-protocol --test chat
//! documentation` writes it into the page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_protocol::chat::close::{self, Reconnect};
use holdfast_protocol::chat::{
    Format, decode_client, decode_server, encode_client, encode_server, error_code,
};
use prost_reflect::MessageDescriptor;

use crate::frames;

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md")
}

fn read_page() -> String {
    std::fs::read_to_string(page()).expect("docs/protocol.md is part of the repository")
}

/// The text of each block that begins with "```json `side`", with the line where it begins.
fn examples(page: &str, side: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((line, text)) = lines.next() {
        if let Some(info) = text.strip_prefix("```json") {
            assert!(matches!(info, " client" | " server"), "line {}: whose frame is this?", line + 1);
            let block: Vec<&str> =
                lines.by_ref().map(|(_, text)| text).take_while(|text| *text != "```").collect();
            if info.trim() == side {
                found.push((line + 1, block.join("\n")));
            }
        }
    }
    found
}

#[test]
fn every_example_is_a_complete_frame() {
    let page = read_page();
    for (line, example) in examples(&page, "client") {
        let frame = decode_client(Format::Json, example.as_bytes())
            .unwrap_or_else(|error| panic!("docs/protocol.md:{line}: {error}"));
        let mut again = Vec::new();
        encode_client(Format::Json, &frame, &mut again);
        assert_same(line, &example, &again);
    }
    for (line, example) in examples(&page, "server") {
        let frame = decode_server(Format::Json, example.as_bytes())
            .unwrap_or_else(|error| panic!("docs/protocol.md:{line}: {error}"));
        let mut again = Vec::new();
        encode_server(Format::Json, &frame, &mut again);
        assert_same(line, &example, &again);
    }
}

fn assert_same(line: usize, example: &str, again: &[u8]) {
    let shown: serde_json::Value = serde_json::from_str(example).expect("it was decoded");
    let written: serde_json::Value = serde_json::from_slice(again).expect("it was encoded");
    assert_eq!(shown, written, "docs/protocol.md:{line} is not what would be sent");
}

#[test]
fn every_field_of_the_schema_has_an_example() {
    let page = read_page();
    let schema = frames::schema();
    let mut shown = BTreeSet::new();
    let mut known = BTreeSet::new();
    for (side, name) in [("client", "holdfast.v1.ClientFrame"), ("server", "holdfast.v1.ServerFrame")] {
        let frame = schema.get_message_by_name(name).expect("in the schema");
        for (_, example) in examples(&page, side) {
            collect_shown(&frame, &serde_json::from_str(&example).expect("JSON"), &mut shown);
        }
    }
    for message in schema.all_messages() {
        known.extend(message.fields().map(|field| field.full_name().to_owned()));
    }
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "shown nowhere");
}

/// The full names of the fields that an example of `message` shows.
fn collect_shown(message: &MessageDescriptor, value: &serde_json::Value, shown: &mut BTreeSet<String>) {
    for (name, value) in value.as_object().expect("a message is an object") {
        let field = message.get_field_by_json_name(name).expect("the example was decoded");
        shown.insert(field.full_name().to_owned());
        if let Some(message) = field.kind().as_message() {
            let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            for item in items {
                collect_shown(message, item, shown);
            }
        }
    }
}

#[test]
fn every_frame_has_its_section() {
    let page = read_page();
    let schema = frames::schema();
    let (client, server) = page.split_once("\n## What the server sends\n").expect("the page has two parts");
    for (page, name) in [(client, "holdfast.v1.ClientFrame"), (server, "holdfast.v1.ServerFrame")] {
        for field in schema.get_message_by_name(name).expect("in the schema").fields() {
            let heading = format!("\n### {}\n", field.json_name());
            assert_eq!(page.matches(&heading).count(), 1, "{heading:?}");
        }
    }
}

#[test]
fn the_table_of_error_codes_is_the_codes() {
    let mut table = String::from("| code | meaning |\n|---|---|\n");
    for (code, meaning) in error_code::TABLE {
        table += &format!("| `{code}` | {meaning} |\n");
    }
    assert_table("error codes", &table);
}

#[test]
fn the_table_of_close_codes_is_the_codes() {
    let mut table = String::from("| code | reason | reconnect | meaning |\n|---|---|---|---|\n");
    for close in close::TABLE {
        let reconnect = match close.reconnect {
            Reconnect::Never => "no",
            Reconnect::AfterDelay => "after the delay",
            Reconnect::AtOnce => "at once",
        };
        table += &format!("| {} | `{}` | {reconnect} | {} |\n", close.code, close.reason, close.meaning);
    }
    assert_table("close codes", &table);
}

/// Compares what stands after `<!-- table: name -->` up to the next empty line or the end.
fn assert_table(name: &str, expected: &str) {
    let page_text = read_page();
    let marker = format!("<!-- table: {name} -->\n\n");
    let start = page_text.find(marker.trim_end()).expect(&marker) + marker.len();
    let rest = page_text.get(start..).unwrap_or_default();
    let end = rest.find("\n\n").map_or(rest.len(), |end| end + 1);
    let shown = &rest[..end];
    if std::env::var_os("HOLDFAST_REGENERATE").is_some() {
        // A table that is not there yet has no rows to replace.
        let keep = if shown.starts_with('|') { end } else { 0 };
        let text = format!("{}{marker}{expected}{}", &page_text[..start - marker.len()], &rest[keep..]);
        std::fs::write(page(), text).expect("the page can be written");
        return;
    }
    assert_eq!(
        shown, expected,
        "docs/protocol.md does not show the {name}; run this with HOLDFAST_REGENERATE=1"
    );
}
