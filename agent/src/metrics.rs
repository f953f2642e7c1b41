//! The agent's counters and gauges, all `millrace_agent_*`.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;


/// Label of the metrics about pauses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PauseReason {
    /// `memory`, `queue` or `log`.
    pub reason: &'static str,
}

/// Why lines were dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// `cut`, `dead_letter`, or what a transform says.
    pub reason: Cow<'static, str>,
}

/// Which transform.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Transform {
    /// Its name in `agent.transforms`, or its place in the list of a source.
    pub transform: String,
}

/// Whose events a transform throttled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Throttled {
    /// The transform's name.
    pub transform: String,
    /// The key; the first hundred by name.
    pub key: String,
}

/// What a transform hid.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Redacted {
    /// The transform's name.
    pub transform: String,
    /// The preset, or `pattern`.
    pub what: &'static str,
}

/// What a source that is pushed to refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// Its name.
    pub source: String,
    /// `full`, `streams`, `labels`, `not_ready`, `stopping`, `order`, `state`, or what its door says.
    pub reason: &'static str,
}

/// How a program of a source ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProgramEnd {
    /// The source's name.
    pub source: String,
    /// `exit code 1`, `signal 9`, `timeout`, `not started`.
    pub end: String,
}

/// A source that is no file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfSource {
    /// Its name.
    pub source: String,
}

/// Counters of one agent since its start. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics {
    /// Lines taken from files.
    pub read_lines: Counter,
    /// Bytes taken from files.
    pub read_bytes: Counter,
    /// Lines acknowledged by the log.
    pub sent_lines: Counter,
    /// Bytes of files acknowledged by the log.
    pub sent_bytes: Counter,
    /// Records acknowledged by the log.
    pub sent_records: Counter,
    /// Lines not sent, by reason.
    pub dropped_lines: Family<Reason, Counter>,
    /// Bytes not sent, by reason.
    pub dropped_bytes: Family<Reason, Counter>,
    /// Lines sent cut.
    pub cut_lines: Counter,
    /// Requests sent again.
    pub retries: Counter,
    /// Lines read and not yet acknowledged.
    pub waiting_lines: Gauge,
    /// Memory that holds them, in bytes.
    pub waiting_bytes: Gauge,
    /// Limit of `waiting_bytes`.
    pub max_waiting_bytes: Gauge,
    /// Times that reading stood still because the log is slow or away, by what was used up.
    pub pauses: Family<PauseReason, Counter>,
    /// Whether reading stands still now, by what is used up or waited for.
    pub paused: Family<PauseReason, Gauge>,
    /// Files being read.
    pub files: Gauge,
    /// Files held open.
    pub open_files: Gauge,
    /// Files that can't be read now.
    pub unreadable_files: Gauge,
    /// Source ids made.
    pub new_sources: Counter,
    /// Files found truncated or replaced in place.
    pub truncations: Counter,
    /// Files read to their end after they were renamed away or deleted.
    pub finished_files: Counter,
    /// Source ids replaced because the log took later records before earlier ones.
    pub moved_sources: Counter,
    /// Lines sent before their line end came.
    pub partial_lines: Counter,
    /// Lines without a readable time where one was asked for.
    pub untimed_lines: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Seconds spent writing them.
    pub checkpoint_seconds: Counter<f64, AtomicU64>,
    /// Files whose ledger does not add up: must be 0.
    pub ledger_mismatches: Counter,
    /// Folders looked through.
    pub scans: Counter,
    /// Seconds spent looking through folders.
    pub scan_seconds: Counter<f64, AtomicU64>,
    /// Pushes refused, by source and reason.
    pub refused: Family<Refused, Counter>,
    /// Label sets of sources that are pushed to.
    pub push_streams: Gauge,
    /// Times that entries were missing in what a source reads on.
    pub source_gaps: Family<OfSource, Counter>,
    /// Starts of programs that sources run.
    pub program_starts: Family<OfSource, Counter>,
    /// Their ends.
    pub program_ends: Family<ProgramEnd, Counter>,
    /// Bytes in the spool.
    pub spool_bytes: Gauge,
    /// Bytes of the spool that were damaged.
    pub spool_damaged_bytes: Counter,
    /// Writes to the spool that failed.
    pub spool_failures: Counter,
    /// Events that came to a transform.
    pub transform_in: Family<Transform, Counter>,
    /// Events that went on from it.
    pub transform_out: Family<Transform, Counter>,
    /// Events that it dropped or sent to the dead letters.
    pub transform_dropped: Family<Transform, Counter>,
    /// Events that it failed on.
    pub transform_failed: Family<Transform, Counter>,
    /// Seconds that it took.
    pub transform_seconds: Family<Transform, Counter<f64, AtomicU64>>,
    /// Events that it dropped, by the key that went over its limit.
    pub throttled: Family<Throttled, Counter>,
    /// Texts that it hid.
    pub redacted: Family<Redacted, Counter>,
}

