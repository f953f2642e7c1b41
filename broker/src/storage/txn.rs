//! Transaction index: the aborted transactions of one segment, which read-committed readers must skip.
//!
//! In: transactions that an abort marker in the segment has ended. Out: those that overlap a range of offsets. Touches one
//! file, `<base>.txnindex`, through [`Filesystem`]; it is written when its segment is finished, as until then the segment
//! is gone through at a start anyway. A finished segment without a sound file gets it again from the batches.
//!
//! Kafka's own layout, big-endian, entries of 34 bytes in the order of their markers:
//!
//! | at | field | | at | field |
//! |---|---|---|---|---|
//! | 0 | version i16 = 0 | | 18 | last offset i64: the marker |
//! | 2 | producer id i64 | | 26 | last stable offset i64, as it was after the marker |
//! | 10 | first offset i64 | | | |
//!
//! Behind the last entry stand 4 bytes that Kafka has not: the CRC-32C of the segment's base offset (i64) and all entries.
//! Kafka's tools skip what is shorter than an entry. A file without a right checksum, also one that Kafka has written,
//! counts as missing: a wrong list would show aborted records, or hide committed ones.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, BufMut as _};

use millrace_log::fs::{self, Filesystem};

const ENTRY: usize = 34;
const CHECKSUM: usize = 4;

/// A transaction that was aborted, by the offsets of its first record and of its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Who wrote it.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of the abort marker.
    pub last_offset: i64,
    /// First offset that was not yet decided once the marker stood: no later transaction begins before it.
    pub last_stable_offset: i64,
}

impl AbortedTxn {
    /// Whether a reader of `[from, until)` meets its records.
    pub fn overlaps(&self, from: i64, until: i64) -> bool {
        self.last_offset >= from && self.first_offset < until
    }
}

/// A transaction that has neither been committed nor aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTxn {
    /// Offset of its first record.
    pub first_offset: i64,
    /// Who writes it.
    pub producer_id: i64,
}

enum Entries {
    /// In memory, perhaps not on disk yet.
    Here { list: Vec<AbortedTxn>, written: bool },
    /// This many, on disk only.
    OnDisk(usize),
    /// To be rebuilt from the batches.
    Missing,
}

/// The aborted transactions of one segment.
pub(super) struct TxnIndex {
    path: PathBuf,
    /// Base offset of its segment.
    base: i64,
    entries: Entries,
}

impl TxnIndex {
    /// That of a new segment: none.
    pub fn fresh(path: &Path, base: i64) -> Self {
        Self { path: path.to_owned(), base, entries: Entries::Here { list: Vec::new(), written: false } }
    }

    /// Reads the file of a segment with these offsets. What can't be right counts as missing.
    pub fn open(fs: &dyn Filesystem, path: &Path, base: i64, end: i64) -> io::Result<Self> {
        let entries = match fs::read_all(fs, path) {
            Ok(bytes) => match decode(&bytes, base, end) {
                Some(list) => Entries::Here { list, written: true },
                None => Entries::Missing,
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Entries::Missing,
            Err(e) => return Err(e),
        };
        Ok(Self { path: path.to_owned(), base, entries })
    }

    /// Whether it has to be rebuilt.
    pub fn is_missing(&self) -> bool {
        matches!(self.entries, Entries::Missing)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match &self.entries {
            Entries::Here { list, .. } => list.is_empty(),
            Entries::OnDisk(count) => *count == 0,
            Entries::Missing => true,
        }
    }

    /// Adds one whose marker was appended.
    pub fn push(&mut self, txn: AbortedTxn) {
        if let Entries::Here { list, written } = &mut self.entries {
            list.push(txn);
            *written = false;
        }
    }

    /// Takes the rebuilt list.
    pub fn replace(&mut self, list: Vec<AbortedTxn>) {
        self.entries = Entries::Here { list, written: false };
    }

    /// Writes and syncs the file, if it lacks anything.
    pub fn write_out(&mut self, fs: &dyn Filesystem) -> io::Result<()> {
        if let Entries::Here { list, written: written @ false } = &mut self.entries {
            write(fs, &self.path, self.base, list)?;
            *written = true;
        }
        Ok(())
    }

    /// Its segment is written on: the file goes, as it would say less than there is.
    pub fn reopen(&mut self, fs: &dyn Filesystem) -> io::Result<()> {
        match fs.remove(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        if let Entries::Here { written, .. } = &mut self.entries {
            *written = false;
        }
        Ok(())
    }

    /// Its file goes, and those who read its segment still need the list.
    pub fn hold(&mut self, fs: &dyn Filesystem) -> io::Result<()> {
        if matches!(self.entries, Entries::OnDisk(_)) {
            self.entries = Entries::Here { list: self.list(fs)?, written: true };
        }
        Ok(())
    }

    /// Its file has got another name.
    pub fn moved(&mut self, path: &Path) {
        self.path = path.to_owned();
    }

    /// Nothing will be added any more: what is on disk need not stay in memory.
    pub fn rest(&mut self) {
        if let Entries::Here { list, written: true } = &self.entries {
            self.entries = Entries::OnDisk(list.len());
        }
    }

    /// All of them, in the order of their markers.
    pub fn list(&self, fs: &dyn Filesystem) -> io::Result<Vec<AbortedTxn>> {
        match &self.entries {
            Entries::Here { list, .. } => Ok(list.clone()),
            Entries::OnDisk(0) | Entries::Missing => Ok(Vec::new()),
            Entries::OnDisk(_) => match fs::read_all(fs, &self.path) {
                Ok(bytes) => decode(&bytes, self.base, i64::MAX)
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "transaction index is damaged")),
                // Deleted with its segment, which a reader still holds: its offsets are no longer asked for.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(e) => Err(e),
            },
        }
    }
}

