//! Prints how evenly slices are owned, and how many move when a worker comes or goes.
//!
//! `cargo run -p holdfast-router --example balance`

use holdfast_router::{Assignment, SLICES, WorkerId};

fn main() {
    println!("workers  owns least  most  most/mean  comes: moved  x N/K  goes: moved  x N/K");
    let mut assignment = Assignment::new(&workers(1));
    for count in 2..=64 {
        let next = assignment.rebalance(&workers(count));
        let loads: Vec<usize> = workers(count).iter().map(|worker| next.slices_of(*worker).count()).collect();
        let (least, most) =
            (loads.iter().min().expect("two or more"), loads.iter().max().expect("two or more"));
        let share = f64::from(SLICES) / f64::from(count);
        let came = moved(&assignment, &next);
        let went = moved(&next, &next.rebalance(&workers(count)[1..]));
        println!(
            "{count:>7}  {least:>10}  {most:>4}  {:>9.3}  {came:>12}  {:>5.3}  {went:>11}  {:>5.3}",
            *most as f64 / share,
            came as f64 / share,
            went as f64 / share,
        );
        assignment = next;
    }
}

fn workers(count: u16) -> Vec<WorkerId> {
    (0..count).map(WorkerId).collect()
}

fn moved(before: &Assignment, after: &Assignment) -> usize {
    before.owners().iter().zip(after.owners()).filter(|(before, after)| before != after).count()
}
