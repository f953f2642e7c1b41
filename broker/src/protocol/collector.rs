//! Metrics that are computed when somebody scrapes: high watermarks, sizes, lags, groups and transactions by state.
//!
//! In: a scrape. Out: gauges and counters by topic, partition and group. Touches nothing.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Unit;

use crate::metrics::names;
use crate::protocol::context::Core;
use crate::transaction::Standing;

/// Gauges by labels.
type Gauges = Family<Vec<(String, String)>, Gauge>;
/// Counters by labels.
type Counters = Family<Vec<(String, String)>, Counter>;

/// Most lags that are exposed: groups are created by clients, and a scrape must stay bounded.
const MAX_LAGS: usize = 20_000;

/// High watermarks and lags, asked for when somebody looks.
#[derive(Debug)]
pub(crate) struct BrokerCollector(pub Weak<Core>);

impl Collector for BrokerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(core) = self.0.upgrade() else { return Ok(()) };
        let (marks, sizes, lags) = (Gauges::default(), Gauges::default(), Gauges::default());
        let traffic: [Counters; 4] = Default::default();
        for topic in core.storage.topics() {
            let of = vec![("topic".to_owned(), topic.name().to_owned())];
            let mut sums = [0; 4];
            for partition in topic.partitions() {
                let t = partition.traffic();
                let counted = [&t.bytes_in, &t.records_in, &t.bytes_out, &t.records_out];
                for (sum, count) in sums.iter_mut().zip(counted) {
                    *sum += count.load(Ordering::Relaxed);
                }
            }
            for (family, sum) in traffic.iter().zip(sums) {
                family.get_or_create(&of).inc_by(sum);
            }
            for partition in topic.partitions() {
                let labels = vec![
                    ("topic".to_owned(), topic.name().to_owned()),
                    ("partition".to_owned(), partition.number().to_string()),
                ];
                marks.get_or_create(&labels).set(partition.high_watermark());
                sizes.get_or_create(&labels).set(i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX));
            }
        }
        let (behind, left_out) = core.groups.lags(MAX_LAGS);
        for (group, tp, lag) in behind {
            let labels = vec![
                ("group".to_owned(), group),
                ("topic".to_owned(), tp.topic.to_string()),
                ("partition".to_owned(), tp.partition.to_string()),
            ];
            lags.get_or_create(&labels).set(lag);
        }
        for (name, help, family) in [
            (names::HIGH_WATERMARK_OFFSET, "One past the last offset that consumers see", &marks),
            (names::PARTITION_SIZE_BYTES, "Bytes in the segments of a partition", &sizes),
            (names::GROUP_LAG_RECORDS, "Records between a group's offset and the high watermark", &lags),
        ] {
            family.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        ConstGauge::new(i64::try_from(left_out).unwrap_or(i64::MAX)).encode(encoder.encode_descriptor(
            names::GROUP_LAGS_LEFT_OUT,
            "Lags of groups that are not exposed, as there are too many and others are larger",
            None,
            MetricType::Gauge,
        )?)?;
        for ((name, help), family) in [
            (names::TOPIC_IN_BYTES, "Bytes of record batches produced, by topic"),
            (names::TOPIC_IN_RECORDS, "Records produced, by topic"),
            (names::TOPIC_OUT_BYTES, "Bytes of record batches fetched, by topic"),
            (names::TOPIC_OUT_RECORDS, "Records fetched, by topic"),
        ]
        .into_iter()
        .zip(&traffic)
        {
            family.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let by_state = Gauges::default();
        let mut groups = 0;
        for ((kind, state), count) in core.groups.counts() {
            groups += count;
            let labels = vec![("type".to_owned(), kind.to_owned()), ("state".to_owned(), state.to_owned())];
            by_state.get_or_create(&labels).set(count);
        }
        let descriptor =
            encoder.encode_descriptor(names::GROUP_STATES, "Groups by type and state", None, MetricType::Gauge)?;
        by_state.encode(descriptor)?;
        ConstGauge::new(groups).encode(encoder.encode_descriptor(
            names::GROUPS,
            "Groups of consumers and others",
            None,
            MetricType::Gauge,
        )?)?;
        encode_transactions(&core.transactions.standing(), &mut encoder)
    }
}

/// How transactions stand.
fn encode_transactions(standing: &Standing, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let by_state = Gauges::default();
    for (state, count) in &standing.by_state {
        by_state.get_or_create(&vec![("state".to_owned(), (*state).to_owned())]).set(*count);
    }
    by_state.encode(encoder.encode_descriptor(
        names::TRANSACTION_STATES,
        "Transactional ids by the state of their last transaction",
        None,
        MetricType::Gauge,
    )?)?;
    ConstGauge::new(standing.open).encode(encoder.encode_descriptor(
        names::OPEN_TRANSACTIONS,
        "Transactions without all of their markers: read_committed readers wait for them",
        None,
        MetricType::Gauge,
    )?)?;
    // Seconds lose nothing as a float: 2^53 ms are 285,000 years.
    let seconds = standing.longest_ms as f64 / 1e3;
    ConstGauge::new(seconds).encode(encoder.encode_descriptor(
        names::LONGEST_OPEN_TRANSACTION,
        "How long the oldest open transaction has been open",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?)
}
