//! Time intervals: when a route is muted or active, by clock, weekday, day, month and year in a time zone.
//!
//! In: the texts of `time_intervals` in `alertmanager.yml`. Out: whether a moment lies inside. Touches the system's time zone
//! where an interval asks for `Local`.

use chrono::{DateTime, Datelike, Local, NaiveDate, NaiveDateTime, Timelike, Utc};
use chrono_tz::Tz;

/// Where the clock stands that an interval looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// By its name; UTC where none is given.
    Named(Tz),
    /// That of this system.
    Local,
}

/// Moments that satisfy every kind of range given; of one kind any range will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeInterval {
    /// Minutes of the day, from and before.
    pub times: Vec<(u32, u32)>,
    /// Days of the week from 0, Sunday, both ends included.
    pub weekdays: Vec<(i32, i32)>,
    /// Days of the month from 1, or from -1 for the last, both ends included.
    pub days_of_month: Vec<(i32, i32)>,
    /// Months from 1, both ends included.
    pub months: Vec<(i32, i32)>,
    /// Years, both ends included.
    pub years: Vec<(i32, i32)>,
    /// Whose clock.
    pub zone: Zone,
}

impl Default for TimeInterval {
    /// Always.
    fn default() -> Self {
        let none = Vec::new;
        Self {
            times: Vec::new(),
            weekdays: none(),
            days_of_month: none(),
            months: none(),
            years: none(),
            zone: Zone::Named(Tz::UTC),
        }
    }
}

impl TimeInterval {
    /// Whether a moment lies inside, ns since 1970.
    pub fn contains(&self, at_ns: i64) -> bool {
        let utc: DateTime<Utc> = DateTime::from_timestamp_nanos(at_ns);
        let at: NaiveDateTime = match self.zone {
            Zone::Named(zone) => utc.with_timezone(&zone).naive_local(),
            Zone::Local => utc.with_timezone(&Local).naive_local(),
        };
        let is_in = |ranges: &[(i32, i32)], value: i32| {
            ranges.is_empty() || ranges.iter().any(|(first, last)| (*first..=*last).contains(&value))
        };
        let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let minute = at.hour() * 60 + at.minute();
        (self.times.is_empty() || self.times.iter().any(|(from, before)| (*from..*before).contains(&minute)))
            && self.has_day(&at)
            && is_in(&self.months, number(at.month()))
            && is_in(&self.weekdays, number(at.weekday().num_days_from_sunday()))
            && is_in(&self.years, at.year())
    }

    fn has_day(&self, at: &NaiveDateTime) -> bool {
        let length = i32::from(days_in_month(at.year(), at.month()));
        let day = i32::try_from(at.day()).unwrap_or(i32::MAX);
        let in_month = |day: i32| if day < 0 { length + day + 1 } else { day };
        self.days_of_month.is_empty()
            || self.days_of_month.iter().any(|(first, last)| (in_month(*first)..=in_month(*last)).contains(&day))
    }
}

fn days_in_month(year: i32, month: u32) -> u8 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    let first = NaiveDate::from_ymd_opt(next_year, next, 1).and_then(|first| first.pred_opt());
    first.and_then(|last| u8::try_from(last.day()).ok()).unwrap_or(31)
}

/// `HH:MM` as minutes of the day, up to `24:00`.
pub fn clock(text: &str) -> Result<u32, String> {
    let bad = || format!("invalid time `{text}`: write it as `HH:MM`, from 00:00 to 24:00");
    let (hours, minutes) = text.split_once(':').ok_or_else(bad)?;
    let two = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two(hours) || !two(minutes) {
        return Err(bad());
    }
    let (hours, minutes): (u32, u32) = (hours.parse().map_err(|_| bad())?, minutes.parse().map_err(|_| bad())?);
    let is_good = minutes < 60 && (hours < 24 || (hours == 24 && minutes == 0));
    if is_good { Ok(hours * 60 + minutes) } else { Err(bad()) }
}

/// A zone of the IANA database, `Local`, or nothing for UTC.
pub fn zone(text: &str) -> Result<Zone, String> {
    match text {
        "" | "UTC" => Ok(Zone::Named(Tz::UTC)),
        "Local" => Ok(Zone::Local),
        name => name.parse().map(Zone::Named).map_err(|_| {
            format!("unknown time zone `{name}`: write one of the IANA database as `Europe/Berlin`, `UTC` or `Local`")
        }),
    }
}

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// One value, or two with a colon between them.
fn range(text: &str, one: impl Fn(&str) -> Result<i32, String>) -> Result<(i32, i32), String> {
    match text.split_once(':') {
        Some((first, last)) => Ok((one(first.trim())?, one(last.trim())?)),
        None => one(text.trim()).map(|only| (only, only)),
    }
}

fn number(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("invalid number `{text}`"))
}

fn place(names: &[&str], text: &str) -> Option<i32> {
    let at = names.iter().position(|name| name.eq_ignore_ascii_case(text))?;
    i32::try_from(at).ok()
}

