//! One log event and its form on the log: the words that agent, broker, aggregator and rules share.
//!
//! In: events from tailed files or HTTP doors. Out: one Kafka record per event and back ([`encode`], [`decode`]).
//! Touches nothing: no disk, network or clock.
//!
//! # Format of a record
//! | part | content |
//! |---|---|
//! | value | the line as written, without its line end |
//! | key | the source's id, 32 lower-case hexadecimal digits |
//! | timestamp | event time in ms, clamped to [read time − 24 h, read time] (Apache Kafka refuses batches dated ahead) |
//! | header `labels` | compact JSON object, names sorted: the same bytes for all lines of one source |
//! | header `meta` | compact JSON object of strings: structured metadata, left out when empty |
//! | header `tenant` | left out for `default` |
//! | header `content-type` | `application/json` where a transform made the value a JSON object, left out for lines |
//! | header `doc` | compact JSON object `{"index":…,"id":…,"op":"index"\|"create"}`: Elasticsearch identity, left out for lines |
//! | header `millrace` | the fixed part below |
//!
//! Header `millrace`, little-endian: version u8 = 1, flags u8 (bit 0: the line is cut at the agent's limit; bit 1: the
//! event time was read from the line), event time i64 ns since 1970, source id 16 bytes, position u64, sub-number u32:
//! 38 bytes. Readers ignore bytes beyond those they know, so that readers are updated before writers. A reader that
//! meets another version refuses the record ([`RecordError::Version`]) and its caller sends it to the dead letters.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Header with the labels of the stream.
pub const HEADER_LABELS: &str = "labels";
/// Header with structured metadata.
pub const HEADER_META: &str = "meta";
/// Header with the kind of the value, absent for lines.
pub const HEADER_CONTENT_TYPE: &str = "content-type";
/// Value of [`HEADER_CONTENT_TYPE`] for JSON objects.
pub const CONTENT_JSON: &str = "application/json";
/// Header with the tenant, absent for [`Tenant::DEFAULT`].
pub const HEADER_TENANT: &str = "tenant";
/// Header with the Elasticsearch identity of a document.
pub const HEADER_DOC: &str = "doc";
/// Header with the fixed part: version, time, source, position.
pub const HEADER_FIXED: &str = "millrace";
/// Version of the fixed part that this code writes, and the only one that it reads.
pub const FIXED_VERSION: u8 = 1;
/// Length of the fixed part in version 1.
pub const FIXED_LEN: usize = 38;
/// Labels of one stream at most.
pub const MAX_LABELS: usize = 15;
/// Bytes of all names and values of one stream's labels at most.
pub const MAX_LABEL_BYTES: usize = 1024;
/// How far behind the read time a Kafka timestamp may lie.
pub const MAX_KAFKA_LAG_MS: i64 = 24 * 3600 * 1000;

const FLAG_CUT: u8 = 1;
const FLAG_TIME_FROM_LINE: u8 = 2;

/// Whose data it is. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The tenant of everything that names none.
    pub const DEFAULT: &'static str = "default";

    /// Takes 1 to 150 characters of letters, digits and `!-_.*'()`, not `.` or `..` (Loki's and Mimir's bounds).
    pub fn new(name: &str) -> Result<Self, RecordError> {
        let good = !name.is_empty()
            && name.len() <= 150
            && name != "."
            && name != ".."
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!-_.*'()".contains(&b));
        if good { Ok(Self(name.into())) } else { Err(RecordError::Tenant { name: name.chars().take(150).collect() }) }
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({})", self.0)
    }
}

/// A topic's partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Index of the partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Joins the two.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Random identity of one file as long as it is not truncated, of one pushing instance, or of one foreign partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub [u8; 16]);

impl SourceId {
    /// A new random id.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Reads 32 hexadecimal digits.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        if text.len() != 32 {
            return None;
        }
        let mut id = [0u8; 16];
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            *byte = (hex_digit(pair[0])? << 4) | hex_digit(pair[1])?;
        }
        Some(Self(id))
    }

    /// 32 lower-case hexadecimal digits.
    pub fn to_hex(self) -> [u8; 32] {
        let mut text = [0u8; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        text
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex_digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceId({self})")
    }
}

