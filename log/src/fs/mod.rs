//! The file system behind a trait: the real one, and a simulated one that crashes, tears writes and fails on demand.
//!
//! In and out: see [`Filesystem`]. Touches the disk only through [`RealFs`].

/// What storage asks of a file system.
mod filesystem;
/// A file as a stream of bytes to write.
mod writer;
/// The operating system's.
mod real;
/// What the simulated disk holds, what of it is durable, and the faults to come.
mod simulated_disk;
/// One in memory, for tests.
mod simulated;

pub use filesystem::{DirEntry, File, Filesystem, Lock, Metadata, read_all, replace};
pub use real::RealFs;
pub use simulated::SimFs;
pub use writer::FileWriter;
