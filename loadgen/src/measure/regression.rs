//! A straight line through samples: bytes against connections gives bytes per connection.
//!
//! Ordinary least squares with Student's confidence interval. The samples of one ramp follow one another, so
//! their errors are not independent and the true interval is somewhat wider than the printed one; what a table
//! that doubles does to the line is seen in `r_squared` and in the plot.

use serde::Serialize;

/// The line `y = intercept + slope · x` and how well it fits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Line {
    /// Change of y per unit of x.
    pub slope: f64,
    /// y at x = 0.
    pub intercept: f64,
    /// Half the width of the slope's 95 % confidence interval.
    pub slope_error: f64,
    /// Share of y's variance that the line explains.
    pub r_squared: f64,
    /// How many samples it goes through.
    pub samples: usize,
}

impl Line {
    /// Fits a line; `None` with fewer than three samples or when x does not vary.
    #[must_use]
    pub fn fit(samples: &[(f64, f64)]) -> Option<Self> {
        let count = samples.len();
        if count < 3 {
            return None;
        }
        let n = count as f64;
        let mean_x = samples.iter().map(|sample| sample.0).sum::<f64>() / n;
        let mean_y = samples.iter().map(|sample| sample.1).sum::<f64>() / n;
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (x, y) in samples {
            let (dx, dy) = (x - mean_x, y - mean_y);
            xx += dx * dx;
            xy += dx * dy;
            yy += dy * dy;
        }
        if xx <= 0.0 {
            return None;
        }
        let slope = xy / xx;
        let intercept = mean_y - slope * mean_x;
        let residuals: f64 = samples.iter().map(|(x, y)| (y - intercept - slope * x).powi(2)).sum();
        let degrees = count - 2;
        let slope_error = student_975(degrees) * (residuals / degrees as f64 / xx).sqrt();
        let r_squared = if yy > 0.0 { 1.0 - residuals / yy } else { 1.0 };
        Some(Self { slope, intercept, slope_error, r_squared, samples: count })
    }
}

/// The 97.5 % quantile of Student's t: exact for 1 and 2 degrees, else the expansion of Abramowitz and Stegun
/// 26.7.5, good to 1 % from 3 degrees on.
fn student_975(degrees: usize) -> f64 {
    const X: f64 = 1.959_964;
    let v = degrees as f64;
    match degrees {
        0 | 1 => 12.706,
        2 => 4.303,
        _ => {
            let g1 = (X.powi(3) + X) / 4.0;
            let g2 = (5.0 * X.powi(5) + 16.0 * X.powi(3) + 3.0 * X) / 96.0;
            let g3 = (3.0 * X.powi(7) + 19.0 * X.powi(5) + 17.0 * X.powi(3) - 15.0 * X) / 384.0;
            X + g1 / v + g2 / v.powi(2) + g3 / v.powi(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn finds_an_exact_line() {
        let samples: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 7.0 + 3.0 * f64::from(x))).collect();
        let line = Line::fit(&samples).unwrap();
        assert!((line.slope - 3.0).abs() < 1e-12 && (line.intercept - 7.0).abs() < 1e-12);
        assert!(line.slope_error < 1e-9 && (line.r_squared - 1.0).abs() < 1e-12);
    }

    #[test]
    fn agrees_with_a_worked_example() {
        // Heights and weights of 15 women, a textbook's example: slope 61.272, s.e. 1.776, t(13) = 2.160.
        let heights =
            [1.47, 1.50, 1.52, 1.55, 1.57, 1.60, 1.63, 1.65, 1.68, 1.70, 1.73, 1.75, 1.78, 1.80, 1.83];
        let weights = [
            52.21, 53.12, 54.48, 55.84, 57.20, 58.57, 59.93, 61.29, 63.11, 64.47, 66.28, 68.10, 69.92, 72.19,
            74.46,
        ];
        let samples: Vec<(f64, f64)> = heights.into_iter().zip(weights).collect();
        let line = Line::fit(&samples).unwrap();
        assert!((line.slope - 61.272).abs() < 0.001, "{line:?}");
        assert!((line.intercept + 39.062).abs() < 0.001, "{line:?}");
        assert!((line.slope_error - 1.776 * 2.160).abs() < 0.01, "{line:?}");
    }

    #[test]
    fn the_interval_holds_the_truth_about_95_times_in_100() {
        let mut random = Random::new(11);
        let mut normal = || (0..12).map(|_| random.bits() as f64 / u64::MAX as f64).sum::<f64>() - 6.0;
        let trials = 2_000;
        let hits = (0..trials)
            .filter(|_| {
                let samples: Vec<(f64, f64)> =
                    (0..8).map(|x| (f64::from(x), 2.0 * f64::from(x) + normal())).collect();
                let line = Line::fit(&samples).unwrap();
                (line.slope - 2.0).abs() <= line.slope_error
            })
            .count();
        let share = hits as f64 / f64::from(trials);
        assert!((0.935..0.965).contains(&share), "the interval held the truth in {share} of the trials");
    }

    #[test]
    fn too_little_to_say_anything() {
        assert_eq!(Line::fit(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(Line::fit(&[(5.0, 1.0), (5.0, 2.0), (5.0, 3.0)]), None);
    }
}
