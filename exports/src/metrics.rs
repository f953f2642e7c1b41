//! Counters of all exports, by the export's name.

use millrace_log::consume::{ConsumerMetrics, ConsumerStatus, Pause};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which export.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ExportName {
    /// Its configured name.
    pub export: String,
}

/// Counters for the ledger: `read = stored + duplicates + dead letters + waiting`.
#[derive(Debug, Clone, Default)]
pub struct ExportMetrics {
    /// Records read from the log.
    pub read_records: Family<ExportName, Counter>,
    /// Records that the other system stored.
    pub stored_records: Family<ExportName, Counter>,
    /// Records that it had already: repeats of a crash or a lost answer.
    pub duplicate_records: Family<ExportName, Counter>,
    /// Records that went to the dead letters.
    pub dead_letter_records: Family<ExportName, Counter>,
    /// Requests that failed and were repeated.
    pub retried_requests: Family<ExportName, Counter>,
    /// Records read and not yet delivered.
    pub waiting_records: Family<ExportName, Gauge>,
    /// 1 while the other system refuses the login.
    pub login_refused: Family<ExportName, Gauge>,
    /// Holes, lag and pauses.
    pub consumer: ConsumerMetrics,
}

impl ExportMetrics {
    /// Names them `millrace_export_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let mut all = Self::default();
        let room = registry.sub_registry_with_prefix("millrace_export");
        all.consumer = ConsumerMetrics::register(room);
        room.register("read_records", "Records read from the log", all.read_records.clone());
        room.register("stored_records", "Records stored by the other system", all.stored_records.clone());
        room.register("duplicate_records", "Records that the other system had already", all.duplicate_records.clone());
        room.register("dead_letter_records", "Records sent to the dead letters", all.dead_letter_records.clone());
        room.register("retried_requests", "Requests that failed and were repeated", all.retried_requests.clone());
        room.register("waiting_records", "Records read and not yet delivered", all.waiting_records.clone());
        room.register(
            "login_refused",
            "1 while the other system refuses the login and the export is stopped",
            all.login_refused.clone(),
        );
        all
    }

    /// How an export is, with its holes, lag and pauses among these metrics.
    pub fn status(&self, name: &ExportName) -> ConsumerStatus {
        let reasons = [Pause::Log, Pause::Fenced, Pause::Target, Pause::Login, Pause::DeadLetters];
        let owner = vec![("export".to_owned(), name.export.clone())];
        ConsumerStatus::new(&format!("export `{}`", name.export), owner, &self.consumer, &reasons)
    }

    /// Shows the counts of an export from the start, as zero.
    pub fn show(&self, name: &ExportName) {
        let counters = [
            &self.read_records,
            &self.stored_records,
            &self.duplicate_records,
            &self.dead_letter_records,
            &self.retried_requests,
        ];
        for counter in counters {
            drop(counter.get_or_create(name));
        }
        for gauge in [&self.waiting_records, &self.login_refused] {
            drop(gauge.get_or_create(name));
        }
    }
}
