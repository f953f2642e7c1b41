//! Tests of the whole storage, on files in memory unless a test says otherwise.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::records::Compression;
use proptest::prelude::*;

mod cleaner;
mod compression;
mod events;
mod faults;
mod fsck;
mod model;
mod committed_offsets;

use super::batch::tests::{NOBODY, Producer, batch, batch_of, keyed};
use super::batch::{HEADER, Header, crc_holds};
use super::*;
use millrace_log::clock::{Clock as _, ManualClock};
use millrace_log::fs::{RealFs, SimFs};
use millrace_log::value::{ByteSize, Span};

const NOW_MS: i64 = 1_700_000_000_000;
const DIR: &str = "data/log";

fn clock() -> Arc<ManualClock> {
    ManualClock::at_ns(NOW_MS * 1_000_000)
}

fn config() -> StorageConfig {
    StorageConfig { write_threads: 1, read_threads: 1, queue: 16, ..StorageConfig::default() }
}

fn open(fs: &SimFs) -> Arc<Storage> {
    Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock(), config()).unwrap()
}

async fn topic(storage: &Arc<Storage>, settings: &[(&str, &str)]) -> Arc<Partition> {
    let settings = TopicSettings::from_pairs(settings.iter().copied()).unwrap();
    storage.create_topic("t", 1, settings).await.unwrap().partition(0).unwrap()
}

fn partition(storage: &Arc<Storage>) -> Arc<Partition> {
    storage.topic("t").unwrap().partition(0).unwrap()
}

async fn append(partition: &Arc<Partition>, bytes: Bytes) -> Result<i64, AppendError> {
    let appended = partition.append(bytes, AppendKind::Client).await?;
    partition.flushed(appended.last_offset).await?;
    Ok(appended.base_offset)
}

/// (first, last) offsets of whole batches; each with a right CRC.
fn offsets(mut records: &[u8]) -> Vec<(i64, i64)> {
    let mut found = Vec::new();
    while let Some(header) = Header::parse(records) {
        let (batch, rest) = records.split_at(header.size());
        assert!(crc_holds(&header, batch), "CRC at {}", header.base_offset);
        found.push((header.base_offset, header.last_offset()));
        records = rest;
    }
    assert!(records.is_empty());
    found
}

/// All batches from the start, read in small steps.
async fn read_all(partition: &Arc<Partition>, max_bytes: usize) -> Vec<(i64, i64)> {
    let mut all = Vec::new();
    let mut from = partition.log_start_offset();
    loop {
        let read = partition.read(from, max_bytes, true).await.unwrap();
        let some = offsets(&read.records);
        let Some((_, last)) = some.last() else {
            assert_eq!(from, read.high_watermark);
            return all;
        };
        from = last + 1;
        all.extend(some);
    }
}

fn segment_path(base: i64, ending: &str) -> PathBuf {
    Path::new(DIR).join("t-0").join(format!("{base:020}.{ending}"))
}

/// A clean stop, then another start on the same disk.
async fn restart(storage: Arc<Storage>, fs: &SimFs) -> Arc<Storage> {
    storage.close().await.unwrap();
    drop(storage);
    open(fs)
}

#[tokio::test]
async fn batches_come_back_as_stored_across_segments_and_restarts() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "2000")]).await;
    let mut want = Vec::new();
    for n in 0..100 {
        let base = append(&p, batch(1 + n % 5, NOW_MS + n as i64, NOBODY)).await.unwrap();
        want.push((base, base + (n % 5) as i64));
    }
    assert!(fs.files().iter().filter(|path| path.extension().is_some_and(|e| e == "log")).count() > 5);
    for max_bytes in [1, 300, 1000, 1 << 20] {
        assert_eq!(read_all(&p, max_bytes).await, want, "{max_bytes}");
    }
    drop(p);
    let storage = restart(storage, &fs).await;
    let p = partition(&storage);
    assert_eq!(read_all(&p, 700).await, want);
    let end = p.log_end_offset();
    assert_eq!(append(&p, batch(1, NOW_MS, NOBODY)).await.unwrap(), end);
    // From inside of a batch: the whole batch.
    let (first, last) = want[42];
    assert!(last > first);
    let read = p.read(last, 1, true).await.unwrap();
    assert_eq!(offsets(&read.records), [(first, last)]);
    assert!(p.read(last, 1, false).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn offsets_outside_are_refused() {
    let storage = open(&SimFs::new());
    let p = topic(&storage, &[]).await;
    append(&p, batch(3, NOW_MS, NOBODY)).await.unwrap();
    for (from, want) in [(-1, false), (0, true), (2, true), (3, true), (4, false)] {
        assert_eq!(p.read(from, 100, true).await.is_ok(), want, "{from}");
    }
    assert_eq!(p.read(4, 100, true).await.unwrap_err().to_string(), "offset 4 is outside of [0, 3]");
}

#[tokio::test]
async fn a_folder_has_one_owner_and_no_newer_format() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let again = || Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock(), config()).map(|_| ());
    assert_eq!(
        again().unwrap_err().to_string(),
        "data folder data/log is in use by another process: stop it first, or use another folder (`data_dir`)"
    );
    storage.close().await.unwrap();
    again().unwrap();
    for (version, want) in [
        (
            "2\n",
            "data folder data/log has format 2, this version reads up to 1: run the newer version of millrace, or use an empty folder",
        ),
        (
            "one",
            "data/log/VERSION is damaged (invalid version `one`): restore it from a backup, or move the folder away to start empty",
        ),
    ] {
        fs.set_content(&Path::new(DIR).join("VERSION"), version.into());
        assert_eq!(again().unwrap_err().to_string(), want);
    }
}

