//! Times and durations as Go has them: zones, layouts (`2006-01-02 15:04:05`), methods' arithmetic.
//!
//! In: nanoseconds, zone names, layouts. Out: text and numbers. Touches nothing: the clock is the caller's.

use chrono::{DateTime, Datelike as _, FixedOffset, Offset as _, TimeDelta, Timelike as _, Utc};
use chrono_tz::{OffsetName as _, Tz};

/// A moment in a zone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GoTime {
    pub utc: DateTime<Utc>,
    pub zone: Zone,
}

/// Where a time is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Zone {
    Utc,
    Named(Tz),
    Fixed(FixedOffset),
}

/// Seconds of a day's parts, shifted to the zone, with its name.
struct Local {
    time: DateTime<FixedOffset>,
    name: String,
}

impl GoTime {
    /// Nanoseconds since 1970, in UTC.
    pub fn from_ns(ns: i64) -> Self {
        Self { utc: DateTime::from_timestamp_nanos(ns), zone: Zone::Utc }
    }

    /// Go's zero time: what alerts that have not ended have as their end.
    pub fn zero() -> Self {
        Self { utc: DateTime::from_timestamp(-62_135_596_800, 0).unwrap_or_default(), zone: Zone::Utc }
    }

    /// RFC 3339, as JSON has times.
    pub fn parse_json(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        let zone = if time.offset().local_minus_utc() == 0 { Zone::Utc } else { Zone::Fixed(*time.offset()) };
        Some(Self { utc: time.with_timezone(&Utc), zone })
    }

    /// The same moment in the zone of this name.
    pub fn in_zone(self, name: &str) -> Option<Self> {
        let zone = match name {
            "" | "UTC" | "Local" => Zone::Utc,
            name => Zone::Named(name.parse().ok()?),
        };
        Some(Self { zone, ..self })
    }

    fn local(self) -> Local {
        match self.zone {
            Zone::Utc => Local { time: self.utc.fixed_offset(), name: "UTC".to_owned() },
            Zone::Named(tz) => {
                let time = self.utc.with_timezone(&tz);
                let name = time.offset().abbreviation().map(str::to_owned);
                let time = time.with_timezone(&time.offset().fix());
                Local { time, name: name.unwrap_or_else(|| zone_offset(&time, "-07")) }
            }
            Zone::Fixed(offset) => {
                let time = self.utc.with_timezone(&offset);
                Local { name: zone_offset(&time, "-0700"), time }
            }
        }
    }

