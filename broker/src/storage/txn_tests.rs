//! Tests of transactions in storage: what read-committed readers see, over segments, restarts and damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::batch::tests::{NOBODY, batch, in_transaction};
use super::*;
use millrace_log::clock::ManualClock;
use millrace_log::fs::SimFs;

const NOW_MS: i64 = 1_700_000_000_000;
const DIR: &str = "data/log";

fn open(fs: &SimFs) -> Arc<Storage> {
    let config = StorageConfig { write_threads: 1, read_threads: 1, queue: 16, ..StorageConfig::default() };
    Storage::open(Path::new(DIR), Arc::new(fs.clone()), ManualClock::at_ns(NOW_MS * 1_000_000), config).unwrap()
}

async fn topic(storage: &Arc<Storage>, settings: &[(&str, &str)]) -> Arc<Partition> {
    let settings = TopicSettings::from_pairs(settings.iter().copied()).unwrap();
    storage.create_topic("t", 1, settings).await.unwrap().partition(0).unwrap()
}

fn partition(storage: &Arc<Storage>) -> Arc<Partition> {
    storage.topic("t").unwrap().partition(0).unwrap()
}

async fn append(partition: &Arc<Partition>, bytes: Bytes, kind: AppendKind) -> Result<i64, AppendError> {
    let appended = partition.append(bytes, kind).await?;
    partition.flushed(appended.last_offset).await?;
    Ok(appended.base_offset)
}

/// One record of a transaction.
async fn write(partition: &Arc<Partition>, producer: (i64, i16, i32)) -> Result<i64, AppendError> {
    let kind = AppendKind::Transaction(partition.verification());
    append(partition, in_transaction(batch(1, NOW_MS, producer)), kind).await
}

async fn end(partition: &Arc<Partition>, producer_id: i64, epoch: i16, commit: bool) -> Result<i64, AppendError> {
    let marker = Marker { commit, coordinator_epoch: 0 };
    append(partition, marker_batch(producer_id, epoch, marker, NOW_MS), AppendKind::Internal).await
}

/// Base offsets of data that a read-committed consumer keeps, as it goes by the aborted lists.
pub(super) async fn committed(partition: &Arc<Partition>, max_bytes: usize) -> Vec<i64> {
    let mut kept = Vec::new();
    let mut from = partition.log_start_offset();
    loop {
        let read = partition.read_as(from, max_bytes, true, Isolation::Committed).await.unwrap();
        assert!(read.last_stable_offset <= read.high_watermark);
        let mut pending = read.aborted.clone();
        pending.sort_by_key(|txn| txn.first_offset);
        let mut aborting = std::collections::BTreeSet::new();
        let mut rest = read.records.clone();
        if rest.is_empty() {
            assert!(from >= read.last_stable_offset, "stuck at {from} of {}", read.last_stable_offset);
            return kept;
        }
        while let Some(header) = batch::Header::parse(&rest) {
            while pending.first().is_some_and(|txn| txn.first_offset <= header.last_offset()) {
                aborting.insert(pending.remove(0).producer_id);
            }
            assert!(header.last_offset() < read.last_stable_offset);
            if header.is_control() {
                if marker_of(&rest).is_some_and(|marker| !marker.commit) {
                    aborting.remove(&header.producer_id);
                }
            } else if !(header.is_transactional() && aborting.contains(&header.producer_id))
                && header.base_offset >= from
            {
                kept.push(header.base_offset);
            }
            from = header.next_offset();
            rest = rest.slice(header.size()..);
        }
    }
}

async fn all(partition: &Arc<Partition>) -> Vec<i64> {
    let mut some = Vec::new();
    for max_bytes in [1, 200, 1 << 20] {
        let got = committed(partition, max_bytes).await;
        if !some.is_empty() {
            assert_eq!(got, some, "{max_bytes} bytes at once");
        }
        some = got;
    }
    some
}

fn segment_path(base: i64, ending: &str) -> PathBuf {
    Path::new(DIR).join("t-0").join(format!("{base:020}.{ending}"))
}

async fn restart(storage: Arc<Storage>, fs: &SimFs) -> Arc<Storage> {
    storage.close().await.unwrap();
    drop(storage);
    open(fs)
}

