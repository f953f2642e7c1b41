//! Times as Elasticsearch reads and shows them: `strict_date_optional_time||epoch_millis`, date math, intervals.
//!
//! In: text. Out: ns since 1970. Touches nothing; `now` is passed in.
//! Source: "Date math" and "date_optional_time" of the Elasticsearch reference.

use chrono::{
    DateTime, Datelike, Duration, FixedOffset, Months, NaiveDate, NaiveDateTime, SecondsFormat, TimeZone, Timelike,
};

/// ISO with milliseconds: `2026-03-01T12:00:00.000Z`.
pub fn iso_millis(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Milliseconds, as JSON numbers give them, in ns. Exact: a product of floats would miss by a millisecond.
pub fn of_millis(ms: f64) -> i64 {
    let whole = ms.floor();
    (whole as i64).saturating_mul(1_000_000).saturating_add(((ms - whole) * 1e6) as i64)
}

/// Reads an ISO date with or without time and zone, or milliseconds since 1970.
pub fn parse(text: &str) -> Option<i64> {
    parse_in(text, FixedOffset::east_opt(0)?)
}

/// The same; times without a zone are in `zone`.
pub fn parse_in(text: &str, zone: FixedOffset) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return time.timestamp_nanos_opt();
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() > 4 && digits.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<i64>().ok()?.checked_mul(1_000_000);
    }
    let naive = naive(text)?;
    zone.from_local_datetime(&naive).single()?.timestamp_nanos_opt()
}

fn naive(text: &str) -> Option<NaiveDateTime> {
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time);
        }
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return day.and_hms_opt(0, 0, 0);
    }
    let mut parts = text.splitn(2, '-');
    let year: i32 = parts.next().filter(|y| y.len() == 4)?.parse().ok()?;
    let month: u32 = parts.next().map_or(Some(1), |m| m.parse().ok())?;
    NaiveDate::from_ymd_opt(year, month, 1)?.and_hms_opt(0, 0, 0)
}

/// Reads date math: `now-1h/d`, `2026-03-01||+1M/M`. `up` rounds to the last millisecond of the unit (for `lte`, `gt`).
pub fn math(text: &str, now_ns: i64, zone: FixedOffset, up: bool) -> Option<i64> {
    let (start, rest) = match text.strip_prefix("now") {
        Some(rest) => (now_ns, rest),
        None => match text.split_once("||") {
            Some((date, rest)) => (parse_in(date, zone)?, rest),
            None => {
                let start = parse_in(text, zone)?;
                // What an upper bound leaves out (time of day, milliseconds) is filled up.
                return match (up, last_unit(text)) {
                    (true, Some(unit)) => {
                        let end = shift(zone.timestamp_nanos(start), 1, unit)? - Duration::milliseconds(1);
                        end.timestamp_nanos_opt()
                    }
                    _ => Some(start),
                };
            }
        },
    };
    let mut at = zone.timestamp_nanos(start);
    let mut rest = rest;
    while let Some(sign) = rest.chars().next() {
        rest = rest.get(1..)?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let number: i64 = if number.is_empty() { 1 } else { number.parse().ok()? };
        let unit = tail.chars().next()?;
        rest = tail.get(unit.len_utf8()..)?;
        at = match sign {
            '+' => shift(at, number, unit)?,
            '-' => shift(at, -number, unit)?,
            '/' => {
                let floor = floor(at, unit)?;
                if up { shift(floor, 1, unit)? - Duration::milliseconds(1) } else { floor }
            }
            _ => return None,
        };
    }
    at.timestamp_nanos_opt()
}

/// The smallest unit that a date names; `None` for milliseconds and plain numbers.
fn last_unit(text: &str) -> Option<char> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, ""));
    let time = time.split(['Z', '+', '-']).next().unwrap_or(time);
    match (date.split('-').count(), time.split(':').filter(|part| !part.is_empty()).count()) {
        (1, _) if date.len() != 4 => None,
        (1, _) => Some('y'),
        (2, _) => Some('M'),
        (_, 0) => Some('d'),
        (_, 1) => Some('h'),
        (_, 2) => Some('m'),
        _ if time.contains('.') => None,
        _ => Some('s'),
    }
}

fn shift(at: DateTime<FixedOffset>, number: i64, unit: char) -> Option<DateTime<FixedOffset>> {
    let months = |n: i64| {
        let months = Months::new(u32::try_from(n.unsigned_abs()).ok()?);
        if n < 0 { at.checked_sub_months(months) } else { at.checked_add_months(months) }
    };
    match unit {
        'y' => months(number.checked_mul(12)?),
        'M' => months(number),
        'w' => at.checked_add_signed(Duration::try_weeks(number)?),
        'd' => at.checked_add_signed(Duration::try_days(number)?),
        'h' | 'H' => at.checked_add_signed(Duration::try_hours(number)?),
        'm' => at.checked_add_signed(Duration::try_minutes(number)?),
        's' => at.checked_add_signed(Duration::try_seconds(number)?),
        _ => None,
    }
}

