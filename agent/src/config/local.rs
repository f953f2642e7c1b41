//! Settings of sources that the agent reads on its own host: the journal, the standard input, the output of commands.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't express. Touches
//! nothing.

use std::collections::BTreeMap;

use millrace_log::record::is_label_name;
use millrace_log::value::{ByteSize, Faults, Secret, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::ReadFrom;
use super::push::name_of;
use crate::checks::LABEL_RULE;
use crate::multiline::MultilineConfig;
use crate::timestamp::TimestampConfig;
use crate::transform::config::StepConfig;

/// Fields of a journal entry that one source may ask for.
const MAX_FIELDS: usize = 64;

/// Which boots of the journal are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Boots {
    /// All that the journal has.
    #[default]
    All,
    /// The one that runs.
    Current,
}

/// The journal of systemd, by `journalctl`: read on exactly after restarts and kills.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JournaldSource {
    /// Name in ledger and metrics; the position in the journal is stored under it. Empty: type and folder.
    pub name: String,
    /// Program that reads the journal; a name without a path is searched in `PATH`.
    pub journalctl: String,
    /// Folder with journal files. Empty: the journal of this host.
    pub directory: String,
    /// Units to read, as in `nginx.service`. Empty: everything.
    pub units: Vec<String>,
    /// Values of `SYSLOG_IDENTIFIER` to read. Empty: everything.
    pub identifiers: Vec<String>,
    /// The least important priority to read, as in `warning`, or a range as in `err..alert`. Empty: everything.
    pub priority: String,
    /// Further matches of journalctl: `FIELD=value`; several of one field are alternatives, `+` separates groups of
    /// which one must match.
    pub matches: Vec<String>,
    /// Which boots: `all` or `current`.
    pub boot: Boots,
    /// Where to start at the first run: `beginning` or `end` of the journal.
    pub read_from: ReadFrom,
    /// Whether messages of the kernel are read.
    pub include_kernel: bool,
    /// Labels of all entries.
    pub labels: BTreeMap<String, String>,
    /// Labels from fields of the journal: label to fields, of which the first present one is used. The end `.service`
    /// of a unit is left out, scopes (sessions of users) only count where no other field is there, `PRIORITY` is a name
    /// such as `warning`.
    pub label_fields: BTreeMap<String, Vec<String>>,
    /// Structured metadata from fields of the journal: name to field.
    pub metadata_fields: BTreeMap<String, String>,
    /// Maximum number of label sets; beyond it, the fields for labels become metadata.
    pub max_streams: usize,
    /// Tenant of the records. Empty: `default`.
    pub tenant: String,
    /// Longer messages are truncated to this length and get the metadata `truncated=true`.
    pub max_line_bytes: ByteSize,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

impl Default for JournaldSource {
    fn default() -> Self {
        let labels: [(&str, &[&str]); 2] =
            [("host", &["_HOSTNAME"]), ("service", &["_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER"])];
        let metadata = [
            ("boot_id", "_BOOT_ID"),
            ("identifier", "SYSLOG_IDENTIFIER"),
            ("message_id", "MESSAGE_ID"),
            ("pid", "_PID"),
            ("severity", "PRIORITY"),
            ("transport", "_TRANSPORT"),
            ("uid", "_UID"),
            ("unit", "_SYSTEMD_UNIT"),
            ("user_unit", "_SYSTEMD_USER_UNIT"),
        ];
        let owned = |(label, fields): (&str, &[&str])| {
            (label.to_owned(), fields.iter().map(|field| (*field).to_owned()).collect())
        };
        Self {
            name: String::new(),
            journalctl: "journalctl".to_owned(),
            directory: String::new(),
            units: Vec::new(),
            identifiers: Vec::new(),
            priority: String::new(),
            matches: Vec::new(),
            boot: Boots::All,
            read_from: ReadFrom::Beginning,
            include_kernel: true,
            labels: BTreeMap::new(),
            label_fields: labels.into_iter().map(owned).collect(),
            metadata_fields: metadata.into_iter().map(|(name, field)| (name.to_owned(), field.to_owned())).collect(),
            max_streams: 5000,
            tenant: String::new(),
            max_line_bytes: ByteSize(256 << 10),
            transforms: Vec::new(),
        }
    }
}

