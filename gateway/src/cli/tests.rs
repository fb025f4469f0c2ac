use clap::CommandFactory as _;

use super::*;

fn parse(arguments: &[&str]) -> Cli {
    Cli::try_parse_from(std::iter::once(&"holdfast").chain(arguments)).expect("these arguments are allowed")
}

#[test]
fn the_arguments_contradict_each_other_nowhere() {
    Cli::command().debug_assert();
}

#[test]
fn no_command_means_serve_and_takes_its_flags() {
    assert!(parse(&[]).command.is_none());
    let cli = parse(&["--listen", "127.0.0.1:0", "--bench-endpoints", "--set", "limits.memory = 2GiB"]);
    let overrides = cli.serve.overrides();
    let shown: Vec<_> =
        overrides.iter().map(|o| (o.key.as_str(), o.value.as_str(), o.flag.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("listen", "127.0.0.1:0", "--listen"),
            ("bench_endpoints", "true", "--bench-endpoints"),
            ("limits.memory", "2GiB", "--set limits.memory = 2GiB"),
        ]
    );
}

#[test]
fn an_error_shows_its_causes_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("the outside")]
    struct Outside(#[source] std::io::Error);
    let failure = Failure::new(Exit::Setup, &Outside(std::io::Error::other("the inside")));
    assert_eq!(failure.message, "the outside: the inside");
}

#[test]
fn what_config_prints_can_be_read_back() {
    let effective = Effective::resolve(&Inputs::default()).expect("the defaults are allowed");
    let text = config::as_text(&effective);
    let file = crate::config::FileText { path: "printed.toml".into(), text: text.clone() };
    let again = Effective::resolve(&Inputs { file: Some(file), ..Inputs::default() });
    let again = again.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(again.config, effective.config);
    assert_eq!(again.source("limits.memory").to_string().split(':').next(), Some("printed.toml"));
}
