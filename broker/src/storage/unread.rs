//! Who has read how far: what retention asks before it deletes, and what it tells when it deletes unread records.
//!
//! In: committed offsets, through a trait that the group coordinator's side implements. Out: ranges that were deleted
//! unread, logged and counted. Touches nothing. Leaves deleting to [`super::log`].

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// The offset that a group will read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The group.
    pub group: String,
    /// Its committed offset.
    pub offset: i64,
}

/// Tells who has read how far.
pub trait Unread: Send + Sync + 'static {
    /// Every registered group with a committed offset on a partition. Called on threads for disk work, seldom: only when
    /// retention is about to delete there. It must not wait for the log.
    fn committed(&self, topic: &str, partition: i32) -> Vec<CommittedOffset>;
}

/// Records that retention deleted before a group had read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PassedUnread {
    pub group: String,
    pub from_offset: i64,
    pub to_offset: i64,
}

/// Counted by topic, partition and group.
pub(super) type PassedRecords = Family<Vec<(String, String)>, Counter>;

/// Logs and counts what was deleted unread.
pub(super) fn tell(passed: &PassedUnread, topic: &str, partition: i32, counter: &PassedRecords) {
    let PassedUnread { group, from_offset, to_offset } = passed;
    tracing::warn!(
        topic,
        partition,
        group,
        from_offset,
        to_offset,
        "retention deleted records that the group had not read: speed it up, raise retention, or set millrace.retention.hold.bytes"
    );
    let labels = vec![
        ("topic".to_owned(), topic.to_owned()),
        ("partition".to_owned(), partition.to_string()),
        ("group".to_owned(), group.clone()),
    ];
    counter.get_or_create(&labels).inc_by(u64::try_from(to_offset - from_offset).unwrap_or(0));
}
