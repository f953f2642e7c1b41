//! Rows of a split in compressed blocks, and the tables that say where each block lies and what is in it.
//!
//! In: rows sorted by (stream, time, source, position). Out: the same rows, block by block. Touches one file, `lines`.
//! Leaves to others: which blocks to read (`reader`), the filters that the block table points to (`words`).
//!
//! # Layout of `lines`, version 1
//! All numbers are little-endian; *varint* is LEB128 of a u64, *zigzag* a varint of a signed number, *text* a varint
//! length and that many bytes.
//!
//! | part | content |
//! |---|---|
//! | head | `MRLINES`, version u8 |
//! | block, many | columns (one zstd frame), then lines, one after the other without separators (one zstd frame) |
//! | footer | one zstd frame: stream table, block table |
//! | trailer, 32 bytes | footer length u64, its length when decompressed u64, CRC-32C of the footer u32, CRC-32C of the 20 bytes before u32, version u8, `MRLINES` |
//!
//! Columns of a block, one behind the other, each for all rows:
//! - stream: runs of (varint step from the stream before, varint rows); the first step is from the block's first stream
//! - time: zigzag step from the row before; the first from the block's oldest time
//! - length of the line: varint
//! - source: varint number of sources, 16 bytes each; then runs of (varint number of the source, varint rows)
//! - position: zigzag of offset − expected (where the source's row before ended, and a line end), varint sub-number
//! - flags: a byte (1: cut, 2: time from the line, 4: has metadata, 8: is a document)
//! - metadata of the rows that have some: varint pairs, then name text and value text of each
//! - identity of the rows that are documents: index text, id text, u8 (0: index, 1: create)
//!
//! Stream table: varint number; for each: varint pairs, name and value texts, topic text, varint rows, bytes and
//! documents, zigzag oldest and newest time. Streams are sorted by (labels, topic), their number is their place.
//! Block table: varint number; for each the fields of [`BlockEntry`] in order, at their full width.
//!
//! # Limits
//! A block ends after [`BLOCK_ROWS`] rows or [`BLOCK_BYTES`] of lines (at the end of a stream after a quarter of it), so the longest event ([`MAX_EVENT_BYTES`]) bounds
//! what one block decompresses to. Lengths are checked against these bounds before memory is taken.
//!
//! # Damage
//! Every byte is covered: head and trailer by comparison, footer and blocks by CRC-32C. What does not fit is
//! [`SplitError::Damaged`] with the file and the block; nothing is repaired, the events are read from the topic again.
//! A new layout gets a new version; readers refuse versions that they don't know.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::{DocIdentity, DocOp, Labels, Position, SourceId};

use super::error::SplitError;
use super::event::StoredEvent;
use crate::scan::StreamInfo;

/// Rows after which a block ends: more compress better, fewer cost less when one line is wanted.
pub(super) const BLOCK_ROWS: usize = 512;
/// Bytes of lines after which a block ends.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Bytes of line, metadata and identity of one event at most.
pub(super) const MAX_EVENT_BYTES: usize = 256 << 20;

const MAGIC: &[u8; 7] = b"MRLINES";
const VERSION: u8 = 1;
const HEAD_LEN: usize = 8;
const TRAILER_LEN: usize = 32;
/// What a footer may decompress to: some ten million blocks.
const MAX_FOOTER_BYTES: u64 = 1 << 30;
/// What one block's columns or lines may decompress to.
const MAX_BLOCK_RAW: usize = 2 * (BLOCK_BYTES + MAX_EVENT_BYTES);
/// Blocks of this size are no smaller at level 3 (`benches/split.rs`).
const ZSTD_LEVEL: i32 = 1;

const FLAG_CUT: u8 = 1;
const FLAG_TIME_FROM_LINE: u8 = 2;
const FLAG_METADATA: u8 = 4;
const FLAG_DOC: u8 = 8;

