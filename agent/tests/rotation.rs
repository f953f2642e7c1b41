//! Random histories of one log file: written, rotated by rename and by copytruncate, truncated, while the agent runs,
//! restarts and is killed, and the log is moody. Every line must be there once, in order, at a position that never changes.

// Helpers of tests may panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_log::value::ByteSize;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::{FakeLog, Mood, Running, append, edit, quick, until};

struct Writer {
    path: PathBuf,
    name: String,
    next: u64,
    written: Vec<String>,
    open: Option<String>,
}

impl Writer {
    fn new(path: PathBuf) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Self { path, name, next: 0, written: Vec::new(), open: None }
    }

    fn line(&mut self, random: &mut StdRng) -> String {
        self.next += 1;
        let pad = "x".repeat(random.random_range(0..60));
        format!("{} {:06} {pad}", self.name, self.next)
    }

    fn write(&mut self, random: &mut StdRng) {
        self.complete();
        for _ in 0..random.random_range(1..40) {
            let line = self.line(random);
            append(&self.path, &format!("{line}\n"));
            self.written.push(line);
        }
    }

    /// A line whose end comes later.
    fn write_part(&mut self, random: &mut StdRng) {
        self.complete();
        let line = self.line(random);
        append(&self.path, &line);
        self.open = Some(line);
    }

    fn complete(&mut self) {
        if let Some(line) = self.open.take() {
            append(&self.path, "\n");
            self.written.push(line);
        }
    }

    fn shift(&self) {
        for n in (1..40).rev() {
            let (from, to) = (self.numbered(n), self.numbered(n + 1));
            if from.exists() {
                std::fs::rename(from, to).unwrap();
            }
        }
    }

    fn numbered(&self, n: usize) -> PathBuf {
        PathBuf::from(format!("{}.{n}", self.path.display()))
    }

    fn rotate(&mut self) {
        self.complete();
        if self.path.exists() {
            self.shift();
            std::fs::rename(&self.path, self.numbered(1)).unwrap();
        }
    }

    fn copytruncate(&mut self) {
        self.complete();
        if self.path.exists() {
            self.shift();
            std::fs::copy(&self.path, self.numbered(1)).unwrap();
            std::fs::OpenOptions::new().write(true).open(&self.path).unwrap().set_len(0).unwrap();
        }
    }
}

async fn history(seed: u64, glob: &str, steps: usize) {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        drop(
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).try_init(),
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let data = folder.path().join("agent");
    let mut config = quick(&[logs.join(glob)]);
    config.fingerprint_bytes = ByteSize(64);
    config.read_bytes = ByteSize(4096);
    edit(&mut config, |file| file.max_line_bytes = ByteSize(200));
    let log = FakeLog::new(seed, 3);
    log.mood(Mood::Moody);
    let mut random = StdRng::seed_from_u64(seed);
    let mut writers = [Writer::new(logs.join("a.log")), Writer::new(logs.join("b.log"))];
    // An agent that has been here before: rotated files that it never saw are new, not old.
    Running::start(&config, &data, &log).await.stop().await;
    let mut running = Some(Running::start(&config, &data, &log).await);
    let mut told = Vec::new();
    for _ in 0..steps {
        let writer = &mut writers[random.random_range(0..2)];
        let dice = random.random_range(0..100);
        told.push(format!("{} {}", writer.name, dice));
        match dice {
            0..50 => writer.write(&mut random),
            50..55 => writer.write_part(&mut random),
            55..65 => writer.rotate(),
            65..75 => writer.copytruncate(),
            75..80 => {
                if let Some(agent) = running.take() {
                    agent.stop().await;
                }
            }
            80..86 => {
                if let Some(agent) = running.take() {
                    agent.kill().await;
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await,
        }
        if running.is_none() && random.random_range(0..3) == 0 {
            running = Some(Running::start(&config, &data, &log).await);
        }
    }
    writers.iter_mut().for_each(Writer::complete);
    let agent = match running {
        Some(agent) => agent,
        None => Running::start(&config, &data, &log).await,
    };
    log.mood(Mood::Good);
    for writer in &writers {
        let have = || log.lines().into_iter().filter(|line| line.starts_with(&writer.name)).collect::<Vec<_>>();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while have().len() < writer.written.len() && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut got = have();
        got.sort();
        if got != writer.written {
            let missing: Vec<_> = writer.written.iter().filter(|line| got.binary_search(line).is_err()).collect();
            let doubled: Vec<_> = got.windows(2).filter(|w| w[0] == w[1]).map(|w| &w[0]).collect();
            let strange: Vec<_> = got.iter().filter(|line| writer.written.binary_search(line).is_err()).collect();
            let of: Vec<_> = log
                .deduplicated()
                .into_iter()
                .filter(|e| doubled.first().is_some_and(|line| e.line == line.as_bytes()))
                .map(|e| format!("{} at {}", e.source, e.position))
                .collect();
            let ledger = agent.ledger.snapshot().sources;
            let ledger: Vec<_> = ledger
                .iter()
                .map(|l| format!("{} {} {}..{} {}", l.source, l.filename, l.start, l.read_to, l.finished))
                .collect();
            panic!(
                "{of:?}\n{ledger:#?}\nseed {seed} glob {glob}: missing {missing:?}\ndoubled {doubled:?}\nstrange {strange:?}\n{told:?}\n{:#?}",
                listing(&logs)
            );
        }
    }
    // Within a source lines stand as written.
    let mut last = std::collections::HashMap::new();
    for event in log.deduplicated() {
        let before = last.insert(event.source, event.line.clone());
        assert!(before.is_none_or(|before| before < event.line), "seed {seed}: order in {}", event.source);
    }
    until("ledger adds up with nothing waiting", || {
        let ledger = agent.ledger.snapshot();
        ledger.adds_up() && ledger.total.waiting.lines == 0
    })
    .await;
    agent.stop().await;
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|e| {
            let first = std::fs::read_to_string(e.path()).unwrap();
            let first = first.lines().next().unwrap_or_default().to_owned();
            format!("{} {} {first}", e.file_name().to_string_lossy(), e.metadata().unwrap().len())
        })
        .collect();
    names.sort();
    names
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("MILLRACE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let first = std::env::var("MILLRACE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    first..first + count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_or_doubled_when_only_the_live_name_matches() {
    for seed in seeds() {
        history(seed, "*.log", 60).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_or_doubled_when_rotated_names_match_too() {
    for seed in seeds() {
        history(1000 + seed, "*.log*", 60).await;
    }
}