/// Where in its source an event stands: byte offset of the line's start in the decoded file (or the receiver's
/// counter, or a foreign offset), then a sub-number for several events of one place. Strictly rising in a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Byte offset, counter or foreign offset.
    pub offset: u64,
    /// Distinguishes events made from one place, from 0.
    pub sub: u32,
}

impl Position {
    /// A place with sub-number 0.
    pub const fn at(offset: u64) -> Self {
        Self { offset, sub: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.offset, self.sub)
    }
}

/// Names and values that make a stream: sorted by name, names unique. Cheap to clone; made once per stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Labels(Arc<[(String, String)]>);

impl Labels {
    /// Sorts; the last of equal names wins; empty values are left out, as Loki and Prometheus do.
    /// Checks nothing else: see [`Labels::check`].
    pub fn new<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let sorted: std::collections::BTreeMap<String, String> =
            pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        Self(sorted.into_iter().filter(|(_, v)| !v.is_empty()).collect())
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let i = self.0.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.0[i].1)
    }

    /// All pairs in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// All pairs in the order of their names.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The set itself, shared.
    pub fn shared(&self) -> Arc<[(String, String)]> {
        Arc::clone(&self.0)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy with a pair added or replaced.
    pub fn with(&self, name: &str, value: &str) -> Self {
        Self::new(self.iter().chain([(name, value)]))
    }

    /// Whether the bounds hold: at most [`MAX_LABELS`] names, [`MAX_LABEL_BYTES`] bytes, names like `[a-zA-Z_][a-zA-Z0-9_]*`.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.len() > MAX_LABELS {
            return Err(RecordError::TooManyLabels { count: self.len() });
        }
        let bytes: usize = self.iter().map(|(n, v)| n.len() + v.len()).sum();
        if bytes > MAX_LABEL_BYTES {
            return Err(RecordError::LabelsTooLong { bytes });
        }
        match self.iter().find(|(n, _)| !is_label_name(n)) {
            Some((name, _)) => Err(RecordError::LabelName { name: name.to_owned() }),
            None => Ok(()),
        }
    }

    /// Compact JSON object, names sorted: the content of the header `labels` and the identity of a stream.
    pub fn to_json(&self) -> String {
        pairs_to_json(self.iter())
    }

    /// Reads what [`Labels::to_json`] writes; any JSON object of strings is taken.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        let pairs: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(json).map_err(|source| RecordError::Json { header: HEADER_LABELS, source })?;
        Ok(Self::new(pairs))
    }
}

/// Loki's and Prometheus's form of the labels: `{app="api", env="prod"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether Kafka takes this as the name of a topic: 1 to 249 letters, digits, `.`, `_` or `-`, and not `.` or `..`.
pub fn is_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether a label may be named so: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn pairs_to_json<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut json = String::from("{");
    for (i, (name, value)) in pairs.enumerate() {
        if i > 0 {
            json.push(',');
        }
        json.push_str(&serde_json::Value::from(name).to_string());
        json.push(':');
        json.push_str(&serde_json::Value::from(value).to_string());
    }
    json.push('}');
    json
}

/// What Elasticsearch clients call a document: its index and id, and how it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct DocIdentity {
    /// Index as named by the client.
    pub index: String,
    /// Given or automatic id.
    pub id: String,
    /// `index` replaces an older document of the id, `create` never does (the door refused it if there was one).
    #[serde(default)]
    pub op: DocOp,
}

/// How a document came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DocOp {
    /// A new document or a new version of one.
    #[default]
    Index,
    /// A new document.
    Create,
}

/// One log event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Whose it is.
    pub tenant: Tenant,
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Labels of its stream.
    pub labels: Labels,
    /// Structured metadata: filterable after `|`, never inside `{}`. Sorted by name.
    pub metadata: Labels,
    /// The line as written, without its line end; may be no UTF-8.
    pub line: Bytes,
    /// Where it came from.
    pub source: SourceId,
    /// Its place there.
    pub position: Position,
    /// Only for documents that came by the Elasticsearch door.
    pub doc: Option<Box<DocIdentity>>,
    /// The agent cut the line at its limit.
    pub cut: bool,
    /// The event time was found in the line (else it is the time of reading).
    pub time_from_line: bool,
}

