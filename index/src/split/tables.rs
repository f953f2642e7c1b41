//! The tables of blocks and streams at the end of `lines`: see `line_store` for their layout.
//!
//! In: entries. Out: bytes, and back from bytes that may be anything. Touches nothing.

use std::sync::Arc;

use super::encoding::{Cursor, put_labels, put_text, put_varint, put_zigzag};
use crate::scan::StreamInfo;

/// Bytes of lines after which a block ends.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Bytes of line, metadata and identity of one event at most.
pub(super) const MAX_EVENT_BYTES: usize = 256 << 20;
/// What one block's columns or lines may decompress to.
const MAX_BLOCK_RAW: usize = 2 * (BLOCK_BYTES + MAX_EVENT_BYTES);

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

/// Both tables as bytes.
pub(super) fn encode_tables(streams: &[StreamEntry], blocks: &[BlockEntry]) -> Vec<u8> {
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
    put_varint(&mut raw, blocks.len() as u64);
    for entry in blocks {
        entry.encode(&mut raw);
    }
    raw
}

/// Reads both; blocks lie before `end`.
pub(super) fn decode_tables(raw: &[u8], end: u64) -> Result<(Vec<StreamEntry>, Vec<BlockEntry>), &'static str> {
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
