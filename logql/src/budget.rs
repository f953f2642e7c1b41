//! The budget of one request: the time it has, whether anybody still waits for it, and what it may read and hold. Made once
//! where the request comes in, handed down as it is, and asked inside every loop that may take long.
//!
//! In: limits, the token that ends the program's requests, a place among the requests that are answered at once. Out: an
//! error that names the limit. Touches a monotonic clock and the threads of the runtime that may block.
//!
//! All clones are one budget. Work on other threads keeps a clone: the place is free again when the last of them is
//! dropped, that is when the work has ended, not when the client stopped waiting for it.

use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::pool::{MemoryPool, Share};

/// Work, in bytes looked at, between two looks at clock and token: some tenths of a millisecond, some milliseconds for
/// the slowest expressions.
const WORK_BETWEEN_CHECKS: usize = 64 << 10;
/// Work that a step counts besides its bytes.
const WORK_PER_STEP: usize = 64;
/// Longest time-out: far beyond any request, within what clocks can add.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What one query may cost. Zero never means unlimited.
#[derive(Debug, Clone)]
pub struct QueryLimits {
    /// Wall time of the whole request.
    pub timeout: Duration,
    /// Bytes of lines that its store reads.
    pub max_bytes_read: u64,
    /// Series that one metric query may make.
    pub max_series: usize,
    /// Entries that a log query may ask for.
    pub max_entries: usize,
    /// Bytes that one query may hold in memory.
    pub max_memory_bytes: u64,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            max_bytes_read: 1 << 40,
            max_series: 500,
            max_entries: 5000,
            max_memory_bytes: 1 << 30,
        }
    }
}

/// Why a request must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    /// A limit of [`QueryLimits`] was met.
    #[error("query would exceed {limit} ({allowed} allowed): narrow the time range or the stream selector")]
    Limit {
        /// Name of the limit as in the configuration.
        limit: &'static str,
        /// Its value, for people.
        allowed: String,
    },
    /// Requests together hold all the memory there is for them, and this was ended to make room: the newest large one, or a small
    /// one when that was not enough.
    #[error(
        "queries together need more than `aggregator.index.query.max_memory_total` ({allowed} bytes): repeat the query later"
    )]
    Crowded {
        /// Size of the pool in bytes.
        allowed: u64,
    },
    /// The client has gone, or the program stops.
    #[error("query was cancelled")]
    Cancelled,
}

/// Who waits for the answer of a request. The store reads for each on threads of its own: queries of clients, however many and
/// heavy, never hold up rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asker {
    /// An API or the page.
    #[default]
    Client,
    /// A rule.
    Rule,
}

/// What one request may still cost. Cheap to clone; all clones are one budget.
#[derive(Clone)]
pub struct Budget {
    meter: Arc<Meter>,
    cancel: CancellationToken,
    asker: Asker,
    /// Given back when the last clone is dropped.
    _place: Option<Arc<dyn Any + Send + Sync>>,
}

struct Meter {
    limits: QueryLimits,
    started: Instant,
    deadline: Instant,
    bytes_read: AtomicU64,
    held: AtomicU64,
    work: AtomicU64,
    /// What it holds of the memory of all requests.
    share: Option<Share>,
}

impl Meter {
    fn hold(&self, bytes: u64) -> Result<(), OverBudget> {
        let sum = self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        // Both count what they refuse, since whoever asked gives it back.
        let is_shared = self.share.as_ref().is_none_or(|share| share.take(bytes));
        let allowed = self.limits.max_memory_bytes;
        if sum > allowed {
            return Err(OverBudget::Limit { limit: "max_memory", allowed: format!("{allowed} bytes") });
        }
        match &self.share {
            Some(share) if !is_shared => Err(OverBudget::Crowded { allowed: share.max() }),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limits", &self.meter.limits).finish_non_exhaustive()
    }
}

impl Default for Budget {
    /// The default limits, beginning now; only [`Budget::cancel`] ends it early.
    fn default() -> Self {
        Self::new(QueryLimits::default(), &CancellationToken::new())
    }
}

impl Budget {
    /// A request begins; `stop` ends it with all others.
    pub fn new(limits: QueryLimits, stop: &CancellationToken) -> Self {
        Self::with_share(limits, stop, None)
    }

