//! An [`EventStore`] in memory, for the tests of doors: what is put in is found at once, nothing is ever written.
//!
//! In: events ([`MemoryStore::put`]). Out: the same answers as the real index gives, without its speed. Touches nothing.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use millrace_log::record::{Event, Tenant};
use parking_lot::RwLock;
use tokio::sync::broadcast;

use crate::docs::{DocIndex, DocPlace, DocumentStore};
use crate::rows::{self, BatchBuilder};
use crate::scan::{EventStore, Plan, RowBatch, RowStream, Stats, StorageError, StreamInfo};

/// Events in a list. For tests only: each scan walks all of them.
#[derive(Debug)]
pub struct MemoryStore {
    events: RwLock<Vec<(StreamInfo, Event)>>,
    news: broadcast::Sender<Arc<(Tenant, RowBatch)>>,
    batch_rows: usize,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_batches_of(100)
    }
}

impl MemoryStore {
    /// A store whose batches have so many rows at most: small numbers find faults at the borders of batches.
    pub fn with_batches_of(batch_rows: usize) -> Self {
        Self { events: RwLock::default(), news: broadcast::channel(64).0, batch_rows: batch_rows.max(1) }
    }

    /// Adds events that came through a topic. A document replaces the older one of its tenant, index and id.
    pub fn put(&self, topic: &str, events: impl IntoIterator<Item = Event>) {
        let topic: Arc<str> = topic.into();
        for event in events {
            let stream = StreamInfo { labels: event.labels.clone(), topic: Arc::clone(&topic) };
            let mut batch = BatchBuilder::default();
            push(&mut batch, &stream, &event);
            let news = Arc::new((event.tenant.clone(), batch.take()));
            {
                let mut all = self.events.write();
                if let Some(new) = &event.doc {
                    all.retain(|(_, old)| {
                        old.tenant != event.tenant
                            || old.doc.as_ref().is_none_or(|d| (&d.index, &d.id) != (&new.index, &new.id))
                    });
                }
                all.push((stream, event));
            }
            // Fails only when nobody listens.
            self.news.send(news).ok();
        }
    }

    fn found(&self, plan: &Plan) -> Vec<(StreamInfo, Event)> {
        let needles = rows::Needles::new(&plan.needles);
        let mut found: Vec<(StreamInfo, Event)> = self
            .events
            .read()
            .iter()
            .filter(|(stream, event)| {
                event.tenant == plan.tenant
                    && (plan.start_ns..plan.end_ns).contains(&event.time_ns)
                    && rows::kind_matches(plan.kind, event.doc.is_some())
                    && rows::stream_matches(&plan.matchers, &stream.labels)
                    && needles.may_match(&event.line)
            })
            .cloned()
            .collect();
        found.sort_by(|(_, a), (_, b)| {
            rows::compare_in(plan.order, (a.time_ns, a.source, a.position), (b.time_ns, b.source, b.position))
        });
        found
    }
}

fn push(batch: &mut BatchBuilder, stream: &StreamInfo, event: &Event) {
    let number = batch.stream(stream);
    let metadata = (!event.metadata.is_empty()).then(|| event.metadata.clone());
    let doc = event.doc.as_deref().map(|d| Arc::new(d.clone()));
    batch.push(number, event.time_ns, &event.line, metadata, event.source, event.position, doc);
}

#[async_trait::async_trait]
impl EventStore for MemoryStore {
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError> {
        let mut batches = Vec::new();
        for chunk in self.found(&plan).chunks(self.batch_rows) {
            let mut batch = BatchBuilder::default();
            let mut bytes = 0u64;
            for (stream, event) in chunk {
                bytes += event.line.len() as u64;
                push(&mut batch, stream, event);
            }
            batches.push((bytes, batch.take()));
        }
        let budget = plan.budget;
        let mut ended = false;
        Ok(futures::stream::iter(batches)
            .map(move |(bytes, batch)| {
                budget.check()?;
                budget.read(bytes)?;
                Ok(batch)
            })
            .take_while(move |batch| {
                let go_on = !ended;
                ended |= batch.is_err();
                futures::future::ready(go_on)
            })
            .boxed())
    }

