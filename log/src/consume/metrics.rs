//! Numbers of consumers for `/metrics`: the same under the prefix of each room, with its labels.
//!
//! In: holes, lag, pauses. Out: `…_hole_offsets_total`, `…_lag_records`, `…_paused`. Touches nothing.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::record::TopicPartition;

/// Labels that name a consumer within its room, such as `export="search"`.
pub type Owner = Vec<(String, String)>;

/// Numbers of all consumers of a room; clones count together.
#[derive(Debug, Clone, Default)]
pub struct ConsumerMetrics {
    hole_offsets: Family<Owner, Counter>,
    lag_records: Family<Owner, Gauge>,
    paused: Family<Owner, Gauge>,
    stalled_seconds: Family<Owner, Gauge>,
}

impl ConsumerMetrics {
    /// Lists them in the registry of a room, which has its prefix.
    pub fn register(room: &mut Registry) -> Self {
        let all = Self::default();
        room.register("hole_offsets", "Offsets that were gone before they could be read", all.hole_offsets.clone());
        room.register("lag_records", "Records of the log that are not delivered yet", all.lag_records.clone());
        let help = "How long a partition has stayed at one offset although there are records to read";
        room.register("stalled_seconds", help, all.stalled_seconds.clone());
        room.register("paused", "1 while the consumer is paused for this reason", all.paused.clone());
        all
    }

    pub(super) fn hole_offsets(&self, owner: &Owner, of: &TopicPartition) -> Counter {
        let more = [("topic", of.topic.to_string()), ("partition", of.partition.to_string())];
        self.hole_offsets.get_or_create(&with(owner, more)).clone()
    }

    pub(super) fn stalled(&self, owner: &Owner, of: &TopicPartition, seconds: u64) {
        let more = [("topic", of.topic.to_string()), ("partition", of.partition.to_string())];
        let gauge = self.stalled_seconds.get_or_create(&with(owner, more)).clone();
        gauge.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    pub(super) fn lag(&self, owner: &Owner, records: u64) {
        self.lag_records.get_or_create(owner).set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    pub(super) fn paused(&self, owner: &Owner, reason: &str, is_paused: bool) {
        self.paused.get_or_create(&with(owner, [("reason", reason.to_owned())])).set(i64::from(is_paused));
    }
}

fn with<const N: usize>(owner: &Owner, more: [(&str, String); N]) -> Owner {
    let more = more.into_iter().map(|(name, value)| (name.to_owned(), value));
    owner.iter().cloned().chain(more).collect()
}
