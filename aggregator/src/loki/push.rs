//! `POST /loki/api/v1/push`: streams of entries in JSON or protobuf, answered with 204 when the log has them.
//!
//! In: a body, maybe compressed (`gzip`, `deflate`, `zstd`; protobuf is snappy by itself). Out: events for
//! [`crate::ingest`]. What is valid goes in; if something isn't, the answer is 400 with Loki's text for it, as Loki does.
//! Touches nothing itself.

use std::io::Read as _;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use millrace_log::record::{Labels, MAX_LABELS, RecordError, Tenant, is_label_name};

use super::error::LokiError;
use super::{LokiState, Whose, push_json, push_proto};
use crate::ingest::{IngestConfig, PushEvent};

/// One stream of a push as it was sent.
pub(super) struct PushStream {
    /// Names and values, or why they can't be read.
    pub(super) labels: Result<Vec<(String, String)>, String>,
    /// Its entries.
    pub(super) entries: Vec<PushEntry>,
}

/// One entry of a push as it was sent.
pub(super) struct PushEntry {
    /// Event time, ns since 1970; `None` if it is beyond what ns since 1970 can say.
    pub(super) time_ns: Option<i64>,
    /// The line.
    pub(super) line: Bytes,
    /// Structured metadata.
    pub(super) metadata: Labels,
}

/// Bodies above this are decoded on a blocking thread.
const DECODE_INLINE: usize = 32 << 10;
/// Faults that one answer names.
const NAMED_FAULTS: usize = 10;

pub(super) async fn push(
    State(state): State<LokiState>,
    Whose(tenant): Whose,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, LokiError> {
    let body = read(body, state.limits.max_body).await?;
    let form = Form::of(&headers)?;
    let (allowed, config) = (state.limits.max_body_decompressed, state.ingest.config().clone());
    let (events, faults) = if body.len() <= DECODE_INLINE && matches!(form.packed, Packed::No) {
        decode(body, &form, allowed, &tenant, &config)?
    } else {
        tokio::task::spawn_blocking(move || decode(body, &form, allowed, &tenant, &config))
            .await
            .map_err(|_| LokiError::Stopping)??
    };
    state.ingest.append(events).await?;
    match faults.is_empty() {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(LokiError::Bad(faults.join("\n"))),
    }
}

async fn read(body: Body, allowed: u64) -> Result<Bytes, LokiError> {
    let limit = usize::try_from(allowed).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(LokiError::TooLarge { found: allowed, allowed })
        }
        Err(error) => Err(LokiError::Bad(format!("body of the request can't be read: {error}"))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    No,
    Gzip,
    Deflate,
    Zstd,
}

#[derive(Debug, Clone, Copy)]
struct Form {
    json: bool,
    packed: Packed,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, LokiError> {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim();
        let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let packed = match text(header::CONTENT_ENCODING).to_ascii_lowercase().as_str() {
            "" | "identity" | "snappy" => Packed::No,
            "gzip" => Packed::Gzip,
            "deflate" => Packed::Deflate,
            "zstd" => Packed::Zstd,
            other => return Err(LokiError::Bad(format!("Content-Encoding {other:?} not supported"))),
        };
        Ok(Self { json: kind == "application/json", packed })
    }
}

type Decoded = (Vec<PushEvent>, Vec<String>);

fn decode(
    body: Bytes,
    form: &Form,
    allowed: u64,
    tenant: &Tenant,
    config: &IngestConfig,
) -> Result<Decoded, LokiError> {
    let body = unpack(body, form.packed, allowed)?;
    let streams = if form.json { push_json::decode(&body)? } else { push_proto::decode(&body, allowed)? };
    if streams.is_empty() {
        return Err(LokiError::Unprocessable("error at least one valid stream is required for ingestion".to_owned()));
    }
    Ok(check(streams, tenant, config))
}

fn unpack(body: Bytes, packed: Packed, allowed: u64) -> Result<Bytes, LokiError> {
    let reader: Box<dyn std::io::Read> = match packed {
        Packed::No => return Ok(body),
        Packed::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body.as_ref())),
        Packed::Deflate => Box::new(flate2::read::DeflateDecoder::new(body.as_ref())),
        Packed::Zstd => Box::new(
            zstd::stream::read::Decoder::new(body.as_ref())
                .map_err(|e| LokiError::Bad(format!("body of the request can't be decompressed: {e}")))?,
        ),
    };
    let mut plain = Vec::new();
    reader
        .take(allowed.saturating_add(1))
        .read_to_end(&mut plain)
        .map_err(|e| LokiError::Bad(format!("body of the request can't be decompressed: {e}")))?;
    if plain.len() as u64 > allowed {
        return Err(LokiError::TooLarge { found: plain.len() as u64, allowed });
    }
    Ok(plain.into())
}

/// Valid events, and a text for each fault (the first few).
fn check(streams: Vec<PushStream>, tenant: &Tenant, config: &IngestConfig) -> Decoded {
    let mut events = Vec::new();
    let mut faults = Vec::new();
    for stream in streams {
        match stream_labels(stream.labels) {
            Err(fault) => note(&mut faults, fault),
            Ok(labels) => {
                for entry in stream.entries {
                    match check_entry(&entry, &labels, config) {
                        Err(fault) => note(&mut faults, fault),
                        Ok(time_ns) => events.push(PushEvent {
                            tenant: tenant.clone(),
                            time_ns,
                            labels: labels.clone(),
                            metadata: plain_names(entry.metadata),
                            line: entry.line,
                            doc: None,
                        }),
                    }
                }
            }
        }
    }
    (events, faults)
}

/// Names of metadata as LogQL can ask for them: other characters become `_`, a digit in front gets `key_`.
fn plain_names(metadata: Labels) -> Labels {
    if metadata.iter().all(|(name, _)| is_label_name(name)) {
        return metadata;
    }
    let plain = |name: &str| -> String {
        let mut out: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if out.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert_str(0, "key_");
        }
        out
    };
    Labels::new(metadata.iter().map(|(name, value)| (plain(name), value)))
}

fn note(faults: &mut Vec<String>, fault: String) {
    if faults.len() < NAMED_FAULTS {
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

fn check_entry(entry: &PushEntry, labels: &Labels, config: &IngestConfig) -> Result<i64, String> {
    let Some(time_ns) = entry.time_ns else {
        return Err(format!("entry for stream '{labels}' has a timestamp that is not between 1677 and 2262"));
    };
    if entry.line.len() as u64 > config.max_line.0 {
        return Err(format!(
            "max entry size '{}' bytes exceeded for stream '{labels}' while adding an entry with length '{}' bytes",
            config.max_line.0,
            entry.line.len()
        ));
    }
    let bytes: usize = entry.metadata.iter().map(|(n, v)| n.len() + v.len()).sum();
    if bytes as u64 > config.max_metadata.0 {
        return Err(format!(
            "stream '{labels}' has structured metadata too large: '{bytes}' bytes, limit: '{}' bytes. Please see \
             `ingest.max_metadata`",
            config.max_metadata.0
        ));
    }
    if entry.metadata.len() > config.max_metadata_names {
        return Err(format!(
            "stream '{labels}' has too many structured metadata labels: '{}', limit: '{}'. Please see \
             `ingest.max_metadata_names`",
            entry.metadata.len(),
            config.max_metadata_names
        ));
    }
    Ok(time_ns)
}
