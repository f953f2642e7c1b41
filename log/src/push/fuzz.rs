//! Fuzz targets `loki_json` and `loki_protobuf`: bodies of pushes from strangers.
//!
//! In: any bytes. Out: a panic if a promise is broken: a body is refused with a text, or read within the memory that was
//! reserved for it; every entry is valid or named by a fault; what was read is written as what reads the same. See
//! [`crate::fuzzing`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use bytes::Bytes;
use millrace_fuzzing::memory;
use prost::Message as _;
use serde_json::json;

use super::body::Packed;
use super::budget::DecodeBudget;
use super::entries::PushStream;
use super::error::PushError;
use super::loki::{EntryLimits, Form, check, decode};
use super::loki_proto::{EntryAdapter, LabelPair, PushRequest, StreamAdapter, Timestamp};
use crate::record::{Labels, is_label_name};

/// Bytes of a body, decompressed, and memory of all bodies.
const ROOM: (u64, u64) = (64 << 10, 4 << 20);
/// Room for what was read already.
const WIDE: (u64, u64) = (64 << 20, 1 << 30);
/// What decompressors and error texts take, whatever the body.
const SLACK: u64 = 96 << 10;

const LIMITS: EntryLimits = EntryLimits { max_line: 1000, max_metadata: 500, max_metadata_names: 4 };

/// A body in JSON, maybe compressed.
pub(crate) fn loki_json(bytes: &[u8]) {
    let packed = match bytes {
        [0x1f, 0x8b, ..] => Packed::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packed::Zstd,
        [0x78, ..] => Packed::Deflate,
        _ => Packed::No,
    };
    let form = Form { json: true, packed };
    let Some(streams) = read(Bytes::copy_from_slice(bytes), &form, ROOM) else { return };
    let again = as_json(&streams);
    let plain = Form { json: true, packed: Packed::No };
    // What was left out is written, and may be longer than it was.
    assert_eq!(read(again.clone(), &plain, WIDE).as_ref(), Some(&streams), "{again:?}");
    checked(streams);
}

/// A body in protobuf: as it is sent, or before snappy where the first byte is even, so that a fuzzer gets at the message.
pub(crate) fn loki_protobuf(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let body = if first % 2 == 0 { snap::raw::Encoder::new().compress_vec(rest).unwrap() } else { rest.to_vec() };
    let form = Form { json: false, packed: Packed::No };
    let Some(streams) = read(body.into(), &form, ROOM) else { return };
    // Labels that can't be read have no text that could be.
    let good: Vec<PushStream> = streams
        .iter()
        .filter(|stream| stream.labels.is_ok() && stream.entries.iter().all(|entry| entry.time_ns.is_some()))
        .cloned()
        .collect();
    if !good.is_empty() {
        let again = as_protobuf(&good);
        let body = Bytes::from(snap::raw::Encoder::new().compress_vec(&again.encode_to_vec()).unwrap());
        assert_eq!(read(body, &form, WIDE), Some(good), "{again:?}");
    }
    checked(streams);
}

/// The streams of a body; `None` if it is refused with a reason.
fn read(body: Bytes, form: &Form, (room, limit): (u64, u64)) -> Option<Vec<PushStream>> {
    let budget = DecodeBudget::new(limit);
    let mut reserved = budget.begin();
    let (got, held) = memory::most(|| decode(body.clone(), form, room, &mut reserved));
    let counted = budget.state().0;
    assert!(counted <= limit && held <= counted + SLACK, "{held} bytes held, {counted} reserved for {body:?}");
    drop(reserved);
    assert_eq!(budget.state().0, 0, "what was reserved is given back");
    match got {
        Ok(streams) => {
            assert!(!streams.is_empty(), "a push without a stream is accepted: {body:?}");
            let bytes: usize = streams.iter().flat_map(|stream| &stream.entries).map(|entry| entry.line.len()).sum();
            assert!(bytes as u64 <= room, "{bytes} bytes of lines");
            Some(streams)
        }
        Err(error) => {
            match &error {
                PushError::Bad(text) | PushError::Empty(text) => assert!(!text.is_empty(), "{body:?}"),
                PushError::TooLarge { found, allowed } => assert!(*found > room && *allowed == room, "{error}"),
                PushError::Costly { found, allowed } => assert!(*found > limit && *allowed == limit, "{error}"),
                PushError::Busy { .. } => panic!("nobody else takes memory: {error}"),
            }
            None
        }
    }
}