/// Writes the file of the segment with this base offset, for whoever makes a segment again from others.
pub(super) fn write(fs: &dyn Filesystem, path: &Path, base: i64, list: &[AbortedTxn]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(list.len() * ENTRY + CHECKSUM);
    for txn in list {
        bytes.put_i16(0);
        bytes.put_i64(txn.producer_id);
        bytes.put_i64(txn.first_offset);
        bytes.put_i64(txn.last_offset);
        bytes.put_i64(txn.last_stable_offset);
    }
    bytes.put_u32(checksum(base, &bytes));
    // Whole or not at all: whoever reads meanwhile sees the old list or the new one.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".tmp");
    let fresh = PathBuf::from(fresh);
    let file = fs.create(&fresh)?;
    file.write_at(0, &mut [IoSlice::new(&bytes)])?;
    file.sync_data()?;
    fs.rename(&fresh, path)
}

fn checksum(base: i64, entries: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&base.to_be_bytes()), entries)
}

fn decode(bytes: &[u8], base: i64, end: i64) -> Option<Vec<AbortedTxn>> {
    let (mut entries, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
    if !entries.len().is_multiple_of(ENTRY) || u32::from_be_bytes(*sum) != checksum(base, entries) {
        return None;
    }
    let mut list: Vec<AbortedTxn> = Vec::with_capacity(entries.len() / ENTRY);
    while !entries.is_empty() {
        let version = entries.get_i16();
        let txn = AbortedTxn {
            producer_id: entries.get_i64(),
            first_offset: entries.get_i64(),
            last_offset: entries.get_i64(),
            last_stable_offset: entries.get_i64(),
        };
        let rises = list.last().is_none_or(|before| before.last_offset < txn.last_offset);
        let fits = (base..end).contains(&txn.last_offset) && txn.first_offset < txn.last_offset;
        if version != 0 || txn.producer_id < 0 || txn.first_offset < 0 || !rises || !fits {
            return None;
        }
        list.push(txn);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::fs::SimFs;

    fn txn(producer_id: i64, first_offset: i64, last_offset: i64) -> AbortedTxn {
        AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset: last_offset + 1 }
    }

    #[test]
    fn entries_come_back_from_memory_and_disk() {
        let fs = SimFs::new();
        let path = Path::new("00000000000000000010.txnindex");
        let mut index = TxnIndex::fresh(path, 10);
        assert!(index.is_empty());
        let want = [txn(1, 5, 12), txn(2, 11, 13), txn(1, 14, 19)];
        want.into_iter().for_each(|txn| index.push(txn));
        index.rest();
        assert_eq!(index.list(&fs).unwrap(), want, "not on disk yet");
        index.write_out(&fs).unwrap();
        index.rest();
        assert_eq!(index.list(&fs).unwrap(), want);
        assert_eq!(fs.content(path).unwrap().len(), 3 * ENTRY + CHECKSUM);
        let index = TxnIndex::open(&fs, path, 10, 20).unwrap();
        assert!(!index.is_missing() && !index.is_empty());
        assert_eq!(index.list(&fs).unwrap(), want);
    }

    #[test]
    fn what_can_be_no_index_is_made_again() {
        let fs = SimFs::new();
        let path = Path::new("x.txnindex");
        assert!(TxnIndex::open(&fs, path, 0, 100).unwrap().is_missing(), "no file");
        let list = [txn(1, 5, 12), txn(2, 11, 13)];
        for (base, end, want) in [(0, 100, false), (12, 14, false), (13, 100, true), (0, 13, true)] {
            write(&fs, path, base, &list).unwrap();
            assert_eq!(TxnIndex::open(&fs, path, base, end).unwrap().is_missing(), want, "{base}..{end}");
        }
        let sealed = |entries: &[u8]| [entries, &checksum(0, entries).to_be_bytes()].concat();
        write(&fs, path, 0, &list).unwrap();
        let bytes = fs.content(path).unwrap();
        let entries = &bytes[..2 * ENTRY];
        for (name, content) in [
            ("empty", Vec::new()),
            ("without a checksum", entries.to_vec()),
            ("cut", sealed(&entries[..40])),
            ("version", sealed(&[&[0, 1], &entries[2..]].concat())),
            ("order", sealed(&[&entries[ENTRY..], &entries[..ENTRY]].concat())),
            ("twice", sealed(&[entries, entries].concat())),
        ] {
            fs.set_content(path, content);
            assert!(TxnIndex::open(&fs, path, 0, 100).unwrap().is_missing(), "{name}");
        }
        fs.set_content(path, sealed(entries));
        assert!(TxnIndex::open(&fs, path, 10, 100).unwrap().is_missing(), "of another segment");
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let fs = SimFs::new();
        let path = Path::new("x.txnindex");
        for list in [&[][..], &[txn(1, 5, 12), txn(2, 11, 13)][..]] {
            write(&fs, path, 0, list).unwrap();
            let bytes = fs.content(path).unwrap();
            let mut rest = TxnIndex::open(&fs, path, 0, 100).unwrap();
            rest.rest();
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut bad = bytes.clone();
                    bad[at] ^= 1 << bit;
                    fs.set_content(path, bad);
                    assert!(TxnIndex::open(&fs, path, 0, 100).unwrap().is_missing(), "byte {at}, bit {bit}");
                    let read = rest.list(&fs).map_err(|e| e.kind());
                    let want = if list.is_empty() { Ok(Vec::new()) } else { Err(io::ErrorKind::InvalidData) };
                    assert_eq!(read, want, "byte {at}, bit {bit}, of one that is in use");
                }
                fs.set_content(path, bytes[..at].to_vec());
                assert!(TxnIndex::open(&fs, path, 0, 100).unwrap().is_missing(), "cut at {at}");
            }
        }
    }
}
