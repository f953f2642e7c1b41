//! Heartbeats of the consumer protocol and their answers, and what can be checked of them without the group.
//!
//! In: heartbeats. Out: answers, refusals. Touches nothing.

use super::assign::{ASSIGNORS, Assignment};
use super::pattern::compile;
use crate::group::error::GroupError;

/// Epoch of a heartbeat that leaves for good.
pub const LEAVE: i32 = -1;

/// Epoch of a heartbeat of a static member that will be back.
pub const LEAVE_STATIC: i32 = -2;

/// What members of a group are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Time without heartbeats after which a member is taken for dead.
    pub session_ms: i64,
    /// Time between heartbeats that members are given.
    pub heartbeat_ms: i32,
    /// Most members.
    pub max_members: usize,
}

/// A heartbeat; what is absent has not changed.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    /// Id of the member; may be empty when joining with version 0.
    pub member_id: String,
    /// 0 joins, [`LEAVE`] and [`LEAVE_STATIC`] leave, else the epoch it was given.
    pub epoch: i32,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Rack of the client.
    pub rack_id: Option<String>,
    /// Time it may take to let go of partitions.
    pub rebalance_timeout_ms: Option<i32>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from, with a leading slash as Kafka shows it.
    pub client_host: String,
    /// Topics by name.
    pub topics: Option<Vec<String>>,
    /// Topics by pattern.
    pub regex: Option<String>,
    /// The assignor it likes.
    pub assignor: Option<String>,
    /// What it owns.
    pub owned: Option<Assignment>,
    /// A fresh unique id, used if the member needs one.
    pub fresh_id: String,
}

/// Answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beaten {
    /// Whom it is for.
    pub member_id: String,
    /// The epoch it is in.
    pub epoch: i32,
    /// When to beat again; 0 for who leaves.
    pub heartbeat_ms: i32,
    /// All it may read, where that changed or was asked for.
    pub assigned: Option<Assignment>,
}

/// Checks what can be said of a heartbeat without its group. `needs_id`: version 1 and later.
pub fn check(group: &str, beat: &Beat, needs_id: bool) -> Result<(), GroupError> {
    let invalid = |text: &str| Err(GroupError::InvalidRequest(text.to_owned()));
    if beat.member_id.is_empty() && (needs_id || beat.epoch > 0 || beat.epoch == LEAVE) {
        return invalid("MemberId can't be empty.");
    }
    if group.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if beat.instance_id.as_deref() == Some("") {
        return invalid("InstanceId can't be empty.");
    }
    if beat.rack_id.as_deref() == Some("") {
        return invalid("RackId can't be empty.");
    }
    if beat.epoch == 0 {
        if beat.rebalance_timeout_ms.is_none() {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if beat.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if beat.topics.is_none() && beat.regex.is_none() {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
    } else if beat.epoch == LEAVE_STATIC {
        if beat.instance_id.is_none() {
            return invalid("InstanceId can't be null.");
        }
    } else if beat.epoch < LEAVE_STATIC {
        return invalid("MemberEpoch is invalid.");
    }
    if let Some(assignor) = beat.assignor.as_deref().filter(|name| !ASSIGNORS.contains(name)) {
        let known = ASSIGNORS.join(", ");
        let text = format!("ServerAssignor {assignor} is not supported. Supported assignors: {known}.");
        return Err(GroupError::UnsupportedAssignor(text));
    }
    match beat.regex.as_deref() {
        Some(pattern) if !pattern.is_empty() => compile(pattern).map(drop),
        _ => Ok(()),
    }
}
