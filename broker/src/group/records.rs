//! Records of groups of the consumer protocol in `__consumer_offsets`: key versions 3 to 8 and 16, laid out as Kafka's. And
//! one of our own, 1000, that keeps a group's settings.
//!
//! In: records. Out: keys and values, and records again. Touches nothing. Keys are an i16 version and plain fields;
//! values are an i16 version, nought, then fields of the flexible kind: lengths and counts as unsigned varints one above
//! the true one (nought for null), tagged fields behind every struct.
//!
//! ```text
//! key 3   group            epoch i32, tag 0: hash of the topics read i64
//! key 5   group, member    instance ?str, rack ?str, client str, host str, topics [str], pattern ?str, rebalance
//!                          time-out i32, assignor ?str, tag 0: ?(session time-out i32, [(name str, metadata bytes)])
//! key 6   group            epoch of the target i32
//! key 7   group, member    target [(topic uuid, [i32])]
//! key 8   group, member    epoch i32, epoch before i32, phase i8, assigned as in 7, to be let go of as in 7
//! key 16  group, pattern   topics [str], version of the topics i64, time i64
//! key 1000 group           [(name str, value str)]
//! ```
//! A null value deletes. Key 4 (topics of a group, before Kafka 4.1) is not read: the hash in 3 took its place.

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use super::consumer::{Assignment, Classic, Current, Member, Phase};
use super::encoding::{put_text, text};

/// Key of the record that keeps a group's settings; Kafka's readers skip versions they don't know.
const SETTINGS_KEY: i16 = 1000;

/// One record of a group; `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRecord {
    /// Epoch of the group and hash of the topics it reads.
    Epoch(Option<(i32, i64)>),
    /// Who a member is and what it reads: only those parts of [`Member`] count.
    Member(String, Option<Box<Member>>),
    /// Epoch of the target.
    AssignmentEpoch(Option<i32>),
    /// What a member shall have.
    Target(String, Option<Assignment>),
    /// What a member has, and its epoch before.
    Current(String, Option<(Current, i32)>),
    /// What a pattern stands for.
    Regex(String, Option<BTreeSet<String>>),
    /// Settings of the group by name.
    Settings(Option<Vec<(String, String)>>),
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value > 0x7f {
        out.put_u8(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.put_u8(u8::try_from(value).unwrap_or(0));
}

fn put_length(out: &mut BytesMut, length: usize) {
    put_varint(out, length as u64 + 1);
}

fn put_string(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => {
            put_length(out, text.len());
            out.put_slice(text.as_bytes());
        }
        None => out.put_u8(0),
    }
}

fn put_strings<'a>(out: &mut BytesMut, list: impl ExactSizeIterator<Item = &'a String>) {
    put_length(out, list.len());
    list.for_each(|text| put_string(out, Some(text)));
}

const NO_TAGS: u8 = 0;

fn put_assignment(out: &mut BytesMut, assignment: &Assignment) {
    put_length(out, assignment.len());
    for (topic, partitions) in assignment {
        out.put_slice(topic.as_bytes());
        put_length(out, partitions.len());
        partitions.iter().for_each(|p| out.put_i32(*p));
        out.put_u8(NO_TAGS);
    }
}

fn put_tag(out: &mut BytesMut, value: &[u8]) {
    out.put_u8(1);
    out.put_u8(0);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

fn varint(from: &mut Bytes) -> Option<usize> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

pub(super) fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (from.len() >= length).then(|| from.split_to(length))
}

fn string(from: &mut Bytes) -> Option<Option<String>> {
    let Some(length) = varint(from)?.checked_sub(1) else { return Some(None) };
    Some(Some(String::from_utf8(take(from, length)?.to_vec()).ok()?))
}

fn strings<C: FromIterator<String>>(from: &mut Bytes) -> Option<C> {
    let count = varint(from)?.saturating_sub(1);
    (0..count).map(|_| string(from)?).collect()
}

/// Walks over tagged fields and gives the one numbered nought.
fn tags(from: &mut Bytes) -> Option<Option<Bytes>> {
    let mut first = None;
    for _ in 0..varint(from)? {
        let number = varint(from)?;
        let size = varint(from)?;
        let value = take(from, size)?;
        if number == 0 {
            first = Some(value);
        }
    }
    Some(first)
}

