//! Fuzz targets `batch` and `recovery`: bytes of clients and of damaged disks.
//!
//! In: any bytes; for `batch` a record batch behind a few that choose settings of the topic, for `recovery` a plan of
//! batches, damage and files beside the segment. Out: a panic if a promise is broken. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::append::AppendKind;
use super::batch::{self, HEADER, Header};
use super::codec::Codec;
use super::incoming::take_apart;
use super::layout::path_of;
use super::log::{Log, LogContext};
use super::marker::marker_of;
use super::metrics::StorageMetrics;
use super::producer::Producers;
use super::read::Isolation;
use super::records::{self, Records};
use super::rewrite;
use super::segment::Segment;
use crate::config::{FlushPolicy, StorageConfig, TopicSettings};
use crate::fuzz_input::Choices;
use millrace_log::clock::ManualClock;
use millrace_log::fs::{Filesystem, SimFs};
use millrace_log::varint::put_varint;

const NOW_MS: i64 = 1_700_000_000_000;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip(-1), Codec::Snappy, Codec::Lz4(9), Codec::Zstd(3)];
/// More than this is no use to a fuzzer.
const MOST_BYTES: usize = 1 << 16;
const BASE: i64 = 7;

/// A batch to begin with: some records with keys and values, perhaps of a producer, in some codec.
fn sample(choices: &mut Choices<'_>) -> (Header, Vec<u8>) {
    let count = 1 + choices.below(4);
    let mut bytes = vec![0; HEADER];
    for place in 0..count {
        let mut record = vec![0];
        put_varint(&mut record, choices.byte().into());
        put_varint(&mut record, place as i64);
        for _key_and_value in 0..2 {
            let length = choices.below(40) as i64 - 1;
            put_varint(&mut record, length);
            record.extend((0..length).map(|_| choices.byte()));
        }
        record.push(0);
        put_varint(&mut bytes, record.len() as i64);
        bytes.extend_from_slice(&record);
    }
    let has_producer = choices.byte() % 2 == 1;
    let is_transactional = has_producer && choices.byte() % 2 == 1;
    let header = Header {
        base_offset: 0,
        length: 0,
        magic: 2,
        crc: 0,
        attributes: if is_transactional { 0x10 } else { 0 },
        last_offset_delta: count as i32 - 1,
        base_timestamp: NOW_MS,
        max_timestamp: NOW_MS + i64::from(choices.byte()),
        producer_id: if has_producer { i64::from(choices.byte() % 3) } else { -1 },
        producer_epoch: if has_producer { 0 } else { -1 },
        base_sequence: if has_producer { i32::from(choices.byte()) } else { -1 },
        count: count as i32,
    };
    let (header, bytes) = header.seal(bytes);
    let codec = CODECS[choices.below(CODECS.len())];
    rewrite::recompress(&header, &bytes, codec, MOST_BYTES).unwrap()
}

