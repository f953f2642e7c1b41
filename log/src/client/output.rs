//! What a record becomes in its target: the same bytes with other headers, or without its value.
//!
//! In: records as they were read, what to change. Out: records in a batch; the reason of a refusal, for people. Touches
//! nothing.

use std::sync::Arc;

use super::group::SourceRecord;
use crate::native::Code;
use crate::native::encode::{HeaderRef, Records, put_header};
use crate::native::error::WireError;

/// Where a record goes.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Index into the records.
    pub record: usize,
    /// Topic to write.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Another value for a header of the record.
    pub replace: Option<(&'static str, Arc<[u8]>)>,
    /// Further headers.
    pub add: Vec<(&'static str, String)>,
    /// Without its value, as a last resort for what nobody takes.
    pub without_value: bool,
    /// Another time than the record's, ms since 1970.
    pub timestamp_ms: Option<i64>,
}

/// The reason where a target refuses the time of a record.
pub const TIME_REFUSED: &str = "its time is out of the target's bounds";

/// Writes a record with what its output changes.
pub(super) fn push(records: &mut Records, record: &SourceRecord, output: &Output, scratch: &mut Vec<u8>) {
    let more: Vec<HeaderRef<'_>> = output.add.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let value = record.value.as_deref().filter(|_| !output.without_value);
    let headers: &[u8] = match &output.replace {
        Some((replaced, with)) => {
            scratch.clear();
            for (name, value) in record.headers() {
                let value = if name == *replaced { Some(&with[..]) } else { value };
                put_header(scratch, name.as_bytes(), value);
            }
            scratch
        }
        None => &record.headers,
    };
    let time = output.timestamp_ms.unwrap_or(record.timestamp_ms);
    records.push_copied(time, record.key.as_deref(), value, (headers, record.header_count), &more);
}

/// Why a target refuses a record for good.
pub(super) fn reason(error: &WireError) -> String {
    match error.code() {
        Some(Code::MessageTooLarge | Code::RecordListTooLarge) => {
            "larger than `max.message.bytes` of the target".to_owned()
        }
        Some(Code::InvalidTimestamp) => TIME_REFUSED.to_owned(),
        Some(Code::InvalidRecord) => {
            "the target takes no such record (without a key, it can't be compacted)".to_owned()
        }
        _ => error.to_string(),
    }
}