/// Start of the unit that a time lies in.
fn floor(at: DateTime<FixedOffset>, unit: char) -> Option<DateTime<FixedOffset>> {
    let day = |date: NaiveDate| at.timezone().from_local_datetime(&date.and_hms_opt(0, 0, 0)?).single();
    let date = at.date_naive();
    match unit {
        'y' => day(NaiveDate::from_ymd_opt(date.year(), 1, 1)?),
        'q' => day(NaiveDate::from_ymd_opt(date.year(), (date.month0() / 3) * 3 + 1, 1)?),
        'M' => day(date.with_day(1)?),
        'w' => day(date - Duration::days(i64::from(date.weekday().num_days_from_monday()))),
        'd' => day(date),
        'h' | 'H' => at.with_minute(0)?.with_second(0)?.with_nanosecond(0),
        'm' => at.with_second(0)?.with_nanosecond(0),
        's' => at.with_nanosecond(0),
        _ => None,
    }
}

/// Width of the buckets of a `date_histogram`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Milliseconds, counted from 1970 in the zone.
    Fixed(i64),
    /// One calendar unit: `y`, `q`, `M`, `w`, `d`, `h`, `m`, `s`.
    Calendar(char),
}

impl Interval {
    /// `30s`, `5m`, `1.5h` is refused; units ms, s, m, h, d.
    pub fn fixed(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.parse::<i64>().ok()?.checked_mul(unit).filter(|ms| *ms > 0).map(Self::Fixed)
    }

    /// `1d`, `day`, `1M`, `month` …
    pub fn calendar(text: &str) -> Option<Self> {
        let unit = match text {
            "1s" | "second" => 's',
            "1m" | "minute" => 'm',
            "1h" | "hour" => 'h',
            "1d" | "day" => 'd',
            "1w" | "week" => 'w',
            "1M" | "month" => 'M',
            "1q" | "quarter" => 'q',
            "1y" | "year" => 'y',
            _ => return None,
        };
        Some(Self::Calendar(unit))
    }

    /// Start of the bucket that a time (ms) lies in. `offset_ms` moves the starts.
    pub fn bucket(&self, time_ms: i64, zone: Zone, offset_ms: i64) -> i64 {
        let time_ms = time_ms - offset_ms;
        let start = match self {
            Self::Fixed(width) => {
                let local = time_ms + zone.offset_ms(time_ms);
                let start = local.div_euclid(*width) * width;
                start - zone.offset_ms(start - zone.offset_ms(time_ms))
            }
            Self::Calendar(unit) => zone.floor(time_ms, *unit),
        };
        start + offset_ms
    }

    /// Start of the next bucket.
    pub fn next(&self, start_ms: i64, zone: Zone, offset_ms: i64) -> i64 {
        match self {
            Self::Fixed(width) => start_ms + width,
            Self::Calendar(unit) => {
                let at = zone.at(start_ms - offset_ms);
                let days = |n| at.date_naive().checked_add_days(chrono::Days::new(n));
                let date = match unit {
                    'y' => at.date_naive().checked_add_months(Months::new(12)),
                    'q' => at.date_naive().checked_add_months(Months::new(3)),
                    'M' => at.date_naive().checked_add_months(Months::new(1)),
                    'w' => days(7),
                    'd' => days(1),
                    'h' => return start_ms + 3_600_000,
                    'm' => return start_ms + 60_000,
                    _ => return start_ms + 1000,
                };
                date.map_or(start_ms + 1000, |date| zone.midnight(date)) + offset_ms
            }
        }
    }
}

/// A zone by offset or by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(chrono_tz::Tz, i64);

impl Default for Zone {
    fn default() -> Self {
        Self(chrono_tz::UTC, 0)
    }
}