fn assignment(from: &mut Bytes) -> Option<Assignment> {
    let mut read = Assignment::new();
    for _ in 0..varint(from)?.saturating_sub(1) {
        let topic = Uuid::from_slice(&take(from, 16)?).ok()?;
        let count = varint(from)?.saturating_sub(1);
        let partitions: Option<BTreeSet<i32>> = (0..count).map(|_| from.try_get_i32().ok()).collect();
        read.insert(topic, partitions?);
        tags(from)?;
    }
    Some(read)
}

fn put_member(out: &mut BytesMut, member: &Member) {
    put_string(out, member.instance_id.as_deref());
    put_string(out, member.rack_id.as_deref());
    put_string(out, Some(&member.client_id));
    put_string(out, Some(&member.client_host));
    put_strings(out, member.topics.iter());
    put_string(out, Some(member.regex.as_deref().unwrap_or_default()));
    out.put_i32(member.rebalance_timeout_ms);
    put_string(out, member.assignor.as_deref());
    let Some(classic) = &member.classic else {
        out.put_u8(NO_TAGS);
        return;
    };
    let mut tag = BytesMut::new();
    // A struct that may be null is led by 1.
    tag.put_i8(1);
    tag.put_i32(classic.session_timeout_ms);
    put_length(&mut tag, classic.protocols.len());
    for (name, metadata) in &classic.protocols {
        put_string(&mut tag, Some(name));
        put_length(&mut tag, metadata.len());
        tag.put_slice(metadata);
        tag.put_u8(NO_TAGS);
    }
    tag.put_u8(NO_TAGS);
    put_tag(out, &tag);
}

fn classic(mut from: Bytes) -> Option<Option<Classic>> {
    if from.try_get_i8().ok()? < 0 {
        return Some(None);
    }
    let mut read = Classic { session_timeout_ms: from.try_get_i32().ok()?, protocols: Vec::new() };
    for _ in 0..varint(&mut from)?.saturating_sub(1) {
        let name = string(&mut from)??;
        let length = varint(&mut from)?.saturating_sub(1);
        read.protocols.push((name, take(&mut from, length)?));
        tags(&mut from)?;
    }
    Some(Some(read))
}

fn member(from: &mut Bytes) -> Option<Member> {
    let mut read = Member {
        instance_id: string(from)?,
        rack_id: string(from)?,
        client_id: string(from)?.unwrap_or_default(),
        client_host: string(from)?.unwrap_or_default(),
        topics: strings(from)?,
        regex: string(from)?.filter(|pattern| !pattern.is_empty()),
        rebalance_timeout_ms: from.try_get_i32().ok()?,
        assignor: string(from)?,
        ..Member::default()
    };
    if let Some(tag) = tags(from)? {
        read.classic = classic(tag)?;
    }
    Some(read)
}

impl GroupRecord {
    /// Key and value.
    pub(super) fn encode(&self, group: &str) -> (Bytes, Option<Bytes>) {
        let (mut key, mut out) = (BytesMut::new(), BytesMut::new());
        let (version, second) = match self {
            Self::Epoch(_) => (3, None),
            Self::Member(id, _) => (5, Some(id)),
            Self::AssignmentEpoch(_) => (6, None),
            Self::Target(id, _) => (7, Some(id)),
            Self::Current(id, _) => (8, Some(id)),
            Self::Regex(pattern, _) => (16, Some(pattern)),
            Self::Settings(_) => (SETTINGS_KEY, None),
        };
        key.put_i16(version);
        put_text(&mut key, group);
        if let Some(second) = second {
            put_text(&mut key, second);
        }
        out.put_i16(0);
        let has_value = match self {
            Self::Epoch(Some((epoch, hash))) => {
                out.put_i32(*epoch);
                put_tag(&mut out, &hash.to_be_bytes());
                true
            }
            Self::Member(_, Some(member)) => {
                put_member(&mut out, member);
                true
            }
            Self::AssignmentEpoch(Some(epoch)) => {
                out.put_i32(*epoch);
                out.put_u8(NO_TAGS);
                true
            }
            Self::Target(_, Some(assignment)) => {
                put_assignment(&mut out, assignment);
                out.put_u8(NO_TAGS);
                true
            }
            Self::Current(_, Some((current, previous))) => {
                out.put_i32(current.epoch);
                out.put_i32(*previous);
                out.put_i8(current.phase as i8);
                put_assignment(&mut out, &current.assigned);
                put_assignment(&mut out, &current.revoking);
                out.put_u8(NO_TAGS);
                true
            }
            Self::Regex(_, Some(topics)) => {
                put_strings(&mut out, topics.iter());
                out.put_i64(0);
                out.put_i64(0);
                out.put_u8(NO_TAGS);
                true
            }
            Self::Settings(Some(pairs)) => {
                put_length(&mut out, pairs.len());
                for (name, value) in pairs {
                    put_string(&mut out, Some(name));
                    put_string(&mut out, Some(value));
                    out.put_u8(NO_TAGS);
                }
                out.put_u8(NO_TAGS);
                true
            }
            Self::Epoch(None)
            | Self::Member(_, None)
            | Self::AssignmentEpoch(None)
            | Self::Target(_, None)
            | Self::Current(_, None)
            | Self::Regex(_, None)
            | Self::Settings(None) => false,
        };
        (key.freeze(), has_value.then(|| out.freeze()))
    }