/// Lines of the standard input, as in `producer | millrace agent`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StdinSource {
    /// Name in ledger and metrics. Empty: `stdin`.
    pub name: String,
    /// Labels of the stream; `host` is added unless set here.
    pub labels: BTreeMap<String, String>,
    /// Tenant of the lines. Empty: `default`.
    pub tenant: String,
    /// Longer lines are truncated to this length and get the metadata `truncated=true`.
    pub max_line_bytes: ByteSize,
    /// Joins several lines, such as a stack trace, to one event.
    pub multiline: Option<MultilineConfig>,
    /// Where and how to parse the event time in a line. Left out: the time of reading.
    pub timestamp: Option<TimestampConfig>,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

impl Default for StdinSource {
    fn default() -> Self {
        Self {
            name: String::new(),
            labels: BTreeMap::new(),
            tenant: String::new(),
            max_line_bytes: ByteSize(256 << 10),
            multiline: None,
            timestamp: None,
            transforms: Vec::new(),
        }
    }
}

/// How a command is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CommandMode {
    /// Continuously: restarted when it ends.
    #[default]
    Stream,
    /// Every `interval`, to its end.
    Interval,
}

/// What of a command is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Streams {
    /// Standard output and standard error.
    #[default]
    Both,
    /// Standard output; the other is thrown away.
    Stdout,
    /// Standard error; the other is thrown away.
    Stderr,
}

/// Lines that a command prints.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CommandSource {
    /// Name in ledger and metrics. Empty: type and program.
    pub name: String,
    /// Program and arguments, run without a shell; to use one: `[sh, -c, "a | b"]`.
    pub command: Vec<String>,
    /// `stream`: runs continuously and is restarted when it ends; `interval`: runs every `interval`.
    pub mode: CommandMode,
    /// Time from start to start with `mode: interval`; a longer run delays the next one.
    pub interval: Span,
    /// With `mode: interval`: a longer run is stopped. 0: no limit.
    pub timeout: Span,
    /// First wait before `mode: stream` restarts a command; each further wait is twice as long.
    pub restart_wait: Span,
    /// Longest wait before a restart; after a run longer than this the first wait is used again.
    pub restart_max: Span,
    /// How long a command may take to end after SIGTERM, when the agent stops and at `timeout`, before it is killed.
    pub stop_timeout: Span,
    /// Working directory. Empty: that of the agent.
    pub working_directory: String,
    /// Environment variables besides those of the agent.
    pub environment: BTreeMap<String, Secret>,
    /// Whether the environment of the agent is inherited.
    pub inherit_environment: bool,
    /// What is read: `both`, `stdout` or `stderr`.
    pub streams: Streams,
    /// Label with the stream, `stdout` or `stderr`. Empty: metadata `stream` instead.
    pub stream_label: String,
    /// Labels of all lines; `host` is added unless set here.
    pub labels: BTreeMap<String, String>,
    /// Tenant of the lines. Empty: `default`.
    pub tenant: String,
    /// Longer lines are truncated to this length and get the metadata `truncated=true`.
    pub max_line_bytes: ByteSize,
    /// Joins several lines, such as a stack trace, to one event.
    pub multiline: Option<MultilineConfig>,
    /// Where and how to parse the event time in a line. Left out: the time of reading.
    pub timestamp: Option<TimestampConfig>,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

impl Default for CommandSource {
    fn default() -> Self {
        Self {
            name: String::new(),
            command: Vec::new(),
            mode: CommandMode::Stream,
            interval: Span::secs(60),
            timeout: Span::secs(30),
            restart_wait: Span::secs(1),
            restart_max: Span::secs(60),
            stop_timeout: Span::secs(3),
            working_directory: String::new(),
            environment: BTreeMap::new(),
            inherit_environment: true,
            streams: Streams::Both,
            stream_label: String::new(),
            labels: BTreeMap::new(),
            tenant: String::new(),
            max_line_bytes: ByteSize(256 << 10),
            multiline: None,
            timestamp: None,
            transforms: Vec::new(),
        }
    }
}

/// Whether journald may have a field of this name.
fn is_field_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

const PRIORITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// The name of a priority as journald writes it.
pub(crate) fn priority_name(digit: &[u8]) -> Option<&'static str> {
    let [digit @ b'0'..=b'7'] = digit else { return None };
    PRIORITIES.get(usize::from(digit - b'0')).copied()
}

