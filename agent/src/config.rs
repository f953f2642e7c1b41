//! The section `agent:` of the configuration.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't say. Touches nothing
//! but the files that programs of transforms stand in (`transform/config.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_log::client::{BatchProducer, ClientError, ConnectionConfig, RdProducer};
use millrace_log::native::WireProducer;
use millrace_log::record::{MAX_LABEL_BYTES, MAX_LABELS, Tenant, is_label_name, is_topic_name};
use millrace_log::value::{ByteSize, Faults, Secret, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::path_labels::PathLabels;
use crate::push::config::{
    HttpSource, LokiSource, OtlpSource, PushAuth, SpoolConfig, SyslogSource, name_of, syslog_name,
};
use crate::push::config_local::{CommandSource, JournaldSource, StdinSource};
use crate::transform::config::{StepConfig, Transforms, check_named, check_steps, warn_named, warn_steps};

/// Files to tail and the log to send them to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// What to read. A file that several entries match belongs to the first.
    pub sources: Vec<SourceConfig>,
    /// What may happen to events on their way, by name; sources list what happens to theirs.
    pub transforms: Transforms,
    /// Files with tests of the transforms: what `millrace test` runs without naming files. `*` and `?` stand in the name.
    pub transform_tests: Vec<String>,
    /// The log to write to.
    pub kafka: KafkaConfig,
    /// Value of the label `host`. Left out: the name of this host.
    pub host: Option<String>,
    /// Address for `/metrics`, `/ready` and the ledger, `host:port`, where neither the role `aggregator` nor `broker.http`
    /// is in the process. Absent: none.
    pub http: Option<String>,
    /// Who may ask there. Left out: everybody who can connect, and live records (`millrace tap`) on loopback only.
    pub http_auth: PushAuth,
    /// How often folders are looked through for new, renamed and gone files where the kernel can't tell of all of them, as
    /// on network file systems, and how often files behind links are looked at. Where it tells (inotify on a disk of this
    /// host), changes are seen at once and a look every tenth interval is enough (up to every sixtieth where there are
    /// thousands of files); where inotify's limits are reached, it is twice as often.
    pub scan_interval: Span,
    /// How often positions of acknowledged lines are written to the disk.
    pub checkpoint_interval: Span,
    /// Bytes at the head of a file that identify it, besides device and inode.
    pub fingerprint_bytes: ByteSize,
    /// Bytes read from one file before the next has its turn.
    pub read_bytes: ByteSize,
    /// Records in one request to the producer at most.
    pub batch_records: usize,
    /// Bytes of lines in one request to the producer at most, about. Requests are smaller, 128 KiB, while the log answers
    /// within 10 ms, and grow with the time that it takes at least.
    pub batch_bytes: ByteSize,
    /// Pieces of files waiting for each partition at most.
    pub queue_pieces: usize,
    /// Memory for lines read and not yet acknowledged; when it is used up, the agent stops reading.
    pub max_waiting_bytes: ByteSize,
    /// A spool for what is pushed to the agent (everything but files). It takes half of `max_waiting_bytes` for what comes
    /// in, so that clients are answered while everything else waits for the log. Absent: none.
    pub spool: Option<SpoolConfig>,
    /// How long a file that was renamed away or deleted is still read after its last growth. A deleted file is read
    /// longer, as long as a process has it open for writing.
    pub rotated_wait: Span,
    /// How long a deleted file is still read after its last growth where the agent can't see who has it open: without
    /// root or CAP_SYS_PTRACE, or in a container.
    pub deleted_wait: Span,
    /// Close files that did not grow for so long; they are opened again when they grow.
    pub close_idle: Span,
    /// Forget positions of files that have been gone for so long.
    pub forget_after: Span,
    /// First wait after a failed request; each further wait is twice as long.
    pub retry_initial: Span,
    /// Longest wait between two attempts.
    pub retry_max: Span,
    /// How long a stopping agent waits for what it has sent to be acknowledged.
    pub shutdown_timeout: Span,
    /// Topic for records that the log refuses for good.
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
            http_auth: PushAuth::default(),
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

/// Largest `max_line_bytes`: what one record may hold.
const MAX_LINE_LIMIT: u64 = 16 << 20;

impl AgentConfig {
    /// Reports what passes, but is most likely not meant so: warnings of VRL's compiler.
    pub fn warn(&self, warnings: &mut Faults) {
        for (i, source) in self.sources.iter().enumerate() {
            warnings.within(&format!("sources[{i}]"), |w| warn_steps(source.transforms(), w));
        }
        warn_named(&self.transforms, warnings);
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.sources.is_empty() {
            faults.add("sources", "is empty: name at least one `- type: file` with `include`, or leave `agent` out");
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
                            let text = format!("`{}` is the name of another source: give each its own", common.name);
                            f.add("name", text);
                        }
                    }
                    let is_stdin = |source: &SourceConfig| matches!(source, SourceConfig::Stdin(_));
                    if is_stdin(source) && self.sources.iter().take(i).any(is_stdin) {
                        f.add("type", "is `stdin` a second time: only one source can read the standard input");
                    }
                    check_steps(source.transforms(), &self.transforms, f);
                });
            }
        });
        check_named(&self.transforms, faults);
        faults.within("kafka", |f| self.kafka.check(f));
        if let Some(http) = &self.http
            && http.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).is_none()
        {
            faults.add("http", format!("`{http}` is no address: expected host:port"));
        }
        if self.host.as_deref() == Some("") {
            faults.add("host", "is empty: leave it out to use the name of this host");
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
            faults.add("dead_letter_topic", "is the topic of the lines: dead letters need one of their own");
        }
    }
}

