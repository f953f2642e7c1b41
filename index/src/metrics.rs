//! Metrics of the aggregator. Names: `millrace_aggregator_<what>_<unit>` (`_total` is added to counters).
//!
//! In: numbers from consumer, indexer, publisher, upkeep and scans. Out: `/metrics`. Touches nothing.

use millrace_log::consume::ConsumerMetrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Topic of a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TopicLabel {
    /// Its name.
    pub topic: String,
}

/// Partition of a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    /// Name of the topic.
    pub topic: String,
    /// Index of the partition.
    pub partition: i32,
}

/// All metrics of the room.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Records that came from the log.
    pub read: Family<TopicLabel, Counter>,
    /// Bytes of their values.
    pub read_bytes: Family<TopicLabel, Counter>,
    /// Events in published splits.
    pub stored: Family<TopicLabel, Counter>,
    /// Events that were there already.
    pub duplicates: Family<TopicLabel, Counter>,
    /// Records sent to the dead-letter topic.
    pub dead_letters: Family<TopicLabel, Counter>,
    /// Lines that were cut.
    pub cut_lines: Counter,
    /// Bytes cut off them.
    pub cut_bytes: Counter,
    /// Dead letters that the dead-letter topic refused for good.
    pub dead_letters_refused: Counter,
    /// Holes, lag and pauses of the consumer.
    pub consumer: ConsumerMetrics,
    /// Next offset to be searchable.
    pub position: Family<PartitionLabel, Gauge>,
    /// Batches between consumer and indexer.
    pub queue_batches: Gauge,
    /// Bytes of memory of events not yet in a split.
    pub head_bytes: Gauge,
    /// Publications that are durable.
    pub publications: Counter,
    /// Attempts to publish that failed and are repeated.
    pub publication_failures: Counter,
    /// Splits that are searched.
    pub splits: Gauge,
    /// Bytes of their files.
    pub splits_bytes: Gauge,
    /// Splits set aside because they are damaged, missing or unreadable.
    pub splits_damaged: Counter,
    /// Splits that are set aside now.
    pub splits_quarantined: Gauge,
    /// Merges done.
    pub merges: Counter,
    /// Merges that failed and are repeated.
    pub upkeep_failures: Counter,
    /// Splits removed by retention.
    pub splits_expired: Counter,
    /// Bytes of lines read by queries.
    pub query_bytes: Counter,
    /// Sources whose positions are kept.
    pub sources: Gauge,
}

impl Metrics {
    /// Makes the metrics and lists them.
    pub fn register(registry: &mut Registry) -> Self {
        let mut m = Self::default();
        let r = registry.sub_registry_with_prefix("millrace_aggregator");
        r.register("read_lines", "Records that came from the log", m.read.clone());
        r.register("read_bytes", "Bytes of the values of records that came from the log", m.read_bytes.clone());
        r.register("stored_lines", "Events in published splits", m.stored.clone());
        r.register("duplicate_lines", "Events that were in the index already", m.duplicates.clone());
        r.register("dead_letter_lines", "Records sent to the dead-letter topic", m.dead_letters.clone());
        r.register("cut_lines", "Lines cut at `index.max_line_bytes`", m.cut_lines.clone());
        r.register("cut_bytes", "Bytes cut off lines at `index.max_line_bytes`", m.cut_bytes.clone());
        r.register(
            "dead_letter_refused_lines",
            "Dead letters that the dead-letter topic refused for good",
            m.dead_letters_refused.clone(),
        );
        m.consumer = ConsumerMetrics::register(r);
        r.register("position_offset", "Next offset to become searchable", m.position.clone());
        r.register("queue_batches", "Batches that wait between consumer and indexer", m.queue_batches.clone());
        r.register("head_bytes", "Memory of events that are not yet in a split", m.head_bytes.clone());
        r.register("publications", "Publications that are durable", m.publications.clone());
        r.register(
            "publication_failures",
            "Attempts to publish that failed and are repeated",
            m.publication_failures.clone(),
        );
        r.register("splits", "Splits that are searched", m.splits.clone());
        r.register("splits_bytes", "Bytes of the files of all splits", m.splits_bytes.clone());
        r.register("splits_damaged", "Splits quarantined as damaged, missing or unreadable", m.splits_damaged.clone());
        r.register(
            "splits_quarantined",
            "Splits that are damaged, missing or unreadable now, whose events are in no answer",
            m.splits_quarantined.clone(),
        );
        r.register("merges", "Merges done", m.merges.clone());
        r.register("upkeep_failures", "Merges and removals that failed and are repeated", m.upkeep_failures.clone());
        r.register("splits_expired", "Splits removed by retention", m.splits_expired.clone());
        r.register("query_read_bytes", "Bytes of lines read by queries", m.query_bytes.clone());
        r.register("sources", "Sources whose positions are kept", m.sources.clone());
        m
    }

    /// Shows the counts of a topic from the start, as zero: a dashboard without data looks like a fault.
    pub fn show(&self, topic: &str) {
        let label = TopicLabel { topic: topic.to_owned() };
        for counter in [&self.read, &self.read_bytes, &self.stored, &self.duplicates, &self.dead_letters] {
            drop(counter.get_or_create(&label));
        }
    }
}
