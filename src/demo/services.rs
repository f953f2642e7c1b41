//! Five generated services in three regions that write real log files, and one burst of errors.
//!
//! In: a folder, a seed, when the burst is. Out: log files in the formats services really write (JSON, logfmt, nginx,
//! Java with stack traces, plain text), rotated by rename. Touches disk and clock. Tells when the burst began.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use millrace_log::clock::Clock;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

/// Regions that each service runs in.
pub const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-2"];

/// Services and how each writes.
pub const SERVICES: [(&str, Format); 5] = [
    ("checkout", Format::Json),
    ("payments", Format::Logfmt),
    ("edge", Format::Nginx),
    ("inventory", Format::Java),
    ("search", Format::Plain),
];

/// The service whose error rate bursts.
pub const BURST_SERVICE: &str = "checkout";
/// The region where it bursts.
pub const BURST_REGION: &str = "eu-west-1";

/// How a service writes its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Logfmt,
    /// nginx's combined access log.
    Nginx,
    /// log4j lines, errors with stack traces.
    Java,
    /// Free text.
    Plain,
}

/// When the burst is, and when its first line was written.
#[derive(Debug)]
pub struct Burst {
    /// Counted from the start.
    pub from: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// The moment of its first line, once written.
    pub began: Mutex<Option<Instant>>,
}

/// Path of a service's file below the demo's folder.
pub fn log_path(folder: &Path, service: &str, region: &str) -> PathBuf {
    folder.join("logs").join(region).join(format!("{service}.log"))
}

const TICK: Duration = Duration::from_millis(100);
/// Errors of the burst per tick: 60 a second.
const BURST_LINES: usize = 6;
const ROTATE_AT_BYTES: u64 = 512 * 1024;

struct Writer {
    path: PathBuf,
    file: File,
    written: u64,
}

impl Writer {
    fn open(path: PathBuf) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self { path, file, written: 0 })
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        if self.written > ROTATE_AT_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(text.as_bytes())?;
        self.written += text.len() as u64;
        Ok(())
    }
}

/// Writes until the token is cancelled. Blocks: runs on a thread of its own.
pub fn write_all(
    folder: &Path,
    seed: u64,
    burst: &Arc<Burst>,
    clock: &dyn Clock,
    token: &CancellationToken,
) -> std::io::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut writers = Vec::new();
    for (service, format) in SERVICES {
        for region in REGIONS {
            writers.push((service, format, region, Writer::open(log_path(folder, service, region))?));
        }
    }
    let start = Instant::now();
    let mut next = start;
    while !token.is_cancelled() {
        let since = start.elapsed();
        let bursting = since >= burst.from && since < burst.from + burst.lasts;
        for (service, format, region, writer) in &mut writers {
            let mut text = String::new();
            for _ in 0..random.random_range(0..4) {
                let level = if random.random_bool(0.01) { Level::Error } else { Level::Info };
                line(&mut text, *format, level, region, now(clock), &mut random);
            }
            let hit = bursting && *service == BURST_SERVICE && *region == BURST_REGION;
            if hit {
                for _ in 0..BURST_LINES {
                    line(&mut text, *format, Level::Error, region, now(clock), &mut random);
                }
            }
            writer.write(&text)?;
            if hit {
                burst.began.lock().get_or_insert_with(Instant::now);
            }
        }
        next += TICK;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn now(clock: &dyn Clock) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(clock.now_ns())
}

/// How bad a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All is well.
    Info,
    /// Something failed.
    Error,
}

/// Appends one entry (a Java error has several lines).
pub fn line(out: &mut String, format: Format, level: Level, region: &str, at: DateTime<Utc>, random: &mut StdRng) {
    use std::fmt::Write as _;
    let order: u32 = random.random_range(100_000..999_999);
    let ms: u32 = random.random_range(3..900);
    let trace: u64 = random.random();
    let stamp = at.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let failed = level == Level::Error;
    let word = if failed { "error" } else { "info" };
    // Writing to a String never fails.
    let written = match format {
        Format::Json => {
            let (msg, status) = if failed { ("payment gateway timed out", 504) } else { ("order placed", 200) };
            writeln!(
                out,
                r#"{{"ts":"{stamp}","level":"{word}","msg":"{msg}","order_id":{order},"status":{status},"duration_ms":{ms},"trace_id":"{trace:016x}","region":"{region}"}}"#
            )
        }
        Format::Logfmt => {
            let msg = if failed { "card declined by issuer" } else { "charge captured" };
            writeln!(
                out,
                r#"ts={stamp} level={word} msg="{msg}" charge=ch_{order} amount={ms}.{:02} trace={trace:016x}"#,
                order % 100
            )
        }
        Format::Nginx => {
            let status = if failed { 502 } else { 200 };
            let when = at.format("%d/%b/%Y:%H:%M:%S +0000");
            let (a, b) = (order % 250, ms % 250);
            writeln!(
                out,
                r#"10.{a}.{b}.{} - - [{when}] "GET /api/v1/items/{order} HTTP/1.1" {status} {} "-" "Mozilla/5.0 (X11; Linux x86_64)" {}.{:03}"#,
                trace % 250,
                ms * 37,
                ms / 1000,
                ms % 1000
            )
        }
        Format::Java if failed => writeln!(
            out,
            "{stamp} ERROR [worker-{}] c.e.inventory.StockService - reservation {order} failed\n\
             java.lang.IllegalStateException: stock of item {order} is negative\n\
             \tat com.example.inventory.StockService.reserve(StockService.java:{})\n\
             \tat com.example.inventory.Worker.run(Worker.java:58)\n\
             Caused by: java.util.concurrent.TimeoutException: no answer in {ms} ms\n\
             \t... 12 more",
            order % 8,
            ms
        ),
        Format::Java => writeln!(
            out,
            "{stamp} INFO  [worker-{}] c.e.inventory.StockService - reserved {} of item {order} in {ms} ms",
            order % 8,
            ms % 9 + 1
        ),
        Format::Plain => {
            let text = if failed { "ERROR shard did not answer, retrying" } else { "query answered" };
            writeln!(out, "{stamp} {text} q={order} hits={} took={ms}ms", trace % 5000)
        }
    };
    debug_assert!(written.is_ok(), "a String takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(format: Format, level: Level) -> String {
        let mut out = String::new();
        let at = DateTime::from_timestamp_nanos(1_772_366_400_123_000_000);
        line(&mut out, format, level, "eu-west-1", at, &mut StdRng::seed_from_u64(1));
        out
    }

    #[test]
    fn each_service_writes_its_own_format() {
        let json: serde_json::Value = serde_json::from_str(&one(Format::Json, Level::Error)).unwrap();
        assert_eq!((&json["level"], &json["status"]), (&"error".into(), &504.into()));
        assert!(one(Format::Logfmt, Level::Info).contains(" level=info msg=\"charge captured\" "));
        assert!(one(Format::Nginx, Level::Error).contains("\" 502 "));
        assert_eq!(one(Format::Java, Level::Error).lines().count(), 6);
        assert!(one(Format::Plain, Level::Info).starts_with("2026-03-01T12:00:00.123Z query answered"));
    }
}
