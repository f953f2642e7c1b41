//! Bodies of pushes as they come by HTTP, wherever they come in: at the agent or at the aggregator.
//!
//! In: bodies, maybe compressed, and the headers that say how. Out: what is in them, or why it can't be read. Touches
//! nothing. Leaves answers, limits of memory and the way to the log to the doors.

/// Why a body can't be used.
mod error;
/// Memory for all bodies that are decoded at the same time.
pub mod budget;
/// What a protobuf message takes once it is decoded.
pub mod protobuf;
/// How many elements a JSON text has.
pub mod json;
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
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

pub use body::{Packed, unpack};
pub use budget::{DecodeBudget, Reserved};
pub use error::PushError;
