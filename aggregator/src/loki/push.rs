//! `POST /loki/api/v1/push`: streams of entries in JSON or protobuf, answered with 204 when the log has them.
//!
//! In: a body, maybe compressed (`gzip`, `deflate`, `zstd`; protobuf is snappy by itself). Out: events for
//! [`crate::ingest`]. What is valid goes in; if something isn't, the answer is 400 with Loki's text for it, as Loki does.
//! Touches nothing itself. Leaves decoding to [`millrace_log::push`], which the agent's door shares.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::BytesMut;
use http_body_util::{BodyExt as _, Limited};
use millrace_log::push::loki::{self, EntryLimits, Form};
use millrace_log::push::{Packed, PushError, Reserved};
use millrace_log::record::Tenant;

use super::error::LokiError;
use super::state::{Scoped, Whose};
use crate::ingest::{IngestConfig, PushEvent};

/// Bodies above this are decoded on a blocking thread.
const DECODE_INLINE: usize = 32 << 10;

pub(super) async fn push(
    Scoped(state): Scoped,
    Whose(tenant): Whose,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, LokiError> {
    // Held until the log has the events that are made of it.
    let mut memory = state.limits.budget.begin();
    let body = read(body, state.limits.max_body, &mut memory).await?;
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let form = Form::of(text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING))?;
    let (allowed, config) = (state.limits.max_body_decompressed, state.ingest.config().clone());
    let (events, faults, _memory) = if body.len() <= DECODE_INLINE && form.packed == Packed::No {
        decode(body, &form, allowed, memory, &tenant, &config)?
    } else {
        tokio::task::spawn_blocking(move || decode(body, &form, allowed, memory, &tenant, &config))
            .await
            .map_err(|_| LokiError::Stopping)??
    };
    state.ingest.append(events).await?;
    match faults.is_empty() {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(LokiError::Bad(faults.join("\n"))),
    }
}

async fn read(body: Body, allowed: u64, memory: &mut Reserved) -> Result<Bytes, LokiError> {
    let limit = usize::try_from(allowed).unwrap_or(usize::MAX);
    let mut body = Limited::new(body, limit);
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(data) = frame.into_data() else { continue };
                memory.grow(data.len() as u64)?;
                read.extend_from_slice(&data);
            }
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(LokiError::TooLarge { found: allowed, allowed });
            }
            Err(error) => return Err(LokiError::Bad(format!("body of the request can't be read: {error}"))),
        }
    }
    Ok(read.freeze())
}

type Decoded = (Vec<PushEvent>, Vec<String>, Reserved);

/// Valid events, and a text for each fault (the first few).
fn decode(
    body: Bytes,
    form: &Form,
    allowed: u64,
    mut memory: Reserved,
    tenant: &Tenant,
    config: &IngestConfig,
) -> Result<Decoded, LokiError> {
    let limits = EntryLimits {
        max_line: config.max_line.0,
        max_metadata: config.max_metadata.0,
        max_metadata_names: config.max_metadata_names,
    };
    let mut events = Vec::new();
    let faults = loki::check(loki::decode(body, form, allowed, &mut memory)?, &limits, |labels, entry| {
        events.push(PushEvent {
            tenant: tenant.clone(),
            time_ns: entry.time_ns,
            labels: labels.clone(),
            metadata: entry.metadata,
            line: entry.line,
            doc: None,
        });
        Ok(())
    });
    Ok((events, faults, memory))
}

impl From<PushError> for LokiError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Bad(text) => Self::Bad(text),
            PushError::Empty(text) => Self::Unprocessable(text),
            PushError::TooLarge { found, allowed } => Self::TooLarge { found, allowed },
            error @ (PushError::Costly { .. } | PushError::Busy { .. }) => Self::Decode(error),
        }
    }
}
