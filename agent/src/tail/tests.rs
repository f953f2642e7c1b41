//! Files that change between a scan and what follows it, step by step: no thread, no inotify.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_log::clock::SystemClock;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::reader::{Reader, ReaderParts};
use crate::batch::{Flow, MemoryBudget, QueuedBatches};
use crate::condition::Conditions;
use crate::config::FileSource;
use crate::discover::FileKey;
use crate::file_settings::FileSettings;
use crate::metrics::AgentMetrics;
use crate::pool::Pool;
use crate::state::State;
use crate::tap::Taps;
use crate::watch::Wake;

/// A reader of `*.log` in a folder that closes files as soon as they are read.
fn reader(folder: &Path) -> (Reader, mpsc::Receiver<QueuedBatches>) {
    let file =
        FileSource { include: vec![folder.join("*.log").to_string_lossy().into_owned()], ..FileSource::default() };
    let metrics = AgentMetrics::default();
    let (queue, batches) = mpsc::channel(100);
    let parts = ReaderParts {
        entries: vec![Arc::new(FileSettings::new(&file, "h", None).unwrap())],
        topic: "logs".into(),
        state: Arc::new(State::open(&folder.join("agent")).unwrap()),
        sources: Arc::new(RwLock::new(Vec::new())),
        queues: vec![(queue, Flow::new(1 << 20, 1 << 20))],
        budget: Arc::new(MemoryBudget::new(1 << 24)),
        windows: Pool::new(1 << 16, 1 << 20),
        wake: Wake::default(),
        clock: SystemClock::shared(),
        conditions: Conditions::new(&metrics, 1 << 24),
        metrics,
        taps: Taps::default(),
        scan_interval: Duration::from_secs(1),
        fingerprint: 64,
        read_bytes: 1 << 16,
        rotated_wait: Duration::from_secs(60),
        deleted_wait: Duration::from_secs(60),
        close_idle: Duration::ZERO,
        forget_after_ms: i64::MAX,
        last_alive_ms: Some(0),
        scanned_ms: Arc::default(),
    };
    (Reader::new(parts).unwrap(), batches)
}

impl Reader {
    /// All that one round does.
    fn round(&mut self) {
        self.scan().unwrap();
        self.adopt().unwrap();
        self.read_pass().unwrap();
        self.timers(Instant::now());
    }
}

#[test]
fn a_copy_whose_closed_original_moved_since_the_scan_waits_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (mut reader, _batches) = reader(folder.path());
    fs::write(at("a.log"), "one\ntwo\n").unwrap();
    reader.round();
    fs::copy(at("a.log"), at("a.log.1")).unwrap();
    let key = |name: &str| FileKey::of(&fs::metadata(at(name)).unwrap());
    let (original, copy) = (key("a.log"), key("a.log.1"));
    reader.round();
    assert!(reader.tails[&original].file.is_none() && reader.tails[&copy].source.is_none(), "closed; waits");
    // Truncated and rotated on before anybody looks.
    fs::OpenOptions::new().write(true).open(at("a.log")).unwrap().set_len(0).unwrap();
    fs::rename(at("a.log.1"), at("a.log.2")).unwrap();
    fs::rename(at("a.log"), at("a.log.1")).unwrap();
    reader.enqueue(copy);
    reader.adopt().unwrap();
    assert_eq!(reader.known.len(), 1, "the copy is no new source");
    reader.round();
    assert_eq!(reader.known.len(), 1);
    assert_eq!(reader.known[0].1, Some(copy), "the source goes on in its copy");
}
