//! A store that shows several tenants as one: streams carry the label `__tenant_id__`, as in Loki.
//!
//! In: a store, tenants; plans, whose own tenant counts for nothing. Out: what the store has of each tenant that the plan's
//! matchers on `__tenant_id__` select, merged. Touches nothing. A label of that name that a stream has itself becomes
//! `original___tenant_id__`. What comes by [`EventStore::subscribe`] is not joined.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use millrace_log::record::{Labels, Tenant};
use millrace_logql::budget::{Budget, Lease};

use crate::rows::{self, BatchBuilder};
use crate::scan::{
    Aggregation, DamagedSplit, EventStore, GroupBy, LabelMatcher, Order, Partial, Plan, Row, RowBatch, RowStream,
    Stats, StorageError, StreamInfo,
};

/// The label that names the tenant of a stream.
pub const TENANT_LABEL: &str = "__tenant_id__";
/// What a label of that name becomes that a stream has itself.
const ORIGINAL: &str = "original___tenant_id__";
/// What metadata of that name becomes in LogQL.
const EXTRACTED: &str = "__tenant_id___extracted";
/// Streams whose labels are kept while a scan goes on.
const MAX_KNOWN: usize = 10_000;
/// Memory of a row besides its line.
const ROW_BYTES: usize = 128;

/// Several tenants of a store.
pub struct Joined {
    store: Arc<dyn EventStore>,
    tenants: Arc<[Tenant]>,
}

impl Joined {
    /// These tenants of a store.
    pub fn new(store: Arc<dyn EventStore>, tenants: Arc<[Tenant]>) -> Self {
        Self { store, tenants }
    }

    /// A plan for each tenant that the matchers select, with the other matchers.
    fn plans(&self, plan: Plan) -> impl Iterator<Item = Plan> {
        let (of_tenant, others): (Vec<LabelMatcher>, Vec<LabelMatcher>) =
            plan.matchers.into_iter().partition(|matcher| matcher.name == TENANT_LABEL);
        let mut plan = Plan { matchers: others, ..plan };
        for matcher in plan.matchers.iter_mut().filter(|matcher| matcher.name == ORIGINAL) {
            TENANT_LABEL.clone_into(&mut matcher.name);
        }
        let is_meant = move |tenant: &Tenant| of_tenant.iter().all(|matcher| matcher.matches(tenant.as_str()));
        let meant: Vec<Tenant> = self.tenants.iter().filter(|tenant| is_meant(tenant)).cloned().collect();
        meant.into_iter().map(move |tenant| Plan { tenant, ..plan.clone() })
    }
}

/// A stream as one of a tenant.
fn named(stream: &StreamInfo, tenant: &Tenant) -> StreamInfo {
    let has_own = stream.labels.get(TENANT_LABEL).is_some();
    let own = stream.labels.iter().filter(|(name, _)| !(has_own && *name == ORIGINAL));
    let own = own.map(|(name, value)| (if name == TENANT_LABEL { ORIGINAL } else { name }, value));
    StreamInfo { labels: Labels::new(own.chain([(TENANT_LABEL, tenant.as_str())])), topic: Arc::clone(&stream.topic) }
}

/// Names the streams of batches of a tenant, each once.
struct Naming {
    tenant: Tenant,
    known: HashMap<StreamInfo, StreamInfo>,
}

impl Naming {
    fn name(&mut self, mut batch: RowBatch) -> RowBatch {
        if self.known.len() > MAX_KNOWN {
            self.known.clear();
        }
        for stream in &mut batch.streams {
            let name = match self.known.get(stream) {
                Some(known) => known.clone(),
                None => {
                    let name = named(stream, &self.tenant);
                    self.known.insert(stream.clone(), name.clone());
                    name
                }
            };
            *stream = name;
        }
        batch
    }
}

