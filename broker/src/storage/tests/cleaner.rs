//! Compaction: what stays and what goes, whatever ends the process in between.

use std::collections::BTreeMap;

use kafka_protocol::records::RecordBatchDecoder;

use super::*;
use crate::storage::batch::tests::{Keyed, keyed};
use crate::storage::cleaner::{Cleaned, clean, need};
use millrace_log::fs::RealFs;

const COMPACT: &[(&str, &str)] =
    &[("cleanup.policy", "compact"), ("segment.bytes", "1024"), ("min.cleanable.dirty.ratio", "0.01")];
const MEMORY: usize = 1 << 20;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

async fn compacted(storage: &Arc<Storage>, settings: &[(&str, &str)]) -> Arc<Partition> {
    let all: Vec<(&str, &str)> = COMPACT.iter().chain(settings).copied().collect();
    topic(storage, &all).await
}

fn run(p: &Arc<Partition>, now_ms: i64) -> Option<Cleaned> {
    clean(p.log(), now_ms, MEMORY, &|| false).unwrap()
}

/// Offset, key and value of every record.
async fn records(p: &Arc<Partition>) -> Vec<(i64, String, Option<String>)> {
    records_from(p, p.log_start_offset()).await
}

async fn records_from(p: &Arc<Partition>, mut from: i64) -> Vec<(i64, String, Option<String>)> {
    let mut all = Vec::new();
    while from < p.high_watermark() {
        let read = p.read(from, 700, true).await.unwrap();
        let Some((_, last)) = offsets(&read.records).last().copied() else { break };
        let mut bytes = read.records;
        while !bytes.is_empty() {
            let set = RecordBatchDecoder::decode(&mut bytes).unwrap();
            let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            for r in set.records.into_iter().filter(|r| r.offset >= from) {
                all.push((r.offset, r.key.map(text).unwrap_or_default(), r.value.map(text)));
            }
        }
        from = last + 1;
    }
    assert!(all.is_sorted_by(|(a, ..), (b, ..)| a < b));
    all
}

async fn put(p: &Arc<Partition>, records: &[(&str, Option<&str>)], producer: Producer, codec: Compression) -> i64 {
    let records: Vec<Keyed<'_>> = records.iter().map(|(key, value)| (NOW_MS, Some(*key), *value)).collect();
    append(p, keyed(&records, producer, codec)).await.unwrap()
}

/// Fills the active segment, so that what stands before is no longer in it.
async fn roll(p: &Arc<Partition>) {
    let before = p.log().compaction_view().map(|view| view.active_base);
    while p.log().compaction_view().map(|view| view.active_base) == before {
        put(p, &[("roll", Some("x"))], NOBODY, Compression::None).await;
    }
}

fn segment_count(fs: &SimFs) -> usize {
    fs.files().iter().filter(|path| path.extension().is_some_and(|e| e == "log")).count()
}

/// The last value of each key among records of the finished segments, which is what compaction has to keep.
fn last_of_each(records: &[(i64, String, Option<String>)]) -> BTreeMap<String, (i64, Option<String>)> {
    records.iter().map(|(offset, key, value)| (key.clone(), (*offset, value.clone()))).collect()
}

