//! What the topic `__transaction_state` holds: the last state of each transactional id.
//!
//! In: states. Out: keys and values, and states again. Touches nothing. Layout is Kafka's own, so that its tools read the
//! topic; big-endian, `str` is i16 length and UTF-8, `cstr` a varint of the length plus one and UTF-8, `carray` alike:
//!
//! ```text
//! key 0    i16 0, transactional id str
//! value 0  i16 0, producer id i64, epoch i16, time-out i32 (ms), state i8, n i32 (-1: none),
//!          n × (topic str, m i32, m × partition i32), last update i64, start i64
//! value 1  i16 1, producer id i64, epoch i16, time-out i32, state i8, carray of (topic cstr, carray of partition i32, tags),
//!          last update i64, start i64, tags: 0 previous producer id i64, 1 next producer id i64, 2 protocol of the client i16
//! ```
//! States: 0 Empty, 1 Ongoing, 2 PrepareCommit, 3 PrepareAbort, 4 CompleteCommit, 5 CompleteAbort. A null value deletes.
//! Value 1 is written, both are read; unknown tags are skipped, keys of other versions too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::state::{Protocol, State, Txn};
use millrace_log::record::TopicPartition;

/// Key of a transactional id.
pub fn key(id: &str) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    // Longer ids can't come: the wire's own lengths forbid it.
    let bytes = id.as_bytes().get(..id.len().min(i16::MAX as usize)).unwrap_or_default();
    out.put_i16(i16::try_from(bytes.len()).unwrap_or(i16::MAX));
    out.put_slice(bytes);
    out.freeze()
}

/// The transactional id in a key, `None` for other keys.
pub fn id_of(mut key: Bytes) -> Option<String> {
    (key.try_get_i16().ok()? == 0).then_some(())?;
    text(&mut key)
}

/// Value of a state.
pub fn value(txn: &Txn) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(1);
    out.put_i64(txn.producer_id);
    out.put_i16(txn.epoch);
    out.put_i32(txn.timeout_ms);
    out.put_i8(match txn.state {
        State::Empty => 0,
        State::Ongoing => 1,
        State::PrepareCommit => 2,
        State::PrepareAbort => 3,
        State::CompleteCommit => 4,
        State::CompleteAbort => 5,
    });
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for tp in &txn.partitions {
        topics.entry(&tp.topic).or_default().push(tp.partition);
    }
    if txn.state == State::Empty {
        put_varint(&mut out, 0);
    } else {
        put_varint(&mut out, topics.len() + 1);
    }
    for (topic, partitions) in topics {
        put_varint(&mut out, topic.len() + 1);
        out.put_slice(topic.as_bytes());
        put_varint(&mut out, partitions.len() + 1);
        partitions.into_iter().for_each(|partition| out.put_i32(partition));
        put_varint(&mut out, 0);
    }
    out.put_i64(txn.update_ms);
    out.put_i64(txn.start_ms);
    let ids = [(0, txn.previous_id), (1, txn.next_id)].into_iter().filter(|(_, id)| *id != -1);
    let mut tags: Vec<(usize, Vec<u8>)> = ids.map(|(tag, id)| (tag, id.to_be_bytes().to_vec())).collect();
    if txn.protocol == Protocol::Two {
        tags.push((2, 2i16.to_be_bytes().to_vec()));
    }
    put_varint(&mut out, tags.len());
    for (tag, bytes) in tags {
        put_varint(&mut out, tag);
        put_varint(&mut out, bytes.len());
        out.put_slice(&bytes);
    }
    out.freeze()
}

/// The state in a value; `None` where it can't be understood.
pub fn txn_of(mut from: Bytes) -> Option<Txn> {
    let version = from.try_get_i16().ok()?;
    // Newer versions would be announced by a newer format of the folder.
    let flexible = match version {
        0 => false,
        1 => true,
        _ => return None,
    };
    let mut txn = Txn::new(from.try_get_i64().ok()?, 0, 0);
    txn.epoch = from.try_get_i16().ok()?;
    txn.timeout_ms = from.try_get_i32().ok()?;
    txn.state = match from.try_get_i8().ok()? {
        0 => State::Empty,
        1 => State::Ongoing,
        2 => State::PrepareCommit,
        3 => State::PrepareAbort,
        4 => State::CompleteCommit,
        5 => State::CompleteAbort,
        _ => return None,
    };
    txn.partitions = partitions(&mut from, flexible)?;
    txn.update_ms = from.try_get_i64().ok()?;
    txn.start_ms = from.try_get_i64().ok()?;
    if flexible {
        for _ in 0..varint(&mut from)? {
            let tag = varint(&mut from)?;
            let size = varint(&mut from)?;
            let mut bytes = (from.len() >= size).then(|| from.split_to(size))?;
            match tag {
                0 => txn.previous_id = bytes.try_get_i64().ok()?,
                1 => txn.next_id = bytes.try_get_i64().ok()?,
                2 if bytes.try_get_i16().ok()? >= 2 => txn.protocol = Protocol::Two,
                _ => {}
            }
        }
    }
    Some(txn)
}

