//! Times in Go's layouts: `2006-01-02T15:04:05.000Z07:00`. Always UTC.

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};

/// Parts of a layout; longer ones first.
const PARTS: [&str; 34] = [
    "January",
    "Jan",
    "Monday",
    "Mon",
    "MST",
    "2006",
    "-07:00:00",
    "-07:00",
    "-0700",
    "-07",
    "Z07:00",
    "Z0700",
    "__2",
    "_2",
    "002",
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "15",
    "PM",
    "pm",
    "1",
    "2",
    "3",
    "4",
    "5",
    ".000",
    ",000",
    ".999",
    ",999",
    "Z07",
];

/// Writes a time in a layout.
pub(super) fn format(time_ns: i64, layout: &str) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp_nanos(time_ns);
    let mut out = String::new();
    let mut rest = layout;
    while let Some(c) = rest.chars().next() {
        if let Some((part, behind)) = fraction(rest) {
            let digits = format!("{:09}", time.nanosecond());
            let shown: String = digits.chars().take(part.len() - 1).collect();
            if part.ends_with('9') {
                let shown = shown.trim_end_matches('0');
                if !shown.is_empty() {
                    out.extend(part.chars().next());
                    out.push_str(shown);
                }
            } else {
                out.extend(part.chars().next());
                out.push_str(&shown);
            }
            rest = behind;
            continue;
        }
        let part = PARTS.iter().find(|p| {
            // `Jan` is no part of `Janus`.
            rest.strip_prefix(**p).is_some_and(|behind| {
                !(matches!(**p, "Jan" | "Mon") && behind.starts_with(|c: char| c.is_ascii_lowercase()))
            })
        });
        match part {
            Some(part) => {
                out.push_str(&show(&time, part));
                rest = rest.get(part.len()..).unwrap_or_default();
            }
            None => {
                out.push(c);
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
    }
    out
}

/// `.000`, `.999999`: a mark and zeros or nines, no digit behind.
fn fraction(text: &str) -> Option<(&str, &str)> {
    let digits = text.strip_prefix(['.', ','])?;
    let first = digits.chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let count = digits.chars().take_while(|c| *c == first).count();
    let (part, behind) = text.split_at(1 + count);
    (!behind.starts_with(|c: char| c.is_ascii_digit())).then_some((part, behind))
}

fn show(time: &DateTime<Utc>, part: &str) -> String {
    let hour12 = match time.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    match part {
        "January" => time.format("%B").to_string(),
        "Jan" => time.format("%b").to_string(),
        "Monday" => time.format("%A").to_string(),
        "Mon" => time.format("%a").to_string(),
        "MST" => "UTC".to_owned(),
        "2006" => format!("{:04}", time.year()),
        "06" => format!("{:02}", time.year() % 100),
        "-07:00:00" => "+00:00:00".to_owned(),
        "-07:00" => "+00:00".to_owned(),
        "-0700" => "+0000".to_owned(),
        "-07" => "+00".to_owned(),
        "Z07:00" | "Z0700" | "Z07" => "Z".to_owned(),
        "__2" => format!("{:3}", time.ordinal()),
        "002" => format!("{:03}", time.ordinal()),
        "_2" => format!("{:2}", time.day()),
        "02" => format!("{:02}", time.day()),
        "2" => time.day().to_string(),
        "01" => format!("{:02}", time.month()),
        "1" => time.month().to_string(),
        "15" => format!("{:02}", time.hour()),
        "03" => format!("{hour12:02}"),
        "3" => hour12.to_string(),
        "04" => format!("{:02}", time.minute()),
        "4" => time.minute().to_string(),
        "05" => format!("{:02}", time.second()),
        "5" => time.second().to_string(),
        "PM" => if time.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        "pm" => if time.hour() < 12 { "am" } else { "pm" }.to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_filled_in() {
        let time = 1_772_370_367_005_000_000;
        for (layout, want) in [
            ("Mon Jan _2 2006", "Sun Mar  1 2026"),
            ("Monday, 02-Jan-06 15:04:05 MST", "Sunday, 01-Mar-26 13:06:07 UTC"),
            ("3:04PM", "1:06PM"),
            ("15:04:05.000", "13:06:07.005"),
            ("15:04:05.999999", "13:06:07.005"),
            ("2006-01-02T15:04:05Z07:00", "2026-03-01T13:06:07Z"),
        ] {
            assert_eq!(format(time, layout), want, "{layout}");
        }
    }
}