#[tokio::test]
async fn the_last_record_of_each_key_stays_where_it_was() {
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let fs = SimFs::new();
        let storage = open(&fs);
        let p = compacted(&storage, &[]).await;
        for n in 0..60 {
            let value = format!("value {n}");
            let (a, b) = (format!("k{}", n % 5), format!("k{}", n % 3));
            put(&p, &[(&a, Some(&value)), (&b, Some(&value)), ("same", Some(&value))], NOBODY, codec).await;
        }
        roll(&p).await;
        let all = records(&p).await;
        let want = last_of_each(&all);
        let end = p.log_end_offset();
        let before = p.size_bytes();
        assert!(run(&p, NOW_MS).unwrap().freed_bytes > before / 2, "{codec:?}");
        let left = records(&p).await;
        assert_eq!(last_of_each(&left), want, "{codec:?}");
        assert!(left.len() < 20, "{codec:?}: {left:?}");
        assert!(left.iter().all(|record| all.contains(record)), "nothing is made up");
        assert_eq!((p.log_start_offset(), p.log_end_offset()), (0, end));
        assert_eq!(need(p.log(), NOW_MS), None);
        assert_eq!(run(&p, NOW_MS), None);
        // Every offset may be asked for, also those in gaps.
        for from in 0..end {
            let next = left.iter().find(|record| record.0 >= from);
            assert_eq!(records_from(&p, from).await.first(), next, "{from}");
        }
        assert_eq!(p.verify().await.unwrap(), []);
        for clean in [true, false] {
            if clean {
                storage.close().await.unwrap();
                assert!(
                    crate::storage::fsck::fsck(Path::new(DIR), &fs.fork(), Default::default())
                        .unwrap()
                        .findings
                        .is_empty()
                );
            }
            let fs = fs.fork();
            let storage = open(&fs);
            assert_eq!(records(&partition(&storage)).await, left, "{codec:?} {clean}");
            assert_eq!(partition(&storage).log_end_offset(), end);
        }
    }
}

#[tokio::test]
async fn small_neighbours_become_one_and_the_active_segment_is_left_alone() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = compacted(&storage, &[]).await;
    for n in 0..200 {
        put(&p, &[(&format!("k{}", n % 4), Some("some value of some length"))], NOBODY, Compression::None).await;
    }
    let segments = segment_count(&fs);
    assert!(segments > 15);
    let active = p.log().compaction_view().unwrap().active_base;
    // The first pass shrinks them, the next merges what is small by now.
    run(&p, NOW_MS).unwrap();
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    assert!(segment_count(&fs) <= 4, "{} of {segments}", segment_count(&fs));
    let left = records(&p).await;
    assert!(left.iter().filter(|(offset, ..)| *offset < active).count() <= 5);
    fs.crash();
    drop((p, storage));
    assert_eq!(records(&partition(&open(&fs))).await, left);
}

#[tokio::test]
async fn tombstones_go_after_their_time_and_not_before() {
    for codec in [Compression::None, Compression::Zstd] {
        let fs = SimFs::new();
        let storage = open(&fs);
        let p = compacted(&storage, &[("delete.retention.ms", "1000")]).await;
        put(&p, &[("stays", Some("x")), ("goes", Some("x"))], NOBODY, codec).await;
        put(&p, &[("goes", None), ("back", None)], NOBODY, codec).await;
        put(&p, &[("back", Some("again"))], NOBODY, codec).await;
        roll(&p).await;
        let keys = async || -> Vec<(String, bool)> {
            let left = records(&p).await;
            left.into_iter().filter(|(_, key, _)| key != "roll").map(|(_, key, value)| (key, value.is_some())).collect()
        };
        let with = [("stays".to_owned(), true), ("goes".to_owned(), false), ("back".to_owned(), true)];
        run(&p, NOW_MS).unwrap();
        assert_eq!(keys().await, with);
        for (later_ms, gone) in [(500, false), (999, false), (1000, true)] {
            roll(&p).await;
            run(&p, NOW_MS + later_ms).unwrap();
            let want: Vec<_> = with.iter().filter(|(key, _)| !gone || key != "goes").cloned().collect();
            assert_eq!(keys().await, want, "{codec:?} {later_ms}");
        }
        // Timestamps are those that were written, although the batch counts from its horizon.
        let read = p.read(0, 1 << 20, true).await.unwrap();
        let set = RecordBatchDecoder::decode(&mut read.records.clone()).unwrap();
        assert!(set.records.iter().all(|record| record.timestamp == NOW_MS));
    }
}

