//! Section `agent.transforms` of the configuration, and the list `transforms` of each source.
//!
//! In: YAML as the binary read it. Out: typed values with defaults. Touches the files of programs, reading only. Leaves
//! what types can't express to `check.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use millrace_log::value::{ByteSize, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes of a program.
const MAX_PROGRAM: u64 = 1 << 20;

/// Named transforms.
pub type Transforms = BTreeMap<String, TransformConfig>;

/// One step of a source: the name of an entry of `agent.transforms`, or a transform of its own.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StepConfig {
    /// By its name.
    Name(String),
    /// Written out.
    Inline(Box<TransformConfig>),
}

/// One transform.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TransformConfig {
    /// A program in the Vector Remap Language (VRL).
    Vrl(VrlTransform),
    /// Drops events.
    Drop(DropTransform),
    /// Sends events to another topic.
    Route(RouteTransform),
    /// Keeps a share of the events.
    Sample(SampleTransform),
    /// Keeps so many events in a time, and drops the rest.
    Throttle(ThrottleTransform),
    /// Replaces what must not leave the host.
    Redact(RedactTransform),
}

/// What becomes of an event that a step fails on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It goes on as it came to the step, with the metadata `transform_error` and `transform_failed` (the step's name).
    #[default]
    Pass,
    /// It goes to the dead-letter topic as it came to the step, with the reason.
    DeadLetter,
}

/// A program in the Vector Remap Language (VRL).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VrlTransform {
    /// The program. It sees the event as `.message` (the line), `.timestamp`, `.labels`, `.metadata`, `.host`,
    /// `.filename` and `.source_type`; other fields that it sets make the record's value a JSON object. `abort` drops
    /// the event; its message, if it is one word, is the reason that the ledger counts. `${` is written `$${`.
    pub program: Option<String>,
    /// File with the program, instead of `program`.
    pub file: Option<PathBuf>,
    /// What to do with an event on which the program fails: `pass` or `dead_letter`.
    pub on_error: OnError,
    /// Time zone of times without one, by its name in the tz database.
    pub timezone: String,
    /// Longest run on one event; a longer one is a failure.
    pub time_limit: Span,
    /// Largest event that a program may produce; a larger one is a failure.
    pub max_output_bytes: ByteSize,
}

impl Default for VrlTransform {
    fn default() -> Self {
        Self {
            program: None,
            file: None,
            on_error: OnError::Pass,
            timezone: "UTC".to_owned(),
            time_limit: Span::millis(100),
            max_output_bytes: ByteSize(512 << 10),
        }
    }
}

/// Drops events.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DropTransform {
    /// VRL expression that is true for events to drop, as in `.level == "debug"`.
    pub r#if: Option<String>,
    /// Regular expression matching the lines to drop; with `if`, both must hold.
    pub r#match: Option<String>,
    /// Reason in the ledger and in metrics: lower-case letters, digits and `_`. Empty: `drop`.
    pub reason: String,
    /// What to do with an event on which `if` fails: `pass` or `dead_letter`.
    pub on_error: OnError,
}

/// Sends events to another topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTransform {
    /// VRL expression that is true for events to route. Left out: all events.
    pub r#if: Option<String>,
    /// Regular expression matching the lines to route; with `if`, both must hold.
    pub r#match: Option<String>,
    /// The topic; created if it does not exist.
    pub topic: Option<String>,
    /// VRL expression that gives the topic's name, as in `.labels.team`, instead of `topic`. With null or an empty
    /// string the event is not routed.
    pub topic_from: Option<String>,
    /// Prefix of the name that `topic_from` returns.
    pub prefix: String,
    /// Topics that `topic_from` may return, with `prefix`; a `*` at the end matches any rest. Any other name is a
    /// failure.
    pub allow: Vec<String>,
    /// Maximum number of different topics that `topic_from` may return; one more is a failure.
    pub max_topics: usize,
    /// What to do with an event that can't be routed: `pass` or `dead_letter`.
    pub on_error: OnError,
}

impl Default for RouteTransform {
    fn default() -> Self {
        Self {
            r#if: None,
            r#match: None,
            topic: None,
            topic_from: None,
            prefix: String::new(),
            allow: Vec::new(),
            max_topics: 100,
            on_error: OnError::Pass,
        }
    }
}