pub(crate) const TOPIC_RULE: &str = "is no topic: expected 1 to 249 letters, digits, `.`, `_` or `-`, not `.` or `..`";

/// Who speaks Kafka's protocol for the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Millrace's own producer.
    #[default]
    Native,
    /// librdkafka.
    Librdkafka,
}

/// Which log and which topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Addresses `host:port` to start from.
    pub brokers: Vec<String>,
    /// TLS to the brokers.
    pub tls: bool,
    /// File with the certificates of the authorities to trust, PEM. Empty: those of the system.
    pub ca_file: String,
    /// File with this client's own certificate and those between it and its authority, PEM, for listeners that ask for one.
    pub cert_file: String,
    /// File with the private key of `cert_file`, PEM, not encrypted.
    pub key_file: String,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Empty: no authentication.
    pub sasl_mechanism: String,
    /// User for SASL.
    pub sasl_username: String,
    /// Password for SASL.
    pub sasl_password: Secret,
    /// Which client writes to the log: `native` is Millrace's own and takes a fraction of the CPU and memory,
    /// `librdkafka` has settings for everything.
    pub client: Client,
    /// Further settings of librdkafka by their own names; they need `client: librdkafka`.
    pub options: BTreeMap<String, String>,
    /// Topic that lines go to; made if it does not exist.
    pub topic: String,
    /// Number of partitions if the topic must be made.
    pub partitions: i32,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        let of = ConnectionConfig::default();
        Self {
            brokers: of.brokers,
            tls: of.tls,
            ca_file: of.ca_file,
            cert_file: of.cert_file,
            key_file: of.key_file,
            sasl_mechanism: of.sasl_mechanism,
            sasl_username: of.sasl_username,
            sasl_password: of.sasl_password,
            client: Client::Native,
            options: of.options,
            topic: "logs".to_owned(),
            partitions: 4,
        }
    }
}

impl KafkaConfig {
    /// The client that writes to the log. Both repeat for ever, unless `options` say otherwise: giving a record up while
    /// later ones go through would break the order of positions.
    pub fn producer(&self) -> Result<Arc<dyn BatchProducer>, ClientError> {
        let connection = self.connection();
        Ok(match self.client {
            Client::Native => Arc::new(WireProducer::new(&connection, None)?),
            Client::Librdkafka => Arc::new(RdProducer::new(&connection)?),
        })
    }

    /// The part that says how to reach the log.
    pub fn connection(&self) -> ConnectionConfig {
        let mut options = self.options.clone();
        if self.client == Client::Librdkafka {
            options.entry("message.timeout.ms".to_owned()).or_insert_with(|| "0".to_owned());
        }
        ConnectionConfig {
            brokers: self.brokers.clone(),
            tls: self.tls,
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            sasl_mechanism: self.sasl_mechanism.clone(),
            sasl_username: self.sasl_username.clone(),
            sasl_password: self.sasl_password.clone(),
            options,
        }
    }

