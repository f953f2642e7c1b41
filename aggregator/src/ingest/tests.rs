//! Tests of the way in over a producer that fails as told.

use std::collections::VecDeque;

use bytes::Bytes;
use millrace_log::client::{ClientError, Code, WireError};
use millrace_log::clock::ManualClock;
use millrace_log::record::{Decoder, DocIdentity, Event, Record, TopicPartition};
use millrace_log::value::{ByteSize, Faults, Span};
use parking_lot::Mutex;

use super::*;

/// What the next call of the producer does.
#[derive(Debug, Clone)]
enum Fault {
    /// Nothing is taken, or all is taken but not said (`landed`).
    All { landed: bool },
    /// These records are not taken.
    Some { failed: Vec<usize>, retriable: bool },
    /// Never answers.
    Hang,
    /// The topic was deleted.
    Gone,
}

/// A log in memory.
#[derive(Debug, Default)]
pub(crate) struct FakeLog {
    records: Mutex<Vec<(TopicPartition, Record)>>,
    faults: Mutex<VecDeque<Fault>>,
    calls: Mutex<usize>,
    gone: Mutex<bool>,
    created: Mutex<Vec<(String, i32)>>,
}

impl FakeLog {
    fn failing(faults: impl IntoIterator<Item = Fault>) -> Arc<Self> {
        Arc::new(Self { faults: Mutex::new(faults.into_iter().collect()), ..Self::default() })
    }

    /// What the log has, decoded, by partition in order.
    pub(crate) fn events(&self) -> Vec<(i32, Event)> {
        let mut decoder = Decoder::default();
        self.records.lock().iter().map(|(to, r)| (to.partition, decoder.decode(r).unwrap())).collect()
    }

    /// What an index would keep: positions that rise by (partition, source).
    fn indexed(&self) -> Vec<String> {
        let mut highest = HashMap::new();
        let mut kept = Vec::new();
        for (partition, event) in self.events() {
            let seen = highest.entry((partition, event.source)).or_insert(Position::default());
            if event.position > *seen {
                *seen = event.position;
                kept.push(String::from_utf8(event.line.to_vec()).unwrap());
            }
        }
        kept
    }
}

fn refused(to: &TopicPartition, count: usize, failed: Vec<usize>, retriable: bool) -> ClientError {
    refused_with(Code::RequestTimedOut, to, count, failed, retriable)
}

fn refused_with(code: Code, to: &TopicPartition, count: usize, failed: Vec<usize>, retriable: bool) -> ClientError {
    let source = WireError::refused(code, None);
    ClientError::Refused { topic_partition: to.clone(), count, failed, retriable, source }
}

#[async_trait::async_trait]
impl BatchProducer for FakeLog {
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        *self.calls.lock() += 1;
        let fault = self.faults.lock().pop_front();
        let gone = {
            let mut gone = self.gone.lock();
            *gone |= matches!(fault, Some(Fault::Gone));
            *gone
        };
        if gone {
            let all = (0..batch.len()).collect();
            return Err(refused_with(Code::UnknownTopicOrPartition, to, batch.len(), all, true));
        }
        let take = |keep: &dyn Fn(usize) -> bool| {
            let kept = batch.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, r)| (to.clone(), r.clone()));
            self.records.lock().extend(kept);
        };
        match fault {
            None | Some(Fault::Gone) => {
                take(&|_| true);
                Ok(0)
            }
            Some(Fault::All { landed }) => {
                take(&|_| landed);
                Err(refused(to, batch.len(), (0..batch.len()).collect(), true))
            }
            Some(Fault::Some { failed, retriable }) => {
                take(&|i| !failed.contains(&i));
                Err(refused(to, batch.len(), failed, retriable))
            }
            Some(Fault::Hang) => std::future::pending().await,
        }
    }

    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError> {
        if std::mem::take(&mut *self.gone.lock()) {
            self.created.lock().push((topic.to_owned(), partitions));
        }
        Ok(partitions)
    }
}

