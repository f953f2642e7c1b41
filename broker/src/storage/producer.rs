//! Producers of one partition: what each wrote last, so that repeats are answered and gaps refused; and which of their
//! transactions are open.
//!
//! In: headers and markers of batches. Out: fresh, repeated or refused (KIP-98, KIP-360, KIP-890); transactions that ended.
//! Touches nothing; the partition stores the snapshots. The last five batches of each producer are kept, as many as a
//! client may have in flight.
//!
//! A snapshot `<offset, 20 digits>.producers` is one line with the CRC-32C of the rest in hex, then JSON. It holds the state
//! as of that offset. Unknown keys are ignored; a damaged one is skipped and the state scanned from the segments.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::append::{AppendKind, Verification};
use super::batch::Header;
use super::error::AppendError;
use super::marker::Marker;
use super::txn::{AbortedTxn, OpenTxn};

/// Batches of each producer that a repeat is looked for in.
const KEPT: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
    timestamp_ms: i64,
}

const fn no_epoch() -> i32 {
    -1
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    seen_ms: i64,
    written: Vec<Written>,
    /// Epoch of the coordinator that ended its last transaction.
    #[serde(default = "no_epoch")]
    coordinator_epoch: i32,
    /// First offset of its open transaction.
    #[serde(default)]
    txn_first_offset: Option<i64>,
    /// Timestamp of its last batch or marker.
    #[serde(default = "no_timestamp")]
    timestamp_ms: i64,
    /// Count of markers in the partition when its last one was appended, since the start of the process.
    #[serde(skip)]
    ended_at: u64,
}

const fn no_timestamp() -> i64 {
    -1
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    offset: i64,
    producers: HashMap<i64, Producer>,
}

/// A batch that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeat {
    pub base_offset: i64,
    pub last_offset: i64,
    pub timestamp_ms: i64,
}

/// A transaction that a marker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub producer_id: i64,
    pub first_offset: i64,
    /// Offset of the marker.
    pub last_offset: i64,
    pub committed: bool,
    /// First offset that is not decided with the marker in place.
    pub last_stable_offset: i64,
}

impl Ended {
    /// What read-committed readers must know, if it was aborted.
    pub fn aborted(&self) -> Option<AbortedTxn> {
        let Self { producer_id, first_offset, last_offset, last_stable_offset, .. } = *self;
        (!self.committed).then_some(AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset })
    }
}

/// A producer as a partition knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Who.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of the last record it wrote, -1 if none of this epoch.
    pub last_sequence: i32,
    /// Timestamp of its last batch, ms since 1970.
    pub last_timestamp_ms: i64,
    /// Epoch of the coordinator that ended its last transaction, -1 for none.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction.
    pub txn_first_offset: Option<i64>,
}

/// All producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Producers {
    known: HashMap<i64, Producer>,
    /// First offsets of open transactions, with their producers.
    open: BTreeMap<i64, i64>,
    /// Markers seen since the start of the process.
    markers: u64,
}

impl Producers {
    /// Judges a batch: `None` to append it.
    pub fn check(
        &self,
        header: &Header,
        marker: Option<Marker>,
        kind: AppendKind,
    ) -> Result<Option<Repeat>, AppendError> {
        let (producer_id, epoch) = (header.producer_id, header.producer_epoch);
        if producer_id < 0 {
            return Ok(None);
        }
        let known = self.known.get(&producer_id);
        if let Some(known) = known
            && epoch < known.epoch
        {
            return Err(AppendError::Fenced { producer_id, epoch, current: known.epoch });
        }
        if let (Some(marker), Some(known)) = (marker, known)
            && marker.coordinator_epoch < known.coordinator_epoch
        {
            let (epoch, current) = (marker.coordinator_epoch, known.coordinator_epoch);
            return Err(AppendError::CoordinatorFenced { producer_id, epoch, current });
        }
        if header.is_control() {
            return Ok(None);
        }
        if kind.is_client()
            && let Some(known) = known
        {
            if let Some(repeat) = known.repeat(header) {
                return Ok(Some(repeat));
            }
            known.check_sequence(header)?;
        }
        let refuse = |what| Err(AppendError::TxnState { producer_id, epoch, what });
        let open = known.and_then(|known| known.txn_first_offset);
        if !header.is_transactional() {
            return if open.is_some() {
                refuse("its transaction is open, and the batch is not part of it")
            } else {
                Ok(None)
            };
        }
        match kind.verification() {
            None => refuse("the batch is transactional and was not verified to be part of an open transaction"),
            Some(Verification(at)) if known.is_some_and(|known| known.ended_at > at) => {
                refuse("the transaction of the batch has ended in the meantime")
            }
            Some(_) => Ok(None),
        }
    }

