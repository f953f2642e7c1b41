//! Tests of the record format: layout, bounds, and that decoding gives back what was encoded.

use bytes::Bytes;
use proptest::prelude::*;

use super::codec::{MAX_DOC_JSON, MAX_LABELS_JSON, MAX_META_JSON};
use super::*;

fn event() -> Event {
    Event {
        tenant: Tenant::default(),
        time_ns: 1_772_366_400_000_000_001,
        labels: Labels::new([("service", "checkout"), ("region", "eu-west-1")]),
        metadata: Labels::default(),
        line: Bytes::from_static(b"order=1 state=paid"),
        source: SourceId([0xab; 16]),
        position: Position { offset: 77, sub: 3 },
        doc: None,
        cut: false,
        time_from_line: true,
    }
}

#[test]
fn fixed_part_has_the_documented_layout() {
    let record = encode(&event(), 1_772_366_400_500);
    let fixed = record.header(HEADER_FIXED).expect("written");
    assert_eq!(fixed.len(), FIXED_LEN);
    assert_eq!(fixed[0], 1);
    assert_eq!(fixed[1], 2);
    assert_eq!(&fixed[2..10], &1_772_366_400_000_000_001i64.to_le_bytes());
    assert_eq!(&fixed[10..26], &[0xab; 16]);
    assert_eq!(&fixed[26..34], &77u64.to_le_bytes());
    assert_eq!(&fixed[34..38], &3u32.to_le_bytes());
    assert_eq!(record.key.as_deref(), Some("ab".repeat(16).as_bytes()));
    assert_eq!(record.header(HEADER_LABELS).expect("written"), &br#"{"region":"eu-west-1","service":"checkout"}"#[..]);
    assert!(record.header(HEADER_TENANT).is_none());
}

#[test]
fn kafka_timestamp_is_clamped_to_the_day_before_reading() {
    let day = MAX_KAFKA_LAG_MS;
    for (event_ms, read_ms, want) in
        [(1_000, 2_000, 1_000), (3_000, 2_000, 2_000), (-5 * day, 0, -day), (0, 2 * day, day)]
    {
        assert_eq!(kafka_timestamp_ms(event_ms * 1_000_000, read_ms), want, "event {event_ms} read {read_ms}");
    }
}

#[test]
fn other_versions_and_short_headers_are_refused_by_name() {
    let mut record = encode(&event(), 0);
    let fixed = record.headers.last_mut().expect("fixed part is last");
    let mut longer = fixed.1.to_vec();
    longer.extend_from_slice(b"future");
    fixed.1 = longer.clone().into();
    assert_eq!(Decoder::default().decode(&record).expect("unknown trailing bytes are ignored").position.offset, 77);
    longer[0] = 2;
    record.headers.last_mut().expect("there").1 = longer.into();
    assert!(matches!(Decoder::default().decode(&record), Err(RecordError::Version { found: 2 })));
    record.headers.last_mut().expect("there").1 = Bytes::from_static(&[1, 0, 0]);
    assert!(matches!(Decoder::default().decode(&record), Err(RecordError::Short { len: 3 })));
    record.headers.pop();
    assert!(matches!(Decoder::default().decode(&record), Err(RecordError::Foreign)));
}

#[test]
fn labels_keep_their_bounds() {
    let many = Labels::new((0..16).map(|i| (format!("l{i}"), "v")));
    assert!(matches!(many.check(), Err(RecordError::TooManyLabels { count: 16 })));
    let long = Labels::new([("a", "x".repeat(1024))]);
    assert!(matches!(long.check(), Err(RecordError::LabelsTooLong { bytes: 1025 })));
    assert!(matches!(Labels::new([("a-b", "x")]).check(), Err(RecordError::LabelName { .. })));
    assert!(Labels::new([("a", "")]).is_empty());
    assert!(Labels::new([("_a1", "x")]).check().is_ok());
}

proptest! {
    #[test]
    fn decode_gives_back_what_encode_took(
        time_ns: i64, source: [u8; 16], offset: u64, sub: u32, cut: bool, time_from_line: bool,
        line in proptest::collection::vec(any::<u8>(), 0..200),
        labels in proptest::collection::btree_map("[a-z_]{1,8}", "\\PC{1,10}", 0..6),
        metadata in proptest::collection::btree_map("\\PC{1,8}", "\\PC{1,10}", 0..4),
        doc in proptest::option::of(("[a-z]{1,8}", "\\PC{1,10}")),
    ) {
        let event = Event {
            tenant: Tenant::new("team-a").expect("good"), time_ns, labels: Labels::new(labels),
            metadata: Labels::new(metadata), line: line.into(), source: SourceId(source),
            position: Position { offset, sub },
            doc: doc.map(|(index, id)| Box::new(DocIdentity { index, id, op: DocOp::Create })),
            cut, time_from_line,
        };
        let back = Decoder::default().decode(&encode(&event, 0)).expect("own record");
        prop_assert_eq!(back, event);
    }

    #[test]
    fn fixed_part_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(fixed) = Fixed::decode(&bytes) {
            prop_assert_eq!(Fixed::decode(&fixed.encode()).ok(), Some(fixed));
        }
    }

    #[test]
    fn source_ids_read_back(id: [u8; 16]) {
        prop_assert_eq!(SourceId::from_hex(&SourceId(id).to_hex()), Some(SourceId(id)));
        prop_assert_eq!(SourceId(id).to_string().into_bytes(), SourceId(id).to_hex().to_vec());
    }
}

#[test]
fn label_names_are_letters_digits_and_underscores() {
    for (name, good) in [("a", true), ("_a9", true), ("", false), ("9a", false), ("a-b", false), ("größe", false)] {
        assert_eq!(is_label_name(name), good, "{name}");
    }
}

#[test]
fn offsets_never_wrap() {
    for (from, records, want) in [(3, 4, 7), (0, -1, -1), (i64::MAX, 1, i64::MAX), (i64::MIN, -1, i64::MIN)] {
        assert_eq!(Offset::new(from).plus(records), Offset::new(want), "{from} + {records}");
    }
    assert_eq!((Offset::MAX.next(), Offset::ZERO.next().to_string()), (Offset::MAX, "1".to_owned()));
    assert_eq!((Offset::new(9).since(Offset::new(4)), Offset::new(4).since(Offset::new(9))), (5, -5));
    assert_eq!(Offset::MAX.since(Offset::new(-1)), i64::MAX);
}

#[test]
fn headers_that_nobody_writes_so_long_are_refused_before_they_are_parsed() {
    let json = |bytes: usize| Bytes::from(format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8)));
    for (header, allowed) in
        [(HEADER_LABELS, MAX_LABELS_JSON), (HEADER_META, MAX_META_JSON), (HEADER_DOC, MAX_DOC_JSON)]
    {
        let decode = |bytes| {
            let mut record = encode(&event(), 0);
            record.headers.push((header.into(), json(bytes)));
            Decoder::default().decode(&record)
        };
        let got = decode(allowed + 1);
        assert!(matches!(got, Err(RecordError::HeaderTooLong { bytes, .. }) if bytes == allowed + 1), "{got:?}");
        assert!(!matches!(decode(allowed), Err(RecordError::HeaderTooLong { .. })), "{header}");
    }
}
