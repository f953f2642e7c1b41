//! Numbers, durations and sizes out of lines, with the errors that Go's parsers give.
//!
//! In: the text of a label. Out: its value, or the text of the fault. Touches nothing.

use super::quantity;

/// A number as Go reads it.
pub(crate) fn float(text: &str) -> Result<f64, String> {
    let fault = |why| format!("strconv.ParseFloat: parsing {}: {why}", quantity::quote(text));
    // Rust alone takes none of Go's hexadecimal numbers and underscores; both take `inf` and `nan`.
    let number = text.parse::<f64>().map_err(|_| fault("invalid syntax"))?;
    // Rust rounds what is beyond its numbers to infinity.
    if number.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err(fault("value out of range"));
    }
    Ok(number)
}

/// A number in a query or template: neither `inf` nor `nan`, nor beyond the range.
pub(crate) fn literal(digits: &str) -> Option<f64> {
    digits.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A duration as Go reads it, in ns.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    quantity::go_duration(text).ok_or_else(|| {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'));
        if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+')) && unit.is_empty() {
            format!("time: missing unit in duration {}", quantity::quote(text))
        } else if text.starts_with(|c: char| c.is_ascii_digit()) {
            let unit: String = unit.chars().take_while(|c| *c != '.' && !c.is_ascii_digit()).collect();
            format!("time: unknown unit {} in duration {}", quantity::quote(&unit), quantity::quote(text))
        } else {
            format!("time: invalid duration {}", quantity::quote(text))
        }
    })
}

/// A size as go-humanize reads it.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    quantity::bytes(text).ok_or_else(|| {
        let digits = text.bytes().take_while(|b| b.is_ascii_digit() || matches!(b, b'.' | b',')).count();
        let (number, unit) = text.split_at(digits);
        if number.parse::<f64>().is_ok() {
            format!("unhandled size name: {}", unit.trim().to_lowercase())
        } else {
            format!("strconv.ParseFloat: parsing {}: invalid syntax", quantity::quote(number))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_floats_are_out_of_range() {
        for (text, want) in [
            ("1.5e3", Ok(1500.0)),
            ("-inf", Ok(f64::NEG_INFINITY)),
            ("1e309", Err("strconv.ParseFloat: parsing \"1e309\": value out of range")),
            ("1x", Err("strconv.ParseFloat: parsing \"1x\": invalid syntax")),
        ] {
            assert_eq!(float(text), want.map_err(str::to_owned), "{text}");
        }
        assert_eq!(["1e309", "inf", "nan", "x", "2.5"].map(literal), [None, None, None, None, Some(2.5)]);
    }
}
