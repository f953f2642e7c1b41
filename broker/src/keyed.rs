//! Record batches of keys and values, as the internal topics hold them.
//!
//! In: pairs, perhaps of a transaction. Out: one uncompressed batch; and batches taken apart again. Touches nothing.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchDecoder,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use crate::storage::{BatchProducer, Marker, marker_of};

/// Why pairs could not become a batch, or a batch pairs.
#[derive(Debug, thiserror::Error)]
#[error("records of an internal topic: {0}")]
pub struct CodecError(String);

/// Key and value; without a value it deletes.
pub type Pair = (Bytes, Option<Bytes>);

/// One record batch of pairs; with a producer (id, epoch) it is part of the producer's transaction.
pub fn batch(
    pairs: impl IntoIterator<Item = Pair>,
    producer: Option<(i64, i16)>,
    now_ms: i64,
) -> Result<Bytes, CodecError> {
    let (producer_id, producer_epoch) = producer.unwrap_or((NO_PRODUCER_ID, NO_PRODUCER_EPOCH));
    let records: Vec<Record> = pairs
        .into_iter()
        .zip(0i32..)
        .map(|((key, value), i)| Record {
            transactional: producer.is_some(),
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id,
            producer_epoch,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(i),
            // Counts with the offset, so that the codec makes one batch, from -1 on: no sequence.
            sequence: i - 1,
            timestamp: now_ms,
            key: Some(key),
            value,
            headers: kafka_protocol::indexmap::IndexMap::new(),
        })
        .collect();
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).map_err(|e| CodecError(e.to_string()))?;
    Ok(out.freeze())
}

/// One record batch of an internal topic.
#[derive(Debug)]
pub struct Batch {
    /// Offset after its last record.
    pub next_offset: i64,
    /// Id and epoch of the producer whose transaction it is part of.
    pub producer: Option<(i64, i16)>,
    /// How it ends that transaction, if it does.
    pub marker: Option<Marker>,
    /// Pairs with their offsets; or why there are none.
    pub pairs: Result<Vec<(i64, Pair)>, CodecError>,
}

/// Takes whole batches apart; one that can't be read costs only itself.
pub fn batches(mut bytes: Bytes) -> Vec<Batch> {
    // Base offset at 0 (i64), length of what follows at 8 (i32), last offset delta at 23 (i32).
    const HEAD: usize = 12;
    let mut batches = Vec::new();
    while let (Some(base), Some(length), Some(delta)) = (
        bytes.first_chunk::<8>().copied().map(i64::from_be_bytes),
        bytes.get(8..).and_then(|b| b.first_chunk::<4>()).copied().map(i32::from_be_bytes),
        bytes.get(23..).and_then(|b| b.first_chunk::<4>()).copied().map(i32::from_be_bytes),
    ) {
        let size = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(HEAD);
        if size > bytes.len() {
            break;
        }
        let mut one = bytes.split_to(size);
        let of = BatchProducer::of(&one);
        let producer = of.filter(|of| of.is_transactional).map(|of| (of.producer_id, of.epoch));
        let marker = marker_of(&one);
        let pairs = if of.is_some_and(|of| of.is_control) {
            Ok(Vec::new())
        } else {
            let set = RecordBatchDecoder::decode(&mut one).map_err(|e| CodecError(e.to_string()));
            set.map(|set| set.records.into_iter().filter_map(|r| Some((r.offset, (r.key?, r.value)))).collect())
        };
        batches.push(Batch { next_offset: base + i64::from(delta) + 1, producer, marker, pairs });
    }
    batches
}

/// The partition of an internal topic that a group or transactional id belongs to: Kafka's polynomial hash over UTF-16 units.
pub fn partition_for(key: &str, partitions: usize) -> usize {
    let hash = key.encode_utf16().fold(0i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    usize::try_from(hash & i32::MAX).unwrap_or(0) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::marker_batch;

    #[test]
    fn batches_tell_their_transaction() {
        let pair = |key: &'static str| (Bytes::from_static(key.as_bytes()), Some(Bytes::from_static(b"v")));
        let plain = batch([pair("a"), pair("b")], None, 5).unwrap();
        let part = batch([pair("c")], Some((7, 3)), 5).unwrap();
        let marker = Marker { commit: true, coordinator_epoch: 2 };
        let end = marker_batch(7, 4, marker, 5);
        let read = batches([&plain[..], &part, &end].concat().into());
        let told: Vec<_> =
            read.iter().map(|b| (b.next_offset, b.producer, b.marker, b.pairs.as_ref().unwrap().len())).collect();
        assert_eq!(told, [(2, None, None, 2), (1, Some((7, 3)), None, 1), (1, Some((7, 4)), Some(marker), 0)]);
    }
}
