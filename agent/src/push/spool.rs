//! The disk spool: what was pushed while the log is slow or away, acknowledged to its clients once it is here.
//!
//! In: batches, encoded as [`Frame`]s. Out: the same frames in their order, for `spool_feed.rs`. Touches one folder. A
//! thread of its own writes; what waits meanwhile is written and synced together.
//!
//! # Recovery
//! A frame counts once it is synced; only then its client is answered. At the start the last segment is cut behind its
//! last whole frame. A frame elsewhere that is damaged is logged with file and offset, counted and skipped: the next one
//! is found by its mark and its checksum. Nothing here needs deleting by hand.
//! The format stands in `frame.rs`.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::fs::{File, Filesystem, read_all};
use tokio::sync::{mpsc, watch};

use super::frame::{Frame, parse, path_of};
use super::receiver::Receiver;
use crate::batch::{BatchAck, MemoryBudget, MemoryShare};
use crate::error::AgentError;
use crate::ledger::Count;
use crate::metrics::AgentMetrics;

/// Jobs that are written and synced at once at most.
const GROUP: usize = 256;

/// A batch on its way to the disk.
pub(crate) struct Job {
    pub frames: Vec<Frame>,
    pub acks: Vec<BatchAck>,
    pub receiver: Arc<Receiver>,
    /// Memory, given back when it is written.
    pub memory: MemoryShare,
    /// Room in the spool.
    pub space: MemoryShare,
}

/// What is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpoolEnd {
    pub segment: u64,
    pub len: u64,
}

/// The queue of the writer, and room on the disk.
#[derive(Debug)]
pub(crate) struct SpoolQueue {
    pub jobs: mpsc::Sender<Job>,
    pub space: Arc<MemoryBudget>,
}

/// The spool, opened.
pub(crate) struct Spool {
    fs: Arc<dyn Filesystem>,
    folder: PathBuf,
    /// Segments that were there at the start, with their lengths.
    pub old: Vec<SpoolEnd>,
    /// The first segment of this run.
    pub first_new: u64,
    pub space: Arc<MemoryBudget>,
    active: Active,
    segment_bytes: u64,
    end: watch::Sender<SpoolEnd>,
    metrics: AgentMetrics,
}

struct Active {
    segment: u64,
    file: Arc<dyn File>,
    len: u64,
    /// There may be bytes behind `len`.
    failed: bool,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::File { what, path, source }
}

fn begin(fs: &dyn Filesystem, folder: &Path, segment: u64) -> io::Result<Active> {
    // An empty one may be there, of a try after which the folder could not be synced.
    let file = fs.create(&path_of(folder, segment))?;
    fs.sync_dir(folder)?;
    Ok(Active { segment, file, len: 0, failed: false })
}