/// One line of the block table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct BlockEntry {
    /// Where the columns start in `lines`; the lines follow them.
    pub offset: u64,
    /// Bytes of the columns in the file.
    pub columns_len: u32,
    /// Bytes of the columns decompressed.
    pub columns_raw: u32,
    /// CRC-32C of the columns in the file.
    pub columns_crc: u32,
    /// Bytes of the lines in the file.
    pub text_len: u32,
    /// Bytes of the lines decompressed.
    pub text_raw: u32,
    /// CRC-32C of the lines in the file.
    pub text_crc: u32,
    /// Number of rows.
    pub rows: u32,
    /// Rows that are documents.
    pub documents: u32,
    /// Stream of the first row.
    pub first_stream: u32,
    /// Stream of the last row.
    pub last_stream: u32,
    /// Oldest time.
    pub min_time_ns: i64,
    /// Newest time, inclusive.
    pub max_time_ns: i64,
    /// Where the block's filter starts in `filters`.
    pub filter_offset: u64,
    /// Its bytes.
    pub filter_len: u32,
    /// Its CRC-32C.
    pub filter_crc: u32,
}

/// One line of the stream table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StreamEntry {
    pub info: StreamInfo,
    pub rows: u64,
    pub bytes: u64,
    pub documents: u64,
    pub min_time_ns: i64,
    pub max_time_ns: i64,
}

