//! The section `agent:` of the configuration.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't express. Touches
//! nothing but the files that programs of transforms stand in (`transform/config.rs`).

/// Sources that are files.
mod file;
/// The log to write to.
mod kafka;
/// Sources that are pushed to.
pub mod push;
/// Sources that the agent reads on its own host.
pub mod local;
/// Sources of syslog messages.
pub mod syslog;
/// One source, whatever its type.
mod source;

use millrace_doors::config::{Login, TlsConfig};
use millrace_log::record::is_topic_name;
use millrace_log::value::{ByteSize, Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::file::{Encoding, FileFormat, FileSource, ReadFrom};
pub use self::kafka::KafkaConfig;
use self::push::SpoolConfig;
pub(crate) use self::source::Common;
pub use self::source::SourceConfig;
use crate::checks::{TOPIC_RULE, check_listen};
pub use crate::multiline::{MultilineConfig, Preset};
pub use crate::timestamp::TimestampConfig;
use crate::transform::check::{check_named, check_steps, warn_named, warn_steps};
use crate::transform::config::Transforms;

/// Files to tail and the log to send them to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// What to read. A file that several entries match belongs to the first.
    pub sources: Vec<SourceConfig>,
    /// Named transforms. A source lists the ones that apply to its events.
    pub transforms: Transforms,
    /// Files with tests of the transforms, run by `millrace test` without arguments. `*` and `?` are wildcards in file
    /// names.
    pub transform_tests: Vec<String>,
    /// The log to write to.
    pub kafka: KafkaConfig,
    /// Value of the label `host`. Default: the name of this host.
    pub host: Option<String>,
    /// Address of the HTTP endpoint for `/metrics`, `/ready` and the ledger, `host:port`, where neither the role
    /// `aggregator` nor `broker.http` runs in the process. Absent: no endpoint.
    pub http: Option<String>,
    /// A login that may do everything at this endpoint, besides those of `access`.
    pub http_auth: Login,
    /// TLS of this endpoint. Left out: plain text.
    pub http_tls: Option<TlsConfig>,
    /// How often folders are scanned for new, renamed and deleted files where the kernel does not report all of them,
    /// as on network file systems, and how often files behind links, and folders of `include` that do not exist, are
    /// checked. Where it does (inotify on a local disk), changes are seen at once and folders are scanned every tenth
    /// interval (up to every sixtieth with thousands of files); where the limits of inotify are reached, twice per
    /// interval.
    pub scan_interval: Span,
    /// How often positions of acknowledged lines are written to disk.
    pub checkpoint_interval: Span,
    /// Bytes at the start of a file that identify it, together with device and inode.
    pub fingerprint_bytes: ByteSize,
    /// Bytes read from one file before the next file is read.
    pub read_bytes: ByteSize,
    /// Maximum number of records in one request to the log.
    pub batch_records: usize,
    /// Approximate maximum of bytes of lines in one request to the log. Requests are smaller, 128 KiB, while the log
    /// answers within 10 ms, and grow with its response time.
    pub batch_bytes: ByteSize,
    /// Maximum number of batches waiting for each partition.
    pub queue_pieces: usize,
    /// Memory for lines read and not yet acknowledged; when it is used up, the agent pauses reading.
    pub max_waiting_bytes: ByteSize,
    /// Disk spool for data pushed to the agent (all sources except files). It uses half of `max_waiting_bytes` for
    /// incoming data, so that clients get a response while the rest waits for the log. Absent: no spool.
    pub spool: Option<SpoolConfig>,
    /// How long a renamed or deleted file is still read after its last growth. A deleted file is read longer, as long
    /// as a process has it open for writing.
    pub rotated_wait: Span,
    /// How long a deleted file is still read after its last growth where the agent can't see who has it open: without
    /// root or CAP_SYS_PTRACE, or in a container.
    pub deleted_wait: Span,
    /// Close files that did not grow for this long; they are reopened when they grow.
    pub close_idle: Span,
    /// Forget positions of files that have been gone for this long.
    pub forget_after: Span,
    /// First wait after a failed request; each further wait is twice as long.
    pub retry_initial: Span,
    /// Longest wait between two attempts.
    pub retry_max: Span,
    /// How long a stopping agent waits for acknowledgements.
    pub shutdown_timeout: Span,
    /// Topic for records that the log rejects permanently, and that transforms send there (dead letters).
    pub dead_letter_topic: String,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            transforms: Transforms::new(),
            transform_tests: Vec::new(),
            kafka: KafkaConfig::default(),
            host: None,
            http: None,
            http_auth: Login::default(),
            http_tls: None,
            scan_interval: Span::secs(1),
            checkpoint_interval: Span::secs(1),
            fingerprint_bytes: ByteSize(1024),
            read_bytes: ByteSize(256 << 10),
            batch_records: 10_000,
            batch_bytes: ByteSize::mib(1),
            queue_pieces: 256,
            max_waiting_bytes: ByteSize::mib(16),
            spool: None,
            rotated_wait: Span::secs(10),
            deleted_wait: Span::secs(300),
            close_idle: Span::secs(300),
            forget_after: Span::secs(30 * 24 * 3600),
            retry_initial: Span::millis(100),
            retry_max: Span::secs(10),
            shutdown_timeout: Span::secs(10),
            dead_letter_topic: "millrace.dlq".to_owned(),
        }
    }
}