/// `[settings, flags, batch …]`: flag 1 sets length and CRC right, so that what stands behind them is reached.
pub(crate) fn batch(bytes: &[u8]) {
    let [settings, flags, given @ ..] = bytes else { return };
    if given.len() > MOST_BYTES {
        return;
    }
    let mut given = given.to_vec();
    if flags & 1 != 0 && given.len() >= HEADER {
        let length = given.len() as i32 - 12;
        given[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&given[21..]);
        given[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    let codec = ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"][usize::from(settings & 7) % 6];
    let policy = if settings & 8 != 0 { "compact" } else { "delete" };
    let dated = if settings & 16 != 0 { "LogAppendTime" } else { "CreateTime" };
    let topic = TopicSettings::from_pairs([
        ("compression.type", codec),
        ("cleanup.policy", policy),
        ("message.timestamp.type", dated),
    ]);
    let limits = topic.unwrap().limits(&StorageConfig::default());
    let kind = if flags & 2 != 0 { AppendKind::Internal } else { AppendKind::Client };
    let Ok(taken) = take_apart(Bytes::from(given), kind, &limits, NOW_MS) else { return };
    let mut producers = Producers::default();
    let mut next = 42;
    for mut incoming in taken {
        incoming.place(next, limits.log_append_time.then_some(NOW_MS));
        let header = incoming.header;
        let stored = Bytes::from([&incoming.head[..], &incoming.body[..]].concat());
        assert_eq!(Header::parse(&stored), Some(header), "the header says what is stored");
        assert!(header.is_sound() && header.size() == stored.len() && batch::crc_holds(&header, &stored));
        assert_eq!(header.base_offset, next);
        next = header.next_offset();
        if producers.check(&header, incoming.marker(), kind).is_ok() {
            producers.update(&header, incoming.marker(), NOW_MS);
        }
        stored_batch(&header, &stored);
    }
    let kept = producers.encode(next);
    assert!(Producers::decode(&kept, next).is_some(), "a snapshot is read again");
}

/// What is done with a batch once it is stored.
fn stored_batch(header: &Header, stored: &Bytes) {
    let _any = marker_of(stored);
    let _any = records::first_at_or_after(header, stored, header.max_timestamp, header.base_offset);
    let mut count = 0;
    let mut records = match Records::open(header, stored) {
        Ok(records) => records,
        Err(_) => return,
    };
    while let Ok(Some(head)) = records.next() {
        count += 1;
        if let Some(length) = head.key {
            let mut bytes = 0;
            if records.key(length, |piece| bytes += piece.len() as u64).is_err() {
                return;
            }
            assert_eq!(bytes, length, "a key has its length");
        }
        let _any = records.has_value();
    }
    let kept: Vec<bool> = (0..count).map(|place| place % 2 == 0).collect();
    if count > 0
        && let Ok((fresh, bytes)) = rewrite::rebuild(header, stored, &kept, Some(NOW_MS))
    {
        assert!(batch::crc_holds(&fresh, &bytes) && fresh.is_sound() && fresh.size() == bytes.len());
        assert_eq!((fresh.base_offset, fresh.last_offset()), (header.base_offset, header.last_offset()));
        assert_eq!(fresh.count as usize, kept.iter().filter(|keep| **keep).count());
    }
    for codec in CODECS {
        if let Ok((fresh, bytes)) = rewrite::recompress(header, stored, codec, MOST_BYTES) {
            assert!(batch::crc_holds(&fresh, &bytes) && fresh.is_sound() && fresh.size() == bytes.len());
            // What was rewritten is whole, so it can be rewritten once more.
            let (again, _) = rewrite::recompress(&fresh, &bytes, Codec::None, usize::MAX).unwrap();
            assert_eq!((again.count, again.last_offset()), (header.count, header.last_offset()));
        }
    }
}

/// Batches in every codec.
pub(crate) fn batch_seeds(number: u64) -> Vec<Vec<u8>> {
    drawn(number, 120)
        .map(|bytes| {
            let mut choices = Choices(&bytes);
            let mut seed = vec![choices.byte(), choices.byte() & 3 | 1];
            seed.extend_from_slice(&sample(&mut choices).1);
            seed
        })
        .collect()
}

/// A segment as the bytes draw it.
struct DrawnSegment {
    bytes: Vec<u8>,
    /// Where each batch was, before damage.
    batches: Vec<(std::ops::Range<usize>, Header)>,
    /// Which bytes were changed in place.
    hurt: Vec<bool>,
    /// How much of the batches is left.
    len: usize,
    /// Bytes behind them.
    tail: Vec<u8>,
    /// Offset after the last batch.
    next: i64,
}

fn drawn_segment(choices: &mut Choices<'_>) -> DrawnSegment {
    let mut segment = Vec::new();
    let mut batches: Vec<(std::ops::Range<usize>, Header)> = Vec::new();
    let mut next = BASE;
    for _ in 0..choices.below(7) {
        let (mut header, mut batch) = sample(choices);
        header.base_offset = next + if choices.byte() == 9 { 5 } else { 0 };
        batch[..8].copy_from_slice(&header.base_offset.to_be_bytes());
        next = header.next_offset();
        batches.push((segment.len()..segment.len() + batch.len(), header));
        segment.extend_from_slice(&batch);
    }
    let mut hurt = vec![false; segment.len()];
    let mut len = segment.len();
    let mut tail = Vec::new();
    for _ in 0..choices.below(5) {
        match choices.byte() % 4 {
            0 | 1 if !segment.is_empty() => {
                let at = choices.below(segment.len());
                segment[at] ^= choices.byte().max(1);
                hurt[at] = true;
            }
            2 => len = len.min(choices.below(segment.len() + 1)),
            _ => {
                let count = choices.below(80);
                tail = choices.bytes(count).to_vec();
            }
        }
    }
    segment.truncate(len);
    segment.extend_from_slice(&tail);
    DrawnSegment { bytes: segment, batches, hurt, len, tail, next }
}

/// `[plan …]`: how many batches, each as [`sample`] draws it; how many damages, each with its kind and place; which files
/// stand beside the segment, with their bytes.
pub(crate) fn recovery(bytes: &[u8]) {
    if bytes.len() > MOST_BYTES {
        return;
    }
    let mut choices = Choices(bytes);
    let DrawnSegment { bytes: segment, batches, hurt, len, tail, next } = drawn_segment(&mut choices);
    let is_finished = choices.byte() % 3 == 0;
    let next_base = is_finished.then_some(next + 3);

    let (fs, dir) = (SimFs::new(), Path::new("t-0"));
    Filesystem::create_dir_all(&fs, dir).unwrap();
    for ending in ["index", "timeindex", "txnindex", "holes"] {
        if choices.byte() % 2 == 0 {
            let count = choices.below(60);
            fs.set_content(&path_of(dir, BASE, ending), choices.bytes(count).to_vec());
        }
    }
    fs.set_content(&path_of(dir, BASE, "log"), segment.clone());
    let snapshot = choices.0.to_vec();

    // Whether the indexes are believed or not, nothing panics.
    if let Ok(Some(opened)) = Segment::open(&fs, dir, BASE, next_base, NOW_MS) {
        let _any = read_all(&opened, &fs);
    }
    fs.set_content(&path_of(dir, BASE, "log"), segment.clone());
    let (recovered, report) = Segment::recover(&fs, dir, BASE, next_base, NOW_MS, |_, _| None).unwrap();
    assert!(!is_finished || report.cut == 0, "a finished segment is never cut");
    let found = read_all(&recovered, &fs);
    // A batch whose bytes are all as written is there again, unless a damaged one before it claims its place: the CRC
    // leaves out offsets, and a length may by chance lead to a later batch.
    let is_whole = |range: &std::ops::Range<usize>| range.end <= len && !hurt[range.clone()].contains(&true);
    let first_hurt = batches.iter().position(|(range, _)| !is_whole(range)).unwrap_or(batches.len());
    let mut must: Vec<&Header> = batches[..first_hurt].iter().map(|(_, header)| header).collect();
    let headers_whole = batches.iter().all(|(range, _)| {
        let head = range.start..(range.start + HEADER).min(hurt.len());
        !hurt[head].contains(&true)
    });
    if headers_whole && tail.is_empty() {
        must = batches.iter().filter(|(range, _)| is_whole(range)).map(|(_, header)| header).collect();
    }
    for header in must {
        assert!(found.contains(header), "batch at {} is lost: {report:?}, found {found:?}", header.base_offset);
    }
    if hurt.iter().all(|hurt| !hurt) && tail.is_empty() && !is_finished {
        let whole: usize = batches.iter().filter(|(range, _)| range.end <= len).map(|(range, _)| range.len()).sum();
        assert_eq!((report.cut, report.holes.len()), ((len - whole) as u64, 0), "only the torn tail is cut");
    }
    // Once recovered it is sound: nothing more is cut or found, and the indexes fit.
    let (again, second) = Segment::recover(&fs, dir, BASE, next_base, NOW_MS, |_, _| None).unwrap();
    assert_eq!((second.cut, &second.holes), (0, &report.holes), "recovery is done once");
    assert_eq!(read_all(&again, &fs), found);
    let opened = Segment::open(&fs, dir, BASE, next_base, NOW_MS).unwrap();
    let opened = opened.unwrap_or_else(|| panic!("indexes of a recovered segment fit: {report:?}, {found:?}"));
    assert_eq!(read_all(&opened, &fs), found);

    // The same segment as the only one of a partition, with any state of producers beside it.
    fs.set_content(&path_of(dir, BASE, "log"), segment);
    fs.set_content(&path_of(dir, BASE, "producers"), snapshot);
    let context = LogContext {
        fs: Arc::new(fs),
        clock: ManualClock::at_ns(NOW_MS * 1_000_000),
        flush: FlushPolicy::Os,
        producer_expiry_ms: i64::MAX,
        metrics: StorageMetrics::default(),
        health: Arc::default(),
    };
    let limits = Arc::new(RwLock::new(Arc::new(TopicSettings::default().limits(&StorageConfig::default()))));
    let log = Log::open(dir, context, limits, choices.byte() % 2 == 0).unwrap();
    for isolation in [Isolation::Uncommitted, Isolation::Committed] {
        let mut from = log.start();
        while let Ok(read) = log.read(from, 1, true, isolation) {
            let Some(next) = batch::next_offset(&read.records) else { break };
            assert!(next > from, "reading goes on");
            from = next;
        }
    }
}

/// Every batch of a segment by both ways to read it.
fn read_all(segment: &Segment, fs: &SimFs) -> Vec<Header> {
    let mut found: Vec<Header> = Vec::new();
    segment
        .batches(fs, segment.base, |header, batch| {
            assert!(batch::crc_holds(header, batch), "what is handed out is sound");
            assert!(found.last().is_none_or(|last| last.next_offset() <= header.base_offset), "offsets rise");
            found.push(*header);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    for header in &found {
        let read = segment.read(fs, header.base_offset, i64::MAX, 1, true).unwrap().unwrap();
        assert_eq!(Header::parse(&read).as_ref(), Some(header), "a read from its offset finds it");
    }
    let _any = segment.first_at_or_after(fs, NOW_MS, segment.base, i64::MAX);
    found
}

/// Plans of recovery.
pub(crate) fn recovery_seeds(number: u64) -> Vec<Vec<u8>> {
    drawn(number.wrapping_add(1), 150).collect()
}

fn drawn(number: u64, count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(move || {
        let next = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        next.take(700).collect()
    })
    .take(count)
}
