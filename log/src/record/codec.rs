//! An event as one Kafka record, and back.
//!
//! In: an [`Event`] and the time of reading, or a [`Record`]. Out: the other of the two. Touches nothing. The layout is
//! described at the top of [`crate::record`].

use bytes::Bytes;

use super::error::RecordError;
use super::event::Event;
use super::identity::{Position, SourceId, Tenant};
use super::labels::Labels;
use super::layout::{
    FIXED_LEN, FIXED_VERSION, FLAG_CUT, FLAG_TIME_FROM_LINE, HEADER_DOC, HEADER_FIXED, HEADER_LABELS, HEADER_META,
    HEADER_TENANT, MAX_KAFKA_LAG_MS,
};

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

/// Label sets that one decoder remembers at most; then it starts again.
const DECODER_MEMORY: usize = 16 * 1024;

/// Bytes of the labels at most: [`super::MAX_LABEL_BYTES`] with every character escaped.
pub(super) const MAX_LABELS_JSON: usize = 8 << 10;
/// Bytes of structured metadata at most, more than may be configured.
pub(super) const MAX_META_JSON: usize = 4 << 20;
/// Bytes of a document's identity at most.
pub(super) const MAX_DOC_JSON: usize = 64 << 10;

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
