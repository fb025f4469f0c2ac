//! The timer wheel with a million deadlines: what a sign of life costs, and what a second of waiting costs.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast_reactor::{Moment, Timers};

const CONNECTIONS: u32 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(75);
const TICK: Duration = Duration::from_millis(250);

/// A million deadlines, spread over the heartbeat as connections that came at a steady rate spread them.
fn full_wheel() -> Timers {
    let mut timers = Timers::new(Moment(0), TICK);
    for key in 0..CONNECTIONS {
        let offset = Duration::from_micros(30 * u64::from(key));
        timers.set(key, Moment(0).after(SILENCE + offset));
    }
    timers
}

fn wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers");
    let mut timers = full_wheel();
    let mut key = 0;
    let mut now = Moment(0);
    group.bench_function("move one of a million later", |bencher| {
        bencher.iter(|| {
            key = (key + 7_919) % CONNECTIONS;
            now = now.after(Duration::from_nanos(30));
            timers.set(key, now.after(SILENCE));
        });
    });
    // One second at a million connections with 30 s heartbeats: 33,333 signs of life, and the wheel's own moves.
    let mut timers = full_wheel();
    let mut now = Moment(0);
    let mut first = 0;
    let mut expired = Vec::new();
    group.throughput(Throughput::Elements(u64::from(CONNECTIONS / 30)));
    group.bench_function("a second of a million heartbeats", |bencher| {
        bencher.iter(|| {
            now = now.after(SECOND);
            for key in first..first + CONNECTIONS / 30 {
                timers.set(key % CONNECTIONS, now.after(SILENCE));
            }
            first = (first + CONNECTIONS / 30) % CONNECTIONS;
            timers.expire(now, &mut expired);
            assert!(expired.is_empty(), "everybody is alive");
            black_box(timers.next());
        });
    });
    group.finish();
}

criterion_group!(benches, wheel);
criterion_main!(benches);
