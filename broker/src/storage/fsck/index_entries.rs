//! Entries of an index file, compared with the batches of its segment.
//!
//! In: an index file, batches as they come by. Out: whether the entries fit. Touches the file, reading only.

use std::io;
use std::path::Path;

use crate::storage::index::IndexEntry;
use millrace_log::fs::{self, Filesystem};

/// The entries of an index file, compared with the batches as they come by.
pub(super) struct IndexEntries<E> {
    entries: std::iter::Peekable<std::vec::IntoIter<E>>,
    pub(super) fault: Option<&'static str>,
}

impl<E: IndexEntry> IndexEntries<E> {
    pub(super) fn read(fs: &dyn Filesystem, path: &Path) -> Self {
        let (bytes, mut fault) = match fs::read_all(fs, path) {
            Ok(bytes) => (bytes, None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Vec::new(), Some("is missing")),
            Err(_) => (Vec::new(), Some("can't be read")),
        };
        let chunks = bytes.chunks_exact(E::SIZE);
        if !chunks.remainder().is_empty() {
            fault = Some("ends within an entry");
        }
        let entries: Vec<E> = chunks.filter_map(E::read).collect();
        if !entries.is_sorted_by(|before, after| after.follows(before)) {
            fault = Some("has entries that are not ascending");
        }
        Self { entries: entries.into_iter().peekable(), fault }
    }

    /// Takes the entries that are due: `judge` says `None` for one that comes later, else whether it is right.
    /// Returns whether a right one was among them.
    pub(super) fn meet(&mut self, judge: impl Fn(&E) -> Option<bool>) -> bool {
        let mut met = false;
        while let Some(right) = self.entries.peek().and_then(&judge) {
            self.entries.next();
            met |= right;
            if !right {
                self.fault.get_or_insert("has an entry that does not match the segment");
            }
        }
        met
    }

    pub(super) fn verdict(mut self) -> Option<&'static str> {
        let rest = self.entries.next().is_some();
        self.fault.or(rest.then_some("has entries beyond the end of the segment"))
    }
}
