//! LogQL alone: text to tree, tree to plan, plan to answers over any store that implements [`storage::Storage`].
//! No network, no disk, no crate of ours: it builds and is fuzzed by itself.

/// The small trait that an index implements, and an in-memory store for tests.
pub mod storage;
