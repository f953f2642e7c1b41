//! Where requests that read the index begin: each gets one budget (time, memory, whether its client still waits), and a
//! place among those that are answered at once.
//!
//! In: limits of the configuration, the token that ends all requests when the program stops. Out: a [`Request`] for each, or why
//! there is none. Touches a monotonic clock. The budget is handed down through APIs, engine and index as it is.

use std::sync::Arc;

use millrace_index::scan::{Budget, OverBudget, QueryLimits};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Places and limits of requests. Clones share the places.
#[derive(Debug, Clone)]
pub struct Queries {
    limits: Arc<QueryLimits>,
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Others took all places for as long as the request had.
    #[error("the limit `index.query.max_concurrent` is reached")]
    Busy,
    /// The program stops.
    #[error("server is stopping: repeat the request later")]
    Stopping,
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
    /// So many requests at once, each within these limits; `shutdown` ends all of them.
    pub fn new(limits: QueryLimits, max_concurrent: usize, shutdown: CancellationToken) -> Self {
        Self { limits: Arc::new(limits), places: Arc::new(Semaphore::new(max_concurrent.max(1))), shutdown }
    }

    /// What one request may cost.
    pub fn limits(&self) -> &QueryLimits {
        &self.limits
    }

    /// Ends when the program stops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Begins a request: its time runs from now, waiting for a place included.
    pub async fn begin(&self) -> Result<Request, Refused> {
        self.begin_within(QueryLimits::clone(&self.limits)).await
    }

    /// The same within limits of its own.
    pub async fn begin_within(&self, limits: QueryLimits) -> Result<Request, Refused> {
        let budget = Budget::new(limits, &self.shutdown);
        // The first to be dropped when the client goes while it waits.
        let request = Request::new(budget.clone());
        match budget.within(Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(Request { budget: budget.with_place(place), ..request }),
            Err(OverBudget::Limit { .. }) => Err(Refused::Busy),
            Ok(Err(_)) | Err(OverBudget::Cancelled) => Err(Refused::Stopping),
        }
    }

    /// Begins a request that only waits and computes nothing: it takes no place.
    pub fn begin_waiting(&self) -> Request {
        Request::new(Budget::new(QueryLimits::clone(&self.limits), &self.shutdown))
    }

    /// Places that are free.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.places.available_permits()
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
        let queries = Queries::new(limits, 1, shutdown.clone());
        let request = queries.begin().await.unwrap();
        let work = request.budget().clone();
        assert_eq!(work.check(), Ok(()));
        drop(request);
        assert_eq!(work.check(), Err(OverBudget::Cancelled), "the client has gone");
        assert_eq!(queries.begin().await.unwrap_err(), Refused::Busy, "its work has not ended");
        drop(work);
        let request = queries.begin().await.unwrap();
        shutdown.cancel();
        assert_eq!(request.budget().check(), Err(OverBudget::Cancelled));
        assert_eq!(queries.begin().await.unwrap_err(), Refused::Stopping);
    }
}
