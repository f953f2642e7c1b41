//! Splits: immutable folders that hold the events of one tenant and a stretch of time, found by stream, time and words.
//!
//! In: events ([`StoredEvent`]) that the index publishes; splits to merge. Out: [`SplitMeta`] for the catalog, and rows
//! in the order a [`super::scan::Plan`] asks for. Touches the one folder it is given, through the file-system trait
//! (`millrace_log::fs`), and is blocking throughout: call it from a thread of its own or `spawn_blocking`. Leaves to others: which splits exist and which are to be deleted
//! (catalog), which document replaces which (index), when a request is over (the plan's budget).
//!
//! # Layout of a folder
//! | file | content |
//! |---|---|
//! | `lines` | rows in blocks, sorted by (stream, time, source, position), with the tables of blocks and streams: see `line_store` |
//! | `filters` | for each block a Bloom filter of its words with digits: see `words` |
//! | `words-N/` | Tantivy indices whose documents are blocks and whose terms are the other words: see `words` |
//! | `split.json` | [`SplitMeta`], then size and CRC-32C of every other file: written last, so a folder without it is garbage |
//!
//! Everything is fsynced, the folders too, before a write returns. A split is never changed. The version in
//! `split.json` covers all files: a reader refuses versions that it does not know and never guesses.
//!
//! # Measured
//! `benches/split.rs`, 200 MB of real lines with varied numbers in 160 streams, one thread, release: 100 MB per
//! CPU-second to write, as much to merge; 0.23 of the lines' bytes on disk (lines 0.18, filters 0.05, words 0.003).
//! A rare word, a part of one, or a pasted id 2 to 4 ms; the newest 100 lines 0.4 ms; three digits, for which every line
//! is looked at, 170 ms; all rows in order of time 0.4 s.

/// Version of the format.
mod version;
/// Errors of splits.
mod error;
/// One event as a split keeps it.
mod event;
/// Description of a split for the catalog, and the list of its files.
mod meta;
/// Numbers and texts as bytes.
mod encoding;
/// Tables of blocks and streams.
mod tables;
/// The rows of one block.
mod columns;
/// Rows in compressed blocks.
mod line_store;
/// Words of lines.
mod tokens;
/// The words of one block.
mod block_words;
/// Texts that wanted lines contain.
mod needles;
/// A folder of Tantivy over the file-system trait.
mod words_directory;
/// Which blocks may hold a text.
mod words;
/// Sorts events and writes a split.
mod writer;
/// An open split.
mod reader;
/// Which blocks a plan needs, and the rows found in one.
mod blocks;
/// Rows in the order of a plan.
mod scan;
/// What rows add up to.
mod count;
/// Joins splits, leaving rows out where asked.
mod merge;
#[cfg(test)]
mod tests;

pub use count::CountError;
pub use error::SplitError;
pub use event::StoredEvent;
pub use merge::merge;
pub use meta::{MAX_META_STREAMS, SplitMeta, StreamMeta};
pub use reader::SplitReader;
pub use scan::SplitScan;
pub use version::FORMAT_VERSION;
pub use writer::SplitWriter;

pub use crate::scan::StreamInfo;
