//! The id of a topic (KIP-516): another one each time a topic is created. It tells a topic that was deleted and created anew
//! from the one before.
//!
//! In: what a broker says, or what was stored. Out: the same; nothing where a log has no ids. Touches nothing.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The id of a topic, never all zero. Shown and stored as a UUID with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(Uuid);

impl TopicId {
    /// From the protocol; `None` for all zero, which a broker before Kafka 2.8 and one without ids says.
    pub fn of(id: Uuid) -> Option<Self> {
        (!id.is_nil()).then_some(Self(id))
    }

    /// As the protocol has it.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// From its text; `None` if it is not one.
    pub fn read(text: &str) -> Option<Self> {
        Self::of(Uuid::try_parse(text).ok()?)
    }

    /// Whether both are known and different: the topic was created anew in between.
    pub fn differ(one: Option<Self>, other: Option<Self>) -> bool {
        matches!((one, other), (Some(one), Some(other)) if one != other)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for TopicId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TopicId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::read(&text).ok_or_else(|| serde::de::Error::custom("not the id of a topic"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stored_as_text_and_only_known_ones_differ() {
        let of = |n: u128| TopicId::of(Uuid::from_u128(n));
        assert_eq!(of(0), None);
        let json = serde_json::to_string(&of(7)).unwrap();
        assert_eq!(json, "\"00000000-0000-0000-0000-000000000007\"");
        assert_eq!(serde_json::from_str::<Option<TopicId>>(&json).unwrap(), of(7));
        assert!(serde_json::from_str::<TopicId>("\"seven\"").is_err());
        for (one, other, want) in [(7, 7, false), (7, 8, true), (0, 8, false), (7, 0, false), (0, 0, false)] {
            assert_eq!(TopicId::differ(of(one), of(other)), want, "{one} {other}");
        }
    }
}
