//! One block: its rows as they are collected, and their columns as bytes. See `line_store` for the layout.
//!
//! In: events of a split in its order. Out: bytes; rows from bytes that may be anything. Touches nothing.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::{DocIdentity, DocOp, Labels, Position, SourceId};

use super::encoding::{Cursor, put_labels, put_text, put_varint, put_zigzag};
use super::error::SplitError;
use super::event::StoredEvent;
use super::tables::{BLOCK_BYTES, BlockEntry, MAX_EVENT_BYTES, StreamEntry};

/// Rows after which a block ends: more compress better, fewer cost less when one line is wanted.
pub(super) const BLOCK_ROWS: usize = 512;

const FLAG_CUT: u8 = 1;
const FLAG_TIME_FROM_LINE: u8 = 2;
const FLAG_METADATA: u8 = 4;
const FLAG_DOC: u8 = 8;

/// Collects the rows of one block.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    pub text: Vec<u8>,
    pub rows: Vec<RowHead>,
    metadata: Vec<u8>,
    docs: Vec<u8>,
    pub documents: u32,
}

/// The fixed part of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowHead {
    pub stream: u32,
    pub time_ns: i64,
    /// Bytes of the line in the block's text.
    pub line: Range<u32>,
    pub source: SourceId,
    pub position: Position,
    flags: u8,
}

impl RowHead {
    pub fn is_document(&self) -> bool {
        self.flags & FLAG_DOC != 0
    }

    pub fn key(&self) -> (i64, SourceId, Position) {
        (self.time_ns, self.source, self.position)
    }
}

impl BlockBuilder {
    /// Adds a row; its stream must not be before that of the last row.
    pub fn push(&mut self, stream: u32, event: &StoredEvent) -> Result<(), SplitError> {
        let extra: usize = event.metadata.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
            + event.doc.as_ref().map_or(0, |d| d.index.len() + d.id.len());
        if event.line.len().saturating_add(extra) > MAX_EVENT_BYTES {
            return Err(SplitError::TooLong {
                bytes: event.line.len() + extra,
                allowed: MAX_EVENT_BYTES,
                source_id: event.source,
                position: event.position,
            });
        }
        let mut flags = 0;
        if event.cut {
            flags |= FLAG_CUT;
        }
        if event.time_from_line {
            flags |= FLAG_TIME_FROM_LINE;
        }
        if !event.metadata.is_empty() {
            flags |= FLAG_METADATA;
            put_labels(&mut self.metadata, &event.metadata);
        }
        if let Some(doc) = &event.doc {
            flags |= FLAG_DOC;
            self.documents += 1;
            put_text(&mut self.docs, doc.index.as_bytes());
            put_text(&mut self.docs, doc.id.as_bytes());
            self.docs.push(match doc.op {
                DocOp::Index => 0,
                DocOp::Create => 1,
            });
        }
        let start = self.text.len() as u32;
        self.text.extend_from_slice(&event.line);
        self.rows.push(RowHead {
            stream,
            time_ns: event.time_ns,
            line: start..self.text.len() as u32,
            source: event.source,
            position: event.position,
            flags,
        });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the block is to be ended before the next row.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= BLOCK_ROWS
            || self.text.len() >= BLOCK_BYTES
            || self.metadata.len() + self.docs.len() >= BLOCK_BYTES
    }

    /// Whether the block is worth ending where its stream ends: a block of one stream is left out more often, by its
    /// stream and by its time.
    pub fn is_worth_ending(&self) -> bool {
        self.rows.len() >= BLOCK_ROWS / 4 || self.text.len() >= BLOCK_BYTES / 4
    }

    /// Makes it empty.
    pub fn clear(&mut self) {
        self.text.clear();
        self.rows.clear();
        self.metadata.clear();
        self.docs.clear();
        self.documents = 0;
        // One huge line must not keep its memory for the rest of the split.
        self.text.shrink_to(2 * BLOCK_BYTES);
        self.metadata.shrink_to(BLOCK_BYTES);
        self.docs.shrink_to(BLOCK_BYTES);
    }