/// How each tenant's lines are grouped, so that the groups only lack the label of the tenant. `None`: the labels that metadata
/// gets can't be known without the rows.
fn grouped(group: &GroupBy) -> Option<GroupBy> {
    let others = |names: &[String]| names.iter().filter(|name| *name != TENANT_LABEL).cloned().collect();
    match group {
        GroupBy::All => Some(GroupBy::All),
        GroupBy::None => Some(GroupBy::None),
        GroupBy::By(names) if names.iter().any(|name| name == ORIGINAL || name == EXTRACTED) => None,
        GroupBy::By(names) => Some(GroupBy::By(others(names))),
        GroupBy::Without(names) => Some(GroupBy::Without(others(names))),
    }
}

#[async_trait::async_trait]
impl EventStore for Joined {
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError> {
        let (order, budget) = (plan.order, plan.budget.clone());
        let mut parts = Vec::new();
        for plan in self.plans(plan) {
            let mut naming = Naming { tenant: plan.tenant.clone(), known: HashMap::new() };
            let rows = self.store.scan(plan).await?;
            parts.push(rows.map(move |batch| Ok(naming.name(batch?))).boxed());
        }
        Ok(match order {
            Order::Any => stream::iter(parts).flatten().boxed(),
            Order::Forward | Order::Backward => {
                let merge = Merge {
                    parts: parts.into_iter().map(Part::new).collect(),
                    order,
                    budget,
                    out: BatchBuilder::default(),
                    has_ended: false,
                };
                stream::unfold(merge, Merge::next).boxed()
            }
        })
    }

    async fn aggregate(&self, plan: Plan, aggregation: Arc<Aggregation>) -> Result<Option<Partial>, StorageError> {
        let Some(group) = grouped(&aggregation.group) else { return Ok(None) };
        let is_named = aggregation.group.keeps(TENANT_LABEL);
        let keeps_own = group.keeps(TENANT_LABEL);
        let of_tenant = Arc::new(Aggregation { group, ..Aggregation::clone(&aggregation) });
        let mut all = Partial::new(aggregation, &plan.budget)?;
        for plan in self.plans(plan) {
            let tenant = plan.tenant.clone();
            let found = self.store.aggregate(plan, Arc::clone(&of_tenant)).await?;
            // Streams or lines that have such a label themselves need another name for it.
            let Some(found) = found.filter(|found| !(keeps_own && found.has_label(TENANT_LABEL))) else {
                return Ok(None);
            };
            all.merge_as(found, is_named.then_some((TENANT_LABEL, tenant.as_str())))?;
        }
        Ok(Some(all))
    }

    async fn streams(&self, plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        let mut all = Vec::new();
        for plan in self.plans(plan) {
            let tenant = plan.tenant.clone();
            let found = self.store.streams(plan).await?;
            all.extend(found.into_iter().map(|(stream, stats)| (named(&stream, &tenant), stats)));
        }
        all.sort_by(|(a, _), (b, _)| (&a.labels, &a.topic).cmp(&(&b.labels, &b.topic)));
        Ok(all)
    }

    fn damaged(&self, _tenant: &Tenant, start_ns: i64, end_ns: i64) -> Vec<DamagedSplit> {
        let of = |tenant| self.store.damaged(tenant, start_ns, end_ns);
        let mut all: Vec<DamagedSplit> = self.tenants.iter().flat_map(of).collect();
        all.sort_by(|a, b| (a.min_ns, &a.split).cmp(&(b.min_ns, &b.split)));
        all
    }

    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<(Tenant, RowBatch)>> {
        self.store.subscribe()
    }

    fn confines(&self) -> &[LabelMatcher] {
        self.store.confines()
    }

    async fn caught_up(&self, at_most: Duration) -> Result<(), StorageError> {
        self.store.caught_up(at_most).await
    }
}

