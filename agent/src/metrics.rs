//! Metrics of the agent: counters and gauges, all `millrace_agent_*`.
//!
//! In: what the parts count. Out: the registry's answer at `/metrics`. Touches nothing. Series whose labels are known at
//! the start are there from the start, as zero, so that dashboards and rates begin with them.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Names of the metrics, without the prefix `millrace_agent_` (and `_total` behind those of counters).
#[allow(missing_docs)] // each stands beside its help text below
pub mod names {
    pub const READ_LINES: &str = "read_lines";
    pub const READ_BYTES: &str = "read_bytes";
    pub const SENT_LINES: &str = "sent_lines";
    pub const SENT_BYTES: &str = "sent_bytes";
    pub const SENT_RECORDS: &str = "sent_records";
    pub const DROPPED_LINES: &str = "dropped_lines";
    pub const DROPPED_BYTES: &str = "dropped_bytes";
    pub const CUT_LINES: &str = "cut_lines";
    pub const RETRIES: &str = "retries";
    pub const RECREATED_TOPICS: &str = "recreated_topics";
    pub const WAITING_LINES: &str = "waiting_lines";
    pub const WAITING_BYTES: &str = "waiting_bytes";
    pub const MAX_WAITING_BYTES: &str = "max_waiting_bytes";
    pub const LOG_READY: &str = "log_ready";
    pub const PAUSES: &str = "pauses";
    pub const PAUSED: &str = "paused";
    pub const FILES: &str = "files";
    pub const OPEN_FILES: &str = "open_files";
    pub const UNREADABLE_FILES: &str = "unreadable_files";
    pub const SKIPPED_LINKS: &str = "skipped_links";
    pub const NEW_SOURCES: &str = "new_sources";
    pub const TRUNCATIONS: &str = "truncations";
    pub const FINISHED_FILES: &str = "finished_files";
    pub const MOVED_SOURCES: &str = "moved_sources";
    pub const PARTIAL_LINES: &str = "partial_lines";
    pub const UNTIMED_LINES: &str = "untimed_lines";
    pub const CHECKPOINTS: &str = "checkpoints";
    pub const CHECKPOINT_SECONDS: &str = "checkpoint_seconds";
    pub const LEDGER_MISMATCHES: &str = "ledger_mismatches";
    pub const SCANS: &str = "scans";
    pub const SCAN_SECONDS: &str = "scan_seconds";
    pub const REFUSED_PUSHES: &str = "refused_pushes";
    pub const PUSH_STREAMS: &str = "push_streams";
    pub const SOURCE_GAPS: &str = "source_gaps";
    pub const PROGRAM_STARTS: &str = "program_starts";
    pub const PROGRAM_ENDS: &str = "program_ends";
    pub const SPOOL_BYTES: &str = "spool_bytes";
    pub const SPOOL_DAMAGED_BYTES: &str = "spool_damaged_bytes";
    pub const SPOOL_FAILURES: &str = "spool_failures";
    pub const TRANSFORM_EVENTS_IN: &str = "transform_events_in";
    pub const TRANSFORM_EVENTS_OUT: &str = "transform_events_out";
    pub const TRANSFORM_EVENTS_DROPPED: &str = "transform_events_dropped";
    pub const TRANSFORM_EVENTS_FAILED: &str = "transform_events_failed";
    pub const TRANSFORM_SECONDS: &str = "transform_seconds";
    pub const TRANSFORM_THROTTLED: &str = "transform_throttled";
    pub const TRANSFORM_REDACTED: &str = "transform_redacted";
}

/// A line's rest beyond `max_line_bytes`.
pub const REASON_CUT: &str = "cut";
/// The log refused the record for good, or a transform failed on it; it is in the dead-letter topic.
pub const REASON_DEAD_LETTER: &str = "dead_letter";

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
    /// `full`, `streams`, `labels`, `not_ready`, `stopping`, `order`, `state`, `spool`.
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

