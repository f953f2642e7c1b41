//! What a syslog message says: its text, its time, and the fields of its head (RFC 3164, RFC 5424).
//!
//! In: a message as it came. Out: the text and what stands before it, as labels and as metadata. Touches nothing. Leaves
//! the grammar to `syslog_loose`, which takes what real devices send.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDate, TimeZone as _};
use millrace_log::record::Labels;
use syslog_loose::{Variant, parse_message_with_year_exact_tz};

use crate::config::syslog::SyslogFormat;
use crate::name::plain_name;
use crate::timestamp::saturating_ns;

/// Metadata of one message at most; what is beyond stays in no field.
pub(super) const MAX_FIELDS: usize = 48;
/// Longest value of a field.
pub(super) const MAX_VALUE: usize = 1024;
/// Metadata of what is no syslog message.
const MALFORMED: (&str, &str) = ("syslog", "malformed");

/// How messages are read.
#[derive(Debug, Clone)]
pub(super) struct MessageReader {
    variant: Variant,
    zone: FixedOffset,
    /// Label to field.
    labels: BTreeMap<String, String>,
}

/// A message, read.
#[derive(Debug, PartialEq)]
pub(super) struct Read<'m> {
    pub text: &'m [u8],
    pub time_ns: Option<i64>,
    pub labels: Labels,
    pub metadata: Labels,
}

impl MessageReader {
    pub fn new(format: SyslogFormat, zone: FixedOffset, labels: BTreeMap<String, String>) -> Self {
        let variant = match format {
            SyslogFormat::Auto => Variant::Either,
            SyslogFormat::Rfc3164 => Variant::RFC3164,
            SyslogFormat::Rfc5424 => Variant::RFC5424,
        };
        Self { variant, zone, labels }
    }

    /// Reads a message that came from `peer`. What is none is kept as it is, with the metadata `syslog=malformed`.
    pub fn read<'m>(&self, raw: &'m [u8], peer: &str, now_ns: i64) -> Read<'m> {
        let text = String::from_utf8_lossy(raw);
        let now = DateTime::from_timestamp_nanos(now_ns).with_timezone(&self.zone);
        let year = |date: (u32, u32, u32, u32, u32)| year_near(&now, date);
        let parsed = parse_message_with_year_exact_tz(&text, year, Some(self.zone), self.variant);
        // Without a priority nothing tells a message from any other line.
        let parsed = parsed.ok().filter(|message| message.facility.is_some() && message.severity.is_some());
        let line = parsed.as_ref().and_then(|message| within(raw, &text, message.msg));
        let mut fields = vec![("peer".to_owned(), peer.to_owned())];
        let (Some(message), Some(line)) = (parsed, line) else {
            let (labels, mut metadata) = self.sort(fields);
            metadata.push((MALFORMED.0.to_owned(), MALFORMED.1.to_owned()));
            return Read { text: raw, time_ns: None, labels: Labels::new(labels), metadata: Labels::new(metadata) };
        };
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                fields.push((name.to_owned(), value));
            }
        };
        add("hostname", message.hostname.map(str::to_owned));
        add("appname", message.appname.map(str::to_owned));
        add("procid", message.procid.as_ref().map(ToString::to_string));
        add("msgid", message.msgid.map(str::to_owned));
        add("facility", message.facility.map(|facility| facility.as_str().to_owned()));
        add("severity", message.severity.map(|severity| severity.as_str().to_owned()));
        for element in &message.structured_data {
            for (name, value) in element.params() {
                fields.push((field_name(&format!("{}_{name}", element.id)), value.to_string()));
            }
        }
        let time_ns = message.timestamp.map(|time| saturating_ns(&time));
        let (labels, metadata) = self.sort(fields);
        Read { text: line, time_ns, labels: Labels::new(labels), metadata: Labels::new(metadata) }
    }

    /// Labels that the configuration asks for; all else is metadata.
    #[allow(clippy::type_complexity)] // two lists of the same kind
    fn sort(&self, fields: Vec<(String, String)>) -> (Vec<(String, String)>, Vec<(String, String)>) {
        let (mut labels, mut metadata) = (Vec::new(), Vec::new());
        for (name, mut value) in fields {
            value.truncate(value.floor_char_boundary(MAX_VALUE));
            let mut is_label = false;
            for (label, _) in self.labels.iter().filter(|(_, field)| **field == name) {
                labels.push((label.clone(), value.clone()));
                is_label = true;
            }
            if !is_label && metadata.len() < MAX_FIELDS {
                metadata.push((name, value));
            }
        }
        (labels, metadata)
    }
}

