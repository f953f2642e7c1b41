//! Integrations: ways of notifying people, the message that each of them gets, and how an attempt can end.
//!
//! Touches nothing; integrations touch the network.

use millrace_log::alert::LabelSet;

use crate::group::NotifiedAlert;

/// What one receiver is told of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Name of the receiver.
    pub receiver: String,
    /// Key of the group.
    pub group_key: String,
    /// Labels of the group.
    pub group_labels: LabelSet,
    /// The alerts, in order.
    pub alerts: Vec<NotifiedAlert>,
    /// Our own address.
    pub external_url: String,
}

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Taken.
    Sent,
    /// Worth another try: the network, or an answer 5xx or 429.
    Again {
        /// Why, for people.
        reason: String,
    },
    /// The same message would be refused again.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

/// A way of telling people.
#[async_trait::async_trait]
pub trait Integration: Send + Sync + 'static {
    /// Its type: `webhook`, `log`.
    fn kind(&self) -> &'static str;

    /// Whether it tells of resolved alerts.
    fn sends_resolved(&self) -> bool;

    /// One attempt. It ends by itself within a bounded time.
    async fn attempt(&self, message: &Message) -> Outcome;
}
