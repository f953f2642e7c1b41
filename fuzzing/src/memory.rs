//! Memory that a piece of work really takes, to be compared with what was reserved for it.
//!
//! In: work. Out: its result, and the most bytes that the thread held at once beyond those at its start. Touches counters of
//! the thread, which [`Counting`] keeps; a test or a fuzz target makes it the allocator.

#![allow(unsafe_code, reason = "an allocator can't be written without; it only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static MOST: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread. `#[global_allocator] static COUNTING: Counting = Counting;`
#[derive(Debug)]
pub struct Counting;

fn count(bytes: usize, sign: i64) {
    // A thread that ends has no counters any more.
    let held = HELD.try_with(|held| {
        held.set(held.get() + sign * i64::try_from(bytes).unwrap_or(0));
        held.get()
    });
    if let Ok(held) = held {
        MOST.try_with(|most| most.set(most.get().max(held))).ok();
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are held where the block has to move.
        count(size, 1);
        count(layout.size(), -1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Does the work; gives its result and the most bytes that were held at once meanwhile, besides those before. Panics where
/// nothing is counted: the answer would be 0, and every comparison with it hold.
pub fn most<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = HELD.get();
    let counted = std::hint::black_box(Box::new(0u8));
    assert!(HELD.get() > before, "the allocator is not `millrace_fuzzing::memory::Counting`");
    drop(counted);
    MOST.set(before);
    let done = work();
    (done, u64::try_from(MOST.get() - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    #[test]
    fn the_most_at_once_is_counted() {
        let (kept, bytes) = most(|| {
            drop(std::hint::black_box(vec![0u8; 5000]));
            drop(std::hint::black_box(Vec::<u8>::with_capacity(3000)));
            std::hint::black_box(vec![1u8; 1000])
        });
        assert_eq!((kept.len(), bytes), (1000, 5000));
        assert_eq!(most(|| drop(kept)).1, 0);
    }
}