    /// In a layout of Go's.
    pub fn format(self, layout: &str) -> String {
        let local = self.local();
        let mut out = String::new();
        let mut rest = layout;
        while let Some(c) = rest.chars().next() {
            match chunk(rest) {
                Some(part) => {
                    show(&local, part, &mut out);
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

    /// As `%v` prints it.
    pub fn show(self) -> String {
        self.format("2006-01-02 15:04:05.999999999 -0700 MST")
    }

    /// As JSON has it.
    pub fn json(self) -> String {
        self.format("2006-01-02T15:04:05.999999999Z07:00")
    }

    /// Nanoseconds to another time, as far as Go's durations reach.
    pub fn minus(self, other: Self) -> i64 {
        let delta = self.utc.signed_duration_since(other.utc);
        delta.num_nanoseconds().unwrap_or(if delta < TimeDelta::zero() { i64::MIN } else { i64::MAX })
    }

    /// Later by so many nanoseconds; the same where the calendar ends.
    pub fn plus(self, ns: i64) -> Self {
        Self { utc: self.utc.checked_add_signed(TimeDelta::nanoseconds(ns)).unwrap_or(self.utc), ..self }
    }

    /// Calendar parts by the name of Go's method.
    pub fn part(self, name: &str) -> Option<i64> {
        let time = self.local().time;
        Some(match name {
            "Year" => time.year().into(),
            "Month" => time.month().into(),
            "Day" => time.day().into(),
            "Hour" => time.hour().into(),
            "Minute" => time.minute().into(),
            "Second" => time.second().into(),
            "Nanosecond" => time.nanosecond().into(),
            "YearDay" => time.ordinal().into(),
            "Weekday" => time.weekday().num_days_from_sunday().into(),
            "Unix" => self.utc.timestamp(),
            "UnixMilli" => self.utc.timestamp_millis(),
            "UnixMicro" => self.utc.timestamp_micros(),
            "UnixNano" => self.utc.timestamp_nanos_opt().unwrap_or(0),
            _ => return None,
        })
    }

    /// Later by years, months and days of the calendar; days over the end of a month run on, as in Go.
    pub fn add_date(self, years: i64, months: i64, days: i64) -> Option<Self> {
        let local = self.local();
        let months = i64::from(local.time.year())
            .checked_add(years)?
            .checked_mul(12)?
            .checked_add(i64::from(local.time.month0()))?
            .checked_add(months)?;
        let year = i32::try_from(months.div_euclid(12)).ok()?;
        let first = chrono::NaiveDate::from_ymd_opt(year, u32::try_from(months.rem_euclid(12)).ok()? + 1, 1)?;
        let days = TimeDelta::try_days(days.checked_add(i64::from(local.time.day0()))?)?;
        let wall = first.checked_add_signed(days)?.and_time(local.time.time());
        let utc = match self.zone {
            Zone::Utc => wall.and_utc(),
            Zone::Fixed(offset) => wall.and_local_timezone(offset).earliest()?.with_timezone(&Utc),
            Zone::Named(tz) => wall.and_local_timezone(tz).earliest()?.with_timezone(&Utc),
        };
        Some(Self { utc, zone: self.zone })
    }
}

/// Names of months.
pub(crate) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// Names of days of the week.
pub(crate) const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Parts of layouts; those that begin another one stand behind it.
const PARTS: [&str; 32] = [
    "January",
    "Jan",
    "Monday",
    "Mon",
    "MST",
    "2006",
    "Z07:00:00",
    "Z070000",
    "Z07:00",
    "Z0700",
    "Z07",
    "-07:00:00",
    "-070000",
    "-07:00",
    "-0700",
    "-07",
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
    "__2",
    "1",
    "2",
    "3",
    "4",
    "5",
];

/// The part of a layout that a text begins with.
fn chunk(text: &str) -> Option<&str> {
    if let Some(digits) = text.strip_prefix(['.', ',']) {
        let first = digits.chars().next().filter(|c| matches!(c, '0' | '9'))?;
        let count = digits.chars().take_while(|c| *c == first).count();
        let (part, behind) = text.split_at(1 + count);
        return (!behind.starts_with(|c: char| c.is_ascii_digit())).then_some(part);
    }
    if text.starts_with("_2") && !text.starts_with("_2006") {
        return text.get(..2);
    }
    let part = PARTS.iter().find(|part| {
        // `Jan` does not begin `Janus`.
        text.strip_prefix(**part).is_some_and(|behind| {
            !(matches!(**part, "Jan" | "Mon") && behind.starts_with(|c: char| c.is_ascii_lowercase()))
        })
    })?;
    text.get(..part.len())
}

fn show(local: &Local, part: &str, out: &mut String) {
    let time = &local.time;
    if part.starts_with(['.', ',']) {
        let digits = format!("{:09}", time.nanosecond());
        let mut shown: String = digits.chars().chain(std::iter::repeat('0')).take(part.len() - 1).collect();
        if part.ends_with('9') {
            shown.truncate(shown.trim_end_matches('0').len());
            if shown.is_empty() {
                return;
            }
        }
        out.extend(part.chars().next());
        out.push_str(&shown);
        return;
    }
    let hour12 = match time.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    let month = MONTHS.get(time.month0() as usize).copied().unwrap_or_default();
    let day = DAYS.get(time.weekday().num_days_from_sunday() as usize).copied().unwrap_or_default();
    let text = match part {
        "January" => month.to_owned(),
        "Jan" => month.chars().take(3).collect(),
        "Monday" => day.to_owned(),
        "Mon" => day.chars().take(3).collect(),
        "MST" => local.name.clone(),
        "2006" => format!("{:04}", time.year()),
        "06" => format!("{:02}", time.year().rem_euclid(100)),
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
        offset => zone_offset(time, offset),
    };
    out.push_str(&text);
}

/// `-07:00`, `Z0700` and their kin.
fn zone_offset(time: &DateTime<FixedOffset>, part: &str) -> String {
    let seconds = time.offset().local_minus_utc();
    if part.starts_with('Z') && seconds == 0 {
        return "Z".to_owned();
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let (hours, minutes, rest) = (seconds.abs() / 3600, seconds.abs() / 60 % 60, seconds.abs() % 60);
    match part.trim_start_matches(['Z', '-']) {
        "07" if minutes == 0 || part != "-07" => format!("{sign}{hours:02}"),
        "07:00" => format!("{sign}{hours:02}:{minutes:02}"),
        "07:00:00" => format!("{sign}{hours:02}:{minutes:02}:{rest:02}"),
        "070000" => format!("{sign}{hours:02}{minutes:02}{rest:02}"),
        _ => format!("{sign}{hours:02}{minutes:02}"),
    }
}

/// A duration as Go prints it: `1h2m3.5s`, `1.5ms`, `0s`.
pub(crate) fn duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let all = ns.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let rest = value % unit;
        let width = unit.checked_ilog10().unwrap_or(0) as usize;
        let digits = format!("{rest:0width$}");
        let digits = digits.trim_end_matches('0');
        let point = if rest == 0 { "" } else { "." };
        format!("{}{point}{}{name}", value / unit, if rest == 0 { "" } else { digits })
    };
    let text = match all {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{all}ns"),
        1_000..1_000_000 => fraction(all, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(all, 1_000_000, "ms"),
        _ => {
            let seconds = fraction(all % 60_000_000_000, 1_000_000_000, "s");
            match (all / 3_600_000_000_000, all / 60_000_000_000 % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_filled_in() {
        let time = GoTime::from_ns(1_772_370_367_005_000_000);
        let berlin = time.in_zone("Europe/Berlin").unwrap();
        for (time, layout, want) in [
            (time, "Mon Jan _2 2006", "Sun Mar  1 2026"),
            (time, "Monday, 02-Jan-06 15:04:05 MST", "Sunday, 01-Mar-26 13:06:07 UTC"),
            (time, "3:04PM .000 .999999", "1:06PM .005 .005"),
            (time, "2006-01-02T15:04:05Z07:00", "2026-03-01T13:06:07Z"),
            (berlin, "2006-01-02T15:04:05.000Z07:00 MST", "2026-03-01T14:06:07.005+01:00 CET"),
            (GoTime::zero(), "2006-01-02 15:04:05 -0700 MST", "0001-01-01 00:00:00 +0000 UTC"),
        ] {
            assert_eq!(time.format(layout), want, "{layout}");
        }
        assert_eq!(time.in_zone("Europe/Nowhere"), None);
    }

    #[test]
    fn durations_are_shown_as_go_does() {
        for (ns, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (-3_661_000_000_001, "-1h1m1.000000001s"),
        ] {
            assert_eq!(duration(ns), want);
        }
    }
}
