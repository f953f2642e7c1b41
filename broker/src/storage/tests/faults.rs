//! Disks that fill and fail, at every place that is written: refused with an error to try again, reads go on, and nothing
//! that was acknowledged is lost.

use super::*;

/// What a broker does with topics and partitions, in one go; each step may fail.
async fn life(storage: &Arc<Storage>, stored: &mut Vec<(i64, i64)>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut note = |what: &str, error: Option<String>| faults.extend(error.map(|error| format!("{what}: {error}")));
    let made = storage.create_topic("u", 2, TopicSettings::default()).await;
    note("create", made.err().map(|e| e.to_string()));
    let settings = TopicSettings::from_pairs([("segment.bytes", "1024"), ("retention.bytes", "4096")]).unwrap();
    note("alter", storage.alter_topic("t", settings).await.err().map(|e| e.to_string()));
    note("grow", storage.add_partitions("t", 2).await.err().map(|e| e.to_string()));
    let p = partition(storage);
    for n in 0..20 {
        match append(&p, batch(2, NOW_MS + n, NOBODY)).await {
            Ok(base) => stored.push((base, base + 1)),
            Err(e) => note("append", Some(e.to_string())),
        }
    }
    let before = p.log_start_offset() + 2;
    note("delete records", p.delete_records(before).await.err().map(|e| e.to_string()));
    storage.run_retention_once(NOW_MS).await;
    note("delete", storage.delete_topic("u").await.err().map(|e| e.to_string()));
    faults
}

async fn all_is_there(storage: &Arc<Storage>, stored: &[(i64, i64)], what: &str) {
    let p = partition(storage);
    let start = p.log_start_offset();
    let read = read_all(&p, 500).await;
    for (first, last) in stored.iter().filter(|(_, last)| *last >= start) {
        assert!(read.contains(&(*first, *last)), "{what}: {first} is lost, from {start}: {read:?}");
    }
    assert!(read.is_sorted());
}

async fn ready() -> (SimFs, Vec<(i64, i64)>) {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024")]).await;
    let mut stored = Vec::new();
    for n in 0..20 {
        let base = append(&p, batch(2, NOW_MS + n, NOBODY)).await.unwrap();
        stored.push((base, base + 1));
    }
    drop(p);
    storage.close().await.unwrap();
    (fs, stored)
}

#[tokio::test]
async fn a_disk_that_fills_anywhere_refuses_for_a_while_only() {
    let (start, before) = ready().await;
    let mut refused = 0;
    for space in (0..6000).step_by(23) {
        let fs = start.fork();
        let mut stored = before.clone();
        let storage = open(&fs);
        fs.set_space_left(Some(space));
        let faults = life(&storage, &mut stored).await;
        refused += usize::from(!faults.is_empty());
        for fault in &faults {
            let is_full = fault.contains("is full") || fault.contains("no storage space") || fault.contains("exists");
            assert!(is_full || fault.contains("storage full") || fault.contains("unknown topic u"), "{space}: {fault}");
        }
        assert_eq!(partition(&storage).refusal().map(|e| e.to_string()), None, "{space}");
        all_is_there(&storage, &stored, "full").await;
        if space % 2 == 0 {
            // A start on the full disk serves what there is.
            fs.kill();
            drop(storage);
            let storage = open(&fs);
            all_is_there(&storage, &stored, "started on the full disk").await;
            fs.set_space_left(None);
            let faults = life(&storage, &mut stored).await;
            assert!(faults.iter().all(|fault| fault.starts_with("grow") || fault.starts_with("create")), "{faults:?}");
            all_is_there(&storage, &stored, "with space again").await;
        } else {
            fs.set_space_left(None);
            let faults = life(&storage, &mut stored).await;
            assert!(faults.iter().all(|fault| fault.starts_with("grow") || fault.starts_with("create")), "{faults:?}");
            fs.crash();
            drop(storage);
            all_is_there(&open(&fs), &stored, "after a crash").await;
        }
    }
    assert!(refused > 50, "{refused}");
}

#[tokio::test]
async fn a_sync_that_fails_anywhere_acknowledges_nothing_it_does_not_hold() {
    let (start, before) = ready().await;
    let mut failed = 0;
    for after in 0..120 {
        let fs = start.fork();
        let mut stored = before.clone();
        let storage = open(&fs);
        fs.fail_sync_after(after);
        let faults = life(&storage, &mut stored).await;
        fs.fail_next_syncs(0);
        failed += usize::from(!faults.is_empty());
        all_is_there(&storage, &stored, "running on").await;
        if let Some(AppendError::Failed { .. }) = partition(&storage).refusal() {
            // Never again in this process, although the disk would say yes now.
            let refused = append(&partition(&storage), batch(1, NOW_MS, NOBODY)).await;
            assert!(matches!(refused, Err(AppendError::Failed { .. })), "{after}");
        }
        fs.crash();
        drop(storage);
        let storage = open(&fs);
        all_is_there(&storage, &stored, "after a crash").await;
        append(&partition(&storage), batch(1, NOW_MS, NOBODY)).await.unwrap();
    }
    assert!(failed > 20, "{failed}");
}

