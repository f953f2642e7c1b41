//! What a window of samples gives: sums, extremes, quantiles, rates.
//!
//! In: samples of one series in one window, oldest first, at least one. Out: a number. Touches nothing.

use crate::syntax::tree::RangeOp;

/// A sample: time in ns, value.
pub(crate) type Sample = (i64, f64);

/// Borders of a window: `(from, to]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Exclusive.
    pub from_ns: i64,
    /// Inclusive.
    pub to_ns: i64,
}

/// Computes the value of a window.
pub(crate) fn compute(op: RangeOp, parameter: Option<f64>, window: Window, samples: &[Sample]) -> f64 {
    let values = || samples.iter().map(|(_, v)| *v);
    let seconds = (window.to_ns - window.from_ns) as f64 / 1e9;
    match op {
        RangeOp::Count => samples.len() as f64,
        RangeOp::Sum | RangeOp::Bytes => values().sum(),
        RangeOp::Rate | RangeOp::BytesRate => values().sum::<f64>() / seconds,
        RangeOp::RateCounter => rate_counter(samples, window),
        RangeOp::Avg => values().sum::<f64>() / samples.len() as f64,
        RangeOp::Min => values().fold(f64::NAN, |min, v| if v < min || min.is_nan() { v } else { min }),
        RangeOp::Max => values().fold(f64::NAN, |max, v| if v > max || max.is_nan() { v } else { max }),
        RangeOp::Stdvar => variance(values()),
        RangeOp::Stddev => variance(values()).sqrt(),
        RangeOp::Quantile => quantile(parameter.unwrap_or(f64::NAN), values().collect()),
        RangeOp::First => samples.first().map_or(f64::NAN, |(_, v)| *v),
        RangeOp::Last => samples.last().map_or(f64::NAN, |(_, v)| *v),
        RangeOp::Absent => 1.0,
    }
}

/// Population variance, in one stable pass.
pub(super) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - mean;
        mean += delta / count;
        squares += delta * (value - mean);
    }
    squares / count
}

/// Linear between the two nearest ranks; beyond 0 and 1 infinite.
fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    // NaN is the least, as in Prometheus.
    values.sort_by(|a, b| match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        (false, false) => a.total_cmp(b),
    });
    let rank = q * (values.len() as f64 - 1.0);
    let lower = rank.floor().max(0.0) as usize;
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
    at(lower) * (1.0 - weight) + at(upper) * weight
}

/// Increase of a counter that may start anew, per second, extrapolated to the borders of the window as Prometheus
/// does: not further than a little more than the usual distance of samples, nor below zero.
fn rate_counter(samples: &[Sample], window: Window) -> f64 {
    let (Some((first_ns, first)), Some((last_ns, last))) = (samples.first(), samples.last()) else { return 0.0 };
    if samples.len() < 2 {
        return 0.0;
    }
    let mut increase = last - first;
    let mut before = 0.0;
    for (_, value) in samples {
        if *value < before {
            increase += before;
        }
        before = *value;
    }
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1e9;
    let sampled = seconds(*first_ns, *last_ns);
    let average = sampled / (samples.len() - 1) as f64;
    let mut to_start = seconds(window.from_ns, *first_ns);
    let to_end = seconds(*last_ns, window.to_ns);
    if increase > 0.0 && *first >= 0.0 {
        to_start = to_start.min(sampled * (first / increase));
    }
    let near = |distance: f64| if distance < average * 1.1 { distance } else { average / 2.0 };
    let covered = sampled + near(to_start) + near(to_end);
    increase * (covered / sampled) / seconds(window.from_ns, window.to_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_give_numbers() {
        let samples: Vec<Sample> = [(0, 1.0), (1, 4.0), (2, 2.0), (3, f64::NAN)].to_vec();
        let finite = &samples[..3];
        let window = Window { from_ns: -1_000_000_000, to_ns: 1_000_000_000 };
        for (op, parameter, want) in [
            (RangeOp::Count, None, 3.0),
            (RangeOp::Sum, None, 7.0),
            (RangeOp::Rate, None, 3.5),
            (RangeOp::Avg, None, 7.0 / 3.0),
            (RangeOp::Min, None, 1.0),
            (RangeOp::Max, None, 4.0),
            (RangeOp::First, None, 1.0),
            (RangeOp::Last, None, 2.0),
            (RangeOp::Quantile, Some(0.5), 2.0),
            (RangeOp::Quantile, Some(0.75), 3.0),
            (RangeOp::Quantile, Some(1.5), f64::INFINITY),
            (RangeOp::Quantile, Some(-1.0), f64::NEG_INFINITY),
        ] {
            assert_eq!(compute(op, parameter, window, finite), want, "{op:?}");
        }
        assert_eq!(compute(RangeOp::Max, None, window, &samples), 4.0);
        assert!((compute(RangeOp::Stdvar, None, window, finite) - 14.0 / 9.0).abs() < 1e-12);
        let counter = [(100_000_000, 10.0), (300_000_000, 12.0), (500_000_000, 1.0)];
        let window = Window { from_ns: 0, to_ns: 600_000_000 };
        assert!((compute(RangeOp::RateCounter, None, window, &counter) - 3.0 * (0.6 / 0.4) / 0.6).abs() < 1e-9);
        assert_eq!(compute(RangeOp::RateCounter, None, window, &samples[..1]), 0.0);
    }
}
