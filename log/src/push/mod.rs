//! Bodies of pushes as they come by HTTP, wherever they come in: at the agent or at the aggregator.
//!
//! In: bodies, maybe compressed, and the headers that say how. Out: what is in them, or why it can't be read. Touches
//! nothing. Leaves answers, limits of memory and the way to the log to the doors.

/// Compression, within a limit.
mod body;
/// Streams and entries as they were sent.
mod entries;
/// Loki's pushes in JSON.
mod loki_json;
/// Loki's pushes in protobuf.
pub mod loki_proto;
/// Loki's pushes: streams of entries, in JSON or protobuf.
pub mod loki;

pub use body::{Packed, PushError, unpack};
