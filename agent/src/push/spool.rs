//! The disk spool: what was pushed while the log is slow or away, acknowledged to its clients once it is here.
//!
//! In: batches, encoded as [`Frame`]s. Out: the same frames in their order, for `spool_feed.rs`. Touches one folder. A
//! thread of its own writes; what waits meanwhile is written and synced together.
//!
//! # Format
//! A segment is a file `NUMBER.spool`, 20 digits, of frames one after the other. A frame, little-endian: `MRF1`, length of
//! the payload u32, CRC-32C of length and payload u32, payload: length of its head u32, head as JSON, the lines' bytes.
//! Numbers of segments rise; a start begins a new one; a segment is deleted once the log has all of it.
//!
//! # Recovery
//! A frame counts once it is synced; only then its client is answered. At the start the last segment is cut behind its
//! last whole frame. A frame elsewhere that is damaged is told with file and place, counted and passed over: the next one
//! is found by its mark and its checksum. Nothing here needs deleting by hand.
//! Rule for changes: readers ignore fields of the head that they don't know; another layout gets another mark.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::receiver::Receiver;
use crate::error::AgentError;
use crate::feed::Done;
use crate::ledger::Count;
use crate::metrics::AgentMetrics;
use crate::producer::{Budget, Share};

const MARK: &[u8; 4] = b"MRF1";
const HEAD: usize = 12;
/// Larger payloads are damage.
const MAX_PAYLOAD: usize = 64 << 20;
/// Jobs that are written and synced at once at most.
const GROUP: usize = 256;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<usize>,
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

/// A batch on its way to the disk.
pub(crate) struct Job {
    pub frames: Vec<Frame>,
    pub dones: Vec<Done>,
    pub receiver: Arc<Receiver>,
    /// Memory, given back when it is written.
    pub memory: Share,
    /// Room in the spool.
    pub space: Share,
}

/// What is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub segment: u64,
    pub len: u64,
}

/// The way into the spool.
#[derive(Debug)]
pub(crate) struct SpoolDoor {
    pub jobs: mpsc::Sender<Job>,
    pub space: Arc<Budget>,
}

/// The spool, opened.
pub(crate) struct Spool {
    folder: PathBuf,
    /// Segments that were there at the start, with their lengths.
    pub old: Vec<End>,
    /// The first segment of this run.
    pub first_new: u64,
    pub space: Arc<Budget>,
    active: Active,
    segment_bytes: u64,
    end: watch::Sender<End>,
    metrics: AgentMetrics,
}

struct Active {
    segment: u64,
    file: File,
    len: u64,
    /// There may be bytes behind `len`.
    failed: bool,
}

pub(crate) fn path_of(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:020}.spool"))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::File { what, path, source }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn begin(folder: &Path, segment: u64) -> io::Result<Active> {
    // An empty one may be there, of a try after which the folder could not be synced.
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path_of(folder, segment))?;
    sync_folder(folder)?;
    Ok(Active { segment, file, len: 0, failed: false })
}