/// Why a record can't be read or an event can't be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not written by Millrace: read it with a source `format`, or it is a dead letter.
    #[error(
        "record has no header `millrace`: it was written by another producer; read its topic with `format: raw` or `json`"
    )]
    Foreign,
    /// Written by a newer Millrace.
    #[error(
        "record has version {found} of the header `millrace`, this program reads {FIXED_VERSION}: update the reader before the writers"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// The fixed part is cut.
    #[error("header `millrace` has {len} bytes, {FIXED_LEN} are needed")]
    Short {
        /// The length found.
        len: usize,
    },
    /// A header that must be a JSON object of strings isn't.
    #[error("header `{header}` is not a JSON object of strings")]
    Json {
        /// Name of the header.
        header: &'static str,
        /// What the JSON reader says.
        #[source]
        source: serde_json::Error,
    },
    /// A header that nobody of ours writes so long: parsing it would take many times its size in memory.
    #[error("header `{header}` has {bytes} bytes, {allowed} are allowed")]
    HeaderTooLong {
        /// Name of the header.
        header: &'static str,
        /// The length found.
        bytes: usize,
        /// The limit.
        allowed: usize,
    },
    /// Too many labels for one stream.
    #[error("stream has {count} labels, {MAX_LABELS} are allowed: move some to structured metadata")]
    TooManyLabels {
        /// The number found.
        count: usize,
    },
    /// Labels too long for one stream.
    #[error("labels of the stream have {bytes} bytes, {MAX_LABEL_BYTES} are allowed: move some to structured metadata")]
    LabelsTooLong {
        /// The number found.
        bytes: usize,
    },
    /// A name that LogQL can't ask for.
    #[error("label name `{name}` is not of the form [a-zA-Z_][a-zA-Z0-9_]*")]
    LabelName {
        /// The name found.
        name: String,
    },
    /// A tenant's name out of bounds.
    #[error("tenant `{name}` must have 1 to 150 letters, digits or characters of !-_.*'()")]
    Tenant {
        /// The name found.
        name: String,
    },
}

/// A record as the producer takes it and the consumer gives it. Cheap to clone: every part is counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// Kafka timestamp, ms since 1970.
    pub timestamp_ms: i64,
    /// Key, `None` for null.
    pub key: Option<Bytes>,
    /// Value, `None` for a tombstone.
    pub value: Option<Bytes>,
    /// Names and values, in order. Names of ours are static.
    pub headers: Vec<(HeaderName, Bytes)>,
}

/// Name of a header: ours cost nothing.
pub type HeaderName = std::borrow::Cow<'static, str>;

impl Record {
    /// The last value of a header, as Kafka's `lastHeader` reads it.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v)
    }
}

/// The fixed part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Where it came from.
    pub source: SourceId,
    /// Its place there.
    pub position: Position,
    /// The agent cut the line at its limit.
    pub cut: bool,
    /// The event time was found in the line.
    pub time_from_line: bool,
}

impl Fixed {
    /// The bytes of the header `millrace`.
    pub fn encode(&self) -> [u8; FIXED_LEN] {
        let mut out = [0u8; FIXED_LEN];
        out[0] = FIXED_VERSION;
        out[1] = if self.cut { FLAG_CUT } else { 0 } | if self.time_from_line { FLAG_TIME_FROM_LINE } else { 0 };
        out[2..10].copy_from_slice(&self.time_ns.to_le_bytes());
        out[10..26].copy_from_slice(&self.source.0);
        out[26..34].copy_from_slice(&self.position.offset.to_le_bytes());
        out[34..38].copy_from_slice(&self.position.sub.to_le_bytes());
        out
    }