#[tokio::test]
async fn what_is_due_follows_the_settings() {
    // (settings, share or overdue, time passed since the records' own)
    for (settings, later_ms, want) in [
        (&[][..], 0, true),
        (&[("min.cleanable.dirty.ratio", "1")], 0, false),
        (&[("cleanup.policy", "delete")], 0, false),
        (&[("cleanup.policy", "compact,delete")], 0, true),
        (&[("min.compaction.lag.ms", "1000")], 999, false),
        (&[("min.compaction.lag.ms", "1000")], 1000, true),
        (&[("min.cleanable.dirty.ratio", "1"), ("max.compaction.lag.ms", "1000")], 1000, false),
        (&[("min.cleanable.dirty.ratio", "1"), ("max.compaction.lag.ms", "1000")], 1001, true),
    ] {
        let fs = SimFs::new();
        let storage = open(&fs);
        let p = compacted(&storage, settings).await;
        assert_eq!(need(p.log(), NOW_MS), None, "nothing is there yet");
        for n in 0..30 {
            put(&p, &[("k", Some(&format!("value {n}")))], NOBODY, Compression::None).await;
        }
        assert_eq!(need(p.log(), NOW_MS + later_ms).is_some(), want, "{settings:?} {later_ms}");
        let stop = CancellationToken::new();
        assert_eq!(storage.run_cleaner_once(NOW_MS + later_ms, &stop).await, usize::from(want));
        assert_eq!(storage.run_cleaner_once(NOW_MS + later_ms, &stop).await, 0);
    }
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() {
    let storage = open(&SimFs::new());
    let lags =
        |min, max| TopicSettings::from_pairs([("min.compaction.lag.ms", min), ("max.compaction.lag.ms", max)]).unwrap();
    let refused = "`min.compaction.lag.ms` (11) is more than `max.compaction.lag.ms` (10)";
    assert_eq!(storage.create_topic("t", 1, lags("11", "10")).await.unwrap_err().to_string(), refused);
    storage.create_topic("t", 1, lags("10", "10")).await.unwrap();
    assert_eq!(storage.alter_topic("t", lags("11", "10")).await.unwrap_err().to_string(), refused);
}

#[tokio::test]
async fn the_share_of_new_records_decides() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = compacted(&storage, &[("min.cleanable.dirty.ratio", "0.5")]).await;
    for n in 0..100 {
        put(&p, &[(&format!("k{n}"), Some("some value of some length"))], NOBODY, Compression::None).await;
    }
    assert_eq!(need(p.log(), NOW_MS).map(|need| need.ratio), Some(1.0));
    run(&p, NOW_MS).unwrap();
    let mut rounds = 0;
    while need(p.log(), NOW_MS).is_none() {
        put(&p, &[("k1", Some("some value of some length"))], NOBODY, Compression::None).await;
        rounds += 1;
    }
    assert!((70..150).contains(&rounds), "as many bytes again: {rounds}");
}

#[tokio::test]
async fn little_memory_only_takes_more_passes() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = compacted(&storage, &[]).await;
    for n in 0..400 {
        put(&p, &[(&format!("k{}", n % 150), Some(&n.to_string()))], NOBODY, Compression::None).await;
    }
    roll(&p).await;
    let want = last_of_each(&records(&p).await);
    let mut passes = 0;
    // Room for 40 keys.
    while let Some(cleaned) = clean(p.log(), NOW_MS, 50 * 24, &|| false).unwrap() {
        passes += 1;
        assert_eq!(last_of_each(&records(&p).await), want, "after {passes}");
        if !cleaned.more {
            break;
        }
    }
    assert!((8..30).contains(&passes), "{passes}");
    let active = p.log().compaction_view().unwrap().active_base;
    let left = records(&p).await;
    assert!(left.iter().filter(|(offset, ..)| *offset < active).count() <= 151);
    let many: Vec<String> = (0..60).map(|n| format!("m{n}")).collect();
    let many: Vec<(&str, Option<&str>)> = many.iter().map(|key| (key.as_str(), None)).collect();
    storage
        .alter_topic(
            "t",
            TopicSettings::from_pairs([("cleanup.policy", "compact"), ("segment.bytes", "4096")]).unwrap(),
        )
        .await
        .unwrap();
    put(&p, &many, NOBODY, Compression::None).await;
    roll(&p).await;
    let mut outcome = clean(p.log(), NOW_MS, 50 * 24, &|| false);
    while matches!(outcome, Ok(Some(Cleaned { more: true, .. }))) {
        outcome = clean(p.log(), NOW_MS, 50 * 24, &|| false);
    }
    assert_eq!(outcome.unwrap_err().to_string(), "one batch has more keys than fit into cleaner_memory: raise it");
}