    /// The columns as bytes.
    pub fn encode_columns(&self, min_time_ns: i64, out: &mut Vec<u8>) {
        out.clear();
        let rows = &self.rows;
        let mut stream = rows.first().map_or(0, |r| r.stream);
        for run in rows.chunk_by(|a, b| a.stream == b.stream) {
            put_varint(out, u64::from(run[0].stream - stream));
            put_varint(out, run.len() as u64);
            stream = run[0].stream;
        }
        let mut time = min_time_ns;
        for row in rows {
            put_zigzag(out, row.time_ns.wrapping_sub(time));
            time = row.time_ns;
        }
        for row in rows {
            put_varint(out, u64::from(row.line.end - row.line.start));
        }
        let mut numbers: HashMap<SourceId, usize> = HashMap::new();
        let mut sources: Vec<SourceId> = Vec::new();
        let mut numbered = Vec::with_capacity(rows.len());
        for run in rows.chunk_by(|a, b| a.source == b.source) {
            let number = *numbers.entry(run[0].source).or_insert_with(|| {
                sources.push(run[0].source);
                sources.len() - 1
            });
            numbered.push((number, run.len()));
        }
        put_varint(out, sources.len() as u64);
        for source in &sources {
            out.extend_from_slice(&source.0);
        }
        for &(number, count) in &numbered {
            put_varint(out, number as u64);
            put_varint(out, count as u64);
        }
        let mut expected = vec![0u64; sources.len()];
        let mut rest = rows.iter();
        for &(number, count) in &numbered {
            for row in rest.by_ref().take(count) {
                put_zigzag(out, row.position.offset.wrapping_sub(expected[number]) as i64);
                put_varint(out, u64::from(row.position.sub));
                expected[number] = end_of(row);
            }
        }
        out.extend(rows.iter().map(|r| r.flags));
        out.extend_from_slice(&self.metadata);
        out.extend_from_slice(&self.docs);
    }
}

/// Where a source's next line would start if nothing lies between: after the line and one line end.
fn end_of(row: &RowHead) -> u64 {
    row.position.offset.wrapping_add(u64::from(row.line.end - row.line.start)).wrapping_add(1)
}

/// Decoded columns of a block. Metadata and identities are read row by row when asked for.
#[derive(Debug)]
pub(super) struct Columns {
    pub rows: Vec<RowHead>,
    raw: Vec<u8>,
    /// Place in `raw` of metadata and identity of the rows that have one, by row.
    metadata: Vec<(u32, u32)>,
    docs: Vec<(u32, u32)>,
}

impl Columns {
    /// Reads the columns of a block from bytes that may be anything.
    pub fn decode(raw: Vec<u8>, block: &BlockEntry, streams: usize) -> Result<Self, &'static str> {
        let count = block.rows as usize;
        // Each row takes five bytes at least.
        if count > raw.len() {
            return Err("it has more rows than bytes");
        }
        let mut from = Cursor { bytes: &raw };
        let blank = RowHead {
            stream: 0,
            time_ns: 0,
            line: 0..0,
            source: SourceId([0; 16]),
            position: Position::default(),
            flags: 0,
        };
        let mut rows = vec![blank; count];

