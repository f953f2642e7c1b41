//! What a split costs: CPU to write and to merge, bytes on disk, and time of some questions.
//!
//! In: real lines of `$MILLRACE_SHARED/data` (see the README there), repeated with varied numbers to
//! `MILLRACE_BENCH_MB` megabytes (200). Out: one line per measurement on the terminal. Touches a temporary folder.
//!
//! `cargo bench -p millrace-index --bench split`
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A measurement that can't be made should end loudly.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_index::scan::{Budget, Kind, Plan, StreamInfo};
use millrace_index::split::{SplitReader, SplitWriter, StoredEvent, merge};
use millrace_log::fs::RealFs;
use millrace_log::record::{Labels, Position, SourceId, Tenant};
use millrace_logql::storage::{LabelMatcher, LineNeedle, MatchOp, Order};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn main() {
    let shared = std::env::var_os("MILLRACE_SHARED").map_or_else(|| PathBuf::from("../../shared"), PathBuf::from);
    let file = shared.join("data/loghub-2k.tsv.gz");
    if !file.exists() {
        println!("{} is missing: set MILLRACE_SHARED", file.display());
        return;
    }
    let megabytes: usize = std::env::var("MILLRACE_BENCH_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(200);
    let events = events(&file, megabytes * 1_000_000);
    let raw: usize = events.iter().map(|e| e.line.len()).sum();
    println!("{} lines, {:.1} MB", events.len(), raw as f64 / 1e6);

    let (dir, fs) = (tempfile::tempdir().unwrap(), RealFs::shared());
    let middle = events.len() / 2;
    let wanted_id = id_of(&events[middle].line);
    let (first, second) = events.split_at(middle);
    let parts = [first.to_vec(), second.to_vec()];
    drop(events);
    let writer = SplitWriter::new(&fs);
    let (cpu, wall) = (cpu(), Instant::now());
    let mut splits = Vec::new();
    for (i, part) in parts.into_iter().enumerate() {
        let path = dir.path().join(format!("part{i}"));
        writer.write(&path, &Tenant::default(), part).unwrap();
        splits.push(SplitReader::open(&fs, &path).unwrap());
    }
    report("write", raw, cpu, wall);
    let (cpu, wall) = (self::cpu(), Instant::now());
    let out = dir.path().join("merged");
    let meta = merge(&fs, &splits, &out, |_| false).unwrap();
    report("merge", raw, cpu, wall);
    println!("index / raw: {:.3}", meta.disk_bytes as f64 / raw as f64);
    for (name, bytes) in sizes(&out) {
        println!("  {name}: {:.4}", bytes as f64 / raw as f64);
    }

    let split = SplitReader::open(&fs, &out).unwrap();
    let app = LabelMatcher::new("app", MatchOp::Equal, "Zookeeper").unwrap();
    let plan = |needles: &[&str], order, expect| Plan {
        tenant: Tenant::default(),
        matchers: Vec::new(),
        start_ns: i64::MIN,
        end_ns: i64::MAX,
        needles: needles.iter().map(|n| LineNeedle { text: n.as_bytes().to_vec(), ignore_case: false }).collect(),
        kind: Kind::All,
        order,
        expect,
        budget: Budget::default(),
    };
    for (name, plan) in [
        ("first needle opens the word index", plan(&["no such words anywhere"], Order::Any, None)),
        ("rare word", plan(&["zanzibar"], Order::Any, None)),
        ("rare word, newest first", plan(&["zanzibar"], Order::Backward, Some(100))),
        ("part of a rare word", plan(&["anziba"], Order::Any, None)),
        ("a pasted id", plan(&[&wanted_id], Order::Any, None)),
        ("a common word", plan(&["error"], Order::Any, None)),
        ("a common word, newest 100", plan(&["error"], Order::Backward, Some(100))),
        ("three digits", plan(&["777"], Order::Any, None)),
        ("newest 100", plan(&[], Order::Backward, Some(100))),
        ("one stream", Plan { matchers: vec![app], ..plan(&[], Order::Any, None) }),
        ("everything", plan(&[], Order::Any, None)),
        ("everything, in order", plan(&[], Order::Forward, None)),
    ] {
        let wall = Instant::now();
        let (mut rows, most) = (0, plan.expect.unwrap_or(usize::MAX));
        let mut scan = split.scan(&plan);
        while let Some(batch) = scan.next().filter(|_| rows < most) {
            rows += batch.unwrap().rows.len();
        }
        let (blocks, read) = (scan.blocks_read(), scan.bytes_read() as f64 / 1e6);
        println!("{name}: {:?}, {rows} rows, {blocks} blocks, {read:.1} MB read", wall.elapsed());
    }
}

fn report(what: &str, raw: usize, before: Duration, wall: Instant) {
    let spent = cpu() - before;
    let megabytes = raw as f64 / 1e6;
    println!("{what}: {:.1} MB per CPU-second ({spent:?} CPU, {:?})", megabytes / spent.as_secs_f64(), wall.elapsed());
}

/// CPU time of the process, user and system, in steps of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn sizes(dir: &Path) -> Vec<(String, u64)> {
    let mut sizes: Vec<(String, u64)> = walkdir::WalkDir::new(dir)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let name = entry.path().strip_prefix(dir).unwrap().display().to_string();
            (name, entry.metadata().unwrap().len())
        })
        .collect();
    sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    sizes.truncate(6);
    sizes
}

