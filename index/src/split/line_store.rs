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
//! A block ends after `BLOCK_ROWS` rows or [`BLOCK_BYTES`] of lines (at the end of a stream after a quarter of it), so the longest event (`MAX_EVENT_BYTES`) bounds
//! what one block decompresses to. Lengths are checked against these bounds before memory is taken.
//!
//! # Damage
//! Every byte is covered: head and trailer by comparison, footer and blocks by CRC-32C. What does not fit is
//! [`SplitError::Damaged`] with the file and the block; nothing is repaired, the events are read from the topic again.
//! A new layout gets a new version; readers refuse versions that they don't know.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::fs::{File, FileWriter, Filesystem};

use super::columns::{BlockBuilder, Columns};
use super::encoding::Cursor;
use super::error::SplitError;
use super::tables::{BLOCK_BYTES, BlockEntry, StreamEntry, decode_tables, encode_tables};
use crate::scan::StreamInfo;

const MAGIC: &[u8; 7] = b"MRLINES";
const VERSION: u8 = 1;
const HEAD_LEN: usize = 8;
const TRAILER_LEN: usize = 32;
/// What a footer may decompress to: some ten million blocks.
const MAX_FOOTER_BYTES: u64 = 1 << 30;
/// Blocks of this size are no smaller at level 3 (`benches/split.rs`).
const ZSTD_LEVEL: i32 = 1;

/// Writes `lines`.
pub(super) struct LineStoreWriter {
    path: PathBuf,
    file: BufWriter<FileWriter>,
    offset: u64,
    blocks: Vec<BlockEntry>,
    zstd: zstd::bulk::Compressor<'static>,
    columns: Vec<u8>,
}

impl LineStoreWriter {
    pub fn create(fs: &dyn Filesystem, path: &Path) -> Result<Self, SplitError> {
        let file = fs.create_new(path).map_err(SplitError::io("creating", path))?;
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(SplitError::io("compressing", path))?;
        zstd.include_contentsize(true).map_err(SplitError::io("compressing", path))?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, FileWriter::new(file)),
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
        let raw = encode_tables(streams, &self.blocks);
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
        self.file.get_ref().file().sync_data().map_err(SplitError::io("syncing", &self.path))?;
        Ok(self.offset)
    }
}

/// An open `lines`.
pub(super) struct LineStore {
    path: PathBuf,
    file: Arc<dyn File>,
    streams: Vec<StreamEntry>,
    blocks: Vec<BlockEntry>,
}

impl std::fmt::Debug for LineStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LineStore {
    /// Reads and checks head, trailer and tables.
    pub fn open(fs: &dyn Filesystem, path: &Path) -> Result<Self, SplitError> {
        let file = fs.open_read(path).map_err(SplitError::io("opening", path))?;
        let len = file.len().map_err(SplitError::io("reading", path))?;
        let damaged = |reason| SplitError::Damaged { path: path.to_owned(), block: None, reason };
        if len < (HEAD_LEN + TRAILER_LEN) as u64 {
            return Err(damaged("it is shorter than a head and a trailer"));
        }
        let head = read_at(&*file, path, 0, HEAD_LEN)?;
        let trailer = read_at(&*file, path, len - TRAILER_LEN as u64, TRAILER_LEN)?;
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
        let footer = read_at(&*file, path, footer_end - footer_len, footer_len as usize)?;
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

    /// Takes streams that are known, in the order of the table, in place of its own copies.
    pub fn share<'s>(&mut self, known: impl Iterator<Item = &'s StreamInfo>) {
        for (own, known) in self.streams.iter_mut().zip(known) {
            if own.info == *known {
                own.info = known.clone();
            }
        }
    }

    pub fn blocks(&self) -> &[BlockEntry] {
        &self.blocks
    }

    /// The lines of a block.
    pub fn text(&self, number: u32, zstd: &mut zstd::bulk::Decompressor<'_>) -> Result<Vec<u8>, SplitError> {
        let block = self.block(number)?;
        let start = block.offset + u64::from(block.columns_len);
        let packed = read_at(&*self.file, &self.path, start, block.text_len as usize)?;
        self.unpack(number, zstd, &packed, block.text_raw, block.text_crc)
    }

    /// The columns of a block.
    pub fn columns(&self, number: u32, zstd: &mut zstd::bulk::Decompressor<'_>) -> Result<Columns, SplitError> {
        let block = self.block(number)?;
        let packed = read_at(&*self.file, &self.path, block.offset, block.columns_len as usize)?;
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
pub(super) fn read_at(file: &dyn File, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, SplitError> {
    let mut bytes = vec![0; len];
    if file.read_at(offset, &mut bytes).map_err(SplitError::io("reading", path))? < len {
        let reason = "it ends before its tables say";
        return Err(SplitError::Damaged { path: path.to_owned(), block: None, reason });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::split::event::StoredEvent;
    use bytes::Bytes;
    use millrace_log::fs::RealFs;
    use millrace_log::record::{DocIdentity, DocOp, Labels, Position, SourceId};
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
        let mut writer = LineStoreWriter::create(&RealFs, &path).unwrap();
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
        let store = LineStore::open(&RealFs, &path).unwrap();
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
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let answer = || LineStore::open(&RealFs, &path).and_then(|store| read(&store));
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
    }
}
