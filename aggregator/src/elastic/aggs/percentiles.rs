//! `percentiles`: exact, from all values of a field, with a limit of values held.
//!
//! In: settings, documents. Out: `values` by percent. Touches nothing.

use serde_json::{Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::{Body, number};
use super::bucket::{MAX_KEYS, numeric, too_many_values};

const DEFAULT: [f64; 7] = [1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0];
/// Values held at most.
const MAX_VALUES: usize = 10 * MAX_KEYS;

/// Settings.
#[derive(Debug, Clone)]
pub struct Percentiles {
    field: String,
    percents: Vec<f64>,
    keyed: bool,
}

impl Percentiles {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        let percents = match body.get("percents").and_then(Json::as_array) {
            None => DEFAULT.to_vec(),
            Some(list) => list.iter().filter_map(number).collect(),
        };
        if percents.is_empty() || percents.iter().any(|p| !(0.0..=100.0).contains(p)) {
            return Err(ApiError::argument("[percents] must be a list of numbers from 0 to 100"));
        }
        Ok(Self { field: body.field()?, percents, keyed: body.get("keyed") != Some(&Json::Bool(false)) })
    }

    /// Takes one document.
    pub fn collect(&self, name: &str, numbers: &mut Vec<f64>, doc: &Doc<'_>) -> Result<(), ApiError> {
        let before = numbers.len();
        numbers.extend(doc.values(&self.field).iter().filter_map(numeric));
        doc.hold((numbers.len() - before) * size_of::<f64>())?;
        if numbers.len() > MAX_VALUES { Err(too_many_values(name)) } else { Ok(()) }
    }

    /// The answer.
    pub fn answer(&self, mut numbers: Vec<f64>) -> Json {
        numbers.sort_unstable_by(f64::total_cmp);
        let all = self.percents.iter().map(|p| (p, percentile(&numbers, *p).map_or(Json::Null, Json::from)));
        let values: Json = if self.keyed {
            Json::Object(all.map(|(p, value)| (json!(p).to_string(), value)).collect())
        } else {
            all.map(|(p, value)| json!({"key": p, "value": value})).collect()
        };
        json!({"values": values})
    }
}

/// Linear interpolation between the neighbours, as t-digest does on few values.
fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let at = percent / 100.0 * (sorted.len().checked_sub(1)?) as f64;
    let (low, high) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let sorted = [1.0, 2.0, 3.0, 4.0, 5.0];
        for (percent, want) in [(0.0, 1.0), (50.0, 3.0), (25.0, 2.0), (90.0, 4.6), (100.0, 5.0)] {
            assert!((percentile(&sorted, percent).unwrap() - want).abs() < 1e-9, "{percent}");
        }
        assert_eq!(percentile(&[], 50.0), None);
    }
}