    /// The same; its memory is a part of that of all requests.
    pub fn new_in(pool: &MemoryPool, limits: QueryLimits, stop: &CancellationToken) -> Self {
        Self::with_share(limits, stop, Some(pool.begin()))
    }

    fn with_share(limits: QueryLimits, stop: &CancellationToken, share: Option<Share>) -> Self {
        let started = Instant::now();
        let deadline = started + limits.timeout.min(LONGEST);
        let (bytes_read, held, work) = Default::default();
        let meter = Arc::new(Meter { limits, started, deadline, bytes_read, held, work, share });
        Self { meter, cancel: stop.child_token(), asker: Asker::default(), _place: None }
    }

    /// The same for a rule.
    #[must_use]
    pub fn for_rule(self) -> Self {
        Self { asker: Asker::Rule, ..self }
    }

    /// Who waits for the answer.
    pub fn asker(&self) -> Asker {
        self.asker
    }

    /// For work that nobody waits for, such as upkeep: no limit of time or bytes read.
    pub fn unlimited() -> Self {
        let limits = QueryLimits { timeout: LONGEST, max_bytes_read: u64::MAX, ..QueryLimits::default() };
        Self::new(limits, &CancellationToken::new())
    }

    /// The same with a place that is given back when all work on the request has ended.
    #[must_use]
    pub fn with_place(self, place: impl Any + Send + Sync) -> Self {
        Self { _place: Some(Arc::new(place)), ..self }
    }

    /// The same for an observer, who keeps no place.
    #[must_use]
    pub fn without_place(&self) -> Self {
        Self { _place: None, ..self.clone() }
    }

    /// The same for a part of the request that may be given up by itself: cancelling it ends only that part.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { cancel: self.cancel.child_token(), ..self.clone() }
    }

    /// Its limits.
    pub fn limits(&self) -> &QueryLimits {
        &self.meter.limits
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.meter.started.elapsed()
    }

    /// Bytes that its watches counted so far, about: what it cost in work.
    pub fn work(&self) -> u64 {
        self.meter.work.load(Ordering::Relaxed)
    }

    /// Ends the request: all its work stops at the next check.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Cancels the request when it is dropped: whoever waits for the answer keeps it.
    pub fn guard(&self) -> DropGuard {
        self.cancel.clone().drop_guard()
    }

    /// Whether it may go on. Costs a lock and a look at the clock: loops ask a [`Watch`].
    pub fn check(&self) -> Result<(), OverBudget> {
        if self.cancel.is_cancelled() {
            return Err(OverBudget::Cancelled);
        }
        if let Some(share) = self.meter.share.as_ref().filter(|share| share.is_shed()) {
            return Err(OverBudget::Crowded { allowed: share.max() });
        }
        if Instant::now() >= self.meter.deadline { Err(self.timed_out()) } else { Ok(()) }
    }

    fn timed_out(&self) -> OverBudget {
        OverBudget::Limit { limit: "timeout", allowed: format!("{:?}", self.meter.limits.timeout) }
    }