    /// Reads [`Fixed::encode`]'s bytes; ignores bytes beyond them.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.first() {
            None => return Err(RecordError::Short { len: 0 }),
            Some(&FIXED_VERSION) => {}
            Some(&found) => return Err(RecordError::Version { found }),
        }
        let fixed = bytes.first_chunk::<FIXED_LEN>().ok_or(RecordError::Short { len: bytes.len() })?;
        let mut source = [0u8; 16];
        source.copy_from_slice(&fixed[10..26]);
        let u64_at = |at: usize| {
            let mut raw = [0u8; 8];
            raw.copy_from_slice(&fixed[at..at + 8]);
            raw
        };
        let mut sub = [0u8; 4];
        sub.copy_from_slice(&fixed[34..38]);
        Ok(Self {
            time_ns: i64::from_le_bytes(u64_at(2)),
            source: SourceId(source),
            position: Position { offset: u64::from_le_bytes(u64_at(26)), sub: u32::from_le_bytes(sub) },
            cut: fixed[1] & FLAG_CUT != 0,
            time_from_line: fixed[1] & FLAG_TIME_FROM_LINE != 0,
        })
    }
}

/// Clamps an event time to what Kafka takes: [read time − 24 h, read time], in ms.
pub fn kafka_timestamp_ms(time_ns: i64, read_ms: i64) -> i64 {
    time_ns.div_euclid(1_000_000).clamp(read_ms - MAX_KAFKA_LAG_MS, read_ms)
}

/// Writes one event as one record. `read_ms` is the time of reading, for the clamp of the Kafka timestamp.
pub fn encode(event: &Event, read_ms: i64) -> Record {
    let fixed = Fixed {
        time_ns: event.time_ns,
        source: event.source,
        position: event.position,
        cut: event.cut,
        time_from_line: event.time_from_line,
    };
    let mut headers: Vec<(HeaderName, Bytes)> = Vec::with_capacity(5);
    headers.push((HEADER_LABELS.into(), event.labels.to_json().into()));
    if !event.metadata.is_empty() {
        headers.push((HEADER_META.into(), event.metadata.to_json().into()));
    }
    if event.tenant.as_str() != Tenant::DEFAULT {
        headers.push((HEADER_TENANT.into(), Bytes::copy_from_slice(event.tenant.as_str().as_bytes())));
    }
    if let Some(doc) = &event.doc {
        let json = serde_json::to_vec(doc).unwrap_or_default();
        headers.push((HEADER_DOC.into(), json.into()));
    }
    headers.push((HEADER_FIXED.into(), Bytes::copy_from_slice(&fixed.encode())));
    Record {
        timestamp_ms: kafka_timestamp_ms(event.time_ns, read_ms),
        key: Some(Bytes::copy_from_slice(&event.source.to_hex())),
        value: Some(event.line.clone()),
        headers,
    }
}

/// Reads events from records, remembering the labels it parsed last: all lines of a file carry the same bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    seen: std::collections::HashMap<Bytes, Labels>,
}

/// Label sets that one decoder remembers at most; then it starts anew.
const DECODER_MEMORY: usize = 16 * 1024;

/// Bytes of the labels at most: [`MAX_LABEL_BYTES`] with every character escaped.
const MAX_LABELS_JSON: usize = 8 << 10;
/// Bytes of structured metadata at most, more than may be configured.
const MAX_META_JSON: usize = 4 << 20;
/// Bytes of a document's identity at most.
const MAX_DOC_JSON: usize = 64 << 10;

fn bounded(header: &'static str, json: &[u8], allowed: usize) -> Result<(), RecordError> {
    let bytes = json.len();
    if bytes > allowed { Err(RecordError::HeaderTooLong { header, bytes, allowed }) } else { Ok(()) }
}

