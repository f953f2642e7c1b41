//! Format of the spool: frames, each with the records of one stream of a push, in segment files.
//!
//! In: frames; parts of segments. Out: their bytes; frames, and what is damaged between them. Touches segment files, reading
//! only.
//!
//! # Format
//! A segment is a file `NUMBER.spool`, 20 digits, of frames one after the other. A frame, little-endian: `MRF1`, length of
//! the payload u32, CRC-32C of length and payload u32, payload: length of its head u32, head as JSON, the lines' bytes.
//! Numbers of segments rise; a start begins a new one; a segment is deleted once the log has all of it.
//!
//! Rule for changes: readers ignore fields of the head that they don't know; another layout gets another mark.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut as _, Bytes};
use memchr::memmem;
use millrace_log::fs::{File, Filesystem};
use serde::{Deserialize, Serialize};

use crate::ledger::Count;

const MARK: &[u8; 4] = b"MRF1";
const HEAD: usize = 12;
/// Larger payloads are damage.
const MAX_PAYLOAD: usize = 64 << 20;

/// What is spooled of one stream of a push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// Name of the source.
    pub source: String,
    /// Header `labels`.
    pub labels: String,
    /// Header `tenant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Chooses the partition.
    pub hash: u32,
    /// The partition, where it was known: a repeat must go where the first went.
    #[serde(default, rename = "lane", skip_serializing_if = "Option::is_none")]
    pub partition: Option<usize>,
    /// Number of the first record.
    pub first: u64,
    /// Numbers of the source's own, instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<u64>,
    pub read_ns: i64,
    /// Length of each line.
    pub lens: Vec<u32>,
    /// Which lines are cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<Option<i64>>,
    /// Headers `meta`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metas: Vec<Option<String>>,
    /// Bytes of cut lines beyond the limit.
    #[serde(default)]
    pub skipped: u64,
    /// The lines.
    #[serde(skip)]
    pub window: Bytes,
}

impl Frame {
    fn is_whole(&self) -> bool {
        let (n, lines) = (self.lens.len(), self.lens.iter().map(|len| *len as usize).sum::<usize>());
        n > 0
            && lines == self.window.len()
            && [self.own.len(), self.times.len(), self.metas.len()].iter().all(|len| *len == 0 || *len == n)
    }

    /// What it counts for in the ledger.
    pub fn count(&self) -> Count {
        let records = self.lens.len() as u64;
        Count { lines: records, bytes: self.window.len() as u64 + self.skipped, records }
    }

    /// As it stands in a segment.
    pub fn encode(&self) -> Vec<u8> {
        // Texts, numbers and lists of them are always JSON.
        let head = serde_json::to_vec(self).unwrap_or_default();
        let small = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let len = 4 + head.len() + self.window.len();
        let mut out = Vec::with_capacity(HEAD + len);
        out.put_slice(MARK);
        out.put_u32_le(small(len));
        out.put_u32_le(0);
        out.put_u32_le(small(head.len()));
        out.put_slice(&head);
        out.put_slice(&self.window);
        let sum = checksum(&out[4..8], &out[HEAD..]);
        out[8..HEAD].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

fn checksum(len: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(len), payload)
}

/// The frame at the start of `bytes`, and its length; `None` if there is none that is whole.
fn decode(bytes: &Bytes) -> Option<(Frame, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if bytes.get(..4)? != MARK {
        return None;
    }
    let len = usize::try_from(word(4)?).ok().filter(|len| *len <= MAX_PAYLOAD)?;
    let payload = bytes.get(HEAD..HEAD + len)?;
    if checksum(&bytes[4..8], payload) != word(8)? {
        return None;
    }
    let head = usize::try_from(word(HEAD)?).ok()?;
    let json = payload.get(4..4usize.checked_add(head)?)?;
    let mut frame: Frame = serde_json::from_slice(json).ok()?;
    frame.window = bytes.slice(HEAD + 4 + head..HEAD + len);
    frame.is_whole().then_some((frame, HEAD + len))
}

/// Bytes of a segment that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub from: u64,
    pub to: u64,
}

/// Frames of a part of a segment, each with the place behind it, and what is damaged between them.
pub(crate) type Parsed = (Vec<(Frame, u64)>, Vec<Damage>);