impl Spool {
    /// Opens the folder (made if new), cuts a torn tail and begins a segment. Blocks.
    pub fn open(
        fs: &Arc<dyn Filesystem>,
        folder: &Path,
        max_bytes: u64,
        metrics: &AgentMetrics,
    ) -> Result<Self, AgentError> {
        fs.create_dir_all(folder).map_err(failed("creating", folder))?;
        let mut old = Vec::new();
        for entry in fs.list(folder).map_err(failed("reading", folder))? {
            let number = entry.name.strip_suffix(".spool").filter(|name| name.len() == 20);
            if let Some(segment) = number.and_then(|number| number.parse().ok()) {
                let path = path_of(folder, segment);
                let len = fs.open(&path).and_then(|file| file.len()).map_err(failed("reading", &path))?;
                old.push(SpoolEnd { segment, len });
            }
        }
        old.sort_unstable_by_key(|end| end.segment);
        if let Some(last) = old.last_mut() {
            last.len = cut_tail(&**fs, &path_of(folder, last.segment))?;
        }
        let next = old.last().map_or(1, |last| last.segment + 1);
        let active = begin(&**fs, folder, next).map_err(failed("creating a segment in", folder))?;
        let space = Arc::new(MemoryBudget::new(usize::try_from(max_bytes).unwrap_or(usize::MAX)));
        let used: u64 = old.iter().map(|end| end.len).sum();
        space.take_anyway(usize::try_from(used).unwrap_or(usize::MAX));
        metrics.spool_bytes.set(i64::try_from(used).unwrap_or(i64::MAX));
        Ok(Self {
            fs: Arc::clone(fs),
            folder: folder.to_owned(),
            old,
            first_new: next,
            space,
            segment_bytes: (max_bytes / 16).clamp(64 << 10, 16 << 20),
            end: watch::Sender::new(SpoolEnd { segment: active.segment, len: 0 }),
            active,
            metrics: metrics.clone(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tells how far the spool is written.
    pub fn end(&self) -> watch::Receiver<SpoolEnd> {
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
                    self.end.send_replace(SpoolEnd { segment: self.active.segment, len: self.active.len });
                }
                Err(error) => {
                    // Their clients get an error: nothing of them counts.
                    tracing::error!(%error, folder = %self.folder.display(), pushes = group.len(), "can't write the spool, pushes are refused: check that the disk has room");
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
        self.metrics.count_read(all.lines, all.bytes);
        job.acks.iter().for_each(BatchAck::settle);
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
        let done = {
            let written = self.active.file.write_at(self.active.len, &mut [IoSlice::new(bytes)]);
            written.and_then(|()| self.active.file.sync_data())
        };
        if let Err(error) = done {
            self.active.failed = true;
            if let Err(cut) = self.mend() {
                tracing::error!(error = %cut, "can't close the spool segment after a failed write, retrying");
            }
            return Err(error);
        }
        self.active.len += bytes.len() as u64;
        Ok(())
    }

    /// What a write or fsync failed on may or may not be there: it must not be found later.
    fn mend(&mut self) -> io::Result<()> {
        self.active.file.truncate(self.active.len)?;
        self.active.file.sync_data()?;
        self.roll()
    }

    fn roll(&mut self) -> io::Result<()> {
        self.active = begin(&*self.fs, &self.folder, self.active.segment + 1)?;
        self.end.send_replace(SpoolEnd { segment: self.active.segment, len: 0 });
        Ok(())
    }
}

/// Cuts the last segment behind its last whole frame; its length then.
fn cut_tail(fs: &dyn Filesystem, path: &Path) -> Result<u64, AgentError> {
    let bytes = Bytes::from(read_all(fs, path).map_err(failed("reading", path))?);
    let (_, damages) = parse(&bytes, 0);
    let len = bytes.len() as u64;
    match damages.last().filter(|damage| damage.to == len) {
        None => Ok(len),
        Some(tail) => {
            tracing::warn!(path = %path.display(), offset = tail.from, bytes = len - tail.from, "spool ends in a torn write, removed the part that no client was acknowledged");
            let file = fs.open(path).map_err(failed("opening", path))?;
            file.truncate(tail.from).and_then(|()| file.sync_data()).map_err(failed("cutting", path))?;
            Ok(tail.from)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::Pin;

    use millrace_log::fs::{RealFs, SimFs};

    use super::super::frame::tests::{frame, numbers, segment};
    use super::super::frame::{Parsed, read};
    use super::*;

    /// A folder of segments in memory.
    fn disk(segments: &[(u64, &[u8])]) -> (SimFs, Arc<dyn Filesystem>) {
        let sim = SimFs::new();
        sim.create_dir_all(folder()).unwrap();
        for (segment, bytes) in segments {
            sim.set_content(&path_of(folder(), *segment), bytes.to_vec());
        }
        (sim.clone(), Arc::new(sim))
    }

    fn folder() -> &'static Path {
        Path::new("/spool")
    }

    fn open(fs: &Arc<dyn Filesystem>) -> Spool {
        Spool::open(fs, folder(), 1 << 20, &AgentMetrics::default()).unwrap()
    }

    #[test]
    fn a_segment_cut_at_any_byte_keeps_all_whole_frames() {
        let (bytes, ends) = segment(4);
        for cut in 0..=bytes.len() {
            let (sim, fs) = disk(&[(1, &bytes[..cut])]);
            let path = path_of(folder(), 1);
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let len = cut_tail(&*fs, &path).unwrap();
            assert_eq!(len, ends[whole] as u64, "cut at {cut}");
            assert_eq!(sim.content(&path).unwrap().len() as u64, len);
            let (mut frames, damages) = read(&*fs, &path, 0, len, 10).unwrap();
            while let Some(next) = frames.last().map(|(_, next)| *next).filter(|next| *next < len) {
                frames.extend(read(&*fs, &path, next, len, 10).unwrap().0);
            }
            assert_eq!((numbers(&frames), damages), ((0..whole as u64).collect(), vec![]));
        }
    }

    #[test]
    fn the_last_segment_is_cut_at_the_start_and_a_new_one_begins() {
        let (bytes, ends) = segment(2);
        let (sim, fs) = disk(&[(3, &bytes), (4, &bytes[..bytes.len() - 1])]);
        sim.set_content(&folder().join("README"), b"not ours".to_vec());
        let spool = open(&fs);
        let (whole, cut) = (bytes.len() as u64, ends[1] as u64);
        assert_eq!(spool.old, [SpoolEnd { segment: 3, len: whole }, SpoolEnd { segment: 4, len: cut }]);
        assert_eq!(*spool.end().borrow(), SpoolEnd { segment: 5, len: 0 });
        assert_eq!(spool.space.used() as u64, whole + cut);
    }

    #[test]
    fn what_could_not_be_written_is_cut_off_before_anything_else_is() {
        let (sim, fs) = disk(&[]);
        let mut spool = open(&fs);
        let bytes = |n| frame(n).encode();
        spool.append(&bytes(0)).unwrap();
        // The write is torn, and nothing can be changed from then on: not even the rest be cut off.
        sim.tear_next_write(20);
        sim.fail_next_syncs(3);
        spool.append(&bytes(1)).unwrap_err();
        for _ in 0..2 {
            spool.append(&bytes(1)).unwrap_err();
        }
        assert_eq!((spool.active.segment, spool.active.len), (1, bytes(0).len() as u64));
        // A segment that was begun and never used is in the way of nothing.
        sim.set_content(&path_of(folder(), 2), Vec::new());
        spool.append(&bytes(2)).unwrap();
        let found: Vec<Parsed> =
            (1..=2).map(|n| read(&*fs, &path_of(folder(), n), 0, 1 << 20, 1 << 20).unwrap()).collect();
        let found: Vec<(Vec<u64>, usize)> = found.iter().map(|(f, damages)| (numbers(f), damages.len())).collect();
        assert_eq!(found, [(vec![0], 0), (vec![2], 0)]);
        assert_eq!(*spool.end().borrow(), SpoolEnd { segment: 2, len: 0 }, "shown once it is counted");
    }

    #[test]
    fn what_a_client_was_told_of_survives_a_power_cut_at_any_change() {
        for changes in 0..40 {
            let (sim, fs) = disk(&[]);
            sim.sync_dir(Path::new("/")).unwrap();
            sim.sync_dir(folder()).unwrap();
            sim.stop_after(Some(changes));
            let mut acknowledged = Vec::new();
            if let Ok(mut spool) = Spool::open(&fs, folder(), 1 << 20, &AgentMetrics::default()) {
                // Segments are as short as can be, so that they change on the way.
                spool.segment_bytes = 300;
                acknowledged.extend((0..10).filter(|n| spool.append(&frame(*n).encode()).is_ok()));
            }
            sim.crash_keeping(|unsynced| unsynced / 2);
            let spool = open(&fs);
            let mut found = Vec::new();
            for end in &spool.old {
                let (frames, damages) = read(&*fs, &path_of(folder(), end.segment), 0, end.len, 1 << 20).unwrap();
                assert_eq!(damages, [], "{changes}");
                found.extend(numbers(&frames));
            }
            assert!(acknowledged.iter().all(|n| found.contains(n)), "{changes}: {acknowledged:?} of {found:?}");
        }
    }

    /// Looks, whenever a client gets its answer, what the feeder could read and whether all of it is counted.
    struct Looker {
        end: watch::Receiver<SpoolEnd>,
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
        let spool =
            Spool::open(&RealFs::shared(), &folder.path().join("spool"), 1 << 20, &AgentMetrics::default()).unwrap();
        let looker = Arc::new(Looker { end: spool.end(), receiver: receiver.clone(), seen: Default::default() });
        let (sender, jobs) = mpsc::channel(8);
        let mut answers = Vec::new();
        for n in 0..3 {
            let (dones, mut answer) = BatchAck::parts(1);
            let waker = std::task::Waker::from(looker.clone());
            assert!(Pin::new(&mut answer).poll(&mut std::task::Context::from_waker(&waker)).is_pending());
            answers.push(answer);
            let share = || MemoryShare::none(&spool.space);
            let (memory, space) = (share(), share());
            let job = Job { frames: vec![frame(n)], acks: dones, receiver: receiver.clone(), memory, space };
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
}
