//! Memory for what is read, used over and over.
//!
//! In: sizes. Out: [`Window`]s, which become [`Bytes`] without a copy and come back here when the last user drops them.
//! Touches nothing. Windows are made by the reading thread and dropped by the threads of the senders: allocators keep a multiple of
//! what such large pieces need, so that the agent's memory would have little to do with its limit.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Windows that wait for their next use.
#[derive(Debug)]
pub(crate) struct Pool {
    /// How large each is.
    size: usize,
    /// How many are kept.
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// A part of a file, in memory of its own.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    home: Option<Arc<Pool>>,
}

impl Pool {
    /// For windows of up to `size` bytes, `keep` bytes in all.
    pub fn new(size: usize, keep: usize) -> Arc<Self> {
        Arc::new(Self { size, most: keep / size.max(1), free: Mutex::new(Vec::new()) })
    }

    /// A window of `len` bytes with anything in them.
    pub fn window(self: &Arc<Self>, len: usize) -> Window {
        // A few lines need no large window, and would keep it from those that do.
        if len < self.size / 2 || len > self.size {
            return Window { bytes: vec![0; len], home: None };
        }
        let mut bytes = self.free.lock().pop().unwrap_or_else(|| Vec::with_capacity(self.size));
        bytes.resize(len, 0);
        Window { bytes, home: Some(Arc::clone(self)) }
    }
}

impl Window {
    /// Puts bytes behind those of the file. Where they stand.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// For sharing.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let mut free = home.free.lock();
        // One that grew far beyond the others would keep its memory for good.
        if free.len() < home.most && self.bytes.capacity() <= home.size * 2 {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Window {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Window {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_windows_are_used_again_and_small_ones_are_not_kept() {
        let pool = Pool::new(100, 250);
        let kept = || pool.free.lock().len();
        for (len, after) in [(10, 0), (49, 0), (101, 0), (50, 1), (100, 1)] {
            let mut window = pool.window(len);
            assert_eq!(window.len(), len);
            window.fill(7);
            let bytes = window.freeze();
            let part = bytes.slice(1..3);
            drop(bytes);
            assert_eq!(&part[..], [7, 7], "a part keeps the whole");
            drop(part);
            assert_eq!(kept(), after, "{len}");
        }
        let all: Vec<Window> = (0..4).map(|_| pool.window(80)).collect();
        assert_eq!(kept(), 0);
        drop(all);
        assert_eq!(kept(), 2, "no more than is to be kept");
    }
}
