//! Where requests that read the index begin: each gets one budget (time, memory, whether its client still waits), and a
//! place among those that are answered at once.
//!
//! In: limits of the configuration, the token that ends all requests when the program stops. Out: a [`Request`] for each, or why
//! there is none. Touches a monotonic clock. The budget is handed down through APIs, engine and index as it is.

/// Places, given out fairly.
mod places;
/// Numbers for `/metrics`.
mod metrics;

use std::collections::HashMap;
use std::slice;
use std::sync::Arc;

use millrace_index::scan::{Budget, MemoryPool, OverBudget, QueryLimits};
use millrace_log::record::Tenant;
use prometheus_client::registry::Registry;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::places::PlaceLimits;
use self::places::{Places, QueueFull};
use metrics::QueryMetrics;

/// What requests of each tenant may cost.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Those that have no limits of their own.
    pub all: QueryLimits,
    /// Those that have.
    pub tenants: HashMap<Tenant, QueryLimits>,
}

/// What all requests may take together.
#[derive(Debug, Clone)]
pub struct Capacity {
    /// How many there may be.
    pub places: PlaceLimits,
    /// Bytes of memory of all of them.
    pub memory: u64,
}

/// Places and limits of requests. Clones share the places.
#[derive(Debug, Clone)]
pub struct Queries {
    limits: Arc<Limits>,
    places: Places,
    memory: MemoryPool,
    metrics: QueryMetrics,
    shutdown: CancellationToken,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Others took all places for as long as the request had.
    #[error(
        "no place became free in time (`aggregator.index.query.max_concurrent`, of one tenant `max_concurrent_per_tenant` or its entry in \
         `tenants` there): repeat the query later"
    )]
    Busy,
    /// Too many of its tenant wait already.
    #[error("too many queries of this tenant wait (`aggregator.index.query.max_queued`): repeat the query later")]
    Queue,
    /// The program stops.
    #[error("server is stopping: repeat the request later")]
    Stopping,
}

impl Refused {
    const ALL: [Self; 3] = [Self::Busy, Self::Queue, Self::Stopping];

    /// The label of the metric.
    const fn reason(self) -> &'static str {
        match self {
            Self::Busy => "timeout",
            Self::Queue => "queue",
            Self::Stopping => "stopping",
        }
    }
}

/// A request under way. When it is dropped, its work is cancelled; its place is free again when that work has ended.
#[derive(Debug)]
pub struct Request {
    budget: Budget,
    _gone: DropGuard,
}

impl Request {
    fn new(budget: Budget) -> Self {
        let _gone = budget.guard();
        Self { budget, _gone }
    }

    /// What it may still cost.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Queries {
    /// Requests within these limits, each and all together; `shutdown` ends all of them.
    pub fn new(limits: Limits, capacity: Capacity, shutdown: CancellationToken) -> Self {
        Self {
            limits: Arc::new(limits),
            places: Places::new(capacity.places),
            memory: MemoryPool::new(capacity.memory),
            metrics: QueryMetrics::default(),
            shutdown,
        }
    }

    /// Exposes how many there are.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry, &Refused::ALL.map(Refused::reason), self.places.clone(), self.memory.clone());
    }

    /// What one request of these tenants may cost: for each limit the smallest of theirs.
    pub fn limits(&self, tenants: &[Tenant]) -> QueryLimits {
        let each = tenants.iter().map(|tenant| self.limits.tenants.get(tenant).unwrap_or(&self.limits.all).clone());
        let smallest = |a: QueryLimits, b: QueryLimits| QueryLimits {
            timeout: a.timeout.min(b.timeout),
            max_bytes_read: a.max_bytes_read.min(b.max_bytes_read),
            max_series: a.max_series.min(b.max_series),
            max_entries: a.max_entries.min(b.max_entries),
            max_memory_bytes: a.max_memory_bytes.min(b.max_memory_bytes),
        };
        each.reduce(smallest).unwrap_or_else(|| self.limits.all.clone())
    }

    /// Ends when the program stops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Begins a request: its time runs from now, waiting for a place included.
    pub async fn begin(&self, tenant: &Tenant) -> Result<Request, Refused> {
        let tenants = slice::from_ref(tenant);
        self.begin_within(tenants, self.limits(tenants)).await
    }

    /// The same of several tenants, each named once, and within limits of its own.
    pub async fn begin_within(&self, tenants: &[Tenant], limits: QueryLimits) -> Result<Request, Refused> {
        let budget = Budget::new_in(&self.memory, limits, &self.shutdown);
        // The first to be dropped when the client goes while it waits.
        let request = Request::new(budget.clone());
        let refused = match budget.within(self.places.take(tenants)).await {
            Ok(Ok(place)) => return Ok(Request { budget: budget.with_place(place), ..request }),
            Ok(Err(QueueFull)) => Refused::Queue,
            Err(OverBudget::Limit { .. } | OverBudget::Crowded { .. }) => Refused::Busy,
            Err(OverBudget::Cancelled) => Refused::Stopping,
        };
        self.metrics.refused(refused.reason());
        Err(refused)
    }

    /// Begins a request that only waits and computes nothing: it takes no place.
    pub fn begin_waiting(&self) -> Request {
        Request::new(Budget::new_in(&self.memory, self.limits.all.clone(), &self.shutdown))
    }

    /// Requests that have a place.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.places.counts().0
    }
}