impl Decoder {
    /// Reads one event.
    pub fn decode(&mut self, record: &Record) -> Result<Event, RecordError> {
        let fixed = Fixed::decode(record.header(HEADER_FIXED).ok_or(RecordError::Foreign)?)?;
        let labels = match record.header(HEADER_LABELS) {
            None => Labels::default(),
            Some(json) => self.labels(json)?,
        };
        let metadata = match record.header(HEADER_META) {
            None => Labels::default(),
            Some(json) => {
                bounded(HEADER_META, json, MAX_META_JSON)?;
                Labels::from_json(json).map_err(|e| renamed(e, HEADER_META))?
            }
        };
        let tenant = match record.header(HEADER_TENANT) {
            None => Tenant::default(),
            Some(name) => Tenant::new(&String::from_utf8_lossy(name))?,
        };
        let doc = match record.header(HEADER_DOC) {
            None => None,
            Some(json) => {
                bounded(HEADER_DOC, json, MAX_DOC_JSON)?;
                Some(serde_json::from_slice(json).map_err(|source| RecordError::Json { header: HEADER_DOC, source })?)
            }
        };
        Ok(Event {
            tenant,
            time_ns: fixed.time_ns,
            labels,
            metadata,
            line: record.value.clone().unwrap_or_default(),
            source: fixed.source,
            position: fixed.position,
            doc,
            cut: fixed.cut,
            time_from_line: fixed.time_from_line,
        })
    }

    fn labels(&mut self, json: &Bytes) -> Result<Labels, RecordError> {
        if let Some(labels) = self.seen.get(json) {
            return Ok(labels.clone());
        }
        bounded(HEADER_LABELS, json, MAX_LABELS_JSON)?;
        let labels = Labels::from_json(json)?;
        labels.check()?;
        if self.seen.len() >= DECODER_MEMORY {
            self.seen.clear();
        }
        // Copied: the header is a slice of a fetched batch that must not be kept alive.
        self.seen.insert(Bytes::copy_from_slice(json), labels.clone());
        Ok(labels)
    }
}