impl Zone {
    /// `Europe/Berlin`, `UTC`, `Z`, `+02:00`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "Z" {
            return Some(Self::default());
        }
        if let Ok(zone) = text.parse::<chrono_tz::Tz>() {
            return Some(Self(zone, 0));
        }
        let sign = match text.chars().next()? {
            '+' => 1,
            '-' => -1,
            _ => return None,
        };
        let rest = text.get(1..)?;
        let (hours, minutes) = rest.split_once(':').unwrap_or((rest, "0"));
        // Offsets end at 18 hours, as in Elasticsearch (`java.time.ZoneOffset`).
        let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
        let minutes =
            (minutes < 60).then(|| i64::from(hours) * 60 + i64::from(minutes)).filter(|all| *all <= 18 * 60)?;
        Some(Self(chrono_tz::UTC, sign * minutes * 60_000))
    }

    /// Fixed offset of this zone at a time, for date math.
    pub fn fixed(&self, time_ms: i64) -> FixedOffset {
        let seconds = i32::try_from(self.offset_ms(time_ms) / 1000).unwrap_or(0);
        FixedOffset::east_opt(seconds).unwrap_or_else(|| chrono::Offset::fix(&chrono::Utc))
    }

    fn offset_ms(&self, time_ms: i64) -> i64 {
        use chrono::Offset as _;
        let at = DateTime::from_timestamp_millis(time_ms).unwrap_or_default();
        i64::from(self.0.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()) * 1000 + self.1
    }

    fn at(&self, time_ms: i64) -> DateTime<FixedOffset> {
        DateTime::from_timestamp_millis(time_ms).unwrap_or_default().with_timezone(&self.fixed(time_ms))
    }

    fn midnight(&self, date: NaiveDate) -> i64 {
        let local = date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
        local - self.offset_ms(local - self.offset_ms(local))
    }

    fn floor(&self, time_ms: i64, unit: char) -> i64 {
        let at = self.at(time_ms);
        match floor(at, unit) {
            Some(start) if matches!(unit, 'h' | 'm' | 's') => start.timestamp_millis(),
            Some(start) => self.midnight(start.date_naive()),
            None => time_ms,
        }
    }

    /// ISO with milliseconds in this zone; `Z` for UTC.
    pub fn iso_millis(&self, time_ms: i64) -> String {
        let at = self.at(time_ms);
        at.to_rfc3339_opts(SecondsFormat::Millis, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-03-01T12:34:56.789Z";

    #[test]
    fn dates_read() {
        for (text, want) in [
            (NOON, Some(NOON)),
            ("2026-03-01", Some("2026-03-01T00:00:00.000Z")),
            ("2026-03", Some("2026-03-01T00:00:00.000Z")),
            ("2026", Some("2026-01-01T00:00:00.000Z")),
            ("1772366400000", Some("2026-03-01T12:00:00.000Z")),
            ("2026-03-01T14:00:00+02:00", Some("2026-03-01T12:00:00.000Z")),
            ("2026-03-01T12:00", Some("2026-03-01T12:00:00.000Z")),
            ("yesterday", None),
            ("2026-13-01", None),
            ("", None),
        ] {
            assert_eq!(parse(text).map(iso_millis).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn date_math_adds_and_rounds() {
        let now = parse(NOON).unwrap();
        let utc = FixedOffset::east_opt(0).unwrap();
        for (text, up, want) in [
            ("now", false, NOON),
            ("now-1h", false, "2026-03-01T11:34:56.789Z"),
            ("now/d", false, "2026-03-01T00:00:00.000Z"),
            ("now/d", true, "2026-03-01T23:59:59.999Z"),
            ("now-1M/M", false, "2026-02-01T00:00:00.000Z"),
            ("2026-03-01||+1d-2h", false, "2026-03-01T22:00:00.000Z"),
            ("2026-03-01", true, "2026-03-01T23:59:59.999Z"),
            ("2026-02", true, "2026-02-28T23:59:59.999Z"),
            ("2026", true, "2026-12-31T23:59:59.999Z"),
            ("2026-03-01T05:00:10Z", true, "2026-03-01T05:00:10.999Z"),
            ("2026-03-01T05:00", true, "2026-03-01T05:00:59.999Z"),
            ("2026-03-01T05:00:10.5+01:00", true, "2026-03-01T04:00:10.500Z"),
            ("2026-03-01T05:00:10Z", false, "2026-03-01T05:00:10.000Z"),
        ] {
            assert_eq!(math(text, now, utc, up).map(iso_millis).as_deref(), Some(want), "{text}");
        }
        for text in ["now-", "now*1h", "now+1x", "then"] {
            assert_eq!(math(text, now, utc, false), None, "{text}");
        }
    }

    #[test]
    fn zones_have_the_bounds_of_elasticsearch() {
        for (text, want) in [
            ("+02:00", Some(120)),
            ("-5", Some(-300)),
            ("+18:00", Some(1080)),
            ("+18:01", None),
            ("+01:60", None),
            ("+-1:00", None),
            ("+4611686018427387904:00", None),
            ("02:00", None),
        ] {
            assert_eq!(Zone::parse(text).map(|zone| zone.1 / 60_000), want, "{text}");
        }
    }

    #[test]
    fn buckets_start_where_the_zone_says() {
        let ms = |text: &str| parse(text).unwrap() / 1_000_000;
        let new_york = Zone::parse("America/New_York").unwrap();
        for (interval, zone, at, want) in [
            (Interval::fixed("5m").unwrap(), Zone::default(), NOON, "2026-03-01T12:30:00.000Z"),
            (Interval::calendar("day").unwrap(), new_york, NOON, "2026-03-01T05:00:00.000Z"),
            (Interval::calendar("1M").unwrap(), new_york, "2026-03-01T04:00:00Z", "2026-02-01T05:00:00.000Z"),
            (Interval::calendar("1w").unwrap(), Zone::default(), NOON, "2026-02-23T00:00:00.000Z"),
            (Interval::fixed("1d").unwrap(), Zone::parse("+02:00").unwrap(), NOON, "2026-02-28T22:00:00.000Z"),
        ] {
            assert_eq!(iso_millis(interval.bucket(ms(at), zone, 0) * 1_000_000), want, "{interval:?} {at}");
        }
        let month = Interval::calendar("month").unwrap();
        assert_eq!(
            iso_millis(month.next(ms("2026-03-01T05:00:00Z"), new_york, 0) * 1_000_000),
            "2026-04-01T04:00:00.000Z"
        );
        assert_eq!((Interval::fixed("1x"), Interval::fixed("0s"), Interval::calendar("2d")), (None, None, None));
    }
}
