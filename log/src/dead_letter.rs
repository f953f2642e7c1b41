//! Dead letters: records that no stage can use, kept as they were with the reason.
//!
//! In: a record that was refused for good, who refused it, why, and where it was. Out: the same record with four headers
//! more, five where its value is cut, for the topic `millrace.dlq`; and those headers read again. Touches nothing. Leaves sending to the stages.
//!
//! | header | content |
//! |---|---|
//! | `dlq.reason` | why, in words for people |
//! | `dlq.stage` | who refused it: `agent`, `transform`, `decode`, `index`, `export elasticsearch` … |
//! | `dlq.time` | when, RFC 3339 in UTC |
//! | `dlq.from` | where it was or should have gone: `topic-partition@offset`, or `topic-partition` before it had an offset |
//! | `dlq.timestamp` | the record's own time, ms since 1970, where the topic of the letters refuses it and the letter has the time of `dlq.time`; absent else |
//! | `dlq.cut` | bytes that the value had, where it was too long for a letter and is cut; absent else |
//!
//! A record that is refused twice carries two of each: the last one counts, as in Kafka's `lastHeader`.
//!
//! `millrace dlq replay` takes these headers off and marks the record:
//!
//! | header | content |
//! |---|---|
//! | `dlq.replay` | the letter it was: `topic-partition@offset` |
//! | `dlq.replay.time` | when it was sent back, RFC 3339 in UTC |

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};

use crate::record::{Fixed, HEADER_FIXED, MAX_KAFKA_LAG_MS, Position, Record, SourceId, kafka_timestamp_ms};

/// Why.
pub const HEADER_REASON: &str = "dlq.reason";
/// Who refused it.
pub const HEADER_STAGE: &str = "dlq.stage";
/// When, RFC 3339.
pub const HEADER_TIME: &str = "dlq.time";
/// Where it was.
pub const HEADER_FROM: &str = "dlq.from";
/// The letter that a record was before it was sent back.
pub const HEADER_REPLAY: &str = "dlq.replay";
/// When it was sent back, RFC 3339.
pub const HEADER_REPLAY_TIME: &str = "dlq.replay.time";
/// The record's own time, ms since 1970, where the letter has another.
pub const HEADER_TIMESTAMP: &str = "dlq.timestamp";
/// Bytes of the value before it was cut for the letter.
pub const HEADER_CUT: &str = "dlq.cut";
/// Bytes of a record's value in a letter at most, and of its key and headers together: so that the usual `max.message.bytes`
/// takes it, and nobody who reads dead letters meets a bomb.
const MAX_VALUE: usize = 768 << 10;
const MAX_REST: usize = 128 << 10;
/// Stages whose letters reached the index by another way, or will: a replay keeps their identity, so that the index
/// drops them as repeats while the stage itself has its second try.
const BEHIND_THE_LOG: [&str; 2] = ["export", "route"];

/// A record as it was, with the reason why it is dead. Its Kafka timestamp becomes `now_ms`, so that retention keeps it
/// as long as others. One that is too long for a letter is cut, and keeps no headers of its own if these are too long.
pub fn dead_letter(mut record: Record, stage: &'static str, reason: &str, from: &str, now_ms: i64) -> Record {
    let time = DateTime::from_timestamp_millis(now_ms)
        .map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
    let length = record.value.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
    let is_cut = length > MAX_VALUE || record.key.as_ref().map_or(0, Bytes::len) + headers > MAX_REST;
    if is_cut {
        // Copied: what is left must not keep all of it in memory.
        let part = record.value.as_ref().and_then(|value| value.get(..length.min(MAX_VALUE)));
        record.value = part.map(Bytes::copy_from_slice);
        record.key = record.key.filter(|key| key.len() <= MAX_REST / 2);
        if headers > MAX_REST / 2 {
            record.headers.retain(|(name, value)| name == HEADER_FIXED && value.len() < MAX_REST / 2);
        }
        record.headers.push((HEADER_CUT.into(), length.to_string().into()));
    }
    record.headers.extend([
        (HEADER_REASON.into(), reason.to_owned().into()),
        (HEADER_STAGE.into(), stage.into()),
        (HEADER_TIME.into(), time.into()),
        (HEADER_FROM.into(), from.to_owned().into()),
    ]);
    record.timestamp_ms = now_ms;
    record
}

