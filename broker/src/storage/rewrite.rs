//! Rewrites a batch: without some of its records, or with another codec.
//!
//! In: a whole batch as stored or as sent. Out: the batch as it is to be stored. Touches nothing.
//!
//! A rewritten batch keeps its first and last offset, producer, sequence and codec, so that repeats are still
//! recognised. With a delete horizon (KIP-534) attribute bit 6 is set and the base timestamp is the time from which
//! tombstones and markers in it may go; the timestamp deltas count from there.

use std::io::{self, Write};

use super::batch::{self, HEADER, Header};
use super::codec::{Codec, Packer, invalid};
use super::records::{BUFFER, Records};
use millrace_log::varint::put_varint;

/// Rewrites a batch with only those records whose place is marked in `kept`, at least one.
/// `delete_horizon_ms`: the horizon to set; one that is set already stays.
pub(super) fn rebuild(
    header: &Header,
    batch: &[u8],
    kept: &[bool],
    delete_horizon_ms: Option<i64>,
) -> io::Result<(Header, Vec<u8>)> {
    let base_timestamp = delete_horizon_ms.unwrap_or(header.base_timestamp);
    let shift = header.base_timestamp.wrapping_sub(base_timestamp);
    let mut packer = Packer::start(Codec::of(header)?, vec![0; HEADER])?;
    let mut records = Records::open(header, batch)?;
    let (mut head_bytes, mut key) = (Vec::new(), Vec::new());
    let (mut count, mut max_timestamp) = (0, i64::MIN);
    for keep in kept {
        let head = records.next()?.ok_or_else(|| invalid("batch has fewer records than its header says"))?;
        if !keep {
            continue;
        }
        count += 1;
        let timestamp = header.base_timestamp.wrapping_add(head.timestamp_delta);
        max_timestamp = max_timestamp.max(timestamp);
        head_bytes.clear();
        head_bytes.push(head.attributes);
        put_varint(&mut head_bytes, head.timestamp_delta.wrapping_add(shift));
        put_varint(&mut head_bytes, head.offset_delta);
        put_varint(&mut head_bytes, head.key.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)));
        key.clear();
        put_varint(&mut key, i64::try_from(head_bytes.len() as u64 + records.rest).unwrap_or(i64::MAX));
        packer.write_all(&key)?;
        packer.write_all(&head_bytes)?;
        records.copy_rest(&mut packer)?;
    }
    let mut attributes = header.attributes;
    if delete_horizon_ms.is_some() {
        attributes |= batch::DELETE_HORIZON_BIT;
    }
    if header.is_log_append_time() {
        max_timestamp = header.max_timestamp;
    }
    let fresh = Header { attributes, base_timestamp, max_timestamp, count, ..*header };
    Ok(fresh.seal(packer.finish()?))
}

/// Why a batch can't be stored with another codec.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecompressError {
    /// Its records can't be read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It has become larger than it may be: so many bytes at least.
    #[error("the recompressed batch is too large")]
    TooLarge(usize),
}

/// Stops what has grown too large.
struct Bounded {
    packer: Packer,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.packer.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.packer.write(bytes.get(..bytes.len().min(BUFFER)).unwrap_or_default())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packer.flush()
    }
}

/// Rewrites a client's batch with another codec; producer, sequences and times stay. As the records are in hand,
/// they are checked on the way: number, order, nothing behind the last.
pub(super) fn recompress(
    header: &Header,
    batch: &[u8],
    codec: Codec,
    most: usize,
) -> Result<(Header, Vec<u8>), RecompressError> {
    let mut records = Records::open_foreign(header, batch)?;
    let mut out = Bounded { packer: Packer::start(codec, vec![0; HEADER])?, most };
    match copy_all(header, &mut records, &mut out) {
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => return Err(RecompressError::TooLarge(out.packer.len())),
        copied => copied?,
    }
    let bytes = out.packer.finish()?;
    if bytes.len() > most {
        return Err(RecompressError::TooLarge(bytes.len()));
    }
    let attributes = (header.attributes & !batch::CODEC_BITS) | i16::from(codec.id());
    Ok(Header { attributes, ..*header }.seal(bytes))
}

fn copy_all(header: &Header, records: &mut Records<'_>, out: &mut Bounded) -> io::Result<()> {
    let (mut front, mut length) = (Vec::new(), Vec::new());
    let mut place = 0;
    while let Some(head) = records.next()? {
        if head.offset_delta != place {
            return Err(invalid("offsets of its records are not consecutive"));
        }
        place += 1;
        front.clear();
        front.push(head.attributes);
        put_varint(&mut front, head.timestamp_delta);
        put_varint(&mut front, head.offset_delta);
        put_varint(&mut front, head.key.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)));
        length.clear();
        put_varint(&mut length, i64::try_from(front.len() as u64 + records.rest).unwrap_or(i64::MAX));
        out.write_all(&length)?;
        out.write_all(&front)?;
        records.copy_rest(out)?;
    }
    if place != i64::from(header.count) || !records.is_at_end()? {
        return Err(invalid("it contains more than the number of records in its header"));
    }
    Ok(())
}