#[tokio::test]
async fn producers_are_still_known_when_their_records_are_gone() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = compacted(&storage, &[]).await;
    for n in 0..10 {
        put(&p, &[("k", Some("from 7")), ("k", Some("from 7"))], (7, 3, 2 * n), Compression::Zstd).await;
        put(&p, &[("k", Some("from 8"))], (8, 0, n), Compression::None).await;
    }
    for _ in 0..40 {
        put(&p, &[("k", Some("from nobody"))], NOBODY, Compression::None).await;
    }
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    let empty: Vec<(i64, i64)> = read_all(&p, 1 << 20).await.into_iter().filter(|(_, last)| *last < 30).collect();
    assert_eq!(empty, [(27, 28), (29, 29)], "the last batch of each, without records");
    assert_eq!(records(&p).await.iter().filter(|(offset, ..)| *offset < 30).count(), 0);
    // Also where the state has to be made again from the segments.
    fs.crash();
    drop((p, storage));
    for path in fs.files().iter().filter(|path| path.extension().is_some_and(|e| e == "producers")) {
        fs.set_content(path, b"damaged".to_vec());
    }
    let storage = open(&fs);
    let p = partition(&storage);
    let repeat = p.append(keyed(&[(NOW_MS, Some("k"), None); 2], (7, 3, 18), Compression::None), AppendKind::Client);
    assert_eq!(repeat.await.map(|r| (r.base_offset, r.duplicate)).unwrap(), (27, true));
    let gap = p.append(keyed(&[(NOW_MS, Some("k"), None)], (8, 0, 11), Compression::None), AppendKind::Client).await;
    assert_eq!(gap.unwrap_err().to_string(), "producer 8 epoch 0: sequence 11 does not follow 9");
    put(&p, &[("k", Some("on"))], (8, 0, 10), Compression::None).await;
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    let empty: Vec<(i64, i64)> = read_all(&p, 1 << 20).await.into_iter().filter(|(_, last)| *last < 30).collect();
    assert_eq!(empty, [(27, 28)], "8 has a later one by now");
}

#[tokio::test]
async fn records_without_a_key_are_refused_and_older_ones_go() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024")]).await;
    for codec in [Compression::None, Compression::Zstd] {
        for _ in 0..20 {
            append(&p, keyed(&[(NOW_MS, None, Some("none")), (NOW_MS, Some("k"), Some("v"))], NOBODY, codec))
                .await
                .unwrap();
        }
    }
    storage.alter_topic("t", TopicSettings::from_pairs(COMPACT.iter().copied()).unwrap()).await.unwrap();
    let bad = keyed(&[(NOW_MS, Some("k"), None), (NOW_MS, None, None), (NOW_MS, None, None)], NOBODY, Compression::Lz4);
    let refused = p.append(bad, AppendKind::Client).await.unwrap_err();
    assert_eq!(refused.to_string(), "a compacted topic requires keys: records [1, 2] of the batch have none");
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    let active = p.log().compaction_view().unwrap().active_base;
    assert!(records(&p).await.iter().all(|(offset, key, _)| !key.is_empty() || *offset >= active));
}

#[tokio::test]
async fn an_emptied_end_keeps_its_offsets_after_a_crash() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = compacted(&storage, &[("delete.retention.ms", "0")]).await;
    for _ in 0..20 {
        put(&p, &[("goes", None)], NOBODY, Compression::None).await;
    }
    let end = p.log_end_offset();
    // An empty active segment, the tombstones before it gone.
    p.log().roll_now().unwrap();
    run(&p, NOW_MS).unwrap();
    p.log().keep_cleaned(0);
    run(&p, NOW_MS + 1).unwrap();
    assert_eq!(records(&p).await, []);
    for _ in 0..3 {
        fs.crash();
        let storage = open(&fs);
        assert_eq!(partition(&storage).log_end_offset(), end);
        assert!(partition(&storage).read(end - 1, 100, true).await.unwrap().records.is_empty());
    }
    drop((p, storage));
    let storage = open(&fs);
    assert_eq!(put(&partition(&storage), &[("next", Some("x"))], NOBODY, Compression::None).await, end);
    fs.crash();
    drop(storage);
    assert_eq!(records(&partition(&open(&fs))).await, [(end, "next".to_owned(), Some("x".to_owned()))]);
}

