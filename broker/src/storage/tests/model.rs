//! The whole storage against a model: random appends, transactions, compaction, retention, deletions, faults and ends of
//! the process. Acknowledged means readable, in order, once; unacknowledged may be either; committed readers never see an
//! aborted record; compaction takes only what a later record of its key has replaced.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::records::RecordBatchDecoder;

use super::*;
use crate::storage::batch::tests::{Keyed, in_transaction, keyed};
use crate::storage::cleaner::clean;
use crate::storage::fsck::{FsckOptions, Severity};

const PRODUCER: i64 = 7;

#[derive(Debug, Clone)]
enum Step {
    /// Records of these keys; every third without a value.
    Append {
        keys: Vec<u8>,
        wait: bool,
        codec: usize,
    },
    Begin {
        keys: Vec<u8>,
    },
    End {
        commit: bool,
        wait: bool,
    },
    Clean {
        small: bool,
        stop_after: Option<u64>,
    },
    Retain {
        bytes: u16,
    },
    DeleteBefore(u8),
    Later(u16),
    FailSync(u8),
    TearWrite(u8),
    Full(Option<u16>),
    StopAfter(u8),
    Crash {
        keep: u8,
    },
    Kill,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || proptest::collection::vec(0..6_u8, 1..5);
    let step = prop_oneof![
        12 => (keys(), any::<bool>(), 0..5_usize).prop_map(|(keys, wait, codec)| Step::Append { keys, wait, codec }),
        3 => keys().prop_map(|keys| Step::Begin { keys }),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(commit, wait)| Step::End { commit, wait }),
        4 => (any::<bool>(), proptest::option::weighted(0.3, 0..60_u64))
            .prop_map(|(small, stop_after)| Step::Clean { small, stop_after }),
        1 => (0..6000_u16).prop_map(|bytes| Step::Retain { bytes }),
        1 => any::<u8>().prop_map(Step::DeleteBefore),
        2 => any::<u16>().prop_map(Step::Later),
        1 => any::<u8>().prop_map(Step::FailSync),
        1 => any::<u8>().prop_map(Step::TearWrite),
        1 => proptest::option::of(0..2000_u16).prop_map(Step::Full),
        1 => any::<u8>().prop_map(Step::StopAfter),
        2 => any::<u8>().prop_map(|keep| Step::Crash { keep }),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A record as the model and the log know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: String,
    value: Option<String>,
}

/// What was acknowledged of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acknowledged {
    entry: Entry,
    in_txn: bool,
}

#[derive(Default)]
struct Model {
    /// All that may stand at an offset.
    tried: BTreeMap<i64, BTreeSet<Entry>>,
    acknowledged: BTreeMap<i64, Acknowledged>,
    /// Offsets whose transaction was acknowledged as aborted.
    aborted: BTreeSet<i64>,
    /// Offsets whose transaction was acknowledged as committed.
    committed: BTreeSet<i64>,
    /// Producer and offset of records in open transactions.
    open: Vec<(i64, i64)>,
    /// Who begins transactions at the moment, and its next sequence.
    producer: i64,
    sequence: i32,
    deleted: i64,
    /// Acknowledged markers and appends end here.
    end: i64,
    serial: u32,
}

impl Model {
    fn entries(&mut self, keys: &[u8]) -> Vec<Entry> {
        let entry = |key: &u8| {
            self.serial += 1;
            let value = (!self.serial.is_multiple_of(3)).then(|| format!("value {}", self.serial));
            Entry { key: format!("k{key}"), value }
        };
        keys.iter().map(entry).collect()
    }

    fn try_at(&mut self, base: i64, entries: &[Entry]) {
        for (offset, entry) in (base..).zip(entries) {
            self.tried.entry(offset).or_default().insert(entry.clone());
        }
    }

    fn acknowledge(&mut self, base: i64, entries: &[Entry], in_txn: bool) {
        for (offset, entry) in (base..).zip(entries) {
            self.acknowledged.insert(offset, Acknowledged { entry: entry.clone(), in_txn });
        }
        self.end = self.end.max(base + entries.len() as i64);
    }
}

fn batch_for(entries: &[Entry], producer: Producer, codec: usize) -> Bytes {
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let records: Vec<Keyed<'_>> =
        entries.iter().map(|entry| (NOW_MS, Some(entry.key.as_str()), entry.value.as_deref())).collect();
    keyed(&records, producer, codecs[codec])
}

