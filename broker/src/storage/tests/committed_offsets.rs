//! Retention and those who have not read yet.

use super::*;
use millrace_log::record::Offset;

/// Groups with their committed offsets.
struct Readers(Mutex<Vec<(&'static str, i64)>>);

impl CommittedOffsets for Readers {
    fn committed(&self, topic: &str, partition: i32) -> Vec<CommittedOffset> {
        assert_eq!((topic, partition), ("t", 0));
        self.0
            .lock()
            .iter()
            .map(|(group, offset)| CommittedOffset { group: (*group).to_owned(), offset: Offset::new(*offset) })
            .collect()
    }
}

fn passed(storage: &Arc<Storage>, group: &str) -> u64 {
    let labels = [("topic", "t"), ("partition", "0"), ("group", group)];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    storage.metrics().unread_passed.get_or_create(&labels).get()
}

#[tokio::test]
async fn unread_records_are_held_back_up_to_the_cap() {
    // Forty batches of 2 records and some 120 bytes a minute apart, eight to a segment. (settings, earliest offset left)
    type Committed = &'static [(&'static str, i64)];
    let by_age = ("retention.ms", "1000");
    let hold = "millrace.retention.hold.bytes";
    const ALL: Committed = &[("fast", 80), ("slow", 20)];
    type Settings = &'static [(&'static str, &'static str)];
    let cases: &[(Settings, Committed, i64)] = &[
        (&[], ALL, 80),
        (&[("millrace.retention.hold.bytes", "-1")], &[], 80),
        (&[("millrace.retention.hold.bytes", "-1")], &[("fast", 80)], 80),
        (&[("millrace.retention.hold.bytes", "-1")], ALL, 16),
        (&[("millrace.retention.hold.bytes", "-1")], &[("slow", 16)], 16),
        (&[("millrace.retention.hold.bytes", "-1")], &[("slow", 15)], 0),
        (&[("millrace.retention.hold.bytes", "2500")], ALL, 48),
        (&[("millrace.retention.hold.bytes", "1")], ALL, 80),
        (&[("millrace.retention.hold.bytes", "-1"), ("millrace.retention.hold.ms", "3600000")], ALL, 16),
        (&[("millrace.retention.hold.bytes", "-1"), ("millrace.retention.hold.ms", "1200000")], ALL, 32),
        (&[("millrace.retention.hold.ms", "3600000")], ALL, 80),
    ];
    for (settings, readers, want) in cases {
        let fs = SimFs::new();
        let storage = open(&fs);
        let settings: Vec<_> = [("segment.bytes", "1024"), by_age].iter().chain(settings.iter()).copied().collect();
        let p = topic(&storage, &settings).await;
        let known: Arc<Readers> = Arc::new(Readers(Mutex::new(readers.to_vec())));
        let weak: std::sync::Weak<Readers> = Arc::downgrade(&known);
        storage.ask_committed_offsets(weak);
        for n in 0..40_i64 {
            let records = [(NOW_MS + n * 60_000, &*"x".repeat(30)), (NOW_MS, &*"y".repeat(20))];
            append(&p, batch_of(&records, NOBODY, Compression::None)).await.unwrap();
        }
        let later_ms = NOW_MS + 41 * 60_000;
        storage.run_retention_once(later_ms).await;
        assert_eq!(p.log_start_offset(), *want, "{settings:?} {readers:?}");
        for (group, offset) in *readers {
            assert_eq!(passed(&storage, group), u64::try_from(want - offset).unwrap_or(0), "{settings:?} {group}");
        }
        // Who reads on lets it go; nothing is counted twice.
        known.0.lock().iter_mut().for_each(|(_, offset)| *offset = 80);
        storage.run_retention_once(later_ms).await;
        let held = settings.iter().any(|(name, _)| *name == hold);
        assert_eq!(p.log_start_offset(), 80, "{settings:?}");
        if held && *want < 80 {
            assert_eq!(passed(&storage, "fast"), 0);
        }
    }
}

#[tokio::test]
async fn each_range_that_was_not_read_is_counted_once() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "1024"), ("retention.bytes", "2048")]).await;
    let known: Arc<Readers> = Arc::new(Readers(Mutex::new(vec![("stuck", 5), ("gone", -1)])));
    let weak: std::sync::Weak<Readers> = Arc::downgrade(&known);
    storage.ask_committed_offsets(weak);
    let mut counted = 0;
    for _ in 0..5 {
        for _ in 0..40 {
            append(&p, batch(2, NOW_MS, NOBODY)).await.unwrap();
        }
        storage.run_retention_once(NOW_MS).await;
        let start = p.log_start_offset();
        assert!(start - 5 > counted);
        counted = start - 5;
        assert_eq!(passed(&storage, "stuck"), u64::try_from(counted).unwrap());
    }
    // What is deleted on demand is no concern of retention.
    p.delete_records(-1).await.unwrap();
    storage.run_retention_once(NOW_MS).await;
    assert_eq!(passed(&storage, "stuck"), u64::try_from(counted).unwrap());
}