#[tokio::test]
async fn the_real_disk_holds_the_lock_and_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Storage::open(&dir.path().join("log"), RealFs::shared(), clock(), config());
    let storage = open().unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains(&format!("is in use by process {}", std::process::id())), "{error}");
    let p = topic(&storage, &[("segment.bytes", "1024")]).await;
    for n in 0..50 {
        append(&p, batch(2, NOW_MS + n, NOBODY)).await.unwrap();
    }
    let want = read_all(&p, 512).await;
    assert_eq!(want.len(), 50);
    drop(p);
    storage.close().await.unwrap();
    drop(storage);
    let storage = open().unwrap();
    assert_eq!(read_all(&partition(&storage), 512).await, want);
}

#[tokio::test]
async fn topics_keep_ids_and_settings_and_deleted_ones_are_gone() {
    let fs = SimFs::new();
    let storage = open(&fs);
    for (name, partitions, want) in [
        ("", 1, "invalid topic name ``: use 1 to 249 of a-z, A-Z, 0-9, `.`, `_`, `-`, and not `.` or `..`"),
        ("a/b", 1, "invalid topic name `a/b`: use 1 to 249 of a-z, A-Z, 0-9, `.`, `_`, `-`, and not `.` or `..`"),
        ("a", 0, "topic a can't have 0 partitions: it has 0, and the number may grow up to 10000"),
    ] {
        let made = storage.create_topic(name, partitions, TopicSettings::default()).await;
        assert_eq!(made.unwrap_err().to_string(), want);
    }
    let settings = TopicSettings::from_pairs([("retention.ms", "1000")]).unwrap();
    let id = storage.create_topic("a", 2, settings.clone()).await.unwrap().id();
    assert!(matches!(storage.create_topic("a", 2, settings).await, Err(StorageError::TopicExists(_))));
    storage.add_partitions("a", 3).await.unwrap();
    assert!(storage.add_partitions("a", 3).await.is_err());
    let b = storage.create_topic("b", 1, TopicSettings::default()).await.unwrap();
    append(&b.partition(0).unwrap(), batch(5, NOW_MS, NOBODY)).await.unwrap();
    fs.crash();
    drop((storage, b));
    let storage = open(&fs);
    let a = storage.topic("a").unwrap();
    assert_eq!((a.id(), a.partition_count(), a.settings().get("retention.ms")), (id, 3, Some("1000")));
    assert!(Arc::ptr_eq(&storage.topic_by_id(id).unwrap(), &a));
    let b = storage.topic("b").unwrap().partition(0).unwrap();
    assert_eq!(b.log_end_offset(), 5);
    storage.delete_topic("b").await.unwrap();
    assert!(matches!(b.append(batch(1, NOW_MS, NOBODY), AppendKind::Client).await, Err(AppendError::Deleted)));
    assert!(matches!(b.read(0, 1, true).await, Err(ReadError::Deleted)));
    assert!(matches!(storage.delete_topic("b").await, Err(StorageError::UnknownTopic(_))));
    let b = storage.create_topic("b", 1, TopicSettings::default()).await.unwrap();
    assert_eq!(b.partition(0).unwrap().log_end_offset(), 0);
    storage.alter_topic("a", TopicSettings::default()).await.unwrap();
    fs.crash();
    drop((storage, a, b));
    let storage = open(&fs);
    assert_eq!(storage.topic("a").unwrap().settings(), TopicSettings::default());
    assert_eq!(storage.topics().iter().map(|t| t.name().to_owned()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn settings_are_checked() {
    for (name, value, want) in [
        ("retention.ms", "-1", ""),
        ("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
        ("cleanup.policy", "compact,delete", ""),
        (
            "cleanup.policy",
            "burn",
            "Invalid value burn for configuration cleanup.policy: String must be one of: compact, delete",
        ),
        ("message.timestamp.type", "LogAppendTime", ""),
        (
            "preallocate",
            "yes",
            "Invalid value yes for configuration preallocate: Expected value to be either true or false",
        ),
        ("compression.type", "gzip", ""),
        (
            "compression.type",
            "brotli",
            "Invalid value brotli for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer",
        ),
        ("compression.gzip.level", "-1", ""),
        (
            "compression.gzip.level",
            "0",
            "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
        ),
        (
            "compression.zstd.level",
            "23",
            "Invalid value 23 for configuration compression.zstd.level: Value must be between -131072 and 22",
        ),
        (
            "segment.bytes",
            "3000000000",
            "Invalid value 3000000000 for configuration segment.bytes: Not a number of type INT",
        ),
        ("no.such", "1", "Unknown topic config name: no.such"),
        ("cleanup.policy", "", ""),
        (
            "cleanup.policy",
            "compact,",
            "Invalid value  for configuration cleanup.policy: String must be one of: compact, delete",
        ),
        ("retention.ms", " 5 ", ""),
        ("preallocate", "TRUE", ""),
        ("local.retention.ms", "-2", ""),
        (
            "local.retention.ms",
            "-3",
            "Invalid value -3 for configuration local.retention.ms: Value must be at least -2",
        ),
        ("remote.log.copy.disable", "true", ""),
        ("remote.storage.enable", "false", ""),
        (
            "remote.storage.enable",
            "true",
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.",
        ),
        ("leader.replication.throttled.replicas", "0:1, 1:1", ""),
        ("leader.replication.throttled.replicas", "*", ""),
        (
            "follower.replication.throttled.replicas",
            "0:1,*",
            "Invalid value [0:1, *] for configuration follower.replication.throttled.replicas: follower.replication.throttled.replicas must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
        ),
    ] {
        let got = TopicSettings::from_pairs([(name, value)]).map_or_else(|e| e.to_string(), |_| String::new());
        assert_eq!(got, want);
    }
    assert!(SETTINGS.is_sorted_by_key(|spec| spec.name));
    let config = StorageConfig::default();
    for spec in SETTINGS {
        let default = spec.default(&config);
        assert_eq!(TopicSettings::default().set(spec.name, &default), Ok(()), "{}", spec.name);
    }
    let mut faults = millrace_log::value::Faults::default();
    config.check(&mut faults);
    assert!(faults.is_empty());
}

/// Five batches on a disk, synced, and where each ends in the file.
async fn five_batches() -> (SimFs, Vec<usize>) {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    let mut ends = Vec::new();
    for n in 0..5 {
        append(&p, batch(2, NOW_MS + n, (9, 0, 2 * n as i32))).await.unwrap();
        ends.push(usize::try_from(p.size_bytes()).unwrap());
    }
    fs.kill();
    (fs, ends)
}

#[tokio::test]
async fn recovery_cuts_a_torn_tail_at_each_byte_and_never_more() {
    let (fs, ends) = five_batches().await;
    let path = segment_path(0, "log");
    let content = fs.content(&path).unwrap();
    for len in 0..=content.len() {
        for rest in [0_usize, 40] {
            // What a torn write leaves: a prefix, or a prefix and zeros.
            let fs = fs.fork();
            let mut torn = content[..len].to_vec();
            torn.resize((len + rest).min(content.len()), 0);
            // Zeros may happen to be what was written.
            let whole = ends.iter().filter(|end| torn.get(..**end) == content.get(..**end)).count();
            fs.set_content(&path, torn);
            let storage = open(&fs);
            let p = partition(&storage);
            let want: Vec<_> = (0..whole as i64).map(|n| (2 * n, 2 * n + 1)).collect();
            assert_eq!(read_all(&p, 1 << 20).await, want, "cut at {len} + {rest}");
            assert_eq!(fs.content(&path).unwrap().len(), whole.checked_sub(1).map_or(0, |n| ends[n]));
            assert!(p.holes().is_empty());
            // The producer goes on where it was.
            let next = append(&p, batch(2, NOW_MS, (9, 0, 2 * whole as i32))).await;
            assert_eq!(next.unwrap(), 2 * whole as i64, "cut at {len}");
        }
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_a_hole_and_the_rest_is_served() {
    let (fs, ends) = five_batches().await;
    let path = segment_path(0, "log");
    let content = fs.content(&path).unwrap();
    for at in ends[0]..ends[3] {
        // The epoch is not checked by anyone.
        let within = at - ends.iter().rev().find(|end| **end <= at).unwrap();
        if (12..16).contains(&within) {
            continue;
        }
        for flip in [0x01, 0x80, 0xff] {
            let fs = fs.fork();
            let mut bad = content.clone();
            bad[at] ^= flip;
            fs.set_content(&path, bad);
            let mut storage = open(&fs);
            let hit = ends.iter().filter(|end| **end <= at).count() as i64;
            let want: Vec<_> = (0..5).filter(|n| *n != hit).map(|n| (2 * n, 2 * n + 1)).collect();
            for start in ["after a crash", "after a clean stop"] {
                let p = partition(&storage);
                for max_bytes in [1, 1 << 20] {
                    assert_eq!(read_all(&p, max_bytes).await, want, "byte {at} ^ {flip:x} {start}");
                }
                let holes = p.holes();
                assert_eq!(holes.len(), 1);
                assert_eq!((holes[0].from_offset, holes[0].to_offset), (2 * hit, 2 * hit + 2));
                assert_eq!(holes[0].position as usize, ends[hit as usize - 1]);
                assert_eq!(p.log_end_offset(), 10);
                drop(p);
                storage = restart(storage, &fs).await;
            }
        }
    }
}

#[tokio::test]
async fn damage_that_comes_while_running_is_passed_over() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024")]).await;
    for n in 0..40 {
        append(&p, batch(2, NOW_MS + n, NOBODY)).await.unwrap();
    }
    let all = read_all(&p, 1 << 20).await;
    let path = segment_path(0, "log");
    let content = fs.content(&path).unwrap();
    let size = Header::parse(&content).unwrap().size();
    // A length that leads nowhere, in the third batch of the first, finished segment; then all of it from there.
    let file = Filesystem::open(&fs, &path).unwrap();
    file.write_at(2 * size as u64 + 8, &mut [std::io::IoSlice::new(&[0x7f])]).unwrap();
    let want: Vec<_> = all.iter().copied().filter(|(base, _)| *base != 4).collect();
    assert_eq!(read_all(&p, 1).await, want);
    assert_eq!(p.verify().await.unwrap().len(), 1);
    storage.run_retention_once(NOW_MS).await;
    assert_eq!(storage.metrics().damaged_places.get(), 1);
    let end = content.len() - 2 * size;
    file.write_at(2 * size as u64, &mut [std::io::IoSlice::new(&vec![0xee; end])]).unwrap();
    let storage = {
        drop(p);
        restart(storage, &fs).await
    };
    let p = partition(&storage);
    let per_segment = (content.len() / size) as i64;
    let want: Vec<_> = all.iter().copied().filter(|(base, _)| *base < 4 || *base >= 2 * per_segment).collect();
    assert_eq!(read_all(&p, 1).await, want);
    assert_eq!(p.log_end_offset(), 80);
}

#[tokio::test]
async fn repeats_are_answered_after_restarts() {
    for clean in [true, false] {
        let fs = SimFs::new();
        let storage = open(&fs);
        let p = topic(&storage, &[("segment.bytes", "1024")]).await;
        for n in 0..20 {
            append(&p, batch(2, NOW_MS, (7, 3, 2 * n))).await.unwrap();
        }
        if clean {
            storage.close().await.unwrap();
        } else {
            fs.crash();
        }
        drop((p, storage));
        let storage = open(&fs);
        let p = partition(&storage);
        let repeat = p.append(batch(2, NOW_MS, (7, 3, 38)), AppendKind::Client).await.unwrap();
        assert_eq!((repeat.base_offset, repeat.last_offset, repeat.duplicate), (38, 39, true), "{clean}");
        let gap = p.append(batch(2, NOW_MS, (7, 3, 44)), AppendKind::Client).await.unwrap_err();
        assert_eq!(gap.to_string(), "producer 7 epoch 3: sequence 44 does not follow 39");
        let old = p.append(batch(2, NOW_MS, (7, 2, 0)), AppendKind::Client).await.unwrap_err();
        assert_eq!(old.to_string(), "producer 7 epoch 2 is fenced (current epoch 3)");
        // Without snapshots the state is scanned from the segments.
        drop(p);
        storage.close().await.unwrap();
        drop(storage);
        for path in fs.files().iter().filter(|path| path.extension().is_some_and(|e| e == "producers")) {
            Filesystem::remove(&fs, path).unwrap();
        }
        let storage = open(&fs);
        let p = partition(&storage);
        assert!(p.append(batch(2, NOW_MS, (7, 3, 36)), AppendKind::Client).await.unwrap().duplicate);
        assert_eq!(append(&p, batch(1, NOW_MS, (7, 3, 40))).await.unwrap(), 40);
    }
}

#[tokio::test]
async fn consumers_see_nothing_before_it_is_flushed() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    append(&p, batch(1, NOW_MS, NOBODY)).await.unwrap();
    fs.fail_next_syncs(1);
    let second = p.append(batch(1, NOW_MS, NOBODY), AppendKind::Client).await.unwrap();
    let failed = p.flushed(second.last_offset).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "writing to data/log/t-0 failed (fsync: sync failed (simulated)): check the disk, then restart; reads continue"
    );
    assert_eq!(storage.writable(), Err(NotWritable::Failed { partitions: 1 }));
    // Never again, although the disk would say yes now.
    for _ in 0..2 {
        let refused = p.append(batch(1, NOW_MS, NOBODY), AppendKind::Client).await;
        assert!(matches!(refused, Err(AppendError::Failed { .. })));
    }
    assert_eq!(p.high_watermark(), 1);
    assert_eq!(offsets(&p.read(0, 1 << 20, true).await.unwrap().records), [(0, 0)]);
    assert!(p.read(1, 1 << 20, true).await.unwrap().records.is_empty());
    assert!(matches!(storage.close().await, Err(StorageError::Unflushed(_))));
    fs.crash();
    drop((storage, p));
    let storage = open(&fs);
    let p = partition(&storage);
    assert_eq!(append(&p, batch(1, NOW_MS, NOBODY)).await.unwrap(), 1);
}

#[tokio::test]
async fn one_fsync_serves_all_that_wait() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    let before = fs.syncs();
    let appends = (0..500).map(|_| append(&p, batch(1, NOW_MS, NOBODY)));
    let got: BTreeSet<i64> = futures::future::join_all(appends).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(got, (0..500).collect());
    assert!(fs.syncs() - before < 500, "{} syncs for 500 appends", fs.syncs() - before);
}

#[tokio::test]
async fn flush_policies_move_the_high_watermark_as_promised() {
    for (flush, synced) in [(FlushPolicy::Always, true), (FlushPolicy::Interval, false), (FlushPolicy::Os, false)] {
        let fs = SimFs::new();
        let config = StorageConfig { flush, ..config() };
        let open = || Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock(), config.clone()).unwrap();
        let storage = open();
        let p = topic(&storage, &[]).await;
        append(&p, batch(1, NOW_MS, NOBODY)).await.unwrap();
        assert_eq!(p.high_watermark(), 1);
        if flush == FlushPolicy::Interval {
            p.flush_soon();
            while p.log().is_dirty() {
                tokio::task::yield_now().await;
            }
        }
        fs.crash();
        drop((storage, p));
        let kept = synced || flush == FlushPolicy::Interval;
        assert_eq!(partition(&open()).log_end_offset(), i64::from(kept), "{flush:?}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_new_data_and_serves_the_old() {
    for space in 0..400 {
        let fs = SimFs::new();
        let storage = open(&fs);
        let p = topic(&storage, &[("segment.bytes", "1024")]).await;
        append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap();
        fs.set_space_left(Some(space));
        let mut stored = 1;
        let refused = loop {
            match append(&p, batch(2, NOW_MS, NOBODY)).await {
                Ok(_) => stored += 1,
                Err(e) => break e,
            }
        };
        assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
        assert!(matches!(storage.writable(), Err(NotWritable::Full { .. })), "{space}");
        assert_eq!(read_all(&p, 1 << 20).await.len(), stored);
        if space % 2 == 0 {
            // Space comes back, and it goes on by itself.
            fs.set_space_left(Some(1 << 20));
            assert!(matches!(storage.writable(), Err(NotWritable::Full { .. })), "too little room to say so");
            fs.set_space_left(None);
            assert_eq!(storage.writable(), Ok(()), "{space}");
            for n in stored..stored + 20 {
                assert_eq!(append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap(), 2 * n as i64);
            }
            stored += 20;
        }
        fs.set_space_left(None);
        fs.kill();
        drop((storage, p));
        assert_eq!(read_all(&partition(&open(&fs)), 1 << 20).await.len(), stored, "{space}");
    }
}

#[tokio::test]
async fn retention_frees_a_full_disk() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024"), ("retention.bytes", "2048")]).await;
    for _ in 0..40 {
        append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap();
    }
    fs.set_space_left(Some(0));
    while append(&p, batch(2, NOW_MS, NOBODY)).await.is_ok() {}
    let end = p.log_end_offset();
    storage.run_retention_once(NOW_MS).await;
    assert!(p.log_start_offset() > 0);
    assert_eq!(append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap(), end);
    let (start, want) = (p.log_start_offset(), read_all(&p, 1 << 20).await);
    fs.set_space_left(None);
    fs.crash();
    drop((storage, p));
    let p = partition(&open(&fs));
    assert_eq!((p.log_start_offset(), read_all(&p, 1 << 20).await), (start, want));
}

#[tokio::test]
async fn a_wrong_index_hides_nothing() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "40000")]).await;
    for n in 0..300 {
        append(&p, batch(20, NOW_MS + n, NOBODY)).await.unwrap();
    }
    let want = read_all(&p, 1 << 20).await;
    let path = segment_path(0, "index");
    let good = fs.content(&path).unwrap();
    for at in (0..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0x15;
        fs.set_content(&path, bad);
        assert_eq!(read_all(&p, 1).await, want, "byte {at}");
        assert!(p.holes().is_empty(), "byte {at}");
    }
}

