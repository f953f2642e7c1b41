//! One memory budget for all bodies that are decoded at the same time, whichever endpoint they came to.
//!
//! In: what a body is about to take. Out: a [`Reserved`] part of the budget, given back when it is dropped, or a refusal.
//! Touches nothing. Bodies of a few bytes an element become structures of hundreds: what counts is reserved before they are
//! made, from the scans of [`super::protobuf`] and [`super::json`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::PushError;

/// Of the whole process where nothing is configured.
pub const DEFAULT_BYTES: u64 = 256 << 20;

/// Memory for decoding. Cheap to clone: all clones are one budget.
#[derive(Debug, Clone)]
pub struct DecodeBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: AtomicU64,
    used: AtomicU64,
    refused: AtomicU64,
}

static PROCESS: std::sync::LazyLock<DecodeBudget> = std::sync::LazyLock::new(|| DecodeBudget::new(DEFAULT_BYTES));

impl DecodeBudget {
    /// With all of it free.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Shared { limit: limit.into(), used: AtomicU64::new(0), refused: AtomicU64::new(0) }))
    }

    /// The one that all endpoints of the process share.
    pub fn of_process() -> Self {
        PROCESS.clone()
    }

    /// Sets the limit; what is reserved stays so.
    pub fn set_limit(&self, bytes: u64) {
        self.0.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in use, the limit, and how often it refused.
    pub fn state(&self) -> (u64, u64, u64) {
        let Shared { limit, used, refused } = &*self.0;
        (used.load(Ordering::Relaxed), limit.load(Ordering::Relaxed), refused.load(Ordering::Relaxed))
    }

    /// A part of nothing, to be grown.
    pub fn begin(&self) -> Reserved {
        Reserved { budget: self.clone(), bytes: 0 }
    }
}

/// A part of the budget; given back when it is dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: DecodeBudget,
    bytes: u64,
}

impl Reserved {
    /// Takes more. What would not fit into the whole budget is refused for good, what does not fit now until later.
    pub fn grow(&mut self, bytes: u64) -> Result<(), PushError> {
        let Shared { limit, used, refused } = &*self.budget.0;
        let limit = limit.load(Ordering::Relaxed);
        let wanted = self.bytes.saturating_add(bytes);
        let refusal = if wanted > limit {
            Err(PushError::Costly { found: wanted, allowed: limit })
        } else {
            let more = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= limit);
            let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            taken.map(drop).map_err(|_| PushError::Busy { allowed: limit })
        };
        match refusal {
            Ok(()) => self.bytes = wanted,
            Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
        }
        refusal
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_bounded_for_all_together_and_given_back() {
        let budget = DecodeBudget::new(100);
        let mut one = budget.begin();
        assert_eq!(one.grow(101), Err(PushError::Costly { found: 101, allowed: 100 }));
        one.grow(60).unwrap();
        let mut two = budget.begin();
        assert_eq!(two.grow(41), Err(PushError::Busy { allowed: 100 }));
        two.grow(40).unwrap();
        assert_eq!(one.grow(50), Err(PushError::Costly { found: 110, allowed: 100 }));
        assert_eq!(budget.state(), (100, 100, 3));
        drop(one);
        assert_eq!(budget.state().0, 40);
        two.grow(60).unwrap();
        budget.set_limit(10);
        drop(two);
        assert_eq!(budget.state(), (0, 10, 3));
    }
}