/// The longest word with digits of a line.
fn id_of(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| w.bytes().any(|b| b.is_ascii_digit()));
    words.max_by_key(|w| w.len()).unwrap_or("4711").to_owned()
}

/// Runs of 500 lines of one system; half of the numbers of three or more digits get new digits.
fn events(file: &Path, bytes: usize) -> Vec<StoredEvent> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_end(&mut text).unwrap();
    let mut systems: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for line in text.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let tab = line.iter().position(|&b| b == b'\t').unwrap();
        let name = String::from_utf8_lossy(&line[..tab]).into_owned();
        if systems.last().is_none_or(|(last, _)| *last != name) {
            systems.push((name, Vec::new()));
        }
        systems.last_mut().unwrap().1.push(line[tab + 1..].to_vec());
    }
    let mut random = StdRng::seed_from_u64(7);
    let topic: Arc<str> = "logs".into();
    let (mut events, mut written, mut time_ns) = (Vec::new(), 0, 1_772_366_400_000_000_000i64);
    let streams: Vec<(StreamInfo, SourceId)> = (0..systems.len() * 10)
        .map(|i| {
            let (name, host) = (&systems[i / 10].0, format!("host-{}", i % 10));
            let labels = Labels::new([("app", name.as_str()), ("host", host.as_str())]);
            (StreamInfo { labels, topic: topic.clone() }, SourceId(random.random()))
        })
        .collect();
    let mut offsets = vec![0u64; streams.len()];
    while written < bytes {
        let system = random.random_range(0..systems.len());
        let number = system * 10 + random.random_range(0..10);
        let lines = &systems[system].1;
        let start = random.random_range(0..lines.len());
        for i in 0..500 {
            time_ns += random.random_range(0..2_000_000);
            let when = chrono::DateTime::from_timestamp_nanos(time_ns);
            let mut line = when.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into_bytes();
            line.push(b' ');
            vary(&lines[(start + i) % lines.len()], &mut random, &mut line);
            if random.random_ratio(1, 100_000) {
                line.extend_from_slice(b" zanzibar");
            }
            written += line.len();
            let position = Position::at(offsets[number]);
            offsets[number] += line.len() as u64 + 1;
            events.push(StoredEvent {
                stream: streams[number].0.clone(),
                time_ns,
                source: streams[number].1,
                position,
                line: Bytes::from(line),
                metadata: Labels::default(),
                doc: None,
                cut: false,
                time_from_line: true,
            });
        }
    }
    events
}

fn vary(line: &[u8], random: &mut StdRng, out: &mut Vec<u8>) {
    for run in line.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
        if run[0].is_ascii_digit() && run.len() >= 3 && random.random_bool(0.5) {
            out.extend((0..run.len()).map(|_| random.random_range(b'0'..=b'9')));
        } else {
            out.extend_from_slice(run);
        }
    }
}