#[tokio::test]
async fn torn_and_failing_writes_leave_nothing_behind() {
    for torn in 0..120 {
        let fs = SimFs::new();
        let storage = open(&fs);
        let p = topic(&storage, &[]).await;
        append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap();
        let len = p.size_bytes();
        fs.tear_next_write(torn);
        let refused = p.append(batch(2, NOW_MS, NOBODY), AppendKind::Client).await;
        assert!(matches!(refused, Err(AppendError::Failed { .. })));
        assert_eq!(fs.content(&segment_path(0, "log")).unwrap().len() as u64, len);
        assert_eq!(read_all(&p, 1 << 20).await, [(0, 1)]);
    }
}

#[tokio::test]
async fn indexes_are_made_again_when_missing_or_wrong() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "40000")]).await;
    for n in 0..300 {
        append(&p, batch(20, NOW_MS + n, NOBODY)).await.unwrap();
    }
    let want = read_all(&p, 1 << 20).await;
    drop(p);
    storage.close().await.unwrap();
    drop(storage);
    let good: Vec<(PathBuf, Vec<u8>)> = fs
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "index" || e == "timeindex"))
        .map(|path| (path.clone(), fs.content(&path).unwrap()))
        .collect();
    assert!(good.len() >= 6 && good[0].1.len() > 40);
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 5] = [
        ("emptied", |bytes| bytes.clear()),
        ("cut within an entry", |bytes| bytes.truncate(bytes.len().saturating_sub(3))),
        ("last entry gone", |bytes| bytes.truncate(bytes.len().saturating_sub(24))),
        ("zeros at the end", |bytes| bytes.extend([0; 24])),
        ("last entry elsewhere", |bytes| {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
        }),
    ];
    for (harm, change) in harms {
        for (path, content) in &good {
            let fs = fs.fork();
            let mut bad = content.clone();
            change(&mut bad);
            fs.set_content(path, bad);
            let storage = open(&fs);
            assert_eq!(read_all(&partition(&storage), 5000).await, want, "{harm} {}", path.display());
            storage.close().await.unwrap();
            // A time index may say less than it could, never something wrong.
            if path.extension().is_some_and(|e| e == "index") {
                assert_eq!(fs.content(path).as_ref(), Some(content), "{harm} {}", path.display());
            }
        }
    }
    let fs2 = fs.fork();
    good.iter().for_each(|(path, _)| Filesystem::remove(&fs2, path).unwrap());
    let storage = open(&fs2);
    assert_eq!(read_all(&partition(&storage), 5000).await, want);
    storage.close().await.unwrap();
    for (path, content) in &good {
        assert_eq!(fs2.content(path).as_ref(), Some(content), "{}", path.display());
    }
}