/// A running way in; ends when dropped.
pub(crate) struct Running {
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) cancel: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[allow(clippy::disallowed_methods)]
pub(crate) fn start(log: Arc<FakeLog>, partitions: i32, config: IngestConfig) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ns(1_000_000_000);
    let (ingest, run) =
        Ingest::open(dir.path(), log, "logs", partitions, clock, config, &mut Registry::default()).unwrap();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(run.run(cancel.clone()));
    Running { ingest, cancel, task: Some(task), _dir: dir }
}

/// Gives up soon, so that the tests of giving up end soon.
fn soon() -> IngestConfig {
    IngestConfig { give_up_after: Span(Duration::from_millis(300)), ..IngestConfig::default() }
}

fn event(app: &str, time_ns: i64, line: &str) -> PushEvent {
    PushEvent {
        tenant: Tenant::default(),
        time_ns,
        labels: Labels::new([("app", app)]),
        metadata: Labels::default(),
        line: Bytes::copy_from_slice(line.as_bytes()),
        doc: None,
    }
}

#[tokio::test]
async fn a_stream_keeps_its_partition_and_order_and_numbers_rise() {
    let log = Arc::new(FakeLog::default());
    let running = start(Arc::clone(&log), 4, IngestConfig::default());
    for round in 0..5 {
        let events = (0..8).map(|i| event(&format!("app{}", i % 4), round * 10 + i, &format!("{round}-{i}"))).collect();
        let places = running.ingest.append(events).await.unwrap();
        assert_eq!(places.len(), 8);
    }
    let mut partition_of = HashMap::new();
    let mut last = HashMap::new();
    let mut line_of = HashMap::new();
    for (partition, event) in log.events() {
        assert_eq!(*partition_of.entry(event.labels.clone()).or_insert(partition), partition);
        let previous = last.insert((partition, event.source), event.position);
        assert!(previous.is_none_or(|p| p < event.position));
        let before = line_of.insert(event.labels.clone(), event.time_ns);
        assert!(before.is_none_or(|t| t < event.time_ns));
    }
    assert_eq!(log.indexed().len(), 40);
    assert!(partition_of.values().collect::<std::collections::HashSet<_>>().len() > 1, "streams spread");
}

#[tokio::test]
async fn equal_events_of_a_request_are_written_once_and_documents_are_not_compared() {
    let log = Arc::new(FakeLog::default());
    let running = start(Arc::clone(&log), 2, IngestConfig::default());
    let doc = |id: &str| {
        let doc = DocIdentity { index: "i".into(), id: id.into(), op: millrace_log::record::DocOp::Index };
        PushEvent { doc: Some(Box::new(doc)), ..event("i", 1, "{}") }
    };
    let events =
        vec![event("a", 1, "x"), event("a", 1, "x"), event("a", 2, "x"), event("b", 1, "x"), doc("1"), doc("2")];
    let places = running.ingest.append(events).await.unwrap();
    assert_eq!(places[0], places[1]);
    assert_eq!(places.iter().collect::<std::collections::HashSet<_>>().len(), 5);
    assert_eq!(log.events().len(), 5);
}

#[tokio::test]
async fn a_repeated_push_adds_only_what_is_missing() {
    // Of the first push the second line is lost, with a durable one behind it.
    let log = FakeLog::failing([Fault::Some { failed: vec![1], retriable: true }]);
    let running = start(Arc::clone(&log), 1, soon());
    let push = || (0..4).map(|i| event("a", i, &format!("line {i}"))).collect::<Vec<_>>();
    assert!(matches!(running.ingest.append(push()).await, Err(IngestError::Unconfirmed { failed: 1 })));
    let places = running.ingest.append(push()).await.unwrap();
    assert_eq!(running.ingest.append(push()).await.unwrap(), places);
    let mut indexed = log.indexed();
    indexed.sort();
    assert_eq!(indexed, ["line 0", "line 1", "line 2", "line 3"]);
}