/// A log that a pass will merge, shrink and write anew in several groups.
async fn ready_to_clean(fs: &SimFs) -> (Arc<Storage>, Arc<Partition>) {
    let storage = open(fs);
    let p = compacted(&storage, &[]).await;
    for n in 0..60 {
        let key = format!("k{}", if n % 2 == 0 { n } else { n % 7 });
        put(&p, &[(&key, Some("value")), ("gone", (n < 30).then_some("x"))], NOBODY, Compression::Zstd).await;
    }
    (storage, p)
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing() {
    let fs = SimFs::new();
    let (storage, p) = ready_to_clean(&fs).await;
    let want = last_of_each(&records(&p).await);
    let end = p.log_end_offset();
    drop((p, storage));
    let start = fs.fork();
    let all = {
        let fs = start.fork();
        let storage = open(&fs);
        let before = fs.changes();
        run(&partition(&storage), NOW_MS).unwrap();
        fs.changes() - before
    };
    assert!(all > 60, "{all} steps");
    for step in 0..=all {
        for power_cut in [true, false] {
            let fs = start.fork();
            let storage = open(&fs);
            fs.stop_after(Some(step));
            let stopped = clean(partition(&storage).log(), NOW_MS, MEMORY, &|| false);
            assert!(stopped.is_err() || step >= all - 5, "step {step}: {stopped:?}");
            // What others in the process still read is right.
            assert_eq!(last_of_each(&records(&partition(&storage)).await), want, "running on, step {step}");
            if power_cut {
                fs.crash();
            } else {
                fs.kill();
            }
            drop(storage);
            // Recovery itself may be cut short.
            for again in [0, 3, 7] {
                fs.stop_after(Some(again));
                let _cut_short = Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock(), config());
                if power_cut {
                    fs.crash();
                } else {
                    fs.kill();
                }
            }
            let storage = open(&fs);
            let p = partition(&storage);
            assert_eq!(last_of_each(&records(&p).await), want, "step {step} {power_cut}");
            assert_eq!((p.log_start_offset(), p.log_end_offset()), (0, end));
            assert_eq!(p.holes(), []);
            assert!(!fs.files().iter().any(|path| path.to_string_lossy().ends_with(".cleaned")));
            run(&p, NOW_MS);
            assert_eq!(last_of_each(&records(&p).await), want, "again after step {step} {power_cut}");
            assert_eq!(put(&p, &[("on", Some("x"))], NOBODY, Compression::None).await, end);
            drop(p);
            storage.close().await.unwrap();
            let report = crate::storage::fsck::fsck(Path::new(DIR), &fs, Default::default()).unwrap();
            assert_eq!(report.findings, [], "step {step} {power_cut}");
        }
    }
}

#[tokio::test]
async fn a_full_disk_ends_a_pass_and_nothing_else() {
    let fs = SimFs::new();
    let (storage, p) = ready_to_clean(&fs).await;
    let want = last_of_each(&records(&p).await);
    drop((p, storage));
    let start = fs.fork();
    let mut failed = 0;
    for space in (0..6000).step_by(37) {
        let fs = start.fork();
        let storage = open(&fs);
        let p = partition(&storage);
        fs.set_space_left(Some(space));
        failed += usize::from(clean(p.log(), NOW_MS, MEMORY, &|| false).is_err());
        assert_eq!(last_of_each(&records(&p).await), want, "{space}");
        assert!(p.refusal().is_none());
        assert!(!fs.files().iter().any(|path| path.to_string_lossy().ends_with(".cleaned")), "{space}");
        fs.set_space_left(None);
        put(&p, &[("on", Some("x"))], NOBODY, Compression::None).await;
        run(&p, NOW_MS);
        let mut with = want.clone();
        with.insert("on".to_owned(), (120, Some("x".to_owned())));
        assert_eq!(last_of_each(&records(&p).await), with, "{space}");
    }
    assert!(failed > 5, "{failed}");
}

