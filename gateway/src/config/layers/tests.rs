use std::time::Duration;

use super::*;
use crate::config::DriverChoice;

fn file(text: &str) -> Inputs {
    let file = FileText { path: "holdfast.toml".into(), text: text.to_owned() };
    Inputs { file: Some(file), ..Inputs::default() }
}

fn variable(name: &str, value: &str) -> Inputs {
    Inputs { environment: vec![(name.to_owned(), value.to_owned())], ..Inputs::default() }
}

fn errors(inputs: &Inputs) -> String {
    match Effective::resolve(inputs) {
        Ok(effective) => panic!("accepted: {:?}", effective.config),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn without_anything_the_defaults_hold_and_say_so() {
    let effective = Effective::resolve(&Inputs::default()).expect("the defaults are allowed");
    assert_eq!(effective.config, Config::default());
    assert!(SETTINGS.iter().all(|setting| effective.source(setting.key) == Source::Default));
}

#[test]
fn later_layers_win_and_every_value_knows_its_own() {
    let mut inputs =
        file("listen = \"127.0.0.1:1\"\nshards = 3\n[limits]\nmemory = \"2 GiB\"\nsend_burst = 200\n");
    inputs.environment = vec![
        ("PATH".to_owned(), "/bin".to_owned()),
        ("HOLDFAST_SHARDS".to_owned(), "4".to_owned()),
        ("HOLDFAST_LIMITS__MEMORY".to_owned(), "3GiB".to_owned()),
    ];
    let flag =
        |key: &str, value: &str| Override { key: key.into(), value: value.into(), flag: format!("--{key}") };
    inputs.flags = vec![flag("shards", "5")];
    let effective = Effective::resolve(&inputs).expect("all of it is allowed");
    assert_eq!(effective.config.listen, "127.0.0.1:1".parse().expect("an address"));
    assert_eq!(effective.config.shards, Some(5));
    assert_eq!(effective.config.limits.memory_bytes, Some(3 << 30));
    assert_eq!(effective.config.limits.send_burst, 200);
    assert_eq!(effective.source("listen").to_string(), "holdfast.toml:1");
    assert_eq!(effective.source("limits.send_burst").to_string(), "holdfast.toml:5");
    assert_eq!(effective.source("limits.memory").to_string(), "environment HOLDFAST_LIMITS__MEMORY");
    assert_eq!(effective.source("shards").to_string(), "flag --shards");
    assert_eq!(effective.source("driver").to_string(), "default");
}

#[test]
fn sizes_and_durations_are_read_as_people_write_them() {
    for (text, bytes) in
        [("65536", 65_536), ("64KiB", 65_536), ("64 kib", 65_536), ("100 KB", 100_000), ("1MiB", 1 << 20)]
    {
        let effective = Effective::resolve(&variable("HOLDFAST_HTTP__REQUEST_BODY", text));
        assert_eq!(effective.expect(text).config.http.request_body_bytes, bytes, "{text}");
    }
    for (text, milliseconds) in
        [("500ms", 500), ("2s", 2_000), ("2 s", 2_000), ("1min", 60_000), ("1m", 60_000), ("1h", 3_600_000)]
    {
        let effective = Effective::resolve(&variable("HOLDFAST_HEARTBEAT__INTERVAL", text)).expect(text);
        assert_eq!(effective.config.heartbeat.interval, Duration::from_millis(milliseconds), "{text}");
    }
    let effective = Effective::resolve(&file(
        "driver = \"epoll\"\n[auth]\nallowed_origins = [\"https://A.example\", \"http://localhost:3000\"]",
    ));
    let config = effective.expect("both are origins").config;
    assert_eq!(config.driver, DriverChoice::Epoll);
    assert_eq!(config.auth.allowed_origins, ["https://a.example", "http://localhost:3000"]);
}

#[test]
fn an_error_names_source_key_value_and_what_is_allowed() {
    for (inputs, expected) in [
        (
            file("\n[limits]\nconnections = 0\n"),
            "holdfast.toml:3: `limits.connections` is \"0\": out of range; allowed: 1 to 16000000",
        ),
        (
            variable("HOLDFAST_DRAIN__TIMEOUT", "5000"),
            "environment HOLDFAST_DRAIN__TIMEOUT: `drain.timeout` is \"5000\": a duration needs a unit: ms, s, min, h or d, \
             as in `30s`; allowed: 0s to 1h",
        ),
        (
            variable("HOLDFAST_LISTEN", "localhost"),
            "environment HOLDFAST_LISTEN: `listen` is \"localhost\": not an IP address and a port; allowed: an IP address \
             and a port, as 127.0.0.1:8080 or [::]:8080 (port 0: any free one)",
        ),
        (
            file("driver = \"iouring\""),
            "holdfast.toml:1: `driver` is \"iouring\": not one of the choices; allowed: auto, uring, epoll",
        ),
        (
            file("[limits]\nmemory = \"2 Gigs\""),
            "holdfast.toml:2: `limits.memory` is \"2 Gigs\": `gigs` is not a unit; write B, KiB, MiB, GiB, TiB, KB, MB, GB \
             or TB; allowed: auto, or 64 MiB to 16 TiB",
        ),
        (
            file("shards = -1"),
            "holdfast.toml:1: `shards` is \"-1\": not a whole number; allowed: auto, or 1 to 256",
        ),
        (
            file("[heartbeat]\nsilence_factor = nan"),
            "holdfast.toml:2: `heartbeat.silence_factor` is \"nan\": not a finite number; allowed: 1.1 to 100",
        ),
        (
            file("[auth]\nallowed_origins = [\"https://a.example/path\"]"),
            "holdfast.toml:2: `auth.allowed_origins` is \"https://a.example/path\": `https://a.example/path` is not an \
             origin; allowed: a list of origins such as https://chat.example.org or http://localhost:3000",
        ),
        (
            file("bench_endpoints = 1979-05-27"),
            "holdfast.toml:1: `bench_endpoints` is \"a datetime\": neither true nor false; allowed: true or false",
        ),
        (
            file("[limits]\nmemroy = 1"),
            "holdfast.toml:2: unknown key `limits.memroy`, did you mean `limits.memory`?; `holdfast config` lists all keys",
        ),
        (
            file("memory = 1"),
            "holdfast.toml:1: unknown key `memory`, did you mean `limits.memory`?; `holdfast config` lists all keys",
        ),
        (
            file("[completely.elsewhere]\nx = 1"),
            "holdfast.toml:1: unknown key `completely.elsewhere`; `holdfast config` lists all keys",
        ),
        (
            variable("HOLDFAST_LIMITS_MEMORY", "1GiB"),
            "environment HOLDFAST_LIMITS_MEMORY: unknown key `limits_memory`, did you mean `limits.memory`?; \
             `holdfast config` lists all keys",
        ),
    ] {
        assert_eq!(errors(&inputs), expected);
    }
}

#[test]
fn broken_syntax_names_the_line() {
    let text = errors(&file("listen = \"127.0.0.1:1\"\nshards = = 2\n"));
    assert!(text.starts_with("holdfast.toml:2: not TOML: "), "{text}");
    let text = errors(&file("shards = 1\nshards = 2\n"));
    assert!(text.starts_with("holdfast.toml:2: not TOML: duplicate key"), "{text}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = errors(&file("shards = 0\ndriver = 7\nnonsense = true\n"));
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn limits_that_do_not_fit_each_other_are_refused_with_both_sources() {
    let mut inputs = file("[limits]\nmessage = \"32 KiB\"\nframe = \"32 KiB\"");
    assert_eq!(
        errors(&inputs),
        "`limits.message` (holdfast.toml:2) must be at least 88405 B to fit `limits.message_body` (default): \
         a body in base64 with its envelope must fit into a message"
    );
    inputs.environment = vec![("HOLDFAST_LIMITS__MESSAGE_BODY".to_owned(), "16KiB".to_owned())];
    assert!(Effective::resolve(&inputs).is_ok());
    for (key, value, other) in [
        ("limits.frame", "1MiB", "limits.message"),
        ("limits.message", "1MiB", "limits.output"),
        ("limits.output", "128KiB", "limits.output"),
        ("limits.page", "256KiB", "limits.output"),
        ("limits.group_members", "10000", "limits.output"),
        ("limits.send_burst", "1", "limits.send_per_second"),
    ] {
        let flag = Override { key: key.to_owned(), value: value.to_owned(), flag: "--set".to_owned() };
        let text = errors(&Inputs { flags: vec![flag], ..Inputs::default() });
        assert!(text.contains(other) && text.contains("must be at least"), "{key}: {text}");
    }
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_of_our_name_are_not_ours() {
    for name in [
        "HOLDFAST_PORT",
        "HOLDFAST_SERVICE_HOST",
        "HOLDFAST_SERVICE_PORT_HTTP",
        "HOLDFAST_PORT_8080_TCP_ADDR",
        "HOLDFAST_CONFIG",
    ] {
        let effective = Effective::resolve(&variable(name, "tcp://10.0.0.1:8080")).expect(name);
        assert_eq!(effective.config, Config::default());
    }
    assert!(Effective::resolve(&variable("HOLDFAST_PORTS", "1")).is_err());
}

#[test]
fn every_setting_can_be_shown_parsed_and_set_from_each_layer() {
    let defaults = Config::default();
    for setting in SETTINGS {
        let shown = setting.show(&defaults);
        let by_variable = Effective::resolve(&variable(&setting.variable(), &shown)).expect(setting.key);
        assert_eq!(by_variable.config, defaults, "{}", setting.key);
        assert_eq!(by_variable.source(setting.key), Source::Environment(setting.variable()));
        let text = format!("{} = {}", setting.key, serde_json::Value::from(shown));
        // Dotted keys are TOML's other way to write a section.
        let by_file = Effective::resolve(&file(&text)).expect(setting.key);
        assert_eq!(by_file.config, defaults, "{}", setting.key);
        assert_eq!(by_file.source(setting.key).to_string(), "holdfast.toml:1");
        assert!(setting.help.ends_with('.'), "{}", setting.key);
    }
    let mut keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), SETTINGS.len());
}

#[test]
fn guests_come_in_only_over_loopback_unless_told_otherwise() {
    for (listen, guests, enabled) in [
        ("127.0.0.1:8080", "auto", true),
        ("[::1]:8080", "auto", true),
        ("0.0.0.0:8080", "auto", false),
        ("0.0.0.0:8080", "on", true),
        ("127.0.0.1:8080", "off", false),
    ] {
        let text = format!("listen = \"{listen}\"\n[auth]\nguests = \"{guests}\"");
        let effective = Effective::resolve(&file(&text)).expect(listen);
        assert_eq!(effective.config.guests_enabled(), enabled, "{listen} {guests}");
    }
}

#[test]
fn a_named_file_must_be_there() {
    let missing = PathBuf::from("/nonexistent/holdfast.toml");
    let text = match Inputs::from_process(Some(missing), Vec::new()) {
        Ok(_) => panic!("read a file that is not there"),
        Err(errors) => errors.to_string(),
    };
    assert!(text.starts_with("cannot read the configuration file /nonexistent/holdfast.toml: "), "{text}");
}

/// `docs/configuration.md` has one row per setting, made from the table; `UPDATE_DOCS=1` writes it.
#[test]
fn the_documentation_lists_every_setting_as_it_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("docs/configuration.md is part of the repository");
    let (begin, end) = ("<!-- settings: begin -->\n", "<!-- settings: end -->");
    let (before, rest) = text.split_once(begin).expect("the mark of the table's begin");
    let (table, after) = rest.split_once(end).expect("the mark of the table's end");
    let defaults = Config::default();
    let mut expected = String::from("\n| key | default | allowed | |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let value = setting.show(&defaults);
        let value = if value.is_empty() { "none".to_owned() } else { format!("`{value}`") };
        expected.push_str(&format!(
            "| `{}` | {value} | {} | {} |\n",
            setting.key,
            setting.allowed(),
            setting.help
        ));
    }
    expected.push('\n');
    if table != expected && std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}{expected}{end}{after}"))
            .expect("the documentation is writable");
        return;
    }
    assert_eq!(table, expected, "run this test with UPDATE_DOCS=1");
}