    /// Takes note of a batch that was appended; returns the transaction that it ends, if any.
    pub fn update(&mut self, header: &Header, marker: Option<Marker>, now_ms: i64) -> Option<Ended> {
        if header.producer_id < 0 || (header.is_control() && marker.is_none()) {
            return None;
        }
        let known = self.known.entry(header.producer_id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            seen_ms: now_ms,
            written: Vec::with_capacity(KEPT),
            coordinator_epoch: -1,
            txn_first_offset: None,
            timestamp_ms: -1,
            ended_at: 0,
        });
        if known.epoch != header.producer_epoch {
            known.epoch = header.producer_epoch;
            known.written.clear();
        }
        known.seen_ms = now_ms;
        known.timestamp_ms = header.max_timestamp;
        if let Some(marker) = marker {
            self.markers += 1;
            known.ended_at = self.markers;
            known.coordinator_epoch = marker.coordinator_epoch;
            let first_offset = known.txn_first_offset.take()?;
            self.open.remove(&first_offset);
            let last_offset = header.last_offset();
            let last_stable_offset = self.first_open().unwrap_or(last_offset + 1);
            let (producer_id, committed) = (header.producer_id, marker.commit);
            return Some(Ended { producer_id, first_offset, last_offset, committed, last_stable_offset });
        }
        if header.is_transactional() && known.txn_first_offset.is_none() {
            known.txn_first_offset = Some(header.base_offset);
            self.open.insert(header.base_offset, header.producer_id);
        }
        if header.base_sequence >= 0 {
            if known.written.len() == KEPT {
                known.written.remove(0);
            }
            known.written.push(Written {
                first_sequence: header.base_sequence,
                last_sequence: header.last_sequence(),
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                timestamp_ms: header.max_timestamp,
            });
        }
        None
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<ProducerState> {
        let state = |(id, producer): (&i64, &Producer)| {
            let last = producer.written.last();
            ProducerState {
                producer_id: *id,
                epoch: producer.epoch,
                last_sequence: last.map_or(-1, |last| last.last_sequence),
                last_timestamp_ms: last
                    .map_or(producer.timestamp_ms, |last| last.timestamp_ms.max(producer.timestamp_ms)),
                coordinator_epoch: producer.coordinator_epoch,
                txn_first_offset: producer.txn_first_offset,
            }
        };
        let mut list: Vec<ProducerState> = self.known.iter().map(state).collect();
        list.sort_by_key(|producer| producer.producer_id);
        list
    }

    /// Open transactions by first offset.
    pub fn open(&self) -> impl Iterator<Item = OpenTxn> {
        self.open
            .iter()
            .map(|(first_offset, producer_id)| OpenTxn { first_offset: *first_offset, producer_id: *producer_id })
    }

    /// First offset of the open transaction of a producer.
    pub fn txn_of(&self, producer_id: i64) -> Option<i64> {
        self.known.get(&producer_id)?.txn_first_offset
    }

    /// How many markers there have been since the start.
    pub fn markers(&self) -> u64 {
        self.markers
    }

    fn first_open(&self) -> Option<i64> {
        self.open.first_key_value().map(|(first, _)| *first)
    }

    /// Forgets these.
    #[cfg(test)]
    pub fn forget(&mut self, ids: &[i64]) {
        self.known.retain(|id, _| !ids.contains(id));
    }

    /// Epoch of each and the last offset of its last batch, `None` without one.
    pub fn last_batches(&self) -> HashMap<i64, (i16, Option<i64>)> {
        let last = |producer: &Producer| producer.written.last().map(|written| written.last_offset);
        self.known.iter().map(|(id, producer)| (*id, (producer.epoch, last(producer)))).collect()
    }

    /// Forgets those that were last seen before a time and have no transaction open.
    pub fn expire(&mut self, before_ms: i64) {
        self.known.retain(|_, producer| producer.seen_ms >= before_ms || producer.txn_first_offset.is_some());
    }