/// Rows of one tenant, in order.
struct Part {
    rows: RowStream,
    batch: RowBatch,
    at: usize,
    /// Numbers of the batch's streams in the batch that is being built.
    numbers: Vec<Option<u32>>,
    /// Memory of the batch.
    lease: Option<Lease>,
    has_ended: bool,
}

impl Part {
    fn new(rows: RowStream) -> Self {
        Self { rows, batch: RowBatch::default(), at: 0, numbers: Vec::new(), lease: None, has_ended: false }
    }

    fn row(&self) -> Option<&Row> {
        self.batch.rows.get(self.at)
    }

    /// Reads the next batch if this one is done.
    async fn fill(&mut self, budget: &Budget) -> Result<(), StorageError> {
        while self.row().is_none() && !self.has_ended {
            self.lease = None;
            match budget.within(self.rows.next()).await? {
                Some(batch) => {
                    let batch = batch?;
                    self.lease = Some(budget.lease(batch.text.len() + batch.rows.len() * ROW_BYTES)?);
                    self.numbers = vec![None; batch.streams.len()];
                    (self.batch, self.at) = (batch, 0);
                }
                None => {
                    self.has_ended = true;
                    (self.batch, self.at) = (RowBatch::default(), 0);
                }
            }
        }
        Ok(())
    }

    /// Copies the row at hand into a batch.
    fn copy_into(&mut self, out: &mut BatchBuilder) {
        let Some(row) = self.batch.rows.get(self.at) else { return };
        let stream = row.stream as usize;
        let number = match self.numbers.get(stream).copied().flatten() {
            Some(known) => known,
            None => {
                let new = self.batch.streams.get(stream).map_or(0, |info| out.stream(info));
                if let Some(slot) = self.numbers.get_mut(stream) {
                    *slot = Some(new);
                }
                new
            }
        };
        out.copy(number, &self.batch, row);
        self.at += 1;
    }
}

/// Rows of several tenants, merged in order.
struct Merge {
    parts: Vec<Part>,
    order: Order,
    budget: Budget,
    out: BatchBuilder,
    has_ended: bool,
}

impl Merge {
    async fn next(mut self) -> Option<(Result<RowBatch, StorageError>, Self)> {
        if self.has_ended {
            return None;
        }
        match self.merge().await {
            Ok(Some(batch)) => Some((Ok(batch), self)),
            Ok(None) => None,
            Err(error) => {
                self.has_ended = true;
                Some((Err(error), self))
            }
        }
    }

    async fn merge(&mut self) -> Result<Option<RowBatch>, StorageError> {
        loop {
            let budget = &self.budget;
            let filling = self.parts.iter_mut().filter(|part| part.row().is_none()).map(|part| part.fill(budget));
            futures::future::try_join_all(filling).await?;
            self.parts.retain(|part| part.row().is_some());
            let order = self.order;
            let keys = self.parts.iter().enumerate().filter_map(|(at, part)| Some((rows::key(part.row()?), at)));
            let mut keys: Vec<_> = keys.collect();
            keys.sort_unstable_by(|(a, _), (b, _)| rows::compare_in(order, *a, *b));
            let Some((_, first)) = keys.first().copied() else {
                return Ok((!self.out.is_empty()).then(|| self.take()));
            };
            let other = keys.get(1).map(|(key, _)| *key);
            let comes_first = |row: &Row| other.is_none_or(|o| rows::compare_in(order, rows::key(row), o).is_le());
            let Some(part) = self.parts.get_mut(first) else { return Ok(None) };
            if part.at == 0 && self.out.is_empty() && part.batch.rows.last().is_some_and(comes_first) {
                return Ok(Some(std::mem::take(&mut part.batch)));
            }
            while part.row().is_some_and(comes_first) && !self.out.is_full() {
                part.copy_into(&mut self.out);
            }
            if self.out.is_full() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> RowBatch {
        for part in &mut self.parts {
            part.numbers.fill(None);
        }
        self.out.take()
    }
}

#[cfg(test)]
mod tests;