impl Spool {
    /// Opens the folder (made if new), cuts a torn tail and begins a segment. Blocks.
    pub fn open(folder: &Path, max_bytes: u64, metrics: &AgentMetrics) -> Result<Self, AgentError> {
        fs::create_dir_all(folder).map_err(failed("creating", folder))?;
        let mut old = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed("reading", folder))? {
            let entry = entry.map_err(failed("reading", folder))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool")).filter(|name| name.len() == 20);
            if let Some(segment) = number.and_then(|number| number.parse().ok()) {
                let len = entry.metadata().map_err(failed("reading", folder))?.len();
                old.push(End { segment, len });
            }
        }
        old.sort_unstable_by_key(|end| end.segment);
        if let Some(last) = old.last_mut() {
            last.len = cut_tail(&path_of(folder, last.segment))?;
        }
        let next = old.last().map_or(1, |last| last.segment + 1);
        let active = begin(folder, next).map_err(failed("creating a segment in", folder))?;
        let space = Arc::new(Budget::new(usize::try_from(max_bytes).unwrap_or(usize::MAX)));
        let used: u64 = old.iter().map(|end| end.len).sum();
        space.take_anyway(usize::try_from(used).unwrap_or(usize::MAX));
        metrics.spool_bytes.set(i64::try_from(used).unwrap_or(i64::MAX));
        Ok(Self {
            folder: folder.to_owned(),
            old,
            first_new: next,
            space,
            segment_bytes: (max_bytes / 16).clamp(64 << 10, 16 << 20),
            end: watch::Sender::new(End { segment: active.segment, len: 0 }),
            active,
            metrics: metrics.clone(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tells how far the spool is written.
    pub fn end(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// Writes until nobody can hand in jobs any more. Blocks: runs on a thread of its own.
    pub fn write(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(more) = jobs.try_recv()
            {
                group.push(more);
            }
            let mut bytes: Vec<u8> = Vec::new();
            for job in &mut group {
                let before = bytes.len();
                job.frames.iter().for_each(|frame| bytes.extend(frame.encode()));
                job.space.set(bytes.len() - before);
            }
            match self.append(&bytes) {
                Ok(()) => {
                    for job in group {
                        self.written(job);
                    }
                    // After all of them are counted: what is fed is settled soon.
                    self.end.send_replace(End { segment: self.active.segment, len: self.active.len });
                }
                Err(error) => {
                    // The clients of these are told: nothing of them counts.
                    tracing::error!(%error, folder = %self.folder.display(), pushes = group.len(), "spool can't be written, pushes are refused: has the disk room?");
                    self.metrics.spool_failures.inc();
                }
            }
            self.metrics.spool_bytes.set(i64::try_from(self.space.used()).unwrap_or(i64::MAX));
        }
    }

    fn written(&self, job: Job) {
        let mut all = Count::default();
        for frame in &job.frames {
            all += frame.count();
        }
        job.receiver.took(all);
        self.metrics.read_lines.inc_by(all.lines);
        self.metrics.read_bytes.inc_by(all.bytes);
        self.metrics.waiting_lines.inc_by(i64::try_from(all.lines).unwrap_or(i64::MAX));
        job.dones.iter().for_each(Done::settle);
        drop(job.memory);
        // Given back with the segment.
        job.space.keep();
    }

    /// Durable when this returns. After a failure the segment ends before these bytes, and the next one begins; nothing
    /// is written before that is done.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.active.failed {
            self.mend()?;
        } else if self.active.len >= self.segment_bytes {
            self.roll()?;
        }
        let done = self.active.file.write_all(bytes).and_then(|()| self.active.file.sync_data());
        if let Err(error) = done {
            self.active.failed = true;
            if let Err(cut) = self.mend() {
                tracing::error!(error = %cut, "segment of the spool can't be ended after a failure, it is tried again");
            }
            return Err(error);
        }
        self.active.len += bytes.len() as u64;
        Ok(())
    }

    /// What a write or fsync failed on may or may not be there: it must not be found later.
    fn mend(&mut self) -> io::Result<()> {
        self.active.file.set_len(self.active.len)?;
        self.active.file.sync_all()?;
        self.roll()
    }

    fn roll(&mut self) -> io::Result<()> {
        self.active = begin(&self.folder, self.active.segment + 1)?;
        self.end.send_replace(End { segment: self.active.segment, len: 0 });
        Ok(())
    }
}

/// Cuts the last segment behind its last whole frame; its length then.
fn cut_tail(path: &Path) -> Result<u64, AgentError> {
    let bytes = Bytes::from(fs::read(path).map_err(failed("reading", path))?);
    let (_, damages) = parse(&bytes, 0);
    let len = bytes.len() as u64;
    match damages.last().filter(|damage| damage.to == len) {
        None => Ok(len),
        Some(tail) => {
            tracing::warn!(path = %path.display(), offset = tail.from, bytes = len - tail.from, "spool was not written to its end, what no client was told of is cut off");
            let file = OpenOptions::new().write(true).open(path).map_err(failed("opening", path))?;
            file.set_len(tail.from).and_then(|()| file.sync_all()).map_err(failed("cutting", path))?;
            Ok(tail.from)
        }
    }
}

/// Frames from a place of a segment on, about `most` bytes of them; `end` is how far it is written. Blocks.
pub(crate) fn read(path: &Path, from: u64, end: u64, most: u64) -> io::Result<Parsed> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let all = end.saturating_sub(from);
    let mut bytes = Vec::new();
    (&file).take(all.min(most)).read_to_end(&mut bytes)?;
    let (frames, mut damages) = parse(&Bytes::copy_from_slice(&bytes), from);
    if (bytes.len() as u64) < all.min(most) || bytes.len() as u64 == all {
        return Ok((frames, damages));
    }
    if let Some(last) = frames.last().map(|(_, next)| *next) {
        // The last frame of a part may only seem damaged: it is read again from its start.
        damages.retain(|damage| damage.to <= last);
        return Ok((frames, damages));
    }
    // No frame ends within so much: all of the rest, then.
    file.take(all - bytes.len() as u64).read_to_end(&mut bytes)?;
    Ok(parse(&Bytes::from(bytes), from))
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::Pin;

    use proptest::prelude::*;

    use super::*;