/// Checks an index the way Kafka's dump tool does: each entry names the last offset of the batch at its position.
#[tokio::test]
async fn indexes_are_laid_out_as_kafka_reads_them() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    for n in 0..120 {
        append(&p, batch(20, NOW_MS + n, NOBODY)).await.unwrap();
    }
    storage.close().await.unwrap();
    let log = fs.content(&segment_path(0, "log")).unwrap();
    let index = fs.content(&segment_path(0, "index")).unwrap();
    assert!(index.len() >= 8 * 5);
    for entry in index.chunks(8) {
        let relative = u32::from_be_bytes(entry[..4].try_into().unwrap());
        let position = u32::from_be_bytes(entry[4..].try_into().unwrap()) as usize;
        assert_eq!(Header::parse(&log[position..]).unwrap().last_offset(), i64::from(relative));
    }
    let times = fs.content(&segment_path(0, "timeindex")).unwrap();
    assert_eq!(times.len() / 12, index.len() / 8 + 1);
    for entry in times.chunks(12) {
        let timestamp = i64::from_be_bytes(entry[..8].try_into().unwrap());
        let relative = i64::from(u32::from_be_bytes(entry[8..].try_into().unwrap()));
        assert_eq!((timestamp - NOW_MS + 1) * 20 - 1, relative);
    }
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "20000")]).await;
    assert_eq!(p.max_timestamp().await.unwrap(), None);
    // Three records per batch, 10 ms apart; every seventh batch is dated back.
    let mut all = Vec::new();
    for n in 0..400_i64 {
        let base = NOW_MS + if n % 7 == 6 { n - 100 } else { n * 30 };
        let times = [base, base + 10, base + 20];
        let records: Vec<(i64, &str)> = times.iter().map(|t| (*t, "some text that takes its room")).collect();
        let codec = if n % 2 == 0 { Compression::None } else { Compression::Zstd };
        append(&p, batch_of(&records, NOBODY, codec)).await.unwrap();
        all.extend(times);
    }
    for round in 0..2 {
        let p = partition(&storage);
        for wanted in (NOW_MS - 200..NOW_MS + 400 * 30 + 50).step_by(37) {
            let want = all
                .iter()
                .position(|t| *t >= wanted)
                .map(|at| TimestampOffset { timestamp_ms: all[at], offset: at as i64 });
            assert_eq!(p.offset_for_time(wanted).await.unwrap(), want, "{wanted} in round {round}");
        }
        let most = all.iter().max().unwrap();
        let at = all.iter().position(|t| t == most).unwrap() as i64;
        assert_eq!(p.max_timestamp().await.unwrap(), Some(TimestampOffset { timestamp_ms: *most, offset: at }));
        if round == 0 {
            p.delete_records(100).await.unwrap();
            all.iter_mut().take(100).for_each(|t| *t = i64::MIN);
        }
    }
}

