//! The report on a terminal: a table of demands, and the figures that people look for first.

use std::fmt::Write as _;

use super::{Report, Threshold};
use crate::units::{bytes, count, micros};

/// The whole text, ending with a line break.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(report, &mut out);
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    let connections = &report.connections;
    writeln!(
        out,
        "connections  {} of {} opened ({}/s), {} held, {} lost, {} failed attempts",
        count(connections.opened),
        count(connections.target),
        count(connections.opened_per_second.round() as u64),
        count(connections.held),
        count(connections.lost),
        count(connections.failed_attempts),
    )?;
    for (title, tally) in [("failed", &connections.failures), ("lost", &connections.losses)] {
        for (name, number) in tally.iter() {
            writeln!(out, "             {title}: {} × {name}", count(number))?;
        }
    }
    if let Some(messages) = &report.messages {
        writeln!(
            out,
            "messages     {} sent, {} acked, {} delivered ({}/s), {} lost, {} duplicated, {} reordered, {} corrupted",
            count(messages.sent),
            count(messages.acked),
            count(messages.delivered),
            count(messages.per_second.round() as u64),
            count(messages.lost),
            count(messages.duplicated),
            count(messages.reordered),
            count(messages.corrupted),
        )?;
        if let Some(groups) = &messages.groups {
            writeln!(
                out,
                "             {} groups of {}: {} deliveries, senders' own included ({}/s)",
                count(groups.count),
                count(groups.members.into()),
                count(groups.deliveries),
                count(groups.deliveries_per_second.round() as u64),
            )?;
        }
        if let Some(sync) = &messages.sync {
            writeln!(
                out,
                "             {} messages filled the inboxes ({}/s)\n\
                 sync         {} members at the head, {} entries ({}/s) in {} pages, {} ({}/s)",
                count(sync.filled),
                count(sync.filled_per_second.round() as u64),
                count(sync.live),
                count(sync.entries),
                count(sync.entries_per_second.round() as u64),
                count(sync.pages),
                bytes(sync.page_bytes as f64),
                bytes(sync.page_bytes_per_second),
            )?;
        }
        if let Some(slow) = &messages.slow {
            let kib = |bytes: Option<f64>| {
                bytes.map_or_else(|| "not measured".into(), |bytes| format!("{:.0} KiB", bytes / 1024.0))
            };
            writeln!(
                out,
                "slow readers {} with {} senders each read nothing for {:.1} s, and had everything {:.1} s later\n\
                 one reader   {} in the process, {} in the kernel ({} samples); {} waited in front of the gap",
                count(slow.readers.into()),
                count(slow.senders.into()),
                slow.stall_seconds,
                slow.heal_seconds,
                kib(slow.user_bytes),
                kib(slow.kernel_bytes.map(|bytes| bytes as f64)),
                count(slow.samples),
                kib(Some(slow.waited_bytes as f64 / f64::from(slow.readers.max(1)))),
            )?;
        }
        if let Some(chat) = &messages.chat {
            let odd = [
                ("never acked", chat.unacked),
                ("own events lost", chat.own_lost),
                ("sent again", chat.resent),
                ("out of order after a refusal", chat.resequenced),
                ("misrouted", chat.misrouted),
                ("inbox numbers repeated", chat.revs_repeated),
                ("inbox numbers missing", chat.revs_missing),
                ("conversation numbers missing", chat.seqs_missing),
                ("conversation numbers that name two things", chat.seqs_conflicting),
                ("entries of something else", chat.foreign),
                ("frames that were not asked for", chat.unasked_frames),
                ("held back for want of acks", chat.held_back),
                ("never sent for want of acks", chat.unsent),
                ("gaps", chat.gaps),
                ("reconnects", chat.reconnects),
            ];
            for (name, number) in odd.into_iter().filter(|(_, number)| *number > 0) {
                writeln!(out, "             {} {name}", count(number))?;
            }
            for (name, number) in chat.refused.iter().chain(chat.errors.iter()) {
                writeln!(out, "             {} × error {name}", count(number))?;
            }
        }
    }
    write_presence(report, out)?;
    for (name, latency) in &report.latency_us {
        if latency.count > 0 {
            let name = name.replace('_', " ");
            writeln!(
                out,
                "{name:<24} p50 {:>10}  p99 {:>10}  p99.9 {:>10}  max {:>10}  (n = {})",
                micros(latency.p50),
                micros(latency.p99),
                micros(latency.p999),
                micros(latency.max),
                count(latency.count),
            )?;
        }
    }
    write_server(report, out)?;
    write_generator(report, out)?;
    if !report.thresholds.is_empty() {
        writeln!(out)?;
        let width = report.thresholds.iter().map(|threshold| threshold.name.len()).max().unwrap_or(0);
        for threshold in &report.thresholds {
            let mark = if threshold.pass { "ok  " } else { "MISS" };
            let (measured, limit) = values(threshold);
            let bound = if threshold.at_most { "≤" } else { "≥" };
            writeln!(out, "  {mark}  {:<width$}  {measured:>14}  {bound} {limit}", threshold.name)?;
        }
    }
    let why = report.error.as_deref().unwrap_or_else(|| report.outcome.explain());
    writeln!(out, "\n{}: {why}", report.verdict)
}

