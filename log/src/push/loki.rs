//! Loki's pushes: form, decoding, and which entries are valid, with Loki's texts for those that are not.
//!
//! In: a body with its headers. Out: streams of entries; valid ones one by one, faults as texts. Touches nothing.

use bytes::Bytes;

use super::body::{Packed, unpack};
use super::budget::Reserved;
pub use super::entries::{PushEntry, PushStream};
use super::error::PushError;
use super::{loki_json, loki_proto};
use crate::record::{Labels, MAX_LABELS, RecordError, is_label_name};

/// One entry that is valid.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidEntry {
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// The line.
    pub line: Bytes,
    /// Structured metadata, under names that LogQL can ask for.
    pub metadata: Labels,
}

/// What one entry may have.
#[derive(Debug, Clone, Copy)]
pub struct EntryLimits {
    /// Bytes of its line.
    pub max_line: u64,
    /// Bytes of its structured metadata.
    pub max_metadata: u64,
    /// Names of its structured metadata.
    pub max_metadata_names: usize,
}

/// How a push is written.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// JSON, else protobuf with snappy's block format.
    pub json: bool,
    /// What is around it.
    pub packed: Packed,
}

/// Faults that one answer names.
const NAMED_FAULTS: usize = 10;

impl Form {
    /// From the headers `Content-Type` and `Content-Encoding`.
    pub fn of(content_type: &str, encoding: &str) -> Result<Self, PushError> {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Ok(Self { json: kind == "application/json", packed: Packed::of(encoding)? })
    }
}

/// Reads a push; `allowed` bytes at most when decompressed, and as much memory as can be reserved. One without a stream is
/// [`PushError::Empty`].
pub fn decode(body: Bytes, form: &Form, allowed: u64, memory: &mut Reserved) -> Result<Vec<PushStream>, PushError> {
    let body = unpack(body, form.packed, allowed, memory)?;
    let streams =
        if form.json { loki_json::decode(&body, memory)? } else { loki_proto::decode(&body, allowed, memory)? };
    if streams.is_empty() {
        return Err(PushError::Empty("error at least one valid stream is required for ingestion".to_owned()));
    }
    Ok(streams)
}

/// Gives valid entries to `valid`, which may refuse one by a text; answers a text for each fault (the first few).
pub fn check(
    streams: Vec<PushStream>,
    limits: &EntryLimits,
    mut valid: impl FnMut(&Labels, ValidEntry) -> Result<(), String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for stream in streams {
        match stream_labels(stream.labels) {
            Err(fault) => note(&mut faults, fault),
            Ok(labels) => {
                for entry in stream.entries {
                    let checked = check_entry(&entry, &labels, limits).and_then(|time_ns| {
                        let metadata = plain_names(entry.metadata);
                        valid(&labels, ValidEntry { time_ns, line: entry.line, metadata })
                    });
                    if let Err(fault) = checked {
                        note(&mut faults, fault);
                    }
                }
            }
        }
    }
    faults
}

/// Names of metadata as LogQL can ask for them: other characters become `_`, as does a name without any; a digit in front gets
/// `key_`.
pub fn plain_names(metadata: Labels) -> Labels {
    if metadata.iter().all(|(name, _)| is_label_name(name)) {
        return metadata;
    }
    let plain = |name: &str| -> String {
        let mut out: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if out.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert_str(0, "key_");
        } else if out.is_empty() {
            out.push('_');
        }
        out
    };
    Labels::new(metadata.iter().map(|(name, value)| (plain(name), value)))
}

fn note(faults: &mut Vec<String>, fault: String) {
    // One refusal of a stream is enough for all of its entries.
    if faults.len() < NAMED_FAULTS && faults.last() != Some(&fault) {
        faults.push(fault);
    }
}

fn stream_labels(sent: Result<Vec<(String, String)>, String>) -> Result<Labels, String> {
    let mut pairs = sent?;
    pairs.sort();
    if let Some(twice) = pairs.windows(2).find_map(|two| match two {
        [a, b] if a.0 == b.0 => Some(a.0.clone()),
        _ => None,
    }) {
        let labels = Labels::new(pairs);
        return Err(format!("stream '{labels}' has duplicate label name: '{twice}'"));
    }
    let labels = Labels::new(pairs);
    if labels.is_empty() {
        return Err("error at least one label pair is required per stream".to_owned());
    }
    match labels.check() {
        Ok(()) => Ok(labels),
        Err(RecordError::TooManyLabels { count }) => {
            Err(format!("entry for stream '{labels}' has {count} label names; limit {MAX_LABELS}"))
        }
        Err(other) => Err(format!("Error parsing labels '{labels}' with error: {other}")),
    }
}

fn check_entry(entry: &PushEntry, labels: &Labels, limits: &EntryLimits) -> Result<i64, String> {
    let Some(time_ns) = entry.time_ns else {
        return Err(format!("entry for stream '{labels}' has a timestamp that is not between 1677 and 2262"));
    };
    if entry.line.len() as u64 > limits.max_line {
        return Err(format!(
            "max entry size '{}' bytes exceeded for stream '{labels}' while adding an entry with length '{}' bytes",
            limits.max_line,
            entry.line.len()
        ));
    }
    let bytes: usize = entry.metadata.iter().map(|(n, v)| n.len() + v.len()).sum();
    if bytes as u64 > limits.max_metadata {
        return Err(format!(
            "stream '{labels}' has structured metadata too large: '{bytes}' bytes, limit: '{}' bytes. Please see \
             `ingest.max_metadata`",
            limits.max_metadata
        ));
    }
    if entry.metadata.len() > limits.max_metadata_names {
        return Err(format!(
            "stream '{labels}' has too many structured metadata labels: '{}', limit: '{}'. Please see \
             `ingest.max_metadata_names`",
            entry.metadata.len(),
            limits.max_metadata_names
        ));
    }
    Ok(time_ns)
}
