//! One log event and its form on the log: the words that agent, broker, aggregator and rules share.
//!
//! In: events from tailed files or HTTP endpoints. Out: one Kafka record per event and back ([`encode`], [`Decoder`]).
//! Touches nothing: no disk, network or clock.
//!
//! # Format of a record
//! | part | content |
//! |---|---|
//! | value | the line as written, without its line end |
//! | key | the source's id, 32 lower-case hexadecimal digits |
//! | timestamp | event time in ms, clamped to [read time − 24 h, read time] (Apache Kafka refuses batches dated ahead) |
//! | header `labels` | compact JSON object, names sorted: the same bytes for all lines of one source |
//! | header `meta` | compact JSON object of strings: structured metadata, left out when empty |
//! | header `tenant` | left out for `default` |
//! | header `content-type` | `application/json` where a transform made the value a JSON object, left out for lines |
//! | header `doc` | compact JSON object `{"index":…,"id":…,"op":"index"\|"create"}`: Elasticsearch identity, left out for lines |
//! | header `millrace` | the fixed part below |
//!
//! Header `millrace`, little-endian: version u8 = 1, flags u8 (bit 0: the line is cut at the agent's limit; bit 1: the
//! event time was read from the line), event time i64 ns since 1970, source id 16 bytes, position u64, sub-number u32:
//! 38 bytes. Readers ignore bytes beyond those they know, so that readers are updated before writers. A reader that
//! meets another version refuses the record ([`RecordError::Version`]) and its caller sends it to the dead letters.

/// Names of headers, bounds.
mod layout;
/// What is wrong with a record.
mod error;
/// Tenant, topic and partition, source and position.
mod identity;
/// Offset in a partition.
mod offset;
/// Labels of streams.
mod labels;
/// One log event.
mod event;
/// Event to record and back.
mod codec;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

pub use codec::{Decoder, Fixed, HeaderName, Record, encode, kafka_timestamp_ms};
pub use error::RecordError;
pub use event::{DocIdentity, DocOp, Event};
pub use identity::{Position, SourceId, Tenant, TopicPartition, is_topic_name};
pub use labels::{Labels, is_label_name};
pub use layout::{
    CONTENT_JSON, FIXED_LEN, FIXED_VERSION, HEADER_CONTENT_TYPE, HEADER_DOC, HEADER_FIXED, HEADER_LABELS, HEADER_META,
    HEADER_TENANT, MAX_KAFKA_LAG_MS, MAX_LABEL_BYTES, MAX_LABELS,
};
pub use offset::Offset;

#[cfg(test)]
mod tests;
