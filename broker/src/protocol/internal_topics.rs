//! Internal topics: the ones in which the broker keeps its own state (`__consumer_offsets`, `__transaction_state`).
//!
//! In: names. Out: whether clients may change such a topic. Touches nothing.

use crate::group::OFFSETS_TOPIC;
use crate::transaction::TRANSACTIONS_TOPIC;

/// Whether the broker keeps its own state in this topic.
pub(crate) fn is_internal(topic: &str) -> bool {
    topic == OFFSETS_TOPIC || topic == TRANSACTIONS_TOPIC
}