#[tokio::test]
async fn committed_readers_see_what_was_decided_and_not_aborted() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    append(&p, batch(1, NOW_MS, NOBODY), AppendKind::Client).await.unwrap();
    assert_eq!(write(&p, (7, 0, 0)).await.unwrap(), 1);
    assert_eq!(write(&p, (8, 0, 0)).await.unwrap(), 2);
    append(&p, batch(1, NOW_MS, NOBODY), AppendKind::Client).await.unwrap();
    assert_eq!((p.high_watermark(), p.last_stable_offset()), (4, 1));
    assert_eq!(
        p.open_transactions().iter().map(|t| (t.first_offset, t.producer_id)).collect::<Vec<_>>(),
        [(1, 7), (2, 8)]
    );
    assert_eq!(all(&p).await, [0]);
    end(&p, 8, 0, false).await.unwrap();
    assert_eq!((p.high_watermark(), p.last_stable_offset()), (5, 1));
    let mut stable = p.watch_stable();
    stable.mark_unchanged();
    end(&p, 7, 0, true).await.unwrap();
    // First: it waits for the thread that moves both, which wakes the append before it is done.
    assert_eq!((p.high_watermark(), p.last_stable_offset()), (6, 6));
    assert!(stable.has_changed().unwrap(), "who waits for committed records is woken");
    assert_eq!(all(&p).await, [0, 1, 3]);
    assert_eq!(p.open_transactions(), []);
    let aborted = AbortedTxn { producer_id: 8, first_offset: 2, last_offset: 4, last_stable_offset: 1 };
    for (from, until, want) in [(0, 2, vec![]), (0, 3, vec![aborted]), (4, 6, vec![aborted]), (5, 6, vec![])] {
        assert_eq!(p.aborted_transactions(from, until).await.unwrap(), want, "{from}..{until}");
    }
    let states = p.producers().await.unwrap();
    assert_eq!(
        states.iter().map(|s| (s.coordinator_epoch, s.txn_first_offset)).collect::<Vec<_>>(),
        [(0, None), (0, None)]
    );
}

#[tokio::test]
async fn nothing_slips_in_behind_the_marker() {
    let storage = open(&SimFs::new());
    let p = topic(&storage, &[]).await;
    write(&p, (7, 0, 0)).await.unwrap();
    let before = p.verification();
    end(&p, 9, 0, true).await.unwrap();
    let late = |sequence| in_transaction(batch(1, NOW_MS, (7, 0, sequence)));
    append(&p, late(1), AppendKind::Transaction(before)).await.expect("markers of others don't matter");
    end(&p, 7, 0, true).await.unwrap();
    let refused = append(&p, late(2), AppendKind::Transaction(before)).await;
    assert!(matches!(refused, Err(AppendError::TxnState { producer_id: 7, .. })), "{refused:?}");
    let refused = append(&p, late(2), AppendKind::Client).await;
    assert!(matches!(refused, Err(AppendError::TxnState { producer_id: 7, .. })), "{refused:?}");
    let refused = end(&p, 7, -1, true).await;
    assert!(matches!(refused, Err(AppendError::Fenced { current: 0, .. })), "{refused:?}");
    assert_eq!(p.last_stable_offset(), p.high_watermark());
}

/// Transactions of three producers over many small segments, some aborted, one left open.
async fn fill(p: &Arc<Partition>) -> Vec<i64> {
    let mut want = Vec::new();
    let mut open: std::collections::BTreeMap<i64, Vec<i64>> = std::collections::BTreeMap::new();
    for n in 0..60 {
        let id = n % 3;
        let at = write(p, (id, 0, i32::try_from(n / 3).unwrap())).await.unwrap();
        open.entry(id).or_default().push(at);
        if n % 5 == 4 {
            let commit = n % 2 == 0;
            end(p, id, 0, commit).await.unwrap();
            let written = open.remove(&id).unwrap_or_default();
            if commit {
                want.extend(written);
            }
        }
        want.push(append(p, batch(1, NOW_MS, NOBODY), AppendKind::Client).await.unwrap());
    }
    let stable = open.values().flatten().min().copied().unwrap();
    want.retain(|offset| *offset < stable);
    want.sort_unstable();
    want
}