#[tokio::test]
async fn failing_syncs_end_a_pass_and_lose_nothing() {
    let fs = SimFs::new();
    let (storage, p) = ready_to_clean(&fs).await;
    let want = last_of_each(&records(&p).await);
    drop((p, storage));
    let start = fs.fork();
    for after in 0..80 {
        let fs = start.fork();
        let storage = open(&fs);
        let p = partition(&storage);
        fs.fail_sync_after(after);
        let outcome = clean(p.log(), NOW_MS, MEMORY, &|| false);
        fs.fail_next_syncs(0);
        assert_eq!(last_of_each(&records(&p).await), want, "{after}");
        drop(p);
        fs.crash();
        drop(storage);
        let p = partition(&open(&fs));
        assert_eq!(last_of_each(&records(&p).await), want, "{after} {outcome:?}");
    }
}

#[tokio::test]
async fn readers_of_replaced_segments_go_on() {
    let fs = SimFs::new();
    let (_storage, p) = ready_to_clean(&fs).await;
    let before = records(&p).await;
    let old = p.log().compaction_view().unwrap().segments;
    run(&p, NOW_MS).unwrap();
    let sum: usize = old
        .iter()
        .map(|segment| {
            let mut count = 0;
            let mut from = segment.base;
            while let Some(bytes) = segment.read(&fs, from, i64::MAX, 300, true).unwrap().filter(|b| !b.is_empty()) {
                let some = offsets(&bytes);
                from = some.last().unwrap().1 + 1;
                count += some.iter().map(|(first, last)| (last - first + 1) as usize).sum::<usize>();
            }
            assert_eq!(segment.holes(), []);
            count
        })
        .sum();
    let active = p.log().compaction_view().unwrap().active_base;
    assert_eq!(sum, before.iter().filter(|(offset, ..)| *offset < active).count());
}

#[tokio::test]
async fn damaged_batches_are_set_aside_and_the_rest_is_compacted() {
    let fs = SimFs::new();
    let (storage, p) = ready_to_clean(&fs).await;
    let all = records(&p).await;
    drop(p);
    storage.close().await.unwrap();
    drop(storage);
    let path = segment_path(0, "log");
    let mut content = fs.content(&path).unwrap();
    let size = Header::parse(&content).unwrap().size();
    content[size + HEADER + 3] ^= 0x40;
    fs.set_content(&path, content);
    let storage = open(&fs);
    let p = partition(&storage);
    run(&p, NOW_MS).unwrap();
    let without: Vec<_> = all.into_iter().filter(|(offset, ..)| !(2..4).contains(offset)).collect();
    assert_eq!(last_of_each(&records(&p).await), last_of_each(&without));
    let aside = segment_path(0, "x").parent().unwrap().join(format!("damaged/00000000000000000000.{size}.bytes"));
    assert!(fs.content(&aside).is_some());
    assert_eq!(p.verify().await.unwrap(), [], "the hole is gone with its bytes");
}

#[tokio::test]
async fn retention_and_compaction_go_together() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let policy = ("cleanup.policy", "compact,delete");
    let p = compacted(&storage, &[policy, ("retention.ms", "3600000")]).await;
    for n in 0..60_i64 {
        let key = format!("k{}", n % 10);
        let records = [(NOW_MS + n * 60_000, Some(key.as_str()), Some("value"))];
        append(&p, keyed(&records, NOBODY, Compression::None)).await.unwrap();
    }
    run(&p, NOW_MS + HOUR_MS).unwrap();
    let left = records(&p).await;
    storage.run_retention_once(NOW_MS + HOUR_MS + 30 * 60_000).await;
    let start = p.log_start_offset();
    assert!((1..60).contains(&start), "{start}");
    let want: Vec<_> = left.into_iter().filter(|(offset, ..)| *offset >= start).collect();
    assert_eq!(records(&p).await, want);
    run(&p, NOW_MS + HOUR_MS);
    storage.run_retention_once(NOW_MS + DAY_MS).await;
    assert_eq!((p.log_start_offset(), p.log_end_offset()), (60, 60));
    fs.crash();
    drop((p, storage));
    let p = partition(&open(&fs));
    assert_eq!((p.log_start_offset(), p.log_end_offset()), (60, 60));
}

