//! From measurements to a verdict: medians, ratios to the better rival, gates.
//!
//! The machine is faster in one minute than in the next, for everybody. So a ratio is taken within each round, whose
//! measurements lie seconds apart, and the median of those ratios counts; the medians of the figures themselves are
//! for the eye.
//!
//! The one invariant: a figure that is missing never passes a gate.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::{Contender, Discipline};

/// Processor microseconds of the server per message or handshake, one for each round.
#[derive(Debug, Clone, Default)]
pub struct Results {
    rounds: BTreeMap<(Contender, Discipline), Vec<f64>>,
}

impl Results {
    /// Keeps one measurement.
    pub fn add(&mut self, contender: Contender, discipline: Discipline, cpu_us: f64) {
        self.rounds.entry((contender, discipline)).or_default().push(cpu_us);
    }

    /// The median over rounds; `None` when there was no measurement.
    #[must_use]
    pub fn median(&self, contender: Contender, discipline: Discipline) -> Option<f64> {
        median(self.rounds.get(&(contender, discipline))?.clone())
    }

    /// The rival with the smaller median.
    #[must_use]
    pub fn better_rival(&self, discipline: Discipline) -> Option<Contender> {
        let measured = |rival: &Contender| Some((self.median(*rival, discipline)?, *rival));
        let rivals = Contender::RIVALS.iter().filter_map(measured);
        rivals.min_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, rival)| rival)
    }

    /// What one contender needs in units of another: the median of the rounds' ratios.
    #[must_use]
    pub fn ratio(&self, one: Contender, other: Contender, discipline: Discipline) -> Option<f64> {
        let of = |contender| self.rounds.get(&(contender, discipline));
        median(of(one)?.iter().zip(of(other)?).map(|(one, other)| one / other).collect())
    }

    /// What a contender needs in units of the better rival.
    #[must_use]
    pub fn ratio_to_rival(&self, contender: Contender, discipline: Discipline) -> Option<f64> {
        self.ratio(contender, self.better_rival(discipline)?, discipline)
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let upper = *figures.get(figures.len() / 2)?;
    let lower = figures[(figures.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// What must hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// For people.
    pub what: String,
    /// The ratio that was found; `None`: not measured.
    pub ratio: Option<f64>,
    /// The ratio that is allowed.
    pub most: f64,
}

impl Gate {
    /// True when it was measured and is within what is allowed.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.ratio.is_some_and(|ratio| ratio <= self.most)
    }
}

/// The most that our server may cost, in units of the better rival.
const RIVAL_GATES: [(Discipline, f64); 3] =
    [(Discipline::PingPong, 0.80), (Discipline::Pipelined, 0.10), (Discipline::Handshake, 1.0)];

/// Every gate of these disciplines.
#[must_use]
pub fn gates(results: &Results, disciplines: &[Discipline]) -> Vec<Gate> {
    let chosen = RIVAL_GATES.into_iter().filter(|(discipline, _)| disciplines.contains(discipline));
    let mut gates: Vec<Gate> = chosen
        .map(|(discipline, most)| Gate {
            what: format!("{discipline}: io_uring against the better of the rivals"),
            ratio: results.ratio_to_rival(Contender::HoldfastUring, discipline),
            most,
        })
        .collect();
    gates.extend(disciplines.iter().map(|&discipline| Gate {
        what: format!("{discipline}: io_uring against epoll"),
        ratio: results.ratio(Contender::HoldfastUring, Contender::HoldfastEpoll, discipline),
        most: 1.0,
    }));
    gates
}

/// The table and the gates, as Markdown.
#[must_use]
pub fn render(results: &Results, disciplines: &[Discipline]) -> String {
    let mut out = String::from("| server CPU µs per |");
    // Writing to a String cannot fail.
    for discipline in disciplines {
        let _ = write!(out, " {discipline} |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(disciplines.len()));
    for contender in Contender::ALL {
        let _ = write!(out, "\n| {contender} |");
        for &discipline in disciplines {
            let _ = match (
                results.median(contender, discipline),
                results.ratio_to_rival(contender, discipline),
            ) {
                (Some(median), Some(ratio)) => write!(out, " {median:.2} ({ratio:.2} ×) |"),
                (Some(median), None) => write!(out, " {median:.2} |"),
                (None, _) => write!(out, " - |"),
            };
        }
    }
    out.push_str("\n\n");
    for gate in gates(results, disciplines) {
        let mark = if gate.is_met() { "met" } else { "MISSED" };
        let found = gate.ratio.map_or_else(|| "not measured".to_owned(), |ratio| format!("{ratio:.2} ×"));
        let _ = writeln!(out, "- {mark}: {}: {found}, at most {:.2} ×", gate.what, gate.most);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(figures: &[(Contender, [f64; 3])]) -> Results {
        let mut results = Results::default();
        for (contender, medians) in figures {
            for discipline in Discipline::ALL {
                let median = medians[discipline.index()];
                // An outlier to either side must not move the median.
                for figure in [median, median * 9.0, median / 9.0] {
                    results.add(*contender, discipline, figure);
                }
            }
        }
        results
    }

    fn good() -> Vec<(Contender, [f64; 3])> {
        vec![
            (Contender::HoldfastUring, [7.2, 0.42, 38.0]),
            (Contender::HoldfastEpoll, [9.8, 0.66, 39.0]),
            (Contender::Fastwebsockets, [10.0, 7.0, 49.0]),
            (Contender::Tungstenite, [11.7, 6.0, 47.0]),
            (Contender::TokioUring, [12.0, 1.0, 60.0]),
        ]
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let mut results = Results::default();
        for figure in [4.0, 1.0, 3.0, 100.0] {
            results.add(Contender::Tungstenite, Discipline::PingPong, figure);
        }
        assert_eq!(results.median(Contender::Tungstenite, Discipline::PingPong), Some(3.5));
        assert_eq!(results.median(Contender::Tungstenite, Discipline::Handshake), None);
    }

    #[test]
    fn the_better_rival_is_found_in_each_discipline() {
        let results = results(&good());
        assert_eq!(results.better_rival(Discipline::PingPong), Some(Contender::Fastwebsockets));
        assert_eq!(results.better_rival(Discipline::Pipelined), Some(Contender::Tungstenite));
        assert_eq!(results.better_rival(Discipline::Handshake), Some(Contender::Tungstenite));
    }

    #[test]
    fn a_slow_minute_moves_no_ratio() {
        let mut results = Results::default();
        for slowness in [1.0, 3.0, 1.2, 2.0] {
            results.add(Contender::HoldfastUring, Discipline::PingPong, 4.0 * slowness);
            results.add(Contender::Fastwebsockets, Discipline::PingPong, 5.0 * slowness);
        }
        let ratio = results.ratio_to_rival(Contender::HoldfastUring, Discipline::PingPong);
        assert!(ratio.is_some_and(|ratio| (ratio - 0.8).abs() < 1e-9), "{ratio:?}");
    }

    #[test]
    fn a_good_run_meets_all_six_gates() {
        let gates = gates(&results(&good()), &Discipline::ALL);
        assert_eq!(gates.len(), 6);
        assert!(gates.iter().all(Gate::is_met), "{gates:#?}");
    }

    #[test]
    fn each_gate_can_be_missed_alone() {
        for (contender, discipline, figure, word) in [
            (Contender::HoldfastUring, Discipline::PingPong, 8.1, "ping-pong: io_uring against the better"),
            (
                Contender::HoldfastUring,
                Discipline::Pipelined,
                0.61,
                "16 in flight: io_uring against the better",
            ),
            (Contender::HoldfastEpoll, Discipline::PingPong, 7.1, "ping-pong: io_uring against epoll"),
            (Contender::HoldfastEpoll, Discipline::Handshake, 37.0, "handshake: io_uring against epoll"),
        ] {
            let mut figures = good();
            let row = figures.iter_mut().find(|(name, _)| *name == contender).expect("all are there");
            row.1[discipline.index()] = figure;
            let missed: Vec<String> = gates(&results(&figures), &Discipline::ALL)
                .into_iter()
                .filter(|gate| !gate.is_met())
                .map(|gate| gate.what)
                .collect();
            assert_eq!(missed.len(), 1, "{missed:?}");
            assert!(missed[0].starts_with(word), "{missed:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let mut figures = good();
        figures.retain(|(contender, _)| *contender != Contender::HoldfastEpoll);
        let gates = gates(&results(&figures), &Discipline::ALL);
        assert_eq!(gates.iter().filter(|gate| !gate.is_met()).count(), 3);
    }

    #[test]
    fn the_table_is_markdown_with_a_row_for_each() {
        let text = render(&results(&good()), &Discipline::ALL);
        assert!(text.starts_with(
            "| server CPU µs per | ping-pong | 16 in flight | handshake |\n|---|---:|---:|---:|\n"
        ));
        assert!(
            text.contains("| Holdfast, io_uring | 7.20 (0.72 ×) | 0.42 (0.07 ×) | 38.00 (0.81 ×) |"),
            "{text}"
        );
        assert!(
            text.contains(
                "- met: ping-pong: io_uring against the better of the rivals: 0.72 ×, at most 0.80 ×"
            )
        );
        let one = render(&results(&good()), &[Discipline::PingPong]);
        assert_eq!(one.matches("- met").count(), 2, "{one}");
    }
}
