//! What the topic `__consumer_offsets` holds: committed offsets and the last state of each group; [`super::records`] has
//! the records of groups of the consumer protocol.
//!
//! In: entries. Out: record batches, and entries again. Touches nothing. Layout of keys and values is Kafka's own, so
//! that its tools read the topic; big-endian, `str` is i16 length and UTF-8, `?str` has -1 for null, `bytes` i32 length:
//!
//! ```text
//! key 1    i16 1, group str, topic str, partition i32
//! value 3  i16 3, offset i64, leader epoch i32, metadata str, commit time i64 (ms)
//! key 2    i16 2, group str
//! value 3  i16 3, protocol type str, generation i32, protocol ?str, leader ?str, time of this state i64,
//!          n i32, n × (member str, instance ?str, client str, host str, rebalance time-out i32, session time-out i32,
//!          subscription bytes, assignment bytes)
//! ```
//! A null value deletes. Readers skip keys of other versions and ignore what follows the last field of a newer value,
//! so fields may be added at the end; value 1 and 2 of commits (older Kafka) are not read.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::encoding::{bytes, nullable, put_bytes, put_nullable, put_text, text};
use super::records::GroupRecord;
use crate::keyed::{self, CodecError};
use crate::storage::Marker;
use millrace_log::record::Offset;

/// Where offsets and groups are kept.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Where reading continues.
    pub offset: Offset,
    /// Epoch of the last record read, -1 if the client did not say.
    pub leader_epoch: i32,
    /// A note of the client.
    pub metadata: String,
    /// When, ms since 1970.
    pub committed_at_ms: i64,
}

/// A member as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMember {
    /// Member id.
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from.
    pub client_host: String,
    /// Time to join again, ms.
    pub rebalance_timeout_ms: i32,
    /// Time without heartbeats, ms.
    pub session_timeout_ms: i32,
    /// Metadata for the strategy in use.
    pub subscription: Bytes,
    /// What the leader gave it.
    pub assignment: Bytes,
}

/// A group as kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptGroup {
    /// `consumer`, `connect` …, may be empty.
    pub protocol_type: String,
    /// Last generation.
    pub generation: i32,
    /// Strategy in use.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: Option<String>,
    /// Since when, ms since 1970.
    pub state_since_ms: i64,
    /// The members.
    pub members: Vec<KeptMember>,
}

/// One record of the topic; without a value it deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OffsetsEntry {
    /// An offset of a group for a partition.
    Offset {
        /// The group.
        group: String,
        /// Topic read.
        topic: String,
        /// Partition read.
        partition: i32,
        /// How far, `None` forgets it.
        value: Option<Committed>,
    },
    /// The state of a group.
    Group {
        /// The group.
        group: String,
        /// Its state, `None` removes it.
        value: Option<KeptGroup>,
    },
    /// A part of a group of the consumer protocol.
    Consumer {
        /// The group.
        group: String,
        /// Which part, and what it is now.
        record: GroupRecord,
    },
}

impl OffsetsEntry {
    /// Key and value.
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let (mut key, mut out) = (BytesMut::new(), BytesMut::new());
        let has_value = match self {
            Self::Consumer { group, record } => return record.encode(group),
            Self::Offset { group, topic, partition, value } => {
                key.put_i16(1);
                put_text(&mut key, group);
                put_text(&mut key, topic);
                key.put_i32(*partition);
                if let Some(value) = value {
                    out.put_i16(3);
                    out.put_i64(value.offset.get());
                    out.put_i32(value.leader_epoch);
                    put_text(&mut out, &value.metadata);
                    out.put_i64(value.committed_at_ms);
                }
                value.is_some()
            }
            Self::Group { group, value } => {
                key.put_i16(2);
                put_text(&mut key, group);
                if let Some(value) = value {
                    out.put_i16(3);
                    put_text(&mut out, &value.protocol_type);
                    out.put_i32(value.generation);
                    put_nullable(&mut out, value.protocol.as_deref());
                    put_nullable(&mut out, value.leader.as_deref());
                    out.put_i64(value.state_since_ms);
                    out.put_i32(i32::try_from(value.members.len()).unwrap_or(i32::MAX));
                    for member in &value.members {
                        put_text(&mut out, &member.id);
                        put_nullable(&mut out, member.instance_id.as_deref());
                        put_text(&mut out, &member.client_id);
                        put_text(&mut out, &member.client_host);
                        out.put_i32(member.rebalance_timeout_ms);
                        out.put_i32(member.session_timeout_ms);
                        put_bytes(&mut out, &member.subscription);
                        put_bytes(&mut out, &member.assignment);
                    }
                }
                value.is_some()
            }
        };
        (key.freeze(), has_value.then(|| out.freeze()))
    }

    /// Reads one record; `None` for what is not ours to read.
    pub fn decode(mut key: Bytes, value: Option<Bytes>) -> Option<Self> {
        match key.try_get_i16().ok()? {
            1 => {
                let (group, topic) = (text(&mut key)?, text(&mut key)?);
                let partition = key.try_get_i32().ok()?;
                let value = match value {
                    Some(value) => Some(committed(value)?),
                    None => None,
                };
                Some(Self::Offset { group, topic, partition, value })
            }
            2 => {
                let group = text(&mut key)?;
                let value = match value {
                    Some(value) => Some(kept_group(value)?),
                    None => None,
                };
                Some(Self::Group { group, value })
            }
            version => {
                let (group, record) = GroupRecord::decode(version, key, value)?;
                Some(Self::Consumer { group, record })
            }
        }
    }
}