    /// The state as of an offset.
    pub fn encode(&self, offset: i64) -> Vec<u8> {
        let snapshot = Snapshot { offset, producers: self.known.clone() };
        let json = serde_json::to_vec(&snapshot).expect("maps with numbers for keys are JSON");
        let mut bytes = format!("{:08x}\n", crc32c::crc32c(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        bytes
    }

    /// The state, if the bytes are a sound snapshot as of this offset.
    pub fn decode(bytes: &[u8], offset: i64) -> Option<Self> {
        let (crc, json) = bytes.split_at_checked(9)?;
        let crc = std::str::from_utf8(crc).ok()?.strip_suffix('\n')?;
        let crc = u32::from_str_radix(crc, 16).ok()?;
        let snapshot: Snapshot =
            if crc == crc32c::crc32c(json) { serde_json::from_slice(json).ok()? } else { return None };
        if snapshot.offset != offset {
            return None;
        }
        let known = snapshot.producers;
        let open = known.iter().filter_map(|(id, producer)| Some((producer.txn_first_offset?, *id))).collect();
        Some(Self { known, open, markers: 0 })
    }
}

impl Producer {
    fn repeat(&self, header: &Header) -> Option<Repeat> {
        let (first, last) = (header.base_sequence, header.last_sequence());
        let mut written = self.written.iter().filter(|_| header.producer_epoch == self.epoch);
        let Written { base_offset, last_offset, timestamp_ms, .. } =
            *written.find(|w| w.first_sequence == first && w.last_sequence == last)?;
        Some(Repeat { base_offset, last_offset, timestamp_ms })
    }

    fn check_sequence(&self, header: &Header) -> Result<(), AppendError> {
        // A new epoch begins at 0, also where a marker has begun it.
        let before = self.written.last().filter(|_| header.producer_epoch == self.epoch).map(|w| w.last_sequence);
        let (first, last) = (header.base_sequence, before.unwrap_or(-1));
        if next_sequence(last) == first {
            return Ok(());
        }
        let (producer_id, epoch) = (header.producer_id, header.producer_epoch);
        Err(AppendError::OutOfOrderSequence { producer_id, epoch, found: first, last })
    }
}

fn next_sequence(last: i32) -> i32 {
    last.checked_add(1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::batch::tests::{batch, in_transaction};
    use super::super::marker::{marker_batch, marker_of};
    use super::*;

    fn header(producer_id: i64, epoch: i16, sequence: i32, count: usize, offset: i64) -> Header {
        let bytes = batch(count, 1000, (producer_id, epoch, sequence));
        Header { base_offset: offset, ..Header::parse(&bytes).unwrap() }
    }

    #[test]
    fn repeats_are_answered_gaps_refused_and_old_epochs_fenced() {
        // (producer, epoch, sequence, count) in order; want: appended, the offset of a repeat, or the refusal
        type Sent = (i64, i16, i32, usize);
        let cases: &[(Sent, &str)] = &[
            ((7, 0, 0, 2), "append"),
            ((7, 0, 0, 2), "repeat of 0"),
            ((7, 0, 3, 1), "producer 7 epoch 0: sequence 3 does not follow 1"),
            ((7, 0, 2, 1), "append"),
            ((7, 0, 1, 1), "producer 7 epoch 0: sequence 1 does not follow 2"),
            ((7, 0, 3, 1), "append"),
            ((7, 0, 4, 1), "append"),
            ((7, 0, 5, 1), "append"),
            ((7, 0, 0, 2), "repeat of 0"),
            ((7, 0, 6, 1), "append"),
            ((7, 0, 0, 2), "producer 7 epoch 0: sequence 0 does not follow 6"),
            ((7, 0, 2, 1), "repeat of 2"),
            ((7, 1, 7, 1), "producer 7 epoch 1: sequence 7 does not follow -1"),
            ((7, 1, 0, 1), "append"),
            ((7, 0, 7, 1), "producer 7 epoch 0 is fenced (current epoch 1)"),
            ((8, 3, 55, 1), "append"),
            ((-1, -1, -1, 1), "append"),
            ((-1, -1, -1, 1), "append"),
            ((9, 0, i32::MAX - 1, 2), "append"),
            ((9, 0, 0, 1), "append"),
        ];
        let mut producers = Producers::default();
        let mut offset = 0;
        for (at, ((id, epoch, sequence, count), want)) in cases.iter().enumerate() {
            let header = header(*id, *epoch, *sequence, *count, offset);
            let got = match producers.check(&header, None, AppendKind::Client) {
                Ok(None) => {
                    producers.update(&header, None, 1);
                    offset = header.next_offset();
                    "append".to_owned()
                }
                Ok(Some(repeat)) => format!("repeat of {}", repeat.base_offset),
                Err(e) => e.to_string(),
            };
            assert_eq!(&got, want, "case {at}");
            let bytes = producers.encode(offset);
            producers = Producers::decode(&bytes, offset).expect("a snapshot is read back");
        }
    }

    #[test]
    fn transactions_begin_with_their_first_batch_and_end_with_their_marker() {
        #[derive(Debug)]
        enum Sent {
            /// Sequence, and how many markers there were when it was verified.
            Txn(i32, Option<u64>),
            Plain(i32),
            /// Epoch, whether it commits, epoch of the coordinator.
            End(i16, bool, i32),
        }
        use Sent::{End, Plain, Txn};
        let unverified =
            "producer 7 epoch 0: the batch is transactional and was not verified to be part of an open transaction";
        let cases = [
            (Txn(0, None), unverified),
            (Plain(0), "append"),
            (Txn(1, Some(0)), "append"),
            (Txn(2, Some(0)), "append"),
            (Plain(3), "producer 7 epoch 0: its transaction is open, and the batch is not part of it"),
            (End(0, false, 5), "abort of 1 to 3, stable 4"),
            (Txn(3, Some(0)), "producer 7 epoch 0: the transaction of the batch has ended in the meantime"),
            (End(0, true, 4), "marker for producer 7 from coordinator epoch 4 is fenced (current epoch 5)"),
            (End(0, true, 5), "nothing open"),
            (Txn(3, Some(2)), "append"),
            (Txn(3, Some(2)), "repeat of 5"),
            (End(1, true, 5), "commit of 5 to 6, stable 7"),
            (Txn(4, Some(3)), "producer 7 epoch 0 is fenced (current epoch 1)"),
            (End(0, true, 5), "producer 7 epoch 0 is fenced (current epoch 1)"),
        ];
        let mut producers = Producers::default();
        let mut offset = 0;
        for (at, (sent, want)) in cases.iter().enumerate() {
            let (bytes, kind) = match *sent {
                Plain(sequence) => (batch(1, 1000, (7, 0, sequence)), AppendKind::Client),
                Txn(sequence, at) => (
                    in_transaction(batch(1, 1000, (7, 0, sequence))),
                    at.map_or(AppendKind::Client, |at| AppendKind::Transaction(Verification(at))),
                ),
                End(epoch, commit, coordinator_epoch) => {
                    (marker_batch(7, epoch, Marker { commit, coordinator_epoch }, 1000), AppendKind::Internal)
                }
            };
            let header = Header { base_offset: offset, ..Header::parse(&bytes).unwrap() };
            let marker = marker_of(&bytes);
            let got = match producers.check(&header, marker, kind) {
                Ok(None) => {
                    offset = header.next_offset();
                    match producers.update(&header, marker, 1) {
                        Some(ended) => format!(
                            "{} of {} to {}, stable {}",
                            if ended.committed { "commit" } else { "abort" },
                            ended.first_offset,
                            ended.last_offset,
                            ended.last_stable_offset
                        ),
                        None if marker.is_some() => "nothing open".to_owned(),
                        None => "append".to_owned(),
                    }
                }
                Ok(Some(repeat)) => format!("repeat of {}", repeat.base_offset),
                Err(e) => e.to_string(),
            };
            assert_eq!(&got, want, "case {at}: {sent:?}");
            let read = Producers::decode(&producers.encode(offset), offset).expect("a snapshot is read back");
            assert_eq!(read.list(), producers.list(), "case {at}");
            assert_eq!(read.open, producers.open, "case {at}");
        }
    }

    #[test]
    fn idle_producers_are_forgotten_unless_their_transaction_is_open() {
        let mut producers = Producers::default();
        producers.update(&header(1, 0, 0, 1, 0), None, 100);
        producers.update(&header(2, 0, 0, 1, 1), None, 200);
        let open = Header::parse(&in_transaction(batch(1, 1000, (3, 0, 0)))).unwrap();
        producers.update(&Header { base_offset: 2, ..open }, None, 100);
        producers.expire(150);
        assert_eq!(producers.list().iter().map(|p| p.producer_id).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn damaged_snapshots_are_refused() {
        let mut producers = Producers::default();
        producers.update(&header(1, 0, 0, 1, 0), None, 100);
        let good = producers.encode(5);
        assert!(Producers::decode(&good, 6).is_none());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Producers::decode(&bad, 5).is_none_or(|read| read == producers && at < 8), "byte {at}");
            assert!(Producers::decode(&good[..at], 5).is_none());
        }
    }

    #[test]
    fn snapshots_without_transactions_are_read() {
        let json = br#"{"offset":3,"producers":{"7":{"epoch":1,"seen_ms":5,"written":[]}}}"#;
        let bytes = [format!("{:08x}\n", crc32c::crc32c(json)).as_bytes(), json].concat();
        let state = Producers::decode(&bytes, 3).unwrap().list();
        let want = ProducerState {
            producer_id: 7,
            epoch: 1,
            last_sequence: -1,
            last_timestamp_ms: -1,
            coordinator_epoch: -1,
            txn_first_offset: None,
        };
        assert_eq!(state, [want]);
    }
}