pub(super) fn partitions(from: &mut Bytes, flexible: bool) -> Option<BTreeSet<TopicPartition>> {
    let count = |from: &mut Bytes| {
        if flexible {
            varint(from).map(|n| n.saturating_sub(1))
        } else {
            from.try_get_i32().ok().map(|n| usize::try_from(n).unwrap_or(0))
        }
    };
    let mut found = BTreeSet::new();
    for _ in 0..count(from)? {
        let topic = if flexible { compact_text(from)? } else { text(from)? };
        let topic: std::sync::Arc<str> = topic.into();
        for _ in 0..count(from)? {
            found.insert(TopicPartition::new(std::sync::Arc::clone(&topic), from.try_get_i32().ok()?));
        }
        if flexible {
            for _ in 0..varint(from)? {
                varint(from)?;
                let size = varint(from)?;
                (from.len() >= size).then(|| from.advance(size))?;
            }
        }
    }
    Some(found)
}

fn put_varint(out: &mut BytesMut, number: usize) {
    let mut number = number;
    while number > 0x7f {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn varint(from: &mut Bytes) -> Option<usize> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(number).ok();
        }
    }
    None
}

fn text(from: &mut Bytes) -> Option<String> {
    let length = usize::try_from(from.try_get_i16().ok()?).ok()?;
    (from.len() >= length).then_some(())?;
    String::from_utf8(from.split_to(length).to_vec()).ok()
}

fn compact_text(from: &mut Bytes) -> Option<String> {
    let length = varint(from)?.checked_sub(1)?;
    (from.len() >= length).then_some(())?;
    String::from_utf8(from.split_to(length).to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn txn() -> impl Strategy<Value = Txn> {
        let state = prop_oneof![
            Just(State::Empty),
            Just(State::Ongoing),
            Just(State::PrepareCommit),
            Just(State::PrepareAbort),
            Just(State::CompleteCommit),
            Just(State::CompleteAbort),
        ];
        let partitions = proptest::collection::btree_set(("[a-zü]{1,9}", 0..200i32), 0..12);
        (any::<(i64, i64, i64, i16)>(), any::<(i32, i64, i64, bool)>(), state, partitions).prop_map(
            |(
                (producer_id, previous_id, next_id, epoch),
                (timeout_ms, start_ms, update_ms, two),
                state,
                partitions,
            )| Txn {
                producer_id,
                previous_id,
                next_id,
                epoch,
                last_epoch: -1,
                timeout_ms,
                state,
                partitions: match state {
                    State::Empty => BTreeSet::new(),
                    _ => partitions.into_iter().map(|(topic, n)| TopicPartition::new(topic, n)).collect(),
                },
                start_ms,
                update_ms,
                protocol: if two { Protocol::Two } else { Protocol::One },
            },
        )
    }

    proptest! {
        #[test]
        fn states_come_back(txn in txn(), id in "[a-zü]{0,20}") {
            prop_assert_eq!(id_of(key(&id)), Some(id));
            prop_assert_eq!(txn_of(value(&txn)), Some(txn));
        }

        #[test]
        fn any_bytes_are_a_state_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(txn_of(Bytes::from([&[0, 1], bytes.as_slice()].concat())));
            drop(txn_of(Bytes::from([&[0, 0], bytes.as_slice()].concat())));
            drop(id_of(Bytes::from(bytes)));
        }
    }

    #[test]
    fn states_of_older_kafka_are_read() {
        let mut old = BytesMut::new();
        old.put_i16(0);
        old.put_i64(7);
        old.put_i16(3);
        old.put_i32(60_000);
        old.put_i8(1);
        old.put_i32(1);
        old.put_i16(1);
        old.put_slice(b"t");
        old.put_i32(2);
        old.put_i32(0);
        old.put_i32(5);
        old.put_i64(200);
        old.put_i64(100);
        let read = txn_of(old.freeze()).unwrap();
        let want = Txn {
            epoch: 3,
            state: State::Ongoing,
            partitions: [0, 5].into_iter().map(|n| TopicPartition::new("t", n)).collect(),
            start_ms: 100,
            update_ms: 200,
            ..Txn::new(7, 60_000, 0)
        };
        assert_eq!(read, want);
    }
}