/// Each entry is handed over as the log takes it, or a fault says why not.
fn checked(streams: Vec<PushStream>) {
    let (shown, sent) = (format!("{streams:?}"), streams.iter().map(|stream| stream.entries.len()).sum::<usize>());
    let mut valid = 0;
    let faults = check(streams, &LIMITS, |labels, entry| {
        valid += 1;
        assert!(!labels.is_empty() && labels.check().is_ok(), "{labels} of {shown}");
        assert!(entry.line.len() as u64 <= LIMITS.max_line, "{shown}");
        assert!(entry.metadata.len() <= LIMITS.max_metadata_names, "{shown}");
        assert!(entry.metadata.iter().all(|(name, _)| is_label_name(name)), "{:?} of {shown}", entry.metadata);
        Ok(())
    });
    assert!(valid <= sent && (valid == sent || !faults.is_empty()), "{valid} of {sent} entries, no fault: {shown}");
    assert!(faults.len() <= 10 && faults.iter().all(|fault| !fault.is_empty()), "{faults:?}");
}

fn as_json(streams: &[PushStream]) -> Bytes {
    let pairs = |labels: &Labels| -> serde_json::Map<String, serde_json::Value> {
        labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    };
    let stream = |stream: &PushStream| {
        let values = stream.entries.iter().map(|entry| {
            let line = std::str::from_utf8(&entry.line).expect("JSON is text");
            json!([entry.time_ns.expect("JSON has a time").to_string(), line, pairs(&entry.metadata)])
        });
        let labels = stream.labels.clone().expect("JSON has labels").into_iter();
        let labels: serde_json::Map<_, _> = labels.map(|(name, value)| (name, value.into())).collect();
        json!({"stream": labels, "values": values.collect::<Vec<_>>()})
    };
    json!({"streams": streams.iter().map(stream).collect::<Vec<_>>()}).to_string().into()
}

