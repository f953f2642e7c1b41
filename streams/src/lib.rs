//! Streams: what reads topics of the log and writes topics of the log. Routes copy records by their labels.
//!
//! In: records of topics. Out: records of other topics, each exactly once for who reads committed records. Touches the log
//! through its client. Knows no index.

/// Copies records from topic to topic by their labels, each exactly once.
pub mod route;