/// Keeps a share of the events.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleTransform {
    /// One of this many events is kept, with the metadata `sample_rate`. The choice depends on the position in the file
    /// alone, so that a line read again after a crash is kept again.
    pub rate: u64,
    /// VRL expression: events with the same value are kept or dropped together, on every host, as in `.trace_id`.
    /// Events without a value are sampled individually.
    pub key: Option<String>,
    /// VRL expression that is true for events to sample; others are kept. Left out: all events.
    pub r#if: Option<String>,
    /// Regular expression matching the lines to sample; with `if`, both must hold.
    pub r#match: Option<String>,
    /// Reason in the ledger and in metrics: lower-case letters, digits and `_`. Empty: `sample`.
    pub reason: String,
    /// What to do with an event on which an expression fails: `pass` or `dead_letter`.
    pub on_error: OnError,
}

impl Default for SampleTransform {
    fn default() -> Self {
        Self { rate: 10, key: None, r#if: None, r#match: None, reason: String::new(), on_error: OnError::Pass }
    }
}

/// Keeps so many events in a time, and drops the rest.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ThrottleTransform {
    /// Events kept in each `per`, for each key.
    pub limit: u64,
    /// Period of `limit`.
    pub per: Span,
    /// Maximum burst of events of one key after a quiet period. 0: same as `limit`.
    pub burst: u64,
    /// VRL expression: each value has a limit of its own, as in `.labels.service`. Left out: one limit for all.
    pub key: Option<String>,
    /// Maximum number of keys; further keys share one limit.
    pub max_keys: usize,
    /// VRL expression that is true for events to throttle; others are kept. Left out: all events.
    pub r#if: Option<String>,
    /// Regular expression matching the lines to throttle; with `if`, both must hold.
    pub r#match: Option<String>,
    /// Reason in the ledger and in metrics: lower-case letters, digits and `_`. Empty: `throttle`.
    pub reason: String,
    /// What to do with an event on which an expression fails: `pass` or `dead_letter`.
    pub on_error: OnError,
}

impl Default for ThrottleTransform {
    fn default() -> Self {
        Self {
            limit: 1000,
            per: Span::secs(1),
            burst: 0,
            key: None,
            max_keys: 10_000,
            r#if: None,
            r#match: None,
            reason: String::new(),
            on_error: OnError::Pass,
        }
    }
}

/// What `redact` knows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// JSON Web Tokens.
    Jwt,
    /// Keys, tokens and passwords, by their form or by the name before them.
    Token,
    /// E-mail addresses.
    Email,
    /// Numbers of payment cards whose check digit is right.
    Card,
    /// IPv4 and IPv6 addresses.
    Ip,
}

impl Preset {
    /// All, in the order in which they are looked for.
    pub(crate) const ALL: [(Self, &'static str); 5] =
        [(Self::Jwt, "jwt"), (Self::Token, "token"), (Self::Email, "email"), (Self::Card, "card"), (Self::Ip, "ip")];
}

/// Replaces what must not leave the host, in the line or in all fields and metadata; labels stay.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedactTransform {
    /// Built-in patterns: `card`, `email`, `jwt`, `token`, `ip`.
    pub presets: Vec<Preset>,
    /// Further regular expressions; with a group, only the group is replaced.
    pub patterns: Vec<String>,
    /// Replacement text; `{name}` is the name of the preset, or `pattern`.
    pub replacement: String,
}

impl Default for RedactTransform {
    fn default() -> Self {
        Self { presets: Vec::new(), patterns: Vec::new(), replacement: "[{name}]".to_owned() }
    }
}

impl VrlTransform {
    /// The text of the program.
    pub(crate) fn source(&self) -> Result<String, String> {
        match (&self.program, &self.file) {
            (Some(text), None) => Ok(text.clone()),
            (None, Some(path)) => read(path),
            (None, None) => Err("missing: set `program` or `file`".to_owned()),
            (Some(_), Some(_)) => Err("can't be combined with `file`".to_owned()),
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("can't read {}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_PROGRAM {
        return Err(format!("{} has {size} bytes, {MAX_PROGRAM} are allowed", path.display()));
    }
    std::fs::read_to_string(path).map_err(failed)
}
