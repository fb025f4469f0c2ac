use super::*;

/// The samples of a page as (name with labels, value); fails on anything that is not Prometheus's text format.
fn samples(page: &str) -> Vec<(String, f64)> {
    let mut samples = Vec::new();
    let mut family: Option<(String, String)> = None;
    let mut seen = std::collections::HashSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a family has a help text");
            assert!(!help.is_empty() && seen.insert(name.to_owned()), "{name} appears twice");
            family = Some((name.to_owned(), String::new()));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type has a name");
            let (family, of_kind) = family.as_mut().expect("HELP comes before TYPE");
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&kind));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            kind.clone_into(of_kind);
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
            let (family, _) = family.as_ref().expect("a sample stands in its family");
            assert!(name.starts_with(family.as_str()), "{name} in {family}");
            samples.push((name.to_owned(), value.parse().expect("a number")));
        }
    }
    samples
}

fn value(page: &str, name: &str) -> Option<f64> {
    samples(page).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

#[test]
fn shards_are_added_up_on_a_well_formed_page() {
    let shards: Vec<Arc<ShardCounters>> = (0..3).map(|_| Arc::default()).collect();
    for (index, shard) in shards.iter().enumerate() {
        shard.accepted.add(10 + index as u64);
        shard.connections.add(5);
        shard.connections.sub(2);
        shard.closed_with(CloseCode(1001));
        shard.handshake_refused(if index == 0 { 426 } else { 400 });
        shard.errors.add("rate_limited", 2);
    }
    let metrics = Metrics::new(shards);
    metrics.add_source(|page| page.gauge("holdfast_test", "A \\ and\na line break.", 7));
    let page = metrics.render();
    assert_eq!(value(&page, "holdfast_connections_accepted_total"), Some(33.0));
    assert_eq!(value(&page, "holdfast_connections"), Some(9.0));
    assert_eq!(value(&page, "holdfast_websocket_closes_total{code=\"1001\"}"), Some(3.0));
    assert_eq!(value(&page, "holdfast_handshakes_refused_total{code=\"400\"}"), Some(2.0));
    assert_eq!(value(&page, "holdfast_handshakes_refused_total{code=\"426\"}"), Some(1.0));
    assert_eq!(value(&page, "holdfast_errors_total{code=\"rate_limited\"}"), Some(6.0));
    assert_eq!(value(&page, "holdfast_test"), Some(7.0));
    assert!(page.contains(r"# HELP holdfast_test A \\ and\na line break."));
    assert!(value(&page, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
}

#[test]
fn more_codes_and_labels_than_places_are_counted_together_not_lost() {
    let codes = ByCode::default();
    for code in 1..=100 {
        codes.add(code, 1);
        codes.add(code, 1);
    }
    let counts = codes.read();
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 200);
    assert_eq!(counts.last().map(|(code, _)| code.as_str()), Some("other"));

    let labels = ByLabel::default();
    let names: Vec<&'static str> =
        (0..40).map(|index| &*Box::leak(format!("label_{index}").into_boxed_str())).collect();
    for name in &names {
        labels.add(name, 3);
    }
    let counts = labels.read();
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 120);
    assert_eq!(counts[0], ("label_0".to_owned(), 3));
    assert_eq!(counts.last(), Some(&("other".to_owned(), 24)));
}

#[test]
fn a_gauge_never_goes_below_nothing() {
    let gauge = Gauge::default();
    gauge.add(1);
    gauge.sub(3);
    assert_eq!(gauge.read(), 0);
}

#[test]
fn label_values_cannot_break_the_page() {
    let mut page = Exposition::default();
    page.counters("x_total", "X.", "code", [("a\"b\\c\nd", 1)]);
    assert_eq!(
        page.into_text(),
        "# HELP x_total X.\n# TYPE x_total counter\nx_total{code=\"a\\\"b\\\\c\\nd\"} 1\n"
    );
}

#[test]
fn a_histogram_counts_upwards_to_everything() {
    let mut page = Exposition::default();
    page.histogram_seconds("x_seconds", "X.", &[100, 2_000_000], &[3, 0, 2], 7_500_000);
    let text = page.into_text();
    let expected = "# HELP x_seconds X.\n# TYPE x_seconds histogram\nx_seconds_bucket{le=\"0.0001\"} 3\n\
                    x_seconds_bucket{le=\"2\"} 3\nx_seconds_bucket{le=\"+Inf\"} 5\nx_seconds_sum 7.5\nx_seconds_count 5\n";
    assert_eq!(text, expected);
    assert_eq!(samples(&text).len(), 5);
}