#[tokio::test]
async fn a_process_that_ends_anywhere_leaves_a_log_that_opens() {
    let (start, before) = ready().await;
    let total = {
        let fs = start.fork();
        let storage = open(&fs);
        let changes = fs.changes();
        life(&storage, &mut before.clone()).await;
        fs.changes() - changes
    };
    for changes in 0..=total {
        for power_cut in [false, true] {
            let fs = start.fork();
            let mut stored = before.clone();
            let storage = open(&fs);
            fs.stop_after(Some(changes));
            life(&storage, &mut stored).await;
            if power_cut {
                fs.crash();
            } else {
                fs.kill();
            }
            drop(storage);
            let storage = open(&fs);
            all_is_there(&storage, &stored, "after the end").await;
            let faults = life(&storage, &mut stored).await;
            assert!(
                faults.iter().all(|fault| fault.starts_with("grow") || fault.starts_with("create")),
                "{changes} {power_cut}: {faults:?}"
            );
            all_is_there(&storage, &stored, "going on").await;
        }
    }
}

#[tokio::test]
async fn what_a_power_cut_takes_follows_the_flush_policy() {
    // (policy, whether a flush came by, batches that must be there of those acknowledged)
    for (flush, flushed, want) in [
        (FlushPolicy::Always, false, 30),
        (FlushPolicy::Interval, false, 0),
        (FlushPolicy::Interval, true, 30),
        (FlushPolicy::Os, false, 0),
        (FlushPolicy::Os, true, 0),
    ] {
        let fs = SimFs::new();
        let config = StorageConfig { flush, flush_interval: Span::millis(1), ..config() };
        let open = || Storage::open(Path::new(DIR), Arc::new(fs.clone()), clock(), config.clone()).unwrap();
        let storage = open();
        // Segments of eight batches: what was rolled is safe under any policy.
        let p = topic(&storage, &[("segment.bytes", "1024")]).await;
        for n in 0..30 {
            append(&p, batch(2, NOW_MS + n, NOBODY)).await.unwrap();
        }
        assert_eq!(p.high_watermark(), 60, "all is visible at once");
        if flushed {
            let token = CancellationToken::new();
            let running = storage.clone().run(token.clone());
            let stop = async {
                while flush == FlushPolicy::Interval && p.log().is_dirty() {
                    tokio::task::yield_now().await;
                }
                let end = p.log().is_dirty();
                fs.crash();
                token.cancel();
                end
            };
            let (_ended, dirty) = tokio::join!(running, stop);
            assert_eq!(dirty, flush == FlushPolicy::Os);
        } else {
            fs.crash();
        }
        drop((p, storage));
        let storage = open();
        let p = partition(&storage);
        let left = read_all(&p, 1 << 20).await;
        let rolled = 16;
        assert!(left.len() >= usize::max(want, rolled), "{flush:?} {flushed}: {}", left.len());
        assert!(want == 30 || left.len() < 30, "{flush:?} {flushed}: {}", left.len());
        // What is left is a prefix, whole and in order.
        assert_eq!(left, (0..left.len() as i64).map(|n| (2 * n, 2 * n + 1)).collect::<Vec<_>>());
        // A SIGKILL takes nothing under any policy.
        append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap();
        fs.kill();
        drop((p, storage));
        assert_eq!(read_all(&partition(&open()), 1 << 20).await.len(), left.len() + 1, "{flush:?}");
    }
}

#[tokio::test]
async fn a_wrong_time_index_hides_nothing() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "40000")]).await;
    for n in 0..300 {
        append(&p, batch(20, NOW_MS + 10 * n, NOBODY)).await.unwrap();
    }
    let path = segment_path(0, "timeindex");
    let good = fs.content(&path).unwrap();
    assert!(good.len() > 60);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x15;
        fs.set_content(&path, bad);
        for n in (0..300).step_by(13) {
            let hit = p.offset_for_time(NOW_MS + 10 * n - 3).await.unwrap();
            let want = TimestampOffset { timestamp_ms: NOW_MS + 10 * n, offset: 20 * n };
            assert_eq!(hit, Some(want), "byte {at}");
        }
    }
}