fn write_presence(report: &Report, out: &mut String) -> std::fmt::Result {
    let Some(presence) = &report.presence else { return Ok(()) };
    writeln!(
        out,
        "presence     {} sessions watch {} others each; {} members left (told after {} ms), {} came back",
        count(presence.watching),
        count(presence.watched.into()),
        count(presence.flaps),
        count(presence.grace_ms),
        count(presence.returned),
    )?;
    if let Some(per) = presence.bytes_per_watcher {
        writeln!(
            out,
            "             {:.0} B user + {:.0} B kernel more per watching session",
            per.user, per.kernel
        )?;
    }
    writeln!(
        out,
        "             {} of {} changes seen, in {} frames",
        count(presence.seen),
        count(presence.expected),
        count(presence.frames),
    )?;
    let odd = [
        ("changes coalesced", presence.coalesced),
        ("flaps later than due, for want of members", presence.flaps_held_back),
        ("told of somebody who is not watched", presence.misrouted),
        ("told of what was not so", presence.invented),
        ("believed wrongly at the end", presence.stale),
        ("never told of", presence.untold),
    ];
    for (name, number) in odd.into_iter().filter(|(_, number)| *number > 0) {
        writeln!(out, "             {} {name}", count(number))?;
    }
    Ok(())
}

/// A threshold's two numbers, in the unit that reads best.
pub(super) fn values(threshold: &Threshold) -> (String, String) {
    let show = |value: f64| match threshold.unit {
        "bytes" if value >= 1e6 => bytes(value),
        "us" => micros(value),
        "" => count(value.max(0.0) as u64),
        unit if value.fract() == 0.0 => format!("{} {unit}", count(value.max(0.0) as u64)),
        unit if value.abs() >= 1_000.0 => format!("{} {unit}", count(value.max(0.0).round() as u64)),
        unit => format!("{value:.2} {unit}"),
    };
    (threshold.measured.map_or_else(|| "not measured".into(), show), show(threshold.limit))
}

fn write_server(report: &Report, out: &mut String) -> std::fmt::Result {
    let Some(server) = &report.server else { return Ok(()) };
    if let (Some(per), Some(fit)) = (server.bytes_per_connection, server.fit) {
        writeln!(
            out,
            "server       {:.0} ± {:.0} B user + {:.0} ± {:.0} B kernel = {:.0} B per connection",
            per.user, fit.user.slope_error, per.kernel, fit.kernel.slope_error, per.total
        )?;
    }
    if let Some(total) = server.total_bytes {
        writeln!(out, "             {} in all, kernel included", bytes(total))?;
    }
    if let Some(us) = server.idle_cpu_us_per_connection_second {
        writeln!(out, "             {us:.3} µs processor time per idle connection and second")?;
    }
    if let Some(us) = server.cpu_us_per_message {
        writeln!(out, "             {us:.3} µs processor time per message")?;
    }
    if let Some(us) = server.cpu_us_per_handshake {
        writeln!(out, "             {us:.2} µs processor time per handshake")?;
    }
    Ok(())
}

fn write_generator(report: &Report, out: &mut String) -> std::fmt::Result {
    let generator = &report.generator;
    write!(out, "generator    {}, {} thread(s)", generator.driver, generator.threads)?;
    if generator.nice != 0 {
        write!(out, ", nice {}", generator.nice)?;
    }
    if let Some(share) = generator.cpu_share {
        write!(out, ", {:.0} % of one processor", share * 100.0)?;
    }
    if let Some(lateness) = &generator.lateness {
        let allowed = micros(lateness.allowed_p99_us);
        write!(out, ", p99 lateness {} (allowed {allowed})", micros(lateness.lateness_us.p99))?;
    }
    writeln!(out)?;
    if let Some(steal) = report.machine.steal_share.filter(|share| *share > 0.01) {
        writeln!(
            out,
            "machine      {:.1} % of the processor time was stolen by the hypervisor",
            steal * 100.0
        )?;
    }
    Ok(())
}
