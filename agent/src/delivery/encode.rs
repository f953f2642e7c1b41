//! Encodes records straight from the bytes that were read, or from what transforms made of them.
//!
//! In: [`Outgoing`] and the indices of those to encode. Out: a record batch. Touches nothing. This is the agent's hottest
//! loop: nothing is allocated for a record, and each line is copied once.

use bytes::Bytes;
use millrace_log::native::encode::{HeaderRef, Records};
use millrace_log::record::{
    CONTENT_JSON, Fixed, HEADER_CONTENT_TYPE, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT, Labels,
    Position, kafka_timestamp_ms,
};

use super::outgoing::Outgoing;
use crate::batch::{Identity, SourceBatch};
use crate::split::is_invalid_utf8;
use crate::transform::{Content, Transformed};

/// Records encoded between two chances for other tasks.
const YIELD_EVERY: usize = 1000;
/// Bytes of a record besides its line, about: key, labels, the fixed header, lengths.
const RECORD_OVERHEAD: usize = 256;
/// Headers of a record at most.
const MAX_HEADERS: usize = 5;
/// Metadata of a line that was cut at `max_line_bytes`: readers that don't know our header see it, too.
const META_TRUNCATED: (&str, &str) = ("truncated", "true");
/// Header `meta` of a line that is not UTF-8: the log keeps its bytes, readers show U+FFFD.
const META_INVALID: &[u8] = br#"{"encoding":"invalid"}"#;

/// Encodes the records at `indices` into the memory of `records`, under the ids that their sources have now.
pub(super) async fn encode(outgoing: &Outgoing, indices: &[u32], mut records: Records) -> Records {
    let size = |index: &u32| {
        let (batch, piece) = outgoing.record(*index);
        let more = match outgoing.transformed(*index) {
            Some(transformed) => transformed.size(),
            None => batch.meta(piece).map_or(0, Bytes::len),
        };
        batch.pieces[piece].len as usize + more + RECORD_OVERHEAD
    };
    records.reserve(indices.iter().map(size).sum(), indices.len());
    let mut current: Option<(usize, Identity)> = None;
    for (n, index) in indices.iter().enumerate() {
        let (batch, piece) = outgoing.record(*index);
        let number = outgoing.batch_index(*index);
        let identity = match &current {
            Some((of, identity)) if *of == number => identity,
            _ => &current.insert((number, batch.source.identity())).1,
        };
        push(&mut records, batch, piece, outgoing.transformed(*index), identity);
        if n % YIELD_EVERY == YIELD_EVERY - 1 {
            tokio::task::yield_now().await;
        }
    }
    records
}

fn push(
    records: &mut Records,
    batch: &SourceBatch,
    piece: usize,
    transformed: Option<&Transformed>,
    identity: &Identity,
) {
    let line = batch.line(piece);
    let cut = batch.pieces[piece].cut;
    let (mut time_ns, mut time_from_line) = batch.time_ns(piece);
    let mut labels: &[u8] = batch.labels(piece);
    let (mut value, mut json) = (line, false);
    let meta: Option<&[u8]> = match transformed {
        None => batch.meta(piece).map(|meta| &meta[..]),
        Some(transformed) => {
            if let Some(found) = transformed.time_ns {
                (time_ns, time_from_line) = (found, true);
            }
            if let Some(changed) = &transformed.labels {
                labels = changed;
            }
            if let Content::Text(bytes) | Content::Json(bytes) = &transformed.content {
                value = bytes;
                json = matches!(transformed.content, Content::Json(_));
            }
            transformed.meta.as_deref()
        }
    };
    let as_read = transformed.is_none_or(|transformed| transformed.content == Content::Line);
    let meta = meta.or_else(|| (as_read && is_invalid_utf8(line, cut)).then_some(META_INVALID));
    let marked = cut.then(|| truncated(meta));
    let meta = marked.as_deref().or(meta);
    let position = Position::at(batch.position(piece));
    let fixed = Fixed { time_ns, source: identity.id, position, cut, time_from_line }.encode();
    let mut headers: [HeaderRef<'_>; MAX_HEADERS] = [(HEADER_LABELS.as_bytes(), labels); MAX_HEADERS];
    let mut count = 1;
    let mut add = |name: &'static str, value| {
        headers[count] = (name.as_bytes(), value);
        count += 1;
    };
    if let Some(meta) = meta {
        add(HEADER_META, meta);
    }
    if let Some(tenant) = &batch.tenant {
        add(HEADER_TENANT, &tenant[..]);
    }
    if json {
        add(HEADER_CONTENT_TYPE, CONTENT_JSON.as_bytes());
    }
    add(HEADER_FIXED, &fixed[..]);
    let time_ms = kafka_timestamp_ms(time_ns, batch.read_ns.div_euclid(1_000_000));
    records.push(time_ms, Some(&identity.key), Some(value), &headers[..count]);
}

/// Metadata with the mark of a cut line; few lines are that long.
fn truncated(meta: Option<&[u8]>) -> Vec<u8> {
    let meta = meta.and_then(|meta| Labels::from_json(meta).ok()).unwrap_or_default();
    Labels::new(meta.iter().chain([META_TRUNCATED])).to_json().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_cut_line_stands_beside_other_metadata() {
        for (meta, want) in [
            (None, r#"{"truncated":"true"}"#),
            (Some(META_INVALID), r#"{"encoding":"invalid","truncated":"true"}"#),
            (Some(&br#"{"truncated":"no","user":"1"}"#[..]), r#"{"truncated":"true","user":"1"}"#),
        ] {
            assert_eq!(truncated(meta), want.as_bytes(), "{meta:?}");
        }
    }
}