    fn frame(n: u64) -> Frame {
        let line = format!("line {n}");
        Frame {
            source: "http:x".to_owned(),
            labels: r#"{"app":"a"}"#.to_owned(),
            tenant: n.is_multiple_of(2).then(|| "team".to_owned()),
            hash: 7,
            lane: Some(1),
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

    fn segment(count: u64) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for n in 0..count {
            bytes.extend(frame(n).encode());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn numbers(frames: &[(Frame, u64)]) -> Vec<u64> {
        frames.iter().map(|(frame, _)| frame.first).collect()
    }

    #[test]
    fn a_segment_cut_at_any_byte_keeps_all_whole_frames() {
        let (bytes, ends) = segment(4);
        let folder = tempfile::tempdir().unwrap();
        let path = path_of(folder.path(), 1);
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let len = cut_tail(&path).unwrap();
            assert_eq!(len, ends[whole] as u64, "cut at {cut}");
            assert_eq!(fs::metadata(&path).unwrap().len(), len);
            let (frames, damages) = read(&path, 0, len, 10).unwrap();
            let mut frames = frames;
            while let Some(next) = frames.last().map(|(_, next)| *next).filter(|next| *next < len) {
                frames.extend(read(&path, next, len, 10).unwrap().0);
            }
            assert_eq!((numbers(&frames), damages), ((0..whole as u64).collect(), vec![]));
        }
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

    #[test]
    fn the_last_segment_is_cut_at_the_start_and_a_new_one_begins() {
        let folder = tempfile::tempdir().unwrap();
        let (bytes, ends) = segment(2);
        fs::write(path_of(folder.path(), 3), &bytes).unwrap();
        fs::write(path_of(folder.path(), 4), &bytes[..bytes.len() - 1]).unwrap();
        fs::write(folder.path().join("README"), "not ours").unwrap();
        let spool = Spool::open(folder.path(), 1 << 20, &AgentMetrics::default()).unwrap();
        let (whole, cut) = (bytes.len() as u64, ends[1] as u64);
        assert_eq!(spool.old, [End { segment: 3, len: whole }, End { segment: 4, len: cut }]);
        assert_eq!(*spool.end().borrow(), End { segment: 5, len: 0 });
        assert_eq!(spool.space.used() as u64, whole + cut);
    }

    #[test]
    fn what_could_not_be_written_is_cut_off_before_anything_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 1 << 20, &AgentMetrics::default()).unwrap();
        let bytes = |n| frame(n).encode();
        spool.append(&bytes(0)).unwrap();
        // The disk fills in the middle of a write, and can't even cut it off.
        let path = path_of(folder.path(), 1);
        let half = &bytes(1)[..20];
        OpenOptions::new().append(true).open(&path).unwrap().write_all(half).unwrap();
        spool.active.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        for _ in 0..3 {
            spool.append(&bytes(1)).unwrap_err();
        }
        assert_eq!((spool.active.segment, spool.active.len), (1, bytes(0).len() as u64));
        // A segment that was begun and never used is in the way of nothing.
        fs::write(path_of(folder.path(), 2), "").unwrap();
        spool.active.file = OpenOptions::new().write(true).open(&path).unwrap();
        spool.append(&bytes(2)).unwrap();
        let found: Vec<Parsed> =
            (1..=2).map(|n| read(&path_of(folder.path(), n), 0, 1 << 20, 1 << 20).unwrap()).collect();
        let found: Vec<(Vec<u64>, usize)> = found.iter().map(|(f, damages)| (numbers(f), damages.len())).collect();
        assert_eq!(found, [(vec![0], 0), (vec![2], 0)]);
        assert_eq!(*spool.end().borrow(), End { segment: 2, len: 0 }, "told once it is counted");
    }

    /// Looks, whenever a client is told, what the feeder could read and whether all of it is counted.
    struct Looker {
        end: watch::Receiver<End>,
        receiver: Arc<Receiver>,
        seen: parking_lot::Mutex<Vec<(u64, u64)>>,
    }

    impl std::task::Wake for Looker {
        fn wake(self: Arc<Self>) {
            let waiting = self.receiver.ledger().balance.waiting.records;
            self.seen.lock().push((self.end.borrow().len, waiting));
        }
    }

    #[tokio::test]
    async fn nothing_can_be_fed_before_it_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let state = crate::state::State::open(&folder.path().join("state")).unwrap();
        let receiver = Receiver::open(crate::push::receiver::tests::settings("a"), &Arc::new(state)).unwrap();
        let spool = Spool::open(&folder.path().join("spool"), 1 << 20, &AgentMetrics::default()).unwrap();
        let looker = Arc::new(Looker { end: spool.end(), receiver: receiver.clone(), seen: Default::default() });
        let (sender, jobs) = mpsc::channel(8);
        let mut answers = Vec::new();
        for n in 0..3 {
            let (dones, mut answer) = Done::parts(1);
            let waker = std::task::Waker::from(looker.clone());
            assert!(Pin::new(&mut answer).poll(&mut std::task::Context::from_waker(&waker)).is_pending());
            answers.push(answer);
            let share = || Share::none(&spool.space);
            let (memory, space) = (share(), share());
            let job = Job { frames: vec![frame(n)], dones, receiver: receiver.clone(), memory, space };
            assert!(sender.try_send(job).is_ok());
        }
        drop(sender);
        // All of them are written as one group.
        tokio::task::spawn_blocking(move || spool.write(jobs)).await.unwrap();
        let seen = looker.seen.lock().clone();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|(fed, counted)| *fed == 0 || *counted == 3), "{seen:?}");
        assert_eq!(receiver.ledger().balance.waiting.records, 3);
        for answer in answers {
            assert!(answer.await.unwrap());
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