/// Collects the rows of one block.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    text: Vec<u8>,
    rows: Vec<RowHead>,
    metadata: Vec<u8>,
    docs: Vec<u8>,
    documents: u32,
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

    fn clear(&mut self) {
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

    fn encode_columns(&self, min_time_ns: i64, out: &mut Vec<u8>) {
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

/// Writes `lines`.
pub(super) struct LineStoreWriter {
    path: PathBuf,
    file: BufWriter<File>,
    offset: u64,
    blocks: Vec<BlockEntry>,
    zstd: zstd::bulk::Compressor<'static>,
    columns: Vec<u8>,
}

impl LineStoreWriter {
    pub fn create(path: &Path) -> Result<Self, SplitError> {
        let file = File::options().write(true).create_new(true).open(path).map_err(SplitError::io("creating", path))?;
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(SplitError::io("compressing", path))?;
        zstd.include_contentsize(true).map_err(SplitError::io("compressing", path))?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            offset: 0,
            blocks: Vec::new(),
            zstd,
            columns: Vec::new(),
        };
        writer.put(MAGIC)?;
        writer.put(&[VERSION])?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SplitError> {
        self.file.write_all(bytes).map_err(SplitError::io("writing", &self.path))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Writes the rows as a block and empties the builder. `filter` is (offset, length, CRC-32C) in `filters`.
    pub fn block(&mut self, block: &mut BlockBuilder, filter: (u64, u32, u32)) -> Result<(), SplitError> {
        let (Some(first), Some(last)) = (block.rows.first(), block.rows.last()) else { return Ok(()) };
        if self.blocks.len() >= u32::MAX as usize {
            return Err(SplitError::TooMany { what: "blocks", allowed: u64::from(u32::MAX) });
        }
        let (first_stream, last_stream) = (first.stream, last.stream);
        let min_time_ns = block.rows.iter().map(|r| r.time_ns).min().unwrap_or_default();
        let max_time_ns = block.rows.iter().map(|r| r.time_ns).max().unwrap_or_default();
        let mut raw = std::mem::take(&mut self.columns);
        block.encode_columns(min_time_ns, &mut raw);
        let columns = self.zstd.compress(&raw).map_err(SplitError::io("compressing", &self.path))?;
        let text = self.zstd.compress(&block.text).map_err(SplitError::io("compressing", &self.path))?;
        self.blocks.push(BlockEntry {
            offset: self.offset,
            columns_len: columns.len() as u32,
            columns_raw: raw.len() as u32,
            columns_crc: crc32c::crc32c(&columns),
            text_len: text.len() as u32,
            text_raw: block.text.len() as u32,
            text_crc: crc32c::crc32c(&text),
            rows: block.rows.len() as u32,
            documents: block.documents,
            first_stream,
            last_stream,
            min_time_ns,
            max_time_ns,
            filter_offset: filter.0,
            filter_len: filter.1,
            filter_crc: filter.2,
        });
        raw.clear();
        raw.shrink_to(BLOCK_BYTES);
        self.columns = raw;
        self.put(&columns)?;
        self.put(&text)?;
        block.clear();
        Ok(())
    }

    /// Writes tables and trailer, and syncs the file. Gives the file's length.
    pub fn finish(mut self, streams: &[StreamEntry]) -> Result<u64, SplitError> {
        let mut raw = Vec::new();
        put_varint(&mut raw, streams.len() as u64);
        for stream in streams {
            put_labels(&mut raw, &stream.info.labels);
            put_text(&mut raw, stream.info.topic.as_bytes());
            put_varint(&mut raw, stream.rows);
            put_varint(&mut raw, stream.bytes);
            put_varint(&mut raw, stream.documents);
            put_zigzag(&mut raw, stream.min_time_ns);
            put_zigzag(&mut raw, stream.max_time_ns);
        }
        put_varint(&mut raw, self.blocks.len() as u64);
        for entry in &self.blocks {
            entry.encode(&mut raw);
        }
        if raw.len() as u64 > MAX_FOOTER_BYTES {
            return Err(SplitError::TooMany { what: "bytes of tables", allowed: MAX_FOOTER_BYTES });
        }
        let footer = self.zstd.compress(&raw).map_err(SplitError::io("compressing", &self.path))?;
        let mut trailer = Vec::with_capacity(TRAILER_LEN);
        trailer.extend_from_slice(&(footer.len() as u64).to_le_bytes());
        trailer.extend_from_slice(&(raw.len() as u64).to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&footer).to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
        trailer.push(VERSION);
        trailer.extend_from_slice(MAGIC);
        self.put(&footer)?;
        self.put(&trailer)?;
        self.file.flush().map_err(SplitError::io("writing", &self.path))?;
        self.file.get_ref().sync_all().map_err(SplitError::io("syncing", &self.path))?;
        Ok(self.offset)
    }
}

impl BlockEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        for field in [self.columns_len, self.columns_raw, self.columns_crc, self.text_len, self.text_raw, self.text_crc]
        {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.rows, self.documents, self.first_stream, self.last_stream] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.min_time_ns.to_le_bytes());
        out.extend_from_slice(&self.max_time_ns.to_le_bytes());
        out.extend_from_slice(&self.filter_offset.to_le_bytes());
        out.extend_from_slice(&self.filter_len.to_le_bytes());
        out.extend_from_slice(&self.filter_crc.to_le_bytes());
    }

    fn decode(from: &mut Cursor<'_>) -> Result<Self, &'static str> {
        Ok(Self {
            offset: from.u64()?,
            columns_len: from.u32()?,
            columns_raw: from.u32()?,
            columns_crc: from.u32()?,
            text_len: from.u32()?,
            text_raw: from.u32()?,
            text_crc: from.u32()?,
            rows: from.u32()?,
            documents: from.u32()?,
            first_stream: from.u32()?,
            last_stream: from.u32()?,
            min_time_ns: from.u64()? as i64,
            max_time_ns: from.u64()? as i64,
            filter_offset: from.u64()?,
            filter_len: from.u32()?,
            filter_crc: from.u32()?,
        })
    }
}

/// An open `lines`.
#[derive(Debug)]
pub(super) struct LineStore {
    path: PathBuf,
    file: File,
    streams: Vec<StreamEntry>,
    blocks: Vec<BlockEntry>,
}

impl LineStore {
    /// Reads and checks head, trailer and tables.
    pub fn open(path: &Path) -> Result<Self, SplitError> {
        let file = File::open(path).map_err(SplitError::io("opening", path))?;
        let len = file.metadata().map_err(SplitError::io("reading", path))?.len();
        let damaged = |reason| SplitError::Damaged { path: path.to_owned(), block: None, reason };
        if len < (HEAD_LEN + TRAILER_LEN) as u64 {
            return Err(damaged("it is shorter than a head and a trailer"));
        }
        let head = read_at(&file, path, 0, HEAD_LEN)?;
        let trailer = read_at(&file, path, len - TRAILER_LEN as u64, TRAILER_LEN)?;
        if !head.starts_with(MAGIC) {
            return Err(damaged("it does not start as a file of lines"));
        }
        if !trailer.ends_with(MAGIC) {
            return Err(damaged("it does not end with a trailer"));
        }
        for version in [head[7], trailer[24]] {
            if version != VERSION {
                return Err(SplitError::Version { path: path.to_owned(), found: version.into() });
            }
        }
        let mut fields = Cursor { bytes: &trailer };
        let (footer_len, raw_len) = (fields.u64().map_err(damaged)?, fields.u64().map_err(damaged)?);
        let (footer_crc, trailer_crc) = (fields.u32().map_err(damaged)?, fields.u32().map_err(damaged)?);
        if crc32c::crc32c(&trailer[..20]) != trailer_crc {
            return Err(damaged("the checksum of its trailer does not fit"));
        }
        let footer_end = len - TRAILER_LEN as u64;
        if footer_len > footer_end - HEAD_LEN as u64 || raw_len > MAX_FOOTER_BYTES {
            return Err(damaged("its tables are longer than they can be"));
        }
        let footer = read_at(&file, path, footer_end - footer_len, footer_len as usize)?;
        if crc32c::crc32c(&footer) != footer_crc {
            return Err(damaged("the checksum of its tables does not fit"));
        }
        let raw = zstd::bulk::decompress(&footer, raw_len as usize)
            .map_err(|_| damaged("its tables can't be decompressed"))?;
        let (streams, blocks) = decode_tables(&raw, footer_end - footer_len).map_err(damaged)?;
        Ok(Self { path: path.to_owned(), file, streams, blocks })
    }

    pub fn streams(&self) -> &[StreamEntry] {
        &self.streams
    }

    pub fn blocks(&self) -> &[BlockEntry] {
        &self.blocks
    }

    /// The lines of a block.
    pub fn text(&self, number: u32, zstd: &mut zstd::bulk::Decompressor<'_>) -> Result<Vec<u8>, SplitError> {
        let block = self.block(number)?;
        let start = block.offset + u64::from(block.columns_len);
        let packed = read_at(&self.file, &self.path, start, block.text_len as usize)?;
        self.unpack(number, zstd, &packed, block.text_raw, block.text_crc)
    }

    /// The columns of a block.
    pub fn columns(&self, number: u32, zstd: &mut zstd::bulk::Decompressor<'_>) -> Result<Columns, SplitError> {
        let block = self.block(number)?;
        let packed = read_at(&self.file, &self.path, block.offset, block.columns_len as usize)?;
        let raw = self.unpack(number, zstd, &packed, block.columns_raw, block.columns_crc)?;
        Columns::decode(raw, &block, self.streams.len()).map_err(|reason| self.damaged(number, reason))
    }

    fn block(&self, number: u32) -> Result<BlockEntry, SplitError> {
        self.blocks.get(number as usize).copied().ok_or_else(|| self.damaged(number, "there is no such block"))
    }

    fn unpack(
        &self,
        number: u32,
        zstd: &mut zstd::bulk::Decompressor<'_>,
        packed: &[u8],
        raw_len: u32,
        crc: u32,
    ) -> Result<Vec<u8>, SplitError> {
        if crc32c::crc32c(packed) != crc {
            return Err(self.damaged(number, "its checksum does not fit"));
        }
        let raw =
            zstd.decompress(packed, raw_len as usize).map_err(|_| self.damaged(number, "it can't be decompressed"))?;
        if raw.len() != raw_len as usize {
            return Err(self.damaged(number, "it has another length than the table says"));
        }
        Ok(raw)
    }

    /// An error about a block.
    pub fn damaged(&self, number: u32, reason: &'static str) -> SplitError {
        SplitError::Damaged { path: self.path.clone(), block: Some(number), reason }
    }
}

/// Reads exactly `len` bytes; a file that ends before is damaged.
pub(super) fn read_at(file: &File, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, SplitError> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(|source| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            SplitError::Damaged { path: path.to_owned(), block: None, reason: "it ends before its tables say" }
        }
        _ => SplitError::Io { action: "reading", path: path.to_owned(), source },
    })?;
    Ok(bytes)
}

