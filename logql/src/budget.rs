//! The budget of one query: time, bytes, memory and series that it may still cost, and what it cost so far.
//!
//! In: limits, batches as they are read. Out: an error that names the limit. Touches a monotonic clock.

use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use futures::future::{self, Either};
use tokio_util::sync::CancellationToken;

use crate::answer::Statistics;
use crate::error::QueryError;
use crate::storage::{EntryBatch, QueryLimits};

/// What one query may still cost, and what it cost so far.
pub(crate) struct Budget {
    /// Its limits.
    pub limits: QueryLimits,
    /// Set when nobody waits.
    pub cancel: CancellationToken,
    /// Lines that passed the pipeline.
    pub passed: u64,
    started: Instant,
    bytes: u64,
    lines: u64,
    held: u64,
}

impl Budget {
    /// A query begins.
    pub fn new(limits: &QueryLimits, cancel: &CancellationToken) -> Self {
        Self {
            limits: limits.clone(),
            cancel: cancel.clone(),
            passed: 0,
            started: Instant::now(),
            bytes: 0,
            lines: 0,
            held: 0,
        }
    }

    /// What it cost so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            bytes: self.bytes,
            lines: self.lines,
            lines_after_filter: self.passed,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }

    /// Waits for the store, or until the query is cancelled.
    pub async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, QueryError> {
        if self.cancel.is_cancelled() {
            return Err(QueryError::Cancelled);
        }
        if self.started.elapsed() > self.limits.timeout {
            let allowed = format!("{:?}", self.limits.timeout);
            return Err(QueryError::Limit { limit: "timeout", allowed });
        }
        match future::select(pin!(next), pin!(self.cancel.cancelled())).await {
            Either::Left((found, _)) => Ok(found),
            Either::Right(_) => Err(QueryError::Cancelled),
        }
    }

    /// Counts what a batch cost.
    pub fn read(&mut self, batch: &EntryBatch) -> Result<(), QueryError> {
        self.lines += batch.entries.len() as u64;
        self.bytes += batch.entries.iter().map(|e| u64::from(e.line.end - e.line.start)).sum::<u64>();
        if self.bytes > self.limits.max_bytes_read {
            let allowed = format!("{} bytes", self.limits.max_bytes_read);
            return Err(QueryError::Limit { limit: "max_bytes_read", allowed });
        }
        Ok(())
    }

    /// Counts memory that the query keeps.
    pub fn hold(&mut self, bytes: usize) -> Result<(), QueryError> {
        self.held += bytes as u64;
        if self.held > self.limits.max_memory_bytes {
            let allowed = format!("{} bytes", self.limits.max_memory_bytes);
            return Err(QueryError::Limit { limit: "max_memory", allowed });
        }
        Ok(())
    }

    /// Lets other tasks run.
    pub async fn breathe(&self) {
        let mut yielded = false;
        future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Whether so many series may be answered.
    pub fn check_series(&self, count: usize) -> Result<(), QueryError> {
        if count > self.limits.max_series {
            let allowed = format!("{} series", self.limits.max_series);
            return Err(QueryError::Limit { limit: "max_series", allowed });
        }
        Ok(())
    }
}
