//! The report as one page: no script, nothing fetched, light or dark as the reader has it.

use std::fmt::Write as _;

use super::plot::{Plot, Series, Style, escape};
use super::terminal::values;
use super::{Report, thousandth};
use crate::measure::sample::{Sample, ServerSample};
use crate::units::{bytes, count, micros};

const STYLE: &str = include_str!("report.css");

/// The whole page.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(report, &mut out);
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    let title = format!("holdfast-load {}: {}", report.mode, report.verdict);
    writeln!(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(out, "<title>{}</title>\n<style>\n{STYLE}</style></head><body><main>", escape(&title))?;
    let why = report.error.as_deref().unwrap_or_else(|| report.outcome.explain());
    writeln!(
        out,
        "<header><p class=\"verdict {0}\">{0}</p><div><h1>holdfast-load {1}</h1><p>{2}</p></div></header>",
        report.verdict,
        escape(report.mode),
        escape(why)
    )?;
    writeln!(
        out,
        "<p class=\"facts\">{} · {} processors, {} memory, Linux {} · {} driver, {} thread(s) · seed {}</p>",
        escape(&report.url),
        report.machine.processors,
        bytes(report.machine.memory_bytes as f64),
        escape(&report.machine.kernel),
        report.generator.driver,
        report.generator.threads,
        report.seed
    )?;
    write_tiles(report, out)?;
    write_thresholds(report, out)?;
    writeln!(out, "<section class=\"plots\">")?;
    for plot in plots(report) {
        out.push_str(&plot.render());
    }
    writeln!(out, "</section>")?;
    write_latencies(report, out)?;
    write_caches(report, out)?;
    writeln!(
        out,
        "<footer>The figures behind this page are in the JSON report (schema {}).</footer>",
        report.schema
    )?;
    writeln!(out, "</main></body></html>")
}

fn write_tiles(report: &Report, out: &mut String) -> std::fmt::Result {
    let connections = &report.connections;
    let mut tiles = vec![
        (count(connections.held), "connections held".to_owned()),
        (count(connections.lost), "connections lost".to_owned()),
        (format!("{}/s", count(connections.opened_per_second.round() as u64)), "came up".to_owned()),
    ];
    if let Some(server) = &report.server {
        if let (Some(per), Some(fit)) = (server.bytes_per_connection, server.fit) {
            let parts =
                format!("{:.0} user (± {:.0}) + {:.0} kernel", per.user, fit.user.slope_error, per.kernel);
            tiles.push((
                format!("{} B", count(per.total.max(0.0) as u64)),
                format!("per connection: {parts}"),
            ));
        }
        if let Some(total) = server.total_bytes {
            tiles.push((bytes(total), "server side in all, kernel included".to_owned()));
        }
        let costs = [
            (server.idle_cpu_us_per_connection_second, "server µs per idle connection and second"),
            (server.cpu_us_per_message, "server µs per message"),
            (server.cpu_us_per_handshake, "server µs per handshake"),
        ];
        for (us, what) in costs {
            if let Some(us) = us {
                tiles.push((thousandth(us).to_string(), what.to_owned()));
            }
        }
    }
    if let Some(presence) = &report.presence {
        if let Some(per) = presence.bytes_per_watcher {
            tiles.push((
                format!("{} B", count(per.user.max(0.0) as u64)),
                format!(
                    "more per session that watches {} others, and {:.0} in the kernel",
                    presence.watched, per.kernel
                ),
            ));
        }
        if let Some(factor) = presence.delivered_p99_factor {
            tiles.push((format!("{factor:.2} ×"), "p99 of deliveries with presence by without".to_owned()));
        }
        let what = format!("changes of presence seen, of {}", count(presence.expected));
        tiles.push((count(presence.seen), what));
    }
    if let Some(messages) = &report.messages {
        let what = match &messages.groups {
            Some(groups) => {
                format!("deliveries in {} groups of {}", count(groups.count), count(groups.members.into()))
            }
            None if messages.sync.is_some() => "inbox entries".to_owned(),
            None => "messages".to_owned(),
        };
        if let Some(slow) = &messages.slow {
            let seconds = slow.stall_seconds;
            let kib = |bytes: Option<f64>| {
                bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{:.0} KiB", bytes / 1024.0))
            };
            tiles.push((
                kib(slow.user_bytes),
                format!("in the process for a reader that reads nothing for {seconds:.0} s"),
            ));
            tiles.push((kib(slow.kernel_bytes.map(|bytes| bytes as f64)), "in the kernel for it".to_owned()));
        }
        if let Some(sync) = &messages.sync {
            let what = format!("members at the head, {} entries behind", count(sync.behind.into()));
            tiles.push((count(sync.live), what));
            tiles.push((format!("{}/s", bytes(sync.page_bytes_per_second)), "of pages".to_owned()));
        }
        tiles.push((format!("{}/s", count(messages.per_second.round() as u64)), what));
        let wrong = messages.lost + messages.duplicated + messages.reordered + messages.corrupted;
        tiles.push((count(wrong), "lost, duplicated, reordered or corrupted".to_owned()));
    }
    writeln!(out, "<section class=\"tiles\">")?;
    for (value, what) in tiles {
        writeln!(out, "<div><b>{}</b><span>{}</span></div>", escape(&value), escape(&what))?;
    }
    writeln!(out, "</section>")
}

