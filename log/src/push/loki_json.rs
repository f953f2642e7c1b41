//! Bodies of pushes in JSON: `{"streams":[{"stream":{…},"values":[["<ns>","<line>",{…}]]}]}`.
//!
//! In: the body. Out: streams as sent; lines without escapes are slices of the body. Touches nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::record::Labels;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};

use super::budget::Reserved;
use super::entries::{PushEntry, PushStream};
use super::error::PushError;
use super::json::cost;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    streams: Vec<Stream<'a>>,
}

#[derive(Deserialize)]
struct Stream<'a> {
    #[serde(default)]
    stream: BTreeMap<String, String>,
    #[serde(borrow, default)]
    values: Vec<Value<'a>>,
}

struct Value<'a> {
    time_ns: i64,
    line: Cow<'a, str>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A string of ns; a bare number is taken as well.
struct Time(i64);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct In;
        impl Visitor<'_> for In {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a timestamp as a string of nanoseconds since 1970")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
                text.parse()
                    .map(Time)
                    .map_err(|_| E::custom(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
            }

            fn visit_i64<E: serde::de::Error>(self, ns: i64) -> Result<Time, E> {
                Ok(Time(ns))
            }

            fn visit_u64<E: serde::de::Error>(self, ns: u64) -> Result<Time, E> {
                i64::try_from(ns).map(Time).map_err(|_| E::custom("timestamp is beyond the year 2262"))
            }
        }
        deserializer.deserialize_any(In)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct In;
        impl<'de> Visitor<'de> for In {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry: [\"<ns>\", \"<line>\"] or [\"<ns>\", \"<line>\", {\"<metadata>\": \"…\"}]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
                let Some(Time(time_ns)) = seq.next_element()? else { return Err(A::Error::invalid_length(0, &self)) };
                let Some(Text(line)) = seq.next_element()? else { return Err(A::Error::invalid_length(1, &self)) };
                let metadata: Option<BTreeMap<String, String>> = seq.next_element()?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value { time_ns, line, metadata: metadata.unwrap_or_default() })
            }
        }
        deserializer.deserialize_seq(In)
    }
}

/// What an element takes in memory at most, from the JSON to the events that are made of it.
const ELEMENT_BYTES: u64 = 256;

/// Reads a body.
pub(super) fn decode(body: &Bytes, memory: &mut Reserved) -> Result<Vec<PushStream>, PushError> {
    memory.grow(cost(body, ELEMENT_BYTES))?;
    let read: Body<'_> = serde_json::from_slice(body)
        .map_err(|e| PushError::Bad(format!("body of the push is not as expected: {e}")))?;
    let stream = |s: Stream<'_>| PushStream {
        labels: Ok(s.stream.into_iter().collect()),
        entries: s
            .values
            .into_iter()
            .map(|v| PushEntry {
                time_ns: Some(v.time_ns),
                line: match v.line {
                    Cow::Borrowed(text) => body.slice_ref(text.as_bytes()),
                    Cow::Owned(text) => text.into(),
                },
                metadata: Labels::new(v.metadata),
            })
            .collect(),
    };
    Ok(read.streams.into_iter().map(stream).collect())
}

#[cfg(test)]
mod tests {
    use super::super::budget::DecodeBudget;
    use super::*;
    use proptest::prelude::*;

    fn decode(body: &Bytes) -> Result<Vec<PushStream>, PushError> {
        super::decode(body, &mut DecodeBudget::new(1 << 20).begin())
    }

    #[test]
    fn streams_of_two_bytes_are_refused_before_they_are_made() {
        let body = Bytes::from(format!("{{\"streams\":[{}]}}", vec!["{}"; 100_000].join(",")));
        assert!(matches!(decode(&body), Err(PushError::Costly { found: 30_000_000.., .. })));
    }

    #[test]
    fn bodies_read_and_faults_are_named() {
        let body = Bytes::from_static(
            br#"{"streams":[{"stream":{"app":"a"},"values":[["1","plain"],["2","esc \"q\"",{"u":"x"}],[3,"n"]]}]}"#,
        );
        let streams = decode(&body).unwrap();
        assert_eq!(streams[0].labels, Ok(vec![("app".to_owned(), "a".to_owned())]));
        let entries = &streams[0].entries;
        assert_eq!(entries.iter().map(|e| e.time_ns.unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(entries[1].line, "esc \"q\"");
        assert_eq!(entries[1].metadata, Labels::new([("u", "x")]));
        for (body, want) in [
            ("{", "EOF while parsing"),
            (r#"{"streams":[{"stream":{"a":1},"values":[]}]}"#, "expected a string"),
            (r#"{"streams":[{"stream":{"a":"b"},"values":[["x","l"]]}]}"#, "parsing \"x\": invalid syntax"),
            (r#"{"streams":[{"stream":{"a":"b"},"values":[["1"]]}]}"#, "expected an entry"),
            (r#"{"streams":[{"stream":{"a":"b"},"values":[["1","l",{"m":5}]]}]}"#, "expected a string"),
        ] {
            let error = decode(&Bytes::from(body)).err().unwrap().to_string();
            assert!(error.contains(want), "{body}: {error}");
        }
        assert!(decode(&Bytes::from_static(b"{}")).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            decode(&Bytes::from(body)).ok();
        }
    }
}