fn decode_tables(raw: &[u8], end: u64) -> Result<(Vec<StreamEntry>, Vec<BlockEntry>), &'static str> {
    let mut from = Cursor { bytes: raw };
    let count = from.varint()?;
    let mut streams = Vec::new();
    // A topic is shared by most streams.
    let mut topic: Arc<str> = "".into();
    for _ in 0..count {
        let labels = from.labels()?;
        let name = from.str()?;
        if *topic != *name {
            topic = name.into();
        }
        streams.push(StreamEntry {
            info: StreamInfo { labels, topic: topic.clone() },
            rows: from.varint()?,
            bytes: from.varint()?,
            documents: from.varint()?,
            min_time_ns: from.zigzag()?,
            max_time_ns: from.zigzag()?,
        });
    }
    let count = from.varint()?;
    let mut blocks = Vec::new();
    for _ in 0..count {
        let block = BlockEntry::decode(&mut from)?;
        let block_end = block.offset.checked_add(u64::from(block.columns_len) + u64::from(block.text_len));
        if block_end.is_none_or(|e| e > end) {
            return Err("a block lies outside of it");
        }
        if block.columns_raw as usize > MAX_BLOCK_RAW || block.text_raw as usize > MAX_BLOCK_RAW {
            return Err("a block is longer than it can be");
        }
        if block.first_stream > block.last_stream || block.last_stream as usize >= streams.len() {
            return Err("a block names a stream that is not in its table");
        }
        blocks.push(block);
    }
    if !from.bytes.is_empty() {
        return Err("bytes follow its tables");
    }
    Ok((streams, blocks))
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
    fn decode(raw: Vec<u8>, block: &BlockEntry, streams: usize) -> Result<Self, &'static str> {
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

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_varint(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_text(out, name.as_bytes());
        put_text(out, value.as_bytes());
    }
}