/// The bytes of a part of `text`, which is `raw` read as UTF-8. `None` if what stands before the part is no UTF-8.
fn within<'m>(raw: &'m [u8], text: &str, part: &str) -> Option<&'m [u8]> {
    // The grammar ends a text at its first line; here it goes on to the end.
    let from = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize).filter(|from| *from <= text.len());
    let from = if part.is_empty() { text.len() } else { from? };
    let valid = std::str::from_utf8(raw).map_or_else(|error| error.valid_up_to(), str::len);
    if from > valid {
        return None;
    }
    let rest = raw.get(from..)?;
    // RFC 5424 lets a text in UTF-8 begin with its mark.
    Some(rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest))
}

/// A time without a year is in the year that brings it nearest to now.
fn year_near(now: &DateTime<FixedOffset>, (month, day, hour, minute, second): (u32, u32, u32, u32, u32)) -> i32 {
    let near = |year: &i32| {
        let time = NaiveDate::from_ymd_opt(*year, month, day)?.and_hms_opt(hour, minute, second)?;
        let time = now.timezone().from_local_datetime(&time).single()?;
        Some((time - *now).abs())
    };
    let years = (now.year() - 1)..=(now.year() + 1);
    years.filter_map(|year| Some((near(&year)?, year))).min().map_or(now.year(), |(_, year)| year)
}

/// A name as metadata may have it.
fn field_name(name: &str) -> String {
    let mut out = plain_name(name, "_");
    out.truncate(128);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::syslog::SyslogSource;

    /// 2026-01-02 00:00 UTC.
    const NOW: i64 = 1_767_312_000_000_000_000;

    fn reader() -> MessageReader {
        let config = SyslogSource::default();
        MessageReader::new(SyslogFormat::Auto, FixedOffset::east_opt(0).unwrap(), config.label_fields)
    }

    fn ns(rfc3339: &str) -> Option<i64> {
        DateTime::parse_from_rfc3339(rfc3339).unwrap().timestamp_nanos_opt()
    }

    #[test]
    fn messages_of_both_kinds_are_read() {
        type Case = (&'static [u8], &'static [u8], Option<&'static str>, &'static str, &'static str);
        let cases: &[Case] = &[
            (
                b"<165>1 2025-10-11T22:14:15.003Z mymachine.example.com evntslog 17 ID47 [ex@32473 iut=\"3\" src=\"A\\\"p\"] \xef\xbb\xbfAn event",
                b"An event",
                Some("2025-10-11T22:14:15.003Z"),
                r#"{"host":"mymachine.example.com","service":"evntslog"}"#,
                r#"{"ex_32473_iut":"3","ex_32473_src":"A\"p","facility":"local4","msgid":"ID47","peer":"p","procid":"17","severity":"notice"}"#,
            ),
            (
                b"<34>1 2025-10-11T22:14:15Z host su - - - 'su root' failed",
                b"'su root' failed",
                Some("2025-10-11T22:14:15Z"),
                r#"{"host":"host","service":"su"}"#,
                r#"{"facility":"auth","peer":"p","severity":"crit"}"#,
            ),
            (
                b"<13>Dec 31 23:59:58 web01 nginx[99]: GET / 200",
                b"GET / 200",
                Some("2025-12-31T23:59:58Z"),
                r#"{"host":"web01","service":"nginx"}"#,
                r#"{"facility":"user","peer":"p","procid":"99","severity":"notice"}"#,
            ),
            (
                b"<13>Jan  2 00:00:01 web01 cron: job \xff done",
                b"job \xff done",
                Some("2026-01-02T00:00:01Z"),
                r#"{"host":"web01","service":"cron"}"#,
                r#"{"facility":"user","peer":"p","severity":"notice"}"#,
            ),
            (b"no syslog at all", b"no syslog at all", None, "{}", r#"{"peer":"p","syslog":"malformed"}"#),
            (b"<999>x \xfe", b"<999>x \xfe", None, "{}", r#"{"peer":"p","syslog":"malformed"}"#),
        ];
        for (raw, text, time, labels, metadata) in cases {
            let name = String::from_utf8_lossy(raw);
            let read = reader().read(raw, "p", NOW);
            assert_eq!(String::from_utf8_lossy(read.text), String::from_utf8_lossy(text), "{name}");
            assert_eq!(read.time_ns, time.and_then(ns), "{name}");
            assert_eq!(read.labels.to_json(), *labels, "{name}");
            assert_eq!(read.metadata.to_json(), *metadata, "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_kept(raw in proptest::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
            let raw = if head { [b"<13>Jan  2 00:00:01 h a: ".as_slice(), &raw].concat() } else { raw };
            let read = reader().read(&raw, "p", NOW);
            prop_assert!(raw.windows(read.text.len().max(1)).any(|w| w == read.text) || read.text.is_empty());
        }
    }
}
