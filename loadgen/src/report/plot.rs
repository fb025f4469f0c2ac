//! Line plots as inline SVG: no script, no font, no file beside the page. Colours are the page's CSS variables, so a
//! plot follows the reader's light or dark.

use std::fmt::Write as _;

/// How a value on an axis is written.
pub type Format = fn(f64) -> String;

/// One line of a plot.
#[derive(Debug)]
pub struct Series<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Its points, in the order of x.
    pub points: Vec<(f64, f64)>,
    /// A line through a cloud of dots, rather than the dots' connection.
    pub style: Style,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line.
    Line,
    /// A line with the area below it filled.
    Area,
    /// Dots.
    Dots,
    /// A dashed line: a threshold, or a fit.
    Dashed,
}

/// One plot.
#[derive(Debug)]
pub struct Plot<'a> {
    /// Its title.
    pub title: &'a str,
    /// What the title does not say.
    pub note: String,
    /// What x counts.
    pub x_label: &'a str,
    /// How x is written.
    pub x_format: Format,
    /// How y is written.
    pub y_format: Format,
    /// Spans of x that are marked: from, to, name.
    pub phases: Vec<(f64, f64, &'a str)>,
    /// The lines.
    pub series: Vec<Series<'a>>,
    /// y grows by factors rather than by steps.
    pub y_logarithmic: bool,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 66.0;
/// Half of the widest number that may stand under the right end of the axis.
const RIGHT: f64 = 36.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 40.0;
/// A phase that is narrower has no room for its name.
const NAME_WIDTH: f64 = 34.0;
/// More points than pixels help nobody.
const POINTS_MAX: usize = 400;

/// A scale from values to pixels.
#[derive(Debug, Clone, Copy)]
struct Scale {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let position = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + position.clamp(0.0, 1.0) * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let mut decade = 10f64.powf(self.from.log10().floor());
            let mut ticks = Vec::new();
            while decade <= self.to * 1.000_001 {
                if decade >= self.from * 0.999_999 {
                    ticks.push(decade);
                }
                decade *= 10.0;
            }
            return ticks;
        }
        let step = nice_step((self.to - self.from) / 5.0);
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `rough`.
fn nice_step(rough: f64) -> f64 {
    let magnitude = 10f64.powf(rough.max(1e-12).log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * magnitude >= rough * 0.999_999);
    factor.unwrap_or(10.0) * magnitude
}

impl Plot<'_> {
    /// The plot as a `figure`; nothing when it has no two points to draw.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        if self.series.iter().map(|series| series.points.len()).max().unwrap_or(0) < 2 {
            return out;
        }
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn scales(&self) -> (Scale, Scale) {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let greatest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
        // Time, connections and shares all begin at nothing.
        let x_from = least(&mut all().map(|point| point.0)).min(0.0);
        let x_to = greatest(&mut all().map(|point| point.0)).max(x_from + 1e-9);
        let y_greatest = greatest(&mut all().map(|point| point.1));
        let x = Scale { from: x_from, to: x_to, start: LEFT, end: WIDTH - RIGHT, logarithmic: false };
        let (from, to) = if self.y_logarithmic {
            let positive = least(&mut all().map(|point| point.1).filter(|value| *value > 0.0));
            let from = 10f64.powf(positive.min(y_greatest).max(1e-9).log10().floor());
            (from, (from * 10.0).max(10f64.powf(y_greatest.max(1e-9).log10().ceil())))
        } else {
            let step = nice_step(y_greatest.max(1e-9) / 5.0);
            (0.0, (y_greatest / step).ceil().max(1.0) * step)
        };
        let y = Scale { from, to, start: HEIGHT - BOTTOM, end: TOP, logarithmic: self.y_logarithmic };
        (x, y)
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (x, y) = self.scales();
        writeln!(
            out,
            "<figure><figcaption><b>{}</b> <span>{}</span></figcaption>",
            escape(self.title),
            escape(&self.note)
        )?;
        write!(out, "<div class=\"legend\">")?;
        for (index, series) in self.series.iter().enumerate() {
            let dashed = if series.style == Style::Dashed { " dashed" } else { "" };
            write!(out, "<span class=\"c{index}{dashed}\"><i></i>{}</span>", escape(series.name))?;
        }
        writeln!(out, "</div>")?;
        writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(self.title)
        )?;
        for (index, (from, to, name)) in self.phases.iter().enumerate() {
            let (left, right) = (x.at(*from), x.at(*to));
            if right - left < 1.0 {
                continue;
            }
            let (width, height) = (right - left, HEIGHT - TOP - BOTTOM);
            let shade = if index % 2 == 0 { "phase" } else { "phase odd" };
            writeln!(
                out,
                "<rect class=\"{shade}\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>"
            )?;
            if width < NAME_WIDTH {
                continue;
            }
            let middle = (left + right) / 2.0;
            writeln!(
                out,
                "<text class=\"phase-name\" x=\"{middle:.1}\" y=\"{}\">{}</text>",
                TOP - 6.0,
                escape(name)
            )?;
        }
        for tick in y.ticks() {
            let at = y.at(tick);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                WIDTH - RIGHT
            )?;
            let label = escape(&(self.y_format)(tick));
            writeln!(out, "<text class=\"y\" x=\"{}\" y=\"{:.1}\">{label}</text>", LEFT - 7.0, at + 4.0)?;
        }
        for tick in x.ticks() {
            let at = x.at(tick);
            let bottom = HEIGHT - BOTTOM;
            writeln!(
                out,
                "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{}\"/>",
                bottom + 5.0
            )?;
            let label = escape(&(self.x_format)(tick));
            writeln!(out, "<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{label}</text>", bottom + 18.0)?;
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        writeln!(
            out,
            "<text class=\"x\" x=\"{middle}\" y=\"{}\">{}</text>",
            HEIGHT - 5.0,
            escape(self.x_label)
        )?;
        for (index, series) in self.series.iter().enumerate() {
            write_series(out, index, series, x, y)?;
        }
        writeln!(out, "</svg></figure>")
    }
}

