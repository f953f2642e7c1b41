//! Memory budget of the agent: bytes that were read or pushed and are not yet acknowledged.
//!
//! In: shares that are taken and given back. Out: whether there is room, and a call for those who wait for it. Touches
//! nothing. One atomic counter: taking a share costs no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Memory for what was read or pushed and not yet acknowledged: one for the agent.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    used: AtomicUsize,
    max: usize,
    /// Wakes async waiters; the reading thread is woken separately.
    room: Notify,
}

impl MemoryBudget {
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max, room: Notify::new() }
    }

    /// Takes a share if there is room; one share is always given, however large.
    pub fn take(&self, cost: usize) -> bool {
        self.take_more(cost, 0)
    }

    /// Takes more for who has a share already: as if it were asked for at once.
    fn take_more(&self, cost: usize, had: usize) -> bool {
        let add = |used: usize| (used <= had || used + cost <= self.max).then_some(used + cost);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    /// Counts what is in use already, whether or not there is room.
    pub fn take_anyway(&self, cost: usize) {
        self.used.fetch_add(cost, Ordering::AcqRel);
    }

    async fn wait(&self, cost: usize, had: usize) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Before looking, so that no call is missed between the look and the wait.
            room.as_mut().enable();
            if self.take_more(cost, had) {
                return;
            }
            room.await;
        }
    }

    pub fn give(&self, cost: usize) {
        if cost > 0 {
            self.used.fetch_sub(cost, Ordering::AcqRel);
            self.room.notify_waiters();
        }
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub fn max(&self) -> usize {
        self.max
    }
}

/// A share of the memory, given back unless it is kept.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    budget: Arc<MemoryBudget>,
    cost: usize,
}

impl MemoryShare {
    pub fn take(budget: &Arc<MemoryBudget>, cost: usize) -> Option<Self> {
        budget.take(cost).then(|| Self { budget: budget.clone(), cost })
    }

    /// None yet.
    pub fn none(budget: &Arc<MemoryBudget>) -> Self {
        Self { budget: budget.clone(), cost: 0 }
    }

    /// Takes more until it has so much, if there is room.
    pub fn grow_to(&mut self, cost: usize) -> bool {
        let more = cost.saturating_sub(self.cost);
        let grown = more == 0 || self.budget.take_more(more, self.cost);
        if grown {
            self.cost += more;
        }
        grown
    }

    /// Has exactly so much from now on, whether or not there is room.
    pub fn set(&mut self, cost: usize) {
        self.budget.take_anyway(cost);
        self.budget.give(std::mem::replace(&mut self.cost, cost));
    }

    /// Waits until it has so much.
    pub async fn wait_for(&mut self, cost: usize) {
        let more = cost.saturating_sub(self.cost);
        if more > 0 {
            self.budget.wait(more, self.cost).await;
            self.cost += more;
        }
    }

    /// Who keeps it gives it back.
    pub fn keep(mut self) -> usize {
        std::mem::take(&mut self.cost)
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.budget.give(self.cost);
    }
}