    fn check(&self, faults: &mut Faults) {
        self.connection().check(faults);
        if self.client == Client::Native && !self.options.is_empty() {
            faults.add("options", "are settings of librdkafka: add `client: librdkafka`, or remove them");
        }
        if !is_topic_name(&self.topic) {
            faults.add("topic", TOPIC_RULE);
        }
        if !(1..=10_000).contains(&self.partitions) {
            faults.add("partitions", format!("is {}: expected 1 to 10000", self.partitions));
        }
    }
}

/// One thing to read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SourceConfig {
    /// Files named by globs.
    File(FileSource),
    /// Lines and JSON by POST.
    Http(HttpSource),
    /// Loki's push API.
    Loki(LokiSource),
    /// OpenTelemetry logs.
    Otlp(OtlpSource),
    /// Syslog by UDP, TCP and TLS.
    Syslog(SyslogSource),
    /// The journal of systemd.
    Journald(JournaldSource),
    /// The standard input.
    Stdin(StdinSource),
    /// What a command prints.
    Command(CommandSource),
}

/// What all sources that are no files have.
#[derive(Debug)]
pub(crate) struct Common<'c> {
    /// The type as it is written.
    pub kind: &'static str,
    /// As given, or made of type and address: ids and numbers are kept under it.
    pub name: String,
    pub labels: &'c BTreeMap<String, String>,
    /// Whether the label `host` is added: for what this host itself says.
    pub with_host: bool,
    pub tenant: &'c str,
    pub max_line_bytes: ByteSize,
    pub timestamp: Option<&'c TimestampConfig>,
    pub max_streams: usize,
}

impl SourceConfig {
    /// What happens to its events.
    pub fn transforms(&self) -> &[StepConfig] {
        match self {
            Self::File(file) => &file.transforms,
            Self::Http(http) => &http.transforms,
            Self::Loki(loki) => &loki.transforms,
            Self::Otlp(otlp) => &otlp.transforms,
            Self::Syslog(syslog) => &syslog.transforms,
            Self::Journald(journald) => &journald.transforms,
            Self::Stdin(stdin) => &stdin.transforms,
            Self::Command(command) => &command.transforms,
        }
    }

    /// `None` for files.
    pub(crate) fn common(&self) -> Option<Common<'_>> {
        match self {
            Self::File(_) => None,
            Self::Http(http) => Some(Common {
                kind: "http",
                name: name_of(&http.name, "http", &http.listen),
                labels: &http.labels,
                with_host: false,
                tenant: &http.tenant,
                max_line_bytes: http.max_line_bytes,
                timestamp: http.timestamp.as_ref(),
                max_streams: http.max_streams,
            }),
            Self::Loki(loki) => Some(Common {
                kind: "loki",
                name: name_of(&loki.name, "loki", &loki.listen),
                labels: &loki.labels,
                with_host: false,
                tenant: &loki.tenant,
                max_line_bytes: loki.max_line_bytes,
                timestamp: None,
                max_streams: loki.max_streams,
            }),
            Self::Otlp(otlp) => Some(Common {
                kind: "otlp",
                name: crate::push::otlp_name(otlp),
                labels: &otlp.labels,
                with_host: false,
                tenant: &otlp.tenant,
                max_line_bytes: otlp.max_line_bytes,
                timestamp: None,
                max_streams: otlp.max_streams,
            }),
            Self::Syslog(syslog) => Some(Common {
                kind: "syslog",
                name: syslog_name(syslog),
                labels: &syslog.labels,
                with_host: false,
                tenant: &syslog.tenant,
                max_line_bytes: syslog.max_line_bytes,
                timestamp: None,
                max_streams: syslog.max_streams,
            }),
            Self::Journald(journald) => Some(Common {
                kind: "journald",
                name: journald.full_name(),
                labels: &journald.labels,
                with_host: false,
                tenant: &journald.tenant,
                max_line_bytes: journald.max_line_bytes,
                timestamp: None,
                max_streams: journald.max_streams,
            }),
            Self::Stdin(stdin) => Some(Common {
                kind: "stdin",
                name: stdin.full_name(),
                labels: &stdin.labels,
                with_host: true,
                tenant: &stdin.tenant,
                max_line_bytes: stdin.max_line_bytes,
                timestamp: stdin.timestamp.as_ref(),
                max_streams: 1,
            }),
            Self::Command(command) => Some(Common {
                kind: "command",
                name: command.full_name(),
                labels: &command.labels,
                with_host: true,
                tenant: &command.tenant,
                max_line_bytes: command.max_line_bytes,
                timestamp: command.timestamp.as_ref(),
                max_streams: 2,
            }),
        }
    }
}