fn write_series(out: &mut String, index: usize, series: &Series<'_>, x: Scale, y: Scale) -> std::fmt::Result {
    let pixels: Vec<(f64, f64)> =
        thinned(&series.points).into_iter().map(|(px, py)| (x.at(px), y.at(py))).collect();
    let (Some(first), Some(last)) = (pixels.first(), pixels.last()) else { return Ok(()) };
    if series.style == Style::Dots {
        for (px, py) in &pixels {
            writeln!(out, "<circle class=\"c{index}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2.2\"/>")?;
        }
        return Ok(());
    }
    let path: String = pixels.iter().map(|(px, py)| format!("{px:.1},{py:.1} ")).collect();
    if series.style == Style::Area {
        let bottom = HEIGHT - BOTTOM;
        writeln!(
            out,
            "<polygon class=\"c{index}\" points=\"{:.1},{bottom} {path}{:.1},{bottom}\"/>",
            first.0, last.0
        )?;
    }
    let dashed = if series.style == Style::Dashed { " dashed" } else { "" };
    writeln!(out, "<polyline class=\"c{index}{dashed}\" points=\"{}\"/>", path.trim_end())
}

/// At most [`POINTS_MAX`] points, the last one always among them.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(POINTS_MAX).max(1);
    let mut kept: Vec<(f64, f64)> = points.iter().step_by(step).copied().collect();
    if let Some(last) = points.last().filter(|last| kept.last() != Some(last)) {
        kept.push(*last);
    }
    kept
}

/// Text for HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>, y_logarithmic: bool) -> Plot<'static> {
        Plot {
            title: "T & t",
            note: String::new(),
            x_label: "s",
            x_format: |x| format!("{x}"),
            y_format: |y| format!("{y}"),
            phases: vec![(0.0, 5.0, "ramp")],
            series: vec![Series { name: "a", points, style: Style::Area }],
            y_logarithmic,
        }
    }

    #[test]
    fn steps_are_ones_twos_and_fives() {
        for (rough, nice) in
            [(0.9, 1.0), (1.1, 2.0), (3.0, 5.0), (7.0, 10.0), (0.03, 0.05), (190_000.0, 200_000.0)]
        {
            assert!((nice_step(rough) / nice - 1.0).abs() < 1e-9, "{rough} → {}", nice_step(rough));
        }
    }

    #[test]
    fn points_stay_in_the_picture() {
        let svg = plot((0..=10).map(|x| (f64::from(x), f64::from(x * x))).collect(), false).render();
        let line = svg.lines().find(|line| line.starts_with("<polyline")).unwrap();
        let points = line.split('"').nth(3).unwrap();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
        }
        assert!(svg.contains("T &amp; t"), "text is escaped");
    }

    #[test]
    fn a_logarithmic_axis_has_decades() {
        let svg = plot(vec![(0.0, 30.0), (50.0, 2_000.0), (100.0, 90_000.0)], true).render();
        for label in [">10<", ">100<", ">1000<", ">10000<", ">100000<"] {
            assert!(svg.contains(label), "{label} in {svg}");
        }
    }

    #[test]
    fn odd_data_makes_no_odd_numbers() {
        for points in
            [vec![(0.0, 0.0), (1.0, 0.0)], vec![(3.0, 5.0), (3.0, 5.0)], vec![(0.0, -5.0), (1.0, 3.0)]]
        {
            for logarithmic in [false, true] {
                let svg = plot(points.clone(), logarithmic).render();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
        assert_eq!(plot(vec![(0.0, 1.0)], false).render(), "");
    }

    #[test]
    fn many_points_are_thinned_and_the_last_is_kept() {
        let points: Vec<(f64, f64)> = (0..10_001).map(|x| (f64::from(x), 1.0)).collect();
        let kept = thinned(&points);
        assert!(kept.len() <= POINTS_MAX + 1);
        assert_eq!(kept.last(), Some(&(10_000.0, 1.0)));
    }
}