#[tokio::test]
async fn log_append_time_is_ours() {
    let storage = open(&SimFs::new());
    let p = topic(&storage, &[("message.timestamp.type", "LogAppendTime")]).await;
    let appended = p.append(batch(3, 5, NOBODY), AppendKind::Client).await.unwrap();
    assert_eq!(appended.log_append_time_ms, NOW_MS);
    p.flushed(appended.last_offset).await.unwrap();
    let read = p.read(0, 1 << 20, true).await.unwrap();
    assert_eq!(offsets(&read.records), [(0, 2)]);
    assert_eq!(Header::parse(&read.records).unwrap().max_timestamp, NOW_MS);
    assert_eq!(p.max_timestamp().await.unwrap(), Some(TimestampOffset { timestamp_ms: NOW_MS, offset: 0 }));
}

#[tokio::test]
async fn records_are_deleted_on_demand_and_stay_deleted() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024")]).await;
    for n in 0..40 {
        append(&p, batch(2, NOW_MS + n, NOBODY)).await.unwrap();
    }
    for (before, want) in [(-2, None), (81, None), (0, Some(0)), (33, Some(33)), (20, Some(33))] {
        assert_eq!(p.delete_records(before).await.ok(), want, "{before}");
    }
    assert!(matches!(p.read(32, 100, true).await, Err(ReadError::OutOfRange { log_start_offset: 33, .. })));
    assert_eq!(offsets(&p.read(33, 1, true).await.unwrap().records), [(32, 33)]);
    assert!(fs.content(&segment_path(0, "log")).is_none());
    fs.crash();
    drop((storage, p));
    let storage = open(&fs);
    let p = partition(&storage);
    assert_eq!((p.log_start_offset(), p.log_end_offset()), (33, 80));
    assert_eq!(p.delete_records(-1).await.unwrap(), 80);
    assert_eq!((p.size_bytes(), p.read(80, 1, true).await.unwrap().records.len()), (0, 0));
    fs.crash();
    drop((storage, p));
    let storage = open(&fs);
    let p = partition(&storage);
    assert_eq!((p.log_start_offset(), p.log_end_offset()), (80, 80));
    assert_eq!(append(&p, batch(1, NOW_MS, NOBODY)).await.unwrap(), 80);
}