/// What is left of a batch that lost all its records but is the last one of its producer: the header alone.
pub(super) fn empty(header: &Header) -> (Header, Vec<u8>) {
    let attributes = header.attributes & !(batch::CODEC_BITS | batch::DELETE_HORIZON_BIT);
    let fresh = Header { attributes, base_timestamp: header.max_timestamp, count: 0, ..*header };
    fresh.seal(vec![0; HEADER])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::records::{Compression, RecordBatchDecoder};
    use proptest::prelude::*;

    use super::super::batch::crc_holds;
    use super::super::batch::tests::{NOBODY, in_transaction, keyed};
    use super::super::records::without_key;
    use super::*;

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    const TARGETS: [Codec; 5] = [Codec::None, Codec::Gzip(-1), Codec::Snappy, Codec::Lz4(9), Codec::Zstd(3)];

    type Read = (i64, i64, Option<Bytes>, Option<Bytes>);

    /// Offset, timestamp, key and value of each record, as another library reads them.
    fn decoded(batch: &[u8]) -> Vec<Read> {
        let set = RecordBatchDecoder::decode(&mut Bytes::copy_from_slice(batch)).unwrap();
        set.records.into_iter().map(|r| (r.offset, r.timestamp, r.key, r.value)).collect()
    }

    fn heads(batch: &[u8]) -> Vec<(i64, Option<Vec<u8>>, bool)> {
        let header = Header::parse(batch).unwrap();
        let mut records = Records::open(&header, batch).unwrap();
        let mut all = Vec::new();
        while let Some(head) = records.next().unwrap() {
            let mut key = None;
            if let Some(length) = head.key {
                let mut bytes = Vec::new();
                records.key(length, |piece| bytes.extend_from_slice(piece)).unwrap();
                key = Some(bytes);
            }
            let has_value = records.has_value().unwrap();
            all.push((head.offset_delta, key, has_value));
        }
        all
    }

    #[test]
    fn records_are_read_whatever_their_compression() {
        let long = "x".repeat(100_000);
        for codec in CODECS {
            let batch = keyed(&[(5, Some("a"), Some("1")), (9, None, Some(&long)), (7, Some(""), None)], NOBODY, codec);
            let want = vec![(0, Some(b"a".to_vec()), true), (1, None, true), (2, Some(Vec::new()), false)];
            assert_eq!(heads(&batch), want, "{codec:?}");
            assert_eq!(without_key(&Header::parse(&batch).unwrap(), &batch).unwrap(), [1], "{codec:?}");
        }
    }

    #[test]
    fn a_batch_without_records_keeps_its_producer_and_offsets() {
        for codec in CODECS {
            let batch = keyed(&[(5, Some("a"), Some("1")), (9, Some("b"), None)], (7, 3, 11), codec);
            let before = Header { base_offset: 40, ..Header::parse(&batch).unwrap() };
            let (header, bytes) = empty(&before);
            assert_eq!(Header::parse(&bytes), Some(header));
            assert!(crc_holds(&header, &bytes) && header.is_sound() && bytes.len() == HEADER);
            assert_eq!((header.base_offset, header.last_offset(), header.count), (40, 41, 0));
            assert_eq!((header.producer_id, header.producer_epoch, header.last_sequence()), (7, 3, 12));
            assert_eq!(header.max_timestamp, 9);
            assert_eq!(heads(&bytes), []);
            assert_eq!(decoded(&bytes), [], "as clients read it");
        }
    }

    #[test]
    fn damaged_records_are_errors_and_cost_no_memory() {
        for codec in CODECS {
            let good = keyed(&[(5, Some("key"), Some("value")), (9, Some("b"), None)], NOBODY, codec);
            let header = Header::parse(&good).unwrap();
            for at in HEADER..good.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut bad = good.to_vec();
                    bad[at] ^= flip;
                    let _any = without_key(&header, &bad);
                    let _any = rebuild(&header, &bad, &[true, false], Some(3));
                }
                let cut = Header { length: at as i32 - 12, ..header };
                let _any = without_key(&cut, &good[..at]);
            }
        }
        for codec in CODECS {
            let good = keyed(&[(5, Some("key"), Some("value")), (9, Some("b"), None)], NOBODY, codec);
            let header = Header::parse(&good).unwrap();
            for at in HEADER..good.len() {
                let mut bad = good.to_vec();
                bad[at] ^= 0x10;
                for to in TARGETS {
                    let _any = recompress(&header, &bad, to, 1 << 20);
                }
            }
        }
        let mut claims = keyed(&[(0, Some("k"), None)], NOBODY, Compression::None).to_vec();
        claims[22] = 2;
        claims.truncate(HEADER);
        claims.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        let header = Header { length: claims.len() as i32 - 12, ..Header::parse(&claims).unwrap() };
        assert_eq!(without_key(&header, &claims).unwrap_err().to_string(), "snappy block claims too large a size");
    }

    #[test]
    fn batches_get_another_codec_and_keep_all_else() {
        let long = "x".repeat(100_000);
        let records = [(5, Some("a"), Some("1")), (9, None, Some(long.as_str())), (7, Some(""), None)];
        for from in CODECS {
            let mut batch = in_transaction(keyed(&records, (7, 3, 1_000), from)).to_vec();
            batch[..8].copy_from_slice(&40_i64.to_be_bytes());
            let before = Header::parse(&batch).unwrap();
            for to in TARGETS {
                let (header, bytes) = recompress(&before, &batch, to, 1 << 20).unwrap();
                assert_eq!(Header::parse(&bytes), Some(header));
                assert!(crc_holds(&header, &bytes) && header.is_sound() && header.size() == bytes.len());
                assert_eq!((header.codec(), header.is_transactional()), (to.id(), true));
                let same = Header { length: 0, crc: 0, attributes: 0, ..header };
                assert_eq!(same, Header { length: 0, crc: 0, attributes: 0, ..before });
                assert_eq!(decoded(&bytes), decoded(&batch), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn what_grows_too_large_or_lies_is_not_recompressed() {
        let long = "x".repeat(100_000);
        let batch = keyed(&[(5, Some("a"), Some(&long))], NOBODY, Compression::Zstd);
        let header = Header::parse(&batch).unwrap();
        let got = recompress(&header, &batch, Codec::None, 50_000).unwrap_err();
        assert!(matches!(got, RecompressError::TooLarge(50_001..=100_000)), "{got:?}");
        assert!(recompress(&header, &batch, Codec::Gzip(9), 50_000).is_ok());

        let two = keyed(&[(5, None, Some("a")), (5, None, Some("b"))], NOBODY, Compression::None);
        let header = Header::parse(&two).unwrap();
        for (count, want) in
            [(1, "it contains more than the number of records in its header"), (3, "unexpected end of file")]
        {
            let got = recompress(&Header { count, ..header }, &two, Codec::Zstd(3), 1 << 20).unwrap_err();
            assert_eq!(got.to_string(), want);
        }
        // One record of 300 MB in a batch of some kilobytes.
        let mut packer = Packer::start(Codec::Zstd(3), vec![0; HEADER]).unwrap();
        let mut length = Vec::new();
        put_varint(&mut length, 300 << 20);
        packer.write_all(&length).unwrap();
        io::copy(&mut io::Read::take(io::repeat(0), 300 << 20), &mut packer).unwrap();
        let (bomb, bytes) = Header { attributes: 4, count: 1, ..header }.seal(packer.finish().unwrap());
        assert!(bytes.len() < 100_000, "{}", bytes.len());
        let got = recompress(&bomb, &bytes, Codec::Gzip(-1), 1 << 20).unwrap_err();
        assert_eq!(got.to_string(), "decompressed records are too large");
        assert_eq!(without_key(&bomb, &bytes).unwrap_err().to_string(), "decompressed records are too large");
    }

    proptest! {
        #[test]
        fn kept_records_stay_as_they_were(
            records in proptest::collection::vec(
                (0..1_000_000_i64, proptest::option::of("[a-c]{0,3}"), proptest::option::of("[a-z]{0,200}"), any::<bool>()),
                1..40,
            ),
            codec in 0..5_usize,
            horizon in proptest::option::of(0..10_000_000_i64),
        ) {
            let given: Vec<_> = records.iter().map(|(t, k, v, _)| (*t, k.as_deref(), v.as_deref())).collect();
            let batch = keyed(&given, (7, 3, 11), CODECS[codec]);
            let mut kept: Vec<bool> = records.iter().map(|(.., keep)| *keep).collect();
            kept[0] |= !kept.contains(&true);
            let before = Header::parse(&batch).unwrap();
            let (header, bytes) = rebuild(&before, &batch, &kept, horizon).unwrap();
            prop_assert_eq!(Header::parse(&bytes), Some(header));
            prop_assert!(crc_holds(&header, &bytes) && header.is_sound() && header.size() == bytes.len());
            let want: Vec<Read> =
                decoded(&batch).into_iter().zip(&kept).filter(|(_, keep)| **keep).map(|(read, _)| read).collect();
            prop_assert_eq!(header.max_timestamp, want.iter().map(|read| read.1).max().unwrap());
            prop_assert_eq!(header.delete_horizon_ms(), horizon);
            prop_assert_eq!((header.base_offset, header.last_offset()), (before.base_offset, before.last_offset()));
            prop_assert_eq!((header.producer_id, header.last_sequence()), (7, before.last_sequence()));
            prop_assert_eq!(decoded(&bytes), want);
            // Once more, with the horizon that it has.
            let all = vec![true; usize::try_from(header.count).unwrap()];
            let (again, _) = rebuild(&header, &bytes, &all, None).unwrap();
            prop_assert_eq!(again.delete_horizon_ms(), horizon);
        }
    }
}
