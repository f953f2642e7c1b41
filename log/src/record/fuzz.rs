//! Fuzz target `record`: records as anybody may produce them to a topic of lines.
//!
//! In: any bytes. Out: a panic if a promise is broken: a record is refused with a text, or it is an event whose labels keep to the
//! bounds of a stream and that is written as what reads the same. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use bytes::Bytes;

use super::codec::{Decoder, Record, encode};
use super::event::{DocIdentity, DocOp, Event};
use super::identity::{Position, SourceId, Tenant};
use super::labels::Labels;
use super::layout::{FIXED_LEN, HEADER_DOC, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT};

/// The fixed part, then headers and value by lines: `labels`, `meta`, `tenant`, `doc`, value. `-` leaves a header out.
pub(crate) fn record(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let fixed = bytes.len().min(FIXED_LEN);
    let mut lines = bytes.get(fixed..).unwrap_or_default().split(|byte| *byte == b'\n');
    let mut record = Record { timestamp_ms: 1, key: None, value: None, headers: Vec::new() };
    for name in [HEADER_LABELS, HEADER_META, HEADER_TENANT, HEADER_DOC] {
        if let Some(line) = lines.next().filter(|line| *line != b"-") {
            record.headers.push((name.into(), bytes.slice_ref(line)));
        }
    }
    record.value = lines.next().map(|line| bytes.slice_ref(line));
    record.headers.push((HEADER_FIXED.into(), bytes.slice(..fixed)));
    reads_back(&record);
}

/// What is read of a record is written as what reads the same.
pub(crate) fn reads_back(record: &Record) {
    let event = match Decoder::default().decode(record) {
        Ok(event) => event,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "{record:?} is refused without a reason");
            return;
        }
    };
    assert!(event.labels.check().is_ok(), "{:?} of {record:?}", event.labels);
    let written = encode(&event, 1_772_366_400_000);
    let again = Decoder::default().decode(&written).unwrap();
    assert_eq!(again, event, "{written:?}");
}

/// Records of ours.
pub(crate) fn record_seeds(_: u64) -> Vec<Vec<u8>> {
    let event = |doc: Option<DocIdentity>, tenant: &str| Event {
        tenant: Tenant::new(tenant).unwrap(),
        time_ns: 1_772_366_400_000_000_000,
        labels: Labels::new([("app", "a"), ("env", "pröd\u{0}")]),
        metadata: Labels::new([("trace", "1"), ("x", "\"\\")]),
        line: Bytes::from_static(b"a line"),
        source: SourceId([7; 16]),
        position: Position { offset: 9, sub: 1 },
        doc: doc.map(Box::new),
        cut: true,
        time_from_line: false,
    };
    let doc = DocIdentity { index: "things".into(), id: "1".into(), op: DocOp::Create };
    let mut seeds = Vec::new();
    for event in [event(None, "team"), event(Some(doc), Tenant::DEFAULT)] {
        let record = encode(&event, 1);
        let mut seed = record.header(HEADER_FIXED).unwrap().to_vec();
        for name in [HEADER_LABELS, HEADER_META, HEADER_TENANT, HEADER_DOC] {
            seed.extend_from_slice(record.header(name).map_or(&b"-"[..], |value| value));
            seed.push(b'\n');
        }
        seed.extend_from_slice(&event.line);
        seeds.push(seed);
    }
    seeds
}
