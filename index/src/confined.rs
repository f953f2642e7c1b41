//! A store of which somebody sees some streams only: the matchers of their selector are added to every plan.
//!
//! In: a store, matchers. Out: the same store without the other streams. Touches nothing. An API that is given this store
//! can't answer with more, whatever is asked; only what comes by [`EventStore::subscribe`] must be compared with
//! [`EventStore::confines`] by its reader.

use std::sync::Arc;
use std::time::Duration;

use millrace_log::record::{Labels, Tenant};
use millrace_logql::storage::LabelMatcher;

use crate::docs::{DocIndex, DocPlace, DocumentStore};
use crate::rows;
use crate::scan::{
    Aggregation, DamagedSplit, EventStore, Partial, Plan, RowBatch, RowStream, Stats, StorageError, StreamInfo,
};

/// Some streams of a store.
pub struct Confined<S: ?Sized> {
    store: Arc<S>,
    matchers: Arc<[LabelMatcher]>,
}

impl<S: ?Sized> Confined<S> {
    /// The streams of a store that match.
    pub fn new(store: Arc<S>, matchers: Vec<LabelMatcher>) -> Self {
        Self { store, matchers: matchers.into() }
    }

    fn added(&self, mut plan: Plan) -> Plan {
        plan.matchers.extend(self.matchers.iter().cloned());
        plan
    }

    /// Documents of a client index are lines of the stream `{index="…"}`.
    fn sees_index(&self, index: &str) -> bool {
        rows::stream_matches(&self.matchers, &Labels::new([("index", index)]))
    }
}

#[async_trait::async_trait]
impl<S: EventStore + ?Sized> EventStore for Confined<S> {
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError> {
        self.store.scan(self.added(plan)).await
    }

    async fn aggregate(&self, plan: Plan, aggregation: Arc<Aggregation>) -> Result<Option<Partial>, StorageError> {
        self.store.aggregate(self.added(plan), aggregation).await
    }

    async fn streams(&self, plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        self.store.streams(self.added(plan)).await
    }

    fn damaged(&self, tenant: &Tenant, start_ns: i64, end_ns: i64) -> Vec<DamagedSplit> {
        self.store.damaged(tenant, start_ns, end_ns)
    }

    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<(Tenant, RowBatch)>> {
        self.store.subscribe()
    }

    fn confines(&self) -> &[LabelMatcher] {
        &self.matchers
    }

    async fn caught_up(&self, at_most: Duration) -> Result<(), StorageError> {
        self.store.caught_up(at_most).await
    }
}

#[async_trait::async_trait]
impl<S: DocumentStore + ?Sized> DocumentStore for Confined<S> {
    async fn doc_lookup(&self, tenant: &Tenant, index: &str, id: &str) -> Result<Option<DocPlace>, StorageError> {
        if self.sees_index(index) { self.store.doc_lookup(tenant, index, id).await } else { Ok(None) }
    }

    fn doc_indices(&self, tenant: &Tenant) -> Vec<DocIndex> {
        let mut indices = self.store.doc_indices(tenant);
        indices.retain(|index| self.sees_index(&index.name));
        indices
    }
}