impl AgentMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("millrace_agent");
        r.register("read_lines", "Lines taken from files", m.read_lines.clone());
        r.register("read_bytes", "Bytes taken from files", m.read_bytes.clone());
        r.register("sent_lines", "Lines acknowledged by the log", m.sent_lines.clone());
        r.register("sent_bytes", "Bytes of files acknowledged by the log", m.sent_bytes.clone());
        r.register("sent_records", "Records acknowledged by the log", m.sent_records.clone());
        r.register("dropped_lines", "Lines not sent, by reason", m.dropped_lines.clone());
        r.register("dropped_bytes", "Bytes not sent, by reason", m.dropped_bytes.clone());
        r.register("cut_lines", "Lines sent cut at max_line_bytes", m.cut_lines.clone());
        r.register("retries", "Requests to the log sent again", m.retries.clone());
        r.register("waiting_lines", "Lines read and not yet acknowledged", m.waiting_lines.clone());
        r.register("waiting_bytes", "Memory that holds lines not yet acknowledged", m.waiting_bytes.clone());
        r.register("max_waiting_bytes", "Limit of the memory that holds lines", m.max_waiting_bytes.clone());
        let help = "Times that reading stood still because the log is slow or away, by what was used up";
        r.register("pauses", help, m.pauses.clone());
        r.register(
            "paused",
            "Whether reading stands still now, by what is used up (memory, queue) or waited for (log)",
            m.paused.clone(),
        );
        r.register("files", "Files being read", m.files.clone());
        r.register("open_files", "Files held open", m.open_files.clone());
        r.register("unreadable_files", "Files that can't be read now", m.unreadable_files.clone());
        r.register("new_sources", "Source ids made", m.new_sources.clone());
        r.register("truncations", "Files found truncated or replaced in place", m.truncations.clone());
        r.register("finished_files", "Renamed or deleted files read to their end", m.finished_files.clone());
        r.register("moved_sources", "Source ids replaced after a gap in what the log took", m.moved_sources.clone());
        r.register("partial_lines", "Lines sent before their line end came", m.partial_lines.clone());
        r.register("untimed_lines", "Lines without a readable time where one was asked for", m.untimed_lines.clone());
        r.register("checkpoints", "Checkpoints written", m.checkpoints.clone());
        r.register("checkpoint_seconds", "Time spent writing checkpoints", m.checkpoint_seconds.clone());
        r.register("ledger_mismatches", "Files whose ledger did not add up, must be 0", m.ledger_mismatches.clone());
        r.register("scans", "Times that the folders were looked through", m.scans.clone());
        r.register("scan_seconds", "Time spent looking through folders", m.scan_seconds.clone());
        r.register("refused_pushes", "Pushes refused, by source and reason", m.refused.clone());
        r.register("push_streams", "Label sets of sources that are no files", m.push_streams.clone());
        let help = "Times that entries were missing where a source read on";
        r.register("source_gaps", help, m.source_gaps.clone());
        r.register("program_starts", "Starts of programs that sources run", m.program_starts.clone());
        r.register("program_ends", "Ends of programs that sources run, by how they ended", m.program_ends.clone());
        r.register("spool_bytes", "Bytes in the spool", m.spool_bytes.clone());
        r.register("spool_damaged_bytes", "Bytes of the spool found damaged", m.spool_damaged_bytes.clone());
        r.register("spool_failures", "Writes to the spool that failed", m.spool_failures.clone());
        r.register("transform_events_in", "Events that came to a transform", m.transform_in.clone());
        r.register("transform_events_out", "Events that went on from a transform", m.transform_out.clone());
        let help = "Events that a transform dropped or sent to the dead letters";
        r.register("transform_events_dropped", help, m.transform_dropped.clone());
        r.register("transform_events_failed", "Events that a transform failed on", m.transform_failed.clone());
        r.register("transform_seconds", "Time spent in a transform", m.transform_seconds.clone());
        r.register("transform_throttled", "Events that a throttle dropped, by key", m.throttled.clone());
        r.register("transform_redacted", "Texts that a transform replaced", m.redacted.clone());
        m
    }
    /// Counts lines that a source took in and that now wait for the log.
    pub(crate) fn count_read(&self, lines: u64, bytes: u64) {
        self.read_lines.inc_by(lines);
        self.read_bytes.inc_by(bytes);
        self.waiting_lines.inc_by(i64::try_from(lines).unwrap_or(i64::MAX));
    }
}