#[tokio::test]
async fn open_and_aborted_transactions_survive_stops_and_crashes() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024")]).await;
    let want = fill(&p).await;
    let stable = p.last_stable_offset();
    let (transactions, aborted) = (p.open_transactions(), p.aborted_transactions(0, i64::MAX).await.unwrap());
    assert!(aborted.len() > 4 && !transactions.is_empty());
    assert_eq!(all(&p).await, want);
    drop(p);
    let crashed = fs.fork();
    crashed.crash();
    let storage = restart(storage, &fs).await;
    drop(storage.close().await);
    drop(storage);
    let mut disks = vec![("clean", fs.clone()), ("crash", crashed)];
    let clean = &fs;
    let bases: Vec<i64> = clean
        .files()
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
        .collect();
    assert!(bases.len() > 5);
    for (name, at) in [("first", 0), ("middle", bases.len() / 2), ("last", bases.len() - 1)] {
        for damage in ["txnindex", "index"] {
            let disk = clean.fork();
            disk.remove(&segment_path(bases[at], damage)).unwrap();
            disks.push((name, disk));
        }
        let disk = clean.fork();
        disk.set_content(&segment_path(bases[at], "txnindex"), vec![0xff; 34]);
        disks.push((name, disk));
    }
    for (n, (name, disk)) in disks.into_iter().enumerate() {
        let storage = open(&disk);
        let p = partition(&storage);
        assert_eq!(p.last_stable_offset(), stable, "{n} {name}");
        assert_eq!(p.open_transactions(), transactions, "{n} {name}");
        assert_eq!(p.aborted_transactions(0, i64::MAX).await.unwrap(), aborted, "{n} {name}");
        assert_eq!(all(&p).await, want, "{n} {name}");
        for txn in transactions.clone() {
            end(&p, txn.producer_id, 0, false).await.unwrap();
        }
        assert_eq!(p.last_stable_offset(), p.high_watermark(), "{n} {name}");
        assert_eq!(append(&p, batch(1, NOW_MS, NOBODY), AppendKind::Client).await.unwrap(), p.log_end_offset() - 1);
    }
}

#[tokio::test]
async fn each_flipped_byte_of_a_list_is_noticed_and_mended() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024")]).await;
    let want = fill(&p).await;
    let aborted = p.aborted_transactions(0, i64::MAX).await.unwrap();
    drop(p);
    let storage = restart(storage, &fs).await;
    drop(storage.close().await);
    drop(storage);
    let lists: Vec<PathBuf> =
        fs.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "txnindex")).collect();
    let list = lists.iter().find(|path| fs.content(path).unwrap().len() > 4).unwrap();
    let sound = fs.content(list).unwrap();
    for at in 0..sound.len() {
        let mut bad = sound.clone();
        bad[at] ^= 0x10;
        // At the start.
        let disk = fs.fork();
        disk.set_content(list, bad.clone());
        let storage = open(&disk);
        let p = partition(&storage);
        assert_eq!(disk.content(list).unwrap(), sound, "byte {at} is mended at the start");
        // And of one that is in use: its readers get the right list, again and again.
        disk.set_content(list, bad.clone());
        for _ in 0..2 {
            assert_eq!(p.aborted_transactions(0, i64::MAX).await.unwrap(), aborted, "byte {at}");
        }
        assert_eq!(all(&p).await, want, "byte {at}");
    }
}

#[tokio::test]
async fn deleting_the_beginning_of_an_open_transaction_moves_the_last_stable_offset() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    for sequence in 0..3 {
        write(&p, (7, 0, sequence)).await.unwrap();
    }
    assert_eq!(p.last_stable_offset(), 0);
    p.delete_records(2).await.unwrap();
    assert_eq!(p.last_stable_offset(), 2);
    let storage = restart(storage, &fs).await;
    let p = partition(&storage);
    assert_eq!((p.log_start_offset(), p.last_stable_offset()), (2, 2));
    end(&p, 7, 0, false).await.unwrap();
    assert_eq!(p.last_stable_offset(), 4);
    assert_eq!(all(&p).await, Vec::<i64>::new());
}

#[tokio::test]
async fn a_marker_counts_once_it_is_flushed() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    write(&p, (7, 0, 0)).await.unwrap();
    fs.fail_next_syncs(1);
    let marker = Marker { commit: true, coordinator_epoch: 0 };
    let appended = p.append(marker_batch(7, 0, marker, NOW_MS), AppendKind::Internal).await.unwrap();
    p.flushed(appended.last_offset).await.unwrap_err();
    assert_eq!((p.high_watermark(), p.last_stable_offset()), (1, 0), "its data is not to be seen before it is durable");
}

#[tokio::test]
async fn a_list_that_can_not_be_written_at_the_stop_is_made_again() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    write(&p, (7, 0, 0)).await.unwrap();
    drop(p);
    let storage = restart(storage, &fs).await;
    let p = partition(&storage);
    end(&p, 7, 0, false).await.unwrap();
    fs.fail_next_writes(1);
    drop(p);
    let storage = restart(storage, &fs).await;
    assert_eq!(all(&partition(&storage)).await, Vec::<i64>::new(), "what was aborted stays so");
}
