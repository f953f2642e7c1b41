//! Numbers of documents and requests: whole ones exactly, others as doubles.
//!
//! In: JSON numbers, texts. Out: values that compare, hash and print without loss. Touches nothing.
//!
//! A double tells whole numbers apart up to 2^53 only. Sort keys of `search_after`, terms and ranges must not take two ids
//! beyond that for one, so the numbers from -2^63 to 2^64 - 1 (what `long` and `unsigned_long` hold) are kept as they are.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use serde_json::Value as Json;

/// A number that is not NaN.
#[derive(Debug, Clone, Copy)]
pub struct Number(Form);

/// Equal numbers have the same form: a double that is a whole number within the bounds is `Whole`.
#[derive(Debug, Clone, Copy)]
enum Form {
    Whole(i128),
    Double(f64),
}

/// Bounds of whole numbers.
const WHOLE: std::ops::RangeInclusive<i128> = i64::MIN as i128..=u64::MAX as i128;

impl Number {
    /// A double; `None` for NaN.
    pub fn of_f64(n: f64) -> Option<Self> {
        if n.is_nan() {
            return None;
        }
        // Casting saturates, which is out of bounds.
        let whole = n as i128;
        let is_whole = n.fract() == 0.0 && WHOLE.contains(&whole);
        Some(Self(if is_whole { Form::Whole(whole) } else { Form::Double(n) }))
    }

    /// A number of a document or a request.
    pub fn of_json(n: &serde_json::Number) -> Option<Self> {
        let whole = n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
        whole.map(|n| Self(Form::Whole(n))).or_else(|| n.as_f64().and_then(Self::of_f64))
    }

    /// A text that reads as a number.
    pub fn parse(text: &str) -> Option<Self> {
        match text.parse::<i128>() {
            Ok(whole) if WHOLE.contains(&whole) => Some(Self(Form::Whole(whole))),
            _ => text.parse().ok().and_then(Self::of_f64),
        }
    }

    /// The nearest double, for arithmetic.
    pub fn as_f64(self) -> f64 {
        match self.0 {
            Form::Whole(n) => n as f64,
            Form::Double(n) => n,
        }
    }

    /// Without the fraction, within the bounds of i64.
    pub fn as_i64(self) -> i64 {
        match self.0 {
            Form::Whole(n) => i64::try_from(n).unwrap_or(i64::MAX),
            Form::Double(n) => n as i64,
        }
    }

    /// As people and Elasticsearch write it: whole numbers without a fraction.
    pub fn text(self) -> String {
        match self.0 {
            Form::Whole(n) => n.to_string(),
            Form::Double(n) => n.to_string(),
        }
    }

    /// As JSON.
    pub fn json(self) -> Json {
        match self.0 {
            Form::Whole(n) => match (i64::try_from(n), u64::try_from(n)) {
                (Ok(n), _) => n.into(),
                (_, Ok(n)) => n.into(),
                _ => Json::Null,
            },
            Form::Double(n) => serde_json::Number::from_f64(n).map_or(Json::Null, Json::Number),
        }
    }
}

impl From<i64> for Number {
    fn from(n: i64) -> Self {
        Self(Form::Whole(n.into()))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Form::Whole(a), Form::Whole(b)) => a.cmp(&b),
            (Form::Double(a), Form::Double(b)) => a.total_cmp(&b),
            (Form::Whole(a), Form::Double(b)) => compare(a, b),
            (Form::Double(a), Form::Whole(b)) => compare(b, a).reverse(),
        }
    }
}

/// A whole number against a double that is none, or out of bounds.
fn compare(whole: i128, double: f64) -> Ordering {
    // Beyond the bounds casting saturates, which keeps the order; within them the fraction decides.
    let below = double.floor() as i128;
    whole.cmp(&below).then(if double > double.floor() { Ordering::Less } else { Ordering::Equal })
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Form::Whole(n) => n.hash(state),
            Form::Double(n) => n.to_bits().hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_exactly() {
        let ascending = [
            "-inf",
            "-1e300",
            "-9223372036854775809",
            "-9223372036854775808",
            "-2.5",
            "-2",
            "0",
            "0.5",
            "1",
            "9007199254740992",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "1e300",
            "inf",
        ];
        let numbers: Vec<Number> = ascending.iter().map(|text| Number::parse(text).unwrap()).collect();
        for (i, a) in numbers.iter().enumerate() {
            for (j, b) in numbers.iter().enumerate() {
                // The nearest double of -2^63 - 1 is -2^63.
                let same = [i, j].iter().all(|at| (2..=3).contains(at));
                assert_eq!(
                    a.cmp(b),
                    if same { Ordering::Equal } else { i.cmp(&j) },
                    "{} {}",
                    ascending[i],
                    ascending[j]
                );
            }
        }
    }

    #[test]
    fn equal_numbers_have_one_form_and_print_the_same() {
        for (one, other, text) in [
            ("1", "1.0", "1"),
            ("1000", "1e3", "1000"),
            ("0", "-0.0", "0"),
            ("9007199254740993", "9007199254740993", "9007199254740993"),
            ("18446744073709551615", "18446744073709551615", "18446744073709551615"),
            ("0.25", "25e-2", "0.25"),
        ] {
            let (a, b) = (Number::parse(one).unwrap(), Number::parse(other).unwrap());
            assert_eq!((a, a.text(), a.json().to_string()), (b, text.to_owned(), text.to_owned()));
            let json: serde_json::Number = serde_json::from_str(one).unwrap();
            assert_eq!(Number::of_json(&json), Some(a));
        }
        assert_eq!((Number::parse("NaN"), Number::parse("x"), Number::parse("")), (None, None, None));
    }
}