fn write_thresholds(report: &Report, out: &mut String) -> std::fmt::Result {
    if report.thresholds.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<h2>Demanded and measured</h2><table><thead><tr><th></th><th class=\"what\">what</th><th>measured</th>"
    )?;
    writeln!(out, "<th>demanded</th></tr></thead><tbody>")?;
    for threshold in &report.thresholds {
        let (class, mark) = if threshold.pass { ("pass", "✓") } else { ("fail", "✗") };
        let (measured, limit) = values(threshold);
        let bound = if threshold.at_most { "≤" } else { "≥" };
        writeln!(
            out,
            "<tr class=\"{class}\"><td>{mark}</td><td>{}</td><td>{}</td><td>{bound} {}</td></tr>",
            escape(threshold.name),
            escape(&measured),
            escape(&limit)
        )?;
    }
    writeln!(out, "</tbody></table>")
}

fn write_latencies(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "<h2>Latencies</h2><table><thead><tr><th>of</th><th>number</th><th>p50</th><th>p90</th>")?;
    writeln!(out, "<th>p99</th><th>p99.9</th><th>max</th></tr></thead><tbody>")?;
    for (name, latency) in report.latency_us.iter().filter(|(_, latency)| latency.count > 0) {
        write!(out, "<tr><td>{}</td><td>{}</td>", escape(&name.replace('_', " ")), count(latency.count))?;
        for us in [latency.p50, latency.p90, latency.p99, latency.p999, latency.max] {
            write!(out, "<td>{}</td>", micros(us))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table>")
}

fn write_caches(report: &Report, out: &mut String) -> std::fmt::Result {
    let Some(server) = report.server.as_ref().filter(|server| !server.caches.is_empty()) else {
        return Ok(());
    };
    let held = report.connections.opened.max(1) as f64;
    writeln!(out, "<h2>Kernel memory by cache</h2><table><thead><tr><th>cache</th><th>both ends</th>")?;
    writeln!(out, "<th>server's share</th><th>per connection</th></tr></thead><tbody>")?;
    for cache in server.caches.iter().filter(|cache| cache.bytes > 0).take(12) {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.0} B</td></tr>",
            escape(&cache.name),
            bytes(cache.bytes as f64),
            bytes(cache.server_bytes),
            cache.server_bytes / held
        )?;
    }
    writeln!(out, "</tbody></table>")
}

/// `ramp`, `hold` … as spans of the time axis, in the order in which they happened.
fn phases(report: &Report) -> Vec<(f64, f64, &'static str)> {
    let mut spans = Vec::new();
    let mut at = ["setup", "fill"].iter().filter_map(|name| report.seconds.get(name)).sum();
    for name in [
        "ramp", "groups", "settle", "hold", "warmup", "load", "messages", "pause", "watch", "flapping",
        "quiesce", "stall", "heal", "sync", "drain",
    ] {
        if let Some(seconds) = report.seconds.get(name) {
            spans.push((at, at + seconds, name));
            at += seconds;
        }
    }
    spans
}

