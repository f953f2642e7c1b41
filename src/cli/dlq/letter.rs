//! One dead letter: a record that was refused, with the reason, stage, time and origin.
//!
//! In: a record of the dead-letter topic. Out: its parts. Side effects: none.

use bytes::Bytes;
use millrace_log::client::reader::RawRecord;
use millrace_log::dead_letter::{HEADER_FROM, HEADER_REASON, HEADER_STAGE, HEADER_TIME};

/// A letter with what its headers say. Texts are those of the last header of a name: who refused it last.
#[derive(Debug, Clone)]
pub struct Letter {
    /// As it lies in the dead-letter topic.
    pub record: RawRecord,
    /// Why; `-` where nobody said it.
    pub reason: String,
    /// Who.
    pub stage: String,
    /// When, ms since 1970: by its header, else by its record.
    pub time_ms: i64,
    /// Where it was, or should have gone.
    pub from: Option<From>,
}

/// `topic-partition@offset`, or `topic-partition`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Where it lay there, if it ever did.
    pub offset: Option<i64>,
}

impl From {
    /// Reads the header `dlq.from`.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, offset) = match text.rsplit_once('@') {
            Some((place, offset)) => (place, Some(offset.parse().ok()?)),
            None => (text, None),
        };
        let (topic, partition) = place.rsplit_once('-')?;
        let partition: i32 = partition.parse().ok().filter(|number| *number >= 0)?;
        millrace_log::record::is_topic_name(topic).then(|| Self { topic: topic.to_owned(), partition, offset })
    }
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)?;
        self.offset.map_or(Ok(()), |offset| write!(f, "@{offset}"))
    }
}

/// The last value of a header; an absent one and null are the same here.
pub fn header<'r>(record: &'r RawRecord, name: &str) -> Option<&'r Bytes> {
    record.headers.iter().rev().find(|(n, _)| n == name)?.1.as_ref()
}

impl Letter {
    /// Reads the headers; a record that some other program put there has none, and is a letter all the same.
    pub fn read(record: RawRecord) -> Self {
        let text = |name| header(&record, name).map(|value| String::from_utf8_lossy(value).into_owned());
        let time = text(HEADER_TIME).and_then(|time| chrono::DateTime::parse_from_rfc3339(&time).ok());
        Self {
            reason: text(HEADER_REASON).unwrap_or_else(|| "-".to_owned()),
            stage: text(HEADER_STAGE).unwrap_or_else(|| "-".to_owned()),
            time_ms: time.map(|time| time.timestamp_millis()).or(record.timestamp_ms).unwrap_or(0),
            from: text(HEADER_FROM).and_then(|from| From::parse(&from)),
            record,
        }
    }

    /// `0@17`: partition and offset, as `show` takes it.
    pub fn id(&self) -> String {
        format!("{}@{}", self.record.partition, self.record.offset)
    }

    /// The topic it came from, `-` where nobody said it.
    pub fn topic(&self) -> &str {
        self.from.as_ref().map_or("-", |from| from.topic.as_str())
    }

    /// The reason with numbers taken out, so that "1201 bytes" and "1307 bytes" count as one.
    pub fn kind(&self) -> String {
        let mut kind = String::with_capacity(self.reason.len());
        for c in self.reason.chars() {
            if !c.is_ascii_digit() {
                kind.push(c);
            } else if !kind.ends_with('#') {
                kind.push('#');
            }
        }
        kind
    }
}

/// Letters for the tests of this folder.
#[cfg(test)]
pub mod tests_support {
    use super::*;

    /// The letter 0@17 with these headers and the value `line`.
    pub fn letter(headers: &[(&str, &str)]) -> Letter {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), Some(Bytes::copy_from_slice(v.as_bytes()))));
        Letter::read(RawRecord {
            partition: 0,
            offset: 17,
            timestamp_ms: Some(5),
            key: None,
            value: Some("line".into()),
            headers: headers.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::tests_support::letter;
    use super::*;

    #[test]
    fn places_are_read() {
        let from = |topic: &str, partition, offset| Some(From { topic: topic.to_owned(), partition, offset });
        for (text, want) in [
            ("logs-0@7", from("logs", 0, Some(7))),
            ("logs-0", from("logs", 0, None)),
            ("team-a.logs-12@9000000000", from("team-a.logs", 12, Some(9_000_000_000))),
            ("logs", None),
            ("-0", None),
            ("logs-x@1", None),
            ("logs-0@x", None),
            ("a b-0@1", None),
        ] {
            assert_eq!(From::parse(text), want, "{text}");
            if let Some(from) = want {
                assert_eq!(from.to_string(), text);
            }
        }
    }

    #[test]
    fn the_last_refusal_counts_and_records_of_others_are_letters_too() {
        let twice = letter(&[
            ("dlq.reason", "first"),
            ("dlq.reason", "line of 1201 bytes, 17 are taken"),
            ("dlq.stage", "agent"),
            ("dlq.time", "1970-01-01T00:00:01.500Z"),
            ("dlq.from", "logs-3"),
        ]);
        assert_eq!((twice.kind().as_str(), twice.time_ms), ("line of # bytes, # are taken", 1_500));
        assert_eq!((twice.topic(), twice.id().as_str()), ("logs", "0@17"));
        let foreign = letter(&[]);
        assert_eq!((foreign.reason.as_str(), foreign.stage.as_str(), foreign.topic()), ("-", "-", "-"));
        assert_eq!(foreign.time_ms, 5);
    }
}