#[tokio::test]
async fn a_stop_or_a_deletion_ends_a_pass() {
    let fs = SimFs::new();
    let (storage, p) = ready_to_clean(&fs).await;
    let count = std::cell::Cell::new(0);
    for most in [0, 5, 50, 80] {
        count.set(0);
        let stop = || {
            count.set(count.get() + 1);
            count.get() > most
        };
        assert_eq!(clean(p.log(), NOW_MS, MEMORY, &stop).unwrap(), None, "{most}");
        assert!(!fs.files().iter().any(|path| path.to_string_lossy().ends_with(".cleaned")), "{most}");
    }
    storage.delete_topic("t").await.unwrap();
    assert_eq!(clean(p.log(), NOW_MS, MEMORY, &|| false).unwrap(), None);
    assert!(!fs.files().iter().any(|path| path.starts_with(Path::new(DIR).join("t-0"))));
}

/// One record of a transaction.
async fn in_txn(p: &Arc<Partition>, key: &str, value: Option<&str>, producer: Producer) -> i64 {
    let records = [(NOW_MS, Some(key), value)];
    let batch = crate::storage::batch::tests::in_transaction(keyed(&records, producer, Compression::None));
    let appended = p.append(batch, AppendKind::Transaction(p.verification())).await.unwrap();
    p.flushed(appended.last_offset).await.unwrap();
    appended.base_offset
}

async fn end_txn(p: &Arc<Partition>, producer_id: i64, commit: bool) -> i64 {
    let marker = Marker { commit, coordinator_epoch: 0 };
    let appended = p.append(marker_batch(producer_id, 0, marker, NOW_MS), AppendKind::Internal).await.unwrap();
    p.flushed(appended.last_offset).await.unwrap();
    appended.base_offset
}

/// Base offsets of control batches.
async fn markers(p: &Arc<Partition>) -> Vec<i64> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(header) = Header::parse(&p.read(from, 1, true).await.unwrap().records) {
        if header.is_control() {
            found.push(header.base_offset);
        }
        from = header.next_offset();
    }
    found
}

#[tokio::test]
async fn aborted_records_go_at_once_and_markers_after_their_time() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = compacted(&storage, &[("delete.retention.ms", "1000")]).await;
    put(&p, &[("k", Some("before"))], NOBODY, Compression::None).await;
    in_txn(&p, "k", Some("aborted"), (7, 0, 0)).await;
    in_txn(&p, "c", Some("committed"), (8, 0, 0)).await;
    in_txn(&p, "x", Some("aborted"), (7, 0, 1)).await;
    assert_eq!(end_txn(&p, 7, false).await, 4);
    assert_eq!(end_txn(&p, 8, true).await, 5);
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    let committed = async || crate::storage::txn_tests::committed(&p, 1 << 20).await;
    let want =
        |left: &[i64], all: Vec<i64>| assert_eq!(all.into_iter().filter(|base| *base < 6).collect::<Vec<_>>(), left);
    want(&[0, 2], committed().await);
    // The last batch of producer 7 is left, without its record.
    want(&[0, 2, 3, 4, 5], read_all(&p, 1 << 20).await.into_iter().map(|(base, _)| base).collect());
    let left: Vec<_> = records(&p).await.into_iter().filter(|(offset, key, _)| *offset < 6 && key != "roll").collect();
    assert_eq!(left.iter().map(|(offset, ..)| *offset).filter(|o| ![4, 5].contains(o)).collect::<Vec<_>>(), [0, 2]);
    // 8 writes on, 7 is forgotten: neither needs its batch any more.
    in_txn(&p, "c", Some("later"), (8, 0, 1)).await;
    end_txn(&p, 8, true).await;
    p.log().expire_producers(&[7]);
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    assert_eq!(markers(&p).await[..2], [4, 5], "their transactions have gone only now");
    for (later_ms, gone) in [(500, false), (1000, false), (1500, true), (2600, true)] {
        roll(&p).await;
        run(&p, NOW_MS + later_ms).unwrap();
        assert_eq!(!markers(&p).await.contains(&4), gone, "{later_ms}");
        want(&[0], committed().await);
        assert!(!records(&p).await.iter().any(|(_, _, value)| value.as_deref() == Some("aborted")));
    }
    let committed = committed().await;
    drop(p);
    fs.crash();
    drop(storage);
    let storage = open(&fs);
    assert_eq!(crate::storage::txn_tests::committed(&partition(&storage), 1 << 20).await, committed);
    assert_eq!(partition(&storage).last_stable_offset(), partition(&storage).high_watermark());
}