fn plots(report: &Report) -> Vec<Plot<'_>> {
    let seconds = |value: f64| format!("{value:.0}");
    let samples = &report.series;
    let over_time = |value: &dyn Fn(&Sample) -> Option<f64>| -> Vec<(f64, f64)> {
        samples.iter().filter_map(|sample| Some((sample.seconds, value(sample)?))).collect()
    };
    let line = |name, points| Series { name, points, style: Style::Line };
    let mut plots = vec![Plot {
        title: "Connections",
        note: format!("{} wanted", count(report.connections.target)),
        x_label: "seconds",
        x_format: seconds,
        y_format: |value| count(value as u64),
        phases: phases(report),
        series: vec![Series {
            name: "up",
            points: over_time(&|sample| Some(sample.connections as f64)),
            style: Style::Area,
        }],
        y_logarithmic: false,
    }];
    if let Some(fit) = report.server.as_ref().and_then(|server| server.fit) {
        let by_connections = |value: fn(&ServerSample) -> f64| -> Vec<(f64, f64)> {
            let ramp = samples.iter().filter(|sample| sample.connections > 0);
            ramp.filter_map(|sample| Some((sample.connections as f64, value(sample.server.as_ref()?))))
                .collect()
        };
        let end = samples.iter().map(|sample| sample.connections).max().unwrap_or(0) as f64;
        let fitted = vec![(0.0, fit.total.intercept), (end, fit.total.intercept + fit.total.slope * end)];
        plots.push(Plot {
            title: "Memory of the server's side",
            note: format!("slope {:.0} ± {:.0} B per connection", fit.total.slope, fit.total.slope_error),
            x_label: "connections",
            x_format: |value| count(value as u64),
            y_format: bytes,
            phases: Vec::new(),
            series: vec![
                Series {
                    name: "user + kernel",
                    points: by_connections(ServerSample::total_bytes),
                    style: Style::Dots,
                },
                Series {
                    name: "kernel",
                    points: by_connections(ServerSample::kernel_bytes),
                    style: Style::Dots,
                },
                Series {
                    name: "user",
                    points: by_connections(|server| server.rss_bytes as f64),
                    style: Style::Dots,
                },
                Series { name: "fit", points: fitted, style: Style::Dashed },
            ],
            y_logarithmic: false,
        });
    }
    let curves = [
        ("accepted", "accepted"),
        ("delivered", "delivered"),
        ("echo", "echo"),
        ("first_page", "first page"),
        ("live", "live"),
        ("handshake", "handshake"),
    ];
    let by_percentile = |title, curves: &[(&str, &'static str)]| {
        let series = curves.iter().filter_map(|(key, name)| Some(line(*name, tail(report.curves.get(key)?))));
        Plot {
            title,
            note: "the share of all that took at most so long".to_owned(),
            x_label: "percentile",
            x_format: percentile,
            y_format: micros_short,
            phases: Vec::new(),
            series: series.filter(|series| series.points.len() > 1).collect(),
            y_logarithmic: true,
        }
    };
    plots.push(by_percentile("Latency by percentile", &curves));
    if report.presence.is_some() {
        let curves = [
            ("delivered", "delivered, nobody watched"),
            ("delivered_with_presence", "delivered, with presence"),
            ("presence_online", "online told"),
            ("presence_offline", "offline told, grace included"),
        ];
        plots.push(by_percentile("Latency with presence", &curves));
    }
    plots.push(Plot {
        title: "Processor",
        note: "100 % is one processor".to_owned(),
        x_label: "seconds",
        x_format: seconds,
        y_format: |value| format!("{value:.0} %"),
        phases: phases(report),
        series: vec![
            line("server", rate(samples, |sample| sample.server.map(|server| server.cpu_ns))),
            line("generator", rate(samples, |sample| Some(sample.generator_cpu_ns))),
        ],
        y_logarithmic: false,
    });
    plots
}

/// Stretches a distribution so that each step to the right is a tenth of the rest: 90 %, 99 %, 99.9 % …
fn tail(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let inner = curve.iter().filter(|(percent, _)| *percent < 100.0);
    let mut points: Vec<(f64, f64)> =
        inner.map(|(percent, us)| (-(1.0 - percent / 100.0).log10(), *us)).collect();
    // The very longest stands half a step behind the last but one: its own place would be infinitely far.
    if let (Some((percent, us)), Some((place, _))) = (curve.last(), points.last().copied())
        && *percent >= 100.0
    {
        points.push((place + 0.3, *us));
    }
    points
}

/// The inverse of [`tail`], for the axis.
fn percentile(place: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-place));
    let decimals = (place.ceil() as usize).saturating_sub(2);
    format!("{percent:.decimals$} %")
}

/// `100 ms` rather than `100.00 ms`.
fn micros_short(us: f64) -> String {
    micros(us).replacen(".00", "", 1).replacen(".0", "", 1)
}

/// Percent of one processor between neighbouring samples.
fn rate(samples: &[Sample], cpu_ns: impl Fn(&Sample) -> Option<u64>) -> Vec<(f64, f64)> {
    let points = samples.windows(2).filter_map(|pair| {
        let used = cpu_ns(&pair[1])?.saturating_sub(cpu_ns(&pair[0])?) as f64 / 1e9;
        let passed = pair[1].seconds - pair[0].seconds;
        (passed > 0.0).then(|| (pair[1].seconds, used / passed * 100.0))
    });
    points.collect()
}