#[tokio::test]
async fn faults_of_the_log_lose_nothing_that_was_acknowledged() {
    let all = vec![0, 1, 2, 3];
    for (faults, want_ok, want_indexed) in [
        (vec![Fault::All { landed: false }], true, 4),
        // The answer was lost, the records are there: sent again under the same numbers, kept once.
        (vec![Fault::All { landed: true }], true, 4),
        (vec![Fault::All { landed: true }, Fault::All { landed: true }], true, 4),
        // The end of a batch failed: only the end goes again.
        (vec![Fault::Some { failed: vec![2, 3], retriable: true }], true, 4),
        // A hole can't be filled under its number: the client is told.
        (vec![Fault::Some { failed: vec![1], retriable: true }], false, 3),
        // Hole and end: the end goes again, the client is told of the hole.
        (vec![Fault::Some { failed: vec![0, 3], retriable: true }], false, 3),
        (vec![Fault::Some { failed: vec![0], retriable: false }], false, 3),
        (vec![Fault::Some { failed: all, retriable: false }], false, 0),
        (vec![Fault::Hang], false, 0),
    ] {
        let log = FakeLog::failing(faults.clone());
        let running = start(Arc::clone(&log), 1, soon());
        let events = (0..4).map(|i| event("a", i, &format!("line {i}"))).collect();
        let answer = running.ingest.append(events).await;
        assert_eq!(answer.is_ok(), want_ok, "{faults:?}: {answer:?}");
        assert_eq!(log.indexed().len(), want_indexed, "{faults:?}");
        // What comes behind is taken, whatever went before.
        assert!(running.ingest.append(vec![event("a", 9, "next")]).await.is_ok(), "{faults:?}");
        assert_eq!(log.indexed().len(), want_indexed + 1, "{faults:?}");
    }
}

#[tokio::test]
async fn a_topic_that_was_deleted_is_created_again() {
    let log = FakeLog::failing([Fault::Gone]);
    let running = start(Arc::clone(&log), 4, IngestConfig::default());
    let events = (0..8).map(|i| event(&format!("app{i}"), i, "line")).collect();
    running.ingest.append(events).await.unwrap();
    assert_eq!(log.indexed().len(), 8);
    assert_eq!(*log.created.lock(), [("logs".to_owned(), 4)]);
}

#[tokio::test]
async fn a_log_that_stays_down_is_an_error_and_takes_no_more_than_the_limit() {
    let log = FakeLog::failing((0..1000).map(|_| Fault::All { landed: false }));
    let config = IngestConfig { max_in_flight: ByteSize(2048), ..soon() };
    let running = start(Arc::clone(&log), 1, config);
    let long = "x".repeat(1500);
    let (first, second) = tokio::join!(
        running.ingest.append(vec![event("a", 1, &long)]),
        running.ingest.append(vec![event("a", 2, &long)]),
    );
    assert!(matches!(second, Err(IngestError::Full { .. })), "{second:?}");
    let first = first.unwrap_err();
    assert!(matches!(first, IngestError::Unavailable { .. }), "{first:?}");
    assert!(first.is_retriable());
    // The budget came back.
    log.faults.lock().clear();
    assert!(running.ingest.append(vec![event("a", 3, &long)]).await.is_ok());
}

#[tokio::test]
async fn stopping_finishes_what_waits_and_takes_nothing_new() {
    let log = Arc::new(FakeLog::default());
    let mut running = start(Arc::clone(&log), 2, IngestConfig::default());
    assert!(running.ingest.append(vec![event("a", 1, "x")]).await.is_ok());
    running.cancel.cancel();
    running.task.take().unwrap().await.unwrap();
    let late = running.ingest.append(vec![event("a", 2, "x")]).await;
    assert!(matches!(late, Err(IngestError::Stopping)), "{late:?}");
}

#[test]
fn lines_beyond_a_record_are_a_fault_of_the_configuration() {
    let mut faults = Faults::default();
    IngestConfig { max_line: ByteSize::mib(2), queue_requests: 0, ..IngestConfig::default() }.check(&mut faults);
    assert_eq!(faults.into_vec().into_iter().map(|f| f.path).collect::<Vec<_>>(), ["queue_requests", "max_line"]);
}