#[tokio::test]
async fn open_transactions_hold_compaction_back() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = compacted(&storage, &[]).await;
    put(&p, &[("k", Some("first"))], NOBODY, Compression::None).await;
    put(&p, &[("k", Some("second"))], NOBODY, Compression::None).await;
    in_txn(&p, "k", Some("perhaps"), (7, 0, 0)).await;
    put(&p, &[("k", Some("third"))], NOBODY, Compression::None).await;
    roll(&p).await;
    let all = records(&p).await;
    run(&p, NOW_MS).unwrap();
    assert_eq!(records(&p).await, all[1..], "only what stands before the transaction");
    assert_eq!(run(&p, NOW_MS), None);
    end_txn(&p, 7, false).await;
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    let left: Vec<i64> =
        records(&p).await.into_iter().filter(|(_, key, _)| key == "k").map(|record| record.0).collect();
    assert_eq!(left, [3]);
}

/// Kafka's own dump tool reads what compaction has written: all codecs, horizons, emptied batches, markers, indexes.
#[tokio::test]
#[ignore = "needs java and Kafka's jars in KAFKA_CLASSPATH"]
async fn kafkas_dump_tool_reads_compacted_segments() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path(), RealFs::shared(), clock(), config()).unwrap();
    let p = compacted(&storage, &[("segment.bytes", "60000")]).await;
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for n in 0..2000 {
        let (key, other) = (format!("key {}", n % 700), format!("other {}", n % 13));
        let value = format!("some value that takes its room {n}");
        let value = (n % 7 != 0).then_some(value.as_str());
        put(&p, &[(&key, value), (&other, Some("x"))], (4, 0, 2 * n), codecs[n as usize % 5]).await;
        if n % 50 == 0 {
            in_txn(&p, "k", Some("in a transaction"), (9, 0, n / 50)).await;
            end_txn(&p, 9, n % 100 == 0).await;
        }
    }
    run(&p, NOW_MS).unwrap();
    roll(&p).await;
    run(&p, NOW_MS).unwrap();
    let want = records(&p).await;
    drop(p);
    storage.close().await.unwrap();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir.path().join("t-0")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| {
        path.extension().is_some_and(|e| ["log", "index", "timeindex", "txnindex"].iter().any(|x| *x == e))
    });
    files.sort();
    let list = files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",");
    let output = std::process::Command::new("java")
        .args(["-cp", &std::env::var("KAFKA_CLASSPATH").expect("KAFKA_CLASSPATH")])
        .args(["kafka.tools.DumpLogSegments", "--deep-iteration", "--print-data-log", "--files", &list])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    std::fs::write(std::env::temp_dir().join("store-dump.txt"), text.as_bytes()).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(
        !text.contains("isvalid: false") && !text.contains("Mismatches") && !text.contains("Found"),
        "see the file"
    );
    let told = text.lines().filter(|line| line.trim_start().starts_with("| offset: ")).count();
    assert_eq!(told, want.len());
}