fn is_priority(text: &str) -> bool {
    let is_one = |text: &str| PRIORITIES.contains(&text) || priority_name(text.as_bytes()).is_some();
    match text.split_once("..") {
        Some((from, to)) => is_one(from) && is_one(to),
        None => is_one(text),
    }
}

impl JournaldSource {
    /// The name that it was given, or one made of its folder.
    pub(crate) fn full_name(&self) -> String {
        name_of(&self.name, "journald", if self.directory.is_empty() { "system" } else { &self.directory })
    }

    /// Whether everything is read that the journal has.
    pub(crate) fn is_unfiltered(&self) -> bool {
        self.units.is_empty()
            && self.identifiers.is_empty()
            && self.priority.is_empty()
            && self.matches.is_empty()
            && self.boot == Boots::All
    }

    /// Reports what types can't express.
    pub(crate) fn check(&self, faults: &mut Faults) {
        if self.journalctl.is_empty() {
            faults.add("journalctl", "is empty: remove it to find `journalctl` on PATH");
        }
        for (key, list) in [("units", &self.units), ("identifiers", &self.identifiers)] {
            for (i, value) in list.iter().enumerate() {
                if value.is_empty() || value.chars().any(char::is_control) {
                    faults.add(&format!("{key}[{i}]"), "is empty or has control characters");
                } else if key == "units" && value.contains(['*', '?', '[']) {
                    let text = "is a pattern, which journalctl matches only against units that are in the journal when it \
                                starts: list the units, or use `matches` or a transform of type drop";
                    faults.add(&format!("{key}[{i}]"), text);
                }
            }
        }
        if !self.priority.is_empty() && !is_priority(&self.priority) {
            let names = PRIORITIES.join(", ");
            faults.add(
                "priority",
                format!(
                    "invalid priority `{}`: expected one of {names}, or a range such as `err..alert`",
                    self.priority
                ),
            );
        }
        for (i, condition) in self.matches.iter().enumerate() {
            let is_condition = condition.split_once('=').is_some_and(|(field, _)| is_field_name(field));
            if condition != "+" && !is_condition {
                faults.add(
                    &format!("matches[{i}]"),
                    format!("invalid condition `{condition}`: expected FIELD=value, or +"),
                );
            }
        }
        let mut fields = 0;
        for (label, from) in &self.label_fields {
            let key = format!("label_fields.{label}");
            fields += from.len();
            if !is_label_name(label) {
                faults.add(&key, LABEL_RULE);
            } else if from.is_empty() {
                faults.add(&key, "is empty: name a field such as `_SYSTEMD_UNIT`");
            }
            for field in from.iter().filter(|field| !is_field_name(field)) {
                faults.add(&key, format!("invalid journal field `{field}`: expected one such as `_SYSTEMD_UNIT`"));
            }
        }
        for (name, field) in &self.metadata_fields {
            let key = format!("metadata_fields.{name}");
            fields += 1;
            if !is_label_name(name) {
                faults.add(&key, "invalid metadata name: expected [a-zA-Z_][a-zA-Z0-9_]*");
            } else if !is_field_name(field) {
                faults.add(&key, format!("invalid journal field `{field}`: expected one such as `_PID`"));
            }
        }
        if fields > MAX_FIELDS {
            faults.add(
                "metadata_fields",
                format!("has {fields} fields together with `label_fields`, {MAX_FIELDS} are allowed"),
            );
        }
    }
}

impl StdinSource {
    /// The name that it was given, or its type.
    pub(crate) fn full_name(&self) -> String {
        if self.name.is_empty() { "stdin".to_owned() } else { self.name.clone() }
    }

    /// Reports what types can't express.
    pub(crate) fn check(&self, faults: &mut Faults) {
        if let Some(multiline) = &self.multiline {
            faults.within("multiline", |f| multiline.check(f));
        }
    }
}

impl CommandSource {
    /// The name that it was given, or one made of its program.
    pub(crate) fn full_name(&self) -> String {
        name_of(&self.name, "command", self.command.first().map_or("", String::as_str))
    }