/// In quotes, as label texts have values.
fn quote(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn as_protobuf(streams: &[PushStream]) -> PushRequest {
    let stream = |stream: &PushStream| StreamAdapter {
        labels: {
            let labels = stream.labels.clone().unwrap_or_default();
            let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        },
        entries: stream
            .entries
            .iter()
            .map(|entry| EntryAdapter {
                timestamp: entry.time_ns.map(|ns| Timestamp {
                    seconds: ns.div_euclid(1_000_000_000),
                    nanos: i32::try_from(ns.rem_euclid(1_000_000_000)).unwrap(),
                }),
                line: entry.line.clone(),
                structured_metadata: entry
                    .metadata
                    .iter()
                    .map(|(name, value)| LabelPair { name: name.to_owned(), value: value.to_owned() })
                    .collect(),
            })
            .collect(),
    };
    PushRequest { streams: streams.iter().map(stream).collect() }
}

const JSON_SEEDS: [&str; 5] = [
    r#"{"streams":[{"stream":{"app":"a","env":"b"},"values":[["1772366400000000000","plain"],["2","esc \"q\" \u00e4",{"u":"x","9 z":"y"}],[3,"n"]]}]}"#,
    r#"{"streams":[{"stream":{},"values":[["1","no labels"]]},{"stream":{"a b":"c"},"values":[]},{"stream":{"a":"b"},"values":[["-1","x",{},"more",[{}]]]}],"other":{"a":[1,2,{}]}}"#,
    r#"{"streams":[{"values":[["1","l",{"a":"1","b":"2","c":"3","d":"4","e":"5"}]],"stream":{"a":"\ud83d\ude00"}}]}"#,
    r#"{"streams":[{},{},{},{"stream":{"a":"b"},"values":[["x","l"]]}]}"#,
    r#"{"streams":[]}"#,
];

/// Bodies that reach far, plain and compressed.
pub(crate) fn loki_json_seeds(_: u64) -> Vec<Vec<u8>> {
    use std::io::Write as _;
    let mut seeds = millrace_fuzzing::texts(&JSON_SEEDS);
    let body = JSON_SEEDS[0].as_bytes();
    let level = flate2::Compression::fast();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
    gzip.write_all(body).unwrap();
    zlib.write_all(body).unwrap();
    seeds.extend([gzip.finish().unwrap(), zlib.finish().unwrap(), zstd::bulk::compress(body, 1).unwrap()]);
    seeds.push(zstd::bulk::compress(&vec![b'['; 100_000], 1).unwrap());
    // What takes most memory for its bytes.
    let many = |one: &str| format!("{{\"streams\":[{}]}}", vec![one; 7000 / one.len()].join(",")).into_bytes();
    seeds.extend([r#"{"stream":{"a":""}}"#, "{}", r#"{"values":[["1",""]]}"#].map(many));
    let entries = vec![r#"["1","",{"a":"b"}]"#; 350].join(",");
    seeds.push(format!("{{\"streams\":[{{\"stream\":{{\"a\":\"b\"}},\"values\":[{entries}]}}]}}").into_bytes());
    seeds
}

/// Bodies that reach far, before and behind snappy.
pub(crate) fn loki_protobuf_seeds(_: u64) -> Vec<Vec<u8>> {
    let entry = |ns: i64, line: &str, metadata: &[(&str, &str)]| EntryAdapter {
        timestamp: Some(Timestamp { seconds: ns / 1_000_000_000, nanos: (ns % 1_000_000_000) as i32 }),
        line: line.to_owned().into(),
        structured_metadata: metadata
            .iter()
            .map(|(name, value)| LabelPair { name: (*name).into(), value: (*value).into() })
            .collect(),
    };
    let stream = |labels: &str, entries: Vec<EntryAdapter>| StreamAdapter { labels: labels.into(), entries };
    let messages = [
        PushRequest {
            streams: vec![
                stream(
                    r#"{app="api", env=`p"r`}"#,
                    vec![entry(1_772_366_400_000_000_001, "a line", &[("u", "x"), ("9 z", "y")])],
                ),
                stream(r#"{a="q\"\\\n\u00e9\xc3\xa9\101"}"#, vec![entry(0, "", &[]), entry(5, "second", &[("", "x")])]),
            ],
        },
        PushRequest {
            streams: vec![
                stream("{a}", vec![entry(1, "x", &[])]),
                stream("", Vec::new()),
                stream("{}", vec![entry(2, "y", &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")])]),
            ],
        },
        PushRequest { streams: Vec::new() },
    ];
    let mut seeds = Vec::new();
    for message in messages {
        let plain = message.encode_to_vec();
        seeds.push([vec![1], snap::raw::Encoder::new().compress_vec(&plain).unwrap()].concat());
        seeds.push([vec![0], plain].concat());
    }
    seeds.push([&[0][..], &b"\x0a\x00".repeat(2000)].concat());
    seeds.push(
        [&[0][..], b"\x0a\x18\x0a\x07{a=\"b\"}\x12\x0d\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10\x01"]
            .concat(),
    );
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(name: &str, body: Bytes, form: &Form) {
        let budget = DecodeBudget::new(1 << 30);
        let mut reserved = budget.begin();
        let (streams, held) = memory::most(|| decode(body, form, 64 << 20, &mut reserved));
        let counted = budget.state().0;
        assert!(streams.is_ok() && (1..=counted).contains(&held), "{name}: {held} bytes held, {counted} reserved");
    }

    #[test]
    fn what_is_reserved_covers_what_decoding_takes() {
        let json = Form { json: true, packed: Packed::No };
        let stream = |values: &str| format!(r#"{{"streams":[{{"stream":{{"a":"b"}},"values":[{values}]}}]}}"#);
        for one in ["{}", r#"{"stream":{"a":""}}"#, r#"{"stream":{"a":"b"},"values":[["1","",{"c":"d"}]]}"#] {
            let streams = vec![one; 5000].join(",");
            compare(one, format!(r#"{{"streams":[{streams}]}}"#).into(), &json);
        }
        for one in [r#"["1",""]"#, r#"["1","",{}]"#, r#"["1","\n",{"a":"b"}]"#, r#"["1","",{"a":"b","c":"d"}]"#] {
            compare(one, stream(&vec![one; 5000].join(",")).into(), &json);
        }
        let pairs: Vec<String> = (0..5000).map(|n| format!(r#""{n:x}":"y""#)).collect();
        compare("metadata", stream(&format!(r#"["1","",{{{}}}]"#, pairs.join(","))).into(), &json);

        let protobuf = Form { json: false, packed: Packed::No };
        let within = |field: u8, inner: &[u8]| {
            let mut out = vec![field << 3 | 2];
            prost::encoding::encode_varint(inner.len() as u64, &mut out);
            [out, inner.to_vec()].concat()
        };
        let labels = within(1, b"{a=\"b\"}");
        let one = |inner: &[u8]| within(1, &[&labels[..], inner].concat());
        for (name, message) in [
            ("streams", within(1, b"").repeat(5000)),
            ("streams with labels", one(b"").repeat(5000)),
            ("streams with an entry", one(&within(2, b"")).repeat(5000)),
            ("entries", one(&within(2, b"").repeat(5000))),
            ("entries with metadata", one(&within(2, &within(3, &within(1, b"a"))).repeat(5000))),
            ("metadata", one(&within(2, &within(3, b"").repeat(5000)))),
        ] {
            compare(name, snap::raw::Encoder::new().compress_vec(&message).unwrap().into(), &protobuf);
        }
    }
}