fn committed(mut from: Bytes) -> Option<Committed> {
    (from.try_get_i16().ok()? >= 3).then_some(())?;
    Some(Committed {
        offset: Offset::new(from.try_get_i64().ok()?),
        leader_epoch: from.try_get_i32().ok()?,
        metadata: text(&mut from)?,
        committed_at_ms: from.try_get_i64().ok()?,
    })
}

fn kept_group(mut from: Bytes) -> Option<KeptGroup> {
    (from.try_get_i16().ok()? >= 3).then_some(())?;
    let mut group = KeptGroup {
        protocol_type: text(&mut from)?,
        generation: from.try_get_i32().ok()?,
        protocol: nullable(&mut from)?,
        leader: nullable(&mut from)?,
        state_since_ms: from.try_get_i64().ok()?,
        members: Vec::new(),
    };
    for _ in 0..from.try_get_i32().ok()? {
        group.members.push(KeptMember {
            id: text(&mut from)?,
            instance_id: nullable(&mut from)?,
            client_id: text(&mut from)?,
            client_host: text(&mut from)?,
            rebalance_timeout_ms: from.try_get_i32().ok()?,
            session_timeout_ms: from.try_get_i32().ok()?,
            subscription: bytes(&mut from)?,
            assignment: bytes(&mut from)?,
        });
    }
    Some(group)
}

/// One record batch of entries; with a producer (id, epoch) it is part of the producer's transaction.
pub fn batch(entries: &[OffsetsEntry], producer: Option<(i64, i16)>, now_ms: i64) -> Result<Bytes, CodecError> {
    keyed::batch(entries.iter().map(OffsetsEntry::encode), producer, now_ms)
}

/// One record batch of the topic.
#[derive(Debug)]
pub struct Batch {
    /// Offset after its last record.
    pub next_offset: i64,
    /// Id and epoch of the producer whose transaction it is part of.
    pub producer: Option<(i64, i16)>,
    /// How it ends that transaction, if it does.
    pub marker: Option<Marker>,
    /// Entries with their offsets, without those of other kinds; or why there are none.
    pub entries: Result<Vec<(i64, OffsetsEntry)>, CodecError>,
}

/// Takes whole batches apart; one that can't be read costs only itself.
pub fn batches(bytes: Bytes) -> Vec<Batch> {
    let read = |batch: keyed::Batch| {
        let keyed::Batch { next_offset, producer, marker, pairs } = batch;
        let entries = pairs.map(|pairs| {
            let read = |(at, (key, value))| Some((at, OffsetsEntry::decode(key, value)?));
            pairs.into_iter().filter_map(read).collect()
        });
        Batch { next_offset, producer, marker, entries }
    };
    keyed::batches(bytes).into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = OffsetsEntry> {
        let text = || "[a-zü]{0,12}";
        let committed = (any::<i64>(), any::<i32>(), text(), any::<i64>()).prop_map(
            |(offset, leader_epoch, metadata, committed_at_ms)| Committed {
                offset: Offset::new(offset),
                leader_epoch,
                metadata,
                committed_at_ms,
            },
        );
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let member = (text(), proptest::option::of(text()), text(), any::<(i32, i32)>(), bytes(), bytes()).prop_map(
            |(id, instance_id, client_id, (rebalance_timeout_ms, session_timeout_ms), subscription, assignment)| {
                let client_host = "/127.0.0.1".to_owned();
                KeptMember {
                    id,
                    instance_id,
                    client_id,
                    client_host,
                    rebalance_timeout_ms,
                    session_timeout_ms,
                    subscription,
                    assignment,
                }
            },
        );
        let members = proptest::collection::vec(member, 0..4);
        let group = (text(), any::<(i32, i64)>(), proptest::option::of(text()), proptest::option::of(text()), members)
            .prop_map(|(protocol_type, (generation, state_since_ms), protocol, leader, members)| KeptGroup {
                protocol_type,
                generation,
                protocol,
                leader,
                state_since_ms,
                members,
            });
        prop_oneof![
            (text(), text(), any::<i32>(), proptest::option::of(committed))
                .prop_map(|(group, topic, partition, value)| OffsetsEntry::Offset { group, topic, partition, value }),
            (text(), proptest::option::of(group)).prop_map(|(group, value)| OffsetsEntry::Group { group, value }),
        ]
    }

    proptest! {
        #[test]
        fn batches_give_back_their_entries(list in proptest::collection::vec(entry(), 1..8)) {
            let one = batch(&list, None, 1_700_000_000_000).unwrap();
            let mut damaged = one.to_vec();
            damaged[70] ^= 1;
            let read = batches([damaged.as_slice(), &one].concat().into());
            prop_assert_eq!(read.len(), 2);
            prop_assert!(read[0].entries.is_err(), "its checksum does not fit");
            prop_assert_eq!(read[1].next_offset, list.len() as i64);
            let back = read.into_iter().nth(1).unwrap().entries.unwrap();
            prop_assert_eq!(back.iter().map(|(at, _)| *at).collect::<Vec<_>>(), (0..list.len() as i64).collect::<Vec<_>>());
            prop_assert_eq!(back.into_iter().map(|(_, e)| e).collect::<Vec<_>>(), list);
        }

        #[test]
        fn any_bytes_are_an_entry_or_none(key in proptest::collection::vec(any::<u8>(), 0..40), value in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(batches(Bytes::from([key.as_slice(), &value].concat())));
            drop(OffsetsEntry::decode(Bytes::from(key), Some(Bytes::from(value))));
        }
    }
}