/// A source that is not a file.
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
    /// Times that the topic was missing in the log and was created again.
    pub recreated_topics: Counter,
    /// Lines read and not yet acknowledged.
    pub waiting_lines: Gauge,
    /// Memory that holds them, in bytes.
    pub waiting_bytes: Gauge,
    /// Limit of `waiting_bytes`.
    pub max_waiting_bytes: Gauge,
    /// Whether the log takes what is sent, and positions can be written.
    pub log_ready: Gauge,
    /// Times that reading paused because the log is slow or unreachable, by reason.
    pub pauses: Family<PauseReason, Counter>,
    /// Whether reading is paused now, by reason.
    pub paused: Family<PauseReason, Gauge>,
    /// Files being read.
    pub files: Gauge,
    /// Files held open.
    pub open_files: Gauge,
    /// Files that can't be read at present.
    pub unreadable_files: Gauge,
    /// Links that are not followed.
    pub skipped_links: Gauge,
    /// Source ids created.
    pub new_sources: Counter,
    /// Files found truncated or replaced in place.
    pub truncations: Counter,
    /// Files read to their end after they were renamed away or deleted.
    pub finished_files: Counter,
    /// Source ids replaced because the log took later records before earlier ones.
    pub moved_sources: Counter,
    /// Lines sent before their line end came.
    pub partial_lines: Counter,
    /// Lines without a readable timestamp where one is configured.
    pub untimed_lines: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Seconds spent writing them.
    pub checkpoint_seconds: Counter<f64, AtomicU64>,
    /// Checks that found the ledger of a source unbalanced: must be 0.
    pub ledger_mismatches: Counter,
    /// Scans of folders.
    pub scans: Counter,
    /// Seconds spent scanning folders.
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
    /// Events that entered a transform.
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
        for reason in [REASON_CUT, REASON_DEAD_LETTER] {
            m.expect_dropped(reason);
        }
        r.register(names::READ_LINES, "Lines taken from files", m.read_lines.clone());
        r.register(names::READ_BYTES, "Bytes taken from files", m.read_bytes.clone());
        r.register(names::SENT_LINES, "Lines acknowledged by the log", m.sent_lines.clone());
        r.register(names::SENT_BYTES, "Bytes of files acknowledged by the log", m.sent_bytes.clone());
        r.register(names::SENT_RECORDS, "Records acknowledged by the log", m.sent_records.clone());
        r.register(names::DROPPED_LINES, "Lines not sent, by reason", m.dropped_lines.clone());
        r.register(names::DROPPED_BYTES, "Bytes not sent, by reason", m.dropped_bytes.clone());
        r.register(names::CUT_LINES, "Lines sent cut at max_line_bytes", m.cut_lines.clone());
        r.register(names::RETRIES, "Requests to the log sent again", m.retries.clone());
        let help = "Times that the topic was missing in the log and was created again";
        r.register(names::RECREATED_TOPICS, help, m.recreated_topics.clone());
        r.register(names::WAITING_LINES, "Lines read and not yet acknowledged", m.waiting_lines.clone());
        r.register(names::WAITING_BYTES, "Memory that holds lines not yet acknowledged", m.waiting_bytes.clone());
        r.register(names::MAX_WAITING_BYTES, "Limit of the memory that holds lines", m.max_waiting_bytes.clone());
        let help = "Whether the log takes what is sent and positions can be written (1) or not (0); an idle agent asks the log every 15 s";
        r.register(names::LOG_READY, help, m.log_ready.clone());
        let help = "Times that reading paused because the log is slow or unreachable, by reason";
        r.register(names::PAUSES, help, m.pauses.clone());
        r.register(
            names::PAUSED,
            "Whether reading is paused now, by reason: memory or queue (used up), log (waited for)",
            m.paused.clone(),
        );
        r.register(names::FILES, "Files being read", m.files.clone());
        r.register(names::OPEN_FILES, "Files held open", m.open_files.clone());
        r.register(names::UNREADABLE_FILES, "Files that can't be read at present", m.unreadable_files.clone());
        let help = "Symbolic links not followed, as they lead to files of another user";
        r.register(names::SKIPPED_LINKS, help, m.skipped_links.clone());
        r.register(names::NEW_SOURCES, "Source ids created", m.new_sources.clone());
        r.register(names::TRUNCATIONS, "Files found truncated or replaced in place", m.truncations.clone());
        r.register(names::FINISHED_FILES, "Renamed or deleted files read to their end", m.finished_files.clone());
        r.register(
            names::MOVED_SOURCES,
            "Source ids replaced after a gap in what the log took",
            m.moved_sources.clone(),
        );
        r.register(names::PARTIAL_LINES, "Lines sent before their line end came", m.partial_lines.clone());
        r.register(
            names::UNTIMED_LINES,
            "Lines without a readable timestamp where one is configured",
            m.untimed_lines.clone(),
        );
        r.register(names::CHECKPOINTS, "Checkpoints written", m.checkpoints.clone());
        r.register(names::CHECKPOINT_SECONDS, "Time spent writing checkpoints", m.checkpoint_seconds.clone());
        r.register(
            names::LEDGER_MISMATCHES,
            "Checks that found the ledger of a source unbalanced, must be 0",
            m.ledger_mismatches.clone(),
        );
        r.register(names::SCANS, "Scans of folders", m.scans.clone());
        r.register(names::SCAN_SECONDS, "Time spent scanning folders", m.scan_seconds.clone());
        r.register(names::REFUSED_PUSHES, "Pushes refused, by source and reason", m.refused.clone());
        r.register(names::PUSH_STREAMS, "Label sets of sources that are not files", m.push_streams.clone());
        let help = "Times that entries were missing where a source continued";
        r.register(names::SOURCE_GAPS, help, m.source_gaps.clone());
        r.register(names::PROGRAM_STARTS, "Starts of programs that sources run", m.program_starts.clone());
        r.register(names::PROGRAM_ENDS, "Ends of programs that sources run, by how they ended", m.program_ends.clone());
        r.register(names::SPOOL_BYTES, "Bytes in the spool", m.spool_bytes.clone());
        r.register(names::SPOOL_DAMAGED_BYTES, "Bytes of the spool found damaged", m.spool_damaged_bytes.clone());
        r.register(names::SPOOL_FAILURES, "Writes to the spool that failed", m.spool_failures.clone());
        r.register(names::TRANSFORM_EVENTS_IN, "Events that entered a transform", m.transform_in.clone());
        r.register(names::TRANSFORM_EVENTS_OUT, "Events that left a transform", m.transform_out.clone());
        let help = "Events that a transform dropped or sent to the dead letters";
        r.register(names::TRANSFORM_EVENTS_DROPPED, help, m.transform_dropped.clone());
        r.register(names::TRANSFORM_EVENTS_FAILED, "Events that a transform failed on", m.transform_failed.clone());
        r.register(names::TRANSFORM_SECONDS, "Time spent in a transform", m.transform_seconds.clone());
        r.register(names::TRANSFORM_THROTTLED, "Events that a throttle dropped, by key", m.throttled.clone());
        r.register(names::TRANSFORM_REDACTED, "Matches that a transform redacted", m.redacted.clone());
        m
    }
    /// Shows what may be dropped for a reason as zero until something is.
    pub(crate) fn expect_dropped(&self, reason: &str) {
        let reason = Reason { reason: Cow::Owned(reason.to_owned()) };
        drop(self.dropped_lines.get_or_create(&reason));
        drop(self.dropped_bytes.get_or_create(&reason));
    }

    /// Shows pushes of a source refused for each of these reasons as zero until one is.
    pub(crate) fn expect_refused(&self, source: &str, reasons: &[&'static str]) {
        for reason in reasons {
            drop(self.refused.get_or_create(&Refused { source: source.to_owned(), reason }));
        }
    }

    /// Shows gaps and starts of programs of a source as zero until there are some.
    pub(crate) fn expect_programs(&self, source: &str, has_gaps: bool) {
        let source = OfSource { source: source.to_owned() };
        drop(self.program_starts.get_or_create(&source));
        if has_gaps {
            drop(self.source_gaps.get_or_create(&source));
        }
    }

    /// Counts lines that a source took in and that now wait for the log.
    pub(crate) fn count_read(&self, lines: u64, bytes: u64) {
        self.read_lines.inc_by(lines);
        self.read_bytes.inc_by(bytes);
        self.waiting_lines.inc_by(i64::try_from(lines).unwrap_or(i64::MAX));
    }
}