        let mut stream = u64::from(block.first_stream);
        let mut left = rows.as_mut_slice();
        while !left.is_empty() {
            stream = stream.checked_add(from.varint()?).ok_or("a stream is out of range")?;
            if stream >= streams as u64 {
                return Err("a stream is out of range");
            }
            let (run, rest) = left.split_at_mut_checked(from.varint()? as usize).ok_or("a run is too long")?;
            if run.is_empty() {
                return Err("a run is empty");
            }
            run.iter_mut().for_each(|row| row.stream = stream as u32);
            left = rest;
        }
        let mut time = block.min_time_ns;
        for row in &mut rows {
            time = time.wrapping_add(from.zigzag()?);
            row.time_ns = time;
        }
        let mut end = 0u32;
        for row in &mut rows {
            let len = u32::try_from(from.varint()?).map_err(|_| "a line is too long")?;
            let start = end;
            end = start.checked_add(len).ok_or("its lines are too long")?;
            row.line = start..end;
        }
        if end != block.text_raw {
            return Err("its lines have another length than the table says");
        }
        let known = from.varint()? as usize;
        if known > count {
            return Err("it has more sources than rows");
        }
        let mut sources = Vec::with_capacity(known);
        for _ in 0..known {
            let id = from.take(16)?.first_chunk::<16>().ok_or("it ends early")?;
            sources.push((SourceId(*id), 0u64));
        }
        let mut numbered: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        while at < count {
            let (number, run) = (from.varint()? as usize, from.varint()? as usize);
            if number >= known || run == 0 || run > count - at {
                return Err("a run of sources is out of range");
            }
            numbered.push((number, run));
            at += run;
        }
        let mut rest = rows.iter_mut();
        for (number, run) in numbered {
            let Some((source, expected)) = sources.get_mut(number) else { return Err("a source is out of range") };
            for row in rest.by_ref().take(run) {
                let offset = expected.wrapping_add(from.zigzag()? as u64);
                let sub = u32::try_from(from.varint()?).map_err(|_| "a sub-number is too large")?;
                row.source = *source;
                row.position = Position { offset, sub };
                *expected = end_of(row);
            }
        }
        for (row, &flags) in rows.iter_mut().zip(from.take(count)?) {
            row.flags = flags;
        }
        let (mut metadata, mut docs) = (Vec::new(), Vec::new());
        for (number, _) in rows.iter().enumerate().filter(|(_, r)| r.flags & FLAG_METADATA != 0) {
            metadata.push((number as u32, (raw.len() - from.bytes.len()) as u32));
            for _ in 0..from.varint()?.saturating_mul(2) {
                from.text()?;
            }
        }
        for (number, _) in rows.iter().enumerate().filter(|(_, r)| r.flags & FLAG_DOC != 0) {
            docs.push((number as u32, (raw.len() - from.bytes.len()) as u32));
            from.text()?;
            from.text()?;
            from.take(1)?;
        }
        if !from.bytes.is_empty() {
            return Err("bytes follow its columns");
        }
        Ok(Self { rows, raw, metadata, docs })
    }

    /// Bytes that it keeps in memory, roughly.
    pub fn bytes(&self) -> usize {
        self.raw.len() + size_of_val(self.rows.as_slice())
    }

    /// Structured metadata of a row.
    pub fn metadata(&self, row: u32) -> Result<Option<Labels>, &'static str> {
        self.extra(&self.metadata, row).map(|mut from| from.labels()).transpose()
    }

    /// Identity of a row that is a document.
    pub fn doc(&self, row: u32) -> Result<Option<Arc<DocIdentity>>, &'static str> {
        let Some(mut from) = self.extra(&self.docs, row) else { return Ok(None) };
        let (index, id) = (from.str()?.to_owned(), from.str()?.to_owned());
        let op = match from.take(1)? {
            [0] => DocOp::Index,
            [1] => DocOp::Create,
            _ => return Err("a document came in an unknown way"),
        };
        Ok(Some(Arc::new(DocIdentity { index, id, op })))
    }

    fn extra(&self, places: &[(u32, u32)], row: u32) -> Option<Cursor<'_>> {
        let found = places.binary_search_by_key(&row, |&(number, _)| number).ok()?;
        let &(_, start) = places.get(found)?;
        Some(Cursor { bytes: self.raw.get(start as usize..)? })
    }

    /// A row as it was written. `text` holds the block's lines.
    pub fn event(&self, number: u32, text: &Bytes, streams: &[StreamEntry]) -> Result<StoredEvent, &'static str> {
        let row = self.rows.get(number as usize).ok_or("there is no such row")?;
        let range = row.line.start as usize..row.line.end as usize;
        if range.end > text.len() {
            return Err("a line lies outside of it");
        }
        let stream = streams.get(row.stream as usize).ok_or("a stream is out of range")?;
        Ok(StoredEvent {
            stream: stream.info.clone(),
            time_ns: row.time_ns,
            source: row.source,
            position: row.position,
            line: text.slice(range),
            metadata: self.metadata(number)?.unwrap_or_default(),
            doc: self.doc(number)?,
            cut: row.flags & FLAG_CUT != 0,
            time_from_line: row.flags & FLAG_TIME_FROM_LINE != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::StreamInfo;

    #[test]
    fn an_event_that_is_too_long_is_refused_by_its_place() {
        let event = StoredEvent {
            stream: StreamInfo { labels: Labels::default(), topic: "logs".into() },
            time_ns: 0,
            source: SourceId([0; 16]),
            position: Position::default(),
            line: Bytes::from(vec![0; MAX_EVENT_BYTES + 1]),
            metadata: Labels::default(),
            doc: None,
            cut: false,
            time_from_line: false,
        };
        let error = BlockBuilder::default().push(0, &event).expect_err("too long");
        assert!(matches!(error, SplitError::TooLong { allowed: MAX_EVENT_BYTES, .. }), "{error}");
    }
}
