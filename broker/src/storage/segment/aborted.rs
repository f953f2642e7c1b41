//! Aborted transactions of one segment: those whose abort markers stand in it.
//!
//! In: transactions that were aborted. Out: their list. Touches `<base>.txnindex` through [`crate::storage::txn`].

use std::io;

use super::state::Segment;
use crate::storage::txn::AbortedTxn;
use millrace_log::fs::Filesystem;

impl Segment {
    /// Transactions whose abort markers stand in it, in the order of the markers.
    pub fn aborted(&self, fs: &dyn Filesystem) -> io::Result<Vec<AbortedTxn>> {
        self.txns.read().list(fs)
    }

    /// Whether there are any; without looking at the disk.
    pub fn has_aborted(&self) -> bool {
        !self.txns.read().is_empty()
    }

    /// Adds one whose marker was appended.
    pub fn add_aborted(&self, txn: AbortedTxn) {
        self.txns.write().push(txn);
    }

    /// Whether the file of aborted transactions is missing or can't be right.
    pub fn lacks_aborted(&self) -> bool {
        self.txns.read().is_missing()
    }

    /// Takes the list as rebuilt from the batches, and keeps it; with `rest` on disk only.
    pub fn set_aborted(&self, fs: &dyn Filesystem, list: Vec<AbortedTxn>, rest: bool) {
        let mut txns = self.txns.write();
        txns.replace(list);
        if let Err(e) = txns.write_out(fs) {
            tracing::warn!(segment = %self.path.display(), error = %e, "can't write the list of aborted transactions, it will be rebuilt");
        }
        if rest {
            txns.rest();
        }
    }

    /// Takes a list that was rebuilt while others read. In memory only: the files may be another segment's by now.
    pub fn mend_aborted(&self, list: Vec<AbortedTxn>) {
        self.txns.write().replace(list);
    }

    /// It is the one that is written: its list of aborted transactions is complete again only when it is finished.
    pub fn reopen_aborted(&self, fs: &dyn Filesystem) -> io::Result<()> {
        self.txns.write().reopen(fs)
    }

    /// Its files are about to go, those who read it go on.
    pub fn hold_aborted(&self, fs: &dyn Filesystem) -> io::Result<()> {
        self.txns.write().hold(fs)
    }
}