impl Common<'_> {
    fn check(&self, faults: &mut Faults) {
        if self.name.len() > 200 || self.name.chars().any(char::is_control) {
            faults.add("name", "is no name: expected up to 200 characters");
        }
        check_labels(self.labels, MAX_LABELS, MAX_LABEL_BYTES, faults);
        check_tenant(self.tenant, faults);
        check_max_line(self.max_line_bytes, faults);
        if let Some(timestamp) = self.timestamp {
            faults.within("timestamp", |f| timestamp.check(f));
        }
        if !(1..=1_000_000).contains(&self.max_streams) {
            faults.add("max_streams", format!("is {}: expected 1 to 1000000", self.max_streams));
        }
    }
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>, names: usize, bytes: usize, faults: &mut Faults) {
    for name in labels.keys().filter(|name| !is_label_name(name)) {
        faults.add(&format!("labels.{name}"), "is no label name: expected [a-zA-Z_][a-zA-Z0-9_]*");
    }
    if labels.len() > names {
        faults.add("labels", format!("has {} labels, {names} are allowed", labels.len()));
    }
    let found: usize = labels.iter().map(|(n, v)| n.len() + v.len()).sum();
    if found > bytes {
        faults.add("labels", format!("has {found} bytes, {bytes} are allowed"));
    }
}

fn check_tenant(tenant: &str, faults: &mut Faults) {
    if !tenant.is_empty()
        && let Err(error) = Tenant::new(tenant)
    {
        faults.add("tenant", error.to_string());
    }
}

fn check_max_line(max: ByteSize, faults: &mut Faults) {
    if !(64..=MAX_LINE_LIMIT).contains(&max.0) {
        let limit = ByteSize(MAX_LINE_LIMIT);
        faults.add("max_line_bytes", format!("is {max}: expected 64B to {limit}"));
    }
}

/// Files named by globs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileSource {
    /// Globs of the files to read: `*` and `?` stay within one name, `**` crosses folders, `{a,b}` chooses. Rotated
    /// files (`app.log.1`, `app.log-20260101.gz`) belong to the file they come from and need no glob.
    pub include: Vec<String>,
    /// Globs of files to leave out.
    pub exclude: Vec<String>,
    /// Whether symbolic links to files and folders are followed. When a link is switched to another file, the one it
    /// led to is read to its end.
    pub follow_symlinks: bool,
    /// Labels of the stream; `host` and `filename` are added unless they are given here.
    pub labels: BTreeMap<String, String>,
    /// Labels from the path: `kubernetes` (namespace, pod, container and, unless it is given, service, from paths below
    /// `/var/log/pods` and `/var/log/containers`), `docker` (container_id), or a regular expression whose named groups are
    /// labels, as in `/srv/(?P<service>[^/]+)/`. Labels that are given win. Empty: none.
    pub path_labels: String,
    /// What lines hold: `plain` text, or what a container runtime writes: `cri` (containerd, CRI-O), `docker` (json-file), or
    /// `auto` for both, told line by line. Parts of a line are joined, the time is the runtime's unless `timestamp` finds
    /// another, and what no runtime wrote goes on as it is, with the metadata `container=malformed`.
    pub format: FileFormat,
    /// Label that tells the stream of a container, `stdout` or `stderr`. Empty: metadata `stream` instead.
    pub stream_label: String,
    /// Encoding of the file: `utf-8`, `utf-16le`, `utf-16be`, `latin-1` or `windows-1252`. Records are UTF-8.
    pub encoding: Encoding,
    /// Whose lines these are. Empty: `default`.
    pub tenant: String,
    /// Where to start in files that were there before the agent's first start.
    pub read_from: ReadFrom,
    /// Longer lines are cut here and marked.
    pub max_line_bytes: ByteSize,
    /// A last line without a line end is sent when it has not grown for so long.
    pub partial_timeout: Span,
    /// Joins lines, as of a stack trace, to one event.
    pub multiline: Option<MultilineConfig>,
    /// How to find the event time in a line. Left out: the time of reading.
    pub timestamp: Option<TimestampConfig>,
    /// What happens to each event, in this order: names of `agent.transforms`, or transforms written out.
    pub transforms: Vec<StepConfig>,
}

