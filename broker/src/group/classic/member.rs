//! One member of a classic group: what it said when it joined, its session, what it waits for.
//!
//! In: what it says, the time. Out: its state. Touches nothing.

use bytes::Bytes;

use super::messages::{Joined, Synced, Waiting};

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from.
    pub client_host: String,
    /// Time without heartbeats after which it is taken for dead.
    pub session_timeout_ms: i32,
    /// Time it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// Strategies in order of preference with metadata.
    pub protocols: Vec<(String, Bytes)>,
    /// What the leader gave it.
    pub assignment: Bytes,
    pub(super) expires_at_ms: i64,
    pub(super) join: Option<Waiting<Joined>>,
    pub(super) sync: Option<Waiting<Synced>>,
    pub(super) has_synced: bool,
}

impl Member {
    /// A member as it was read from the log.
    pub fn restored(id: String, instance_id: Option<String>, sessions: (i32, i32), now_ms: i64) -> Self {
        let (session_timeout_ms, rebalance_timeout_ms) = sessions;
        Self {
            id,
            instance_id,
            client_id: String::new(),
            client_host: String::new(),
            session_timeout_ms,
            rebalance_timeout_ms,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            expires_at_ms: now_ms + i64::from(session_timeout_ms),
            join: None,
            sync: None,
            has_synced: true,
        }
    }

    /// Metadata for a strategy.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, data)| data.clone()).unwrap_or_default()
    }

    pub(super) fn seen(&mut self, now_ms: i64) {
        self.expires_at_ms = now_ms + i64::from(self.session_timeout_ms);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.join.as_ref().is_some_and(|w| !w.is_closed()) || self.sync.as_ref().is_some_and(|w| !w.is_closed())
    }
}

/// Topics that the metadata of a member names at most: an empty name of two bytes takes ten times as much.
pub const MAX_SUBSCRIBED: i32 = 100_000;

/// Topics in the metadata of a member of type `consumer`: version (i16), count (i32), names. Empty where it is none.
pub fn subscribed_topics(metadata: &[u8]) -> Vec<String> {
    let mut topics = Vec::new();
    let Some(count) = metadata.get(2..6).and_then(|b| b.first_chunk::<4>()) else { return topics };
    let mut rest = metadata.get(6..).unwrap_or_default();
    for _ in 0..i32::from_be_bytes(*count).min(MAX_SUBSCRIBED) {
        let Some((length, tail)) = rest.split_first_chunk::<2>() else { break };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((name, tail)) = tail.split_at_checked(length) else { break };
        topics.push(String::from_utf8_lossy(name).into_owned());
        rest = tail;
    }
    topics
}