    /// Reports what types can't express; `shutdown` is what the agent has for its stop.
    pub(crate) fn check(&self, shutdown: Span, faults: &mut Faults) {
        if self.command.first().is_none_or(String::is_empty) {
            faults.add("command", "is empty: name a program and its arguments, as in [vmstat, -n, \"10\"]");
        }
        for (i, _) in self.command.iter().enumerate().filter(|(_, part)| part.contains('\0')) {
            faults.add(&format!("command[{i}]"), "has a NUL byte, which no argument can have");
        }
        for (key, span) in
            [("interval", self.interval), ("restart_wait", self.restart_wait), ("restart_max", self.restart_max)]
        {
            if span.0.is_zero() {
                faults.add(key, "is 0: expected a duration such as `10s`");
            }
        }
        if self.restart_max < self.restart_wait {
            faults.add("restart_max", "is shorter than `restart_wait`");
        }
        if self.stop_timeout >= shutdown {
            faults.add(
                "stop_timeout",
                format!("is {}: expected less than `agent.shutdown_timeout`, {shutdown}", self.stop_timeout),
            );
        }
        for name in self.environment.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                faults.add(&format!("environment.{name}"), "invalid variable name");
            }
        }
        if !self.stream_label.is_empty() {
            if !is_label_name(&self.stream_label) {
                faults.add("stream_label", LABEL_RULE);
            } else if self.labels.contains_key(&self.stream_label) {
                faults.add("stream_label", format!("`{}` stands in `labels` as well", self.stream_label));
            }
        }
        if let Some(multiline) = &self.multiline {
            faults.within("multiline", |f| multiline.check(f));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AgentConfig;

    #[test]
    fn wrong_values_are_named_by_their_keys() {
        let config: AgentConfig = serde_json::from_value(serde_json::json!({
            "sources": [
                {"type": "journald", "journalctl": "", "units": ["ng*.service"], "identifiers": [""], "priority": "loud",
                 "matches": ["_PID=1", "+", "/usr/bin/x", "a=b"], "label_fields": {"a-b": ["X"], "c": [], "d": ["lower"]},
                 "metadata_fields": {"e": "_E", "f": "-"}, "max_streams": 0},
                {"type": "stdin", "multiline": {}, "max_line_bytes": "1B", "name": "one"},
                {"type": "stdin", "name": "two"},
                {"type": "command", "interval": "0s", "restart_wait": "2m", "stop_timeout": "10s",
                 "environment": {"A=B": "x"}, "labels": {"from": "x"}, "stream_label": "from", "multiline": {"start": "("}},
                {"type": "command", "command": ["", "\0"], "stream_label": "a-b", "transforms": ["nothing"]},
                {"type": "command", "command": ["ps"]},
                {"type": "command", "command": ["ps", "-e"]},
            ],
        }))
        .unwrap();
        let mut faults = Faults::default();
        config.check(&mut faults);
        let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
        let want = [
            "sources[0].journalctl",
            "sources[0].units[0]",
            "sources[0].identifiers[0]",
            "sources[0].priority",
            "sources[0].matches[2]",
            "sources[0].matches[3]",
            "sources[0].label_fields.a-b",
            "sources[0].label_fields.c",
            "sources[0].label_fields.d",
            "sources[0].metadata_fields.f",
            "sources[0].max_streams",
            "sources[1].multiline.start",
            "sources[1].max_line_bytes",
            "sources[2].type",
            "sources[3].command",
            "sources[3].interval",
            "sources[3].restart_max",
            "sources[3].stop_timeout",
            "sources[3].environment.A=B",
            "sources[3].stream_label",
            "sources[3].multiline.start",
            "sources[4].command",
            "sources[4].command[1]",
            "sources[4].stream_label",
            "sources[4].name",
            "sources[4].transforms[0]",
            "sources[6].name",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn priorities_are_read_by_name_and_digit() {
        for (text, want) in [
            ("warning", true),
            ("4", true),
            ("err..alert", true),
            ("0..3", true),
            ("8", false),
            ("", false),
            ("a..b", false),
        ] {
            assert_eq!(is_priority(text), want, "{text}");
        }
        assert_eq!(
            (priority_name(b"0"), priority_name(b"7"), priority_name(b"10")),
            (Some("emerg"), Some("debug"), None)
        );
    }
}