impl Default for FileSource {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            exclude: Vec::new(),
            follow_symlinks: true,
            labels: BTreeMap::new(),
            path_labels: String::new(),
            format: FileFormat::Plain,
            stream_label: "stream".to_owned(),
            encoding: Encoding::Utf8,
            tenant: String::new(),
            read_from: ReadFrom::Beginning,
            max_line_bytes: ByteSize(256 << 10),
            partial_timeout: Span::secs(5),
            multiline: None,
            timestamp: None,
            transforms: Vec::new(),
        }
    }
}

impl FileSource {
    fn check(&self, faults: &mut Faults) {
        if self.include.is_empty() {
            faults.add("include", "is empty: name at least one glob, as in [\"/var/log/app/*.log\"]");
        }
        for (key, globs) in [("include", &self.include), ("exclude", &self.exclude)] {
            for (i, glob) in globs.iter().enumerate() {
                if glob.is_empty() {
                    faults.add(&format!("{key}[{i}]"), "is empty");
                } else if let Err(error) = crate::discover::glob(glob) {
                    faults.add(&format!("{key}[{i}]"), error.to_string());
                }
            }
        }
        // `host`, `filename`, those of the path and of the stream come on top.
        let mut more = 2 + usize::from(self.format != FileFormat::Plain && !self.stream_label.is_empty());
        match PathLabels::new(&self.path_labels) {
            Ok(labels) => more += labels.len(),
            Err(reason) => faults.add("path_labels", reason),
        }
        check_labels(&self.labels, MAX_LABELS.saturating_sub(more), MAX_LABEL_BYTES / 2, faults);
        if !self.stream_label.is_empty() && !is_label_name(&self.stream_label) {
            faults.add("stream_label", "is no label name: expected [a-zA-Z_][a-zA-Z0-9_]*");
        }
        if self.format != FileFormat::Plain && self.encoding != Encoding::Utf8 {
            faults.add("encoding", "belongs to `format: plain`: container runtimes write UTF-8");
        }
        check_tenant(&self.tenant, faults);
        check_max_line(self.max_line_bytes, faults);
        if self.partial_timeout.0.is_zero() {
            faults.add("partial_timeout", "is 0: expected a duration such as `5s`");
        }
        if let Some(multiline) = &self.multiline {
            faults.within("multiline", |f| multiline.check(f));
        }
        if let Some(timestamp) = &self.timestamp {
            faults.within("timestamp", |f| timestamp.check(f));
        }
    }
}

/// What lines of a file hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Text.
    #[default]
    Plain,
    /// Lines of containerd and CRI-O.
    Cri,
    /// Lines of Docker's json-file.
    Docker,
    /// Either, told line by line.
    Auto,
}

/// Encoding of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// As it is.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// The low byte first, as on Windows.
    #[serde(rename = "utf-16le")]
    Utf16Le,
    /// The high byte first.
    #[serde(rename = "utf-16be")]
    Utf16Be,
    /// ISO 8859-1, read as Windows-1252, as browsers do: the two differ in control characters only.
    #[serde(rename = "latin-1")]
    Latin1,
    /// Windows-1252.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

impl Encoding {
    /// What reads it; `None`: nothing has to.
    pub(crate) fn decoder(self) -> Option<&'static encoding_rs::Encoding> {
        match self {
            Self::Utf8 => None,
            Self::Utf16Le => Some(encoding_rs::UTF_16LE),
            Self::Utf16Be => Some(encoding_rs::UTF_16BE),
            Self::Latin1 | Self::Windows1252 => Some(encoding_rs::WINDOWS_1252),
        }
    }
}

/// Where reading starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadFrom {
    /// At the first line.
    #[default]
    Beginning,
    /// At what is written from now on.
    End,
}

/// Which lines belong together: exactly one of `start` and `continue`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MultilineConfig {
    /// Traces of a language, each with the message before it: `java` (Kotlin and Scala as well), `python`, `go`, `ruby`,
    /// `dotnet`. Left out: the patterns below say what belongs together.
    pub preset: Option<Preset>,
    /// Regular expression of a line that starts an event. Alone: all other lines continue it.
    pub start: Option<String>,
    /// Regular expression of a line that continues an event, as in `^\s`. With `start`: only one that `start` began.
    pub r#continue: Option<String>,
    /// Regular expression of a line that the next one continues, as in `\\$`.
    pub continue_past: Option<String>,
    /// Regular expression of the last line of an event. With `start`: only of one that `start` began.
    pub halt: Option<String>,
    /// Lines in one event at most.
    pub max_lines: usize,
    /// An event that has not grown for so long is whole.
    pub timeout: Span,
}

