//! Names of headers and bounds of a record.
//!
//! In and out: nothing, these are constants. The layout itself is described at the top of [`crate::record`].

/// Header with the labels of the stream.
pub const HEADER_LABELS: &str = "labels";
/// Header with structured metadata.
pub const HEADER_META: &str = "meta";
/// Header with the kind of the value, absent for lines.
pub const HEADER_CONTENT_TYPE: &str = "content-type";
/// Value of [`HEADER_CONTENT_TYPE`] for JSON objects.
pub const CONTENT_JSON: &str = "application/json";
/// Header with the tenant, absent for `default`.
pub const HEADER_TENANT: &str = "tenant";
/// Header with the Elasticsearch identity of a document.
pub const HEADER_DOC: &str = "doc";
/// Header with the fixed part: version, time, source, position.
pub const HEADER_FIXED: &str = "millrace";
/// Version of the fixed part that this code writes, and the only one that it reads.
pub const FIXED_VERSION: u8 = 1;
/// Length of the fixed part in version 1.
pub const FIXED_LEN: usize = 38;
/// Labels of one stream at most.
pub const MAX_LABELS: usize = 15;
/// Bytes of all names and values of one stream's labels at most.
pub const MAX_LABEL_BYTES: usize = 1024;
/// How far behind the read time a Kafka timestamp may lie.
pub const MAX_KAFKA_LAG_MS: i64 = 24 * 3600 * 1000;

pub(super) const FLAG_CUT: u8 = 1;
pub(super) const FLAG_TIME_FROM_LINE: u8 = 2;
