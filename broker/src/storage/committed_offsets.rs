//! Committed offsets of consumer groups, as retention asks for them before it deletes, and reports of unread records that it
//! deleted.
//!
//! In: committed offsets, through a trait that the group coordinator's side implements. Out: ranges that were deleted
//! unread, logged and counted. Touches nothing. Leaves deleting to [`super::log`].

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use millrace_log::record::Offset;

/// The offset that a group will read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The group.
    pub group: String,
    /// Its committed offset.
    pub offset: Offset,
}

/// Committed offsets of consumer groups by partition.
pub trait CommittedOffsets: Send + Sync + 'static {
    /// Every registered group with a committed offset on a partition. Called on threads for disk work, seldom: only when
    /// retention is about to delete there. It must not wait for the log.
    fn committed(&self, topic: &str, partition: i32) -> Vec<CommittedOffset>;
}

/// Records that retention deleted before a group had read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeletedUnread {
    pub group: String,
    pub from_offset: Offset,
    pub to_offset: Offset,
}

/// Counted by topic, partition and group.
pub(super) type UnreadDeletions = Family<Vec<(String, String)>, Counter>;

/// Logs and counts what was deleted unread.
pub(super) fn report(deleted: &DeletedUnread, topic: &str, partition: i32, counter: &UnreadDeletions) {
    let DeletedUnread { group, from_offset, to_offset } = deleted;
    tracing::warn!(
        topic,
        partition,
        group,
        %from_offset,
        %to_offset,
        "retention deleted records that the group had not read: speed the group up, raise retention, or set millrace.retention.hold.bytes"
    );
    let labels = vec![
        ("topic".to_owned(), topic.to_owned()),
        ("partition".to_owned(), partition.to_string()),
        ("group".to_owned(), group.clone()),
    ];
    counter.get_or_create(&labels).inc_by(u64::try_from(to_offset.since(*from_offset)).unwrap_or(0));
}