impl AgentConfig {
    /// Reports what passes, but is most likely not meant so: warnings of VRL's compiler.
    pub fn warn(&self, warnings: &mut Faults) {
        for (i, source) in self.sources.iter().enumerate() {
            warnings.within(&format!("sources[{i}]"), |w| warn_steps(source.transforms(), w));
        }
        warn_named(&self.transforms, warnings);
    }

    /// Reports what types can't express.
    pub fn check(&self, faults: &mut Faults) {
        if self.sources.is_empty() {
            faults.add("sources", "is empty: add at least one source, such as `- type: file` with `include`, or remove the section `agent`");
        }
        faults.within("sources", |f| {
            for (i, source) in self.sources.iter().enumerate() {
                f.within(&format!("[{i}]"), |f| {
                    match source {
                        SourceConfig::File(file) => file.check(f),
                        SourceConfig::Http(http) => http.check(self.max_waiting_bytes, f),
                        SourceConfig::Loki(loki) => loki.check(self.max_waiting_bytes, f),
                        SourceConfig::Otlp(otlp) => otlp.check(self.max_waiting_bytes, f),
                        SourceConfig::Syslog(syslog) => syslog.check(f),
                        SourceConfig::Journald(journald) => journald.check(f),
                        SourceConfig::Stdin(stdin) => stdin.check(f),
                        SourceConfig::Command(command) => command.check(self.shutdown_timeout, f),
                    }
                    if let Some(common) = source.common() {
                        common.check(f);
                        let same = |other: &SourceConfig| other.common().is_some_and(|other| other.name == common.name);
                        if self.sources.iter().take(i).any(same) {
                            let text = format!("duplicate name `{}`: give each source its own", common.name);
                            f.add("name", text);
                        }
                    }
                    let is_stdin = |source: &SourceConfig| matches!(source, SourceConfig::Stdin(_));
                    if is_stdin(source) && self.sources.iter().take(i).any(is_stdin) {
                        f.add("type", "duplicate source of type `stdin`: only one source can read standard input");
                    }
                    check_steps(source.transforms(), &self.transforms, f);
                });
            }
        });
        check_named(&self.transforms, faults);
        faults.within("kafka", |f| self.kafka.check(f));
        faults.within("http_auth", |f| self.http_auth.check(f));
        if let Some(tls) = &self.http_tls {
            faults.within("http_tls", |f| tls.check(f));
        }
        if let Some(http) = &self.http {
            check_listen("http", http, faults);
        }
        if self.host.as_deref() == Some("") {
            faults.add("host", "is empty: remove it to use the name of this host");
        }
        for (key, span) in [
            ("scan_interval", self.scan_interval),
            ("checkpoint_interval", self.checkpoint_interval),
            ("retry_initial", self.retry_initial),
            ("retry_max", self.retry_max),
        ] {
            if span.0.is_zero() {
                faults.add(key, "is 0: expected a duration such as `1s`");
            }
        }
        if self.retry_max < self.retry_initial {
            faults.add("retry_max", "is shorter than `retry_initial`");
        }
        for (key, size, from, to) in [
            ("fingerprint_bytes", self.fingerprint_bytes, 16, 64 << 10),
            ("read_bytes", self.read_bytes, 4 << 10, 16 << 20),
            ("batch_bytes", self.batch_bytes, 1 << 10, 64 << 20),
        ] {
            if !(from..=to).contains(&size.0) {
                faults.add(key, format!("is {size}: expected {} to {}", ByteSize(from), ByteSize(to)));
            }
        }
        for (key, count) in [("batch_records", self.batch_records), ("queue_pieces", self.queue_pieces)] {
            if !(1..=1_000_000).contains(&count) {
                faults.add(key, format!("is {count}: expected 1 to 1000000"));
            }
        }
        if self.max_waiting_bytes < ByteSize::mib(1) {
            faults.add("max_waiting_bytes", format!("is {}: expected 1MiB at least", self.max_waiting_bytes));
        }
        if let Some(spool) = &self.spool {
            faults.within("spool", |f| spool.check(f));
        }
        if !is_topic_name(&self.dead_letter_topic) {
            faults.add("dead_letter_topic", TOPIC_RULE);
        }
        if self.dead_letter_topic == self.kafka.topic {
            faults.add("dead_letter_topic", "must differ from `kafka.topic`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<AgentConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    fn faults(config: &AgentConfig) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_vec().into_iter().map(|f| f.path).collect()
    }

    #[test]
    fn sample_of_the_design_is_read() {
        let config = read(
            r#"{"sources": [{"type": "file", "include": ["/var/log/checkout/*.log"],
                "labels": {"service": "checkout", "env": "prod", "region": "eu-west-1"}}],
                "kafka": {"brokers": ["127.0.0.1:9092"], "topic": "logs"}}"#,
        )
        .expect("sample");
        assert_eq!(faults(&config), [""; 0]);
        assert_eq!((config.kafka.topic.as_str(), config.kafka.partitions), ("logs", 4));
        assert!(config.kafka.connection().options.is_empty());
    }

    #[test]
    fn client_settings_that_have_no_effect_are_refused() {
        let with = |name: &str| read(&format!(r#"{{"kafka": {{"options": {{"{name}": "50"}}}}}}"#)).expect("options");
        assert!(faults(&with("linger.ms")).contains(&"kafka.options".to_owned()));
        let config = with("message.timeout.ms");
        assert!(!faults(&config).contains(&"kafka.options".to_owned()));
        assert!(config.kafka.producer().is_ok() && KafkaConfig::default().producer().is_ok());
    }

    #[test]
    fn spelling_mistakes_are_errors() {
        for json in [
            r#"{"source": []}"#,
            r#"{"sources": [{"type": "file", "includes": []}]}"#,
            r#"{"sources": [{"type": "pipe"}]}"#,
            r#"{"kafka": {"topics": []}}"#,
            r#"{"sources": [{"type": "file", "read_from": "middle"}]}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn all_faults_come_at_once_with_their_keys() {
        let config = read(
            r#"{"sources": [{"type": "file", "include": ["/a/[", ""], "labels": {"a-b": "c"}, "max_line_bytes": 1,
                  "multiline": {"start": "(", "continue": "x"}, "timestamp": {"format": "%Q", "timezone": "Mars"}},
                 {"type": "file", "tenant": "a b"}],
                "kafka": {"topic": "a/b", "partitions": 0, "brokers": ["kafka"]}, "scan_interval": "0s",
                "fingerprint_bytes": 1, "dead_letter_topic": ""}"#,
        )
        .expect("types are right");
        assert_eq!(
            faults(&config),
            [
                "sources[0].include[0]",
                "sources[0].include[1]",
                "sources[0].labels.a-b",
                "sources[0].max_line_bytes",
                "sources[0].multiline.start",
                "sources[0].timestamp.format",
                "sources[0].timestamp.timezone",
                "sources[1].include",
                "sources[1].tenant",
                "kafka.brokers[0]",
                "kafka.topic",
                "kafka.partitions",
                "scan_interval",
                "fingerprint_bytes",
                "dead_letter_topic",
            ]
        );
    }
}