/// The same for every tenant.
#[cfg(test)]
impl From<QueryLimits> for Limits {
    fn from(all: QueryLimits) -> Self {
        Self { all, tenants: HashMap::new() }
    }
}

#[cfg(test)]
impl Capacity {
    /// So many requests at once, of any tenant, and memory for all of them.
    pub fn of(concurrent: usize) -> Self {
        let places = PlaceLimits { concurrent, per_tenant: concurrent, queued: 100, ..PlaceLimits::default() };
        Self { places, memory: u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_place_is_free_again_when_the_last_part_of_a_request_is_gone() {
        let limits = QueryLimits { timeout: Duration::from_millis(5), ..QueryLimits::default() };
        let shutdown = CancellationToken::new();
        let queries = Queries::new(limits.into(), Capacity::of(1), shutdown.clone());
        let request = queries.begin(&Tenant::default()).await.unwrap();
        let work = request.budget().clone();
        assert_eq!(work.check(), Ok(()));
        drop(request);
        assert_eq!(work.check(), Err(OverBudget::Cancelled), "the client has gone");
        assert_eq!(queries.begin(&Tenant::default()).await.unwrap_err(), Refused::Busy, "its work has not ended");
        drop(work);
        let request = queries.begin(&Tenant::default()).await.unwrap();
        shutdown.cancel();
        assert_eq!(request.budget().check(), Err(OverBudget::Cancelled));
        assert_eq!(queries.begin(&Tenant::default()).await.unwrap_err(), Refused::Stopping);
    }

    #[tokio::test]
    async fn a_tenant_may_have_limits_of_its_own() {
        let (small, other) = (Tenant::new("small").unwrap(), Tenant::default());
        let own = QueryLimits { max_entries: 7, ..QueryLimits::default() };
        let limits = Limits { all: QueryLimits::default(), tenants: [(small.clone(), own)].into() };
        let places = PlaceLimits { concurrent: 4, per_tenant: 3, of_tenants: [(small.clone(), 1)].into(), queued: 100 };
        let capacity = Capacity { places, memory: u64::MAX };
        let queries = Queries::new(limits, capacity, CancellationToken::new());
        let first = queries.begin(&small).await.unwrap();
        assert_eq!(first.budget().limits().max_entries, 7);
        let soon = QueryLimits { timeout: Duration::from_millis(5), ..QueryLimits::default() };
        assert_eq!(
            queries.begin_within(slice::from_ref(&small), soon).await.unwrap_err(),
            Refused::Busy,
            "it has one place"
        );
        let others = [queries.begin(&other).await.unwrap(), queries.begin(&other).await.unwrap()];
        assert_eq!(others[0].budget().limits().max_entries, QueryLimits::default().max_entries);
        // Both at once: the smaller of their limits, and a place of each.
        drop(first);
        let both = [small.clone(), other];
        let both = queries.begin_within(&both, queries.limits(&both)).await.unwrap();
        assert_eq!(both.budget().limits().max_entries, 7);
        let soon = QueryLimits { timeout: Duration::from_millis(5), ..QueryLimits::default() };
        assert_eq!(
            queries.begin_within(slice::from_ref(&small), soon).await.unwrap_err(),
            Refused::Busy,
            "its place is taken"
        );
    }
}