#[tokio::test]
async fn retention_deletes_by_age_and_size() {
    // (settings, hours later, earliest offset left); a batch of 2 per minute, eight batches to a segment
    for (settings, hours, want) in [
        (&[][..], 1, 0),
        (&[], 7 * 24, 48),
        (&[], 7 * 24 + 1, 80),
        (&[("retention.ms", "-1")], 100_000, 0),
        (&[("cleanup.policy", "compact")], 100_000, 0),
        (&[("retention.bytes", "3000")], 0, 32),
        (&[("retention.bytes", "0")], 0, 80),
        (&[("retention.bytes", "100000")], 0, 0),
    ] {
        let fs = SimFs::new();
        let storage = open(&fs);
        let all: Vec<(&str, &str)> = [("segment.bytes", "1024")].iter().chain(settings).copied().collect();
        let p = topic(&storage, &all).await;
        for n in 0..40_i64 {
            append(
                &p,
                keyed(
                    &[
                        (NOW_MS + n * 60_000, Some("k"), Some(&"x".repeat(30))),
                        (NOW_MS, Some("k"), Some(&"y".repeat(18))),
                    ],
                    NOBODY,
                    Compression::None,
                ),
            )
            .await
            .unwrap();
        }
        storage.run_retention_once(NOW_MS + 30 * 60_000 + hours * 3_600_000).await;
        assert_eq!(p.log_start_offset(), want, "{settings:?} {hours}");
        let left = read_all(&p, 1 << 20).await;
        assert_eq!(left.first().map_or(80, |(base, _)| *base), want);
        drop((p, left));
        fs.crash();
        drop(storage);
        let storage = open(&fs);
        assert_eq!((partition(&storage).log_start_offset(), partition(&storage).log_end_offset()), (want, 80));
    }
}

