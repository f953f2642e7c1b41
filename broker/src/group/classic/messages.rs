//! Requests of members of the classic protocol and their answers, which come now or later.
//!
//! In: joins, syncs. Out: answers, through [`oneshot`] channels. Touches nothing.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::group::error::GroupError;

/// A member who wants in, or again.
#[derive(Debug, Clone)]
pub struct Join {
    /// Its id, empty at first.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from, with a leading slash as Kafka shows it.
    pub client_host: String,
    /// Time without heartbeats after which it is taken for dead.
    pub session_timeout_ms: i32,
    /// Time it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect` …
    pub protocol_type: String,
    /// Strategies in order of preference, with the member's metadata for each.
    pub protocols: Vec<(String, Bytes)>,
    /// Whether a first join only gets an id (JoinGroup 4 and later).
    pub require_known_id: bool,
    /// Whether a returning static leader may be answered to skip the assignment (JoinGroup 9 and later).
    pub can_skip_assignment: bool,
    /// A fresh unique id, used if the member needs one.
    pub fresh_id: String,
}

/// Answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Generation that begins.
    pub generation: i32,
    /// Protocol type of the group.
    pub protocol_type: Option<String>,
    /// Strategy that all members know.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: String,
    /// Whom this answer is for.
    pub member_id: String,
    /// All members (id, instance id, metadata), only for the leader.
    pub members: Vec<(String, Option<String>, Bytes)>,
    /// The leader need not assign (KIP-814).
    pub skip_assignment: bool,
}

/// A member's request for its assignment.
#[derive(Debug, Clone, Default)]
pub struct Sync {
    /// Its id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The generation it joined.
    pub generation: i32,
    /// Protocol type it believes in, if it says.
    pub protocol_type: Option<String>,
    /// Strategy it believes in, if it says.
    pub protocol: Option<String>,
    /// What the leader gives to whom.
    pub assignments: Vec<(String, Bytes)>,
}

/// Answer to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// Protocol type of the group.
    pub protocol_type: Option<String>,
    /// Strategy in use.
    pub protocol: Option<String>,
    /// What the leader gave this member.
    pub assignment: Bytes,
}

/// An answer that comes now or later; a dropped sender means [`GroupError::NotAvailable`].
pub type Later<T> = oneshot::Receiver<Result<T, GroupError>>;
pub(super) type Waiting<T> = oneshot::Sender<Result<T, GroupError>>;

pub(super) fn answer<T>(waiting: Option<Waiting<T>>, result: Result<T, GroupError>) {
    // A client that hung up meanwhile hears nothing; its session ends by time.
    if let Some(waiting) = waiting {
        drop(waiting.send(result));
    }
}

/// An answer that is there already.
pub(crate) fn now_or_later<T>(answer: Result<T, GroupError>) -> Later<T> {
    let (tx, rx) = oneshot::channel();
    self::answer(Some(tx), answer);
    rx
}
