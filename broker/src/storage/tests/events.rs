//! Tests of what the storage logs.

use std::fmt::Write as _;

use tracing::span;

use super::*;
use crate::storage::log::{Log, LogContext};

/// Collects the messages of events at INFO and above.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Messages {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let mut text = String::new();
            write!(text, "{value:?}").unwrap();
            self.0.lock().push(text);
        }
    }
}

impl tracing::Subscriber for Messages {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn open_log(fs: &SimFs, clean: bool) -> (Log, Vec<String>) {
    let context = LogContext {
        fs: Arc::new(fs.clone()),
        clock: clock(),
        flush: FlushPolicy::Always,
        producer_expiry_ms: i64::MAX,
        metrics: StorageMetrics::default(),
        health: Arc::default(),
    };
    let limits = Arc::new(RwLock::new(Arc::new(TopicSettings::default().limits(&StorageConfig::default()))));
    let messages = Messages::default();
    let log = tracing::subscriber::with_default(messages.clone(), || {
        Log::open(Path::new("data/log/t-0"), context, limits, clean).unwrap()
    });
    let messages = std::mem::take(&mut *messages.0.lock());
    (log, messages)
}

#[test]
fn a_new_partition_logs_nothing_and_a_missing_list_of_aborted_transactions_does() {
    let fs = SimFs::new();
    let (log, messages) = open_log(&fs, true);
    assert_eq!(messages, Vec::<String>::new(), "a new partition has nothing to recover");
    log.append(batch(3, NOW_MS, NOBODY), AppendKind::Client).unwrap();
    log.close().unwrap();
    drop(log);
    let (log, messages) = open_log(&fs, true);
    assert_eq!(messages, Vec::<String>::new(), "after an orderly stop neither");
    log.close().unwrap();
    drop(log);
    fs.remove(Path::new("data/log/t-0/00000000000000000000.txnindex")).unwrap();
    let (_, messages) = open_log(&fs, true);
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("aborted transactions"), "{messages:?}");
}