/// Finds the frames of a part of a segment that stands at `base`.
pub(crate) fn parse(bytes: &Bytes, base: u64) -> Parsed {
    let (mut frames, mut damages) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        if let Some((frame, len)) = decode(&bytes.slice(at..)) {
            at += len;
            frames.push((frame, base + at as u64));
            continue;
        }
        let from = at;
        loop {
            at += 1;
            match bytes.get(at..).and_then(|rest| memmem::find(rest, MARK)) {
                None => {
                    at = bytes.len();
                    break;
                }
                Some(skip) => at += skip,
            }
            if decode(&bytes.slice(at..)).is_some() {
                break;
            }
        }
        damages.push(Damage { from: base + from as u64, to: base + at as u64 });
    }
    (frames, damages)
}

pub(crate) fn path_of(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:020}.spool"))
}

/// Frames from a place of a segment on, about `most` bytes of them; `end` is how far it is written. Blocks.
pub(crate) fn read(fs: &dyn Filesystem, path: &Path, from: u64, end: u64, most: u64) -> io::Result<Parsed> {
    let file = fs.open(path)?;
    let all = end.saturating_sub(from);
    let bytes = read_part(&*file, from, all.min(most))?;
    let got = bytes.len() as u64;
    let (frames, mut damages) = parse(&bytes, from);
    if got < all.min(most) || got == all {
        return Ok((frames, damages));
    }
    if let Some(last) = frames.last().map(|(_, next)| *next) {
        // The last frame of a part may only seem damaged: it is read again from its start.
        damages.retain(|damage| damage.to <= last);
        return Ok((frames, damages));
    }
    // No frame ends within so much: all of the rest, then.
    Ok(parse(&read_part(&*file, from, all)?, from))
}

/// Up to `len` bytes; fewer at the end of the file.
fn read_part(file: &dyn File, from: u64, len: u64) -> io::Result<Bytes> {
    let len = len.min(file.len()?.saturating_sub(from));
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let read = file.read_at(from, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes.into())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn frame(n: u64) -> Frame {
        let line = format!("line {n}");
        Frame {
            source: "http:x".to_owned(),
            labels: r#"{"app":"a"}"#.to_owned(),
            tenant: n.is_multiple_of(2).then(|| "team".to_owned()),
            hash: 7,
            partition: Some(1),
            first: n,
            own: Vec::new(),
            read_ns: 5,
            lens: vec![u32::try_from(line.len()).unwrap()],
            cut: vec![0],
            times: vec![Some(9)],
            metas: vec![None],
            skipped: 3,
            window: line.into(),
        }
    }

    pub fn segment(count: u64) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for n in 0..count {
            bytes.extend(frame(n).encode());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    pub fn numbers(frames: &[(Frame, u64)]) -> Vec<u64> {
        frames.iter().map(|(frame, _)| frame.first).collect()
    }

    #[test]
    fn a_byte_that_changed_costs_its_frame_alone_and_is_told() {
        let (bytes, ends) = segment(4);
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= bit;
                let hit = ends.iter().filter(|end| **end <= at).count() - 1;
                let (frames, damages) = parse(&Bytes::from(damaged), 0);
                let want: Vec<u64> = (0..4).filter(|n| *n != hit as u64).collect();
                assert_eq!(numbers(&frames), want, "byte {at}");
                assert_eq!(damages, [Damage { from: ends[hit] as u64, to: ends[hit + 1] as u64 }], "byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn frames_read_back_and_other_bytes_never_panic(
            lens in proptest::collection::vec(0u32..50, 1..10), read_ns: i64, first: u64, skipped: u64,
            noise in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let bytes: usize = lens.iter().map(|len| *len as usize).sum();
            let n = lens.len();
            let frame = Frame {
                first, read_ns, skipped, lens, window: vec![0x4d; bytes].into(), times: vec![None; n],
                metas: vec![Some("{}".to_owned()); n], own: vec![1; n], ..frame(0)
            };
            let mut segment = noise.clone();
            segment.extend(frame.encode());
            let end = segment.len() as u64;
            let (frames, damages) = parse(&Bytes::from(segment), 0);
            prop_assert_eq!(frames, vec![(frame, end)]);
            prop_assert_eq!(damages.len(), usize::from(!noise.is_empty()));
        }
    }
}