    /// Reads what stands behind the version of a key, and the value. Gives the group and its record.
    pub(super) fn decode(version: i16, mut key: Bytes, value: Option<Bytes>) -> Option<(String, Self)> {
        let group = text(&mut key)?;
        // Every value but a tombstone begins with its version.
        let value = match value {
            Some(mut value) => {
                value.try_get_i16().ok()?;
                Some(value)
            }
            None => None,
        };
        let read = |parse: &mut dyn FnMut(&mut Bytes) -> Option<()>| match value.clone() {
            Some(mut bytes) => parse(&mut bytes),
            None => Some(()),
        };
        let record = match version {
            3 => {
                let mut found = None;
                read(&mut |from| {
                    let epoch = from.try_get_i32().ok()?;
                    let hash = tags(from)?.and_then(|tag| tag.first_chunk::<8>().copied());
                    found = Some((epoch, hash.map_or(0, i64::from_be_bytes)));
                    Some(())
                })?;
                Self::Epoch(found)
            }
            5 => {
                let (id, mut found) = (text(&mut key)?, None);
                read(&mut |from| {
                    found = Some(Box::new(member(from)?));
                    Some(())
                })?;
                Self::Member(id, found)
            }
            6 => {
                let mut found = None;
                read(&mut |from| {
                    found = Some(from.try_get_i32().ok()?);
                    Some(())
                })?;
                Self::AssignmentEpoch(found)
            }
            7 => {
                let (id, mut found) = (text(&mut key)?, None);
                read(&mut |from| {
                    found = Some(assignment(from)?);
                    Some(())
                })?;
                Self::Target(id, found)
            }
            8 => {
                let (id, mut found) = (text(&mut key)?, None);
                read(&mut |from| {
                    let (epoch, previous) = (from.try_get_i32().ok()?, from.try_get_i32().ok()?);
                    let phase = Phase::of(from.try_get_i8().ok()?);
                    let (assigned, revoking) = (assignment(from)?, assignment(from)?);
                    found = Some((Current { phase, epoch, assigned, revoking }, previous));
                    Some(())
                })?;
                Self::Current(id, found)
            }
            16 => {
                let (pattern, mut found) = (text(&mut key)?, None);
                read(&mut |from| {
                    found = Some(strings(from)?);
                    Some(())
                })?;
                Self::Regex(pattern, found)
            }
            SETTINGS_KEY => {
                let mut found = None;
                read(&mut |from| {
                    let mut pairs = Vec::new();
                    for _ in 0..varint(from)?.saturating_sub(1) {
                        pairs.push((string(from)??, string(from)??));
                        tags(from)?;
                    }
                    found = Some(pairs);
                    Some(())
                })?;
                Self::Settings(found)
            }
            _ => return None,
        };
        Some((group, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assignments() -> impl Strategy<Value = Assignment> {
        proptest::collection::btree_map(
            any::<u128>().prop_map(Uuid::from_u128),
            proptest::collection::btree_set(0i32..200, 0..140),
            0..3,
        )
    }

    fn records() -> impl Strategy<Value = GroupRecord> {
        let text = || "[a-zü]{0,9}";
        let classic = proptest::option::of((any::<i32>(), proptest::collection::vec((text(), any::<[u8; 3]>()), 0..3)));
        let named =
            (proptest::option::of(text()), proptest::option::of(text()), text(), proptest::option::of("[a-z.*]{1,9}"));
        let member = (named, proptest::collection::btree_set(text(), 0..3), any::<i32>(), classic).prop_map(
            |((instance_id, rack_id, client_id, regex), topics, rebalance_timeout_ms, classic)| {
                let classic = classic.map(|(session_timeout_ms, list)| Classic {
                    session_timeout_ms,
                    protocols: list.into_iter().map(|(name, data)| (name, Bytes::copy_from_slice(&data))).collect(),
                });
                let assignor = rack_id.clone();
                Box::new(Member {
                    instance_id,
                    rack_id,
                    client_id,
                    regex,
                    topics,
                    rebalance_timeout_ms,
                    assignor,
                    classic,
                    ..Member::default()
                })
            },
        );
        let current = (0i8..3, any::<(i32, i32)>(), assignments(), assignments()).prop_map(
            |(phase, (epoch, previous), assigned, revoking)| {
                (Current { phase: Phase::of(phase), epoch, assigned, revoking }, previous)
            },
        );
        prop_oneof![
            proptest::option::of(any::<(i32, i64)>()).prop_map(GroupRecord::Epoch),
            (text(), proptest::option::of(member)).prop_map(|(id, m)| GroupRecord::Member(id, m)),
            proptest::option::of(any::<i32>()).prop_map(GroupRecord::AssignmentEpoch),
            (text(), proptest::option::of(assignments())).prop_map(|(id, a)| GroupRecord::Target(id, a)),
            (text(), proptest::option::of(current)).prop_map(|(id, c)| GroupRecord::Current(id, c)),
            (text(), proptest::option::of(proptest::collection::btree_set(text(), 0..3)))
                .prop_map(|(p, t)| GroupRecord::Regex(p, t)),
            proptest::option::of(proptest::collection::vec((text(), text()), 0..3)).prop_map(GroupRecord::Settings),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back(record in records()) {
            let (mut key, value) = record.encode("g");
            let version = key.get_i16();
            prop_assert_eq!(GroupRecord::decode(version, key, value), Some(("g".to_owned(), record)));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(version in 0i16..20, key in proptest::collection::vec(any::<u8>(), 0..20), value in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(GroupRecord::decode(version, Bytes::from(key), Some(Bytes::from(value))));
        }
    }

    #[test]
    fn layout_is_kafkas() {
        // As Apache Kafka 4.1.1 wrote them.
        let topic = Uuid::from_u128(0x0dc3_93a9_7030_4cd3_9bff_e2d5_c230_ebde);
        let current = Current {
            phase: Phase::Unrevoked,
            epoch: 1,
            assigned: [(topic, [0, 1].into())].into(),
            revoking: [(topic, [2, 3].into())].into(),
        };
        let (key, value) = GroupRecord::Current("a".to_owned(), Some((current, 1))).encode("gaad89b");
        assert_eq!(&key[..], b"\0\x08\0\x07gaad89b\0\x01a");
        let uuid = topic.as_bytes();
        let list = |a: u8, b: u8| [b"\x02".as_slice(), uuid, b"\x03\0\0\0", &[a], b"\0\0\0", &[b], b"\0"].concat();
        let want = [b"\0\0\0\0\0\x01\0\0\0\x01\x01".as_slice(), &list(0, 1), &list(2, 3), b"\0"].concat();
        assert_eq!(value.unwrap(), want);
        let member = Member {
            client_id: "conformance".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            topics: ["taad89b".to_owned()].into(),
            rebalance_timeout_ms: 10_000,
            ..Member::default()
        };
        let (key, value) = GroupRecord::Member("a".to_owned(), Some(Box::new(member))).encode("gaad89b");
        assert_eq!(&key[..], b"\0\x05\0\x07gaad89b\0\x01a");
        assert_eq!(
            value.unwrap(),
            b"\0\0\0\0\x0cconformance\x0b/127.0.0.1\x02\x08taad89b\x01\0\0\x27\x10\0\0".as_slice()
        );
        let (_, value) = GroupRecord::Epoch(Some((1, 0x3614_1471_8b11_05dc))).encode("gaad89b");
        assert_eq!(value.unwrap(), b"\0\0\0\0\0\x01\x01\0\x08\x36\x14\x14\x71\x8b\x11\x05\xdc".as_slice());
        let (_, value) = GroupRecord::AssignmentEpoch(Some(1)).encode("gaad89b");
        assert_eq!(value.unwrap(), b"\0\0\0\0\0\x01\0".as_slice());
    }
}