    /// Waits for something as long as the request may go on.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, OverBudget> {
        // What is ready at once must not outlive the time either.
        self.check()?;
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(OverBudget::Cancelled),
            done = work => Ok(done),
            () = tokio::time::sleep_until(self.meter.deadline) => Err(self.timed_out()),
        }
    }

    /// Runs work that computes on a thread that may block, so that no connection waits for it. Whoever stops waiting for
    /// the answer cancels the request. `None`: the work ended without an answer (it panicked, or the program stops).
    pub async fn compute<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (gone, budget, runtime) = (self.guard(), self.clone(), Handle::current());
        let done = tokio::task::spawn_blocking(move || {
            let done = runtime.block_on(work);
            // The place is kept up to here.
            drop(budget);
            done
        });
        let done = done.await;
        gone.disarm();
        done.ok()
    }

    /// Counts bytes of lines that the store read.
    pub fn read(&self, bytes: u64) -> Result<(), OverBudget> {
        let sum = self.meter.bytes_read.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let allowed = self.meter.limits.max_bytes_read;
        if sum > allowed {
            return Err(OverBudget::Limit { limit: "max_bytes_read", allowed: format!("{allowed} bytes") });
        }
        Ok(())
    }

    /// Counts memory that the request keeps to its end.
    pub fn hold(&self, bytes: usize) -> Result<(), OverBudget> {
        self.meter.hold(bytes as u64)
    }

    /// Counts memory until the lease is dropped.
    pub fn lease(&self, bytes: usize) -> Result<Lease, OverBudget> {
        let mut lease = Lease { meter: Arc::clone(&self.meter), bytes: 0 };
        // A lease that can't grow gives back what it took.
        lease.grow(bytes)?;
        Ok(lease)
    }

    /// Whether so many series may be answered.
    pub fn check_series(&self, count: usize) -> Result<(), OverBudget> {
        let allowed = self.meter.limits.max_series;
        if count > allowed {
            return Err(OverBudget::Limit { limit: "max_series", allowed: format!("{allowed} series") });
        }
        Ok(())
    }

    /// Counts the work of one loop.
    pub fn watch(&self) -> Watch {
        Watch { budget: self.clone(), left: Cell::new(WORK_BETWEEN_CHECKS), over: OnceCell::new() }
    }
}

/// Memory of a request until it is dropped.
pub struct Lease {
    meter: Arc<Meter>,
    bytes: u64,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Lease {
    /// Counts more memory under the same lease.
    pub fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.bytes += bytes as u64;
        self.meter.hold(bytes as u64)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.meter.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.meter.share.iter().for_each(|share| share.give(self.bytes));
    }
}

/// Counts the work of one loop and looks at the budget now and then. Once over, it stays over.
#[derive(Debug)]
pub struct Watch {
    budget: Budget,
    left: Cell<usize>,
    over: OnceCell<OverBudget>,
}

impl Watch {
    /// The budget it watches.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Counts one step that looks at so many bytes.
    #[inline]
    pub fn step(&self, bytes: usize) -> Result<(), OverBudget> {
        match self.left.get().checked_sub(bytes.saturating_add(WORK_PER_STEP)) {
            Some(left) if self.over.get().is_none() => {
                self.left.set(left);
                Ok(())
            }
            _ => self.look(bytes),
        }
    }

    /// The same for where no error can be returned: whoever gets `true` stops, and the caller asks [`Watch::check`].
    #[inline]
    pub fn is_over(&self, bytes: usize) -> bool {
        self.step(bytes).is_err()
    }

    /// Whether a step was refused.
    pub fn check(&self) -> Result<(), OverBudget> {
        self.over.get().map_or(Ok(()), |over| Err(over.clone()))
    }