    async fn streams(&self, plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        let mut sums: std::collections::HashMap<StreamInfo, Stats> = std::collections::HashMap::new();
        for (stream, event) in self.found(&plan) {
            let sum = sums.entry(stream).or_insert(Stats { streams: 1, chunks: 1, ..Stats::default() });
            sum.bytes += event.line.len() as u64;
            sum.entries += 1;
        }
        let mut all: Vec<_> = sums.into_iter().collect();
        all.sort_by(|(a, _), (b, _)| (&a.labels, &a.topic).cmp(&(&b.labels, &b.topic)));
        Ok(all)
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<(Tenant, RowBatch)>> {
        self.news.subscribe()
    }

    async fn caught_up(&self, _at_most: Duration) -> Result<(), StorageError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl DocumentStore for MemoryStore {
    async fn doc_lookup(&self, tenant: &Tenant, index: &str, id: &str) -> Result<Option<DocPlace>, StorageError> {
        let events = self.events.read();
        let found = events.iter().find(|(_, e)| {
            e.tenant == *tenant && e.doc.as_ref().is_some_and(|d| (d.index.as_str(), d.id.as_str()) == (index, id))
        });
        Ok(found.map(|(_, e)| DocPlace { source: e.source, position: e.position, time_ns: e.time_ns }))
    }

    fn doc_indices(&self, tenant: &Tenant) -> Vec<DocIndex> {
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for doc in self.events.read().iter().filter(|(_, e)| e.tenant == *tenant).filter_map(|(_, e)| e.doc.as_ref()) {
            *counts.entry(doc.index.clone()).or_default() += 1;
        }
        counts.into_iter().map(|(name, documents)| DocIndex { name, documents }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Budget, Kind, LabelMatcher, LineNeedle, MatchOp, Order, QueryLimits};
    use bytes::Bytes;
    use millrace_log::record::{DocIdentity, DocOp, Labels, Position, SourceId};
    use tokio_util::sync::CancellationToken;

    fn event(time_ns: i64, app: &str, line: &str, doc: Option<&str>) -> Event {
        Event {
            tenant: Tenant::default(),
            time_ns,
            labels: Labels::new([("app", app)]),
            metadata: Labels::default(),
            line: Bytes::copy_from_slice(line.as_bytes()),
            source: SourceId([1; 16]),
            position: Position::at(u64::try_from(time_ns).unwrap()),
            doc: doc.map(|id| Box::new(DocIdentity { index: "i".into(), id: id.into(), op: DocOp::Index })),
            cut: false,
            time_from_line: true,
        }
    }

    fn plan() -> Plan {
        Plan {
            tenant: Tenant::default(),
            matchers: Vec::new(),
            start_ns: 0,
            end_ns: 100,
            needles: Vec::new(),
            kind: Kind::All,
            order: Order::Forward,
            expect: None,
            budget: Budget::default(),
        }
    }

    async fn lines(store: &MemoryStore, plan: Plan) -> Result<Vec<String>, StorageError> {
        let mut stream = store.scan(plan).await?;
        let mut lines = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            lines.extend(batch.rows.iter().map(|r| String::from_utf8_lossy(batch.line(r)).into_owned()));
        }
        Ok(lines)
    }

    #[tokio::test]
    async fn answers_what_a_plan_asks() {
        let store = MemoryStore::with_batches_of(1);
        let mut news = store.subscribe();
        store.put("logs", [event(1, "a", "one", None), event(3, "b", "three", None), event(2, "a", "two", None)]);
        store.put("logs", [event(4, "i", "old", Some("7")), event(5, "i", "new", Some("7"))]);
        assert_eq!(news.recv().await.unwrap().1.rows.len(), 1);
        let m = |op, v: &str| vec![LabelMatcher::new("app", op, v).unwrap()];
        for (plan, want) in [
            (plan(), vec!["one", "two", "three", "new"]),
            (Plan { order: Order::Backward, ..plan() }, vec!["new", "three", "two", "one"]),
            (Plan { start_ns: 2, end_ns: 3, ..plan() }, vec!["two"]),
            (Plan { matchers: m(MatchOp::Regex, "a|x"), ..plan() }, vec!["one", "two"]),
            (Plan { matchers: m(MatchOp::NotEqual, "a"), kind: Kind::Lines, ..plan() }, vec!["three"]),
            (Plan { kind: Kind::Documents, ..plan() }, vec!["new"]),
            (Plan { needles: vec![LineNeedle { text: b"hre".to_vec(), ignore_case: false }], ..plan() }, vec!["three"]),
            (Plan { tenant: Tenant::new("other").unwrap(), ..plan() }, vec![]),
        ] {
            assert_eq!(lines(&store, plan.clone()).await.unwrap(), want, "{plan:?}");
        }
        let tight = QueryLimits { max_bytes_read: 4, ..QueryLimits::default() };
        let error =
            lines(&store, Plan { budget: Budget::new(tight, &CancellationToken::new()), ..plan() }).await.unwrap_err();
        assert!(matches!(error, StorageError::Limit { limit: "max_bytes_read", .. }), "{error}");
        let cancelled = plan();
        cancelled.budget.cancel();
        assert!(matches!(lines(&store, cancelled).await, Err(StorageError::Cancelled)));
        let sums = store.streams(plan()).await.unwrap();
        assert_eq!(sums.iter().map(|(_, s)| s.entries).collect::<Vec<_>>(), [2, 1, 1]);
        let tenant = Tenant::default();
        assert_eq!(store.doc_lookup(&tenant, "i", "7").await.unwrap().unwrap().time_ns, 5);
        assert!(store.doc_lookup(&tenant, "i", "8").await.unwrap().is_none());
        assert_eq!(store.doc_indices(&tenant), [DocIndex { name: "i".into(), documents: 1 }]);
    }
}
