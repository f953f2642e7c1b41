//! An open split: its tables, its streams, its word index when it is first asked for.
//!
//! In: a folder. Out: streams with their sizes; blocks for scans and counts. Touches the split's folder, for reading.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::fs::Filesystem;
use millrace_logql::storage::Stats;
use parking_lot::Mutex;

use super::error::SplitError;
use super::line_store::LineStore;
use super::meta::{Manifest, SplitMeta};
use super::tables::StreamEntry;
use super::words::Words;
use crate::rows::stream_matches;
use crate::scan::{Kind, Plan, StreamInfo};

/// An open split. Cheap to clone. The folder must stay until the last clone and scan are gone: the word index is opened
/// when it is first asked for.
#[derive(Clone)]
pub struct SplitReader {
    inner: Arc<Inner>,
}

struct Inner {
    fs: Arc<dyn Filesystem>,
    dir: PathBuf,
    manifest: Manifest,
    lines: LineStore,
    words: Mutex<Option<Arc<Words>>>,
}

impl std::fmt::Debug for SplitReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitReader").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl SplitReader {
    /// Opens a folder: checks versions, the lengths of all files and the tables of blocks and streams. Blocks and word
    /// index are checked when they are read.
    pub fn open(fs: &Arc<dyn Filesystem>, dir: &Path) -> Result<Self, SplitError> {
        Self::open_sharing(fs, dir, std::iter::empty())
    }

    /// The same; the label sets of its first streams, which are known, are shared and not held once more.
    pub fn open_sharing<'s>(
        fs: &Arc<dyn Filesystem>,
        dir: &Path,
        known: impl Iterator<Item = &'s StreamInfo>,
    ) -> Result<Self, SplitError> {
        let manifest = Manifest::read(&**fs, dir)?;
        let mut lines = LineStore::open(&**fs, &dir.join("lines"))?;
        lines.share(known);
        let (fs, dir, words) = (Arc::clone(fs), dir.to_owned(), Mutex::new(None));
        Ok(Self { inner: Arc::new(Inner { fs, dir, manifest, lines, words }) })
    }

    /// What the writer said of it.
    pub fn meta(&self) -> &SplitMeta {
        &self.inner.manifest.meta
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Streams that match and whose time range in this split meets the plan's, with their sizes in the whole split.
    /// Needles are not looked at.
    pub fn streams(&self, plan: &Plan) -> Vec<(StreamInfo, Stats)> {
        let wanted = self.wanted_streams(plan);
        let streams = self.inner.lines.streams().iter().zip(wanted).filter(|(_, wanted)| *wanted);
        streams
            .map(|(stream, _)| {
                let stats = Stats { streams: 1, chunks: 1, bytes: stream.bytes, entries: stream.rows };
                (stream.info.clone(), stats)
            })
            .collect()
    }

    /// All streams with their sizes.
    pub fn all_streams(&self) -> impl Iterator<Item = (&StreamInfo, Stats)> {
        self.inner
            .lines
            .streams()
            .iter()
            .map(|stream| (&stream.info, Stats { streams: 1, chunks: 1, bytes: stream.bytes, entries: stream.rows }))
    }

    /// Reads every file and compares checksums (`doctor`).
    pub fn verify(&self) -> Result<(), SplitError> {
        self.inner.manifest.verify(&*self.inner.fs, &self.inner.dir, |_| true)
    }

    pub(super) fn lines(&self) -> &LineStore {
        &self.inner.lines
    }

    /// Which streams a plan asks for, by number.
    pub(super) fn wanted_streams(&self, plan: &Plan) -> Vec<bool> {
        let ours = self.meta().belongs_to(&plan.tenant);
        let wanted = |stream: &StreamEntry| {
            let kind = match plan.kind {
                Kind::All => true,
                Kind::Lines => stream.documents < stream.rows,
                Kind::Documents => stream.documents > 0,
            };
            ours && kind
                && stream.min_time_ns < plan.end_ns
                && stream.max_time_ns >= plan.start_ns
                && stream_matches(&plan.matchers, &stream.info.labels)
        };
        self.inner.lines.streams().iter().map(wanted).collect()
    }

    /// The word index: its files are compared with their checksums the first time, since Tantivy trusts what it reads.
    pub(super) fn words(&self) -> Result<Arc<Words>, SplitError> {
        let mut words = self.inner.words.lock();
        if let Some(words) = words.as_ref() {
            return Ok(words.clone());
        }
        let Inner { fs, dir, manifest, .. } = &*self.inner;
        manifest.verify(&**fs, dir, |path| path.starts_with("words-"))?;
        let opened = Arc::new(Words::open(fs, dir, manifest.word_folders)?);
        Ok(words.insert(opened).clone())
    }
}