fn renamed(error: RecordError, header: &'static str) -> RecordError {
    match error {
        RecordError::Json { source, .. } => RecordError::Json { header, source },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> Event {
        Event {
            tenant: Tenant::default(),
            time_ns: 1_772_366_400_000_000_001,
            labels: Labels::new([("service", "checkout"), ("region", "eu-west-1")]),
            metadata: Labels::default(),
            line: Bytes::from_static(b"order=1 state=paid"),
            source: SourceId([0xab; 16]),
            position: Position { offset: 77, sub: 3 },
            doc: None,
            cut: false,
            time_from_line: true,
        }
    }

    #[test]
    fn fixed_part_has_the_documented_layout() {
        let record = encode(&event(), 1_772_366_400_500);
        let fixed = record.header(HEADER_FIXED).expect("written");
        assert_eq!(fixed.len(), FIXED_LEN);
        assert_eq!(fixed[0], 1);
        assert_eq!(fixed[1], 2);
        assert_eq!(&fixed[2..10], &1_772_366_400_000_000_001i64.to_le_bytes());
        assert_eq!(&fixed[10..26], &[0xab; 16]);
        assert_eq!(&fixed[26..34], &77u64.to_le_bytes());
        assert_eq!(&fixed[34..38], &3u32.to_le_bytes());
        assert_eq!(record.key.as_deref(), Some("ab".repeat(16).as_bytes()));
        assert_eq!(
            record.header(HEADER_LABELS).expect("written"),
            &br#"{"region":"eu-west-1","service":"checkout"}"#[..]
        );
        assert!(record.header(HEADER_TENANT).is_none());
    }

    #[test]
    fn kafka_timestamp_is_clamped_to_the_day_before_reading() {
        let day = MAX_KAFKA_LAG_MS;
        for (event_ms, read_ms, want) in
            [(1_000, 2_000, 1_000), (3_000, 2_000, 2_000), (-5 * day, 0, -day), (0, 2 * day, day)]
        {
            assert_eq!(kafka_timestamp_ms(event_ms * 1_000_000, read_ms), want, "event {event_ms} read {read_ms}");
        }
    }

    #[test]
    fn other_versions_and_short_headers_are_refused_by_name() {
        let mut record = encode(&event(), 0);
        let fixed = record.headers.last_mut().expect("fixed part is last");
        let mut longer = fixed.1.to_vec();
        longer.extend_from_slice(b"future");
        fixed.1 = longer.clone().into();
        assert_eq!(Decoder::default().decode(&record).expect("unknown trailing bytes are ignored").position.offset, 77);
        longer[0] = 2;
        record.headers.last_mut().expect("there").1 = longer.into();
        assert!(matches!(Decoder::default().decode(&record), Err(RecordError::Version { found: 2 })));
        record.headers.last_mut().expect("there").1 = Bytes::from_static(&[1, 0, 0]);
        assert!(matches!(Decoder::default().decode(&record), Err(RecordError::Short { len: 3 })));
        record.headers.pop();
        assert!(matches!(Decoder::default().decode(&record), Err(RecordError::Foreign)));
    }

    #[test]
    fn labels_keep_their_bounds() {
        let many = Labels::new((0..16).map(|i| (format!("l{i}"), "v")));
        assert!(matches!(many.check(), Err(RecordError::TooManyLabels { count: 16 })));
        let long = Labels::new([("a", "x".repeat(1024))]);
        assert!(matches!(long.check(), Err(RecordError::LabelsTooLong { bytes: 1025 })));
        assert!(matches!(Labels::new([("a-b", "x")]).check(), Err(RecordError::LabelName { .. })));
        assert!(Labels::new([("a", "")]).is_empty());
        assert!(Labels::new([("_a1", "x")]).check().is_ok());
    }

    #[test]
    fn headers_that_nobody_writes_so_long_are_refused_before_they_are_parsed() {
        let json = |bytes: usize| Bytes::from(format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8)));
        for (header, allowed) in
            [(HEADER_LABELS, MAX_LABELS_JSON), (HEADER_META, MAX_META_JSON), (HEADER_DOC, MAX_DOC_JSON)]
        {
            let decode = |bytes| {
                let mut record = encode(&event(), 0);
                record.headers.push((header.into(), json(bytes)));
                Decoder::default().decode(&record)
            };
            let got = decode(allowed + 1);
            assert!(matches!(got, Err(RecordError::HeaderTooLong { bytes, .. }) if bytes == allowed + 1), "{got:?}");
            assert!(!matches!(decode(allowed), Err(RecordError::HeaderTooLong { .. })), "{header}");
        }
    }

    proptest! {
        #[test]
        fn decode_gives_back_what_encode_took(
            time_ns: i64, source: [u8; 16], offset: u64, sub: u32, cut: bool, time_from_line: bool,
            line in proptest::collection::vec(any::<u8>(), 0..200),
            labels in proptest::collection::btree_map("[a-z_]{1,8}", "\\PC{1,10}", 0..6),
            metadata in proptest::collection::btree_map("\\PC{1,8}", "\\PC{1,10}", 0..4),
            doc in proptest::option::of(("[a-z]{1,8}", "\\PC{1,10}")),
        ) {
            let event = Event {
                tenant: Tenant::new("team-a").expect("good"), time_ns, labels: Labels::new(labels),
                metadata: Labels::new(metadata), line: line.into(), source: SourceId(source),
                position: Position { offset, sub },
                doc: doc.map(|(index, id)| Box::new(DocIdentity { index, id, op: DocOp::Create })),
                cut, time_from_line,
            };
            let back = Decoder::default().decode(&encode(&event, 0)).expect("own record");
            prop_assert_eq!(back, event);
        }

        #[test]
        fn fixed_part_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(fixed) = Fixed::decode(&bytes) {
                prop_assert_eq!(Fixed::decode(&fixed.encode()).ok(), Some(fixed));
            }
        }

        #[test]
        fn source_ids_read_back(id: [u8; 16]) {
            prop_assert_eq!(SourceId::from_hex(&SourceId(id).to_hex()), Some(SourceId(id)));
            prop_assert_eq!(SourceId(id).to_string().into_bytes(), SourceId(id).to_hex().to_vec());
        }
    }

    #[test]
    fn label_names_are_letters_digits_and_underscores() {
        for (name, good) in [("a", true), ("_a9", true), ("", false), ("9a", false), ("a-b", false), ("größe", false)]
        {
            assert_eq!(is_label_name(name), good, "{name}");
        }
    }
}
