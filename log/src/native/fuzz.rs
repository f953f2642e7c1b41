//! Fuzz target `fetched`: record batches as a broker answers them.
//!
//! In: any bytes. Out: a panic if a promise is broken: a batch is refused with a text, or its records lie within it, in order, as
//! many as its header counts, and take no more memory than allowed; each is an event that reads back, or refused. See
//! [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use bytes::Bytes;
use millrace_fuzzing::memory;

use super::decode::{BatchHeader, Block, HeaderIter};
use super::encode::{Records, Turn, Zstd};
use super::unpack::Unpacker;
use crate::record::fuzz::reads_back;
use crate::record::{Event, Labels, Position, Record, SourceId, Tenant, encode};

/// Bytes that a batch may decompress to.
const LIMIT: usize = 1 << 20;
/// Most that all decompressors need beside what comes out, which may double while it grows.
const HELD: u64 = 4 * LIMIT as u64;
/// Bytes of the header of a batch, and where its parts stand.
const HEADER: usize = 61;

/// Several batches, one after the other. The checksums are made right first where the first byte is even, so that a fuzzer gets
/// at the records.
pub(crate) fn fetched(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut answer = rest.to_vec();
    let mut at = 0;
    while let Some(header) = BatchHeader::read(&answer[at..]) {
        let end = at + header.size;
        if first % 2 == 0 && header.size > HEADER {
            let crc = crc32c::crc32c(&answer[at + 21..end]);
            answer[at + 17..at + 21].copy_from_slice(&crc.to_be_bytes());
        }
        batch(BatchHeader::read(&answer[at..]).unwrap(), &answer[at..]);
        at = end;
    }
}

fn batch(header: BatchHeader, bytes: &[u8]) {
    let mut unpacker = Unpacker::default();
    let (opened, held) = memory::most(|| Block::open(header, bytes, &mut unpacker, LIMIT));
    assert!(held <= HELD, "{held} bytes held for a limit of {LIMIT}");
    let mut block = match opened {
        Ok(block) => block,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(block.bytes().len() <= LIMIT.max(header.size), "{} bytes unpacked", block.bytes().len());
    let whole: Bytes = block.bytes().clone();
    let mut before = None;
    let mut failed = false;
    while let Some(next) = block.next() {
        assert!(!failed, "a record behind an error");
        let spot = match next {
            Ok(spot) => spot,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                failed = true;
                continue;
            }
        };
        assert!(
            header.base_offset <= spot.offset && spot.offset <= header.last_offset,
            "{} of {header:?}",
            spot.offset
        );
        assert!(before.is_none_or(|before| before < spot.offset), "{} behind {before:?}", spot.offset);
        before = Some(spot.offset);
        let headers: Vec<_> = HeaderIter::new(&whole[spot.headers.clone()], spot.header_count).collect();
        assert_eq!(headers.len(), spot.header_count, "headers that were counted are read");
        reads_back(&Record {
            timestamp_ms: spot.timestamp_ms,
            key: spot.key.map(|range| whole.slice(range)),
            value: spot.value.map(|range| whole.slice(range)),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned().into(), whole.slice_ref(value.unwrap_or_default())))
                .collect(),
        });
    }
}

/// Batches of every codec.
pub(crate) fn fetched_seeds(_: u64) -> Vec<Vec<u8>> {
    use std::io::Write as _;
    let event = |n: u64| Event {
        tenant: Tenant::default(),
        time_ns: 1_772_366_400_000_000_000,
        labels: Labels::new([("app", "a")]),
        metadata: Labels::new([("n", n.to_string())]),
        line: Bytes::from(format!("line {n}")),
        source: SourceId([7; 16]),
        position: Position::at(n),
        doc: None,
        cut: false,
        time_from_line: true,
    };
    let records: Vec<Record> = (0..3).map(|n| encode(&event(n), 1_772_366_400_000)).collect();
    let whole = Records::from_records(&records).compress(&mut Zstd::default()).batch(Turn {
        producer_id: 7,
        epoch: 0,
        sequence: 0,
    });
    let header = BatchHeader::read(&whole).unwrap();
    let block = Block::open(header, &whole, &mut Unpacker::default(), LIMIT).unwrap();
    let plain = block.bytes().clone();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut lz4 = lz4::EncoderBuilder::new().build(Vec::new()).unwrap();
    lz4.write_all(&plain).unwrap();
    let snappy = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    let framed = [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01", &(snappy.len() as u32).to_be_bytes()[..], &snappy].concat();
    let packed = [
        (0u8, plain.to_vec()),
        (1, gzip.finish().unwrap()),
        (2, snappy),
        (2, framed),
        (3, lz4.finish().0),
        (4, zstd::bulk::compress(&plain, 1).unwrap()),
        (4, zstd::bulk::compress(&vec![0; 2 * LIMIT], 1).unwrap()),
    ];
    let mut seeds: Vec<Vec<u8>> = packed
        .into_iter()
        .map(|(codec, records)| {
            let mut batch = [&[0][..], &whole[..HEADER], &records].concat();
            let length = (batch.len() - 1 - 12) as i32;
            batch[1 + 8..1 + 12].copy_from_slice(&length.to_be_bytes());
            batch[1 + 22] = codec;
            batch
        })
        .collect();
    seeds.push([&[1][..], &whole, &whole].concat());
    seeds
}