/// Reads from bytes that may be anything.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or("it ends early")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.take(4)?.first_chunk().map(|b| u32::from_le_bytes(*b)).ok_or("it ends early")
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.take(8)?.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or("it ends early")
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for (i, &byte) in self.bytes.iter().enumerate().take(10) {
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.take(i + 1)?;
                return Ok(value);
            }
        }
        Err("a number is not ended")
    }

    fn zigzag(&mut self) -> Result<i64, &'static str> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn text(&mut self) -> Result<&'a [u8], &'static str> {
        let len = usize::try_from(self.varint()?).map_err(|_| "a text is too long")?;
        self.take(len)
    }

    fn str(&mut self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.text()?).map_err(|_| "a text is not UTF-8")
    }

    fn labels(&mut self) -> Result<Labels, &'static str> {
        let count = self.varint()? as usize;
        if count > self.bytes.len() {
            return Err("it has more labels than bytes");
        }
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            pairs.push((self.str()?, self.str()?));
        }
        Ok(Labels::new(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events() -> Vec<StoredEvent> {
        let stream = |i: usize| StreamInfo { labels: Labels::new([("app", format!("a{i}"))]), topic: "logs".into() };
        let event = |i: usize| StoredEvent {
            stream: stream(i / 4),
            time_ns: [5, i64::MIN, i64::MAX, -1][i % 4],
            source: SourceId([(i % 3) as u8; 16]),
            position: Position { offset: [0, u64::MAX, 100][i % 3], sub: i as u32 },
            line: Bytes::from(vec![b'x'; i * 7]),
            metadata: if i.is_multiple_of(2) { Labels::new([("k", "v")]) } else { Labels::default() },
            doc: i
                .is_multiple_of(5)
                .then(|| Arc::new(DocIdentity { index: "i".into(), id: i.to_string(), op: DocOp::Create })),
            cut: i.is_multiple_of(3),
            time_from_line: i % 4 == 1,
        };
        (0..12).map(event).collect()
    }

    fn store(dir: &Path) -> (LineStore, PathBuf) {
        let path = dir.join("lines");
        let mut writer = LineStoreWriter::create(&path).unwrap();
        let (mut block, mut streams) = (BlockBuilder::default(), Vec::<StreamEntry>::new());
        for (i, event) in events().iter().enumerate() {
            if streams.last().is_none_or(|s| s.info != event.stream) {
                let info = event.stream.clone();
                streams.push(StreamEntry { info, rows: 4, bytes: 1, documents: 1, min_time_ns: -1, max_time_ns: 5 });
            }
            block.push(streams.len() as u32 - 1, event).unwrap();
            if i == 6 {
                writer.block(&mut block, (8, 0, 0)).unwrap();
            }
        }
        writer.block(&mut block, (8, 0, 0)).unwrap();
        assert_eq!(writer.finish(&streams).unwrap(), std::fs::metadata(&path).unwrap().len());
        let store = LineStore::open(&path).unwrap();
        assert_eq!(store.streams(), streams);
        (store, path)
    }

    fn read(store: &LineStore) -> Result<Vec<StoredEvent>, SplitError> {
        let mut zstd = zstd::bulk::Decompressor::new().unwrap();
        let mut all = Vec::new();
        for number in 0..store.blocks().len() as u32 {
            let columns = store.columns(number, &mut zstd)?;
            let text = Bytes::from(store.text(number, &mut zstd)?);
            for row in 0..columns.rows.len() as u32 {
                all.push(columns.event(row, &text, store.streams()).map_err(|r| store.damaged(number, r))?);
            }
        }
        Ok(all)
    }

    #[test]
    fn rows_come_back_with_the_extremes_of_every_column() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store(dir.path());
        assert_eq!(store.blocks().len(), 2);
        assert_eq!(read(&store).unwrap(), events());
    }

    #[test]
    fn every_changed_or_missing_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (_, path) = store(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let answer = || LineStore::open(&path).and_then(|store| read(&store));
        for (i, &byte) in whole.iter().enumerate() {
            for bit in 0..8 {
                file.write_all_at(&[byte ^ (1 << bit)], i as u64).unwrap();
                let error = answer().expect_err("changed");
                assert!(error.is_damage(), "byte {i}: {error}");
            }
            file.write_all_at(&[byte], i as u64).unwrap();
        }
        assert_eq!(answer().unwrap(), events());
        file.write_all_at(&[!whole[HEAD_LEN]], HEAD_LEN as u64).unwrap();
        let error = answer().expect_err("changed");
        for len in (0..whole.len()).rev() {
            file.set_len(len as u64).unwrap();
            let error = answer().expect_err("cut");
            assert!(error.is_damage(), "cut to {len}: {error}");
        }
        let text = error.to_string().replace(path.to_str().unwrap(), "lines");
        assert_eq!(
            text,
            "lines, block 0, is damaged: its checksum does not fit; restore the file from a copy, or remove the split \
             from the catalog and read its events from the topic again"
        );
    }

    #[test]
    fn an_event_that_is_too_long_is_refused_by_its_place() {
        let mut event = events().remove(0);
        event.line = Bytes::from(vec![0; MAX_EVENT_BYTES + 1]);
        let error = BlockBuilder::default().push(0, &event).expect_err("too long");
        assert!(matches!(error, SplitError::TooLong { allowed: MAX_EVENT_BYTES, .. }), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn decoding_anything_never_panics(
            bytes in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..300),
            rows in 0u32..20, text_raw in 0u32..100,
        ) {
            drop(decode_tables(&bytes, 1000));
            let entry = BlockEntry { rows, text_raw, ..BlockEntry::default() };
            if let Ok(columns) = Columns::decode(bytes, &entry, 3) {
                for row in 0..rows {
                    drop(columns.metadata(row));
                    drop(columns.doc(row));
                }
            }
        }

        #[test]
        fn numbers_read_back(value: u64, signed: i64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            put_zigzag(&mut bytes, signed);
            let mut from = Cursor { bytes: &bytes };
            prop_assert_eq!((from.varint(), from.zigzag(), from.bytes.len()), (Ok(value), Ok(signed), 0));
        }
    }
}