/// `monday` or `monday:friday`.
pub fn weekdays(text: &str) -> Result<(i32, i32), String> {
    let named = |text: &str| {
        place(&WEEKDAYS, text).ok_or_else(|| format!("invalid weekday `{text}`: write its whole English name"))
    };
    let (first, last) = range(text, named)?;
    if first > last {
        return Err(format!("`{text}` ends before it begins: weeks begin with sunday, write two ranges"));
    }
    Ok((first, last))
}

/// `1`, `1:5` or `-3:-1`.
pub fn days_of_month(text: &str) -> Result<(i32, i32), String> {
    let (first, last) = range(text, |text| {
        let day = number(text)?;
        let is_good = day != 0 && (-31..=31).contains(&day);
        if is_good {
            Ok(day)
        } else {
            Err(format!("invalid day `{text}`: days are 1 to 31, or -1 to -31 from the end"))
        }
    })?;
    if first < 0 && last > 0 {
        return Err(format!("`{text}` begins from the end of the month: its end must do so too"));
    }
    // In the shortest month.
    let least = |day: i32| if day < 0 { 28 + day } else { day };
    if least(first) > least(last) {
        return Err(format!("`{text}` ends before it begins"));
    }
    Ok((first, last))
}

/// `january`, `1` or `may:august`.
pub fn months(text: &str) -> Result<(i32, i32), String> {
    let (first, last) = range(text, |text| match place(&MONTHS, text) {
        Some(at) => Ok(at + 1),
        None => number(text).map_err(|_| format!("invalid month `{text}`: write its number or whole English name")),
    })?;
    if first > last {
        return Err(format!("`{text}` ends before it begins: write two ranges"));
    }
    Ok((first, last))
}

/// `2026` or `2026:2030`.
pub fn years(text: &str) -> Result<(i32, i32), String> {
    let (first, last) = range(text, number)?;
    if first > last { Err(format!("`{text}` ends before it begins")) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_nanos_opt().unwrap()
    }

    #[test]
    fn moments_lie_inside_by_the_clock_of_the_zone() {
        let named = |name: &str| zone(name).unwrap();
        let nights = TimeInterval { times: vec![(0, 390), (1320, 1440)], ..TimeInterval::default() };
        let berlin = |interval: &TimeInterval| TimeInterval { zone: named("Europe/Berlin"), ..interval.clone() };
        let days =
            |text: &str| TimeInterval { days_of_month: vec![days_of_month(text).unwrap()], ..TimeInterval::default() };
        let week = TimeInterval { weekdays: vec![weekdays("Monday:friday").unwrap()], ..TimeInterval::default() };
        let summer = TimeInterval {
            months: vec![months("may:8").unwrap()],
            years: vec![years("2026:2030").unwrap()],
            ..TimeInterval::default()
        };
        for (interval, moment, want) in [
            (TimeInterval::default(), "2026-02-28T00:00:00Z", true),
            (nights.clone(), "2026-07-01T06:29:59Z", true),
            (nights.clone(), "2026-07-01T06:30:00Z", false),
            (nights.clone(), "2026-07-01T23:59:59Z", true),
            // Summer time: two hours ahead; winter: one.
            (berlin(&nights), "2026-07-01T04:30:00Z", false),
            (berlin(&nights), "2026-07-01T20:00:00Z", true),
            (berlin(&nights), "2026-12-01T20:30:00Z", false),
            (berlin(&nights), "2026-12-01T21:00:00Z", true),
            (days("-1"), "2024-02-29T12:00:00Z", true),
            (days("-1"), "2026-02-27T12:00:00Z", false),
            (days("31"), "2026-02-28T12:00:00Z", false),
            (days("29:31"), "2026-02-28T12:00:00Z", false),
            (days("5:-5"), "2026-02-24T12:00:00Z", true),
            (days("5:-5"), "2026-02-25T12:00:00Z", false),
            (week.clone(), "2026-11-27T23:00:00Z", true),
            (week, "2026-11-28T01:00:00Z", false),
            (summer.clone(), "2026-08-31T23:59:00Z", true),
            (summer.clone(), "2026-09-01T00:00:00Z", false),
            (summer, "2031-06-01T00:00:00Z", false),
        ] {
            assert_eq!(interval.contains(at(moment)), want, "{interval:?} {moment}");
        }
    }

    #[test]
    fn faulty_texts_are_refused() {
        for (text, want) in
            [("00:00", Some(0)), ("24:00", Some(1440)), ("24:30", None), ("9:00", None), ("09:60", None), ("9", None)]
        {
            assert_eq!(clock(text).ok(), want, "{text}");
        }
        for (read, text) in [
            (weekdays as fn(&str) -> Result<(i32, i32), String>, "saturday:sunday"),
            (weekdays, "mon"),
            (days_of_month, "0:3"),
            (days_of_month, "32"),
            (days_of_month, "-3:3"),
            (days_of_month, "-1:-3"),
            (days_of_month, "21:-8"),
            (months, "jan"),
            (months, "june:may"),
            (years, "2030:2026"),
            (years, "soon"),
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(zone("Europe/Atlantis").is_err() && zone("Local").is_ok());
        assert_eq!(days_of_month("20:-8"), Ok((20, -8)));
    }
}