#[tokio::test]
async fn segments_roll_by_age() {
    let fs = SimFs::new();
    let clock = clock();
    let storage = Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock.clone(), config()).unwrap();
    let p = topic(&storage, &[("segment.ms", "60000")]).await;
    for _ in 0..4 {
        append(&p, batch(1, clock.now_ms(), NOBODY)).await.unwrap();
        clock.advance(Duration::from_secs(30));
    }
    let logs: Vec<_> = fs.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    // Longer than that, as in Kafka.
    assert_eq!(logs, [segment_path(0, "log"), segment_path(3, "log")]);
}

#[tokio::test]
async fn run_retains_flushes_and_closes() {
    let fs = SimFs::new();
    let config = StorageConfig {
        flush: FlushPolicy::Interval,
        retention_age: Span::secs(1),
        flush_interval: Span::millis(1),
        retention_check_interval: Span::millis(1),
        segment_size: ByteSize(1024),
        ..config()
    };
    let clock = clock();
    let open = || Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock.clone(), config.clone()).unwrap();
    let storage = open();
    let p = topic(&storage, &[]).await;
    for _ in 0..30 {
        append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap();
    }
    let token = CancellationToken::new();
    let running = storage.clone().run(token.clone());
    clock.advance(Duration::from_secs(10));
    let stop = async {
        while p.log_start_offset() < 60 || p.log().is_dirty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        token.cancel();
    };
    let (ran, ()) = tokio::join!(running, stop);
    ran.unwrap();
    assert!(fs.content(&Path::new(DIR).join("CLEAN")).is_some());
    assert!(matches!(p.append(batch(1, NOW_MS, NOBODY), AppendKind::Client).await, Err(AppendError::Closed)));
    drop((p, storage));
    assert_eq!(partition(&open()).log_end_offset(), 60);
}

#[tokio::test]
async fn coordinators_append_several_batches_at_once() {
    let storage = open(&SimFs::new());
    let p = topic(&storage, &[]).await;
    let three = Bytes::from([batch(1, 0, NOBODY), batch(4, 0, NOBODY), batch(2, 0, NOBODY)].concat());
    let appended = p.append(three, AppendKind::Internal).await.unwrap();
    p.flushed(appended.last_offset).await.unwrap();
    assert_eq!(read_all(&p, 1 << 20).await, [(0, 0), (1, 4), (5, 6)]);
}