    #[cold]
    fn look(&self, bytes: usize) -> Result<(), OverBudget> {
        self.check()?;
        let done = (WORK_BETWEEN_CHECKS - self.left.get()).saturating_add(bytes).saturating_add(WORK_PER_STEP);
        self.left.set(WORK_BETWEEN_CHECKS);
        self.budget.meter.work.fetch_add(done as u64, Ordering::Relaxed);
        self.budget.check().inspect_err(|over| {
            // It was empty: checked above, and nobody else has this watch.
            self.over.set(over.clone()).ok();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;

    fn budget(limits: QueryLimits) -> Budget {
        Budget::new(limits, &CancellationToken::new())
    }

    #[test]
    fn limits_are_named() {
        let limits =
            || QueryLimits { max_bytes_read: 10, max_memory_bytes: 10, max_series: 1, ..QueryLimits::default() };
        let one = budget(limits());
        let none = budget(QueryLimits { timeout: Duration::ZERO, ..limits() });
        let gone = budget(limits());
        gone.cancel();
        for (found, want) in [
            (one.check(), "Ok"),
            (one.read(10), "Ok"),
            (one.clone().read(1), "max_bytes_read (10 bytes allowed)"),
            (one.hold(11), "max_memory (10 bytes allowed)"),
            (one.check_series(2), "max_series (1 series allowed)"),
            (none.check(), "timeout (0ns allowed)"),
            (gone.check(), "cancelled"),
            (budget(QueryLimits { timeout: Duration::MAX, ..limits() }).check(), "Ok"),
        ] {
            let text = found.map_or_else(|error| error.to_string(), |()| "Ok".to_owned());
            assert!(text.contains(want), "{text}: {want}");
        }
    }

    #[test]
    fn leases_are_given_back() {
        let budget = budget(QueryLimits { max_memory_bytes: 10, ..QueryLimits::default() });
        let first = budget.lease(8).unwrap();
        assert!(budget.lease(3).is_err());
        drop(first);
        let _second = budget.lease(10).unwrap();
        assert!(budget.lease(1).is_err());
    }

    #[test]
    fn memory_of_all_is_shared_and_its_want_ends_the_newest() {
        let pool = MemoryPool::new(100);
        let [old, new] = [(), ()].map(|()| Budget::new_in(&pool, QueryLimits::default(), &CancellationToken::new()));
        let lease = new.lease(50).unwrap();
        old.hold(60).unwrap();
        assert_eq!(new.check(), Err(OverBudget::Crowded { allowed: 100 }));
        assert_eq!(old.check(), Ok(()));
        drop(lease);
        assert_eq!(pool.used(), 60, "leases are given back early");
        drop((old, new));
        assert_eq!(pool.used(), 0, "the rest with the request");
    }

    #[test]
    fn a_watch_looks_now_and_then_and_stays_over() {
        let budget = Budget::default();
        let watch = budget.watch();
        budget.cancel();
        let steps = (0..).take_while(|_| watch.step(1000).is_ok()).count();
        assert_eq!(steps, WORK_BETWEEN_CHECKS / (1000 + WORK_PER_STEP), "the token is looked at after so much work");
        assert!(watch.is_over(0) && watch.check().is_err());
        let large = budget.watch();
        assert!(large.step(1 << 30).is_err());
        assert!(budget.work() > 1 << 30, "{}", budget.work());
    }

    #[tokio::test]
    async fn the_place_is_free_when_the_work_has_ended_not_when_the_client_goes() {
        let place = Arc::new(());
        let held: Weak<()> = Arc::downgrade(&place);
        let stop = CancellationToken::new();
        let budget = Budget::new(QueryLimits::default(), &stop).with_place(place);
        let (began, begins) = tokio::sync::oneshot::channel();
        let (go_on, waits) = std::sync::mpsc::sync_channel::<()>(1);
        let (tell, ends) = tokio::sync::oneshot::channel();
        let (seen, place_seen) = (budget.without_place(), held.clone());
        let work = async move {
            began.send(()).unwrap();
            waits.recv().unwrap();
            tell.send((seen.check(), place_seen.strong_count())).unwrap();
        };
        {
            let waiting = budget.compute(work);
            tokio::select! { _ = waiting => unreachable!("it waits"), begun = begins => begun.unwrap() }
        }
        drop(budget);
        assert_eq!(held.strong_count(), 1, "the work goes on");
        go_on.send(()).unwrap();
        let (check, places) = ends.await.unwrap();
        assert_eq!((check, places), (Err(OverBudget::Cancelled), 1), "whoever stopped waiting cancelled it");
        while held.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn waiting_ends_with_the_budget() {
        let stop = CancellationToken::new();
        let budget = Budget::new(QueryLimits::default(), &stop);
        assert_eq!(budget.within(async { 7 }).await, Ok(7));
        stop.cancel();
        assert_eq!(budget.within(std::future::pending::<()>()).await, Err(OverBudget::Cancelled));
        let late = self::budget(QueryLimits { timeout: Duration::from_millis(1), ..QueryLimits::default() });
        assert!(matches!(
            late.within(std::future::pending::<()>()).await,
            Err(OverBudget::Limit { limit: "timeout", .. })
        ));
    }
}
