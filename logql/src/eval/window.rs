//! What a window of samples gives: sums, extremes, quantiles, rates.
//!
//! In: samples of one series in one window, oldest first, at least one. Out: a number. Touches nothing.

use crate::syntax::tree::RangeOp;

/// A sample: time in ns, value.
pub(crate) type Sample = (i64, f64);

/// Computes the value of a window of `range_ns`.
pub(crate) fn compute(op: RangeOp, parameter: Option<f64>, range_ns: i64, samples: &[Sample]) -> f64 {
    let values = || samples.iter().map(|(_, v)| *v);
    let seconds = range_ns as f64 / 1e9;
    match op {
        RangeOp::Count => samples.len() as f64,
        RangeOp::Sum | RangeOp::Bytes => values().sum(),
        RangeOp::Rate | RangeOp::BytesRate => values().sum::<f64>() / seconds,
        RangeOp::RateCounter => rate_counter(samples, range_ns),
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

/// Increase of a counter that may start anew, per second, as Loki extrapolates it: its reader takes the range in
/// milliseconds for the unit of the samples' times, nanoseconds.
fn rate_counter(samples: &[Sample], range_ns: i64) -> f64 {
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
    let sampled = (last_ns - first_ns) as f64 / 1000.0;
    let mut to_start = range_ns as f64 / 1e6 / 1000.0;
    let average = sampled / (samples.len() - 1) as f64;
    if increase > 0.0 && *first >= 0.0 {
        to_start = to_start.min(sampled * (first / increase));
    }
    let threshold = average * 1.1;
    let covered = sampled + if to_start < threshold { to_start } else { average / 2.0 };
    increase * (covered / sampled) / (range_ns as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_give_numbers() {
        let samples: Vec<Sample> = [(0, 1.0), (1, 4.0), (2, 2.0), (3, f64::NAN)].to_vec();
        let finite = &samples[..3];
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
            assert_eq!(compute(op, parameter, 2_000_000_000, finite), want, "{op:?}");
        }
        assert_eq!(compute(RangeOp::Max, None, 1, &samples), 4.0);
        assert!((compute(RangeOp::Stdvar, None, 1, finite) - 14.0 / 9.0).abs() < 1e-12);
        assert_eq!(compute(RangeOp::RateCounter, None, 1, &samples[..1]), 0.0);
    }
}
