//! Dead letters: records that no stage can use, kept as they were with the reason.
//!
//! In: a record that was refused for good, who refused it, why, and where it was. Out: the same record with four headers
//! more, for the topic `millrace.dlq`; and those headers read again. Touches nothing. Leaves sending to the stages.
//!
//! | header | content |
//! |---|---|
//! | `dlq.reason` | why, in words for people |
//! | `dlq.stage` | who refused it: `agent`, `transform`, `decode`, `index`, `export elasticsearch` … |
//! | `dlq.time` | when, RFC 3339 in UTC |
//! | `dlq.from` | where it was or should have gone: `topic-partition@offset`, or `topic-partition` before it had an offset |
//!
//! A record that is refused twice carries two of each: the last one counts, as in Kafka's `lastHeader`.

use chrono::{DateTime, SecondsFormat};

use crate::record::Record;

/// Why.
pub const HEADER_REASON: &str = "dlq.reason";
/// Who refused it.
pub const HEADER_STAGE: &str = "dlq.stage";
/// When, RFC 3339.
pub const HEADER_TIME: &str = "dlq.time";
/// Where it was.
pub const HEADER_FROM: &str = "dlq.from";

/// A record as it was, with the reason why it is dead. Its Kafka timestamp becomes `now_ms`, so that retention keeps it
/// as long as others.
pub fn dead_letter(mut record: Record, stage: &'static str, reason: &str, from: &str, now_ms: i64) -> Record {
    let time = DateTime::from_timestamp_millis(now_ms)
        .map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
    record.headers.extend([
        (HEADER_REASON.into(), reason.to_owned().into()),
        (HEADER_STAGE.into(), stage.into()),
        (HEADER_TIME.into(), time.into()),
        (HEADER_FROM.into(), from.to_owned().into()),
    ]);
    record.timestamp_ms = now_ms;
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_why_who_when_and_where_and_keeps_the_rest() {
        let record = Record {
            timestamp_ms: 7,
            key: Some("k".into()),
            value: Some("v".into()),
            headers: vec![("labels".into(), "{}".into())],
        };
        let letter = dead_letter(record.clone(), "decode", "too short", "logs-0@7", 1_500);
        let text = |name| String::from_utf8_lossy(letter.header(name).expect("is there")).into_owned();
        assert_eq!(
            [HEADER_REASON, HEADER_STAGE, HEADER_TIME, HEADER_FROM].map(text),
            ["too short", "decode", "1970-01-01T00:00:01.500Z", "logs-0@7"]
        );
        assert_eq!(letter.timestamp_ms, 1_500);
        assert_eq!((&letter.key, &letter.value, &letter.headers[0]), (&record.key, &record.value, &record.headers[0]));
        let again = dead_letter(letter, "export", "still too short", "millrace.dlq-0@0", 2_000);
        assert_eq!(again.header(HEADER_REASON).map(|v| &v[..]), Some(&b"still too short"[..]));
    }
}