/// Offset and record of all that a reader sees, batch by batch.
async fn read(p: &Arc<Partition>, isolation: Isolation, max_bytes: usize) -> Vec<(i64, Entry)> {
    let mut all = Vec::new();
    let mut from = p.log_start_offset();
    loop {
        let read = p.read_as(from, max_bytes, true, isolation).await.unwrap();
        let mut pending = read.aborted.clone();
        pending.sort_by_key(|txn| txn.first_offset);
        let mut aborting = BTreeSet::new();
        let mut bytes = read.records;
        if bytes.is_empty() {
            return all;
        }
        while let Some(header) = Header::parse(&bytes) {
            let batch = bytes.split_to(header.size());
            assert!(crc_holds(&header, &batch));
            while pending.first().is_some_and(|txn| txn.first_offset <= header.last_offset()) {
                aborting.insert(pending.remove(0).producer_id);
            }
            if header.is_control() {
                if marker_of(&batch).is_some_and(|marker| !marker.commit) {
                    aborting.remove(&header.producer_id);
                }
            } else if !(header.is_transactional() && aborting.contains(&header.producer_id)) {
                let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                let set = RecordBatchDecoder::decode(&mut batch.clone()).unwrap();
                for record in set.records.into_iter().filter(|record| record.offset >= from) {
                    let entry = Entry { key: text(record.key.unwrap()), value: record.value.map(text) };
                    all.push((record.offset, entry));
                }
            }
            from = header.next_offset();
        }
    }
}

async fn check(p: &Arc<Partition>, model: &Model, is_compacted: bool) {
    let start = p.log_start_offset();
    assert!(p.holes().is_empty());
    assert!(p.log_end_offset() >= model.end, "the end went back: {} < {}", p.log_end_offset(), model.end);
    assert!(start <= model.deleted, "{start} > {}", model.deleted);
    assert!(p.last_stable_offset() <= p.high_watermark());
    // In this order, as a flush may be under way: what is seen committed is seen by all later.
    let stable = p.last_stable_offset();
    let committed: BTreeMap<i64, Entry> = read(p, Isolation::Committed, 500).await.into_iter().collect();
    let seen = read(p, Isolation::Uncommitted, 300).await;
    assert!(seen.is_sorted_by(|(a, _), (b, _)| a < b), "once and in order: {seen:?}");
    for (offset, entry) in &seen {
        assert!(model.tried.get(offset).is_some_and(|tried| tried.contains(entry)), "made up at {offset}: {entry:?}");
    }
    let seen: BTreeMap<i64, Entry> = seen.into_iter().collect();
    for (offset, entry) in &committed {
        assert!(!model.aborted.contains(offset), "an aborted record is shown at {offset}");
        assert_eq!(seen.get(offset), Some(entry));
    }
    for (offset, known) in model.acknowledged.range(start..) {
        let is_open = model.open.iter().any(|(_, open)| open == offset);
        let later = |(at, other): (&i64, &Entry)| at > offset && other.key == known.entry.key;
        // Whether the transaction is decided may be unknown; then nothing is promised to committed readers.
        let is_decided = !known.in_txn || model.committed.contains(offset);
        let views = [(&seen, !is_compacted || is_open || is_decided), (&committed, is_decided && *offset < stable)];
        for (view, promised) in views.into_iter().filter(|(_, promised)| *promised) {
            let replaced = is_compacted && view.iter().any(later);
            let expired = is_compacted
                && known.entry.value.is_none()
                && !view.iter().any(|(at, other)| at < offset && other.key == known.entry.key);
            // Replaced by a later one that was a tombstone and is gone by now.
            let buried = is_compacted
                && !view.values().any(|other| other.key == known.entry.key)
                && model
                    .tried
                    .range(offset + 1..)
                    .any(|(_, tried)| tried.iter().any(|other| other.key == known.entry.key && other.value.is_none()));
            let here = view.get(offset) == Some(&known.entry);
            assert!(here || replaced || expired || buried, "{promised} {offset} {known:?} is lost: {view:?}");
        }
    }
}