/// Languages whose traces are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Java and other languages of its machine.
    Java,
    /// Python, with chains and groups of exceptions.
    Python,
    /// Panics and goroutines of Go.
    Go,
    /// Ruby, also as Rails prints it.
    Ruby,
    /// .NET, also as its console logger prints it.
    Dotnet,
}

impl Default for MultilineConfig {
    fn default() -> Self {
        Self {
            preset: None,
            start: None,
            r#continue: None,
            continue_past: None,
            halt: None,
            max_lines: 500,
            timeout: Span::secs(1),
        }
    }
}

impl MultilineConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        let patterns = [
            ("start", &self.start),
            ("continue", &self.r#continue),
            ("continue_past", &self.continue_past),
            ("halt", &self.halt),
        ];
        let mut given = patterns.iter().filter_map(|(key, pattern)| Some((*key, pattern.as_ref()?))).peekable();
        match (self.preset, given.peek()) {
            (Some(_), Some((key, _))) => faults.add(key, "stands beside `preset`: give only one of the two"),
            (None, None) => faults.add("start", "is missing: give a `preset`, or `start`, `continue` or `halt`"),
            _ => {}
        }
        for (key, pattern) in given {
            check_regex(key, pattern, faults);
        }
        if self.r#continue.is_some() && self.halt.is_some() && self.start.is_some() {
            faults.add("halt", "stands beside `start` and `continue`: what does not continue an event ends it");
        }
        if !(2..=100_000).contains(&self.max_lines) {
            faults.add("max_lines", format!("is {}: expected 2 to 100000", self.max_lines));
        }
        if self.timeout.0.is_zero() {
            faults.add("timeout", "is 0: expected a duration such as `1s`");
        }
    }
}

fn check_regex(key: &str, pattern: &str, faults: &mut Faults) {
    if let Err(error) = regex::bytes::Regex::new(pattern) {
        faults.add(key, error.to_string());
    }
}

/// How to find the event time in a line.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimestampConfig {
    /// `rfc3339`, `unix` (seconds, with or without a fraction), `unix_ms`, `unix_us`, `unix_ns`, or a strftime pattern
    /// such as `%d/%b/%Y:%H:%M:%S %z`.
    pub format: String,
    /// Regular expression whose group `time` (or first group, or whole match) is the time. Left out, and no `field`:
    /// the time stands at the start of the line.
    pub regex: Option<String>,
    /// Name of the field of a JSON line that holds the time.
    pub field: Option<String>,
    /// Offset for times that name none: `UTC`, `+02:00`, `-0530`.
    pub timezone: String,
}

impl Default for TimestampConfig {
    fn default() -> Self {
        Self { format: "rfc3339".to_owned(), regex: None, field: None, timezone: "UTC".to_owned() }
    }
}

impl TimestampConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        if self.regex.is_some() && self.field.is_some() {
            faults.add("field", "stands beside `regex`: give only one of the two");
        }
        if let Some(pattern) = &self.regex {
            check_regex("regex", pattern, faults);
        }
        if let Err(message) = crate::timestamp::check_format(&self.format) {
            faults.add("format", message);
        }
        if crate::timestamp::offset(&self.timezone).is_none() {
            faults.add("timezone", format!("`{}` is no offset: expected `UTC` or as in `+02:00`", self.timezone));
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
    fn settings_of_librdkafka_need_librdkafka() {
        let options = r#"{"kafka": {"options": {"linger.ms": "50"}, "client": "CLIENT"}}"#;
        let native = read(&options.replace("CLIENT", "native")).expect("native");
        assert!(faults(&native).contains(&"kafka.options".to_owned()));
        let librdkafka = read(&options.replace("CLIENT", "librdkafka")).expect("librdkafka");
        assert!(!faults(&librdkafka).contains(&"kafka.options".to_owned()));
        assert_eq!(librdkafka.kafka.connection().options["message.timeout.ms"], "0");
        assert!(librdkafka.kafka.producer().is_ok() && KafkaConfig::default().producer().is_ok());
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
