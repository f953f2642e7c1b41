//! The file system behind a trait: the real one, and a simulated one that crashes, tears writes and fails on demand.
//!
//! In and out: see [`Filesystem`]. Touches the disk only through [`RealFs`].

/// What storage asks of a file system.
mod filesystem;
/// The operating system's.
mod real;
/// One in memory, for tests.
mod simulated;

pub use filesystem::{DirEntry, File, Filesystem, Lock, read_all, replace};
pub use real::RealFs;
pub use simulated::SimFs;
