//! Idempotent producers of one partition: what each wrote last, so that repeats are answered and gaps refused.
//!
//! In: headers of batches. Out: fresh, repeated or refused (KIP-98, KIP-360). Touches nothing; the partition stores the
//! snapshots. The last five batches of each producer are kept, as many as a client may have in flight.
//!
//! A snapshot `<offset, 20 digits>.producers` is one line with the CRC-32C of the rest in hex, then JSON. It holds the state
//! as of that offset. Unknown keys are ignored; a damaged one is passed over and the state scanned from the segments.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::batch::Header;
use super::error::AppendError;

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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    seen_ms: i64,
    written: Vec<Written>,
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

/// An idempotent producer as a partition knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Who.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of the last record it wrote.
    pub last_sequence: i32,
    /// Timestamp of its last batch, ms since 1970.
    pub last_timestamp_ms: i64,
}

/// All producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Producers(HashMap<i64, Producer>);

impl Producers {
    /// Judges a batch that a client sends: `None` to append it.
    pub fn check(&self, header: &Header) -> Result<Option<Repeat>, AppendError> {
        let Some(known) = self.0.get(&header.producer_id).filter(|_| header.producer_id >= 0) else {
            // Unknown, perhaps because retention removed all it wrote: any sequence begins anew.
            return Ok(None);
        };
        let (producer_id, epoch) = (header.producer_id, header.producer_epoch);
        if epoch < known.epoch {
            return Err(AppendError::Fenced { producer_id, epoch, current: known.epoch });
        }
        let out_of_order =
            |last| Err(AppendError::OutOfOrderSequence { producer_id, epoch, found: header.base_sequence, last });
        if epoch > known.epoch {
            return if header.base_sequence == 0 { Ok(None) } else { out_of_order(-1) };
        }
        let (first, last) = (header.base_sequence, header.last_sequence());
        let repeat = known.written.iter().find(|w| w.first_sequence == first && w.last_sequence == last);
        if let Some(w) = repeat {
            let Written { base_offset, last_offset, timestamp_ms, .. } = *w;
            return Ok(Some(Repeat { base_offset, last_offset, timestamp_ms }));
        }
        match known.written.last() {
            Some(before) if next_sequence(before.last_sequence) != first => out_of_order(before.last_sequence),
            _ => Ok(None),
        }
    }

    /// Takes note of a batch that was appended.
    pub fn update(&mut self, header: &Header, now_ms: i64) {
        if header.producer_id < 0 || header.is_control() {
            return;
        }
        let fresh = || Producer { epoch: header.producer_epoch, seen_ms: now_ms, written: Vec::with_capacity(KEPT) };
        let known = self.0.entry(header.producer_id).or_insert_with(fresh);
        if known.epoch != header.producer_epoch {
            *known = fresh();
        }
        known.seen_ms = now_ms;
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

    /// All that have written, by id.
    pub fn list(&self) -> Vec<ProducerState> {
        let state = |(id, producer): (&i64, &Producer)| {
            let last = producer.written.last()?;
            Some(ProducerState {
                producer_id: *id,
                epoch: producer.epoch,
                last_sequence: last.last_sequence,
                last_timestamp_ms: last.timestamp_ms,
            })
        };
        let mut list: Vec<ProducerState> = self.0.iter().filter_map(state).collect();
        list.sort_by_key(|producer| producer.producer_id);
        list
    }

    /// Forgets those that were last seen before a time.
    pub fn expire(&mut self, before_ms: i64) {
        self.0.retain(|_, producer| producer.seen_ms >= before_ms);
    }

    /// The state as of an offset.
    pub fn encode(&self, offset: i64) -> Vec<u8> {
        let snapshot = Snapshot { offset, producers: self.0.clone() };
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
        (snapshot.offset == offset).then_some(Self(snapshot.producers))
    }
}

fn next_sequence(last: i32) -> i32 {
    last.checked_add(1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::batch::tests::batch;
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
            let got = match producers.check(&header) {
                Ok(None) => {
                    producers.update(&header, 1);
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
    fn idle_producers_are_forgotten() {
        let mut producers = Producers::default();
        producers.update(&header(1, 0, 0, 1, 0), 100);
        producers.update(&header(2, 0, 0, 1, 1), 200);
        producers.expire(150);
        assert!(producers.check(&header(1, 0, 9, 1, 2)).is_ok());
        assert!(producers.check(&header(2, 0, 9, 1, 2)).is_err());
    }

    #[test]
    fn damaged_snapshots_are_refused() {
        let mut producers = Producers::default();
        producers.update(&header(1, 0, 0, 1, 0), 100);
        let good = producers.encode(5);
        assert!(Producers::decode(&good, 6).is_none());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Producers::decode(&bad, 5).is_none_or(|read| read == producers && at < 8), "byte {at}");
            assert!(Producers::decode(&good[..at], 5).is_none());
        }
    }
}