/// A letter as it goes back to the log: the record as it was before it was refused, marked with `letter_place`,
/// where it lies in the dead-letter topic.
///
/// Letters of the agent and of the index were never indexed, but later lines of their sources were, and the index drops
/// what is not past the highest position of its source: such a letter gets `identity` as a source of its own, the same for
/// each replay, so that a replay repeated after a crash is dropped as a repeat. Letters of exports and routes were indexed:
/// they keep their source and position.
pub fn replayed(mut letter: Record, letter_place: &str, identity: SourceId, now_ms: i64) -> Record {
    let stage = letter.header(HEADER_STAGE).cloned().unwrap_or_default();
    let keeps = BEHIND_THE_LOG.iter().any(|start| stage.starts_with(start.as_bytes()));
    let fixed = letter.header(HEADER_FIXED).and_then(|bytes| Fixed::decode(bytes).ok());
    let marks =
        [HEADER_REASON, HEADER_STAGE, HEADER_TIME, HEADER_FROM, HEADER_TIMESTAMP, HEADER_REPLAY, HEADER_REPLAY_TIME];
    letter.headers.retain(|(name, _)| !marks.contains(&name.as_ref()));
    letter.timestamp_ms = letter.timestamp_ms.clamp(now_ms - MAX_KAFKA_LAG_MS, now_ms);
    if let Some(fixed) = fixed {
        letter.timestamp_ms = kafka_timestamp_ms(fixed.time_ns, now_ms);
        if !keeps {
            let own = Fixed { source: identity, position: Position::at(0), ..fixed };
            let place = letter.headers.iter_mut().rev().find(|(name, _)| name == HEADER_FIXED);
            if let Some((_, bytes)) = place {
                *bytes = own.encode().to_vec().into();
            }
        }
    }
    let time = DateTime::from_timestamp_millis(now_ms)
        .map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
    letter.headers.push((HEADER_REPLAY.into(), letter_place.to_owned().into()));
    letter.headers.push((HEADER_REPLAY_TIME.into(), time.into()));
    letter
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

    #[test]
    fn a_letter_is_bounded_whatever_the_record() {
        let header = |name: &'static str, bytes: usize| (name.into(), Bytes::from(vec![b'h'; bytes]));
        let size = |letter: &Record| {
            let headers: usize = letter.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            letter.value.as_ref().map_or(0, Bytes::len) + letter.key.as_ref().map_or(0, Bytes::len) + headers
        };
        for (value, key, headers, cut) in [
            (MAX_VALUE, 100, 10_000, None),
            (200 << 20, 100, 10_000, Some("209715200")),
            (5, 10 << 20, 100, Some("5")),
            (5, 100, 10 << 20, Some("5")),
        ] {
            let record = Record {
                timestamp_ms: 7,
                key: Some(vec![b'k'; key].into()),
                value: Some(vec![b'v'; value].into()),
                headers: vec![header("labels", headers), header(HEADER_FIXED, 38)],
            };
            let letter = dead_letter(record, "decode", "too long", "logs-0@7", 1_500);
            assert!(size(&letter) < 1_000_000, "{value} {key} {headers}");
            assert_eq!(letter.header(HEADER_CUT).map(|cut| String::from_utf8_lossy(cut).into_owned()).as_deref(), cut);
            assert!(letter.header(HEADER_FIXED).is_some());
            assert_eq!(letter.header(HEADER_FROM).map(|from| &from[..]), Some(&b"logs-0@7"[..]));
        }
    }

    #[test]
    fn a_replay_is_the_record_as_it_was_with_a_mark() {
        let now_ms = 1_700_000_000_000;
        let fixed = Fixed {
            time_ns: (now_ms - 5) * 1_000_000,
            source: SourceId([1; 16]),
            position: Position { offset: 70, sub: 2 },
            cut: true,
            time_from_line: false,
        };
        let record = Record {
            timestamp_ms: 7,
            key: Some("k".into()),
            value: Some("v".into()),
            headers: vec![("labels".into(), "{}".into()), (HEADER_FIXED.into(), fixed.encode().to_vec().into())],
        };
        let own = SourceId([9; 16]);
        for (stage, source, position) in [
            ("agent", own, Position::at(0)),
            ("decode", own, Position::at(0)),
            ("index", own, Position::at(0)),
            ("route", fixed.source, fixed.position),
            ("export-elasticsearch", fixed.source, fixed.position),
        ] {
            let letter =
                dead_letter(dead_letter(record.clone(), "route", "first", "logs-0@7", 1), stage, "why", "logs-0", 2);
            let back = replayed(letter, "millrace.dlq-0@3", own, now_ms);
            let names: Vec<&str> = back.headers.iter().map(|(name, _)| name.as_ref()).collect();
            assert_eq!(names, ["labels", HEADER_FIXED, HEADER_REPLAY, HEADER_REPLAY_TIME], "{stage}");
            assert_eq!(back.header(HEADER_REPLAY).map(|v| &v[..]), Some(&b"millrace.dlq-0@3"[..]));
            let found = Fixed::decode(back.header(HEADER_FIXED).expect("is there")).expect("is good");
            assert_eq!(
                (found.source, found.position, found.cut, found.time_ns),
                (source, position, true, fixed.time_ns)
            );
            assert_eq!(back.timestamp_ms, now_ms - 5);
            assert_eq!((&back.key, &back.value), (&record.key, &record.value));
        }
        let foreign = Record { timestamp_ms: 7, value: Some("x".into()), ..Record::default() };
        let back = replayed(dead_letter(foreign, "decode", "why", "t-0@1", 9), "millrace.dlq-0@4", own, now_ms);
        assert_eq!((back.headers.len(), back.timestamp_ms), (2, now_ms - MAX_KAFKA_LAG_MS));
    }
}
