//! What the workers have done, as metrics.

use holdfast_storage::{BUCKETS_US, StatsHandle};

use super::Exposition;

/// A source for [`super::Metrics::add_source`] that asks the workers at each scrape.
pub fn store_source(workers: StatsHandle) -> impl Fn(&mut Exposition) + Send + Sync + 'static {
    move |page| {
        let stats = workers.stats();
        let counters: [(&str, &str, u64); 13] = [
            ("holdfast_store_commands_total", "Commands that the workers took.", stats.sum(|w| w.commands)),
            (
                "holdfast_store_failed_commits_total",
                "Batches that could not be made durable.",
                stats.sum(|w| w.failed_commits),
            ),
            ("holdfast_store_messages_total", "Messages made durable.", stats.sum(|w| w.messages)),
            (
                "holdfast_store_duplicates_total",
                "Sends that were answered from an earlier one.",
                stats.sum(|w| w.duplicates),
            ),
            ("holdfast_store_refused_total", "Requests that the workers refused.", stats.sum(|w| w.refused)),
            ("holdfast_store_entries_total", "Inbox entries made durable.", stats.sum(|w| w.entries)),
            ("holdfast_store_events_total", "Events handed to shards.", stats.sum(|w| w.events)),
            ("holdfast_store_pages_total", "Pages handed to shards.", stats.sum(|w| w.pages)),
            (
                "holdfast_store_history_reads_total",
                "Parts of conversations that were read from the store; others were at hand.",
                stats.sum(|w| w.history_reads),
            ),
            (
                "holdfast_store_failed_folds_total",
                "Times that a user's list of conversations could not be written down.",
                stats.sum(|w| w.failed_folds),
            ),
            (
                "holdfast_store_expired_total",
                "Events that were removed because they were old enough.",
                stats.sum(|w| w.expired),
            ),
            (
                "holdfast_store_gaps_total",
                "Sessions that lost their live place because a lane was full.",
                stats.sum(|w| w.gaps),
            ),
            (
                "holdfast_store_turns_total",
                "Turns of the workers that had something to do.",
                stats.sum(|w| w.turns),
            ),
        ];
        for (name, help, value) in counters {
            page.counter(name, help, value);
        }
        let gauges: [(&str, &str, u64); 5] = [
            (
                "holdfast_store_queued_commands",
                "Commands that wait in the workers' queues.",
                stats.sum(|w| w.queued),
            ),
            ("holdfast_store_sessions", "Sessions that the workers know.", stats.sum(|w| w.sessions)),
            (
                "holdfast_store_waiting_answers",
                "Answers that wait for room in a shard's lane.",
                stats.sum(|w| w.waiting_answers),
            ),
            (
                "holdfast_store_fan_out_backlog",
                "Fan-out batches that are not confirmed.",
                stats.sum(|w| w.fan_out_backlog),
            ),
            (
                "holdfast_store_engine_bytes",
                "Write buffers and block caches of the engine.",
                stats.sum(|w| w.engine_bytes),
            ),
        ];
        for (name, help, value) in gauges {
            page.gauge(name, help, value);
        }
        let commit = stats.commit();
        page.histogram_seconds(
            "holdfast_store_commit_seconds",
            "How long it takes to make a batch durable, fsync included.",
            &BUCKETS_US,
            &commit.buckets,
            commit.sum_us,
        );
    }
}