/// What a test does next.
#[derive(Debug, Clone)]
enum Step {
    Append { count: usize, wait: bool },
    Repeat,
    Crash { keep: u8 },
    Kill,
    Restart,
    FailSync,
    TearWrite(u8),
    DeleteBefore(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..6_usize, any::<bool>()).prop_map(|(count, wait)| Step::Append { count, wait }),
        1 => Just(Step::Repeat),
        2 => any::<u8>().prop_map(|keep| Step::Crash { keep }),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
        1 => Just(Step::FailSync),
        1 => any::<u8>().prop_map(Step::TearWrite),
        1 => any::<u8>().prop_map(Step::DeleteBefore),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A producer that numbers its batches in their values' place: the sequence. Repeats what was not acknowledged.
async fn acknowledged_is_read_once_in_order(steps: Vec<Step>) {
    let fs = SimFs::new();
    let mut storage = open(&fs);
    drop(topic(&storage, &[("segment.bytes", "1024")]).await);
    let mut acknowledged: Vec<(i64, i16, i32, usize)> = Vec::new();
    let mut epoch = 0;
    let mut sequence = 0;
    let mut deleted = 0;
    for step in steps {
        let p = partition(&storage);
        if matches!(step, Step::Restart | Step::Crash { .. } | Step::Kill) {
            // A start on a failing disk is refused, rightly.
            fs.fail_next_syncs(0);
        }
        match step {
            Step::Append { count, wait } => {
                let bytes = batch(count, NOW_MS, (5, epoch, sequence));
                match p.append(bytes, AppendKind::Client).await {
                    Ok(appended) => {
                        if wait && p.flushed(appended.last_offset).await.is_ok() {
                            acknowledged.push((appended.base_offset, epoch, sequence, count));
                        }
                        sequence += count as i32;
                    }
                    // What became of the last ones is unknown: a new epoch begins.
                    Err(AppendError::OutOfOrderSequence { .. }) => (epoch, sequence) = (epoch + 1, 0),
                    Err(_) => {}
                }
            }
            Step::Repeat => {
                let last = acknowledged.last().copied();
                let last = last.filter(|(_, of, first, count)| *of == epoch && sequence == first + *count as i32);
                if let Some((base, _, first, count)) = last {
                    let repeat = p.append(batch(count, NOW_MS, (5, epoch, first)), AppendKind::Client).await;
                    if let Ok(repeat) = repeat {
                        assert_eq!((repeat.base_offset, repeat.duplicate), (base, true));
                    }
                }
            }
            Step::Restart => {
                drop(p);
                // After a failed fsync a stop is not clean.
                let _unclean = storage.close().await;
                drop(storage);
                storage = open(&fs);
            }
            Step::Crash { keep } => {
                fs.crash_keeping(|unsynced| unsynced * usize::from(keep) / 255);
                drop((p, storage));
                storage = open(&fs);
            }
            Step::Kill => {
                fs.kill();
                drop((p, storage));
                storage = open(&fs);
            }
            Step::FailSync => fs.fail_next_syncs(1),
            Step::TearWrite(bytes) => fs.tear_next_write(bytes.into()),
            Step::DeleteBefore(part) => {
                let before = p.high_watermark() * i64::from(part) / 512;
                if p.delete_records(before).await.is_ok() {
                    deleted = deleted.max(before);
                }
            }
        }
        let p = partition(&storage);
        let read = read_all(&p, 300).await;
        let bases: Vec<i64> = read.iter().map(|(base, _)| *base).collect();
        assert!(bases.is_sorted_by(|a, b| a < b));
        assert!(p.holes().is_empty());
        for (base, _, _, count) in &acknowledged {
            let last = base + *count as i64 - 1;
            if last >= p.log_start_offset() {
                assert!(read.contains(&(*base, last)), "{base} of {read:?}");
            }
        }
        assert!(p.log_start_offset() <= deleted.max(0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_read_once_in_order_after_any_crash(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(acknowledged_is_read_once_in_order(steps));
    }

    #[test]
    fn recovery_takes_any_bytes(junk in proptest::collection::vec(any::<u8>(), 0..300), at in 0..5_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (fs, ends) = five_batches().await;
            let path = segment_path(0, "log");
            let mut content = fs.content(&path).unwrap();
            content.splice(ends[at]..ends[at], junk);
            fs.set_content(&path, content);
            let read = read_all(&partition(&open(&fs)), 100).await;
            prop_assert_eq!(read, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]);
            Ok(())
        })?;
    }
}

/// `cargo test --release -p millrace-log storage_speed -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, clippy::disallowed_methods)]
async fn storage_speed() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig::default();
    let clock = millrace_log::clock::SystemClock::shared();
    let now_ms = clock.now_ms();
    let storage = Storage::open(dir.path(), RealFs::shared(), clock, config).unwrap();
    let producers: [Producer; 4] = [NOBODY; 4];
    let line = "x".repeat(200);
    for (what, records) in [("16 KB", 75), ("256 KB", 1200), ("900 KB", 4200)] {
        let topic = storage.create_topic(&format!("t{records}"), 4, TopicSettings::default()).await.unwrap();
        let lines: Vec<(i64, &str)> = (0..records).map(|_| (now_ms, line.as_str())).collect();
        let total: usize = 512 << 20;
        let begun = std::time::Instant::now();
        let mut tasks = JoinSet::new();
        for (producer, partition) in producers.into_iter().zip(topic.partitions()) {
            let bytes = batch_of(&lines, producer, Compression::None);
            tasks.spawn(async move {
                let rounds = total / 4 / bytes.len();
                let five = futures::stream::iter(0..rounds).map(|_| append(&partition, bytes.clone()));
                use futures::StreamExt as _;
                five.buffered(5)
                    .for_each(|done| {
                        assert!(done.is_ok());
                        std::future::ready(())
                    })
                    .await;
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let wrote = begun.elapsed().as_secs_f64();
        let begun = std::time::Instant::now();
        let mut read = 0;
        for p in topic.partitions() {
            let mut from = 0;
            while from < p.high_watermark() {
                let got = p.read(from, 1 << 20, true).await.unwrap();
                from = last_offset(&got.records) + 1;
                read += got.records.len();
            }
        }
        let mb = |bytes: usize, seconds: f64| bytes as f64 / 1e6 / seconds;
        println!(
            "batches of {what}: append and flush {:.0} MB/s, read {:.0} MB/s",
            mb(total, wrote),
            mb(read, begun.elapsed().as_secs_f64())
        );
    }
    storage.close().await.unwrap();
}

fn last_offset(mut records: &[u8]) -> i64 {
    let mut last = -1;
    while let Some(header) = Header::parse(records) {
        last = header.last_offset();
        records = &records[header.size().max(HEADER)..];
    }
    last
}

/// Kafka's own dump tool finds nothing to say about our segments and indexes. `KAFKA_CLASSPATH` names its jars.
#[tokio::test]
#[ignore = "needs java and Kafka's jars in KAFKA_CLASSPATH"]
async fn kafkas_dump_tool_reads_segments_and_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path(), RealFs::shared(), clock(), config()).unwrap();
    let p = topic(&storage, &[("segment.bytes", "60000")]).await;
    for n in 0..300_i64 {
        let records: Vec<(i64, &str)> =
            (0..10).map(|k| (NOW_MS + n * 10 + k, "some text that takes its room")).collect();
        let codec = [Compression::None, Compression::Zstd, Compression::Gzip][n as usize % 3];
        append(&p, batch_of(&records, (4, 0, 10 * n as i32), codec)).await.unwrap();
    }
    storage.close().await.unwrap();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir.path().join("t-0")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "log" || e == "index" || e == "timeindex"));
    files.sort();
    assert!(files.len() > 5);
    let list = files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",");
    let output = std::process::Command::new("java")
        .args(["-cp", &std::env::var("KAFKA_CLASSPATH").expect("KAFKA_CLASSPATH")])
        .args(["kafka.tools.DumpLogSegments", "--deep-iteration", "--verify-index-only", "--files", &list])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("isvalid: false") && !text.contains("Mismatches") && !text.contains("Found"), "{text}");
    assert_eq!(text.matches("isvalid: true").count(), 300, "{text}");
}
