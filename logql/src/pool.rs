//! Memory that all requests of a process hold together. When it is used up, the newest requests are ended, so that those that
//! have done most of their work come to an end; small ones only when ending all others isn't enough.
//!
//! In: bytes that requests take and give back. Out: whether a request may go on. Touches nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// A request is small while it holds no more than the pool's size divided by this.
const SMALL: u64 = 64;

/// The memory of all requests. Clones are one pool.
#[derive(Debug, Clone)]
pub struct MemoryPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: u64,
    used: AtomicU64,
    shed: AtomicU64,
    /// Those that hold memory, in the order in which they began.
    holders: Mutex<Vec<Arc<Holder>>>,
}

#[derive(Debug, Default)]
struct Holder {
    used: AtomicU64,
    is_shed: AtomicBool,
}

impl MemoryPool {
    /// A pool of so many bytes.
    pub fn new(max: u64) -> Self {
        Self(Arc::new(Inner { max, used: AtomicU64::new(0), shed: AtomicU64::new(0), holders: Mutex::default() }))
    }

    /// Its size.
    pub fn max(&self) -> u64 {
        self.0.max
    }

    /// Bytes held now. More than the size for a moment, while requests that were ended give back what they held.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Requests ended so far because it was used up.
    pub fn shed(&self) -> u64 {
        self.0.shed.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) -> Share {
        let holder = Arc::<Holder>::default();
        self.0.holders.lock().push(Arc::clone(&holder));
        Share { pool: self.clone(), holder }
    }
}

/// What one request holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pool: MemoryPool,
    holder: Arc<Holder>,
}

impl Share {
    /// Takes more. `false`: the request must end. What was taken is counted all the same, until it is given back.
    pub fn take(&self, bytes: u64) -> bool {
        self.holder.used.fetch_add(bytes, Ordering::Relaxed);
        let used = self.pool.0.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used > self.pool.0.max && bytes > 0 {
            self.shed_newest();
        }
        !self.is_shed()
    }

    /// Gives back a part.
    pub fn give(&self, bytes: u64) {
        self.holder.used.fetch_sub(bytes, Ordering::Relaxed);
        self.pool.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether the request was ended to make room.
    pub fn is_shed(&self) -> bool {
        self.holder.is_shed.load(Ordering::Relaxed)
    }

    /// The size of the pool.
    pub fn max(&self) -> u64 {
        self.pool.0.max
    }

    /// Ends requests, the newest first, until the others fit: first large ones, then also small ones, so that a dashboard's queries
    /// live through somebody's heavy ones. One that is older than this one only if it is large and this one small.
    #[cold]
    fn shed_newest(&self) {
        let holders = self.pool.0.holders.lock();
        let over = self.pool.used().saturating_sub(self.pool.0.max);
        let is_ending = |holder: &&Arc<Holder>| holder.is_shed.load(Ordering::Relaxed);
        // What these hold comes back soon.
        let mut freed: u64 = holders.iter().filter(is_ending).map(|holder| holder.used.load(Ordering::Relaxed)).sum();
        let small = self.pool.0.max / SMALL;
        for least in [small, 0] {
            let may_end_older = self.holder.used.load(Ordering::Relaxed) <= least;
            for holder in holders.iter().rev() {
                if freed >= over {
                    return;
                }
                let used = holder.used.load(Ordering::Relaxed);
                if used > least && !holder.is_shed.swap(true, Ordering::Relaxed) {
                    self.pool.0.shed.fetch_add(1, Ordering::Relaxed);
                    freed = freed.saturating_add(used);
                }
                if Arc::ptr_eq(holder, &self.holder) && !may_end_older {
                    break;
                }
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.0.used.fetch_sub(self.holder.used.load(Ordering::Relaxed), Ordering::Relaxed);
        self.pool.0.holders.lock().retain(|holder| !Arc::ptr_eq(holder, &self.holder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_make_room_and_older_ones_go_on() {
        let pool = MemoryPool::new(100);
        let (old, middle, new) = (pool.begin(), pool.begin(), pool.begin());
        assert!(old.take(40) && middle.take(30) && new.take(30));
        assert!(old.take(20), "the newest makes room for it");
        assert_eq!((old.is_shed(), middle.is_shed(), new.is_shed()), (false, false, true));
        assert!(old.take(5), "what the newest holds is about to be free: nobody else has to go");
        assert!(!middle.is_shed() && !new.take(1), "it was ended");
        drop(new);
        assert_eq!((pool.used(), pool.shed()), (95, 1));
        assert!(!middle.take(10), "now it is the newest");
        assert!(!old.is_shed());
        middle.give(10);
        drop(middle);
        assert_eq!((pool.used(), pool.shed()), (65, 2));
        drop(old);
        assert_eq!((pool.used(), pool.0.holders.lock().len()), (0, 0));
    }

    #[test]
    fn small_ones_are_ended_last() {
        let pool = MemoryPool::new(640);
        let (old, heavy, small) = (pool.begin(), pool.begin(), pool.begin());
        assert!(old.take(320) && heavy.take(320));
        assert!(small.take(10), "the newest of the large ones makes room");
        assert_eq!((old.is_shed(), heavy.is_shed()), (false, true));
        drop(heavy);
        assert!(!old.take(320), "ending itself is enough");
        assert!(!small.is_shed());
        let pool = MemoryPool::new(640);
        let many: Vec<_> = (0..66).map(|_| pool.begin()).collect();
        assert!(many[..64].iter().all(|share| share.take(10)));
        assert!(!many[65].take(10), "of small ones the newest goes");
        assert!(many[..65].iter().all(|share| !share.is_shed()));
    }

    #[test]
    fn who_holds_nothing_is_not_ended() {
        let pool = MemoryPool::new(10);
        let (old, idle) = (pool.begin(), pool.begin());
        assert!(!old.take(11), "it alone is too large");
        assert!(!idle.is_shed() && idle.take(0));
    }
}
