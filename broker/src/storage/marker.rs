//! Markers of transactions: the control batches that say whether the transaction of a producer was committed (KIP-98).
//!
//! In: batches, decisions. Out: markers, batches. Touches nothing.

use bytes::{Buf as _, Bytes};

use super::batch::{CONTROL_BIT, CRC_FROM, HEADER, Header, LEADER_EPOCH, PREFIX, TRANSACTIONAL_BIT};
use super::varint::varint;

/// What a control batch says of the transaction of its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Committed, else aborted.
    pub commit: bool,
    /// Epoch of the coordinator that decided.
    pub coordinator_epoch: i32,
}

/// Reads the marker in the records of a control batch; `None` for other batches and other kinds of control records.
pub(super) fn marker(header: &Header, records: &[u8]) -> Option<Marker> {
    if !header.is_control() || header.codec() != 0 {
        return None;
    }
    let mut at = records;
    let _length = varint(&mut at).ok()?;
    let _attributes = at.try_get_i8().ok()?;
    let _timestamp_and_offset = (varint(&mut at).ok()?, varint(&mut at).ok()?);
    let key_length = usize::try_from(varint(&mut at).ok()?.0).ok()?;
    let (mut key, mut at) = at.split_at_checked(key_length)?;
    let _version = key.try_get_i16().ok()?;
    let commit = match key.try_get_i16().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let value_length = usize::try_from(varint(&mut at).ok()?.0).ok()?;
    let mut value = at.get(..value_length)?;
    let _version = value.try_get_i16().ok()?;
    Some(Marker { commit, coordinator_epoch: value.try_get_i32().ok()? })
}

/// A control batch that ends the transaction of a producer: one record with key (version i16 = 0, type i16: 0 abort,
/// 1 commit) and value (version i16 = 0, epoch of the coordinator i32).
pub fn marker_batch(producer_id: i64, producer_epoch: i16, marker: Marker, now_ms: i64) -> Bytes {
    // Zigzag lengths of one byte: the record 16, the key 4, the value 6; no headers.
    let mut records = vec![32, 0, 0, 0, 8, 0, 0, 0, u8::from(marker.commit), 12, 0, 0];
    records.extend_from_slice(&marker.coordinator_epoch.to_be_bytes());
    records.push(0);
    let mut body = Vec::with_capacity(HEADER + records.len());
    body.extend_from_slice(&(CONTROL_BIT | TRANSACTIONAL_BIT).to_be_bytes());
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&now_ms.to_be_bytes());
    body.extend_from_slice(&now_ms.to_be_bytes());
    body.extend_from_slice(&producer_id.to_be_bytes());
    body.extend_from_slice(&producer_epoch.to_be_bytes());
    body.extend_from_slice(&(-1i32).to_be_bytes());
    body.extend_from_slice(&1i32.to_be_bytes());
    body.extend_from_slice(&records);
    let mut out = Vec::with_capacity(CRC_FROM + body.len());
    out.extend_from_slice(&0i64.to_be_bytes());
    out.extend_from_slice(&i32::try_from(CRC_FROM - PREFIX + body.len()).unwrap_or(i32::MAX).to_be_bytes());
    out.extend_from_slice(&LEADER_EPOCH.to_be_bytes());
    out.push(2);
    out.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    out.extend_from_slice(&body);
    out.into()
}

/// The marker in a whole batch, if it is one.
pub fn marker_of(batch: &[u8]) -> Option<Marker> {
    marker(&Header::parse(batch)?, batch.get(HEADER..)?)
}