async fn storage_is_what_the_model_says(steps: Vec<Step>, is_compacted: bool) {
    let fs = SimFs::new();
    // The data folder is not the storage's; made anew after a crash, it would need space that a full disk has not.
    fs.create_dir_all(Path::new(DIR).parent().unwrap()).unwrap();
    fs.sync_dir(Path::new("")).unwrap();
    let clock = clock();
    let mut now_ms = NOW_MS;
    let reopen = || Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock.clone(), config()).unwrap();
    let settings = |bytes: &str| {
        let policy = if is_compacted { "compact,delete" } else { "delete" };
        TopicSettings::from_pairs([
            ("cleanup.policy", policy),
            ("segment.bytes", "1024"),
            ("delete.retention.ms", "1000"),
            ("retention.ms", "-1"),
            ("retention.bytes", bytes),
        ])
        .unwrap()
    };
    let mut storage = reopen();
    storage.create_topic("t", 1, settings("-1")).await.unwrap();
    let mut model = Model::default();
    for step in steps {
        let p = partition(&storage);
        if matches!(step, Step::Crash { .. } | Step::Kill | Step::Restart) {
            // A start on a failing disk is refused, rightly; not so one on a full disk.
            fs.fail_next_syncs(0);
        }
        match step {
            Step::Append { keys, wait, codec } => {
                let entries = model.entries(&keys);
                // What fails may stand there after a crash all the same.
                model.try_at(p.log_end_offset(), &entries);
                if let Ok(appended) = p.append(batch_for(&entries, NOBODY, codec), AppendKind::Client).await
                    && wait
                    && p.flushed(appended.last_offset).await.is_ok()
                {
                    model.acknowledge(appended.base_offset, &entries, false);
                }
            }
            Step::Begin { keys } => {
                let entries = model.entries(&keys);
                let base = p.log_end_offset();
                model.try_at(base, &entries);
                let bytes = in_transaction(batch_for(&entries, (PRODUCER + model.producer, 0, model.sequence), 0));
                match p.append(bytes, AppendKind::Transaction(p.verification())).await {
                    Ok(appended) => {
                        assert!(!appended.duplicate);
                        model.sequence += entries.len() as i32;
                        if p.flushed(appended.last_offset).await.is_ok() {
                            model.acknowledge(appended.base_offset, &entries, true);
                            let of = PRODUCER + model.producer;
                            model.open.extend((appended.base_offset..=appended.last_offset).map(|at| (of, at)));
                        }
                    }
                    // A crash took what it wrote last.
                    Err(AppendError::OutOfOrderSequence { .. }) => {
                        model.producer += 1;
                        model.sequence = 0;
                    }
                    Err(_) => {}
                }
            }
            Step::End { commit, wait } => {
                let Some(txn) = p.open_transactions().first().copied() else { continue };
                let marker = marker_batch(txn.producer_id, 0, Marker { commit, coordinator_epoch: 0 }, NOW_MS);
                let ended: Vec<i64> =
                    model.open.iter().filter(|(of, _)| *of == txn.producer_id).map(|(_, at)| *at).collect();
                model.open.retain(|(of, _)| *of != txn.producer_id);
                if let Ok(appended) = p.append(marker, AppendKind::Internal).await
                    && wait
                    && p.flushed(appended.last_offset).await.is_ok()
                {
                    // Else decided perhaps: of these nothing is promised to committed readers.
                    if commit { &mut model.committed } else { &mut model.aborted }.extend(ended);
                    model.end = model.end.max(appended.last_offset + 1);
                }
            }
            Step::Clean { small, stop_after } => {
                if let Some(changes) = stop_after {
                    fs.stop_after(Some(changes));
                }
                let memory = if small { 16 * 24 } else { 1 << 16 };
                let _outcome = clean(p.log(), now_ms, memory, &|| false);
                if stop_after.is_some() {
                    drop(p);
                    fs.kill();
                    drop(storage);
                    fs.fail_next_syncs(0);
                    fs.set_space_left(None);
                    storage = reopen();
                }
            }
            Step::Retain { bytes } => {
                if storage.alter_topic("t", settings(&bytes.to_string())).await.is_ok() {
                    storage.run_retention_once(now_ms).await;
                    model.deleted = model.deleted.max(p.log_start_offset());
                    // Where the disk failed half way, the next start goes on from what was written.
                    let written = fs.content(&Path::new(DIR).join("t-0/log-start-offset")).unwrap_or_default();
                    let written = String::from_utf8(written).unwrap().trim().parse().unwrap_or(0);
                    model.deleted = model.deleted.max(written);
                    // Its own writes must not take what is not too much.
                    let _unchanged = storage.alter_topic("t", settings("-1")).await;
                }
            }
            Step::DeleteBefore(part) => {
                let before = p.high_watermark() * i64::from(part) / 512;
                model.deleted = model.deleted.max(before);
                let _outcome = p.delete_records(before).await;
            }
            Step::Later(ms) => now_ms += i64::from(ms) / 20,
            Step::FailSync(after) => fs.fail_sync_after((after % 16).into()),
            Step::TearWrite(bytes) => fs.tear_next_write(bytes.into()),
            Step::Full(space) => fs.set_space_left(space.map(u64::from)),
            Step::StopAfter(changes) => fs.stop_after(Some(changes.into())),
            Step::Crash { keep } => {
                fs.crash_keeping(|unsynced| unsynced * usize::from(keep) / 255);
                drop((p, storage));
                storage = reopen();
            }
            Step::Kill => {
                fs.kill();
                drop((p, storage));
                storage = reopen();
            }
            Step::Restart => {
                drop(p);
                // After a failed fsync a stop is not clean.
                let _unclean = storage.close().await;
                drop(storage);
                fs.kill();
                storage = reopen();
            }
        }
        check(&partition(&storage), &model, is_compacted).await;
    }
    // At last a folder check finds nothing worse than an index to make again, and repair loses nothing.
    fs.crash();
    fs.fail_next_syncs(0);
    fs.set_space_left(None);
    drop(storage);
    for repair in [false, true, false] {
        let options = FsckOptions { repair, ..FsckOptions::default() };
        let report = crate::storage::fsck::fsck(Path::new(DIR), &fs, options).unwrap();
        assert!(report.worst() < Some(Severity::Error), "{:?}", report.findings);
        fs.kill();
    }
    storage = reopen();
    check(&partition(&storage), &model, is_compacted).await;
    storage.close().await.unwrap();
    let report = crate::storage::fsck::fsck(Path::new(DIR), &fs, FsckOptions::default()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plain_topic_is_what_the_model_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(storage_is_what_the_model_says(steps, false));
    }

    #[test]
    fn a_compacted_topic_is_what_the_model_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(storage_is_what_the_model_says(steps, true));
    }
}
